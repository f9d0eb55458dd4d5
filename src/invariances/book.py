"""Papermill and jupyter-book, called the safe way: nothing half-written, nothing that changes by the clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invariances.errors import ParameterError, RunError
from invariances.paper.rows import SECTIONS
from invariances.paper.settings import check

if TYPE_CHECKING:
    import pandas as pd

READABLE = ("ParameterError", "DataError", "PretrainedError", "StoreError", "WorkersError", "SpaceError")
"""Errors whose message already is one sentence that says what to do."""
STUDIES = {"anchors": "beyond"}
"""Scripts in ``benchmarks`` that go beyond the paper's tables, and the book's folder that they write into."""
PARTS = ("data", *SECTIONS, *STUDIES, "pages", "book")
"""What `reproduce` does, in this order."""


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

    check(section, given)
    source = root() / "notebooks" / f"{section}.ipynb"
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    resolve_environment()  # the kernel runs in the temporary folder
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
        for made in (output, *sorted(Path(place).glob(f"{section}*.csv"))):
            made.replace(folder / made.name)
    return folder / source.name


def resolve_environment() -> None:
    """Make relative paths in the environment count from the folder of the start, for processes that run elsewhere."""
    for name in ("INVARIANCES_DATA", "INVARIANCES_HOME"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())


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


def make_book(profile: str, folder: Path, progress: bool = True) -> pd.DataFrame:
    """Reproduce everything in a copy of the book, leaving the committed one as it is.

    Parameters
    ----------
    profile : str
    folder : Path
        Where the copy and its ``_build/html`` go, e.g. ``_build/smoke``.
    progress : bool

    Returns
    -------
    DataFrame
        What each part took, as `reproduce` gives it.
    """
    book = folder.absolute() / "book"
    shutil.rmtree(book, ignore_errors=True)
    shutil.copytree(root() / "book", book)
    (book / "results" / RUN).unlink(missing_ok=True)
    shutil.copy(root() / "_config.yml", book.parent)
    return reproduce(profile, book / "results", progress=progress)


# Everything -----------------------------------------------------------------------------------

RUN = "run.csv"
"""What each part took; lies beside the results."""


def reproduce(profile: str, results: Path, only: Sequence[str] = (), progress: bool = True) -> pd.DataFrame:
    """Run all sections and studies, write what the book's pages include, and build the book.

    What is trained is in the store, so a run that was stopped goes on where it was: finished models are not
    trained again, scores are computed anew.

    Parameters
    ----------
    profile : str
    results : Path
        The folder ``results`` of a book.
    only : sequence of str
        These of `PARTS`; all where it is empty.
    progress : bool

    Returns
    -------
    DataFrame
        One line per part and run: part, profile, started, minutes, models (trained), finished.

    Raises
    ------
    ParameterError, DataError, RunError
        For a bad parameter, missing data or a missing study before anything is trained; one sentence.
    """
    results = results.absolute()
    parts = [part for part in PARTS if not only or part in only]
    _check_start(profile, results, only, parts)
    work: dict[str, Callable[[], object]] = {
        "data": lambda: _prepare(profile),
        **{name: lambda name=name: run_section(name, {"profile": profile}, results, progress) for name in SECTIONS},
        **{name: lambda name=name: _run_study(name, profile, results) for name in STUDIES},
        "pages": lambda: write_pages(profile, results),
        "book": lambda: build(results.parent),
    }
    for part in parts:
        if progress:
            print(f"[{parts.index(part) + 1} of {len(parts)}] {part}", file=sys.stderr, flush=True)
        if part == "book":
            write_budget(results)
        _timed(part, profile, results / RUN, work[part])
    if "book" not in parts:
        write_budget(results)
    return read_run(results / RUN)


def _check_start(profile: str, results: Path, only: Sequence[str], parts: Sequence[str]) -> None:
    """Find out what would end a run before anything is trained."""
    from invariances.paper.profiles import PROFILES
    from invariances.paper.rows import ROWS
    from invariances.zoo import datasets

    check(SECTIONS[0], {"profile": profile})
    unknown = sorted(set(only) - set(PARTS))
    if unknown:
        raise ParameterError(f"unknown part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    if not (results.parent / "_toc.yml").is_file():
        raise RunError(f"{results.parent} is no book; give the folder results of one, e.g. book/results")
    for study in STUDIES:
        if study in parts and not _script(study).is_file():
            raise RunError(f"there is no benchmarks/{study}.py; run this command from a whole clone of the repository")
    resolve_environment()
    if any(part in parts for part in PARTS if part not in ("pages", "book")):
        for name in dict.fromkeys(
            variant.dataset for rows in ROWS.values() for row in rows for variant in row.variants
        ):
            if PROFILES[profile].data != "builtin" or datasets.source_named(name).stand_in:
                datasets.locate(name, PROFILES[profile].data)


def _prepare(profile: str) -> None:
    """Find and decode the data of all sections, once."""
    from invariances.paper.sections import plan

    for section in SECTIONS:
        plan(check(section, {"profile": profile}))


def _script(study: str) -> Path:
    return root() / "benchmarks" / f"{study}.py"


def _run_study(study: str, profile: str, results: Path) -> None:
    into = results.parent / STUDIES[study]
    command = [sys.executable, str(_script(study)), "--profile", profile, "--into", str(into)]
    if subprocess.run(command, check=False).returncode != 0:
        raise RunError(f"the study benchmarks/{study}.py failed; what it said stands above")


def write_pages(profile: str, results: Path) -> None:
    """Write what pages include from the tables in `results`, CKA between networks that read texts, and the moments.

    Parameters
    ----------
    profile : str
        The one that the tables were made with.
    results : Path
        The folder ``results`` of a book.
    """
    from invariances.paper import atlas, definitions, findings, ladder, moments
    from invariances.zoo import workers

    with workers.one_thread():
        findings.write(results, results.parent / "findings")
        definitions.write(results, results.parent / "definitions")
        ladder.write(results, results.parent / STUDIES["anchors"])
    atlas.write_texts(profile, results.parent / STUDIES["anchors"])
    moments.write(profile, results / "moments")


def write_budget(results: Path) -> None:
    """Write the table of the run's budget beside what was measured; the book, which shows it, is not in it."""
    from invariances.paper import budget

    place = results.parent / "reproduce"
    place.mkdir(exist_ok=True)
    (place / "budget.md").write_text(budget.table(read_run(results / RUN)), encoding="utf-8")


def _timed(part: str, profile: str, path: Path, work: Callable[[], object]) -> None:
    """Do a part of a run and write down what it took, also where it fails or is stopped."""
    import pandas as pd

    started, start, before, finished = datetime.now(UTC), time.monotonic(), _models(), False
    try:
        work()
        finished = True
    finally:
        line = {
            "part": part,
            "profile": profile,
            "started": started.strftime("%Y-%m-%d %H:%M"),
            "minutes": round((time.monotonic() - start) / 60, 2),
            "models": _models() - before,
            "finished": finished,
        }
        known = read_run(path).to_dict("records")
        earlier = [one for one in known if one["part"] == part]
        if any(one["finished"] or one["profile"] != profile for one in earlier):
            known = [one for one in known if one["part"] != part]  # superseded; what was stopped goes on now
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([*known, line]).to_csv(path, index=False)


def _models() -> int:
    """How many trained models are in the store."""
    from invariances.zoo import store

    kinds = store.entries().kind
    return int((kinds == "models").sum())


def read_run(path: Path) -> pd.DataFrame:
    """What each part of a run took, as `reproduce` wrote it down; no line where there was none."""
    import pandas as pd

    columns = ["part", "profile", "started", "minutes", "models", "finished"]
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=columns)
