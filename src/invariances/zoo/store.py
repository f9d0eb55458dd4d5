"""The store: arrays and trained models on disk, each made once.

An artefact is a safetensors file and a JSON note that holds the file's checksum. Both are written
under a temporary name and renamed, the note last, so that an artefact is there only when it is
whole. Reading verifies the checksum; what is damaged is reported and made again. No pickle is
ever written or read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from safetensors.numpy import load as load_bytes
from safetensors.numpy import save as save_bytes

from invariances.zoo.home import home

log = logging.getLogger(__name__)


class StoreError(RuntimeError):
    """The store cannot be written; the message says where and the remedy."""


class Artefact(NamedTuple):
    """Named arrays and what is to be said of them."""

    arrays: dict[str, np.ndarray]
    note: dict[str, Any]


def path(kind: str, key: str) -> Path:
    """Where the arrays of an artefact lie; its note lies beside them as ``.json``."""
    return home() / kind / f"{key}.safetensors"


def has(kind: str, key: str) -> bool:
    """Whether an artefact is there; its checksum is verified only by `load`."""
    return path(kind, key).is_file() and path(kind, key).with_suffix(".json").is_file()


def load(kind: str, key: str) -> Artefact | None:
    """Read an artefact, or None where there is none or it is damaged (which is logged)."""
    if not has(kind, key):
        return None
    place = path(kind, key)
    content = place.read_bytes()
    try:
        said = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
        if _checksum(content, said["note"]) == said["sha256"]:
            return Artefact(load_bytes(content), said["note"])
    except (ValueError, KeyError, TypeError):
        pass  # an unreadable note is damage as well
    log.warning("%s is damaged and will be made again", place)
    return None


def save(kind: str, key: str, artefact: Artefact) -> None:
    """Write an artefact.

    Raises
    ------
    StoreError
        If the folder cannot be written or the disk is full; nothing half-written is left.
    """
    place = path(kind, key)
    content = save_bytes({name: np.asarray(array, order="C") for name, array in artefact.arrays.items()})
    said = {"sha256": _checksum(content, artefact.note), "note": artefact.note}
    with _writing():
        place.parent.mkdir(parents=True, exist_ok=True)
        _replace(place, content)
        _replace(place.with_suffix(".json"), json.dumps(said, indent=1, sort_keys=True).encode())


def fetch(kind: str, key: str, make: Callable[[], Artefact]) -> Artefact:
    """Read an artefact, or make and save it; of two processes that want it, one makes it.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    found = load(kind, key)
    if found is not None:
        return found
    lock = FileLock(path(kind, key).with_suffix(".lock"))
    with _writing():
        path(kind, key).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        found = load(kind, key)  # another process may have made it meanwhile
        if found is None:
            found = make()
            save(kind, key, found)
    finally:
        lock.release()
    return found


def _checksum(content: bytes, note: dict[str, Any]) -> str:
    """Over the arrays and what is said of them."""
    return hashlib.sha256(content + json.dumps(note, sort_keys=True).encode()).hexdigest()


@contextmanager
def _writing() -> Iterator[None]:
    """Turn what the file system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to the store at {home()} ({error.strerror}); "
            "free some space or set INVARIANCES_HOME elsewhere"
        ) from error


def _replace(place: Path, content: bytes) -> None:
    temporary = place.with_name(place.name + ".part")
    try:
        temporary.write_bytes(content)
        temporary.replace(place)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
