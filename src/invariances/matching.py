"""Rows of several spaces matched by their ids: which are in all, in which order, and which are left over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from invariances.errors import SpaceError

__all__ = ["Matched", "match_rows"]


class Matched(NamedTuple):
    """The rows that several spaces share."""

    rows: dict[str, np.ndarray | None]
    """Which rows of each space, in the order of the first; None where they are all, as they stand."""
    ids: pd.Index | None
    """Of these rows, where the spaces have ids."""
    said: str
    """What was done, in one sentence; empty where rows are matched by their order."""
    moved: bool
    """Whether rows were left out or brought into another order."""


def match_rows(ids: Mapping[str, pd.Index | None], sizes: Mapping[str, int]) -> Matched:
    """Match rows by their ids where spaces have them; else they stand in one order.

    Parameters
    ----------
    ids : mapping from names to the ids of rows
        None where a space has none. An index 0, 1, 2, ... counts only beside other whole numbers.
    sizes : mapping from names to numbers of rows

    Returns
    -------
    Matched

    Raises
    ------
    SpaceError
        If ids repeat, no row is in all spaces, or a space without ids stands beside some in unlike orders.
    """
    named = {name: index for name, index in ids.items() if index is not None}
    real = {name: index for name, index in named.items() if not _counts(index)}
    if all(pd.api.types.is_integer_dtype(index.dtype) for index in real.values()) and real:
        real = named
    everywhere: dict[str, np.ndarray | None] = dict.fromkeys(ids)
    if len(real) < 2:
        only = next(iter(real.values()), None)
        return Matched(everywhere, only if only is not None and len(set(sizes.values())) == 1 else None, "", False)
    indices = _comparable(real)
    first, *others = indices.values()
    if all(first.equals(other) for other in others):
        said = f"Rows are matched by their ids: all {len(first)} are in every space, in one order."
        return Matched(everywhere, first, said if len(real) == len(ids) else "", False)
    without = [name for name in ids if name not in real]
    if without:
        raise SpaceError(
            f"{without[0]} has no ids, and those of {', '.join(real)} are not in one order; give it ids too, "
            "or give all as plain arrays of the same samples in the same order"
        )
    for name, index in indices.items():
        if not index.is_unique:
            twice = index[index.duplicated()]
            raise SpaceError(f"{len(twice)} ids of {name} are repeated (first: {twice[0]}); give every row its own")
    shared = first
    for other in others:
        shared = shared[shared.isin(other)]
    if not len(shared):
        raise SpaceError(
            f"no row has an id that is in all of {', '.join(real)}; give the same ids, or plain arrays "
            "of the same samples in the same order"
        )
    rows: dict[str, np.ndarray | None] = {name: index.get_indexer(shared) for name, index in indices.items()}
    return Matched(rows, shared, _said(indices, shared), True)


def _counts(index: pd.Index) -> bool:
    """Whether an index is what pandas gives where there is none."""
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def _comparable(indices: Mapping[str, pd.Index]) -> dict[str, pd.Index]:
    """The same kind of ids for all: words, unless all are whole numbers."""
    whole = {pd.api.types.is_integer_dtype(index.dtype) for index in indices.values()}
    if whole == {True}:
        return dict(indices)
    kinds = {index.inferred_type for index in indices.values()}
    return dict(indices) if len(kinds) == 1 else {name: index.map(str) for name, index in indices.items()}


def _said(indices: Mapping[str, pd.Index], shared: pd.Index) -> str:
    left = {name: index[~index.isin(shared)] for name, index in indices.items()}
    parts = [
        f"{len(over)} of {name} ({', '.join(map(str, over[:5]))}{', ...' if len(over) > 5 else ''})"
        for name, over in left.items()
        if len(over)
    ]
    tail = f"; left over: {', '.join(parts)}" if parts else ", in different orders"
    return f"Rows are matched by their ids: {len(shared)} are in every space{tail}."
