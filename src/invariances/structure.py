"""The structure of T: an affine map described, beside a simulated rotation with equal noise."""

from __future__ import annotations

import math

import torch

from invariances.maps import Factor, Map, affine_map, factorise

__all__ = ["singular_values", "structure"]


def structure(source: torch.Tensor, target: torch.Tensor, seed: int = 0) -> dict[str, float]:
    """Describe the affine T of one ordered pair, beside a simulated scaled rotation with equal noise.

    Parameters
    ----------
    source, target : tensors of shape (k, d) and (k, m)
        Anchors of an ordered pair of models.
    seed : int
        Draws the rotation and its noise.

    Returns
    -------
    dict
        On the principal axes that carry 95 % of the source's variance: ``singular_value_ratio``, T's largest to
        smallest singular value (near infinity where T loses rank); ``distance_from_rotation``, of its singular values
        from equal ones, relative; ``shift``, in units of the target's standard deviation. ``X_simulated`` is X for
        the rotation.
    """
    factor = factorise(source)
    names = ("singular_value_ratio", "distance_from_rotation", "shift")
    measured, simulated = (
        _describe(fitted, factor, aim) for fitted, aim in _beside_rotation(factor, source, target, seed)
    )
    found = {}
    for name, value, reference in zip(names, measured, simulated, strict=True):
        found |= {name: value, f"{name}_simulated": reference}
    return found


def singular_values(source: torch.Tensor, target: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The singular values of T, and those of a simulated scaled rotation with equal noise, largest first.

    Parameters
    ----------
    source, target : tensors of shape (k, d) and (k, m)
        Anchors of an ordered pair of models.
    seed : int
        Draws the rotation and its noise.
    """
    factor = factorise(source)
    (measured, _), (reference, _) = _beside_rotation(factor, source, target, seed)
    return _singular_values(measured, factor), _singular_values(reference, factor)


def _beside_rotation(
    factor: Factor, source: torch.Tensor, target: torch.Tensor, seed: int
) -> tuple[tuple[Map, torch.Tensor], tuple[Map, torch.Tensor]]:
    """The affine T with its target, and that onto a scaled rotation of the source with equal noise, with its own."""
    fitted = affine_map(factor, target)
    power = factor.singular.square()
    explained = fitted(source) - target.mean(dim=0)
    spent = 1 + float((power / (power + fitted.penalty)).sum())  # degrees of freedom, intercept included
    squares = float((fitted(source) - target).square().sum()) / target.shape[1]
    noise = math.sqrt(squares / max(len(source) - spent, 1.0))
    size = float(explained.norm() / power.sum().sqrt().clamp_min(torch.finfo(torch.float64).tiny))
    rng = torch.Generator().manual_seed(seed)
    random = torch.randn(target.shape[1], source.shape[1], generator=rng, dtype=torch.float64)
    left, _, right = torch.linalg.svd(random, full_matrices=False)
    turned = size * source @ (left @ right).T
    turned = turned + noise * torch.randn(target.shape, generator=rng, dtype=torch.float64)
    return (fitted, target), (affine_map(factor, turned), turned)


def _singular_values(fitted: Map, factor: Factor) -> torch.Tensor:
    """On the principal axes that carry 95 % of the source's variance; elsewhere the ridge penalty fakes anisotropy."""
    share = factor.singular.square().cumsum(0) / factor.singular.square().sum().clamp_min(
        torch.finfo(torch.float64).tiny
    )
    return torch.linalg.svdvals(fitted.weight @ factor.right[: int((share < 0.95).sum()) + 1].T)


def _describe(fitted: Map, factor: Factor, target: torch.Tensor) -> tuple[float, float, float]:
    """T's largest over smallest singular value, its relative distance from a scaled rotation, its shift.

    The shift is in units of the target's standard deviation. All are 0 where T is constant.
    """
    tiny = torch.finfo(torch.float64).tiny
    values = _singular_values(fitted, factor)
    shift = (target.mean(dim=0) - fitted.weight @ factor.mean).norm() / target.std(dim=0).norm().clamp_min(tiny)
    if len(values) == 0:
        return 0.0, 0.0, float(shift)
    off = (values - values.mean()).norm() / values.norm().clamp_min(tiny)
    return float(values[0] / values[-1].clamp_min(tiny)), float(off), float(shift)
