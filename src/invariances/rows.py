"""Several comparisons at once: the rows of a table, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TypeAlias, TypeVar

import pandas as pd

__all__ = ["Rows", "Spread", "of_row", "row_columns"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Item = TypeVar("Item")
Result = TypeVar("Result")
Spread: TypeAlias = "Callable[[Callable[[Item], Result], Iterable[Item]], Iterable[Result]]"
"""How units of work are spread: called like the builtin `map`, which does one after the other."""


class Rows(Mapping[Key, Value]):
    """Several comparisons, e.g. the rows of a table, each read when it is asked for and never kept.

    Parameters
    ----------
    keys : iterable
        Names of rows, or tuples that start with the name of a row.
    load : callable
        Gives a key's value. Where rows are spread over processes it has to be importable.
    """

    def __init__(self, keys: Iterable[Key], load: Callable[[Key], Value]) -> None:
        self._keys = tuple(dict.fromkeys(keys))
        self._load = load

    def __getitem__(self, key: Key) -> Value:
        if key not in self._keys:
            raise KeyError(key)
        return self._load(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def of_row(value: object, key: object) -> object:
    """An option for one of several rows: of a mapping, the value of the key's row; anything else is for all rows."""
    return value[key if isinstance(key, str) else key[0]] if isinstance(value, Mapping) else value


def row_columns(frame: pd.DataFrame, key: object) -> pd.DataFrame:
    """A frame with its row's name in front, and a second part of the key as ``kind``."""
    parts = (key,) if isinstance(key, str) else key
    names = ("row", "kind")[: len(parts)]
    return pd.concat([pd.DataFrame(dict(zip(names, parts, strict=True)), index=frame.index), frame], axis=1)
