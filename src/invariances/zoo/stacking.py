"""Several models of one architecture trained as one: their tensors are stacked along a first axis.

One large kernel then does the work of many small ones, which is what keeps a GPU busy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call, stack_module_state

from invariances.zoo.networks import Model

FAMILIES = ("cnn", "vit")
"""Families whose layers `torch.func.vmap` can stack; the text models of transformers refuse it."""


class Stacked(nn.Module):
    """Models side by side; inputs and answers carry a first axis of models, as do parameters and buffers."""

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        parameters, buffers = stack_module_state(list(models))
        # a module's names may hold no dot; the skeleton is kept out of the modules, since it owns no tensor of its own
        self._names = {name.replace(".", "/"): name for name in [*parameters, *buffers]}
        self.__dict__["skeleton"] = copy.deepcopy(models[0]).to("meta")
        for name, tensor in parameters.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(tensor.detach()))
        for name, tensor in buffers.items():
            self.register_buffer(name.replace(".", "/"), tensor)

    def train(self, mode: bool = True) -> Stacked:
        """Set training or evaluation mode."""
        self.skeleton.train(mode)
        return super().train(mode)

    def forward(self, x: torch.Tensor, anchors: torch.Tensor | None = None) -> torch.Tensor:
        """Answer for `x` of shape (models, n, ...); all models share the inputs of the `anchors`."""
        state = [{self._names[name]: t for name, t in part} for part in (self.named_parameters(), self.named_buffers())]

        def one(parameters: dict, buffers: dict, x: torch.Tensor) -> torch.Tensor:
            return functional_call(self.skeleton, (parameters, buffers), (x, anchors))

        return torch.vmap(one)(*state, x)

    def unstack(self, models: Sequence[Model]) -> None:
        """Write every model's own part back into it."""
        for i, model in enumerate(models):
            own = {self._names[name]: tensor[i] for name, tensor in self.state_dict().items()}
            model.load_state_dict(own)
