"""The profiles: how large everything is. A profile's sizes are upper bounds on samples.

``smoke`` runs everywhere in minutes on embedded stand-ins, ``laptop`` is the published size on
real data, ``full`` is for GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from invariances.paper.rows import FIVE_STARS

__all__ = ["PROFILES", "Profile"]


@dataclass(frozen=True)
class Profile:
    """Sizes of data, networks and training."""

    name: str
    data: str
    seeds: int
    """Models per variant."""
    anchors: int
    n_train: dict[str, int]
    """By data set, "" for the others."""
    n_test: int
    n_parallel: int
    """Parallel sentences: the anchors come first, those up to `zoo.trained.ANCHOR_POOL` are held out to score
    alignment, the rest teach encoders their language."""
    pixels: int
    pixels_imagenet: int
    vocabulary: int
    length: dict[str, int]
    """Tokens per text by data set, "" for the others."""
    epochs: dict[str, int]
    """By what is trained: cnn, vit, autoencoder, text, masked for a language and tuned for what follows it, head for
    what reads a frozen encoder."""
    batch_size: dict[str, int]
    """By the same."""
    lr: dict[str, float]
    """Adam's learning rate, by the same."""
    augmentation: dict[str, str]
    """Of classifiers, by data set; none of the others."""
    networks: dict[str, dict[str, Any]]
    """Fields of a zoo `Network` by the names that the paper's rows use."""
    fewer_seeds: dict[str, dict[str, int]] = field(default_factory=dict)
    """Models per variant where time forbids `seeds`: by section and row, "" for its others."""
    checkpoints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Pretrained encoders, one a model, by the same names, or by language where languages are compared. "multilingual"
    and "english" have the frozen encoders of rows that say so, "untrained" what stands in for an untrained one."""
    frozen: dict[str, int] = field(default_factory=dict)
    """Where frozen encoders read: samples (n_train, n_test), characters per text (length) or tokens of those that read
    tokens, and heads that differ by their seed (heads)."""

    def seeds_of(self, section: str, row: str) -> int:
        """Models per variant of a row."""
        fewer = self.fewer_seeds.get(section, {})
        return fewer.get(row, fewer.get("", self.seeds))


def _networks(cnn: dict, vit_small: dict, vit_base: dict, text: dict) -> dict[str, dict[str, Any]]:
    return {
        "cnn-3": {"family": "cnn", "depth": 3, **cnn},
        "cnn-5": {"family": "cnn", "depth": 5, **cnn},
        "cnn-3-gelu": {"family": "cnn", "depth": 3, "activation": "gelu", **cnn},
        "vit-small": {"family": "vit", **vit_small},
        "vit-base": {"family": "vit", **vit_base},
        "bert": {"family": "bert", **text},
        "roberta": {"family": "roberta", **text},
    }


FROZEN = {
    "multilingual": ("e5", "use"),
    "english": ("minilm", "e5", "use", "wordllama"),
    "untrained": ("minilm-untrained",),
}

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",
            data="builtin",
            seeds=3,
            anchors=150,
            n_train={"": 1_000},
            n_test=449,
            n_parallel=500,
            pixels=8,
            pixels_imagenet=8,
            vocabulary=500,
            length={"": 20},
            epochs={"cnn": 8, "vit": 10, "autoencoder": 10, "text": 3, "masked": 1, "tuned": 3, "head": 8},
            batch_size={"cnn": 64, "vit": 64, "autoencoder": 64, "text": 64, "tuned": 64, "head": 64},
            lr={"cnn": 1e-3, "vit": 1e-3, "autoencoder": 2e-3, "text": 1e-3, "tuned": 1e-3, "head": 1e-3},
            augmentation={},
            networks=_networks(
                cnn={"width": 16, "dim": 32},
                vit_small={"depth": 2, "dim": 32, "heads": 2, "patch": 2},
                vit_base={"depth": 2, "dim": 48, "heads": 3, "patch": 2},
                text={"depth": 2, "dim": 48, "heads": 2},
            ),
            checkpoints={
                "multilingual": ("stand-in-e5", "stand-in-use"),
                "english": ("stand-in-e5", "stand-in-use"),
                "untrained": ("stand-in-untrained",),
            },
            frozen={"n_train": 400, "n_test": 200, "length": 100, "tokens": 32, "heads": 2},
        ),
        Profile(
            name="laptop",
            data="auto",
            seeds=10,
            anchors=500,
            n_train={"": 10_000},
            n_test=2_000,
            n_parallel=8_000,
            pixels=32,
            pixels_imagenet=64,
            vocabulary=4_000,
            length={"": 64, "trec": 24},
            epochs={"cnn": 15, "vit": 12, "autoencoder": 8, "text": 8, "masked": 5, "tuned": 4, "head": 8},
            batch_size={"cnn": 64, "vit": 64, "autoencoder": 64, "text": 32, "tuned": 32, "head": 64},
            lr={"cnn": 2e-3, "vit": 1e-3, "autoencoder": 2e-3, "text": 1e-3, "tuned": 3e-4, "head": 1e-3},
            augmentation={"cifar-10": "light", "cifar-100": "light"},
            networks=_networks(
                cnn={"width": 32, "dim": 128},
                vit_small={"depth": 4, "dim": 64, "heads": 4, "patch": 4},
                vit_base={"depth": 6, "dim": 96, "heads": 6, "patch": 4},
                text={"depth": 2, "dim": 128, "heads": 4},
            ),
            fewer_seeds={
                "initialization": {
                    "MNIST, reconstruction": 5,
                    "Fashion-MNIST, reconstruction": 5,
                    "CIFAR-10, reconstruction": 5,
                    "CIFAR-100, reconstruction": 5,
                },
                "architecture": {"": 5, "ViT-Small vs ViT-Base": 3},
                "training": {"": 5},
                "stitching": {"": 5, FIVE_STARS: 2, "MNIST, classification": 10},
            },
            checkpoints=FROZEN,
            frozen={"n_train": 1_600, "n_test": 800, "length": 1_000, "tokens": 128, "heads": 5},
        ),
        Profile(
            name="full",
            data="auto",
            seeds=10,
            anchors=1_000,
            n_train={"": 10_000_000, "imagenet": 100_000},  # more would fill the memory of a machine
            n_test=10_000_000,
            n_parallel=29_000,
            pixels=32,
            pixels_imagenet=128,
            vocabulary=30_000,
            length={"": 256, "trec": 64},
            epochs={"cnn": 60, "vit": 100, "autoencoder": 100, "text": 10, "masked": 5, "tuned": 4, "head": 10},
            batch_size={"cnn": 128, "vit": 128, "autoencoder": 128, "text": 32, "tuned": 32, "head": 32},
            lr={"cnn": 1e-3, "vit": 5e-4, "autoencoder": 5e-4, "text": 5e-5, "tuned": 5e-5, "head": 1e-3},
            augmentation={"cifar-10": "light", "cifar-100": "light"},
            networks=_networks(
                cnn={"width": 64, "dim": 512},
                vit_small={"depth": 12, "dim": 384, "heads": 6, "patch": 4},
                vit_base={"depth": 12, "dim": 768, "heads": 12, "patch": 4},
                text={"depth": 12, "dim": 768, "heads": 12},
            ),
            checkpoints={
                "bert": ("bert-base-cased", "bert-base-uncased", "google/electra-base-discriminator"),
                "roberta": ("roberta-base", "FacebookAI/xlm-roberta-base"),
                "en": ("roberta-base",),
                "de": ("deepset/gbert-base",),
                "fr": ("ClassCat/roberta-base-french",),
                **FROZEN,
            },
            frozen={"n_train": 1_600, "n_test": 800, "length": 1_000, "tokens": 128, "heads": 5},
        ),
    )
}
