"""Stitching: the encoder of one model into the head of another, without any fine-tuning.

Four ways to connect them: *absolute* feeds the codes as they are, *relative* feeds relative
representations to a head that was trained on such, *product* feeds codes and anchors to a head that
makes its own relative representations by several similarities, a *fitted* map (affine, orthogonal)
carries the codes into the head's own space. Every stitched score stands beside its ceiling, the same head on
its own encoder, and beside controls that tell what the connection itself contributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from numbers import Real

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone

from invariances.errors import SpaceError
from invariances.spaces import check_whole
from invariances.transforms import INVARIANCES, transform_named

COLUMNS = ["model_a", "model_b", "invariance", "control", "score", "ceiling", "retention", "n_samples", "n_anchors"]
"""Columns of the table that `stitch` returns; ``control`` is "none" for a real pair."""
UNTRAINED = "untrained"
"""The name of an untrained encoder in the table, where one serves all heads."""
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
    head: Callable[..., torch.Tensor]
    """Maps codes of shape (n, d), or relative representations (n, k), to outputs; for "product", codes (n, d)
    and the same encoder's codes of the anchors (k, d)."""


def stitch(
    models: Mapping[str, Stitchable],
    quality: Callable[[torch.Tensor, torch.Tensor], float],
    invariance: str,
    untrained: Codes | Mapping[str, Codes] | None = None,
    lower_is_better: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Stitch all ordered pairs of models (paper, zero-shot stitching).

    Parameters
    ----------
    models : mapping from names to Stitchable
        For "relative" and its kin, and for "product", heads that were trained on just such representations of these
        anchors.
    quality : callable
        ``quality(outputs, targets)``, e.g. F1 or mean squared error.
    invariance : str
        A name in `invariances.transforms.INVARIANCES`, or "product".
    untrained : Codes or mapping from names to Codes, optional
        An untrained encoder of the same width, for the control of that name; several, by name, where one cannot read
        the samples of all models (of other languages).
    lower_is_better : bool
        Whether `quality` is an error.
    seed : int
        Shuffles the anchors of the control of that name.

    Returns
    -------
    DataFrame with the columns `COLUMNS`
        ``score`` of encoder `model_a` in the head of `model_b`, ``ceiling`` of `model_b` unstitched
        in the same space, ``retention`` = score / ceiling (ceiling / score for an error), NaN where
        that divides by 0. Controls:
        "self-stitch" (the pair a, a through the same path), "shuffled anchors" (correspondence broken
        on the encoder's side), "untrained encoder" (every one in every head).

    Raises
    ------
    SpaceError
        If there are fewer than two models, encoders have different numbers of anchors, or an untrained one has the
        name of a model.
    """
    if not isinstance(invariance, str) or invariance not in (*INVARIANCES, PRODUCT):
        raise SpaceError(f"unknown invariance {invariance!r}; choose from {', '.join((*INVARIANCES, PRODUCT))}")
    check_whole(seed, "seed")
    if not isinstance(models, Mapping) or not all(isinstance(model, Stitchable) for model in models.values()):
        raise SpaceError("models is no mapping from names to Stitchable; give the codes and the head of each model")
    if len(models) < 2:
        raise SpaceError(f"{len(models)} model given; stitching needs at least 2")
    outsiders = _outsiders(untrained, models)
    encoders = {name: model.codes for name, model in models.items()} | outsiders
    if len({len(codes.anchors) for codes in encoders.values()}) > 1:
        raise SpaceError("the models have different numbers of anchors; embed the same anchors with every encoder")
    for name, codes in encoders.items():
        _check_codes(name, codes)
    widths = {name: codes.samples.shape[1] for name, codes in encoders.items()}
    if invariance in ("absolute", "scale") and len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise SpaceError(f"the encoders differ in width, {listed}; choose relative or a fitted map")

    def measured(outputs: torch.Tensor, targets: torch.Tensor, what: str) -> float:
        value = quality(outputs, targets)
        if not isinstance(value, Real) or not math.isfinite(value):
            raise SpaceError(f"the quality of {what} is {value!r}; give a function that answers with a finite number")
        return value

    ceilings = {
        name: measured(_unstitched(model, invariance), model.codes.targets, f"{name} unstitched")
        for name, model in models.items()
    }
    rows = []
    for a, b, control, codes in _connections(models, invariance, outsiders, seed):
        score = measured(connect(codes, models[b], invariance), codes.targets, f"{a} in the head of {b}")
        kept, of = (ceilings[b], score) if lower_is_better else (score, ceilings[b])
        retention = kept / of if of else math.nan
        sizes = (len(codes.samples), len(codes.anchors))
        rows.append((a, b, invariance, control, score, ceilings[b], retention, *sizes))
    return pd.DataFrame(rows, columns=COLUMNS)


def _outsiders(untrained: Codes | Mapping[str, Codes] | None, models: Mapping[str, Stitchable]) -> dict[str, Codes]:
    """Untrained encoders by name."""
    named = {UNTRAINED: untrained} if isinstance(untrained, Codes) else {} if untrained is None else untrained
    if not isinstance(named, Mapping) or not all(isinstance(codes, Codes) for codes in named.values()):
        raise SpaceError(
            "untrained is neither Codes nor a mapping from names to Codes; give an untrained encoder's codes"
        )
    if both := sorted(named.keys() & models.keys()):
        raise SpaceError(f"{both[0]} is a model and an untrained encoder; give one of them another name")
    return dict(named)


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
