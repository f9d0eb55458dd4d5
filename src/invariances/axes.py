"""Axes that hold nearly all variance of a space, as transformers have them, and the space without these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from invariances.maps import factorise
from invariances.spaces import OpenSpace

__all__ = ["FewAxes", "Without", "few_axes"]

NEARLY_ALL = 0.9
"""Share of the variance from which a few axes are named."""
LEAST_AXES = 8
"""Axes that a space must have: of fewer, one or two always hold much."""
FEW = 50
"""One axis in so many counts as few, and one in any space."""


class FewAxes(NamedTuple):
    """The few principal axes that hold nearly all variance of a space's anchors."""

    axes: torch.Tensor
    """Shape (r, d), orthonormal rows."""
    mean: torch.Tensor
    """Of the anchors."""
    share: float
    """Of the anchors' variance."""

    def __len__(self) -> int:
        return len(self.axes)


def few_axes(anchors: torch.Tensor) -> FewAxes | None:
    """The leading principal axes, where one in 50 of them or fewer (or one) hold 90 % of the variance.

    Parameters
    ----------
    anchors : tensor of shape (k, d)

    Returns
    -------
    FewAxes or None
        None where no few axes hold as much.
    """
    factor = factorise(anchors)
    power = factor.singular.square()
    if len(power) < LEAST_AXES:
        return None
    shares = power.cumsum(0) / power.sum()
    count = int((shares < NEARLY_ALL).sum()) + 1
    if count > max(1, len(power) // FEW):
        return None
    return FewAxes(factor.right[:count], factor.mean, float(shares[count - 1]))


class Without:
    """An open space without some axes: what lies along them is put at its mean.

    Parameters
    ----------
    space : OpenSpace
    few : FewAxes
    """

    def __init__(self, space: OpenSpace, few: FewAxes) -> None:
        self.space, self.few = space, few
        self.shape, self.dtype = tuple(space.shape), torch.float64

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> torch.Tensor:
        x = self.space[rows].double()
        return x - (x - self.few.mean) @ self.few.axes.T @ self.few.axes
