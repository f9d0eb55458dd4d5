"""Reading what people have: arrays, tensors, lists, data frames, and files of embeddings, with the ids of their rows.

One reader serves Python and the command line. A matrix in an `.npy` or `.safetensors` file stays there until rows of
it are asked for. No pickle is ever loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import safetensors
import torch

from invariances.errors import SpaceError
from invariances.files import StoredSpace, choose_member, damage, is_file, to_tensor
from invariances.tabular import ID_NAMES, as_vectors, read_csv, read_frame, read_parquet

__all__ = ["Embeddings", "Matrix", "as_tensor", "check_dtype", "located", "read"]

SUFFIXES = (".npy", ".npz", ".safetensors", ".csv", ".tsv", ".parquet")
"""Files that are read."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_BYTES = (torch.int8, torch.uint8)
"""Quantized vectors, which are widened to float32."""
Matrix: TypeAlias = "np.ndarray | torch.Tensor | StoredSpace"


class Embeddings(NamedTuple):
    """What somebody has of one model: vectors and, perhaps, the ids of their rows."""

    values: Matrix
    """Shape (n, d)."""
    ids: pd.Index | None = None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def located(source: str | Path) -> tuple[Path, str | None]:
    """The file or folder that is meant, and what in it: ``two.safetensors:layer4``.

    Parameters
    ----------
    source : str or Path
        A path, perhaps followed by a colon and the name of a tensor, an array or a column.

    Returns
    -------
    path : Path
    name : str or None
    """
    text = str(source)
    places = [place for place, letter in enumerate(text) if letter == ":"]
    if places and not (is_file(Path(text)) or _is_folder(Path(text))):
        for place in places:
            path = Path(text[:place])
            if text[place + 1 :] and text[:place] and (is_file(path) or _is_folder(path)):
                return path, text[place + 1 :]
    return Path(text), None


def read(source: object, name: str = "space", column: str | None = None, id_column: str | None = None) -> Embeddings:
    """Read vectors and the ids of their rows, unchecked but for their kind.

    Parameters
    ----------
    source : array, tensor, list of vectors, DataFrame, Series of vectors, path, or Embeddings
        A path names an ``.npy``, ``.npz``, ``.safetensors``, ``.csv``, ``.tsv`` or ``.parquet`` file, or a folder of
        Parquet shards; ``two.safetensors:layer4`` is one of several tensors, arrays or columns of vectors in it.
    name : str
        What to call the space in an error message.
    column : str, optional
        Of a table: the column of vectors, or a pattern of the columns of numbers, such as ``x*``. By default the only
        column of lists, or else all columns of floating-point numbers.
    id_column : str, optional
        Of a table or an ``.npz`` file: what holds the ids of the rows. By default a column "id", or the index.

    Returns
    -------
    Embeddings
        Of ``.npy`` and ``.safetensors`` files, what is read later.

    Raises
    ------
    SpaceError
        If it cannot be read; one sentence says what, where, and the remedy.
    """
    if isinstance(source, Embeddings):
        return source
    if isinstance(source, StoredSpace):
        return Embeddings(source)
    if isinstance(source, (str, Path)):
        return _read_file(source, name, column, id_column)
    if isinstance(source, (pd.DataFrame, pd.Series)):
        return Embeddings(*read_frame(source, name, column, id_column))
    return Embeddings(_plain(source, name))


def _read_file(source: str | Path, name: str, column: str | None, id_column: str | None) -> Embeddings:
    path, inside = located(source)
    folder = _is_folder(path)
    if not folder and not is_file(path):
        raise SpaceError(f"{name}: there is no file {path}; give the path of a {_suffixes()} file")
    if not folder and path.suffix not in SUFFIXES:
        raise SpaceError(f"{name}: {path} is not read, since only {_suffixes()} are safe to load; convert it")
    where = f"{name}: {path}"
    if path.suffix == ".npy" and not folder:
        if inside is not None:
            raise SpaceError(f"{where} holds one matrix without a name; leave out {':' + inside!r}")
        return Embeddings(StoredSpace(path, name))
    if path.suffix == ".safetensors" and not folder:
        return Embeddings(StoredSpace(path, name, inside), _ids_in_header(path, where))
    if path.suffix == ".npz" and not folder:
        return _read_npz(path, where, inside, id_column)
    reader = read_parquet if folder or path.suffix == ".parquet" else read_csv
    return Embeddings(*reader(path, where, column if inside is None else inside, id_column))


def _ids_in_header(path: Path, where: str) -> pd.Index | None:
    """The ids that `invariances embed` wrote beside the vectors."""
    with damage(where), safetensors.safe_open(path, framework="pt") as file:
        ids = (file.metadata() or {}).get("ids")
        return None if ids is None else pd.Index(json.loads(ids), dtype=object)


def _suffixes() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def _read_npz(path: Path, where: str, inside: str | None, id_column: str | None) -> Embeddings:
    with damage(where), np.load(path, allow_pickle=False) as archive:
        members = archive.files
        usual = next((key for key in members if key.lower() in ID_NAMES and key != inside), None)
        ids = id_column or usual
        values = archive[choose_member([key for key in members if key != ids], inside, where, path, "array")]
        if not isinstance(values, np.ndarray):
            raise ValueError("it holds something else than arrays")
        if ids is None:
            return Embeddings(values)
        index = archive[choose_member(members, ids, where, path, "array")]
    if index.ndim != 1 or values.ndim < 1 or len(index) != len(values):
        raise SpaceError(f"{where}: the ids in {ids!r} have shape {index.shape}; give one for each of the rows")
    return Embeddings(values, pd.Index(index))


# Arrays and tensors ----------------------------------------------------------------------------------------


def as_tensor(source: object, name: str) -> torch.Tensor:
    """A tensor of what is in memory, its values unchecked; half precision and quantized vectors are widened to float32.

    Parameters
    ----------
    source : array, tensor, list of vectors, DataFrame or Series of vectors
    name : str

    Raises
    ------
    SpaceError
        If it is none of these, holds no floating-point numbers, int8 or uint8, or is a sparse, nested or meta tensor.
    """
    if isinstance(source, (pd.DataFrame, pd.Series)):
        source = read_frame(source, name).values
    plain = _plain(source, name)
    check_dtype(plain.dtype, name)
    return (
        plain.to(torch.promote_types(plain.dtype, torch.float32))
        if isinstance(plain, torch.Tensor)
        else to_tensor(plain)
    )


def _plain(source: object, name: str) -> np.ndarray | torch.Tensor:
    """An array or tensor of what is in memory."""
    if isinstance(source, (list, tuple)):
        source = _stacked(source, name)
    if isinstance(source, torch.Tensor):
        if source.is_nested or source.layout is not torch.strided or source.is_meta:
            raise SpaceError(f"{name} is a sparse, nested or meta tensor; give a plain one, e.g. x.to_dense()")
        return source
    if isinstance(source, np.ndarray) and not isinstance(source, np.ma.MaskedArray):
        return source
    way = next((f", here x.{method}()" for method in ("to_numpy", "toarray") if hasattr(source, method)), "")
    raise SpaceError(
        f"{name} is a {type(source).__name__}; give a numpy array, a torch tensor, a DataFrame, "
        f"or the path of an .npy file{way}"
    )


def _stacked(vectors: Sequence[Any], name: str) -> np.ndarray | torch.Tensor:
    if vectors and all(isinstance(vector, torch.Tensor) for vector in vectors):
        if len({(vector.shape, vector.dtype, vector.device) for vector in vectors}) > 1:
            raise SpaceError(f"{name} is a list of unlike tensors; give all rows vectors of one length and type")
        return torch.stack(list(vectors))
    return as_vectors(vectors, name) if len(vectors) else np.empty((0, 0))


def check_dtype(dtype: np.dtype | torch.dtype, name: str) -> None:
    """Refuse what are no floating-point numbers, int8 or uint8.

    Raises
    ------
    SpaceError
    """
    if isinstance(dtype, torch.dtype):
        usable = dtype in _FLOATS + _BYTES
    else:
        usable = dtype.kind == "f" or (dtype.kind in "iu" and dtype.itemsize == 1)
    if not usable:
        raise SpaceError(
            f"{name} has dtype {dtype}; give floating-point numbers, float16 to float64, or int8 or uint8 "
            "of quantized vectors, e.g. x.astype('float32')"
        )
