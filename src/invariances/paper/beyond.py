"""Beyond the paper: how far scores hang on the anchors, and what a combination of similarities adds.

Two studies of trained models of the initialization section. Each makes one tidy frame; its tables and its
figure are functions of that frame alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations, permutations
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit

from invariances import zoo
from invariances.alignment import align
from invariances.pairs import Interval, difference, interval
from invariances.paper import sections
from invariances.paper.profiles import PROFILES
from invariances.paper.rows import ROWS
from invariances.paper.settings import check
from invariances.product import Product
from invariances.transforms import Affine, Transform, transform_named
from invariances.zoo import datasets, workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANCHORED = ("MNIST", "CIFAR-10", "CIFAR-10, reconstruction", "TREC")
"""Rows whose anchors are redrawn."""
COMBINED = ("MNIST", "CIFAR-10", "TREC")
"""Rows whose similarities are combined: those that classify."""
MODELS = 5
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
    "orthogonal": transform_named("orthogonal"),
    "affine": transform_named("affine"),
    PLAIN: Affine(penalty=0.0),
}
PROFILED = tuple(name for name in NAMES if name not in MAPS)
MEMBERS = {"cosine": "cosine", "euclidean": "L2", "l1": "L1", "linf": "L∞"}
"""What is combined, by the names of `Product`."""
PENALTIES = (0.001, 0.01, 0.1)
"""Inverse penalties that a head chooses from."""
SETTLED = 0.02
"""A mean score that stays within so much of that of the most anchors has settled."""


class Size(NamedTuple):
    """How much of the first study a profile does."""

    draws: int
    counts: tuple[int, ...]


SIZES = {
    "smoke": Size(2, (5, 49, 150)),
    # 129: one more than the codes' width, where an affine map without penalty passes through every anchor
    "laptop": Size(10, (5, 10, 20, 50, 100, 129, 200, 500, 1_000)),
}


class Panel(NamedTuple):
    """The models of one row: codes of the pool of anchors and of the test split, by model."""

    pool: dict[str, torch.Tensor]
    test: dict[str, torch.Tensor]
    pool_labels: np.ndarray
    test_labels: np.ndarray
    anchors: int
    """Number of anchors that the sections use."""
    said: dict[str, object]
    """What every line of a frame says of the data."""


def groups(profile: str, rows: Sequence[str]) -> dict[str, sections.Group]:
    """The models of each row, as planned; nothing is trained.

    Raises
    ------
    DataError
        If a data set is missing; one sentence says how to get it.
    """
    names = ",".join(dict.fromkeys(row.dataset for row in ROWS["initialization"] if row.name in rows))
    seeds = min(MODELS, PROFILES[profile].seeds)
    planned = sections.plan(check("initialization", {"profile": profile, "datasets": names, "seeds": seeds}))
    return {row.row.name: row.groups[0] for row in planned if row.row.name in rows}


@lru_cache(maxsize=2)
def panel(profile: str, row: str) -> Panel:
    """The models of a row, trained where they are not in the store."""
    group = groups(profile, (row,))[row]
    trained = zoo.train(list(group.recipes.values()))
    arrays = datasets.load(group.prepared.key).arrays
    pool, test = (
        {name: torch.as_tensor(trained[recipe].spaces[split]) for name, recipe in group.recipes.items()}
        for split in ("pool", "test")
    )
    n_pool = len(next(iter(pool.values())))
    prepared = group.prepared
    said = {"profile": profile, "row": row, "data": prepared.title, "source": prepared.source}
    said |= {"n_train": prepared.n_train, "n_pool": n_pool}
    return Panel(pool, test, arrays["train_y"][:n_pool], arrays["test_y"], group.anchors, said)


# The number and the draw of anchors --------------------------------------------------------------


class Draw(NamedTuple):
    """One draw of anchors for one row."""

    profile: str
    row: str
    k: int
    draw: int


def study_anchors(profile: str, processes: int | None = None) -> pd.DataFrame:
    """Alignment of all pairs for every row, number of anchors and draw of them.

    Returns
    -------
    DataFrame
        One line per row, number `k`, `draw`, `invariance` and `metric`: means over pairs of `score`, `null` and
        `calibrated`, and `std_pairs`, the standard deviation of `calibrated` over pairs.
    """
    zoo.train([recipe for group in groups(profile, ANCHORED).values() for recipe in group.recipes.values()])
    size = SIZES[profile]
    units = [Draw(profile, row, k, draw) for row in ANCHORED for k in size.counts for draw in range(size.draws)]
    frames = workers.run(_measure_draw, units, "draws of anchors", processes, size=lambda unit: unit.k + 100)
    return _sorted(frames, units, ["row", "k", "draw"])


def _sorted(frames: object, units: Sequence[NamedTuple], by: list[str]) -> pd.DataFrame:
    """All frames in the order of their units, whichever was finished first."""
    order = {tuple(getattr(unit, name) for name in by): i for i, unit in enumerate(units)}
    return pd.concat(sorted(frames, key=lambda frame: order[tuple(frame.iloc[0][by])]), ignore_index=True)


def _measure_draw(unit: Draw) -> pd.DataFrame:
    data = panel(unit.profile, unit.row)
    n = len(data.test_labels)
    scored = np.sort(np.random.default_rng(0).choice(n, min(SCORED, n), replace=False))
    test = {name: codes[scored] for name, codes in data.test.items()}
    return _saying(align_by_draw(data.pool, test, unit.k, unit.draw), data.said)


def _saying(frame: pd.DataFrame, said: dict[str, object]) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(said, index=frame.index), frame], axis=1)


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
    first = {"width": next(iter(test.values())).shape[1], "k": k, "draw": draw}
    lines = []
    for (invariance, metric), pairs in table.groupby(["invariance", "metric"], sort=False):
        span = interval(pairs, "calibrated")
        means = {"score": pairs.score.mean(), "null": pairs.null.mean(), "calibrated": span.mean}
        sizes = {"n_models": span.models, "n_samples": pairs.n_samples.iloc[0]}
        lines.append({**first, "invariance": invariance, "metric": metric, **means, "std_pairs": span.std, **sizes})
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
    size = {"figsize": (8, 0.6 + 3.4 * shape[0]), "squeeze": False, "layout": "constrained"}
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
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    plt.close(figure)
    return figure


def table_of_counts(frame: pd.DataFrame) -> str:
    """Calibrated score by number of anchors: mean and deviation over draws, as Markdown."""
    found = by_count(frame)
    found["cell"] = [f"{mean:z.2f} ± {std:.2f}" for mean, std in zip(found["mean"], found["std"], strict=True)]
    wide = found.pivot(index=["row", "invariance"], columns="k", values="cell").reset_index()
    rows = list(dict.fromkeys(found.row))
    wide = wide.sort_values(
        ["row", "invariance"], key=lambda names: names.map({n: i for i, n in enumerate([*rows, *NAMES])})
    )
    return _markdown(wide.assign(invariance=wide.invariance.map(NAMES)), ["Row", "Compared by", *found.k.unique()])


def table_of_spread(frame: pd.DataFrame) -> str:
    """At the sections' number of anchors: deviation over draws beside that over pairs, as Markdown."""
    lines = []
    for (row, invariance), part in by_count(frame).groupby(["row", "invariance"], sort=False):
        one = part[part.k == usual_count(frame)].iloc[0]
        close = (part["mean"] - part["mean"].iloc[-1]).abs() <= SETTLED
        settled = part.k[close[::-1].cummin()[::-1]].iloc[0]
        ratio = f"{one['std'] / one['std_pairs']:.2f}" if one["std_pairs"] > 0 else "-"
        cells = [f"{one['mean']:z.3f}", f"{one['std']:.4f}", f"{one['std_pairs']:.4f}", ratio, str(settled)]
        lines.append([row, NAMES[invariance], *cells])
    settled = f"Settled from (± {SETTLED:g})"
    head = ["Row", "Compared by", "Calibrated", "Std over draws", "Std over pairs", "Ratio", settled]
    return _markdown(pd.DataFrame(lines), head)


def usual_count(frame: pd.DataFrame) -> int:
    """The sections' number of anchors."""
    return PROFILES[frame.profile.iloc[0]].anchors


def findings_on_anchors(frame: pd.DataFrame) -> str:
    """What came out of the first study, in sentences that follow from its frame."""
    k, found = usual_count(frame), by_count(frame)
    first, usual = frame.iloc[0], found[found.k == k]
    scored = frame.groupby("row", sort=False)[["n_samples", "width"]].first()
    sizes = _listed([f"{one.n_samples:,} of width {one.width} ({one.Index})" for one in scored.itertuples()])
    more = usual[usual["std"] > usual["std_pairs"]]
    named = _listed([f"{NAMES[line.invariance]} on {line.row}" for line in more.itertuples()])
    own = frame[(frame.k == k) & (frame.metric == "cosine") & ~frame.invariance.isin(list(MAPS))]
    read = own.groupby("invariance", sort=False)[["score", "null"]].agg(["min", "max"])
    plain = _listed(
        [
            f"{NAMES[name]} {_range(line['score'])} (shuffled samples: {_range(line['null'])})"
            for name, line in read.iterrows()
        ]
    )
    return "\n".join(
        [
            f"- Measured: {first.n_models} models a row, {frame.draw.nunique()} draws of each number of anchors out of "
            f"{_listed(dict.fromkeys(f'{n:,}' for n in frame.n_pool))} stored codes; scored test codes: {sizes}.",
            f"- At {k} anchors, other anchors move the mean score more than other models move the score of a pair in "
            f"{len(more)} of {len(usual)} cells{': ' + named if len(more) else ''}.",
            f"- Read by plain cosine, as the paper does, and not calibrated, the profiles at {k} anchors score, from "
            f"the lowest row to the highest: {plain}.",
            *[_dip(found, name) for name in ("affine", PLAIN)],
        ]
    )


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
    says = f"falls, by more than the deviation over draws, on {_listed(falls)}" if falls else "falls nowhere"
    return f"- Where anchors are added, the score of the {NAMES[invariance]} {says}."


# Combinations of similarities --------------------------------------------------------------------


class Combination(NamedTuple):
    """One subset of similarities for one row."""

    profile: str
    row: str
    similarities: tuple[str, ...]
    k: int


def subsets() -> list[tuple[str, ...]]:
    """All subsets of the four similarities, smallest first."""
    return [subset for size in range(1, len(MEMBERS) + 1) for subset in combinations(MEMBERS, size)]


def study_subsets(profile: str, processes: int | None = None) -> pd.DataFrame:
    """Every subset of the four similarities, aligned and stitched; and all four by a quarter of the anchors.

    The last has as many features, and a head as many parameters, as one similarity alone.

    Returns
    -------
    DataFrame
        One line per row, subset, number of anchors and ordered pair of models; see `combine`.
    """
    units = []
    for row, group in groups(profile, COMBINED).items():
        zoo.train(list(group.recipes.values()))
        units += [Combination(profile, row, subset, group.anchors) for subset in subsets()]
        units.append(Combination(profile, row, tuple(MEMBERS), group.anchors // len(MEMBERS)))
    frames = workers.run(_measure_subset, units, "subsets", processes, size=lambda unit: len(unit.similarities))
    return _sorted(frames, [unit._replace(similarities=_named(unit)) for unit in units], ["row", "similarities", "k"])


def _named(unit: Combination) -> str:
    return " + ".join(MEMBERS[name] for name in unit.similarities)


def _measure_subset(unit: Combination) -> pd.DataFrame:
    data = panel(unit.profile, unit.row)
    members = [_component(unit.profile, unit.row, name, unit.k) for name in unit.similarities]
    pool, test = (
        {name: torch.cat([member[split][name] for member in members], dim=1) for name in data.pool} for split in (0, 1)
    )
    found = combine(pool, test, data.pool_labels, data.test_labels, len(members))
    said = {"similarities": _named(unit), "members": len(members), "k": unit.k}
    return _saying(found, {**data.said, **said})


@lru_cache(maxsize=len(MEMBERS))
def _component(profile: str, row: str, similarity: str, k: int) -> tuple[dict[str, torch.Tensor], ...]:
    """One similarity's layer-normalised profiles of the pool and of the test split: a part of every concatenation."""
    data = panel(profile, row)
    product = Product((similarity,), anchors=k, width=1, aggregation="concat")
    with torch.no_grad():
        return tuple(
            {name: product(codes, data.pool[name][:k]) for name, codes in split.items()}
            for split in (data.pool, data.test)
        )


def combine(
    pool: Mapping[str, torch.Tensor],
    test: Mapping[str, torch.Tensor],
    pool_labels: np.ndarray,
    test_labels: np.ndarray,
    members: int,
) -> pd.DataFrame:
    """Align and stitch representations.

    A head, multinomial logistic regression, is fitted on each model's own pool; its penalty is the one that does
    best on a quarter of the pool held out. Features are divided by the root of the number of members: the same
    member several times would then give the same head, so that no subset gains by a weaker penalty.

    Parameters
    ----------
    pool, test : mapping from model names to tensors of shapes (p, f) and (n, f)
    pool_labels, test_labels : arrays of lengths p and n
    members : int
        How many similarities stand side by side.

    Returns
    -------
    DataFrame
        One line per ordered pair: `score`, the accuracy of model b's head on model a's test samples, `ceiling`, that
        on b's own, `retention` = score / ceiling; `guess`, the commonest class's share; `alignment`, its `null` and
        `calibrated`, the mean cosine of the two test representations.
    """
    aligned = align(test, invariances=("absolute",), metrics=("cosine",)).set_index(["model_a", "model_b"])
    guess = float(np.bincount(test_labels).max() / len(test_labels))
    features = next(iter(test.values())).shape[1]
    parameters = (features + 1) * len(np.unique(pool_labels))
    inputs = {name: (codes / members**0.5).numpy() for name, codes in test.items()}
    right = {}
    for b, codes in pool.items():
        head = _head((codes / members**0.5).numpy(), pool_labels)
        right |= {(a, b): float((head.predict(x) == test_labels).mean()) for a, x in inputs.items()}
    lines = []
    for a, b in permutations(pool, 2):
        pair = aligned.loc[(a, b) if (a, b) in aligned.index else (b, a)]
        score, ceiling = right[a, b], right[b, b]
        lines.append(
            {
                "model_a": a,
                "model_b": b,
                "features": features,
                "parameters": parameters,
                "score": score,
                "ceiling": ceiling,
                "retention": score / ceiling,
                "guess": guess,
                "alignment": pair.score,
                "null": pair.null,
                "calibrated": pair.calibrated,
            }
        )
    return pd.DataFrame(lines)


def _head(x: np.ndarray, labels: np.ndarray) -> GridSearchCV:
    held_out = StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
    head = LogisticRegression(tol=1e-3, max_iter=1_000)
    return GridSearchCV(head, {"C": PENALTIES}, scoring="neg_log_loss", cv=held_out, error_score="raise").fit(x, labels)


def _by_subset(frame: pd.DataFrame) -> list[tuple[str, str, int, pd.DataFrame]]:
    """Row, subset, number of anchors, and their pairs."""
    return [(*key, part) for key, part in frame.groupby(["row", "similarities", "k"], sort=False)]


def draw_subsets(frame: pd.DataFrame) -> Figure:
    """Stitched accuracy by subset, a panel per row: interval over models, own accuracy, and the best single one."""
    rows = list(dict.fromkeys(frame.row))
    usual = frame.k.max()
    cells = [(name, k) for _, name, k, _ in _by_subset(frame[frame.row == rows[0]])]
    heights = {
        cell: -i - 0.6 * (len(cell[0].split(" + ")) - 1) - 0.6 * (cell[1] < usual) for i, cell in enumerate(cells)
    }
    colours = dict(enumerate(sns.color_palette("colorblind")[:4], 1))
    size = {"figsize": (8.4, 5.6), "squeeze": False, "layout": "constrained"}
    figure, (axes,) = plt.subplots(1, len(rows), sharey=True, **size)
    for row, ax in zip(rows, axes, strict=True):
        part = frame[frame.row == row]
        best = part[part.similarities == best_single(part)]
        ax.axvline(best.score.mean(), color="0.75", linewidth=1, zorder=0, label="best single one")
        for _, name, k, pairs in _by_subset(part):
            y, members = heights[name, k], pairs.members.iloc[0]
            span = interval(pairs, "score")
            look = {"color": colours[members], "markerfacecolor": "white" if k < usual else colours[members]}
            ax.plot([span.low, span.high], [y, y], color=colours[members], linewidth=1.6)
            ax.plot(span.mean, y, "o", markersize=5.5, **look)
            ax.plot(pairs.ceiling.mean(), y, "|", color="black", markersize=8, label="not stitched")
        ax.set(title=row, xlabel="accuracy")
        ax.grid(axis="y", color="0.94")
        ax.set_axisbelow(True)
    labels = [name if k == usual else f"all four, {k} anchors" for name, k in cells]
    axes[0].set_yticks([heights[cell] for cell in cells], labels)
    entries = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=2, frameon=False)
    plt.close(figure)
    return figure


def best_single(part: pd.DataFrame) -> str:
    """The single similarity that stitches best in a row, mean over pairs."""
    singles = part[part.members == 1]
    return str(singles.groupby("similarities", sort=False).score.mean().idxmax())


def table_of_subsets(frame: pd.DataFrame) -> str:
    """One line per row and subset, as Markdown."""
    lines = []
    for row, name, k, pairs in _by_subset(frame):
        spans = {value: interval(pairs, value) for value in ("calibrated", "score", "retention")}
        one = pairs.iloc[0]
        sizes = [str(k), f"{one.features:,}", f"{one.parameters:,}"]
        scores = [_cell(spans["calibrated"]), _cell(spans["score"]), f"{pairs.ceiling.mean():.3f}"]
        lines.append([row, name, *sizes, *scores, _cell(spans["retention"])])
    head = ["Row", "Subset", "Anchors", "Features", "Parameters", "Alignment", "Stitched", "Not stitched", "Retention"]
    return _markdown(pd.DataFrame(lines), head)


def table_of_differences(frame: pd.DataFrame) -> str:
    """Whether all four beat the best single one: paired differences over models, as Markdown."""
    lines = []
    for row, part in frame.groupby("row", sort=False):
        best = best_single(part)
        single, four = part[part.similarities == best], part[part.members == len(MEMBERS)]
        for k, together in four.groupby("k", sort=False):
            gains = [difference(together, single, value) for value in ("score", "retention", "calibrated")]
            extra = together.parameters.iloc[0] - single.parameters.iloc[0]
            lines.append([row, best, str(k), f"{extra:+,}", *(_cell(gain, 4) for gain in gains), verdict(gains[0])])
    head = ["Row", "Best single", "Anchors of all four", "Extra parameters", "Stitched", "Retention", "Alignment"]
    return _markdown(pd.DataFrame(lines), [*head, "All four, by what they stitch"])


def verdict(gain: Interval) -> str:
    """What a difference says, given its interval over models."""
    if not gain.low <= gain.high:
        return "not testable"
    if gain.low > 0:
        return "**beat the best single one**"
    return "are beaten by the best single one" if gain.high < 0 else "no difference that other models could not undo"


def findings_on_subsets(frame: pd.DataFrame) -> str:
    """What came out of the second study, in sentences that follow from its frame."""
    lines = []
    for row, part in frame.groupby("row", sort=False):
        means = part[part.k == part.k.max()].groupby("similarities", sort=False).score.mean()
        single, first = best_single(part), part.iloc[0]
        n_models, n_classes = part.model_a.nunique(), first.parameters // (first.features + 1)
        lines.append(
            f"- {row} ({n_models} models, {n_classes} classes, a guess gets {first.guess:.3f}): best single "
            f"{single} ({means[single]:.3f}), best of all subsets {means.idxmax()} ({means.max():.3f}), "
            f"worst {means.idxmin()} ({means.min():.3f})."
        )
    return "\n".join(lines)


# Markdown ----------------------------------------------------------------------------------------


def _markdown(table: pd.DataFrame, head: Sequence[object]) -> str:
    lines = ["| " + " | ".join(map(str, head)) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, line)) + " |" for line in table.itertuples(index=False))])


def _cell(span: Interval, digits: int = 3) -> str:
    return f"{span.mean:z.{digits}f} [{span.low:z.{digits}f}, {span.high:z.{digits}f}]"


def _range(ends: pd.Series) -> str:
    return f"{ends['min']:z.2f} to {ends['max']:z.2f}"


def _listed(names: object) -> str:
    return ", ".join(names)
