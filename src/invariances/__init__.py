"""Which transformation relates two networks' latent spaces, and can they be stitched?

The public names of the method, imported on first use so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invariances.alignment import align
    from invariances.discovery import Report, Verdict, discover
    from invariances.pairs import Interval, difference, interval, rank_prediction
    from invariances.product import Product
    from invariances.similarity import METRICS, cka, compare, cosine, pairwise, procrustes
    from invariances.stitching import Codes, Stitchable, stitch
    from invariances.transforms import (
        INVARIANCES,
        Absolute,
        Affine,
        IsotropicScale,
        Orthogonal,
        Permutation,
        Relative,
        Scale,
        Similarity,
        Translation,
    )

__version__ = "0.1.0"

_HOMES = {
    "alignment": ("align",),
    "discovery": ("discover", "Report", "Verdict"),
    "pairs": ("interval", "difference", "Interval", "rank_prediction"),
    "product": ("Product",),
    "similarity": ("METRICS", "compare", "pairwise", "cosine", "cka", "procrustes"),
    "errors": ("InvariancesError", "SpaceError"),
    "spaces": ("Rows",),
    "stitching": ("stitch", "Codes", "Stitchable"),
    "transforms": (
        "INVARIANCES",
        "Absolute",
        "Scale",
        "Relative",
        "Affine",
        "Orthogonal",
        "Similarity",
        "Translation",
        "IsotropicScale",
        "Permutation",
    ),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "INVARIANCES",
    "METRICS",
    "Absolute",
    "Affine",
    "Codes",
    "Interval",
    "InvariancesError",
    "IsotropicScale",
    "Orthogonal",
    "Permutation",
    "Product",
    "Relative",
    "Report",
    "Rows",
    "Scale",
    "Similarity",
    "SpaceError",
    "Stitchable",
    "Translation",
    "Verdict",
    "align",
    "cka",
    "compare",
    "cosine",
    "difference",
    "discover",
    "interval",
    "pairwise",
    "procrustes",
    "rank_prediction",
    "stitch",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'invariances' has no attribute {name!r}")
    return getattr(importlib.import_module(f"invariances.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
