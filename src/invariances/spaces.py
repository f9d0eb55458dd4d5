"""Spaces: the ``n x d`` matrix of one model's embeddings of ``n`` samples. Reading and checking them.

Everything that takes embeddings from outside goes through this module, so that bad input is
named once, in one sentence, before any computation starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

Space: TypeAlias = "np.ndarray | torch.Tensor | str | Path"
Spaces: TypeAlias = "Mapping[str, Space] | Sequence[Space]"


class SpaceError(ValueError):
    """Embeddings, anchors or labels that cannot be used; the message says what, where and the remedy."""


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
    if isinstance(source, (str, Path)):
        source = _read_file(Path(source), name)
    if isinstance(source, np.ndarray):
        if source.dtype.kind != "f":
            raise SpaceError(f"{name} has dtype {source.dtype}; give floating-point numbers, e.g. x.astype('float32')")
        source = to_tensor(source)
    if not isinstance(source, torch.Tensor):
        raise SpaceError(
            f"{name} is a {type(source).__name__}; give a numpy array, a torch tensor, or the path of an .npy file"
        )
    if not source.is_floating_point():
        raise SpaceError(f"{name} has dtype {source.dtype}; give floating-point numbers, e.g. x.float()")
    if source.dtype in (torch.float16, torch.bfloat16):
        source = source.float()
    _check_values(source, name)
    return source


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A floating-point array as a tensor of its own, float32 or float64.

    It is copied to the native layout, since torch knows neither other byte orders, negative
    strides nor long doubles.
    """
    return torch.tensor(np.ascontiguousarray(array, dtype="f4" if array.dtype.itemsize <= 4 else "f8"))


def read_spaces(spaces: Spaces, at_least: int = 2) -> dict[str, torch.Tensor]:
    """Read several spaces of the same samples; a sequence is named "0", "1", ... in its order.

    Raises
    ------
    SpaceError
        If there are fewer than `at_least`, or their row counts differ.
    """
    named = spaces if isinstance(spaces, Mapping) else {str(i): space for i, space in enumerate(spaces)}
    if len(named) < at_least:
        raise SpaceError(f"{len(named)} space(s) given; at least {at_least} are needed to compare models")
    read = {str(name): read_space(space, f"space {name!r}") for name, space in named.items()}
    rows = {name: len(space) for name, space in read.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in rows.items())
        raise SpaceError(
            f"the spaces have different numbers of rows ({listed}); embed the same samples in the same order"
        )
    return read


def anchor_ids(anchors: int | Sequence[int] | np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Row ids of the anchors: a count draws them by `seed`, ids are checked and kept in their order.

    Raises
    ------
    SpaceError
        If fewer than 2 anchors are asked for, ids repeat or lie outside 0..n-1, or fewer than
        2 rows would remain to be scored.
    """
    if isinstance(anchors, (bool, np.bool_)):
        raise SpaceError("anchors is a bool; give a count or the row ids of the anchors")
    if isinstance(anchors, (int, np.integer)):
        _check_anchor_count(int(anchors), n)
        return np.random.default_rng(seed).choice(n, size=int(anchors), replace=False)
    ids = np.asarray(anchors)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise SpaceError("anchors must be a count or a list of whole-numbered row ids")
    _check_anchor_count(len(ids), n)
    if ids.min() < 0 or ids.max() >= n:
        raise SpaceError(f"anchor id {ids.min() if ids.min() < 0 else ids.max()} is outside the rows 0..{n - 1}")
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
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise SpaceError(f"labels have shape {labels.shape}; give one label for each of the {n} rows")
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1].astype(np.int64))


def _check_anchor_count(k: int, n: int) -> None:
    if k < 2:
        raise SpaceError(f"{k} anchor(s) given; at least 2 are needed")
    if k > n - 2:
        raise SpaceError(
            f"{k} anchors asked for, but there are {n} rows, of which 2 must remain to be scored; give fewer anchors"
        )


def _check_values(x: torch.Tensor, name: str) -> None:
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise SpaceError(
            f"{name} has shape {tuple(x.shape)}; give a matrix with at least 2 samples as rows and 1 feature"
        )
    finite = torch.isfinite(x).all(dim=1)
    if not finite.all():
        raise SpaceError(_rows_message(name, ~finite, "NaN or infinity", "repair or drop these samples in every space"))
    zero = (x == 0).all(dim=1)
    if zero.any():
        raise SpaceError(
            _rows_message(name, zero, "only zeros, which have no direction", "drop these samples in every space")
        )
    if (x == x[0]).all():
        raise SpaceError(f"{name} is constant: all {len(x)} rows are the same, so there is nothing to compare")


def _rows_message(name: str, bad: torch.Tensor, what: str, remedy: str) -> str:
    return f"{name}: {int(bad.sum())} row(s) hold {what} (first: row {int(bad.nonzero()[0])}); {remedy}"


def _read_file(path: Path, name: str) -> np.ndarray | torch.Tensor:
    if not path.is_file():
        raise SpaceError(f"{name}: there is no file {path}")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
            if len(tensors) != 1:
                raise SpaceError(f"{name}: {path} holds {len(tensors)} tensors; give a file with one matrix")
            return next(iter(tensors.values()))
    except SpaceError:
        raise
    except Exception as error:  # numpy and safetensors raise many kinds for damaged files
        raise SpaceError(
            f"{name}: {path} is damaged, truncated or not a plain matrix ({error}); save it again"
        ) from error
    raise SpaceError(f"{name}: {path} is not read, since only .npy and .safetensors are safe to load; convert it")
