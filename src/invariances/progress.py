"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

__all__ = ["Progress", "progress_bar"]

Progress: TypeAlias = "Callable[[int, int], None]"
"""Is told how much is done, of how much in all."""
SECONDS = 30.0
"""Between two lines of a log."""


@contextmanager
def progress_bar(what: str, unit: str, quiet: bool = False) -> Iterator[Progress]:
    """Show on standard error how far the work is; it starts with the first report.

    Parameters
    ----------
    what, unit : str
        What is done, and to what: "mapping", "rows".
    quiet : bool
        Show nothing.
    """
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        yield from _on_terminal(what, unit)
    else:
        yield _in_log(what, unit)


def _on_terminal(what: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    bars = Bars(*columns, console=Console(stderr=True))
    started = []

    def report(done: int, total: int) -> None:
        if not started:
            bars.start()
            started.append(bars.add_task(what, total=total))
        bars.update(started[0], completed=done)

    try:
        yield report
    finally:
        bars.stop()


def _in_log(what: str, unit: str) -> Progress:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            print(f"{what}: {done:,} of {total:,} {unit}", file=sys.stderr, flush=True)

    return report
