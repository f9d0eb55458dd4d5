"""What structure T has: the ladder of maps for every row of a section and of all, and the singular values of T.

Cosine scores under different invariances live in different spaces and do not say which map relates
two models. The ladder does: its maps end in one and the same space, where the variance that they
explain can be compared. The rule is `invariances.discovery`'s; here it is asked pair by pair, and of
all pairs of a row at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from invariances import discovery
from invariances.pairs import Interval, difference, interval
from invariances.paper import findings, tables
from invariances.paper.claims import ALIGNED, groups_of
from invariances.paper.frames import read_table, save_table
from invariances.paper.rows import TITLES
from invariances.paper.sections import RowResult, Study, _described, _spaces
from invariances.report import DELTA, WEAK, Verdict
from invariances.spaces import Spaces, anchor_ids, read_spaces
from invariances.zoo import workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 25
"""Unordered pairs of models per row, at most; of more, a seeded draw is compared, for the sake of time."""
SPECTRA = 6
"""Ordered pairs per row whose singular values are kept, at most."""
ALL = "all pairs"
"""In place of a model: the line holds the verdict over all pairs of its row at once."""
NAMES = {"constant": "none", "orthogonal": "rotation", "orthogonal+translation": "rotation + shift"}
"""How tables and figures call a class of maps, where not by its own name."""
LOWEST = -0.5
"""Where the figure ends: a map into a wrong place explains less than nothing."""
STEPS = {
    "identity": ("X", "0.5"),
    "orthogonal": ("o", "C0"),
    "orthogonal+translation": ("^", "C4"),
    "similarity": ("s", "C1"),
    "affine": ("D", "C2"),
}
"""The classes that the page on all sections shows: as they are, turned, shifted too, rescaled too, anything linear."""


class Ladders(NamedTuple):
    """The ladder for every pair of models."""

    frame: pd.DataFrame
    """One line per pair (and one for all pairs) and class of maps."""
    singular_values: pd.DataFrame
    """One line per singular value of T, for some pairs of each row."""

    def save(self, folder: str | Path = ".") -> tuple[Path, Path]:
        """Write ``<section>_ladder.csv`` and ``<section>_singular_values.csv``, each whole or not at all."""
        section = self.frame.section.iloc[0]
        return save_table(self.frame, f"{section}_ladder", folder), save_table(
            self.singular_values, f"{section}_singular_values", folder
        )


# Frames ----------------------------------------------------------------------------------------


def run(study: Study) -> Ladders:
    """Ask the ladder about every row that was run: all pairs of seeds, or the pairs across two groups.

    Maps are fitted on the anchors and scored on the test split. Where a row has three models or more,
    the source is replaced by its prediction from all models of the row but the two, of either group.
    """
    with workers.one_thread():
        rows = [_row(result, study) for result in study.rows.values()]
    return Ladders(*(pd.concat(frames, ignore_index=True) for frames in zip(*rows, strict=True)))


def _row(result: RowResult, study: Study) -> Ladders:
    group_of = {name: group.variant.label for group in result.planned.groups for name in group.recipes}
    spaces, _, k = _spaces(result.planned, {name: result.models[name] for name in group_of})
    across = len(result.planned.groups) > 1
    pairs = [(a, b) for a, b in combinations(spaces, 2) if not across or group_of[a] != group_of[b]]
    found = pair_ladders(spaces, np.arange(k), pairs)
    frame, values = (
        _described(part, result.planned, study.settings).drop(columns=["source", "n_train"]) for part in found
    )
    frame.loc[frame.model_a == ALL, ["group_a", "group_b"]] = ALL
    return Ladders(frame, values)


def pair_ladders(
    spaces: Spaces,
    anchors: int | Sequence[int] | np.ndarray,
    pairs: Sequence[tuple[str, str]],
    seed: int = 0,
    delta: float = DELTA,
) -> Ladders:
    """Ask the ladder about pairs of models, in both directions.

    Parameters
    ----------
    spaces : mapping from model names to spaces
        Each n x d, the same samples in the same order. The models beside a pair help to take out of
        its source what is private to it, whether or not they are among `pairs`.
    anchors : int or sequence of row ids
        Rows that maps are fitted on; the others are scored.
    pairs : sequence of two model names each
        Unordered; of more than `MOST`, a seeded draw.
    seed : int
        Draws pairs, anchors, folds and the simulated rotation.
    delta : float
        Share of the target's variance below which a difference between classes does not count.

    Returns
    -------
    Ladders
        Of the frame's columns, ``explained`` is the class's held-out explained variance, ``se`` the
        standard error over samples of its distance to the best class, ``tolerance`` the larger of
        3 SE and delta, ``chosen`` the rule's choice and ``verdict`` its name ("none" for a constant).
        The lines with `ALL` in place of both models hold the choice for all pairs at once. T's
        description, that of `invariances.discovery.Report.structure`, stands on the lines of the affine map.

    Raises
    ------
    SpaceError
        If the spaces or anchors cannot be used.
    """
    read = read_spaces(spaces)
    n = len(next(iter(read.values())))
    ids = anchor_ids(anchors, n, seed)
    sizes = {"n_anchors": len(ids), "n_samples": n - len(ids), "n_models": len(read), "pairs_in_all": 2 * len(pairs)}
    found = discovery._pairs(read, ids, seed, discovery.RUNGS, _drawn(pairs, seed))
    frames, values = [], []
    for pair in found:
        ends = {"model_a": pair.model_a, "model_b": pair.model_b}
        widths = {"dim_a": pair.source.shape[1], "dim_b": pair.target.shape[1]}
        rungs = _rungs([pair], max(widths.values()), delta).assign(**ends, **widths, **sizes)
        structure = discovery._structure(pair.source, pair.target, seed)
        rungs.loc[rungs.rung == "affine", list(structure)] = list(structure.values())
        frames.append(rungs)
        if len(values) < SPECTRA:
            values.append(_spectrum(pair, seed).assign(**ends))
    widths = {f"dim_{end}": max(frame[f"dim_{end}"].iloc[0] for frame in frames) for end in "ab"}
    frames.append(_rungs(found, discovery._width(read), delta).assign(model_a=ALL, model_b=ALL, **widths, **sizes))
    front = ["model_a", "model_b", "rung", "explained", "se", "gap", "tolerance", "parameters", "chosen", "verdict"]
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[[*front, *frame.columns.difference(front, sort=False)]]
    return Ladders(frame, pd.concat(values, ignore_index=True)[["model_a", "model_b", "index", "value", "reference"]])


def _drawn(pairs: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """At most `MOST` pairs in a seeded order, in which no model comes much more often than another."""
    left = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))]
    times: Counter[str] = Counter()
    drawn = []
    while left and len(drawn) < MOST:
        drawn.append(min(left, key=lambda pair: sorted((times[pair[0]], times[pair[1]]), reverse=True)))
        left.remove(drawn[-1])
        times.update(drawn[-1])
    return drawn


def _rungs(pairs: Sequence[discovery._Pair], width: int, delta: float) -> pd.DataFrame:
    """The classes' explained variances and the rule's choice, over the given pairs at once."""
    losses = [pair.losses for pair in pairs]
    rungs = discovery._choose(losses, width, delta)
    rungs["se"] = discovery._choose(losses, width, 0.0).tolerance / 3  # without delta the tolerance is 3 SE
    verdict = rungs["class"][rungs.chosen].item().replace("constant", "none")
    return rungs.rename(columns={"class": "rung", "explained_variance": "explained"}).assign(verdict=verdict)


def _spectrum(pair: discovery._Pair, seed: int) -> pd.DataFrame:
    value, reference = discovery.spectra(pair.source, pair.target, seed)
    return pd.DataFrame({"index": np.arange(1, len(value) + 1), "value": value, "reference": reference})


# The table -------------------------------------------------------------------------------------


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """One line per row: the verdict, how the pairs voted, what each class explains, and T described.

    Parameters
    ----------
    frame : DataFrame
        As saved in ``<section>_ladder.csv``.

    Returns
    -------
    DataFrame
        Explained variances with their 95 % interval over models, where the models are enough for one.
        T's figures are medians over pairs, in brackets those of a simulated rotation with equal noise.
    """
    return pd.DataFrame([_line(row, part) for row, part in frame.groupby("row", sort=False)])


def _line(row: str, part: pd.DataFrame) -> dict[str, str]:
    verdict, first, pairs = _verdict(part), part[part.model_a == ALL].iloc[0], part[part.model_a != ALL]
    each = pairs[pairs.chosen]
    shares = each.verdict.value_counts(normalize=True)
    rungs = {rung: lines for rung, lines in pairs.groupby("rung", sort=False) if rung != "constant"}
    groups = groups_of(each)
    spans = {rung: interval(lines, "explained", groups) for rung, lines in rungs.items()}
    compared = f"{len(each)} of {first.pairs_in_all}" if len(each) < first.pairs_in_all else str(len(each))
    return {
        "Row": row,
        "Structure of T": _word(verdict),
        "Pairs, each by itself": ", ".join(f"{named(name)} {share:.0%}" for name, share in shares.items()),
        **{f"Explained by {named(rung)}": _explained(span) for rung, span in spans.items()},
        "Affine beyond similarity": _explained(beyond_similarity(part)),
        "Singular values, largest / smallest": _beside(rungs["affine"], "singular_ratio"),
        "Distance from a scaled rotation": _beside(rungs["affine"], "off_rotation"),
        "Shift, in standard deviations": _beside(rungs["affine"], "shift"),
        "In words": str(verdict),
        "Ordered pairs": compared,
        "Models": str(first.n_models),
        "Data": f"{first.data}; {first.n_anchors} anchors, {first.n_samples:,} scored",
        "Note": _notes(each, next(iter(spans.values()))),
    }


def _verdict(part: pd.DataFrame) -> Verdict:
    """The ladder's answer for all pairs of a row at once."""
    (chosen,) = part[(part.model_a == ALL) & part.chosen].itertuples()
    return Verdict(
        chosen.verdict,
        chosen.explained,
        weak=chosen.verdict != "none" and chosen.explained < WEAK,
        models=int(chosen.n_models),
        few_anchors=chosen.n_anchors <= max(chosen.dim_a, chosen.dim_b),
    )


def _word(verdict: Verdict) -> str:
    return named(verdict.invariance) + (" (weak)" if verdict.weak else "")


def named(rung: str) -> str:
    """A class of maps as tables and figures call it."""
    return NAMES.get(rung, rung)


def beyond_similarity(part: pd.DataFrame) -> Interval:
    """What full freedom adds to turning, rescaling and shifting, over the pairs of a row."""
    pairs = part[part.model_a != ALL]
    affine, similarity = (pairs[pairs.rung == rung] for rung in ("affine", "similarity"))
    return difference(affine, similarity, "explained", groups_of(affine))


def _explained(span: Interval, digits: int = 2) -> str:
    bounds = "" if math.isnan(span.low) else f" [{span.low:z.{digits}f}, {span.high:z.{digits}f}]"
    return f"{span.mean:z.{digits}f}{bounds}"


def _beside(affine: pd.DataFrame, figure: str) -> str:
    return f"{affine[figure].median():.2f} ({affine[f'{figure}_rotation'].median():.2f})"


def _notes(each: pd.DataFrame, span: Interval) -> str:
    padded = (each.dim_a != each.dim_b).any()
    return "; ".join(
        filter(None, (span.note, "widths differ: all classes but affine zero-pad the narrower space" if padded else ""))
    )


# All sections ----------------------------------------------------------------------------------


def write(results: str | Path, into: str | Path) -> None:
    """Write what the ladders of all sections say together: a sentence a factor, a table of all rows, and a figure.

    Parameters
    ----------
    results : path
        The folder of ``<section>_ladder.csv``.
    into : path
        Gets ``structure_banner.md``, ``structure_by_factor.md``, ``structure.md`` and ``structure.png``.

    Raises
    ------
    ValueError
        If a table is missing.
    """
    frames, into = read(results), Path(into)
    banner = tables.banner(pd.concat([read_table(section, results) for section in ALIGNED]))
    into.mkdir(parents=True, exist_ok=True)
    for name, text in {"structure_banner": banner + "\n", **pages(frames)}.items():
        (into / f"{name}.md").write_text(text, encoding="utf-8")
    overview(frames).savefig(into / "structure.png", dpi=110)


def read(results: str | Path) -> dict[str, pd.DataFrame]:
    """The ladders of all sections that have one, by section."""
    return {section: read_table(section, results, "_ladder") for section in ALIGNED}


def pages(frames: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """What the ladder answers for every factor that models differ in, as Markdown by file: sentences, and all rows.

    Parameters
    ----------
    frames : mapping from sections to DataFrame
        As saved in ``<section>_ladder.csv``.
    """
    listed = {section: table(frame) for section, frame in frames.items()}
    sentences = [_sentence(TITLES[section], frames[section], rows) for section, rows in listed.items()]
    explained = {f"Explained by {named(rung)}": f"By {named(rung)}" for rung in STEPS}
    before = ["Structure of T", *explained]
    after = ["Singular values, largest / smallest", "Models", "Note"]
    titles = [*(explained.get(column, column) for column in before), "Affine beyond similarity", *after, "Data"]
    lines = []
    for section, rows in listed.items():
        for line in rows.to_dict("records"):
            beyond = beyond_similarity(frames[section][frames[section].row == line["Row"]])
            cells = [f"[{line['Row']}](results/{section}.ipynb)", *(line[column] for column in before)]
            cells += [_explained(beyond, 3), *(line[column] for column in after), line["Data"].partition(";")[0]]
            lines.append(cells)
    return {"structure_by_factor": "\n".join(sentences) + "\n", "structure": findings.table(["Row", *titles], lines)}


def _sentence(title: str, frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    counts = rows["Structure of T"].value_counts()
    pairs = frame[frame.model_a != ALL]
    means = pairs[pairs.rung.isin(STEPS)].groupby(["rung", "row"]).explained.mean()
    spans = [
        f"{named(rung)} {means[rung].min():z.2f} to {means[rung].max():z.2f}" for rung in STEPS if rung != "identity"
    ]
    named_rows = ", ".join(f"{name} in {count}" for name, count in counts.items())
    return (
        f"- **{title}**, {len(rows)} rows: {named_rows}. Share of the variance explained, by row: {', '.join(spans)}."
    )


def overview(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Explained variance by classes of maps, mean over pairs, a line for every row, and what the ladder chose."""
    heights = [frame.row.nunique() for frame in frames.values()]
    size = (8.4, 1.2 + 0.34 * sum(heights))
    drawn, axes = plt.subplots(
        len(frames), 1, figsize=size, sharex=True, height_ratios=heights, layout="constrained", squeeze=False
    )
    for (section, frame), ax in zip(frames.items(), axes.flat, strict=True):
        rows = list(frame.row.drop_duplicates())
        means = frame[frame.model_a != ALL].groupby(["rung", "row"]).explained.mean().clip(lower=LOWEST)
        for aside, (rung, (marker, color)) in zip(np.linspace(-0.24, 0.24, len(STEPS)), STEPS.items(), strict=True):
            y = [rows.index(row) + aside for row in means[rung].index]
            ax.plot(means[rung], y, marker, color=color, markersize=5, alpha=0.8, label=named(rung))
        for y, row in enumerate(rows):
            ax.annotate(_word(_verdict(frame[frame.row == row])), (1.04, y), va="center", fontsize=8.5)
        ax.axvline(0, color="0.6", linewidth=1)
        ax.set_yticks(range(len(rows)), rows)
        ax.set(xlim=(LOWEST - 0.05, 1.4), ylim=(len(rows) - 0.5, -0.5))
        ax.set_title(f"{TITLES[section]} (right: what the ladder chose)", fontsize=10, loc="left")
        ax.grid(color="0.93")
        ax.set_axisbelow(True)
    axes.flat[-1].set_xticks(np.arange(-0.4, 1.01, 0.2))
    axes.flat[-1].set_xlabel(f"explained variance, held out (below {LOWEST:g}: drawn there)")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return _closed(drawn)


# The figures -----------------------------------------------------------------------------------


def figure(frame: pd.DataFrame) -> Figure:
    """Explained variance by class of maps, a panel per row: pairs, their mean, each pair's choice, that of all."""
    rungs = list(dict.fromkeys(frame.rung))

    def draw(ax: plt.Axes, part: pd.DataFrame) -> None:
        whole, pairs = part[part.model_a == ALL], part[part.model_a != ALL]
        shown = pairs.assign(x=pairs.explained.clip(lower=LOWEST), y=pairs.rung.map(rungs.index))
        which = shown.groupby(["model_a", "model_b"]).ngroup()
        shown["y"] += 0.5 * (which + 0.5) / (which.max() + 1) - 0.25
        verdict = rungs.index(whole.rung[whole.chosen].item())
        ax.axhspan(verdict - 0.45, verdict + 0.45, color="0.88", zorder=0, label="chosen for all pairs at once")
        for chosen, style in ((False, ("o", "C0", 3.5)), (True, ("D", "C1", 4.5))):
            points = shown[shown.chosen == chosen]
            label = "chosen for the pair" if chosen else "ordered pair of models"
            marker, color, size = style
            ax.plot(points.x, points.y, marker, color=color, markersize=size, alpha=0.7, linestyle="", label=label)
        ax.axvline(0, color="0.6", linewidth=1)
        ax.set_xlim(LOWEST - 0.05, 1.03)
        ax.set_yticks(range(len(rungs)), [named(rung) for rung in rungs])
        ax.set_ylim(len(rungs) - 0.5, -0.5)
        ax.grid(axis="x", color="0.92")

    drawn = _panels(frame, draw, 2.5)
    drawn.supxlabel(f"explained variance, held out (below {LOWEST:g}: drawn there)", fontsize=10)
    return _closed(drawn)


def spectrum(singular_values: pd.DataFrame) -> Figure:
    """The singular values of T by rank, relative to their mean, beside those of a simulated rotation; a panel per row.

    A scaled rotation has all of them equal.
    """

    def draw(ax: plt.Axes, part: pd.DataFrame) -> None:
        for i, (_, pair) in enumerate(part.groupby(["model_a", "model_b"], sort=False)):
            for column, style in (("reference", ("--", "0.35", 1.2)), ("value", ("-", "C0", 1.4))):
                kind, color, width = style
                relative = pair[column] / pair[column].mean()
                label = {"value": "T of an ordered pair", "reference": "simulated rotation with equal noise"}[column]
                ax.plot(
                    pair["index"], relative, kind, color=color, linewidth=width, alpha=0.7, label="" if i else label
                )
        ax.axhline(1, color="0.8", linewidth=1, zorder=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))

    drawn = _panels(singular_values, draw, 2.2)
    drawn.axes[0].set_ylim(bottom=0)  # all panels share it
    drawn.supxlabel("singular value of T, largest first (axes that hold 95 % of the variance)", fontsize=10)
    drawn.supylabel("size, relative to the mean", fontsize=10)
    return _closed(drawn)


def _panels(frame: pd.DataFrame, draw: Callable[[plt.Axes, pd.DataFrame], None], height: float) -> Figure:
    """A panel per row, two beside each other, under one legend."""
    rows = list(dict.fromkeys(frame.row))
    lines = -(-len(rows) // 2)
    drawn, axes = plt.subplots(
        lines, 2, figsize=(8.4, 0.8 + height * lines), squeeze=False, sharey=True, layout="constrained"
    )
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    for row, ax in zip(rows, axes.flat, strict=False):
        draw(ax, frame[frame.row == row])
        ax.set_title(row, fontsize=11)
        ax.set_axisbelow(True)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return drawn


def _closed(drawn: Figure) -> Figure:
    plt.close(drawn)
    return drawn
