"""Taking noise out of a source before maps are fitted to it, since noise makes every map look affine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from invariances.maps import Factor, affine_map, factorise

__all__ = ["left_out_ridge", "predicted", "shrunk"]

FOLDS = 5
NOISE_SHARES = (0.0, *np.geomspace(1e-3, 1, 19).tolist())
"""Candidates for s2, in mean variances of an axis; less than a thousandth attenuates by less than counts."""


def predicted(source: torch.Tensor, instruments: Factor, readings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The source's anchors and samples as the other models predict them: instrumental variables.

    What is private to the source is gone, but for what the estimated coefficients bring along. Its
    size differs between directions, as the residuals' does, and one penalty for all would take out
    too little of it where most was private: then a map that shrinks these directions, and no
    rotation, predicts best. So each principal axis of the residuals is penalised by its variance,
    the common penalty being their mean. Anchors are predicted without themselves, so that none
    brings back its own noise.
    """
    common = affine_map(instruments, source).penalty
    predicted, _ = left_out_ridge(instruments, source, torch.full_like(source[0], common))
    variances, axes = torch.linalg.eigh((source - predicted).T @ (source - predicted))
    variances = variances.clamp_min(0)
    penalties = common * variances / variances.mean().clamp_min(torch.finfo(torch.float64).tiny)
    predicted, weight = left_out_ridge(instruments, source @ axes, penalties)
    return predicted @ axes.T, source.mean(dim=0) + (readings - instruments.mean) @ weight @ axes.T


def left_out_ridge(factor: Factor, target: torch.Tensor, penalties: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression with a penalty for every target feature: leave-one-out predictions and weights, (d, m)."""
    power = factor.singular.square()
    floor = power.sum() / max(1, len(power)) * 1e-10  # without noise there is nothing to penalise, but round-off
    kept = power.unsqueeze(1) / (power.unsqueeze(1) + penalties.maximum(floor))
    centred = target - target.mean(dim=0)
    inside = kept * (factor.left.T @ centred)
    leverage = 1 / len(target) + factor.left.square() @ kept
    residual = (centred - factor.left @ inside) / (1 - leverage).clamp_min(1e-8)
    return target - residual, factor.right.T @ (inside / factor.singular.unsqueeze(1))


def shrunk(
    source: torch.Tensor, samples: torch.Tensor, target: torch.Tensor, ratio: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shrink the source's principal axes by ``max(0, 1 - s2 / variance)``, to take out noise alike in all directions.

    s2 is the value with which a rotation and a shift predict the target best, by cross-validation
    on anchors. The factor is not free, since it would itself undo the shrinkage where all axes have
    equal variance: it is 1 or `ratio`, that of the spaces' sizes. With few anchors s2 covers the
    error of the fitted rotation too.
    """
    factor = factorise(source)
    turned = (source - factor.mean) @ factor.right.T
    variances = factor.singular.square() / len(source)
    ratios = torch.tensor([1.0, ratio], dtype=torch.float64)
    moments = []  # all that a fold needs, for every s2
    for fold in _folds(len(source), seed):
        kept = torch.ones(len(source), dtype=torch.bool)
        kept[fold] = False
        x_mean, y_mean = turned[kept].mean(dim=0), target[kept].mean(dim=0)
        x, y = turned[~kept] - x_mean, target[~kept] - y_mean
        moments.append(((turned[kept] - x_mean).T @ (target[kept] - y_mean), x.T @ y, x.square().sum(dim=0)))

    def error(share: float) -> float:
        """The folds' squared error, less the square of the target, which is the same for all."""
        left = (1 - share * variances.mean() / variances).clamp_min(0)
        match = power = 0.0
        for train, test, squares in moments:
            u, _, v = torch.linalg.svd(left.unsqueeze(1) * train, full_matrices=False)
            match = match + (left.unsqueeze(1) * test * (u @ v)).sum()
            power = power + (left.square() * squares).sum()
        return float((ratios.square() * power - 2 * ratios * match).min())

    share = _least(error, NOISE_SHARES)
    # less what is lost, not what is kept: directions that no anchor reaches stay as they are
    lost = (factor.right.T * (share * variances.mean() / variances).clamp(0, 1)) @ factor.right
    return source - (source - factor.mean) @ lost, samples - (samples - factor.mean) @ lost


def _least(error: Callable[[float], float], grid: Sequence[float]) -> float:
    """The grid value of least error, from coarse to fine: the error has one valley."""
    known: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in known:
            known[i] = error(grid[i])
        return known[i]

    best = min(range(0, len(grid), 4), key=at)
    for step in (2, 1):
        best = min((i for i in (best, best - step, best + step) if 0 <= i < len(grid)), key=at)
    return grid[best]


def _folds(n: int, seed: int) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(seed).permutation(n), min(FOLDS, n))
