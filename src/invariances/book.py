"""Papermill and jupyter-book, called the safe way: nothing half-written, nothing that changes by the clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invariances.paper import parameters
from invariances.paper.rows import SECTIONS

READABLE = ("ParameterError", "DataError", "PretrainedError", "StoreError", "WorkersError", "SpaceError")
"""Errors whose message already is one sentence that says what to do."""


class RunError(RuntimeError):
    """A notebook or the book failed; the message is one sentence."""


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
        If the notebook fails; one sentence.
    """
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    parameters.check(section, given)
    source = root() / "notebooks" / f"{section}.ipynb"
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # the kernel runs in the temporary folder, so relative paths in the environment are resolved first
    for name in ("INVARIANCES_DATA", "INVARIANCES_HOME"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    if given.get("data") not in (None, "auto", "builtin"):
        given = {**given, "data": str(Path(given["data"]).expanduser().absolute())}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".running-") as place:
        output = Path(place) / source.name
        try:
            notebook = papermill.execute_notebook(
                source,
                output,
                parameters=dict(given),
                cwd=place,
                kernel_name="python3",
                progress_bar=progress,
                stderr_file=sys.stderr if progress and sys.stderr.isatty() else None,
            )
        except PapermillExecutionError as error:
            said = error.evalue if error.ename in READABLE else f"{section} failed with {error.ename}: {error.evalue}"
            raise RunError(" ".join(str(said).split())) from None
        nbformat.write(normalised(notebook), output)
        for made in (output, output.with_suffix(".csv")):
            made.replace(folder / made.name)
    return folder / source.name


def normalised(notebook: Any) -> Any:
    """The executed notebook without clocks, random ids and progress bars: two runs differ only in results."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"c{i:02d}"
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


def build(book: Path, warnings_are_errors: bool = True) -> Path:
    """Build a book's HTML with jupyter-book.

    Parameters
    ----------
    book : Path
        The folder of its pages; ``_config.yml`` stands in its parent.
    warnings_are_errors : bool

    Returns
    -------
    Path
        The built ``index.html``.

    Raises
    ------
    RunError
        If it fails; the log is printed before.
    """
    strict = ["-W", "-n", "--keep-going"] if warnings_are_errors else []
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", *strict, str(book)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    index = book.parent / "_build" / "html" / "index.html"
    if done.returncode != 0 or not index.is_file():
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        raise RunError("jupyter-book could not build the book; its log stands above")
    return index


def make_book(profile: str, folder: Path, progress: bool = True) -> tuple[Path, dict[str, float]]:
    """Run all sections and build the book from them in a copy, leaving the committed book as it is.

    Parameters
    ----------
    profile : str
    folder : Path
        Where the copy and its ``_build/html`` go, e.g. ``_build/smoke``.
    progress : bool

    Returns
    -------
    index : Path
        The built ``index.html``.
    seconds : dict
        How long each part took.
    """
    book, seconds = folder.absolute() / "book", {}
    shutil.rmtree(book, ignore_errors=True)
    shutil.copytree(root() / "book", book)
    shutil.copy(root() / "_config.yml", book.parent)
    for section in SECTIONS:
        start = time.monotonic()
        run_section(section, {"profile": profile}, book / "results", progress)
        seconds[section] = time.monotonic() - start
    start = time.monotonic()
    index = build(book)
    return index, {**seconds, "book": time.monotonic() - start}
