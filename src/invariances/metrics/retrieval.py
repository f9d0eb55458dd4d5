"""What queries of one space find among the rows of another: their own counterparts, or their neighbours.

Both score a table over queries and samples: what each query would earn, were each sample its counterpart. The score is
the mean over the true counterparts, the null that over shuffled ones, a permutation sum whose moments are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from invariances.metrics import nulls
from invariances.metrics.neighbours import NEIGHBOURS
from invariances.metrics.score import (
    ROTATION,
    SCALES,
    UP_TO_ONE,
    Metric,
    Score,
    check_rows,
    normal_score,
    permuted_p,
    subsample,
)
from invariances.relative import scale

__all__ = ["FOUND_AMONG", "GALLERY", "OVERLAPS", "RETRIEVALS", "Found", "directions", "look_up"]


GALLERY = 500
"""Rows among which queries look, where there are more, drawn by seed 0; scores among other numbers do not compare."""
FOUND_AMONG = 10
"""The k of recall@k."""
_SAME_DIRECTION = 4 * torch.finfo(torch.float32).eps
"""Angle up to which rows are one and the same: transformed in single precision, copies of a row differ by so much."""
_TIE = 8 * torch.finfo(torch.float64).eps
"""Difference up to which cosines are tied: the round-off of a product in double precision."""


class _Directions:
    """Rows of unit length; zeros where a row is the centre itself and has no direction."""

    def __init__(self, x: torch.Tensor, classes: torch.Tensor | None, centre: torch.Tensor | None) -> None:
        self.classes, rows = classes, x.double()
        moved = rows if centre is None else rows - centre.to(rows)
        unit = scale(moved)
        unit[moved.norm(dim=1) <= 4 * torch.finfo(x.dtype).eps * rows.norm(dim=1)] = 0  # what is left is round-off
        same = (unit @ unit.T >= 1 - _SAME_DIRECTION**2 / 2).fill_diagonal_(True)
        self.unit = unit[same.numpy(force=True).argmax(axis=1)]

    @cached_property
    def neighbours(self) -> torch.Tensor:
        """Which rows are the nearest of each, itself left out, as zeros and ones; shape (n, n)."""
        levels = _levels(self.unit @ self.unit.T)
        return _nearest(levels.fill_diagonal_(len(levels)), NEIGHBOURS)[0]


def _prepare(x: torch.Tensor, classes: torch.Tensor | None) -> _Directions:
    return _Directions(*subsample(x, classes, GALLERY), None)


def _prepare_centred(x: torch.Tensor, classes: torch.Tensor | None, centre: torch.Tensor | None = None) -> _Directions:
    x, classes = subsample(x, classes, GALLERY)
    return _Directions(x, classes, x.mean(dim=0, dtype=torch.float64) if centre is None else centre)


def _similar(a: _Directions, b: _Directions) -> torch.Tensor:
    """Cosine of every query, a row of `a`, with every row of `b`; shape (n, n)."""
    d = min(a.unit.shape[1], b.unit.shape[1])  # zero-padding the narrower adds nothing to a product
    return a.unit[:, :d] @ b.unit[:, :d].T


def _levels(similar: torch.Tensor) -> torch.Tensor:
    """How many different cosines are above each one of its row; tied ones, a chain of small steps, count as one."""
    order = torch.from_numpy(np.argsort(-similar.numpy(force=True), axis=1)).to(similar.device)  # thrice torch's speed
    falling = similar.gather(1, order)
    steps = torch.nn.functional.pad(falling[:, :-1] - falling[:, 1:] > _TIE, (1, 0))
    return torch.empty_like(order).scatter_(1, order, steps.cumsum(dim=1))


# Retrieval ---------------------------------------------------------------------------------------

_Earned: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What a row earns for how many are nearer, and how many are as near, itself among them: the mean over random orders
of the tied ones."""


def _first(nearer: torch.Tensor, tied: torch.Tensor) -> torch.Tensor:
    return (nearer == 0) / tied.double()


def _among_first(nearer: torch.Tensor, tied: torch.Tensor) -> torch.Tensor:
    return ((FOUND_AMONG - nearer) / tied.double()).clamp(0, 1)


def _reciprocal_rank(nearer: torch.Tensor, tied: torch.Tensor) -> torch.Tensor:
    harmonic = _harmonic(int((nearer + tied).max()), nearer.device)
    return (harmonic[nearer + tied] - harmonic[nearer]) / tied


def _harmonic(n: int, device: torch.device) -> torch.Tensor:
    """The sums of 1 / r up to each r from 0 to n."""
    return torch.nn.functional.pad(1 / torch.arange(1, n + 1, device=device).double(), (1, 0)).cumsum(dim=0)


def _retrieval_table(earned: _Earned, a: _Directions, b: _Directions) -> torch.Tensor:
    levels = _levels(_similar(a, b))
    return earned(*_standing(levels, levels))


def _standing(levels: torch.Tensor, of: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many rows are nearer to a query than those of some levels, and how many as near; shape of `of`."""
    counts = torch.zeros_like(levels).scatter_add_(1, levels, torch.ones_like(levels))
    nearer = counts.cumsum(dim=1) - counts
    return nearer.gather(1, of), counts.gather(1, of)


# Neighbour overlap -------------------------------------------------------------------------------


def _nearest(levels: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k first rows of each query, as zeros and ones in float64, shape (n, n), and the one that follows them.

    Tied rows keep their order, for every query alike, so that a space shares all neighbours with itself.
    """
    n = levels.shape[1]
    order = (levels * n + torch.arange(n, device=levels.device)).topk(k + 1, dim=1, largest=False).indices
    return torch.zeros_like(levels, dtype=torch.float64).scatter_(1, order[:, :k], 1.0), order[:, k]


def _overlap_table(a: _Directions, b: _Directions) -> torch.Tensor:
    """Share of a sample's nearest neighbours in `b` that a query finds there, the sample itself left out."""
    found, following = _nearest(_levels(_similar(a, b)), NEIGHBOURS)
    # where the sample is among the first, what follows them takes its place
    return (found @ b.neighbours.T + found * b.neighbours[:, following].T) / NEIGHBOURS


# Query by query ----------------------------------------------------------------------------------


class Found(NamedTuple):
    """What each query earns, shape (n,), by the four scores, and what a shuffled one would earn of the last."""

    top1: torch.Tensor
    recall: torch.Tensor
    mrr: torch.Tensor
    overlap: torch.Tensor
    """NaN where there are too few rows to have neighbours."""
    overlap_chance: float


def directions(x: torch.Tensor, centre: torch.Tensor | None = None) -> _Directions:
    """Rows as `look_up` takes them, prepared once for all that look among them.

    Parameters
    ----------
    x : tensor of shape (n, d)
    centre : tensor of shape (d,), optional
        Where to centre them, e.g. the anchors' mean; by default they stay as they are, as in an index.
    """
    return _Directions(x, None, centre)


def look_up(queries: _Directions, gallery: _Directions) -> Found:
    """Look for every query's counterpart and neighbours.

    Parameters
    ----------
    queries, gallery : what `directions` returns
        Of the same n samples in the same order.

    Returns
    -------
    Found
    """
    levels = _levels(_similar(queries, gallery))
    standing = _standing(levels, levels.diagonal().unsqueeze(1))
    first, among_first, reciprocal = (each(*standing).squeeze(1) for each in (_first, _among_first, _reciprocal_rank))
    if len(levels) < NEIGHBOURS + 2:
        return Found(first, among_first, reciprocal, torch.full_like(first, math.nan), math.nan)
    found, following = _nearest(levels, NEIGHBOURS)
    near = gallery.neighbours
    # the diagonal and the mean of `_overlap_table`, without its products
    own = (found * near).sum(dim=1) + found.diagonal() * near.gather(1, following.unsqueeze(1)).squeeze(1)
    total = found.sum(dim=0) @ near.sum(dim=0) + (found * near[:, following].T).sum()
    return Found(first, among_first, reciprocal, own / NEIGHBOURS, float(total) / (NEIGHBOURS * len(levels) ** 2))


# Metrics -----------------------------------------------------------------------------------------

_Table: TypeAlias = Callable[[_Directions, _Directions], torch.Tensor]


def _score(table: _Table, a: _Directions, b: _Directions) -> float:
    return float(table(a, b).diagonal().mean())


def _chance(table: _Table, a: _Directions, b: _Directions, score: float, permutations: int) -> Score:
    earned = table(a, b)
    within = math.nan if a.classes is None else nulls.within_class_mean(earned, a.classes)
    known = normal_score(score, nulls.permutation_moments(earned), within)
    # few hits make a score, so that its tail is far from normal
    return permuted_p(known, len(earned), lambda orders: earned.gather(1, orders.T.to(earned.device)).sum(dim=0))


def _checked(prepare: Callable[..., _Directions]) -> Callable[..., _Directions]:
    def checked(x: torch.Tensor, *others: torch.Tensor | None) -> _Directions:
        check_rows(x, NEIGHBOURS + 2, "neighbour overlap")
        return prepare(x, *others)

    return checked


def _both(name: str, table: _Table, null: str, k: int | None, of_neighbours: bool = False) -> tuple[Metric, Metric]:
    """The metric centred by the anchors' means, and as it is."""
    metrics = []
    for centred, prepare in ((True, _prepare_centred), (False, _prepare)):
        metrics.append(
            Metric(
                name if centred else f"{name}_uncentred",
                _checked(prepare) if of_neighbours else prepare,
                partial(_score, table),
                partial(_chance, table),
                UP_TO_ONE,
                null,
                frozenset({"isotropic-scale", "translation"}) if centred else SCALES,
                ROTATION,
                symmetric=False,
                padded=True,
                ordered=True,
                centred=centred,
                k=k,
            )
        )
    return metrics[0], metrics[1]


RETRIEVALS = (
    *_both("retrieval_top1", partial(_retrieval_table, _first), "closed form: 1 / n", 1),
    *_both("retrieval_recall", partial(_retrieval_table, _among_first), "closed form: min(k, n) / n", FOUND_AMONG),
    *_both("retrieval_mrr", partial(_retrieval_table, _reciprocal_rank), "closed form: H_n / n", None),
)
"""Where a query's own counterpart stands in the other space: first, among the first k, and its reciprocal rank."""
OVERLAPS = _both(
    "neighbour_overlap", _overlap_table, "closed form: mean over all queries and samples", NEIGHBOURS, True
)
"""The share of a sample's own neighbours in the other space that its query finds there."""
