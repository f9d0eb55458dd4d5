"""The paper's five key findings, judged by the published tables, as snippets of the book's page on them.

Nothing here is typed by hand: the claims are `claims`', reported numbers `reported`'s, and every verdict
follows from the CSV files that lie beside the executed notebooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from invariances.paper import board
from invariances.paper.aligned import ALIGNED
from invariances.paper.claims import FINDINGS, judge_by_retrieval, judge_finding
from invariances.paper.frames import read_table, shown_row
from invariances.paper.judging import FAILS, HOLDS, IN_PART, NOT_JUDGED, UNTESTABLE, Outcome, Verdict
from invariances.paper.plots import save_svg
from invariances.paper.reported import ALIGNMENT, STITCHING, Reported
from invariances.paper.rows import INVARIANCES, ROWS, SECTIONS, TITLES
from invariances.paper.stitched import KEPT
from invariances.paper.tables import markdown_table

__all__ = ["is_error", "judged", "outcomes", "overview", "read", "reported", "shown", "write"]


NAMES = {
    1: "Structure is shared",
    2: "The best invariance depends on what varies",
    3: "Models are stitched without training",
    4: "Alignment predicts stitching",
    5: "Vision and language alike",
}
"""The findings in a few words; `claims` has them whole."""
MARKS = {HOLDS: "✓", IN_PART: "◐", FAILS: "✗", UNTESTABLE: "?", NOT_JUDGED: "○"}
"""Signs that stand before the words, for those who skim; the words alone say all."""
SUPPORT = {True: "✓ supports", False: "✗ contradicts", None: "? cannot tell"}
RETRIEVED = 2
"""The finding that is judged by retrieval as well."""
EVIDENCE = {1: ALIGNED, 2: ALIGNED, 3: ("stitching",), 4: ("stitching",), 5: SECTIONS}
"""The sections whose tables and figures a finding rests on."""


def read(results: str | Path) -> dict[str, pd.DataFrame]:
    """The tidy tables of all sections, from the CSV files beside the executed notebooks.

    Raises
    ------
    RunError
        If one is missing.
    """
    return {section: read_table(section, results) for section in SECTIONS}


def write(results: str | Path, into: str | Path) -> dict[str, Verdict]:
    """Judge the findings by the tables in `results`; write what the book's page on them includes.

    Parameters
    ----------
    results : path
        The folder of the four ``<section>.csv``; where the study of retrieval was run, its table lies in the folder
        ``beyond`` beside it.
    into : path
        Gets ``overview.md``, ``finding_<number>.md``, ``outcomes.csv`` with one line per finding and row, and the
        figure of reported against measured numbers, ``board.svg``, with ``board.md`` that shows it.

    Returns
    -------
    dict from lines of the overview to Verdict, as `judged` gives it
    """
    frames, into = read(results), Path(into)
    verdicts = judged(frames, _of_retrieval(Path(results)))
    names = {row: shown_row(part) for frame in frames.values() for row, part in frame.groupby("row", sort=False)}
    into.mkdir(parents=True, exist_ok=True)
    (into / "overview.md").write_text(overview(verdicts), encoding="utf-8")
    for number in FINDINGS:
        text = snippet(number, verdicts[str(number)], names) + _second_line(verdicts, number, names)
        (into / f"finding_{number}.md").write_text(text, encoding="utf-8")
    outcomes(verdicts).to_csv(into / "outcomes.csv", index=False)
    drawn = board.draw(frames)
    save_svg(drawn.figure, into / "board.svg")
    shown_board = f"```{{figure}} findings/board.svg\n:alt: {drawn.alt}\n:name: fig-board\n\n{drawn.caption}\n```\n"
    (into / "board.md").write_text(shown_board, encoding="utf-8")
    return verdicts


def judged(frames: Mapping[str, pd.DataFrame], retrieval: pd.DataFrame | None = None) -> dict[str, Verdict]:
    """The verdicts on all five findings, by the tidy tables of the sections; on the second by retrieval as well.

    Parameters
    ----------
    frames : mapping from sections to DataFrame
    retrieval : DataFrame, optional
        The table of the study of retrieval, where it was run.

    Returns
    -------
    dict from "1" to "5", with "2, by retrieval" behind "2" where that was judged, to Verdict
    """
    verdicts = {}
    for number in FINDINGS:
        verdicts[str(number)] = judge_finding(number, frames)
        if number == RETRIEVED and retrieval is not None:
            verdicts[f"{number}, by retrieval"] = judge_by_retrieval(retrieval)
    return verdicts


def _of_retrieval(results: Path) -> pd.DataFrame | None:
    path = results.parent / "beyond" / "retrieval.csv"
    return pd.read_csv(path) if path.is_file() else None


def _second_line(verdicts: Mapping[str, Verdict], number: int, names: Mapping[str, str]) -> str:
    verdict = verdicts.get(f"{number}, by retrieval")
    if verdict is None:
        return ""
    parts = [f"**By retrieval: {shown(verdict)}.** {verdict.sentence} {verdict.reason}", _rows(verdict, ALIGNED, names)]
    return "\n" + "\n\n".join(filter(None, parts)) + "\n"


def outcomes(verdicts: Mapping[str, Verdict]) -> pd.DataFrame:
    """What each row says of each finding, as one table."""
    columns = ["finding", "verdict", "row", "outcome", "evidence"]
    lines = [
        (number, verdict.verdict, outcome.row, SUPPORT[outcome.supports].split(maxsplit=1)[1], outcome.evidence)
        for number, verdict in verdicts.items()
        for outcome in verdict.outcomes
    ]
    return pd.DataFrame(lines, columns=columns)


def overview(verdicts: Mapping[str, Verdict]) -> str:
    """The five findings with their verdicts and how many rows support each, as Markdown."""
    lines = []
    for number, verdict in verdicts.items():
        counts = pd.Series([outcome.supports for outcome in verdict.outcomes], dtype=object)
        decided = counts.dropna()
        supporting = f"{int(decided.sum())} of {len(decided)}" if len(counts) else "-"
        lines.append(
            (
                f"[{number}](finding-{number[0]})",
                NAMES[int(number[0])] + number[1:],
                shown(verdict),
                supporting,
                str(len(counts) - len(decided)) if len(counts) else "-",
            )
        )
    return markdown_table(
        ("", "Finding", "Verdict", "Rows that support it, of those that can tell", "Cannot tell"), lines
    )


def shown(verdict: Verdict) -> str:
    """A verdict as a sign and words."""
    return f"{MARKS[verdict.verdict]} {verdict.verdict}"


def snippet(number: int, verdict: Verdict, names: Mapping[str, str]) -> str:
    """One finding: claim, reported numbers, where the evidence stands, verdict, and what each row says, as Markdown."""
    links = ", ".join(f"[{TITLES[section]}](results/{section}.ipynb)" for section in EVIDENCE[number])
    parts = [
        f"**Claim.** {verdict.claim}",
        f"**Reported.** {reported(number)}",
        f"**Measured.** In the tables and figures of: {links}.",
        " ".join(filter(None, (f"**Verdict: {shown(verdict)}.**", verdict.sentence, verdict.reason))),
        _rows(verdict, EVIDENCE[number], names),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _rows(verdict: Verdict, sections: Sequence[str], names: Mapping[str, str]) -> str:
    """What each row says, as a Markdown table; empty where nothing was judged."""
    cells = [(_linked(o, sections, names), SUPPORT[o.supports], o.evidence) for o in verdict.outcomes]
    return markdown_table(("Row", "Outcome", "Evidence"), cells).rstrip() if cells else ""


def _linked(outcome: Outcome, sections: Sequence[str], names: Mapping[str, str]) -> str:
    """The outcome's row, as a link to the first of the sections that has it; a row may end in how it was stitched."""
    section_of = {row.name: section for section in reversed(sections) for row in ROWS[section]}
    row = outcome.row if outcome.row in section_of else outcome.row.rpartition(": ")[0]
    if row not in section_of:
        return outcome.row
    return f"[{names.get(row, row)}{outcome.row.removeprefix(row)}](results/{section_of[row]}.ipynb)"


def reported(number: int) -> str:
    """The paper's numbers that carry a finding, in one or two sentences."""
    rows = {name: cells for section in ALIGNED for name, cells in ALIGNMENT[section].items()}
    if number == 1:
        return _uncovered(rows)
    if number == 2:
        return " ".join(f"{TITLES[section]}: {_winners(ALIGNMENT[section])}." for section in ALIGNED)
    if number == 3:
        return _kept(STITCHING)
    if number == 4:
        return "No number: the paper's page shows no relation of alignment scores with stitching scores."
    said = []
    for modality in ("vision", "language"):
        aligned, stitched = (
            {name: cells for name, cells in part.items() if _modality(name) == modality} for part in (rows, STITCHING)
        )
        said.append(f"{modality.capitalize()}: {_uncovered(aligned)} {_kept(stitched)}")
    return " ".join(said)


def _modality(name: str) -> str:
    """Of a row of the paper's tables."""
    return next(row.modality for section in SECTIONS for row in ROWS[section] if row.beside == name)


def _uncovered(rows: Mapping[str, Mapping[str, Reported]]) -> str:
    raw, affine = (_span([cells[name].mean for cells in rows.values()]) for name in ("absolute", "affine"))
    return f"Alignment of raw spaces {raw}, after an affine map {affine} ({len(rows)} rows)."


def _winners(rows: Mapping[str, Mapping[str, Reported]]) -> str:
    best = pd.Series([max(cells, key=lambda name: cells[name].mean) for cells in rows.values()])
    counts = best.value_counts(sort=False)
    return ", ".join(f"{INVARIANCES[name]} highest in {count} of {len(rows)} rows" for name, count in counts.items())


def _kept(rows: Mapping[str, Mapping[str, Reported]]) -> str:
    said = []
    errors = {name: cells for name, cells in rows.items() if is_error(cells)}
    if errors:
        gaps = [
            100 * (c["absolute"].mean - c["relative"].mean) / (c["absolute"].mean - c["ceiling"].mean)
            for c in errors.values()
        ]
        said.append(f"Relative stitching closes {_span(gaps, 0)} % of the gap in reconstruction error")
    scores = {name: cells for name, cells in rows.items() if name not in errors}
    if scores:
        shares = [100 * cells["relative"].mean / cells["ceiling"].mean for cells in scores.values()]
        said.append(f"Relative stitching keeps {_span(shares, 0)} % of the F1 score")
    return f"{'. '.join(said)} (the rule here asks for {100 * KEPT:.0f} %)."


def is_error(cells: Mapping[str, Reported]) -> bool:
    """Whether a row of the reported stitching table holds errors, which are lower the better."""
    return cells["ceiling"].mean < cells["absolute"].mean


def _span(values: Iterable[float], digits: int = 2) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
