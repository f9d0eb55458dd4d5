"""The lead table of a section: the columns that decide, and whether each row supports the claim."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from invariances.intervals import Interval
from invariances.paper import tables
from invariances.paper.claims import judge
from invariances.paper.frames import shown_row
from invariances.paper.judging import Outcome
from invariances.paper.rows import INVARIANCES

__all__ = ["alignment", "ladder", "prediction", "stitching"]

Intervals = Mapping[tuple[str, str], Interval]


def alignment(
    section: str, frame: pd.DataFrame, intervals: Intervals, not_run: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """What decides, from the table that `tables.alignment` gives: six columns, and whether each row supports the claim.

    Lines of the scale invariance are left out where they equal those of raw spaces, as they do by definition under
    cosine. Parameters are those of `tables.alignment`.
    """
    full = tables.alignment(section, frame, intervals, not_run)
    equal = full.groupby("Row", sort=False).Measured.transform("first") == full.Measured
    full = full[~(equal & (full.Invariance == INVARIANCES["scale"]))]
    outcomes = {outcome.row: outcome for outcome in judge(section, frame).outcomes}
    shown = {shown_row(part): row for row, part in frame.groupby("row", sort=False)}
    words = [_outcome_words(outcomes.get(shown.get(row, row))) for row in full.Row]
    return _led(full, ["Invariance", "Reported", "Measured", "Calibrated"], words)


def _outcome_words(outcome: Outcome | None) -> str:
    """Which invariance is highest, and whether that is the claimed one."""
    if outcome is None:
        return ""
    if outcome.supports is None:
        return "? cannot tell"
    return f"{'✓' if outcome.supports else '✗'} {outcome.best or 'keeps 75 %'}{' is highest' if outcome.best else ''}"


def _led(full: pd.DataFrame, columns: list[str], words: list[str]) -> pd.DataFrame:
    """The leading columns, each row's name and verdict on its first line alone."""
    full = full.fillna("")
    first = ~full.Row.duplicated()
    lead = full[columns].assign(Verdict=words)
    if "95 % interval" in full:
        bounds = full["95 % interval"].where(full["95 % interval"].str.startswith("["), "")
        lead["Measured"] = (full.Measured.str.partition(" ±")[0] + " " + bounds).str.strip()
    lead.insert(0, "Row", full.Row.where(first, ""))
    lead["Verdict"] = lead.Verdict.where(first, "")
    return lead.reset_index(drop=True)


def stitching(frame: pd.DataFrame, intervals: Intervals, not_run: Mapping[str, str] | None = None) -> pd.DataFrame:
    """What decides, from the table that `tables.stitching` gives: six columns, and whether each row supports the claim.

    *Kept* is the share of the ceiling. Parameters are those of `tables.stitching`.
    """
    full = tables.stitching(frame, intervals, not_run).fillna("")
    outcomes = {outcome.row: outcome for outcome in judge("stitching", frame).outcomes}
    words = []
    for row in full.Row:
        supports = outcomes[row].supports if row in outcomes else None
        words.append({True: "✓ enough is kept", False: "✗ too little is kept"}.get(supports, ""))
    full["Reported"] = full["Reported stitched"].where(
        full["Reported stitched"] == "not in the paper",
        full["Reported stitched"] + "; not stitched " + full["Reported non-stitched"],
    )
    full["Kept"] = full.get("Retention", "")
    lead = _led(full, ["Stitched", "Reported", "Measured", "Kept"], words)
    if "Ceiling" in full:
        lead["Measured"] = lead.Measured.where(full.Ceiling == "", lead.Measured + "; not stitched " + full.Ceiling)
    return lead


def ladder(frame: pd.DataFrame) -> pd.DataFrame:
    """What the ladder names for each row and what that rests on, from the table that `tables.ladder` gives."""
    columns = ["Explained by rotation", "Explained by affine", "Affine beyond similarity", "Models"]
    return tables.ladder(frame).reindex(columns=["Row", "Structure of T", *columns])


def prediction(frame: pd.DataFrame) -> pd.DataFrame:
    """Whether alignment predicts stitching, from the table that `tables.prediction` gives."""
    full = tables.prediction(frame)
    columns = ["Rank correlation", "p (models relabelled)", "p (Holm)", "Gain of choosing by it"]
    return full.reindex(columns=["Row", "Stitched", *columns]) if len(full) else full
