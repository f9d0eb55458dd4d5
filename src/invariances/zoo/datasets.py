"""The data sets: one registry, one loader, and the decoded arrays that training reads.

Every data set is read with `datasets` in the schema of its hub version: from the folder that
``INVARIANCES_DATA`` names, else from the hub, else not at all. An embedded stand-in serves only
an explicit request (``data="builtin"``, which the smoke profile makes) and is named as one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from invariances.zoo import builtin, store
from invariances.zoo.home import data_folder, home

ARRAYS_VERSION = 2
"""Counted up whenever the decoded arrays would change for the same source."""
STRICT = ConfigDict(extra="forbid")


class DataError(RuntimeError):
    """A data set that cannot be had or used; the message says what, where and the remedy."""


class Source(NamedTuple):
    """One data set of the paper: where it is and how its columns are read."""

    hub: str
    config: str | None
    kind: Literal["image", "text", "parallel"]
    inputs: tuple[str, ...]
    label: str
    stand_in: str | None
    """The embedded stand-in's name, if there is one."""


def _image(hub: str, column: str, label: str) -> Source:
    return Source(hub, None, "image", (column,), label, "digits")


def _reviews(language: str) -> Source:
    stand_in = f"generated {builtin.LANGUAGES[language]} reviews" if language in builtin.LANGUAGES else None
    hub = "defunct-datasets/amazon_reviews_multi"
    return Source(hub, language, "text", ("review_title", "review_body"), "stars", stand_in)


REGISTRY: dict[str, Source] = {
    "mnist": _image("ylecun/mnist", "image", "label"),
    "fashion-mnist": _image("zalando-datasets/fashion_mnist", "image", "label"),
    "cifar-10": _image("uoft-cs/cifar10", "img", "label"),
    "cifar-100": _image("uoft-cs/cifar100", "img", "fine_label"),
    "imagenet": _image("ILSVRC/imagenet-1k", "image", "label"),
    "trec": Source("CogComp/trec", None, "text", ("text",), "coarse_label", "generated questions"),
    "dbpedia": Source("fancyzhx/dbpedia_14", None, "text", ("title", "content"), "label", "generated questions"),
    **{f"amazon-{language}": _reviews(language) for language in ("en", "de", "fr", "es", "ja", "zh")},
    "multi30k": Source("bentrevett/multi30k", None, "parallel", ("en", "de", "fr"), "", "generated sentences"),
}
"""The paper's data sets by name, and the parallel sentences that cross-lingual anchors come from."""

Tokenizer = Literal["wordpiece", "byte-bpe"]


@dataclass(frozen=True, config=STRICT)
class View:
    """How a data set becomes arrays: how many samples, of what size."""

    dataset: str
    data: str
    """One of "auto", "builtin", or the path of a folder of hub-schema Parquet."""
    n_train: PositiveInt
    n_test: PositiveInt
    pixels: NonNegativeInt = 0
    """Side of the square that pictures are brought to."""
    channels: Literal[0, 1, 3] = 0
    tokenizer: Tokenizer | None = None
    vocabulary: NonNegativeInt = 0
    length: NonNegativeInt = 0
    """Tokens per text; longer ones are cut, shorter ones padded."""
    n_parallel: NonNegativeInt = 0
    """Parallel sentences to encode beside the texts."""


@dataclass(frozen=True, config=STRICT)
class Prepared:
    """A data set as arrays on disk, and what to say of it."""

    key: str
    title: str
    """What tables call it, e.g. "mnist" or "digits (stand-in for mnist)"."""
    source: str
    """Where it came from."""
    classes: tuple[str, ...]
    n_train: int
    n_test: int
    n_parallel: int
    vocabulary: int


class _Located(NamedTuple):
    """A data set that was found."""

    title: str
    source: str
    fingerprint: str
    files: dict[str, list[str]] | None
    """Parquet by split, perhaps in several shards; None for the embedded stand-ins and the hub."""
    revision: str | None


# Finding ---------------------------------------------------------------------------------------


def source_named(name: str) -> Source:
    """Look up a data set.

    Raises
    ------
    DataError
        If there is none of that name; the message lists the names.
    """
    if name not in REGISTRY:
        raise DataError(f"unknown data set {name!r}; choose from {', '.join(REGISTRY)}")
    return REGISTRY[name]


def locate(name: str, data: str = "auto") -> _Located:
    """Find a data set: the embedded stand-in, a folder of Parquet, or the hub.

    Raises
    ------
    DataError
        If it cannot be had; the message says what is missing and how to get it.
    """
    source = source_named(name)
    if data == "builtin":
        if source.stand_in is None:
            raise DataError(
                f"there is no embedded stand-in for {name}; set INVARIANCES_DATA or leave this data set out"
            )
        title = f"{source.stand_in} (stand-in for {name})"
        return _Located(title, "embedded in this package", f"builtin-{builtin.VERSION}", None, None)
    folder = data_folder() if data == "auto" else Path(data).expanduser().absolute()
    files = _parquet_files(source, folder) if folder else {}
    absent = [split for split, shards in files.items() if not shards]
    if files and not absent:
        digest = hashlib.sha256()
        for path in sorted(path for shards in files.values() for path in shards):
            digest.update(Path(path).read_bytes())
        where = "INVARIANCES_DATA" if data == "auto" else "the given folder"
        return _Located(name, where, digest.hexdigest(), files, None)
    revision = hub_revision(source.hub) if data == "auto" else None
    if revision:
        return _Located(name, f"hub {source.hub} at {revision[:12]}", revision, None, revision)
    split = absent[0] if absent else "train"
    wanted = "/".join(filter(None, (source.hub, source.config, f"{split}-00000-of-00001.parquet")))
    if folder:
        looked = f"there is no {wanted} under {'INVARIANCES_DATA' if data == 'auto' else folder}"
    else:
        looked = "INVARIANCES_DATA is not set"
    hub = f", and the hub cannot be reached for {source.hub}" if data == "auto" else ""
    raise DataError(
        f"the data set {name} is missing: {looked}{hub}; put {wanted} under a folder and set INVARIANCES_DATA to it, "
        "connect to a network, or ask for the embedded stand-ins with the parameter data=builtin"
    )


def _parquet_files(source: Source, folder: Path) -> dict[str, list[str]]:
    place = folder / source.hub / (source.config or "")
    return {split: [str(path) for path in sorted(place.glob(f"{split}-*.parquet"))] for split in ("train", "test")}


@functools.cache
def hub_revision(hub: str) -> str | None:
    """The current revision of a hub data set, or None where the hub cannot be reached within 3 s."""
    if not _hub_is_reachable():
        return None
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(hub, timeout=3).sha
    except Exception:  # unreachable, gated and withdrawn data sets all mean: not to be had here
        return None


@functools.cache
def _hub_is_reachable() -> bool:
    """Probed once per process, since the libraries retry for 23 s without a network."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(REGISTRY["mnist"].hub, timeout=3)
    except Exception:
        return False
    return True


def status(data: str = "auto") -> pd.DataFrame:
    """What can be reached, from where, and how many samples; a missing data set is a row too."""
    return pd.DataFrame([_status_row(name, data) for name in REGISTRY])


def _status_row(name: str, data: str) -> dict[str, Any]:
    source = REGISTRY[name]
    row = {"data set": name, "hub id": "/".join(filter(None, (source.hub, source.config)))}
    try:
        found = locate(name, data)
    except DataError:
        return {**row, "from": "missing", "train": "-", "test": "-"}
    sizes = {"train": "?", "test": "?"}
    if found.files:
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            rows = {s: sum(parquet.read_metadata(p).num_rows for p in shards) for s, shards in found.files.items()}
        except (pyarrow.ArrowInvalid, OSError):
            return {**row, "from": f"{found.source}, unreadable", "train": "-", "test": "-"}
        sizes = {split: f"{n:,}" for split, n in rows.items()}
    return {**row, "from": found.source, **sizes}


# Decoding --------------------------------------------------------------------------------------


def prepare(view: View) -> Prepared:
    """Decode a data set once and keep it; a second call finds the arrays on disk.

    Fewer samples than the view asks for are used, and said, where the source has fewer.

    Raises
    ------
    DataError
        If the data set cannot be had, or has no sample.
    """
    kind = source_named(view.dataset).kind
    if kind == "parallel":
        raise DataError(
            f"{view.dataset} has no classes of its own; it only offers parallel sentences to other data sets"
        )
    if (kind == "image") != bool(view.pixels and view.channels) or (kind == "text") != bool(view.tokenizer):
        raise DataError(f"the view of {view.dataset} is no view of {kind}s; give pixels and channels, or a tokenizer")
    found = locate(view.dataset, view.data)
    parallel = locate("multi30k", view.data).fingerprint if view.n_parallel else ""
    spec = {**asdict(view), "data": found.fingerprint, "parallel": parallel, "version": ARRAYS_VERSION}
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:20]
    note = store.fetch("arrays", key, lambda: _decode(view, found)).note
    return Prepared(key=key, title=found.title, source=found.source, **note)


def load(key: str) -> store.Artefact:
    """A prepared data set, as `prepare` left it.

    Its arrays are ``train_x``, ``train_y``, ``test_x``, ``test_y``, perhaps ``parallel_x``: pictures
    are uint8 of shape (n, channels, pixels, pixels), texts int32 token ids of shape (n, length). Its
    note holds ``classes`` and ``vocabulary``.

    Raises
    ------
    DataError
        If it is gone or damaged since.
    """
    found = store.load("arrays", key)
    if found is None:
        raise DataError(f"the decoded arrays {key} are missing or damaged; run again, and they are decoded anew")
    return found


Decoded = tuple[dict[str, np.ndarray], dict[int, str], int]
"""Arrays by name, class names by label, size of the vocabulary."""


def _decode(view: View, found: _Located) -> store.Artefact:
    decode = _decode_images if source_named(view.dataset).kind == "image" else _decode_texts
    arrays, names, vocabulary = decode(view, found)
    # labels that occur are numbered 0, 1, ...: stars start at 1, samples of ImageNet skip classes
    seen = np.unique(np.concatenate([arrays["train_y"], arrays["test_y"]]))
    for split in ("train", "test"):
        arrays[f"{split}_y"] = np.searchsorted(seen, arrays[f"{split}_y"]).astype(np.int64)
    sizes = {f"n_{split}": len(arrays.get(f"{split}_x", ())) for split in ("train", "test", "parallel")}
    return store.Artefact(arrays, {"classes": [names[int(label)] for label in seen], "vocabulary": vocabulary, **sizes})


def _decode_images(view: View, found: _Located) -> Decoded:
    if found.files is None and found.revision is None:
        images, labels = builtin.digits()
        n_test = len(labels) // 4
        splits = {"train": (images[n_test:], labels[n_test:]), "test": (images[:n_test], labels[:n_test])}
        arrays = {}
        for split, n in (("train", view.n_train), ("test", view.n_test)):
            x, y = splits[split]
            kept = balanced_subset(y, n)
            arrays |= {f"{split}_x": _fit_pixels(x[kept], view), f"{split}_y": y[kept]}
        return arrays, {digit: str(digit) for digit in range(10)}, 0
    source, arrays, names = REGISTRY[view.dataset], {}, {}
    for split, n in (("train", view.n_train), ("test", view.n_test)):
        rows = _load_split(source, found, split)
        labels = np.asarray(rows[source.label])
        kept = balanced_subset(labels, n)
        pictures = rows.select(kept)[source.inputs[0]]
        arrays[f"{split}_x"] = np.stack([_picture(picture, view) for picture in pictures])
        arrays[f"{split}_y"] = labels[kept]
        names = _class_names(rows, source)
    return arrays, names, 0


def _picture(picture: Any, view: View) -> np.ndarray:
    """One decoded picture as (channels, pixels, pixels); greyscale and colour are brought to one form."""
    pixels = np.asarray(picture.convert("L" if view.channels == 1 else "RGB"))
    return _fit_pixels(np.atleast_3d(pixels).transpose(2, 0, 1)[None], view)[0]


def _fit_pixels(images: np.ndarray, view: View) -> np.ndarray:
    """Grow by a black border or shrink by area, to (n, channels, pixels, pixels)."""
    import torch

    side = max(images.shape[2:])
    if images.shape[1] != view.channels:
        images = images.repeat(view.channels, axis=1)
    if side > view.pixels or images.shape[2] != images.shape[3]:
        shape = (view.pixels, view.pixels)
        tensor = torch.tensor(images, dtype=torch.float32)
        return torch.nn.functional.interpolate(tensor, shape, mode="area").round().byte().numpy()
    before = (view.pixels - side) // 2
    after = view.pixels - side - before
    return np.pad(images, ((0, 0), (0, 0), (before, after), (before, after)))


def _decode_texts(view: View, found: _Located) -> Decoded:
    source = REGISTRY[view.dataset]
    texts, arrays, names = {}, {}, {}
    for seed, (split, n) in enumerate((("train", view.n_train), ("test", view.n_test))):
        if found.files is None and found.revision is None:
            texts[split], labels, names = _generated(view.dataset, n, seed)
        else:
            rows = _load_split(source, found, split)
            labels = np.asarray(rows[source.label])
            kept = balanced_subset(labels, n)
            columns = rows.select(kept).to_dict()
            texts[split] = [_joined(parts) for parts in zip(*(columns[name] for name in source.inputs), strict=True)]
            labels, names = labels[kept], _class_names(rows, source)
        arrays[f"{split}_y"] = labels
    if view.n_parallel:
        texts["parallel"] = _parallel(view)
    tokenizer = _trained_tokenizer(texts["train"] + texts.get("parallel", []), view)
    for split, strings in texts.items():
        arrays[f"{split}_x"] = np.array([e.ids for e in tokenizer.encode_batch(strings)], dtype=np.int32)
    return arrays, names, tokenizer.get_vocab_size()


def _generated(dataset: str, n: int, seed: int) -> tuple[list[str], np.ndarray, dict[int, str]]:
    if dataset.startswith("amazon"):
        texts, labels = builtin.reviews(n, seed, REGISTRY[dataset].config)
        return texts, labels, {stars - 1: str(stars) for stars in range(1, 6)}
    texts, labels = builtin.questions(n, seed)
    return texts, labels, dict(enumerate(builtin.QUESTION_CLASSES))


def _parallel(view: View) -> list[str]:
    """Parallel sentences in the view's language, the same sentences for every language."""
    language = REGISTRY[view.dataset].config
    found, source = locate("multi30k", view.data), REGISTRY["multi30k"]
    if language not in source.inputs:
        raise DataError(f"multi30k has no parallel sentences in {language!r}; choose from {', '.join(source.inputs)}")
    if found.files is None and found.revision is None:
        return builtin.parallel_sentences(view.n_parallel, seed=0)[language]
    rows = _load_split(source, found, "train")
    order = np.random.default_rng(0).permutation(len(rows))[: view.n_parallel]
    return rows.select(order)[language][:]


def _load_split(source: Source, found: _Located, split: str) -> Any:
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetGenerationError

    disable_progress_bars()
    cache = str(home() / "datasets")
    if found.files:
        try:
            rows = load_dataset("parquet", data_files={split: found.files[split]}, split=split, cache_dir=cache)
        except (ValueError, OSError, DatasetGenerationError) as error:  # damaged, truncated or empty files
            raise _unusable(source, found.files[split][0], type(error).__name__) from error
        missing = {*source.inputs, source.label} - {"", *rows.column_names}
        if missing:
            raise _unusable(source, found.files[split][0], f"it has no column {', '.join(sorted(missing))}")
        if source.label and None in rows.unique(source.label):
            raise _unusable(source, found.files[split][0], f"its column {source.label} has empty cells")
        return rows
    hub_split = "validation" if source.hub == REGISTRY["imagenet"].hub and split == "test" else split
    return load_dataset(source.hub, source.config, split=hub_split, revision=found.revision, cache_dir=cache)


def _unusable(source: Source, file: str, why: str) -> DataError:
    return DataError(f"{file} cannot be used ({why}); put a Parquet file in the schema of {source.hub} there")


def _class_names(rows: Any, source: Source) -> dict[int, str]:
    feature = rows.features[source.label]
    if hasattr(feature, "names"):
        return dict(enumerate(feature.names))
    return {int(label): str(label) for label in rows.unique(source.label)}  # stars have no other name


def balanced_subset(labels: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Row ids of at most `n` samples, as evenly over the classes as they allow, in random order.

    Raises
    ------
    DataError
        If there is no sample.
    """
    if len(labels) == 0:
        raise DataError("the data set has no sample; check the Parquet files")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    rank = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return rng.permutation(order[np.argsort(rank, kind="stable")[:n]])


def _joined(parts: Sequence[str | None]) -> str:
    """Title and text as one; either may be absent."""
    return ". ".join(part.strip() for part in parts if part and part.strip())


def _trained_tokenizer(texts: list[str], view: View) -> Any:
    """A tokenizer of the kind that BERT or RoBERTa uses, trained on the training text."""
    from tokenizers import processors

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one order of counting, one vocabulary
    train = _wordpiece if view.tokenizer == "wordpiece" else _byte_bpe
    tokenizer, (start, end, pad) = train(texts, view.vocabulary)
    ends = [(start, tokenizer.token_to_id(start)), (end, tokenizer.token_to_id(end))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ends)
    tokenizer.enable_truncation(view.length)
    tokenizer.enable_padding(length=view.length, pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    return tokenizer


def _wordpiece(texts: list[str], size: int) -> tuple[Any, tuple[str, str, str]]:
    """BERT's tokenizer.

    The trainer numbers inner letters (``##a``) in the order of a randomly seeded hash map, which
    also breaks ties between merges; given as special tokens they have their numbers beforehand.
    The tokenizer that is returned knows them as ordinary tokens.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

    def fresh(**vocabulary: Any) -> Any:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", **vocabulary))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    learner = fresh()
    split = (learner.pre_tokenizer.pre_tokenize_str(learner.normalizer.normalize_str(text)) for text in texts)
    inner = sorted({letter for words in split for word, _ in words for letter in word[1:]})
    tokens = special + [f"##{letter}" for letter in inner]
    trainer = trainers.WordPieceTrainer(vocab_size=max(size, len(tokens)), special_tokens=tokens, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    tokenizer = fresh(vocab=learner.get_vocab())
    tokenizer.add_special_tokens(special)
    return tokenizer, ("[CLS]", "[SEP]", "[PAD]")


def _byte_bpe(texts: list[str], size: int) -> tuple[Any, tuple[str, str, str]]:
    """RoBERTa's tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer, ("<s>", "</s>", "<pad>")
