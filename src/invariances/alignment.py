"""Phase 1: every pair of spaces under every invariance, with its nulls, and intervals over models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from sklearn.base import clone

from invariances.similarity import Metric, Score, metric_named
from invariances.spaces import SpaceError, Spaces, anchor_ids, class_codes, read_space, read_spaces
from invariances.transforms import Affine, Relative, Transform, affine_map, factorise, transform_named

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


def align(
    spaces: Spaces,
    anchors: int | Sequence[int] | np.ndarray | None = None,
    invariances: Sequence[str] = ("absolute", "scale", "relative", "affine"),
    metrics: Sequence[str] = ("cosine",),
    labels: Sequence | np.ndarray | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Align all pairs of spaces under each invariance (paper, phase 1).

    Parameters
    ----------
    spaces : mapping from model names to spaces, or sequence of spaces
        Each n x d, the same n samples in the same order; widths may differ.
    anchors : int or sequence of row ids, optional
        Rows that transforms are fitted on; they are left out of the score. A count draws them by
        `seed`. Needed by every invariance but "absolute" and "scale".
    invariances : sequence of str
        Names in `invariances.transforms.INVARIANCES`.
    metrics : sequence of str
        Names in `invariances.similarity.METRICS`.
    labels : sequence of length n, optional
        Classes of the samples, for the within-class null.
    seed : int
        Draws the anchors where a count is given.

    Returns
    -------
    DataFrame with the columns `COLUMNS`
        One row per pair, invariance and metric: per unordered pair where both spaces are
        transformed on their own, per ordered pair (`model_a` mapped onto `model_b`) for a fitted
        map. ``null``, ``null_within_class`` and ``calibrated`` stand beside each ``score``.

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
    read = read_spaces(spaces)
    transforms = {name: transform_named(name) for name in invariances}
    chosen = [metric_named(name) for name in metrics]
    n = len(next(iter(read.values())))
    classes = class_codes(labels, n)
    ids = _anchors_for(transforms, anchors, n, seed)
    scored = np.setdiff1d(np.arange(n), ids)
    fit_on = {name: read_space(space[ids], f"anchors of {name!r}") for name, space in read.items()} if len(ids) else {}
    score_on = {name: space[scored] for name, space in read.items()}
    # coded anew, since a class may occur among the anchors only
    scored_classes = None if classes is None else class_codes(classes[scored].numpy(), len(scored))
    rows: list[dict] = []
    for name, transform in transforms.items():
        pairs = _fitted_pairs if transform.fitted else _intrinsic_pairs
        for metric in chosen:
            for a, b, score, note in pairs(transform, metric, fit_on, score_on, scored_classes):
                key = {"model_a": a, "model_b": b, "invariance": name, "metric": metric.name}
                sizes = {"n_samples": len(scored), "n_anchors": len(ids)}
                rows.append({**key, **score._asdict(), **sizes, "note": note})
    return pd.DataFrame(rows, columns=COLUMNS)


def _anchors_for(transforms: Mapping[str, Transform], anchors: object, n: int, seed: int) -> np.ndarray:
    needing = [name for name, transform in transforms.items() if transform.fitted or isinstance(transform, Relative)]
    if anchors is not None:
        return anchor_ids(anchors, n, seed)
    if needing:
        raise SpaceError(f"{', '.join(needing)} need anchors; give a count (anchors=500) or the row ids of the anchors")
    return np.array([], dtype=np.int64)


Pairs = Iterator[tuple[str, str, Score, str]]
Named = Mapping[str, torch.Tensor]


def _intrinsic_pairs(
    transform: Transform, metric: Metric, anchors: Named, samples: Named, classes: torch.Tensor | None
) -> Pairs:
    """Each space is transformed and prepared once; a pair then costs one comparison."""
    states, widths = {}, {}
    for name, space in samples.items():
        own = clone(transform).fit(anchors.get(name, space))
        represented = own.transform(space.double())
        widths[name] = represented.shape[1]
        states[name] = metric.prepare(represented, classes)
    for a, b in combinations(samples, 2):
        padded = metric.name == "cosine" and widths[a] != widths[b]
        yield a, b, *_noted(metric.compare(states[a], states[b]), "zero-padded" if padded else "")


def _fitted_pairs(
    transform: Transform, metric: Metric, anchors: Named, samples: Named, classes: torch.Tensor | None
) -> Pairs:
    """One factorisation per source serves all targets; each target is prepared once."""
    targets = {name: metric.prepare(space.double(), classes) for name, space in samples.items()}
    factors = {name: factorise(space) for name, space in anchors.items()} if isinstance(transform, Affine) else {}
    for a, b in permutations(samples, 2):
        if factors:
            mapped = affine_map(factors[a], anchors[b], transform.penalty)(samples[a].double())
        else:
            mapped = clone(transform).fit(anchors[a], anchors[b]).transform(samples[a].double())
        yield a, b, *_noted(metric.compare(metric.prepare(mapped, classes), targets[b]), "")


def _noted(score: Score, note: str) -> tuple[Score, str]:
    missing = "not calibrated: a perfect score is no higher than chance" if math.isnan(score.calibrated) else ""
    return score, "; ".join(filter(None, (note, missing)))


class Interval(NamedTuple):
    """A mean over pairs with its spread, and a 95 % interval over models."""

    mean: float
    std: float
    """Standard deviation over pairs (the paper's form); not a standard error."""
    low: float
    high: float
    models: int
    note: str


def interval(
    pairs: pd.DataFrame, value: str = "score", groups: tuple[Sequence[str], Sequence[str]] | None = None
) -> Interval:
    """A 95 % interval for the mean of a pair table, over models rather than over pairs.

    N models make N(N-1)/2 pairs but are only N independent units. One group: mean plus or minus
    t(N-1) times the root of max(v_U, v_J / 2), with v_U the variance of a U-statistic whose
    two-way residual is taken out and v_J the delete-one-model jackknife; N = 3 uses the jackknife
    alone, N = 2 gives none. Two groups: two-way variance components with Satterthwaite's degrees
    of freedom. The interval is conditional on the data and the anchors.

    Parameters
    ----------
    pairs : DataFrame
        With `model_a`, `model_b` and `value`, one invariance and one metric; both directions of
        an ordered pair are averaged first.
    value : str
        The column to average.
    groups : two sequences of model names, optional
        Only pairs across the two groups count; without it, all pairs do.
    """
    scores = _score_matrix(pairs, value)
    if groups is not None:
        return _two_group_interval(scores.loc[list(groups[0]), list(groups[1])].to_numpy())
    return _one_group_interval(scores.to_numpy())


def _score_matrix(pairs: pd.DataFrame, value: str) -> pd.DataFrame:
    """The symmetric matrix of pair scores, both directions averaged, NaN on the diagonal."""
    both = pd.concat([pairs, pairs.rename(columns={"model_a": "model_b", "model_b": "model_a"})])
    names = sorted(set(both.model_a))
    table = both.pivot_table(index="model_a", columns="model_b", values=value, aggfunc="mean", dropna=False)
    return table.reindex(index=names, columns=names)


def _one_group_interval(scores: np.ndarray) -> Interval:
    n = len(scores)
    upper = scores[np.triu_indices(n, 1)]
    mean = float(np.nanmean(upper))
    if n < 3:
        return Interval(mean, math.nan, math.nan, math.nan, n, "no interval from two models")
    std = float(np.nanstd(upper, ddof=1))
    dropped = np.array([np.nanmean(np.delete(np.delete(scores, i, 0), i, 1)) for i in range(n)])
    jackknife = (n - 1) / n * np.square(dropped - dropped.mean()).sum()
    if n == 3:
        return _t_interval(mean, std, jackknife, n - 1, n, "3 models: jackknife only, a rough interval")
    if np.isnan(upper).any():
        return _t_interval(mean, std, jackknife, n - 1, n, "not all pairs count: jackknife only")
    rows = np.nansum(scores, axis=1) / (n - 1)
    effects = (n - 1) / (n - 2) * (rows - mean)
    residual = (scores - mean - effects[:, None] - effects[None, :])[np.triu_indices(n, 1)]
    residual_variance = np.square(residual).sum() / (n * (n - 3) / 2)
    model_variance = max(0.0, effects.var(ddof=1) - residual_variance / (n - 2))
    u_variance = 4 * model_variance / n + 2 * residual_variance / (n * (n - 1))
    return _t_interval(mean, std, max(u_variance, jackknife / 2), n - 1, n, "")


def _two_group_interval(scores: np.ndarray) -> Interval:
    n_a, n_b = scores.shape
    mean = float(scores.mean())
    if min(n_a, n_b) < 2:
        return Interval(mean, math.nan, math.nan, math.nan, n_a + n_b, "no interval from one model in a group")
    rows, columns = scores.mean(axis=1), scores.mean(axis=0)
    residual = scores - rows[:, None] - columns[None, :] + mean
    squares = np.array(
        [n_b * rows.var(ddof=1), n_a * columns.var(ddof=1), np.square(residual).sum() / ((n_a - 1) * (n_b - 1))]
    )
    degrees = np.array([n_a - 1, n_b - 1, (n_a - 1) * (n_b - 1)])
    combined = squares @ [1, 1, -1]
    # where the components do not add up to a positive variance, the larger main effect bounds it
    total = max(combined, squares[:2].max())
    freedom = total**2 / (np.square(squares) / degrees).sum() if total > 0 else degrees.min()
    freedom = min(max(freedom, degrees.min()), n_a + n_b - 2)
    return _t_interval(mean, float(scores.std(ddof=1)), total / (n_a * n_b), freedom, n_a + n_b, "")


def _t_interval(mean: float, std: float, variance: float, freedom: float, models: int, note: str) -> Interval:
    half = float(student.ppf(0.975, freedom) * math.sqrt(variance))
    return Interval(mean, std, mean - half, mean + half, models, note)
