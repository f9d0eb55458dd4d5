"""Run units of work, trainings above all: in this process, on this machine's cores, or on a Dask cluster."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from multiprocessing import get_all_start_methods, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from invariances.errors import WorkersError
from invariances.threads import cores, one_torch_thread

if TYPE_CHECKING:
    from distributed import Client, Future, as_completed

__all__ = ["DASK", "KEEP_MEMORY", "PRELOADED", "advance", "one_thread", "run", "spread"]


Item = TypeVar("Item")
Result = TypeVar("Result")

SCHEDULER_TIMEOUT = 8
"""Seconds after which a scheduler counts as out of reach."""
REPORT_SECONDS = 0.5
"""Seconds between two reports of a unit on its way."""
LOG_SECONDS = 60.0
"""Seconds between two lines of progress in a log; work that takes less leaves no line there."""
POLL_SECONDS = 0.05
"""Seconds between two looks at what is finished elsewhere."""
WORTH_WORKERS = 20.0
"""Worker processes start only if more seconds of work than this remain: to start them takes some 5 s."""

KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": 2**30,
    "MALLOC_MMAP_THRESHOLD_": 2**25,
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1),
}
"""Environment of a worker. Dask has freed memory given back at once, which makes training take nearly twice as long."""
START = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
"""How worker processes start: where it can be, as copies of one process that has imported what they need."""
PRELOADED = ["distributed.nanny", "invariances.zoo", "sklearn.metrics", "torch._dynamo"]
"""What that process has imported: the last two are what a training takes longest to import, seconds on its own."""
DASK = {
    "distributed.worker.multiprocessing-method": START,
    "distributed.nanny.pre-spawn-environ": KEEP_MEMORY,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.worker-saturation": 1.0,
}
"""Dask's settings. Its profiler looks into a worker a hundred times a second, which takes some 4 % of a core (seen in
units that wait); and no item may be set aside behind a long one while another worker is free."""

_report: ContextVar[Callable[..., None] | None] = ContextVar("report", default=None)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a unit on exactly one torch and BLAS thread: bits differ between one and two."""
    with one_torch_thread(), threadpool_limits(1):
        yield


def run(
    unit: Callable[[Item], Result],
    items: Sequence[Item],
    label: str,
    processes: int | None = None,
    size: Callable[[Item], float] | None = None,
) -> Iterator[Result]:
    """Yield ``unit(item)`` for all items, in the order in which they finish, with one progress bar.

    Where ``INVARIANCES_CLUSTER`` holds the address or the scheduler file of a Dask cluster, all items go there. Else
    one item, or one process, runs here; more start here, and go on in single-threaded processes where what is left
    is worth it, or from the start where their number is given.

    Parameters
    ----------
    unit : callable
        Importable, so that a worker process can run it. While it works it may call `advance`.
    items : sequence
    label : str
        For the progress bar.
    processes : int, optional
        Worker processes on this machine; by default one per core.
    size : callable, optional
        The amount of work of an item, in any unit; 1 by default. The bar's time to go rests on it.

    Raises
    ------
    WorkersError
        If the scheduler is out of reach or goes away, or if an item ends every worker that takes it up.
    """
    if not items:
        return
    cluster = os.environ.get("INVARIANCES_CLUSTER")
    most = min(processes or cores(), len(items))
    with _Progress(label, [size(item) if size else 1 for item in items]) as progress:
        done = 0
        if not cluster and (processes is None or most <= 1):
            for result in _here(unit, items, _Watch(progress, math.inf if most <= 1 else WORTH_WORKERS)):
                done += 1
                yield result
        if done < len(items):
            yield from _dask(unit, items[done:], progress, most, cluster, done)


def spread(unit: Callable[[Item], Result], items: Iterable[Item], label: str = "scoring") -> list[Result]:
    """Do the same as the builtin `map`, over the workers of `run`: the results in the order of the items.

    Parameters
    ----------
    unit : callable
        Importable, so that a worker process can run it.
    items : iterable
    label : str
        For the progress bar.

    Raises
    ------
    WorkersError
        As `run`.
    """
    found = dict(run(partial(_numbered, unit=unit), list(enumerate(items)), label))
    return [found[number] for number in sorted(found)]


def _numbered(item: tuple[int, Item], unit: Callable[[Item], Result]) -> tuple[int, Result]:
    return item[0], unit(item[1])


def advance(amount: float, **shown: object) -> None:
    """Say from inside a unit that it has got on; outside a `run` nothing happens.

    Parameters
    ----------
    amount : float
        Work done since the last call, in the unit of the run's ``size``.
    **shown
        What to show beside the bar, like ``loss=0.31``.
    """
    report = _report.get()
    if report:
        report(
            amount, {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in shown.items()}
        )


class _Lines:
    """A log for a progress bar: what would be drawn over the last state becomes a line of its own."""

    def __init__(self, log: TextIO) -> None:
        self.log = log

    def write(self, text: str) -> None:
        if text.strip():
            self.log.write(f"{text.strip()}\n")

    def flush(self) -> None:
        self.log.flush()


def _bar(total: float) -> tqdm:
    """A bar on a terminal or in a notebook, whose kernel is no terminal; elsewhere a line now and then."""
    shape = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
    if sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel"):
        return tqdm(total=total, bar_format=shape, mininterval=REPORT_SECONDS)
    line = shape.replace("|{bar}|", "")
    return tqdm(
        total=total, bar_format=line, mininterval=LOG_SECONDS, delay=LOG_SECONDS, miniters=0, file=_Lines(sys.stderr)
    )


class _Progress:
    """The one bar of a run. What an item reported to a worker that was lost is not counted again."""

    def __init__(self, label: str, sizes: Sequence[float]) -> None:
        self.label, self.sizes, self.done, self.finished = label, sizes, [0.0] * len(sizes), 0
        self.lock = threading.Lock()  # reports come in on another thread
        self.bar = _bar(sum(sizes))
        self.bar.set_description_str(f"{label} 0/{len(sizes)}", refresh=False)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def at(self, item: int, done: float, shown: dict[str, str]) -> None:
        """An item has got so far."""
        with self.lock:
            if shown:
                self.bar.set_postfix(shown, refresh=False)
            self._to(item, min(done, self.sizes[item]))

    def finish(self, item: int) -> None:
        """An item is finished, whatever it reported."""
        with self.lock:
            self.finished += 1
            self.bar.set_description_str(f"{self.label} {self.finished}/{len(self.sizes)}", refresh=False)
            self._to(item, self.sizes[item])

    def _to(self, item: int, done: float) -> None:
        if done > self.done[item]:
            self.bar.update(done - self.done[item])
            self.done[item] = done


class _TakesLong(BaseException):
    """Ends an item that would hold up the others; no unit mistakes it for an error."""


class _Watch:
    """Tells the bar how far an item here has got, and ends it where more is left than `limit` seconds would do.

    The time before the first report, mostly imports, is not used to estimate the rest.
    """

    def __init__(self, progress: _Progress, limit: float) -> None:
        self.progress, self.limit, self.spent, self.done = progress, limit, 0.0, 0.0
        self.reported = 0.0

    def begin(self, number: int) -> None:
        self.number, self.start = number, time.monotonic()

    def tell(self, done: float, shown: dict[str, str]) -> None:
        self.progress.at(self.number, done, shown)
        if self.done + self.reported == 0:
            self.start, self.reported = time.monotonic(), done
        if self.number + 1 < len(self.progress.sizes) and self._left(done) > self.limit:
            raise _TakesLong

    def end(self) -> bool:
        """Whether the items that are left would take longer than the limit."""
        self.progress.finish(self.number)
        too_long = self._left(self.progress.sizes[self.number]) > self.limit
        self.spent += time.monotonic() - self.start
        self.done += self.progress.sizes[self.number]
        return too_long

    def _left(self, done: float) -> float:
        done, total = self.done + done, sum(self.progress.sizes)
        seconds = self.spent + time.monotonic() - self.start
        known = done - self.reported
        return seconds / known * (total - done) if known > 1e-6 * total else 0.0  # parts of an item add up to nearly it


def _here(unit: Callable[[Item], Result], items: Sequence[Item], watch: _Watch) -> Iterator[Result]:
    """One item after the other, as long as that does not take too long."""
    for number, item in enumerate(items):
        watch.begin(number)
        try:
            result = _work(unit, item, watch.tell)
        except _TakesLong:
            return
        too_long = watch.end()
        yield result
        if too_long:
            return


def _dask(
    unit: Callable[[Item], Result],
    items: Sequence[Item],
    progress: _Progress,
    processes: int,
    cluster: str | None,
    first: int,
) -> Iterator[Result]:
    from distributed import CancelledError, KilledWorker, as_completed
    from distributed.comm import CommClosedError

    topic = f"invariances-{uuid.uuid4().hex}"
    with _client(processes, cluster) as client:
        with _uninterrupted():
            client.subscribe_topic(topic, lambda event: progress.at(*event[1]))
            numbers = range(first, first + len(items))
            futures = client.map(_elsewhere, [unit] * len(items), items, numbers, [topic] * len(items), pure=False)
            number_of = dict(zip((future.key for future in futures), numbers, strict=True))
            waiting = as_completed(futures)
            del futures  # each is let go as soon as it is read
        for future in _finished(waiting, len(items)):
            try:
                with _uninterrupted():
                    result = future.result()
            except KilledWorker as error:
                raise WorkersError(
                    f"{progress.label} stopped: one of them ended every worker process that took it up "
                    f"({error.allowed_failures + 1} times), perhaps for lack of memory; what is finished is kept, run "
                    "again with fewer processes or smaller parameters"
                ) from None
            except (CancelledError, CommClosedError):  # the second while a result was on its way
                raise _lost(cluster) from None
            progress.finish(number_of[future.key])
            yield result


def _finished(waiting: as_completed, left: int) -> Iterator[Future]:
    """What is finished, one by one. Ctrl-C is heard between two looks only: it could break a lock of Dask's."""
    while left:
        with _uninterrupted():
            batch = waiting.next_batch(block=False)
        left -= len(batch)
        while batch:
            yield batch.pop(0)
        if left:
            time.sleep(POLL_SECONDS)


def _lost(cluster: str | None) -> WorkersError:
    return WorkersError(
        f"the Dask scheduler at {cluster} went away; what is finished is kept, start it again or unset "
        "INVARIANCES_CLUSTER, and run again"
    )


@contextmanager
def _client(processes: int, cluster: str | None) -> Iterator[Client]:
    """A client of the cluster that the environment names, or of one of this machine's cores."""
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import get_mp_context, silence_logging_cmgr

    with silence_logging_cmgr(logging.CRITICAL), ExitStack() as stack:
        if cluster:
            yield stack.enter_context(_connected(Client, cluster))
            return
        options = {"n_workers": processes, "threads_per_worker": 1, "env": dict(os.environ)}
        quiet = {"silence_logs": logging.CRITICAL, "dashboard_address": "127.0.0.1:0"}
        with _uninterrupted(), dask.config.set(DASK):
            if START == "forkserver":
                get_mp_context().set_forkserver_preload(PRELOADED)
            try:
                machine = _started_twice(lambda: LocalCluster(**options, **quiet))
            except RuntimeError as error:  # most often a script that every worker runs anew
                raise WorkersError(
                    f"the worker processes did not start ({error}); in a script of your own put what trains under "
                    "`if __name__ == '__main__':` and run it from a file, or use processes=1"
                ) from None
            stack.callback(_close, machine)
            client = Client(machine)
            stack.callback(_close, client)
        yield client


def _started_twice(start: Callable[[], Result]) -> Result:
    """Start once more where this machine stood still: Dask gives its event loop 10 s, and then fails an assertion."""
    with suppress(AssertionError):
        return start()
    try:
        return start()
    except AssertionError:
        raise RuntimeError("this machine took more than 10 s to start a thread, twice") from None


def _connected(kind: type, cluster: str) -> Client:
    """A client of the scheduler at an address or in a file."""
    try:
        address = json.loads(Path(cluster).read_text())["address"] if Path(cluster).is_file() else cluster
        return kind(address, timeout=SCHEDULER_TIMEOUT)
    except Exception as error:  # a file may hold anything
        raise WorkersError(
            f"no Dask scheduler answers at {cluster} ({error}); start it, or set "
            "INVARIANCES_CLUSTER to its address or file, or unset it to use this machine"
        ) from None


def _close(closable: Any) -> None:
    with _uninterrupted():
        closable.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off until the block ends; processes that start in it ignore it, and are ended in order."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would unblock
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # new threads and their processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt


def _work(unit: Callable[[Item], Result], item: Item, tell: Callable[[float, dict[str, str]], None]) -> Result:
    """One item on one thread; `tell` hears how far it has got, in all."""
    done = 0.0

    def report(amount: float, shown: dict[str, str]) -> None:
        nonlocal done
        done += amount
        tell(done, shown)

    before = _report.set(report)
    try:
        with one_thread():
            return unit(item)
    finally:
        _report.reset(before)


def _elsewhere(unit: Callable[[Item], Result], item: Item, number: int, topic: str) -> Result:
    """One item on a Dask worker; how far it has got goes back as events, not too many."""
    from distributed import get_worker

    worker, last = get_worker(), 0.0

    def tell(done: float, shown: dict[str, str]) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            worker.log_event(topic, (number, done, shown))

    return _work(unit, item, tell)
