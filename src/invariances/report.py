"""What `discover` hands back: the verdict in words, the tables, a figure and a page."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from invariances.answers import answer, next_steps
from invariances.errors import ParameterError
from invariances.ladders import DELTA
from invariances.outputs import check_output, write_whole
from invariances.verdict import WEAK, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MARKER", "Report", "check_plots"]


MARKER = b"<!-- a report of invariances -->"
"""Stands at the head of every report, so that a later one may replace it."""
FEW_AXES = "in Python, invariances.axes.Without gives a space without them"
TABLES = ("ladder", "retrieval", "retention", "structure", "table")
"""Of a report."""


@dataclass(frozen=True, repr=False)
class Report:
    """What `discover` found."""

    table: pd.DataFrame
    """All pairs under all invariances, as `align` returns them."""
    ladder: pd.DataFrame
    """One row per class of maps, as `ladder` returns them."""
    paper_choice: str
    """The invariance with the highest mean calibrated cosine: the paper's rule. Scores of different
    spaces are not commensurable, so this says nothing about T."""
    verdict: Verdict
    structure: pd.DataFrame
    """T described, one row per ordered pair: what an affine map explains of this pair alone, and on the
    principal axes that carry 95 % of the source's variance the ratio of T's largest to smallest
    singular value, its distance from a scaled rotation and its shift in units of the target's standard
    deviation; each ``..._simulated`` is the same figure for a simulated scaled rotation with equal noise. A
    ratio is near infinity where T loses rank, as into a target feature that never varies."""
    delta: float = DELTA
    """Share of the target's variance below which a difference between classes did not count."""
    retrieval: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What held-out samples find across a map of the verdict's class (affine where there is none), one row per ordered
    pair; see `invariances.transfer.retrieval`."""
    retention: pd.DataFrame | None = None
    """How much a linear head keeps across this map, where there are labels; see `invariances.transfer.retention`."""
    groups: list[list[str]] | None = None
    """Of more than two models: which are interchangeable; see `invariances.groups`."""
    without: Report | None = None
    """The same without the few axes that hold nearly all variance of a space, where there are such."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Of every model, the file that was given, or its name."""
    singular_values: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Of T, for some pairs; see `invariances.Ladder`."""
    examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Some samples of the first pair before and after the map; see `invariances.transfer.examples`."""
    matched_by: str = ""
    """How rows were matched by their ids, and which were left over; empty where they were matched by their order."""
    command: str = ""
    """What was typed, where it was the command."""
    options: tuple[str, str] = ("", "")
    """Of the command: those that name columns, and that of the anchors."""

    @property
    def answer(self) -> str:
        """The answer in plain words."""
        said = answer(self.verdict, self.retrieval, self.retention, self.groups)
        if self.without is not None:
            said += f" But {self.verdict.axes_in_words}. Without that, {self.without.answer}"
        return said

    @property
    def next_steps(self) -> list[str]:
        """What to do next, with the exact command."""
        labelled = self.retention is not None
        steps = next_steps(self.verdict, self.retrieval, self.sources, labelled, *self.options)
        if self.without is None or self.verdict.invariance == self.without.verdict.invariance:
            return steps
        return [f"Take out of every space the axes that hold nearly all variance, and ask again ({FEW_AXES}).", *steps]

    def __repr__(self) -> str:
        return "\n".join([self.answer, *(f"- {step}" for step in self.next_steps)])

    def _repr_html_(self) -> str:
        """The answer, what to do next and the ladder, for notebooks."""
        steps = "".join(f"<li>{escape(step)}</li>" for step in self.next_steps)
        ladder = self.ladder[["class", "explained_variance", "gap", "tolerance", "chosen"]]
        table = ladder.to_html(index=False, float_format="{:.3f}".format, border=0)
        return f"<p><strong>{escape(self.answer)}</strong></p><ul>{steps}</ul>{table}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON; what is not known is None."""
        tables = {name: _records(getattr(self, name)) for name in TABLES}
        verdict = {key: value for key, value in vars(self.verdict).items() if key != "without"}
        return {
            "version": version("invariances"),
            "answer": self.answer,
            "next_steps": self.next_steps,
            "verdict": verdict | {"sentence": str(self.verdict), "rule": self.rule},
            "paper_choice": self.paper_choice,
            "groups": self.groups,
            "sources": dict(self.sources),
            "rows_matched": self.matched_by,
            **tables,
            "without_few_axes": None if self.without is None else self.without.to_dict(),
        }

    @property
    def rule(self) -> str:
        """How the ladder's verdict was reached, in one sentence."""
        return (
            "The smallest class of maps is chosen whose explained variance is within max(3 SE, delta) of the "
            f"best class's, with delta = {self.delta:g} of the target's variance; below an explained variance of "
            f"{WEAK:g} the verdict is called weak."
        )

    def plot(self) -> Figure:
        """Draw the alignment by invariance (the paper's rule) beside the ladder (the verdict).

        Raises
        ------
        ParameterError
            If the packages that draw are not installed.
        """
        check_plots()
        import matplotlib.pyplot as plt
        import seaborn as sns

        rows = max(self.table.invariance.nunique(), len(self.ladder))
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 1.4 + 0.34 * rows), layout="constrained")
        # names on the vertical axes: they are long, and may be many
        sns.stripplot(self.table, x="calibrated", y="invariance", ax=left, color="0.35", size=4, jitter=False)
        left.axvline(0, color="0.7", linewidth=1)
        left.set(title="The paper's rule: alignment of pairs", xlabel="calibrated cosine (0 = chance)", ylabel="")
        explained = self.ladder.explained_variance
        lowest = min(0.0, max(-0.5, float(explained.min())))
        # a map into a wrong place explains less than nothing; its number says how much
        shown = explained.clip(lower=lowest)
        bars = right.barh(self.ladder["class"], shown, color=np.where(self.ladder.chosen, "C1", "C0"))
        for bar, value in zip(bars, explained, strict=True):
            right.annotate(
                f"{value:.3f}",
                (max(bar.get_width(), 0), bar.get_y() + bar.get_height() / 2),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        right.axvline(0, color="0.7", linewidth=1)
        right.invert_yaxis()
        right.set(title="The ladder of maps (chosen in orange)", xlabel="explained variance, held out")
        right.set_xlim(lowest, 1.15)
        right.set_xticks([tick for tick in right.get_xticks() if lowest <= tick <= 1])
        return figure

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained page.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path
            The file that was written, behind all links.

        Raises
        ------
        ParameterError
            If it cannot be written, or the packages that draw are not installed; one sentence.
        """
        check_plots()
        target = check_output(path, marker=MARKER, force=True)
        from invariances.report_page import render

        page = render(self, MARKER.decode())
        write_whole(target, page.encode())
        return target


def _records(frame: pd.DataFrame | None) -> list[dict] | None:
    """The rows of a table as plain values; NaN becomes None."""
    return None if frame is None else json.loads(str(frame.to_json(orient="records")))


def check_plots() -> None:
    """Refuse to draw where the packages for it are not installed.

    Raises
    ------
    ParameterError
        One sentence names the extra to install.
    """
    missing = [name for name in ("matplotlib", "seaborn", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise ParameterError(
            f"plots and reports need {' and '.join(missing)}, not installed here; run pip install 'invariances[plot]'"
        )
