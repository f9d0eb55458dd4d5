"""Spaces: the ``n x d`` matrix of one model's embeddings of ``n`` samples. Reading and checking them.

Everything that takes embeddings from outside goes through this module, so that bad input is
named once, in one sentence, before any computation starts.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch

from invariances.errors import SpaceError
from invariances.files import StoredSpace, to_tensor

__all__ = [
    "CHUNK_BYTES",
    "OpenSpace",
    "Space",
    "Spaces",
    "Subset",
    "all_finite",
    "anchor_ids",
    "as_tensor",
    "check_range",
    "check_values",
    "check_whole",
    "chunks",
    "class_codes",
    "is_number",
    "open_space",
    "open_spaces",
    "read_space",
    "read_spaces",
    "shown",
    "unit_factor",
]


Space: TypeAlias = "np.ndarray | torch.Tensor | str | Path | StoredSpace"
OpenSpace: TypeAlias = "torch.Tensor | StoredSpace"
"""What gives its rows as a tensor when indexed with a slice or with row ids."""
Spaces: TypeAlias = "Mapping[str, Space] | Sequence[Space]"
CHUNK_BYTES = 32 * 2**20
"""Memory that one chunk of rows may take where a matrix is gone through in chunks."""
_SMALLEST_MAGNITUDE, _LARGEST_MAGNITUDE = 2.0**-100, 2.0**100  # about 1e-30 and 1e30
"""Where the largest magnitude of a space must lie: products of four of its values are then far from
the ends of float64, and the space itself from those of float32."""
_SINGLE_PRECISION_RANGE = 2.0**20
"""Largest magnitude, and one over the smallest, of a float32 space that is not widened to float64."""
_SMALLEST_ROW = {torch.float32: 2.0**-60, torch.float64: 2.0**-400}
"""Largest magnitude of a row below which its square vanishes: float32 is widened, float64 refused."""


class Subset:
    """Some rows of an open space, read when they are asked for.

    Parameters
    ----------
    space : OpenSpace
    ids : array of row ids
    dtype : torch.dtype
        In which they are given.
    """

    def __init__(self, space: OpenSpace, ids: np.ndarray, dtype: torch.dtype) -> None:
        self.space, self.ids, self.dtype = space, ids, dtype
        self.shape = (len(ids), space.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return self.space[self.ids[rows]].to(self.dtype)


def read_space(source: Space, name: str = "space") -> torch.Tensor:
    """Read one space and check it.

    Parameters
    ----------
    source : array or tensor of shape (n, d), or path
        A path names a ``.npy`` file or a ``.safetensors`` file that holds one matrix.
    name : str
        What to call the space in an error message.

    Returns
    -------
    torch.Tensor of shape (n, d)
        In the source's floating-point type; half precision is widened to float32.

    Raises
    ------
    SpaceError
        If the matrix cannot be read, is not an n x d floating-point matrix with n >= 2, or holds
        NaN, infinities, all-zero rows, or the same row throughout.
    """
    opened = open_space(source, name)
    return opened[:] if isinstance(opened, StoredSpace) else opened


def open_space(source: Space, name: str = "space") -> OpenSpace:
    """Check one space as `read_space` does, but leave what is in a file there.

    Returns
    -------
    OpenSpace
    """
    if isinstance(source, StoredSpace):
        return source  # it was checked when it was opened
    if isinstance(source, (str, Path)):
        source = StoredSpace(Path(source), name)
        _check_dtype(source.dtype, name)
    else:
        source = as_tensor(source, name).detach()
    faintest, largest = check_values(source, name)
    if faintest < _SMALLEST_ROW[torch.float32] or not 1 / _SINGLE_PRECISION_RANGE <= largest <= _SINGLE_PRECISION_RANGE:
        return source.double()
    return source


def as_tensor(source: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    """A tensor of an array or tensor, its values unchecked; half precision is widened to float32.

    Raises
    ------
    SpaceError
        If it is neither, holds no floating-point numbers, or is a sparse, nested or meta tensor.
    """
    if isinstance(source, torch.Tensor):
        if source.is_nested or source.layout is not torch.strided or source.is_meta:
            raise SpaceError(f"{name} is a sparse, nested or meta tensor; give a plain one, e.g. x.to_dense()")
        _check_dtype(source.dtype, name)
        return source.to(torch.promote_types(source.dtype, torch.float32))
    if isinstance(source, np.ndarray) and not isinstance(source, np.ma.MaskedArray):
        _check_dtype(source.dtype, name)
        return to_tensor(source)
    way = next((f", here x.{method}()" for method in ("to_numpy", "toarray") if hasattr(source, method)), "")
    raise SpaceError(
        f"{name} is a {type(source).__name__}; give a numpy array, a torch tensor, or the path of an .npy file{way}"
    )


def all_finite(x: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    # no finite sum has such a term, and a sum takes a fiftieth of the time; one that overflows proves nothing
    return bool(x.detach().sum().isfinite() or x.isfinite().all())


def check_range(x: torch.Tensor) -> torch.Tensor:
    """Give back what samples are mapped to, unless it leaves the range of its floating-point type.

    Raises
    ------
    SpaceError
        If it does.
    """
    if not all_finite(x):
        raise SpaceError(f"what it is mapped to is too large for {x.dtype}; rescale the spaces, or give float64")
    return x


def _check_dtype(dtype: np.dtype | torch.dtype, name: str) -> None:
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if not (dtype in floats if isinstance(dtype, torch.dtype) else dtype.kind == "f"):
        raise SpaceError(f"{name} has dtype {dtype}; give floating-point numbers, float16 to float64, e.g. float32")


def chunks(n: int, row_bytes: int) -> Iterator[slice]:
    """Slices that go through `n` rows, each of at most `CHUNK_BYTES`."""
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def unit_factor(x: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """The power of two that brings the largest magnitude of `x` (along `dim`) to [0.5, 1).

    Times it, squares and sums of squares neither overflow nor vanish, and no digit changes. For
    gradients it is a constant.
    """
    sizes = x.detach().abs()
    top = sizes.amax() if dim is None else sizes.amax(dim, keepdim=True)
    top = top.clamp_min(torch.finfo(x.dtype).tiny)  # what is smaller is brought closer, and zero stays
    return torch.frexp(top).mantissa / top


def read_spaces(spaces: Spaces, at_least: int = 2) -> dict[str, torch.Tensor]:
    """Read several spaces of the same samples; a sequence is named "0", "1", ... in its order.

    They come in the widest floating-point type among them.

    Raises
    ------
    SpaceError
        If there are fewer than `at_least`, or their row counts differ.
    """
    read = _named(spaces, at_least, read_space)
    widest = functools.reduce(torch.promote_types, (space.dtype for space in read.values()), torch.float32)
    return {name: space.to(widest) for name, space in read.items()}


def open_spaces(spaces: Spaces, at_least: int = 2) -> dict[str, OpenSpace]:
    """Check several spaces as `read_spaces` does, but leave what is in files there."""
    return _named(spaces, at_least, open_space)


def _named(spaces: Spaces, at_least: int, read: Callable[[Space, str], Any]) -> dict[str, Any]:
    if isinstance(spaces, (str, Path)) or not isinstance(spaces, (Mapping, Sequence)):
        raise SpaceError(
            f"spaces is a {type(spaces).__name__}; give a mapping from model names to spaces, or a list of spaces"
        )
    named = spaces if isinstance(spaces, Mapping) else dict(enumerate(spaces))
    if len(named) < at_least:
        raise SpaceError(f"{len(named)} space(s) given; at least {at_least} are needed to compare models")
    if len({str(name) for name in named}) < len(named):
        raise SpaceError("two spaces have the same name; give every model its own")
    for name in map(str, named):
        # a file's name that the system's locale cannot decode holds its bytes as surrogates
        readable = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if not readable.strip() or not readable.isprintable():
            raise SpaceError(f"a space is named {name!r}; give every model a name that can be read")
    opened = {str(name): read(space, f"space {str(name)!r}") for name, space in named.items()}
    rows = {name: len(space) for name, space in opened.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in rows.items())
        raise SpaceError(
            f"the spaces have different numbers of rows ({listed}); embed the same samples in the same order"
        )
    return opened


def check_whole(value: object, name: str, least: int = 0) -> None:
    """Refuse what is no whole number of at least `least`, or too large for a seed; a bool is none."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise SpaceError(f"{name} is {shown(value)}; give a whole number of at least {least}")
    if value >= 2**63:
        raise SpaceError(f"{name} is {shown(value)}; give a whole number below 2**63")


def is_number(value: object) -> bool:
    """Whether a value is a real number; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value as a message shows it, on one line and short."""
    return textwrap.shorten(repr(value), 60, placeholder=" ...") if len(repr(value)) > 60 else repr(value)


def anchor_ids(anchors: int | Sequence[int] | np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Row ids of the anchors: a count draws them by `seed`, ids are checked and kept in their order.

    Raises
    ------
    SpaceError
        If fewer than 2 anchors are asked for, ids repeat or lie outside 0..n-1, fewer than
        2 rows would remain to be scored, or the seed is no whole number.
    """
    check_whole(seed, "seed")
    if isinstance(anchors, (bool, np.bool_)):
        raise SpaceError("anchors is a bool; give a count or the row ids of the anchors")
    if isinstance(anchors, (int, np.integer)):
        _check_anchor_count(int(anchors), n)
        return np.random.default_rng(seed).choice(n, size=int(anchors), replace=False)
    ids = _as_array(anchors)
    if ids is None or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise SpaceError("anchors must be a count or a list of whole-numbered row ids")
    _check_anchor_count(len(ids), n)
    if ids.min() < 0 or ids.max() >= n:
        raise SpaceError(
            f"anchor id {ids.min() if ids.min() < 0 else ids.max()} is outside the rows 0..{n - 1}; "
            "give rows that are there"
        )
    if len(np.unique(ids)) < len(ids):
        raise SpaceError(f"{len(ids) - len(np.unique(ids))} anchor ids are repeated; give every anchor once")
    return ids.astype(np.int64)  # torch reads uint8 as a mask


def class_codes(labels: Sequence | np.ndarray | torch.Tensor | None, n: int) -> torch.Tensor | None:
    """Labels as class codes 0..C-1, or None where there are none.

    Raises
    ------
    SpaceError
        If there is not one label for each of the `n` rows.
    """
    if labels is None:
        return None
    array = _as_array(labels)
    if array is None or array.shape != (n,):
        got = "are not one a row" if array is None else f"have shape {array.shape}"
        raise SpaceError(f"labels {got}; give one label for each of the {n} rows")
    # a list is looked at as it is: an array would turn the NaN among strings into a class "nan"
    missing = pd.isna(array if hasattr(labels, "dtype") else np.asarray(labels, dtype=object))
    if missing.any():
        first = f"first: row {missing.argmax()}"
        raise SpaceError(f"{missing.sum()} labels are missing ({first}); drop these samples in every space")
    try:
        return torch.from_numpy(np.unique(array, return_inverse=True)[1].astype(np.int64))
    except TypeError as error:
        raise SpaceError("labels of different kinds cannot be told apart; give only numbers or only strings") from error


def _as_array(values: object) -> np.ndarray | None:
    """An array of a sequence or tensor; None where its parts are of different lengths, or nothing is there."""
    try:
        return values.numpy(force=True) if isinstance(values, torch.Tensor) else np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        return None


def _check_anchor_count(k: int, n: int) -> None:
    if k < 2:
        raise SpaceError(f"{k} anchor(s) given; at least 2 are needed")
    if k > n - 2:
        raise SpaceError(
            f"{k} anchors asked for, but there are {n} rows, of which 2 must remain to be scored; give fewer anchors"
        )


def check_values(x: OpenSpace | Subset, name: str) -> tuple[float, float]:
    """Go through the rows and name what is wrong with their values.

    Returns
    -------
    tuple of float
        The largest magnitude of the faintest row, and of all.

    Raises
    ------
    SpaceError
        As `read_space`.
    """
    if len(x.shape) != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise SpaceError(
            f"{name} has shape {tuple(x.shape)}; give a matrix with at least 2 samples as rows and 1 feature"
        )
    infinite, zero, faint, constant, faintest, largest = [], [], [], True, float("inf"), 0.0
    first = x[:1]
    for rows in chunks(len(x), x.shape[1] * 8):
        part = x[rows]
        sizes = part.abs().amax(dim=1)  # NaN where there is any
        for found, which in (
            (infinite, ~sizes.isfinite()),
            (zero, sizes == 0),
            (faint, (sizes > 0) & (sizes < _SMALLEST_ROW[torch.float64])),
        ):
            found += (rows.start + which.nonzero().flatten()).tolist()
        constant = constant and bool((part == first).all())
        faintest, largest = min(faintest, float(sizes.min())), max(largest, float(sizes.max()))
    if infinite:
        raise SpaceError(
            _rows_message(name, infinite, "NaN or infinity", "repair or drop these samples in every space")
        )
    if zero:
        raise SpaceError(
            _rows_message(name, zero, "only zeros, which have no direction", "drop these samples in every space")
        )
    if constant:
        raise SpaceError(f"{name} is constant: all {len(x)} rows are the same; give samples that differ")
    if not _SMALLEST_MAGNITUDE <= largest <= _LARGEST_MAGNITUDE:
        raise SpaceError(
            f"{name} holds values of up to {largest:.0e}, too far from 1 to be squared safely; "
            f"multiply it by a factor that brings them between {_SMALLEST_MAGNITUDE:.0e} and {_LARGEST_MAGNITUDE:.0e}"
        )
    if faint:
        limit = f"{_SMALLEST_ROW[torch.float64]:.0e}"
        raise SpaceError(
            _rows_message(name, faint, f"nothing above {limit}, too little to be squared", "drop these in every space")
        )
    return faintest, largest


def _rows_message(name: str, bad: list[int], what: str, remedy: str) -> str:
    return f"{name}: {len(bad)} row(s) hold {what} (first: row {bad[0]}); {remedy}"
