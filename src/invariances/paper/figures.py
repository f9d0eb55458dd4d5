"""The figures, each drawn from measured data, with its alternative text beside the code that draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA

from invariances.intervals import Interval
from invariances.ladders import ALL_PAIRS
from invariances.paper.frames import SAME_ENCODER, across_groups, shown_row
from invariances.paper.plots import COLORS, WIDTH, Drawing, data_in, draw_legend, panels
from invariances.paper.reported import ALIGNMENT, Reported
from invariances.paper.stitched import predictions
from invariances.paper.tables import class_title
from invariances.stitching import Codes, Stitchable, connect
from invariances.transforms import Affine, Relative

__all__ = [
    "LOWEST",
    "alignment",
    "ladder",
    "latents",
    "prediction",
    "reconstructions",
    "singular_values",
    "stitching",
]

LEVELS = {"null": ("shuffled", ":"), "null_within_class": ("shuffled in class", "--"), "untrained": ("untrained", "-")}
"""The levels that alignment is read against, with their name and line."""
CONTROLS = {"self-stitch": "-", SAME_ENCODER: "-.", "shuffled anchors": ":", "untrained encoder": "--"}
"""The controls of stitching, with their line."""
LOWEST = -0.5
"""Where figures of explained variance end: a map into a wrong place explains less than nothing."""
PANEL = (WIDTH / 2, 3.3)
NAMED = 20
"""Classes that a legend names, at most."""
LINE = 0.2
"""Inches of height for one line of a figure that has a line for each invariance."""
DRAWN = {"absolute": "raw (as scale)", "relative": "rotation (relative)", "affine": "affine"}
"""The invariances that the figure of alignment draws: under cosine, scale is raw."""

Intervals = Mapping[tuple[str, str], Interval]


def alignment(section: str, frame: pd.DataFrame, intervals: Intervals) -> Drawing:
    """Alignment by row, a line for each invariance: pairs, interval over models, references, reported value.

    Parameters
    ----------
    section : str
    frame : DataFrame
        The section's tidy table.
    intervals : mapping from (row, invariance) to Interval
        Of the scores of trained models.
    """
    rows = list(dict.fromkeys(frame.row))
    names = [name for name in DRAWN if name in set(frame.invariance)]
    figure, ax = _lines(len(rows), len(names))
    for i, row in enumerate(rows):
        part = frame[frame.row == row]
        for j, invariance in enumerate(names):
            y = i + (j - (len(names) - 1) / 2) / (len(names) + 1)
            _draw_scores(ax, y, part[part.invariance == invariance], intervals[row, invariance], COLORS[invariance])
            reported = ALIGNMENT.get(section, {}).get(row, {}).get(invariance)
            if isinstance(reported, Reported):
                ax.plot(reported.mean, y, "D", color="black", markerfacecolor="white", markersize=5, label="reported")
    for name in names:
        ax.plot([], [], "o", color=COLORS[name], label=DRAWN[name])
    _name_lines(ax, [shown_row(frame[frame.row == row]) for row in rows])
    ax.set_xlabel(f"{frame.metric.iloc[0]} between the same samples in two models")
    draw_legend(figure, [ax], columns=4, fontsize=8.5)
    return Drawing(
        figure,
        f"{frame.metric.iloc[0]} alignment by invariance, a line for each of {len(rows)} rows: pairs of models, "
        "three chance references, the 95 % interval over models, and the reported value where there is one",
    )


def _lines(rows: int, names: int) -> tuple[Figure, Axes]:
    """A figure with a band for each row, high enough for a line of each name."""
    figure, ax = plt.subplots(figsize=(WIDTH, 1.2 + LINE * rows * (names + 1)), layout="constrained")
    return figure, ax


def _name_lines(ax: Axes, names: Sequence[str]) -> None:
    """Name the bands of a figure, with a border between any two."""
    ax.set_yticks(range(len(names)), [fill(name, 24) for name in names], fontsize=9)
    ax.set_ylim(len(names) - 0.5, -0.5)
    for edge in range(1, len(names)):
        ax.axhline(edge - 0.5, color="0.85", linewidth=0.8, zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.93")
    ax.set_axisbelow(True)


def _draw_scores(ax: Axes, y: float, own: pd.DataFrame, span: Interval, color: str) -> None:
    trained, untrained = (across_groups(own[own.kind == kind]) for kind in ("trained", "untrained"))
    ax.plot(trained.score, y + np.linspace(-0.05, 0.05, len(trained)), "o", color=color, alpha=0.35, markersize=3)
    levels = {"null": trained.null.mean(), "null_within_class": trained.null_within_class.mean()}
    levels["untrained"] = untrained.score.mean()
    for kind, (name, style) in LEVELS.items():
        ax.plot([levels[kind]] * 2, [y - 0.11, y + 0.11], style, color="0.25", linewidth=1.2, label=name)
    if span.low == span.low:
        ax.plot([span.low, span.high], [y, y], color=color, linewidth=2.6, solid_capstyle="butt")
    ax.plot(span.mean, y, "|", color=color, markersize=9, markeredgewidth=2.2)


def latents(
    row: str, spaces: Mapping[str, np.ndarray], anchors: Sequence[int], labels: np.ndarray, classes: Sequence[str]
) -> Drawing:
    """Two models' spaces side by side, raw, relative and after an affine map: the same samples, by class.

    Parameters
    ----------
    row : str
    spaces : mapping from model names to arrays of shape (k + n, d)
        As `invariances.zoo.embed` gives them, anchors first; the first two are drawn.
    anchors : sequence of int
        The k anchors.
    labels : array of length k + n
    classes : sequence of str
        Their names. A legend has them where they are at most `NAMED`.
    """
    k = len(anchors)
    (a, left), (b, right) = list(spaces.items())[:2]
    mapped = Affine().fit(right[:k], left[:k]).transform(right[k:])
    shown = {
        "raw": (left[k:], right[k:]),
        "relative": tuple(Relative().fit(space[:k]).transform(space[k:]) for space in (left, right)),
        "affine": (left[k:], mapped),
    }
    figure, axes = plt.subplots(len(shown), 2, figsize=(WIDTH, 9.4), layout="constrained")
    for line, (kind, pair) in zip(axes, shown.items(), strict=True):
        # the left model's axes serve both, so that agreement shows as the same picture
        axes_of_left = PCA(2, random_state=0).fit(pair[0])
        titles = (f"{kind}: {a}", f"{kind}: {b}" if kind != "affine" else f"{kind}: {b}, mapped")
        for ax, space, title in zip(line, pair, titles, strict=True):
            _draw_classes(ax, axes_of_left.transform(space)[:500], labels[k:][:500], classes)
            ax.set(title=title, xticks=[], yticks=[])
    figure.suptitle(row, fontsize=11)
    if len(classes) <= NAMED:
        draw_legend(figure, list(axes.flat[:1]), columns=5, fontsize=8.5)
    return Drawing(
        figure,
        f"{row}: the latent spaces of {a} and {b} on two principal axes, raw above, relative in the middle and after "
        "an affine map below, coloured by class",
        "The same held-out samples in two models, on two principal axes of the left one: raw spaces above, relative "
        "representations in the middle, and below the right model's space after an affine map into the left one.",
    )


def _draw_classes(ax: Axes, points: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    palette = plt.get_cmap("tab20" if len(classes) > 10 else "tab10")
    for number, name in enumerate(classes):
        own = points[labels == number]
        color = palette(number % palette.N)
        ax.plot(*own.T, "o", color=color, markersize=2.6, alpha=0.75, label=name, rasterized=True)


def reconstructions(row: str, models: Mapping[str, Mapping[str, Stitchable]], pictures: int = 8) -> Drawing:
    """Original, reconstruction, and stitched by each invariance, for the same pictures and one pair of models.

    Parameters
    ----------
    row : str
    models : mapping from invariances to mappings from model names to Stitchable
        As `invariances.zoo.take_apart` gives them; "absolute" among them.
    pictures : int
    """
    absolute = models["absolute"]
    a, b = list(absolute)[:2]

    def few(codes: Codes) -> Codes:
        return replace(codes, samples=codes.samples[:pictures])

    lines = {"original": absolute[a].codes.targets}
    lines["not stitched"] = connect(few(absolute[b].codes), absolute[b], "absolute")
    for invariance, pieces in models.items():
        lines[f"stitched: {invariance}"] = connect(few(pieces[a].codes), pieces[b], invariance)
    figure, axes = plt.subplots(len(lines), pictures, figsize=(WIDTH, 0.9 * len(lines)), layout="constrained")
    for line, (title, images) in zip(axes, lines.items(), strict=True):
        for ax, image in zip(line, images, strict=False):
            ax.imshow(_picture(image), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    return Drawing(
        figure,
        f"{row}: {pictures} pictures, each as it is, reconstructed, and stitched: {', '.join(models)}",
        "Pictures of the test split, reconstructed by one model, and by an encoder with the decoder of another.",
    )


def _picture(image: torch.Tensor) -> np.ndarray:
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()


def stitching(frame: pd.DataFrame) -> Drawing:
    """Share of the ceiling that stitching keeps by row, a line for each connection, with the controls."""
    rows = list(frame.row.drop_duplicates())
    names = list(frame.invariance.drop_duplicates())
    figure, ax = _lines(len(rows), len(names))
    for i, row in enumerate(rows):
        for j, name in enumerate(names):
            y = i + (j - (len(names) - 1) / 2) / (len(names) + 1)
            _draw_retention(ax, y, frame[(frame.row == row) & (frame.invariance == name)], COLORS[name])
    for name in names:
        ax.plot([], [], "o", color=COLORS[name], label=name)
    ax.axvline(1, color="0.6", linewidth=1, zorder=0)
    ax.set_xlim(left=0)
    _name_lines(ax, rows)
    ax.set_xlabel("share of the ceiling that is kept")
    draw_legend(figure, [ax], columns=5, fontsize=8.5)
    return Drawing(
        figure,
        f"Share of the ceiling that stitching keeps by connection, with controls, a band for each of {len(rows)} rows",
        "The share of the ceiling that stitching keeps, for every pair of models, with its mean and the controls."
        + data_in("stitching"),
    )


def _draw_retention(ax: Axes, y: float, part: pd.DataFrame, color: str) -> None:
    real = across_groups(part[part.control == "none"])
    ax.plot(real.retention, y + np.linspace(-0.04, 0.04, len(real)), "o", color=color, alpha=0.35, markersize=3)
    if len(real):
        ax.plot(real.retention.mean(), y, "|", color=color, markersize=9, markeredgewidth=2.2)
    for control, style in CONTROLS.items():
        own = part[part.control == control]
        if len(own):
            level = (own if control == "self-stitch" else across_groups(own)).retention.mean()
            ax.plot([level] * 2, [y - 0.08, y + 0.08], style, color="0.25", linewidth=1.2, label=control)


def prediction(frame: pd.DataFrame) -> Drawing:
    """Alignment of two spaces against the share of the ceiling that stitching keeps; a panel per data set and task."""
    lines = predictions(frame)
    rows = list(lines.row.drop_duplicates())
    figure, axes = panels(len(rows), 2, PANEL)
    for row, ax in zip(rows, axes, strict=True):
        for i, line in enumerate(lines[lines.row == row].itertuples()):
            own = frame[(frame.row == row) & (frame.invariance == line.invariance) & (frame.control == "none")]
            x, y, color = own.alignment_calibrated, own.retention, COLORS[line.invariance]
            ax.plot(x, y, "o", color=color, markersize=3.5, alpha=0.5, label=line.invariance)
            found = f"rho {line.rho:.2f}, p {line.p:.3f}" if line.testable else "not testable"
            place = {"xy": (0.03, 0.04 + 0.085 * i), "xycoords": "axes fraction"}
            ax.annotate(f"{line.invariance}: {found}", **place, color=color, fontsize=8, fontweight="bold")
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.4 * (high - low), high)  # room for the words below the points
        ax.set(title=fill(row, 36), xlabel="calibrated alignment", ylabel="share of the ceiling kept")
    draw_legend(figure, axes)
    return Drawing(
        figure,
        "Calibrated alignment against the share of the ceiling that stitching keeps, one panel for each of "
        f"{len(rows)} rows, with rank correlations",
        "Does alignment predict stitching? Every point is an ordered pair of models; rho is Spearman's rank "
        "correlation, and p comes from relabelling models." + data_in("stitching"),
    )


# The ladder ------------------------------------------------------------------------------------


def ladder(frame: pd.DataFrame) -> Drawing:
    """Explained variance by class of maps, a panel per row: pairs, their mean, each pair's choice, that of all."""
    names = list(dict.fromkeys(frame["class"]))

    def draw(ax: Axes, part: pd.DataFrame) -> None:
        whole, pairs = part[part.model_a == ALL_PAIRS], part[part.model_a != ALL_PAIRS]
        shown = pairs.assign(x=pairs.explained_variance.clip(lower=LOWEST), y=pairs["class"].map(names.index))
        which = shown.groupby(["model_a", "model_b"]).ngroup()
        shown["y"] += 0.5 * (which + 0.5) / (which.max() + 1) - 0.25
        verdict = names.index(whole["class"][whole.chosen].item())
        ax.axhspan(verdict - 0.45, verdict + 0.45, color="0.88", zorder=0, label="chosen for all pairs at once")
        for chosen, (marker, color, size) in ((False, ("o", "C0", 3.5)), (True, ("D", "C1", 4.5))):
            points = shown[shown.chosen == chosen]
            label = "chosen for the pair" if chosen else "ordered pair of models"
            ax.plot(points.x, points.y, marker, color=color, markersize=size, alpha=0.7, linestyle="", label=label)
        ax.axvline(0, color="0.6", linewidth=1)
        ax.set_xlim(LOWEST - 0.05, 1.03)
        ax.set_yticks(range(len(names)), [class_title(name) for name in names])
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="x", color="0.92")

    figure = _panel_per_row(frame, draw, 2.5)
    figure.supxlabel(f"explained variance, held out (below {LOWEST:g}: drawn there)", fontsize=10)
    return Drawing(
        figure,
        "Held-out explained variance by class of maps, ordered pairs as points, the chosen class marked, a panel a row",
        "How much of the target's held-out variance each class of maps explains, for ordered pairs of models. The grey "
        "band is the class that the ladder chose for all of them." + data_in(f"{frame.section.iloc[0]}_ladder"),
    )


def singular_values(frame: pd.DataFrame) -> Drawing:
    """The singular values of T by rank, relative to their mean, beside those of a simulated rotation; a panel per row.

    A scaled rotation has all of them equal.
    """
    lines = {
        "simulated": ("simulated rotation with equal noise", {"linestyle": "--", "color": "0.35", "linewidth": 1.2}),
        "value": ("T of an ordered pair", {"linestyle": "-", "color": "C0", "linewidth": 1.4}),
    }

    def draw(ax: Axes, part: pd.DataFrame) -> None:
        for i, (_, pair) in enumerate(part.groupby(["model_a", "model_b"], sort=False)):
            for column, (label, style) in lines.items():
                ax.plot(pair["index"], pair[column] / pair[column].mean(), **style, alpha=0.7, label="" if i else label)
        ax.axhline(1, color="0.8", linewidth=1, zorder=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))

    figure = _panel_per_row(frame, draw, 2.2)
    figure.axes[0].set_ylim(bottom=0)  # all panels share it
    figure.supxlabel("singular value of T, largest first (axes that hold 95 % of the variance)", fontsize=10)
    figure.supylabel("size, relative to the mean", fontsize=10)
    return Drawing(
        figure,
        "Singular values of T, largest first, beside those of a simulated rotation, one panel per row",
        "Singular values of T for ordered pairs of models, over their mean. A rotation that also rescales would have "
        "all of them equal but for noise: the dashed lines." + data_in(f"{frame.section.iloc[0]}_singular_values"),
    )


def _panel_per_row(frame: pd.DataFrame, draw: Callable[[Axes, pd.DataFrame], None], height: float) -> Figure:
    rows = list(dict.fromkeys(frame.row))
    figure, axes = panels(len(rows), 2, (WIDTH / 2, height), extra_height=0.8, sharey=True)
    for row, ax in zip(rows, axes, strict=True):
        part = frame[frame.row == row]
        draw(ax, part)
        ax.set_title(fill(shown_row(part), 36), fontsize=9.5)
        ax.set_axisbelow(True)
    draw_legend(figure, axes[:1], place="upper")
    return figure
