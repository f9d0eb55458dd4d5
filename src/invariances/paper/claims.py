"""The key findings as predicates over the tidy tables, written down before any score at real size was computed.

A claim says what in the table decides it, by which interval, and what would count against it. Each
section of the paper ends in one (`CLAIMS`), and the paper closes with five that rest on all sections
(`FINDINGS`). Nothing is judged at smoke size: stand-ins and tiny networks cannot speak for the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from invariances.intervals import Interval, interval
from invariances.paper.frames import across_groups, groups_of
from invariances.paper.reported import STITCHING
from invariances.paper.rows import ROWS, SECTIONS, row_named
from invariances.prediction import rank_prediction

__all__ = [
    "ALIGNED",
    "CLAIMS",
    "Claim",
    "FAILS",
    "FINDINGS",
    "HOLDS",
    "IN_PART",
    "KEPT",
    "NOT_JUDGED",
    "Outcome",
    "UNTESTABLE",
    "Verdict",
    "describe",
    "highest",
    "judge",
    "judge_finding",
    "predictions",
    "predicts",
    "stitches",
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
    reason: str
    outcomes: list[Outcome]

    def _repr_markdown_(self) -> str:
        return f"**Key finding.** {self.claim}\n\n**Verdict: {self.verdict}.** {self.reason}"


class Claim(NamedTuple):
    """A key finding: our wording, the rule that decides it, and the predicate."""

    text: str
    rule: str
    """What decides, by which interval, and what would count as failing."""
    predicate: Callable[[Any], list[Outcome]]
    """Of a section's tidy table, or of all sections' tables by name."""


def judge(section: str, frame: pd.DataFrame) -> Verdict:
    """Judge a section's key finding by its tidy table.

    Parameters
    ----------
    section : str
    frame : DataFrame
        The section's tidy table, as saved in ``<section>.csv``.
    """
    return _judged(CLAIMS[section], frame, _is_smoke(frame))


def judge_finding(number: int, frames: Mapping[str, pd.DataFrame]) -> Verdict:
    """Judge one of the paper's five key findings by the tidy tables of all sections.

    Parameters
    ----------
    number : int
        1 to 5, in the paper's order.
    frames : mapping from sections to DataFrame
        The tidy tables, as saved in ``<section>.csv``.
    """
    return _judged(FINDINGS[number], frames, any(_is_smoke(frames[section]) for section in SECTIONS))


def _is_smoke(frame: pd.DataFrame) -> bool:
    return frame.empty or bool((frame.profile == "smoke").any())


def _judged(claim: Claim, evidence: Any, smoke: bool) -> Verdict:
    if smoke:
        return Verdict(claim.text, NOT_JUDGED, f"The rule: {claim.rule}", [])
    outcomes = claim.predicate(evidence)
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
        trained = frame[(frame.row == row) & (frame.kind == "trained")]
        pairs = _by_pair(trained, "calibrated")
        if pairs is None or expected[row] not in pairs or pairs.isna().any(axis=None):
            outcomes.append(Outcome(row, None, "a score has no calibration"))
            continue
        others = pairs.drop(columns=expected[row])
        rival = others.mean().idxmax()
        gap = (pairs[expected[row]] - others[rival]).rename("gap").reset_index()
        span = interval(gap, "gap", groups_of(trained))
        best = {True: expected[row], False: rival, None: ""}[_sign(span)]
        bare = _by_pair(trained, "score").mean()
        said = f"{expected[row]} minus {rival}: {describe(span)}; "
        said += f"not calibrated: {bare[expected[row]]:.3f} and {bare[rival]:.3f}"
        outcomes.append(Outcome(row, _sign(span), said, best))
    return outcomes


def _by_pair(frame: pd.DataFrame, value: str) -> pd.DataFrame | None:
    """Scores, calibrated or not, with one line per unordered pair and one column per invariance."""
    across = frame[frame.group_a != frame.group_b] if frame.group_a.nunique() > 1 else frame
    if across.empty:
        return None
    ends = pd.DataFrame({"model_a": across[["model_a", "model_b"]].min(axis=1)})
    ends["model_b"] = across[["model_a", "model_b"]].max(axis=1)
    return across.assign(**ends).groupby(["model_a", "model_b", "invariance"])[value].mean().unstack()


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
        if row not in STITCHING:
            continue
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


# The five findings ----------------------------------------------------------------------------

ALIGNED = ("initialization", "architecture", "training")
KEPT = 0.75
"""Share of the ceiling (of the gap, for errors) from which on stitching counts as working, as the paper words it."""
NO_SPREAD = 0.01
"""Range of retention below which there is nothing to predict."""


def pervasive(frames: Mapping[str, pd.DataFrame]) -> list[Outcome]:
    """For each row, whether an affine map uncovers agreement that raw spaces hide, and that labels do not explain."""
    return [
        _uncovered(row, part)
        for section in ALIGNED
        for row, part in frames[section].groupby("row", sort=False)
        if row in {known.name for known in ROWS[section]}
    ]


def _uncovered(row: str, part: pd.DataFrame) -> Outcome:
    trained = across_groups(part[part.kind == "trained"])
    pairs, groups = _by_pair(trained, "calibrated"), groups_of(trained)
    if pairs is None or pairs[["absolute", "affine"]].isna().any(axis=None):
        return Outcome(row, None, "a score has no calibration")
    gain = interval((pairs.affine - pairs.absolute).rename("gap").reset_index(), "gap", groups)
    affine = trained[trained.invariance == "affine"]
    beyond = interval(affine.assign(gap=affine.score - affine.null_within_class), "gap", groups)
    untrained = across_groups(part[(part.kind == "untrained") & (part.invariance == "affine")])
    signs = (_sign(gain), _sign(beyond))
    supports = None if None in signs else all(signs)
    said = (
        f"affine minus raw {describe(gain)}; affine minus shuffled within classes {describe(beyond)}; "
        f"calibrated affine {affine.calibrated.mean():.2f} trained, {untrained.calibrated.mean():.2f} untrained"
    )
    return Outcome(row, supports, said)


def dependent(frames: Mapping[str, pd.DataFrame]) -> list[Outcome]:
    """The outcomes of the three sections on alignment, and whether one invariance wins wherever a row can tell."""
    outcomes = [outcome for section in ALIGNED for outcome in CLAIMS[section].predicate(frames[section])]
    winners = Counter(outcome.best for outcome in _decided(outcomes))
    if not winners:
        return outcomes
    said = f"best where a row can tell: {', '.join(f'{name} in {winners[name]}' for name in sorted(winners))}"
    return [*outcomes, Outcome("no invariance is best in all rows", len(winners) > 1, said)]


def _decided(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.supports is not None]


def communicates(frames: Mapping[str, pd.DataFrame]) -> list[Outcome]:
    """For each of the paper's stitching rows, whether relative or affine stitching comes near the ceiling."""
    frame = frames["stitching"]
    return [_near_ceiling(row, frame[frame.row == row]) for row in STITCHING if (frame.row == row).any()]


def _near_ceiling(row: str, part: pd.DataFrame) -> Outcome:
    real = across_groups(part[part.control == "none"])
    absolute = real[real.invariance == "absolute"].score.mean()
    errors, spans = (real.metric == "mse").all(), {}
    for space, own in real[real.invariance.isin(["relative", "affine"])].groupby("invariance"):
        if errors:
            own = own.assign(retention=(absolute - own.score) / (absolute - own.ceiling))
        spans[space] = interval(own, "retention", groups_of(own))
    known = [span for span in spans.values() if span.low == span.low]
    supports = any(span.low >= KEPT for span in known) if known else None
    kept = "{} closes {} of the gap" if errors else "{} keeps {} of the F1"
    said = [
        kept.format(space, describe(span)) + (f" ({span.note})" if span in known and span.note else "")
        for space, span in spans.items()
    ]
    return Outcome(row, supports, "; ".join(said))


def predicts(frames: Mapping[str, pd.DataFrame]) -> list[Outcome]:
    """For each row and way of stitching, whether pairs that align better keep more of the ceiling."""
    return [
        Outcome(f"{line.row}: {line.invariance}", line.supports, line.evidence)
        for line in predictions(frames["stitching"]).itertuples()
    ]


def predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of alignment with retention within each row and way of stitching, p over model labels.

    Parameters
    ----------
    frame : DataFrame
        The tidy table of the stitching section.

    Returns
    -------
    DataFrame
        As `invariances.rank_prediction` gives it, with ``supports``, ``evidence`` and, where models are of
        several groups, ``within``: p as shown, if they are relabelled within these alone. The rule does not ask for it.
    """
    lines = []
    for (row, space), part in frame[frame.control == "none"].groupby(["row", "invariance"], sort=False):
        if space in ("absolute", "product"):
            continue  # nothing was fitted to align; or no alignment of its own
        spread = part.retention.max() - part.retention.min()
        line = rank_prediction(part, part, alignment_value="alignment_calibrated").iloc[0].to_dict()
        if not spread >= NO_SPREAD:
            line |= {"testable": False, "reason": f"retention has no spread (range {spread:.4f}, below {NO_SPREAD})"}
        supports = bool(line["rho"] > 0 and line["p"] < 0.05) if line["testable"] else None
        evidence = (
            f"rho {line['rho']:.2f}, p {line['p']:.3f}" if line["testable"] else f"not testable: {line['reason']}"
        )
        strata = part.groupby("group_a", sort=False).model_a.unique()
        line["within"] = ""
        if len(strata) > 1 and line["testable"]:
            inner = rank_prediction(part, part, alignment_value="alignment_calibrated", strata=strata).iloc[0]
            line["within"] = f"{inner.p:.3f}" if inner.testable else "too few models"
            evidence += f"; p within groups: {line['within']}"
        lines.append({"row": row, "invariance": space, **line, "supports": supports, "evidence": evidence})
    return pd.DataFrame(lines)


def general(frames: Mapping[str, pd.DataFrame]) -> list[Outcome]:
    """For vision and for language, whether agreement is uncovered and stitching works in every row that can tell."""
    rows = {"vision": [], "language": []}
    for outcome in _decided([*pervasive(frames), *communicates(frames)]):
        rows[row_named(outcome.row).modality].append(outcome)
    return [
        Outcome(
            modality,
            all(outcome.supports for outcome in outcomes) if outcomes else None,
            f"{sum(outcome.supports for outcome in outcomes)} of {len(outcomes)} rows support, "
            f"against it: {', '.join(outcome.row for outcome in outcomes if not outcome.supports) or 'none'}",
        )
        for modality, outcomes in rows.items()
    ]


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

_ROWS_COUNT = "All rows that can tell: holds; some: in part; none: does not hold."

FINDINGS: dict[int, Claim] = {
    1: Claim(
        "Structural similarities are pervasive: independently trained networks share much of their structure, "
        "hidden beneath differences of the coordinate systems.",
        "in each row on alignment, two differences, both by their 95 % interval over models: the calibrated score "
        "after an affine map minus that of raw spaces, and the score after the map minus its expectation when samples "
        "are shuffled within their classes. Both above 0 support, one below 0 contradicts. Untrained networks are "
        "shown beside it and do not decide: what they share as well was not learned. " + _ROWS_COUNT,
        pervasive,
    ),
    2: Claim(
        "The best invariance depends on what varies: rotation for initialization, affine for architecture, case by "
        "case for training; none is best for all.",
        "the rows of the three sections on alignment by their own rules, and one more: that not one and the same "
        "invariance is best in all rows that can tell. " + _ROWS_COUNT,
        dependent,
    ),
    3: Claim(
        "Invariances enable zero-shot communication: stitched models come near models that are not stitched, "
        "without any further training.",
        "in each row of the paper's stitching table, relative or affine stitching keeps at least 75 % by the lower end "
        "of the 95 % interval over models: of the F1 of its ceiling, or of the gap in error between absolute stitching "
        "and the ceiling. Otherwise the row contradicts. " + _ROWS_COUNT,
        communicates,
    ),
    4: Claim(
        "Alignment predicts stitching: how well two spaces align under an invariance tells how well the models stitch.",
        "within each row and way of stitching, over ordered pairs of models: Spearman's rank correlation of calibrated "
        "alignment with the share of the ceiling that is kept is above 0 with p < 0.05 by relabelling models. No such "
        "correlation contradicts; a range of retention below 0.01, or too few models, cannot tell. Nothing is pooled "
        "over data sets. " + _ROWS_COUNT,
        predicts,
    ),
    5: Claim(
        "It applies to vision and to language alike.",
        "for either domain, all rows that can tell by the rules of findings 1 and 3 support. Both domains: holds; one: "
        "in part; none: does not hold.",
        general,
    ),
}
"""The paper's five key findings, in its order."""
