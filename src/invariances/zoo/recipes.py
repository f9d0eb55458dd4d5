"""Recipes: everything that determines one trained model, and the key it is stored under."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Literal, Self

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from invariances.zoo.locating import STRICT

__all__ = ["Network", "RECIPE_VERSION", "Recipe", "Training"]


RECIPE_VERSION = 2
"""Counted up whenever training would give another result for the same recipe."""


@dataclass(frozen=True, config=STRICT)
class Network:
    """An encoder's architecture; the head follows from the task."""

    family: Literal["cnn", "vit", "bert", "roberta", "pretrained"]
    depth: NonNegativeInt = 0
    """Convolutions (3 or 5) or transformer layers."""
    dim: NonNegativeInt = 0
    """Width of the code, and of a transformer."""
    width: NonNegativeInt = 0
    """Channels of a CNN's first convolution."""
    activation: Literal["relu", "gelu"] = "relu"
    """Of a CNN; transformers use GELU."""
    patch: NonNegativeInt = 0
    heads: NonNegativeInt = 0
    checkpoint: str = ""
    """Of a pretrained encoder, which knows its sizes itself and is not trained further: as `pretrained.pinned` says."""
    fresh: bool = False
    """A checkpoint's network with fresh weights, as the untrained reference."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.family == "pretrained":
            if not self.checkpoint or any((self.depth, self.dim, self.width, self.patch, self.heads)):
                raise ValueError("a pretrained encoder has a checkpoint, and no sizes")
            return self
        if self.checkpoint or self.fresh:
            raise ValueError("only a pretrained encoder has a checkpoint")
        if self.depth == 0 or self.dim == 0:
            raise ValueError(f"a {self.family} has a depth and a dim")
        if self.family == "cnn" and (self.depth not in (3, 5) or self.width == 0):
            raise ValueError("a cnn has depth 3 or 5 and a width")
        if self.family != "cnn" and (self.heads == 0 or self.dim % self.heads):
            raise ValueError("a transformer's dim is a multiple of its heads")
        if self.family == "vit" and self.patch == 0:
            raise ValueError("a vit has a patch size")
        return self


@dataclass(frozen=True, config=STRICT)
class Training:
    """How a model is trained; 0 epochs leave it untrained, as a reference."""

    epochs: NonNegativeInt
    batch_size: PositiveInt = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: PositiveFloat = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    augmentation: Literal["none", "light", "heavy"] = "none"
    masked_epochs: NonNegativeInt = 0
    """Of texts: passes of masked-language modelling before, over reviews and such parallel sentences as are in no
    pool."""


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """One model. Its key also seeds its weights and data order, so no two recipes share either by accident."""

    data: str
    """Key of the prepared arrays."""
    dataset: str
    """The data set's title, for people."""
    task: Literal["classification", "reconstruction"]
    network: Network
    training: Training
    seed: NonNegativeInt
    """Of a frozen encoder, the seed of what reads it: its head."""
    anchors: NonNegativeInt = 0
    """0 for a head on codes; k for a head trained on relative representations of k anchors."""
    initialization: str = ""
    """A name for initial weights that recipes of one network share, as a control; without one they are its own."""

    def key(self, numerics: str) -> str:
        """The name of the model in the store: a hash of the recipe, its version and the numerics."""
        fields = {**asdict(self), "version": RECIPE_VERSION, "numerics": numerics}
        # these fields came later: where they say nothing, a model keeps the key that it had
        if not self.initialization:
            del fields["initialization"]
        if not self.training.masked_epochs:
            fields["training"] = {name: value for name, value in fields["training"].items() if name != "masked_epochs"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:20]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.training.masked_epochs and self.network.family not in ("bert", "roberta"):
            raise ValueError("masked_epochs are for bert and roberta, which read tokens")
        if self.network.family != "pretrained":
            return self
        if self.initialization:
            raise ValueError("a pretrained encoder's weights are its own; leave initialization out")
        if self.task != "classification" or self.training.augmentation != "none":
            raise ValueError("a pretrained encoder's codes are made once: it has a classifier and no augmentation")
        return self

    def untrained(self) -> Recipe:
        """The same network before training: the reference that alignment is read against."""
        network = replace(self.network, fresh=self.network.family == "pretrained")
        return replace(self, network=network, training=replace(self.training, epochs=0, masked_epochs=0))
