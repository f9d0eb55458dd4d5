"""The models of a row as the studies of anchors and combinations read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from invariances import zoo
from invariances.paper import plan
from invariances.paper.profiles import PROFILES
from invariances.paper.rows import ROWS
from invariances.paper.settings import check
from invariances.zoo import datasets

__all__ = ["MODELS", "groups", "in_order", "joined", "labelled", "not_run", "panel"]


MODELS = 5
"""Models of a row, at most."""


class Panel(NamedTuple):
    """The models of one row: codes of the pool of anchors and of the test split, by model."""

    pool: dict[str, torch.Tensor]
    test: dict[str, torch.Tensor]
    pool_labels: np.ndarray
    test_labels: np.ndarray
    anchors: int
    """Number of anchors that the sections use."""
    facts: dict[str, object]
    """What every line of a frame says of the data."""


def groups(profile: str, rows: Sequence[str]) -> dict[str, plan.Group]:
    """The models of each row that can be run, as planned; nothing is trained.

    Raises
    ------
    DataError
        If a data set is missing; one sentence says how to get it.
    """
    return {name: row.groups[0] for name, row in _planned(profile, rows).items() if not row.not_run}


def not_run(profile: str, rows: Sequence[str]) -> list[str]:
    """A sentence, as a point of a Markdown list, for each row that `groups` leaves out: why it is not run."""
    reasons = plan.not_run(_planned(profile, rows))
    return [f"- {name} was not run: {reason}." for name, reason in reasons.items()]


def _planned(profile: str, rows: Sequence[str]) -> dict[str, plan.PlannedRow]:
    names = ",".join(dict.fromkeys(row.dataset for row in ROWS["initialization"] if row.name in rows))
    seeds = min(MODELS, PROFILES[profile].seeds)
    planned = plan.rows(check("initialization", {"profile": profile, "datasets": names, "seeds": seeds}))
    return {name: row for name, row in planned.items() if name in rows}


@lru_cache(maxsize=2)
def panel(profile: str, row: str) -> Panel:
    """The models of a row, trained where they are not in the store."""
    group = groups(profile, (row,))[row]
    trained = zoo.train(list(group.recipes.values()))
    arrays = datasets.load(group.prepared.key).arrays
    pool, test = (
        {name: torch.as_tensor(trained[recipe].spaces[split]) for name, recipe in group.recipes.items()}
        for split in ("pool", "test")
    )
    n_pool = len(next(iter(pool.values())))
    prepared = group.prepared
    facts = {"profile": profile, "row": row, "data": prepared.title, "source": prepared.source}
    facts |= {"n_train": prepared.n_train, "n_pool": n_pool}
    return Panel(pool, test, arrays["train_y"][:n_pool], arrays["test_y"], group.anchors, facts)


def in_order(frames: object, units: Sequence[NamedTuple], by: list[str]) -> pd.DataFrame:
    """All frames in the order of their units, whichever was finished first."""
    order = {tuple(getattr(unit, name) for name in by): i for i, unit in enumerate(units)}
    return pd.concat(sorted(frames, key=lambda frame: order[tuple(frame.iloc[0][by])]), ignore_index=True)


def labelled(frame: pd.DataFrame, facts: dict[str, object]) -> pd.DataFrame:
    """The frame with the same facts in front of each line."""
    return pd.concat([pd.DataFrame(facts, index=frame.index), frame], axis=1)


def joined(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names)
