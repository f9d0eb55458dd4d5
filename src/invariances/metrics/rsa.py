"""Representational similarity analysis: correlation of the samples' correlation distances."""

from __future__ import annotations

from collections.abc import Callable

import torch

from invariances.errors import SpaceError
from invariances.metrics.cka import FullState, chance_hollow, score_kernel
from invariances.metrics.cosine import centred_rows
from invariances.metrics.score import SCALES, Metric, check_rows, subsample

__all__ = ["RSA", "RSA_PEARSON"]


def _prepare_rsa(ranked: bool) -> Callable[[torch.Tensor, torch.Tensor | None], FullState]:
    """The correlation distances of all pairs of samples, or their ranks, standardised, as a hollow matrix."""

    def prepare(x: torch.Tensor, classes: torch.Tensor | None) -> FullState:
        check_rows(x, 4, "RSA")
        x, classes = subsample(x, classes)
        profiles = centred_rows(x.double())
        above = torch.triu_indices(len(x), len(x), 1)
        # rounded, lest equal distances be ranked by their round-off
        dissimilarity = (1 - profiles @ profiles.T)[above[0], above[1]].round(decimals=12)
        if dissimilarity.min() == dissimilarity.max():
            raise SpaceError("RSA is undefined for a space in which all pairs of samples are equally far; use cka")
        if ranked:
            from scipy.stats import rankdata  # slow to import, and seldom needed

            dissimilarity = torch.from_numpy(rankdata(dissimilarity.numpy(force=True)))
        dissimilarity = dissimilarity - dissimilarity.mean()
        matrix = torch.zeros(len(x), len(x), dtype=torch.float64)
        matrix[above[0], above[1]] = dissimilarity.cpu() / dissimilarity.norm().cpu()
        return FullState(matrix + matrix.T, classes)

    return prepare


def _rsa(name: str, ranked: bool) -> Metric:
    return Metric(
        name,
        _prepare_rsa(ranked),
        score_kernel,
        chance_hollow,
        (-1.0, 1.0),
        "closed form: 0, deviation by row effects and rest",
        SCALES | {"permutation", "feature-constant"},
        quadratic=True,
    )


RSA, RSA_PEARSON = _rsa("rsa", ranked=True), _rsa("rsa_pearson", ranked=False)
