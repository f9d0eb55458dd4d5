"""Inner products of the linear kernels of many spaces, all pairs at once, in bounded memory.

Two formulas give the same numbers: in *feature* space ``|X' Y|^2``, at n d^2 a pair, and in
*Gram* space ``sum_ij K_ij L_ij``, at n^2 d a model and n^2 a pair. A cost rule picks the cheaper. Both
go through the samples in chunks and through the models in tiles, so that nothing of size n x n,
and nothing that grows with the number of models squared but the result, is ever held.
Products are taken in the spaces' own floating-point type, sums over chunks in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from invariances.spaces import OpenSpace, chunks

__all__ = ["MULTIPLICATIONS_PER_ENTRY", "Method", "Products", "TILE_BYTES", "cheaper", "linear_products"]


Method: TypeAlias = "Literal['auto', 'features', 'gram']"

TILE_BYTES = 64 * 2**20
"""Memory for the accumulators of one tile of pairs, or for the rows of one tile of all Gram matrices."""
MULTIPLICATIONS_PER_ENTRY = 64
"""Multiplications that take as long as writing an entry of a Gram matrix and reading it again."""


class Products(NamedTuple):
    """Inner products over all pairs of N centred linear kernels."""

    inner: torch.Tensor
    """Shape (N, N): of the kernel matrices."""
    diagonals: torch.Tensor
    """Shape (N, N): of their diagonals."""
    traces: torch.Tensor
    """Shape (N,)."""


def linear_products(spaces: Sequence[OpenSpace], method: Method = "auto") -> Products:
    """Inner products of the centred linear kernels of all pairs of spaces.

    Parameters
    ----------
    spaces : sequence of N matrices of shape (n, d)
        Tensors or stored spaces; widths may differ.
    method : "auto", "features" or "gram"
        Which formula; "auto" takes the one that `cheaper` names.

    Returns
    -------
    Products
        In float64.
    """
    dtype = functools.reduce(torch.promote_types, (space[:1].dtype for space in spaces))
    views = [_Centred(space, space[:1], _mean(space), dtype) for space in spaces]
    if method == "auto":
        method = cheaper(len(spaces[0]), [space.shape[1] for space in spaces])
    inner = _by_gram(views) if method == "gram" else _by_features(views)
    return Products(inner, *_diagonal_products(views))


def cheaper(n: int, widths: Sequence[int]) -> Literal["features", "gram"]:
    """The formula that takes less for all pairs of spaces of these widths, counted in multiplications."""
    total = sum(widths)
    features = n * (total**2 + sum(d**2 for d in widths)) / 2
    # of half of each Gram matrix: the products that make an entry, those with the other models', its memory
    gram = n**2 / 2 * (total + len(widths) * (len(widths) + MULTIPLICATIONS_PER_ENTRY))
    return "gram" if gram < features else "features"


class _Centred(NamedTuple):
    """A space of which centred rows are read."""

    space: OpenSpace
    first: torch.Tensor
    mean: torch.Tensor
    """Of what is left when the first row is taken off: far from the origin the mean itself would be rounded."""
    dtype: torch.dtype

    def at(self, rows: slice) -> torch.Tensor:
        return (self.space[rows] - self.first - self.mean.to(self.first)).to(self.dtype)


def _mean(space: OpenSpace) -> torch.Tensor:
    first = space[:1]
    total = torch.zeros(space.shape[1], dtype=torch.float64)
    for rows in chunks(len(space), space.shape[1] * 8):
        total += (space[rows] - first).sum(dim=0, dtype=torch.float64).cpu()
    return total / len(space)


def _diagonal_products(views: Sequence[_Centred]) -> tuple[torch.Tensor, torch.Tensor]:
    count = len(views)
    products, traces = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for rows in chunks(len(views[0].space), max(len(view.mean) for view in views) * 8):
        squares = torch.stack([view.at(rows).square().sum(dim=1).double().cpu() for view in views])
        products += squares @ squares.T
        traces += squares.sum(dim=1)
    return products, traces


def _times(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ y.T``; by numpy on a CPU, whose BLAS is the faster one on some processors."""
    if x.device.type != "cpu":
        return torch.mm(x, y.T, out=out)
    product = np.matmul(x.numpy(), y.numpy().T, out=None if out is None else out.numpy())
    return torch.from_numpy(product)


def _by_features(views: Sequence[_Centred]) -> torch.Tensor:
    count, widths = len(views), [len(view.mean) for view in views]
    side = max(1, int((TILE_BYTES / 8) ** 0.5 / max(widths)))
    tiles = [range(start, min(start + side, count)) for start in range(0, count, side)]
    inner = torch.zeros(count, count, dtype=torch.float64)
    for i, left in enumerate(tiles):
        for right in tiles[i:]:
            for (a, b), product in _cross_products(views, left, right).items():
                inner[a, b] = inner[b, a] = product.square().sum()
    return inner


def _cross_products(views: Sequence[_Centred], left: range, right: range) -> dict[tuple[int, int], torch.Tensor]:
    """``X_a' X_b`` for a in `left`, b in `right`, a <= b."""
    models = sorted({*left, *right})
    pairs = [(a, b) for a in left for b in right if a <= b]
    sums: dict[tuple[int, int], torch.Tensor] = {}
    for rows in chunks(len(views[0].space), sum(len(views[m].mean) for m in models) * views[0].dtype.itemsize):
        part = {m: views[m].at(rows) for m in models}
        for a, b in pairs:
            product = _times(part[a].T, part[b].T).double()
            sums[a, b] = sums[a, b].add_(product) if (a, b) in sums else product
    return sums


def _by_gram(views: Sequence[_Centred]) -> torch.Tensor:
    n, count, dtype = len(views[0].space), len(views), views[0].dtype
    widths = sum(len(view.mean) for view in views)
    # a tile of all Gram matrices, and the rows that it is made of, fit into memory
    side = min(int((TILE_BYTES / 4 / count / dtype.itemsize) ** 0.5), TILE_BYTES // (widths * dtype.itemsize))
    side = max(1, min(n, side))
    blocks = [slice(start, min(start + side, n)) for start in range(0, n, side)]
    inner = torch.zeros(count, count, dtype=torch.float64)
    room = torch.empty(count * side**2, dtype=dtype, device=views[0].at(slice(0, 1)).device)
    for i, left in enumerate(blocks):
        rows = [view.at(left) for view in views]
        for right in blocks[i:]:
            columns = rows if left is right else [view.at(right) for view in views]
            grams = room[: count * len(rows[0]) * len(columns[0])].view(count, len(rows[0]), len(columns[0]))
            for x, y, gram in zip(rows, columns, grams, strict=True):
                _times(x, y, gram)
            tile = grams.flatten(1)
            # in parts: millions of products summed in float32 would lose four digits
            total = sum((part @ part.T).double().cpu() for part in tile.split(2**15, dim=1))
            inner += total * (1 if left is right else 2)
    return inner
