"""Phase 1: every pair of spaces under every invariance, with its nulls."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations, permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone

from invariances.errors import SpaceError
from invariances.maps import affine_map, factorise
from invariances.metrics.nulls import PERMUTATIONS
from invariances.metrics.retrieval import GALLERY
from invariances.metrics.score import SUBSAMPLE, Metric, Score
from invariances.metrics.table import check_permutations, metric_named
from invariances.rows import Rows, Spread, of_row, row_columns
from invariances.spaces import Spaces, anchor_ids, check_whole, class_codes, read_space, read_spaces, shown
from invariances.transforms import Affine, Relative, Transform, transform_named

__all__ = ["COLUMNS", "FOUND_COLUMNS", "Pairs", "align"]


COLUMNS = [
    "model_a",
    "model_b",
    "invariance",
    "metric",
    *Score._fields,
    "n_samples",
    "n_anchors",
    "note",
]
"""Columns of the table that `align` returns."""
FOUND_COLUMNS = ["gallery", "k"]
"""Columns behind them where a metric looks rows up: among how many, and how many of the first count."""
SELF = "self"
"""The kind of a row whose models are each compared with themselves."""
COPY = "the same model"
"""What a model's copy is called while the two are compared."""


def align(
    spaces: Spaces | Rows,
    anchors: int | Sequence[int] | np.ndarray | Mapping[str, Any] | None = None,
    invariances: Sequence[str] | Mapping[str, Transform] = ("absolute", "scale", "relative", "affine"),
    metrics: Sequence[str] = ("cosine",),
    labels: Sequence | np.ndarray | Mapping[str, Any] | None = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    workers: Spread = map,
) -> pd.DataFrame:
    """Align all pairs of spaces under each invariance (paper, phase 1).

    Parameters
    ----------
    spaces : mapping from model names to spaces, sequence of spaces, or Rows
        Each n x d, the same n samples in the same order; widths may differ. Of `Rows`, each is compared by itself;
        under a key (row, "self") every model is compared with itself: the most that an invariance can show.
    anchors : int or sequence of row ids, optional
        Rows that transforms are fitted on; they are left out of the score. A count draws them by
        `seed`. Needed by every invariance but "absolute" and "scale". For `Rows`, perhaps a mapping from their names.
    invariances : sequence of str, or mapping from names to transforms
        Names in `invariances.transforms.INVARIANCES`, or transforms of your own under names of
        your own, e.g. ``{"l1": Relative("l1", center=True)}``.
    metrics : sequence of str
        Names in `invariances.METRICS`.
    labels : sequence of length n, optional
        Classes of the samples, for the within-class null. For `Rows`, perhaps a mapping from their names.
    seed : int
        Draws the anchors where a count is given.
    permutations : int
        Seeded shuffles, for the metrics whose null has no closed form.
    workers : callable
        How `Rows` are spread, called like the builtin `map`; e.g. `invariances.zoo.spread`.

    Returns
    -------
    DataFrame with the columns `COLUMNS`
        One row per pair, invariance and metric: per unordered pair where both spaces are
        transformed on their own, per ordered pair (`model_a` mapped onto `model_b`) for a fitted
        map and for retrieval and neighbour overlap, in which rows of `model_a` ask and those of `model_b` are found;
        ``gallery`` and ``k`` (`FOUND_COLUMNS`) then say among how many rows, and how many of the first count.
        ``null``, ``null_within_class`` and ``calibrated`` stand beside each ``score``. For `Rows` the table
        begins with ``row``, and with ``kind`` where keys are (row, kind).

    Raises
    ------
    SpaceError
        If the input cannot be used; one sentence says what, where, and the remedy.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(300, 8))
    >>> rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    >>> table = align({"x": x, "rotated": x @ rotation}, anchors=100, invariances=["absolute", "relative"])
    >>> table.set_index("invariance").score.round(2).to_dict()  # doctest: +SKIP
    {'absolute': 0.07, 'relative': 1.0}
    """
    transforms = _transforms(invariances)
    chosen = [metric_named(name) for name in _names(metrics, "metrics")]
    check_permutations(permutations)
    check_whole(seed, "seed")
    options = _Options(transforms, chosen, seed, permutations)
    if not isinstance(spaces, Rows):
        return _align(spaces, anchors, labels, options)
    unit = partial(_of_row, spaces=spaces, anchors=anchors, labels=labels, options=options)
    found = workers(unit, list(spaces))
    return pd.concat([row_columns(frame, key) for key, frame in zip(spaces, found, strict=True)], ignore_index=True)


class _Options(NamedTuple):
    transforms: Mapping[str, Transform]
    metrics: Sequence[Metric]
    seed: int
    permutations: int


def _of_row(key: Any, spaces: Rows, anchors: Any, labels: Any, options: _Options) -> pd.DataFrame:
    row_anchors, row_labels = of_row(anchors, key), of_row(labels, key)
    if isinstance(key, str) or key[1] != SELF:
        return _align(spaces[key], row_anchors, row_labels, options)
    frames = [
        _align({name: space, COPY: space}, row_anchors, row_labels, options) for name, space in spaces[key].items()
    ]
    table = pd.concat(frames, ignore_index=True)
    return table[table.model_a != COPY].assign(model_b=lambda pairs: pairs.model_a)


def _align(spaces: Spaces, anchors: Any, labels: Any, options: _Options) -> pd.DataFrame:
    read = read_spaces(spaces)
    n = len(next(iter(read.values())))
    classes = class_codes(labels, n)
    ids = _anchors_for(options.transforms, anchors, n, options.seed)
    scored = np.setdiff1d(np.arange(n), ids)
    anchored = (
        {name: read_space(space[ids], f"anchors of {name!r}") for name, space in read.items()} if len(ids) else {}
    )
    # coded anew, since a class may occur among the anchors only
    scored_classes = None if classes is None else class_codes(classes[scored].numpy(), len(scored))
    samples = {name: space[scored] for name, space in read.items()}
    for name, space in samples.items():
        read_space(space, f"what is scored of {name!r}")  # only to be checked: all keep one floating-point type
    data = _Data(anchored, samples, scored_classes, options.permutations)
    rows: list[dict] = []
    for name, transform in options.transforms.items():
        pairs = _fitted_pairs if transform.fitted else _intrinsic_pairs
        with _naming(name):
            for a, b, metric, score, note in pairs(transform, options.metrics, data):
                key = {"model_a": a, "model_b": b, "invariance": name, "metric": metric.name}
                sizes = {"n_samples": len(scored), "n_anchors": len(ids)}
                found = {"gallery": min(len(scored), GALLERY), "k": metric.k} if metric.ordered else {}
                rows.append({**key, **score._asdict(), **sizes, "note": note, **found})
    looked_up = any(metric.ordered for metric in options.metrics)
    table = pd.DataFrame(rows, columns=COLUMNS + FOUND_COLUMNS * looked_up)
    return table.astype(dict.fromkeys(FOUND_COLUMNS, "Int64")) if looked_up else table


class _Data(NamedTuple):
    anchors: Mapping[str, torch.Tensor]
    samples: Mapping[str, torch.Tensor]
    classes: torch.Tensor | None
    permutations: int


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say before an error what it is about."""
    try:
        yield
    except SpaceError as error:
        raise SpaceError(f"{what}: {error}") from error


def _names(given: Sequence[str], what: str) -> Sequence[str]:
    if isinstance(given, str) or not isinstance(given, Collection) or not len(given):
        raise SpaceError(f"{what} is {shown(given)}; give a list of at least one name")
    return given


def _transforms(invariances: Sequence[str] | Mapping[str, Transform]) -> dict[str, Transform]:
    if isinstance(invariances, Mapping) and invariances:
        for name, transform in invariances.items():
            if not isinstance(transform, Transform):
                raise SpaceError(f"invariance {name!r} is a {type(transform).__name__}; give a transform, e.g. Scale()")
        return dict(invariances)
    return {name: transform_named(name) for name in _names(invariances, "invariances")}


def _anchors_for(transforms: Mapping[str, Transform], anchors: object, n: int, seed: int) -> np.ndarray:
    needing = [name for name, transform in transforms.items() if transform.fitted or isinstance(transform, Relative)]
    if anchors is not None:
        return anchor_ids(anchors, n, seed)
    if needing:
        raise SpaceError(f"{', '.join(needing)} need anchors; give a count (anchors=500) or the row ids of the anchors")
    return np.array([], dtype=np.int64)


class _Represented(NamedTuple):
    """What one side of a comparison has become."""

    samples: torch.Tensor
    centre: torch.Tensor | None
    """The mean of its anchors, for metrics that centre by it; None where there are none."""


Pairs = Iterator[tuple[str, str, Metric, Score, str]]


def _intrinsic_pairs(transform: Transform, metrics: Sequence[Metric], data: _Data) -> Pairs:
    """Each space is transformed and prepared once; a pair then costs one comparison."""
    represented = {}
    for name, space in data.samples.items():
        with _naming(name):
            anchors = data.anchors.get(name)
            represent = _fitted(transform, space if anchors is None else anchors)
            represented[name] = _represented(represent, space, anchors, metrics)
    for metric in metrics:
        states = {name: _prepared(metric, side, data, name) for name, side in represented.items()}
        scores = metric.scores(list(states.values()))
        directions = permutations if metric.ordered else combinations
        for (i, a), (j, b) in directions(enumerate(represented), 2):
            one, other = represented[a], represented[b]
            padded = metric.padded and one.samples.shape[1] != other.samples.shape[1]
            score = metric.chance(states[a], states[b], float(scores[i, j]), data.permutations)
            yield a, b, metric, score, _note(metric, score, one, padded)


def _fitted_pairs(transform: Transform, metrics: Sequence[Metric], data: _Data) -> Pairs:
    """One factorisation per source serves all targets; each target is prepared once."""
    spaces = {
        name: _represented(lambda x: x, space, data.anchors[name], metrics) for name, space in data.samples.items()
    }
    targets = [{name: _prepared(metric, side, data, name) for name, side in spaces.items()} for metric in metrics]
    affine = isinstance(transform, Affine)
    for a in spaces:
        source = factorise(data.anchors[a]) if affine else data.anchors[a]
        for b in spaces:
            if a == b:
                continue
            if isinstance(transform, Affine):
                carry = affine_map(source, data.anchors[b], transform.penalty)
            else:
                carry = _fitted(transform, data.anchors[a], data.anchors[b])
            mapped = _represented(carry, data.samples[a], data.anchors[a], metrics)
            # every class of maps but the affine one is defined between unequal widths by padding
            padded = not affine and data.samples[a].shape[1] != data.samples[b].shape[1]
            for metric, prepared in zip(metrics, targets, strict=True):
                state = _prepared(metric, mapped, data, f"{a} mapped onto {b}")
                score = metric.chance(state, prepared[b], metric.score(state, prepared[b]), data.permutations)
                yield a, b, metric, score, _note(metric, score, mapped, padded)


def _fitted(transform: Transform, *anchors: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    fresh: Any = clone(transform)
    return fresh.fit(*anchors).transform


def _represented(
    represent: Callable[[torch.Tensor], torch.Tensor],
    samples: torch.Tensor,
    anchors: torch.Tensor | None,
    metrics: Sequence[Metric],
) -> _Represented:
    centre = None
    if anchors is not None and any(metric.centred for metric in metrics):
        centre = represent(anchors).mean(dim=0, dtype=torch.float64)
    return _Represented(represent(samples), centre)


def _prepared(metric: Metric, side: _Represented, data: _Data, name: str) -> object:
    with _naming(name):
        if not side.samples.isfinite().all():
            raise SpaceError(
                f"what it is mapped to is too large for {side.samples.dtype}; rescale the spaces, or give float64"
            )
        return metric.prepare(side.samples, data.classes, *([side.centre] if metric.centred else []))


def _note(metric: Metric, score: Score, side: _Represented, padded: bool) -> str:
    most = GALLERY if metric.ordered else SUBSAMPLE if metric.quadratic else math.inf
    notes = {
        "zero-padded": padded,
        f"on {most} of the samples": len(side.samples) > most,
        "centred by the samples themselves, since there are no anchors": metric.centred and side.centre is None,
        "not calibrated: a perfect score is no higher than chance": math.isnan(score.calibrated),
        "no z: no shuffle changes the score, or there are fewer than 4 samples": math.isnan(score.z),
    }
    return "; ".join(note for note, holds in notes.items() if holds)
