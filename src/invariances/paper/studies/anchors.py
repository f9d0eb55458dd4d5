"""How far scores hang on the anchors: their number, and the draw of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch

from invariances import zoo
from invariances.alignment import align
from invariances.intervals import interval
from invariances.paper.frames import save_table
from invariances.paper.profiles import PROFILES
from invariances.paper.tables import banner, markdown_table
from invariances.paper.views import pool_size
from invariances.transforms import Affine, Orthogonal, Transform
from invariances.zoo import workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from invariances.paper.plots import WIDTH, save_svg
from invariances.paper.studies.panels import groups, in_order, joined, labelled, not_run, panel

__all__ = [
    "ANCHORED",
    "Draw",
    "MAPS",
    "NAMES",
    "PLAIN",
    "PROFILED",
    "SCORED",
    "SIZES",
    "Size",
    "align_by_draw",
    "findings_on_anchors",
    "run",
    "table_of_counts",
    "table_of_spread",
]


ANCHORED = ("MNIST", "CIFAR-10", "CIFAR-10, reconstruction", "TREC")
"""Rows whose anchors are redrawn."""
SCORED = 1_000
"""Test samples that are scored for each draw of anchors, at most; always the same."""
PLAIN = "affine, no penalty"


NAMES = {
    "relative": "cosine",
    "relative-centered": "cosine, centred",
    "relative-euclidean": "L2",
    "relative-l1": "L1",
    "relative-linf": "L∞",
    "orthogonal": "orthogonal map",
    "affine": "affine map",
    PLAIN: "affine map, no penalty",
}
"""What is compared by anchors, and how figures call it: five profiles of similarities, three fitted maps."""
MAPS: dict[str, Transform] = {
    "orthogonal": Orthogonal(),
    "affine": Affine(),
    PLAIN: Affine(penalty=0.0),
}
PROFILED = tuple(name for name in NAMES if name not in MAPS)


SETTLED_WITHIN = 0.02
"""A mean score that stays within so much of that of the most anchors has settled."""


class Size(NamedTuple):
    """How much of the first study a profile does."""

    draws: int
    counts: tuple[int, ...]


SIZES = {
    "smoke": Size(2, (5, 49, 150)),
    # 129 and 513: one more than the codes' width, where an affine map without penalty passes through every anchor
    "laptop": Size(10, (5, 10, 20, 50, 100, 129, 200, 500, 1_000)),
    "full": Size(10, (5, 10, 20, 50, 100, 200, 513, 1_000, 2_000)),
}


class Draw(NamedTuple):
    """One draw of anchors for one row."""

    profile: str
    row: str
    k: int
    draw: int


def study_anchors(profile: str, processes: int | None = None) -> pd.DataFrame:
    """Alignment of all pairs for every row that can be run, number of anchors and draw of them.

    A number beyond what a row has to draw from becomes all of it.

    Returns
    -------
    DataFrame
        One line per row, number `k`, `draw`, `invariance` and `metric`: means over pairs of `score`, `null` and
        `calibrated`, and `std_pairs`, the standard deviation of `calibrated` over pairs.
    """
    planned, size = groups(profile, ANCHORED), SIZES[profile]
    zoo.train([recipe for group in planned.values() for recipe in group.recipes.values()])
    pools = {row: pool_size(group.prepared) for row, group in planned.items()}
    counts = {row: sorted({min(k, pool) for k in size.counts}) for row, pool in pools.items()}
    units = [Draw(profile, row, k, draw) for row in planned for k in counts[row] for draw in range(size.draws)]
    frames = workers.run(_measure_draw, units, "draws of anchors", processes, size=lambda unit: unit.k + 100)
    return in_order(frames, units, ["row", "k", "draw"])


def _measure_draw(unit: Draw) -> pd.DataFrame:
    data = panel(unit.profile, unit.row)
    n = len(data.test_labels)
    scored = np.sort(np.random.default_rng(0).choice(n, min(SCORED, n), replace=False))
    test = {name: codes[scored] for name, codes in data.test.items()}
    return labelled(align_by_draw(data.pool, test, unit.k, unit.draw), data.facts)


def align_by_draw(
    pool: Mapping[str, torch.Tensor], test: Mapping[str, torch.Tensor], k: int, draw: int
) -> pd.DataFrame:
    """Alignment by `k` anchors that are drawn from the pool, in every way of `NAMES`.

    Parameters
    ----------
    pool, test : mapping from model names to tensors of shapes (p, d) and (n, d)
        What anchors are drawn from, and what is scored; the same samples for all models.
    k : int
        At most p.
    draw : int
        Seed of the draw; all models have the same anchors.
    """
    n_pool = len(next(iter(pool.values())))
    ids = np.random.default_rng([k, draw]).choice(n_pool, k, replace=False)
    spaces = {name: torch.cat([pool[name][ids], codes]) for name, codes in test.items()}
    table = pd.concat(
        [
            align(spaces, range(k), PROFILED, ("cosine", "pearson")),
            align(spaces, range(k), MAPS, ("cosine",)),  # a map is scored in the target's own coordinates
        ]
    )
    return _means_over_pairs(table).assign(width=next(iter(test.values())).shape[1], k=k, draw=draw)


def _means_over_pairs(table: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (invariance, metric), pairs in table.groupby(["invariance", "metric"], sort=False):
        span = interval(pairs, "calibrated")
        means = {"score": pairs.score.mean(), "null": pairs.null.mean(), "calibrated": span.mean}
        sizes = {"n_models": span.models, "n_samples": pairs.n_samples.iloc[0]}
        lines.append({"invariance": invariance, "metric": metric, **means, "std_pairs": span.std, **sizes})
    return pd.DataFrame(lines)


def _read(frame: pd.DataFrame) -> pd.DataFrame:
    """Profiles by Pearson correlation, mapped codes by cosine."""
    return frame[(frame.metric == "pearson") | frame.invariance.isin(list(MAPS))]


def by_count(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest, highest and deviation over draws, and deviation over pairs, of the calibrated score."""
    by = _read(frame).groupby(["row", "invariance", "k"], sort=False)
    found = by.calibrated.agg(["mean", "min", "max", "std"])
    found["std_pairs"] = by.std_pairs.agg(lambda values: np.sqrt(np.square(values).mean()))
    return found.reset_index()


def draw_anchors(frame: pd.DataFrame) -> Figure:
    """Calibrated score against the number of anchors, a panel per row: mean, lowest and highest of the draws."""
    found, colours = by_count(frame), sns.color_palette("colorblind")
    rows = list(dict.fromkeys(found.row))
    shape = (-(-len(rows) // 2), min(2, len(rows)))
    size = {"figsize": (WIDTH, 0.9 + 3.2 * shape[0]), "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(*shape, sharex=True, sharey=True, **size)
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    for row, ax in zip(rows, axes.flat, strict=False):
        for i, (invariance, name) in enumerate(NAMES.items()):
            line = found[(found.row == row) & (found.invariance == invariance)]
            style = "--" if invariance in MAPS else "-"
            look = {"color": colours[i], "linestyle": style, "marker": "osv^DPX*"[i], "markersize": 4}
            ax.plot(line.k, line["mean"], label=name, linewidth=1.3, **look)
            ax.fill_between(line.k, line["min"], line["max"], color=colours[i], alpha=0.18, linewidth=0)
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.set(title=row, xscale="log", ylim=(min(-0.05, found["min"].min()), 1.02))
        ax.grid(color="0.93")
        ax.set_axisbelow(True)
    for ax in axes[-1]:
        ax.set_xlabel("number of anchors")
    figure.supylabel("calibrated score: 0 shuffled samples, 1 perfect", fontsize=10)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    plt.close(figure)
    return figure


def table_of_counts(frame: pd.DataFrame) -> str:
    """Calibrated score by number of anchors: mean and deviation over draws, as Markdown."""
    found = by_count(frame)
    found["cell"] = [f"{mean:z.2f} ± {std:.2f}" for mean, std in zip(found["mean"], found["std"], strict=True)]
    wide = found.pivot(index=["row", "invariance"], columns="k", values="cell").fillna("-").reset_index()
    rows = list(dict.fromkeys(found.row))
    wide = wide.sort_values(
        ["row", "invariance"], key=lambda names: names.map({n: i for i, n in enumerate([*rows, *NAMES])})
    )
    cells = wide.assign(invariance=wide.invariance.map(NAMES)).itertuples(index=False)
    return markdown_table(["Row", "Compared by", *sorted(found.k.unique())], cells)


def table_of_spread(frame: pd.DataFrame) -> str:
    """At the sections' number of anchors: deviation over draws beside that over pairs, as Markdown."""
    lines, usual = [], usual_counts(frame)
    for (row, invariance), part in by_count(frame).groupby(["row", "invariance"], sort=False):
        one = part[part.k == usual[row]].iloc[0]
        close = (part["mean"] - part["mean"].iloc[-1]).abs() <= SETTLED_WITHIN
        settled = part.k[close[::-1].cummin()[::-1]].iloc[0]
        ratio = f"{one['std'] / one['std_pairs']:.2f}" if one["std_pairs"] > 0 else "-"
        cells = [f"{one['mean']:z.3f}", f"{one['std']:.4f}", f"{one['std_pairs']:.4f}", ratio, str(settled)]
        lines.append([row, NAMES[invariance], *cells])
    settled = f"Settled from (± {SETTLED_WITHIN:g})"
    head = ["Row", "Compared by", "Calibrated", "Std over draws", "Std over pairs", "Ratio", settled]
    return markdown_table(head, lines)


def usual_counts(frame: pd.DataFrame) -> dict[str, int]:
    """The sections' number of anchors, by row."""
    most = PROFILES[frame.profile.iloc[0]].anchors
    return {row: min(most, int(pool)) for row, pool in frame.groupby("row", sort=False).n_pool.first().items()}


def findings_on_anchors(frame: pd.DataFrame, left_out: Sequence[str] = ()) -> str:
    """What came out of the first study, in sentences that follow from its frame.

    Parameters
    ----------
    frame : DataFrame
        As `study_anchors` gives it.
    left_out : sequence of str
        Sentences on the rows that are not in it.
    """
    counts, found = usual_counts(frame), by_count(frame)
    usual = found[found.k == found.row.map(counts)]
    k = _either(counts.values())
    scored = frame.groupby("row", sort=False)[["n_samples", "width"]].first()
    sizes = joined([f"{one.n_samples:,} of width {one.width} ({one.Index})" for one in scored.itertuples()])
    more = usual[usual["std"] > usual["std_pairs"]]
    named = joined([f"{NAMES[line.invariance]} on {line.row}" for line in more.itertuples()])
    own = frame[(frame.k == frame.row.map(counts)) & (frame.metric == "cosine") & ~frame.invariance.isin(list(MAPS))]
    read = own.groupby("invariance", sort=False)[["score", "null"]].agg(["min", "max"])
    plain = joined(
        [
            f"{NAMES[name]} {_range(line['score'])} (shuffled samples: {_range(line['null'])})"
            for name, line in read.iterrows()
        ]
    )
    return "\n".join(
        [
            f"- Measured: {_either(frame.n_models)} models a row, {frame.draw.nunique()} draws of each number of "
            f"anchors out of {joined(dict.fromkeys(f'{n:,}' for n in frame.n_pool))} stored codes; "
            f"scored test codes: {sizes}.",
            f"- At {k} anchors, other anchors move the mean score more than other models move the score of a pair in "
            f"{len(more)} of {len(usual)} cells{': ' + named if len(more) else ''}.",
            f"- Read by plain cosine, as the paper does, and not calibrated, the profiles at {k} anchors score, from "
            f"the lowest row to the highest: {plain}.",
            *[_dip(found, name) for name in ("affine", PLAIN)],
            *_limited(frame),
            *left_out,
        ]
    )


def _either(counts: Iterable[int]) -> str:
    return " or ".join(map(str, dict.fromkeys(counts)))


def _limited(frame: pd.DataFrame) -> list[str]:
    """A sentence for each row that has fewer stored codes than the most anchors that were to be drawn."""
    sentences = []
    for row, pool in frame.groupby("row", sort=False).n_pool.first().items():
        beyond = [f"{k:,}" for k in SIZES[frame.profile.iloc[0]].counts if k > pool]
        if beyond:
            sentences.append(
                f"- {row} has only {pool:,} stored codes to draw from. Where more anchors were planned "
                f"({joined(beyond)}), it has all {pool:,}, the same in every draw."
            )
    return sentences


def _dip(found: pd.DataFrame, invariance: str) -> str:
    """Whether a map's score falls where anchors are added."""
    falls = []
    for row, part in found[found.invariance == invariance].groupby("row", sort=False):
        before, after = part.iloc[:-1], part.iloc[1:]
        drop = before["mean"].to_numpy() - after["mean"].to_numpy()
        i = int(drop.argmax())
        if drop[i] > max(before["std"].iloc[i], after["std"].iloc[i]):
            ends = [f"{line['mean']:z.2f} with {line.k}" for line in (before.iloc[i], after.iloc[i])]
            falls.append(f"{row} ({ends[0]}, {ends[1]})")
    says = f"falls, by more than the deviation over draws, on {joined(falls)}" if falls else "falls nowhere"
    return f"- Where anchors are added, the score of the {NAMES[invariance]} {says}."


def _range(ends: pd.Series) -> str:
    return f"{ends['min']:z.2f} to {ends['max']:z.2f}"


def run(profile: str, into: Path) -> None:
    """Measure, and write what the book shows: ``anchors.csv``, its figure, and tables."""
    into.mkdir(parents=True, exist_ok=True)
    frame = save_table(study_anchors(profile), "anchors", into)
    save_svg(draw_anchors(frame), into / "anchors.svg")
    texts = {
        "banner": banner(frame, profile),
        "counts": table_of_counts(frame),
        "spread": table_of_spread(frame),
        "findings_anchors": findings_on_anchors(frame, not_run(profile, ANCHORED)),
    }
    for name, text in texts.items():
        (into / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")
