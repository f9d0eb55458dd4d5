"""What all figures share: panels, one legend, colours, light and dark, and words for those who cannot see them."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from seaborn.utils import relative_luminance

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "HOLLOW",
    "MANY",
    "WIDTH",
    "Drawing",
    "as_svg",
    "data_in",
    "draw_heatmap",
    "draw_legend",
    "panels",
    "save_svg",
]

WIDTH, SHOWN, DPI = 6.9, 100, 200
"""Inches across a page of the book, pixels that the page shows for an inch (text of 7 points is 9.7 pixels high), and
pixels that are drawn for one where marks are too many for vectors."""
MANY = 400
"""Marks in one panel from which on they are drawn as pixels: vectors would be larger."""
PAPER, INK = (0x12, 0x12, 0x12), (0xCE, 0xD6, 0xDD)
"""Background and text of the book's dark pages; greys lie between them."""
ON_LIGHT, ON_DARK = "#262627", "#fffffe"
"""Text on a coloured cell: almost greys, which stay as they are on a dark page."""
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1"'
GREY = re.compile(r"#([0-9a-f]{2})\1\1\b")
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
    """A figure as a notebook shows it; alternative text and caption stand in the output's metadata."""

    figure: Figure
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        plt.close(self.figure)  # so that a notebook shows it once, as the value of its cell

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        words = {"alt": self.alt, "caption": self.caption}
        return {"image/svg+xml": as_svg(self.figure), "text/plain": self.alt}, {"image/svg+xml": words}


def data_in(name: str) -> str:
    """Where the numbers of a figure are, as the end of its caption."""
    return f" Data: {{download}}`{name}.csv`."


def as_svg(figure: Figure) -> str:
    """A figure as SVG that is as wide as the book shows it, with greys that turn where the page around it is dark.

    Parameters
    ----------
    figure : matplotlib Figure
        Black, white and greys are for what belongs to the page; colours stay as they are.

    Returns
    -------
    str
        The same figure gives the same text. Words are text, not outlines.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure"}):
        figure.savefig(
            buffer,
            format="svg",
            dpi=DPI,
            bbox_inches="tight",
            pad_inches=0.03,
            facecolor="none",
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"\s*<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", drawn)
    drawn = re.sub(r"font: (?:bold|700) ([\d.]+px) [^;\"]*", r"font-size: \1; font-weight: bold", drawn)
    drawn = re.sub(r"<[^>]*>", _rounded, drawn)
    drawn = _counted_names(drawn)
    drawn, classes = _named_styles(drawn)
    greys = sorted({found.group(0) for found in GREY.finditer(drawn + classes)} | {"#000000"})
    drawn, classes = (GREY.sub(lambda found: f"var(--{found.group(1)})", text) for text in (drawn, classes))
    width, height = (float(size) for size in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)[0])
    shown = f'width="{width * SHOWN / 72:.0f}" height="{height * SHOWN / 72:.0f}"'
    drawn = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf"<svg {NAMESPACES} \1 {shown}>", drawn, count=1)
    return drawn.replace("</svg>", "").rstrip() + f"\n<style>{_colors(greys)}{classes}</style>\n</svg>\n"


def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure as `as_svg` draws it, and close it."""
    path.write_text(as_svg(figure), encoding="utf-8")
    plt.close(figure)


def _counted_names(drawn: str) -> str:
    """Names of parts by their order: matplotlib's hash the last digits of coordinates."""
    order = {name: f"p{i}" for i, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]*)"', drawn)))}
    return re.sub(r'(\bid="|url\(#|href="#)([^")]*)', lambda found: found.group(1) + order[found.group(2)], drawn)


def _rounded(tag: re.Match[str]) -> str:
    """A tag whose coordinates have two digits behind the point; words stand between tags, and stay as they are."""
    return re.sub(r"(?<![\w.])(\d+\.\d\d)\d+", r"\1", tag.group(0))


def _named_styles(drawn: str) -> tuple[str, str]:
    """Styles that marks share, as classes: thousands of marks repeat them."""
    counts = Counter(re.findall(r'style="([^"]*)"', drawn))
    names = {style: f"s{i}" for i, (style, count) in enumerate(counts.items()) if count > 3}

    def named(found: re.Match[str]) -> str:
        name = names.get(found.group(1))
        return f'class="{name}"' if name else found.group(0)

    return re.sub(r'style="([^"]*)"', named, drawn), "".join(f".{name}{{{style}}}" for style, name in names.items())


def _colors(greys: list[str]) -> str:
    """Greys by name, for light and for dark."""
    light = "".join(f"--{grey[1:3]}:{grey};" for grey in greys)
    dark = "".join(f"--{grey[1:3]}:{_turned(int(grey[1:3], 16))};" for grey in greys)
    return (
        f"svg{{{light}fill:var(--00);font-family:'DejaVu Sans',Verdana,sans-serif}}"
        f"@media (prefers-color-scheme: dark){{svg{{{dark}}}}}"
    )


def _turned(grey: int) -> str:
    """A grey of 0 to 255 as it is on a dark page."""
    mixed = (round(ink + (paper - ink) * grey / 255) for ink, paper in zip(INK, PAPER, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


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


def draw_heatmap(ax: Axes, cells: pd.DataFrame, texts: np.ndarray | None, size: float, **options: Any) -> None:
    """Draw a matrix with its names and, where there are texts, one in every cell, as seaborn does.

    For many panels: seaborn draws the whole figure anew for each, to see whether names overlap.

    Parameters
    ----------
    ax : Axes
    cells : DataFrame
        The colours' values.
    texts : array of str, optional
        Of the same shape.
    size : float
        Of the texts, in points.
    **options
        As for matplotlib's ``pcolormesh``.
    """
    mesh: Any = ax.pcolormesh(cells, rasterized=cells.size > MANY, **options)
    ax.invert_yaxis()
    ax.set_xticks(np.arange(cells.shape[1]) + 0.5, cells.columns)
    ax.set_yticks(np.arange(cells.shape[0]) + 0.5, cells.index)
    ax.spines[:].set_visible(False)
    if texts is None:
        return
    mesh.update_scalarmappable()
    for (line, column), colour in zip(np.ndindex(cells.shape), mesh.get_facecolors(), strict=True):
        text_colour = ON_LIGHT if relative_luminance(colour) > 0.408 else ON_DARK
        place = {"ha": "center", "va": "center", "color": text_colour, "fontsize": size}
        ax.text(column + 0.5, line + 0.5, str(texts[line, column]), **place)


def draw_legend(figure: Figure, axes: list[Axes], columns: int = 4, place: str = "lower", **options: object) -> None:
    """Draw one legend for all panels, each entry once."""
    entries: dict = {}
    for ax in axes:
        entries |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    place = f"outside {place} center"
    figure.legend(entries.values(), entries.keys(), loc=place, ncols=columns, frameon=False, **options)
