"""Rows of two groups: how alike models of one condition are, beside how alike those of different conditions are.

All that is shown follows from a section's tidy frame. Alignment across two conditions says little alone: models of
one and the same condition, which differ by their seeds, are the most that could be asked of it.
"""

from __future__ import annotations

import math
from itertools import combinations
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from invariances.intervals import interval
from invariances.paper.frames import groups_of, shown_row
from invariances.paper.plots import WIDTH, Drawing, data_in
from invariances.paper.rows import INVARIANCES
from invariances.paper.tables import number

__all__ = ["KINDS", "cells", "figure", "table"]


KINDS = ("across", "first", "second", "control")
"""Kinds of pairs: across the two conditions, within the first or the second, and the control."""
CONTROL = "same initialization"
"""How the tidy frame marks the one pair across conditions whose models started from the same weights."""
LABELS = {
    "first": "within the first condition",
    "across": "across the two conditions",
    "second": "within the second condition",
}
RELABELLINGS_TRIED = 200_000
"""Ways to deal models to two conditions that are all tried: those of 10 and 10; of more, 9,999 are drawn."""


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Alignment of every row of two groups, by invariance and kind of pairs.

    Parameters
    ----------
    frame : DataFrame
        A section's tidy table; rows that compare any other number of groups than two are left out.

    Returns
    -------
    DataFrame
        One line per row, invariance and kind of pairs (`KINDS`), with ``condition`` (what the models of both sides
        have in common), ``calibrated`` and ``score`` (means over pairs), ``low`` and ``high`` (95 % interval of the
        calibrated mean, over models; NaN where there is none), ``models``, ``note``, and, with the pairs across,
        ``difference`` (calibrated: across minus the mean of the two within) and ``p`` (see `_relabelled`).
        The control is a single pair and has no interval.
    """
    lines = []
    for row, own in frame.groupby("row", sort=False):
        groups = groups_of(own[own.kind == "trained"])
        if groups is None:
            continue
        labels = dict(zip(own.model_a, own.group_a, strict=True)) | dict(zip(own.model_b, own.group_b, strict=True))
        conditions = [labels[models[0]] for models in groups]
        both = " and ".join(conditions)
        named = dict(zip(KINDS, (both, *conditions, both), strict=True))
        for invariance in INVARIANCES:
            found = _by_kind(own[own.invariance == invariance], groups)
            key = {"row": row, "invariance": invariance}
            lines += [{**key, "kind": kind, "condition": named[kind], **line} for kind, line in found.items()]
    return pd.DataFrame(lines)


def _by_kind(part: pd.DataFrame, groups: tuple[list[str], list[str]]) -> dict[str, dict[str, object]]:
    trained, control = (part[part.kind == kind] for kind in ("trained", CONTROL))
    found = {"across": _cell(trained, groups)}
    found |= {kind: _cell(_within(trained, models)) for kind, models in zip(KINDS[1:3], groups, strict=True)}
    means = {kind: line["calibrated"] for kind, line in found.items()}
    difference = means["across"] - (means["first"] + means["second"]) / 2
    found["across"] |= {"difference": difference, "p": _relabelled(trained, groups)}
    if len(control):
        one = {"calibrated": control.calibrated.mean(), "score": control.score.mean(), "models": 2}
        found["control"] = one | {"note": "one pair: no interval"}
    return found


def _within(pairs: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    return pairs[pairs.model_a.isin(models) & pairs.model_b.isin(models)]


def _cell(pairs: pd.DataFrame, groups: tuple[list[str], list[str]] | None = None) -> dict[str, object]:
    if pairs.calibrated.isna().all():
        note = "no pair within a condition" if pairs.empty else "a score has no calibration"
        models = len({*pairs.model_a, *pairs.model_b})
        return {"calibrated": math.nan, "low": math.nan, "score": pairs.score.mean(), "models": models, "note": note}
    span = interval(pairs, "calibrated", groups)
    line = {"calibrated": span.mean, "low": span.low, "high": span.high, "score": interval(pairs, "score", groups).mean}
    return line | {"models": span.models, "note": span.note}


def _relabelled(pairs: pd.DataFrame, groups: tuple[list[str], list[str]]) -> float:
    """How often models that are dealt anew to two conditions are as unlike across them as they are found to be.

    The effect of a model on all its pairs drops out of across minus within to first order, which leaves intervals
    over models (`invariances.intervals`) nothing to rest on. Where the condition does not matter, however, the models
    of both are exchangeable, so that the share of all ways to deal them with a difference at most as high is an exact
    p.
    """
    n = len(groups[0])
    names = [*groups[0], *groups[1]]
    matrix = pairs.pivot_table("calibrated", "model_a", "model_b").reindex(index=names, columns=names)
    ordered = np.stack([matrix, matrix.T])
    held = ~np.isnan(ordered)
    scores = np.where(held, ordered, 0).sum(0) / np.maximum(held.sum(0), 1)
    if not held.any(0)[np.triu_indices(len(names), 1)].all() or min(map(len, groups)) < 2:
        return math.nan
    first = _deals(n, len(names))
    inside, outside = (np.einsum("pi,ij,pj->p", x, scores, x) / (x.sum(1) * (x.sum(1) - 1)) for x in (first, 1 - first))
    across = np.einsum("pi,ij,pj->p", first, scores, 1 - first) / (n * (len(names) - n))
    differences = across - (inside + outside) / 2
    return float((differences <= differences[0] + 1e-12).mean())


def _deals(n: int, models: int) -> np.ndarray:
    """Ways to choose the n models of the first condition, 0 or 1 by model, in each line one; the given one first."""
    if math.comb(models, n) <= RELABELLINGS_TRIED:
        return np.array([np.isin(np.arange(models), chosen) for chosen in combinations(range(models), n)], float)
    rng = np.random.default_rng(0)
    given = np.arange(models) < n
    return np.array([given, *(rng.permutation(given) for _ in range(9_999))], float)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of `cells` as text, one line per row and invariance, the across-condition cell beside the within ones.

    Parameters
    ----------
    frame : DataFrame
        A section's tidy table.
    """
    lines = []
    for (row, invariance), own in cells(frame).groupby(["row", "invariance"], sort=False):
        by_kind = own.set_index("kind")
        raw = [f"{by_kind.score[kind]:z.2f}" for kind in KINDS[:3]]
        first = by_kind.loc["across"]
        line = {"Row": shown_row(frame[frame.row == row]), "Invariance": INVARIANCES[invariance]}
        titles = ("Across", "Within the first", "Within the second")
        line |= {title: _with_bounds(by_kind.loc[kind]) for title, kind in zip(titles, KINDS, strict=False)}
        line |= {"Across minus within": number(first.difference), "p, relabelled": number(first.p, 3)}
        if "control" in by_kind.index:
            line["Control: same initial weights"] = number(by_kind.calibrated["control"])
        line["Raw: across, first, second"] = ", ".join(raw)
        models = [f"{by_kind.models[kind]:.0f}" for kind in KINDS[1:3]]
        line["Models"] = " + ".join(models)
        line["Note"] = "; ".join(dict.fromkeys(filter(None, own.note[own.kind != "control"])))
        lines.append(line)
    return pd.DataFrame(lines)


def _with_bounds(line: pd.Series) -> str:
    bounds = "" if math.isnan(line.low) else f" [{line.low:z.2f}, {line.high:z.2f}]"
    return number(line.calibrated) + bounds


def figure(frame: pd.DataFrame) -> Drawing:
    """Calibrated alignment by invariance, a panel per row: pairs across and within, their intervals, the control.

    Parameters
    ----------
    frame : DataFrame
        A section's tidy table.
    """
    found = cells(frame)
    rows = list(dict.fromkeys(found.row))
    columns = min(2, len(rows))
    shape = (-(-len(rows) // columns), columns)
    drawn, axes = plt.subplots(
        *shape, figsize=(WIDTH / 2 * columns, 3.1 * shape[0]), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    for row, ax in zip(rows, axes.flat, strict=False):
        _panel(ax, frame[frame.row == row], found[found.row == row])
        ax.set_title(fill(shown_row(frame[frame.row == row]), 36), fontsize=9.5)
    entries = {}
    for ax in axes.flat[: len(rows)]:
        entries |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    drawn.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return Drawing(
        drawn,
        "Calibrated alignment by invariance, one panel per row: pairs within the first condition, across "
        "and within the second in three colours, intervals over models as bars, and where there is one "
        "the pair with the same initial weights as a star",
        "Calibrated alignment of pairs within each condition and across the two, with 95 % intervals over models."
        + data_in(str(frame.section.iloc[0])),
    )


def _panel(ax: plt.Axes, pairs: pd.DataFrame, found: pd.DataFrame) -> None:
    trained = pairs[pairs.kind == "trained"]
    groups = groups_of(trained)
    chosen = {"across": trained[trained.group_a != trained.group_b]}
    chosen |= {kind: _within(trained, models) for kind, models in zip(KINDS[1:3], groups, strict=True)}
    for j, (kind, label) in enumerate(LABELS.items()):
        colour = sns.color_palette("colorblind")[j]
        for i, invariance in enumerate(INVARIANCES):
            x = i + 0.28 * (j - 1)
            scores = chosen[kind][chosen[kind].invariance == invariance].calibrated
            spread = np.linspace(-0.05, 0.05, len(scores)) if len(scores) > 1 else 0
            ax.plot(x + spread, scores, "os^"[j], color=colour, alpha=0.6, markersize=3, label=f"pairs {label}")
            cell = found[(found.invariance == invariance) & (found.kind == kind)].iloc[0]
            bar = "95 % interval over models (bar, with the mean)"
            if not math.isnan(cell.low):
                ax.plot([x + 0.11] * 2, [cell.low, cell.high], color="0.15", linewidth=1.8, label=bar)
                ax.plot(x + 0.11, cell.calibrated, "_", color="0.15", markersize=7)
    control = found[found.kind == "control"]
    at = [list(INVARIANCES).index(invariance) for invariance in control.invariance]
    label = "control: one pair across, same initial weights"
    ax.plot(at, control.calibrated, "*", color="black", markerfacecolor="white", markersize=9, label=label)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_xticks(range(len(INVARIANCES)), ["raw", "scale", "rotation\n(relative)", "affine"], fontsize=9)
    ax.set_ylabel("calibrated alignment")
    ax.grid(axis="y", color="0.92")
    ax.set_axisbelow(True)
