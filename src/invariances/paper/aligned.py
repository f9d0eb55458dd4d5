"""What the tables on alignment say of the claims: which invariance is highest, and what an affine map uncovers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from invariances.intervals import interval
from invariances.paper.frames import across_groups, groups_of
from invariances.paper.judging import Outcome, decided, describe, sign
from invariances.paper.rows import INVARIANCES, ROWS

__all__ = [
    "ALIGNED",
    "BY_RETRIEVAL",
    "EXPECTED",
    "by_retrieval",
    "highest",
    "highest_sentence",
    "pervasive",
    "uncovered_sentence",
]


ALIGNED = ("initialization", "architecture", "training")
"""The sections on alignment."""
EXPECTED: dict[str, dict[str, str]] = {
    "initialization": {row.name: "relative" for row in ROWS["initialization"]},
    "architecture": {row.name: "affine" for row in ROWS["architecture"]},
    "training": {
        "CIFAR-10: SGD vs Adam": "relative",
        "CIFAR-100: LR 0.001 vs 0.01": "relative",
        "ImageNet: Aug Light vs Heavy": "affine",
        "Amazon Reviews: Batch 32 vs 128": "relative",
    },
}
"""The invariance that the paper says aligns best, by section and row."""
BY_RETRIEVAL = "retrieval_mrr"
"""The score that means the same in every space: the mean of 1 over the rank of a sample's own counterpart."""


def highest(frame: pd.DataFrame, expected: Mapping[str, str]) -> list[Outcome]:
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
        best = {True: expected[row], False: rival, None: ""}[sign(span)]
        bare = _by_pair(trained, "score").mean()
        said = f"{expected[row]} minus {rival}: {describe(span)}; "
        said += f"not calibrated: {bare[expected[row]]:.3f} and {bare[rival]:.3f}"
        outcomes.append(Outcome(row, sign(span), said, best))
    return outcomes


def _by_pair(frame: pd.DataFrame, value: str) -> pd.DataFrame | None:
    """Scores, calibrated or not, with one line per unordered pair and one column per invariance."""
    across = across_groups(frame)
    if across.empty:
        return None
    ends = pd.DataFrame({"model_a": across[["model_a", "model_b"]].min(axis=1)})
    ends["model_b"] = across[["model_a", "model_b"]].max(axis=1)
    return across.assign(**ends).groupby(["model_a", "model_b", "invariance"])[value].mean().unstack()


def by_retrieval(frame: pd.DataFrame) -> list[Outcome]:
    """For each row of the sections on alignment, whether the expected invariance is highest by retrieval.

    Parameters
    ----------
    frame : DataFrame
        The tidy table of the study of retrieval; of its invariances, the paper's four are compared.
    """
    own = frame[(frame.metric == BY_RETRIEVAL) & frame.invariance.isin(list(INVARIANCES))]
    return [outcome for section in ALIGNED for outcome in highest(own, EXPECTED[section])]


def highest_sentence(outcomes: Sequence[Outcome], of_all: bool = False) -> str:
    """Which invariance is highest in how many of the rows that can tell.

    Parameters
    ----------
    outcomes : sequence of Outcome
    of_all : bool
        Whether the rows are those of all factors, so that a single winner says that the factor does not matter.
    """
    telling = decided(list(outcomes))
    if not telling:
        return ""
    counts = Counter(outcome.best for outcome in telling).most_common()
    first, times = counts[0]
    said = f"{first.capitalize()} is highest in {times} of the {len(telling)} rows that can tell"
    if len(counts) > 1:
        return f"{said}, {', '.join(f'{name} in {count}' for name, count in counts[1:])}."
    return f"{said}, so the winner does not depend on what varied." if of_all else f"{said}."


def pervasive(frames: Mapping[str, pd.DataFrame]) -> list[Outcome]:
    """For each row, whether an affine map uncovers agreement that raw spaces hide, and that labels do not explain."""
    return [_uncovered(row, part) for row, part in _rows(frames)]


def _rows(frames: Mapping[str, pd.DataFrame]) -> list[tuple[str, pd.DataFrame]]:
    return [
        (row, part)
        for section in ALIGNED
        for row, part in frames[section].groupby("row", sort=False)
        if row in EXPECTED[section]
    ]


def _uncovered(row: str, part: pd.DataFrame) -> Outcome:
    trained = across_groups(part[part.kind == "trained"])
    pairs, groups = _by_pair(trained, "calibrated"), groups_of(trained)
    if pairs is None or pairs[["absolute", "affine"]].isna().any(axis=None):
        return Outcome(row, None, "a score has no calibration")
    gain = interval((pairs.affine - pairs.absolute).rename("gap").reset_index(), "gap", groups)
    affine = trained[trained.invariance == "affine"]
    beyond = interval(affine.assign(gap=affine.score - affine.null_within_class), "gap", groups)
    signs = (sign(gain), sign(beyond))
    supports = None if None in signs else all(signs)
    said = (
        f"affine minus raw {describe(gain)}; affine minus shuffled within classes {describe(beyond)}; "
        f"calibrated affine {affine.calibrated.mean():.2f} trained, {_untrained(part).calibrated.mean():.2f} untrained"
    )
    return Outcome(row, supports, said)


def _untrained(part: pd.DataFrame) -> pd.DataFrame:
    return across_groups(part[(part.kind == "untrained") & (part.invariance == "affine")])


def uncovered_sentence(frames: Mapping[str, pd.DataFrame], outcomes: list[Outcome]) -> str:
    """What an affine map adds to raw spaces, from the lowest to the highest row, and where training adds nothing."""
    telling = {outcome.row for outcome in decided(outcomes)}
    gains, untrained = [], 0
    for row, part in _rows(frames):
        if row in telling:
            own = across_groups(part[part.kind == "trained"]).groupby("invariance").calibrated.mean()
            gains.append(own["affine"] - own["absolute"])
            untrained += bool(_untrained(part).calibrated.mean() >= own["affine"])
    return (
        f"An affine map raises calibrated alignment by {min(gains):.2f} to {max(gains):.2f} over that of raw spaces; "
        f"in {untrained} of the {len(gains)} rows that can tell, untrained networks reach at least as much after such "
        "a map as trained ones."
    )
