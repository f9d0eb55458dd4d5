"""What a claim, a verdict and the outcome of a row are, and how outcomes add up to a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from IPython.display import Markdown

from invariances.intervals import Interval

__all__ = [
    "FAILS",
    "HOLDS",
    "IN_PART",
    "NOT_JUDGED",
    "UNTESTABLE",
    "Claim",
    "Outcome",
    "Verdict",
    "decided",
    "describe",
    "judged",
    "percent",
    "sign",
]


NOT_JUDGED = "not judged at smoke size"
HOLDS, IN_PART, FAILS, UNTESTABLE = "holds", "holds in part", "does not hold", "not testable here"


class Outcome(NamedTuple):
    """Whether one row of a table supports a claim."""

    row: str
    supports: bool | None
    """None where the row cannot tell."""
    evidence: str
    best: str = ""
    """The invariance that aligns best, where that was asked and the row can tell."""


class Verdict(NamedTuple):
    """A claim's verdict and what it rests on."""

    claim: str
    verdict: str
    sentence: str
    """What happened, made from the numbers; empty where nothing was judged."""
    reason: str
    outcomes: list[Outcome]

    def answer(self) -> Markdown:
        """What came out, as a page begins with it."""
        return Markdown(" ".join(filter(None, (f"**What came out: {self.verdict}.**", self.sentence))))

    def _repr_markdown_(self) -> str:
        said = " ".join(filter(None, (f"**Verdict: {self.verdict}.**", self.sentence, self.reason)))
        return f"**Key finding.** {self.claim}\n\n{said}"


class Claim(NamedTuple):
    """A key finding: our wording, the rule that decides it, and the predicate."""

    text: str
    rule: str
    """What decides, by which interval, and what would count as failing."""
    predicate: Callable[[Any], list[Outcome]]
    """Of a section's tidy table, or of all sections' tables by name."""
    sentence: Callable[[Any, list[Outcome]], str] = lambda evidence, outcomes: ""
    """What happened in one sentence, from the same tables and what they gave. The rule does not ask for it."""


def judged(claim: Claim, evidence: Any, smoke: bool) -> Verdict:
    """The verdict on a claim: it holds where every row that can tell supports it, in part where some do.

    Parameters
    ----------
    claim : Claim
    evidence : DataFrame, or mapping from sections to DataFrame
        What the claim's predicate takes.
    smoke : bool
        Whether a part of it is of smoke size, which is never judged.
    """
    if smoke:
        return Verdict(claim.text, NOT_JUDGED, "", f"The rule: {claim.rule}", [])
    outcomes = claim.predicate(evidence)
    telling = decided(outcomes)
    supporting = [outcome for outcome in telling if outcome.supports]
    if not telling:
        word = UNTESTABLE
    elif len(supporting) == len(telling):
        word = HOLDS
    else:
        word = IN_PART if supporting else FAILS
    reason = f"{len(supporting)} of the {len(telling)} rows that can tell support the claim ({len(outcomes)} were run)."
    sentence = claim.sentence(evidence, outcomes) if telling else ""
    return Verdict(claim.text, word, sentence, f"{reason} The rule: {claim.rule}", outcomes)


def percent(share: float) -> str:
    """A share in words; a dash where there is none."""
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def decided(outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes of rows that can tell."""
    return [outcome for outcome in outcomes if outcome.supports is not None]


def sign(span: Interval) -> bool | None:
    """Whether an interval lies above 0 or below it; None where it holds 0, or there is none."""
    if span.low > 0:
        return True
    return False if span.high < 0 else None


def describe(span: Interval) -> str:
    """A mean with its interval, or with the reason why there is none."""
    if span.low != span.low:
        return f"{span.mean:.3f} ({span.note})"
    return f"{span.mean:.3f} [{span.low:.3f}, {span.high:.3f}]"
