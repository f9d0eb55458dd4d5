"""Spaces: the ``n x d`` matrix of one model's embeddings of ``n`` samples. Reading and checking them.

Everything that takes embeddings from outside goes through this module, so that bad input is
named once, in one sentence, before any computation starts.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch

from invariances.arguments import as_array, is_number
from invariances.errors import SpaceError
from invariances.files import StoredSpace
from invariances.matching import Matched, match_rows
from invariances.readers import Embeddings, Matrix, as_tensor, check_dtype, read
from invariances.samples import Anchors, Labels, anchor_ids, read_anchors

__all__ = [
    "CHUNK_BYTES",
    "OpenSpace",
    "OpenSpaces",
    "Space",
    "Spaces",
    "Subset",
    "all_finite",
    "check_range",
    "check_values",
    "chunks",
    "open_space",
    "open_spaces",
    "read_space",
    "read_spaces",
    "unit_factor",
]


Space: TypeAlias = (
    "np.ndarray | torch.Tensor | Sequence | pd.DataFrame | pd.Series | str | Path | Embeddings | StoredSpace"
)
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
_MATRIX_OF = {
    3: "; x.mean(1) pools its second axis, such as tokens, and x.reshape(len(x), -1) flattens it",
    4: "; x.mean((2, 3)) pools the places of a feature map, and x.reshape(len(x), -1) flattens it",
}
"""What makes a matrix of more axes, in numpy and torch alike."""
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
    source : array, tensor, list of vectors or DataFrame of shape (n, d), or path
        What `invariances.readers.read` takes.
    name : str
        What to call the space in an error message.

    Returns
    -------
    torch.Tensor of shape (n, d)
        In the source's floating-point type; half precision and quantized vectors are widened to float32.

    Raises
    ------
    SpaceError
        If the matrix cannot be read, is not an n x d matrix of floating-point numbers, int8 or uint8 with n >= 2, or
        holds NaN, infinities, all-zero rows, or the same row throughout.
    """
    opened = open_space(source, name)
    return opened[:] if isinstance(opened, StoredSpace) else opened


def open_space(source: Space, name: str = "space") -> OpenSpace:
    """Check one space as `read_space` does, but leave what is in an `.npy` or `.safetensors` file there.

    Returns
    -------
    OpenSpace
    """
    if isinstance(source, StoredSpace):
        return source  # it was checked when it was opened
    return _checked(read(source, name).values, name)


def _checked(values: Matrix, name: str) -> OpenSpace:
    check_dtype(values.dtype, name)
    opened = values if isinstance(values, StoredSpace) else as_tensor(values, name).detach()
    faintest, largest = check_values(opened, name)
    if faintest < _SMALLEST_ROW[torch.float32] or not 1 / _SINGLE_PRECISION_RANGE <= largest <= _SINGLE_PRECISION_RANGE:
        return opened.double()
    return opened


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


class OpenSpaces(dict[str, OpenSpace]):
    """Spaces of the same samples by name, their rows matched; anchors and labels count the rows of the first."""

    def __init__(self, spaces: Mapping[str, OpenSpace], matched: Matched | None = None) -> None:
        super().__init__(spaces)
        matched = Matched({}, None, "", False) if matched is None else matched
        self.matched_by = matched.said
        """How rows were matched by their ids, in one sentence; empty where they were matched by their order."""
        self.ids = matched.ids
        """Ids of the rows, where there are any."""
        self.rows = next(iter(matched.rows.values()), None)
        """Which rows of the first space these are; None where they are all."""

    @property
    def n(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.values())))

    def anchor_rows(self, anchors: Anchors, seed: int = 0) -> np.ndarray:
        """Row numbers of the anchors, given as `anchor_ids` takes them or by the ids of their rows.

        Raises
        ------
        SpaceError
            As `anchor_ids`, or if a row or id is not among those that all spaces have.
        """
        if isinstance(anchors, (str, Path)):
            anchors = read_anchors(anchors)
        given = None if is_number(anchors) else as_array(anchors)
        if given is None or given.ndim != 1 or not len(given):
            return anchor_ids(anchors, self.n, seed)
        if given.dtype.kind in "UO" and self.ids is not None:
            wanted, index = [str(each) for each in given], self.ids.map(str)
        elif self.rows is None or (given.dtype.kind == "b" and len(given) == self.n):
            return anchor_ids(given, self.n, seed)
        else:
            wanted, index = np.flatnonzero(given) if given.dtype.kind == "b" else given, pd.Index(self.rows)
        places = index.get_indexer(wanted) if index.is_unique else np.full(len(wanted), -1)
        if (places < 0).any():
            raise SpaceError(
                f"{(places < 0).sum()} anchors are no rows that all spaces have "
                f"(first: {wanted[int(np.argmax(places < 0))]}); give others"
            )
        return anchor_ids(places, self.n, seed)

    def labels_of_rows(self, labels: Labels) -> Labels:
        """The labels of these rows: a Series is matched by its index, others count the rows of the first space.

        Raises
        ------
        SpaceError
            If a row has no label.
        """
        if labels is None:
            return None
        if isinstance(labels, pd.Series) and self.ids is not None and not isinstance(labels.index, pd.RangeIndex):
            index = labels.index.map(str)
            places = index.get_indexer(self.ids.map(str)) if index.is_unique else np.full(self.n, -1)
            if (places < 0).any():
                raise SpaceError(f"{(places < 0).sum()} row(s) have no label of their own by id; give one for each")
            return labels.iloc[places]
        given = as_array(labels)
        if self.rows is not None and given is not None and given.ndim == 1 and len(given) > self.rows.max():
            return given[self.rows]
        return labels


def read_spaces(spaces: Spaces, at_least: int = 2) -> OpenSpaces:
    """Read several spaces of the same samples; a sequence is named "0", "1", ... in its order.

    They come in the widest floating-point type among them.

    Raises
    ------
    SpaceError
        If there are fewer than `at_least`, or their rows are not the same samples.
    """
    opened = open_spaces(spaces, at_least)
    whole = {name: space[:] if isinstance(space, StoredSpace) else space for name, space in opened.items()}
    widest = functools.reduce(torch.promote_types, (space.dtype for space in whole.values()), torch.float32)
    opened.update({name: space.to(widest) for name, space in whole.items()})
    return opened


def open_spaces(spaces: Spaces, at_least: int = 2, warn: bool = True) -> OpenSpaces:
    """Check several spaces as `read_spaces` does, but leave what is in `.npy` and `.safetensors` files there.

    Rows are matched by their ids where the spaces have them (`invariances.matching`); with `warn`, one warning says
    so if rows are left out or in another order.
    """
    if isinstance(spaces, OpenSpaces) and len(spaces) >= at_least:
        return spaces
    named = _named(spaces, at_least)
    found = {name: read(space, f"space {name!r}") for name, space in named.items()}
    for name, each in found.items():
        if len(each.values.shape) != 2:
            _checked(each.values, f"space {name!r}")  # which says what is wrong
    sizes = {name: each.values.shape[0] for name, each in found.items()}
    matched = match_rows({name: each.ids for name, each in found.items()}, sizes)
    if matched.moved and warn:
        warnings.warn(matched.said, stacklevel=3)
    opened = {
        name: space if isinstance(space, StoredSpace) else _opened(found[name], f"space {name!r}", matched.rows[name])
        for name, space in named.items()  # what is stored was checked when it was opened
    }
    if len({len(space) for space in opened.values()}) > 1:
        listed = ", ".join(f"{name} {len(space)}" for name, space in opened.items())
        raise SpaceError(
            f"the spaces have different numbers of rows ({listed}); embed the same samples in the same order, "
            "or give the ids of all rows to match them by"
        )
    return OpenSpaces(opened, matched)


def _opened(given: Embeddings, name: str, rows: np.ndarray | None) -> OpenSpace:
    return _checked(given.values if rows is None else given.values[rows], name)


def _named(spaces: Spaces, at_least: int) -> dict[str, Space]:
    if isinstance(spaces, (str, Path)) or not isinstance(spaces, (Mapping, Sequence)):
        raise SpaceError(
            f"spaces is a {type(spaces).__name__}; give a mapping from model names to spaces, or a list of spaces"
        )
    named: Mapping[Any, Space] = spaces if isinstance(spaces, Mapping) else dict(enumerate(spaces))
    if len(named) < at_least:
        raise SpaceError(f"{len(named)} space(s) given; at least {at_least} are needed to compare models")
    if len({str(name) for name in named}) < len(named):
        raise SpaceError("two spaces have the same name; give every model its own")
    for name in map(str, named):
        # a file's name that the system's locale cannot decode holds its bytes as surrogates
        readable = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if not readable.strip() or not readable.isprintable():
            raise SpaceError(f"a space is named {name!r}; give every model a name that can be read")
    return {str(name): space for name, space in named.items()}


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
            f"{_MATRIX_OF.get(len(x.shape), '')}"
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
