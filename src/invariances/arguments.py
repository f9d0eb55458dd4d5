"""Arguments: whole numbers and arrays checked, values shown in messages."""

from __future__ import annotations

import textwrap
from numbers import Integral, Real

import numpy as np
import torch

from invariances.errors import SpaceError

__all__ = ["as_array", "check_whole", "is_number", "shown"]


def check_whole(value: object, name: str, least: int = 0) -> None:
    """Refuse what is no whole number of at least `least`, or too large for a seed; a bool is none."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise SpaceError(f"{name} is {shown(value)}; give a whole number of at least {least}")
    if int(value) >= 2**63:
        raise SpaceError(f"{name} is {shown(value)}; give a whole number below 2**63")


def is_number(value: object) -> bool:
    """Whether a value is a real number; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value as a message shows it, on one line and short."""
    return textwrap.shorten(repr(value), 60, placeholder=" ...") if len(repr(value)) > 60 else repr(value)


def as_array(values: object) -> np.ndarray | None:
    """An array of a sequence or tensor; None where its parts are of different lengths, or nothing is there."""
    try:
        return values.numpy(force=True) if isinstance(values, torch.Tensor) else np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        return None
