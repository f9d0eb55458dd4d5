"""Phase 1: every pair of spaces under every invariance, with its nulls."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from itertools import chain, combinations, permutations
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch

from invariances.arguments import check_whole, shown
from invariances.errors import SpaceError
from invariances.metrics.nulls import PERMUTATIONS
from invariances.metrics.retrieval import GALLERY
from invariances.metrics.score import SUBSAMPLE, Metric, Score
from invariances.metrics.table import check_permutations, metric_named
from invariances.represent import Invariance, Representation, absolute, invariance_named
from invariances.rows import Rows, Spread, of_row, row_columns
from invariances.samples import Anchors, Labels, class_codes
from invariances.spaces import OpenSpaces, Spaces, Subset, check_values, chunks, open_spaces, read_space
from invariances.threads import SMALL, in_threads

__all__ = ["COLUMNS", "FOUND_COLUMNS", "align"]


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
    anchors: Anchors | Mapping[str, Any] | None = None,
    invariances: Sequence[str] | Mapping[str, Any] = ("absolute", "scale", "relative", "affine"),
    metrics: Sequence[str] = ("cosine",),
    labels: Labels | Mapping[str, Any] = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    workers: Spread | None = None,
) -> pd.DataFrame:
    """Align all pairs of spaces under each invariance (paper, phase 1).

    Parameters
    ----------
    spaces : mapping from model names to spaces, sequence of spaces, or Rows
        Each n x d, as `invariances.readers.read` takes it: the same n samples in the same order, or with ids that
        match; widths may differ. Of `Rows`, each is compared by itself;
        under a key (row, "self") every model is compared with itself: the most that an invariance can show.
    anchors : int, sequence, mask or path, optional
        Rows that transforms are fitted on; they are left out of the score. A count draws them by
        `seed`; else row numbers of the first space, a mask, ids of rows, or a file of these. Needed by every
        invariance but "absolute" and "scale". For `Rows`, perhaps a mapping from their names.
    invariances : sequence of str, or mapping from names to transforms
        Names in `invariances.INVARIANCES`, or transforms of your own (`invariances.transforms.Transform`, or an
        `Invariance`) under names of your own, e.g. ``{"l1": Relative("l1", center=True)}``.
    metrics : sequence of str
        Names in `invariances.METRICS`.
    labels : sequence of length n, optional
        Classes of the samples, for the within-class null. For `Rows`, perhaps a mapping from their names.
    seed : int
        Draws the anchors where a count is given.
    permutations : int
        Seeded shuffles, for the metrics whose null has no closed form.
    workers : callable, optional
        How `Rows` are spread, called like the builtin `map`; e.g. `invariances.zoo.spread`. By default one follows the
        other, each with its maps on threads.

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
    chosen_invariances = _invariances(invariances)
    chosen = [metric_named(name) for name in _names(metrics, "metrics")]
    check_permutations(permutations)
    check_whole(seed, "seed")
    options = _Options(chosen_invariances, chosen, seed, permutations)
    if not isinstance(spaces, Rows):
        return _align(spaces, anchors, labels, options)
    threads = 1 if workers else None
    unit = partial(_of_row, spaces=spaces, anchors=anchors, labels=labels, options=options, threads=threads)
    found = (workers or map)(unit, list(spaces))
    return pd.concat([row_columns(frame, key) for key, frame in zip(spaces, found, strict=True)], ignore_index=True)


class _Options(NamedTuple):
    invariances: Mapping[str, Invariance]
    metrics: Sequence[Metric]
    seed: int
    permutations: int


def _of_row(key: Any, spaces: Rows, anchors: Any, labels: Any, options: _Options, threads: int | None) -> pd.DataFrame:
    given = {"anchors": of_row(anchors, key), "labels": of_row(labels, key), "options": options, "threads": threads}
    if isinstance(key, str) or key[1] != SELF:
        return _align(spaces[key], **given)
    frames = [_align({name: space, COPY: space}, **given) for name, space in spaces[key].items()]
    table = pd.concat(frames, ignore_index=True)
    return table[table.model_a != COPY].assign(model_b=lambda pairs: pairs.model_a)


def _align(spaces: Spaces, anchors: Any, labels: Any, options: _Options, threads: int | None = None) -> pd.DataFrame:
    data = _read(spaces, anchors, labels, options, threads)
    rows: list[dict] = []
    for name, invariance in options.invariances.items():
        pairs = _fitted_pairs if invariance.fitted else _intrinsic_pairs
        with _naming(name):
            for a, b, metric, score, note in pairs(invariance, options.metrics, data):
                key = {"model_a": a, "model_b": b, "invariance": name, "metric": metric.name}
                sizes = {"n_samples": data.n, "n_anchors": data.n_anchors}
                found = {"gallery": min(data.n, GALLERY), "k": metric.k} if metric.ordered else {}
                rows.append({**key, **score._asdict(), **sizes, "note": note, **found})
    looked_up = any(metric.ordered for metric in options.metrics)
    table = pd.DataFrame(rows, columns=COLUMNS + FOUND_COLUMNS * looked_up)
    return table.astype(dict.fromkeys(FOUND_COLUMNS, "Int64")) if looked_up else table


class _Data(NamedTuple):
    """What all invariances share of the spaces that are compared."""

    anchors: Mapping[str, torch.Tensor]
    samples: Mapping[str, Subset]
    """The scored rows, left where they are."""
    classes: torch.Tensor | None
    permutations: int
    tiles: Sequence[slice]
    """What is read of the scored rows at a time: all of them where a metric cannot do with less."""
    threads: int | None

    @property
    def n(self) -> int:
        return len(next(iter(self.samples.values())))

    @property
    def n_anchors(self) -> int:
        return len(next(iter(self.anchors.values()))) if self.anchors else 0

    def share(self, tile: slice) -> float:
        """Of the scored rows, how many are in a tile."""
        return (tile.stop - tile.start) / self.n

    def classes_of(self, tile: slice) -> torch.Tensor | None:
        """The classes of a tile's rows."""
        return None if self.classes is None else self.classes[tile]


def _read(spaces: Spaces, anchors: Any, labels: Any, options: _Options, threads: int | None) -> _Data:
    opened = open_spaces(spaces)
    classes = class_codes(opened.labels_of_rows(labels), opened.n)
    ids = _anchors_for(options.invariances, anchors, opened, options.seed)
    scored = np.setdiff1d(np.arange(opened.n), ids)
    widest = reduce(torch.promote_types, (space[:1].dtype for space in opened.values()), torch.float32)
    samples = {name: Subset(space, scored, widest) for name, space in opened.items()}
    anchored = {}
    if len(ids):
        anchored = {name: read_space(space[ids].to(widest), f"anchors of {name!r}") for name, space in opened.items()}
    # coded anew, since a class may occur among the anchors only
    scored_classes = None if classes is None else class_codes(classes[scored].numpy(), len(scored))
    for name, space in samples.items():
        check_values(space, f"what is scored of {name!r}")
    width = max(space.shape[1] for space in samples.values())
    tiles = [slice(0, len(scored))]
    if all(metric.merge for metric in options.metrics):
        tiles = list(chunks(len(scored), max(width, len(ids)) * widest.itemsize))
    if len(scored) * width * len(opened) * (len(opened) - 1) < SMALL:
        threads = 1
    return _Data(anchored, samples, scored_classes, options.permutations, tiles, threads)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say before an error what it is about."""
    try:
        yield
    except SpaceError as error:
        raise SpaceError(f"{what}: {error}") from error


def _names(given: Any, what: str) -> Any:
    if isinstance(given, str) or not isinstance(given, Collection) or not len(given):
        raise SpaceError(f"{what} is {shown(given)}; give a list of at least one name")
    return given


def _invariances(given: Sequence[str] | Mapping[str, Any]) -> dict[str, Invariance]:
    if isinstance(given, Mapping) and given:
        return {name: _own_invariance(name, own) for name, own in given.items()}
    return {name: invariance_named(name) for name in _names(given, "invariances")}


def _own_invariance(name: str, given: object) -> Invariance:
    """What was given, or what a scikit-learn transform of ours does."""
    found = given if isinstance(given, (Invariance, type)) else getattr(given, "invariance", None)
    if not isinstance(found, Invariance):
        kind = type(given).__name__
        raise SpaceError(f"invariance {name!r} is a {kind}; give a transform, e.g. Scale(), or an Invariance")
    return found


def _anchors_for(invariances: Mapping[str, Invariance], anchors: Any, spaces: OpenSpaces, seed: int) -> np.ndarray:
    needing = [name for name, invariance in invariances.items() if invariance.anchored]
    if anchors is not None:
        return spaces.anchor_rows(anchors, seed)
    if needing:
        raise SpaceError(f"{', '.join(needing)} need anchors; give a count (anchors=500) or the row ids of the anchors")
    return np.array([], dtype=np.int64)


class _Side(NamedTuple):
    """How a space stands on one side of a comparison."""

    name: str
    represent: Representation
    centre: torch.Tensor | None
    """The mean of its anchors, for metrics that centre by it; None where there are none."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """What rows of the space are represented by, shape (n, m)."""
        with _naming(self.name):
            return self.represent(x)

    def prepare(self, metric: Metric, represented: torch.Tensor, classes: torch.Tensor | None) -> Any:
        """What a metric makes of it."""
        with _naming(self.name):
            return metric.prepare(represented, classes, *([self.centre] if metric.centred else []))


_Found: TypeAlias = tuple[str, str, Metric, Score, str]


def _intrinsic_pairs(invariance: Invariance, metrics: Sequence[Metric], data: _Data) -> Iterator[_Found]:
    """Each space is transformed and prepared once; a pair then costs one comparison."""
    sides = {}
    for name in data.samples:
        with _naming(name):
            anchors = data.anchors.get(name)
            sides[name] = _side(name, invariance.represent(anchors), anchors, metrics)
    whole: dict[tuple[str, int], Any] = {}
    scores: list[Any] = [0.0] * len(metrics)
    for rows in data.tiles:
        tiles = {name: side(data.samples[name][rows]) for name, side in sides.items()}
        for i, metric in enumerate(metrics):
            states = {name: side.prepare(metric, tiles[name], data.classes_of(rows)) for name, side in sides.items()}
            scores[i] += data.share(rows) * metric.scores(list(states.values()))
            for name, state in states.items():
                whole[name, i] = _merged(metric, whole.pop((name, i), None), state)
            if rows.stop < data.n:
                continue
            directions = permutations if metric.ordered else combinations
            for (j, a), (k, b) in directions(enumerate(sides), 2):
                padded = metric.padded and tiles[a].shape[1] != tiles[b].shape[1]
                score = metric.chance(whole[a, i], whole[b, i], float(scores[i][j, k]), data.permutations)
                yield a, b, metric, score, _note(metric, score, data.n, sides[a], padded)
            for name in sides:
                del whole[name, i]


def _fitted_pairs(invariance: Invariance, metrics: Sequence[Metric], data: _Data) -> Iterator[_Found]:
    """One factorisation per source serves all targets; each target is prepared once."""
    as_it_is = absolute.represent(None)
    targets = {name: _side(name, as_it_is, data.anchors[name], metrics) for name in data.samples}
    prepared: dict[tuple[str, int], Any] = {}
    for rows in data.tiles:
        for name, side in targets.items():
            tile = side(data.samples[name][rows])
            for i, metric in enumerate(metrics):
                state = side.prepare(metric, tile, data.classes_of(rows))
                prepared[name, i] = _merged(metric, prepared.pop((name, i), None), state)
    unit = partial(_onto_others, targets=targets, prepared=prepared, invariance=invariance, metrics=metrics, data=data)
    return chain.from_iterable(in_threads(unit, list(targets), data.threads))


def _onto_others(
    a: str,
    targets: Mapping[str, _Side],
    prepared: Mapping[tuple[str, int], Any],
    invariance: Invariance,
    metrics: Sequence[Metric],
    data: _Data,
) -> list[_Found]:
    """One space mapped onto each of the others."""
    images = _images(a, invariance, metrics, data)
    whole: dict[tuple[str, int], Any] = {}
    scores: dict[tuple[str, int], float] = defaultdict(float)
    found = []
    for rows in data.tiles:
        x, classes = data.samples[a][rows], data.classes_of(rows)
        for b, side in images.items():
            mapped = side(x)
            tile = targets[b](data.samples[b][rows]) if len(data.tiles) > 1 else None
            padded = invariance.padded and x.shape[1] != data.samples[b].shape[1]
            for i, metric in enumerate(metrics):
                state = side.prepare(metric, mapped, classes)
                target = prepared[b, i] if tile is None else targets[b].prepare(metric, tile, classes)
                scores[b, i] += data.share(rows) * metric.score(state, target)
                whole[b, i] = _merged(metric, whole.pop((b, i), None), state)
                if rows.stop == data.n:
                    score = metric.chance(whole.pop((b, i)), prepared[b, i], scores[b, i], data.permutations)
                    found.append((a, b, metric, score, _note(metric, score, data.n, side, padded)))
    return found


def _images(a: str, invariance: Invariance, metrics: Sequence[Metric], data: _Data) -> dict[str, _Side]:
    """The maps of one space onto each of the others."""
    anchors = data.anchors[a]
    source = invariance.prepare(anchors)
    return {
        b: _side(f"{a} mapped onto {b}", invariance.fit(source, target), anchors, metrics)
        for b, target in data.anchors.items()
        if a != b
    }


def _merged(metric: Metric, whole: Any, tile: Any) -> Any:
    """What a metric makes of a tile and of those before it, which are none at first."""
    return tile if whole is None or metric.merge is None else metric.merge(whole, tile)


def _side(
    name: str,
    represent: Representation,
    anchors: torch.Tensor | None,
    metrics: Sequence[Metric],
) -> _Side:
    centre = None
    if anchors is not None and any(metric.centred for metric in metrics):
        centre = represent(anchors).mean(dim=0, dtype=torch.float64)
    return _Side(name, represent, centre)


def _note(metric: Metric, score: Score, n: int, side: _Side, padded: bool) -> str:
    most = GALLERY if metric.ordered else SUBSAMPLE if metric.quadratic else math.inf
    notes = {
        "zero-padded": padded,
        f"on {most} of the samples": n > most,
        "centred by the samples themselves, since there are no anchors": metric.centred and side.centre is None,
        "not calibrated: a perfect score is no higher than chance": math.isnan(score.calibrated),
        "no z: no shuffle changes the score, or there are fewer than 4 samples": math.isnan(score.z),
    }
    return "; ".join(note for note, holds in notes.items() if holds)
