"""Matrices in files, of which only the rows asked for are read; no pickle is ever loaded."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch

from invariances.errors import SpaceError

__all__ = ["StoredSpace", "choose_member", "damage", "is_file", "map_npy", "to_tensor"]

_LARGEST_HEADER = 2**16
"""Bytes that the header of an .npy file may have; that of a matrix has about 100."""


class StoredSpace:
    """A matrix in a `.npy` or `.safetensors` file, of which only the rows asked for are read.

    Every access maps the file, copies the rows and lets the file go, so that no page stays in memory.

    Parameters
    ----------
    path : Path
    name : str
        What to call the space in an error message.
    tensor : str, optional
        Which of several tensors in a `.safetensors` file.

    Raises
    ------
    SpaceError
        If the file is missing, damaged, truncated, of another kind, or does not say which tensor is meant.
    """

    def __init__(self, path: Path, name: str = "space", tensor: str | None = None) -> None:
        self.path, self.name, self.tensor = path, name, tensor
        self._place = path.absolute()  # a worker may have another working folder
        if not is_file(path):
            raise SpaceError(f"{name}: there is no file {path}; give the path of an .npy or .safetensors file")
        if path.suffix not in (".npy", ".safetensors"):
            raise SpaceError(
                f"{name}: {path} is not read, since only .npy and .safetensors are safe to load; convert it"
            )
        self.shape, self.dtype = self._reading(lambda x: (tuple(x.shape), x.dtype))
        self._least = torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> torch.Tensor:
        part = self._reading(lambda x: to_tensor(x[rows]) if isinstance(x, np.ndarray) else x[rows].clone())
        return part.to(torch.promote_types(part.dtype, self._least))

    def double(self) -> StoredSpace:
        """Give rows in float64 from now on, as a tensor's method of that name does."""
        self._least = torch.float64
        return self

    def _reading(self, use: Callable[[Any], Any]) -> Any:
        where = f"{self.name}: {self.path}"
        with damage(where):
            if self.path.suffix == ".npy":
                return use(map_npy(self._place, where))
            with safetensors.safe_open(self._place, framework="pt") as file:
                return use(file.get_tensor(choose_member(list(file.keys()), self.tensor, where, self.path, "tensor")))


def map_npy(path: Path, where: str) -> np.memmap:
    """Map the matrix of an `.npy` file.

    Parameters
    ----------
    path : Path
    where : str
        What to call it in an error message.

    Raises
    ------
    SpaceError
        If the file is longer than its header says.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if header > _LARGEST_HEADER:  # numpy would make room for all that it claims
        raise ValueError(f"its header claims {header} bytes")
    # not np.load, which also opens archives and, if told to, pickles
    with np.errstate(over="ignore"):  # of a size that cannot be, which is an error all the same
        array = np.lib.format.open_memmap(path, mode="r")
    surplus = path.stat().st_size - array.offset - array.nbytes
    if surplus:
        raise SpaceError(f"{where} holds {surplus} bytes more than its header says; save one matrix in it")
    return array


def choose_member(names: Sequence[str], wanted: str | None, where: str, path: Path, what: str) -> str:
    """The tensor, array or column that is meant of several in a file.

    Parameters
    ----------
    names : sequence of str
        That the file holds.
    wanted : str, optional
    where : str
        What to call the file in an error message.
    path : Path
    what : str
        What one of them is called.

    Raises
    ------
    SpaceError
        If it is not there, or none is named and there is not exactly one.
    """
    listed = ", ".join(sorted(names)[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    if wanted is not None and wanted not in names:
        raise SpaceError(f"{where} holds no {what} {wanted!r}; it holds {listed or 'none'}, so name one of these")
    if wanted is None and len(names) != 1:
        remedy = f"name one, e.g. {path.name}:{sorted(names)[0]}" if names else "give a file with a matrix"
        raise SpaceError(f"{where} holds {len(names)} {what}s{f' ({listed})' if names else ''}; {remedy}")
    return names[0] if wanted is None else wanted


@contextmanager
def damage(where: str) -> Iterator[None]:
    """Say in one sentence what libraries say in many kinds of errors about damaged files.

    Raises
    ------
    SpaceError
    """
    try:
        yield
    except SpaceError:
        raise
    except Exception as error:
        # their first sentence: what follows advises to load pickles
        reason = textwrap.shorten(re.split(r"\.\s", str(error))[0].strip().rstrip("."), 100, placeholder=" ...")
        raise SpaceError(f"{where} is damaged, truncated or not a plain matrix ({reason}); save it again") from error


def is_file(path: Path) -> bool:
    """Whether a path names a file; what cannot be looked at does not."""
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """An array of numbers as a tensor of its own, float32 or float64.

    It is copied to the native layout, since torch knows neither other byte orders, negative
    strides nor long doubles.
    """
    return torch.from_numpy(np.array(array, dtype="f4" if array.dtype.itemsize <= 4 else "f8", order="C"))
