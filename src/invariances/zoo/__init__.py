"""The zoo: models trained from recipes, each once, and the spaces that they make.

`train` is the one call: it gives back trained models, from the store where they are there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from invariances.errors import ParameterError, WorkersError
from invariances.zoo import store, training, workers
from invariances.zoo.recipes import Recipe
from invariances.zoo.training import Trained


def device_named(name: str = "auto") -> torch.device:
    """The device to train on; "auto" takes a GPU where there is one.

    Raises
    ------
    ParameterError
        If the device is asked for but not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device cuda is asked for, but torch sees no GPU; use device=auto or device=cpu")
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
    missing = training.together([recipe for recipe in wanted if not in_store(recipe, chosen)], chosen)
    if chosen.type == "cuda" and processes is None:
        processes = 1
    unit = partial(_make, device=str(chosen))
    for _ in workers.run(unit, missing, "training models", processes, size=_epochs):
        pass
    return {recipe: training.unpack(recipe, fetch((recipe,), chosen)[0]) for recipe in wanted}


def in_store(recipe: Recipe, device: torch.device) -> bool:
    """Whether a recipe is trained already."""
    return store.has("models", recipe.key(training.numerics(device)))


def cost(recipe: Recipe, device: torch.device) -> training.Cost:
    """What training a recipe would take here, from the time of some of its steps, on one core or on the GPU."""
    with workers.one_thread():
        return training.cost(recipe, device)


def _epochs(recipes: tuple[Recipe, ...]) -> int:
    """Work in a group of recipes, as the progress bar counts it."""
    return sum(max(recipe.training.epochs + recipe.training.masked_epochs, 1) for recipe in recipes)


def _make(recipes: tuple[Recipe, ...], device: str) -> None:
    """Train in a worker; the models go through the store, not through the wire."""
    try:
        fetch(recipes, torch.device(device))
        return
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        if len(recipes) == 1:
            raise WorkersError(
                f"the GPU's memory does not hold a model of {recipes[0].dataset}; what is finished is kept, run again "
                "with device=cpu or a smaller profile"
            ) from None
    for part in (recipes[: len(recipes) // 2], recipes[len(recipes) // 2 :]):
        _make(part, device)


def fetch(recipes: tuple[Recipe, ...], device: torch.device) -> list[store.Artefact]:
    """Models from the store, or trained together here, on one thread, and stored; a unit of `train`."""
    by_key = {recipe.key(training.numerics(device)): recipe for recipe in recipes}
    made = []

    def make(keys: list[str]) -> dict[str, store.Artefact]:
        made.extend(keys)
        trained = training.train([by_key[key] for key in keys], device, workers.advance)
        return dict(zip(keys, trained, strict=True))

    with workers.one_thread():
        found = store.fetch_many("models", list(by_key), make)
    if made:
        training.forget(made)
    return [found[key] for key in by_key]
