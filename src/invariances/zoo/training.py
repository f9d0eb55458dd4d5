"""Training: a recipe becomes a model and its spaces, in one loop that reads top to bottom.

On a CPU every recipe is trained alone, on one thread; on a GPU the seeds of a convolutional network's
recipe are stacked and trained as one. A long training leaves a checkpoint every now and then, from which it goes on.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import NamedTuple

import torch
from torch import nn

from invariances.errors import ParameterError
from invariances.zoo import checkpoints, datasets, embeddings
from invariances.zoo.augmentation import augmentation
from invariances.zoo.checkpoints import Run, under_way
from invariances.zoo.networks import MASK, MaskedLanguage, Model
from invariances.zoo.recipes import Recipe, Training
from invariances.zoo.stacking import FAMILIES, Stacked
from invariances.zoo.store import Artefact
from invariances.zoo.trained import (
    ANCHOR_POOL,
    BATCH,
    embed,
    encode,
    evaluate,
    fresh_model,
    inputs,
    machine,
    numerics,
    pool,
)

__all__ = [
    "ANCHOR_STEPS",
    "Cost",
    "GRADIENT_NORM",
    "Seeded",
    "cost",
    "deterministic",
    "fit",
    "seeds_at_once",
    "train",
]


GRADIENT_NORM = 10.0
"""Bound on the norm of a model's gradient, as in the code that the paper builds on."""
ANCHOR_STEPS = {"bert": 5, "roberta": 5}
"""Steps after which a family's anchors are embedded anew, where it is not every step. For texts that would cost more
than all else; autoencoders of digits end with twice the error if theirs are five steps old."""


TIMED = 20
"""Samples that a frozen encoder embeds to be timed."""
MASKED_SHARE = 0.15
"""Share of the tokens that masked-language modelling hides (Devlin et al. 2019)."""
# without it cuBLAS may add up in another order each time; it is read at the first product
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


Advance = Callable[..., None]
"""Told of progress: a number of epochs, and what to show of it."""


def seeds_at_once(recipes: Sequence[Recipe], device: torch.device, most: int = 10) -> list[tuple[Recipe, ...]]:
    """Recipes in groups that `train` takes at once: seeds of one recipe on a GPU, each alone elsewhere."""
    groups: dict[Recipe, list[list[Recipe]]] = {}
    for recipe in recipes:
        stacks = groups.setdefault(replace(recipe, seed=0), [])
        at_once = most if device.type == "cuda" and recipe.network.family in FAMILIES else 1
        if not stacks or len(stacks[-1]) == at_once:
            stacks.append([])
        stacks[-1].append(recipe)
    return [tuple(stack) for stacks in groups.values() for stack in stacks]


def train(recipes: Sequence[Recipe], device: torch.device, advance: Advance | None = None) -> list[Artefact]:
    """Train one recipe, or several that differ by their seed alone, and embed its samples.

    Parameters
    ----------
    recipes : sequence of Recipe
        Several are stacked: the same numbers as one by one up to rounding, in less time on a GPU. The bits of a
        model hang on the models that it is trained with.
    device : torch.device
    advance : callable, optional
        Called as ``advance(epochs, loss=...)`` while it goes on; the epochs of all models are counted.

    Returns
    -------
    list of Artefact
        One per recipe, as `unpack` reads it.

    Raises
    ------
    ParameterError
        If the recipes differ by more than their seed.
    """
    first, keys = recipes[0], [recipe.key(numerics(device)) for recipe in recipes]
    if {replace(recipe, seed=0) for recipe in recipes} != {replace(first, seed=0)}:
        raise ParameterError("only recipes that differ by their seed can be trained at once; train the others apart")
    prepared = datasets.load(first.data)
    data = {name: _placed(torch.from_numpy(array), device) for name, array in prepared.arrays.items()}
    models, streams, orders = [], [], []
    for key in keys:
        torch.manual_seed(_seed(first.initialization) if first.initialization else int(key[:12], 16))
        models.append(fresh_model(first, prepared).to(device))
        if first.initialization:
            torch.manual_seed(int(key[:12], 16))
        # own weights, own augmentation, own order
        streams.append(torch.get_rng_state())
        orders.append(torch.Generator().manual_seed(torch.initial_seed()))
    if first.network.checkpoint and not first.network.fresh:
        # a frozen encoder's codes are made once, and only the head is trained, on them
        data = embeddings.embedded(models[0].encoder, first.network.checkpoint, data, device)
        models = [Model(nn.Identity(), model.head) for model in models]
    tell = advance or (lambda epochs, **shown: None)
    with deterministic(device):
        if first.training.masked_epochs and not under_way(keys):
            for model, order in zip(models, orders, strict=True):
                _learn_language(model.encoder, first.training, data, order, tell)
        losses = fit(Seeded(models, keys, streams, orders), first, data, tell)
    return [_artefact(*each, data, device) for each in zip(models, recipes, losses, strict=True)]


def _artefact(
    model: Model, recipe: Recipe, losses: list[float], data: dict[str, torch.Tensor], device: torch.device
) -> Artefact:
    spaces = embed(model, data)
    scores = evaluate(model, recipe, data, spaces)
    state = {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {f"spaces.{name}": space for name, space in spaces.items()}
    note = {"recipe": asdict(recipe), "scores": scores, "losses": losses, "machine": machine(device)}
    return Artefact({name: tensor.cpu().numpy() for name, tensor in state.items()}, note)


class Cost(NamedTuple):
    """What training a recipe takes."""

    seconds: float
    """On one core, or on the GPU."""
    bytes: int
    """In the store."""
    embedding: float = 0.0
    """Seconds that a frozen encoder takes beside these, once for all models that read its codes of these samples."""


def cost(recipe: Recipe, device: torch.device) -> Cost:
    """What training a recipe would take here, from the time of some of its steps."""
    prepared = datasets.load(recipe.data)
    data = {name: torch.from_numpy(array) for name, array in prepared.arrays.items()}
    model, plan = fresh_model(recipe, prepared).to(device), recipe.training
    bytes_ = sum(tensor.nbytes for tensor in model.state_dict().values())
    if recipe.network.checkpoint and not recipe.network.fresh:
        return _cost_of_codes(model.encoder, recipe, data, device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time  # what others do on the cores is left out
    start = clock()
    codes = encode(model.eval().encoder, data["test_x"][:BATCH], device)
    rows = len(pool(data)) + len(data["test_x"])
    seconds = (clock() - start) * rows / len(codes)
    steps = math.ceil(len(data["train_x"]) / plan.batch_size)
    for few in (1, min(3, steps)) if plan.epochs else ():  # the first time warms up
        some = {name: data[name][: few * plan.batch_size] for name in ("train_x", "train_y")}
        short = replace(recipe, training=replace(plan, epochs=1))
        stream, order = torch.get_rng_state(), torch.Generator()
        start = clock()
        fit(
            Seeded([model], ["cost"], [stream], [order]),
            short,
            {**some, "parallel_x": pool(data)},
            lambda *_, **__: None,
        )
        taken = (clock() - start) / few
    # a pass of masked-language modelling costs about as much for each of its texts
    passes = plan.epochs + plan.masked_epochs * sum(map(len, _language(data))) / len(data["train_x"])
    return Cost(seconds + (taken * steps * passes if plan.epochs else 0), bytes_ + rows * codes.shape[1] * 4)


def _cost_of_codes(encoder: nn.Module, recipe: Recipe, data: dict[str, torch.Tensor], device: torch.device) -> Cost:
    """Every sample is embedded once; the head takes next to nothing, neither time nor room."""
    samples = [x for name, x in data.items() if name.endswith("_x")]
    missing = sum(len(x) for x in samples if not embeddings.in_store(x, recipe.network.checkpoint, device))
    start = time.process_time()
    some = encode(encoder, data["test_x"][: TIMED if missing else 1], device)
    seconds = (time.process_time() - start) * missing / len(some)
    return Cost(0.0, (len(pool(data)) + len(data["test_x"])) * some.shape[1] * 4, seconds)


def _seed(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)


class Seeded(NamedTuple):
    """Models of one recipe, each with what it draws from."""

    models: list[Model]
    """Or other modules that answer for a batch of ``data["train_x"]``."""
    keys: list[str]
    """Their names, for the checkpoint."""
    streams: list[torch.Tensor]
    """States of the random streams that augmentation draws from."""
    orders: list[torch.Generator]
    """Draw the order of the samples."""


class _Clock:
    """Says when some seconds have passed since it last said so."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def due(self) -> bool:
        if time.monotonic() - self.last <= self.seconds:
            return False
        self.last = time.monotonic()
        return True


def fit(seeded: Seeded, recipe: Recipe, data: dict[str, torch.Tensor], advance: Advance) -> list[list[float]]:
    """Train in place; gives every model's loss by epoch.

    Parameters
    ----------
    seeded : Seeded
    recipe : Recipe
        Their task and training, and the anchors whose codes they are given in every step.
    data : dict of tensors
        ``train_x`` and ``train_y``; ``pictures`` where a decoder reads something else.
    advance : callable
        As `train` says.
    """
    models, plan, x = seeded.models, recipe.training, data["train_x"]
    # a decoder answers with what the network reads; where that is no picture, the pictures lie beside it
    y = data["train_y"] if recipe.task == "classification" else data.get("pictures", x)
    if plan.epochs == 0:
        return [[] for _ in models]
    device = next(models[0].parameters()).device
    alone = len(models) == 1
    network = models[0] if alone else Stacked(models)
    if alone and 4 in (x.ndim, y.ndim):
        network.to(memory_format=torch.channels_last)
    network.train()
    augment = augmentation(plan.augmentation)
    anchor_inputs = inputs(pool(data)[: recipe.anchors].to(device))
    steps = [s for s in torch.arange(len(x)).split(plan.batch_size) if len(s) > 1]  # BatchNorm needs two samples
    losses = torch.zeros(plan.epochs, len(models), dtype=torch.float64, device=device)
    run = Run(network, _optimizer(network, plan), seeded.streams, seeded.orders, losses)
    run.resume(seeded.keys)
    save, tell, untold = _Clock(checkpoints.CHECKPOINT_SECONDS), _Clock(1.0), 0.0
    for epoch in range(run.epoch, plan.epochs):
        run.epoch, run.epoch_orders = epoch, [order.get_state() for order in run.orders]
        order = torch.stack([torch.randperm(len(x), generator=order) for order in run.orders])
        for step in steps[run.step :]:
            rows = order[:, step].to(x.device)
            batch, target = x[rows].to(device, non_blocking=True), y[rows].to(device, non_blocking=True)
            pictures = inputs(batch if augment is None else run.drawn(augment, batch))
            if recipe.anchors and run.step % ANCHOR_STEPS.get(recipe.network.family, 1) == 0:
                run.anchors = network.embed_anchors(anchor_inputs)
            rate = plan.lr * _rate(plan.schedule, (epoch + run.step / len(steps)) / plan.epochs)
            loss = _update(run, recipe.task, pictures, target, rate)
            run.losses[epoch] += loss.double() * len(step) / len(x)
            run.step += 1
            untold += len(models) / len(steps)
            if tell.due():
                advance(untold, loss=float(loss.mean()))
                untold = 0.0
            if save.due():
                run.save(seeded.keys)
        run.step = 0
    advance(untold, loss=float(run.losses[-1].mean()))
    if not alone:
        network.unstack(models)
    return run.losses.T.tolist()


def _update(run: Run, task: str, pictures: torch.Tensor, target: torch.Tensor, rate: float) -> torch.Tensor:
    """One step of the optimizer; gives the loss of every model."""
    alone = len(pictures) == 1
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=pictures.device.type == "cuda"):
        outputs = run.network(pictures[0], run.anchors)[None] if alone else run.network(pictures, run.anchors)
    losses = _losses(task, outputs, inputs(target) if task == "reconstruction" else target)
    run.optimizer.zero_grad(set_to_none=True)
    losses.sum().backward()
    _clip(run.network, alone)
    run.optimizer.step()
    return losses.detach()


def _learn_language(
    encoder: nn.Module, plan: Training, data: dict[str, torch.Tensor], order: torch.Generator, advance: Advance
) -> None:
    """Masked-language modelling in place, before the task: guess the tokens that are hidden."""
    device = next(encoder.parameters()).device
    network = MaskedLanguage(encoder).to(device).train()
    optimizer = _optimizer(network, plan)
    # batches are of one kind of text, so that short ones are not padded to the length of long ones
    kinds = [inputs(texts) for texts in _language(data)]
    steps = plan.masked_epochs * sum(math.ceil(len(texts) / plan.batch_size) for texts in kinds)
    done = 0
    for _ in range(plan.masked_epochs):
        shuffled = [texts[torch.randperm(len(texts), generator=order)] for texts in kinds]
        batches = [batch for texts in shuffled for batch in texts.split(plan.batch_size)]
        for i in torch.randperm(len(batches), generator=order).tolist():
            batch = batches[i][:, : int((batches[i] != encoder.padding).sum(dim=1).max())]
            hidden = (torch.rand(batch.shape, generator=order) < MASKED_SHARE) & (batch > MASK)
            x, target = batch.masked_fill(hidden, MASK).to(device), batch[hidden].to(device)
            if len(target) == 0:
                continue
            for group in optimizer.param_groups:
                group["lr"] = plan.lr * _rate(plan.schedule, done / steps)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
                guesses = network(x)
            loss = nn.functional.cross_entropy(guesses.float(), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            _clip(network, alone=True)
            optimizer.step()
            done += 1
        advance(1, loss=float(loss.detach()))


def _language(data: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Texts to learn a language from: the training texts, and sentences that no space holds."""
    sentences = data["parallel_x"][ANCHOR_POOL:] if "parallel_x" in data else ()
    return [texts for texts in (data["train_x"], sentences) if len(texts)]


def _losses(task: str, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean loss of every model, from outputs of shape (models, samples, ...)."""
    if task == "reconstruction":
        return (outputs.float() - target).square().flatten(1).mean(dim=1) * 100  # of classification's order
    each = nn.functional.cross_entropy(outputs.float().flatten(0, 1), target.flatten(), reduction="none")
    return each.view(target.shape).mean(dim=1)


def _optimizer(network: nn.Module, plan: Training) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=plan.lr, momentum=0.9, fused=True)
    return torch.optim.Adam(network.parameters(), lr=plan.lr, fused=True)


def _rate(schedule: str, done: float) -> float:
    """Learning rate over its highest, when a share `done` of the steps lies behind."""
    return (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1.0


def _clip(network: nn.Module, alone: bool) -> None:
    """Bound the norm of each model's gradient."""
    if alone:
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        return
    gradients = [parameter.grad for parameter in network.parameters()]
    norms = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients]).sum(dim=0).sqrt()
    factors = (GRADIENT_NORM / (norms + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_ has it
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Have a GPU add up in one order, so that the same models trained together have the same bits."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False, allow_tf32=True):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _placed(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Data on the device where they take at most half of what is free there, else where batches leave fast."""
    if device.type != "cuda":
        return tensor
    fits = tensor.nbytes <= torch.cuda.mem_get_info(device)[0] / 2
    return tensor.to(device) if fits else tensor.pin_memory()
