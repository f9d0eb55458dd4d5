"""The zoo: models trained from recipes, each once, and the spaces that they make.

`train` is the one call: it gives back trained models, from the store where they are there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from invariances.zoo import store, training, workers
from invariances.zoo.recipes import Recipe
from invariances.zoo.training import Trained, numerics


def device_named(name: str = "auto") -> torch.device:
    """The device to train on; "auto" takes a GPU where there is one.

    Raises
    ------
    ValueError
        If the device is asked for but not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda is asked for, but torch sees no GPU; use device=auto or device=cpu")
    return torch.device(name)


def train(recipes: Sequence[Recipe], device: str = "auto", processes: int | None = None) -> dict[Recipe, Trained]:
    """Trained models for recipes: from the store where they are there, else trained and stored.

    Killed at any moment, a rerun goes on from the models that are finished.

    Parameters
    ----------
    recipes : sequence of Recipe
        Repeated ones are trained once.
    device : "auto", "cpu" or "cuda"
    processes : int, optional
        Worker processes; by default one per core, and one for a GPU.

    Returns
    -------
    dict from Recipe to Trained
    """
    chosen = device_named(device)
    wanted = list(dict.fromkeys(recipes))
    missing = [recipe for recipe in wanted if not in_store(recipe, chosen)]
    if chosen.type == "cuda" and processes is None:
        processes = 1
    for _ in workers.run(partial(_make, device=str(chosen)), missing, "training models", processes):
        pass
    return {recipe: training.unpack(recipe, _fetch(recipe, chosen)) for recipe in wanted}


def in_store(recipe: Recipe, device: torch.device) -> bool:
    """Whether a recipe is trained already."""
    return store.has("models", recipe.key(numerics(device)))


def _make(recipe: Recipe, device: str) -> str:
    """Train one recipe in a worker; the model goes through the store, not through the wire."""
    _fetch(recipe, torch.device(device))
    return recipe.key(numerics(torch.device(device)))


def _fetch(recipe: Recipe, device: torch.device) -> store.Artefact:
    with workers.one_thread():
        return store.fetch("models", recipe.key(numerics(device)), lambda: training.train(recipe, device))
