"""The steps of an experiment, as the notebooks call them: train, embed, take models apart.

Nothing large is kept: models and spaces lie in the store, and are read where and when they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from invariances.rows import Rows
from invariances.stitching import Codes, Stitchable
from invariances.zoo import datasets, heads, models, trained
from invariances.zoo.heads import Head, HeadRecipe
from invariances.zoo.recipes import Recipe
from invariances.zoo.store import Artefact
from invariances.zoo.trained import Trained

__all__ = ["Models", "embed", "labels", "take_apart", "train"]

ANSWERED_AT_ONCE = 50
"""Samples that a head reads at once: few, so that a decoder's pictures stay in the processor's cache."""
Key = tuple[str, str]
"""The name of a row, and a kind of models or an invariance."""
Anchors = Mapping[str, Sequence[int]]
"""By row, which samples of the pool are anchors, in their order."""


class Models(Mapping[Recipe | HeadRecipe, Trained | Head]):
    """Trained models by recipe, each read from the store when it is asked for.

    Parameters
    ----------
    recipes : sequence of Recipe or HeadRecipe
    device : str
        "cpu" or "cuda", where they were trained.
    """

    def __init__(self, recipes: Sequence[Recipe | HeadRecipe], device: str) -> None:
        self.recipes = tuple(dict.fromkeys(recipes))
        self.device = device

    def __getitem__(self, recipe: Recipe | HeadRecipe) -> Trained | Head:
        if recipe not in self.recipes:
            raise KeyError(recipe)
        return _load(recipe, self.device)

    def __iter__(self) -> Iterator[Recipe | HeadRecipe]:
        return iter(self.recipes)

    def __len__(self) -> int:
        return len(self.recipes)


def train(recipes: Sequence[Recipe | HeadRecipe], device: str = "auto", processes: int | None = None) -> Models:
    """Train what is not in the store yet; killed at any moment, a rerun goes on from the models that are finished.

    Parameters
    ----------
    recipes : sequence of Recipe or HeadRecipe
        Repeated ones are trained once. A head on a product of invariances needs its encoder, which is trained first.
    device : "auto", "cpu" or "cuda"
    processes : int, optional
        Worker processes; by default one per core, and one for a GPU.

    Returns
    -------
    Models
        A mapping from recipes to trained models.

    Raises
    ------
    ParameterError
        If the device is not there.
    StoreError, WorkersError
        If the store cannot be written, or the workers cannot go on.
    """
    chosen = models.device_named(device)
    models.train_missing([recipe for recipe in recipes if isinstance(recipe, Recipe)], chosen, processes)
    heads.train_missing([recipe for recipe in recipes if isinstance(recipe, HeadRecipe)], chosen, processes)
    return Models(recipes, str(chosen))


def embed(recipes: Mapping[Key, Mapping[str, Recipe]], anchors: Anchors, device: str = "auto") -> Rows:
    """The spaces of trained models: anchors first, then held-out samples.

    Held out is the test split; where models read different languages, it is the parallel sentences that are no anchors
    (and of no document that has an anchor, where documents are known), since the languages' test splits are not
    translations of each other.

    Parameters
    ----------
    recipes : mapping from (row, kind), or rows, to mappings from model names to Recipe
        The models of one key read the same samples, or their translations.
    anchors : mapping from rows to ids
        Which samples of the stored pool are anchors: training samples, or parallel sentences.
    device : "auto", "cpu" or "cuda"
        Where the models were trained.

    Returns
    -------
    Rows
        By key, the spaces by model name: arrays of shape (k + n, d). They are read from the store when they are asked
        for.
    """
    return Rows(recipes, partial(_spaces, recipes=recipes, anchors=anchors, device=str(models.device_named(device))))


def labels(recipes: Mapping[str, Recipe], anchors: Anchors) -> Rows:
    """The class of every row of the spaces that `embed` gives.

    Parameters
    ----------
    recipes : mapping from rows to Recipe
        One of the row's models.
    anchors : mapping from rows to ids
    """
    return Rows(recipes, partial(_labels, recipes=recipes, anchors=anchors))


def take_apart(
    recipes: Mapping[Key, Mapping[str, Recipe | HeadRecipe]],
    untrained: Mapping[str, Mapping[str, Recipe]],
    anchors: Anchors,
    device: str = "auto",
) -> Rows:
    """Trained models as encoders and heads, which `invariances.stitch` connects.

    Parameters
    ----------
    recipes : mapping from (row, invariance) to mappings from model names to Recipe or HeadRecipe
        Their heads read what the invariance offers; a `HeadRecipe` reads codes together with the anchors' codes.
    untrained : mapping from rows to mappings from names to Recipe
        Encoders without a head: the control.
    anchors : mapping from rows to ids
    device : "auto", "cpu" or "cuda"

    Returns
    -------
    Rows
        By key, `invariances.stitching.Stitchable` by model name. Where codes are handed on as they are ("absolute",
        "scale") and encoders are of unequal widths, narrower codes are padded with zeros and a head reads its own axes.
    """
    chosen = str(models.device_named(device))
    load = partial(_taken_apart, recipes=recipes, untrained=untrained, anchors=anchors, device=chosen)
    return Rows(recipes, load)


def _load(recipe: Recipe | HeadRecipe, device: str) -> Trained | Head:
    load: Callable = heads.load if isinstance(recipe, HeadRecipe) else models.load
    return load(recipe, torch.device(device))


def _row(key: str | Key) -> str:
    return key if isinstance(key, str) else key[0]


def _spaces(
    key: str | Key, recipes: Mapping[Any, Mapping[str, Recipe]], anchors: Anchors, device: str
) -> dict[str, np.ndarray]:
    ids, spaces, by_name = np.asarray(anchors[_row(key)]), {}, recipes[key]
    arrays = datasets.load(next(iter(by_name.values())).data).arrays
    others = _others(arrays, ids) if "parallel_x" in arrays else None
    for name, recipe in by_name.items():
        found = _load(recipe, device).spaces
        held_out = found["test"] if others is None else found["pool"][others]
        spaces[name] = np.concatenate([found["pool"][ids], held_out])
    return spaces


def _others(arrays: Mapping[str, np.ndarray], anchors: np.ndarray) -> np.ndarray:
    """The parallel sentences of the pool that are no anchors; where documents are known, of no anchor's document."""
    if "parallel_document" in arrays:
        documents = arrays["parallel_document"][: trained.ANCHOR_POOL]
        return np.flatnonzero(~np.isin(documents, documents[anchors]))
    return np.delete(np.arange(len(arrays["parallel_x"][: trained.ANCHOR_POOL])), anchors)


def _labels(row: str, recipes: Mapping[str, Recipe], anchors: Anchors) -> np.ndarray:
    arrays = datasets.load(recipes[row].data).arrays
    return np.concatenate([arrays["train_y"][np.asarray(anchors[row])], arrays["test_y"]])


def _taken_apart(
    key: Key,
    recipes: Mapping[Key, Mapping[str, Recipe | HeadRecipe]],
    untrained: Mapping[str, Mapping[str, Recipe]],
    anchors: Anchors,
    device: str,
) -> dict[str, Stitchable]:
    ids, pieces = np.asarray(anchors[key[0]]), {}
    bases = [recipe.base if isinstance(recipe, HeadRecipe) else recipe for recipe in recipes[key].values()]
    names = dict.fromkeys(recipe.data for recipe in (*bases, *untrained[key[0]].values()))
    data = {name: datasets.load(name) for name in names}  # read once, however many models share it
    targets = {name: _targets(prepared, bases[0].task) for name, prepared in data.items()}
    for (name, recipe), base in zip(recipes[key].items(), bases, strict=True):
        model: Any = _load(base, device)
        product = None
        if isinstance(recipe, HeadRecipe):
            module = heads.load(recipe, torch.device(device)).module
            product = module.product
        else:
            module = trained.restore_head(model, data[base.data])
        answer = partial(_answer, module.to(memory_format=torch.channels_last))
        pieces[name] = Stitchable(_codes(model, ids, targets[base.data]), answer, product)
    for name, recipe in untrained[key[0]].items():
        pieces[name] = Stitchable(_codes(_load(recipe, device), ids, targets[recipe.data]), None)
    return _of_one_width(pieces) if key[1] in UNCHANGED else pieces


UNCHANGED = ("absolute", "scale")
"""The connections that hand codes on in the coordinates that they have."""


def _of_one_width(pieces: dict[str, Stitchable]) -> dict[str, Stitchable]:
    """Zero-pad the codes of narrower models to the widest, whose axes beyond a head's own it does not see."""
    widths = {name: piece.codes.samples.shape[1] for name, piece in pieces.items()}
    widest = max(widths.values())
    return {
        name: piece if widths[name] == widest else _padded(piece, widths[name], widest)
        for name, piece in pieces.items()
    }


def _padded(piece: Stitchable, own: int, width: int) -> Stitchable:
    anchors, samples = (
        torch.nn.functional.pad(codes, (0, width - own)) for codes in (piece.codes.anchors, piece.codes.samples)
    )
    head = None if piece.head is None else partial(_first_axes, piece.head, own)
    return replace(piece, codes=replace(piece.codes, anchors=anchors, samples=samples), head=head)


def _first_axes(head: Callable[..., torch.Tensor], width: int, x: torch.Tensor) -> torch.Tensor:
    return head(x[:, :width])


def _targets(prepared: Artefact, task: str) -> torch.Tensor:
    """What a head should make of the test samples."""
    return trained.inputs(torch.from_numpy(prepared.arrays["test_x" if task == "reconstruction" else "test_y"]))


def _codes(model: Trained, anchors: np.ndarray, targets: torch.Tensor) -> Codes:
    """A model's embeddings of its anchors and test samples."""
    pool, test = (torch.from_numpy(model.spaces[split]) for split in ("pool", "test"))
    return Codes(pool[anchors], test, targets)


@torch.no_grad()
def _answer(module: torch.nn.Module, x: torch.Tensor, *anchors: torch.Tensor) -> torch.Tensor:
    return torch.cat([module(part, *anchors) for part in x.split(ANSWERED_AT_ONCE)])
