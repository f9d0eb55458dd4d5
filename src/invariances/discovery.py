"""Which transformation relates the spaces, or none: the verdict for somebody's own embeddings.

`discover` gives two answers and keeps them apart. The paper's rule picks the invariance with the
highest calibrated alignment; its scores live in different spaces, so no statement about T rests
on it. The `invariances.ladder` compares maps into one and the same target space, by the variance they explain
on held-out samples, and picks the smallest class that is as good as the best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from invariances.alignment import align
from invariances.axes import Without, few_axes
from invariances.groups import groups
from invariances.ladders import ALL_PAIRS, DELTA, check_delta, ladder
from invariances.report import Report
from invariances.represent import INVARIANCES
from invariances.rows import Spread
from invariances.samples import Anchors, Labels, class_codes
from invariances.spaces import OpenSpaces, Spaces, open_spaces
from invariances.transfer import examples, retention, retrieval
from invariances.verdict import WEAK, Verdict

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
CARRIED = {"none": "affine", "identity": "absolute", "scale": "isotropic-scale"}
"""The invariance whose map carries vectors across, where it has another name than the verdict."""
PAIR = 2
"""Of more models it is said which are interchangeable."""


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
    classes = class_codes(labels, opened.n)
    read = dict(opened)  # from here on, rows are those of all spaces
    options = _Options(ids, classes, seed, permutation, delta, workers)
    report = _report(OpenSpaces(read), options)
    few = {name: found for name, space in read.items() if (found := few_axes(space[ids])) is not None}
    if few:
        rest: Any = {name: Without(space, few[name]) if name in few else space for name, space in read.items()}
        without = _report(OpenSpaces(rest), options)
        shares = {name: (len(found), found.share) for name, found in few.items()}
        report = replace(
            report, verdict=replace(report.verdict, few_axes=shares, without=without.verdict), without=without
        )
    return replace(report, sources=_sources(spaces, read), matched_by=opened.matched_by)


class _Options(NamedTuple):
    ids: np.ndarray
    classes: torch.Tensor | None
    seed: int
    permutation: bool
    delta: float
    workers: Spread | None


def _sources(spaces: Spaces, names: Iterable[str]) -> dict[str, str]:
    """What a command would name: the files that were given, or the names."""
    given = list(spaces.values() if isinstance(spaces, Mapping) else spaces)
    return {
        name: str(source) if isinstance(source, (str, Path)) else name
        for name, source in zip(names, given, strict=True)
    }


def _report(spaces: OpenSpaces, options: _Options) -> Report:
    ids, seed = options.ids, options.seed
    table = align(spaces, anchors=ids, labels=options.classes)
    found_ladder = ladder(
        spaces, ids, seed=seed, permutation=options.permutation, delta=options.delta, workers=options.workers
    )
    compared = found_ladder.table
    together = compared.model_a == ALL_PAIRS
    of_all: pd.DataFrame = compared.loc[together].reset_index(drop=True)
    of_pairs: pd.DataFrame = compared.loc[~together & (compared["class"] == "affine")].reset_index(drop=True)
    verdict = _verdict(of_all.loc[of_all.chosen.idxmax()], spaces, len(ids))
    means = table.groupby("invariance", sort=False).calibrated.mean().dropna()
    held_out = np.setdiff1d(np.arange(spaces.n), ids)
    carried = INVARIANCES[CARRIED.get(verdict.invariance, verdict.invariance)]
    found = retrieval(spaces, ids, held_out, carried, seed)
    kept = None
    if options.classes is not None and not verdict.undecided:
        kept = retention(spaces, ids, held_out, options.classes, carried, seed)
    return Report(
        table,
        of_all.reindex(columns=STEPS),
        str(means.idxmax()) if len(means) else "none: no score can be told from chance",
        verdict,
        of_pairs.reindex(columns=STRUCTURE),
        options.delta,
        found,
        kept,
        groups(found) if len(spaces) > PAIR else None,
        singular_values=found_ladder.singular_values,
        examples=examples(spaces, ids, held_out, carried),
    )


def _verdict(chosen: pd.Series, spaces: OpenSpaces, k: int) -> Verdict:
    widths = {space.shape[1] for space in spaces.values()}
    return Verdict(
        chosen.verdict,
        float(chosen.explained_variance),
        weak=chosen.verdict != "none" and bool(chosen.explained_variance < WEAK),
        models=len(spaces),
        few_anchors=k <= max(widths),
        undecided=bool(chosen.undecided),
        anchors_needed=max(widths) + 2,
        unequal_widths=len(widths) > 1,
    )
