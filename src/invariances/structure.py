"""The structure of T: an affine map described, beside a simulated rotation with equal noise."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch

from invariances.maps import Factor, Map, affine_map, factorise

__all__ = ["Structure", "structure"]

TINY = torch.finfo(torch.float64).tiny


class Structure(NamedTuple):
    """The affine T of one ordered pair, described."""

    described: dict[str, float]
    """On the principal axes that carry 95 % of the source's variance: ``singular_value_ratio``, T's largest to
    smallest singular value (near infinity where T loses rank); ``distance_from_rotation``, of its singular values
    from equal ones, relative; ``shift``, in units of the target's standard deviation. ``X_simulated`` is X for
    the rotation. All are 0 where T is constant."""
    singular_values: torch.Tensor
    """Of T on these axes, largest first."""
    simulated: torch.Tensor
    """Those of the rotation."""


def structure(
    source: torch.Tensor | Factor, target: torch.Tensor, seed: int = 0, fitted: Map | None = None
) -> Structure:
    """Describe the affine T of one ordered pair, beside a simulated scaled rotation with equal noise.

    Parameters
    ----------
    source, target : tensors of shape (k, d) and (k, m)
        Anchors of an ordered pair of models; of the source perhaps its `factorise`.
    seed : int
        Draws the rotation and its noise.
    fitted : Map, optional
        T, where it is known.

    Returns
    -------
    Structure
    """
    factor = source if isinstance(source, Factor) else factorise(source)
    fitted = affine_map(factor, target) if fitted is None else fitted
    turned = _scaled_rotation(factor, target, fitted, seed)
    ends = (fitted, target), (affine_map(factor, turned), turned)
    values, simulated = (_singular_values(each, factor) for each, _ in ends)
    described, of_simulated = (
        _describe(*end, factor, found) for end, found in zip(ends, (values, simulated), strict=True)
    )
    found = {}
    for name, value in described.items():
        found |= {name: value, f"{name}_simulated": of_simulated[name]}
    return Structure(found, values.cpu(), simulated.cpu())


def _scaled_rotation(factor: Factor, target: torch.Tensor, fitted: Map, seed: int) -> torch.Tensor:
    """A target that is the source turned, as large as T makes it, with the noise that T leaves; shape (k, m)."""
    power = factor.singular.square()
    centred = (factor.left * factor.singular) @ factor.right
    explained = centred @ fitted.weight.T
    spent = 1 + float((power / (power + fitted.penalty)).sum())  # degrees of freedom, intercept included
    squares = float((explained - (target - target.mean(dim=0))).square().sum()) / target.shape[1]
    noise = math.sqrt(squares / max(len(target) - spent, 1.0))
    size = float(explained.norm() / power.sum().sqrt().clamp_min(TINY))
    rotation, rng = _random_rotation(target.shape[1], centred.shape[1], seed)
    turned = size * (centred + factor.mean) @ rotation.T.to(target.device)
    drawn = torch.Generator().set_state(rng)
    return turned + noise * torch.randn(target.shape, generator=drawn, dtype=torch.float64).to(target.device)


@lru_cache(maxsize=4)
def _random_rotation(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random semi-orthogonal matrix, and the state in which it leaves the generator."""
    rng = torch.Generator().manual_seed(seed)
    left, _, right = torch.linalg.svd(
        torch.randn(rows, columns, generator=rng, dtype=torch.float64), full_matrices=False
    )
    return left @ right, rng.get_state()


def _singular_values(fitted: Map, factor: Factor) -> torch.Tensor:
    """On the principal axes that carry 95 % of the source's variance; elsewhere the ridge penalty fakes anisotropy."""
    share = factor.singular.square().cumsum(0) / factor.singular.square().sum().clamp_min(TINY)
    return torch.linalg.svdvals(fitted.weight @ factor.right[: int((share < 0.95).sum()) + 1].T)


def _describe(fitted: Map, target: torch.Tensor, factor: Factor, values: torch.Tensor) -> dict[str, float]:
    """T's largest over smallest singular value, its relative distance from a scaled rotation, its shift."""
    shift = (target.mean(dim=0) - fitted.weight @ factor.mean).norm() / target.std(dim=0).norm().clamp_min(TINY)
    ratio = off = 0.0
    if len(values):
        ratio = float(values[0] / values[-1].clamp_min(TINY))
        off = float((values - values.mean()).norm() / values.norm().clamp_min(TINY))
    return {"singular_value_ratio": ratio, "distance_from_rotation": off, "shift": float(shift)}
