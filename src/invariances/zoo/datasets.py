"""Data sets as arrays on disk, each made once from what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pandas as pd
from pydantic.dataclasses import dataclass

from invariances.errors import DataError
from invariances.zoo import store
from invariances.zoo.decoding import decode
from invariances.zoo.home import data_folder
from invariances.zoo.locating import STRICT, Located, View, locate
from invariances.zoo.sources import (
    REGISTRY,
    source_named,
)

__all__ = ["Prepared", "load", "prepare", "status"]


ARRAYS_VERSION = 3
"""Counted up whenever the decoded arrays would change for the same source."""


@dataclass(frozen=True, config=STRICT)
class Prepared:
    """A data set as arrays on disk, and what to say of it."""

    key: str
    title: str
    """What tables call it, e.g. "mnist" or "digits (stand-in for mnist)"."""
    source: str
    """Where it came from."""
    classes: tuple[str, ...]
    n_train: int
    n_test: int
    n_parallel: int
    vocabulary: int


def status(data: str = "auto") -> pd.DataFrame:
    """What can be reached, from where, and how many samples; a missing data set is a row too.

    Raises
    ------
    DataError
        If INVARIANCES_DATA is to be read but names no folder.
    """
    if data == "auto":
        data_folder()
    return pd.DataFrame([_status_row(name, data) for name in REGISTRY])


def _status_row(name: str, data: str) -> dict[str, Any]:
    source = REGISTRY[name]
    row = {
        "data set": name,
        "hub id": "/".join(filter(None, (source.hub, source.language))),
        "revision": source.revision[:7] if source.pinned else source.revision or "main",
    }
    sizes = {"from": "missing", "train": "-", "test": "-"}
    with suppress(DataError):
        sizes = _sizes(locate(name, data))
    return {**row, **sizes, "classes": str(source.classes.count) if source.classes else "-", "licence": source.licence}


def _sizes(found: Located) -> dict[str, str]:
    """Where it is from, and the rows of each split."""
    import pyarrow
    import pyarrow.parquet as parquet

    if not found.files:
        return {"from": found.source, "train": "?", "test": "?"}
    try:
        rows = {s: sum(parquet.read_metadata(p).num_rows for p in shards) for s, shards in found.files.items()}
    except (pyarrow.ArrowInvalid, OSError):
        return {"from": f"{found.source}, unreadable", "train": "-", "test": "-"}
    return {"from": found.source, **{split: f"{n:,}" for split, n in rows.items()}}


def prepare(view: View) -> Prepared:
    """Decode a data set once and keep it; a second call finds the arrays on disk.

    Fewer samples than the view asks for are used, and said, where the source has fewer.

    Raises
    ------
    DataError
        If the data set cannot be had, or has no sample.
    """
    kind = source_named(view.dataset).kind
    if kind == "parallel":
        raise DataError(
            f"{view.dataset} has no classes of its own; it only offers parallel sentences to other data sets"
        )
    if view.tokenizer and view.length < 3:
        raise DataError(
            f"the view of {view.dataset} has no room for a token between its two end marks; use length >= 3"
        )
    if (kind == "image") != bool(view.pixels and view.channels) or (kind == "text") != bool(view.tokenizer):
        raise DataError(f"the view of {view.dataset} is no view of {kind}s; give pixels and channels, or a tokenizer")
    if view.coarse and not source_named(view.dataset).coarse:
        raise DataError(f"{view.dataset} has no coarse classes; leave coarse out")
    found = locate(view.dataset, view.data)
    parallel = locate(view.parallel, view.data).fingerprint if view.n_parallel else ""
    spec = {**asdict(view), "data": found.fingerprint, "parallel": parallel, "version": ARRAYS_VERSION}
    # these fields came later: where they say nothing, arrays keep the key that they had
    if view.parallel != "multi30k":
        spec["sentences"] = view.parallel
    if not view.coarse:
        del spec["coarse"]
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:20]
    note = store.fetch("arrays", key, lambda: decode(view, found)).note
    return Prepared(key=key, title=_title(found, view, note["classes"]), source=found.source, **note)


IMAGENETTE = {
    *("tench", "English springer", "cassette player", "chain saw", "church"),
    *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
}
"""The classes of the subset of ImageNet that goes by this name."""


def _title(found: Located, view: View, classes: Sequence[str]) -> str:
    """What tables call a data set: its name, and of how many classes where these are not those that it is known by."""
    whole = source_named(view.dataset).classes
    if view.coarse:
        return f"{found.title}, {len(classes)} coarse classes"
    if view.data == "builtin" or whole is None or len(classes) == whole.count:
        return found.title
    named = " (Imagenette)" if {name.partition(",")[0] for name in classes} == IMAGENETTE else ""
    return f"{found.title}, {len(classes)} classes{named}"


def load(key: str) -> store.Artefact:
    """A prepared data set, as `prepare` left it.

    Its arrays are ``train_x``, ``train_y``, ``test_x``, ``test_y``, perhaps ``parallel_x`` and, where the
    source tells, ``parallel_document``, the number of each sentence's document: pictures are uint8 of
    shape (n, channels, pixels, pixels), texts int32 token ids of shape (n, length). Its note holds
    ``classes`` and ``vocabulary``.

    Raises
    ------
    DataError
        If it is gone or damaged since.
    """
    found = store.load("arrays", key)
    if found is None:
        raise DataError(f"the decoded arrays {key} are missing or damaged; run again, and they are decoded anew")
    return found
