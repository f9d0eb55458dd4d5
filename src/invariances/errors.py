"""What a user can be told: every failure that is not a bug, in one sentence that names what, where and the remedy."""

from __future__ import annotations

__all__ = [
    "DataError",
    "InvariancesError",
    "ParameterError",
    "PretrainedError",
    "RunError",
    "SpaceError",
    "StoreError",
    "WorkersError",
]


class InvariancesError(Exception):
    """A failure that its message explains; the command line prints it and ends with exit status 1."""


class SpaceError(InvariancesError, ValueError):
    """Embeddings, anchors, labels or options of the method that cannot be used."""


class ParameterError(InvariancesError, ValueError):
    """A parameter or option that is not one, or has a value that it cannot have."""


class DataError(InvariancesError, RuntimeError):
    """A data set that is missing, or files of it that cannot be used."""


class PretrainedError(InvariancesError, RuntimeError):
    """A pretrained encoder that cannot be had."""


class StoreError(InvariancesError, RuntimeError):
    """A store that cannot be read or written."""


class WorkersError(InvariancesError, RuntimeError):
    """Worker processes that cannot go on."""


class RunError(InvariancesError, RuntimeError):
    """A notebook, a study or the book that failed."""
