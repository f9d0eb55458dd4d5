"""What frozen encoders make of samples, each made once: all models that read the same codes find them in the store."""

from __future__ import annotations

import hashlib
import json
from functools import partial

import torch
from torch import nn

from invariances.zoo import store, trained
from invariances.zoo.store import Artefact

__all__ = ["EMBEDDINGS_VERSION", "embedded", "in_store", "key"]


EMBEDDINGS_VERSION = 1
"""Counted up whenever an encoder would give other codes for the same samples."""


def key(x: torch.Tensor, checkpoint: str, device: torch.device) -> str:
    """The name of the codes of samples in the store: a hash of the samples and of the encoder's pinned name."""
    x = x.cpu().contiguous()
    fields = [checkpoint, EMBEDDINGS_VERSION, trained.numerics(device), str(x.dtype), list(x.shape)]
    digest = hashlib.sha256(json.dumps(fields).encode())
    digest.update(x.numpy().data)
    return digest.hexdigest()[:20]


def in_store(x: torch.Tensor, checkpoint: str, device: torch.device) -> bool:
    """Whether the codes of samples are there already."""
    return store.has("embeddings", key(x, checkpoint, device))


def embedded(
    encoder: nn.Module, checkpoint: str, data: dict[str, torch.Tensor], device: torch.device
) -> dict[str, torch.Tensor]:
    """A data set with codes in place of inputs.

    Parameters
    ----------
    encoder : Module
        Frozen, on the device; what it says of a sample hangs on that sample alone.
    checkpoint : str
        Its pinned name.
    data : dict of tensors
        Those whose names end with ``_x`` are embedded.
    device : torch.device

    Returns
    -------
    dict of tensors
        Codes of shape (n, d) on the device; what is no input is as it was.
    """

    def codes(x: torch.Tensor) -> torch.Tensor:
        found = store.fetch("embeddings", key(x, checkpoint, device), partial(_made, encoder, checkpoint, x, device))
        return torch.from_numpy(found.arrays["codes"].copy()).to(device)

    return {name: codes(x) if name.endswith("_x") else x for name, x in data.items()}


@torch.no_grad()
def _made(encoder: nn.Module, checkpoint: str, x: torch.Tensor, device: torch.device) -> Artefact:
    codes = trained.encode(encoder, x, device).cpu().numpy()
    return Artefact({"codes": codes}, {"encoder": checkpoint, "n": len(codes)})
