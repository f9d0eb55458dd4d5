"""Tables and figures of the CKA map, each from the map's frame alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from invariances.intervals import Interval, interval
from invariances.paper.judging import describe
from invariances.paper.plots import WIDTH, Drawing, data_in, draw_heatmap
from invariances.paper.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BOTH",
    "COLUMNS",
    "FORMS",
    "PICTURES",
    "TEXTS",
    "blocks",
    "by_modality",
    "cross_modal",
    "figure_pictures",
    "figure_pretrained",
    "figure_texts",
    "left_out",
    "not_drawn",
    "table_of_texts",
    "within_minus_across",
]


COLUMNS = [
    "map",
    "model_a",
    "model_b",
    "group_a",
    "group_b",
    "kind_a",
    "kind_b",
    "modality_a",
    "modality_b",
    "metric",
    "score",
    "null",
    "z",
    "p",
    "calibrated",
    "n_samples",
    "data",
    "note",
]
"""Of the frame; ``map`` is the name of a map."""


PICTURES, TEXTS, BOTH = ("pictures", "texts", "pictures and texts")
"""The maps: the zoo's networks that read the same pictures, those that read the same texts, and models of either kind
on pictures and their descriptions."""


FORMS = {"cka": "raw (biased)", "cka_debiased": "debiased"}
"""The two forms of linear CKA, as figures call them."""


def table_of_texts(frame: pd.DataFrame) -> str:
    """The blocks of the networks that read texts, as Markdown."""
    table = blocks(frame, TEXTS).assign(Data=frame.data.iloc[0])
    return markdown_table(table.columns, table.itertuples(index=False))


def blocks(frame: pd.DataFrame, name: str = PICTURES) -> pd.DataFrame:
    """CKA within and across the zoo's architectures, and whether the blocks stand out.

    Within minus across is the mean over pairs within either architecture minus the mean over pairs across, with an
    interval over models: above 0, networks of one architecture are more alike than networks of the two.

    Parameters
    ----------
    frame : DataFrame
        The map's frame.
    name : str
        The map: "pictures" or "texts".

    Returns
    -------
    DataFrame
        One line for each architecture and pair of architectures; a model with itself never counts.
    """
    frame = frame[frame["map"] == name]
    groups = _members(frame)
    trained = [group for group, kind in groups if kind == "trained"]
    matrices = {metric: _matrix(frame[frame.metric == metric]) for metric in FORMS}
    lines = []
    for a, b in [*((a, a) for a in trained), *combinations(trained, 2)]:
        line = _block_line(matrices, {group: groups[group, "trained"] for group in (a, b)}, a, b)
        count = line.pop("Models")
        untrained = [groups.get((group, "untrained"), []) for group in (a, b)]
        line["Untrained, debiased"] = _words(block_interval(matrices["cka_debiased"], *untrained))
        lines.append({**line, "Models": count})
    return pd.DataFrame(lines)


def _block_line(
    matrices: Mapping[str, pd.DataFrame], groups: Mapping[str, Sequence[str]], a: str, b: str
) -> dict[str, str]:
    """CKA within one group of models, or across two, in both forms."""
    first, second = groups[a], groups[b]
    line = {"Block": a if a == b else f"{a} and {b}"}
    for metric, title in (("cka_debiased", "Debiased"), ("cka", "Raw")):
        line[title] = _words(block_interval(matrices[metric], first, second))
        gap = None if a == b else within_minus_across(matrices[metric], first, second)
        line[f"Within minus across, {title.lower()}"] = _words(gap)
    return line | {"Models": str(len(first)) if a == b else f"{len(first)} + {len(second)}"}


def block_interval(matrix: pd.DataFrame, a: Sequence[str], b: Sequence[str]) -> Interval | None:
    """The mean of a block with its interval over models; None where the block has no pair.

    Parameters
    ----------
    matrix : DataFrame
        Scores of all pairs, square and symmetric.
    a, b : sequences of model names
        The same twice, or without a common model.
    """
    names = list(dict.fromkeys([*a, *b]))
    if not a or not b or len(names) < 2:
        return None
    return interval(_listed(matrix.loc[names, names]), groups=None if list(a) == list(b) else (a, b))


def within_minus_across(matrix: pd.DataFrame, a: Sequence[str], b: Sequence[str]) -> Interval | None:
    """How much more alike models are within their groups than across, with its interval over models.

    A model moves its group's mean by twice the deviation of its own mean, to first order, since each of its pairs
    counts for two models. So every pair across is set against what its two models say of their groups, and the
    differences, whose mean is exact, are averaged over models as any table of pairs.

    Parameters
    ----------
    matrix : DataFrame
        Scores of all pairs, square and symmetric.
    a, b : sequences of model names
        Without a common model.

    Returns
    -------
    Interval or None
        None where a group has fewer than 3 models: one pair says nothing of the spread within.
    """
    if min(len(a), len(b)) < 3:
        return None
    within = []
    for names in (a, b):
        own = matrix.loc[names, names].mask(np.eye(len(names), dtype=bool)).mean(axis=1)
        within.append((2 * own - own.mean()).to_numpy())
    gaps = (within[0][:, None] + within[1][None, :]) / 2 - matrix.loc[a, b]
    return interval(gaps.rename_axis("model_a").reset_index().melt("model_a", var_name="model_b"), "value", (a, b))


def cross_modal(frame: pd.DataFrame) -> pd.DataFrame:
    """CKA of every group of vision models with every language model, beside its chance level.

    Parameters
    ----------
    frame : DataFrame
        The map's frame.

    Returns
    -------
    DataFrame
        One line per vision group and language model, both trained. Null is the expected score when the descriptions
        are shuffled over the classes, by its closed form. z and p are those of the least similar model of the group;
        p is multiplied by the number of lines (Bonferroni). The last columns put an untrained network in
        the place of either model.
    """
    cross = _cross_modal_pairs(frame)
    debiased_pairs = cross[cross.metric == "cka_debiased"]
    means = debiased_pairs.groupby(["vision", "vision_kind", "language", "language_kind"]).score.mean()
    trained = cross[(cross.vision_kind == "trained") & (cross.language_kind == "trained")]
    keys = list(trained[["vision", "language"]].drop_duplicates().itertuples(index=False, name=None))
    lines = []
    for vision, language in keys:
        own = trained[(trained.vision == vision) & (trained.language == language)]
        raw, debiased = (own[own.metric == metric] for metric in ("cka", "cka_debiased"))
        p = min(1.0, debiased.p.max() * len(keys))
        lines.append(
            {
                "Vision": vision,
                "Language": language,
                "Models": len(debiased),
                "Debiased": f"{debiased.score.mean():z.3f}",
                "Null": "0",
                "Raw": f"{raw.score.mean():.3f}",
                "Null, raw": f"{raw.null.mean():.3f}",
                "Calibrated, raw": f"{raw.calibrated.mean():z.3f}",
                "z": f"{debiased.z.min():.1f}",
                "p": f"{p:.1g}" if p >= 1e-10 else "< 1e-10",
                "Above chance": "yes" if p < 0.05 else "no",
                "Language model untrained": _number(means.get((vision, "trained", language, "untrained"))),
                "Vision model untrained": _number(means.get((vision, "untrained", language, "trained"))),
            }
        )
    return pd.DataFrame(lines)


def by_modality(frame: pd.DataFrame) -> pd.DataFrame:
    """CKA within the block of vision models, within that of language models, and across, on paired inputs.

    Parameters
    ----------
    frame : DataFrame
        The map's frame.

    Returns
    -------
    DataFrame
        One line for each kind, and one for the two; trained models alone. A model with itself never counts.
    """
    frame = frame[(frame["map"] == BOTH) & (frame.kind_a == "trained") & (frame.kind_b == "trained")]
    if frame.empty:
        return pd.DataFrame()
    kinds = {modality: _of_modality(frame, modality) for modality in ("vision", "language")}
    matrices = {metric: _matrix(frame[frame.metric == metric]) for metric in FORMS}
    blocks_of = (("vision", "vision"), ("language", "language"), ("vision", "language"))
    return pd.DataFrame([_block_line(matrices, kinds, a, b) for a, b in blocks_of])


def _of_modality(frame: pd.DataFrame, modality: str) -> list[str]:
    names = [frame.loc[frame[f"modality_{end}"] == modality, f"model_{end}"] for end in "ab"]
    return list(dict.fromkeys(pd.concat(names)))


def left_out(not_run: Mapping[str, str]) -> pd.DataFrame:
    """The models that are not in the map, and why."""
    return pd.DataFrame({"Not run": list(not_run), "Reason": list(not_run.values())})


def _cross_modal_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Pairs of a vision and a language model, with their groups and kinds."""
    cross = frame[(frame["map"] == BOTH) & (frame.modality_a != frame.modality_b)]
    first = cross.modality_a == "vision"
    return cross.assign(
        vision=cross.group_a.where(first, cross.group_b),
        vision_kind=cross.kind_a.where(first, cross.kind_b),
        language=cross.group_b.where(first, cross.group_a),
        language_kind=cross.kind_b.where(first, cross.kind_a),
    )


def _members(frame: pd.DataFrame) -> dict[tuple[str, str], list[str]]:
    """The models of every group and kind, in order of appearance."""
    found: dict[tuple[str, str], list[str]] = {}
    for end in "ab":
        columns = [f"model_{end}", f"group_{end}", f"kind_{end}"]
        for model, *key in frame[columns].drop_duplicates().itertuples(index=False):
            if model not in found.setdefault(tuple(key), []):
                found[tuple(key)].append(model)
    return found


def _matrix(pairs: pd.DataFrame) -> pd.DataFrame:
    """The scores of one form as a square; no model has one with itself."""
    names = [name for models in _members(pairs).values() for name in models]
    both = pd.concat([pairs, pairs.rename(columns={"model_a": "model_b", "model_b": "model_a"})])
    return both.pivot(index="model_a", columns="model_b", values="score").reindex(index=names, columns=names)


def _listed(matrix: pd.DataFrame) -> pd.DataFrame:
    """A square of scores as a table of pairs, each once."""
    rows, columns = np.triu_indices(len(matrix), 1)
    scores = matrix.to_numpy()[rows, columns]
    return pd.DataFrame({"model_a": matrix.index[rows], "model_b": matrix.index[columns], "score": scores})


def _words(span: Interval | None) -> str:
    return "-" if span is None else describe(span)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"


def figure_pictures(frame: pd.DataFrame) -> Drawing:
    """Raw and debiased CKA between all networks that read the same pictures, blocks by architecture."""
    return _figure_zoo(frame, PICTURES)


def figure_texts(frame: pd.DataFrame) -> Drawing:
    """Raw and debiased CKA between all networks that read the same texts, blocks by architecture."""
    return _figure_zoo(frame, TEXTS)


def _figure_zoo(frame: pd.DataFrame, name: str) -> Drawing:
    frame = frame[frame["map"] == name]
    if frame.empty:
        return not_drawn(f"not drawn: no row on {name} is in this run")
    groups = _members(frame)
    figure, axes, bar = _panels(11.6)
    for ax, (metric, title) in zip(axes, FORMS.items(), strict=True):
        _heatmap(ax, _matrix(frame[frame.metric == metric]), bar)
        ends = np.cumsum([len(models) for models in groups.values()])
        _borders(ax, ends[:-1], 1.2)
        _borders(ax, [end for end, ((_, a), (_, b)) in zip(ends, pairwise(groups), strict=False) if a != b], 3.5)
        middles = ends - [len(models) / 2 for models in groups.values()]
        titles = [group if kind == "trained" else f"{group}, {kind}" for group, kind in groups]
        _labels(ax, middles, titles, title, ax is axes[-1])
    return Drawing(
        figure,
        f"Two heatmaps, raw and debiased CKA between all networks that read the same {name}, trained and untrained, "
        "blocks by architecture",
        f"Linear CKA between networks that see the same {name}. Lines border architectures, the thick one untrained "
        "networks; a network with itself is left out." + data_in("architecture_cka"),
    )


def figure_pretrained(frame: pd.DataFrame) -> Drawing:
    """Raw and debiased CKA between groups of vision and language models on paired inputs.

    A cell is the mean over pairs of different models; a group of one model has none with itself.
    """
    frame = frame[(frame["map"] == BOTH) & (frame.kind_a == "trained") & (frame.kind_b == "trained")]
    if frame.empty:
        return not_drawn("not drawn: no pictures with descriptions are in this run")
    groups = {group: models for (group, _), models in _members(frame).items()}
    languages = {*frame.group_a[frame.modality_a == "language"], *frame.group_b[frame.modality_b == "language"]}
    border = [i for i, (a, b) in enumerate(pairwise(groups), 1) if (a in languages) != (b in languages)]
    figure, axes, bar = _panels(11.2)
    for ax, (metric, title) in zip(axes, FORMS.items(), strict=True):
        matrix = _matrix(frame[frame.metric == metric])
        means = [[_mean(matrix.loc[a, b]) for b in groups.values()] for a in groups.values()]
        means = pd.DataFrame(means, list(groups), list(groups))
        _heatmap(ax, means, bar, numbers=True)
        _borders(ax, range(1, len(groups)), 0.6)
        _borders(ax, border, 3.5)
        _labels(ax, np.arange(len(groups)) + 0.5, list(groups), title, ax is axes[-1])
    return Drawing(
        figure,
        "Two heatmaps, raw and debiased CKA between vision and language models on classes of ImageNet, a thick line "
        "between the two kinds",
        "Linear CKA between groups of pretrained models on classes of ImageNet, mean over pairs of different models. "
        "The thick line parts vision from language." + data_in("architecture_cka"),
    )


def not_drawn(reason: str) -> Drawing:
    """What stands in the place of a figure that cannot be drawn: the reason."""
    figure = plt.figure(figsize=(WIDTH, 1.0))
    figure.text(0.5, 0.5, reason, ha="center", va="center")
    return Drawing(figure, reason)


def _mean(block: pd.DataFrame) -> float:
    """Of the scores of different models; NaN where there are none."""
    return float(block.stack().mean())


def _panels(height: float) -> tuple[Figure, list[plt.Axes], plt.Axes]:
    figure = plt.figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 0.04])
    axes = [figure.add_subplot(grid[line, 0]) for line in range(2)]
    return figure, axes, figure.add_subplot(grid[0, 1])


def _heatmap(ax: plt.Axes, matrix: pd.DataFrame, bar: plt.Axes, numbers: bool = False) -> None:
    ax.set_facecolor("0.8")
    shown = matrix.map(lambda score: "" if np.isnan(score) else f"{score:z.2f}".replace("0.", "."))
    texts = shown.to_numpy() if numbers else None
    draw_heatmap(ax, matrix, texts, 7.5, vmin=0, vmax=1, cmap="cividis")
    ax.set_aspect("equal")
    bar.clear()
    ax.figure.colorbar(ax.collections[0], cax=bar, label="linear CKA")


def _borders(ax: plt.Axes, edges: Iterable[float], width: float) -> None:
    for edge in edges:
        ax.axhline(edge, color="white", linewidth=width)
        ax.axvline(edge, color="white", linewidth=width)


def _labels(ax: plt.Axes, places: Sequence[float], names: list[str], title: str, last: bool) -> None:
    """One label a block, in the middle of its side; below, for the last of the heatmaps alone."""
    ax.set_xticks(places, names if last else [""] * len(names), rotation=90, fontsize=9)
    ax.set_yticks(places, names, rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel="", title=title)
