"""Taking noise out of a source before maps are fitted to it, since noise makes every map look affine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from invariances.maps import Factor, factorise, ridge_penalty

__all__ = ["Instruments", "Shrunk", "instruments_of", "instruments_of_gram", "left_out_ridge", "predicted", "shrunk"]

FOLDS = 5
NOISE_SHARES = (0.0, *np.geomspace(1e-3, 1, 19).tolist())
"""Candidates for s2, in mean variances of an axis; less than a thousandth attenuates by less than counts."""
ROUND_OFF = torch.finfo(torch.float64).eps


class Instruments(NamedTuple):
    """Principal axes of the models beside a pair: what predicts its source."""

    left: torch.Tensor
    """The anchors along these axes, shape (k, r), orthonormal."""
    power: torch.Tensor
    """Squared singular values, shape (r,)."""
    lift: torch.Tensor
    """Carries coordinates of a sample, p of them, along the axes and divides by the singular values; shape (p, r)."""


def instruments_of(helpers: torch.Tensor) -> Instruments:
    """Instruments of the helpers' features side by side, shape (k, p); coordinates are features less their means."""
    factor = factorise(helpers)
    return Instruments(factor.left, factor.singular.square(), factor.right.T / factor.singular)


def instruments_of_gram(gram: torch.Tensor) -> Instruments:
    """Instruments by the sum of the helpers' centred Gram matrices, shape (k, k).

    Coordinates of a sample are the sum of its centred products with the anchors. That is cheaper where the helpers
    have more features than there are anchors, and no dearer with more of them.
    """
    power, left = torch.linalg.eigh(gram)
    kept = power > power[-1] * len(gram) * ROUND_OFF
    left, power = left[:, kept], power[kept]
    return Instruments(left, power, left / power)


def predicted(source: torch.Tensor, instruments: Instruments) -> tuple[torch.Tensor, torch.Tensor]:
    """The source's anchors as the other models predict them: instrumental variables.

    What is private to the source is gone, but for what the estimated coefficients bring along. Its
    size differs between directions, as the residuals' does, and one penalty for all would take out
    too little of it where most was private: then a map that shrinks these directions, and no
    rotation, predicts best. So each principal axis of the residuals is penalised by its variance,
    the common penalty being their mean. Anchors are predicted without themselves, so that none
    brings back its own noise.

    Returns
    -------
    tensors of shape (k, d) and (p, d)
        The anchors, and the weights that carry coordinates of samples to the source less its mean.
    """
    left, power, _ = instruments
    mean = source.mean(dim=0)
    centred = source - mean
    projected = left.T @ centred
    common = ridge_penalty(left, power, projected, source)
    residuals, _ = left_out_ridge(instruments, centred, projected, common)
    variances, axes = torch.linalg.eigh(residuals.T @ residuals)
    variances = variances.clamp_min(0)
    penalties = common * variances / variances.mean().clamp_min(torch.finfo(torch.float64).tiny)
    residuals, weights = left_out_ridge(instruments, centred @ axes, projected @ axes, penalties)
    return source - residuals @ axes.T, weights @ axes.T


def left_out_ridge(
    instruments: Instruments, centred: torch.Tensor, projected: torch.Tensor, penalties: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression on the instruments: leave-one-out residuals, shape (k, m), and weights, (p, m).

    Parameters
    ----------
    instruments : Instruments
    centred : tensor of shape (k, m)
        The target less its mean.
    projected : tensor of shape (r, m)
        ``instruments.left.T @ centred``.
    penalties : tensor of shape () or (m,)
        For all features of the target, or for each.
    """
    left, power, lift = instruments
    floor = power.sum() / max(1, len(power)) * 1e-10  # without noise there is nothing to penalise, but round-off
    kept = power.unsqueeze(1) / (power.unsqueeze(1) + penalties.maximum(floor))
    inside = kept * projected
    leverage = 1 / len(centred) + left.square() @ kept
    return (centred - left @ inside) / (1 - leverage).clamp_min(1e-8), lift @ inside


class Shrunk(NamedTuple):
    """A source whose principal axes are shrunk."""

    source: torch.Tensor
    """The anchors, shape (k, d)."""
    factor: Factor
    """Their `factorise`."""
    lost: torch.Tensor
    """What is taken off: a sample x becomes ``x - (x - mean) @ lost``; shape (d, d)."""


def shrunk(source: torch.Tensor, target: torch.Tensor, ratio: float, seed: int) -> Shrunk:
    """Shrink the source's principal axes by ``max(0, 1 - s2 / variance)``, to take out noise alike in all directions.

    s2 is the value with which a rotation and a shift predict the target best, by cross-validation
    on anchors. The factor is not free, since it would itself undo the shrinkage where all axes have
    equal variance: it is 1 or `ratio`, that of the spaces' sizes. With few anchors s2 covers the
    error of the fitted rotation too.
    """
    factor = _principal_axes(source)
    variances = factor.singular.square() / len(source)
    turned = factor.left * factor.singular
    moments = _fold_moments(turned, target - target.mean(dim=0), seed)
    ratios = torch.tensor([1.0, ratio], dtype=torch.float64)

    def error(share: float) -> float:
        """The folds' squared error, less the square of the target, which is the same for all."""
        left = (1 - share * variances.mean() / variances).clamp_min(0)
        left = left[left > 0].unsqueeze(1)
        axes = len(left)  # the last axes, of least variance, are gone first
        match = power = 0.0
        for train, test, squares in moments:
            match += _match(left * train[:axes], left * test[:axes])
            power += float(left.flatten().square() @ squares[:axes])
        return float((ratios.square() * power - 2 * ratios * match).min())

    share = _least(error, NOISE_SHARES)
    # less what is lost, not what is kept: directions that no anchor reaches stay as they are
    gone = (share * variances.mean() / variances).clamp(0, 1)
    lost = (factor.right.T * gone) @ factor.right
    reached = gone < 1
    left, singular, right = factor.left[:, reached], (factor.singular * (1 - gone))[reached], factor.right[reached]
    return Shrunk(source - (turned * gone) @ factor.right, Factor(factor.mean, left, singular, right), lost)


def _principal_axes(x: torch.Tensor) -> Factor:
    """`factorise` by the covariance, which costs half as much where there are more rows than features."""
    if len(x) < x.shape[1]:
        return factorise(x)
    mean = x.mean(dim=0)
    centred = x - mean
    power, axes = torch.linalg.eigh(centred.T @ centred)
    power, axes = power.flip(0), axes.flip(1)
    # what centring leaves of a constant is round-off, and so are axes this far below the first
    kept = power > torch.maximum(power[0] * x.shape[1], x.square().sum() * len(x) * ROUND_OFF) * ROUND_OFF
    singular, axes = power[kept].sqrt(), axes[:, kept]
    return Factor(mean, centred @ axes / singular, singular, axes.T)


def _fold_moments(x: torch.Tensor, y: torch.Tensor, seed: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of every fold, all that its error needs: products of the others, its own, and its squares, by the others' means.

    Parameters
    ----------
    x, y : tensors of shape (k, r) and (k, m)
        Both of mean 0.
    seed : int
    """
    folds = [torch.from_numpy(fold) for fold in _folds(len(x), seed)]
    products = [x[fold].T @ y[fold] for fold in folds]
    total, moments = torch.stack(products).sum(dim=0), []
    for fold, product in zip(folds, products, strict=True):
        others = len(x) - len(fold)
        x_sum, y_sum = x[fold].sum(dim=0), y[fold].sum(dim=0)
        x_mean, y_mean = -x_sum / others, -y_sum / others  # all rows add up to 0
        means = torch.outer(x_mean, y_mean)
        train = total - product - others * means
        test = product - torch.outer(x_mean, y_sum) - torch.outer(x_sum, y_mean) + len(fold) * means
        moments.append((train, test, (x[fold] - x_mean).square().sum(dim=0)))
    return moments


def _match(train: torch.Tensor, test: torch.Tensor) -> float:
    """``<test, U V'>`` for the singular vectors of `train`: how well its rotation fits another fold.

    By the eigenvectors of the smaller product, which takes half a singular value decomposition. Directions without
    a singular value, which any rotation would fit, count nothing.
    """
    if not train.any():
        return 0.0
    if len(train) > train.shape[1]:
        train, test = train.T, test.T
    power, axes = torch.linalg.eigh(train @ train.T)
    kept = power > power[-1] * len(power) * ROUND_OFF
    axes = axes[:, kept]
    return float((((axes.T @ train) * (axes.T @ test)).sum(dim=1) / power[kept].sqrt()).sum())


def _least(error: Callable[[float], float], grid: Sequence[float]) -> float:
    """The grid value of least error, from coarse to fine."""
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
