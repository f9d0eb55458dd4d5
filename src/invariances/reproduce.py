"""The published book: all sections and studies, what its pages include, and jupyter-book."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from invariances.errors import ParameterError, RunError
from invariances.notebooks import absolute_environment, root, run_section
from invariances.paper.rows import SECTIONS
from invariances.paper.settings import check
from invariances.paper.studies import STUDIES, study
from invariances.zoo import locating

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PARTS", "RUN", "build", "make_book", "read_run", "reproduce", "run_table", "write_pages"]

PARTS = ("data", *SECTIONS, *STUDIES, "pages", "book")
"""What `reproduce` does, in this order."""
RUN = "run.csv"
"""What each part took; lies beside the results."""
MARKER = ".made-by-invariances"
"""A file that marks a folder as a copy of the book, which may be deleted and made again."""


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

    Raises
    ------
    RunError
        If `folder` holds a book that is no such copy, or cannot be written.
    """
    book = folder.absolute() / "book"
    if book.exists() and not (book / MARKER).is_file():
        raise RunError(f"{book} is no copy of the book that may be replaced; give another folder")
    try:
        shutil.rmtree(book, ignore_errors=True)
        shutil.copytree(root() / "book", book)
        (book / MARKER).touch()
        (book / "results" / RUN).unlink(missing_ok=True)
        shutil.copy(root() / "_config.yml", book.parent)
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}); give another folder") from error
    return reproduce(profile, book / "results", progress=progress)


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
        For a bad parameter or missing data before anything is trained; one sentence.
    """
    results = results.absolute()
    parts = [part for part in PARTS if not only or part in only]
    _check_start(profile, results, only, parts)
    work: dict[str, Callable[[], object]] = {
        "data": lambda: _prepare(profile),
        **{name: lambda name=name: run_section(name, {"profile": profile}, results, progress) for name in SECTIONS},
        **{name: lambda name=name: study(name)(profile, results.parent / "beyond") for name in STUDIES},
        "pages": lambda: write_pages(results),
        "book": lambda: build(results.parent),
    }
    for part in parts:
        if progress:
            print(f"[{parts.index(part) + 1} of {len(parts)}] {part}", file=sys.stderr, flush=True)
        if part == "book":
            _write_run(results)
        _timed(part, profile, results / RUN, work[part])
    if "book" not in parts:
        _write_run(results)
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
    absolute_environment()
    if any(part in parts for part in PARTS if part not in ("pages", "book")):
        for name in dict.fromkeys(
            variant.dataset for rows in ROWS.values() for row in rows for variant in row.variants
        ):
            if PROFILES[profile].data != "builtin" or datasets.source_named(name).stand_in:
                locating.locate(name, PROFILES[profile].data)


def _prepare(profile: str) -> None:
    """Find and decode the data of all sections, once."""
    from invariances.paper.plan import rows

    for section in SECTIONS:
        rows(check(section, {"profile": profile}))


def write_pages(results: Path) -> None:
    """Write what pages include from the tables in `results`.

    Parameters
    ----------
    results : Path
        The folder ``results`` of a book.
    """
    from invariances.paper import findings
    from invariances.paper.studies import definitions, structure
    from invariances.zoo import workers

    with workers.one_thread():
        findings.write(results, results.parent / "findings")
        definitions.write(results, results.parent / "definitions")
        structure.write(results, results.parent / "beyond")


def _write_run(results: Path) -> None:
    """Write what the parts took as a page includes it; the book itself, which shows it, is not in it."""
    place = results.parent / "reproduce"
    place.mkdir(exist_ok=True)
    (place / "run.md").write_text(run_table(read_run(results / RUN)), encoding="utf-8")


def run_table(run: pd.DataFrame) -> str:
    """What each part of a run took, as Markdown.

    Parameters
    ----------
    run : DataFrame
        As `read_run` gives it.
    """
    from invariances.paper.tables import markdown_table

    timed = run[run.part != "book"]
    lines = [(line.part, line.started, f"{line.minutes:.1f}", line.models) for line in timed.itertuples()]
    total = ("all", "", f"{timed.minutes.sum():.1f}", timed.models.sum())
    return markdown_table(("Part", "Started", "Minutes", "Models trained"), [*lines, total])


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
