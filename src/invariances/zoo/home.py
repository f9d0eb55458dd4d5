"""Where things are kept: the two folders that the environment names."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def home() -> Path:
    """The folder of trained models, decoded arrays and the `datasets` cache: ``INVARIANCES_HOME``."""
    named = os.environ.get("INVARIANCES_HOME")
    return Path(named).expanduser().absolute() if named else user_cache_path("invariances")


def data_folder() -> Path | None:
    """The folder of hub-schema Parquet: ``INVARIANCES_DATA``, or None where it is not set."""
    named = os.environ.get("INVARIANCES_DATA")
    return Path(named).expanduser().absolute() if named else None
