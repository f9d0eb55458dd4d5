"""Which samples: the anchors, and the classes of all."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch

from invariances.arguments import as_array, check_whole
from invariances.errors import SpaceError
from invariances.files import damage, is_file, map_npy
from invariances.tabular import ID_NAMES

__all__ = ["Anchors", "Labels", "anchor_ids", "class_codes", "read_anchors", "read_labels"]

Anchors: TypeAlias = "int | Sequence[int] | Sequence[bool] | Sequence[str] | np.ndarray | torch.Tensor | str | Path"
"""A count, row numbers, a mask, ids of rows, or a file that holds one of the last three."""
Labels: TypeAlias = "Sequence | np.ndarray | torch.Tensor | pd.Series | None"


def read_anchors(source: str | Path) -> np.ndarray:
    """What a file says which rows are anchors: row numbers, a mask, or ids.

    Parameters
    ----------
    source : str or Path
        An ``.npy`` file, or a ``.txt``, ``.csv`` or ``.tsv`` file with one in each line.

    Returns
    -------
    array of shape (k,)
        Whole numbers, truth values or strings.

    Raises
    ------
    SpaceError
        If it cannot be read.
    """
    path = Path(source)
    where = f"anchors: {path}"
    if not is_file(path):
        raise SpaceError(
            f"anchors: there is no file {textwrap.shorten(str(source), 200)}; give a count, or a file with an id a line"
        )
    if path.suffix == ".npy":
        with damage(where):
            found = np.array(map_npy(path, where))
        if found.ndim != 1 or found.dtype.kind not in "iubU":
            raise SpaceError(
                f"{where} has dtype {found.dtype} and shape {found.shape}; give a list of row ids, or a mask"
            )
        return found
    if path.suffix not in (".txt", ".csv", ".tsv"):
        raise SpaceError(f"{where} is not read; give an .npy, .txt, .csv or .tsv file with one anchor in each line")
    with damage(where):
        lines = [line.strip().strip('"') for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if line]
    if lines and lines[0].lower() in (*ID_NAMES, "anchor", "anchors"):
        del lines[0]
    if not lines:
        raise SpaceError(f"{where} is empty; give one anchor in each line")
    if all(line.lower() in ("true", "false") for line in lines):
        return np.array([line.lower() == "true" for line in lines])
    try:
        return np.array([int(line) for line in lines])
    except ValueError:
        return np.array(lines)


def read_labels(source: str | Path, id_column: str | None = None) -> np.ndarray | pd.Series:
    """The classes of samples in a file.

    Parameters
    ----------
    source : str or Path
        An ``.npy`` file, a ``.txt`` file with one in each line, or a ``.csv``, ``.tsv`` or ``.parquet`` file of one
        column, or of one beside the ids.
    id_column : str, optional
        Columns that hold them where they are there, by commas; by default one called "id".

    Returns
    -------
    array or Series of shape (n,)
        A Series where there are ids; they are its index.

    Raises
    ------
    SpaceError
        If it cannot be read.
    """
    path = Path(source)
    where = f"labels: {path}"
    if not is_file(path):
        raise SpaceError(f"labels: there is no file {textwrap.shorten(str(source), 200)}; give one with a label a row")
    readers = {".csv": pd.read_csv, ".tsv": partial(pd.read_csv, sep="\t"), ".parquet": pd.read_parquet}
    with damage(where):
        if path.suffix == ".npy":
            return np.array(map_npy(path, where))
        if path.suffix == ".txt":
            return np.array(path.read_text(encoding="utf-8-sig").splitlines())
        frame = readers[path.suffix](path) if path.suffix in readers else None
    if frame is None:
        raise SpaceError(f"{where} is not read; give an .npy, .txt, .csv, .tsv or .parquet file with a label a row")
    asked = [name for name in (id_column or "").split(",") if name in frame]
    named = next((name for name in [*asked, *map(str, frame)] if name in asked or name.lower() in ID_NAMES), None)
    frame = frame if named is None else frame.set_index(named)
    if frame.shape[1] != 1:
        listed = ", ".join(map(str, frame)) or "none"
        raise SpaceError(f"{where} has {frame.shape[1]} columns beside the ids ({listed}); keep the one of the labels")
    return frame.iloc[:, 0]


def anchor_ids(anchors: Anchors, n: int, seed: int = 0) -> np.ndarray:
    """Row numbers of the anchors: a count draws them by `seed`, numbers are checked and kept in their order.

    Parameters
    ----------
    anchors : int, sequence of int or bool, or path
        A count, row numbers, a mask of shape (n,), or a file with one of the last two.
    n : int
        How many rows there are.
    seed : int

    Raises
    ------
    SpaceError
        If fewer than 2 anchors are asked for, ids repeat or lie outside 0..n-1, fewer than
        2 rows would remain to be scored, or the seed is no whole number.
    """
    check_whole(seed, "seed")
    if isinstance(anchors, (str, Path)):
        anchors = read_anchors(anchors)
    if isinstance(anchors, (bool, np.bool_)):
        raise SpaceError("anchors is a bool; give a count or the row ids of the anchors")
    if isinstance(anchors, (int, np.integer)):
        _check_anchor_count(int(anchors), n)
        return np.random.default_rng(seed).choice(n, size=int(anchors), replace=False)
    ids = as_array(anchors)
    if ids is None or ids.ndim != 1 or ids.dtype.kind not in "iub":
        raise SpaceError("anchors must be a count, a list of whole-numbered row ids, a mask, or a file of these")
    if ids.dtype.kind == "b":
        if len(ids) != n:
            raise SpaceError(f"the mask of anchors has {len(ids)} values; give one for each of the {n} rows")
        ids = np.flatnonzero(ids)
    _check_anchor_count(len(ids), n)
    if ids.min() < 0 or ids.max() >= n:
        raise SpaceError(
            f"anchor id {ids.min() if ids.min() < 0 else ids.max()} is outside the rows 0..{n - 1}; "
            "give rows that are there"
        )
    if len(np.unique(ids)) < len(ids):
        raise SpaceError(f"{len(ids) - len(np.unique(ids))} anchor ids are repeated; give every anchor once")
    return ids.astype(np.int64)  # torch reads uint8 as a mask


def class_codes(labels: Labels, n: int) -> torch.Tensor | None:
    """Labels as class codes 0..C-1, or None where there are none.

    Raises
    ------
    SpaceError
        If there is not one label for each of the `n` rows.
    """
    if labels is None:
        return None
    array = as_array(labels)
    if array is None or array.shape != (n,):
        got = "are not one a row" if array is None else f"have shape {array.shape}"
        raise SpaceError(f"labels {got}; give one label for each of the {n} rows")
    # a list is looked at as it is: an array would turn the NaN among strings into a class "nan"
    missing = pd.isna(array if hasattr(labels, "dtype") else np.asarray(labels, dtype=object))
    if missing.any():
        first = f"first: row {missing.argmax()}"
        raise SpaceError(f"{missing.sum()} labels are missing ({first}); drop these samples in every space")
    try:
        return torch.from_numpy(np.unique(array, return_inverse=True)[1].astype(np.int64))
    except TypeError as error:
        raise SpaceError("labels of different kinds cannot be told apart; give only numbers or only strings") from error


def _check_anchor_count(k: int, n: int) -> None:
    if k < 2:
        raise SpaceError(f"{k} anchor(s) given; at least 2 are needed")
    if k > n - 2:
        raise SpaceError(
            f"{k} anchors asked for, but there are {n} rows, of which 2 must remain to be scored; give fewer anchors"
        )
