"""Where a command may write: never over an input, never over a file that is not its own."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from invariances.errors import ParameterError

__all__ = ["check_output", "open_parts", "same_file", "write_whole"]


_NOTE = "_invariances.json"
"""Says in a folder of parts what they follow from."""


def same_file(first: str | Path, second: str | Path) -> bool:
    """Whether two paths name one file, by whatever spelling, link or hard link."""
    try:
        return Path(first).samefile(second)
    except OSError:  # one of them is not there
        return False


def check_output(path: str | Path, inputs: Iterable[str | Path] = (), marker: bytes = b"", force: bool = False) -> Path:
    """Where an output file will be written; call it before the work.

    Parameters
    ----------
    path : str or Path
        A link is followed: the file behind it is written.
    inputs : iterable of paths
        Files that the output must not replace.
    marker : bytes
        What the first bytes of the file hold if an earlier run wrote it; an existing file without it is kept.
    force : bool
        Replace an existing file without the marker, if it is no input.

    Returns
    -------
    Path
        The file itself, behind all links.

    Raises
    ------
    ParameterError
        If it is an input or somebody's file, or cannot be written; the message says why and the remedy.
    """
    target = Path(path).expanduser()
    for given in inputs:
        if same_file(target, given):
            raise ParameterError(f"{path} is one of the inputs ({given}); give the output a name of its own")
    try:
        target = target.resolve()
        if target.is_dir():
            raise ParameterError(f"{path} is a folder; give the name of a file in it")
        if not target.parent.is_dir():
            raise ParameterError(f"the folder {target.parent} is not there; make it first, or give another one")
        if target.exists() and not force and not _written_before(target, marker):
            raise ParameterError(
                f"{path} is there already{' and was not written by this command' if marker else ''}; give --force to "
                "replace it, or another name"
            )
        _try_to_write(target)
    except (OSError, RuntimeError) as error:  # the second for links that go in a circle
        raise ParameterError(f"{path} cannot be written ({_reason(error)}); {_remedy(error)}") from error
    return target


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises
    ------
    ParameterError
        If it cannot be written; the message says why and the remedy.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ParameterError(f"{path} cannot be written ({_reason(error)}); {_remedy(error)}") from error


def open_parts(folder: Path, stamp: Mapping[str, str], replace: bool = False) -> set[str]:
    """Make a folder for the parts of long work, or go on in it.

    Parameters
    ----------
    folder : Path
    stamp : mapping of str
        What the parts follow from. Parts of other work are not gone on with.
    replace : bool
        Delete the parts of other work.

    Returns
    -------
    set of str
        Names of the files that are finished.

    Raises
    ------
    ParameterError
        If the folder holds something else, or cannot be written.
    """
    note = folder / _NOTE
    try:
        if note.is_file() and note.read_text() == json.dumps(dict(stamp)):
            return {path.name for path in folder.iterdir() if not path.name.startswith((".", "_"))}
        if folder.is_dir() and any(folder.iterdir()):
            if not replace:
                raise ParameterError(
                    f"{folder} holds other files, or parts of other work; give --force to replace these, or another "
                    "folder"
                )
            for old in [*folder.glob("*.parquet"), *folder.glob("*.safetensors")]:
                old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(dict(stamp)))
    except OSError as error:
        raise ParameterError(f"{folder} cannot be written ({_reason(error)}); {_remedy(error)}") from error
    return set()


def _written_before(target: Path, marker: bytes) -> bool:
    if not target.is_file():  # a device or a pipe holds nothing that could be lost
        return True
    with target.open("rb") as file:
        head = file.read(4096)
    return not head or (bool(marker) and marker in head)


def _try_to_write(target: Path) -> None:
    if target.exists():
        with target.open("ab"):
            pass
    if target.is_file() or not target.exists():
        trial = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            trial.touch()
        finally:
            trial.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _remedy(error: Exception) -> str:
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "free some space or give another folder"
    if code in (errno.EACCES, errno.EPERM):
        return "give a file and a folder that you may write to"
    if code == errno.EROFS:
        return "give a folder that is not read-only"
    if code == errno.ENAMETOOLONG:
        return "give a shorter name"
    return "give another file"
