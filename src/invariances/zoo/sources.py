"""The data sets of the paper: where the hub has each, at which revision, and in which schema."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from typing import Literal, NamedTuple

from invariances.errors import DataError
from invariances.zoo import builtin

__all__ = ["OWN", "REGISTRY", "Classes", "Shards", "Source", "hub_is_reachable", "names_digest", "source_named"]


class Classes(NamedTuple):
    """The labels of a data set, as its publisher has them."""

    count: int
    sha256: str
    """Of the names in the hub's order, joined by newlines."""
    names: tuple[str, ...] = ()
    """The names themselves where they are few."""
    first: int = 0
    """The smallest label."""

    @property
    def labels(self) -> range:
        """All labels that may occur."""
        return range(self.first, self.first + self.count)


class Shards(NamedTuple):
    """A split that the hub keeps in so many files that only those needed are fetched."""

    pattern: str
    files: int
    rows: int
    """In the whole split; they are taken to be shuffled, and spread evenly over the files."""


class Source(NamedTuple):
    """One data set: where it is and how its columns are read."""

    hub: str
    revision: str | None
    """A commit is loaded as it is; a branch (None: the main one) is resolved when the program runs."""
    kind: Literal["image", "text", "parallel"]
    columns: dict[str, str]
    """Type by name: image, class (integers that have names), string or int32."""
    inputs: tuple[str, ...]
    label: str
    classes: Classes | None
    licence: str
    """A remark for people; the publisher's words count."""
    stand_in: str | None
    """The embedded stand-in's name, if there is one."""
    channels: Literal[0, 1, 3] = 0
    """Of pictures: 1 where all are grey, 3 for colour."""
    language: str | None = None
    """Of reviews, where there are several; also the folder below that of the hub id in which a local copy lies."""
    hub_folder: str | None = None
    """The folder of the hub's repository to read, where it is not the whole of it."""
    shards: dict[str, Shards] | None = None
    """By split, for a data set that is fetched in part."""
    coarse: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Where labels can be taken together: the coarse classes by name, each with its labels; others are left out."""
    document: str = ""
    """Of parallel sentences: the column that says which document a sentence is of, where one does."""
    own: str = ""
    """Of somebody's own samples: the folder or file."""

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, so that every run reads the same."""
        return bool(re.fullmatch("[0-9a-f]{40}", self.revision or ""))


def names_digest(names: tuple[str, ...] | list[str]) -> str:
    """The sha256 by which `Classes` knows its names."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def source_named(name: str) -> Source:
    """Look up a data set.

    Raises
    ------
    DataError
        If there is none of that name; the message lists the names.
    """
    known = REGISTRY | OWN
    if name not in known:
        raise DataError(f"unknown data set {name!r}; choose from {', '.join(REGISTRY)}")
    return known[name]


def _named(*names: str, first: int = 0) -> Classes:
    return Classes(len(names), names_digest(names), names, first)


def _pictures(hub: str, revision: str, columns: tuple[str, str], classes: Classes, licence: str) -> Source:
    """Colour pictures; `columns` are the picture's and the label's."""
    picture, label = columns
    types = {picture: "image", label: "class"}
    return Source(hub, revision, "image", types, (picture,), label, classes, licence, "digits", channels=3)


def _reviews(language: str) -> Source:
    # withdrawn from the hub: what is left is the Parquet conversion, a folder for each language
    texts = ("review_title", "review_body")
    others = ("review_id", "product_id", "reviewer_id", "language", "product_category")
    stand_in = f"generated {builtin.LANGUAGES[language]} reviews" if language in builtin.LANGUAGES else None
    return Source(
        hub="defunct-datasets/amazon_reviews_multi",
        revision="refs/convert/parquet",
        kind="text",
        columns={**dict.fromkeys((*texts, *others), "string"), "stars": "int32"},
        inputs=texts,
        label="stars",
        classes=_named("1", "2", "3", "4", "5", first=1),
        licence="academic research only",
        stand_in=stand_in,
        language=language,
        hub_folder=language,
        coarse=(("1 or 2 stars", (1, 2)), ("4 or 5 stars", (4, 5))),
    )


# The commits were found recorded in public code; they have not been checked against the hub itself.
_MNIST = _pictures(
    "ylecun/mnist", "77f3279092a1c1579b2250db8eafed0ad422088c", ("image", "label"), _named(*"0123456789"), "MIT"
)._replace(channels=1)
_FASHION = _pictures(
    "zalando-datasets/fashion_mnist",
    "531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
    ("image", "label"),
    _named(
        "T - shirt / top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "MIT",
)._replace(channels=1)
_CIFAR_10 = _pictures(
    "uoft-cs/cifar10",
    "0b2714987fa478483af9968de7c934580d0bb9a2",
    ("img", "label"),
    _named("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "none stated",
)
_CIFAR_100 = _pictures(
    "uoft-cs/cifar100",
    "aadb3af77e9048adbea6b47c21a81e47dd092ae5",
    ("img", "fine_label"),
    Classes(100, "3e2584150e2896e2b13ce110ab35d159d468eedf53741f2e60c931c9700b6741"),
    "none stated",
)._replace(columns={"img": "image", "fine_label": "class", "coarse_label": "class"})
_IMAGENET = _pictures(
    "ILSVRC/imagenet-1k",
    "49e2ee26f3810fb5a7536bbf732a7b07389a47b5",
    ("image", "label"),
    Classes(1000, "937eaf0024f6061b49ed40d4fbeda028f58571990fd1e3ec8c026bc29fc38f71"),
    "non-commercial",
)._replace(
    shards={  # the labels of the official test split are not public
        "train": Shards("data/train-{:05d}-of-00294.parquet", 294, 1_281_167),
        "test": Shards("data/validation-{:05d}-of-00014.parquet", 14, 50_000),
    }
)
_TREC = Source(
    hub="CogComp/trec",
    # of the hub's Parquet conversion: the main branch is a loading script, which `datasets` no longer runs
    revision="65752bf53af25bc935a0dce92fb5b6c930728450",
    kind="text",
    columns={"text": "string", "coarse_label": "class", "fine_label": "class"},
    inputs=("text",),
    label="coarse_label",
    classes=_named("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"),
    licence="none stated",
    stand_in="generated questions",
    hub_folder="default",
)
_DBPEDIA = Source(
    hub="fancyzhx/dbpedia_14",
    revision="9abd46cf7fc8b4c64290f26993c540b92aa145ac",
    kind="text",
    columns={"label": "class", "title": "string", "content": "string"},
    inputs=("title", "content"),
    label="label",
    classes=_named(
        "Company",
        "EducationalInstitution",
        "Artist",
        "Athlete",
        "OfficeHolder",
        "MeanOfTransportation",
        "Building",
        "NaturalPlace",
        "Village",
        "Animal",
        "Plant",
        "Album",
        "Film",
        "WrittenWork",
    ),
    licence="CC BY-SA 3.0",
    stand_in="generated questions",
)
_MULTI30K = Source(
    hub="bentrevett/multi30k",
    revision=None,
    kind="parallel",
    columns={"en": "string", "de": "string", "fr": "string"},  # the hub's version has no French
    inputs=("en", "de", "fr"),
    label="",
    classes=None,
    licence="research use",
    stand_in="generated sentences",
)
_NTREX = Source(
    hub="MicrosoftTranslator/ntrex-128",
    revision=None,
    kind="parallel",
    columns=dict.fromkeys(("document", "en", "de", "fr", "es", "ja", "zh"), "string"),  # six of its 128 languages
    inputs=("en", "de", "fr", "es", "ja", "zh"),
    label="",
    classes=None,
    licence="CC BY-SA 4.0",
    stand_in="generated sentences",
    document="document",
)

REGISTRY: dict[str, Source] = {
    "mnist": _MNIST,
    "fashion-mnist": _FASHION,
    "cifar-10": _CIFAR_10,
    "cifar-100": _CIFAR_100,
    "imagenet": _IMAGENET,
    "trec": _TREC,
    "dbpedia": _DBPEDIA,
    **{f"amazon-{language}": _reviews(language) for language in ("en", "de", "fr", "es", "ja", "zh")},
    "multi30k": _MULTI30K,
    "ntrex": _NTREX,
}
"""The paper's data sets by name, and the parallel sentences that cross-lingual anchors come from."""


OWN: dict[str, Source] = {}
"""Somebody's own samples by name, as `own_data.register` finds them."""


@functools.cache
def hub_is_reachable() -> bool:
    """Probed once per process, since the libraries retry for 23 s without a network."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(_MNIST.hub, timeout=3)
    except Exception:
        return False
    return True
