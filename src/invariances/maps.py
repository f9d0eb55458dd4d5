"""Maps of one space onto another, fitted to anchors: pure, differentiable functions in float64."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch

from invariances.arguments import is_number
from invariances.errors import SpaceError
from invariances.spaces import check_range

__all__ = [
    "Factor",
    "Map",
    "Penalty",
    "affine_map",
    "constant_map",
    "factorise",
    "identity_map",
    "isotropic_scale_map",
    "orthogonal_map",
    "permutation_map",
    "ridge_penalty",
    "similarity_factor",
    "similarity_map",
    "translation_map",
]


Penalty: TypeAlias = "float | Literal['gcv', 'loo']"


class Map(NamedTuple):
    """An affine map ``x -> x @ weight.T + bias`` between spaces of widths d (source) and m (target)."""

    weight: torch.Tensor
    """Shape (m, d)."""
    bias: torch.Tensor
    """Shape (m,)."""
    penalty: float
    """The ridge penalty that was used; 0 for every other map."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Carry the rows of `x`, shape (n, d), into the target space.

        Raises
        ------
        SpaceError
            If the result leaves the range of its type.
        """
        return check_range(x @ self.weight.T.to(x) + self.bias.to(x))


class Factor(NamedTuple):
    """What fitting a ridge map needs of its source, computed once for all targets."""

    mean: torch.Tensor
    left: torch.Tensor
    singular: torch.Tensor
    right: torch.Tensor


def factorise(x: torch.Tensor) -> Factor:
    """Centre the source anchors, shape (k, d), and take their thin SVD, in float64."""
    x = x.double()
    mean = x.mean(dim=0)
    left, singular, right = torch.linalg.svd(x - mean, full_matrices=False)
    # against the uncentred norm, so that nothing is kept of what round-off leaves of a constant space
    kept = singular > x.norm() * max(x.shape) * torch.finfo(torch.float64).eps
    return Factor(mean, left[:, kept], singular[kept], right[kept])


def affine_map(source: torch.Tensor | Factor, target: torch.Tensor, penalty: Penalty = "gcv") -> Map:
    """Ridge regression with intercept of the target anchors on the source anchors.

    The penalty is a multiple of the mean squared singular value. It is given, or taken from a
    logarithmic grid where one of two closed forms is least, both with the intercept counted,
    without which the fit interpolates when k is about d + 1: ``"gcv"``, generalized
    cross-validation with the divisor ``1 - (sum f + 1) / k``, or ``"loo"``, leave-one-out with the
    leverages ``1/k + sum u^2 f``. Leave-one-out takes k m rank operations per grid value, GCV
    next to none. One penalty serves all target features, and they average out its error: with
    fewer than about 16 of them and k about d + 1, either score may settle on far too little.

    Parameters
    ----------
    source : tensor of shape (k, d), or its `factorise`
    target : tensor of shape (k, m)
    penalty : "gcv", "loo" or float

    Returns
    -------
    Map

    Raises
    ------
    SpaceError
        If `penalty` is none of these, or negative.
    """
    chosen = isinstance(penalty, str) and penalty in _SCORES
    if not chosen and not (is_number(penalty) and 0 <= penalty < math.inf):
        raise SpaceError(f"penalty is {penalty!r}; give 'gcv', 'loo' or a finite number of at least 0")
    factor = source if isinstance(source, Factor) else factorise(source)
    target = target.double()
    target_mean = target.mean(dim=0)
    power = factor.singular.square()
    projected = factor.left.T @ (target - target_mean)
    ridge = ridge_penalty(factor.left, power, projected, target, penalty)
    weight = ((factor.singular / (power + ridge)).unsqueeze(1) * projected).T @ factor.right
    return Map(weight, target_mean - weight @ factor.mean, float(ridge.detach()))


def ridge_penalty(
    left: torch.Tensor, power: torch.Tensor, projected: torch.Tensor, target: torch.Tensor, penalty: Penalty = "gcv"
) -> torch.Tensor:
    """The ridge penalty of a source by its singular vectors; see `affine_map`.

    Parameters
    ----------
    left : tensor of shape (k, r)
    power : tensor of shape (r,)
        Squared singular values.
    projected : tensor of shape (r, m)
        ``left.T @ (target - mean)``.
    target : tensor of shape (k, m)
    penalty : "gcv", "loo" or float
    """
    # summed, not averaged: a constant source has no singular values, and its map is the target's mean
    mean_power = power.sum() / max(1, len(power))
    if penalty not in _SCORES:
        return float(penalty) * mean_power
    grid = mean_power * torch.logspace(-10, 4, 113, dtype=torch.float64, device=power.device).unsqueeze(1)
    return grid[_SCORES[penalty](left, grid / (power + grid), projected, target).argmin(), 0]


# Both scores take `shrunk`, the 1 - f of every penalty and axis, shape (g, r), and `projected`, U.T @ y.
# Residuals and divisors are sums of 1 - f, never differences of numbers near 1: where the anchors have
# rank k - 1 both go to 0 with the penalty, and rounding noise would choose.


def _gcv(left: torch.Tensor, shrunk: torch.Tensor, projected: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Generalized cross-validation for each of g penalties."""
    k, rank = left.shape
    explained = projected.square().sum(dim=1)
    total = (target - target.mean(dim=0)).square().sum()
    unreached = k - 1 - rank  # directions of the target that no map of these anchors reaches
    outside = (total - explained.sum()).clamp_min(0) if unreached > 0 else torch.zeros_like(total)
    residual = shrunk.square() @ explained + outside
    divisor = (shrunk.sum(dim=1) + unreached) / k
    return residual / divisor.square()


def _loo(left: torch.Tensor, shrunk: torch.Tensor, projected: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum of squared leave-one-out residuals, ``r_i / (1 - h_i)``, for each of g penalties."""
    # what is out of reach: round-off where there is nothing, far below the sums of 1 - f > 1e-10 that it is added to
    unreached = ((1 - 1 / len(left)) - left.square().sum(dim=1)).clamp_min(0)
    outside = target - target.mean(dim=0) - left @ projected
    scores = []
    for kept in shrunk:  # one at a time: k x m each
        residual = left @ (kept.unsqueeze(1) * projected) + outside
        divisor = left.square() @ kept + unreached
        scores.append((residual / divisor.unsqueeze(1)).square().sum())
    return torch.stack(scores)


_SCORES = {"gcv": _gcv, "loo": _loo}


# Maps of the ladder, each (source, target) -> Map in float64. Unequal widths: the narrower space is
# padded with zeros, so that surplus source features are dropped and surplus target features stay 0.


def constant_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """The target's mean, whatever the source: the class of maps that knows no relation.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    return Map(torch.zeros_like(_eye(source, target)), target.double().mean(dim=0), 0.0)


def identity_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """The source as it is.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    return Map(_eye(source, target), torch.zeros_like(target[0].double()), 0.0)


def translation_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """The source shifted so that the anchors' means agree (least squares).

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    eye = _eye(source, target)
    return Map(eye, target.double().mean(dim=0) - eye @ source.double().mean(dim=0), 0.0)


def isotropic_scale_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """The source times one factor, ``<x, y> / <x, x>`` (least squares).

    The factor is negative where the spaces point in opposite directions, and 0 where no feature
    of the source that has a counterpart ever differs from 0.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    eye, target = _eye(source, target), target.double()
    padded = source.double() @ eye.T
    return Map(_factor(padded, target, 0.0) * eye, torch.zeros_like(target[0]), 0.0)


def orthogonal_map(source: torch.Tensor, target: torch.Tensor, center: bool = False) -> Map:
    """Orthogonal Procrustes: the rotation (or reflection) of the source closest to the target.

    Spaces of unequal width are related by a semi-orthogonal map, which equals zero-padding the
    narrower one first. Features are never standardised: that would not be Procrustes. The map is
    unique where the anchors' cross-product has rank min(d, m); with fewer anchors it is unique on
    their span only.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    center : bool
        Also fit a translation, from the anchors' means.
    """
    source, target = source.double(), target.double()
    source_mean = source.mean(dim=0) if center else torch.zeros_like(source[0])
    target_mean = target.mean(dim=0) if center else torch.zeros_like(target[0])
    left, _, right = torch.linalg.svd((target - target_mean).T @ (source - source_mean), full_matrices=False)
    weight = left @ right
    return Map(weight, target_mean - weight @ source_mean, 0.0)


def similarity_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """Rotation, one factor and a translation: Procrustes of the centred anchors, then least squares.

    The factor is 0 where the source is constant.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    rotation = orthogonal_map(source, target, center=True).weight
    weight = similarity_factor(source, target, rotation) * rotation
    return Map(weight, target.double().mean(dim=0) - weight @ source.double().mean(dim=0), 0.0)


def similarity_factor(source: torch.Tensor, target: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """The factor of a similarity whose rotation is known; see `similarity_map`.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    rotation : tensor of shape (m, d)
        Of the centred anchors.
    """
    source, target = source.double(), target.double()
    turned = (source - source.mean(dim=0)) @ rotation.T
    # what centring leaves of a constant source is round-off of this size
    noise = len(source) * torch.finfo(torch.float64).eps * float(source.detach().norm())
    return _factor(turned, target - target.mean(dim=0), noise)


def permutation_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """Every source feature becomes one target feature, so that ``<x P, y>`` is largest; no signs.

    A linear assignment on the uncentred cross-product, which is least squares since a permutation
    keeps the source's norm.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and seldom needed

    source, target = source.double(), target.double()
    gain = target.detach().T @ source.detach()
    rows, columns = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
    weight = torch.zeros_like(gain)
    weight[rows, columns] = 1.0
    return Map(weight, torch.zeros_like(target[0]), 0.0)


def _eye(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The identity between unequal widths, shape (m, d): zero-padding, or dropping the last features."""
    return torch.eye(target.shape[1], source.shape[1], dtype=torch.float64, device=source.device)


def _factor(source: torch.Tensor, target: torch.Tensor, noise: float) -> torch.Tensor:
    """The factor of `source` that comes closest to `target`; 0 where the source's norm is no more than `noise`."""
    power = source.square().sum()
    if float(power.detach()) <= noise**2:
        return torch.zeros_like(power)
    return (source * target).sum() / power
