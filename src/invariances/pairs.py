"""What a table of pairs can say, given that N models make N(N-1)/2 pairs but are only N independent units.

Two questions are asked of such tables: how far a mean over pairs would move with other models
(`interval`, `difference`), and whether one table ranks the pairs as another does (`rank_prediction`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations as arrangements
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from scipy.stats import t as student

from invariances.errors import SpaceError
from invariances.spaces import check_whole, shown

Groups: TypeAlias = "tuple[Sequence[str], Sequence[str]]"
Bounds: TypeAlias = "tuple[np.ndarray, np.ndarray, np.ndarray]"


class Interval(NamedTuple):
    """A mean over pairs with its spread, and a 95 % interval over models."""

    mean: float
    std: float
    """Standard deviation over pairs (the paper's form); not a standard error."""
    low: float
    high: float
    models: int
    note: str


def interval(pairs: pd.DataFrame, value: str = "score", groups: Groups | None = None) -> Interval:
    """A 95 % interval for the mean of a table of pairs, over models rather than over pairs.

    A score is taken as mean + effect of either model + residual of the pair, and the interval is
    that of a Student t whose longer tail is stretched by the first-order correction for skewness
    of a studentized U-statistic; see `one_group` and `two_groups`. It speaks of models drawn anew,
    given the data and the anchors. In simulations with 4 to 20 models, or 3 to 10 in each of two
    groups, it covers 90 to 98 % (``benchmarks/coverage.py``), skewed effects and scores near their
    ceiling included. No such promise holds for very heavy tails: of a failure that strikes one
    model in ten, 5 models mostly show nothing.

    Parameters
    ----------
    pairs : DataFrame
        With `model_a`, `model_b` and `value`, one invariance and one metric. Where a table holds
        pairs in both directions these are averaged first.
    value : str
        The column to average. NaN marks a pair without a score: it is left out of the mean, and the
        interval rests on the jackknife, which is wider.
    groups : two sequences of model names, optional
        Only pairs across the two groups count; without it, all pairs do.

    Returns
    -------
    Interval
        Without bounds (NaN), and with the reason as its note, for 2 models or a group of one. From 3
        models, or a group of 2, it is marked as rough.

    Raises
    ------
    SpaceError
        If a column or a model of a group is missing, no score is finite, a pair occurs more than
        once or joins a model to itself, or the groups overlap.
    """
    return _interval(_symmetric(pairs, value), groups)


def difference(
    first: pd.DataFrame, second: pd.DataFrame, value: str = "score", groups: Groups | None = None
) -> Interval:
    """A 95 % interval for the mean of `first` minus `second`, paired over models.

    Both tables hold the same models (two invariances, say). They are subtracted pair by pair, so
    that what a model does to both drops out, and the differences are given to `interval`.

    Parameters
    ----------
    first, second : DataFrame
        Tables as for `interval`; one may hold both directions of a pair and the other only one.
    value : str
    groups : two sequences of model names, optional

    Raises
    ------
    SpaceError
        If the tables do not hold the same models, or one of them cannot be used; see `interval`.
    """
    one, other = _symmetric(first, value), _symmetric(second, value)
    unpaired = list(one.index.symmetric_difference(other.index))
    if unpaired:
        raise SpaceError(f"{_listed(unpaired)} occur in one of the two tables only; give both the same models")
    return _interval(one - other, groups)


# Reading tables ------------------------------------------------------------------------------------


def _listed(names: Sequence, most: int = 5) -> str:
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _check_table(table: pd.DataFrame, what: str) -> None:
    if not isinstance(table, pd.DataFrame):
        raise SpaceError(f"{what} is a {type(table).__name__}; give a DataFrame, e.g. of align")


def _directed(pairs: pd.DataFrame, value: str) -> tuple[pd.DataFrame, bool]:
    """The matrix of scores (rows `model_a`, columns `model_b`), and whether the pairs are ordered.

    A table that holds each pair in one direction only is mirrored: it says nothing of direction.
    """
    _check_table(pairs, "the table of pairs")
    if not isinstance(value, str):
        raise SpaceError(f"the value is {value!r}; give the name of one column")
    missing = [column for column in ("model_a", "model_b", value) if column not in pairs.columns]
    if missing:
        raise SpaceError(f"the table of pairs has no column {_listed(missing)}; it has {', '.join(pairs.columns)}")
    if pairs.empty:
        raise SpaceError("the table of pairs has no rows; at least 2 models are needed")
    numbers = pairs[value].dtype.kind if isinstance(pairs[value].dtype, np.dtype) else ""
    if numbers not in ("f", "i", "u"):
        raise SpaceError(f"column {value} of the table of pairs holds no numbers; name a column of scores")
    keys = pairs[["model_a", "model_b"]]
    if keys.isna().any(axis=None):
        raise SpaceError("the table of pairs has rows without the name of a model; fill them in, or drop the rows")
    own = keys.model_a[keys.model_a == keys.model_b]
    if len(own):
        raise SpaceError(f"{own.iloc[0]} is paired with itself; keep real pairs only (of stitching, control == 'none')")
    if keys.duplicated().any():
        a, b = keys[keys.duplicated()].iloc[0]
        raise SpaceError(f"the pair {a}, {b} occurs more than once; select one invariance and one metric first")
    if np.isinf(pairs[value]).any():
        raise SpaceError(f"column {value} of the table of pairs holds an infinity; set it to NaN to leave the pair out")
    if (pairs[value].abs() > 1e60).any():  # fourth powers of it would not be finite
        raise SpaceError(
            f"column {value} of the table of pairs holds numbers beyond 1e60; divide them by a common factor"
        )
    if pairs[value].isna().all():
        raise SpaceError(f"column {value} of the table of pairs holds no finite number; there is nothing to average")
    names = list(dict.fromkeys([*keys.model_a, *keys.model_b]))
    matrix = pairs.pivot(index="model_a", columns="model_b", values=value).reindex(index=names, columns=names)
    matrix = matrix.astype(float)
    ordered = bool(keys.merge(keys.set_axis(["model_b", "model_a"], axis=1)).size)
    return (matrix, True) if ordered else (matrix.fillna(matrix.T), False)


def _symmetric(pairs: pd.DataFrame, value: str) -> pd.DataFrame:
    """Both directions averaged; NaN where one of them is missing, and on the diagonal."""
    matrix, _ = _directed(pairs, value)
    return (matrix + matrix.T) / 2


def _checked(groups: Groups, names: Sequence[str]) -> list[list[str]]:
    """The two groups as lists of models of the table."""
    if isinstance(groups, str) or not isinstance(groups, Sequence) or len(groups) != 2:
        raise SpaceError(f"groups is {shown(groups)}; give two sequences of model names")
    if any(isinstance(group, str) for group in groups):
        raise SpaceError(f"groups is {shown(groups)}; give each group as a list of model names")
    lists = [list(dict.fromkeys(group)) for group in groups]
    both = [name for name in lists[0] if name in set(lists[1])]
    if both:
        raise SpaceError(f"{_listed(both)} stand in both groups; give groups that share no model")
    absent = [name for group in lists for name in group if name not in set(names)]
    if absent:
        raise SpaceError(f"{_listed(absent)} of the groups are not in the table of pairs; it has {_listed(names)}")
    if not all(lists):
        raise SpaceError("a group has no models; give two sequences of model names")
    return lists


# Intervals -----------------------------------------------------------------------------------------


def _interval(scores: pd.DataFrame, groups: Groups | None) -> Interval:
    """The interval of a symmetric matrix of scores, or of its block of two groups."""
    if groups is not None:
        rows, columns = _checked(groups, list(scores.index))
        scores = scores.loc[rows, columns]
    silent = _silent(scores)
    scores = scores.drop(index=silent, columns=silent, errors="ignore")
    if scores.empty:
        raise SpaceError("none of the pairs asked for has a score; there is nothing to average")
    block = scores.to_numpy()
    counted = block.ravel() if groups is not None else block[np.triu_indices(len(block), 1)]
    found = counted[~np.isnan(counted)]
    models = sum(block.shape) if groups is not None else len(block)
    notes = [f"left out, having no scores: {_listed(silent)}"] if silent else []
    if len(found) < len(counted):
        notes.append(f"{len(counted) - len(found)} of {len(counted)} pairs have no score: jackknife only")
    if np.ptp(found) == 0 and len(found) > 1:
        notes.append("no spread: all pairs have the same score")
    smallest = min(block.shape)
    low = high = math.nan
    if groups is None and smallest < 3:
        notes.append("no interval from two models")
    elif smallest < 2:
        notes.append("no interval from one model in a group")
    else:
        _, low, high = (float(x) for x in (one_group if groups is None else two_groups)(block))
        if math.isnan(low):
            notes.append("no interval: without one of the models no pair is left")
        elif groups is None and smallest == 3:
            notes.append("3 models: jackknife only, a rough interval")
        elif groups is not None and smallest == 2:
            notes.append("a group of 2 models: a rough interval")
    std = float(found.std(ddof=1)) if len(found) > 1 else math.nan
    return Interval(float(found.mean()), std, low, high, models, "; ".join(notes))


def _silent(scores: pd.DataFrame) -> list:
    """Models without any score."""
    rows, columns = scores.isna().all(axis=1), scores.isna().all(axis=0)
    return list(dict.fromkeys([*rows.index[rows], *columns.index[columns]]))


def one_group(scores: np.ndarray) -> Bounds:
    """Mean over pairs and its 95 % bounds, for pairs within one group of models.

    With M and R the mean squares of the models' effects and of the pairs' residuals (expectations
    s_e^2 + (N-2) s_a^2 and s_e^2), the variance of the mean is that of a U-statistic,
    2 M / (N(N-1)) + 2 max(0, M - R) / ((N-1)(N-2)): unbiased, but never below what M alone says
    where the models do not differ. Without R (N = 3, or pairs missing) it is the delete-one-model
    jackknife. The t has N - 1 degrees of freedom.

    Parameters
    ----------
    scores : array of shape (..., N, N)
        Symmetric; the diagonal is not read; NaN where a pair has no score. N >= 3.

    Returns
    -------
    mean, low, high : arrays of shape (...)

    References
    ----------
    Griffing, B. (1956). Concept of general and specific combining ability in relation to diallel
    crossing systems (the analysis of variance of pairs, method 4).
    Helmers, R. (1991). On the Edgeworth expansion and the bootstrap approximation for a
    studentized U-statistic (the correction for skewness).
    """
    n = scores.shape[-1]
    off = ~np.eye(n, dtype=bool)
    scores = np.where(off, scores, np.nan)
    complete = n > 3 and not np.isnan(scores[..., off]).any()
    # leaving a model out moves the mean by -2/(n-1) of the model's effect
    effects = -(n - 1) / 2 * _centred(_left_out(scores))
    mean = np.nanmean(scores, axis=(-2, -1))
    residual = np.zeros_like(scores)
    if complete:
        fitted = mean[..., None, None] + effects[..., :, None] + effects[..., None, :]
        residual = np.where(off, scores - fitted, 0)
    between = (n - 2) * np.square(effects).sum(-1) / (n - 1)
    twice = n * (n - 3) if complete else 1  # each pair stands twice in the matrix: twice the degrees of freedom
    within = np.square(residual).sum((-2, -1)) / twice
    of_pairs, of_models = 2 / (n * (n - 1)), 2 / ((n - 1) * (n - 2))
    excess = of_models * np.maximum(0, between - within)
    variance = of_pairs * between + excess
    with_pairs = of_pairs * np.maximum(between, within) + excess
    third = 8 * _third_cumulant(effects) / n**2
    cross = 24 / n**2 * np.einsum("...i,...ij,...j->...", effects, residual, effects) / twice
    return _skewed_t(mean, variance, np.full_like(mean, n - 1), third, cross, with_pairs)


def two_groups(scores: np.ndarray) -> Bounds:
    """Mean over pairs and its 95 % bounds, for pairs across two groups of models.

    With A, B and E the mean squares of rows, columns and residuals, the variance of the mean is
    max(A + B - E, P) / (N_a N_b), P the pooled A and B: what they say where the models do not
    differ. Satterthwaite's degrees of freedom weigh the components A - E, B - E (none below 0) and
    the rest. Where pairs are missing E is not taken out, which is the jackknife over the models of
    both groups. The correction for skewness is that of `one_group`.

    Parameters
    ----------
    scores : array of shape (..., N_a, N_b)
        NaN where a pair has no score. Both numbers at least 2.

    Returns
    -------
    mean, low, high : arrays of shape (...)
    """
    n_a, n_b = scores.shape[-2:]
    # leaving a row out moves the mean by -1/(n-1) of the row's effect
    rows = -(n_a - 1) * _centred(_left_out(scores, -1))
    columns = -(n_b - 1) * _centred(_left_out(scores, -2))
    mean = np.nanmean(scores, axis=(-2, -1))
    residual = np.zeros_like(scores)
    if not np.isnan(scores).any():
        residual = scores - mean[..., None, None] - rows[..., :, None] - columns[..., None, :]
    of_a = n_b * np.square(rows).sum(-1) / (n_a - 1)
    of_b = n_a * np.square(columns).sum(-1) / (n_b - 1)
    of_pairs = (n_a - 1) * (n_b - 1)  # degrees of freedom
    within = np.square(residual).sum((-2, -1)) / of_pairs
    pooled = ((n_a - 1) * of_a + (n_b - 1) * of_b) / (n_a + n_b - 2)
    total = np.maximum(of_a + of_b - within, pooled)
    parts = np.maximum(0, of_a - within), np.maximum(0, of_b - within)
    rest = total - parts[0] - parts[1]
    spread = np.square(parts[0]) / (n_a - 1) + np.square(parts[1]) / (n_b - 1) + np.square(rest) / (n_a + n_b - 2)
    freedom = np.divide(total**2, spread, out=np.ones_like(total), where=spread > 0)
    freedom = np.clip(freedom, min(n_a, n_b) - 1, n_a + n_b - 2)
    third = _third_cumulant(rows) / n_a**2 + _third_cumulant(columns) / n_b**2
    cross = 6 / (n_a * n_b) * np.einsum("...i,...ij,...j->...", rows, residual, columns) / of_pairs
    return _skewed_t(mean, total / (n_a * n_b), freedom, third, cross, np.maximum(total, within) / (n_a * n_b))


def _left_out(scores: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Means over the scores that remain when one model is left out, NaN where none remains.

    Of a symmetric matrix (no `axis`) a model is both a row and a column; else it is a row
    (`axis` -1) or a column (-2).
    """
    held = ~np.isnan(scores)
    filled = np.where(held, scores, 0)
    times = 2 if axis is None else 1
    sums, counts = ((x.sum((-2, -1))[..., None] - times * x.sum(axis or -1)) for x in (filled, held))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(-1, keepdims=True)


def _third_cumulant(effects: np.ndarray) -> np.ndarray:
    """Unbiased third cumulant of centred effects along the last axis; 0 for two of them, which show no skew."""
    n = effects.shape[-1]
    return n / ((n - 1) * (n - 2)) * (effects**3).sum(-1) if n > 2 else np.zeros(effects.shape[:-1])


def _skewed_t(
    mean: np.ndarray,
    variance: np.ndarray,
    freedom: np.ndarray,
    third: np.ndarray,
    cross: np.ndarray,
    with_pairs: np.ndarray,
) -> Bounds:
    """Student's interval with the side of the longer tail stretched.

    `third` and `cross` are the parts of the mean's third cumulant that come from single models and
    from two models together. The other side is not drawn in: the skewness of a few models is known
    too badly for that. `with_pairs` is the variance with the residuals' full share: skewness is
    judged by it, else it is overstated where the models happen to differ less than their pairs.
    """
    q = student.ppf(0.975, freedom)
    skew = ((2 * q**2 + 1) * third + (q**2 + 1) * cross) / 6
    skew = np.divide(skew, with_pairs**1.5, out=np.zeros_like(mean), where=with_pairs > 0)
    error = np.sqrt(variance)
    return mean, mean - error * (q + np.maximum(0, -skew)), mean + error * (q + np.maximum(0, skew))


# Prediction ----------------------------------------------------------------------------------------

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
        _check_table(table, f"the {name} table")
        absent = [column for column in by if column not in table.columns]
        if absent:
            raise SpaceError(f"the {name} table has no column {_listed(absent)}; it has {', '.join(table.columns)}")
        if table[by].isna().any(axis=None):
            raise SpaceError(f"the {name} table has empty cells in {_listed(by)}; fill them in, or drop their rows")
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
    (x, x_ordered), (y, y_ordered) = (_directed(*side) for side in sides)
    names = [name for name in x.index if name in set(y.index)]
    members = [names]
    if groups is not None or strata:
        parts = _checked(groups, [*x.index, *y.index]) if groups is not None else _strata(strata, names)
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
        raise SpaceError(f"strata hold {_listed(twice)} twice; put every model into one of them")
    if absent := [name for name in names if name not in set(named)]:
        raise SpaceError(f"strata lack {_listed(absent)}; put every model of the tables into one of them")
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
