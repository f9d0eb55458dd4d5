"""Augmentation of batches of pictures, as they are stored: uint8, before they are scaled to [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["AUGMENTED_PARTS", "augmentation"]


AUGMENTED_PARTS = 16
"""Parts of a batch that are augmented apart: torchvision draws once for all pictures that it is given."""
SHIFT = 0.1
"""How far light augmentation moves pictures, at most: a share of their side."""


def augmentation(name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Crops, flips and distortions of a batch on its device; its parts draw their own, from torch's random stream.

    Parameters
    ----------
    name : "none", "light" or "heavy"

    Returns
    -------
    callable or None
        Maps a batch of shape (n, channels, pixels, pixels) to one of the same shape; None where nothing is changed.
    """
    if name == "none":
        return None
    transform = _light if name == "light" else _heavy()
    return lambda x: torch.cat([transform(part) for part in x.tensor_split(min(AUGMENTED_PARTS, len(x)))])


def _light(x: torch.Tensor) -> torch.Tensor:
    """Shift by whole pixels, and perhaps mirror.

    These are torchvision's `RandomAffine` without an angle and `RandomHorizontalFlip`, to the bit and from the same
    draws. That finds every pixel in an interpolated grid; a shift is a copy, which takes less than a quarter of the
    time.
    """
    height, width = x.shape[-2:]
    _uniform(0.0)  # the angle
    right, down = round(_uniform(SHIFT * width)), round(_uniform(SHIFT * height))
    shifted = torch.zeros_like(x)
    rows, from_rows = _overlap(down, height)
    columns, from_columns = _overlap(right, width)
    shifted[..., rows, columns] = x[..., from_rows, from_columns]
    return shifted.flip(-1) if torch.rand(1) < 0.5 else shifted


def _uniform(bound: float) -> float:
    """One number between -bound and bound."""
    return torch.empty(1).uniform_(-bound, bound).item()


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Where a shifted line of pixels lands, and which of its pixels do."""
    there, here = slice(max(shift, 0), size + min(shift, 0)), slice(max(-shift, 0), size - max(shift, 0))
    return there, here


def _heavy() -> Callable[[torch.Tensor], torch.Tensor]:
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomAffine(degrees=(-20, 20), translate=(0.2, 0.2), scale=(0.7, 1.3)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.4, contrast=0.4),
            v2.RandomErasing(p=0.5),
        ]
    )
