"""Stitching: the encoder of one model into the head of another, without any fine-tuning.

Four ways to connect them: *absolute* feeds the codes as they are, *relative* feeds relative
representations to a head that was trained on such, *product* feeds codes and anchors to a head that
makes its own relative representations by several similarities, a *fitted* map (affine, orthogonal)
carries the codes into the head's own space. Every stitched score stands beside its ceiling, the same head on
its own encoder, and beside controls that tell what the connection itself contributes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch

from invariances.arguments import check_whole, shown
from invariances.errors import SpaceError
from invariances.product import Product
from invariances.readers import as_tensor
from invariances.represent import INVARIANCES, invariance_named
from invariances.rows import Rows, Spread, of_row, row_columns
from invariances.spaces import all_finite, read_space
from invariances.threads import in_threads

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
SELF = "self-stitch"
SHUFFLED = "shuffled anchors"
UNSTITCHED = "unstitched"
"""No control of the table, but its ceiling: a head on its own encoder as it was trained."""

Connection: TypeAlias = tuple[str, str, str]
"""Names of the encoder and of the model whose head reads it, and the control."""


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
    encoder's codes of the anchors (k, d). None for an untrained encoder. It is called on several threads at once."""
    product: Product | None = None
    """For "product", perhaps what the head compares by: it then reads the components alone, of shape (n, c, k), which
    heads that compare alike share."""


Offered: TypeAlias = "Callable[[Stitchable, str], tuple[torch.Tensor, ...]]"
"""What a head reads of one encoder under a control."""


@dataclass(frozen=True)
class Quality:
    """How the outputs of a head are measured."""

    name: str
    measure: Callable[[torch.Tensor, torch.Tensor], float]
    """``measure(outputs, targets)``, one call at a time."""
    lower_is_better: bool = False

    def checked(self, value: object, what: str) -> float:
        """What was measured; if it is no finite number, an error that names `what` was measured."""
        if not isinstance(value, Real) or not math.isfinite(value):
            raise SpaceError(f"the quality of {what} is {value!r}; give a function that answers with a finite number")
        return float(value)


def weighted_f1(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """F1 of class scores (n, classes) for labels (n,), averaged over classes by size, as in the lineage's code."""
    truth, answer = targets.cpu().numpy(), outputs.argmax(dim=1).cpu().numpy()
    # scikit-learn's f1_score to the bit, whose checks of the input take ten times as long as a linear head
    classes, labels = np.unique(np.concatenate([truth, answer]), return_inverse=True)
    truth, answer = np.split(labels, 2)
    right, true, given = (np.bincount(part, minlength=len(classes)) for part in (truth[truth == answer], truth, answer))
    return float(np.average(2 * right / (true + given), weights=true))


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
    workers: Spread | None = None,
) -> pd.DataFrame:
    """Stitch all ordered pairs of models under each invariance (paper, zero-shot stitching).

    Parameters
    ----------
    models : mapping from names to Stitchable, or Rows
        For "relative" and its kin, and for "product", heads that were trained on just such representations of these
        anchors. A model without a head is an untrained encoder: the control of that name. Keys of `Rows` are
        (row, invariance), since heads differ by what they read; a row without one of the invariances is left out there.
    invariances : sequence of str
        Names in `invariances.INVARIANCES`, or "product".
    quality : "f1", "mse" or Quality
        How outputs are measured. For `Rows`, perhaps a mapping from their names.
    seed : int
        Shuffles the anchors of the control of that name.
    workers : callable, optional
        How `Rows` are spread, called like the builtin `map`; e.g. `invariances.zoo.spread`. By default one row follows
        the other, and the heads that read an encoder are spread over threads.

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
    threads = partial(in_threads, threads=1) if workers else in_threads
    if not isinstance(models, Rows):
        each = [_Options(name, seed, threads) for name in names]
        return pd.concat([_stitch(models, _quality(quality), options) for options in each], ignore_index=True)
    keys = [key for key in models if key[1] in names]
    if not keys:
        raise SpaceError(f"no row is stitched by {', '.join(names)}; give invariances that the keys of the rows name")
    unit = partial(_of_row, models=models, quality=quality, seed=seed, threads=threads)
    spread: Any = workers or map
    found = spread(unit, keys)
    frames = [row_columns(frame, key[0]) for key, frame in zip(keys, found, strict=True)]
    return pd.concat(frames, ignore_index=True)


class _Options(NamedTuple):
    invariance: str
    seed: int
    threads: Spread
    """How the heads that read one encoder are spread."""


def _of_row(key: tuple[str, str], models: Rows, quality: Any, seed: int, threads: Spread) -> pd.DataFrame:
    return _stitch(models[key], _quality(of_row(quality, key)), _Options(key[1], seed, threads))


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


def _stitch(models: Mapping[str, Stitchable], quality: Quality, options: _Options) -> pd.DataFrame:
    heads, encoders = _checked_models(models, options.invariance)
    connections = _connections(heads, [name for name in encoders if name not in heads], options.invariance)
    values = _measured(heads, encoders, connections, quality, options)
    # checked in the table's order, so that a failure is the same one however the work was spread
    ceilings = {name: quality.checked(values[name, name, UNSTITCHED], f"{name} unstitched") for name in heads}
    rows = []
    for a, b, control in connections:
        score = quality.checked(values[a, b, control], f"{a} in the head of {b}")
        kept, whole = (ceilings[b], score) if quality.lower_is_better else (score, ceilings[b])
        retention = kept / whole if whole else math.nan
        sizes = (len(encoders[a].samples), len(encoders[a].anchors))
        rows.append((a, b, options.invariance, control, score, ceilings[b], retention, *sizes, quality.name))
    return pd.DataFrame(rows, columns=COLUMNS)


def _measured(
    heads: Mapping[str, Stitchable],
    encoders: Mapping[str, Codes],
    connections: Sequence[Connection],
    quality: Quality,
    options: _Options,
) -> dict[Connection, Any]:
    """What each connection is worth, and each head unstitched: encoder by encoder, so that little is kept."""
    order = np.random.default_rng(options.seed).permutation(len(next(iter(encoders.values())).anchors))
    fitted, one_call = _is_fitted(options.invariance), threading.Lock()
    values: dict[Connection, Any] = {}
    for name, codes in encoders.items():
        asked = [(name, name, UNSTITCHED)] if name in heads else []
        # unless a map is fitted, a head reads its own encoder as it did in training: once is enough
        asked += [one for one in connections if one[0] == name and (fitted or one[2] != SELF)]
        given = _offered(codes, options.invariance, list(heads.values()), order)
        unit = partial(_value, heads=heads, given=given, targets=codes.targets, quality=quality, one_call=one_call)
        values |= zip(asked, options.threads(unit, asked), strict=True)
        if not fitted and name in heads:
            values[name, name, SELF] = values[name, name, UNSTITCHED]
    return values


@torch.no_grad()  # here, since a thread does not know what its caller has set
def _value(
    connection: Connection,
    heads: Mapping[str, Stitchable],
    given: Offered,
    targets: torch.Tensor,
    quality: Quality,
    one_call: threading.Lock,
) -> object:
    _, b, control = connection
    answer: Any = heads[b].head
    outputs = answer(*given(heads[b], control))
    with one_call:  # a measure may keep something between two calls
        return quality.measure(outputs, targets)


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
        if not all_finite(getattr(codes, part)):
            raise SpaceError(f"the {part} of {name} hold NaN or infinity; drop them for every model")
    if len(codes.samples) != len(codes.targets):
        raise SpaceError(
            f"{name} has {len(codes.samples)} samples, but {len(codes.targets)} targets; give one for each"
        )


def _connections(heads: Mapping[str, Stitchable], untrained: Sequence[str], invariance: str) -> list[Connection]:
    """Every connection to score, in the order of the table."""
    pairs = list(permutations(heads, 2))
    found = [(a, b, "none") for a, b in pairs]
    for name in heads:
        found += [(name, name, SELF), *((outsider, name, "untrained encoder") for outsider in untrained)]
    reads_anchors = invariance not in ("absolute", "scale")
    return found + [(a, b, SHUFFLED) for a, b in pairs if reads_anchors]


def _is_fitted(invariance: str) -> bool:
    return invariance != PRODUCT and invariance_named(invariance).fitted


def _offered(codes: Codes, invariance: str, heads: Sequence[Stitchable], order: np.ndarray) -> Offered:
    """What one encoder gives to each head under a control; what is the same for several is computed once.

    Shuffled anchors, in `order`, need no projection or factorization of their own.
    """
    if invariance == PRODUCT:
        return _offered_to_products(codes, heads, order)
    found = invariance_named(invariance)
    source, samples = found.prepare(read_space(codes.anchors, "anchors")), as_tensor(codes.samples, "samples")
    if not found.fitted:
        projected = found.fit(source, None)(samples)
        return lambda head, control: (projected[:, order] if control == SHUFFLED else projected,)
    back = np.argsort(order)

    def carried(head: Stitchable, control: str) -> tuple[Any, ...]:
        if control == UNSTITCHED:  # a map is left out, as it was in training
            return (codes.samples,)
        anchors = head.codes.anchors[back] if control == SHUFFLED else head.codes.anchors
        return (found.fit(source, read_space(anchors, "target_anchors"))(samples),)

    return carried


def _offered_to_products(codes: Codes, heads: Sequence[Stitchable], order: np.ndarray) -> Offered:
    """Components where heads say what they compare by, codes and anchors where they do not."""
    products = {_compared_by(head.product): head.product for head in heads if head.product is not None}
    components = {key: product.components(codes.samples, codes.anchors) for key, product in products.items()}

    def offered(head: Stitchable, control: str) -> tuple[torch.Tensor, ...]:
        shuffled = control == SHUFFLED
        if head.product is None:
            return codes.samples, codes.anchors[order] if shuffled else codes.anchors
        found = components[_compared_by(head.product)]
        return (found[..., order] if shuffled else found,)

    return offered


def _compared_by(product: Product) -> tuple:
    """What the components of a product hang on, beside codes and anchors."""
    return product.similarities, product.anchors, next(product.parameters()).dtype


def connect(source: Codes, target: Stitchable, invariance: str) -> torch.Tensor:
    """What the target's head answers to another encoder's samples.

    Parameters
    ----------
    source : Codes
    target : Stitchable
    invariance : str
        How they are connected; see `stitch`.
    """
    given = _offered(source, invariance, [target], np.arange(len(source.anchors)))
    answer: Any = target.head
    return answer(*given(target, "none"))
