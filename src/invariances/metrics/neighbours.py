"""Mutual k-nearest neighbours."""

from __future__ import annotations

import math
from functools import cached_property

import torch

from invariances.metrics import nulls
from invariances.metrics.nulls import Moments
from invariances.metrics.score import (
    ROTATION,
    SCALES,
    UP_TO_ONE,
    Metric,
    Score,
    check_rows,
    counted_score,
    normal_score,
    subsample,
)
from invariances.relative import scale

__all__ = ["MUTUAL_KNN", "NEIGHBOURS"]


NEIGHBOURS = 10
"""Neighbours that mutual k-NN compares."""


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
    check_rows(x, NEIGHBOURS + 2, "mutual k-NN")
    x, classes = subsample(x, classes)
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
    exact = normal_score(score, Moments(a.nearest.shape[1] / (n - 1), float(draws.std(ddof=1))), within)
    return exact._replace(p=counted_score(score, draws, within).p)


MUTUAL_KNN = Metric(
    "mutual_knn",
    _prepare_neighbours,
    _score_neighbours,
    _chance_neighbours,
    UP_TO_ONE,
    "closed form: k / (n - 1); deviation by seeded shuffles",
    SCALES | ROTATION,
    quadratic=True,
)
