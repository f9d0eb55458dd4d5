"""The answer for somebody who has not read the paper, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import pandas as pd

from invariances.groups import INTERCHANGEABLE
from invariances.readers import located
from invariances.verdict import KEEPS_LENGTHS, Verdict

__all__ = ["QUESTION", "answer", "groups_in_words", "next_steps"]

QUESTION = "Which transformation relates these spaces?"

RELATION = {
    "identity": "the same as {a}",
    "scale": "{a} times one factor",
    "translation": "{a} shifted",
    "permutation": "{a} with its features in another order",
    "orthogonal": "{a} turned",
    "orthogonal+translation": "{a} turned and shifted",
    "similarity": "{a} turned, shifted and scaled by one factor",
    "affine": "a linear map of {a} and a shift",
}
"""What one space is, seen from another, for each class of maps."""


def answer(
    verdict: Verdict,
    retrieval: pd.DataFrame,
    retention: pd.DataFrame | None,
    groups: Sequence[Sequence[str]] | None = None,
) -> str:
    """The answer in plain words.

    Parameters
    ----------
    verdict : Verdict
    retrieval : DataFrame
        As `invariances.transfer.retrieval` returns it: what a map of the verdict's class finds.
    retention : DataFrame, optional
        As `invariances.transfer.retention` returns it.
    groups : sequence of sequences of model names, optional
        Of more than two models, as `invariances.groups.groups` returns them. Where they are not one, no class of maps
        is said to relate all.
    """
    first = retrieval.iloc[0]
    anchors, gallery = int(first.n_anchors), int(first.gallery)
    if verdict.undecided:
        return (
            f"{anchors} pairs are too few to tell how these spaces are related; give at least "
            f"{verdict.anchors_needed} (--anchors, anchors= in Python)."
        )
    finds = _finds(verdict, retrieval, anchors, gallery)
    if groups is not None and len(groups) > 1:
        sentences = [groups_in_words(groups), f"{finds[0].upper()}{finds[1:]}."]
    else:
        sentences = [f"{_relation(verdict, str(first.model_a), str(first.model_b))}; {finds}."]
        sentences += [groups_in_words(groups)] if groups else []
    if retention is not None:
        sentences.append(_keeps(retention))
    return " ".join(sentences)


def _relation(verdict: Verdict, a: str, b: str) -> str:
    share = f"{100 * verdict.explained_variance:.0f} %"
    pair = verdict.models == 2
    if verdict.invariance == "none":
        which = f"{a} and {b} are" if pair else f"All {verdict.models} models are"
        one = "the other" if pair else "all others"
        return f"{which} not related by any map that was tried: none predicts {one} better than a constant does"
    relation = RELATION[verdict.invariance].format(a=a if pair else "another")
    if verdict.unequal_widths and verdict.invariance in KEEPS_LENGTHS:
        relation += " (onto fewer axes, where it keeps lengths)"
    mean = "mean of both directions" if pair else "mean over all pairs"
    named = b if pair else f"Each of the {verdict.models} models"
    if verdict.weak:
        return (
            f"{named} is only loosely related to {a if pair else 'the others'}: {relation} explains {share} of the "
            f"held-out variance ({mean})"
        )
    return f"{named} is {relation}, which explains {share} of the held-out variance ({mean})"


def _finds(verdict: Verdict, retrieval: pd.DataFrame, anchors: int, gallery: int) -> str:
    chance = f"1 in {gallery} by chance"
    if len(retrieval) > 2:
        least, middle, most = (100 * retrieval.top1.quantile(q) for q in (0, 0.5, 1))
        return (
            f"maps fitted on {anchors} pairs carry one model's vectors into another's space and find the right "
            f"counterpart among {gallery} for {middle:.0f} of 100 held-out samples in the middle pair of models, "
            f"{least:.0f} in the worst and {most:.0f} in the best ({chance})"
        )
    there, back = retrieval.iloc[0], retrieval.iloc[1]
    if verdict.invariance == "none":
        return (
            f"the best linear map of {anchors} pairs finds the right counterpart among {gallery} for "
            f"{100 * there.top1:.0f} of 100 held-out samples ({100 * back.top1:.0f} the other way, {chance})"
        )
    return (
        f"a map fitted on {anchors} pairs carries {there.model_a}'s vectors into {there.model_b}'s space and finds the "
        f"right counterpart among {gallery} for {100 * there.top1:.0f} of 100 held-out samples "
        f"({100 * there.top1_low:.0f} to {100 * there.top1_high:.0f}; {100 * back.top1:.0f} the other way, {chance})"
    )


def _keeps(retention: pd.DataFrame) -> str:
    worst = retention.loc[retention.retention.idxmin()]
    which = "In the worst pair, a" if len(retention) > 2 else "A"
    return (
        f"{which} linear head of {worst.model_b} keeps {100 * worst.retention:.0f} % of its accuracy "
        f"({100 * worst.retention_low:.0f} to {100 * worst.retention_high:.0f}) on the mapped vectors of "
        f"{worst.model_a}: {100 * worst.mapped_accuracy:.0f} % instead of {100 * worst.accuracy:.0f} %, where a guess "
        f"gives {100 * worst.guess:.0f} %."
    )


def groups_in_words(groups: Sequence[Sequence[str]]) -> str:
    """Which models are interchangeable, in one or two sentences.

    Parameters
    ----------
    groups : sequence of sequences of model names
        As `invariances.groups.groups` returns them.
    """
    rule = (
        f"in a group, every model's mapped vectors find their counterpart for at least {100 * INTERCHANGEABLE:.0f} of "
        "100 samples in every other; `map score` tests whether they also find the same neighbours"
    )
    several = [group for group in groups if len(group) > 1]
    alone = [group[0] for group in groups if len(group) == 1]
    if not several:
        return f"No two of the {len(alone)} models are interchangeable ({rule})."
    if not alone and len(several) == 1:
        return f"All {len(several[0])} models are interchangeable ({rule})."
    parts = [", ".join(group) for group in several]
    said = f"Interchangeable are {'; and '.join(parts)} ({rule})."
    return f"{said} With no other: {', '.join(alone)}." if alone else said


def next_steps(
    verdict: Verdict,
    retrieval: pd.DataFrame,
    sources: Mapping[str, str],
    labelled: bool,
    options: str = "",
    anchors: str = "",
) -> list[str]:
    """What to do next, with the exact command, or in Python where no files were given.

    Parameters
    ----------
    verdict : Verdict
    retrieval : DataFrame
        As `answer` takes it.
    sources : mapping from model names to paths
        What the commands name.
    labelled : bool
        Whether labels were given.
    options, anchors : str
        Options of the command that go on holding, e.g. " --id doc" and " --anchors 200".
    """
    in_files = all(located(source)[0].exists() for source in sources.values())
    given = f"invariances discover {' '.join(map(shlex.quote, sources.values()))}{options}"
    if verdict.undecided:
        again = f"{given} --anchors {verdict.anchors_needed}" if in_files else f"anchors={verdict.anchors_needed}"
        return [f"Give more pairs: {again}"]
    best = retrieval.iloc[0] if verdict.models == 2 else retrieval.loc[retrieval.top1.idxmax()]
    if best.top1_low <= best.top1_chance:
        return [
            "Check that row i is the same sample in every file, or give ids (--id); a shuffled file looks unrelated.",
            "If the rows are right, no map will do: embed everything again with the new model.",
        ]
    which = "" if verdict.models == 2 else f" of the best pair, {best.model_a} into {best.model_b}"
    if not in_files:
        steps = [f"Fit and save the map{which}: fitted = invariances.fit_map(a, b); fitted.save('a2b.safetensors')"]
        steps.append("Decide with pairs that it has not seen: invariances.score_map(fitted, new_a, new_b)")
        return steps if labelled else [*steps, "See what a classifier keeps: invariances.discover(..., labels=classes)"]
    a, b = (shlex.quote(sources[str(best[end])]) for end in ("model_a", "model_b"))
    new_a, new_b = (shlex.quote(f"NEW_{best[end]}") for end in ("model_a", "model_b"))
    steps = [
        f"Fit and save the map{which}: invariances map fit {a} {b}{options} -o a2b.safetensors",
        f"Decide with pairs that it has not seen: invariances map score a2b.safetensors {new_a} {new_b}{options} "
        "--gate 0.9",
    ]
    if not labelled:
        steps.append(f"See what a classifier keeps: {given}{anchors} --labels LABELS.csv")
    return steps
