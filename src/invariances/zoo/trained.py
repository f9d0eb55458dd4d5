"""Trained models: how they lie in the store, what they embed, and how well they do their task."""

from __future__ import annotations

import platform
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from invariances.relative import relative
from invariances.stitching import mean_squared_error, weighted_f1
from invariances.zoo import datasets
from invariances.zoo.networks import Model, build, head
from invariances.zoo.recipes import Recipe
from invariances.zoo.store import Artefact

__all__ = [
    "ANCHOR_POOL",
    "BATCH",
    "Trained",
    "embed",
    "encode",
    "evaluate",
    "fresh_model",
    "inputs",
    "machine",
    "numerics",
    "pool",
    "quality",
    "restore",
    "restore_head",
    "scored",
    "unpack",
]


ANCHOR_POOL = 2000
"""Samples whose codes are stored; the anchors are the first k of them. They are training samples,
or parallel sentences where there are some; their order is random, and the same for all models."""


BATCH = 500


class Trained(NamedTuple):
    """A trained model as it lies in the store."""

    recipe: Recipe
    weights: dict[str, np.ndarray]
    spaces: dict[str, np.ndarray]
    """Codes of ``pool``, the samples that anchors come from, and of the ``test`` split."""
    scores: dict[str, float]
    """On the test split: accuracy and F1, or mean squared error."""
    machine: str


def unpack(recipe: Recipe, artefact: Artefact) -> Trained:
    """The stored form as a `Trained`."""

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): a for name, a in artefact.arrays.items() if name.startswith(prefix)}

    note = artefact.note
    return Trained(recipe, part("weights."), part("spaces."), note["scores"], note["machine"])


def fresh_model(recipe: Recipe, prepared: Artefact) -> Model:
    """The recipe's network for a data set, with weights from torch's current seed."""
    shape, note = prepared.arrays["train_x"].shape[1:], prepared.note
    return build(recipe.network, recipe.task, recipe.anchors, shape, len(note["classes"]), note["vocabulary"])


def restore(trained: Trained) -> Model:
    """The trained model on the CPU, in evaluation mode."""
    model = fresh_model(trained.recipe, datasets.load(trained.recipe.data))
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in trained.weights.items()})
    return model.eval()


def restore_head(trained: Trained, prepared: Artefact) -> nn.Module:
    """The head of the trained model alone, as `restore` gives it; an encoder takes longer to build."""
    recipe = trained.recipe
    width, shape = recipe.anchors or trained.spaces["test"].shape[1], prepared.arrays["train_x"].shape[1:]
    module = head(recipe.network, recipe.task, width, shape, len(prepared.note["classes"]))
    weights = {name: array for name, array in trained.weights.items() if name.startswith("head.")}
    module.load_state_dict({name[len("head.") :]: torch.from_numpy(a.copy()) for name, a in weights.items()})
    return module.eval()


def inputs(x: torch.Tensor) -> torch.Tensor:
    """What the network reads: pictures scaled to [0, 1], token ids and codes as they are."""
    if x.dtype == torch.uint8:
        return x.float().div(255)
    return x if x.is_floating_point() else x.long()


@torch.no_grad()
def embed(model: Model, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Codes of the anchor pool and of the test split, in evaluation mode."""
    encoder, device = model.eval().encoder, next(model.parameters()).device
    return {split: encode(encoder, x, device) for split, x in (("pool", pool(data)), ("test", data["test_x"]))}


@torch.no_grad()
def encode(encoder: nn.Module, x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Codes of inputs by an encoder on a device, in chunks."""
    return torch.cat([encoder(inputs(part.to(device))).float() for part in x.split(BATCH)])


def pool(data: dict[str, torch.Tensor]) -> torch.Tensor:
    """The samples that anchors come from: training samples, or parallel sentences where there are some."""
    return data.get("parallel_x", data["train_x"])[:ANCHOR_POOL]


@torch.no_grad()
def evaluate(
    model: Model, recipe: Recipe, data: dict[str, torch.Tensor], spaces: dict[str, torch.Tensor]
) -> dict[str, float]:
    """How well a model does its own task on the test split."""
    codes = spaces["test"]
    if recipe.anchors:
        codes = relative(codes, spaces["pool"][: recipe.anchors])
    return scored(recipe.task, torch.cat([model.head(part).float() for part in codes.split(BATCH)]), data)


def scored(task: str, outputs: torch.Tensor, data: dict[str, torch.Tensor]) -> dict[str, float]:
    """`quality` of outputs for the test split."""
    targets = inputs(data["test_x"]) if task == "reconstruction" else data["test_y"]
    return quality(task, outputs, targets.to(outputs.device))


def quality(task: str, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """Scores of a head's outputs: ``mse``; or ``accuracy``, weighted ``f1`` and ``f1_macro``."""
    if task == "reconstruction":
        return {"mse": mean_squared_error(outputs, targets)}
    from sklearn.metrics import accuracy_score, f1_score  # slow to import, and not needed to read a model

    truth, answer = targets.cpu().numpy(), outputs.argmax(dim=1).cpu().numpy()
    return {
        "accuracy": float(accuracy_score(truth, answer)),
        "f1": weighted_f1(outputs, targets),
        "f1_macro": float(f1_score(truth, answer, average="macro")),
    }


def numerics(device: torch.device) -> str:
    """Number format of a device; part of a model's key, since bits differ between them."""
    return "cuda-bf16" if device.type == "cuda" else "cpu-fp32"


def machine(device: torch.device) -> str:
    """Processor and torch version, for the note beside a model."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {kind}, torch {torch.__version__}"
