"""Where training runs: in this process, on this machine's cores, or on a cluster; one call for all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a unit on exactly one torch and BLAS thread: bits differ between one and two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    unit: Callable[[Item], Result], items: Sequence[Item], label: str, processes: int | None = None
) -> Iterator[Result]:
    """Yield ``unit(item)`` for all items, in the order in which they finish, with a progress bar.

    One item, or one process, runs here; more run on one single-threaded process per core, or on
    the Dask cluster whose address or scheduler file ``INVARIANCES_CLUSTER`` holds.

    Parameters
    ----------
    unit : callable
        Importable, so that a worker process can run it.
    items : sequence
    label : str
        For the progress bar.
    processes : int, optional
        Worker processes on this machine; by default one per core.
    """
    cluster = os.environ.get("INVARIANCES_CLUSTER")
    processes = min(processes or cores(), len(items))
    bar = tqdm(total=len(items), desc=label, mininterval=1.0, disable=not items)
    with bar:
        for result in _here(unit, items) if processes <= 1 and not cluster else _dask(unit, items, processes, cluster):
            bar.update()
            yield result


def _here(unit: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    for item in items:
        with one_thread():
            result = unit(item)
        yield result


def _dask(
    unit: Callable[[Item], Result], items: Sequence[Item], processes: int, cluster: str | None
) -> Iterator[Result]:
    from distributed import Client, LocalCluster, as_completed

    with _client(Client, LocalCluster, processes, cluster) as client:
        futures = client.map(_single_threaded, [unit] * len(items), items, pure=False)
        for future in as_completed(futures):
            yield future.result()


@contextmanager
def _client(client: type, local: type, processes: int, cluster: str | None) -> Iterator:
    if cluster:
        kind = "scheduler_file" if Path(cluster).is_file() else "address"
        with client(**{kind: cluster}) as connected:
            yield connected
        return
    quiet = {"silence_logs": logging.ERROR, "dashboard_address": "127.0.0.1:0"}
    with local(n_workers=processes, threads_per_worker=1, **quiet) as machine, client(machine) as connected:
        yield connected


def _single_threaded(unit: Callable[[Item], Result], item: Item) -> Result:
    with one_thread():
        return unit(item)
