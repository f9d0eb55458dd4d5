"""What structure T has, over all sections: a sentence a factor, a table of all rows, and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from invariances.ladders import ALL_PAIRS
from invariances.paper.aligned import ALIGNED
from invariances.paper.figures import LOWEST
from invariances.paper.frames import read_table, shown_row
from invariances.paper.plots import WIDTH, save_svg
from invariances.paper.rows import TITLES
from invariances.paper.tables import (
    banner,
    beyond_similarity,
    class_title,
    ladder,
    ladder_verdict,
    markdown_table,
    mean_with_bounds,
)

__all__ = ["SHOWN", "overview", "pages", "read", "write"]


SHOWN = {
    "identity": ("X", "0.5"),
    "orthogonal": ("o", "C0"),
    "orthogonal+translation": ("^", "C4"),
    "similarity": ("s", "C1"),
    "affine": ("D", "C2"),
}
"""The classes that the page shows, with their marker and colour."""


def write(results: str | Path, into: str | Path) -> None:
    """Write what the ladders of all sections say together: a sentence a factor, a table of all rows, and a figure.

    Parameters
    ----------
    results : path
        The folder of ``<section>_ladder.csv``.
    into : path
        Gets ``structure_banner.md``, ``structure_by_factor.md``, ``structure.md`` and ``structure.svg``.

    Raises
    ------
    RunError
        If a table is missing.
    """
    frames, into = read(results), Path(into)
    results_of_all = pd.concat([read_table(section, results) for section in ALIGNED])
    words = banner(results_of_all, results_of_all.profile.iloc[0])
    into.mkdir(parents=True, exist_ok=True)
    for name, text in {"structure_banner": words + "\n", **pages(frames)}.items():
        (into / f"{name}.md").write_text(text, encoding="utf-8")
    save_svg(overview(frames), into / "structure.svg")


def read(results: str | Path) -> dict[str, pd.DataFrame]:
    """The ladders of all sections that have one, by section."""
    return {section: read_table(f"{section}_ladder", results) for section in ALIGNED}


def pages(frames: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """What the ladder answers for every factor that models differ in, as Markdown by file: sentences, and all rows.

    Parameters
    ----------
    frames : mapping from sections to DataFrame
        As saved in ``<section>_ladder.csv``.
    """
    listed = {section: ladder(frame) for section, frame in frames.items()}
    sentences = [_sentence(TITLES[section], frames[section], rows) for section, rows in listed.items()]
    explained = {f"Explained by {class_title(name)}": f"By {class_title(name)}" for name in SHOWN}
    before = ["Structure of T", *explained]
    after = ["Singular values, largest / smallest", "Models", "Note"]
    titles = [*(explained.get(column, column) for column in before), "Affine beyond similarity", *after, "Data"]
    lines = []
    for section, rows in listed.items():
        parts = [part for _, part in frames[section].groupby("row", sort=False)]
        for line, part in zip(rows.to_dict("records"), parts, strict=True):
            beyond = beyond_similarity(part)
            cells = [f"[{line['Row']}](results/{section}.ipynb)", *(line[column] for column in before)]
            cells += [mean_with_bounds(beyond, 3), *(line[column] for column in after), line["Data"].partition(";")[0]]
            lines.append(cells)
    return {"structure_by_factor": "\n".join(sentences) + "\n", "structure": markdown_table(["Row", *titles], lines)}


def _sentence(title: str, frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    counts = rows["Structure of T"].value_counts()
    pairs = frame[frame.model_a != ALL_PAIRS]
    means = pairs[pairs["class"].isin(SHOWN)].groupby(["class", "row"]).explained_variance.mean()
    spans = [
        f"{class_title(name)} {means[name].min():z.2f} to {means[name].max():z.2f}"
        for name in SHOWN
        if name != "identity"
    ]
    named_rows = ", ".join(f"{name} in {count}" for name, count in counts.items())
    return (
        f"- **{title}**, {len(rows)} rows: {named_rows}. Share of the variance explained, by row: {', '.join(spans)}."
    )


def overview(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Explained variance by classes of maps, mean over pairs, a line for every row, and what the ladder chose."""
    heights = [frame.row.nunique() for frame in frames.values()]
    size = (WIDTH, 1.2 + 0.4 * sum(heights))
    drawn, axes = plt.subplots(
        len(frames), 1, figsize=size, sharex=True, height_ratios=heights, layout="constrained", squeeze=False
    )
    for (section, frame), ax in zip(frames.items(), axes.flat, strict=True):
        rows = list(frame.row.drop_duplicates())
        means = frame[frame.model_a != ALL_PAIRS].groupby(["class", "row"]).explained_variance.mean().clip(lower=LOWEST)
        for aside, (name, (marker, color)) in zip(np.linspace(-0.24, 0.24, len(SHOWN)), SHOWN.items(), strict=True):
            y = [rows.index(row) + aside for row in means[name].index]
            ax.plot(means[name], y, marker, color=color, markersize=5, alpha=0.8, label=class_title(name))
        for y, row in enumerate(rows):
            ax.annotate(_verdict_words(frame[frame.row == row]), (1.04, y), va="center", fontsize=8.5)
        ax.axvline(0, color="0.6", linewidth=1)
        ax.set_yticks(range(len(rows)), [fill(shown_row(frame[frame.row == row]), 30) for row in rows], fontsize=8.5)
        ax.set(xlim=(LOWEST - 0.05, 1.75), ylim=(len(rows) - 0.5, -0.5))
        ax.set_title(f"{TITLES[section]} (right: what the ladder chose)", fontsize=10, loc="left")
        ax.grid(color="0.93")
        ax.set_axisbelow(True)
    axes.flat[-1].set_xticks(np.arange(-0.4, 1.01, 0.2))
    axes.flat[-1].set_xlabel(f"explained variance, held out (below {LOWEST:g}: drawn there)")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    plt.close(drawn)
    return drawn


def _verdict_words(part: pd.DataFrame) -> str:
    verdict = ladder_verdict(part)
    return class_title(verdict.invariance) + (" (weak)" if verdict.weak else "")
