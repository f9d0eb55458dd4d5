"""Where things are kept: the two folders that the environment names."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from invariances.errors import DataError

__all__ = ["data_folder", "home"]


def home() -> Path:
    """The folder of trained models, decoded arrays and the `datasets` cache: ``INVARIANCES_HOME``."""
    named = os.environ.get("INVARIANCES_HOME")
    return Path(named).expanduser().absolute() if named else user_cache_path("invariances")


def data_folder() -> Path | None:
    """The folder of hub-schema Parquet: ``INVARIANCES_DATA``, or None where it is not set.

    Raises
    ------
    DataError
        If it names no folder that is there.
    """
    named = os.environ.get("INVARIANCES_DATA")
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise DataError(
            f"INVARIANCES_DATA names {folder}, which {what}; give the folder of the Parquet files, or unset it"
        )
    return folder
