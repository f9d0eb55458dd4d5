"""Pretrained encoders as modules, and their tokenizers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from invariances.errors import PretrainedError
from invariances.zoo.engines import ENGINES, Characters, Engine, WholeTexts
from invariances.zoo.pretrained import Checkpoint, Found, find, one_line

__all__ = ["Frozen", "encoder", "tokenizer"]

TOKENS, CHARACTERS = 256, 2000
"""Of a text, if not said otherwise."""


class Frozen(nn.Module):
    """An encoder that is never trained and stays in evaluation mode, whatever the model around it does."""

    def __init__(self, body: nn.Module, dim: int) -> None:
        super().__init__()
        self.body = body
        self.dim = dim
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode: statistics of BatchNorm would follow the batch otherwise."""
        return super().train(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes, shape (n, dim), of token ids (n, length) or pictures in [0, 1] (n, channels, pixels, pixels)."""
        return self.body(x)


class _Text(nn.Module):
    def __init__(self, body: nn.Module, pooling: str) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = x != self.body.config.pad_token_id
        hidden = self.body(input_ids=x, attention_mask=mask.long()).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = mask.unsqueeze(-1).to(hidden)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)


class _Vision(nn.Module):
    def __init__(self, body: nn.Module, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.body = body
        self.pixels = checkpoint.pixels
        for name in ("mean", "std"):
            value = torch.tensor(getattr(checkpoint, name)).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.interpolate(x, (self.pixels, self.pixels), mode="bilinear", antialias=True)
        return self.body((x - self.mean) / self.std)  # one channel becomes three


def encoder(name: str, fresh: bool = False, pooling: Literal["mean", "cls"] | None = None) -> Frozen:
    """A pretrained encoder, frozen, in evaluation mode, on the CPU.

    Parameters
    ----------
    name : str
        As `find` takes it.
    fresh : bool
        The same network with weights from torch's current seed: the reference that was not trained.
    pooling : "mean" or "cls", optional
        How a text's code is made; by default as the registry says, and the mean for others.

    Returns
    -------
    Frozen
        Maps token ids, int64 of shape (n, length), padded with the checkpoint's own padding; or texts
        as characters (`engines.Characters`), where it reads whole texts; or pictures in [0, 1], float of
        shape (n, 1 or 3, pixels, pixels), which it resizes and normalizes as the checkpoint wants them;
        to codes of shape (n, ``dim``).

    Raises
    ------
    PretrainedError
        If the checkpoint cannot be had or read.
    """
    found = find(name)
    with _reading(found):
        if found.checkpoint.engine:
            return _by_engine(found, fresh)
        if found.checkpoint.kind == "text":
            body = _transformer(found, fresh)
            return Frozen(_Text(body, pooling or found.checkpoint.pooling), body.config.hidden_size)
        body = _architecture(found.checkpoint)
        if not fresh:
            body.load_state_dict(_state(found.place))
        return Frozen(_Vision(body, found.checkpoint), _behead(body))


def tokenizer(name: str, length: int | None = None) -> Any:
    """The tokenizer of a text checkpoint, as `tokenizers` has it.

    Parameters
    ----------
    name : str
        As `find` takes it.
    length : int, optional
        Tokens per text, or characters: longer ones are cut, shorter ones padded with the checkpoint's padding. By
        default 256 tokens or as many as the checkpoint reads, or 2,000 characters.

    Returns
    -------
    tokenizers.Tokenizer, or engines.Characters for an encoder that reads whole texts

    Raises
    ------
    PretrainedError
        If the checkpoint cannot be had or read, or is none of text, or is made for shorter texts.
    """
    from transformers import AutoConfig, AutoTokenizer

    found = find(name)
    if found.checkpoint.kind != "text":
        raise PretrainedError(f"the checkpoint {name} reads pictures and has no tokenizer; give one of text")
    if found.checkpoint.engine:
        return Characters(length or CHARACTERS)
    with _reading(found):
        config = AutoConfig.from_pretrained(found.place, local_files_only=True, trust_remote_code=False)
        whole = AutoTokenizer.from_pretrained(found.place, local_files_only=True, trust_remote_code=False)
        fast, padding = whole.backend_tokenizer, config.pad_token_id
        pad = whole.convert_ids_to_tokens(padding)
    longest = min(whole.model_max_length, getattr(config, "max_position_embeddings", math.inf))
    if "roberta" in config.model_type:
        longest = min(longest, config.max_position_embeddings - padding - 1)  # its positions start after the padding's
    length = length or int(min(TOKENS, longest))
    if length > longest:
        raise PretrainedError(f"the checkpoint {name} reads {longest} tokens at most, not {length}; give a length so")
    fast.enable_truncation(length)
    fast.enable_padding(length=length, pad_id=padding, pad_token=pad)
    return fast


def _by_engine(found: Found, fresh: bool) -> Frozen:
    if fresh:
        raise PretrainedError(
            f"the encoder {found.name} comes without a network that could have fresh weights; take minilm-untrained as "
            "the untrained one"
        )
    return Frozen(WholeTexts(partial(_started, found)), found.checkpoint.dim)


def _started(found: Found) -> Engine:
    with _reading(found):
        return ENGINES[found.checkpoint.engine](found.place)


@contextmanager
def _reading(found: Found) -> Iterator[None]:
    """Turn whatever the libraries raise over a checkpoint into one sentence."""
    try:
        yield
    except PretrainedError:
        raise
    except Exception as error:  # each format has its own errors; the cause stays chained
        raise PretrainedError(
            f"the checkpoint {found.name} at {found.place} cannot be read ({one_line(error)}); put a whole one there "
            "or give another"
        ) from error


def _transformer(found: Found, fresh: bool) -> nn.Module:
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    own = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(found.place, **own)
    if config.pad_token_id is None or not hasattr(config, "hidden_size"):
        raise PretrainedError(
            f"the checkpoint {found.name} has no padding token or no single width; give a text encoder"
        )
    if fresh:
        return AutoModel.from_config(config)
    body, loaded = AutoModel.from_pretrained(
        found.place, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **own
    )
    missing = sorted(name for name in loaded["missing_keys"] if not name.startswith("pooler."))  # the codes need none
    if missing:  # transformers would go on with random ones
        raise PretrainedError(
            f"the checkpoint {found.name} at {found.place} has no weights {missing[0]}; put a whole one there"
        )
    return body


def _architecture(checkpoint: Checkpoint) -> nn.Module:
    """The network with its classifier, with fresh weights."""
    if checkpoint.architecture:
        from torchvision.models import get_model

        return get_model(checkpoint.architecture, weights=None)
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def _state(file: Path) -> Mapping[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def _behead(body: nn.Module) -> int:
    """Take the last linear layer, the classifier, away; what it read is the code, whose width is returned."""
    name, last = [(name, part) for name, part in body.named_modules() if isinstance(part, nn.Linear)][-1]
    body.set_submodule(name, nn.Identity())
    return last.in_features
