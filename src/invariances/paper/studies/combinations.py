"""What a combination of similarities adds to the best single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.ticker import MaxNLocator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit

from invariances import zoo
from invariances.alignment import align
from invariances.intervals import Interval, difference, interval
from invariances.paper.frames import save_table
from invariances.paper.tables import markdown_table, mean_with_bounds
from invariances.product import Product
from invariances.zoo import workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from invariances.paper.plots import WIDTH, save_svg
from invariances.paper.rows import SIMILARITIES
from invariances.paper.studies.panels import groups, in_order, labelled, not_run, panel

__all__ = [
    "COMBINED",
    "combine",
    "findings_on_subsets",
    "run",
    "subsets",
    "table_of_differences",
    "table_of_subsets",
    "verdict",
]


COMBINED = ("MNIST", "CIFAR-10", "TREC")
"""Rows whose similarities are combined: those that classify."""
PENALTIES = (0.001, 0.01, 0.1)
"""Inverse penalties that a head chooses from."""


class Combination(NamedTuple):
    """One subset of similarities for one row."""

    profile: str
    row: str
    similarities: tuple[str, ...]
    k: int


def subsets() -> list[tuple[str, ...]]:
    """All subsets of the four similarities, smallest first."""
    return [subset for size in range(1, len(SIMILARITIES) + 1) for subset in combinations(SIMILARITIES, size)]


def study_subsets(profile: str, processes: int | None = None) -> pd.DataFrame:
    """Every subset of the four similarities, aligned and stitched; and all four by a quarter of the anchors.

    The last has as many features, and a head as many parameters, as one similarity alone. Rows that cannot be run are
    left out.

    Returns
    -------
    DataFrame
        One line per row, subset, number of anchors and ordered pair of models; see `combine`.
    """
    units = []
    for row, group in groups(profile, COMBINED).items():
        zoo.train(list(group.recipes.values()))
        units += [Combination(profile, row, subset, group.anchors) for subset in subsets()]
        units.append(Combination(profile, row, tuple(SIMILARITIES), group.anchors // len(SIMILARITIES)))
    frames = workers.run(_measure_subset, units, "subsets", processes, size=lambda unit: len(unit.similarities))
    return in_order(frames, [unit._replace(similarities=_named(unit)) for unit in units], ["row", "similarities", "k"])


def _named(unit: Combination) -> str:
    return " + ".join(SIMILARITIES[name] for name in unit.similarities)


def _measure_subset(unit: Combination) -> pd.DataFrame:
    data = panel(unit.profile, unit.row)
    members = [_component(unit.profile, unit.row, name, unit.k) for name in unit.similarities]
    pool, test = (
        {name: torch.cat([member[split][name] for member in members], dim=1) for name in data.pool} for split in (0, 1)
    )
    found = combine(pool, test, data.pool_labels, data.test_labels, len(members))
    facts = {"similarities": _named(unit), "members": len(members), "k": unit.k}
    return labelled(found, {**data.facts, **facts})


@lru_cache(maxsize=len(SIMILARITIES))
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
        on b's own, `retention` = score / ceiling; `majority_share`, the commonest class's share; `alignment`, its
        `null` and `calibrated`, the mean cosine of the two test representations.
    """
    aligned = align(test, invariances=("absolute",), metrics=("cosine",)).set_index(["model_a", "model_b"])
    majority_share = float(np.bincount(test_labels).max() / len(test_labels))
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
                "majority_share": majority_share,
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
    fewer = frame.k < frame.groupby("row").k.transform("max")
    quarters = " or ".join(map(str, dict.fromkeys(frame.k[fewer])))
    cells = list(dict.fromkeys(zip(frame.similarities, fewer, strict=True)))
    heights = {cell: -i - 0.6 * (len(cell[0].split(" + ")) - 1) - 0.6 * cell[1] for i, cell in enumerate(cells)}
    colours = dict(enumerate(sns.color_palette("colorblind")[:4], 1))
    size = {"figsize": (WIDTH, 5.6), "squeeze": False, "layout": "constrained"}
    figure, (axes,) = plt.subplots(1, len(rows), sharey=True, **size)
    for row, ax in zip(rows, axes, strict=True):
        part = frame[frame.row == row]
        best = part[part.similarities == best_single(part)]
        ax.axvline(best.score.mean(), color="0.75", linewidth=1, zorder=0, label="best single one")
        for _, name, k, pairs in _by_subset(part):
            y, members = heights[name, k < part.k.max()], pairs.members.iloc[0]
            span = interval(pairs, "score")
            look = {"color": colours[members], "markerfacecolor": "white" if k < part.k.max() else colours[members]}
            ax.plot([span.low, span.high], [y, y], color=colours[members], linewidth=1.6)
            ax.plot(span.mean, y, "o", markersize=5.5, **look)
            ax.plot(pairs.ceiling.mean(), y, "|", color="black", markersize=8, label="not stitched")
        ax.set(title=row, xlabel="accuracy")
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.grid(axis="y", color="0.94")
        ax.set_axisbelow(True)
    labels = [f"all four, {quarters} anchors" if fewer else name for name, fewer in cells]
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
        scores = [
            mean_with_bounds(spans["calibrated"], 3),
            mean_with_bounds(spans["score"], 3),
            f"{pairs.ceiling.mean():.3f}",
        ]
        lines.append([row, name, *sizes, *scores, mean_with_bounds(spans["retention"], 3)])
    head = ["Row", "Subset", "Anchors", "Features", "Parameters", "Alignment", "Stitched", "Not stitched", "Retention"]
    return markdown_table(head, lines)


def table_of_differences(frame: pd.DataFrame) -> str:
    """Whether all four beat the best single one: paired differences over models, as Markdown."""
    lines = []
    for row, part in frame.groupby("row", sort=False):
        best = best_single(part)
        single, four = part[part.similarities == best], part[part.members == len(SIMILARITIES)]
        for k, together in four.groupby("k", sort=False):
            gains = [difference(together, single, value) for value in ("score", "retention", "calibrated")]
            extra = together.parameters.iloc[0] - single.parameters.iloc[0]
            lines.append(
                [row, best, str(k), f"{extra:+,}", *(mean_with_bounds(gain, 4) for gain in gains), verdict(gains[0])]
            )
    head = ["Row", "Best single", "Anchors of all four", "Extra parameters", "Stitched", "Retention", "Alignment"]
    return markdown_table([*head, "All four, by what they stitch"], lines)


def verdict(gain: Interval) -> str:
    """What a difference says, given its interval over models."""
    if not gain.low <= gain.high:
        return "not testable"
    if gain.low > 0:
        return "**beat the best single one**"
    return "are beaten by the best single one" if gain.high < 0 else "no difference that other models could not undo"


def findings_on_subsets(frame: pd.DataFrame, left_out: Sequence[str] = ()) -> str:
    """What came out of the second study, in sentences that follow from its frame.

    Parameters
    ----------
    frame : DataFrame
        As `study_subsets` gives it.
    left_out : sequence of str
        Sentences on the rows that are not in it.
    """
    lines = []
    for row, part in frame.groupby("row", sort=False):
        means = part[part.k == part.k.max()].groupby("similarities", sort=False).score.mean()
        single, first = best_single(part), part.iloc[0]
        n_models, n_classes = part.model_a.nunique(), first.parameters // (first.features + 1)
        lines.append(
            f"- {row} ({n_models} models, {n_classes} classes, a guess gets {first.majority_share:.3f}): best single "
            f"{single} ({means[single]:.3f}), best of all subsets {means.idxmax()} ({means.max():.3f}), "
            f"worst {means.idxmin()} ({means.min():.3f})."
        )
    return "\n".join([*lines, *left_out])


def run(profile: str, into: Path) -> None:
    """Measure, and write what the book shows: ``subsets.csv``, its figure, and tables."""
    into.mkdir(parents=True, exist_ok=True)
    frame = save_table(study_subsets(profile), "subsets", into)
    save_svg(draw_subsets(frame), into / "subsets.svg")
    texts = {
        "subsets": table_of_subsets(frame),
        "differences": table_of_differences(frame),
        "findings_subsets": findings_on_subsets(frame, not_run(profile, COMBINED)),
    }
    for name, text in texts.items():
        (into / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")
