"""Whether one table of pairs ranks the pairs as another does: does alignment predict stitching?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations as arrangements
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from invariances.arguments import check_whole
from invariances.errors import SpaceError
from invariances.intervals import Groups, check_table, checked_groups, directed, listed

__all__ = ["PREDICTION_COLUMNS", "held_out", "permutation_test", "rank_prediction", "relabellings"]


MOST_LISTED = 720  # relabellings that are all tried: those of 6 models
PREDICTION_COLUMNS = [
    "n_models",
    "n_pairs",
    "rho",
    "p",
    "n_relabellings",
    "testable",
    "reason",
    "held_out_r2",
    "held_out_mae",
    "held_out_mae_mean",
]
"""Columns of the table that `rank_prediction` returns, after those of `by`."""


def rank_prediction(
    alignment: pd.DataFrame,
    retention: pd.DataFrame,
    by: Sequence[str] = (),
    alignment_value: str = "score",
    retention_value: str = "retention",
    groups: Groups | None = None,
    strata: Sequence[Sequence[str]] = (),
    draws: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """Whether alignment predicts how well models can be stitched (paper, key finding 4).

    Pairs that share a model are not independent, so that the usual p of a rank correlation is
    significant far too often. Here models are relabelled: rows and columns of the alignment matrix
    are permuted by one and the same permutation (within each group or stratum, where there are some), and p is
    the share of relabellings with a correlation at least as strong, either sign. All relabellings
    are tried where there are at most 720 (6 models), else `draws` are drawn and
    p = (b + 1) / (draws + 1).

    Held-out models: for each model, a straight line of retention on alignment is fitted to the
    pairs that do not touch it (least squares) and predicts the pairs that do; beside it stands the
    plain mean of the retention of the same fitting pairs. ``held_out_r2`` is 1 - (squared error of
    the lines) / (squared error of those means) over all models. Above 0, alignment helped for models
    that were not seen; alone that is weak evidence, as it happens in 15 to 35 % of tables without
    any relation. The test is p.

    Parameters
    ----------
    alignment, retention : DataFrame
        With `model_a`, `model_b`, a value and the columns of `by`; may be one and the same table. A
        table that holds each pair in one direction only, as alignment under an intrinsic transform,
        counts for both directions. NaN marks a pair without a value.
    by : sequence of str
        Columns that tell data sets, tasks, invariances apart: one line of the result for each
        combination. Nothing is pooled over them, since differences between data sets alone make a
        strong correlation.
    alignment_value, retention_value : str
        The columns to correlate.
    groups : two sequences of model names, optional
        Only pairs across the two groups count.
    strata : sequence of sequences of model names, optional
        All pairs count, but models are relabelled within these alone: architectures or languages that differ in
        both alignment and retention make a correlation by themselves. Every model is in one of them.
    draws : int
    seed : int
        Draws the relabellings, the same for each line.

    Returns
    -------
    DataFrame with the columns of `by` and `PREDICTION_COLUMNS`
        ``rho`` is Spearman's, over the pairs that have both values (ordered pairs, unless both
        tables are unordered); ``testable`` is False, with the ``reason`` and without p, where one
        side has no spread (a range below 1e-6 of its largest size), a side is missing, or there are
        too few models for p < 0.05 (fewer than 20 relabellings: 4 models, or 3 in each group, are
        the least). ``held_out_mae`` and ``held_out_mae_mean`` are the mean absolute errors of the
        lines and of the means, in units of retention.

    Raises
    ------
    SpaceError
        If a column is missing, a pair occurs more than once within a combination, a model of
        `groups` is not in the tables, one of the tables is not in `strata`, or both are given.

    References
    ----------
    Krackhardt, D. (1988). Predicting with networks: nonparametric multiple regression analysis of
    dyadic data (the quadratic assignment procedure, QAP).
    """
    if isinstance(by, str):
        raise SpaceError(f"by is {by!r}; give a list of column names")
    by, strata = list(by), [list(stratum) for stratum in strata]
    if groups is not None and strata:
        raise SpaceError("groups and strata are given; give groups to count pairs across them alone, else strata")
    check_whole(draws, "draws", 19)
    check_whole(seed, "seed")
    for name, table in (("alignment", alignment), ("retention", retention)):
        check_table(table, f"the {name} table")
        absent = [column for column in by if column not in table.columns]
        if absent:
            raise SpaceError(f"the {name} table has no column {listed(absent)}; it has {', '.join(table.columns)}")
        if table[by].isna().any(axis=None):
            raise SpaceError(f"the {name} table has empty cells in {listed(by)}; fill them in, or drop their rows")
    lines = []
    for key in _combinations(retention, alignment, by):
        sides = [
            (table[(table[by] == list(key)).all(axis=1)] if by else table, value)
            for table, value in ((alignment, alignment_value), (retention, retention_value))
        ]
        found = _predict(sides, groups, strata, draws, seed)
        lines.append(dict(zip(by, key, strict=True)) | found)
    return pd.DataFrame(lines, columns=[*by, *PREDICTION_COLUMNS])


def _combinations(first: pd.DataFrame, second: pd.DataFrame, by: list[str]) -> list[tuple]:
    """Values of the columns `by` that occur in either table, in order of appearance."""
    if not by:
        return [()]
    return list(pd.concat([first[by], second[by]]).drop_duplicates().itertuples(index=False, name=None))


def _predict(
    sides: list[tuple[pd.DataFrame, str]], groups: Groups | None, strata: list[list[str]], draws: int, seed: int
) -> dict:
    """One line of the result."""
    line = dict.fromkeys(PREDICTION_COLUMNS, math.nan) | {"n_models": 0, "n_pairs": 0, "testable": False}
    for (table, value), name in zip(sides, ("alignment", "retention"), strict=True):
        if value in table.columns and table[value].isna().all():
            return line | {"reason": f"no {name} here"}
    (x, x_ordered), (y, y_ordered) = (directed(*side) for side in sides)
    names = [name for name in x.index if name in set(y.index)]
    members = [names]
    if groups is not None or strata:
        parts = checked_groups(groups, [*x.index, *y.index]) if groups is not None else _strata(strata, names)
        members = [[name for name in part if name in set(names)] for part in parts]
        names = [name for part in members for name in part]
    x, y = (side.loc[names, names].to_numpy() for side in (x, y))
    if groups is not None:
        within = np.zeros((len(names), len(names)), dtype=bool)
        cut = len(members[0])
        within[:cut, :cut] = within[cut:, cut:] = True
        x, y = (np.where(within, np.nan, side) for side in (x, y))
    both = ~np.isnan(x + y)
    touched = both.any(0) | both.any(1)
    x, y, both = (side[np.ix_(touched, touched)] for side in (x, y, both))
    sizes = [int(touched[[name in set(group) for name in names]].sum()) for group in members]
    pairs = int(both.sum()) if x_ordered or y_ordered else int(both.sum()) // 2
    line |= {"n_models": sum(sizes), "n_pairs": pairs}
    reason = _untestable(x[both], y[both], sizes)
    if reason:
        return line | {"reason": reason}
    relabelled = relabellings(sizes, draws, seed)
    rho, p = permutation_test(x, y, relabelled)
    r2, mae, mae_mean = held_out(x, y)
    return line | {
        "rho": rho,
        "p": p,
        "n_relabellings": len(relabelled),
        "testable": True,
        "reason": "",
        "held_out_r2": r2,
        "held_out_mae": mae,
        "held_out_mae_mean": mae_mean,
    }


def _strata(strata: list[list[str]], names: Sequence[str]) -> list[list[str]]:
    named = [name for stratum in strata for name in stratum]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise SpaceError(f"strata hold {listed(twice)} twice; put every model into one of them")
    if absent := [name for name in names if name not in set(named)]:
        raise SpaceError(f"strata lack {listed(absent)}; put every model of the tables into one of them")
    return strata


def _untestable(x: np.ndarray, y: np.ndarray, sizes: list[int]) -> str:
    """Why the pairs cannot be tested, or nothing."""
    if not len(x):
        return "no pair has both an alignment and a retention"
    count = math.prod(math.factorial(size) for size in sizes)
    if count < 20:
        return f"{sum(sizes)} models are too few: {count} relabellings cannot give p < 0.05"
    for values, name in ((x, "alignment"), (y, "retention")):
        if np.ptp(values) <= 1e-6 * np.abs(values).max():
            return f"{name} has no spread"
    return ""


def relabellings(sizes: Sequence[int], draws: int = 999, seed: int = 0) -> np.ndarray:
    """Permutations of models within groups, the identity first.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of models of the groups, which follow one another.
    draws : int
        How many to draw, beside the identity, where there are more than 720 in all.
    seed : int

    Returns
    -------
    array of int of shape (relabellings, models)
    """
    starts = np.cumsum([0, *sizes[:-1]])
    if math.prod(math.factorial(size) for size in sizes) <= MOST_LISTED:
        each = [
            [[start + i for i in order] for order in arrangements(range(n))]
            for start, n in zip(starts, sizes, strict=True)
        ]
        return np.array([np.concatenate(parts) for parts in product(*each)])
    rng = np.random.default_rng(seed)
    drawn = [
        start + np.vstack([np.arange(n), rng.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)])
        for start, n in zip(starts, sizes, strict=True)
    ]
    return np.concatenate(drawn, axis=1)


def permutation_test(x: np.ndarray, y: np.ndarray, relabelled: np.ndarray) -> tuple[float, float]:
    """Rank correlation of two matrices off the diagonal, and its p by joint permutation of labels.

    Each relabelling is judged by the pairs that have both values under it. The identity counts as
    one, so that p is never 0.

    Parameters
    ----------
    x, y : arrays of shape (N, N)
        NaN on the diagonal and where a pair has no value.
    relabelled : array of int of shape (relabellings, N)
        The identity first.
    """
    asked = ~np.isnan(y)
    x, y = (rankdata(side, nan_policy="omit").reshape(side.shape) for side in (x, y))
    moved = x[relabelled[:, :, None], relabelled[:, None, :]][:, asked]
    fixed = np.broadcast_to(y[asked], moved.shape)
    both = ~np.isnan(moved + fixed)
    if not both.all():  # which pairs are left changes with the labels, and so do their ranks
        moved, fixed = (rankdata(np.where(both, side, np.nan), axis=1, nan_policy="omit") for side in (moved, fixed))
    rho = _correlations(moved, fixed, both)
    return float(rho[0]), float(np.mean(np.abs(rho) >= abs(rho[0]) - 1e-12))


def _correlations(x: np.ndarray, y: np.ndarray, both: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of x with that of y, where `both` holds; 0 without spread."""
    count = both.sum(1, keepdims=True)
    x, y = (np.where(both, side, 0) for side in (x, y))
    x, y = (np.where(both, side - side.sum(1, keepdims=True) / count, 0) for side in (x, y))
    scale = np.sqrt(np.square(x).sum(1) * np.square(y).sum(1))
    return np.divide((x * y).sum(1), scale, out=np.zeros_like(scale), where=scale > 0)


def held_out(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Straight-line prediction of y from x for models that were left out of the fit.

    Parameters
    ----------
    x, y : arrays of shape (N, N)
        NaN on the diagonal and where a pair has no value.

    Returns
    -------
    r2, mae, mae_mean : float
        1 - squared error / squared error of the fitting pairs' mean, over all left-out models; mean
        absolute errors of the line and of that mean. NaN where no model can be left out.
    """
    lines, means = [], []
    both = ~np.isnan(x + y)
    for model in range(len(x)):
        touches = np.zeros_like(both)
        touches[model] = touches[:, model] = True
        seen, asked = both & ~touches, both & touches
        if not seen.any():
            continue
        x_mean, y_mean = x[seen].mean(), y[seen].mean()
        spread = np.square(x[seen] - x_mean).sum()
        slope = ((x[seen] - x_mean) * (y[seen] - y_mean)).sum() / spread if spread > 0 else 0.0
        means.append(y[asked] - y_mean)
        lines.append(means[-1] - slope * (x[asked] - x_mean))
    if not means:
        return math.nan, math.nan, math.nan
    line, mean = np.concatenate(lines), np.concatenate(means)
    r2 = 1 - np.square(line).sum() / np.square(mean).sum()
    return float(r2), float(np.abs(line).mean()), float(np.abs(mean).mean())
