"""The studies beside the four sections, one file each.

Some run inside a section's notebook (`attention`, `conditions`, `cka_map`); those of `STUDIES` run by themselves; the
rest (`definitions`, `structure`) only read the sections' tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["STUDIES", "study"]

STUDIES = {"retrieval": "retrieval", "anchors": "anchors", "combinations": "combinations", "texts": "cka_map"}
"""Studies that train or score models of their own, and the module that runs each."""


def study(name: str) -> Callable[[str, Path], None]:
    """The function that runs a study: ``run(profile, folder)`` measures, and writes what the book shows.

    Every study takes its sizes from the profile, so that it runs with each of `PROFILES`.
    """
    import importlib

    module = importlib.import_module(f"invariances.paper.studies.{STUDIES[name]}")
    return module.write_texts if name == "texts" else module.run
