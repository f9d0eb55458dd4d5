"""Work on this machine's cores within one process, so that a script needs no `__main__` guard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["SMALL", "cores", "in_threads", "one_torch_thread"]

SMALL = 2**18
"""Numbers to be gone through below which work is done without threads: to start them would take longer."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread in this one: bits differ between one and two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_threads(unit: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> list[Result]:
    """Do the same as the builtin `map`, on threads of this process that use one torch thread each.

    Parameters
    ----------
    unit : callable
        Spends its time in torch, which lets other threads run meanwhile.
    items : iterable
    threads : int, optional
        One per core by default; with one, the work is done in the calling thread.
    """
    items = list(items)
    threads = min(cores() if threads is None else threads, len(items))
    with one_torch_thread():
        if threads <= 1:
            return [unit(item) for item in items]
        with ThreadPoolExecutor(threads, "invariances", _start) as pool:
            return list(pool.map(unit, items))


def _start() -> None:
    torch.set_num_threads(1)
    if torch.cuda.is_initialized():  # cuBLAS warns in a thread that has not chosen its device
        torch.cuda.set_device(torch.cuda.current_device())
