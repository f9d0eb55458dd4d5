"""Heads on products of invariances: they read a trained encoder that stays as it is.

A head is made of a `Product` of relative representations and of what reads it: the classifier or the
decoder that other models have. Since the encoder is frozen, its codes and their similarities to the
anchors are computed once, and only what is learnt is computed in every step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Literal, NamedTuple, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import nn

from invariances.errors import SpaceError
from invariances.product import Product, check_product
from invariances.zoo import checkpoints, datasets, embeddings, models, networks, store, trained, training, workers
from invariances.zoo.locating import STRICT
from invariances.zoo.recipes import Recipe, Training
from invariances.zoo.store import Artefact
from invariances.zoo.trained import Trained

__all__ = ["HEAD_VERSION", "Head", "HeadRecipe", "in_store", "load", "train_missing"]


HEAD_VERSION = 1
"""Counted up whenever training would give another head for the same recipe and the same encoder."""


@dataclass(frozen=True, config=STRICT)
class HeadRecipe:
    """One head. Its key also seeds its weights and data order, so no two heads share either by accident."""

    base: Recipe
    """The model whose encoder is kept as it is; its own head is not used."""
    anchors: PositiveInt
    """The first k samples of the pool."""
    epochs: PositiveInt
    similarities: tuple[str, ...] = ("cosine", "euclidean", "l1", "linf")
    aggregation: Literal["concat", "sum", "attention"] = "attention"
    width: PositiveInt = 128
    """Features of the product, unless they are put side by side."""
    equal_weights: bool = False
    """Attention without a choice, as a control; see `Product`."""
    batch_size: PositiveInt = 64
    lr: PositiveFloat = 1e-3

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_product(self.similarities, self.anchors, self.width, self.aggregation, equal_weights=self.equal_weights)
        return self

    def key(self, numerics: str) -> str:
        """The name of the head in the store: a hash of its recipe, its encoder's key, its version and the numerics."""
        fields = {**asdict(self), "base": self.base.key(numerics), "version": HEAD_VERSION, "numerics": numerics}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:20]


class ProductHead(nn.Module):
    """A product of invariances, and what reads it."""

    def __init__(self, product: Product, head: nn.Module) -> None:
        super().__init__()
        self.product = product
        self.head = head

    def forward(self, x: torch.Tensor, anchors: torch.Tensor | None = None) -> torch.Tensor:
        """Answer for codes (n, d) and the anchors' codes (k, d); without anchors, for components (n, c, k)."""
        return self.head(self.product.combine(x) if anchors is None else self.product(x, anchors))


class Head(NamedTuple):
    """A trained head."""

    recipe: HeadRecipe
    module: ProductHead
    """On the CPU, in evaluation mode: ``module(codes, anchor_codes)`` gives outputs."""
    scores: dict[str, float]
    """On the test split, with the anchors of its own encoder: accuracy and F1, or mean squared error."""
    losses: list[float]
    """By epoch."""


def train_missing(recipes: Sequence[HeadRecipe], device: torch.device, processes: int | None = None) -> None:
    """Train and store the heads that the store lacks, and their encoders; repeated ones once.

    Parameters
    ----------
    recipes : sequence of HeadRecipe
    device : torch.device
    processes : int, optional
        Worker processes; by default one per core, and one for a GPU.

    Raises
    ------
    SpaceError
        If a recipe asks for more anchors than there are samples to choose from.
    """
    missing = [recipe for recipe in dict.fromkeys(recipes) if not in_store(recipe, device)]
    models.train_missing([recipe.base for recipe in missing], device, processes)
    if device.type == "cuda" and processes is None:
        processes = 1
    unit = partial(_make, device=str(device))
    for _ in workers.run(unit, missing, "training heads", processes, size=_epochs):
        pass


def load(recipe: HeadRecipe, device: torch.device) -> Head:
    """The head of one recipe from the store; if it is not there, it is trained here and stored."""
    return _unpack(recipe, _fetch(recipe, device))


def in_store(recipe: HeadRecipe, device: torch.device) -> bool:
    """Whether a head is trained already."""
    return store.has("heads", recipe.key(trained.numerics(device)))


def _epochs(recipe: HeadRecipe) -> int:
    """Work in a recipe, as the progress bar counts it."""
    return recipe.epochs


def _make(recipe: HeadRecipe, device: str) -> None:
    """Train in a worker; the head goes through the store, not through the wire."""
    _fetch(recipe, torch.device(device))


def _fetch(recipe: HeadRecipe, device: torch.device) -> Artefact:
    key = recipe.key(trained.numerics(device))
    made = []

    def make() -> Artefact:
        made.append(key)
        return _trained(recipe, device)

    with workers.one_thread():
        found = store.fetch("heads", key, make)
    if made:
        checkpoints.forget(made)
    return found


def _trained(recipe: HeadRecipe, device: torch.device) -> Artefact:
    base = models.load(recipe.base, device)
    pool, test = (torch.from_numpy(base.spaces[split]).to(device) for split in ("pool", "test"))
    if len(pool) < recipe.anchors:
        raise SpaceError(
            f"{recipe.anchors} anchors are asked for, but {recipe.base.dataset} has {len(pool)}; give at most so many"
        )
    prepared = datasets.load(recipe.base.data)
    data = {name: torch.from_numpy(array).to(device) for name, array in prepared.arrays.items()}
    anchors = pool[: recipe.anchors]
    key = recipe.key(trained.numerics(device))
    torch.manual_seed(_seed(key))
    module = _fresh(recipe, prepared, key).to(device)
    with training.deterministic(device):
        components = _components(_codes(base, data, device), module.product, anchors)
        seen = {"train_x": components, "train_y": data["train_y"], "pictures": data["train_x"]}
        plan = Training(recipe.epochs, recipe.batch_size, lr=recipe.lr)
        seeded = training.Seeded([module], [key], [torch.get_rng_state()], [torch.Generator().manual_seed(_seed(key))])
        recipe_of_head = replace(recipe.base, training=plan, anchors=0)
        losses = training.fit(seeded, recipe_of_head, seen, workers.advance)[0]
    module.eval()
    with torch.no_grad():
        outputs = torch.cat([module(part, anchors).float() for part in test.split(trained.BATCH)])
    note = {
        "recipe": asdict(recipe),
        "scores": trained.scored(recipe.base.task, outputs, data),
        "losses": losses,
        "machine": trained.machine(device),
    }
    return Artefact({name: tensor.cpu().numpy() for name, tensor in module.state_dict().items()}, note)


def _codes(base: Trained, data: dict[str, torch.Tensor], device: torch.device) -> torch.Tensor:
    """What the encoder makes of the training samples; a frozen one's codes lie in the store."""
    encoder, network = trained.restore(base).encoder.to(device), base.recipe.network
    samples = {"train_x": data["train_x"]}
    if network.checkpoint and not network.fresh:
        return embeddings.embedded(encoder, network.checkpoint, samples, device)["train_x"]
    return trained.encode(encoder, samples["train_x"], device)


@torch.no_grad()
def _components(codes: torch.Tensor, product: Product, anchors: torch.Tensor) -> torch.Tensor:
    """The relative representations of all samples, of shape (n, c, k)."""
    return torch.cat([product.components(part, anchors) for part in codes.split(trained.BATCH)])


def _seed(key: str) -> int:
    return int(key[:12], 16)


def _fresh(recipe: HeadRecipe, prepared: Artefact, key: str) -> ProductHead:
    """The recipe's head for a data set; what reads the product has weights from torch's current seed."""
    product = Product(
        recipe.similarities,
        anchors=recipe.anchors,
        width=recipe.width,
        aggregation=recipe.aggregation,
        equal_weights=recipe.equal_weights,
        seed=_seed(key),
    )
    base, shape = recipe.base, prepared.arrays["train_x"].shape[1:]
    return ProductHead(
        product, networks.head(base.network, base.task, product.out_features, shape, len(prepared.note["classes"]))
    )


def _unpack(recipe: HeadRecipe, artefact: Artefact) -> Head:
    """The stored form as a `Head`."""
    module = _fresh(recipe, datasets.load(recipe.base.data), "0" * 20)
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in artefact.arrays.items()})
    return Head(recipe, module.eval(), artefact.note["scores"], artefact.note["losses"])
