"""Papermill, called the safe way: nothing half-written, nothing that changes by the clock."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from invariances import errors
from invariances.errors import RunError
from invariances.paper.rows import SECTIONS
from invariances.paper.settings import check

__all__ = ["absolute_environment", "normalised", "root", "run_section"]

RUNNING, LOCK = ".running-", ".lock"
"""How the folder of a run begins while it goes on, and the file in it that the run holds."""
EXPLAINED = tuple(name for name in errors.__all__ if name != "InvariancesError")
"""Names of the errors whose message already is one sentence that says what to do."""


def root() -> Path:
    """The project's folder: the one of the start if it holds the notebooks, else the one of this file.

    Raises
    ------
    RunError
        If neither holds them, as after an installation without the repository.
    """
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (folder / "notebooks" / f"{SECTIONS[0]}.ipynb").is_file():
            return folder
    raise RunError("the notebooks are not here; run this command from a clone of the repository")


def run_section(section: str, given: Mapping[str, Any], folder: Path, progress: bool = True) -> Path:
    """Execute one section's notebook; its output and its CSV are moved to `folder` only on success.

    Parameters
    ----------
    section : str
    given : mapping
        Parameters by name, as papermill takes them.
    folder : Path
        Where ``<section>.ipynb`` and ``<section>.csv`` go.
    progress : bool
        Show papermill's bar and the training's.

    Returns
    -------
    Path
        The executed notebook.

    Raises
    ------
    ParameterError
        Before anything runs.
    RunError
        If the notebook fails, or `folder` is that of the notebooks themselves; one sentence.
    """
    import nbformat

    check(section, given)
    source = root() / "notebooks" / f"{section}.ipynb"
    folder = folder.absolute()
    _make_folder(folder, source)
    absolute_environment()  # the kernel runs in the temporary folder
    if given.get("data") not in (None, "auto", "builtin"):
        given = {**given, "data": str(Path(given["data"]).expanduser().absolute())}
    _remove_stale(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=RUNNING) as place, FileLock(Path(place) / LOCK):
        output = Path(place) / source.name
        notebook = _executed(source, output, given, progress)
        nbformat.write(normalised(notebook), output)
        for made in (output, *sorted(Path(place).glob(f"{section}*.csv"))):
            made.replace(folder / made.name)
    return folder / source.name


def _make_folder(folder: Path, source: Path) -> None:
    """Make the folder for a notebook's output, and refuse one where the output would replace the notebook itself."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        same = (folder / source.name).exists() and (folder / source.name).samefile(source)
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}); give another folder") from error
    if same or folder.samefile(source.parent):
        raise RunError(f"{folder} holds the notebooks themselves; give another folder for their output")


def _remove_stale(folder: Path) -> None:
    """Remove what killed runs left in a folder: a run that goes on holds the lock of its own."""
    for lock in folder.glob(f"{RUNNING}*/{LOCK}"):
        with suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)


def _executed(source: Path, output: Path, given: Mapping[str, Any], progress: bool) -> Any:
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    # sockets in files, not on TCP: nobody else on the machine can listen, and the kernel does not warn of it
    ipc = Config({"ConnectionFileMixin": {"transport": "ipc"}}) if hasattr(socket, "AF_UNIX") else Config()
    try:
        return papermill.execute_notebook(
            source,
            output,
            parameters=dict(given),
            cwd=output.parent,
            kernel_name="python3",
            progress_bar=progress,
            stderr_file=sys.stderr if progress and sys.stderr.isatty() else None,
            config=ipc,
            extra_arguments=["--log-level=CRITICAL"],  # a kernel that is stopped may say that its sockets are closed
        )
    except PapermillExecutionError as error:
        section = source.stem
        words = error.evalue if error.ename in EXPLAINED else f"{section} failed with {error.ename}: {error.evalue}"
        raise RunError(" ".join(str(words).split())) from None


def absolute_environment() -> None:
    """Make relative paths in the environment count from the folder of the start, for processes that run elsewhere."""
    for name in ("INVARIANCES_DATA", "INVARIANCES_HOME"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())


def normalised(notebook: Any) -> Any:
    """The executed notebook without clocks, random ids and progress bars: two runs differ only in results.

    A figure's caption and alternative text, which stand in the output's metadata, are put where the book looks for
    them.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"c{i:02d}"
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            figures = [output.get("metadata", {}).get("image/svg+xml") for output in cell.outputs]
            if any(figures):
                cell.metadata["mystnb"] = _words(list(filter(None, figures)))
    return notebook


def _words(figures: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Of the figures of a cell, as the book asks for them."""
    alt, caption = ("; ".join(dict.fromkeys(words[key] for words in figures)) for key in ("alt", "caption"))
    return {"image": {"alt": alt}} | ({"figure": {"caption": caption}} if caption else {})
