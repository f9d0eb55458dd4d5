"""Carrying any number of vectors through a map, part by part: what is finished is kept, and the order and ids stay."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from invariances.errors import ParameterError, SpaceError
from invariances.files import StoredSpace
from invariances.fitted import FittedMap, check_alike, read_map
from invariances.outputs import check_output, open_parts, same_file
from invariances.progress import Progress
from invariances.readers import as_tensor, located, read
from invariances.spaces import all_finite
from invariances.tabular import ParquetRows, Table

__all__ = ["PART_ROWS", "Applied", "apply_map"]

PART_ROWS = 65_536
"""Rows of a part of what is not in parts already."""
BATCH_ROWS = 8_192
"""Rows that are carried at once."""
LOOKED_AT = 2_000
"""Rows, from the start, whose looks are compared with those of what the map was fitted on."""
COLUMN = "embedding"
"""What the column of vectors is called where its source has no name for one."""
ID_COLUMN = "id"
"""And the column of ids."""
SUFFIXES = (".parquet", ".npy")
"""Files that are written."""
READ_ONLY = (".npz", ".safetensors", ".csv", ".tsv", ".pt", ".pkl")
"""Names of files that would be no folders."""


@dataclass(frozen=True)
class Applied:
    """What was written."""

    path: Path
    rows: int
    reused: int
    """Rows that an earlier run had finished."""


class _Part(NamedTuple):
    """Consecutive rows of the input that become one file."""

    name: str
    start: int
    rows: int


class _Stream(NamedTuple):
    """What is read from its beginning: a shard, or a whole file; it becomes one part or several."""

    parts: list[_Part]
    batches: Callable[[], Iterator[Table]]


class _Input(NamedTuple):
    streams: list[_Stream]
    stamp: str
    """Changes with the input."""
    column: str
    id_column: str

    @property
    def parts(self) -> list[_Part]:
        return [part for stream in self.streams for part in stream.parts]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def apply_map(
    fitted: FittedMap | str | Path,
    source: str | Path,
    into: str | Path,
    column: str | None = None,
    id_column: str | None = None,
    insist: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Applied:
    """Carry all vectors of a file or folder into the map's target space; for what is in memory, call the map.

    All is read and written in batches. Stopped at any point, the same call goes on with the parts that are finished.

    Parameters
    ----------
    fitted : FittedMap, or the path of one
    source : str or Path
        What `invariances.readers.read` takes.
    into : str or Path
        A ``.parquet`` or ``.npy`` file, or the name of a folder: one Parquet file each for the shards of a folder, or
        for every `PART_ROWS` rows of a file. Vectors are lists in a column named as the source's, beside the ids, in
        single precision.
    column, id_column : str, optional
        Of tables; see `invariances.readers.read`.
    insist : bool
        Do so even if the vectors do not look like those that the map was fitted on.
    force : bool
        Replace a file or folder that another command wrote.
    progress : callable, optional
        Called after every batch with the rows that are done, and with all.

    Returns
    -------
    Applied

    Raises
    ------
    SpaceError
        If the vectors cannot be read, or are not such as the map takes.
    ParameterError
        If the output cannot be written.
    """
    fitted = fitted if isinstance(fitted, FittedMap) else read_map(fitted)
    given = _opened(source, column, id_column)
    _check_first(fitted, given, insist)
    target = _target(Path(into), Path(located(source)[0]), force)
    folder = target if target.suffix not in SUFFIXES else target.with_name(f".{target.name}.parts")
    finished = open_parts(folder, _stamp(fitted, given), replace=force or folder is not target)
    reused = sum(part.rows for part in given.parts if part.name in finished)
    advance = _counter(given.rows, progress)
    for stream in given.streams:
        _carry(fitted, stream, given, folder, advance)
    if folder is not target:
        if target.suffix == ".parquet":
            _merge_parquet(folder, given, target)
        else:
            _merge_npy(folder, given, target, len(fitted.bias))
        shutil.rmtree(folder)
    return Applied(target, given.rows, reused)


def _counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """Add up rows for a report of progress."""
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    return advance


# The input ----------------------------------------------------------------------------------------


def _opened(source: str | Path, column: str | None, id_column: str | None) -> _Input:
    path, inside = located(source)
    if path.is_dir() or path.suffix == ".parquet":
        rows = ParquetRows(path, f"vectors: {path}", inside or column, id_column)
        counts = zip(rows.paths, rows.lengths, strict=True)
        streams = [
            _Stream(
                [_Part(shard.name, 0, count)] if path.is_dir() else _pieces(count),
                partial(rows.of_shard, place, BATCH_ROWS),
            )
            for place, (shard, count) in enumerate(counts)
        ]
        return _Input(streams, _of_files(rows.paths), rows.vector_column or COLUMN, rows.id_column or ID_COLUMN)
    found = read(source, "vectors", column, id_column)
    if len(found.values.shape) != 2:
        raise SpaceError(f"{source} holds vectors of shape {tuple(found.values.shape)}; give one vector a row")
    values = found.values if isinstance(found.values, StoredSpace) else as_tensor(found.values, "vectors")
    stream = _Stream(_pieces(len(values)), partial(_in_batches, values, found.ids))
    return _Input([stream], _of_files([path]), COLUMN, id_column or ID_COLUMN)


def _pieces(n: int) -> list[_Part]:
    starts = range(0, n, PART_ROWS)
    return [_Part(f"part-{i:05d}.parquet", start, min(PART_ROWS, n - start)) for i, start in enumerate(starts)]


def _in_batches(values: Any, ids: pd.Index | None) -> Iterator[Table]:
    for first in range(0, len(values), BATCH_ROWS):
        rows = slice(first, min(first + BATCH_ROWS, len(values)))
        yield Table(values[rows].numpy(force=True), None if ids is None else ids[rows])


def _take(batches: Iterator[Table], left: list[Table], n: int) -> Iterator[Table]:
    """The next `n` rows; what a batch holds more is left for the next part."""
    while n > 0:
        table = left.pop() if left else next(batches, None)
        if table is None:
            return
        head, rest = (
            Table(table.values[rows], None if table.ids is None else table.ids[rows])
            for rows in (slice(None, n), slice(n, None))
        )
        if len(rest.values):
            left.append(rest)
        n -= len(head.values)
        yield head


def _of_files(paths: list[Path]) -> str:
    """What changes when files do."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def _check_first(fitted: FittedMap, given: _Input, insist: bool) -> None:
    first = next((table for stream in given.streams for table in stream.batches()), None)
    if first is None:
        raise SpaceError("the input holds no vectors; give a file or folder that does")
    x = _samples(first, fitted, 0)
    if not insist:
        check_alike(x[:LOOKED_AT], fitted.source, "the input")


def _samples(table: Table, fitted: FittedMap, start: int) -> torch.Tensor:
    """Rows as the map takes them."""
    x = torch.from_numpy(np.array(table.values, dtype="f4", order="C"))
    if x.ndim != 2 or x.shape[1] != fitted.width:
        raise SpaceError(
            f"the input has vectors of shape {tuple(x.shape[1:])}, the map takes {fitted.width} features; give vectors "
            "of the model that it was fitted on"
        )
    if not all_finite(x):
        row = start + int((~x.isfinite().all(dim=1)).float().argmax())
        raise SpaceError(f"row {row} of the input holds NaN or infinity; repair or drop such rows")
    return x


# The output ---------------------------------------------------------------------------------------


def _target(into: Path, source: Path, force: bool) -> Path:
    if source.exists() and (same_file(into, source) or (source.is_dir() and same_file(into.parent, source))):
        raise ParameterError(f"{into} is the input or lies in it; give the output a name of its own")
    if importlib.util.find_spec("pyarrow") is None:
        raise ParameterError("parts are Parquet files, which need pyarrow; run pip install 'invariances[tables]'")
    if into.suffix in SUFFIXES:
        return check_output(into, [source] if source.is_file() else [], force=force)
    if into.suffix in READ_ONLY:
        raise ParameterError(f"{into} would be a {into.suffix} file; give a .parquet or .npy file, or a folder")
    if into.exists() and not into.is_dir():
        raise ParameterError(f"{into} is a file; give the name of a folder, or a .parquet or .npy file")
    return into


def _stamp(fitted: FittedMap, given: _Input) -> dict[str, str]:
    weights = hashlib.sha256(fitted.weight.numpy().tobytes() + fitted.bias.numpy().tobytes()).hexdigest()
    return {"map": weights, "input": given.stamp}


def _carry(fitted: FittedMap, stream: _Stream, given: _Input, folder: Path, advance: Callable[[int], None]) -> None:
    """Write the parts of a stream that are not there yet; what comes before them has to be read all the same."""
    missing = [part for part in stream.parts if not (folder / part.name).exists()]
    batches: Iterator[Table] = stream.batches() if missing else iter(())
    left: list[Table] = []
    for part in stream.parts:
        if part in missing:
            _write_part(fitted, part, _take(batches, left, part.rows), given, folder / part.name, advance)
            continue
        for _ in _take(batches, left, part.rows):
            pass
        advance(part.rows)


def _write_part(
    fitted: FittedMap, part: _Part, tables: Iterator[Table], given: _Input, place: Path, advance: Callable[[int], None]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary, start, writer = place.with_name(f".{place.name}.part"), part.start, None
    try:
        for table in tables:
            mapped = fitted(_samples(table, fitted, start)).numpy()
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(mapped.reshape(-1)), mapped.shape[1])
            columns = {} if table.ids is None else {given.id_column: pa.array(table.ids)}
            batch = pa.table(columns | {given.column: vectors})
            writer = writer or pq.ParquetWriter(temporary, batch.schema, compression="none", use_dictionary=False)
            writer.write_table(batch)
            start += len(mapped)
            advance(len(mapped))
        if writer is None or start < part.start + part.rows:
            raise SpaceError(f"the input ends at row {start}, before its last; save it again")
        writer.close()
        temporary.replace(place)
    finally:
        if writer is not None:
            writer.close()
        temporary.unlink(missing_ok=True)


def _merge_parquet(folder: Path, given: _Input, target: Path) -> None:
    import pyarrow.parquet as pq

    temporary, writer = folder / "whole", None
    for part in given.parts:
        file = pq.ParquetFile(folder / part.name)
        writer = writer or pq.ParquetWriter(temporary, file.schema_arrow, compression="none", use_dictionary=False)
        for batch in file.iter_batches(BATCH_ROWS):
            writer.write_batch(batch)
    if writer is not None:
        writer.close()
    temporary.replace(target)


def _merge_npy(folder: Path, given: _Input, target: Path, width: int) -> None:
    import pyarrow.parquet as pq

    temporary = folder / "whole"
    with temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (given.rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in given.parts:
            for batch in pq.ParquetFile(folder / part.name).iter_batches(BATCH_ROWS, columns=[given.column]):
                file.write(batch.column(0).flatten().to_numpy(zero_copy_only=False).astype("<f4").tobytes())
    temporary.replace(target)
