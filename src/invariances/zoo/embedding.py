"""Embedding somebody's own samples with a model by name: in batches, part by part, what is finished is kept."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file, save, save_file
from torch import nn

from invariances.errors import DataError, ParameterError, PretrainedError
from invariances.layerwise import LAYER_POOLINGS, pooled
from invariances.outputs import check_output, open_parts
from invariances.progress import Progress
from invariances.zoo import frozen
from invariances.zoo.decoding import joined, load_split
from invariances.zoo.inputs import Inputs, read_inputs
from invariances.zoo.locating import locate
from invariances.zoo.models import device_named
from invariances.zoo.pretrained import find, named, one_line, pinned
from invariances.zoo.sources import REGISTRY

__all__ = ["EMBEDDINGS", "Network", "Options", "embed_samples", "find_samples", "open_network"]

EMBEDDINGS = "embeddings"
"""What the matrix is called in the file."""
FORMAT = "invariances embeddings 1"
PART = 2048
"""Samples of a part."""
SUFFIXES = (".safetensors", ".parquet")
"""Files that are written."""
Reader = Callable[[Sequence[Any]], torch.Tensor]
"""Gives the codes of texts or pictures, shape (n, d)."""


class Options(NamedTuple):
    """How samples are embedded."""

    layer: str | None = None
    """Of a transformer the number of its hidden states, 0 for the token embeddings, -1 for the last; of a vision
    network the name of a module. By default what the model's code is made of."""
    pooling: str | None = None
    """One of `invariances.layerwise.LAYER_POOLINGS`; by default as the registry says, and the mean for others."""
    length: int | None = None
    """Tokens of a text, or characters where the model reads whole texts."""
    batch: int = 32
    device: str = "auto"


DEFAULTS = Options()


class _Model(NamedTuple):
    name: str
    """With the digest of its weights, where it has some."""
    kind: str | None
    """"text" or "image"; None where it is not known."""
    read: Reader


def embed_samples(
    model: str,
    data: str,
    output: str | Path,
    column: str | None = None,
    id_column: str | None = None,
    most: int | None = None,
    options: Options = DEFAULTS,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Embed samples and write them to a file. Stopped at any point, the same call goes on.

    Parameters
    ----------
    model : str
        A name of the registry, a hub id, a folder or file of weights (see `pretrained.find`), or ``module:function``: a
        function that takes a list of texts or of PIL pictures and gives an array of shape (n, d).
    data : str
        See `find_samples`.
    output : str or Path
        A ``.safetensors`` file, with the matrix, ids and everything that determines it in its header, or ``.parquet``.
    column, id_column : str, optional
        Of a table of texts.
    most : int, optional
        Embed the first so many samples.
    options : Options
    force : bool
        Replace a file that is there.
    progress : callable, optional
        Called after every batch with the samples that are done, and with all.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError, PretrainedError, ParameterError
        If the samples, the model, or an option cannot be used.
    """
    _check(options, most)
    target = check_output(output, [data] if Path(data).is_file() else [], force=force)
    if target.suffix not in SUFFIXES:
        raise ParameterError(f"{output} would be a {target.suffix or 'nameless'} file; give {' or '.join(SUFFIXES)}")
    samples = find_samples(data, column, id_column).first(most)
    opened = _open(model, options)
    if opened.kind not in (None, samples.kind):
        raise ParameterError(f"{model} reads {_PLURAL[opened.kind]}, but {data} holds {_PLURAL[samples.kind]}")
    facts = _facts(opened, data, samples, options)
    folder = target.with_name(f".{target.name}.parts")
    finished = open_parts(folder, {**{k: str(v) for k, v in facts.items()}, "stamp": samples.stamp}, replace=True)
    _write_parts(opened.read, samples, folder, finished, options.batch, progress or (lambda done, total: None))
    _join(folder, target, samples, facts)
    shutil.rmtree(folder)
    return target


_PLURAL = {"text": "texts", "image": "pictures"}


def _facts(opened: _Model, data: str, samples: Inputs, options: Options) -> dict[str, Any]:
    """What determines the codes; on which device they were made does not."""
    facts = {"format": FORMAT, "model": opened.name, "data": data, "samples": len(samples)}
    return facts | options._replace(device="")._asdict() | {"version": version("invariances")}


def _check(options: Options, most: int | None) -> None:
    if options.pooling is not None and options.pooling not in LAYER_POOLINGS:
        raise ParameterError(f"unknown pooling {options.pooling!r}; choose from {', '.join(LAYER_POOLINGS)}")
    for name, value in (("batch", options.batch), ("length", options.length), ("most", most)):
        if value is not None and value < 1:
            raise ParameterError(f"{name} is {value}; give a whole number of at least 1")


# Samples ---------------------------------------------------------------------------------------


def find_samples(data: str, column: str | None = None, id_column: str | None = None) -> Inputs:
    """Somebody's own samples, or those of a data set of the registry.

    Parameters
    ----------
    data : str
        What `inputs.read_inputs` takes, or a name of the registry: its test samples, or others, ``trec:train``.
    column, id_column : str, optional
        See there.

    Raises
    ------
    DataError
        If there are none.
    """
    name, _, split = data.partition(":")
    if name in REGISTRY and not Path(data).exists():
        return _registered(name, split or "test")
    return read_inputs(data, column, id_column)


def _registered(name: str, split: str) -> Inputs:
    """The samples of a data set of the registry."""
    source = REGISTRY[name]
    found = locate(name)
    if source.kind == "parallel":
        raise DataError(f"{name} has sentences of several languages; give a file with a column of one of them")
    splits = list(found.files or {"train": [], "test": []})
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}; choose from {', '.join(splits)}")
    rows = load_split(source, found, split, 10**9)
    labels = [str(label) for label in np.asarray(rows[source.label])]
    ids = [f"{split}-{i}" for i in range(len(rows))]

    def load(numbers: Sequence[int]) -> list[Any]:
        some = rows.select(numbers)
        if source.kind == "image":
            return [picture.convert("RGB") for picture in some[source.inputs[0]]]
        return [joined(parts) for parts in zip(*(some[column] for column in source.inputs), strict=True)]

    return Inputs("image" if source.kind == "image" else "text", ids, load, f"{found.fingerprint} {split}", labels)


# Models -------------------------------------------------------------------------------------------


def _open(model: str, options: Options) -> _Model:
    device = device_named(options.device)
    module, colon, function = model.partition(":")
    if colon and not Path(model).exists() and module.replace(".", "").isidentifier():
        return _Model(model, None, _own_function(module, function, model))
    found = find(model)
    checkpoint = found.checkpoint
    if checkpoint.engine:
        if options.layer is not None or options.pooling is not None:
            raise ParameterError(f"{model} gives one vector a text and shows no layers; leave layer and pooling out")
        return _Model(pinned(model), "text", _whole_texts(model, options, device))
    read = _tokens if named(model).kind == "text" else _pixels
    return _Model(pinned(model), "text" if read is _tokens else "image", read(model, options, device))


def _own_function(module: str, function: str, model: str) -> Reader:
    sys.path.insert(0, str(Path.cwd()))
    try:
        call = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ParameterError(f"{model} cannot be imported ({one_line(error)}); give module:function") from error
    finally:
        sys.path.pop(0)
    return lambda samples: torch.as_tensor(np.asarray(call(samples)))


def _whole_texts(model: str, options: Options, device: torch.device) -> Reader:
    characters = frozen.tokenizer(model, options.length)
    encoder: Any = frozen.encoder(model).to(device)

    def read(texts: Sequence[str]) -> torch.Tensor:
        ids = torch.tensor([encoded.ids for encoded in characters.encode_batch(texts)])
        return encoder(ids.to(device))

    return read


def _tokens(model: str, options: Options, device: torch.device) -> Reader:
    tokenizer = frozen.tokenizer(model, options.length)
    encoder: Any = frozen.encoder(model).to(device)
    body = encoder.body.body
    states = None if options.layer is None or not _is_whole(options.layer) else int(options.layer)
    if options.layer is not None and states is None:
        raise ParameterError(f"layer is {options.layer!r}; give the number of a hidden state of {model}, e.g. -1")
    count = body.config.num_hidden_layers
    if states is not None and not -count - 1 <= states <= count:
        raise ParameterError(f"{model} has hidden states 0 to {count}; give one of these as layer, or -1 for the last")
    pooling = options.pooling or encoder.body.pooling
    if pooling == "flatten":
        raise ParameterError("texts have unequal numbers of tokens, which cannot be flattened; give mean, cls or last")
    _padding_to_the_longest(tokenizer)

    def read(texts: Sequence[str]) -> torch.Tensor:
        ids = torch.tensor([encoded.ids for encoded in tokenizer.encode_batch(list(texts))], device=device)
        mask = ids != body.config.pad_token_id
        out = body(input_ids=ids, attention_mask=mask.long(), output_hidden_states=states is not None)
        hidden = out.last_hidden_state if states is None else out.hidden_states[states]
        return pooled(hidden, pooling, mask)

    return read


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _pixels(model: str, options: Options, device: torch.device) -> Reader:
    encoder: Any = frozen.encoder(model).to(device)
    vision, pixels = encoder.body, encoder.body.pixels
    seen: dict[str, Any] = {}
    if options.layer is not None:
        _module(vision.body, options.layer, model).register_forward_hook(
            lambda _module, _given, out: seen.update({"out": out})
        )
    pooling = options.pooling or "mean"
    if pooling in ("cls", "last") and options.layer is None:
        raise ParameterError(f"the code of {model} has no tokens; leave pooling out, or name a layer that has some")

    def read(pictures: Sequence[Any]) -> torch.Tensor:
        codes = encoder(_fitted(pictures, pixels).to(device))
        return codes if options.layer is None else pooled(seen.pop("out"), pooling)

    return read


def _module(network: nn.Module, name: str, model: str) -> nn.Module:
    modules = dict(network.named_modules())
    if not name or name not in modules:
        shown = ", ".join(name for name, _ in network.named_children())
        raise ParameterError(f"{model} has no layer {name!r}; it has {shown} and what is in these, so name one")
    return modules[name]


class Network(NamedTuple):
    """A network by name, and how it is fed."""

    module: nn.Module
    kind: str
    """"text" or "image"."""
    batches: Callable[[Inputs, int], Iterator[Any]]
    """Batches of so many samples, as the module takes them."""


def open_network(model: str, device: str = "auto", length: int | None = None) -> Network:
    """A transformers or torchvision network by name, for what looks into its layers.

    Parameters
    ----------
    model : str
        As `embed_samples` takes it, but no function.
    device : str
    length : int, optional
        Tokens of a text.

    Raises
    ------
    PretrainedError, ParameterError
        If it cannot be had, or shows no layers.
    """
    place = device_named(device)
    if find(model).checkpoint.engine:
        raise ParameterError(f"{model} gives one vector a text and shows no layers; give another encoder")
    encoder: Any = frozen.encoder(model).to(place)
    if named(model).kind == "vision":
        return Network(encoder.body.body, "image", partial(_picture_batches, encoder.body, place))
    tokenizer = _padding_to_the_longest(frozen.tokenizer(model, length))
    return Network(encoder.body.body, "text", partial(_token_batches, tokenizer, encoder.body.body.config, place))


def _token_batches(tokenizer: Any, config: Any, device: torch.device, samples: Inputs, size: int) -> Iterator[Any]:
    for numbers in _numbers(len(samples), size):
        encoded = tokenizer.encode_batch(samples.load(numbers))
        ids = torch.tensor([each.ids for each in encoded], device=device)
        yield {"input_ids": ids, "attention_mask": (ids != config.pad_token_id).long()}


def _picture_batches(vision: Any, device: torch.device, samples: Inputs, size: int) -> Iterator[torch.Tensor]:
    for numbers in _numbers(len(samples), size):
        yield (_fitted(samples.load(numbers), vision.pixels).to(device) - vision.mean) / vision.std


def _numbers(n: int, size: int) -> Iterator[list[int]]:
    return (list(range(start, min(start + size, n))) for start in range(0, n, size))


def _fitted(pictures: Sequence[Any], pixels: int) -> torch.Tensor:
    """Pictures with the shorter side brought to `pixels`, cut to a square, in [0, 1]; shape (n, 3, pixels, pixels)."""
    from torchvision.transforms import functional

    fitted: list[Any] = [
        functional.center_crop(functional.resize(picture, [pixels]), [pixels, pixels]) for picture in pictures
    ]
    return torch.stack([functional.to_tensor(picture) for picture in fitted])


def _padding_to_the_longest(tokenizer: Any) -> Any:
    """A tokenizer that pads to the longest text of a batch."""
    padding = dict(tokenizer.padding)
    tokenizer.enable_padding(pad_id=padding["pad_id"], pad_token=padding["pad_token"])
    return tokenizer


# Parts --------------------------------------------------------------------------------------------


@torch.no_grad()
def _write_parts(
    read: Reader, samples: Inputs, folder: Path, finished: set[str], batch: int, progress: Progress
) -> None:
    width = None
    for i, start in enumerate(range(0, len(samples), PART)):
        numbers, place = range(start, min(start + PART, len(samples))), folder / f"part-{i:05d}.safetensors"
        if place.name in finished:
            progress(numbers.stop, len(samples))
            continue
        codes = []
        for first in range(0, len(numbers), batch):
            some = list(numbers[first : first + batch])
            codes.append(_checked(read(samples.load(some)), samples, some, width))
            width = codes[-1].shape[1]
            progress(some[-1] + 1, len(samples))
        temporary = place.with_name(f".{place.name}.part")
        save_file({EMBEDDINGS: np.concatenate(codes)}, temporary)
        temporary.replace(place)


def _checked(codes: torch.Tensor, samples: Inputs, numbers: Sequence[int], width: int | None) -> np.ndarray:
    if codes.ndim != 2 or len(codes) != len(numbers) or (width is not None and codes.shape[1] != width):
        raise PretrainedError(
            f"the model gave shape {tuple(codes.shape)} for {len(numbers)} samples; it must give one vector for each"
        )
    finite = codes.isfinite().all(dim=1)
    if not finite.all():
        bad = samples.ids[numbers[int((~finite).float().argmax())]]
        raise DataError(f"the model gave NaN or infinity for the sample {bad}; take it out, or use another model")
    return codes.float().cpu().numpy()


def _join(folder: Path, target: Path, samples: Inputs, facts: dict[str, Any]) -> None:
    codes = np.concatenate([load_file(path)[EMBEDDINGS] for path in sorted(folder.glob("part-*.safetensors"))])
    temporary = folder / f"whole{target.suffix}"
    if target.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), codes.shape[1])
        table = pa.table({"id": samples.ids, EMBEDDINGS: vectors})
        pq.write_table(table.replace_schema_metadata({"invariances": json.dumps(facts)}), temporary)
    else:
        checksum = hashlib.sha256(codes.tobytes()).hexdigest()
        metadata = {"format": FORMAT, "facts": json.dumps(facts | {"sha256": checksum}), "ids": json.dumps(samples.ids)}
        temporary.write_bytes(save({EMBEDDINGS: codes}, metadata))  # its own writer hides the file from others
    temporary.replace(target)
