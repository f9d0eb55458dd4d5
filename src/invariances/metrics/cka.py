"""Centred kernel alignment: linear and RBF, biased and debiased."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from invariances.errors import SpaceError
from invariances.metrics import nulls
from invariances.metrics.kernels import Method, linear_products
from invariances.metrics.nulls import Moments
from invariances.metrics.score import (
    SHAPE,
    UP_TO_ONE,
    Metric,
    Score,
    centre,
    check_rows,
    few_axes,
    few_samples_p,
    normal_score,
    subsample,
)

__all__ = [
    "CKA",
    "CKA_DEBIASED",
    "CKA_RBF",
    "CKA_RBF_DEBIASED",
    "FullState",
    "KAZI_AOUAL",
    "LinearState",
    "all_inner",
    "chance_hollow",
    "normalised",
    "normalised_pair",
    "score_kernel",
    "u_inner",
    "with_counted_p",
    "within_kernel",
]


_Number = TypeVar("_Number", float, torch.Tensor)


class _KernelState:
    """A centred kernel; subclasses say how it is held."""

    classes: torch.Tensor | None
    diagonal: torch.Tensor
    blocks: nulls.Blocks
    matrix: torch.Tensor

    def inner(self, other: _KernelState) -> float:
        """The inner product of two kernels."""
        raise NotImplementedError  # every subclass defines it

    def permuted_inner(self, other: _KernelState, orders: torch.Tensor) -> torch.Tensor:
        """The inner products with another kernel whose samples are permuted, for orders of shape (count, n)."""
        return (self.matrix * other.matrix[orders[:, :, None], orders[:, None, :]]).sum(dim=(1, 2))

    @cached_property
    def power(self) -> float:
        """The kernel's inner product with itself."""
        return self.inner(self)

    @cached_property
    def leading(self) -> float:
        """How far few axes hold the variance: 1 for a single one.

        The sum of the cubes of the kernel's eigenvalues, over the power of 1.5 of the sum of their squares.
        """
        return float((self.matrix @ self.matrix).mul(self.matrix).sum()) / self.power**1.5

    @cached_property
    def summary(self) -> nulls.Kernel:
        """What the moments of an inner product with another kernel need of this one."""
        diagonal = self.diagonal
        return nulls.Kernel(len(diagonal), self.power, float(diagonal.sum()), float(diagonal.square().sum()))


class LinearState(_KernelState):
    """The linear kernel of centred features, never formed."""

    def __init__(self, centred: torch.Tensor, classes: torch.Tensor | None) -> None:
        self.centred, self.classes = centred, classes

    def inner(self, other: LinearState) -> float:
        """The inner product of two linear kernels, from their features."""
        return float((self.centred.T @ other.centred).square().sum(dtype=torch.float64))

    @cached_property
    def leading(self) -> float:
        """As for every kernel, of the smaller of the two products of features, whose eigenvalues it has."""
        x = self.centred / self.centred.norm(dtype=torch.float64).to(self.centred)
        products = (x.T @ x if x.shape[1] <= len(x) else x @ x.T).double()
        return float((products @ products).mul(products).sum() / products.square().sum() ** 1.5)

    @cached_property
    def matrix(self) -> torch.Tensor:
        """The centred kernel, shape (n, n); only for few samples."""
        return self.centred.double() @ self.centred.double().T

    @cached_property
    def diagonal(self) -> torch.Tensor:
        """The kernel's diagonal, shape (n,)."""
        return self.centred.square().sum(dim=1).double()

    @cached_property
    def blocks(self) -> nulls.Blocks:
        """Sums of the kernel over classes."""
        return nulls.blocks_of_features(self.centred, self.classes, self.diagonal)

    @cached_property
    def spectrum(self) -> nulls.Spectrum:
        """The kernel's eigenvalues."""
        x = self.centred.double()
        values = torch.linalg.eigvalsh(x.T @ x if x.shape[1] <= len(x) else x @ x.T)
        noise = max(len(values) * torch.finfo(x.dtype).eps, (8 * torch.finfo(self.centred.dtype).eps) ** 2)
        return nulls.Spectrum(values[values > values[-1] * noise], len(x))


class _HollowState(LinearState):
    """The same kernel, U-centred (Song et al. 2012): a hollow matrix with zero row sums.

    With centred features the hollow kernel's row sums are minus its diagonal, which leaves
    products of the diagonals only.
    """

    row_share = 0.0

    def inner(self, other: LinearState) -> float:
        """The inner product of two U-centred kernels."""
        diagonals = float(self.diagonal @ other.diagonal)
        return u_inner(super().inner(other), diagonals, self.trace * other.trace, len(self.centred))

    def permuted_inner(self, other: LinearState, orders: torch.Tensor) -> torch.Tensor:
        """The inner products of the U-centred kernels, the other's samples permuted."""
        diagonals = (self.diagonal * other.diagonal[orders]).sum(dim=1)
        inner = super().permuted_inner(other, orders)
        return u_inner(inner, diagonals, self.trace * other.trace, len(self.centred))

    @cached_property
    def power(self) -> float:
        """The kernel's inner product with itself, refused where it is round-off."""
        power = self.inner(self)
        _check_power(power, _ROUND_OFFS_OF_A_SUM * torch.finfo(self.centred.dtype).eps * super().inner(self))
        return power

    @cached_property
    def trace(self) -> float:
        """The trace of the kernel before U-centring."""
        return float(self.diagonal.sum())

    @cached_property
    def blocks(self) -> nulls.Blocks:
        """Sums of the U-centred kernel over classes."""
        n = len(self.centred)
        counts, sums, diagonal = nulls.blocks_of_features(self.centred, self.classes, self.diagonal)
        pairs = torch.outer(counts, counts) - torch.diag(counts)
        margins = torch.outer(diagonal, counts) + torch.outer(counts, diagonal) - 2 * torch.diag(diagonal)
        hollow = sums - torch.diag(diagonal) + margins / (n - 2) - pairs * self.trace / ((n - 1) * (n - 2))
        return nulls.Blocks(counts, hollow, torch.zeros_like(diagonal))


def u_inner(inner: _Number, diagonals: _Number, traces: _Number, n: int) -> _Number:
    """Inner product of two U-centred linear kernels of centred features.

    Parameters
    ----------
    inner : float or tensor
        Of the centred kernels, ``tr(K L)``.
    diagonals, traces : float or tensor
        Of their diagonals, ``sum_i K_ii L_ii``, and ``tr(K) tr(L)``.
    n : int
        Number of samples.
    """
    return inner - diagonals + traces / ((n - 1) * (n - 2)) - 2 * diagonals / (n - 2)


class FullState(_KernelState):
    """A matrix over pairs of samples, held whole."""

    def __init__(self, matrix: torch.Tensor, classes: torch.Tensor | None) -> None:
        self.matrix, self.classes = matrix.double(), classes

    def inner(self, other: FullState) -> float:
        """The inner product of two kernel matrices."""
        return float((self.matrix * other.matrix).sum())

    @cached_property
    def diagonal(self) -> torch.Tensor:
        """The kernel's diagonal, shape (n,)."""
        return self.matrix.diagonal()

    @cached_property
    def blocks(self) -> nulls.Blocks:
        """Sums of the kernel over classes."""
        return nulls.blocks_of(self.matrix, self.classes)

    @cached_property
    def row_share(self) -> float:
        """Share of the squared norm of a hollow matrix that its row effects carry."""
        return min(1.0, float(2 * self.matrix.sum(dim=1).square().sum() / (len(self.matrix) - 2)) / self.power)


def _prepare_linear(x: torch.Tensor, classes: torch.Tensor | None) -> LinearState:
    return LinearState(few_axes(centre(x)), classes)


def _prepare_hollow(x: torch.Tensor, classes: torch.Tensor | None) -> _HollowState:
    check_rows(x, 4, "debiased CKA")
    # of few samples U-centring leaves little, and float64 costs little
    return _HollowState(few_axes(centre(x.double() if len(x) < 100 else x)), classes)


def _rbf_kernel(x: torch.Tensor) -> torch.Tensor:
    centred = centre(x.double())
    distances = torch.cdist(centred, centred)
    median = distances[~torch.eye(len(x), dtype=torch.bool, device=x.device)].median()
    if median <= 1e-6 * distances.max():  # of coinciding points round-off can leave that much
        raise SpaceError("RBF CKA has no bandwidth, since over half of all pairs of samples coincide; drop duplicates")
    return torch.exp(-distances.square() / (2 * median**2))


def _prepare_rbf(x: torch.Tensor, classes: torch.Tensor | None) -> FullState:
    x, classes = subsample(x, classes)
    kernel = _rbf_kernel(x)
    rows = kernel.mean(dim=1, keepdim=True)
    return FullState(kernel - rows - rows.T + kernel.mean(), classes)


def _prepare_rbf_hollow(x: torch.Tensor, classes: torch.Tensor | None) -> FullState:
    check_rows(x, 4, "debiased CKA")
    x, classes = subsample(x, classes)
    n = len(x)
    kernel = _rbf_kernel(x).fill_diagonal_(0)
    rows = kernel.sum(dim=1, keepdim=True) / (n - 2)
    centred = (kernel - rows - rows.T + kernel.sum() / ((n - 1) * (n - 2))).fill_diagonal_(0)
    _check_power(float(centred.square().sum()), (64 * torch.finfo(centred.dtype).eps * n) ** 2)
    return FullState(centred, classes)


def _kernel_norm(a: _KernelState, b: _KernelState) -> float:
    """The geometric mean of two kernels' inner products with themselves."""
    return math.sqrt(a.power * b.power)


_ROUND_OFFS_OF_A_SUM = 128
"""Units of round-off of the plain kernel's squared norm that must be left by U-centring: its error is up to 6."""


def _check_power(power: float, floor: float) -> None:
    """Refuse a kernel of which only round-off is left."""
    # U-centring takes all but round-off from some kernels (n = 4, rank one): a named error, not a NaN
    if not power > floor:  # nor NaN
        raise SpaceError("CKA is undefined for a space whose centred kernel vanishes; use more samples")


def score_kernel(a: _KernelState, b: _KernelState) -> float:
    """The cosine of two kernels."""
    return a.inner(b) / _kernel_norm(a, b)


def _score_all_linear(states: Sequence[LinearState]) -> np.ndarray:
    """The cosines of all pairs of linear kernels, shape (N, N)."""
    inner = all_inner([state.centred for state in states], "auto", debiased=isinstance(states[0], _HollowState))
    for state, power in zip(states, inner.diagonal().tolist(), strict=True):
        state.power = power  # known now: not to be computed again
    return normalised(inner)


def all_inner(spaces: Sequence, method: Method, debiased: bool) -> torch.Tensor:
    """Inner products of the (U-)centred linear kernels of all pairs of spaces."""
    if debiased:
        check_rows(spaces[0], 4, "debiased CKA")
    inner, diagonals, traces = linear_products(spaces, method)
    dtype = functools.reduce(torch.promote_types, (space[:1].dtype for space in spaces))
    floors = _ROUND_OFFS_OF_A_SUM * torch.finfo(dtype).eps * inner.diagonal()
    if debiased:
        inner = u_inner(inner, diagonals, torch.outer(traces, traces), len(spaces[0]))
    for power, floor in zip(inner.diagonal().tolist(), floors.tolist(), strict=True):
        _check_power(power, floor)
    return inner


def normalised(inner: torch.Tensor) -> np.ndarray:
    """Inner products as cosines, with ones on the diagonal."""
    norms = inner.diagonal().sqrt()  # before they are multiplied: products of small powers would vanish
    return (inner / torch.outer(norms, norms)).fill_diagonal_(1.0).numpy()


def normalised_pair(inner: float, power_a: float, power_b: float) -> float:
    """An inner product of two U-centred kernels as a cosine, from their powers.

    Raises
    ------
    SpaceError
        If one of the kernels vanishes.
    """
    for power in (power_a, power_b):
        _check_power(power, 0.0)
    return inner / (math.sqrt(power_a) * math.sqrt(power_b))


def within_kernel(a: _KernelState, b: _KernelState, size: float) -> float:
    """The score expected when samples are shuffled within classes, in units of `size`; NaN without classes."""
    return math.nan if a.classes is None else nulls.within_class_product(a.blocks, b.blocks) / size


def skewness(a: _KernelState, b: _KernelState) -> float:
    """Of the null of two kernels' inner product: of chi-squares, weighted by the products of their eigenvalues."""
    return math.sqrt(8) * max(0.0, a.leading) * max(0.0, b.leading)


def with_counted_p(known: Score, a: _KernelState, b: _KernelState) -> Score:
    """The score with p counted over permutations where there are few samples; otherwise as it is."""
    return few_samples_p(known, len(a.diagonal), lambda orders: a.permuted_inner(b, orders))


def _chance_kernel(a: _KernelState, b: _KernelState, score: float, permutations: int) -> Score:
    """A score beside its nulls, for kernels that are centred."""
    shapes = a.summary, b.summary
    null = nulls.kernel_moments(*shapes)
    # a space's CKA with itself is 1: what a perfect score is above chance, in geometric mean
    span = math.sqrt(shapes[0].room * shapes[1].room) / (shapes[0].n - 1)
    within = within_kernel(a, b, _kernel_norm(a, b))
    known = with_counted_p(normal_score(score, null, within, skewness=skewness(a, b)), a, b)
    return known._replace(calibrated=(score - null.mean) / span if span > 0 else math.nan)


def chance_hollow(a: _KernelState, b: _KernelState, score: float, permutations: int) -> Score:
    """A score beside its nulls, for kernels that are U-centred."""
    deviation = nulls.hollow_deviation(len(a.diagonal), a.row_share, b.row_share)
    within = within_kernel(a, b, _kernel_norm(a, b))
    known = with_counted_p(normal_score(score, Moments(0.0, deviation), within, skewness=skewness(a, b)), a, b)
    return known._replace(calibrated=score)


_DEBIASED_NULL = "closed form: 0, deviation sqrt(2 / (n (n - 3)))"
KAZI_AOUAL = "closed form (Kazi-Aoual et al. 1995)"
CKA = Metric(
    "cka",
    _prepare_linear,
    score_kernel,
    _chance_kernel,
    UP_TO_ONE,
    KAZI_AOUAL,
    SHAPE,
    score_all=_score_all_linear,
)
CKA_DEBIASED = Metric(
    "cka_debiased",
    _prepare_hollow,
    score_kernel,
    chance_hollow,
    (-1.0, 1.0),
    _DEBIASED_NULL,
    SHAPE,
    score_all=_score_all_linear,
)
CKA_RBF = Metric("cka_rbf", _prepare_rbf, score_kernel, _chance_kernel, UP_TO_ONE, KAZI_AOUAL, SHAPE, quadratic=True)
CKA_RBF_DEBIASED = Metric(
    "cka_rbf_debiased",
    _prepare_rbf_hollow,
    score_kernel,
    chance_hollow,
    (-1.0, 1.0),
    _DEBIASED_NULL,
    SHAPE,
    quadratic=True,
)
