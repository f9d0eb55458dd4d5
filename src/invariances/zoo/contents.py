"""What lies in the zoo's store: how its artefacts are called, and which are needed no longer."""

from __future__ import annotations

from typing import Any

from invariances.zoo import store

__all__ = ["CONTENTS"]


def _title(kind: str, note: dict[str, Any]) -> str:
    """A model's data set, network, task and seed; a head's aggregation as well; a data set's sizes."""
    try:
        if "recipe" in note:
            recipe = note["recipe"]
            if "base" in recipe:
                what = "attention, equal weights" if recipe["equal_weights"] else recipe["aggregation"]
                base = _title(kind, {"recipe": recipe["base"]})
                return f"{base}: head on a product of {len(recipe['similarities'])}, {what}"
            network = f"{recipe['network']['family']}-{recipe['network']['depth']}"
            trained = f"{recipe['training']['epochs']} epochs, seed {recipe['seed']}"
            return f"{recipe['dataset']}, {network}, {recipe['task']}, {trained}"
        if "encoder" in note:
            return f"codes of {note['n']:,} samples by {note['encoder'].partition('@')[0]}"
        if "n_train" in note:
            return f"{note['n_train']:,} + {note['n_test']:,} samples of {len(note['classes'])} classes"
    except (KeyError, TypeError, ValueError):
        pass  # a damaged note
    return ""


def _obsolete(kind: str, key: str, note: dict[str, Any]) -> bool:
    """Checkpoints whose models are all finished."""
    finished = (store.has("models", model) or store.has("heads", model) for model in note.get("models", [key]))
    return kind == "checkpoints" and all(finished)


CONTENTS = store.Contents(_title, _obsolete)
"""What `store.entries` and `store.prune` are told of the zoo's artefacts."""
