"""Matrices in files, of which only the rows asked for are read; no pickle is ever loaded."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch

from invariances.errors import SpaceError

__all__ = ["StoredSpace", "to_tensor"]

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

    Raises
    ------
    SpaceError
        If the file is missing, damaged, truncated, of another kind, or holds more than one matrix.
    """

    def __init__(self, path: Path, name: str = "space") -> None:
        self.path, self.name = path, name
        self._place = path.absolute()  # a worker may have another working folder
        if not _is_file(path):
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
        try:
            if self.path.suffix == ".npy":
                return use(self._map_npy())
            with safetensors.safe_open(self._place, framework="pt") as file:
                names = list(file.keys())
                if len(names) != 1:
                    raise SpaceError(
                        f"{self.name}: {self.path} holds {len(names)} tensors; give a file with one matrix"
                    )
                return use(file.get_tensor(names[0]))
        except SpaceError:
            raise
        except Exception as error:  # numpy and safetensors raise many kinds for damaged files
            # their first sentence: what follows advises to load pickles
            reason = textwrap.shorten(re.split(r"\.\s", str(error))[0].rstrip("."), 100, placeholder=" ...")
            raise SpaceError(
                f"{self.name}: {self.path} is damaged, truncated or not a plain matrix ({reason}); save it again"
            ) from error

    def _map_npy(self) -> np.memmap:
        with self._place.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
        if header > _LARGEST_HEADER:  # numpy would make room for all that it claims
            raise ValueError(f"its header claims {header} bytes")
        # not np.load, which also opens archives and, if told to, pickles
        with np.errstate(over="ignore"):  # of a size that cannot be, which is an error all the same
            array = np.lib.format.open_memmap(self._place, mode="r")
        surplus = self._place.stat().st_size - array.offset - array.nbytes
        if surplus:
            raise SpaceError(
                f"{self.name}: {self.path} holds {surplus} bytes more than its header says; save one matrix in it"
            )
        return array


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A floating-point array as a tensor of its own, float32 or float64.

    It is copied to the native layout, since torch knows neither other byte orders, negative
    strides nor long doubles.
    """
    return torch.from_numpy(np.array(array, dtype="f4" if array.dtype.itemsize <= 4 else "f8", order="C"))
