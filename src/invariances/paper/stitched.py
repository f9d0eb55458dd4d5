"""What the table on stitching says of the claims: whether stitching works, and whether alignment foretells it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from invariances.intervals import interval
from invariances.paper.frames import across_groups, groups_of, over_groups
from invariances.paper.judging import Outcome, decided, describe, percent
from invariances.paper.reported import stitching_beside
from invariances.prediction import rank_prediction

__all__ = [
    "KEPT",
    "communicates",
    "communicates_sentence",
    "gain_of_choice",
    "holm",
    "predictions",
    "predicts",
    "predicts_sentence",
]


KEPT = 0.75
"""Share of the ceiling (of the gap, for errors) from which on stitching counts as working, as the paper words it."""
NO_SPREAD = 0.01
"""Range of retention below which there is nothing to predict."""
SIGNIFICANT = 0.05
TOO_FEW = "too few models"


def communicates(frame: pd.DataFrame) -> list[Outcome]:
    """For each row beside a reported number, whether relative or affine stitching comes near the ceiling."""
    return [_near_ceiling(row, part) for row, part in frame.groupby("row", sort=False) if stitching_beside(str(row))]


def _near_ceiling(row: str, part: pd.DataFrame) -> Outcome:
    real = _real(part)
    unstitched = real[real.invariance == "absolute"]
    absolute, whole = unstitched.score.mean(), unstitched.ceiling.mean()
    errors, spans, said = (real.metric == "mse").all(), {}, []
    reported = stitching_beside(row)
    for space, own in real[real.invariance.isin(["relative", "affine"])].groupby("invariance"):
        if errors:
            own = own.assign(retention=(absolute - own.score) / (absolute - own.ceiling))
        spans[space] = span = interval(own, "retention", groups_of(own))
        noted = f" ({span.note})" if span.low == span.low and span.note else ""
        ratio = own.score.mean() / whole
        of_paper = reported[space].mean / reported["ceiling"].mean
        kept = f"{space} closes {describe(span)} of the gap{noted}, with" if errors else ""
        kept = kept or f"{space} keeps {describe(span)} of the F1{noted}, or"
        what = (
            "times the error of models that are not stitched" if errors else "of the F1 of absolute models unstitched"
        )
        said.append(f"{kept} {ratio:.2f} {what} ({of_paper:.2f} in the paper)")
    known = [span for span in spans.values() if span.low == span.low]
    supports = any(span.low >= KEPT for span in known) if known else None
    return Outcome(row, supports, "; ".join(said))


def _real(part: pd.DataFrame) -> pd.DataFrame:
    """The pairs of a row that count: no controls, and across its groups where it has several."""
    return over_groups(across_groups(part[part.control == "none"]))


def communicates_sentence(frame: pd.DataFrame, outcomes: list[Outcome]) -> str:
    """In how many rows stitching keeps enough, how blurred pictures are, and where a rotation keeps more than a map."""
    telling = decided(outcomes)
    supporting = sum(bool(outcome.supports) for outcome in telling)
    rows = f"{supporting} of the {len(telling)} rows that can tell"
    said = [f"Stitching without training keeps at least {percent(KEPT)} in {rows}."]
    real = pd.concat([_real(part) for _, part in frame.groupby("row", sort=False)])
    pictures = real[(real.metric == "mse") & real.row.isin([outcome.row for outcome in telling])]
    if len(pictures):
        errors = pictures.groupby(["row", "invariance"], sort=False).score.mean().unstack()
        whole = pictures[pictures.invariance == "absolute"].groupby("row", sort=False).ceiling.mean()
        ratios = errors.div(whole, axis=0)
        times = [
            f"{ratios[space].min():.1f} to {ratios[space].max():.1f} {how}"
            for space, how in (("relative", "with relative representations"), ("affine", "after an affine map"))
            if space in ratios
        ]
        said.append(
            "For pictures, the share of the gap in error that is closed decides. The error itself, as a multiple of "
            f"that of models that are not stitched, is {' and '.join(times)}."
        )
    kept = real.groupby(["row", "invariance"]).retention.mean().unstack()
    if {"orthogonal", "affine"} <= set(kept):
        gap = (kept.orthogonal - kept.affine).dropna()
        if len(gap) and gap.max() > 0.1:
            row = gap.idxmax()
            said.append(
                f'In "{row}" a rotation keeps {kept.orthogonal[row]:.2f} where an affine map keeps '
                f"{kept.affine[row]:.2f}, so the freer map is not always the better one."
            )
    return " ".join(said)


# Prediction ------------------------------------------------------------------------------------


def predicts(frame: pd.DataFrame) -> list[Outcome]:
    """For each row and way of stitching, whether pairs that align better keep more of the ceiling."""
    return [
        Outcome(f"{line.row}: {line.invariance}", line.supports, line.evidence)
        for line in predictions(frame).itertuples()
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
        As `invariances.rank_prediction` gives it, with ``supports``, ``evidence`` and what the rule does not ask for:
        ``holm``, p corrected for the number of rows that can be tested; ``rho_uncalibrated``, by alignment as the paper
        has it; ``gain``, as `gain_of_choice` gives it; and, where models are of several groups, ``within``: p as shown,
        if they are relabelled within these alone.
    """
    lines = []
    for (row, space), part in frame[frame.control == "none"].groupby(["row", "invariance"], sort=False):
        if space in ("absolute", "product"):
            continue  # nothing was fitted to align; or no alignment of its own
        lines.append({"row": row, "invariance": space, **_prediction(over_groups(part))})
    table = pd.DataFrame(lines)
    if len(table):
        table["holm"] = holm(table.p.where(table.testable.astype(bool)))
        said = table.evidence.where(table.holm.isna(), table.evidence + table.holm.map("; p after Holm {:.3f}".format))
        table["evidence"] = said
    return table


def _prediction(part: pd.DataFrame) -> dict[str, object]:
    spread = part.retention.max() - part.retention.min()
    line = rank_prediction(part, part, alignment_value="alignment_calibrated").iloc[0].to_dict()
    if not spread >= NO_SPREAD:
        line |= {"testable": False, "reason": f"retention has no spread (range {spread:.4f}, below {NO_SPREAD})"}
    line |= {"within": "", "rho_uncalibrated": math.nan, "gain": math.nan, "supports": None}
    if not line["testable"]:
        return line | {"evidence": f"not testable: {line['reason']}"}
    line["supports"] = bool(line["rho"] > 0 and line["p"] < SIGNIFICANT)
    line["gain"] = gain_of_choice(part)
    evidence = f"rho {line['rho']:.2f}, p {line['p']:.3f}"
    if "alignment" in part:
        bare = rank_prediction(part, part, alignment_value="alignment").iloc[0]
        line["rho_uncalibrated"] = bare.rho
        evidence += f"; not calibrated: rho {bare.rho:.2f}" if bare.testable else f"; not calibrated: {bare.reason}"
    evidence += f"; the best-aligned encoder gains {percent(line['gain'])} of what the best one would"
    strata = part.groupby("group_a", sort=False).model_a.unique()
    if len(strata) > 1 and strata.map(len).max() > 1:
        inner = rank_prediction(part, part, alignment_value="alignment_calibrated", strata=strata).iloc[0]
        line["within"] = f"{inner.p:.3f}" if inner.testable else TOO_FEW
        evidence += f"; p within groups: {line['within']}"
    return line | {"evidence": evidence}


def gain_of_choice(part: pd.DataFrame) -> float:
    """What a user gains who takes the best-aligned encoder for a given head, as a share of the best one's gain.

    Parameters
    ----------
    part : DataFrame
        Ordered pairs of one row and way of stitching, with ``alignment_calibrated`` and ``retention``.

    Returns
    -------
    float
        1 where the best-aligned encoder is the best for every head, 0 where it is as good as one taken at random, the
        mean over heads; NaN where all encoders are equally good.
    """
    gained = possible = 0.0
    for _, pairs in part.dropna(subset=["alignment_calibrated", "retention"]).groupby("model_b", sort=False):
        chosen = pairs.retention[pairs.alignment_calibrated.idxmax()]
        gained += chosen - pairs.retention.mean()
        possible += pairs.retention.max() - pairs.retention.mean()
    return gained / possible if possible else math.nan


def holm(p: pd.Series) -> pd.Series:
    """P by Holm's step-down correction for the number of tests; missing ones stay so and do not count."""
    known = p.dropna().astype(float).sort_values(kind="stable")
    factors = np.arange(len(known), 0, -1)
    return (known * factors).cummax().clip(upper=1.0).reindex(p.index)


def predicts_sentence(frame: pd.DataFrame) -> str:
    """How many rows support it, after a correction for their number, and without those that groups alone could make."""
    table = predictions(frame)
    testable = table[table.testable.astype(bool)]
    corrected = testable[(testable.rho > 0) & (testable.holm < SIGNIFICANT)]
    within = testable.within.map(lambda p: p == "" or (p != TOO_FEW and float(p) < SIGNIFICANT))
    kept = testable.supports[within]
    return (
        f"Of the {len(testable)} combinations of row and connection that can tell, {int(testable.supports.sum())} "
        f"support it, and {len(corrected)} do after Holm's correction. Without those whose correlation within groups "
        f"could be chance or cannot be computed, {sum(map(bool, kept))} of {len(kept)} support it. Whoever takes "
        f"the best-aligned encoder for a given head gains {percent(testable.gain.median())} of what the best encoder "
        f"would gain (median; {percent(testable.gain.min())} to {percent(testable.gain.max())})."
    )
