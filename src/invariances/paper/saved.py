"""How every table of numbers gets into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def save(frame: pd.DataFrame, name: str, folder: str | Path = ".") -> Path:
    """Write a frame as ``<name>.csv``, whole or not at all; its path."""
    path = Path(folder) / f"{name}.csv"
    temporary = path.with_name(path.name + ".part")
    frame.to_csv(temporary, index=False, float_format="%.6g")
    temporary.replace(path)
    return path
