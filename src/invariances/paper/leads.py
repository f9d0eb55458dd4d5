"""The lead table of a section: the columns that decide, and whether each row supports the claim."""

from __future__ import annotations

import pandas as pd

from invariances.paper.claims import judge
from invariances.paper.frames import shown_row
from invariances.paper.judging import Outcome
from invariances.paper.rows import INVARIANCES

__all__ = ["alignment", "conditions", "ladder", "prediction", "stitching"]

KEPT_WORDS = {True: "✓ enough is kept", False: "✗ too little is kept", None: ""}
"""Of a row of the stitching table; nothing where it stands beside no reported number, or cannot tell."""


def alignment(section: str, frame: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    """What decides in a table on alignment: six columns, and whether each row supports the claim.

    Parameters
    ----------
    section : str
    frame : DataFrame
        The section's tidy table.
    whole : DataFrame
        What `tables.alignment` makes of it. Lines of the scale invariance are left out where they equal those of raw
        spaces, as they do by definition under cosine.
    """
    kept = _without_equal_scale(whole, "Measured")
    outcomes = {outcome.row: outcome for outcome in judge(section, frame).outcomes}
    names = {shown_row(part): row for row, part in frame.groupby("row", sort=False)}
    words = [_outcome_words(outcomes.get(names.get(row, row))) for row in kept.Row]
    return _led(kept, ["Invariance", "Reported", "Measured", "Calibrated"], words)


def _without_equal_scale(whole: pd.DataFrame, column: str) -> pd.DataFrame:
    """The table without the lines of scale where they equal those of raw spaces, which come first in a row."""
    equal = whole.groupby("Row", sort=False)[column].transform("first") == whole[column]
    return whole.loc[~(equal & (whole.Invariance == INVARIANCES["scale"]))]


def conditions(whole: pd.DataFrame) -> pd.DataFrame:
    """What decides within and across, of the table that `studies.conditions.table` gives: six columns."""
    kept = _without_equal_scale(whole, "Across").reset_index(drop=True)
    within = kept["Within the first"] + "; " + kept["Within the second"]
    lead = kept[["Invariance", "Across"]].assign(**{"Within the first; the second": within})
    lead[["Across minus within", "p, relabelled"]] = kept[["Across minus within", "p, relabelled"]]
    lead.insert(0, "Row", kept.Row.where(~kept.Row.duplicated(), ""))
    return lead


def _outcome_words(outcome: Outcome | None) -> str:
    """Which invariance is highest, and whether that is the claimed one."""
    if outcome is None:
        return ""
    if outcome.supports is None:
        return "? cannot tell"
    return f"{'✓' if outcome.supports else '✗'} {outcome.best} is highest"


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


def stitching(frame: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    """What decides in the table on stitching: six columns, and whether each row supports the claim.

    Parameters
    ----------
    frame : DataFrame
        The tidy table.
    whole : DataFrame
        What `tables.stitching` makes of it. *Kept* is its retention, the share of the ceiling.
    """
    full = whole.fillna("")
    supports = {outcome.row: outcome.supports for outcome in judge("stitching", frame).outcomes}
    words = [KEPT_WORDS[supports.get(row)] for row in full.Row]
    full["Reported"] = full["Reported stitched"].where(
        full["Reported stitched"] == "not in the paper",
        full["Reported stitched"] + "; not stitched " + full["Reported non-stitched"],
    )
    full["Kept"] = full.get("Retention", "")
    lead = _led(full, ["Stitched", "Reported", "Measured", "Kept"], words)
    if "Ceiling" in full:
        lead["Measured"] = lead.Measured.where(full.Ceiling == "", lead.Measured + "; not stitched " + full.Ceiling)
    return lead


def ladder(whole: pd.DataFrame) -> pd.DataFrame:
    """What the ladder names for each row and what that rests on, of the table that `tables.ladder` gives."""
    columns = ["Explained by rotation", "Explained by affine", "Affine beyond similarity", "Models"]
    return whole.reindex(columns=["Row", "Structure of T", *columns])


def prediction(whole: pd.DataFrame) -> pd.DataFrame:
    """Whether alignment predicts stitching, of the table that `tables.prediction` gives."""
    columns = ["Rank correlation", "p (models relabelled)", "p (Holm)", "Gain from the best-aligned encoder"]
    return whole.reindex(columns=["Row", "Stitched", *columns]) if len(whole) else whole
