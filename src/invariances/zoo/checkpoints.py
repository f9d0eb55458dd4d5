"""Checkpoints: all that changes while a training goes on, so that it can go on after a fault."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from invariances.zoo import store
from invariances.zoo.store import Artefact

__all__ = ["CHECKPOINT_SECONDS", "Run", "checkpoint_slots", "forget", "under_way"]


CHECKPOINT_SECONDS = 120.0
"""How much of a training a fault may cost."""


@dataclass
class Run:
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


def under_way(keys: list[str]) -> bool:
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
