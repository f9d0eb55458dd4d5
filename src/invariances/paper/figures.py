"""The figures, each drawn from measured data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA

from invariances.pairs import interval
from invariances.paper import claims
from invariances.paper.claims import across_groups, groups_of
from invariances.paper.reported import ALIGNMENT
from invariances.paper.rows import INVARIANCES
from invariances.paper.sections import RowResult, Study, stitchables
from invariances.stitching import connect
from invariances.transforms import Relative
from invariances.zoo import datasets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCES = {"null": "shuffled", "null_within_class": "shuffled in class", "untrained": "untrained"}


def _closed(figure: Figure) -> Figure:
    """Close it for pyplot, so that a notebook shows it once: as the value of its cell."""
    plt.close(figure)
    return figure


def alignment(study: Study) -> Figure:
    """Alignment by invariance, a panel per row: pairs, interval over models, references, reported value."""
    frame, reported = study.frame, ALIGNMENT[study.settings.section]
    rows = list(study.rows)
    figure, axes = _panels(len(rows))
    for row, ax in zip(rows, axes, strict=True):
        part = across_groups(frame[frame.row == row])
        for i, invariance in enumerate(INVARIANCES):
            itself = frame[(frame.row == row) & (frame.reference == "self") & (frame.invariance == invariance)]
            _draw_cell(ax, i, part[part.invariance == invariance], itself, reported.get(row, {}).get(invariance))
        ax.set_xticks(range(len(INVARIANCES)), ["raw", "scale", "rotation\n(relative)", "affine"])
        ax.set(title=row, ylabel=study.settings.metric)
        ax.grid(axis="y", color="0.92")
        ax.set_axisbelow(True)
    _legend(figure, axes)
    return _closed(figure)


def _draw_cell(ax: plt.Axes, i: int, pairs: pd.DataFrame, itself: pd.DataFrame, reported: object) -> None:
    trained, untrained = (pairs[pairs.reference == kind] for kind in ("trained", "untrained"))
    spread = np.linspace(-0.12, 0.12, len(trained))
    ax.plot(i + spread, trained.score, "o", color="C0", alpha=0.45, markersize=3.5, label="pairs of models")
    levels = {"null": trained.null.mean(), "null_within_class": trained.null_within_class.mean()}
    levels["untrained"] = untrained.score.mean()
    for (kind, level), style in zip(levels.items(), (":", "--", "-."), strict=True):
        ax.plot([i - 0.32, i + 0.32], [level, level], style, color="0.35", linewidth=1.3, label=REFERENCES[kind])
    if len(itself):
        ax.plot([i - 0.32, i + 0.32], [itself.score.mean()] * 2, color="C2", linewidth=1.3, label="a model with itself")
    span = interval(trained, "score", groups_of(trained))
    if span.low == span.low:
        ax.plot([i + 0.22] * 2, [span.low, span.high], color="C0", linewidth=2.4, label="95 % interval over models")
    if reported is not None:
        ax.plot(i - 0.22, reported.mean, "D", color="C3", markersize=5, label="reported")


def latents(result: RowResult) -> Figure:
    """Two models' spaces side by side, raw and relative: the same samples on two principal axes, by class."""
    group = result.planned.groups[0]
    labels = datasets.load(group.prepared.key).arrays["test_y"][:500]
    raw = {name: model.spaces["test"] for name, model in list(result.models.items())[:2]}
    relative = {
        name: Relative().fit(result.models[name].spaces["pool"][: group.anchors]).transform(space)
        for name, space in raw.items()
    }
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 6.6), layout="constrained")
    for line, (kind, spaces) in zip(axes, (("raw", raw), ("relative", relative)), strict=True):
        # the left model's axes serve both, so that agreement shows as the same picture
        axes_of_left = PCA(2, random_state=0).fit(next(iter(spaces.values())))
        for ax, (name, space) in zip(line, spaces.items(), strict=True):
            ax.scatter(*axes_of_left.transform(space)[:500].T, c=labels, cmap="tab10", s=7, alpha=0.75)
            ax.set(title=f"{kind}: {name}", xticks=[], yticks=[])
    figure.suptitle(result.planned.row.name, fontsize=11)
    figure.supxlabel("principal axes of the left model's space", fontsize=9)
    return _closed(figure)


def reconstructions(result: RowResult, pictures: int = 8) -> Figure:
    """Original, reconstruction, and stitched by each space, for the same pictures and one pair of models."""
    a, b = list(result.models)[:2]
    absolute = stitchables(result, "absolute")
    lines = {"original": absolute[a].codes.targets, "not stitched": absolute[b].head(absolute[b].codes.samples)}
    for space in result.planned.row.spaces:
        pieces = stitchables(result, space)
        lines[f"stitched: {space}"] = connect(pieces[a].codes, pieces[b], space)
    figure, axes = plt.subplots(len(lines), pictures, figsize=(pictures, 1.08 * len(lines)), layout="constrained")
    for line, (title, images) in zip(axes, lines.items(), strict=True):
        for ax, image in zip(line, images, strict=False):
            ax.imshow(_picture(image), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    return _closed(figure)


def _picture(image: torch.Tensor) -> np.ndarray:
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()


COLORS = {"absolute": "0.6", "relative": "C0", "affine": "C1", "orthogonal": "C2", "product": "C4"}
"""Of the ways in which models are stitched."""


def stitching(frame: pd.DataFrame) -> Figure:
    """Share of the ceiling that stitching keeps, by space, with the controls; a panel per row."""
    rows = list(frame.row.drop_duplicates())
    figure, axes = _panels(len(rows))
    for row, ax in zip(rows, axes, strict=True):
        part = frame[frame.row == row]
        real = across_groups(part[part.control == "none"])
        spaces = list(part.invariance.drop_duplicates())
        for x, space in enumerate(spaces):
            own = real[real.invariance == space]
            spread = x + np.linspace(-0.15, 0.15, len(own))
            ax.plot(spread, own.retention, "o", color="C0", markersize=3.5, alpha=0.45, label="pairs of models")
            for control, style in (("self-stitch", "-"), ("shuffled anchors", ":"), ("untrained encoder", "-.")):
                same = part[(part.control == control) & (part.invariance == space)]
                if len(same):
                    level = (same if control == "self-stitch" else across_groups(same)).retention.mean()
                    ax.plot([x - 0.35, x + 0.35], [level] * 2, style, color="0.35", linewidth=1.3, label=control)
        ax.axhline(1, color="0.8", linewidth=1, zorder=0)
        ax.set(title=row, ylabel="share of the ceiling kept")
        ax.set_xticks(range(len(spaces)), spaces, rotation=30)
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    _legend(figure, axes)
    return _closed(figure)


def prediction(frame: pd.DataFrame) -> Figure:
    """Alignment of two spaces against the share of the ceiling that stitching keeps; a panel per data set and task."""
    lines = claims.predictions(frame)
    rows = list(lines.row.drop_duplicates())
    figure, axes = _panels(len(rows))
    for row, ax in zip(rows, axes, strict=True):
        said = []
        for line in lines[lines.row == row].itertuples():
            own = frame[(frame.row == row) & (frame.invariance == line.invariance) & (frame.control == "none")]
            x, y, color = own.alignment_calibrated, own.retention, COLORS[line.invariance]
            ax.plot(x, y, "o", color=color, markersize=3.5, alpha=0.5, label=line.invariance)
            found = f"rho {line.rho:.2f}, p {line.p:.3f}" if line.testable else "not testable"
            said.append((f"{line.invariance}: {found}", color))
        for i, (text, color) in enumerate(said):
            at = {"xy": (0.03, 0.04 + 0.085 * i), "xycoords": "axes fraction"}
            ax.annotate(text, **at, color=color, fontsize=8, fontweight="bold")
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.4 * (high - low), high)  # room for what is said below the points
        ax.set(title=row, xlabel="calibrated alignment", ylabel="share of the ceiling kept")
    _legend(figure, axes)
    return _closed(figure)


def _panels(n: int) -> tuple[Figure, list[plt.Axes]]:
    """A figure with `n` panels, three in a line."""
    columns = min(3, n)
    lines = -(-n // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.9 * columns, 3.5 * lines), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:n])


def _legend(figure: Figure, axes: list[plt.Axes]) -> None:
    """One legend for all panels, each entry once."""
    entries = {}
    for ax in axes:
        entries |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, frameon=False)
