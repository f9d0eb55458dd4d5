"""Intervals for means over pairs, given that N models make N(N-1)/2 pairs but are only N independent units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import t as student

from invariances.arguments import shown
from invariances.errors import SpaceError

__all__ = [
    "Bounds",
    "Groups",
    "Interval",
    "check_table",
    "checked_groups",
    "difference",
    "directed",
    "interval",
    "listed",
    "one_group",
    "two_groups",
]


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
        raise SpaceError(f"{listed(unpaired)} occur in one of the two tables only; give both the same models")
    return _interval(one - other, groups)


def listed(names: Sequence, most: int = 5) -> str:
    """Names for a message, not too many."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_table(table: pd.DataFrame, what: str) -> None:
    """Refuse what is no table of pairs of models."""
    if not isinstance(table, pd.DataFrame):
        raise SpaceError(f"{what} is a {type(table).__name__}; give a DataFrame, e.g. of align")


def directed(pairs: pd.DataFrame, value: str) -> tuple[pd.DataFrame, bool]:
    """The matrix of scores (rows `model_a`, columns `model_b`), and whether the pairs are ordered.

    A table that holds each pair in one direction only is mirrored: it says nothing of direction.
    """
    check_table(pairs, "the table of pairs")
    if not isinstance(value, str):
        raise SpaceError(f"the value is {value!r}; give the name of one column")
    missing = [column for column in ("model_a", "model_b", value) if column not in pairs.columns]
    if missing:
        raise SpaceError(f"the table of pairs has no column {listed(missing)}; it has {', '.join(pairs.columns)}")
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
    cells = np.full((len(names), len(names)), np.nan)
    places = {name: place for place, name in enumerate(names)}
    cells[keys.model_a.map(places), keys.model_b.map(places)] = pairs[value]
    matrix = pd.DataFrame(cells, pd.Index(names, name="model_a"), pd.Index(names, name="model_b"))
    both_ways = set(zip(keys.model_a, keys.model_b, strict=True)) & set(zip(keys.model_b, keys.model_a, strict=True))
    return (matrix, True) if both_ways else (matrix.fillna(matrix.T), False)


def _symmetric(pairs: pd.DataFrame, value: str) -> pd.DataFrame:
    """Both directions averaged; NaN where one of them is missing, and on the diagonal."""
    matrix, _ = directed(pairs, value)
    return (matrix + matrix.T) / 2


def checked_groups(groups: Groups, names: Sequence[str]) -> list[list[str]]:
    """The two groups as lists of models of the table."""
    if isinstance(groups, str) or not isinstance(groups, Sequence) or len(groups) != 2:
        raise SpaceError(f"groups is {shown(groups)}; give two sequences of model names")
    if any(isinstance(group, str) for group in groups):
        raise SpaceError(f"groups is {shown(groups)}; give each group as a list of model names")
    lists = [list(dict.fromkeys(group)) for group in groups]
    both = [name for name in lists[0] if name in set(lists[1])]
    if both:
        raise SpaceError(f"{listed(both)} stand in both groups; give groups that share no model")
    absent = [name for group in lists for name in group if name not in set(names)]
    if absent:
        raise SpaceError(f"{listed(absent)} of the groups are not in the table of pairs; it has {listed(names)}")
    if not all(lists):
        raise SpaceError("a group has no models; give two sequences of model names")
    return lists


def _interval(scores: pd.DataFrame, groups: Groups | None) -> Interval:
    """The interval of a symmetric matrix of scores, or of its block of two groups."""
    if groups is not None:
        rows, columns = checked_groups(groups, list(scores.index))
        scores = scores.loc[rows, columns]
    silent = _silent(scores)
    scores = scores.drop(index=silent, columns=silent, errors="ignore")
    if scores.empty:
        raise SpaceError("none of the pairs asked for has a score; there is nothing to average")
    block = scores.to_numpy()
    counted = block.ravel() if groups is not None else block[np.triu_indices(len(block), 1)]
    found = counted[~np.isnan(counted)]
    models = sum(block.shape) if groups is not None else len(block)
    notes = [f"left out, having no scores: {listed(silent)}"] if silent else []
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
