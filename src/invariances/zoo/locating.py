"""Where a data set lies: the embedded stand-in, a folder of Parquet, or the hub."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from invariances.errors import DataError
from invariances.zoo import builtin
from invariances.zoo.home import data_folder, home
from invariances.zoo.sources import (
    Source,
    hub_is_reachable,
    source_named,
)

__all__ = [
    "Located",
    "PICTURES_WORTH_A_BAR",
    "STRICT",
    "View",
    "file_sha256",
    "hub_revision",
    "locate",
    "parquet_files",
    "write_json",
]


STRICT = ConfigDict(extra="forbid")
PICTURES_WORTH_A_BAR = 3000
"""From so many pictures on, decoding shows a progress bar."""


@dataclass(frozen=True, config=STRICT)
class View:
    """How a data set becomes arrays: how many samples, of what size."""

    dataset: str
    data: str
    """One of "auto", "builtin", or the path of a folder of hub-schema Parquet."""
    n_train: PositiveInt
    n_test: PositiveInt
    pixels: NonNegativeInt = 0
    """Side of the square that pictures are brought to."""
    channels: Literal[0, 1, 3] = 0
    tokenizer: str = ""
    """Of texts: "wordpiece" or "byte-bpe", learnt from the training text; "characters", for encoders that read whole
    texts; or the name of a pretrained checkpoint."""
    vocabulary: NonNegativeInt = 0
    """Size of a vocabulary that is learnt."""
    length: NonNegativeInt = 0
    """Tokens per text; longer ones are cut, shorter ones padded."""
    n_parallel: NonNegativeInt = 0
    """Parallel sentences to encode beside the texts."""
    seed: NonNegativeInt = 0
    """Draws the samples, where there are more than are asked for."""
    parallel: Literal["multi30k", "ntrex"] = "multi30k"
    """Where parallel sentences come from."""
    coarse: bool = False
    """Whether labels are taken together as the source says, and others left out."""


class Located(NamedTuple):
    """A data set that was found."""

    title: str
    source: str
    fingerprint: str
    files: dict[str, list[str]] | None
    """Parquet by split, perhaps in several shards; None for the embedded stand-ins and the hub."""
    revision: str | None


def locate(name: str, data: str = "auto") -> Located:
    """Find a data set: the embedded stand-in, a folder of Parquet, or the hub.

    Raises
    ------
    DataError
        If it cannot be had; the message says what is missing and how to get it.
    """
    source = source_named(name)
    if source.own:
        return Located(
            f"{name} ({Path(source.own).name})", "the given folder", source.revision or "", None, source.revision
        )
    if data == "builtin":
        if source.stand_in is None:
            raise DataError(
                f"there is no embedded stand-in for {name}; set INVARIANCES_DATA or leave this data set out"
            )
        title = f"{source.stand_in} (stand-in for {name})"
        return Located(title, "embedded in this package", f"builtin-{builtin.VERSION}", None, None)
    folder = data_folder() if data == "auto" else Path(data).expanduser().absolute()
    files = parquet_files(source, folder) if folder else {}
    absent = [split for split, shards in files.items() if not shards]
    if files and not absent:
        where = "INVARIANCES_DATA" if data == "auto" else "the given folder"
        return Located(name, where, _fingerprint(files), files, None)
    commit = hub_revision(source.hub, source.revision) if data == "auto" else None
    if commit:
        revision = source.revision if source.pinned else commit
        return Located(name, f"hub {source.hub} at {revision[:12]}", revision, None, revision)
    split = absent[0] if absent else "train"
    wanted = "/".join(filter(None, (source.hub, source.language, f"{split}-00000-of-00001.parquet")))
    if folder:
        looked = f"there is no {wanted} under {'INVARIANCES_DATA' if data == 'auto' else folder}"
    else:
        looked = "INVARIANCES_DATA is not set"
    at = f" at revision {source.revision[:12]}" if source.pinned else ""
    hub = f", and the hub cannot be reached for {source.hub}{at}" if data == "auto" else ""
    raise DataError(
        f"the data set {name} is missing: {looked}{hub}; put {wanted} under a folder and set INVARIANCES_DATA to it, "
        "connect to a network, or ask for the embedded stand-ins with the parameter data=builtin"
    )


def parquet_files(source: Source, folder: Path) -> dict[str, list[str]]:
    """The Parquet files of a data set in a folder, by split; a split that is not there has none."""
    place = folder / source.hub / (source.language or "")
    return {split: [str(path) for path in sorted(place.glob(f"{split}-*.parquet"))] for split in ("train", "test")}


def _fingerprint(files: dict[str, list[str]]) -> str:
    """One digest for the contents of all files, whatever their place and age."""
    known = _known_digests()
    digests = {split: [_digest(Path(path), known) for path in shards] for split, shards in files.items()}
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path, known: dict[str, list]) -> str:
    """The sha256 of a file, remembered for as long as its size and its time of change stay the same."""
    state = path.stat()
    stamp = [state.st_size, state.st_mtime_ns]
    match known.get(str(path)):
        case [*before, str(digest)] if before == stamp:
            return digest
    digest = file_sha256(path)
    if time.time() - state.st_mtime > 2:  # a file this young may change again within one tick of its clock
        known[str(path)] = [*stamp, digest]
        _remember_digests(known)
    return digest


def _digest_list() -> Path:
    return home() / "checksums.json"


def _known_digests() -> dict[str, list]:
    try:
        known = json.loads(_digest_list().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # what cannot be read is computed anew
    return known if isinstance(known, dict) else {}


def _remember_digests(known: dict[str, list]) -> None:
    """Best effort: a list that cannot be written, or that another process replaces, costs only time."""
    with suppress(OSError):
        home().mkdir(parents=True, exist_ok=True)
        write_json(_digest_list(), known)


def write_json(place: Path, content: Any) -> None:
    """Write a file that is there as a whole or not at all, whoever else writes it.

    Raises
    ------
    OSError
        If it cannot be written; what was there before is still there.
    """
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


@functools.cache
def hub_revision(hub: str, revision: str | None) -> str | None:
    """The commit of a hub data set that is read, or None where it cannot be had within 3 s.

    A pinned commit is never exchanged for a newer one; the name of a branch is resolved.
    """
    if not hub_is_reachable():
        return None
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(hub, revision=revision, timeout=3).sha
    except Exception:  # unreachable, gated and withdrawn data sets all mean: not to be had here
        return None
