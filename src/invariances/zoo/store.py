"""The store: named arrays with a note on disk, each made once; it knows nothing of what they are.

An artefact is a safetensors file and a JSON note that holds the checksum of both and of their name.
Both are written under a temporary name and renamed, the note last, so that an artefact is there only
when it is whole. Reading verifies the checksum; what is damaged is reported and made again. No pickle
is ever written or read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import load as load_bytes
from safetensors.numpy import save as save_bytes

from invariances.errors import StoreError
from invariances.zoo.home import home

__all__ = [
    "Artefact",
    "Contents",
    "NAME",
    "Selection",
    "entries",
    "fetch",
    "fetch_many",
    "has",
    "load",
    "log",
    "path",
    "prune",
    "remove",
    "save",
]


log = logging.getLogger(__name__)

NAME = re.compile(r"(?P<key>[0-9a-f]{20})(\.lock|(\.safetensors|\.json)(\.part)?)")
"""What the store's files are called; `entries` and `prune` see no others."""


class Artefact(NamedTuple):
    """Named arrays, and a note on them."""

    arrays: dict[str, np.ndarray]
    note: dict[str, Any]


# Reading and writing ---------------------------------------------------------------------------


def path(kind: str, key: str) -> Path:
    """Where the arrays of an artefact lie; its note lies beside them as ``.json``."""
    return home() / kind / f"{key}.safetensors"


def has(kind: str, key: str) -> bool:
    """Whether an artefact is there; its checksum is verified only by `load`."""
    with _file_system("read"):
        return path(kind, key).is_file() and path(kind, key).with_suffix(".json").is_file()


def load(kind: str, key: str) -> Artefact | None:
    """Read an artefact, or None where there is none or it is damaged (which is logged).

    Raises
    ------
    StoreError
        If it is there but the disk or its permissions do not let it be read.
    """
    found = _read(kind, key)
    if found is None and has(kind, key):
        log.warning("%s is damaged and will be made again", path(kind, key))
    return found


def save(kind: str, key: str, artefact: Artefact) -> None:
    """Write an artefact.

    Raises
    ------
    StoreError
        If the folder cannot be written or the disk is full; nothing half-written is left.
    """
    place = path(kind, key)
    note = json.loads(json.dumps(artefact.note))  # as it will be read
    with _file_system("write to"):
        content = save_bytes({name: np.asarray(array, order="C") for name, array in artefact.arrays.items()})
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".json").unlink(missing_ok=True)  # the old note would not fit the new arrays
        _replace(place, content)
        _replace(place.with_suffix(".json"), _written(_checksum(kind, key, content, note), note))


def remove(kind: str, key: str) -> None:
    """Delete an artefact, its note first: arrays without a note are no artefact.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    with _file_system("write to"):
        path(kind, key).with_suffix(".json").unlink(missing_ok=True)
        path(kind, key).unlink(missing_ok=True)


def fetch(kind: str, key: str, make: Callable[[], Artefact]) -> Artefact:
    """Read an artefact, or make and save it; of two processes that want it, one makes it.

    Raises
    ------
    StoreError
        If the store cannot be read or written.
    """
    return fetch_many(kind, [key], lambda _: {key: make()})[key]


def fetch_many(kind: str, keys: Sequence[str], make: Callable[[list[str]], dict[str, Artefact]]) -> dict[str, Artefact]:
    """Read artefacts, and make those that are missing in one call; of two processes that want one, one makes it.

    Where all are there, nothing is written, so that a store may be read-only.

    Parameters
    ----------
    kind : str
    keys : sequence of str
    make : callable
        Gets the keys that are missing, in the order of `keys`, and gives back their artefacts by key.

    Returns
    -------
    dict from key to Artefact
        In the order of `keys`.

    Raises
    ------
    StoreError
        If the store cannot be read or written.
    """
    keys = list(dict.fromkeys(keys))
    found = {key: _read(kind, key) for key in keys}
    with ExitStack() as locks:
        for key in sorted(key for key in keys if found[key] is None):  # all processes in one order: no deadlock
            locks.enter_context(_locked(kind, key))
            found[key] = load(kind, key)  # another process may have made it meanwhile
        missing = [key for key in keys if found[key] is None]
        made = make(missing) if missing else {}
        for key in missing:
            save(kind, key, made[key])
    return {key: found[key] or made[key] for key in keys}


@contextmanager
def _locked(kind: str, key: str) -> Iterator[None]:
    """Hold an artefact's lock, which the system takes back from a process that dies."""
    place = path(kind, key).with_suffix(".lock")
    lock = FileLock(place)
    with _file_system("write to"):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
        with suppress(OSError):
            place.unlink()  # the artefact is there now: who still waits finds it
    finally:
        lock.release()


def _read(kind: str, key: str) -> Artefact | None:
    """An artefact that is there and whole."""
    place = path(kind, key)
    with _file_system("read"):
        try:
            content, written = place.read_bytes(), place.with_suffix(".json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            known = json.loads(written)
            # written anew, so that not a byte of it can differ
            if written == _written(_checksum(kind, key, content, known["note"]), known["note"]):
                return Artefact(load_bytes(content), known["note"])
        except (ValueError, KeyError, TypeError, SafetensorError):
            pass  # an unreadable note is damage as well
    return None


def _checksum(kind: str, key: str, content: bytes, note: dict[str, Any]) -> str:
    """Over the name, the arrays and what is said of them."""
    digest = hashlib.sha256(f"{kind}/{key}\n".encode())
    digest.update(content)
    digest.update(json.dumps(note, sort_keys=True).encode())
    return digest.hexdigest()


def _written(checksum: str, note: dict[str, Any]) -> bytes:
    """The bytes of a note's file."""
    return json.dumps({"sha256": checksum, "note": note}, indent=1, sort_keys=True).encode()


@contextmanager
def _file_system(what: str) -> Iterator[None]:
    """Turn what the file system refuses into one sentence."""
    try:
        yield
    except (OSError, MemoryError, NotImplementedError) as error:  # the last where a file system has no locks
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        remedy = "free some space" if what == "write to" else "check the disk and the folder's permissions"
        raise StoreError(
            f"cannot {what} the store at {home()} ({reason}); {remedy} or set INVARIANCES_HOME elsewhere"
        ) from error


def _replace(place: Path, content: bytes) -> None:
    temporary = place.with_name(place.name + ".part")
    try:
        temporary.write_bytes(content)
        temporary.replace(place)
    except BaseException:  # Ctrl-C as well
        temporary.unlink(missing_ok=True)
        raise


# Listing and pruning ---------------------------------------------------------------------------


class Entry(NamedTuple):
    """One line of the listing."""

    kind: str
    key: str
    what: str
    bytes: int
    modified: pd.Timestamp
    state: str
    """stored (not verified), whole, damaged, leftover, or in use by a running process."""
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Contents:
    """What the owner of the artefacts knows of them; the store itself does not."""

    title: Callable[[str, dict[str, Any]], str] = lambda kind, note: ""
    """What an artefact of a kind with a note is called in the listing."""
    obsolete: Callable[[str, str, dict[str, Any]], bool] = lambda kind, key, note: False
    """Whether an artefact of a kind, with a key and a note, is needed no longer."""


@dataclass(frozen=True)
class Selection:
    """Which artefacts `prune` looks at, and which it deletes beside what is left over."""

    kind: str | None = None
    """Look only at "models", "arrays", ..."""
    older_than: float | None = None
    """Delete also artefacts that were made more than so many days ago."""
    everything: bool = False
    """Delete all artefacts."""
    verify: bool = False
    """Read everything, and delete what is damaged."""

    def takes(self, entry: Entry) -> bool:
        """Whether an entry is to be deleted."""
        if entry.state == "in use":
            return False
        if entry.state in ("leftover", "damaged") or self.everything:
            return True
        return self.older_than is not None and entry.modified < pd.Timestamp.now() - pd.Timedelta(days=self.older_than)


def entries(verify: bool = False, contents: Contents | None = None) -> pd.DataFrame:
    """What lies in the store, one row per artefact and per file that is left over.

    Parameters
    ----------
    verify : bool
        Read everything and compare the checksums.
    contents : Contents, optional
        What is known of the artefacts.

    Returns
    -------
    DataFrame
        Columns ``kind``, ``key``, ``what``, ``bytes``, ``modified`` and ``state``: stored (whole or damaged
        where it was verified), leftover, or in use by a running process.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    known = contents or Contents()
    with _file_system("read"):
        found = [entry for kind, key in _keys() for entry in _look(kind, key, verify, _held(kind, key), known)]
    return _frame(found)


def prune(selection: Selection, contents: Contents | None = None, dry_run: bool = False) -> pd.DataFrame:
    """Delete what is left over; on request also artefacts that are whole, but never what a process works on.

    Left over are half-written files, locks that no process holds, artefacts that are obsolete, and one file of two.

    Parameters
    ----------
    selection : Selection
    contents : Contents, optional
        What is known of the artefacts.
    dry_run : bool
        Only say what would be deleted.

    Returns
    -------
    DataFrame
        What was deleted, as `entries` lists it.

    Raises
    ------
    StoreError
        If the store cannot be read or written.
    """
    known, chosen = contents or Contents(), []
    with _file_system("write to"):
        for kind, key in _keys():
            if selection.kind not in (None, kind):
                continue
            if dry_run:
                looked = _look(kind, key, selection.verify, _held(kind, key), known)
                chosen += [entry for entry in looked if selection.takes(entry)]
            else:
                chosen += _prune_key(kind, key, selection, known)
    return _frame(chosen)


def _prune_key(kind: str, key: str, selection: Selection, contents: Contents) -> list[Entry]:
    lock = path(kind, key).with_suffix(".lock")
    was_there = lock.is_file()
    try:
        with FileLock(lock).acquire(blocking=False):
            looked = _look(kind, key, selection.verify, held=False, contents=contents)
            removed = [e for e in looked if selection.takes(e) and (was_there or e.files != (lock,))]
            for place in (place for entry in removed for place in entry.files):
                place.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            return removed
    except Timeout:
        return []  # a process works on it


def _keys() -> list[tuple[str, str]]:
    """Kind and key of everything that has a file in the store."""
    found = ((place.parent.name, NAME.fullmatch(place.name)) for place in sorted(home().glob("*/*")))
    return list(dict.fromkeys((kind, named["key"]) for kind, named in found if named))


def _look(kind: str, key: str, verify: bool, held: bool, contents: Contents) -> list[Entry]:
    """The lines of one key: its artefact, and what is left over."""
    arrays, lock = path(kind, key), path(kind, key).with_suffix(".lock")
    note = arrays.with_suffix(".json")
    found = []
    if has(kind, key):
        known = _note(note)
        state = ("damaged" if _read(kind, key) is None else "whole") if verify else "stored"
        if contents.obsolete(kind, key, known):
            state = "leftover"
        found.append((contents.title(kind, known), state, (note, arrays)))
    else:
        found += [("one file of two", "leftover", (place,)) for place in (note, arrays) if place.is_file()]
    parts = [place.with_name(f"{place.name}.part") for place in (note, arrays)]
    found += [("half-written file", "leftover", (place,)) for place in parts if place.is_file()]
    if lock.is_file():
        found.append(("lock", "leftover", (lock,)))
    return [Entry(kind, key, what, *_size(files), "in use" if held else state, files) for what, state, files in found]


def _held(kind: str, key: str) -> bool:
    """Whether a running process holds an artefact's lock."""
    lock = path(kind, key).with_suffix(".lock")
    if not lock.is_file():
        return False
    try:
        with FileLock(lock).acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # where nothing can be written, nobody works


def _note(place: Path) -> dict[str, Any]:
    """What a note says, as far as it can be read."""
    try:
        note = json.loads(place.read_bytes())["note"]
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return {}
    return note if isinstance(note, dict) else {}


def _size(files: Iterable[Path]) -> tuple[int, pd.Timestamp]:
    """Bytes of files, and when the last was written; what another process took away meanwhile counts nothing."""
    size, last = 0, 0.0
    for place in files:
        try:
            status = place.stat()
        except FileNotFoundError:
            continue
        size, last = size + status.st_size, max(last, status.st_mtime)
    return size, pd.Timestamp.fromtimestamp(last)


def _frame(found: Iterable[Entry]) -> pd.DataFrame:
    return pd.DataFrame(found, columns=list(Entry._fields)).drop(columns="files")
