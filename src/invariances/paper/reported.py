"""Every number of the paper's tables, as reported: mean and the spread printed beside it.

They are hypotheses to be compared with, never targets; nothing in this project is fitted to them.
Source: the paper's project page (Cannistraci et al., ICML TAG-ML workshop 2023).
"""

from __future__ import annotations

from typing import NamedTuple

from invariances.paper.rows import row_named

__all__ = ["ALIGNMENT", "Reported", "STITCHING", "stitching_beside"]


class Reported(NamedTuple):
    """A cell of a table."""

    mean: float
    spread: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.spread:.2f}"


_COLUMNS = ("absolute", "scale", "relative", "affine")


def _row(*cells: tuple[float, float]) -> dict[str, Reported]:
    return {column: Reported(*cell) for column, cell in zip(_COLUMNS, cells, strict=True)}


ALIGNMENT: dict[str, dict[str, dict[str, Reported]]] = {
    "initialization": {
        "MNIST": _row((0.23, 0.12), (0.45, 0.08), (0.94, 0.02), (0.91, 0.03)),
        "CIFAR-10": _row((0.18, 0.15), (0.38, 0.11), (0.89, 0.04), (0.86, 0.05)),
        "CIFAR-100": _row((0.16, 0.18), (0.35, 0.13), (0.84, 0.06), (0.82, 0.07)),
        "TREC": _row((0.31, 0.14), (0.52, 0.09), (0.91, 0.03), (0.88, 0.04)),
        "DBpedia": _row((0.28, 0.16), (0.49, 0.10), (0.93, 0.02), (0.90, 0.03)),
    },
    "architecture": {
        "CNN-3 vs CNN-5": _row((0.41, 0.11), (0.58, 0.08), (0.76, 0.06), (0.79, 0.05)),
        "ReLU vs GELU": _row((0.38, 0.13), (0.56, 0.09), (0.72, 0.07), (0.77, 0.06)),
        "ViT-Small vs ViT-Base": _row((0.44, 0.10), (0.61, 0.07), (0.79, 0.05), (0.82, 0.04)),
        "BERT vs RoBERTa": _row((0.52, 0.09), (0.67, 0.06), (0.81, 0.05), (0.85, 0.04)),
    },
    "training": {
        "CIFAR-10: SGD vs Adam": _row((0.47, 0.12), (0.64, 0.09), (0.83, 0.05), (0.81, 0.06)),
        "CIFAR-100: LR 0.001 vs 0.01": _row((0.51, 0.11), (0.68, 0.08), (0.86, 0.04), (0.84, 0.05)),
        "ImageNet: Aug Light vs Heavy": _row((0.39, 0.14), (0.57, 0.10), (0.71, 0.08), (0.75, 0.07)),
        "Amazon Reviews: Batch 32 vs 128": _row((0.54, 0.10), (0.71, 0.07), (0.88, 0.04), (0.86, 0.05)),
    },
}
"""Alignment by section, row and invariance."""

STITCHING: dict[str, dict[str, Reported]] = {
    "MNIST": {
        "ceiling": Reported(0.66, 0.02),
        "absolute": Reported(97.79, 2.48),
        "relative": Reported(2.83, 0.20),
        "affine": Reported(3.12, 0.25),
    },
    "CIFAR-10": {
        "ceiling": Reported(1.94, 0.08),
        "absolute": Reported(86.74, 4.37),
        "relative": Reported(5.39, 1.18),
        "affine": Reported(6.01, 1.32),
    },
    "TREC": {
        "ceiling": Reported(91.70, 1.39),
        "absolute": Reported(21.49, 3.64),
        "relative": Reported(75.89, 5.38),
        "affine": Reported(72.31, 6.12),
    },
    "Amazon (Cross-lingual)": {
        "ceiling": Reported(91.54, 0.58),
        "absolute": Reported(43.67, 1.09),
        "relative": Reported(78.53, 0.30),
        "affine": Reported(74.21, 0.45),
    },
}
"""Stitching by row; ``ceiling`` is the column "Non-Stitched". Errors are MSE x 1000 (the lineage's
code prints them so), F1 is in percent."""


def stitching_beside(row: str) -> dict[str, Reported]:
    """The reported numbers that a row of the stitching section stands beside, by space; none where there are none."""
    known = row_named(row)
    return STITCHING.get(known.beside if known else row, {})
