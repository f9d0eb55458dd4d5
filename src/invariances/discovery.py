"""Which transformation relates the spaces, or none: the verdict for somebody's own embeddings.

`discover` gives two answers and keeps them apart. The paper's rule picks the invariance with the
highest calibrated alignment; its scores live in different spaces, so no statement about T rests
on it. The `invariances.ladder` compares maps into one and the same target space, by the variance they explain
on held-out samples, and picks the smallest class that is as good as the best.
"""

from __future__ import annotations

from invariances.alignment import align
from invariances.ladders import ALL_PAIRS, DELTA, check_delta, ladder
from invariances.report import WEAK, Report, Verdict
from invariances.rows import Spread
from invariances.samples import Anchors, Labels
from invariances.spaces import Spaces, open_spaces

__all__ = ["discover"]

STEPS = ["class", "parameters", "explained_variance", "standard_error", "gap", "tolerance", "chosen"]
"""Columns of the report's ladder."""
STRUCTURE = [
    "model_a",
    "model_b",
    "explained_variance",
    "singular_value_ratio",
    "singular_value_ratio_simulated",
    "distance_from_rotation",
    "distance_from_rotation_simulated",
    "shift",
    "shift_simulated",
]
"""Columns of the report's description of T."""


def discover(
    spaces: Spaces,
    anchors: Anchors = 500,
    labels: Labels = None,
    seed: int = 0,
    permutation: bool = False,
    delta: float = DELTA,
    workers: Spread | None = None,
) -> Report:
    """Find the class of transformations that relates the spaces (paper, phase 2).

    Parameters
    ----------
    spaces : mapping from model names to spaces, or sequence of spaces
        Each n x d, the same samples in the same order, or with ids that match. Three or more models allow the
        instrumented ladder, which variation private to a model does not mislead.
    anchors : int, sequence, mask or path
        Rows that maps are fitted on, as `invariances.align` takes them; the others are scored.
    labels : sequence of length n, optional
        Classes, for the within-class null of the table.
    seed : int
        Draws anchors, folds and the simulated rotation.
    permutation : bool
        Compare permutations of features too, between translation and orthogonal. Only codes with
        preferred axes, such as the output of a ReLU, can be told from rotated ones.
    delta : float
        Share of the target's variance below which a difference between classes does not count.
    workers : callable, optional
        How blocks of pairs are spread; see `invariances.ladder`. By default over threads.

    Returns
    -------
    Report

    Raises
    ------
    SpaceError
        If the input cannot be used.

    See Also
    --------
    invariances.ladder : The rule behind the verdict.
    """
    check_delta(delta)
    opened = open_spaces(spaces)
    ids, labels = opened.anchor_rows(anchors, seed), opened.labels_of_rows(labels)
    read = dict(opened)  # from here on, rows are those of all spaces
    table = align(read, anchors=ids, labels=labels)  # checks the labels
    found = ladder(read, ids, seed=seed, permutation=permutation, delta=delta, workers=workers).table
    of_all, of_pairs = found[found.model_a == ALL_PAIRS], found[found.model_a != ALL_PAIRS]
    chosen = of_all[of_all.chosen].iloc[0]
    width = max(space.shape[1] for space in read.values())
    verdict = Verdict(
        chosen.verdict,
        float(chosen.explained_variance),
        weak=chosen.verdict != "none" and chosen.explained_variance < WEAK,
        models=len(read),
        few_anchors=len(ids) <= width,
        undecided=bool(chosen.undecided),
        anchors_needed=width + 2,
    )
    means = table.groupby("invariance", sort=False).calibrated.mean().dropna()
    choice = str(means.idxmax()) if len(means) else "none: no score can be told from chance"
    affine = of_pairs[of_pairs["class"] == "affine"]
    return Report(
        table, of_all[STEPS].reset_index(drop=True), choice, verdict, affine[STRUCTURE].reset_index(drop=True), delta
    )
