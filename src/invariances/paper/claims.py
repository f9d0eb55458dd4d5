"""The key findings with the rules that decide them, written down before any score at real size was computed.

A claim says what in the tables decides it, by which interval, and what would count against it. Each
section of the paper ends in one (`CLAIMS`), and the paper closes with five that rest on all sections
(`FINDINGS`). One more asks the second of these anew, by a score that means the same in every space (`RETRIEVAL`).
Nothing is judged at smoke size: stand-ins and tiny networks cannot speak for the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from invariances.paper.aligned import (
    ALIGNED,
    EXPECTED,
    by_retrieval,
    highest,
    highest_sentence,
    pervasive,
    uncovered_sentence,
)
from invariances.paper.judging import Claim, Outcome, Verdict, decided, judged
from invariances.paper.rows import SECTIONS, row_named
from invariances.paper.stitched import (
    communicates,
    communicates_sentence,
    predicts,
    predicts_sentence,
)

__all__ = ["CLAIMS", "FINDINGS", "RETRIEVAL", "judge", "judge_by_retrieval", "judge_finding"]


def judge(section: str, frame: pd.DataFrame) -> Verdict:
    """Judge a section's key finding by its tidy table.

    Parameters
    ----------
    section : str
    frame : DataFrame
        The section's tidy table, as saved in ``<section>.csv``.
    """
    return judged(CLAIMS[section], frame, _is_smoke(frame))


def judge_finding(number: int, frames: Mapping[str, pd.DataFrame]) -> Verdict:
    """Judge one of the paper's five key findings by the tidy tables of all sections.

    Parameters
    ----------
    number : int
        1 to 5, in the paper's order.
    frames : mapping from sections to DataFrame
        The tidy tables, as saved in ``<section>.csv``.
    """
    return judged(FINDINGS[number], frames, any(_is_smoke(frames[section]) for section in SECTIONS))


def judge_by_retrieval(frame: pd.DataFrame) -> Verdict:
    """Judge the paper's second key finding by retrieval.

    Parameters
    ----------
    frame : DataFrame
        The tidy table of the study of retrieval, as saved in ``retrieval.csv``.
    """
    return judged(RETRIEVAL, frame, _is_smoke(frame))


def _is_smoke(frame: pd.DataFrame) -> bool:
    return frame.empty or bool((frame.profile == "smoke").any())


def dependent(frames: Mapping[str, pd.DataFrame]) -> list[Outcome]:
    """The outcomes of the three sections on alignment."""
    return [outcome for section in ALIGNED for outcome in CLAIMS[section].predicate(frames[section])]


def general(frames: Mapping[str, pd.DataFrame]) -> list[Outcome]:
    """For vision and for language, whether agreement is uncovered and stitching works in every row that can tell."""
    rows: dict[str, list[Outcome]] = {"vision": [], "language": []}
    for outcome in decided([*pervasive(frames), *communicates(frames["stitching"])]):
        rows[row_named(outcome.row).modality].append(outcome)
    return [
        Outcome(
            modality,
            all(outcome.supports for outcome in outcomes) if outcomes else None,
            f"{sum(map(_supports, outcomes))} of {len(outcomes)} rows support, "
            f"against it: {', '.join(outcome.row for outcome in outcomes if not outcome.supports) or 'none'}",
        )
        for modality, outcomes in rows.items()
    ]


def _supports(outcome: Outcome) -> bool:
    return bool(outcome.supports)


def _general_sentence(frames: Mapping[str, pd.DataFrame], outcomes: list[Outcome]) -> str:
    return " ".join(f"{outcome.row.capitalize()}: {outcome.evidence}." for outcome in outcomes)


_ALIGNMENT_RULE = (
    "in each row, the calibrated score of the claimed invariance minus that of the best other one, paired over models; "
    "above 0 by its 95 % interval supports, below 0 contradicts, an interval that holds 0 cannot tell. "
    "All rows that can tell: holds; some: in part; none: does not hold."
)
_ROWS_COUNT = "All rows that can tell: holds; some: in part; none: does not hold."
_STITCHING_RULE = (
    "in each row that stands beside a reported number, relative or affine stitching keeps at least 75 % by the lower "
    "end of the 95 % interval over models: of the F1 of its ceiling, or of the gap in error between absolute stitching "
    "and the ceiling. Otherwise the row contradicts. " + _ROWS_COUNT
)


def _highest_in(section: str, text: str) -> Claim:
    return Claim(
        text,
        _ALIGNMENT_RULE,
        lambda frame: highest(frame, EXPECTED[section]),
        lambda frame, outcomes: highest_sentence(outcomes),
    )


CLAIMS: dict[str, Claim] = {
    "initialization": _highest_in(
        "initialization",
        "Across random seeds, rotation invariance (relative representations) gives the highest alignment.",
    ),
    "architecture": _highest_in("architecture", "Across architectures, affine invariance gives the highest alignment."),
    "training": _highest_in(
        "training",
        "Rotation invariance serves best across optimizers, learning rates and batch sizes, affine invariance across "
        "data augmentations.",
    ),
    "stitching": Claim(
        "Independently trained encoders and heads can be stitched without fine-tuning: with relative representations "
        "or an affine map, most of the performance is kept.",
        _STITCHING_RULE,
        communicates,
        communicates_sentence,
    ),
}
"""The key finding of each section."""

FINDINGS: dict[int, Claim] = {
    1: Claim(
        "Structural similarities are pervasive: independently trained networks share much of their structure, "
        "hidden beneath differences of the coordinate systems.",
        "in each row on alignment, two differences, both by their 95 % interval over models: the calibrated score "
        "after an affine map minus that of raw spaces, and the score after the map minus its expectation when samples "
        "are shuffled within their classes. Both above 0 support, one below 0 contradicts. Untrained networks are "
        "shown beside it and do not decide: what they share as well was not learned. " + _ROWS_COUNT,
        pervasive,
        uncovered_sentence,
    ),
    2: Claim(
        "The best invariance depends on what varies: rotation for initialization, affine for architecture, case by "
        "case for training; none is best for all.",
        "the rows of the three sections on alignment by their own rules. " + _ROWS_COUNT,
        dependent,
        lambda frames, outcomes: highest_sentence(outcomes, of_all=True),
    ),
    3: Claim(
        "Invariances enable zero-shot communication: stitched models come near models that are not stitched, "
        "without any further training.",
        _STITCHING_RULE,
        lambda frames: communicates(frames["stitching"]),
        lambda frames, outcomes: communicates_sentence(frames["stitching"], outcomes),
    ),
    4: Claim(
        "Alignment predicts stitching: how well two spaces align under an invariance tells how well the models stitch.",
        "within each row and way of stitching, over ordered pairs of models: Spearman's rank correlation of calibrated "
        "alignment with the share of the ceiling that is kept is above 0 with p < 0.05 by relabelling models. No such "
        "correlation contradicts; a range of retention below 0.01, or too few models, cannot tell. Nothing is pooled "
        "over data sets. " + _ROWS_COUNT,
        lambda frames: predicts(frames["stitching"]),
        lambda frames, outcomes: predicts_sentence(frames["stitching"]),
    ),
    5: Claim(
        "It applies to vision and to language alike.",
        "for either domain, all rows that can tell by the rules of findings 1 and 3 support. Both domains: holds; one: "
        "in part; none: does not hold.",
        general,
        _general_sentence,
    ),
}
"""The paper's five key findings, in its order."""

RETRIEVAL = Claim(
    "Asked by retrieval, which means the same in every space, the best invariance depends on what varies: rotation "
    "for initialization, affine for architecture, case by case for training.",
    "in each row of the three sections on alignment, every held-out sample of one model looks for its counterpart "
    "among 500 of the other, after each of the paper's four invariances. The calibrated mean reciprocal rank of the "
    "claimed invariance minus that of the best other one of the four, paired over models: above 0 by its 95 % interval "
    "supports, below 0 contradicts, an interval that holds 0 cannot tell. Centred relative representations and a "
    "rotation with a translation are shown beside the four and do not decide. " + _ROWS_COUNT,
    by_retrieval,
    lambda frame, outcomes: highest_sentence(outcomes, of_all=True),
)
"""The second finding on a scale of its own, written down before any score of that study was computed."""
