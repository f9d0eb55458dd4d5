"""How every table of numbers gets into a file, and out of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from invariances.errors import RunError


def save_table(frame: pd.DataFrame, name: str, folder: str | Path = ".") -> Path:
    """Write a frame as ``<name>.csv``, whole or not at all; its path."""
    path = Path(folder) / f"{name}.csv"
    temporary = path.with_name(path.name + ".part")
    frame.to_csv(temporary, index=False, float_format="%.6g")
    temporary.replace(path)
    return path


def read_table(section: str, folder: str | Path, table: str = "") -> pd.DataFrame:
    """A table of a section from ``<section><table>.csv``.

    Raises
    ------
    RunError
        If it is missing.
    """
    path = Path(folder) / f"{section}{table}.csv"
    if not path.is_file():
        raise RunError(f"there is no {path.name} in {folder}; run the section first: invariances run {section}")
    return pd.read_csv(path)
