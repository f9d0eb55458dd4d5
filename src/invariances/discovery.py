"""Phase 2: which transformation relates the spaces, or none.

`discover` gives two answers and keeps them apart. The paper's rule picks the invariance with the
highest calibrated alignment; its scores live in different spaces, so no statement about T rests
on it. The `ladder` compares maps into one and the same target space, by the variance they explain
on held-out samples, and picks the smallest class that is as good as the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from numbers import Real
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from invariances.alignment import align
from invariances.errors import SpaceError
from invariances.report import DELTA, WEAK, Report, Verdict
from invariances.spaces import Spaces, anchor_ids, read_spaces
from invariances.transforms import (
    Factor,
    Map,
    affine_map,
    constant_map,
    factorise,
    identity_map,
    isotropic_scale_map,
    orthogonal_map,
    permutation_map,
    similarity_map,
    translation_map,
)

FOLDS = 5
SHARES = (0.0, *np.geomspace(1e-3, 1, 19).tolist())
"""Candidates for s2, in mean variances of an axis; less than a thousandth attenuates by less than counts."""

FITS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], Map]] = {
    "constant": constant_map,
    "identity": identity_map,
    "translation": translation_map,
    "scale": isotropic_scale_map,
    "permutation": permutation_map,
    "orthogonal": orthogonal_map,
    "orthogonal+translation": lambda source, target: orthogonal_map(source, target, center=True),
    "similarity": similarity_map,
    "affine": affine_map,
}
"""How each class of maps is fitted to anchors."""

RUNGS = tuple(rung for rung in FITS if rung != "permutation")
"""The classes of maps that are compared, from none (the target's mean) to affine."""

SMALLEST_FIRST = (
    "identity",
    "scale",
    "translation",
    "permutation",
    "orthogonal",
    "orthogonal+translation",
    "similarity",
    "affine",
)
"""The classes by their free parameters. A permutation has none that is continuous, but is one of d!:
more to choose from than a factor or a shift of d numbers, and every permutation is a rotation or reflection."""


def discover(
    spaces: Spaces,
    anchors: int | Sequence[int] | np.ndarray = 500,
    labels: Sequence | np.ndarray | None = None,
    seed: int = 0,
    permutation: bool = False,
    delta: float = DELTA,
) -> Report:
    """Find the class of transformations that relates the spaces (paper, phase 2).

    Parameters
    ----------
    spaces : mapping from model names to spaces, or sequence of spaces
        Each n x d, the same samples in the same order. Three or more models allow the
        instrumented ladder, which variation private to a model does not mislead.
    anchors : int or sequence of row ids
        Rows that maps are fitted on; the others are scored.
    labels : sequence of length n, optional
        Classes, for the within-class null of the table.
    seed : int
        Draws anchors, folds and the simulated rotation.
    permutation : bool
        Compare permutations of features too, between translation and orthogonal. Only codes with
        preferred axes, such as the output of a ReLU, can be told from rotated ones.
    delta : float
        Share of the target's variance below which a difference between classes does not count.

    Returns
    -------
    Report

    Raises
    ------
    SpaceError
        If the input cannot be used.

    See Also
    --------
    ladder : The rule behind the verdict.
    """
    _check_delta(delta)
    read = read_spaces(spaces)
    ids = anchor_ids(anchors, len(next(iter(read.values()))), seed)
    table = align(read, anchors=ids, labels=labels)  # checks the labels
    pairs = _pairs(read, ids, seed, _rungs(permutation))
    rungs = _choose([pair.losses for pair in pairs], _width(read), delta)
    chosen = rungs[rungs.chosen].iloc[0]
    invariance = "none" if chosen["class"] == "constant" else str(chosen["class"])
    explained = float(chosen.explained_variance)
    weak = invariance != "none" and explained < WEAK
    verdict = Verdict(invariance, explained, weak, len(read), few_anchors=len(ids) <= _width(read))
    means = table.groupby("invariance", sort=False).calibrated.mean().dropna()
    choice = str(means.idxmax()) if len(means) else "none: no score can be told from chance"
    structure = [
        {
            "model_a": pair.model_a,
            "model_b": pair.model_b,
            "explained_variance": 1 - float(pair.losses["affine"].mean()),
            **_structure(pair.source, pair.target, seed),
        }
        for pair in pairs
    ]
    return Report(table, rungs, choice, verdict, pd.DataFrame(structure), delta)


def ladder(
    spaces: Spaces,
    anchors: int | Sequence[int] | np.ndarray = 500,
    seed: int = 0,
    permutation: bool = False,
    delta: float = DELTA,
) -> pd.DataFrame:
    """Compare the classes of maps between the spaces, and choose one; `discover` without the rest.

    Parameters
    ----------
    spaces, anchors, seed, permutation, delta
        As for `discover`.

    Returns
    -------
    DataFrame
        One row per class: class, parameters (continuous ones), explained_variance, gap (to the best
        class), tolerance, chosen. "constant" is chosen where no map relates the spaces.

    Raises
    ------
    SpaceError
        If the input cannot be used.

    Notes
    -----
    The smallest class is chosen whose explained variance is within ``max(3 SE, delta)`` of the
    best class's. Losses are shares of the target's variance around its anchors' mean, averaged
    over the ordered pairs for every held-out sample; SE is the standard error over samples of the
    difference between two classes. So it holds for these models and anchors, and a class is named
    only if it fits every pair. If a constant is within the tolerance, nothing else is considered.

    Noise in the source shrinks every regression on it, most where there is least variance, which
    a rotation cannot follow: without a remedy it looks affine. With three or more models the
    source is first replaced by its left-out ridge prediction from the models other than the pair
    (instrumental variables). Its principal axes are then shrunk by ``max(0, 1 - s2 / variance)``, with
    one s2 from cross-validation on the anchors, and all classes of maps see the same source. With two
    models the second step is the only one; it takes out noise alike in all directions, but nothing
    of another structure.
    """
    _check_delta(delta)
    read = read_spaces(spaces)
    ids = anchor_ids(anchors, len(next(iter(read.values()))), seed)
    return _choose([pair.losses for pair in _pairs(read, ids, seed, _rungs(permutation))], _width(read), delta)


def _check_delta(delta: float) -> None:
    if isinstance(delta, (bool, np.bool_)) or not isinstance(delta, Real) or not 0 < delta < 1:
        raise SpaceError(f"delta is {delta!r}; give a share of the target's variance above 0 and below 1, e.g. {DELTA}")


# The ladder ------------------------------------------------------------------------------------


class _Pair(NamedTuple):
    """An ordered pair: the source's anchors, without their noise, the target's, and all classes' losses."""

    model_a: str
    model_b: str
    source: torch.Tensor
    target: torch.Tensor
    losses: dict[str, torch.Tensor]


def _rungs(permutation: bool) -> tuple[str, ...]:
    return tuple(FITS) if permutation else RUNGS


def _width(spaces: Mapping[str, torch.Tensor]) -> int:
    return max(space.shape[1] for space in spaces.values())


def _pairs(
    spaces: Mapping[str, torch.Tensor],
    ids: np.ndarray,
    seed: int,
    rungs: Sequence[str],
    wanted: Sequence[tuple[str, str]] | None = None,
) -> list[_Pair]:
    """Fit and score all classes of maps in both directions, for all pairs or those wanted."""
    rest = np.setdiff1d(np.arange(len(next(iter(spaces.values())))), ids)
    fit_on = {name: space[ids].double() for name, space in spaces.items()}
    score_on = {name: space[rest].double() for name, space in spaces.items()}
    sizes = {name: float((x - x.mean(dim=0)).norm()) for name, x in fit_on.items()}
    pairs = []
    for unordered in combinations(spaces, 2) if wanted is None else wanted:
        helpers = [name for name in spaces if name not in unordered]
        if helpers:
            instruments = factorise(torch.cat([fit_on[name] for name in helpers], dim=1))
            readings = torch.cat([score_on[name] for name in helpers], dim=1)
        for a, b in (unordered, unordered[::-1]):
            source, samples = fit_on[a], score_on[a]
            if helpers:
                source, samples = _predicted(source, instruments, readings)
            ratio = sizes[b] / sizes[a] if sizes[a] > 0 else 1.0
            source, samples = _filtered(source, samples, fit_on[b], ratio, seed)
            losses = _losses(source, samples, fit_on[b], score_on[b], rungs, b)
            pairs.append(_Pair(a, b, source, fit_on[b], losses))
    return pairs


def _losses(
    source: torch.Tensor,
    samples: torch.Tensor,
    target: torch.Tensor,
    target_samples: torch.Tensor,
    rungs: Sequence[str],
    name: str,
) -> dict[str, torch.Tensor]:
    """Squared error of every held-out sample under every class of maps, as a share of the target's variance."""
    variance = (target_samples - target.mean(dim=0)).square().sum(dim=1).mean()
    if variance == 0:
        raise SpaceError(f"space {name!r} is constant on the scored rows; choose other anchors or give more samples")
    return {
        rung: (FITS[rung](source, target)(samples) - target_samples).square().sum(dim=1) / variance for rung in rungs
    }


def _parameters(d: int) -> dict[str, int]:
    """Free continuous parameters of each class of maps between spaces of width d."""
    rotation = d * (d - 1) // 2
    return {
        "constant": d,
        "identity": 0,
        "translation": d,
        "scale": 1,
        "permutation": 0,
        "orthogonal": rotation,
        "orthogonal+translation": rotation + d,
        "similarity": rotation + d + 1,
        "affine": d * d + d,
    }


def _choose(pair_losses: Sequence[Mapping[str, torch.Tensor]], d: int, delta: float) -> pd.DataFrame:
    """The smallest among the classes within max(3 SE, delta) of the best; see `ladder`."""
    # pairs share their samples, so they are averaged first and samples are what varies
    losses = {rung: torch.stack([loss[rung] for loss in pair_losses]).mean(dim=0) for rung in pair_losses[0]}
    best = min(losses.values(), key=lambda loss: float(loss.mean()))
    rows = []
    for rung, loss in losses.items():
        gap = loss - best
        tolerance = max(3 * float(gap.std()) / math.sqrt(len(gap)), delta)
        rows.append((rung, _parameters(d)[rung], 1 - float(loss.mean()), float(gap.mean()), tolerance))
    frame = pd.DataFrame(rows, columns=["class", "parameters", "explained_variance", "gap", "tolerance"])
    within = set(frame["class"][frame.gap <= frame.tolerance])
    # no relation, whatever class comes close to a constant, e.g. a factor near 0
    chosen = "constant" if "constant" in within else next(rung for rung in SMALLEST_FIRST if rung in within)
    return frame.assign(chosen=frame["class"] == chosen)


# Noise on both sides ---------------------------------------------------------------------------


def _predicted(source: torch.Tensor, instruments: Factor, readings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The source's anchors and samples as the other models predict them: instrumental variables.

    What is private to the source is gone, but for what the estimated coefficients bring along. Its
    size differs between directions, as the residuals' does, and one penalty for all would take out
    too little of it where most was private: then a map that shrinks these directions, and no
    rotation, predicts best. So each principal axis of the residuals is penalised by its variance,
    the common penalty being their mean. Anchors are predicted without themselves, so that none
    brings back its own noise.
    """
    common = affine_map(instruments, source).penalty
    predicted, _ = _ridge(instruments, source, torch.full_like(source[0], common))
    variances, axes = torch.linalg.eigh((source - predicted).T @ (source - predicted))
    variances = variances.clamp_min(0)
    penalties = common * variances / variances.mean().clamp_min(torch.finfo(torch.float64).tiny)
    predicted, weight = _ridge(instruments, source @ axes, penalties)
    return predicted @ axes.T, source.mean(dim=0) + (readings - instruments.mean) @ weight @ axes.T


def _ridge(factor: Factor, target: torch.Tensor, penalties: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression with a penalty for every target feature: leave-one-out predictions and weights, (d, m)."""
    power = factor.singular.square()
    floor = power.sum() / max(1, len(power)) * 1e-10  # without noise there is nothing to penalise, but round-off
    kept = power.unsqueeze(1) / (power.unsqueeze(1) + penalties.maximum(floor))
    centred = target - target.mean(dim=0)
    inside = kept * (factor.left.T @ centred)
    leverage = 1 / len(target) + factor.left.square() @ kept
    residual = (centred - factor.left @ inside) / (1 - leverage).clamp_min(1e-8)
    return target - residual, factor.right.T @ (inside / factor.singular.unsqueeze(1))


def _filtered(
    source: torch.Tensor, samples: torch.Tensor, target: torch.Tensor, ratio: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shrink the source's principal axes by ``max(0, 1 - s2 / variance)``, to take out noise alike in all directions.

    s2 is the value with which a rotation and a shift predict the target best, by cross-validation
    on anchors. The factor is not free, since it would itself undo the shrinkage where all axes have
    equal variance: it is 1 or `ratio`, that of the spaces' sizes. With few anchors s2 covers the
    error of the fitted rotation too.
    """
    factor = factorise(source)
    turned = (source - factor.mean) @ factor.right.T
    variances = factor.singular.square() / len(source)
    ratios = torch.tensor([1.0, ratio], dtype=torch.float64)
    moments = []  # all that a fold needs, for every s2
    for fold in _folds(len(source), seed):
        kept = torch.ones(len(source), dtype=torch.bool)
        kept[fold] = False
        x_mean, y_mean = turned[kept].mean(dim=0), target[kept].mean(dim=0)
        x, y = turned[~kept] - x_mean, target[~kept] - y_mean
        moments.append(((turned[kept] - x_mean).T @ (target[kept] - y_mean), x.T @ y, x.square().sum(dim=0)))

    def error(share: float) -> float:
        """The folds' squared error, less the square of the target, which is the same for all."""
        left = (1 - share * variances.mean() / variances).clamp_min(0)
        match = power = 0.0
        for train, test, squares in moments:
            u, _, v = torch.linalg.svd(left.unsqueeze(1) * train, full_matrices=False)
            match = match + (left.unsqueeze(1) * test * (u @ v)).sum()
            power = power + (left.square() * squares).sum()
        return float((ratios.square() * power - 2 * ratios * match).min())

    share = _least(error, SHARES)
    # less what is lost, not what is kept: directions that no anchor reaches stay as they are
    lost = (factor.right.T * (share * variances.mean() / variances).clamp(0, 1)) @ factor.right
    return source - (source - factor.mean) @ lost, samples - (samples - factor.mean) @ lost


def _least(error: Callable[[float], float], grid: Sequence[float]) -> float:
    """The grid value of least error, from coarse to fine: the error has one valley."""
    known: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in known:
            known[i] = error(grid[i])
        return known[i]

    best = min(range(0, len(grid), 4), key=at)
    for step in (2, 1):
        best = min((i for i in (best, best - step, best + step) if 0 <= i < len(grid)), key=at)
    return grid[best]


def _folds(n: int, seed: int) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(seed).permutation(n), min(FOLDS, n))


# The structure of T ----------------------------------------------------------------------------


def _structure(source: torch.Tensor, target: torch.Tensor, seed: int) -> dict[str, float]:
    """Describe the affine T of one ordered pair, beside a simulated scaled rotation with equal noise."""
    factor = factorise(source)
    measured, reference = (
        _describe(fitted, factor, aim) for fitted, aim in _beside_rotation(factor, source, target, seed)
    )
    pairs = zip(("singular_ratio", "off_rotation", "shift"), measured, reference, strict=True)
    return {key: value for name, *both in pairs for key, value in zip((name, f"{name}_rotation"), both, strict=True)}


def spectra(source: torch.Tensor, target: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The singular values of T, and those of a simulated scaled rotation with equal noise, largest first.

    Parameters
    ----------
    source, target : tensors of shape (k, d) and (k, e)
        Anchors of an ordered pair of models.
    seed : int
        Draws the rotation and its noise.
    """
    factor = factorise(source)
    (measured, _), (reference, _) = _beside_rotation(factor, source, target, seed)
    return _singular_values(measured, factor), _singular_values(reference, factor)


def _beside_rotation(
    factor: Factor, source: torch.Tensor, target: torch.Tensor, seed: int
) -> tuple[tuple[Map, torch.Tensor], tuple[Map, torch.Tensor]]:
    """The affine T with its target, and that onto a scaled rotation of the source with equal noise, with its own."""
    fitted = affine_map(factor, target)
    power = factor.singular.square()
    explained = fitted(source) - target.mean(dim=0)
    spent = 1 + float((power / (power + fitted.penalty)).sum())  # degrees of freedom, intercept included
    squares = float((fitted(source) - target).square().sum()) / target.shape[1]
    noise = math.sqrt(squares / max(len(source) - spent, 1.0))
    size = float(explained.norm() / power.sum().sqrt().clamp_min(torch.finfo(torch.float64).tiny))
    rng = torch.Generator().manual_seed(seed)
    random = torch.randn(target.shape[1], source.shape[1], generator=rng, dtype=torch.float64)
    left, _, right = torch.linalg.svd(random, full_matrices=False)
    turned = size * source @ (left @ right).T
    turned = turned + noise * torch.randn(target.shape, generator=rng, dtype=torch.float64)
    return (fitted, target), (affine_map(factor, turned), turned)


def _singular_values(fitted: Map, factor: Factor) -> torch.Tensor:
    """On the principal axes that carry 95 % of the source's variance; elsewhere the ridge penalty fakes anisotropy."""
    share = factor.singular.square().cumsum(0) / factor.singular.square().sum().clamp_min(
        torch.finfo(torch.float64).tiny
    )
    return torch.linalg.svdvals(fitted.weight @ factor.right[: int((share < 0.95).sum()) + 1].T)


def _describe(fitted: Map, factor: Factor, target: torch.Tensor) -> tuple[float, float, float]:
    """T's largest over smallest singular value, its relative distance from a scaled rotation, its shift.

    The shift is in units of the target's standard deviation. All are 0 where T is constant.
    """
    tiny = torch.finfo(torch.float64).tiny
    values = _singular_values(fitted, factor)
    shift = (target.mean(dim=0) - fitted.weight @ factor.mean).norm() / target.std(dim=0).norm().clamp_min(tiny)
    if len(values) == 0:
        return 0.0, 0.0, float(shift)
    off = (values - values.mean()).norm() / values.norm().clamp_min(tiny)
    return float(values[0] / values[-1].clamp_min(tiny)), float(off), float(shift)
