"""Tables of embeddings: data frames, CSV, Parquet files and folders of them; which columns hold vectors, which ids.

A table is wide, a column of numbers per feature, or has one column of lists. Files are read without
running anything in them.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from invariances.errors import SpaceError
from invariances.files import damage

__all__ = ["ID_NAMES", "ParquetRows", "Table", "as_vectors", "read_csv", "read_frame", "read_parquet"]

ID_NAMES = ("id", "ids", "unnamed: 0")
"""Columns that are taken for the ids of rows, in small letters; the last is pandas' name for an index in a CSV file."""
BATCH_BYTES = 32 * 2**20
"""About how much of a Parquet file is decoded at once."""
_BYTE = range(-128, 256)
"""Whole numbers that a quantized vector may hold."""


class Table(NamedTuple):
    """What was read of a table."""

    values: np.ndarray
    """Shape (n, d)."""
    ids: pd.Index | None
    """Of the rows, where the table has them."""


class _Columns(NamedTuple):
    features: list[int]
    """Places of the columns of numbers, or of the one column of lists."""
    listed: bool
    id: int | None


def _choose(columns: Sequence[tuple[str, str]], where: str, column: str | None, id_column: str | None) -> _Columns:
    """Which of the columns, as (name, kind), are the vectors and which the ids; kinds are those of `_kind`."""
    names = [name for name, _ in columns]
    asked = [name for name in (id_column or "").split(",") if name in names]
    if id_column is not None and not asked:
        raise SpaceError(f"{where} has no column {id_column!r} for ids; it has {_listed(names)}")
    usual = next((name for key in ID_NAMES for name in names if name.lower() == key), None)
    wanted = asked[0] if asked else usual
    ids = names.index(wanted) if wanted else None
    rest = [(place, name, kind) for place, (name, kind) in enumerate(columns) if place != ids]
    if column is not None:
        patterns = column.split(",")
        exact = [each for each in rest if each[1] in patterns]
        rest = exact or [each for each in rest if any(fnmatchcase(each[1], pattern) for pattern in patterns)]
        if not rest:
            raise SpaceError(f"{where} has no column {column!r}; it has {_listed(names)}")
    lists, floats, narrow, wholes = (
        [each for each in rest if each[2] == kind] for kind in ("list", "float", "byte", "whole")
    )
    if len(lists) > 1:
        raise SpaceError(
            f"{where} has {len(lists)} columns of vectors ({_listed([name for _, name, _ in lists])}); "
            "name one with --column (column= in Python)"
        )
    if lists:
        return _Columns([lists[0][0]], True, ids)
    numbers = [place for place, _, kind in rest if kind in ("float", "byte", "whole")]
    beside = [name for _, name, _ in wholes + narrow * bool(floats)]
    if not numbers:
        raise SpaceError(f"{where} has no column of numbers or vectors (it has {_listed(names)}); give another")
    if beside and column is None and (floats or narrow):
        raise SpaceError(
            f"{where} has whole numbers ({_listed(beside)}) beside its features; name the features with --column, "
            "e.g. --column 'x*', or the ids with --id (column= and id_column= in Python)"
        )
    if wholes and not floats and column is None:
        raise SpaceError(f"{where} holds whole numbers; give floating-point numbers, or int8 or uint8 for quantized")
    return _Columns(numbers, False, ids)


def _listed(names: Sequence[str]) -> str:
    """Names for a message: the first few, and how many more."""
    shown = ", ".join(textwrap.shorten(" ".join(name.split()), 40, placeholder="...") for name in names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown or "none"


# Data frames and CSV -------------------------------------------------------------------------------------


def read_frame(
    frame: pd.DataFrame | pd.Series, where: str, column: str | None = None, id_column: str | None = None
) -> Table:
    """Vectors and ids of a data frame, or of a series of vectors; the index holds the ids where no column does.

    Raises
    ------
    SpaceError
        If it does not say which columns hold the vectors, or they are no vectors of one length.
    """
    frame = frame.to_frame() if isinstance(frame, pd.Series) else frame
    found = _choose([(str(name), _kind(frame.iloc[:, i])) for i, name in enumerate(frame)], where, column, id_column)
    ids = frame.index if found.id is None else pd.Index(frame.iloc[:, found.id])
    if found.listed:
        return Table(as_vectors(list(frame.iloc[:, found.features[0]]), where), _checked_ids(ids, where))
    return Table(_numbers(frame.iloc[:, found.features]), _checked_ids(ids, where))


def _numbers(frame: pd.DataFrame) -> np.ndarray:
    """Columns of numbers as one matrix; what is missing becomes NaN."""
    types = {np.dtype(getattr(dtype, "numpy_dtype", dtype)) for dtype in frame.dtypes}
    common = np.result_type(*types) if len(types) > 1 else next(iter(types))
    missing = bool(frame.isna().to_numpy().any())
    if common.kind != "f" and (missing or common.itemsize > 1):
        common = np.dtype("f8")
    return frame.to_numpy(dtype=common, na_value=np.nan) if missing else frame.to_numpy(dtype=common)


def _kind(values: pd.Series) -> str:
    """What a column holds: "float", "byte" (8 bits), "whole" numbers, "list" of numbers, or "other"."""
    dtype = getattr(values.dtype, "numpy_dtype", values.dtype)  # pandas' types that know missing values
    if isinstance(dtype, np.dtype) and dtype.kind in "fiub":
        return {"f": "float", "b": "whole"}.get(dtype.kind, "byte" if dtype.itemsize == 1 else "whole")
    first = next((value for value in values if isinstance(value, (str, list, tuple, np.ndarray))), None)
    if isinstance(first, str):
        return "list" if re.match(r"\s*\[\s*[-+\d.\[]", first) else "other"
    if isinstance(first, np.ndarray):
        return "list" if first.dtype.kind in "fiu" or first.dtype == object else "other"
    return "list" if isinstance(first, (list, tuple)) else "other"


def as_vectors(cells: Sequence[Any], where: str) -> np.ndarray:
    """A matrix of vectors that are lists, arrays, or lists in JSON.

    Raises
    ------
    SpaceError
        If one is missing, holds no numbers, or is of another length.
    """
    wrong = [i for i, cell in enumerate(cells) if not isinstance(cell, (str, list, tuple, np.ndarray))]
    if wrong:
        raise SpaceError(f"{where}: {len(wrong)} row(s) have no vector (first: row {wrong[0]}); drop these samples")
    read = []
    for i, cell in enumerate(cells):
        try:
            value = np.asarray(json.loads(cell) if isinstance(cell, str) else cell)
            value = np.asarray(value.tolist()) if value.dtype == object else value
        except (ValueError, TypeError, RecursionError) as error:
            raise SpaceError(f"{where}: row {i} holds no list of numbers; give vectors like [0.1, 0.2]") from error
        if value.dtype.kind not in "fiu" or value.ndim == 0:
            raise SpaceError(f"{where}: row {i} holds no list of numbers; give vectors like [0.1, 0.2]")
        read.append(value)
    shapes = [value.shape for value in read]
    other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        raise SpaceError(
            f"{where}: row 0 has a vector of shape {shapes[0]} and row {other} one of {shapes[other]}; "
            "give all rows vectors of one length"
        )
    matrix = np.stack(read)
    return matrix.astype("f8") if matrix.dtype.kind != "f" and matrix.dtype.itemsize > 1 else matrix


def _checked_ids(ids: pd.Index, where: str) -> pd.Index:
    missing = np.asarray(ids.isna())
    if missing.any():
        raise SpaceError(f"{where}: {missing.sum()} row(s) have no id (first: row {missing.argmax()}); fill them in")
    return ids


def read_csv(path: Path, where: str, column: str | None = None, id_column: str | None = None) -> Table:
    """Vectors and ids of a CSV or TSV file, with or without a line of names.

    Raises
    ------
    SpaceError
        As `read_frame`, or if the file is damaged.
    """
    separator = "\t" if path.suffix == ".tsv" else ","
    with damage(where), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of values that would be dropped
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = next(csv.reader(file, delimiter=separator), [])
        frame = pd.read_csv(
            path,
            sep=separator,
            header=0 if _are_names(first) else None,
            index_col=False,
            float_precision="round_trip",
            low_memory=False,
            encoding="utf-8-sig",
        )
    table = read_frame(_small(frame), where, column, id_column)
    return table if id_column or _has_id(frame) else Table(table.values, None)


def _has_id(frame: pd.DataFrame) -> bool:
    return any(str(name).lower() in ID_NAMES for name in frame)


def _are_names(fields: Sequence[str]) -> bool:
    """Whether the first line holds names: no numbers, or numbers that count."""
    numbers = []
    for field in fields:
        try:
            numbers.append(float(field))
        except ValueError:
            continue
    return not numbers or numbers in [[float(i + start) for i in range(len(numbers))] for start in (0, 1)]


def _small(frame: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers that fit a byte are quantized vectors where a text holds nothing else."""
    wholes = [i for i in range(frame.shape[1]) if frame.dtypes.iloc[i].kind in "iu"]
    wholes = [i for i in wholes if str(frame.columns[i]).lower() not in ID_NAMES]
    if any(dtype.kind == "f" for dtype in frame.dtypes) or not wholes:
        return frame
    values = frame.iloc[:, wholes]
    least, most = values.min(axis=None), values.max(axis=None)
    if least not in _BYTE or most not in _BYTE or (least < 0 and most > 127):
        return frame
    return frame.astype({frame.columns[i]: "u1" if least >= 0 else "i1" for i in wholes})


# Parquet ---------------------------------------------------------------------------------------------------


class ParquetRows:
    """The rows of a Parquet file, or of all Parquet files in a folder in the order of their names, in batches.

    Parameters
    ----------
    path : Path
    where : str
        What to call it in an error message.
    column : str, optional
        The column of vectors, or a pattern of the columns of numbers, such as ``x*``.
    id_column : str, optional

    Raises
    ------
    SpaceError
        If pyarrow is missing, a file is damaged or unlike the first, or the columns do not say which are the vectors.
    """

    def __init__(self, path: Path, where: str, column: str | None = None, id_column: str | None = None) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise SpaceError(f"{where} needs pyarrow, which is not installed; run pip install 'invariances[tables]'")
        import pyarrow.parquet as pq

        self.where = where
        self.paths = [path] if path.is_file() else shards(path)
        if not self.paths:
            raise SpaceError(f"{where} holds no .parquet file; give a folder of Parquet shards, or a file")
        chosen, lengths = [], []
        for part in self.paths:
            with damage(self._naming(part)):
                file = pq.ParquetFile(part, memory_map=True)
                schema, count = file.schema_arrow, file.metadata.num_rows
            chosen.append(self._chosen(schema, column, id_column))
            if chosen[-1] != chosen[0]:
                raise SpaceError(
                    f"{where}: the columns of {part.name} are not those of {self.paths[0].name}; make them one"
                )
            lengths.append(count)
        self._columns = chosen[0]
        self.lengths = tuple(lengths)

    def _naming(self, part: Path) -> str:
        return self.where if len(self.paths) == 1 else f"{self.where}, {part.name}"

    def __len__(self) -> int:
        return sum(self.lengths)

    def _chosen(
        self, schema: Any, column: str | None, id_column: str | None
    ) -> tuple[list[str], bool, str | None, str]:
        names, kinds = list(schema.names), [_arrow_kind(field.type) for field in schema]
        index = [name for name in _pandas_index(schema) if name in names]
        if id_column is None and len(index) == 1:
            id_column = index[0]
        found = _choose(list(zip(names, kinds, strict=True)), self.where, column, id_column)
        types = [_innermost(schema.field(place).type) for place in found.features]
        double = any(str(kind) == "double" or (_arrow_kind(kind) == "whole") for kind in types)
        names_of = [names[place] for place in found.features]
        if len(set(names)) < len(names):
            raise SpaceError(f"{self.where} has two columns of one name; give every column its own")
        return names_of, found.listed, None if found.id is None else names[found.id], "f8" if double else "f4"

    @property
    def dtype(self) -> np.dtype:
        """Of the vectors: float64 where a column is, else float32."""
        return np.dtype(self._columns[3])

    @property
    def vector_column(self) -> str | None:
        """The column of vectors; None where every feature has one of its own."""
        names, listed, _, _ = self._columns
        return names[0] if listed else None

    @property
    def id_column(self) -> str | None:
        """The column of ids, if there is one."""
        return self._columns[2]

    def batches(self, rows: int | None = None) -> Iterator[Table]:
        """All rows in their order, at most so many at once; shape (rows, d) each.

        Raises
        ------
        SpaceError
            If a file is damaged, or a vector is missing or of another length.
        """
        for place in range(len(self.paths)):
            yield from self.of_shard(place, rows)

    def of_shard(self, place: int, rows: int | None = None) -> Iterator[Table]:
        """The rows of one of the files, as `batches` gives them."""
        import pyarrow.parquet as pq

        part = self.paths[place]
        names, listed, id_column, dtype = self._columns
        where = self._naming(part)
        start = 0
        with damage(where):
            file = pq.ParquetFile(part, memory_map=True)
            size = max(1, sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)))
            rows = rows or max(1, min(2**16, BATCH_BYTES * file.metadata.num_rows // size))
            wanted = names if id_column is None else [*names, id_column]
            for batch in file.iter_batches(batch_size=rows, columns=wanted):
                if listed:
                    values = _of_lists(batch.column(names[0]), where, start).astype(dtype, copy=False)
                else:
                    values = np.empty((batch.num_rows, len(names)), dtype)
                    for place, name in enumerate(names):
                        values[:, place] = batch.column(name).to_numpy(zero_copy_only=False)
                ids = None if id_column is None else _checked_ids(pd.Index(batch.column(id_column).to_pandas()), where)
                start += batch.num_rows
                yield Table(values, ids)


def shards(folder: Path) -> list[Path]:
    """The Parquet files of a folder, in the order of their names; numbers in these count."""
    found = (path for path in folder.iterdir() if path.suffix == ".parquet" and not path.name.startswith((".", "_")))
    return sorted(found, key=lambda path: [(part.isdigit(), part.zfill(20)) for part in re.split(r"(\d+)", path.name)])


def read_parquet(path: Path, where: str, column: str | None = None, id_column: str | None = None) -> Table:
    """Vectors and ids of a Parquet file or a folder of them.

    Raises
    ------
    SpaceError
        As `ParquetRows`.
    """
    rows = ParquetRows(path, where, column, id_column)
    values, ids, filled = None, [], 0
    for batch in rows.batches():
        if values is None:
            with damage(where):
                values = np.empty((len(rows), *batch.values.shape[1:]), rows.dtype)
        if batch.values.shape[1:] != values.shape[1:]:
            raise SpaceError(
                f"{where}: vectors have the shapes {values.shape[1:]} and {batch.values.shape[1:]}; "
                "give all rows vectors of one length"
            )
        values[filled : filled + len(batch.values)] = batch.values
        filled += len(batch.values)
        if batch.ids is not None:
            ids.append(batch.ids)
    if values is None or filled < len(values):
        raise SpaceError(f"{where} has {filled} of the {len(rows)} rows that it names; save it again")
    return Table(values, ids[0].append(ids[1:]) if ids else None)


def _pandas_index(schema: Any) -> list[str]:
    """Columns that pandas wrote as the index."""
    try:
        said = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        return [name for name in said.get("index_columns", []) if isinstance(name, str)]
    except (ValueError, AttributeError, TypeError):
        return []


def _arrow_kind(kind: Any) -> str:
    import pyarrow.types as types

    kind = getattr(kind, "storage_type", kind)
    if types.is_floating(kind):
        return "float"
    if types.is_int8(kind) or types.is_uint8(kind):
        return "byte"
    if types.is_integer(kind) or types.is_boolean(kind):
        return "whole"
    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return "list" if listed and _arrow_kind(_innermost(kind)) in ("float", "byte", "whole") else "other"


def _innermost(kind: Any) -> Any:
    """The type of what lists of lists hold."""
    kind = getattr(kind, "storage_type", kind)
    while hasattr(kind, "value_type") and hasattr(kind, "value_field"):
        kind = getattr(kind.value_type, "storage_type", kind.value_type)
    return kind


def _of_lists(array: Any, where: str, start: int) -> np.ndarray:
    """A column of lists, perhaps of lists, as an array."""
    shape, count = [], len(array)
    while hasattr(getattr(array, "storage", array).type, "value_field"):
        array = getattr(array, "storage", array)
        if array.null_count:
            row = start + int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
            raise SpaceError(
                f"{where}: {array.null_count} row(s) have no vector (first: row {row}); drop these samples"
            )
        lengths = np.unique(array.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) > 1:
            raise SpaceError(
                f"{where}: vectors have from {lengths[0]} to {lengths[-1]} numbers; give all rows vectors of one length"
            )
        shape.append(int(lengths[0]) if len(lengths) else 0)
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(count, *shape)
