"""Training: one recipe becomes one model and its spaces, in one loop that reads top to bottom."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from tqdm.auto import tqdm

from invariances.transforms import relative
from invariances.zoo import datasets
from invariances.zoo.networks import Model, build
from invariances.zoo.recipes import Recipe, Training
from invariances.zoo.store import Artefact

ANCHOR_POOL = 2000
"""Samples whose codes are stored; the anchors are the first k of them. They are training samples,
or parallel sentences where there are some; their order is random, and the same for all models."""
CHUNK = 500


class Trained(NamedTuple):
    """A trained model as it lies in the store."""

    recipe: Recipe
    weights: dict[str, np.ndarray]
    spaces: dict[str, np.ndarray]
    """Codes of ``pool``, the samples that anchors come from, and of the ``test`` split."""
    scores: dict[str, float]
    """On the test split: accuracy and F1, or mean squared error."""
    machine: str


def numerics(device: torch.device) -> str:
    """Number format of a device; part of a model's key, since bits differ between them."""
    return "cuda-bf16" if device.type == "cuda" else "cpu-fp32"


def train(recipe: Recipe, device: torch.device, progress: bool = False) -> Artefact:
    """Train one recipe and embed its samples.

    Parameters
    ----------
    recipe : Recipe
    device : torch.device
    progress : bool
        Show a bar over epochs with the loss.

    Returns
    -------
    Artefact
        As `unpack` reads it.
    """
    torch.manual_seed(int(recipe.key(numerics(device))[:12], 16))  # own weights, own order
    prepared = datasets.load(recipe.data)
    data = {name: torch.from_numpy(array).to(device) for name, array in prepared.arrays.items()}
    model = fresh_model(recipe, prepared).to(device)
    losses = _fit(model, recipe, data, progress)
    spaces = embed(model, data)
    scores = _evaluate(model, recipe, data, spaces)
    state = {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {f"spaces.{name}": space for name, space in spaces.items()}
    note = {"recipe": asdict(recipe), "scores": scores, "losses": losses, "machine": _machine(device)}
    return Artefact({name: tensor.cpu().numpy() for name, tensor in state.items()}, note)


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


def inputs(x: torch.Tensor) -> torch.Tensor:
    """What the network reads: pictures scaled to [0, 1], token ids as they are."""
    return x.float().div(255) if x.dtype == torch.uint8 else x.long()


def _fit(model: Model, recipe: Recipe, data: dict[str, torch.Tensor], progress: bool) -> list[float]:
    plan, cuda = recipe.training, data["train_x"].is_cuda
    if plan.epochs == 0:
        return []
    x, y = data["train_x"], data["train_y"]
    if x.ndim == 4 and cuda:
        model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, plan)
    schedule = _schedule(optimizer, plan, steps=plan.epochs * math.ceil(len(x) / plan.batch_size))
    augment = _augmentation(plan.augmentation)
    order = torch.Generator().manual_seed(torch.initial_seed())
    losses = []
    bar = tqdm(range(plan.epochs), desc=recipe.dataset, disable=None if progress else True)
    for _ in bar:
        total = 0.0
        for batch in torch.randperm(len(x), generator=order).to(x.device).split(plan.batch_size):
            if len(batch) < 2:
                continue  # BatchNorm needs two samples
            pictures = inputs(augment(x[batch]))
            target = inputs(x[batch]) if recipe.task == "reconstruction" else y[batch]
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda):
                outputs = model(pictures, _anchor_codes(model, recipe, data))
                loss = _loss(recipe.task, outputs, target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        losses.append(total / len(x))
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses


def _loss(task: str, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if task == "reconstruction":
        return nn.functional.mse_loss(outputs.float(), target) * 100  # a gradient of classification's order
    return nn.functional.cross_entropy(outputs.float(), target)


def _optimizer(model: Model, plan: Training) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=plan.lr, momentum=0.9)
    return torch.optim.Adam(model.parameters(), lr=plan.lr)


def _schedule(optimizer: torch.optim.Optimizer, plan: Training, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if plan.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _anchor_codes(model: Model, recipe: Recipe, data: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """The anchors, embedded anew by the encoder as it is, in evaluation mode and without gradient."""
    if recipe.anchors == 0:
        return None
    was_training = model.encoder.training
    model.encoder.eval()
    with torch.no_grad():
        codes = model.encoder(inputs(_pool(data)[: recipe.anchors]))
    model.encoder.train(was_training)
    return codes


def _augmentation(name: str) -> Any:
    """Batched crops, flips and distortions; eight parts of a batch draw their own."""
    if name == "none":
        return lambda x: x
    from torchvision.transforms import v2

    light = [v2.RandomAffine(degrees=0, translate=(0.1, 0.1)), v2.RandomHorizontalFlip()]
    heavy = [
        v2.RandomAffine(degrees=20, translate=(0.2, 0.2), scale=(0.7, 1.3)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=0.4, contrast=0.4),
        v2.RandomErasing(p=0.5),
    ]
    transform = v2.Compose(light if name == "light" else heavy)
    return lambda x: torch.cat([transform(part) for part in x.tensor_split(min(8, len(x)))])


@torch.no_grad()
def embed(model: Model, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Codes of the anchor pool and of the test split, in evaluation mode."""
    model.eval()
    return {
        split: torch.cat([model.encoder(inputs(part)).float() for part in x.split(CHUNK)])
        for split, x in (("pool", _pool(data)), ("test", data["test_x"]))
    }


def _pool(data: dict[str, torch.Tensor]) -> torch.Tensor:
    return data.get("parallel_x", data["train_x"])[:ANCHOR_POOL]


@torch.no_grad()
def _evaluate(
    model: Model, recipe: Recipe, data: dict[str, torch.Tensor], spaces: dict[str, torch.Tensor]
) -> dict[str, float]:
    codes = spaces["test"]
    if recipe.anchors:
        codes = relative(codes, spaces["pool"][: recipe.anchors])
    outputs = torch.cat([model.head(part) for part in codes.split(CHUNK)]).float()
    targets = inputs(data["test_x"]) if recipe.task == "reconstruction" else data["test_y"]
    return quality(recipe.task, outputs, targets)


def quality(task: str, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """Scores of a head's outputs: ``mse``; or ``accuracy``, ``f1`` (weighted, as in the lineage) and ``f1_macro``."""
    if task == "reconstruction":
        return {"mse": float(nn.functional.mse_loss(outputs, targets))}
    truth, answer = targets.cpu().numpy(), outputs.argmax(dim=1).cpu().numpy()
    return {
        "accuracy": float(accuracy_score(truth, answer)),
        "f1": float(f1_score(truth, answer, average="weighted")),
        "f1_macro": float(f1_score(truth, answer, average="macro")),
    }


def _machine(device: torch.device) -> str:
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {kind}, torch {torch.__version__}"
