"""Canonical correlations: mean squared CCA, SVCCA and PWCCA."""

from __future__ import annotations

import math
from functools import cached_property

import torch

from invariances.metrics import nulls
from invariances.metrics.cka import KAZI_AOUAL, LinearState, with_counted_p, within_kernel
from invariances.metrics.nulls import Moments
from invariances.metrics.procrustes import LAW, chance_nuclear, nuclear
from invariances.metrics.score import (
    SHAPE,
    UP_TO_ONE,
    Metric,
    Score,
    centre,
    counted_score,
    few_samples_p,
    normal_score,
)

__all__ = ["CCA", "PWCCA", "SVCCA"]


_VARIANCE_KEPT = 0.99
"""Share of a space's variance whose principal axes SVCCA keeps."""


class _Basis(LinearState):
    """An orthonormal basis of a centred space's principal axes, and the space in it."""

    def __init__(self, x: torch.Tensor, classes: torch.Tensor | None, kept: float = 1.0) -> None:
        left, singular, right = torch.linalg.svd(centre(x), full_matrices=False)
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
    return _Basis(x, classes, _VARIANCE_KEPT)


def _score_cca(a: _Basis, b: _Basis) -> float:
    return a.inner(b) / min(a.rank, b.rank)


def _chance_cca(a: _Basis, b: _Basis, score: float, permutations: int) -> Score:
    size = min(a.rank, b.rank)
    # the projections' CKA, in other units
    mean, deviation = nulls.kernel_moments(a.summary, b.summary)
    units = math.sqrt(a.power * b.power) / size
    known = normal_score(score, Moments(mean * units, deviation * units), within_kernel(a, b, size))
    return with_counted_p(known, a, b)


def _score_svcca(a: _Basis, b: _Basis) -> float:
    return nuclear(a.centred.T @ b.centred) / min(a.rank, b.rank)


def _chance_svcca(a: _Basis, b: _Basis, score: float, permutations: int) -> Score:
    return chance_nuclear(a, b, score, permutations, lambda total: total / min(a.rank, b.rank), 1.0)


def _score_pwcca(a: _Basis, b: _Basis) -> float:
    return float(_projection_weighted(a, a.centred.T @ b.centred))


def _projection_weighted(a: _Basis, cross: torch.Tensor) -> torch.Tensor:
    """PWCCA by products of bases, shape (..., rank, rank)."""
    directions, correlations, _ = torch.linalg.svd(cross.double(), full_matrices=False)
    weights = (directions.mT @ a.features.to(directions)).abs().sum(dim=-1)
    return (weights * correlations.clamp(max=1)).sum(dim=-1) / weights.sum(dim=-1)


def _chance_pwcca(a: _Basis, b: _Basis, score: float, permutations: int) -> Score:
    def shuffled(rows: torch.Tensor) -> float:
        return float(permuted(rows))

    def permuted(orders: torch.Tensor) -> torch.Tensor:
        return _projection_weighted(a, a.centred.T @ b.centred[orders])

    draws = nulls.shuffled(shuffled, len(a.centred), permutations)
    within = math.nan if a.classes is None else nulls.shuffled_within(shuffled, a.classes, permutations)
    return few_samples_p(counted_score(score, draws, within), len(a.centred), permuted)


CCA = Metric(
    "cca",
    _Basis,
    _score_cca,
    _chance_cca,
    UP_TO_ONE,
    f"{KAZI_AOUAL}; the larger rank / (n - 1)",
    SHAPE | {"affine"},
)
SVCCA = Metric("svcca", _prepare_svcca, _score_svcca, _chance_svcca, UP_TO_ONE, LAW, SHAPE)
PWCCA = Metric(
    "pwcca",
    _Basis,
    _score_pwcca,
    _chance_pwcca,
    UP_TO_ONE,
    "seeded shuffles",
    frozenset({"permutation", "isotropic-scale", "translation"}),
    symmetric=False,
)
