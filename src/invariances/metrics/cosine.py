"""Mean cosine of corresponding rows, and Pearson correlation of relative profiles."""

from __future__ import annotations

import math
from functools import cached_property

import torch

from invariances.errors import SpaceError
from invariances.metrics import nulls
from invariances.metrics.nulls import Moments
from invariances.metrics.score import ROTATION, SCALES, Metric, Score, few_samples_p, normal_score
from invariances.relative import scale

__all__ = ["COSINE", "PEARSON", "centred_rows"]


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


def centred_rows(x: torch.Tensor) -> torch.Tensor:
    """Rows of mean 0 and norm 1, whose products are Pearson correlations.

    Parameters
    ----------
    x : tensor of shape (n, d)

    Raises
    ------
    SpaceError
        If all features of a row are equal.
    """
    x = scale(x)
    centred = x - x.mean(dim=1, keepdim=True)
    flat = centred.norm(dim=1) <= 1e-6
    if flat.any():
        raise SpaceError(
            f"Pearson correlation is undefined for {int(flat.sum())} row(s) whose features are all equal "
            f"(first: row {int(flat.nonzero()[0])}); drop these samples in every space"
        )
    return scale(centred)


def _prepare_pearson(x: torch.Tensor, classes: torch.Tensor | None) -> _Rows:
    return _Rows(centred_rows(x), classes)


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
    known = normal_score(score, Moments(float(a.mean[:d] @ b.mean[:d]), math.sqrt(max(0.0, variance))), within)

    def permuted(orders: torch.Tensor) -> torch.Tensor:
        products = a.unit[:, :d].double() @ b.unit[:, :d].double().T
        return products[torch.arange(n), orders].sum(dim=1)

    return few_samples_p(known, n, permuted)


COSINE = Metric(
    "cosine",
    _prepare_cosine,
    _score_rows,
    _chance_rows,
    (-1.0, 1.0),
    "closed form: product of the mean unit rows",
    SCALES,
    ROTATION,
    padded=True,
)
PEARSON = Metric(
    "pearson",
    _prepare_pearson,
    _score_profiles,
    _chance_rows,
    (-1.0, 1.0),
    "closed form: product of the mean centred unit rows",
    SCALES | {"feature-constant"},
    frozenset({"permutation"}),
)
