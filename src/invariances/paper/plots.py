"""What all figures share: panels, one legend, colours, and the words for those who cannot see them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from seaborn.utils import relative_luminance

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "DPI", "HOLLOW", "WIDTH", "Drawing", "draw_heatmap", "draw_legend", "panels"]

WIDTH, DPI = 6.9, 130
"""Inches across a page of the book, where 100 pixels are shown for one, and pixels drawn for one: text of 7 points is
shown at 9.7 pixels."""
COLORS = {
    "absolute": "#777777",
    "scale": "#56b4e9",
    "relative": "#0072b2",
    "affine": "#d55e00",
    "orthogonal": "#009e73",
    "product": "#cc79a7",
    "similarity": "#e69f00",
}
"""Of an invariance in every figure; Okabe and Ito's palette, which colour-blind people can tell apart."""
HOLLOW = {"relative-centered": "relative", "orthogonal+translation": "orthogonal"}
"""Invariances that are drawn as hollow marks in another's colour, since they differ from it by a centring."""


@dataclass(frozen=True)
class Drawing:
    """A figure with its alternative text, as a notebook shows it; the book finds the text in the output's metadata."""

    figure: Figure
    alt: str

    def __post_init__(self) -> None:
        plt.close(self.figure)  # so that a notebook shows it once, as the value of its cell

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.03)
        picture = base64.b64encode(buffer.getvalue()).decode()
        return {"image/png": picture, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def panels(
    count: int, columns: int, size: tuple[float, float], extra_height: float = 0.0, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, at most `columns` in a line.

    Parameters
    ----------
    count, columns : int
    size : two floats
        Width and height of a panel, in inches.
    extra_height : float
        What the figure is higher by, for a legend.
    sharey : bool
        Whether the panels have one vertical axis.
    """
    columns = min(columns, count)
    lines = -(-count // columns)
    whole = (size[0] * columns, extra_height + size[1] * lines)
    figure, axes = plt.subplots(lines, columns, figsize=whole, squeeze=False, sharey=sharey, layout="constrained")
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])


def draw_heatmap(ax: Axes, cells: pd.DataFrame, texts: np.ndarray, size: float, **options: Any) -> None:
    """Draw a matrix with its names and a text in every cell, as seaborn does.

    For many panels: seaborn draws the whole figure anew for each, to see whether names overlap.

    Parameters
    ----------
    ax : Axes
    cells : DataFrame
        The colours' values.
    texts : array of str
        Of the same shape.
    size : float
        Of the texts, in points.
    **options
        As for matplotlib's ``pcolormesh``.
    """
    mesh: Any = ax.pcolormesh(cells, **options)
    ax.invert_yaxis()
    ax.set_xticks(np.arange(cells.shape[1]) + 0.5, cells.columns)
    ax.set_yticks(np.arange(cells.shape[0]) + 0.5, cells.index)
    ax.spines[:].set_visible(False)
    mesh.update_scalarmappable()
    for (line, column), colour in zip(np.ndindex(cells.shape), mesh.get_facecolors(), strict=True):
        text_colour = ".15" if relative_luminance(colour) > 0.408 else "w"
        place = {"ha": "center", "va": "center", "color": text_colour, "fontsize": size}
        ax.text(column + 0.5, line + 0.5, str(texts[line, column]), **place)


def draw_legend(figure: Figure, axes: list[Axes], columns: int = 4, place: str = "lower", **options: object) -> None:
    """Draw one legend for all panels, each entry once."""
    entries: dict = {}
    for ax in axes:
        entries |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    place = f"outside {place} center"
    figure.legend(entries.values(), entries.keys(), loc=place, ncols=columns, frameon=False, **options)
