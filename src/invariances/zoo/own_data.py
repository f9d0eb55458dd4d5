"""Somebody's own labelled texts or pictures as a data set like those of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from invariances.errors import DataError
from invariances.zoo.inputs import Inputs, read_inputs
from invariances.zoo.sources import OWN, REGISTRY, Classes, Source, names_digest

__all__ = ["is_own", "load", "register"]

TEST_SHARE = 4
"""One sample of so many of each class is kept for the test split."""
LEAST = 8
"""Samples that a class must have."""


def is_own(data: str) -> bool:
    """Whether the parameter `data` names somebody's own samples, not a folder of hub-schema Parquet."""
    if data in ("auto", "builtin"):
        return False
    path = Path(data).expanduser()
    return path.is_file() or (path.is_dir() and not any((path / source.hub).is_dir() for source in REGISTRY.values()))


def register(data: str) -> str:
    """Find somebody's samples and give them a name, by which `sources.source_named` knows them from then on.

    Parameters
    ----------
    data : str
        What `inputs.read_inputs` takes, with classes.

    Returns
    -------
    str
        "own pictures" or "own texts".

    Raises
    ------
    DataError
        If there are none, or they have no classes, fewer than two, or one of few samples.
    """
    found = read_inputs(data)
    if found.labels is None:
        raise DataError(
            f"the samples at {data} have no classes; put each class in a folder, or give a table with a column 'label'"
        )
    names, counts = np.unique(found.labels, return_counts=True)
    if len(names) < 2 or counts.min() < LEAST:
        raise DataError(
            f"the samples at {data} are {len(names)} class(es), the smallest of {counts.min()}; give at least 2 "
            f"classes of {LEAST} samples each"
        )
    image = found.kind == "image"
    OWN[f"own {'pictures' if image else 'texts'}"] = Source(
        hub="",
        revision=found.stamp,
        kind=found.kind,
        columns={found.kind: "image" if image else "string", "label": "class"},
        inputs=(found.kind,),
        label="label",
        classes=Classes(len(names), names_digest(names.tolist()), tuple(names.tolist())),
        licence="your own",
        stand_in=None,
        channels=3 if image else 0,
        own=str(Path(data).expanduser().absolute()),
    )
    return f"own {'pictures' if image else 'texts'}"


def load(source: Source, split: str) -> Any:
    """The rows of a split; the test split has one sample of four of each class, drawn by seed 0.

    Raises
    ------
    DataError
        If the samples have changed since they were registered.
    """
    import datasets

    found = read_inputs(source.own)
    if found.stamp != source.revision or found.labels is None or source.classes is None:
        raise DataError(f"the samples at {source.own} have changed during the run; run it again")
    names = list(source.classes.names)
    numbers = _rows(found, split)
    kind = datasets.Image() if source.kind == "image" else datasets.Value("string")
    features = datasets.Features({source.inputs[0]: kind, "label": datasets.ClassLabel(names=names)})
    labels = [names.index(found.labels[number]) for number in numbers]
    if source.kind == "image":
        samples = [str(Path(source.own) / found.ids[number]) for number in numbers]
    else:
        samples = found.load(numbers)
    return datasets.Dataset.from_dict({source.inputs[0]: samples, "label": labels}, features=features)


def _rows(found: Inputs, split: str) -> list[int]:
    rng, labels, rows = np.random.default_rng(0), np.asarray(found.labels), []
    for name in np.unique(labels):
        drawn = rng.permutation(np.flatnonzero(labels == name))
        kept = len(drawn) // TEST_SHARE
        rows += (drawn[:kept] if split == "test" else drawn[kept:]).tolist()
    return sorted(rows)
