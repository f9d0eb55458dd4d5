"""Somebody's own samples: texts in a file or in files, pictures in a folder, read one by one, with their classes."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from invariances.errors import DataError

__all__ = ["Inputs", "read_inputs"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""Files that are taken for pictures."""
TEXT_NAMES = ("text", "texts", "sentence", "content", "body")
"""Columns that are taken for the texts, in small letters, where there are several of words."""
LABEL_NAMES = ("label", "labels", "class", "category", "target")
"""Columns that are taken for the classes, in small letters."""
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
        A folder of pictures or of ``.txt`` files, whose folders name classes if there are any; a ``.txt`` file with a
        text in each line; or a ``.csv``, ``.tsv`` or ``.parquet`` file with a column of texts, and perhaps one called
        "label".
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
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _texts(path, column, id_column)
    raise DataError(
        f"there are no samples at {textwrap.shorten(data, 100)}; give a folder of pictures or of .txt files, or a "
        ".txt, .csv, .tsv or .parquet file"
    )


def _folder(folder: Path) -> Inputs:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    if pictures:
        return _of_files(folder, pictures, "image")
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    if texts:
        return _of_files(folder, texts, "text")
    raise DataError(f"{folder} holds no pictures ({', '.join(PICTURES)}) and no .txt files; give a folder that does")


def _of_files(folder: Path, files: list[Path], kind: Literal["text", "image"]) -> Inputs:
    ids = [path.relative_to(folder).as_posix() for path in files]
    classes = [path.parent.relative_to(folder).as_posix() for path in files]
    sizes = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in zip(ids, files, strict=True)]
    load = partial(_open_pictures if kind == "image" else _open_texts, files)
    return Inputs(kind, ids, load, _digest(sizes), classes if len(set(classes)) > 1 else None)


def _open_texts(files: Sequence[Path], numbers: Sequence[int]) -> list[Any]:
    return [_read_text(files[number]) for number in numbers]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text; save it as such") from error


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
        texts = _read_text(path).splitlines()
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
    labels = next((name for name in frame if name.lower() in LABEL_NAMES and name != column), None)
    chosen = column or _text_column(frame.drop(columns=[name for name in (ids, labels) if name]), path)
    missing = frame[chosen].isna()
    if missing.any():
        raise DataError(f"{path}: {missing.sum()} texts are missing (first: row {missing.argmax()}); drop these rows")
    named_ids = frame[ids].astype(str) if ids else pd.Series(range(len(frame))).astype(str)
    found = _of_texts(path, frame[chosen].astype(str).tolist(), named_ids.tolist())
    if labels is None:
        return found
    if frame[labels].isna().any():
        raise DataError(f"{path}: {frame[labels].isna().sum()} labels are missing; fill them in, or drop these rows")
    return replace(found, labels=frame[labels].astype(str).tolist())


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


def _digest(of: Any) -> str:
    return hashlib.sha256(repr(of).encode("utf-8", "surrogatepass")).hexdigest()
