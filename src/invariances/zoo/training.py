"""Training: a recipe becomes a model and its spaces, in one loop that reads top to bottom.

On a CPU every recipe is trained alone, on one thread; on a GPU the seeds of a recipe are stacked and
trained as one. A long training leaves a checkpoint every now and then, from which it goes on.
"""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from invariances.transforms import relative
from invariances.zoo import datasets, store
from invariances.zoo.networks import MASK, MaskedLanguage, Model, build
from invariances.zoo.recipes import Recipe, Training
from invariances.zoo.stacking import FAMILIES, Stacked
from invariances.zoo.store import Artefact

ANCHOR_POOL = 2000
"""Samples whose codes are stored; the anchors are the first k of them. They are training samples,
or parallel sentences where there are some; their order is random, and the same for all models."""
CHUNK = 500
CLIP = 10.0
"""Bound on the norm of a model's gradient, as in the lineage."""
CHECKPOINT_SECONDS = 120.0
"""How much of a training a fault may cost."""
ANCHOR_STEPS = {"bert": 5, "roberta": 5}
"""Steps after which a family's anchors are embedded anew, where it is not every step. For texts that would cost more
than all else; autoencoders of digits end with twice the error if theirs are five steps old."""
MASKED = 0.15
"""Share of the tokens that masked-language modelling hides (Devlin et al. 2019)."""
AUGMENTED_PARTS = 16
"""Parts of a batch that are augmented apart: torchvision draws once for all pictures that it is given."""

Advance = Callable[..., None]
"""Told of progress: a number of epochs, and what to show of it."""


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


def together(recipes: Sequence[Recipe], device: torch.device, most: int = 10) -> list[tuple[Recipe, ...]]:
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
    """
    first, keys = recipes[0], [recipe.key(numerics(device)) for recipe in recipes]
    if {replace(recipe, seed=0) for recipe in recipes} != {replace(first, seed=0)}:
        raise ValueError("only recipes that differ by their seed can be trained together; train the others apart")
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
        data = _embedded(models[0].encoder, data)
        models = [Model(nn.Identity(), model.head) for model in models]
    tell = advance or (lambda epochs, **shown: None)
    with deterministic(device):
        if first.training.masked_epochs and not _under_way(keys):
            for model, order in zip(models, orders, strict=True):
                _learn_language(model.encoder, first.training, data, order, tell)
        losses = fit(models, first, data, streams, orders, keys, tell)
    return [_artefact(*each, data, device) for each in zip(models, recipes, losses, strict=True)]


def _artefact(
    model: Model, recipe: Recipe, losses: list[float], data: dict[str, torch.Tensor], device: torch.device
) -> Artefact:
    spaces = embed(model, data)
    scores = _evaluate(model, recipe, data, spaces)
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


def cost(recipe: Recipe, device: torch.device) -> Cost:
    """What training a recipe would take here, from the time of some of its steps."""
    prepared = datasets.load(recipe.data)
    data = {name: torch.from_numpy(array) for name, array in prepared.arrays.items()}
    model, plan = fresh_model(recipe, prepared).to(device), recipe.training
    bytes_ = sum(tensor.nbytes for tensor in model.state_dict().values())
    clock = time.perf_counter if device.type == "cuda" else time.process_time  # what others do on the cores is left out
    start = clock()
    codes = encode(model.eval().encoder, data["test_x"][:CHUNK], device)
    rows = len(_pool(data)) + len(data["test_x"])
    seconds = (clock() - start) * rows / len(codes)
    steps = math.ceil(len(data["train_x"]) / plan.batch_size)
    if recipe.network.checkpoint:  # every sample is embedded once, and the head takes next to nothing
        return Cost(seconds * (rows + len(data["train_x"])) / rows, bytes_ + rows * codes.shape[1] * 4)
    for few in (1, min(3, steps)) if plan.epochs else ():  # the first time warms up
        some = {name: data[name][: few * plan.batch_size] for name in ("train_x", "train_y")}
        short = replace(recipe, training=replace(plan, epochs=1))
        stream, order = torch.get_rng_state(), torch.Generator()
        start = clock()
        fit([model], short, {**some, "parallel_x": _pool(data)}, [stream], [order], ["cost"], lambda *_, **__: None)
        taken = (clock() - start) / few
    # a pass of masked-language modelling costs about as much for each of its texts
    passes = plan.epochs + plan.masked_epochs * sum(map(len, _language(data))) / len(data["train_x"])
    return Cost(seconds + (taken * steps * passes if plan.epochs else 0), bytes_ + rows * codes.shape[1] * 4)


def _seed(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)


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
    """What the network reads: pictures scaled to [0, 1], token ids and codes as they are."""
    if x.dtype == torch.uint8:
        return x.float().div(255)
    return x if x.is_floating_point() else x.long()


# The loop --------------------------------------------------------------------------------------


def fit(
    models: list[Model],
    recipe: Recipe,
    data: dict[str, torch.Tensor],
    streams: list[torch.Tensor],
    orders: list[torch.Generator],
    keys: list[str],
    advance: Advance,
) -> list[list[float]]:
    """Train in place; gives every model's loss by epoch.

    Parameters
    ----------
    models : list of Model
        Or of other modules that answer for a batch of ``data["train_x"]``.
    recipe : Recipe
        Their task and training, and the anchors whose codes they are given in every step.
    data : dict of tensors
        ``train_x`` and ``train_y``; ``pictures`` where a decoder reads something else.
    streams, orders : list
        What every model draws augmentation and the order of the samples from.
    keys : list of str
        Names of the models, for their checkpoint.
    advance : callable
        As `train` says.
    """
    plan, x = recipe.training, data["train_x"]
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
    optimizer = _optimizer(network, plan)
    augment = _augmentation(plan.augmentation)
    anchor_inputs = inputs(_pool(data)[: recipe.anchors].to(device))
    steps = [s for s in torch.arange(len(x)).split(plan.batch_size) if len(s) > 1]  # BatchNorm needs two samples
    run = _Run(
        network,
        optimizer,
        streams,
        orders,
        losses=torch.zeros(plan.epochs, len(models), dtype=torch.float64, device=device),
    )
    run.resume(keys)
    saved = told = time.monotonic()
    untold = 0
    for epoch in range(run.epoch, plan.epochs):
        run.epoch, run.epoch_orders = epoch, [order.get_state() for order in orders]
        order = torch.stack([torch.randperm(len(x), generator=order) for order in orders])
        for step in steps[run.step :]:
            rows = order[:, step].to(x.device)
            batch, target = x[rows].to(device, non_blocking=True), y[rows].to(device, non_blocking=True)
            pictures = inputs(batch if augment is None else run.drawn(augment, batch))
            if recipe.task == "reconstruction":
                target = inputs(target)
            if recipe.anchors and run.step % ANCHOR_STEPS.get(recipe.network.family, 1) == 0:
                run.anchors = network.embed_anchors(anchor_inputs)
            for group in optimizer.param_groups:
                group["lr"] = plan.lr * _rate(plan.schedule, (epoch + run.step / len(steps)) / plan.epochs)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
                outputs = network(pictures[0], run.anchors)[None] if alone else network(pictures, run.anchors)
            losses = _losses(recipe.task, outputs, target)
            optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()
            _clip(network, alone)
            optimizer.step()
            run.losses[epoch] += losses.detach().double() * len(step) / len(x)
            run.step += 1
            untold += len(models) / len(steps)
            if time.monotonic() - told > 1.0:
                told = time.monotonic()
                advance(untold, loss=float(losses.detach().mean()))
                untold = 0
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                saved = time.monotonic()
                run.save(keys)
        run.step = 0
    advance(untold, loss=float(run.losses[-1].mean()))
    if not alone:
        network.unstack(models)
    return run.losses.T.tolist()


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
            hidden = (torch.rand(batch.shape, generator=order) < MASKED) & (batch > MASK)
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


@dataclass
class _Run:
    """All that changes while training goes on: a checkpoint is this, and nothing else."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    streams: list[torch.Tensor]
    """States of the random streams that augmentation draws from, one per model."""
    orders: list[torch.Generator]
    """Draw the order of the samples, one per model."""
    losses: torch.Tensor
    """By epoch and model."""
    epoch: int = 0
    step: int = 0
    epoch_orders: list[torch.Tensor] = field(default_factory=list)
    """States of `orders` at the start of the epoch."""
    anchors: torch.Tensor | None = None
    """Codes of the anchors, as they were embedded last."""
    slot: int = 0
    """Which of the two checkpoints is the last one."""

    def drawn(self, augment: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
        """Every model's pictures, augmented from its own stream, so that no model's draws depend on another."""
        outside, pictures = torch.get_rng_state(), []
        for i, stream in enumerate(self.streams):
            torch.set_rng_state(stream)
            pictures.append(augment(batch[i]))
            self.streams[i] = torch.get_rng_state()
        torch.set_rng_state(outside)
        return torch.stack(pictures)

    def save(self, keys: list[str]) -> None:
        """Write a checkpoint."""
        arrays = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for i, parameter in enumerate(self.network.parameters()):
            arrays |= {f"optimizer.{i}.{name}": value for name, value in self.optimizer.state[parameter].items()}
        for i, states in enumerate(zip(self.streams, self.epoch_orders, strict=True)):
            arrays |= {f"stream.{i}": states[0], f"order.{i}": states[1]}
        arrays |= {"losses": self.losses} | ({} if self.anchors is None else {"anchors": self.anchors})
        arrays = {name: tensor.cpu().numpy() for name, tensor in arrays.items()}
        note = {"models": keys, "epoch": self.epoch, "step": self.step}
        self.slot = 1 - self.slot  # the last one but one is overwritten: killed meanwhile, the last one is still whole
        store.save("checkpoints", checkpoint_slots(keys)[self.slot], Artefact(arrays, note))

    def resume(self, keys: list[str]) -> None:
        """Go on from the last checkpoint of these models, if there is one."""
        found = _checkpoints(keys)
        reached = [(one.note["epoch"], one.note["step"]) if one else (-1, -1) for one in found]
        self.slot = reached.index(max(reached))
        last = found[self.slot]
        if last is None:
            return
        arrays = {name: torch.tensor(array) for name, array in last.arrays.items()}
        names = list(self.network.state_dict())
        self.network.load_state_dict({name: arrays[f"network.{name}"] for name in names})
        for i, parameter in enumerate(self.network.parameters()):
            prefix = f"optimizer.{i}."
            self.optimizer.state[parameter] = {
                name.removeprefix(prefix): _like(parameter, tensor)
                for name, tensor in arrays.items()
                if name.startswith(prefix)
            }
        for i, order in enumerate(self.orders):
            self.streams[i] = arrays[f"stream.{i}"]
            order.set_state(arrays[f"order.{i}"])
        self.losses.copy_(arrays["losses"])
        self.anchors = arrays["anchors"].to(self.losses.device) if "anchors" in arrays else None
        self.epoch, self.step = reached[self.slot]


def _checkpoints(keys: list[str]) -> list[Artefact | None]:
    return [store.load("checkpoints", slot) for slot in checkpoint_slots(keys)]


def _under_way(keys: list[str]) -> bool:
    """Whether there is a checkpoint to go on from: what comes before the loop lies behind."""
    return any(_checkpoints(keys))


def checkpoint_slots(keys: list[str]) -> list[str]:
    """The two names under which models that are trained together have their checkpoints."""
    return [hashlib.sha256(" ".join([*keys, slot]).encode()).hexdigest()[:20] for slot in "01"]


def forget(keys: list[str]) -> None:
    """Remove the checkpoints of models that are finished."""
    for slot in checkpoint_slots(keys):
        store.remove("checkpoints", slot)


def _like(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the optimizer on the parameter's device, in its memory format."""
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device)  # the count of steps
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)


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
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        return
    gradients = [parameter.grad for parameter in network.parameters()]
    norms = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients]).sum(dim=0).sqrt()
    factors = (CLIP / (norms + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_ has it
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


def _augmentation(name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Crops, flips and distortions of a batch on its device; its parts draw their own."""
    if name == "none":
        return None
    from torchvision.transforms import v2

    light = [v2.RandomAffine(degrees=0, translate=(0.1, 0.1)), v2.RandomHorizontalFlip()]
    heavy = [
        v2.RandomAffine(degrees=20, translate=(0.2, 0.2), scale=(0.7, 1.3)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=0.4, contrast=0.4),
        v2.RandomErasing(p=0.5),
    ]
    transform = v2.Compose(light if name == "light" else heavy)
    return lambda x: torch.cat([transform(part) for part in x.tensor_split(min(AUGMENTED_PARTS, len(x)))])


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Have a GPU add up in one order, so that the same models trained together have the same bits."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=True):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


# Spaces and scores -----------------------------------------------------------------------------


def _placed(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Data on the device where they take at most half of what is free there, else where batches leave fast."""
    if device.type != "cuda":
        return tensor
    fits = tensor.nbytes <= torch.cuda.mem_get_info(device)[0] / 2
    return tensor.to(device) if fits else tensor.pin_memory()


@torch.no_grad()
def embed(model: Model, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Codes of the anchor pool and of the test split, in evaluation mode."""
    encoder, device = model.eval().encoder, next(model.parameters()).device
    return {split: encode(encoder, x, device) for split, x in (("pool", _pool(data)), ("test", data["test_x"]))}


@torch.no_grad()
def _embedded(encoder: nn.Module, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A data set with codes in place of inputs."""
    device = next(encoder.parameters()).device
    return {name: encode(encoder, x, device) if name.endswith("_x") else x for name, x in data.items()}


@torch.no_grad()
def encode(encoder: nn.Module, x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Codes of inputs by an encoder on a device, in chunks."""
    return torch.cat([encoder(inputs(part.to(device))).float() for part in x.split(CHUNK)])


def _pool(data: dict[str, torch.Tensor]) -> torch.Tensor:
    return data.get("parallel_x", data["train_x"])[:ANCHOR_POOL]


@torch.no_grad()
def _evaluate(
    model: Model, recipe: Recipe, data: dict[str, torch.Tensor], spaces: dict[str, torch.Tensor]
) -> dict[str, float]:
    codes = spaces["test"]
    if recipe.anchors:
        codes = relative(codes, spaces["pool"][: recipe.anchors])
    return scored(recipe.task, torch.cat([model.head(part).float() for part in codes.split(CHUNK)]), data)


def scored(task: str, outputs: torch.Tensor, data: dict[str, torch.Tensor]) -> dict[str, float]:
    """`quality` of outputs for the test split."""
    targets = inputs(data["test_x"]) if task == "reconstruction" else data["test_y"]
    return quality(task, outputs, targets.to(outputs.device))


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


def machine(device: torch.device) -> str:
    """Processor and torch version, for the note beside a model."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {kind}, torch {torch.__version__}"
