"""Data sets decoded to arrays: pictures to pixels, texts to token ids."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from invariances.errors import DataError
from invariances.zoo import builtin, frozen, own_data, store
from invariances.zoo.engines import Characters
from invariances.zoo.home import home
from invariances.zoo.locating import PICTURES_WORTH_A_BAR, Located, View, locate
from invariances.zoo.sources import (
    REGISTRY,
    Shards,
    Source,
    source_named,
)

__all__ = ["balanced_subset", "decode", "joined", "load_split"]


STREAMS = ("train", "test", "parallel")
"""Each draws its samples with a generator of its own."""


Decoded = tuple[dict[str, np.ndarray], dict[int, str], int]
"""Arrays by name, class names by label, size of the vocabulary."""


def decode(view: View, found: Located) -> store.Artefact:
    """The arrays of a view, and what is to be options of them."""
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


def _decode_images(view: View, found: Located) -> Decoded:
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
    source, arrays, names = source_named(view.dataset), {}, {}
    for split, n in (("train", view.n_train), ("test", view.n_test)):
        rows = load_split(source, found, split, n)
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
    shown = tqdm(pictures, f"decoding {view.dataset} ({split})", n, disable=None if n > PICTURES_WORTH_A_BAR else True)
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


def _decode_texts(view: View, found: Located) -> Decoded:
    source = source_named(view.dataset)
    texts, arrays, names = {}, {}, {}
    for split, n in (("train", view.n_train), ("test", view.n_test)):
        if found.files is None and found.revision is None:
            # the generator knows one number: seeds of different views and splits never meet
            texts[split], labels, names = _generated(view, n, 2 * view.seed + STREAMS.index(split))
        else:
            rows = load_split(source, found, split, n)
            labels = np.asarray(rows[source.label])
            wanted = np.flatnonzero(np.isin(labels, _coarse_of(source))) if view.coarse else np.arange(len(labels))
            kept = wanted[balanced_subset(labels[wanted], n, _stream(view, split))]
            columns = rows.select(kept).to_dict()
            texts[split] = [joined(parts) for parts in zip(*(columns[name] for name in source.inputs), strict=True)]
            labels, names = labels[kept], _class_names(rows, source)
        arrays[f"{split}_y"] = _taken_together(labels, source) if view.coarse else labels
        if view.coarse:
            names = {i: name for i, (name, _) in enumerate(source.coarse)}
    if view.n_parallel and REGISTRY[view.parallel].document:
        texts["parallel"], arrays["parallel_document"] = _documented(view)
    elif view.n_parallel:
        texts["parallel"] = _parallel(view)
    tokenizer = _tokenizer(texts["train"] + texts.get("parallel", []), view)
    for split, strings in texts.items():
        arrays[f"{split}_x"] = np.array([e.ids for e in tokenizer.encode_batch(strings)], dtype=np.int32)
    return arrays, names, tokenizer.get_vocab_size()


def _coarse_of(source: Source) -> list[int]:
    """The labels that are of a coarse class."""
    return [label for _, labels in source.coarse for label in labels]


def _taken_together(labels: np.ndarray, source: Source) -> np.ndarray:
    """The number of the coarse class of each label."""
    number = {label: i for i, (_, some) in enumerate(source.coarse) for label in some}
    return np.array([number[label] for label in labels.tolist()], dtype=np.int64)


def _generated(view: View, n: int, seed: int) -> tuple[list[str], np.ndarray, dict[int, str]]:
    source = source_named(view.dataset)
    if source.language and view.coarse:
        # stars come as they fall: of twice as many reviews, enough are of a coarse class
        texts, labels = builtin.reviews(2 * n, seed, source.language)
        labels = labels + 1  # stars
        kept = np.flatnonzero(np.isin(labels, _coarse_of(source)))[:n]
        return [texts[i] for i in kept], labels[kept], {}
    if source.language:
        texts, labels = builtin.reviews(n, seed, source.language)
        return texts, labels, {stars - 1: str(stars) for stars in range(1, 6)}
    texts, labels = builtin.questions(n, seed)
    return texts, labels, dict(enumerate(builtin.QUESTION_CLASSES))


def _parallel(view: View) -> list[str]:
    """Parallel sentences in the view's language, the same sentences for every language."""
    found, source, language = _parallel_source(view)
    if found.files is None and found.revision is None:
        return builtin.parallel_sentences(view.n_parallel, view.seed)[language]
    rows = load_split(source._replace(inputs=(language,)), found, "train", view.n_parallel)
    order = np.random.default_rng(_stream(view, "parallel")).permutation(len(rows))[: view.n_parallel]
    return [joined([sentence]) for sentence in rows.select(order)[language]]


def _documented(view: View) -> tuple[list[str], np.ndarray]:
    """Parallel sentences and the number of each one's document, in two halves that share no document.

    Each half is in random order, so that anchors from the first can be held against sentences of other documents.
    """
    found, source, language = _parallel_source(view)
    if found.files is None and found.revision is None:
        sentences = builtin.parallel_sentences(view.n_parallel, view.seed)[language]
        documents = np.arange(view.n_parallel) // builtin.SENTENCES_OF_A_DOCUMENT
    else:
        wanted = source._replace(inputs=(language, source.document))
        splits = [load_split(wanted, found, split, view.n_parallel).to_dict() for split in ("train", "test")]
        sentences = [joined([sentence]) for split in splits for sentence in split[language]]
        names = [name for split in splits for name in split[source.document]]
        if None in names:
            raise DataError(
                f"{view.parallel} has sentences of no document; look at its Parquet files with `invariances data "
                "--check`"
            )
        documents = np.unique(names, return_inverse=True)[1]
    rng = np.random.default_rng(_stream(view, "parallel"))
    place = rng.permutation(documents.max() + 1)
    order = np.argsort(place[documents], kind="stable")[: view.n_parallel]  # document after document
    last_of_the_first_half = place[documents[order[(len(order) - 1) // 2]]]
    first = place[documents[order]] <= last_of_the_first_half
    order = np.concatenate([rng.permutation(order[first]), rng.permutation(order[~first])])
    return [sentences[i] for i in order], documents[order].astype(np.int64)


def _parallel_source(view: View) -> tuple[Located, Source, str]:
    """Where the view's parallel sentences are, and the language that it reads."""
    found, source, language = locate(view.parallel, view.data), REGISTRY[view.parallel], REGISTRY[view.dataset].language
    if language is None or language not in source.inputs:
        raise DataError(
            f"{view.parallel} has no parallel sentences in {language!r}; choose from {', '.join(source.inputs)}"
        )
    return found, source, language


def load_split(source: Source, found: Located, split: str, n: int) -> Any:
    """A split's rows; from the hub, where its files are many, as many of these as `n` samples need."""
    if source.own:
        return own_data.load(source, split)
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    cache = str(home() / "datasets")
    wanted = [*source.inputs, *filter(None, [source.label])]
    if found.files:
        disable_progress_bars()
        file, options = found.files[split][0], {"path": "parquet", "data_files": {split: found.files[split]}}
        where = f"{file} cannot be used"
    else:
        options = {"path": source.hub, "revision": found.revision, **_part_of_hub(source, split, n)}
        where = f"{source.hub} at {found.revision} cannot be read from the hub"
    remedy = f"put Parquet files in the schema of {source.hub} under INVARIANCES_DATA"
    try:
        rows = load_dataset(**options, split=split, cache_dir=cache)
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


def joined(parts: Sequence[str | None]) -> str:
    """Title and text as one; either may be absent."""
    return ". ".join(part.strip() for part in parts if part and part.strip())


def _tokenizer(texts: list[str], view: View) -> Any:
    """A tokenizer of the kind that BERT or RoBERTa uses, trained on the training text, or a checkpoint's own."""
    from tokenizers import processors

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one order of counting, one vocabulary
    kinds = {"wordpiece": _wordpiece, "byte-bpe": _byte_bpe}
    if view.tokenizer == "characters":
        return Characters(view.length)
    if view.tokenizer not in kinds:
        return frozen.tokenizer(view.tokenizer, view.length)
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
