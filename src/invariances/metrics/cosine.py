"""Mean cosine of corresponding rows, and Pearson correlation of relative profiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from invariances.errors import SpaceError
from invariances.metrics import nulls
from invariances.metrics.nulls import FEW_SAMPLES, Moments
from invariances.metrics.score import ROTATION, SCALES, Metric, Score, few_samples_p, normal_score
from invariances.relative import scale

__all__ = ["COSINE", "PEARSON", "centred_rows"]


class _Rows:
    """Rows of unit norm."""

    def __init__(self, unit: torch.Tensor, classes: torch.Tensor | None) -> None:
        self.unit, self.classes, self.n = unit, classes, len(unit)

    @cached_property
    def mean(self) -> torch.Tensor:
        return self.unit.mean(dim=0, dtype=torch.float64)

    @property
    def centred(self) -> torch.Tensor:
        return self.unit - self.mean.to(self.unit)

    @cached_property
    def covariance(self) -> torch.Tensor:
        """Shape (d, d), summed over the samples."""
        centred = self.centred
        return centred.T @ centred

    @cached_property
    def of_classes(self) -> torch.Tensor | None:
        """Shape (C, d), summed over the samples of each class."""
        return None if self.classes is None else nulls.class_sums(self.unit, self.classes, int(self.classes.max()) + 1)


@dataclass
class _Sums:
    """What is left of more rows than features, once their tiles are merged."""

    n: int
    classes: torch.Tensor | None
    mean: torch.Tensor
    covariance: torch.Tensor
    of_classes: torch.Tensor | None


def _merge(total: _Rows | _Sums, tile: _Rows) -> _Rows | _Sums:
    """Both as one: the rows while they are few, then their sums in float64, as Chan et al. (1979) add variances."""
    n = total.n + tile.n
    classes = None
    if total.classes is not None and tile.classes is not None:
        classes = torch.cat([total.classes, tile.classes])
    if isinstance(total, _Rows) and n <= max(FEW_SAMPLES, total.unit.shape[1]):
        return _Rows(torch.cat([total.unit, tile.unit]), classes)
    shift, weight = tile.mean - total.mean, tile.n / n
    covariance = total.covariance.double().add_(tile.covariance).addr_(shift, shift, alpha=total.n * weight)
    fewer, of_classes = total.of_classes, tile.of_classes
    if fewer is not None and of_classes is not None:
        if len(fewer) > len(of_classes):
            fewer, of_classes = of_classes, fewer
        of_classes[: len(fewer)] += fewer
    return _Sums(n, classes, total.mean + weight * shift, covariance, of_classes)


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


def _chance_rows(a: _Rows | _Sums, b: _Rows | _Sums, score: float, permutations: int) -> Score:
    n, d = a.n, min(len(a.mean), len(b.mean))
    within = math.nan
    if a.classes is not None and a.of_classes is not None and b.of_classes is not None:
        counts = torch.bincount(a.classes).to(a.of_classes)
        within = float(((a.of_classes[:, :d] * b.of_classes[:, :d]).sum(dim=1) / counts).sum() / n)
    if d > n and isinstance(a, _Rows) and isinstance(b, _Rows):  # the same sum, from n x n products
        overlap = (a.centred[:, :d] @ b.centred[:, :d].T).square()
    else:
        overlap = a.covariance[:d, :d] * b.covariance[:d, :d]
    variance = float(overlap.sum(dtype=torch.float64)) / (n**2 * (n - 1))
    known = normal_score(score, Moments(float(a.mean[:d] @ b.mean[:d]), math.sqrt(max(0.0, variance))), within)
    if isinstance(a, _Sums) or isinstance(b, _Sums):
        return known  # there are many samples

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
    merge=_merge,
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
