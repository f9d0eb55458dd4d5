"""Is the folder of Parquet files what it should be: schemas, labels, pictures, checksums."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, NonNegativeInt, TypeAdapter, ValidationError
from tqdm import tqdm

from invariances.errors import DataError
from invariances.zoo.locating import file_sha256, parquet_files, write_json
from invariances.zoo.sources import REGISTRY, Source, names_digest

__all__ = ["PICTURES", "Report", "check", "write_manifest"]


MANIFEST = "manifest.json"
PICTURES = 100
"""Pictures of each split that are decoded; drawn with a fixed seed."""


class Listed(BaseModel):
    """What a manifest says of a file."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: NonNegativeInt | None = None
    rows: NonNegativeInt | None = None


class Report(NamedTuple):
    """What was looked at, and what is wrong."""

    table: pd.DataFrame
    """One row per data set."""
    manifest: str
    """Which manifest was used, and how many files are on it."""
    problems: list[str]
    """One line each; none if all is well."""


def check(folder: Path) -> Report:
    """Look through all data sets of a folder, and compare its files with the manifest beside them.

    Raises
    ------
    DataError
        If there is no such folder, or its manifest cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; set INVARIANCES_DATA to the folder of the Parquet files")
    name, listed = _manifest(folder)
    rows, problems = [], []
    for data_set, source in tqdm(REGISTRY.items(), "contents", disable=None):
        row, found = _check_data_set(data_set, source, folder)
        rows.append(row)
        problems += found
    for path, entry in tqdm(listed.items(), "checksums", disable=None):
        problems += _against_manifest(folder, path, entry)
    if not listed:
        return Report(pd.DataFrame(rows), "there is none, so checksums were not compared", problems)
    unlisted = len(_all_parquet(folder) - set(listed))
    more = f"; {unlisted} Parquet files are not on it" if unlisted else ""
    return Report(pd.DataFrame(rows), f"{name}, with {len(listed)} files{more}", problems)


def write_manifest(folder: Path) -> Path:
    """Write ``manifest.json`` for all Parquet files below a folder: sha256, bytes and rows.

    Raises
    ------
    DataError
        If there is no file, one cannot be read, or the folder cannot be written.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    listed, place = {}, folder / MANIFEST
    for path in sorted(_all_parquet(folder)):
        file = folder / path
        try:
            rows = parquet.read_metadata(file).num_rows
            listed[path] = {"sha256": file_sha256(file), "bytes": file.stat().st_size, "rows": rows}
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{file} cannot be read ({type(error).__name__}); replace it or take it away") from error
    if not listed:
        raise DataError(f"there is no Parquet file under {folder}; put some there, or set INVARIANCES_DATA elsewhere")
    try:
        write_json(place, listed)
    except OSError as error:
        raise DataError(f"{place} cannot be written ({error.strerror}); make the folder writable") from error
    return place


# Manifests -------------------------------------------------------------------------------------


def _all_parquet(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")}


def _manifest(folder: Path) -> tuple[str, dict[str, Listed]]:
    """The name of the manifest beside the data, and what it lists; nothing where there is none."""
    place = folder / MANIFEST
    if place.is_file():
        try:
            listed = TypeAdapter(dict[str, Listed]).validate_json(place.read_bytes())
        except ValidationError as error:
            raise DataError(
                f"{place} is no list of files with their sha256, bytes and rows; "
                "write it anew with `invariances data --manifest`"
            ) from error
        if not all(map(_is_inside, listed)):
            raise DataError(f"{place} names files outside its folder; write it anew with `invariances data --manifest`")
        return MANIFEST, listed
    return "", {}


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def _against_manifest(folder: Path, path: str, entry: Listed) -> list[str]:
    """The first thing that differs, as a list of one line or none."""
    import pyarrow
    import pyarrow.parquet as parquet

    file = folder / path
    if not file.is_file():
        return [f"{path}: is on the list, but not there"]
    size = file.stat().st_size
    if entry.bytes is not None and size != entry.bytes:
        return [f"{path}: has {size:,} bytes instead of {entry.bytes:,}"]
    if file_sha256(file) != entry.sha256:
        return [f"{path}: its sha256 is not the listed one, so the file has changed"]
    try:
        rows = parquet.read_metadata(file).num_rows
    except (pyarrow.ArrowInvalid, OSError) as error:
        return [f"{path}: cannot be read ({type(error).__name__})"]
    if entry.rows is not None and rows != entry.rows:
        return [f"{path}: has {rows:,} rows instead of {entry.rows:,}"]
    return []


# Contents --------------------------------------------------------------------------------------


def _check_data_set(name: str, source: Source, folder: Path) -> tuple[dict[str, str], list[str]]:
    files = parquet_files(source, folder)
    absent = [split for split, shards in files.items() if not shards]
    if len(absent) == len(files):
        return {"data set": name, "train": "-", "test": "-", "pictures decoded": "-", "contents": "not there"}, []
    problems = [f"{name}: there is no {split} split" for split in absent]
    sizes, decoded = {}, 0
    for split, shards in files.items():
        problems += _missing_shards(shards, folder)
        tables = [_opened(Path(shard), folder, source, problems) for shard in shards]
        readable = [(shard, table) for shard, table in zip(shards, tables, strict=True) if table]
        sizes[split] = sum(table.metadata.num_rows for _, table in readable)
        sample = _sample(sizes[split])
        for shard, table in readable:
            where, rows = Path(shard).relative_to(folder).as_posix(), table.metadata.num_rows
            found, n = _check_cells(table, source, sample[sample < rows])
            problems += [f"{where}: {problem}" for problem in found]
            decoded, sample = decoded + n, sample[sample >= rows] - rows
        if shards and len(readable) == len(shards) and not sizes[split]:
            problems.append(f"{name}: its {split} split has no row")
    row = {
        "data set": name,
        **{split: f"{n:,}" for split, n in sizes.items()},
        "pictures decoded": f"{decoded:,}" if source.kind == "image" else "-",
        "contents": f"{len(problems)} wrong" if problems else "ok",
    }
    return row, problems


def _missing_shards(shards: list[str], folder: Path) -> list[str]:
    """A line if the files of a split are fewer than their names say."""
    counts = {int(found[1]) for shard in shards if (found := re.search(r"-of-(\d+)\.parquet$", shard))}
    if counts <= {len(shards)}:
        return []
    where = Path(shards[0]).relative_to(folder).as_posix()
    return [f"{where}: is one of {max(counts)} files by its name, but {len(shards)} of its split are there"]


def _sample(rows: int) -> np.ndarray:
    """Row numbers of the pictures to decode."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:PICTURES])


def _opened(file: Path, folder: Path, source: Source, problems: list[str]) -> Any:
    """A Parquet file with the columns that are to be read, or None; what is wrong joins the problems."""
    import pyarrow
    import pyarrow.parquet as parquet
    from datasets import Features

    where = file.relative_to(folder).as_posix()
    try:
        table = parquet.ParquetFile(file)
        features = Features.from_arrow_schema(table.schema_arrow)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        problems.append(f"{where}: cannot be read ({type(error).__name__})")
        return None
    problems += [f"{where}: {problem}" for problem in _schema_problems(features, source)]
    return table


def _schema_problems(features: Any, source: Source) -> list[str]:
    """Columns that are missing or of another type than on the hub, and names of labels that differ."""
    problems = []
    for column, wanted in source.columns.items():
        if column not in features:
            problems.append(f"has no column {column}")
        elif _type_of(features[column]) != wanted:
            problems.append(f"column {column} is of type {_type_of(features[column])} instead of {wanted}")
        elif wanted == "class" and column == source.label:
            names = features[column].names
            if names_digest(names) != source.classes.sha256:
                problems.append(
                    f"column {column} has other names of labels than the hub ({_difference(names, source)})"
                )
    return problems


def _type_of(feature: Any) -> str:
    """A column's type in the registry's words."""
    kind = type(feature).__name__
    known = {"Image": "image", "ClassLabel": "class"}
    return known.get(kind) or str(getattr(feature, "dtype", kind)).removeprefix("large_")


def _difference(names: list[str], source: Source) -> str:
    expected = source.classes.names
    if len(names) != source.classes.count:
        return f"{len(names)} instead of {source.classes.count}"
    pairs = [
        f"{i} is {name!r} instead of {right!r}"
        for i, (name, right) in enumerate(zip(names, expected, strict=False))
        if name != right
    ]
    return pairs[0] if pairs else "another order or spelling"


def _check_cells(table: Any, source: Source, sample: np.ndarray) -> tuple[list[str], int]:
    """Labels out of range, empty cells and pictures that do not decode, in one pass over a file.

    Returns
    -------
    problems : list of str
    decoded : int
        Pictures that were decoded.
    """
    import pyarrow

    columns = [name for name in (*source.inputs, source.label, source.document) if name in table.schema_arrow.names]
    drawn, count, start = set(sample.tolist()), Counter(), 0
    try:
        for batch in table.iter_batches(1000, columns=columns):
            cells = batch.to_pydict()
            count["no document"] += sum(name is None for name in cells.pop(source.document, ()))
            for label in cells.pop(source.label, ()):
                count["no label"] += label is None
                count["outside"] += label is not None and label not in source.classes.labels
            for i, row in enumerate(zip(*cells.values(), strict=True), start):
                if _is_empty(row, source.kind):
                    count["empty"] += 1
                elif source.kind == "image" and i in drawn:
                    count["decoded" if _decodes(row[0]["bytes"]) else "broken"] += 1
            start += len(batch)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        return [f"cannot be read to its end ({type(error).__name__})"], count["decoded"]
    labels = source.classes.labels if source.classes else range(0)
    sentences = {
        "no label": f"column {source.label} has {{}} empty cells",
        "no document": f"column {source.document} has {{}} empty cells",
        "outside": f"column {source.label} has {{}} labels outside {labels.start} to {labels.stop - 1}",
        "empty": f"{{}} rows hold no {'picture' if source.kind == 'image' else 'text'}",
        "broken": f"{{}} of the {count['decoded'] + count['broken']} pictures drawn from it cannot be decoded",
    }
    return [text.format(count[what]) for what, text in sentences.items() if count[what]], count["decoded"]


def _is_empty(cells: tuple[Any, ...], kind: str) -> bool:
    """Whether a row lacks its picture, all of its texts (a title alone may be missing), or one translation."""
    if kind == "image":
        return not isinstance(cells[0], dict) or not cells[0].get("bytes")
    filled = [isinstance(text, str) and bool(text.strip()) for text in cells]
    return not (all(filled) if kind == "parallel" else any(filled))


def _decodes(content: bytes) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError):  # what PIL raises for damaged files
        return False
    return True
