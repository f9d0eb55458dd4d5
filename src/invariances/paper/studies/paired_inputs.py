"""Vision and language on paired inputs: one picture of each class of ImageNet, and the class's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from invariances import zoo
from invariances.errors import DataError, PretrainedError
from invariances.paper import plan
from invariances.paper.plan import PlannedRow
from invariances.paper.settings import Settings, check
from invariances.paper.studies.cka_spaces import ARCHITECTURES, Member, architectures, compare
from invariances.paper.studies.cka_tables import BOTH
from invariances.zoo import datasets, decoding, frozen, locating, pretrained, trained, workers
from invariances.zoo.models import device_named
from invariances.zoo.trained import Trained

__all__ = ["ONE_PICTURE_EACH", "described_pictures", "paired_map"]


ENGLISH = (
    *("minilm", "e5", "use", "wordllama"),
    *("bert-base-cased", "bert-base-uncased", "google/electra-base-discriminator", "roberta-base"),
)
"""Text models of the registry that read English, the language of the class names."""
VISION = tuple(name for name, checkpoint in pretrained.REGISTRY.items() if checkpoint.kind == "vision")


ONE_PICTURE_EACH = "ILSVRC/imagenet-1k.sample1000"
"""A folder beside that of ImageNet with one picture of each of its classes, in the same schema; may be absent."""
LEAST_CLASSES = 100
"""Pairs of picture and description below which CKA says next to nothing."""
PIXELS = 224
"""Side of the pictures that pretrained encoders get; they resize them as they need."""
TOKENS, CHARACTERS = 64, 400
"""Of a class description; longer ones are cut."""
BATCH = 100


def paired_map(
    rows: Mapping[str, PlannedRow], models: Mapping, settings: Settings
) -> tuple[pd.DataFrame, dict[str, str]]:
    """CKA of all models on pictures of ImageNet's classes against their names, and why models are left out.

    Raises
    ------
    DataError
        If there are no such pictures, or the run is restricted to some data sets.
    """
    if settings.value("data") == "builtin":
        raise DataError("not drawn with embedded stand-ins: they have no pictures whose classes are described")
    if settings.datasets is not None:
        raise DataError("not drawn: this run is restricted to some data sets, and it takes ImageNet's pictures")
    pictures, descriptions, where = described_pictures(settings.value("data"))
    members, not_run = {}, {}
    with workers.one_thread():
        members |= _zoo_members(rows, models, settings, pictures)
        members |= _pretrained_members(pictures, descriptions, device_named(settings.device), not_run)
    return compare(BOTH, members, where), not_run


def described_pictures(data: str) -> tuple[Sequence, list[str], str]:
    """One picture of each class of ImageNet that is there, the classes' descriptions, and what they are.

    A class is described by its names in the data set, e.g. "tench, Tinca tinca". The pictures come from the folder
    ``ILSVRC/imagenet-1k.sample1000`` where it lies beside that of ImageNet, else from ImageNet's test split.

    Raises
    ------
    DataError
        If ImageNet is missing, or has too few classes here.
    """
    source = datasets.source_named("imagenet")
    folder = datasets.data_folder() if data == "auto" else Path(data).expanduser().absolute()
    files = locating.parquet_files(source._replace(hub=ONE_PICTURE_EACH), folder)["test"] if folder else []
    if files:
        found = locating.Located("imagenet", ONE_PICTURE_EACH, "", {"test": files}, None)
    else:
        found = locating.locate("imagenet", data)
    rows = decoding.load_split(source, found, "test", source.classes.count)
    labels = np.asarray(rows[source.label])
    classes = len(np.unique(labels))
    if classes < LEAST_CLASSES:
        raise DataError(
            f"not drawn: the pictures of imagenet here are of {classes} classes, and each is one pair; "
            f"put {ONE_PICTURE_EACH}/test-00000-of-00001.parquet, or pictures of at least {LEAST_CLASSES} classes, "
            "under INVARIANCES_DATA"
        )
    kept = np.sort(decoding.balanced_subset(labels, classes))
    names = rows.features[source.label].names
    pictures = rows.select(kept)[source.inputs[0]]
    where = f"imagenet, one picture of each of {classes:,} classes and the class's names ({found.source})"
    return pictures, [names[label] for label in labels[kept]], where


def _squares(pictures: Iterable, pixels: int) -> torch.Tensor:
    """The middle of every picture, shape (n, 3, pixels, pixels), uint8."""
    from PIL import ImageOps

    fitted = [np.asarray(ImageOps.fit(picture.convert("RGB"), (pixels, pixels))) for picture in pictures]
    return torch.from_numpy(np.stack(fitted).transpose(0, 3, 1, 2).copy())


@torch.no_grad()
def _codes(encoder: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.cat([encoder(trained.inputs(part.to(device))).float().cpu() for part in x.split(BATCH)])


def _zoo_members(
    rows: Mapping[str, PlannedRow], models: Mapping, settings: Settings, pictures: Sequence
) -> dict[str, Member]:
    """The zoo's networks: those of CIFAR-10, for which the pictures are out of domain, and those of ImageNet."""
    own = architectures(rows, "recipes", "vision")
    found = {f"{name} ({recipe.dataset})": (group, models[recipe]) for name, (group, recipe) in own.items()}
    found |= _imagenet_models(settings)
    squares, members = {}, {}
    for name, (group, model) in found.items():
        pixels = datasets.load(model.recipe.data).arrays["test_x"].shape[-1]
        if pixels not in squares:
            squares[pixels] = _squares(pictures, pixels)
        space = _codes(trained.restore(model).encoder, squares[pixels], torch.device("cpu"))
        members[name] = Member(f"{group} ({model.recipe.dataset})", "trained", "vision", space)
    return members


def _imagenet_models(settings: Settings) -> dict[str, tuple[str, Trained]]:
    """The training section's, in either condition."""
    same = settings.model_dump(include={"profile", "seeds", "epochs", "samples", "device", "data"})
    planned = plan.rows(check("training", same | {"datasets": "imagenet"}))
    groups = [group for row in planned.values() for group in row.groups]
    trained = zoo.train([recipe for group in groups for recipe in group.recipes.values()], settings.device)
    found = {}
    for group in groups:
        title = f"{ARCHITECTURES[group.variant.network]} {group.variant.label.lower()}"
        for i, recipe in enumerate(group.recipes.values()):
            found[f"{title} {i} ({recipe.dataset})"] = (title, trained[recipe])
    return found


def _pretrained_members(
    pictures: Sequence, descriptions: list[str], device: torch.device, not_run: dict[str, str]
) -> dict[str, Member]:
    """The pretrained models that can be had, each with an untrained network of its kind; others go to `not_run`.

    An encoder that comes without its network has no untrained twin.
    """
    members, squares, missing = {}, None, []
    for name in (*VISION, *ENGLISH):
        modality = "vision" if name in VISION else "language"
        try:
            encoders = {"trained": frozen.encoder(name)}
            if not pretrained.named(name).engine:
                encoders["untrained"] = _fresh(name)
            x = _read(name, descriptions) if modality == "language" else squares
        except PretrainedError:
            missing.append(name)
            continue
        if x is None:
            squares = x = _squares(pictures, PIXELS)
        for kind, encoder in encoders.items():
            title = name if kind == "trained" else f"{name}, untrained"
            members[title] = Member(name, kind, modality, _codes(encoder.to(device), x, device))
    if missing:
        not_run[", ".join(missing)] = "weights are not here; `invariances data --pretrained` says how to get each"
    return members


def _read(name: str, descriptions: list[str]) -> torch.Tensor:
    """Descriptions as a text encoder reads them, shape (n, length); padding costs time and says nothing."""
    whole = bool(pretrained.named(name).engine)
    tokens = frozen.tokenizer(name, CHARACTERS if whole else TOKENS)
    read = tokens.encode_batch(descriptions)
    longest = max(map(len, descriptions)) if whole else max(sum(encoding.attention_mask) for encoding in read)
    return torch.tensor([encoding.ids[:longest] for encoding in read], dtype=torch.int32)


def _fresh(name: str) -> frozen.Frozen:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return frozen.encoder(name, fresh=True)
