"""The metrics and their nulls: how alike two spaces of the same n samples are, and how alike by chance.

Every metric is a pair of functions: ``prepare(x)`` computes once what depends on one space
(centring, norms, covariances, class sums), ``compare(a, b)`` what depends on the pair. The null is
the expected score when the samples of one side are shuffled uniformly; the second null shuffles
within classes. Both are exact closed forms except for Procrustes, which uses seeded permutations.
All arithmetic is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import norm

from invariances.spaces import Space, SpaceError, class_codes, read_spaces
from invariances.transforms import scale

PERMUTATIONS = 20
"""Shuffles per null where no closed form exists; a p-value is then at least 1 / 21."""


class Score(NamedTuple):
    """One metric of one pair of spaces, with what it would be by chance."""

    score: float
    null: float
    """Expected score when one side's samples are shuffled."""
    null_within_class: float
    """Expected score when they are shuffled within classes; NaN without labels."""
    calibrated: float
    """0 at the null, 1 for perfect agreement; NaN where the two coincide."""
    z: float
    """Standard deviations of the null that the score lies above it (below it, for a distance)."""
    p: float
    """One-sided p-value of the null, normal in z, or counted over permutations."""


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed and how it is to be read."""

    name: str
    prepare: Callable[[torch.Tensor, torch.Tensor | None], Any]
    compare: Callable[[Any, Any], Score]
    range: tuple[float, float]
    higher_is_closer: bool
    invariant_to: frozenset[str]
    null: str


class _Classes(NamedTuple):
    """Sums over classes, for the within-class null."""

    counts: torch.Tensor
    rows: torch.Tensor
    """Sum of the rows of each class, shape (C, d)."""
    squares: torch.Tensor
    """Sum of the squared row norms of each class, shape (C,)."""


def _class_sums(x: torch.Tensor, classes: torch.Tensor | None) -> _Classes | None:
    if classes is None:
        return None
    classes = classes.to(x.device)
    counts = torch.bincount(classes).to(x)
    rows = torch.zeros(len(counts), x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, classes, x)
    squares = torch.zeros_like(counts).index_add_(0, classes, x.square().sum(dim=1))
    return _Classes(counts, rows, squares)


def _p_value(z: float) -> float:
    return math.nan if math.isnan(z) else float(norm.sf(z))


def _z_score(excess: float, variance: float) -> float:
    return excess / math.sqrt(variance) if variance > 1e-30 else math.nan


def _calibrate(score: float, null: float, perfect: float) -> float:
    return (score - null) / (perfect - null) if abs(perfect - null) >= 1e-6 else math.nan


# Mean cosine -----------------------------------------------------------------------------------


class _Cosine(NamedTuple):
    unit: torch.Tensor
    mean: torch.Tensor
    covariance: torch.Tensor
    classes: _Classes | None


def _prepare_cosine(x: torch.Tensor, classes: torch.Tensor | None) -> _Cosine:
    unit = scale(x.double())
    mean = unit.mean(dim=0)
    centred = unit - mean
    return _Cosine(unit, mean, centred.T @ centred, _class_sums(unit, classes))


def _compare_cosine(a: _Cosine, b: _Cosine) -> Score:
    if a.unit.shape[1] != b.unit.shape[1]:
        a, b = _pad_cosine(a, b)
    n = len(a.unit)
    score = float((a.unit * b.unit).sum() / n)
    null = float(a.mean @ b.mean)
    within = math.nan
    if a.classes is not None:
        within = float(((a.classes.rows * b.classes.rows).sum(dim=1) / a.classes.counts).sum() / n)
    variance = float((a.covariance * b.covariance).sum()) / (n**2 * (n - 1))
    z = _z_score(score - null, variance)
    return Score(score, null, within, _calibrate(score, null, 1.0), z, _p_value(z))


def _pad_cosine(a: _Cosine, b: _Cosine) -> tuple[_Cosine, _Cosine]:
    """Zero-padding the narrower space adds nothing to any product, so the wider one can be cut."""
    d = min(a.unit.shape[1], b.unit.shape[1])

    def cut(s: _Cosine) -> _Cosine:
        sums = s.classes and s.classes._replace(rows=s.classes.rows[:, :d])
        return _Cosine(s.unit[:, :d], s.mean[:d], s.covariance[:d, :d], sums)

    return cut(a), cut(b)


# Linear CKA ------------------------------------------------------------------------------------


class _Kernel(NamedTuple):
    """The linear kernel of a centred space, in feature space."""

    centred: torch.Tensor
    squares: torch.Tensor
    """Squared row norms: the kernel's diagonal."""
    power: float
    """Squared Frobenius norm of the (debiased: U-centred) kernel matrix."""
    classes: _Classes | None


def _prepare_kernel(x: torch.Tensor, classes: torch.Tensor | None) -> _Kernel:
    x = x.double()
    centred = x - x.mean(dim=0)
    power = float((centred.T @ centred).square().sum())
    return _Kernel(centred, centred.square().sum(dim=1), power, _class_sums(centred, classes))


def _prepare_debiased(x: torch.Tensor, classes: torch.Tensor | None) -> _Kernel:
    if len(x) < 4:
        raise SpaceError(f"debiased CKA needs at least 4 samples, not {len(x)}")
    kernel = _prepare_kernel(x, classes)
    return kernel._replace(power=_u_product(kernel, kernel))


def _cross_power(a: _Kernel, b: _Kernel) -> float:
    """Inner product of the two centred kernel matrices."""
    return float((a.centred.T @ b.centred).square().sum())


def _u_product(a: _Kernel, b: _Kernel) -> float:
    """Inner product of the two U-centred kernel matrices (Song et al. 2012, with centred features).

    With centred features the hollow kernel's row sums are minus its diagonal, which leaves
    products of the diagonals only.
    """
    n = len(a.centred)
    diagonal = float(a.squares @ b.squares)
    traces = float(a.squares.sum() * b.squares.sum())
    return _cross_power(a, b) - diagonal + traces / ((n - 1) * (n - 2)) - 2 * diagonal / (n - 2)


def _kernel_ratio(a: _Kernel, b: _Kernel, product: float) -> float:
    # U-centring can leave nothing of a kernel (n = 4, rank one): a named error, not a NaN
    if any(k.power <= 1e-12 * float(k.squares.sum()) ** 2 for k in (a, b)):
        raise SpaceError("CKA is undefined for a space whose centred kernel vanishes; use more samples")
    return product / math.sqrt(a.power * b.power)


def _compare_kernel(a: _Kernel, b: _Kernel) -> Score:
    n = len(a.centred)
    score = _kernel_ratio(a, b, _cross_power(a, b))
    beta_a, beta_b = (float(k.squares.sum()) ** 2 / k.power for k in (a, b))
    null = math.sqrt(beta_a * beta_b) / (n - 1)
    within = _kernel_ratio(a, b, _within_class_product(a, b, _block_sums)) if a.classes is not None else math.nan
    span = math.sqrt(max(0.0, (1 - beta_a / (n - 1)) * (1 - beta_b / (n - 1))))
    calibrated = (score - null) / span if span >= 1e-6 else math.nan
    z = _z_score(score - null, _kazi_aoual_variance(a, b, beta_a, beta_b))
    return Score(score, null, within, calibrated, z, _p_value(z))


def _compare_debiased(a: _Kernel, b: _Kernel) -> Score:
    n = len(a.centred)
    score = _kernel_ratio(a, b, _u_product(a, b))
    within = _kernel_ratio(a, b, _within_class_product(a, b, _u_block_sums)) if a.classes is not None else math.nan
    # U-centred matrices are hollow with zero row sums: an irreducible space of the permutations
    # of dimension n(n-3)/2, so the variance of the shuffled inner product is free of the data
    z = _z_score(score, 2 / (n * (n - 3)))
    return Score(score, 0.0, within, score, z, _p_value(z))


def _kazi_aoual_variance(a: _Kernel, b: _Kernel, beta_a: float, beta_b: float) -> float:
    """Variance of CKA (the RV coefficient) under shuffling (Kazi-Aoual et al. 1995)."""
    n = len(a.centred)
    if n < 4:
        return math.nan

    def tau(k: _Kernel, beta: float) -> float:
        fourth = n * (n + 1) * float(k.squares.square().sum()) / k.power
        return (fourth - (n - 1) * (beta + 2)) * (n - 1) / ((n - 3) * (n - 1 - beta))

    if min(n - 1 - beta_a, n - 1 - beta_b) < 1e-9:
        return math.nan
    main = 2 * (n - 1 - beta_a) * (n - 1 - beta_b) / ((n + 1) * (n - 1) ** 2 * (n - 2))
    return main * (1 + (n - 3) / (2 * n * (n - 1)) * tau(a, beta_a) * tau(b, beta_b))


def _within_class_product(a: _Kernel, b: _Kernel, sums: Callable[[_Kernel], tuple]) -> float:
    """Expected inner product of two kernel matrices when one is shuffled within classes.

    Such a shuffle replaces every block of the kernel between two classes by its mean, and within
    a class the diagonal and the rest of the block each by theirs.
    """
    counts = a.classes.counts
    blocks_a, diagonal_a = sums(a)
    blocks_b, diagonal_b = sums(b)
    between = blocks_a * blocks_b / torch.outer(counts, counts)
    between = between.sum() - between.diagonal().sum()
    rest = (blocks_a.diagonal() - diagonal_a) * (blocks_b.diagonal() - diagonal_b)
    rest = torch.where(counts > 1, rest / (counts * (counts - 1)).clamp_min(1), torch.zeros_like(rest))
    return float(between + (diagonal_a * diagonal_b / counts).sum() + rest.sum())


def _block_sums(k: _Kernel) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the kernel over pairs of classes (C, C), and of its diagonal over each class (C,)."""
    return k.classes.rows @ k.classes.rows.T, k.classes.squares


def _u_block_sums(k: _Kernel) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of the U-centred kernel, whose diagonal is zero."""
    n, counts, squares = len(k.centred), k.classes.counts, k.classes.squares
    blocks, diagonal = _block_sums(k)
    pairs = torch.outer(counts, counts) - torch.diag(counts)
    margins = torch.outer(squares, counts) + torch.outer(counts, squares) - 2 * torch.diag(squares)
    total = squares.sum()
    hollow = blocks - torch.diag(diagonal)
    return hollow + margins / (n - 2) - pairs * total / ((n - 1) * (n - 2)), torch.zeros_like(squares)


# Procrustes ------------------------------------------------------------------------------------


class _Shape(NamedTuple):
    unit: torch.Tensor
    classes: torch.Tensor | None


def _prepare_shape(x: torch.Tensor, classes: torch.Tensor | None) -> _Shape:
    x = x.double()
    centred = x - x.mean(dim=0)
    return _Shape(centred / centred.norm(), classes)


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return 2 - 2 * float(torch.linalg.matrix_norm(a.T @ b, ord="nuc"))


def _compare_shape(a: _Shape, b: _Shape) -> Score:
    n = len(a.unit)
    rng = np.random.default_rng(0)
    score = _distance(a.unit, b.unit)
    shuffled = np.array([_distance(a.unit, b.unit[rng.permutation(n)]) for _ in range(PERMUTATIONS)])
    within = math.nan
    if a.classes is not None:
        classes = a.classes.numpy(force=True)
        shuffles = (_shuffle_within(classes, rng) for _ in range(PERMUTATIONS))
        within = float(np.mean([_distance(a.unit, b.unit[rows]) for rows in shuffles]))
    null = float(shuffled.mean())
    p = (int((shuffled <= score).sum()) + 1) / (PERMUTATIONS + 1)
    return Score(
        score, null, within, _calibrate(score, null, 0.0), _z_score(null - score, float(shuffled.var(ddof=1))), p
    )


def _shuffle_within(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A permutation of the rows that keeps every row's class."""
    order = np.argsort(classes, kind="stable")
    shuffled = order[np.lexsort((rng.random(len(classes)), classes[order]))]
    rows = np.empty_like(order)
    rows[order] = shuffled
    return rows


# Public ----------------------------------------------------------------------------------------

_ROTATION = frozenset({"permutation", "orthogonal"})
_SHAPE = _ROTATION | {"isotropic-scale", "translation"}

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "cosine",
            _prepare_cosine,
            _compare_cosine,
            range=(-1.0, 1.0),
            higher_is_closer=True,
            invariant_to=frozenset({"isotropic-scale", "sample-scale"}),
            null="closed form: product of the mean unit rows",
        ),
        Metric(
            "cka",
            _prepare_kernel,
            _compare_kernel,
            range=(0.0, 1.0),
            higher_is_closer=True,
            invariant_to=_SHAPE,
            null="closed form: Kazi-Aoual et al. 1995",
        ),
        Metric(
            "cka_debiased",
            _prepare_debiased,
            _compare_debiased,
            range=(-math.inf, 1.0),
            higher_is_closer=True,
            invariant_to=_SHAPE,
            null="closed form: 0, standard deviation sqrt(2 / (n(n-3)))",
        ),
        Metric(
            "procrustes",
            _prepare_shape,
            _compare_shape,
            range=(0.0, 2.0),
            higher_is_closer=False,
            invariant_to=_SHAPE,
            null=f"{PERMUTATIONS} seeded permutations",
        ),
    )
}
"""The metrics that `align` takes, by name."""


def metric_named(name: str) -> Metric:
    """Look up a metric.

    Raises
    ------
    SpaceError
        If there is none of that name; the message lists the names.
    """
    if name not in METRICS:
        raise SpaceError(f"unknown metric {name!r}; choose from {', '.join(METRICS)}")
    return METRICS[name]


def compare(x: Space, y: Space, metric: str = "cosine", labels: Sequence | None = None) -> Score:
    """Compare two spaces by one metric, with both nulls.

    Parameters
    ----------
    x : array, tensor or path, shape (n, d)
    y : array, tensor or path, shape (n, m)
        The same samples in the same order. Cosine zero-pads the narrower of unequal widths.
    metric : str
        One of `METRICS`.
    labels : sequence of length n, optional
        Classes, for the within-class null.

    Returns
    -------
    Score
    """
    chosen = metric_named(metric)
    x, y = read_spaces({"x": x, "y": y}).values()
    classes = class_codes(labels, len(x))
    return chosen.compare(chosen.prepare(x, classes), chosen.prepare(y, classes))


def cosine(x: Space, y: Space) -> float:
    """Mean cosine of corresponding rows, in [-1, 1] (the paper's tables)."""
    return compare(x, y, "cosine").score


def cka(x: Space, y: Space, debiased: bool = False) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019); debiased by U-centring, it can be negative."""
    return compare(x, y, "cka_debiased" if debiased else "cka").score


def procrustes(x: Space, y: Space) -> float:
    """Procrustes distance ``2 - 2 |X'Y|_*`` of centred spaces of unit norm, in [0, 2]; 0 is one shape."""
    x, y = read_spaces({"x": x, "y": y}).values()
    return _distance(_prepare_shape(x, None).unit, _prepare_shape(y, None).unit)
