"""Which transformation relates two networks' latent spaces, and can they be stitched?

The public names of the method, imported on first use so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invariances.alignment import Interval, align, interval
    from invariances.discovery import Report, Verdict, discover
    from invariances.similarity import METRICS, cka, compare, cosine, procrustes
    from invariances.spaces import SpaceError
    from invariances.stitching import Codes, Stitchable, stitch
    from invariances.transforms import Absolute, Affine, Orthogonal, Relative, Scale

__version__ = "0.1.0"

_HOMES = {
    "alignment": ("align", "interval", "Interval"),
    "discovery": ("discover", "Report", "Verdict"),
    "similarity": ("METRICS", "compare", "cosine", "cka", "procrustes"),
    "spaces": ("SpaceError",),
    "stitching": ("stitch", "Codes", "Stitchable"),
    "transforms": ("Absolute", "Scale", "Relative", "Affine", "Orthogonal"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METRICS",
    "Absolute",
    "Affine",
    "Codes",
    "Interval",
    "Orthogonal",
    "Relative",
    "Report",
    "Scale",
    "SpaceError",
    "Stitchable",
    "Verdict",
    "align",
    "cka",
    "compare",
    "cosine",
    "discover",
    "interval",
    "procrustes",
    "stitch",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'invariances' has no attribute {name!r}")
    return getattr(importlib.import_module(f"invariances.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
