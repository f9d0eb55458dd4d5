"""The metrics: how alike two spaces of the same n samples are, and how alike they would be by chance.

A metric is made of three functions. ``prepare(x, classes)`` computes once what depends on one
space; ``score(a, b)`` compares two prepared spaces; ``chance(a, b, score, permutations)`` sets the score
beside its nulls: the expected score when the samples of one side are shuffled uniformly, and
when they are shuffled within classes (`invariances.nulls`). Products are taken in the space's
floating-point type, sums in float64.

Range, direction, null and invariances of every metric stand in `METRICS`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm, rankdata

from invariances import nulls
from invariances.errors import SpaceError
from invariances.kernels import Method, linear_products
from invariances.nulls import PERMUTATIONS, Moments
from invariances.spaces import (
    Space,
    Spaces,
    check_whole,
    class_codes,
    open_spaces,
    read_spaces,
    shown,
    unit_factor,
)
from invariances.transforms import scale

SUBSAMPLE = 2000
"""Rows that the metrics of quadratic cost use where there are more; drawn once, by seed 0."""
NEIGHBOURS = 10
"""Neighbours that mutual k-NN compares."""
VARIANCE_KEPT = 0.99
"""Share of a space's variance whose principal axes SVCCA keeps."""
ROUND_OFF = 1e-6
"""Scores that differ by no more count as equal: single precision cannot tell them apart."""


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
    """Standard deviations of the null that the score lies above it (below it, for a distance).

    NaN where no shuffle changes the score.
    """
    p: float
    """One-sided p-value of the null, normal in z (too small where few axes carry the variance), or counted."""


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed and how it is to be read."""

    name: str
    prepare: Callable[[torch.Tensor, torch.Tensor | None], Any]
    score: Callable[[Any, Any], float]
    chance: Callable[[Any, Any, float, int], Score]
    range: tuple[float, float]
    null: str
    invariant_to: frozenset[str]
    """What may be done to either space, differently to each, without a change of the score."""
    jointly_invariant_to: frozenset[str] = frozenset()
    """What may be done to both spaces alike."""
    higher_is_closer: bool = True
    quadratic: bool = False
    """Whether cost grows with the square of the samples, so that at most `SUBSAMPLE` are used."""
    symmetric: bool = True
    score_all: Callable[[Sequence[Any]], np.ndarray] | None = None
    """All pairs of prepared spaces at once, shape (N, N), where that is cheaper."""

    def scores(self, states: Sequence[Any]) -> np.ndarray:
        """The scores of all pairs of prepared spaces, shape (N, N); rows are the first of a pair."""
        if self.score_all is not None:
            return self.score_all(states)
        table = np.empty((len(states), len(states)))
        for i, a in enumerate(states):
            for j, b in enumerate(states):
                table[i, j] = table[j, i] if self.symmetric and j < i else self.score(a, b)
        return table


def _scored(score: float, null: Moments, within: float, perfect: float = 1.0) -> Score:
    """A score whose null is normal; `perfect` below the null means that low scores are close."""
    above = score - null.mean if perfect > null.mean else null.mean - score
    z = above / null.deviation if null.deviation > 1e-15 else math.nan
    return Score(score, null.mean, within, _calibrated(score, null.mean, perfect), z, _p_value(z))


def _counted(score: float, draws: np.ndarray, within: float, perfect: float = 1.0) -> Score:
    """A score whose null is a sample of shuffles."""
    mean, deviation = float(draws.mean()), float(draws.std(ddof=1))
    closer = draws >= score - ROUND_OFF if perfect > mean else draws <= score + ROUND_OFF
    known = _scored(score, _beyond_round_off(mean, deviation), within, perfect)
    return known._replace(p=(int(closer.sum()) + 1) / (len(draws) + 1))


def _beyond_round_off(mean: float, deviation: float) -> Moments:
    """Moments that were not computed exactly: a deviation of round-off is none."""
    return Moments(mean, deviation if deviation > ROUND_OFF else 0.0)


def _calibrated(score: float, null: float, perfect: float) -> float:
    return (score - null) / (perfect - null) if abs(perfect - null) >= ROUND_OFF else math.nan


def _p_value(z: float) -> float:
    return math.nan if math.isnan(z) else float(norm.sf(z))


# Rows: mean cosine, mean Pearson correlation -----------------------------------------------------


class _Rows:
    """Rows of unit norm."""

    def __init__(self, unit: torch.Tensor, classes: torch.Tensor | None) -> None:
        self.unit, self.classes = unit, classes

    @cached_property
    def mean(self) -> torch.Tensor:
        return self.unit.mean(dim=0, dtype=torch.float64)

    @cached_property
    def centred(self) -> torch.Tensor:
        return self.unit - self.mean.to(self.unit)

    @cached_property
    def covariance(self) -> torch.Tensor:
        """Shape (d, d), summed over the samples."""
        return self.centred.T @ self.centred

    @cached_property
    def sums(self) -> torch.Tensor:
        return nulls.class_sums(self.unit, self.classes, int(self.classes.max()) + 1)


def _prepare_cosine(x: torch.Tensor, classes: torch.Tensor | None) -> _Rows:
    return _Rows(scale(x), classes)


def _prepare_pearson(x: torch.Tensor, classes: torch.Tensor | None) -> _Rows:
    x = scale(x)
    centred = x - x.mean(dim=1, keepdim=True)
    flat = centred.norm(dim=1) <= 1e-6
    if flat.any():
        raise SpaceError(
            f"Pearson correlation is undefined for {int(flat.sum())} row(s) whose features are all equal "
            f"(first: row {int(flat.nonzero()[0])}); drop these samples in every space"
        )
    return _Rows(scale(centred), classes)


def _score_rows(a: _Rows, b: _Rows) -> float:
    d = min(a.unit.shape[1], b.unit.shape[1])  # zero-padding the narrower adds nothing to a product
    return float((a.unit[:, :d] * b.unit[:, :d]).sum(dim=1).mean(dtype=torch.float64))


def _score_profiles(a: _Rows, b: _Rows) -> float:
    if a.unit.shape[1] != b.unit.shape[1]:
        raise SpaceError(
            f"Pearson correlation needs profiles of one width, not {a.unit.shape[1]} and {b.unit.shape[1]}; "
            "compare relative representations, or use cka"
        )
    return _score_rows(a, b)


def _chance_rows(a: _Rows, b: _Rows, score: float, permutations: int) -> Score:
    n, d = len(a.unit), min(a.unit.shape[1], b.unit.shape[1])
    within = math.nan
    if a.classes is not None:
        counts = torch.bincount(a.classes).to(a.sums)
        within = float(((a.sums[:, :d] * b.sums[:, :d]).sum(dim=1) / counts).sum() / n)
    if d <= n:
        overlap = a.covariance[:d, :d] * b.covariance[:d, :d]
    else:  # the same sum, from n x n products
        overlap = (a.centred[:, :d] @ b.centred[:, :d].T).square()
    variance = float(overlap.sum(dtype=torch.float64)) / (n**2 * (n - 1))
    return _scored(score, Moments(float(a.mean[:d] @ b.mean[:d]), math.sqrt(max(0.0, variance))), within)


# Kernels: CKA, CCA, RSA --------------------------------------------------------------------------


class _Kernel:
    """A centred kernel; subclasses say how it is held."""

    classes: torch.Tensor | None
    diagonal: torch.Tensor
    blocks: nulls.Blocks

    def inner(self, other: _Kernel) -> float:
        raise NotImplementedError  # every subclass defines it

    @cached_property
    def power(self) -> float:
        return self.inner(self)

    @cached_property
    def summary(self) -> nulls.Kernel:
        """What the moments of an inner product with another kernel need of this one."""
        diagonal = self.diagonal
        return nulls.Kernel(len(diagonal), self.power, float(diagonal.sum()), float(diagonal.square().sum()))


class _Linear(_Kernel):
    """The linear kernel of centred features, never formed."""

    def __init__(self, centred: torch.Tensor, classes: torch.Tensor | None) -> None:
        self.centred, self.classes = centred, classes

    def inner(self, other: _Linear) -> float:
        return float((self.centred.T @ other.centred).square().sum(dtype=torch.float64))

    @cached_property
    def diagonal(self) -> torch.Tensor:
        return self.centred.square().sum(dim=1).double()

    @cached_property
    def blocks(self) -> nulls.Blocks:
        return nulls.blocks_of_features(self.centred, self.classes, self.diagonal)

    @cached_property
    def spectrum(self) -> nulls.Spectrum:
        x = self.centred.double()
        values = torch.linalg.eigvalsh(x.T @ x if x.shape[1] <= len(x) else x @ x.T)
        noise = max(len(values) * torch.finfo(x.dtype).eps, (8 * torch.finfo(self.centred.dtype).eps) ** 2)
        return nulls.Spectrum(values[values > values[-1] * noise], len(x))


class _Hollow(_Linear):
    """The same kernel, U-centred (Song et al. 2012): a hollow matrix with zero row sums.

    With centred features the hollow kernel's row sums are minus its diagonal, which leaves
    products of the diagonals only.
    """

    row_share = 0.0

    def inner(self, other: _Linear) -> float:
        diagonals = float(self.diagonal @ other.diagonal)
        return u_inner(super().inner(other), diagonals, self.trace * other.trace, len(self.centred))

    @cached_property
    def power(self) -> float:
        power = self.inner(self)
        _check_power(power, _ROUND_OFFS * torch.finfo(self.centred.dtype).eps * super().inner(self))
        return power

    @cached_property
    def trace(self) -> float:
        return float(self.diagonal.sum())

    @cached_property
    def blocks(self) -> nulls.Blocks:
        n = len(self.centred)
        counts, sums, diagonal = nulls.blocks_of_features(self.centred, self.classes, self.diagonal)
        pairs = torch.outer(counts, counts) - torch.diag(counts)
        margins = torch.outer(diagonal, counts) + torch.outer(counts, diagonal) - 2 * torch.diag(diagonal)
        hollow = sums - torch.diag(diagonal) + margins / (n - 2) - pairs * self.trace / ((n - 1) * (n - 2))
        return nulls.Blocks(counts, hollow, torch.zeros_like(diagonal))


def u_inner(inner: float, diagonals: float, traces: float, n: int) -> float:
    """Inner product of two U-centred linear kernels of centred features.

    Parameters
    ----------
    inner : float
        Of the centred kernels, ``tr(K L)``.
    diagonals, traces : float
        Of their diagonals, ``sum_i K_ii L_ii``, and ``tr(K) tr(L)``.
    n : int
        Number of samples.
    """
    return inner - diagonals + traces / ((n - 1) * (n - 2)) - 2 * diagonals / (n - 2)


class _Full(_Kernel):
    """A matrix over pairs of samples, held whole."""

    def __init__(self, matrix: torch.Tensor, classes: torch.Tensor | None) -> None:
        self.matrix, self.classes = matrix.double(), classes

    def inner(self, other: _Full) -> float:
        return float((self.matrix * other.matrix).sum())

    @cached_property
    def diagonal(self) -> torch.Tensor:
        return self.matrix.diagonal()

    @cached_property
    def blocks(self) -> nulls.Blocks:
        return nulls.blocks_of(self.matrix, self.classes)

    @cached_property
    def row_share(self) -> float:
        """Share of the squared norm of a hollow matrix that its row effects carry."""
        return min(1.0, float(2 * self.matrix.sum(dim=1).square().sum() / (len(self.matrix) - 2)) / self.power)


def _prepare_linear(x: torch.Tensor, classes: torch.Tensor | None) -> _Linear:
    return _Linear(_few_axes(_centre(x)), classes)


def _prepare_hollow(x: torch.Tensor, classes: torch.Tensor | None) -> _Hollow:
    _at_least(x, 4, "debiased CKA")
    # of few samples U-centring leaves little, and float64 costs little
    return _Hollow(_few_axes(_centre(x.double() if len(x) < 100 else x)), classes)


def _centre(x: torch.Tensor) -> torch.Tensor:
    # in float64, and twice: a rounded mean would leave a constant, and with it one axis too many
    centred = x.double()
    for _ in range(2):
        centred = centred - centred.mean(dim=0)
    if not centred.any():
        raise SpaceError("all samples are the same, so that there is nothing to compare; give samples that differ")
    return (centred * unit_factor(centred)).to(x)


def _few_axes(x: torch.Tensor) -> torch.Tensor:
    """The same linear kernel in at most n features."""
    return x if x.shape[1] <= len(x) else torch.linalg.qr(x.T, mode="r").R.T


def _at_least(x: torch.Tensor, n: int, what: str) -> None:
    if len(x) < n:
        raise SpaceError(f"{what} needs at least {n} samples, not {len(x)}; give more")


def _rbf_kernel(x: torch.Tensor) -> torch.Tensor:
    centred = _centre(x.double())
    distances = torch.cdist(centred, centred)
    median = distances[~torch.eye(len(x), dtype=torch.bool, device=x.device)].median()
    if median <= 1e-6 * distances.max():  # of coinciding points round-off can leave that much
        raise SpaceError("RBF CKA has no bandwidth, since over half of all pairs of samples coincide; drop duplicates")
    return torch.exp(-distances.square() / (2 * median**2))


def _prepare_rbf(x: torch.Tensor, classes: torch.Tensor | None) -> _Full:
    x, classes = _subsample(x, classes)
    kernel = _rbf_kernel(x)
    rows = kernel.mean(dim=1, keepdim=True)
    return _Full(kernel - rows - rows.T + kernel.mean(), classes)


def _prepare_rbf_hollow(x: torch.Tensor, classes: torch.Tensor | None) -> _Full:
    _at_least(x, 4, "debiased CKA")
    x, classes = _subsample(x, classes)
    n = len(x)
    kernel = _rbf_kernel(x).fill_diagonal_(0)
    rows = kernel.sum(dim=1, keepdim=True) / (n - 2)
    centred = (kernel - rows - rows.T + kernel.sum() / ((n - 1) * (n - 2))).fill_diagonal_(0)
    _check_power(float(centred.square().sum()), (64 * torch.finfo(centred.dtype).eps * n) ** 2)
    return _Full(centred, classes)


def _prepare_rsa(ranked: bool) -> Callable[[torch.Tensor, torch.Tensor | None], _Full]:
    """The correlation distances of all pairs of samples, or their ranks, standardised, as a hollow matrix."""

    def prepare(x: torch.Tensor, classes: torch.Tensor | None) -> _Full:
        _at_least(x, 4, "RSA")
        x, classes = _subsample(x, classes)
        profiles = _prepare_pearson(x.double(), None).unit
        above = torch.triu_indices(len(x), len(x), 1)
        # rounded, lest equal distances be ranked by their round-off
        dissimilarity = (1 - profiles @ profiles.T)[above[0], above[1]].round(decimals=12)
        if dissimilarity.min() == dissimilarity.max():
            raise SpaceError("RSA is undefined for a space in which all pairs of samples are equally far; use cka")
        if ranked:
            dissimilarity = torch.from_numpy(rankdata(dissimilarity.numpy(force=True)))
        dissimilarity = dissimilarity - dissimilarity.mean()
        matrix = torch.zeros(len(x), len(x), dtype=torch.float64)
        matrix[above[0], above[1]] = dissimilarity.cpu() / dissimilarity.norm().cpu()
        return _Full(matrix + matrix.T, classes)

    return prepare


def _subsample(x: torch.Tensor, classes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """At most `SUBSAMPLE` rows, the same for every space of as many samples."""
    if len(x) <= SUBSAMPLE:
        return x, classes
    rows = np.sort(np.random.default_rng(0).choice(len(x), SUBSAMPLE, replace=False))
    return x[rows], None if classes is None else class_codes(classes.numpy(force=True)[rows], SUBSAMPLE)


def _kernel_norm(a: _Kernel, b: _Kernel) -> float:
    return math.sqrt(a.power * b.power)


_ROUND_OFFS = 128
"""Units of round-off of the plain kernel's squared norm that must be left by U-centring: its error is up to 6."""


def _check_power(power: float, floor: float) -> None:
    # U-centring takes all but round-off from some kernels (n = 4, rank one): a named error, not a NaN
    if not power > floor:  # nor NaN
        raise SpaceError("CKA is undefined for a space whose centred kernel vanishes; use more samples")


def _score_kernel(a: _Kernel, b: _Kernel) -> float:
    return a.inner(b) / _kernel_norm(a, b)


def _score_all_linear(states: Sequence[_Linear]) -> np.ndarray:
    inner = _all_inner([state.centred for state in states], "auto", debiased=isinstance(states[0], _Hollow))
    for state, power in zip(states, inner.diagonal().tolist(), strict=True):
        state.power = power  # known now: not to be computed again
    return _normalised(inner)


def _all_inner(spaces: Sequence, method: Method, debiased: bool) -> torch.Tensor:
    """Inner products of the (U-)centred linear kernels of all pairs of spaces."""
    if debiased:
        _at_least(spaces[0], 4, "debiased CKA")
    inner, diagonals, traces = linear_products(spaces, method)
    dtype = functools.reduce(torch.promote_types, (space[:1].dtype for space in spaces))
    floors = _ROUND_OFFS * torch.finfo(dtype).eps * inner.diagonal()
    if debiased:
        inner = u_inner(inner, diagonals, torch.outer(traces, traces), len(spaces[0]))
    for power, floor in zip(inner.diagonal().tolist(), floors.tolist(), strict=True):
        _check_power(power, floor)
    return inner


def _normalised(inner: torch.Tensor) -> np.ndarray:
    norms = inner.diagonal().sqrt()  # before they are multiplied: products of small powers would vanish
    return (inner / torch.outer(norms, norms)).fill_diagonal_(1.0).numpy()


def _within_kernel(a: _Kernel, b: _Kernel, size: float) -> float:
    return math.nan if a.classes is None else nulls.within_class_product(a.blocks, b.blocks) / size


def _chance_kernel(a: _Kernel, b: _Kernel, score: float, permutations: int) -> Score:
    shapes = a.summary, b.summary
    null = nulls.kernel_moments(*shapes)
    # a space's CKA with itself is 1: what a perfect score is above chance, in geometric mean
    span = math.sqrt(shapes[0].room * shapes[1].room) / (shapes[0].n - 1)
    known = _scored(score, null, _within_kernel(a, b, _kernel_norm(a, b)))
    return known._replace(calibrated=(score - null.mean) / span if span > 0 else math.nan)


def _chance_hollow(a: _Kernel, b: _Kernel, score: float, permutations: int) -> Score:
    deviation = nulls.hollow_deviation(len(a.diagonal), a.row_share, b.row_share)
    known = _scored(score, Moments(0.0, deviation), _within_kernel(a, b, _kernel_norm(a, b)))
    return known._replace(calibrated=score)


# Canonical correlations --------------------------------------------------------------------------


class _Basis(_Linear):
    """An orthonormal basis of a centred space's principal axes, and the space in it."""

    def __init__(self, x: torch.Tensor, classes: torch.Tensor | None, kept: float = 1.0) -> None:
        left, singular, right = torch.linalg.svd(_centre(x), full_matrices=False)
        share = singular.square().cumsum(0) / singular.square().sum()
        rank = int((singular > singular[0] * max(x.shape) * torch.finfo(x.dtype).eps).sum())
        if kept < 1:
            rank = min(rank, int((share < kept).sum()) + 1)
        super().__init__(left[:, :rank], classes)
        self.features = singular[:rank, None] * right[:rank]
        """Shape (rank, d): the space is ``centred @ features``."""

    @property
    def rank(self) -> int:
        return self.centred.shape[1]

    @cached_property
    def spectrum(self) -> nulls.Spectrum:
        return nulls.Spectrum(torch.ones(self.rank, dtype=torch.float64), len(self.centred))


def _prepare_svcca(x: torch.Tensor, classes: torch.Tensor | None) -> _Basis:
    return _Basis(x, classes, VARIANCE_KEPT)


def _score_cca(a: _Basis, b: _Basis) -> float:
    return a.inner(b) / min(a.rank, b.rank)


def _chance_cca(a: _Basis, b: _Basis, score: float, permutations: int) -> Score:
    size = min(a.rank, b.rank)
    # the projections' CKA, in other units
    mean, deviation = nulls.kernel_moments(a.summary, b.summary)
    units = math.sqrt(a.power * b.power) / size
    return _scored(score, Moments(mean * units, deviation * units), _within_kernel(a, b, size))


def _score_svcca(a: _Basis, b: _Basis) -> float:
    return nuclear(a.centred.T @ b.centred) / min(a.rank, b.rank)


def _chance_svcca(a: _Basis, b: _Basis, score: float, permutations: int) -> Score:
    return _chance_nuclear(a, b, score, permutations, lambda total: total / min(a.rank, b.rank), 1.0)


def _score_pwcca(a: _Basis, b: _Basis) -> float:
    return _projection_weighted(a, a.centred.T @ b.centred)


def _projection_weighted(a: _Basis, cross: torch.Tensor) -> float:
    directions, correlations, _ = torch.linalg.svd(cross.double(), full_matrices=False)
    weights = (directions.T @ a.features.to(directions)).abs().sum(dim=1)
    return float((weights @ correlations.clamp(max=1)) / weights.sum())


def _chance_pwcca(a: _Basis, b: _Basis, score: float, permutations: int) -> Score:
    def shuffled(rows: torch.Tensor) -> float:
        return _projection_weighted(a, a.centred.T @ b.centred[rows])

    draws = nulls.shuffled(shuffled, len(a.centred), permutations)
    within = math.nan if a.classes is None else nulls.shuffled_within(shuffled, a.classes, permutations)
    return _counted(score, draws, within)


# Procrustes --------------------------------------------------------------------------------------


def nuclear(matrix: torch.Tensor) -> float:
    """Sum of singular values."""
    return float(torch.linalg.svdvals(matrix).sum(dtype=torch.float64))


def _prepare_shape(x: torch.Tensor, classes: torch.Tensor | None) -> _Linear:
    centred = _few_axes(_centre(x))
    return _Linear(centred / centred.norm(dtype=torch.float64).to(centred), classes)


def _score_shape(a: _Linear, b: _Linear) -> float:
    return max(0.0, 2 - 2 * nuclear(a.centred.T @ b.centred))


def _chance_shape(a: _Linear, b: _Linear, score: float, permutations: int) -> Score:
    return _chance_nuclear(a, b, score, permutations, lambda total: 2 - 2 * total, 0.0)


def _chance_nuclear(
    a: _Linear, b: _Linear, score: float, permutations: int, of: Callable[[float], float], perfect: float
) -> Score:
    """The chance of a score that is linear in the nuclear norm of ``X'Y``."""

    def shuffled(rows: torch.Tensor) -> float:
        return of(nuclear(a.centred.T @ b.centred[rows]))

    n, rank = len(a.centred), min(len(a.spectrum), len(b.spectrum))
    within = math.nan if a.classes is None else nulls.shuffled_within(shuffled, a.classes, permutations)
    uneven = nulls.unevenness(a.summary, b.summary)
    if rank < nulls.LEAST_RANK or abs(uneven) > nulls.MOST_UNEVEN:
        return _counted(score, nulls.shuffled(shuffled, n, permutations), within, perfect)
    mean, deviation = nulls.nuclear_moments(a.spectrum, b.spectrum)
    # samples of uneven norms widen the null much as they do CKA's, where by how much is known
    deviation *= math.sqrt(1 + uneven) * abs(of(1.0) - of(0.0))
    return _scored(score, _beyond_round_off(of(mean), deviation), within, perfect)


# Neighbours --------------------------------------------------------------------------------------


class _Neighbours:
    """Who is among the nearest neighbours of whom."""

    def __init__(self, nearest: torch.Tensor, classes: torch.Tensor | None) -> None:
        self.nearest, self.classes = nearest, classes

    @cached_property
    def matrix(self) -> torch.Tensor:
        """Shape (n, n), boolean."""
        n = len(self.nearest)
        return torch.zeros(n, n, dtype=torch.bool, device=self.nearest.device).scatter_(1, self.nearest, True)

    @cached_property
    def blocks(self) -> nulls.Blocks:
        return nulls.blocks_of(self.matrix.float(), self.classes)


def _prepare_neighbours(x: torch.Tensor, classes: torch.Tensor | None) -> _Neighbours:
    _at_least(x, NEIGHBOURS + 2, "mutual k-NN")
    x, classes = _subsample(x, classes)
    unit = scale(x.double())
    similar = (unit @ unit.T).fill_diagonal_(-math.inf)
    return _Neighbours(similar.topk(NEIGHBOURS, dim=1).indices, classes)


def _score_neighbours(a: _Neighbours, b: _Neighbours) -> float:
    return float(b.matrix.gather(1, a.nearest).double().mean())


def _chance_neighbours(a: _Neighbours, b: _Neighbours, score: float, permutations: int) -> Score:
    n = len(a.nearest)
    draws = nulls.shuffled(
        lambda rows: float(b.matrix[rows.unsqueeze(1), rows[a.nearest]].double().mean()), n, permutations
    )
    within = (
        math.nan if a.classes is None else nulls.within_class_product(a.blocks, b.blocks) / (n * a.nearest.shape[1])
    )
    # the mean is known exactly; shuffles give the deviation and the p-value
    exact = _scored(score, Moments(a.nearest.shape[1] / (n - 1), float(draws.std(ddof=1))), within)
    return exact._replace(p=_counted(score, draws, within).p)


# Public ------------------------------------------------------------------------------------------

_SCALES = frozenset({"isotropic-scale", "sample-scale"})
_ROTATION = frozenset({"permutation", "orthogonal"})
_SHAPE = _ROTATION | {"isotropic-scale", "translation"}
_KAZI_AOUAL = "closed form (Kazi-Aoual et al. 1995)"
_LAW = "asymptotic closed form (free probability); seeded shuffles below rank 16 or for samples of very uneven norms"
_UP_TO_ONE = (0.0, 1.0)


def _rsa(name: str, ranked: bool) -> Metric:
    return Metric(
        name,
        _prepare_rsa(ranked),
        _score_kernel,
        _chance_hollow,
        (-1.0, 1.0),
        "closed form: 0, deviation by row effects and rest",
        _SCALES | {"permutation", "feature-constant"},
        quadratic=True,
    )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "cosine",
            _prepare_cosine,
            _score_rows,
            _chance_rows,
            (-1.0, 1.0),
            "closed form: product of the mean unit rows",
            _SCALES,
            _ROTATION,
        ),
        Metric(
            "pearson",
            _prepare_pearson,
            _score_profiles,
            _chance_rows,
            (-1.0, 1.0),
            "closed form: product of the mean centred unit rows",
            _SCALES | {"feature-constant"},
            frozenset({"permutation"}),
        ),
        Metric(
            "cka",
            _prepare_linear,
            _score_kernel,
            _chance_kernel,
            _UP_TO_ONE,
            _KAZI_AOUAL,
            _SHAPE,
            score_all=_score_all_linear,
        ),
        Metric(
            "cka_debiased",
            _prepare_hollow,
            _score_kernel,
            _chance_hollow,
            (-1.0, 1.0),
            "closed form: 0, deviation sqrt(2 / (n (n - 3)))",
            _SHAPE,
            score_all=_score_all_linear,
        ),
        Metric("cka_rbf", _prepare_rbf, _score_kernel, _chance_kernel, _UP_TO_ONE, _KAZI_AOUAL, _SHAPE, quadratic=True),
        Metric(
            "cka_rbf_debiased",
            _prepare_rbf_hollow,
            _score_kernel,
            _chance_hollow,
            (-1.0, 1.0),
            "closed form: 0, deviation sqrt(2 / (n (n - 3)))",
            _SHAPE,
            quadratic=True,
        ),
        Metric(
            "procrustes",
            _prepare_shape,
            _score_shape,
            _chance_shape,
            (0.0, 2.0),
            _LAW,
            _SHAPE,
            higher_is_closer=False,
        ),
        Metric(
            "cca",
            _Basis,
            _score_cca,
            _chance_cca,
            _UP_TO_ONE,
            f"{_KAZI_AOUAL}; the larger rank / (n - 1)",
            _SHAPE | {"affine"},
        ),
        Metric("svcca", _prepare_svcca, _score_svcca, _chance_svcca, _UP_TO_ONE, _LAW, _SHAPE),
        Metric(
            "pwcca",
            _Basis,
            _score_pwcca,
            _chance_pwcca,
            _UP_TO_ONE,
            "seeded shuffles",
            frozenset({"permutation", "isotropic-scale", "translation"}),
            symmetric=False,
        ),
        _rsa("rsa", ranked=True),
        _rsa("rsa_pearson", ranked=False),
        Metric(
            "mutual_knn",
            _prepare_neighbours,
            _score_neighbours,
            _chance_neighbours,
            _UP_TO_ONE,
            "closed form: k / (n - 1); deviation by seeded shuffles",
            _SCALES | _ROTATION,
            quadratic=True,
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
    if not isinstance(name, str) or name not in METRICS:
        raise SpaceError(f"unknown metric {shown(name)}; choose from {', '.join(METRICS)}")
    return METRICS[name]


def compare(
    x: Space, y: Space, metric: str = "cosine", labels: Sequence | None = None, permutations: int = PERMUTATIONS
) -> Score:
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
    permutations : int
        Seeded shuffles, where the metric's null has no closed form.

    Returns
    -------
    Score

    Raises
    ------
    SpaceError
        If the input cannot be used, or the metric is undefined for it.
    """
    chosen = metric_named(metric)
    check_permutations(permutations)
    x, y = read_spaces({"x": x, "y": y}).values()
    classes = class_codes(labels, len(x))
    a, b = chosen.prepare(x, classes), chosen.prepare(y, classes)
    return chosen.chance(a, b, chosen.score(a, b), permutations)


def check_permutations(count: int) -> None:
    """Refuse a number of shuffles that no deviation can be had from."""
    check_whole(count, "permutations", 2)


def pairwise(spaces: Spaces, metric: str = "cka", method: Method = "auto") -> pd.DataFrame:
    """The scores of all pairs of spaces as a matrix, without nulls.

    Linear CKA, biased and debiased, is computed for all pairs at once; spaces in files are then
    streamed, in memory that does not grow with the samples, and with the models only by the result.

    Parameters
    ----------
    spaces : mapping from model names to spaces, or sequence of spaces
        Each n x d, the same n samples in the same order; widths may differ.
    metric : str
        One of `METRICS`. For "pwcca", rows are the spaces whose features weigh.
    method : "auto", "features" or "gram"
        For linear CKA: the formula; see `invariances.kernels`.

    Returns
    -------
    DataFrame of shape (N, N)
        Each space with itself on the diagonal.

    Raises
    ------
    SpaceError
        If the input cannot be used, or the metric is undefined for it.
    """
    chosen = metric_named(metric)
    if method not in ("auto", "features", "gram"):
        raise SpaceError(f"unknown method {method!r}; choose from auto, features, gram")
    if metric in ("cka", "cka_debiased"):
        opened = open_spaces(spaces)
        inner = _all_inner(list(opened.values()), method, debiased=metric == "cka_debiased")
        return pd.DataFrame(_normalised(inner), index=list(opened), columns=list(opened))
    opened = read_spaces(spaces)
    states = [chosen.prepare(space, None) for space in opened.values()]
    return pd.DataFrame(chosen.scores(states), index=list(opened), columns=list(opened))


def cosine(x: Space, y: Space) -> float:
    """Mean cosine of corresponding rows, in [-1, 1] (the paper's tables)."""
    return _score(x, y, "cosine")


def cka(x: Space, y: Space, debiased: bool = False) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019); debiased by U-centring, it can be negative."""
    return _score(x, y, "cka_debiased" if debiased else "cka")


def procrustes(x: Space, y: Space) -> float:
    """Procrustes distance ``2 - 2 |X'Y|_*`` of centred spaces of unit norm, in [0, 2]; 0 is one shape."""
    return _score(x, y, "procrustes")


def _score(x: Space, y: Space, metric: str) -> float:
    chosen = metric_named(metric)
    a, b = (chosen.prepare(space, None) for space in read_spaces({"x": x, "y": y}).values())
    return chosen.score(a, b)
