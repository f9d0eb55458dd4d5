"""The networks of the CKA map, and CKA between all pairs of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from invariances.alignment import align
from invariances.paper.plan import PlannedRow, sized
from invariances.paper.studies.cka_tables import COLUMNS, FORMS, PICTURES, TEXTS
from invariances.zoo import workers
from invariances.zoo.recipes import Recipe

__all__ = ["ARCHITECTURES", "Member", "architectures", "compare", "zoo_map"]


ARCHITECTURES = {
    "cnn-3": "CNN-3",
    "cnn-5": "CNN-5",
    "cnn-3-gelu": "CNN-3 GELU",
    "vit-small": "ViT-Small",
    "vit-base": "ViT-Base",
    "bert": "BERT",
    "roberta": "RoBERTa",
}
"""The zoo's networks as the map calls them, in the order of its blocks."""


class Member(NamedTuple):
    """One model of a map."""

    group: str
    """Its architecture, or its own name."""
    kind: str
    """"trained" or "untrained"."""
    modality: str
    """"vision" or "language"."""
    space: np.ndarray | torch.Tensor


def zoo_map(rows: Mapping[str, PlannedRow], models: Mapping, modality: str) -> pd.DataFrame:
    """The map of the zoo's networks that read the same pictures ("vision"), or the same texts ("language")."""
    found, data = {}, ""
    for kind, field in (("trained", "recipes"), ("untrained", "untrained")):
        for name, (group, recipe) in architectures(rows, field, modality).items():
            found[name if kind == "trained" else f"{group}, untrained {name.removeprefix(group).strip()}"] = Member(
                group, kind, modality, models[recipe].spaces["test"]
            )
            data = f"{recipe.dataset}, test split"
    return compare(PICTURES if modality == "vision" else TEXTS, found, data) if found else pd.DataFrame(columns=COLUMNS)


def architectures(rows: Mapping[str, PlannedRow], field: str, modality: str) -> dict[str, tuple[str, Recipe]]:
    """Networks of one field of `Group` that read the same samples, with their architecture, in its order.

    One recipe can serve two rows under two names (CNN-3, ReLU): it is one model here.
    """
    found = {}
    for planned in rows.values():
        for group in planned.groups if planned.row.modality == modality else ():
            for i, recipe in enumerate(getattr(group, field).values()):
                title = sized(ARCHITECTURES[group.variant.network], recipe.network)
                found.setdefault(f"{title} {i}", (title, recipe))
    order = list(ARCHITECTURES.values())
    return dict(sorted(found.items(), key=lambda item: order.index(item[1][0].partition(" (")[0])))


def compare(name: str, members: Mapping[str, Member], data: str) -> pd.DataFrame:
    """Both forms of CKA between all pairs of models, as lines of the frame.

    Parameters
    ----------
    name : str
        "pictures", "texts" or "pictures and texts".
    members : mapping from model names to Member
        Spaces hold the same samples in the same order.
    data : str
        What the samples are.
    """
    with workers.one_thread():
        spaces = {model: member.space for model, member in members.items()}
        table = align(spaces, invariances=("absolute",), metrics=tuple(FORMS))
    for end in "ab":
        named = table[f"model_{end}"].map(members)
        for field in ("group", "kind", "modality"):
            table[f"{field}_{end}"] = [getattr(member, field) for member in named]
    return table.assign(map=name, data=data)[COLUMNS]
