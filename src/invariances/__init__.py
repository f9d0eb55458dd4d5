"""Which transformation relates two networks' latent spaces, and can they be stitched?

The public names of the method, imported on first use so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invariances.alignment import align
    from invariances.discovery import discover
    from invariances.errors import InvariancesError, SpaceError
    from invariances.fitted import FittedMap, read_map
    from invariances.intervals import Interval, difference, interval
    from invariances.ladders import Ladder, ladder
    from invariances.layerwise import layers
    from invariances.metrics.table import METRICS, cka, compare, cosine, pairwise, procrustes
    from invariances.migration import MapScore, fit_map, score_map
    from invariances.prediction import rank_prediction
    from invariances.product import Product
    from invariances.report import Report
    from invariances.represent import INVARIANCES, Invariance
    from invariances.rows import Rows
    from invariances.stitching import Codes, Quality, Stitchable, stitch
    from invariances.streaming import apply_map
    from invariances.transforms import (
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
    from invariances.verdict import Verdict

__version__ = "0.2.0"

_NAMES = {
    "alignment": ("align",),
    "discovery": ("discover",),
    "errors": ("InvariancesError", "SpaceError"),
    "fitted": ("FittedMap", "read_map"),
    "intervals": ("Interval", "difference", "interval"),
    "ladders": ("Ladder", "ladder"),
    "layerwise": ("layers",),
    "metrics.table": ("METRICS", "cka", "compare", "cosine", "pairwise", "procrustes"),
    "migration": ("MapScore", "fit_map", "score_map"),
    "prediction": ("rank_prediction",),
    "product": ("Product",),
    "report": ("Report",),
    "represent": ("INVARIANCES", "Invariance"),
    "rows": ("Rows",),
    "stitching": ("Codes", "Quality", "Stitchable", "stitch"),
    "streaming": ("apply_map",),
    "transforms": (
        "Absolute",
        "Affine",
        "IsotropicScale",
        "Orthogonal",
        "Permutation",
        "Relative",
        "Scale",
        "Similarity",
        "Translation",
    ),
    "verdict": ("Verdict",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "INVARIANCES",
    "METRICS",
    "Absolute",
    "Affine",
    "Codes",
    "FittedMap",
    "Interval",
    "Invariance",
    "InvariancesError",
    "IsotropicScale",
    "Ladder",
    "MapScore",
    "Orthogonal",
    "Permutation",
    "Product",
    "Quality",
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
    "apply_map",
    "cka",
    "compare",
    "cosine",
    "difference",
    "discover",
    "fit_map",
    "interval",
    "ladder",
    "layers",
    "pairwise",
    "procrustes",
    "rank_prediction",
    "read_map",
    "score_map",
    "stitch",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'invariances' has no attribute {name!r}")
    return getattr(importlib.import_module(f"invariances.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
