"""What attends to what in a product of invariances, and which of its features stay alike across training conditions.

Heads on products of invariances (`zoo.heads`) read the frozen encoders of a section's models, once with
self-attention over the components and once with equal weights in its place. Attention of a trained head explains
nothing by itself; the head with equal weights says whether the weights carry anything, and the agreement of the
components across conditions says whether attention goes to what stays alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.colors import TwoSlopeNorm
from scipy.stats import t as student

from invariances.paper.plan import PlannedRow, head_recipe, members
from invariances.paper.plots import WIDTH, Drawing, data_in, draw_heatmap
from invariances.paper.rows import SIMILARITIES
from invariances.paper.settings import Settings
from invariances.product import LAYER_NORM_EPS
from invariances.relative import relative
from invariances.zoo import datasets, trained, workers
from invariances.zoo.heads import Head, HeadRecipe
from invariances.zoo.recipes import Recipe

__all__ = [
    "ALL",
    "COMPONENTS",
    "accuracies",
    "agree",
    "attend",
    "classes",
    "component_agreement",
    "features",
    "heatmaps",
    "recipes",
]


COMPONENTS = tuple(SIMILARITIES)
"""The components of every head here, in the order of its attention."""
ALL = "all"
"""In place of a class: the line speaks of all test samples."""
CLASSES_SHOWN = 20
"""A figure shows all classes of a data set with so many; of more, the half of it at either end."""


# Frames ----------------------------------------------------------------------------------------


def recipes(rows: Mapping[str, PlannedRow], settings: Settings) -> list[HeadRecipe]:
    """The heads of this study: for every model one with attention, and one with equal weights in its place."""
    return [recipe for _, _, recipe in _heads(rows, settings)]


def _heads(rows: Mapping[str, PlannedRow], settings: Settings) -> list[tuple[dict[str, object], Recipe, HeadRecipe]]:
    found = []
    for row, planned in rows.items():
        for group in planned.groups:
            for name, recipe in group.recipes.items():
                for equal in (False, True):
                    base = head_recipe(recipe, group.anchors, settings)
                    head = replace(base, similarities=COMPONENTS, equal_weights=equal)
                    line = {"row": row, "group": group.variant.label, "model": name, "equal_weights": equal}
                    found.append((line, recipe, head))
    return found


def attend(rows: Mapping[str, PlannedRow], models: Mapping, heads: Mapping, settings: Settings) -> pd.DataFrame:
    """How much each component attends to each, in heads on the encoders of classifiers.

    Parameters
    ----------
    rows : mapping from row names to PlannedRow
    models : mapping from recipes to trained models
    heads : mapping from recipes to trained heads
        Those of `recipes`.
    settings : Settings

    Returns
    -------
    DataFrame
        One line per row, model, head (``equal_weights`` or not), ``query`` and ``key`` component: ``weight`` is the
        mean over the test samples, ``spread`` its standard deviation over them; ``accuracy`` and ``f1`` are the
        head's, ``plain_accuracy`` and ``plain_f1`` those of the model with its own head.
    """
    frames = []
    with workers.one_thread():
        for line, recipe, head_of_model in _heads(rows, settings):
            model, head = models[recipe], heads[head_of_model]
            scores = {key: head.scores[key] for key in ("accuracy", "f1")}
            plain = {f"plain_{key}": model.scores[key] for key in scores}
            sizes = {"n_anchors": head.recipe.anchors, "epochs": head.recipe.epochs, "profile": settings.profile}
            weights = _weights(head, model.spaces)
            frames.append(pd.DataFrame([{**line, **weight, **scores, **plain, **sizes} for weight in weights]))
    return pd.concat(frames, ignore_index=True)


@torch.no_grad()
def _weights(head: Head, spaces: dict[str, np.ndarray]) -> list[dict[str, object]]:
    anchors = torch.from_numpy(spaces["pool"][: head.recipe.anchors])
    test = torch.from_numpy(spaces["test"])
    product = head.module.product
    weights = torch.cat([product.attention_weights(part, anchors) for part in test.split(trained.BATCH)]).double()
    mean, spread = weights.mean(0), weights.std(0, correction=0)
    names = head.recipe.similarities
    return [
        {"query": query, "key": key, "weight": float(mean[i, j]), "spread": float(spread[i, j])}
        for i, query in enumerate(names)
        for j, key in enumerate(names)
    ]


def agree(rows: Mapping[str, PlannedRow], models: Mapping, settings: Settings) -> pd.DataFrame:
    """How alike the components of a product are between models of different conditions, over the test samples.

    A component is the layer-normalised profile of similarities to the anchors, as a head sees it. Two measures, 1
    for equal components:

    - over all samples, for each pair of models (``class`` is `ALL`): Pearson correlation of a feature (one
      anchor's similarities) of one model with the same feature of the other, averaged over the anchors. A
      feature that does not vary agrees with nothing (0).
    - by class, averaged over pairs: the cosine between the two models' profiles of a sample, each less its model's mean
      profile, averaged over the samples of the class.

    Returns
    -------
    DataFrame
        One line per row, component and pair of models (`ALL`), or class. ``agreement``; ``null``, expected when all
        samples of one model are shuffled, and ``null_within_class``, when they are shuffled within classes: in closed
        form. ``pairs`` is the number of pairs averaged and ``spread`` the standard deviation over them.
    """
    with workers.one_thread():
        frames = [
            _agreements(planned, models).assign(row=name) for name, planned in rows.items() if not planned.not_run
        ]
    frame = pd.concat(frames, ignore_index=True).assign(profile=settings.profile)
    return frame[["row", *frame.columns.drop("row")]]


def _agreements(planned: PlannedRow, models: Mapping) -> pd.DataFrame:
    first, second = (list(group.recipes) for group in planned.groups)
    group = planned.groups[0]
    held = datasets.load(group.prepared.key)
    labels, names = held.arrays["test_y"], held.note["classes"]
    spaces = {name: models[recipe].spaces for name, recipe in members(planned, "recipes").items()}
    return component_agreement(spaces, group.anchors, labels, names, [(a, b) for a in first for b in second])


def component_agreement(
    spaces: dict[str, dict[str, np.ndarray]],
    anchors: int,
    labels: np.ndarray,
    names: list[str],
    pairs: list[tuple[str, str]],
) -> pd.DataFrame:
    """The frame of `agree` for one row.

    Parameters
    ----------
    spaces : mapping from model names to mappings with "pool" and "test"
        Codes of shape (n, d); the first of the pool are the anchors.
    anchors : int
    labels : array of shape (n_test,)
        Positions in `names`.
    names : list of str
        The classes.
    pairs : list of two model names each
    """
    classes = np.unique(labels)
    members = (labels == classes[:, None]).astype(np.float32)
    members /= members.sum(1, keepdims=True)  # one line per class: applied to samples, it gives their mean
    lines = []
    for component in COMPONENTS:
        seen = {model: _views(spaces[model], anchors, component) for model in dict.fromkeys(sum(pairs, ()))}
        means = {model: tuple(members @ view for view in views) for model, views in seen.items()}
        shares = np.bincount(np.searchsorted(classes, labels)) / len(labels)
        by_class = []
        for a, b in pairs:
            (features_a, profiles_a), (features_b, profiles_b) = seen[a], seen[b]
            within = shares @ (means[a][0] * means[b][0]).mean(1)
            line = {"model_a": a, "model_b": b, "component": component, "class": ALL, "samples": len(labels)}
            lines.append({**line, "pairs": 1, "agreement": float((features_a * features_b).mean()), "null": 0.0})
            lines[-1] |= {"null_within_class": float(within)}
            of_samples = (profiles_a * profiles_b).sum(1)
            null, null_within = means[a][1] @ profiles_b.mean(0), (means[a][1] * means[b][1]).sum(1)
            by_class.append(np.stack([members @ of_samples, null, null_within]))
        mean, spread = np.mean(by_class, 0), np.std(by_class, 0, ddof=min(1, len(pairs) - 1))
        for i, label in enumerate(classes):
            line = {"component": component, "class": names[label], "samples": int((labels == label).sum())}
            values = dict(zip(("agreement", "null", "null_within_class"), map(float, mean[:, i]), strict=True))
            lines.append({**line, "pairs": len(pairs), **values, "spread": float(spread[0, i])})
    return pd.DataFrame(lines)


def _views(spaces: dict[str, np.ndarray], anchors: int, component: str) -> tuple[np.ndarray, np.ndarray]:
    """A component's features, each of mean 0 and variance 1 over the samples, and its centred profiles of length 1."""
    pool, test = (torch.from_numpy(spaces[split]) for split in ("pool", "test"))
    profiles = relative(test, pool[:anchors], component)
    profiles = torch.nn.functional.layer_norm(profiles, (anchors,), eps=LAYER_NORM_EPS).numpy()
    centred = profiles - profiles.mean(0)
    return _divided(centred, centred.std(0)), _divided(centred, np.linalg.norm(centred, axis=1, keepdims=True))


def _divided(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(values, by, out=np.zeros_like(values), where=by > 0)


# Tables ----------------------------------------------------------------------------------------


def accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with attention, with equal weights, and their difference, per row and condition.

    The two heads of an encoder are a pair, and encoders of different seeds are independent: the difference has a 95 %
    interval by Student's t over them.

    Parameters
    ----------
    frame : DataFrame
        As `attend` gives it.
    """
    heads_only = frame.drop_duplicates(["row", "group", "model", "equal_weights"])
    lines = []
    for (row, group), own in heads_only.groupby(["row", "group"], sort=False):
        by_head = own.pivot(index="model", columns="equal_weights", values="accuracy")
        plain = own.drop_duplicates("model").plain_accuracy
        gap = by_head[False] - by_head[True]
        mean, low, high = paired_interval(gap.to_numpy())
        columns = {"The model's own head": plain, "Attention": by_head[False], "Equal weights": by_head[True]}
        line = {"Row": row, "Condition": group, "Models": len(gap)}
        line |= {title: f"{values.mean():.4f}" for title, values in columns.items()}
        bounds = "-" if math.isnan(low) else f"[{low:z.4f}, {high:z.4f}]"
        lines.append({**line, "Attention minus equal": f"{mean:z.4f}", "95 % interval": bounds})
    return pd.DataFrame(lines)


def paired_interval(gaps: np.ndarray) -> tuple[float, float, float]:
    """Mean of independent differences and its 95 % bounds by Student's t: NaN for one, or where there is no spread."""
    n, mean = len(gaps), float(np.mean(gaps))
    if n < 2 or np.ptp(gaps) == 0:
        return mean, math.nan, math.nan
    half = student.ppf(0.975, n - 1) * np.std(gaps, ddof=1) / math.sqrt(n)
    return mean, float(mean - half), float(mean + half)


# Figures ---------------------------------------------------------------------------------------


def heatmaps(frame: pd.DataFrame) -> Drawing:
    """Self-attention over the components, a line of panels per row and a panel per condition.

    A cell holds the mean over seeds and, below it, their standard deviation. All panels have one colour scale, whose
    middle is the weight that all components would have if they were weighed alike.
    """
    own = frame[~frame.equal_weights]
    rows = list(dict.fromkeys(own.row))
    names = list(dict.fromkeys(own.key))
    equal = 1 / len(names)
    highest = max(2 * equal, float(own.groupby(["row", "group", "query", "key"]).weight.mean().max()))
    scale = TwoSlopeNorm(equal, 0, highest)
    figure, axes = plt.subplots(len(rows), 2, figsize=(WIDTH, 2.9 * len(rows)), squeeze=False, layout="constrained")
    for line, row in zip(axes, rows, strict=True):
        part = own[own.row == row]
        for ax, (group, weights) in zip(line, part.groupby("group", sort=False), strict=True):
            cells = weights.pivot_table("weight", "query", "key", aggfunc=["mean", "std"], sort=False, dropna=False)
            mean, spread = (cells[what].reindex(index=names, columns=names) for what in ("mean", "std"))
            cells_text = np.vectorize(lambda m, s: f"{m:.2f}\n±{s:.2f}")(mean, spread)
            draw_heatmap(
                ax,
                mean.rename(SIMILARITIES, axis=0).rename(SIMILARITIES, axis=1),
                cells_text,
                8,
                cmap="PuOr_r",
                norm=scale,
            )
            ax.set_aspect("equal")
            ax.set_title(f"{row}\n{group}, {weights.model.nunique()} models", fontsize=9)
            ax.set(xlabel="attended to", ylabel="attends")
            ax.tick_params(labelsize=9, rotation=0)
    bar = figure.colorbar(axes[0, 0].collections[0], ax=axes, shrink=0.6, aspect=40, label="attention weight")
    bar.ax.axhline(equal, color="black", linewidth=1.5)
    bar.set_ticks([0, equal, highest], labels=["0", f"{equal:.2f}\nequal", f"{highest:.2f}"])
    return Drawing(
        figure,
        "Heatmaps of attention weights between the components cosine, L2, L1 and L-infinity, a line of "
        "panels per row and one panel per condition, each cell with its mean and its standard deviation "
        "over models",
        "Attention of the trained heads between components, mean and standard deviation over models; equal weights are "
        "the middle of the colour scale." + data_in("training_attention"),
    )


def features(frame: pd.DataFrame, attention: pd.DataFrame) -> Drawing:
    """How alike each component stays across conditions, beside the attention that it receives; a line per row.

    Parameters
    ----------
    frame : DataFrame
        As `agree` gives it.
    attention : DataFrame
        As `attend` gives it.
    """
    rows, names = list(dict.fromkeys(frame.row)), list(dict.fromkeys(frame.component))
    received = attention[~attention.equal_weights].groupby(["row", "group", "model", "key"], sort=False).weight.mean()
    received = received.reset_index()
    palette = sns.color_palette("colorblind")
    figure, axes = plt.subplots(len(rows), 2, figsize=(WIDTH, 2.3 * len(rows)), squeeze=False, layout="constrained")
    for (left, right), row in zip(axes, rows, strict=True):
        part = frame[(frame.row == row) & (frame["class"] == ALL)]
        groups = list(dict.fromkeys(received[received.row == row].group))
        for i, name in enumerate(names):
            pairs = part[part.component == name]
            spread = np.linspace(-0.15, 0.15, len(pairs)) if len(pairs) > 1 else 0
            left.plot(i + spread, pairs.agreement, "o", color=palette[0], alpha=0.5, markersize=3.5, label="pairs")
            levels = {"shuffled": pairs.null.mean(), "shuffled in class": pairs.null_within_class.mean()}
            for (label, level), style in zip(levels.items(), (":", "--"), strict=True):
                left.plot([i - 0.32, i + 0.32], [level] * 2, style, color="0.35", linewidth=1.3, label=label)
            for j, group in enumerate(groups):
                chosen = received[(received.row == row) & (received.group == group) & (received.key == name)].weight
                at = i + (j - 0.5) * 0.3 + (np.linspace(-0.08, 0.08, len(chosen)) if len(chosen) > 1 else 0)
                right.plot(at, chosen, "os"[j], color=palette[j + 1], alpha=0.7, markersize=4, label=group)
        right.axhline(1 / len(names), color="0.35", linestyle=":", linewidth=1.3, label="equal weights")
        left.set(ylabel="agreement", ylim=(min(-0.05, left.get_ylim()[0]), 1.05))
        right.set(ylabel="attention received", ylim=(0, max(0.5, right.get_ylim()[1])))
        for ax, title in ((left, row), (right, "heads of its models")):
            ax.set_title(title, fontsize=10)
            ax.set_xticks(range(len(names)), [SIMILARITIES[name] for name in names])
            ax.grid(axis="y", color="0.92")
            ax.set_axisbelow(True)
            entries = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
            ax.legend(entries.values(), entries.keys(), fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    return Drawing(
        figure,
        "Agreement of the four components across conditions, pairs as points, with two chance levels, "
        "beside the attention that each component receives, one line of panels per row",
        "Left: how alike a component is in two models, one of each condition. Right: the attention that it receives."
        + data_in("training_features"),
    )


def classes(frame: pd.DataFrame) -> Drawing:
    """How alike each class's profiles stay across conditions, a panel per row; classes from the most alike down.

    Parameters
    ----------
    frame : DataFrame
        As `agree` gives it. Of rows with more than `CLASSES_SHOWN` classes the highest and the lowest are shown.
    """
    rows = list(dict.fromkeys(frame.row))
    names = list(dict.fromkeys(frame.component))
    columns = min(2, len(rows))
    lines = -(-len(rows) // columns)
    size = (WIDTH / 2 * columns, 4.2 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    for ax, row in zip(axes.flat, rows, strict=False):
        part = frame[(frame.row == row) & (frame["class"] != ALL)]
        wide = pd.DataFrame(part.pivot(index="class", columns="component", values="agreement")[names])
        wide = wide.loc[wide.mean(axis=1).sort_values(ascending=False).index].rename(columns=SIMILARITIES)
        wide["in class"] = part.groupby("class").null_within_class.mean()
        title = row
        if len(wide) > CLASSES_SHOWN:
            half = CLASSES_SHOWN // 2
            title = f"{row}\n{half} highest and {half} lowest of {len(wide)} classes"
            wide = pd.concat([wide[:half], wide[-half:]])
        wide.index = [str(name).split(",")[0][:18] for name in wide.index]
        draw_heatmap(ax, wide, wide.map("{:.2f}".format).to_numpy(), 7, vmin=0, vmax=1, cmap="cividis")
        ax.axvline(len(names), color="white", linewidth=3)
        ax.set_title(title, fontsize=9)
        ax.set(xlabel="", ylabel="")
        ax.tick_params(labelsize=8, rotation=0)
    return Drawing(
        figure,
        "Agreement by class and component, one heatmap per row",
        "How alike the profiles of each class are in two models, from the most alike down; *in class* is what "
        "shuffling within classes leaves." + data_in("training_features"),
    )
