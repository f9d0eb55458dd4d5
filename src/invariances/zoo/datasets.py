"""The data sets: one registry, one loader, and the decoded arrays that training reads.

Every data set is read with `datasets` in the schema of its hub version: from the folder that
``INVARIANCES_DATA`` names, else from the hub, else not at all. An embedded stand-in serves only
an explicit request (``data="builtin"``, which the smoke profile makes) and is named as one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from invariances.errors import DataError
from invariances.zoo import builtin, pretrained, store
from invariances.zoo.home import data_folder, home
from invariances.zoo.registry import (
    REGISTRY,
    Shards,
    Source,
    hub_is_reachable,
    source_named,
)

ARRAYS_VERSION = 3
"""Counted up whenever the decoded arrays would change for the same source."""
STRICT = ConfigDict(extra="forbid")
STREAMS = ("train", "test", "parallel")
"""Each draws its samples with a generator of its own."""
MANY = 3000
"""From so many pictures on, decoding shows a progress bar."""


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
    tokenizer: str = ""
    """Of texts: "wordpiece" or "byte-bpe", learnt from the training text, or the name of a pretrained checkpoint."""
    vocabulary: NonNegativeInt = 0
    """Size of a vocabulary that is learnt."""
    length: NonNegativeInt = 0
    """Tokens per text; longer ones are cut, shorter ones padded."""
    n_parallel: NonNegativeInt = 0
    """Parallel sentences to encode beside the texts."""
    seed: NonNegativeInt = 0
    """Draws the samples, where there are more than are asked for."""


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
    files = parquet_files(source, folder) if folder else {}
    absent = [split for split, shards in files.items() if not shards]
    if files and not absent:
        where = "INVARIANCES_DATA" if data == "auto" else "the given folder"
        return _Located(name, where, _fingerprint(files), files, None)
    commit = hub_revision(source.hub, source.revision) if data == "auto" else None
    if commit:
        revision = source.revision if source.pinned else commit
        return _Located(name, f"hub {source.hub} at {revision[:12]}", revision, None, revision)
    split = absent[0] if absent else "train"
    wanted = "/".join(filter(None, (source.hub, source.config, f"{split}-00000-of-00001.parquet")))
    if folder:
        looked = f"there is no {wanted} under {'INVARIANCES_DATA' if data == 'auto' else folder}"
    else:
        looked = "INVARIANCES_DATA is not set"
    at = f" at revision {source.revision[:12]}" if source.pinned else ""
    hub = f", and the hub cannot be reached for {source.hub}{at}" if data == "auto" else ""
    raise DataError(
        f"the data set {name} is missing: {looked}{hub}; put {wanted} under a folder and set INVARIANCES_DATA to it, "
        "connect to a network, or ask for the embedded stand-ins with the parameter data=builtin"
    )


def parquet_files(source: Source, folder: Path) -> dict[str, list[str]]:
    """The Parquet files of a data set in a folder, by split; a split that is not there has none."""
    place = folder / source.hub / (source.config or "")
    return {split: [str(path) for path in sorted(place.glob(f"{split}-*.parquet"))] for split in ("train", "test")}


def _fingerprint(files: dict[str, list[str]]) -> str:
    """One digest for the contents of all files, whatever their place and age."""
    known = _known_digests()
    digests = {split: [_digest(Path(path), known) for path in shards] for split, shards in files.items()}
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path, known: dict[str, list]) -> str:
    """The sha256 of a file, remembered for as long as its size and its time of change stay the same."""
    state = path.stat()
    stamp = [state.st_size, state.st_mtime_ns]
    match known.get(str(path)):
        case [*before, str(digest)] if before == stamp:
            return digest
    digest = file_sha256(path)
    if time.time() - state.st_mtime > 2:  # a file this young may change again within one tick of its clock
        known[str(path)] = [*stamp, digest]
        _remember_digests(known)
    return digest


def _digest_list() -> Path:
    return home() / "checksums.json"


def _known_digests() -> dict[str, list]:
    try:
        known = json.loads(_digest_list().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # what cannot be read is computed anew
    return known if isinstance(known, dict) else {}


def _remember_digests(known: dict[str, list]) -> None:
    """Best effort: a list that cannot be written, or that another process replaces, costs only time."""
    with suppress(OSError):
        home().mkdir(parents=True, exist_ok=True)
        write_json(_digest_list(), known)


def write_json(place: Path, content: Any) -> None:
    """Write a file that is there as a whole or not at all, whoever else writes it.

    Raises
    ------
    OSError
        If it cannot be written; what was there before is still there.
    """
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


@functools.cache
def hub_revision(hub: str, revision: str | None) -> str | None:
    """The commit of a hub data set that is read, or None where it cannot be had within 3 s.

    A pinned commit is never exchanged for a newer one; the name of a branch is resolved.
    """
    if not hub_is_reachable():
        return None
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(hub, revision=revision, timeout=3).sha
    except Exception:  # unreachable, gated and withdrawn data sets all mean: not to be had here
        return None


def status(data: str = "auto") -> pd.DataFrame:
    """What can be reached, from where, and how many samples; a missing data set is a row too."""
    return pd.DataFrame([_status_row(name, data) for name in REGISTRY])


def _status_row(name: str, data: str) -> dict[str, Any]:
    source = REGISTRY[name]
    row = {
        "data set": name,
        "hub id": "/".join(filter(None, (source.hub, source.config))),
        "revision": source.revision[:7] if source.pinned else source.revision or "main",
    }
    sizes = {"from": "missing", "train": "-", "test": "-"}
    with suppress(DataError):
        sizes = _sizes(locate(name, data))
    return {**row, **sizes, "classes": str(source.classes.count) if source.classes else "-", "licence": source.licence}


def _sizes(found: _Located) -> dict[str, str]:
    """Where it is from, and the rows of each split."""
    import pyarrow
    import pyarrow.parquet as parquet

    if not found.files:
        return {"from": found.source, "train": "?", "test": "?"}
    try:
        rows = {s: sum(parquet.read_metadata(p).num_rows for p in shards) for s, shards in found.files.items()}
    except (pyarrow.ArrowInvalid, OSError):
        return {"from": f"{found.source}, unreadable", "train": "-", "test": "-"}
    return {"from": found.source, **{split: f"{n:,}" for split, n in rows.items()}}


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
    if view.tokenizer and view.length < 3:
        raise DataError(
            f"the view of {view.dataset} has no room for a token between its two end marks; use length >= 3"
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
    nameless = [str(label) for label in seen if int(label) not in names]
    if nameless:
        raise DataError(
            f"{view.dataset} holds labels that have no name ({', '.join(nameless[:5])}); "
            "look at its Parquet files with `invariances data --check`"
        )
    return store.Artefact(arrays, {"classes": [names[int(label)] for label in seen], "vocabulary": vocabulary, **sizes})


def _decode_images(view: View, found: _Located) -> Decoded:
    if found.files is None and found.revision is None:
        images, labels = builtin.digits()
        n_test = len(labels) // 4
        splits = {"train": (images[n_test:], labels[n_test:]), "test": (images[:n_test], labels[:n_test])}
        arrays = {}
        for split, n in (("train", view.n_train), ("test", view.n_test)):
            x, y = splits[split]
            kept = balanced_subset(y, n, _stream(view, split))
            arrays |= {f"{split}_x": _fit_pixels(x[kept], view), f"{split}_y": y[kept]}
        return arrays, {digit: str(digit) for digit in range(10)}, 0
    source, arrays, names = REGISTRY[view.dataset], {}, {}
    for split, n in (("train", view.n_train), ("test", view.n_test)):
        rows = _load_split(source, found, split, n)
        labels = np.asarray(rows[source.label])
        kept = balanced_subset(labels, n, _stream(view, split))
        try:
            arrays[f"{split}_x"] = _pictures(rows.select(kept)[source.inputs[0]], len(kept), view, split)
        except (OSError, ValueError, AttributeError) as error:  # PIL's, and None for an empty cell
            raise DataError(
                f"the {split} split of {view.dataset} holds a picture that cannot be decoded; "
                "look at its Parquet files with `invariances data --check`"
            ) from error
        arrays[f"{split}_y"] = labels[kept]
        names = _class_names(rows, source)
    return arrays, names, 0


def _pictures(pictures: Iterable[Any], n: int, view: View, split: str) -> np.ndarray:
    """Decode `n` pictures one by one into one array, of shape (n, channels, pixels, pixels)."""
    shown = tqdm(pictures, f"decoding {view.dataset} ({split})", n, disable=None if n > MANY else True)
    decoded = np.empty((n, view.channels, view.pixels, view.pixels), np.uint8)
    for i, picture in enumerate(shown):
        decoded[i] = _picture(picture, view)
    return decoded


def _stream(view: View, split: str) -> list[int]:
    """The seed of a split's own generator."""
    return [view.seed, STREAMS.index(split)]


def _picture(picture: Any, view: View) -> np.ndarray:
    """One decoded picture as (channels, pixels, pixels); whatever its mode, it becomes grey or colour."""
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
    for split, n in (("train", view.n_train), ("test", view.n_test)):
        if found.files is None and found.revision is None:
            # the generator knows one number: seeds of different views and splits never meet
            texts[split], labels, names = _generated(view.dataset, n, 2 * view.seed + STREAMS.index(split))
        else:
            rows = _load_split(source, found, split, n)
            labels = np.asarray(rows[source.label])
            kept = balanced_subset(labels, n, _stream(view, split))
            columns = rows.select(kept).to_dict()
            texts[split] = [_joined(parts) for parts in zip(*(columns[name] for name in source.inputs), strict=True)]
            labels, names = labels[kept], _class_names(rows, source)
        arrays[f"{split}_y"] = labels
    if view.n_parallel:
        texts["parallel"] = _parallel(view)
    tokenizer = _tokenizer(texts["train"] + texts.get("parallel", []), view)
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
        return builtin.parallel_sentences(view.n_parallel, view.seed)[language]
    rows = _load_split(source._replace(inputs=(language,)), found, "train", view.n_parallel)
    order = np.random.default_rng(_stream(view, "parallel")).permutation(len(rows))[: view.n_parallel]
    return [_joined([sentence]) for sentence in rows.select(order)[language]]


def _load_split(source: Source, found: _Located, split: str, n: int) -> Any:
    """A split's rows; from the hub, where its files are many, as many of these as `n` samples need."""
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    cache = str(home() / "datasets")
    wanted = [*source.inputs, *filter(None, [source.label])]
    if found.files:
        disable_progress_bars()
        file, said = found.files[split][0], {"path": "parquet", "data_files": {split: found.files[split]}}
        where = f"{file} cannot be used"
    else:
        said = {"path": source.hub, "revision": found.revision, **_part_of_hub(source, split, n)}
        where = f"{source.hub} at {found.revision} cannot be read from the hub"
    remedy = f"put Parquet files in the schema of {source.hub} under INVARIANCES_DATA"
    try:
        rows = load_dataset(**said, split=split, cache_dir=cache)
    except (ValueError, OSError, DatasetsError) as error:  # damaged, truncated or empty files; no access, no network
        raise DataError(f"{where} ({type(error).__name__}); {remedy}") from error
    missing = set(wanted) - set(rows.column_names)
    if missing:
        raise DataError(f"{where} (it has no column {', '.join(sorted(missing))}); {remedy}")
    rows = rows.select_columns(wanted)
    if source.label:
        labels = rows.unique(source.label)
        if None in labels:
            raise DataError(f"{where} (its column {source.label} has empty cells); {remedy}")
        if not all(isinstance(label, int) for label in labels):
            raise DataError(f"{where} (its column {source.label} is not of integers); {remedy}")
    return rows


def _part_of_hub(source: Source, split: str, n: int) -> dict[str, Any]:
    """What `load_dataset` is asked for beside the revision: everything, one folder, or the first shards."""
    if source.shards:
        shards = source.shards[split]
        files = [shards.pattern.format(i) for i in range(_shards_needed(shards, source.classes.count, n))]
        # the hub's card states the sizes of the whole, which a part cannot match
        return {"data_files": {split: files}, "verification_mode": "no_checks"}
    return {"data_dir": source.hub_folder} if source.hub_folder else {}


def _shards_needed(shards: Shards, classes: int, n: int) -> int:
    """How many files hold `n` shuffled samples evenly over the classes, rare classes included.

    With m samples of each class on average the rarest of a thousand has about m - 3.5 sqrt(m), as
    the count of one class is nearly Poisson distributed; that is to be the class's share of `n`.
    """
    share = math.ceil(n / classes)
    m = ((3.5 + math.sqrt(3.5**2 + 4 * share)) / 2) ** 2
    return min(shards.files, math.ceil(m * classes / (shards.rows / shards.files)))


def _class_names(rows: Any, source: Source) -> dict[int, str]:
    feature = rows.features[source.label]
    if hasattr(feature, "names"):
        return dict(enumerate(feature.names))
    return {int(label): str(label) for label in rows.unique(source.label)}  # stars have no other name


def balanced_subset(labels: np.ndarray, n: int, seed: int | Sequence[int] = 0) -> np.ndarray:
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


def _tokenizer(texts: list[str], view: View) -> Any:
    """A tokenizer of the kind that BERT or RoBERTa uses, trained on the training text, or a checkpoint's own."""
    from tokenizers import processors

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one order of counting, one vocabulary
    kinds = {"wordpiece": _wordpiece, "byte-bpe": _byte_bpe}
    if view.tokenizer not in kinds:
        return pretrained.tokenizer(view.tokenizer, view.length)
    tokenizer, (start, end, pad) = kinds[view.tokenizer](texts, view.vocabulary)
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
