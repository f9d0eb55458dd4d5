"""Every row of the paper's tables: which models it compares, on which data set.

Only names stand here, no sizes: a profile turns a `Variant` into a recipe (`plan`). Where the
paper does not say on which data a comparison was made, the choice is ours and is noted.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = [
    "FIVE_STARS",
    "FROZEN_LANGUAGES",
    "INVARIANCES",
    "ROWS",
    "SECTIONS",
    "SIMILARITIES",
    "TITLES",
    "Row",
    "Variant",
    "dataset_names",
    "own_row",
    "row_named",
]


class Variant(NamedTuple):
    """One way of making a model; the seeds of a variant make a group of models."""

    label: str
    dataset: str
    """A name of the zoo's registry."""
    network: str
    """A name that the profile gives a size."""
    task: Literal["classification", "reconstruction"] = "classification"
    training: tuple[tuple[str, object], ...] = ()
    """What differs from the profile's training."""
    masked: bool = False
    """Whether the text encoder first learns its language by guessing masked tokens."""
    frozen: bool = False
    """Whether its models are frozen encoders, one each, that the profile lists under the network's name."""
    coarse: bool = False
    """Whether labels are taken together as the data set says, and others left out."""


class Row(NamedTuple):
    """One row of a table: one group of models (initialization), or several that are compared."""

    name: str
    """As in the paper's table."""
    dataset: str
    """What the parameter `datasets` calls it."""
    variants: tuple[Variant, ...]
    remark: str = ""
    spaces: tuple[str, ...] = ()
    """Of a stitching row: how encoders and heads are connected."""
    modality: Literal["vision", "language"] = "vision"
    cross_lingual: bool = False
    """Whether the groups read different languages, so that anchors are parallel sentences."""
    parallel: Literal["multi30k", "ntrex"] = "multi30k"
    """Where parallel sentences come from."""
    crosses_encoders: bool = False
    """Whether a pair is of two encoders as well as of two groups; pairs that share either are controls."""
    reported: str | None = None
    """The row of the paper's stitching table whose numbers it stands beside: "" for none, by default its own name."""

    @property
    def beside(self) -> str:
        """The row of the paper that it stands beside; "" where there is none."""
        return self.name if self.reported is None else self.reported


def _own_choice(dataset: str) -> str:
    return f"The paper does not name the data set of this comparison; {dataset} is our choice."


def _classifiers(name: str, dataset: str, remark: str = "") -> Row:
    return Row(name, dataset, (Variant("CNN-3", dataset, "cnn-3"),), remark)


def _texts(name: str, dataset: str, spaces: tuple[str, ...] = ()) -> Row:
    return Row(name, dataset, (Variant("BERT", dataset, "bert"),), spaces=spaces, modality="language")


def _autoencoders(name: str, dataset: str, remark: str = "", spaces: tuple[str, ...] = ()) -> Row:
    return Row(name, dataset, (Variant("Autoencoder", dataset, "cnn-3", "reconstruction"),), remark, spaces)


_NOT_REPORTED = "Not in the paper's table, which does not say whether its models classify or reconstruct."
STITCHED = ("absolute", "relative", "affine", "orthogonal", "product")
"""How the models of the paper's stitching table are connected."""
MAPPED = ("absolute", "affine", "orthogonal")
"""How models are connected that have no head on relative representations."""


def _trained(dataset: str, network: str, **variants: dict[str, object]) -> tuple[Variant, ...]:
    return tuple(
        Variant(label.replace("_", " "), dataset, network, training=tuple(changes.items()))
        for label, changes in variants.items()
    )


def _pretrained(name: str, dataset: str, reported: str) -> Row:
    return Row(
        f"{name}, pretrained encoders",
        dataset,
        (Variant("pretrained", dataset, "english", frozen=True),),
        "Frozen encoders of several families, and heads of our own: what the source of the paper's row does.",
        STITCHED,
        modality="language",
        reported=reported,
    )


CROSS_LINGUAL = "Amazon (Cross-lingual)"
"""The paper's name of the row across languages."""
FIVE_STARS = f"{CROSS_LINGUAL}: five stars, encoders from scratch"
FROZEN_LANGUAGES = Row(
    f"{CROSS_LINGUAL}: coarse, multilingual encoders (the source: one monolingual encoder a language)",
    "amazon",
    tuple(
        Variant(language, f"amazon-{language}", "multilingual", frozen=True, coarse=True)
        for language in ("en", "de", "fr", "es", "ja", "zh")
    ),
    "One and two stars against four and five, as in the source. Anchors are news sentences of NTREX-128, which share "
    "no document with the sentences on which alignment is scored; scored reviews are not parallel. Two encoders are "
    "one case: the interval speaks of languages drawn anew, with these two.",
    STITCHED,
    modality="language",
    cross_lingual=True,
    parallel="ntrex",
    crosses_encoders=True,
    reported=CROSS_LINGUAL,
)

ROWS: dict[str, tuple[Row, ...]] = {
    "initialization": (
        _classifiers("MNIST", "mnist"),
        _classifiers("Fashion-MNIST", "fashion-mnist", "Named among the paper's data sets, but not in its table."),
        _classifiers("CIFAR-10", "cifar-10"),
        _classifiers("CIFAR-100", "cifar-100"),
        _texts("TREC", "trec"),
        _texts("DBpedia", "dbpedia"),
        _autoencoders("MNIST, reconstruction", "mnist", _NOT_REPORTED),
        _autoencoders("Fashion-MNIST, reconstruction", "fashion-mnist", _NOT_REPORTED),
        _autoencoders("CIFAR-10, reconstruction", "cifar-10", _NOT_REPORTED),
        _autoencoders("CIFAR-100, reconstruction", "cifar-100", _NOT_REPORTED),
    ),
    "architecture": (
        Row(
            "CNN-3 vs CNN-5",
            "cifar-10",
            (Variant("CNN-3", "cifar-10", "cnn-3"), Variant("CNN-5", "cifar-10", "cnn-5")),
            _own_choice("CIFAR-10"),
        ),
        Row(
            "ReLU vs GELU",
            "cifar-10",
            (Variant("ReLU", "cifar-10", "cnn-3"), Variant("GELU", "cifar-10", "cnn-3-gelu")),
            _own_choice("CIFAR-10"),
        ),
        Row(
            "ViT-Small vs ViT-Base",
            "cifar-10",
            (Variant("ViT-Small", "cifar-10", "vit-small"), Variant("ViT-Base", "cifar-10", "vit-base")),
            _own_choice("CIFAR-10") + " The two widths differ, so raw and scale cosine zero-pad the narrower space.",
        ),
        Row(
            "BERT vs RoBERTa",
            "trec",
            (Variant("BERT", "trec", "bert"), Variant("RoBERTa", "trec", "roberta")),
            _own_choice("TREC"),
            modality="language",
        ),
    ),
    "training": (
        Row(
            "CIFAR-10: SGD vs Adam",
            "cifar-10",
            _trained("cifar-10", "cnn-3", SGD={"optimizer": "sgd", "lr": 0.05}, Adam={}),
            "The paper gives no learning rates here; SGD's (0.05, momentum 0.9) and Adam's (the profile's) are ours.",
        ),
        Row(
            "CIFAR-100: LR 0.001 vs 0.01",
            "cifar-100",
            _trained("cifar-100", "cnn-3", **{"LR 0.001": {"lr": 0.001}, "LR 0.01": {"lr": 0.01}}),
        ),
        Row(
            "ImageNet: Aug Light vs Heavy",
            "imagenet",
            _trained("imagenet", "cnn-5", Light={"augmentation": "light"}, Heavy={"augmentation": "heavy"}),
        ),
        Row(
            "Amazon Reviews: Batch 32 vs 128",
            "amazon",
            _trained("amazon-en", "bert", **{"Batch 32": {"batch_size": 32}, "Batch 128": {"batch_size": 128}}),
            modality="language",
        ),
    ),
    "stitching": (
        _autoencoders("MNIST", "mnist", spaces=STITCHED),
        _autoencoders("CIFAR-10", "cifar-10", spaces=STITCHED),
        _texts("TREC", "trec", STITCHED),
        _pretrained("TREC", "trec", "TREC"),
        _pretrained("DBpedia", "dbpedia", ""),
        FROZEN_LANGUAGES,
        Row(
            FIVE_STARS,
            "amazon",
            tuple(Variant(language, f"amazon-{language}", "bert", masked=True) for language in ("en", "de", "fr")),
            "Anchors are parallel sentences of Multi30k, out of the reviews' domain; scored reviews are not parallel. "
            "Multi30k has no Spanish, Japanese and Chinese.",
            STITCHED,
            modality="language",
            cross_lingual=True,
            reported="",
        ),
        Row(
            "MNIST, classification",
            "mnist",
            (Variant("CNN-3", "mnist", "cnn-3"),),
            "Not in the paper's table; for key finding 4.",
            MAPPED,
        ),
        Row(
            "CIFAR-10, classification",
            "cifar-10",
            (
                Variant("CNN-3", "cifar-10", "cnn-3"),
                Variant("CNN-5", "cifar-10", "cnn-5"),
                Variant("GELU", "cifar-10", "cnn-3-gelu"),
                Variant("SGD", "cifar-10", "cnn-3", training=(("optimizer", "sgd"), ("lr", 0.05))),
            ),
            "Not in the paper's table; for key finding 4: models of several architectures and optimizers.",
            MAPPED,
        ),
    ),
}
"""The rows by section, in the paper's order."""

SECTIONS = tuple(ROWS)
TITLES = {
    "initialization": "Invariances to initialization",
    "architecture": "Invariances to architecture",
    "training": "Invariances to training modality",
    "stitching": "Zero-shot model stitching",
}
INVARIANCES = {"absolute": "Raw (Abs)", "scale": "Scale Inv", "relative": "Rotation Inv (Rel)", "affine": "Affine Inv"}
"""The paper's columns by the names that the method uses."""
SIMILARITIES = {"cosine": "cosine", "euclidean": "L2", "l1": "L1", "linf": "L∞"}
"""What tables and figures call the similarity functions that products combine."""


def dataset_names(section: str) -> list[str]:
    """The names that the parameter `datasets` takes in a section."""
    return list(dict.fromkeys(row.dataset for row in ROWS[section]))


def own_row(name: str) -> Row:
    """The row of somebody's own data, "own pictures" or "own texts": seeds of one network, as in initialization."""
    of_texts = name == "own texts"
    variant = Variant("BERT", name, "bert") if of_texts else Variant("CNN-3", name, "cnn-3")
    return Row(name.capitalize(), name, (variant,), modality="language" if of_texts else "vision")


def row_named(name: str) -> Row | None:
    """The row of that name, whatever its section; rows of one name read the same data."""
    return next((row for rows in ROWS.values() for row in rows if row.name == name), None)
