"""The classes of maps, fitted to the anchors of pairs of models and scored on held-out rows, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from invariances.errors import SpaceError
from invariances.maps import (
    Map,
    affine_map,
    factorise,
    isotropic_scale_map,
    orthogonal_map,
    permutation_map,
    similarity_factor,
    translation_map,
)
from invariances.noise import Instruments, Shrunk, instruments_of, instruments_of_gram, predicted, shrunk
from invariances.spaces import OpenSpace
from invariances.structure import Structure, structure
from invariances.threads import one_torch_thread

__all__ = ["ALL_CLASSES", "Compared", "Model", "blocks_of_pairs", "compare", "read_model", "sums_of_others"]

ALL_CLASSES = (
    "constant",
    "identity",
    "translation",
    "scale",
    "permutation",
    "orthogonal",
    "orthogonal+translation",
    "similarity",
    "affine",
)
"""The classes of maps, from none (a constant) to affine."""
TILE_BYTES = 2**22
"""Memory of one matrix of a tile: small enough for the processor's cache."""
BLOCK_BYTES = 2**27
"""Memory that the maps and losses of a block of pairs may take."""


class Model(NamedTuple):
    """One space: its anchors, and what all its pairs need of its scored rows."""

    anchors: torch.Tensor
    """Shape (k, d), in float64."""
    mean: torch.Tensor
    """Of the anchors."""
    centred: torch.Tensor
    """The anchors less their mean."""
    size: float
    """Norm of these."""
    scored_mean: torch.Tensor
    variance: float
    """Of the scored rows, around the anchors' mean."""
    reach: float
    """Share of the scored rows' variance that lies in the anchors' span."""


class Compared(NamedTuple):
    """An ordered pair."""

    model_a: str
    model_b: str
    width_a: int
    width_b: int
    losses: dict[str, torch.Tensor]
    """Of every class: squared error of every scored row, as a share of the target's variance."""
    structure: Structure


@one_torch_thread()
def read_model(space: OpenSpace, ids: np.ndarray, rest: np.ndarray, name: str) -> Model:
    """Read the anchors of a space, and go once through its scored rows.

    Parameters
    ----------
    space : OpenSpace
    ids, rest : arrays of row ids
        Of the anchors, and of what is scored.
    name : str

    Raises
    ------
    SpaceError
        If it is constant on the scored rows.
    """
    anchors = space[ids].double()
    mean, axes = anchors.mean(dim=0), factorise(anchors).right
    centred = anchors - mean
    total, squares, reached = torch.zeros_like(mean), 0.0, 0.0
    for rows in _tiles(len(rest), len(mean)):
        moved = space[rest[rows]].double() - mean
        total += moved.sum(dim=0)
        squares += float(moved.square().sum())
        reached += float((moved @ axes.T).square().sum()) if len(axes) < len(mean) else 0.0
    if squares == 0:
        raise SpaceError(f"space {name!r} is constant on the scored rows; choose other anchors or give more samples")
    spread = squares - float(total.square().sum()) / len(rest)
    reached -= float((axes @ total).square().sum()) / len(rest)
    reach = reached / spread if len(axes) < len(mean) and spread > 0 else 1.0
    return Model(anchors, mean, centred, float(centred.norm()), mean + total / len(rest), squares / len(rest), reach)


def blocks_of_pairs(
    pairs: Sequence[tuple[str, str]], models: Mapping[str, Model], n: int, least: int
) -> list[list[tuple[str, str]]]:
    """The pairs in the order of the models, in at least so many parts that each fits into memory.

    Parameters
    ----------
    pairs : sequence of two names each
        Unordered.
    models : mapping from names to Model
    n : int
        Number of scored rows.
    least : int
    """
    order = {name: i for i, name in enumerate(models)}
    in_order = {tuple(sorted(pair, key=order.__getitem__)) for pair in pairs}
    ordered = sorted(in_order, key=lambda pair: (order[pair[0]], order[pair[1]]))
    width, k = max(len(model.mean) for model in models.values()), len(next(iter(models.values())).anchors)
    bytes_a_pair = 2 * 8 * (len(ALL_CLASSES) * n + 5 * width * max(width, k))
    count = max(least, -(-len(ordered) * bytes_a_pair // BLOCK_BYTES))
    parts = np.array_split(np.arange(len(ordered)), min(count, len(ordered)))
    return [[ordered[i] for i in part] for part in parts]


@one_torch_thread()
def compare(
    block: Sequence[tuple[str, str]],
    spaces: Mapping[str, OpenSpace],
    models: Mapping[str, Model],
    rest: np.ndarray,
    classes: Sequence[str],
    seed: int,
) -> list[Compared]:
    """Fit and score all classes of maps, for every pair of a block in both directions.

    Parameters
    ----------
    block : sequence of two names each
        As `blocks_of_pairs` gives them.
    spaces, models : mappings from names
        Of all models: those beside a pair are its instruments.
    rest : array of row ids
        What is scored.
    classes : sequence of str
        Of `ALL_CLASSES`.
    seed : int
        Draws folds and the simulated rotation.
    """
    beside = _Beside(models, block)
    fitted = [
        _fit(pair, models, instruments, classes, seed)
        for unordered, instruments in zip(block, beside.instruments(), strict=True)
        for pair in (unordered, (unordered[1], unordered[0]))
    ]
    losses = [{name: torch.empty(len(rest), dtype=torch.float64) for name in classes} for _ in fitted]
    for rows in _tiles(len(rest), beside.widest):
        tiles = {name: spaces[name][rest[rows]].double() for name in beside.needed}
        moved = {name: tile - models[name].mean for name, tile in tiles.items()}
        coordinates = (found for found in beside.coordinates(moved) for _ in range(2))
        for one, into, helpers in zip(fitted, losses, coordinates, strict=True):
            samples = one.base + (moved[one.model_a] if helpers is None else helpers) @ one.weights
            for name, errors in _errors(samples, tiles[one.model_b], one.maps):
                into[name][rows] = errors / models[one.model_b].variance
    return [
        Compared(one.model_a, one.model_b, len(one.base), len(models[one.model_b].mean), found, one.structure)
        for one, found in zip(fitted, losses, strict=True)
    ]


def _tiles(n: int, width: int) -> Iterator[slice]:
    step = max(1, TILE_BYTES // (8 * width))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


# The models beside a pair ------------------------------------------------------------------------


class _Beside:
    """The models beside each pair of a block, as instruments and as coordinates of samples.

    Where they have more features than there are anchors, their Gram matrices are added, else their features stand side
    by side. What one pair costs does then not grow with the models.
    """

    def __init__(self, models: Mapping[str, Model], block: Sequence[tuple[str, str]]) -> None:
        self.models, self.block, self.names = models, block, list(models)
        widths = sorted(len(model.mean) for model in models.values())
        k = len(next(iter(models.values())).anchors)
        self.by_gram = sum(widths[2:]) > k
        self.needed = self.names if len(models) > 2 else list(block[0])
        self.widest = max(widths[-1], k * len(models) // 4 if self.by_gram else 0)
        order = {name: i for i, name in enumerate(models)}
        self.indices = [(order[a], order[b]) for a, b in block]

    def instruments(self) -> Iterator[Instruments | None]:
        """Of each pair; None where there is no other model."""
        if len(self.models) == 2:
            yield None
        elif self.by_gram:
            grams = [model.centred @ model.centred.T for model in self.models.values()]
            yield from map(instruments_of_gram, sums_of_others(grams, self.indices))
        else:
            for pair in self.block:
                others = [model.anchors for name, model in self.models.items() if name not in pair]
                yield instruments_of(torch.cat(others, dim=1))

    def coordinates(self, moved: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor | None]:
        """Of each pair, by a tile of all spaces, each less its anchors' mean."""
        if len(self.models) == 2:
            yield None
        elif self.by_gram:
            products = [moved[name] @ model.centred.T for name, model in self.models.items()]
            yield from sums_of_others(products, self.indices)
        else:
            for pair in self.block:
                yield torch.cat([moved[name] for name in self.names if name not in pair], dim=1)


def sums_of_others(terms: Sequence[torch.Tensor], pairs: Sequence[tuple[int, int]]) -> Iterator[torch.Tensor]:
    """For each pair i < j, the sum of all terms but i and j.

    Nothing is subtracted from a total, which would cancel where one term is far larger than the others.

    Parameters
    ----------
    terms : sequence of tensors of one shape
    pairs : sequence of two indices each
        In lexicographic order.
    """
    after = [torch.zeros_like(terms[0])]  # sums of the last 0, 1, 2, ... terms
    for term in reversed(terms[1:]):
        after.append(after[-1] + term)
    before, counted = torch.zeros_like(terms[0]), 0
    for i, of_i in groupby(pairs, key=lambda pair: pair[0]):
        for term in terms[counted:i]:
            before = before + term
        counted = i
        between, reached = before, i + 1
        for _, j in of_i:
            for term in terms[reached:j]:
                between = between + term
            reached = j
            yield between + after[len(terms) - 1 - j]


# One ordered pair --------------------------------------------------------------------------------


class _Scaled(NamedTuple):
    """A map as ``factor * (x @ turn.T) + bias``; several share one product."""

    factor: float
    turn: torch.Tensor | None
    """None for features as they are, padded with zeros or cut."""
    bias: torch.Tensor


class _Fitted(NamedTuple):
    """All maps of an ordered pair; a sample's coordinates times `weights`, and `base`, are the source without noise."""

    model_a: str
    model_b: str
    base: torch.Tensor
    weights: torch.Tensor
    maps: dict[str, _Scaled]
    structure: Structure


def _fit(
    pair: tuple[str, str],
    models: Mapping[str, Model],
    instruments: Instruments | None,
    classes: Sequence[str],
    seed: int,
) -> _Fitted:
    a, b = (models[name] for name in pair)
    source, weights = a.anchors, torch.eye(len(a.mean), dtype=torch.float64, device=a.mean.device)
    if instruments is not None:
        source, weights = predicted(source, instruments)
    found = shrunk(source, b.anchors, b.size / a.size if a.size > 0 else 1.0, seed)
    affine = affine_map(found.factor, b.anchors)
    base = a.mean - (a.mean - found.factor.mean) @ found.lost
    maps = _maps(found, b, affine, classes)
    return _Fitted(
        *pair, base, weights - weights @ found.lost, maps, structure(found.factor, b.anchors, seed, fitted=affine)
    )


def _maps(source: Shrunk, target: Model, affine: Map, classes: Sequence[str]) -> dict[str, _Scaled]:
    """The class's map by name. The constant is the mean of the scored rows, which that of few anchors would miss."""
    x, y = source.source, target.anchors
    shift, scaling = translation_map(x, y), isotropic_scale_map(x, y)
    plain, turned = orthogonal_map(x, y), orthogonal_map(x, y, center=True)
    factor = float(similarity_factor(x, y, turned.weight))
    zero = torch.zeros_like(target.mean)
    found = {
        "constant": _Scaled(0.0, None, target.scored_mean),
        "identity": _Scaled(1.0, None, zero),
        "translation": _Scaled(1.0, None, shift.bias),
        "scale": _Scaled(float(scaling.weight[0, 0]), None, zero),
        "orthogonal": _Scaled(1.0, plain.weight, zero),
        "orthogonal+translation": _Scaled(1.0, turned.weight, turned.bias),
        "similarity": _Scaled(factor, turned.weight, target.mean - factor * (turned.weight @ x.mean(dim=0))),
        "affine": _Scaled(1.0, affine.weight, affine.bias),
    }
    if "permutation" in classes:
        found["permutation"] = _Scaled(1.0, permutation_map(x, y).weight, zero)
    return {name: found[name] for name in classes}


def _errors(x: torch.Tensor, y: torch.Tensor, maps: Mapping[str, _Scaled]) -> Iterator[tuple[str, torch.Tensor]]:
    """Squared error of every row under every map."""
    width = y.shape[1]
    plain = torch.nn.functional.pad(x[:, :width], (0, max(0, width - x.shape[1])))
    carried: dict[int, torch.Tensor] = {}
    for name, (factor, turn, bias) in maps.items():
        key = id(turn)
        if key not in carried:
            carried[key] = plain if turn is None else x @ turn.T
        yield name, (torch.add(bias, carried[key], alpha=factor) - y).square().sum(dim=1)
