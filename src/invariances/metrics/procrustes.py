"""Procrustes distance, and the chance of a nuclear norm."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from invariances.metrics import nulls
from invariances.metrics.cka import LinearState
from invariances.metrics.score import (
    SHAPE,
    Metric,
    Score,
    beyond_round_off,
    centre,
    counted_score,
    few_axes,
    few_samples_p,
    normal_score,
)

__all__ = ["LAW", "PROCRUSTES", "chance_nuclear", "nuclear"]


def nuclear(matrix: torch.Tensor) -> float:
    """Sum of singular values."""
    return float(torch.linalg.svdvals(matrix).sum(dtype=torch.float64))


def _prepare_shape(x: torch.Tensor, classes: torch.Tensor | None) -> LinearState:
    centred = few_axes(centre(x))
    return LinearState(centred / centred.norm(dtype=torch.float64).to(centred), classes)


def _score_shape(a: LinearState, b: LinearState) -> float:
    return max(0.0, 2 - 2 * nuclear(a.centred.T @ b.centred))


def _chance_shape(a: LinearState, b: LinearState, score: float, permutations: int) -> Score:
    return chance_nuclear(a, b, score, permutations, lambda total: 2 - 2 * total, 0.0)


def chance_nuclear(
    a: LinearState, b: LinearState, score: float, permutations: int, of: Callable[[float], float], perfect: float
) -> Score:
    """The chance of a score that is linear in the nuclear norm of ``X'Y``."""

    def shuffled(rows: torch.Tensor) -> float:
        return of(nuclear(a.centred.T @ b.centred[rows]))

    def permuted(orders: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals((a.centred.T @ b.centred[orders]).double()).sum(dim=1)

    n, rank = len(a.centred), min(len(a.spectrum), len(b.spectrum))
    within = math.nan if a.classes is None else nulls.shuffled_within(shuffled, a.classes, permutations)
    uneven = nulls.unevenness(a.summary, b.summary)
    if rank < nulls.LEAST_RANK or abs(uneven) > nulls.MOST_UNEVEN:
        known = counted_score(score, nulls.shuffled(shuffled, n, permutations), within, perfect)
        return few_samples_p(known, n, permuted)
    mean, deviation = nulls.nuclear_moments(a.spectrum, b.spectrum)
    # samples of uneven norms widen the null much as they do CKA's, where by how much is known
    deviation *= math.sqrt(1 + uneven) * abs(of(1.0) - of(0.0))
    return normal_score(score, beyond_round_off(of(mean), deviation), within, perfect)


LAW = "asymptotic closed form (free probability); seeded shuffles below rank 16 or for samples of very uneven norms"
PROCRUSTES = Metric(
    "procrustes", _prepare_shape, _score_shape, _chance_shape, (0.0, 2.0), LAW, SHAPE, higher_is_closer=False
)
