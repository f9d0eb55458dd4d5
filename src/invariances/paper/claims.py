"""The key findings as predicates over the tidy tables, written down before any run at real size.

A claim says what in the table decides it, by which interval, and what would count against it.
Nothing is judged at smoke size: stand-ins and tiny networks cannot speak for the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from invariances.pairs import Interval, interval
from invariances.paper.rows import ROWS

NOT_JUDGED = "not judged at smoke size"
HOLDS, IN_PART, FAILS, UNTESTABLE = "holds", "holds in part", "does not hold", "not testable here"


class Outcome(NamedTuple):
    """Whether one row of a table supports a claim."""

    row: str
    supports: bool | None
    """None where the row cannot tell."""
    evidence: str


class Verdict(NamedTuple):
    """A claim's verdict and what it rests on."""

    claim: str
    verdict: str
    reason: str
    outcomes: list[Outcome]

    def _repr_markdown_(self) -> str:
        return f"**Key finding.** {self.claim}\n\n**Verdict: {self.verdict}.** {self.reason}"


class Claim(NamedTuple):
    """A key finding: our wording, the rule that decides it, and the predicate."""

    text: str
    rule: str
    """What decides, by which interval, and what would count as failing."""
    predicate: Callable[[pd.DataFrame], list[Outcome]]


def judge(section: str, frame: pd.DataFrame) -> Verdict:
    """Judge a section's key finding by its tidy table.

    Parameters
    ----------
    section : str
    frame : DataFrame
        The section's tidy table, as saved in ``<section>.csv``.
    """
    claim = CLAIMS[section]
    if frame.empty or (frame.profile == "smoke").any():
        return Verdict(claim.text, NOT_JUDGED, f"The rule: {claim.rule}", [])
    outcomes = claim.predicate(frame)
    decided = [outcome for outcome in outcomes if outcome.supports is not None]
    supporting = [outcome for outcome in decided if outcome.supports]
    if not decided:
        word = UNTESTABLE
    elif len(supporting) == len(decided):
        word = HOLDS
    else:
        word = IN_PART if supporting else FAILS
    reason = (
        f"It is supported by {len(supporting)} of the {len(decided)} rows that can tell ({len(outcomes)} were run)."
    )
    return Verdict(claim.text, word, f"{reason} The rule: {claim.rule}", outcomes)


# Alignment -------------------------------------------------------------------------------------


def highest(frame: pd.DataFrame, expected: dict[str, str]) -> list[Outcome]:
    """For each row, whether the expected invariance aligns best.

    The calibrated scores of each pair of models are compared with the best other invariance's,
    paired over models: the row supports the claim if the interval of the difference lies above 0,
    contradicts it if it lies below, and cannot tell otherwise.
    """
    outcomes = []
    for row in frame.row.drop_duplicates():
        if row not in expected:
            continue
        pairs = _calibrated_pairs(frame[(frame.row == row) & (frame.reference == "trained")])
        if pairs is None or expected[row] not in pairs or pairs.isna().any(axis=None):
            outcomes.append(Outcome(row, None, "a score has no calibration"))
            continue
        others = pairs.drop(columns=expected[row])
        rival = others.mean().idxmax()
        gap = (pairs[expected[row]] - others[rival]).rename("gap").reset_index()
        span = interval(gap, "gap", groups_of(frame[(frame.row == row) & (frame.reference == "trained")]))
        outcomes.append(Outcome(row, _sign(span), f"{expected[row]} minus {rival}: {describe(span)}"))
    return outcomes


def _calibrated_pairs(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Calibrated scores with one line per unordered pair and one column per invariance."""
    across = frame[frame.group_a != frame.group_b] if frame.group_a.nunique() > 1 else frame
    if across.empty:
        return None
    ends = pd.DataFrame({"model_a": across[["model_a", "model_b"]].min(axis=1)})
    ends["model_b"] = across[["model_a", "model_b"]].max(axis=1)
    return across.assign(**ends).groupby(["model_a", "model_b", "invariance"]).calibrated.mean().unstack()


def groups_of(frame: pd.DataFrame) -> tuple[list[str], list[str]] | None:
    """The models of the two groups that a table compares, or None where there is one group."""
    members = pd.concat(
        [
            frame[["model_a", "group_a"]].set_axis(["model", "group"], axis=1),
            frame[["model_b", "group_b"]].set_axis(["model", "group"], axis=1),
        ]
    ).drop_duplicates()
    lists = [list(models) for _, models in members.groupby("group", sort=False).model]
    return (lists[0], lists[1]) if len(lists) == 2 else None


def _sign(span: Interval) -> bool | None:
    if span.low > 0:
        return True
    return False if span.high < 0 else None


def describe(span: Interval) -> str:
    """A mean with its interval, or with the reason why there is none."""
    if span.low != span.low:
        return f"{span.mean:.3f} ({span.note})"
    return f"{span.mean:.3f} [{span.low:.3f}, {span.high:.3f}]"


# Stitching -------------------------------------------------------------------------------------


def stitches(frame: pd.DataFrame) -> list[Outcome]:
    """For each row, whether relative stitching works.

    Reconstruction: the relative error is below the absolute one for every pair of models.
    Classification: at least 75 % of the ceiling is kept, by the lower end of the interval.
    """
    outcomes = []
    for row in frame.row.drop_duplicates():
        real = across_groups(frame[(frame.row == row) & (frame.control == "none")])
        relative, absolute = (real[real.invariance == name] for name in ("relative", "absolute"))
        if (real.metric == "mse").all():
            better = relative.score.max() < absolute.score.min()
            times = absolute.score.mean() / relative.score.mean()
            outcomes.append(Outcome(row, bool(better), f"relative error is {times:.1f} times lower than absolute"))
        else:
            kept = interval(relative, "retention", groups_of(relative))
            supports = None if kept.low != kept.low else kept.low >= 0.75
            outcomes.append(Outcome(row, supports, f"share of the ceiling kept: {describe(kept)}"))
    return outcomes


def across_groups(frame: pd.DataFrame) -> pd.DataFrame:
    """Only pairs of different groups, where there are several (languages, architectures)."""
    return frame[frame.group_a != frame.group_b] if frame.group_a.nunique() > 1 else frame


_ALIGNMENT_RULE = (
    "in each row, the calibrated score of the claimed invariance minus that of the best other one, paired over models; "
    "above 0 by its 95 % interval supports, below 0 contradicts, an interval that holds 0 cannot tell. "
    "All rows that can tell: holds; some: in part; none: does not hold."
)

_TRAINING = {
    "CIFAR-10: SGD vs Adam": "relative",
    "CIFAR-100: LR 0.001 vs 0.01": "relative",
    "ImageNet: Aug Light vs Heavy": "affine",
    "Amazon Reviews: Batch 32 vs 128": "relative",
}

CLAIMS: dict[str, Claim] = {
    "initialization": Claim(
        "Across random seeds, rotation invariance (relative representations) gives the highest alignment.",
        _ALIGNMENT_RULE,
        lambda frame: highest(frame, {row.name: "relative" for row in ROWS["initialization"]}),
    ),
    "architecture": Claim(
        "Across architectures, affine invariance gives the highest alignment.",
        _ALIGNMENT_RULE,
        lambda frame: highest(frame, {row.name: "affine" for row in ROWS["architecture"]}),
    ),
    "training": Claim(
        "Rotation invariance serves best across optimizers, learning rates and batch sizes, affine invariance across "
        "data augmentations.",
        _ALIGNMENT_RULE,
        lambda frame: highest(frame, _TRAINING),
    ),
    "stitching": Claim(
        "With relative representations, independently trained encoders and heads can be stitched without fine-tuning: "
        "reconstruction errors drop many times, and at least 75 % of the classification score is kept.",
        "reconstruction: the largest relative error over pairs lies below the smallest absolute one; classification: "
        "the 95 % interval over models of the share of the (relative) ceiling lies above 0.75. "
        "Otherwise a row contradicts.",
        stitches,
    ),
}
"""The key finding of each section."""
