"""Several models of one architecture trained as one: their tensors are stacked along a first axis.

One large kernel then does the work of many small ones, which is what keeps a GPU busy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.func import functional_call, stack_module_state

from invariances.zoo.networks import Model

__all__ = ["FAMILIES", "Stacked"]


FAMILIES = ("cnn",)
"""Families that a GPU stacks; `torch.func.vmap` refuses the text models of transformers, and attention in bfloat16."""


class Stacked(nn.Module):
    """Models side by side; inputs and answers carry a first axis of models, as do parameters and buffers."""

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        parameters, buffers = stack_module_state(list(models))
        # a module's names may hold no dot; the skeleton is kept out of the modules, since it owns no tensor of its own
        self._names = {name.replace(".", "/"): name for name in [*parameters, *buffers]}
        skeleton = copy.deepcopy(models[0]).to("meta")
        for module in skeleton.modules():
            if isinstance(module, nn.BatchNorm2d):  # under vmap, its gradient wants inputs of its statistics' type
                module.register_forward_pre_hook(lambda norm, given: (given[0].to(norm.running_mean.dtype),))
        self.__dict__["skeleton"] = skeleton
        for name, tensor in parameters.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(tensor.detach()))
        for name, tensor in buffers.items():
            self.register_buffer(name.replace(".", "/"), tensor)

    def train(self, mode: bool = True) -> Stacked:
        """Set training or evaluation mode."""
        self.skeleton.train(mode)
        return super().train(mode)

    def forward(self, x: torch.Tensor, anchors: torch.Tensor | None = None) -> torch.Tensor:
        """Answer for `x` of shape (models, n, ...), with `anchors` of shape (models, k, d)."""
        if anchors is None:
            return torch.vmap(partial(functional_call, self.skeleton))(self._state(), x)
        return torch.vmap(lambda *given: functional_call(self.skeleton, given[0], given[1:]))(self._state(), x, anchors)

    @torch.no_grad()
    def embed_anchors(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of the same inputs by every model, shape (models, k, d)."""
        encoder = self.skeleton.encoder
        own = {name.removeprefix("encoder."): t for name, t in self._state().items() if name.startswith("encoder.")}
        was_training = encoder.training
        encoder.eval()
        codes = torch.vmap(partial(functional_call, encoder), in_dims=(0, None))(own, x)
        encoder.train(was_training)
        return codes

    def _state(self) -> dict[str, torch.Tensor]:
        tensors = [*self.named_parameters(), *self.named_buffers()]
        return {self._names[name]: tensor for name, tensor in tensors}

    def unstack(self, models: Sequence[Model]) -> None:
        """Write every model's own part back into it."""
        for i, model in enumerate(models):
            own = {self._names[name]: tensor[i] for name, tensor in self.state_dict().items()}
            model.load_state_dict(own)
