"""Phase 2: which transformation relates the spaces, or none.

`discover` gives two answers and keeps them apart. The paper's rule picks the invariance with the
highest calibrated alignment; its scores live in different spaces, so no statement about T rests
on it. The ladder compares maps into one and the same target space, by the variance they explain
on held-out samples, and picks the smallest class that is as good as the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from invariances.alignment import align
from invariances.spaces import Spaces, anchor_ids, read_spaces
from invariances.transforms import Map, affine_map, orthogonal_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DELTA = 0.01
"""Share of the target's variance below which a difference between classes of maps does not count."""
WEAK = 0.5
"""Explained variance below which a verdict is called weak."""
FOLDS = 5
QUESTION = "Which transformation relates these spaces?"

RUNGS = (
    "constant",
    "identity",
    "translation",
    "scale",
    "orthogonal",
    "orthogonal+translation",
    "similarity",
    "affine",
)
"""The classes of maps that are compared, from none (the target's mean) to affine."""


@dataclass(frozen=True)
class Verdict:
    """The ladder's answer."""

    invariance: str
    """One of `RUNGS`, or "none" where no class of maps beats a constant."""
    explained_variance: float
    """Share of the target's held-out variance that this class of maps explains."""
    weak: bool
    models: int

    def __str__(self) -> str:
        share = f"{100 * self.explained_variance:.0f} % of the held-out variance"
        if self.invariance == "none":
            return f"No map relates these {self.models} spaces: none explains more held-out variance than a constant."
        caution = " This is weak evidence." if self.weak else ""
        bound = ""
        if self.models == 2 and self.invariance == "affine":
            bound = " With two models, variation private to each can look affine, so this is an upper bound."
        what = {
            "identity": "The spaces already agree as they are",
            "affine": "The spaces differ by a general affine map",
        }.get(self.invariance, f"The spaces differ by a map of the class {self.invariance!r}")
        return f"{what}, which explains {share}.{caution}{bound}"


@dataclass(frozen=True)
class Report:
    """What `discover` found."""

    table: pd.DataFrame
    """All pairs under all invariances, as `align` returns them."""
    ladder: pd.DataFrame
    """One row per class of maps: parameters, explained_variance, gap to the best class, tolerance, chosen."""
    paper_choice: str
    """The invariance with the highest mean calibrated cosine: the paper's rule."""
    verdict: Verdict
    structure: pd.DataFrame
    """The fitted affine T on the principal axes that carry 95 % of the source's variance, one row
    per ordered pair, beside the same figures for a simulated rotation with equal noise."""

    def plot(self) -> Figure:
        """Draw the ladder beside the alignment by invariance."""
        import matplotlib.pyplot as plt
        import seaborn as sns

        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
        sns.stripplot(self.table, x="invariance", y="calibrated", ax=left, color="0.45", size=4, jitter=False)
        left.axhline(0, color="0.7", linewidth=1)
        left.set(title="Alignment of pairs (calibrated cosine)", xlabel="", ylabel="0 = chance, 1 = perfect")
        colours = np.where(self.ladder.chosen, "C1", "C0")
        right.barh(self.ladder["class"], self.ladder.explained_variance, color=colours)
        right.invert_yaxis()
        right.set(title="Ladder of maps (chosen class in orange)", xlabel="explained variance, held out")
        right.set_xlim(min(0.0, max(-1.0, float(self.ladder.explained_variance.min()))), 1)
        return figure

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained page.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path
        """
        import base64
        import io

        buffer = io.BytesIO()
        figure = self.plot()
        figure.savefig(buffer, format="png", dpi=130)
        picture = base64.b64encode(buffer.getvalue()).decode()
        tables = "".join(
            f"<h2>{title}</h2>{frame.to_html(index=False, float_format='{:.3f}'.format, border=0)}"
            for title, frame in (("Ladder", self.ladder), ("Structure of T", self.structure), ("All pairs", self.table))
        )
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{QUESTION}</title>'
            "<style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
            "img{max-width:100%}table{display:block;overflow-x:auto;border-collapse:collapse;font-size:.85rem}"
            "td,th{padding:.2rem .6rem;text-align:right}</style>"
            f"<h1>{QUESTION}</h1><p>{self.verdict}</p>"
            f"<p>By the paper's rule (highest calibrated alignment): <b>{self.paper_choice}</b>.</p>"
            f'<img alt="Alignment of pairs and ladder of maps" src="data:image/png;base64,{picture}">{tables}</html>'
        )
        target = Path(path)
        temporary = target.with_name(target.name + ".part")
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(target)
        return target


def discover(
    spaces: Spaces,
    anchors: int | Sequence[int] | np.ndarray = 500,
    labels: Sequence | np.ndarray | None = None,
    seed: int = 0,
) -> Report:
    """Find the class of transformations that relates the spaces (paper, phase 2).

    Parameters
    ----------
    spaces : mapping from model names to spaces, or sequence of spaces
        Each n x d, the same samples in the same order. Three or more models allow the
        instrumented ladder, which noise on both sides does not mislead.
    anchors : int or sequence of row ids
        Rows that maps are fitted on; the others are scored.
    labels : sequence of length n, optional
        Classes, for the within-class null of the table.
    seed : int
        Draws anchors and folds.

    Returns
    -------
    Report

    Raises
    ------
    SpaceError
        If the input cannot be used.

    Notes
    -----
    The class with the fewest parameters is chosen whose explained variance is within
    ``max(3 SE, 0.01)`` of the best class's, SE being the paired standard error over samples. With
    three or more models, each source is replaced by its cross-fitted ridge prediction from the
    models other than the pair (instrumental variables), with two by a filter of its principal
    axes; either removes the bias that noise in the source puts on every map.
    """
    read = read_spaces(spaces)
    n = len(next(iter(read.values())))
    ids = anchor_ids(anchors, n, seed)
    table = align(read, anchors=ids, labels=labels)  # checks anchors and labels
    rest = np.setdiff1d(np.arange(n), ids)
    fit_on = {name: space[ids].double() for name, space in read.items()}
    score_on = {name: space[rest].double() for name, space in read.items()}
    losses, structure = [], []
    for a, b in permutations(read, 2):
        source_fit, source_score = _denoised(a, b, fit_on, score_on, seed)
        losses.append(_rung_losses(source_fit, source_score, fit_on[b], score_on[b]))
        structure.append({"model_a": a, "model_b": b, **_structure(fit_on[a], fit_on[b], seed)})
    mean_losses = {rung: torch.stack([loss[rung] for loss in losses]).mean(dim=0) for rung in RUNGS}
    widths = [space.shape[1] for space in read.values()]
    ladder = _choose(mean_losses, max(widths))
    chosen = ladder[ladder.chosen].iloc[0]
    invariance = "none" if chosen["class"] == "constant" else str(chosen["class"])
    explained = float(chosen.explained_variance)
    verdict = Verdict(invariance, explained, invariance != "none" and explained < WEAK, len(read))
    means = table.groupby("invariance", sort=False).calibrated.mean().dropna()
    choice = str(means.idxmax()) if len(means) else "none: no score can be told from chance"
    return Report(table, ladder, choice, verdict, pd.DataFrame(structure))


# The ladder ------------------------------------------------------------------------------------


def _translation(x: torch.Tensor, y: torch.Tensor) -> Map:
    return Map(_eye(x, y), y.mean(dim=0) - _eye(x, y) @ x.mean(dim=0), 0.0)


def _isotropic_scale(x: torch.Tensor, y: torch.Tensor) -> Map:
    padded = x @ _eye(x, y).T
    factor = (padded * y).sum() / padded.square().sum()
    return Map(factor * _eye(x, y), torch.zeros_like(y[0]), 0.0)


def _similarity(x: torch.Tensor, y: torch.Tensor) -> Map:
    rotation = orthogonal_map(x, y, center=True).weight
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    turned = (x - x_mean) @ rotation.T
    factor = (turned * (y - y_mean)).sum() / turned.square().sum()
    return Map(factor * rotation, y_mean - factor * rotation @ x_mean, 0.0)


def _eye(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The identity between unequal widths: zero-padding, or dropping the source's last features."""
    return torch.eye(y.shape[1], x.shape[1], dtype=x.dtype)


_FIT: Mapping[str, Callable[[torch.Tensor, torch.Tensor], Map]] = {
    "constant": lambda x, y: Map(torch.zeros(y.shape[1], x.shape[1], dtype=x.dtype), y.mean(dim=0), 0.0),
    "identity": lambda x, y: Map(_eye(x, y), torch.zeros_like(y[0]), 0.0),
    "translation": _translation,
    "scale": _isotropic_scale,
    "orthogonal": orthogonal_map,
    "orthogonal+translation": lambda x, y: orthogonal_map(x, y, center=True),
    "similarity": _similarity,
    "affine": affine_map,
}


def _parameters(d: int) -> dict[str, int]:
    """Free parameters of each class of maps between spaces of width d."""
    rotation = d * (d - 1) // 2
    return {
        "identity": 0,
        "scale": 1,
        "constant": d,
        "translation": d,
        "orthogonal": rotation,
        "orthogonal+translation": rotation + d,
        "similarity": rotation + d + 1,
        "affine": d * d + d,
    }


def _rung_losses(
    source_fit: torch.Tensor, source_score: torch.Tensor, target_fit: torch.Tensor, target_score: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Squared error of every held-out sample under every class of maps, as a share of the target's variance."""
    variance = (target_score - target_fit.mean(dim=0)).square().sum(dim=1).mean()
    return {
        rung: (_FIT[rung](source_fit, target_fit)(source_score) - target_score).square().sum(dim=1) / variance
        for rung in RUNGS
    }


def _choose(losses: Mapping[str, torch.Tensor], d: int) -> pd.DataFrame:
    """The fewest parameters among the classes within max(3 SE, DELTA) of the best; see `discover`."""
    best = min(losses, key=lambda rung: float(losses[rung].mean()))
    rows = []
    for rung, loss in losses.items():
        gap = loss - losses[best]
        tolerance = max(3 * float(gap.std()) / math.sqrt(len(gap)), DELTA)
        rows.append((rung, _parameters(d)[rung], 1 - float(loss.mean()), float(gap.mean()), tolerance))
    ladder = pd.DataFrame(rows, columns=["class", "parameters", "explained_variance", "gap", "tolerance"])
    within = ladder[ladder.gap <= ladder.tolerance]
    # nothing beats a constant: no relation, whatever class comes close to it
    unrelated = (within["class"] == "constant").any()
    chosen = "constant" if unrelated else within.loc[within.parameters.idxmin(), "class"]
    return ladder.assign(chosen=ladder["class"] == chosen)


# Noise on both sides ---------------------------------------------------------------------------


def _denoised(
    a: str, b: str, anchors: Mapping[str, torch.Tensor], samples: Mapping[str, torch.Tensor], seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The source's anchors and held-out samples, with what is private to the source taken out."""
    helpers = [name for name in anchors if name not in (a, b)]
    if not helpers:
        return _filtered(anchors[a], samples[a], anchors[b], seed)
    z_fit = torch.cat([anchors[name] for name in helpers], dim=1)
    z_score = torch.cat([samples[name] for name in helpers], dim=1)
    predicted = torch.empty_like(anchors[a])
    for fold in _folds(len(z_fit), seed):
        kept = torch.ones(len(z_fit), dtype=torch.bool)
        kept[fold] = False
        predicted[fold] = affine_map(z_fit[kept], anchors[a][kept])(z_fit[fold])
    return predicted, affine_map(z_fit, anchors[a])(z_score)


def _filtered(
    source: torch.Tensor, samples: torch.Tensor, target: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shrink the source's principal axes by ``max(0, 1 - s2 / variance)``, s2 by cross-validation.

    All classes of maps then see one and the same source. The similarity class, the largest that
    cannot itself undo a shrinkage axis by axis, chooses s2.
    """
    mean = source.mean(dim=0)
    _, singular, axes = torch.linalg.svd(source - mean, full_matrices=False)
    variances = singular.square() / len(source)
    grid = [0.0, *(float(variances.mean()) * 10 ** np.linspace(-4, 0, 25))]

    def filtered(x: torch.Tensor, noise: float) -> torch.Tensor:
        kept = (1 - noise / variances.clamp_min(1e-30)).clamp_min(0)
        return mean + ((x - mean) @ axes.T * kept) @ axes

    def error(noise: float) -> float:
        cleaned, total = filtered(source, noise), 0.0
        for fold in _folds(len(source), seed):
            kept = torch.ones(len(source), dtype=torch.bool)
            kept[fold] = False
            total += float((_similarity(cleaned[kept], target[kept])(cleaned[fold]) - target[fold]).square().sum())
        return total

    noise = min(grid, key=error)
    return filtered(source, noise), filtered(samples, noise)


def _folds(n: int, seed: int) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(seed).permutation(n), min(FOLDS, n))


# The structure of T ----------------------------------------------------------------------------


def _structure(source: torch.Tensor, target: torch.Tensor, seed: int) -> dict[str, float]:
    """Describe the affine T of one ordered pair, beside a simulated rotation with equal noise.

    Only the principal axes that carry 95 % of the source's variance count; elsewhere the ridge
    penalty itself shrinks T and fakes anisotropy.
    """
    fitted = affine_map(source, target)
    residual = float((fitted(source) - target).square().mean().sqrt())
    rng = torch.Generator().manual_seed(seed)
    random = torch.randn(target.shape[1], source.shape[1], generator=rng, dtype=torch.float64)
    left, _, right = torch.linalg.svd(random, full_matrices=False)
    noise = residual * torch.randn(target.shape, generator=rng, dtype=torch.float64)
    simulated = affine_map(source, source @ (left @ right).T + noise)
    shift = (target.mean(dim=0) - fitted.weight @ source.mean(dim=0)).norm() / target.std(dim=0).norm()
    measured, reference = _spread(fitted.weight, source), _spread(simulated.weight, source)
    return {
        "singular_ratio": measured[0],
        "singular_ratio_rotation": reference[0],
        "off_rotation": measured[1],
        "off_rotation_rotation": reference[1],
        "shift": float(shift),
    }


def _spread(weight: torch.Tensor, source: torch.Tensor) -> tuple[float, float]:
    """Ratio of T's largest to smallest singular value, and its relative distance from a scaled rotation."""
    _, singular, axes = torch.linalg.svd(source - source.mean(dim=0), full_matrices=False)
    share = singular.square().cumsum(0) / singular.square().sum()
    kept = axes[: int((share < 0.95).sum()) + 1]
    values = torch.linalg.svdvals(weight @ kept.T)
    off = (values - values.mean()).norm() / values.norm()
    return float(values[0] / values[-1].clamp_min(1e-30)), float(off)
