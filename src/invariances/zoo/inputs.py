"""Somebody's own samples: texts in a file, pictures in a folder, or a data set of the registry, one by one."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from invariances.errors import DataError
from invariances.zoo.decoding import joined, load_split
from invariances.zoo.locating import locate
from invariances.zoo.sources import REGISTRY

__all__ = ["Inputs", "read_inputs"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""Files that are taken for pictures."""
TEXT_NAMES = ("text", "texts", "sentence", "content", "body")
"""Columns that are taken for the texts, in small letters, where there are several of words."""
ID_NAMES = ("id", "ids", "doc", "document_id")
"""Columns that are taken for the ids, in small letters."""


@dataclass(frozen=True)
class Inputs:
    """Samples in their order, each read when it is asked for."""

    kind: Literal["text", "image"]
    ids: list[str]
    load: Callable[[Sequence[int]], list[Any]]
    """Texts, or pictures as PIL has them, by their numbers."""
    stamp: str
    """Changes with the samples."""
    labels: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, n: int | None) -> Inputs:
        """At most so many of them."""
        labels = self.labels if self.labels is None else self.labels[:n]
        return replace(self, ids=self.ids[:n], labels=labels)


def read_inputs(data: str, column: str | None = None, id_column: str | None = None) -> Inputs:
    """Find somebody's samples.

    Parameters
    ----------
    data : str
        A folder of pictures, whose folders name classes if there are any; a ``.txt`` file with a text in each line; a
        ``.csv``, ``.tsv`` or ``.parquet`` file with a column of texts; or a data set of the registry, of which the test
        samples are taken, or others: ``trec:train``.
    column : str, optional
        Of a table: the texts; by default its only column of words, or one called "text".
    id_column : str, optional
        Of a table: the ids; by default one called "id", or else the rows are counted.

    Raises
    ------
    DataError
        If there are none, or it is not clear which are meant.
    """
    path = Path(data).expanduser()
    name, _, split = data.partition(":")
    if path.is_dir():
        return _pictures(path)
    if path.is_file():
        return _texts(path, column, id_column)
    if name in REGISTRY:
        return _registered(name, split or "test")
    shown = textwrap.shorten(data, 100)
    raise DataError(
        f"there are no samples at {shown}; give a folder of pictures, a .txt, .csv, .tsv or .parquet file, or one of "
        f"{', '.join(REGISTRY)}"
    )


def _pictures(folder: Path) -> Inputs:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not files:
        raise DataError(f"{folder} holds no pictures ({', '.join(PICTURES)}); give a folder that does")
    ids = [path.relative_to(folder).as_posix() for path in files]
    classes = [path.parent.relative_to(folder).as_posix() for path in files]
    sizes = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in zip(ids, files, strict=True)]
    return Inputs(
        "image", ids, partial(_open_pictures, files), _digest(sizes), classes if len(set(classes)) > 1 else None
    )


def _open_pictures(files: Sequence[Path], numbers: Sequence[int]) -> list[Any]:
    from PIL import Image, UnidentifiedImageError

    found = []
    for number in numbers:
        try:
            with Image.open(files[number]) as picture:
                found.append(picture.convert("RGB"))
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{files[number]} is no picture that can be read; repair it or take it out") from error
    return found


def _texts(path: Path, column: str | None, id_column: str | None) -> Inputs:
    if path.suffix == ".txt":
        try:
            texts = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as UTF-8 text; save it as such") from error
        return _of_texts(path, texts, [str(i) for i in range(len(texts))])
    readers = {".csv": pd.read_csv, ".tsv": partial(pd.read_csv, sep="\t"), ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise DataError(f"{path} is not read; give a .txt, .csv, .tsv or .parquet file, or a folder of pictures")
    try:
        frame = readers[path.suffix](path)
    except Exception as error:  # pandas and pyarrow raise many kinds for damaged files
        raise DataError(f"{path} is damaged or no table ({type(error).__name__}); save it again") from error
    frame.columns = [str(name) for name in frame.columns]
    for named, what in ((column, "column"), (id_column, "id")):
        if named is not None and named not in frame:
            listed = ", ".join(list(frame)[:8])
            raise DataError(f"{path} has no column {named!r}; name another with --{what}, it has {listed}")
    ids = id_column or next((name for name in frame if name.lower() in ID_NAMES), None)
    chosen = column or _text_column(frame.drop(columns=[ids] if ids else []), path)
    missing = frame[chosen].isna()
    if missing.any():
        raise DataError(f"{path}: {missing.sum()} texts are missing (first: row {missing.argmax()}); drop these rows")
    named_ids = frame[ids].astype(str) if ids else pd.Series(range(len(frame))).astype(str)
    return _of_texts(path, frame[chosen].astype(str).tolist(), named_ids.tolist())


def _text_column(frame: pd.DataFrame, path: Path) -> str:
    words = [name for name in frame if isinstance(next(iter(frame[name].dropna()), None), str)]
    usual = [name for name in words if name.lower() in TEXT_NAMES]
    found = usual if len(usual) == 1 else words
    if len(found) != 1:
        listed = ", ".join(words) or "none"
        raise DataError(f"{path} has {len(words)} columns of words ({listed}); name the texts with --column")
    return found[0]


def _of_texts(path: Path, texts: list[str], ids: list[str]) -> Inputs:
    if not texts:
        raise DataError(f"{path} holds no texts; give a file that does")
    if len(set(ids)) < len(ids):
        raise DataError(f"{path}: {len(ids) - len(set(ids))} ids are repeated; give every text its own")
    return Inputs("text", ids, lambda numbers: [texts[number] for number in numbers], _digest([ids, texts]))


def _registered(name: str, split: str) -> Inputs:
    source = REGISTRY[name]
    found = locate(name)
    if source.kind == "parallel":
        raise DataError(f"{name} has sentences of several languages; give a file with a column of one of them")
    splits = list(found.files or {"train": [], "test": []})
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}; choose from {', '.join(splits)}")
    rows = load_split(source, found, split, 10**9)
    labels = [str(label) for label in np.asarray(rows[source.label])]
    ids = [f"{split}-{i}" for i in range(len(rows))]

    def load(numbers: Sequence[int]) -> list[Any]:
        some = rows.select(numbers)
        if source.kind == "image":
            return [picture.convert("RGB") for picture in some[source.inputs[0]]]
        return [joined(parts) for parts in zip(*(some[column] for column in source.inputs), strict=True)]

    return Inputs("image" if source.kind == "image" else "text", ids, load, f"{found.fingerprint} {split}", labels)


def _digest(of: Any) -> str:
    return hashlib.sha256(repr(of).encode("utf-8", "surrogatepass")).hexdigest()
