"""Which invariance is best on a scale that means the same in every space: does a sample find its counterpart?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from invariances import zoo
from invariances.alignment import align
from invariances.intervals import interval
from invariances.paper import plan
from invariances.paper.aligned import ALIGNED, BY_RETRIEVAL
from invariances.paper.frames import across_groups, described, groups_of, save_table, shown_row
from invariances.paper.plots import COLORS, HOLLOW, WIDTH, Drawing, draw_legend, panels, save_svg
from invariances.paper.rows import TITLES
from invariances.paper.settings import Settings, check
from invariances.paper.tables import banner, markdown_table, mean_with_bounds, number
from invariances.rows import Rows
from invariances.zoo.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COMPARED", "figure", "look_up", "run", "table", "write_pages"]


COMPARED = {
    "absolute": "raw",
    "scale": "scale",
    "relative": "relative",
    "relative-centered": "relative, centred",
    "affine": "affine",
    "orthogonal": "rotation",
    "orthogonal+translation": "rotation + translation",
}
"""The invariances that are compared, the paper's four among them, and what tables and figures call them."""
SCORED = {"smoke": 100}
"""Samples that are looked up, where a profile does with fewer than it has."""
KINDS = ("trained", "untrained")
COLUMNS = [
    *("section", "row", "kind", "model_a", "model_b", "group_a", "group_b", "invariance", "metric"),
    *("score", "null", "null_within_class", "calibrated", "gallery", "k", "n_anchors", "data", "n_train", "profile"),
]
"""Of the study's table, one line per ordered pair of models and invariance; those of rows with two groups are across
them."""


def run(profile: str, into: Path) -> pd.DataFrame:
    """Look up every held-out sample of one model among those of another, for every row of the sections on alignment.

    Parameters
    ----------
    profile : str
    into : Path
        Gets ``retrieval.csv`` and what `write_pages` writes from it.
    """
    frame = pd.concat([look_up(check(section, {"profile": profile})) for section in ALIGNED])
    into.mkdir(parents=True, exist_ok=True)
    frame = save_table(frame, "retrieval", into)
    write_pages(frame, into)
    return frame


def look_up(settings: Settings) -> pd.DataFrame:
    """What is found under every invariance, for the rows of one section.

    Parameters
    ----------
    settings : Settings
        Of a section on alignment. Models that the store lacks are trained.

    Returns
    -------
    DataFrame with the columns `COLUMNS`
    """
    rows = plan.rows(settings)
    spaces, labels = _spaces(rows, settings)
    looked_up = align(
        spaces,
        anchors={row: np.arange(len(ids)) for row, ids in plan.anchors(rows).items()},
        invariances=tuple(COMPARED),
        metrics=(BY_RETRIEVAL,),
        labels=labels,
        workers=zoo.spread,
    )
    found = described(looked_up, rows, settings).groupby(["row", "kind"], sort=False)
    return pd.concat([across_groups(part) for _, part in found])[COLUMNS]


def _spaces(rows: Mapping[str, plan.PlannedRow], settings: Settings) -> tuple[Rows, Rows]:
    """The spaces of trained and untrained models, with as many samples as the profile looks up, and their labels."""
    recipes = {key: models for key, models in plan.compared(rows).items() if key[1] in KINDS}
    _train_missing(recipes, settings.device)
    anchors, most = plan.anchors(rows), SCORED.get(settings.profile)
    kept = {row: len(ids) + most if most else None for row, ids in anchors.items()}
    spaces, labels = zoo.embed(recipes, anchors, settings.device), zoo.labels(plan.one_model(rows), anchors)
    return (
        Rows(spaces, partial(_first_spaces, spaces=spaces, kept=kept)),
        Rows(labels, partial(_first_labels, labels=labels, kept=kept)),
    )


def _train_missing(recipes: Mapping[tuple[str, str], Mapping[str, Recipe]], device: str) -> None:
    zoo.train([recipe for models in recipes.values() for recipe in models.values()], device)


def _first_spaces(key: tuple[str, str], spaces: Rows, kept: Mapping[str, int | None]) -> dict[str, np.ndarray]:
    return {name: space[: kept[key[0]]] for name, space in spaces[key].items()}


def _first_labels(row: str, labels: Rows, kept: Mapping[str, int | None]) -> np.ndarray:
    return labels[row][: kept[row]]


def write_pages(frame: pd.DataFrame, into: Path) -> None:
    """Write what the book shows of the study: a table, a figure, and what its data are.

    Parameters
    ----------
    frame : DataFrame
        As saved in ``retrieval.csv``.
    into : Path
        Gets ``retrieval.md``, ``retrieval_banner.md`` and ``retrieval.svg``.
    """
    lines = table(frame)
    (into / "retrieval.md").write_text(markdown_table(lines.columns, lines.itertuples(index=False)), encoding="utf-8")
    words = banner(frame, frame.profile.iloc[0])
    (into / "retrieval_banner.md").write_text(words + "\n", encoding="utf-8")
    save_svg(figure(frame).figure, into / "retrieval.svg")


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The calibrated mean reciprocal rank by row and invariance, with its interval over models.

    Parameters
    ----------
    frame : DataFrame
        As saved in ``retrieval.csv``.

    Returns
    -------
    DataFrame
        One line a row. *Within classes* is what shuffling within classes leaves of the highest of them, on the same
        scale: a class is easier to find than a sample.
    """
    lines = []
    ours = frame[frame.kind == "trained"]
    for row, part in ours.groupby("row", sort=False):
        means = part.groupby("invariance").calibrated.mean()
        best = part[part.invariance == means.idxmax()]
        within = (best.null_within_class - best.null) / (1 - best.null)
        spans = {name: interval(part[part.invariance == name], "calibrated", groups_of(part)) for name in COMPARED}
        untrained = frame[(frame.kind == "untrained") & (frame.row == row)]
        of_best = untrained[untrained.invariance == means.idxmax()]
        lines.append(
            {"Row": shown_row(part)}
            | {COMPARED[name].capitalize(): mean_with_bounds(span) for name, span in spans.items()}
            | {
                "Highest": COMPARED[str(means.idxmax())],
                "Within classes": number(within.mean()),
                "Untrained": number(of_best.calibrated.mean()),
            }
        )
    return pd.DataFrame(lines)


def figure(frame: pd.DataFrame) -> Drawing:
    """The calibrated mean reciprocal rank by invariance, a panel a section and a line a row, with intervals."""
    ours = frame[frame.kind == "trained"]
    heights = ours.groupby("section", sort=False).row.nunique()
    drawn, axes = panels(len(heights), 1, (WIDTH, 1.0 + 0.42 * heights.max()), extra_height=0.6)
    for (section, part), ax in zip(ours.groupby("section", sort=False), axes, strict=True):
        _draw_rows(ax, part)
        ax.set_title(TITLES[str(section)], fontsize=11, loc="left")
    axes[-1].set_xlabel("calibrated mean reciprocal rank among 500: 0 is chance, 1 every sample found first")
    draw_legend(drawn, axes, columns=4)
    return Drawing(
        drawn,
        "How well samples find their counterparts in another model, by invariance: calibrated mean reciprocal rank "
        f"with 95 % intervals over models, a line for each of {ours.row.nunique()} rows",
        "How well held-out samples find their counterparts among 500 of another model, by invariance: calibrated mean "
        "reciprocal rank, with 95 % intervals over models.",
    )


def _draw_rows(ax: Axes, part: pd.DataFrame) -> None:
    rows = list(part.row.drop_duplicates())
    for aside, (name, title) in zip(np.linspace(-0.3, 0.3, len(COMPARED)), COMPARED.items(), strict=True):
        spans = [
            interval(own[own.invariance == name], "calibrated", groups_of(own))
            for _, own in part.groupby("row", sort=False)
        ]
        y = np.arange(len(rows)) + aside
        color = COLORS[HOLLOW.get(name, name)]
        ax.hlines(y, [span.low for span in spans], [span.high for span in spans], color=color, linewidth=1.5)
        face = "white" if name in HOLLOW else color
        ax.plot([span.mean for span in spans], y, "o", color=color, markerfacecolor=face, markersize=4.5, label=title)
    ax.set_yticks(range(len(rows)), [fill(shown_row(part[part.row == row]), 36) for row in rows])
    ax.set(xlim=(-0.05, 1.05), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(axis="x", color="0.93")
    ax.set_axisbelow(True)
