"""The figure of the front page: every reported number of the paper beside the measured one, with chance marked."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from invariances.paper.aligned import ALIGNED
from invariances.paper.frames import across_groups, over_groups, shown_row
from invariances.paper.plots import COLORS, WIDTH, Drawing, draw_legend
from invariances.paper.reported import ALIGNMENT, stitching_beside

__all__ = ["draw", "numbers"]


NAMES = {"absolute": "raw", "relative": "rotation (relative)", "affine": "affine"}
"""The invariances that are drawn: under cosine, scale is raw."""
PANELS = {"alignment": "Alignment: cosine of the same samples", "stitching": "Stitching: share of unstitched kept"}


def numbers(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Reported and measured numbers of all rows of the paper, with chance.

    Parameters
    ----------
    frames : mapping from sections to DataFrame
        The tidy tables.

    Returns
    -------
    DataFrame
        panel, row, invariance, reported, measured, chance. Of stitching, both are shares: of the F1 of models that are
        not stitched, or of the gap in error between absolute stitching and these; chance is shuffled anchors.
    """
    lines = []
    for section in ALIGNED:
        for row, cells in ALIGNMENT[section].items():
            part = across_groups(frames[section][frames[section].row == row])
            part = part[part.kind == "trained"]
            for name in NAMES if len(part) else ():
                own = part[part.invariance == name]
                key = ("alignment", shown_row(part), name)
                lines.append((*key, cells[name].mean, own.score.mean(), own.null.mean()))
    frame = frames["stitching"]
    for row in frame.row.drop_duplicates():
        cells = stitching_beside(row)
        part = over_groups(across_groups(frame[(frame.row == row) & (frame.control == "none")]))
        shuffled = across_groups(frame[(frame.row == row) & (frame.control == "shuffled anchors")])
        if part.empty or not cells:
            continue
        own = part.groupby("invariance").score.mean()
        ceiling, lost = part[part.invariance == "absolute"].ceiling.mean(), own["absolute"]
        errors = part.metric.iloc[0] == "mse"
        for name in ("relative", "affine"):
            chance = shuffled[shuffled.invariance == name].score.mean()
            reported = [cells[name].mean, cells["absolute"].mean, cells["ceiling"].mean]
            share = [_share(value, lost, ceiling, errors) for value in (own[name], chance)]
            lines.append(("stitching", row, name, _share(*reported, errors), *share))
    return pd.DataFrame(lines, columns=["panel", "row", "invariance", "reported", "measured", "chance"])


def _share(value: float, absolute: float, ceiling: float, errors: bool) -> float:
    return (absolute - value) / (absolute - ceiling) if errors else value / ceiling


def draw(frames: Mapping[str, pd.DataFrame]) -> Drawing:
    """Reported and measured numbers of all rows, a band a row and a line an invariance.

    Parameters
    ----------
    frames : mapping from sections to DataFrame
        The tidy tables.
    """
    found = numbers(frames)
    kept = [panel for panel in PANELS if (found.panel == panel).any()]
    heights = [found[found.panel == panel].row.nunique() + 0.8 for panel in kept]
    size = (WIDTH, 0.9 + 0.44 * sum(heights))
    figure, axes = plt.subplots(
        len(kept), 1, figsize=size, height_ratios=heights, sharex=True, layout="constrained", squeeze=False
    )
    for panel, ax in zip(kept, axes.flat, strict=True):
        _draw_panel(ax, found[found.panel == panel])
        ax.set_title(PANELS[panel], fontsize=10, loc="left")
    draw_legend(figure, list(axes.flat), columns=3, fontsize=8.5)
    rows = len(found.drop_duplicates(["panel", "row"]))
    return Drawing(
        figure,
        f"Reported against measured numbers for {rows} rows of the paper: alignment of raw spaces, by "
        "relative representations and after an affine map, and the share that stitching keeps, with chance",
        "Reported (hollow) and measured (filled) numbers of the paper's tables, with what chance alone would give.",
    )


def _draw_panel(ax: Axes, part: pd.DataFrame) -> None:
    rows, names = list(part.row.drop_duplicates()), [name for name in NAMES if name in set(part.invariance)]
    for line in part.itertuples():
        y = rows.index(line.row) + (names.index(line.invariance) - (len(names) - 1) / 2) * 0.26
        color = COLORS[line.invariance]
        ax.plot([line.reported, line.measured], [y, y], color=color, linewidth=1, alpha=0.5)
        ax.plot(line.measured, y, "o", color=color, markersize=5.5)
        ax.plot(line.reported, y, "D", color=color, markerfacecolor="white", markersize=4.5)
        ax.plot([line.chance] * 2, [y - 0.12, y + 0.12], color="0.25", linewidth=1.2)
    for name in names:
        ax.plot([], [], "o", color=COLORS[name], label=f"{NAMES[name]}, measured")
    ax.plot([], [], "D", color="0.3", markerfacecolor="white", label="reported")
    ax.plot([], [], "|", color="0.25", markersize=9, label="chance")
    ax.set_yticks(range(len(rows)), [fill(row, 34) for row in rows], fontsize=8.5)
    ax.set(ylim=(len(rows) - 0.5, -0.5))
    for edge in range(1, len(rows)):
        ax.axhline(edge - 0.5, color="0.9", linewidth=0.8, zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.93")
    ax.set_axisbelow(True)
