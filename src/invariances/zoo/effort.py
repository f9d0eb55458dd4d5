"""How much computing a recipe asks for: known before it starts, so that what takes longest can start first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from invariances.zoo import datasets
from invariances.zoo.networks import multiplications
from invariances.zoo.recipes import Recipe
from invariances.zoo.trained import ANCHOR_POOL
from invariances.zoo.training import ANCHOR_STEPS

__all__ = ["effort", "longest_first"]


PASSES = 3
"""A step of training over a forward pass: it goes back as well, which takes twice as long."""
WITH_DECODER = 3
"""An autoencoder over its encoder: the decoder's last convolutions see the whole picture."""


def longest_first(groups: Sequence[tuple[Recipe, ...]]) -> list[tuple[Recipe, ...]]:
    """Put recipes that are trained together before others that take less.

    Where several processes take one after the other, no long one is then left for the end, when the others have
    nothing more to do. Of the heads that read one frozen encoder, the first makes its codes and the rest come later, so
    that no process waits for them. Which model a recipe gives does not hang on the order.
    """
    kinds = {replace(group[0], seed=0) for group in groups}
    if len(kinds) < 2:
        return list(groups)
    known = {kind: effort(kind) for kind in kinds}
    turns: Counter[tuple] = Counter()

    def place(group: tuple[Recipe, ...]) -> tuple[float, int]:
        recipe = group[0]
        codes = (recipe.data, recipe.network) if recipe.network.family == "pretrained" else ()
        turns[codes] += bool(codes)
        return -len(group) * known[replace(recipe, seed=0)], turns[codes]

    return sorted(groups, key=place)


def effort(recipe: Recipe) -> float:
    """Multiplications of a whole training and of embedding, about; infinite for a pretrained encoder.

    Parameters
    ----------
    recipe : Recipe
    """
    if recipe.network.family == "pretrained":
        return math.inf  # large as they are, and large to read
    sizes, training = _sizes(recipe.data), recipe.training
    seen = training.epochs * sizes.train * (WITH_DECODER if recipe.task == "reconstruction" else 1)
    seen += training.masked_epochs * (sizes.train + max(0, sizes.parallel - ANCHOR_POOL))
    steps = training.epochs * math.ceil(sizes.train / training.batch_size)
    anchors = steps // ANCHOR_STEPS.get(recipe.network.family, 1) * recipe.anchors
    stored = min(sizes.parallel or sizes.train, ANCHOR_POOL) + sizes.test
    return multiplications(recipe.network, sizes.shape) * (PASSES * seen + anchors + stored)


class _Sizes(NamedTuple):
    """Of a data set."""

    train: int
    test: int
    parallel: int
    shape: tuple[int, ...]
    """Of a sample."""


@lru_cache
def _sizes(data: str) -> _Sizes:
    arrays = datasets.load(data).arrays
    train, test, parallel = (len(arrays.get(f"{part}_x", ())) for part in ("train", "test", "parallel"))
    return _Sizes(train, test, parallel, arrays["train_x"].shape[1:])
