"""The figures of a report, as SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from invariances.groups import ordered_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["before_and_after", "ladder_of_maps", "models_by_models", "singular_values", "what_is_found"]

WIDTH = 4.3
"""Inches: so that text stays readable where the figure is as wide as a phone."""
INK, MUTED, ACCENT, SECOND = "#010203", "#040506", "#070809", "#0a0b0c"
"""Stand in the drawing for what the page calls by name, in light and dark."""
NAMES = {INK: "var(--ink)", MUTED: "var(--muted)", ACCENT: "var(--accent)", SECOND: "var(--second)"}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def _svg(draw: Callable[[Figure], None], height: float, name: str) -> str:
    """Draw on a figure of one's own, and give it as inline SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.S)
    drawn = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", drawn)
    drawn = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', drawn, count=1
    )
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawn)  # one page holds several drawings
    for stand_in, called in NAMES.items():
        drawn = drawn.replace(stand_in, called)
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", drawn)


def ladder_of_maps(ladder: pd.DataFrame) -> str:
    """Bars of the held-out variance that each class of maps explains; the chosen one stands out.

    Parameters
    ----------
    ladder : DataFrame
        As `Report.ladder`.
    """
    explained = ladder.explained_variance
    lowest = min(0.0, max(-0.5, float(explained.min())))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        # a map into a wrong place explains less than nothing; its number says how much
        colours = [ACCENT if chosen else MUTED for chosen in ladder.chosen]
        bars = axes.barh(ladder["class"], explained.clip(lower=lowest), color=colours, height=0.65)
        for bar, value in zip(bars, explained, strict=True):
            end = (max(bar.get_width(), 0), bar.get_y() + bar.get_height() / 2)
            axes.annotate(f"{value:.2f}", end, xytext=(4, 0), textcoords="offset points", va="center")
        axes.invert_yaxis()
        axes.set_xlim(lowest, 1.15)
        axes.set_xlabel("share of the held-out variance explained")

    return _svg(draw, 0.6 + 0.27 * len(ladder), "ladder")


def what_is_found(retrieval: pd.DataFrame) -> str:
    """Points with intervals: what mapped vectors find, for each ordered pair, beside chance.

    Parameters
    ----------
    retrieval : DataFrame
        As `Report.retrieval`.
    """
    names = [f"{a} → {b}" for a, b in zip(retrieval.model_a, retrieval.model_b, strict=True)]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = np.arange(len(names))
        series = (("top1", "its counterpart, first", ACCENT, -0.15), ("overlap", "its neighbours", SECOND, 0.15))
        for score, label, colour, shift in series:
            mean = retrieval[score]
            bounds = [mean - retrieval[f"{score}_low"], retrieval[f"{score}_high"] - mean]
            axes.errorbar(mean, rows + shift, xerr=bounds, fmt="o", color=colour, markersize=4, label=label)
            axes.plot(retrieval[f"{score}_chance"], rows + shift, "|", color=colour, markersize=7)
        axes.set_yticks(rows, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel("share found (bar: 95 % over samples, stroke: chance)")
        figure.legend(loc="outside upper center", frameon=False, ncols=2)

    return _svg(draw, 1.1 + 0.34 * len(names), "found")


def models_by_models(retrieval: pd.DataFrame) -> str:
    """A heatmap of what mapped vectors find first, models that are alike side by side.

    Parameters
    ----------
    retrieval : DataFrame
        As `Report.retrieval`.
    """
    matrix = ordered_matrix(retrieval)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        values = matrix.to_numpy(dtype=float)
        axes.imshow(values, vmin=0, vmax=1, cmap="cividis")
        ticks = np.arange(len(matrix))
        axes.set_xticks(ticks, matrix.columns, rotation=90)
        axes.set_yticks(ticks, matrix.index)
        if len(matrix) <= 12:
            for i, j in zip(*np.nonzero(np.isfinite(values)), strict=True):
                shade = "white" if values[i, j] < 0.6 else "black"
                axes.text(j, i, f"{100 * values[i, j]:.0f}", ha="center", va="center", color=shade, fontsize=8)
        axes.set_ylabel("vectors of")
        axes.set_xlabel("mapped into the space of")

    return _svg(draw, 4.3, "models")


def singular_values(values: pd.DataFrame) -> str:
    """T's singular values beside those of a simulated rotation with equal noise, for the first pair.

    Parameters
    ----------
    values : DataFrame
        As `invariances.Ladder.singular_values`.
    """
    first = values[(values.model_a == values.model_a.iloc[0]) & (values.model_b == values.model_b.iloc[0])]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(first["index"], first.value, color=ACCENT, label="T")
        axes.plot(first["index"], first.simulated, color=SECOND, linestyle="--", label="a rotation with equal noise")
        axes.set_xlabel("axis, by the variance that T gives it")
        axes.set_ylabel("singular value")
        axes.set_ylim(0, 1.25 * float(max(first.value.max(), first.simulated.max())))
        axes.legend(frameon=False)

    return _svg(draw, 2.8, "singular")


def before_and_after(examples: pd.DataFrame) -> str:
    """Held-out samples on the target's two principal axes: the target's, and the source's as they are or mapped.

    Parameters
    ----------
    examples : DataFrame
        As `invariances.transfer.examples` returns them.
    """
    source, target = examples.model_a.iloc[0], examples.model_b.iloc[0]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for panel, which, title in zip(panels, ("before", "after"), ("as it is", "mapped"), strict=True):
            moved = examples[examples.vectors == which]
            known = examples[examples.vectors == "target"]
            for (_, one), (_, other) in zip(moved.iterrows(), known.iterrows(), strict=True):
                panel.plot([one.x, other.x], [one.y, other.y], color=MUTED, linewidth=0.4, zorder=1)
            panel.scatter(known.x, known.y, s=9, color=SECOND, label=target)
            panel.scatter(moved.x, moved.y, s=9, color=ACCENT, marker="^", label=source)
            panel.set_title(f"{source} {title}", fontsize=9)
            panel.set_xticks([])
            panel.set_yticks([])
        panels[0].legend(frameon=False, fontsize=8)

    return _svg(draw, 2.4, "samples")
