"""Models from the store, or trained and stored: what `invariances.zoo.train` does for each recipe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from invariances.errors import ParameterError, WorkersError
from invariances.zoo import checkpoints, store, trained, training, workers
from invariances.zoo.effort import longest_first
from invariances.zoo.recipes import Recipe
from invariances.zoo.trained import Trained

__all__ = ["cost", "device_named", "fetch", "in_store", "load", "train_missing"]


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


def train_missing(recipes: Sequence[Recipe], device: torch.device, processes: int | None = None) -> None:
    """Train and store the recipes that the store lacks; repeated ones once.

    Parameters
    ----------
    recipes : sequence of Recipe
    device : torch.device
    processes : int, optional
        Worker processes; by default one per core, and one for a GPU.
    """
    missing = [recipe for recipe in dict.fromkeys(recipes) if not in_store(recipe, device)]
    if not missing:
        return
    if device.type == "cuda" and processes is None:
        processes = 1
    unit = partial(_make, device=str(device))
    groups = longest_first(training.seeds_at_once(missing, device))
    for _ in workers.run(unit, groups, "training models", processes, size=_epochs):
        pass


def load(recipe: Recipe, device: torch.device) -> Trained:
    """The model of one recipe from the store; if it is not there, it is trained here and stored."""
    return trained.unpack(recipe, fetch((recipe,), device)[0])


def in_store(recipe: Recipe, device: torch.device) -> bool:
    """Whether a recipe is trained already."""
    return store.has("models", recipe.key(trained.numerics(device)))


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
    """Models from the store, or trained together here, on one thread, and stored; a unit of `train_missing`."""
    by_key = {recipe.key(trained.numerics(device)): recipe for recipe in recipes}
    made = []

    def make(keys: list[str]) -> dict[str, store.Artefact]:
        made.extend(keys)
        trained = training.train([by_key[key] for key in keys], device, workers.advance)
        return dict(zip(keys, trained, strict=True))

    with workers.one_thread():
        found = store.fetch_many("models", list(by_key), make)
    if made:
        checkpoints.forget(made)
    return [found[key] for key in by_key]
