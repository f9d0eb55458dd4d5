"""Stitching: the encoder of one model into the head of another, without any fine-tuning.

Four ways to connect them: *absolute* feeds the codes as they are, *relative* feeds relative
representations to a head that was trained on such, *product* feeds codes and anchors to a head that
makes its own relative representations by several similarities, a *fitted* map (affine, orthogonal)
carries the codes into the head's own space. Every stitched score stands beside its ceiling, the same head on
its own encoder, and beside controls that tell what the connection itself contributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.metrics import f1_score

from invariances.errors import SpaceError
from invariances.rows import Rows, Spread, of_row, row_columns
from invariances.spaces import check_whole, shown
from invariances.transforms import INVARIANCES, transform_named

__all__ = ["COLUMNS", "Codes", "Quality", "Stitchable", "connect", "mean_squared_error", "stitch", "weighted_f1"]


COLUMNS = [
    "model_a",
    "model_b",
    "invariance",
    "control",
    "score",
    "ceiling",
    "retention",
    "n_samples",
    "n_anchors",
    "metric",
]
"""Columns of the table that `stitch` returns; ``control`` is "none" for a real pair."""
PRODUCT = "product"
"""The connection whose heads start with a `invariances.product.Product`."""


@dataclass(frozen=True)
class Codes:
    """One encoder's embeddings of the anchors and of the samples that are scored."""

    anchors: torch.Tensor
    """Shape (k, d); the same k samples in the same order for every model."""
    samples: torch.Tensor
    """Shape (n, d)."""
    targets: torch.Tensor
    """What a head should make of the n samples: labels or pictures."""


@dataclass(frozen=True)
class Stitchable:
    """A model taken apart: its codes and the head that reads them."""

    codes: Codes
    head: Callable[..., torch.Tensor] | None
    """Maps codes of shape (n, d), or relative representations (n, k), to outputs; for "product", codes and the same
    encoder's codes of the anchors (k, d). None for an untrained encoder."""


@dataclass(frozen=True)
class Quality:
    """How the outputs of a head are measured."""

    name: str
    measure: Callable[[torch.Tensor, torch.Tensor], float]
    """``measure(outputs, targets)``."""
    lower_is_better: bool = False

    def measured(self, outputs: torch.Tensor, targets: torch.Tensor, what: str) -> float:
        """The measure of some outputs; one that is no finite number is an error, which names `what` was measured."""
        value = self.measure(outputs, targets)
        if not isinstance(value, Real) or not math.isfinite(value):
            raise SpaceError(f"the quality of {what} is {value!r}; give a function that answers with a finite number")
        return value


def weighted_f1(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """F1 of class scores (n, classes) for labels (n,), averaged over classes by size, as in the lineage's code."""
    return float(f1_score(targets.cpu().numpy(), outputs.argmax(dim=1).cpu().numpy(), average="weighted"))


def mean_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean squared error of pictures, over all pixels."""
    return float(torch.nn.functional.mse_loss(outputs, targets))


QUALITIES = {
    quality.name: quality
    for quality in (Quality("f1", weighted_f1), Quality("mse", mean_squared_error, lower_is_better=True))
}
"""The measures that have a name."""


def stitch(
    models: Mapping[str, Stitchable] | Rows,
    invariances: Sequence[str],
    quality: str | Quality | Mapping[str, str | Quality],
    seed: int = 0,
    workers: Spread = map,
) -> pd.DataFrame:
    """Stitch all ordered pairs of models under each invariance (paper, zero-shot stitching).

    Parameters
    ----------
    models : mapping from names to Stitchable, or Rows
        For "relative" and its kin, and for "product", heads that were trained on just such representations of these
        anchors. A model without a head is an untrained encoder: the control of that name. Keys of `Rows` are
        (row, invariance), since heads differ by what they read; a row without one of the invariances is left out there.
    invariances : sequence of str
        Names in `invariances.transforms.INVARIANCES`, or "product".
    quality : "f1", "mse" or Quality
        How outputs are measured. For `Rows`, perhaps a mapping from their names.
    seed : int
        Shuffles the anchors of the control of that name.
    workers : callable
        How `Rows` are spread, called like the builtin `map`; e.g. `invariances.zoo.spread`.

    Returns
    -------
    DataFrame with the columns `COLUMNS`
        ``score`` of encoder `model_a` in the head of `model_b`, ``ceiling`` of `model_b` unstitched
        in the same space, ``retention`` = score / ceiling (ceiling / score for an error), NaN where
        that divides by 0. Controls:
        "self-stitch" (the pair a, a through the same path), "shuffled anchors" (correspondence broken
        on the encoder's side), "untrained encoder" (every one in every head). For `Rows` the table begins with ``row``.

    Raises
    ------
    SpaceError
        If there are fewer than two models with heads, or encoders have different numbers of anchors.
    """
    names = _checked_invariances(invariances)
    check_whole(seed, "seed")
    if not isinstance(models, Rows):
        return pd.concat([_stitch(models, name, _quality(quality), seed) for name in names], ignore_index=True)
    keys = [key for key in models if key[1] in names]
    if not keys:
        raise SpaceError(f"no row is stitched by {', '.join(names)}; give invariances that the keys of the rows name")
    found = workers(partial(_of_row, models=models, quality=quality, seed=seed), keys)
    frames = [row_columns(frame, key[0]) for key, frame in zip(keys, found, strict=True)]
    return pd.concat(frames, ignore_index=True)


def _of_row(key: tuple[str, str], models: Rows, quality: Any, seed: int) -> pd.DataFrame:
    return _stitch(models[key], key[1], _quality(of_row(quality, key)), seed)


def _checked_invariances(invariances: Sequence[str]) -> list[str]:
    known = (*INVARIANCES, PRODUCT)
    names = [] if isinstance(invariances, str) or not isinstance(invariances, Sequence) else list(invariances)
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise SpaceError(f"unknown invariance {name!r}; choose from {', '.join(known)}")
    if not names:
        raise SpaceError(f"invariances is {shown(invariances)}; give a list of at least one name")
    return names


def _quality(given: object) -> Quality:
    if isinstance(given, str) and given in QUALITIES:
        return QUALITIES[given]
    if isinstance(given, Quality):
        return given
    raise SpaceError(f"quality is {shown(given)}; choose from {', '.join(QUALITIES)}, or give a Quality of your own")


def _stitch(models: Mapping[str, Stitchable], invariance: str, quality: Quality, seed: int) -> pd.DataFrame:
    heads, encoders = _checked_models(models, invariance)
    untrained = {name: codes for name, codes in encoders.items() if name not in heads}
    ceilings = {
        name: quality.measured(_unstitched(model, invariance), model.codes.targets, f"{name} unstitched")
        for name, model in heads.items()
    }
    rows = []
    for a, b, control, codes in _connections(heads, invariance, untrained, seed):
        score = quality.measured(connect(codes, heads[b], invariance), codes.targets, f"{a} in the head of {b}")
        kept, whole = (ceilings[b], score) if quality.lower_is_better else (score, ceilings[b])
        retention = kept / whole if whole else math.nan
        sizes = (len(codes.samples), len(codes.anchors))
        rows.append((a, b, invariance, control, score, ceilings[b], retention, *sizes, quality.name))
    return pd.DataFrame(rows, columns=COLUMNS)


def _checked_models(
    models: Mapping[str, Stitchable], invariance: str
) -> tuple[dict[str, Stitchable], dict[str, Codes]]:
    """The models that have heads, and the codes of all encoders."""
    if not isinstance(models, Mapping) or not all(isinstance(model, Stitchable) for model in models.values()):
        raise SpaceError("models is no mapping from names to Stitchable; give the codes and the head of each model")
    heads = {name: model for name, model in models.items() if model.head is not None}
    if len(heads) < 2:
        raise SpaceError(f"{len(heads)} model(s) with a head given; stitching needs at least 2")
    encoders = {name: model.codes for name, model in models.items()}
    if len({len(codes.anchors) for codes in encoders.values()}) > 1:
        raise SpaceError("the models have different numbers of anchors; embed the same anchors with every encoder")
    for name, codes in encoders.items():
        _check_codes(name, codes)
    widths = {name: codes.samples.shape[1] for name, codes in encoders.items()}
    if invariance in ("absolute", "scale") and len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise SpaceError(f"the encoders differ in width, {listed}; choose relative or a fitted map")
    return heads, encoders


def _check_codes(name: str, codes: Codes) -> None:
    for part in ("anchors", "samples"):
        if not torch.isfinite(getattr(codes, part)).all():
            raise SpaceError(f"the {part} of {name} hold NaN or infinity; drop them for every model")
    if len(codes.samples) != len(codes.targets):
        raise SpaceError(
            f"{name} has {len(codes.samples)} samples, but {len(codes.targets)} targets; give one for each"
        )


def _connections(
    models: Mapping[str, Stitchable], invariance: str, untrained: Mapping[str, Codes], seed: int
) -> Iterator[tuple[str, str, str, Codes]]:
    """Encoder name, head name, control and the encoder's codes, for every connection to score."""
    for a, b in permutations(models, 2):
        yield a, b, "none", models[a].codes
    for name, model in models.items():
        yield name, name, "self-stitch", model.codes
        for outsider, codes in untrained.items():
            yield outsider, name, "untrained encoder", codes
    if invariance in ("absolute", "scale"):
        return
    order = np.random.default_rng(seed).permutation(len(next(iter(models.values())).codes.anchors))
    for a, b in permutations(models, 2):
        codes = models[a].codes
        yield a, b, "shuffled anchors", replace(codes, anchors=codes.anchors[order])


def _unstitched(model: Stitchable, invariance: str) -> torch.Tensor:
    """What a head answers to its own encoder; a fitted map is left out, as it was in training."""
    fitted = invariance != PRODUCT and transform_named(invariance).fitted
    return model.head(model.codes.samples) if fitted else connect(model.codes, model, invariance)


def connect(source: Codes, target: Stitchable, invariance: str) -> torch.Tensor:
    """What the target's head answers to another encoder's samples.

    Parameters
    ----------
    source : Codes
    target : Stitchable
    invariance : str
        How they are connected; see `stitch`.
    """
    if invariance == PRODUCT:
        return target.head(source.samples, source.anchors)
    transform = clone(transform_named(invariance))
    anchors = (source.anchors, target.codes.anchors) if transform.fitted else (source.anchors,)
    return target.head(transform.fit(*anchors).transform(source.samples))
