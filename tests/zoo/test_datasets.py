import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets as hf
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from invariances.errors import DataError, PretrainedError
from invariances.zoo import builtin, datasets, decoding, locating, store
from invariances.zoo.engines import texts_of
from invariances.zoo.locating import View

REAL = Path(__file__).parents[2].parent / "shared" / "data"
PAD, CLS, SEP = {"wordpiece": 0, "byte-bpe": 1}, {"wordpiece": 2, "byte-bpe": 0}, {"wordpiece": 3, "byte-bpe": 2}
STARS = ("1", "2", "3", "4", "5")
DIGITS = tuple("0123456789")
# data set -> channels to ask for (0 for text), number of classes, some class names by label; from the publishers' lists
PUBLISHED = {
    "mnist": (1, 10, dict(enumerate(DIGITS))),
    "fashion-mnist": (1, 10, {1: "Trouser", 8: "Bag", 9: "Ankle boot"}),
    "cifar-10": (3, 10, {0: "airplane", 3: "cat", 9: "truck"}),
    "cifar-100": (3, 100, {0: "apple", 52: "oak_tree", 99: "worm"}),
    "imagenet": (3, 10, {0: "tench, Tinca tinca", 8: "golf ball", 9: "parachute, chute"}),
    "trec": (0, 6, {0: "ABBR", 3: "HUM", 5: "NUM"}),
    "dbpedia": (0, 14, {0: "Company", 5: "MeanOfTransportation", 13: "WrittenWork"}),
    **{f"amazon-{language}": (0, 5, dict(enumerate(STARS))) for language in ("en", "de", "fr", "es", "ja", "zh")},
}


@pytest.fixture(scope="session")
def real_data():
    if not REAL.is_dir():
        pytest.skip("the real samples (shared/data beside the repository) are not on this machine")
    return REAL


@pytest.fixture
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def image_view(dataset, data, n_train=20, n_test=10, pixels=8, channels=1, **more):
    return View(dataset, str(data), n_train, n_test, pixels=pixels, channels=channels, **more)


def text_view(dataset, data, n_train=20, n_test=10, tokenizer="byte-bpe", vocabulary=400, length=16, **more):
    return View(dataset, str(data), n_train, n_test, tokenizer=tokenizer, vocabulary=vocabulary, length=length, **more)


def arrays_of(view):
    return datasets.load(datasets.prepare(view).key).arrays


def write_parquet(folder, hub, features=None, **splits):
    place = folder / hub
    place.mkdir(parents=True, exist_ok=True)
    for split, columns in splits.items():
        hf.Dataset.from_dict(columns, features).to_parquet(place / f"{split}-00000-of-00001.parquet")
    return folder


def write_questions(folder, train, test, labels=None):
    features = hf.Features({"text": hf.Value("string"), "coarse_label": hf.ClassLabel(names=["A", "B"])})
    splits = {
        split: {"text": texts, "coarse_label": labels or [i % 2 for i in range(len(texts))]}
        for split, texts in (("train", train), ("test", test))
    }
    return write_parquet(folder, "CogComp/trec", features, **splits)


def write_reviews(folder, language, titles, bodies, stars):
    columns = {"review_title": titles, "review_body": bodies, "stars": stars}
    features = hf.Features(
        {"review_title": hf.Value("string"), "review_body": hf.Value("string"), "stars": hf.Value("int32")}
    )
    hub = f"defunct-datasets/amazon_reviews_multi/{language}"
    return write_parquet(folder, hub, features, train=columns, test=columns)


def raw_pictures(path, column, label):
    rows = parquet.read_table(path).to_pydict()
    for picture, number in zip(rows[column], rows[label], strict=True):
        yield PIL.Image.open(io.BytesIO(picture["bytes"])), number


# The real samples ------------------------------------------------------------------------------


def test_the_table_of_published_facts_covers_the_registry():
    parallel = {name for name, source in datasets.REGISTRY.items() if source.kind == "parallel"}
    assert parallel == {"multi30k", "ntrex"}
    assert set(PUBLISHED) == set(datasets.REGISTRY) - parallel


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_data_set_loads_balanced_with_its_published_classes(real_data, name):
    channels, n_classes, some_names = PUBLISHED[name]
    n_train, n_test = 2 * n_classes, n_classes
    if channels:
        prepared = datasets.prepare(image_view(name, real_data, n_train, n_test, 16, channels))
        shape, dtype = (channels, 16, 16), np.uint8
    else:
        prepared = datasets.prepare(text_view(name, real_data, n_train, n_test, "wordpiece", 300, 12))
        shape, dtype = (12,), np.int32
    arrays = datasets.load(prepared.key).arrays

    title = {"imagenet": "imagenet, 10 classes (Imagenette)"}.get(name, name)
    assert (prepared.title, prepared.source) == (title, "the given folder")
    assert (prepared.n_train, prepared.n_test, prepared.n_parallel) == (n_train, n_test, 0)
    assert len(prepared.classes) == n_classes
    assert {label: prepared.classes[label] for label in some_names} == some_names
    for split, per_class in (("train", 2), ("test", 1)):
        x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
        assert x.shape == (per_class * n_classes, *shape)
        assert x.dtype == dtype
        assert y.dtype == np.int64
        np.testing.assert_array_equal(np.bincount(y), np.full(n_classes, per_class))
        assert len(np.unique(x, axis=0)) > 1
    assert (prepared.vocabulary == 0) == bool(channels)


def test_fewer_rows_than_asked_are_used_and_named(real_data):
    prepared = datasets.prepare(text_view("trec", real_data, 1_000_000, 1_000_000))
    arrays = datasets.load(prepared.key).arrays
    assert (prepared.n_train, prepared.n_test) == (4952, 500)
    assert (len(arrays["train_x"]), len(arrays["test_x"])) == (4952, 500)


def test_mnist_is_the_published_pixels_within_a_border_of_two(real_data):
    arrays = arrays_of(image_view("mnist", real_data, 10, 200, 32))
    path = real_data / "ylecun/mnist/test-00000-of-00001.parquet"
    published = {np.asarray(picture).tobytes(): label for picture, label in raw_pictures(path, "image", "label")}
    border = np.ones((32, 32), bool)
    border[2:30, 2:30] = False
    for picture, label in zip(arrays["test_x"], arrays["test_y"], strict=True):
        assert published[picture[0, 2:30, 2:30].tobytes()] == label
        assert not picture[0, border].any()


def test_imagenet_is_shrunk_by_the_mean_of_blocks_and_greyscale_has_three_equal_channels(real_data):
    arrays = arrays_of(image_view("imagenet", real_data, 10, 600, 32, 3))
    grey, expected = 0, {}
    path = real_data / "ILSVRC/imagenet-1k/test-00000-of-00001.parquet"
    for picture, label in raw_pictures(path, "image", "label"):
        grey += picture.mode == "L"
        pixels = np.asarray(picture, float).reshape(32, 3, 32, 3, -1).mean(axis=(1, 3))
        pixels = np.broadcast_to(np.rint(pixels).astype(np.uint8), (32, 32, 3)).transpose(2, 0, 1)
        expected[pixels.tobytes()] = label
    labels = sorted(set(expected.values()))
    found = {x.tobytes(): labels[y] for x, y in zip(arrays["test_x"], arrays["test_y"], strict=True)}
    assert found == expected
    assert grey > 0
    assert sum(bool((x[0] == x[1]).all() and (x[1] == x[2]).all()) for x in arrays["test_x"]) >= grey


def test_reviews_without_any_title_load(real_data):
    path = real_data / "defunct-datasets/amazon_reviews_multi/de/train-00000-of-00001.parquet"
    table = parquet.read_table(path)
    assert table["review_title"].null_count == table.num_rows
    x = arrays_of(text_view("amazon-de", real_data, 50, 10))["train_x"]
    assert (x != PAD["byte-bpe"]).sum(axis=1).min() > 2  # more than start and end: the body is there


@pytest.mark.parametrize(("first", "second"), [("en", "de"), ("de", "fr"), ("en", "fr")])
def test_real_parallel_sentences_are_rows_of_one_translation(real_data, first, second):
    table = parquet.read_table(real_data / "bentrevett/multi30k/train-00000-of-00001.parquet").to_pydict()
    pairs = set(zip(table[first], table[second], strict=True))
    texts = {
        language: decoding._parallel(text_view(f"amazon-{language}", real_data, n_parallel=300))
        for language in (first, second)
    }
    assert len(texts[first]) == len(texts[second]) == 300
    assert set(zip(*texts.values(), strict=True)) <= pairs
    assert len(set(texts[first])) > 290


@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "ja", "zh"])
def test_real_sentences_of_documents_are_rows_of_one_translation_in_two_halves(real_data, language):
    folder = real_data / "MicrosoftTranslator/ntrex-128"
    tables = [parquet.read_table(folder / f"{split}-00000-of-00001.parquet") for split in ("train", "test")]
    table = pyarrow.concat_tables(tables).to_pydict()
    view = text_view(f"amazon-{language}", real_data, tokenizer="characters", length=800, n_parallel=5000)
    view = replace(view, parallel="ntrex")
    arrays = arrays_of(view)
    x, documents = arrays["parallel_x"], arrays["parallel_document"]
    assert len(x) == len(documents) == 1997
    read = texts_of(torch.from_numpy(x))
    assert sorted(read) == sorted(text.strip() for text in table[language])
    of = {}
    for name, text in zip(table["document"], table[language], strict=True):
        of.setdefault(text.strip(), set()).add(name)
    names = {}
    for number, text in zip(documents, read, strict=True):
        names.setdefault(number, []).append(of[text])
    assert all(set.intersection(*some) for some in names.values())  # sentences of a number share a document
    assert len(names) == len(set(table["document"]))
    cut = next(i for i in range(990, 1100) if not set(documents[:i]) & set(documents[i:]))
    assert len(set(documents[:20])) > 10  # not document after document
    if language != "en":
        english = arrays_of(replace(view, dataset="amazon-en"))
        np.testing.assert_array_equal(english["parallel_document"], documents)
        pairs = set(
            zip((text.strip() for text in table["en"]), (text.strip() for text in table[language]), strict=True)
        )
        assert set(zip(texts_of(torch.from_numpy(english["parallel_x"])), read, strict=True)) == pairs
    assert cut >= 998


# A folder of one's own -------------------------------------------------------------------------


@pytest.fixture
def tiny_pictures(tmp_path):
    """Nine flat grey pictures, as bright as ten times their label, in three modes."""
    modes = ("L", "RGB", "L")
    pictures = [PIL.Image.new("L", (8, 8), 10 * label).convert(modes[label % 3]) for label in range(9)]
    features = hf.Features({"img": hf.Image(), "label": hf.ClassLabel(names=[f"name {i}" for i in range(9)])})
    columns = {"img": pictures, "label": list(range(9))}
    return write_parquet(tmp_path / "own", "uoft-cs/cifar10", features, train=columns, test=columns)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_keep_their_labels_and_come_in_the_channels_asked_for(tiny_pictures, channels):
    prepared = datasets.prepare(image_view("cifar-10", tiny_pictures, channels=channels))
    arrays = datasets.load(prepared.key).arrays
    assert prepared.classes == tuple(f"name {i}" for i in range(9))
    assert (prepared.n_train, prepared.n_test) == (9, 9)
    for split in ("train", "test"):
        expected = np.broadcast_to(10 * arrays[f"{split}_y"][:, None, None, None], (9, channels, 8, 8))
        np.testing.assert_array_equal(arrays[f"{split}_x"], expected)


def test_pictures_that_are_not_square_fill_the_square(tmp_path):
    pixels = np.repeat(np.arange(4, dtype=np.uint8) * 10, 8).reshape(4, 8)  # 4 high, 8 wide; constant along rows
    features = hf.Features({"img": hf.Image(), "label": hf.ClassLabel(names=["only"])})
    columns = {"img": [PIL.Image.fromarray(pixels)], "label": [0]}
    folder = write_parquet(tmp_path, "uoft-cs/cifar10", features, train=columns, test=columns)
    x = arrays_of(image_view("cifar-10", folder, pixels=4))["test_x"]
    np.testing.assert_array_equal(x[0, 0], pixels[:, :4])


COLOURS = {  # what one flat picture of each mode is in red, green and blue
    "1": (1, (255, 255, 255)),
    "L": (77, (77, 77, 77)),
    "LA": ((77, 128), (77, 77, 77)),
    "P": (3, (30, 60, 90)),
    "RGB": ((200, 10, 50), (200, 10, 50)),
    "RGBA": ((200, 10, 50, 128), (200, 10, 50)),
    "CMYK": ((255, 0, 102, 0), (0, 255, 153)),
}


def write_pictures(folder, pictures, labels=None, names=("A", "B")):
    features = hf.Features({"img": hf.Image(), "label": hf.ClassLabel(names=list(names))})
    columns = {"img": pictures, "label": labels or [0] * len(pictures)}
    return write_parquet(folder, "uoft-cs/cifar10", features, train=columns, test=columns)


@pytest.mark.parametrize("mode", COLOURS)
def test_a_picture_of_any_mode_becomes_colour_and_grey(mode, tmp_path):
    colour, rgb = COLOURS[mode]
    picture = PIL.Image.new(mode, (6, 6), colour)
    if mode == "P":
        picture.putpalette([0, 0, 0, 0, 0, 0, 0, 0, 0, 30, 60, 90])
    content = io.BytesIO()
    picture.save(content, "TIFF")  # keeps every mode
    folder = write_pictures(tmp_path, [{"bytes": content.getvalue(), "path": None}])
    x = arrays_of(image_view("cifar-10", folder, channels=3))["train_x"]
    np.testing.assert_array_equal(x[0, :, 1:7, 1:7], np.broadcast_to(np.reshape(rgb, (3, 1, 1)), (3, 6, 6)))
    assert x.sum(dtype=int) == 36 * sum(rgb)
    grey = arrays_of(image_view("cifar-10", folder))["train_x"]
    assert grey.shape == (1, 1, 8, 8)
    assert abs(int(grey[0, 0, 4, 4]) - np.dot(rgb, (0.299, 0.587, 0.114))) < 1.5  # luma of BT.601


@pytest.mark.parametrize("size", [(8, 4), (4, 8), (2, 1), (31, 7), (1, 1)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_any_shape_fills_the_square(size, channels, tmp_path):
    folder = write_pictures(tmp_path, [PIL.Image.new("RGB", size, (50, 50, 50)), PIL.Image.new("L", (8, 8), 90)])
    x = arrays_of(image_view("cifar-10", folder, channels=channels))["train_x"]
    assert x.shape == (2, channels, 8, 8)
    assert sorted(x[:, 0].max(axis=(1, 2))) == [50, 90]
    if size[0] != size[1]:
        assert set(np.unique(x)) == {50, 90}  # no border


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n half"], ids=["empty", "text", "damaged"])
def test_a_picture_that_cannot_be_decoded_ends_in_one_sentence(content, tmp_path):
    pictures = [PIL.Image.new("L", (4, 4)), {"bytes": content, "path": None}]
    message = message_of(image_view("cifar-10", write_pictures(tmp_path, pictures)))
    assert "train split of cifar-10 holds a picture that cannot be decoded" in message
    assert "--check" in message


def test_an_empty_cell_among_the_pictures_ends_in_one_sentence(tmp_path):
    folder = write_pictures(tmp_path, [PIL.Image.new("L", (4, 4)), None])
    assert "cannot be decoded" in message_of(image_view("cifar-10", folder))


def test_a_truncated_picture_ends_in_one_sentence(tmp_path):
    content = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(0).integers(255, size=(40, 40), dtype=np.uint8)).save(content, "PNG")
    folder = write_pictures(tmp_path, [{"bytes": content.getvalue()[:700], "path": None}])
    assert "cannot be decoded" in message_of(image_view("cifar-10", folder))


@pytest.mark.parametrize("label", [-1, 2, 7])
def test_a_label_without_a_name_is_a_data_error(label, tmp_path):
    place = tmp_path / "uoft-cs/cifar10"
    place.mkdir(parents=True)
    features = hf.Features({"img": hf.Image(), "label": hf.ClassLabel(names=["A", "B"])})
    good = hf.Dataset.from_dict({"img": [PIL.Image.new("L", (4, 4))] * 2, "label": [0, 1]}, features)
    table = good.data.table
    labels = pyarrow.array([0, label], pyarrow.int64())
    parquet.write_table(table.set_column(1, table.schema.field(1), labels), place / "train-00000-of-00001.parquet")
    good.to_parquet(place / "test-00000-of-00001.parquet")
    message = message_of(image_view("cifar-10", tmp_path))
    assert "labels that have no name" in message
    assert str(label) in message


def test_long_decoding_shows_a_bar_on_a_terminal_only(tmp_path, monkeypatch):
    shown, bar = [], decoding.tqdm
    monkeypatch.setattr(decoding, "tqdm", lambda *given, **more: shown.append(more["disable"]) or bar(*given, **more))
    monkeypatch.setattr(decoding, "PICTURES_WORTH_A_BAR", 5)
    folder = write_pictures(tmp_path, [PIL.Image.new("L", (4, 4), i) for i in range(10)])
    datasets.prepare(image_view("cifar-10", folder, n_train=6, n_test=5))
    assert shown == [None, True]  # None lets tqdm ask whether there is a terminal


def test_pictures_are_decoded_once_for_all_processes(tiny_pictures, monkeypatch, fresh_home):
    decoded, decode = [], decoding._picture
    monkeypatch.setattr(decoding, "_picture", lambda *given: decoded.append(given) or decode(*given))
    view = image_view("cifar-10", tiny_pictures)
    first = datasets.prepare(view)
    assert len(decoded) == 18
    assert datasets.prepare(view) == first
    assert len(decoded) == 18
    code = (
        "from invariances.zoo import datasets, decoding, locating; decoding.load_split = decoding._picture = None; "
        f"print(datasets.prepare(locating.View('cifar-10', {str(tiny_pictures)!r}, 20, 10, pixels=8, channels=1)).key)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == first.key


def test_a_relative_folder_counts_from_the_folder_of_the_start(tiny_pictures, monkeypatch):
    monkeypatch.chdir(tiny_pictures.parent)
    given, named = (datasets.prepare(image_view("cifar-10", data)) for data in (tiny_pictures, tiny_pictures.name))
    assert given == named


def test_the_environment_names_the_folder(tiny_pictures, monkeypatch):
    monkeypatch.setenv("INVARIANCES_DATA", str(tiny_pictures))
    prepared = datasets.prepare(image_view("cifar-10", "auto"))
    assert (prepared.title, prepared.source) == ("cifar-10, 9 classes", "INVARIANCES_DATA")  # one of ten is missing
    assert prepared.key == datasets.prepare(image_view("cifar-10", tiny_pictures)).key


def test_a_data_set_is_decoded_once_and_again_when_the_files_change(tmp_path, monkeypatch):
    view = text_view("trec", write_questions(tmp_path, ["one", "two"], ["three", "four"]))
    first = datasets.prepare(view)
    decoded, decode = [], decoding.decode
    monkeypatch.setattr(datasets, "decode", lambda *given: decoded.append(given) or decode(*given))
    assert datasets.prepare(view) == first
    assert not decoded
    write_questions(tmp_path, ["one", "two"], ["three", "five"])
    second = datasets.prepare(view)
    assert second.key != first.key
    assert len(decoded) == 1
    before, after = (set(map(tuple, datasets.load(key).arrays["test_x"].tolist())) for key in (first.key, second.key))
    assert len(before & after) == 1  # "three"


def test_arrays_that_are_gone_are_a_data_error():
    with pytest.raises(DataError, match="missing or damaged"):
        datasets.load("0" * 20)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("Great", "Works well."), "Great. Works well."),
        ((None, "Works well."), "Works well."),
        (("  ", " Works well. "), "Works well."),
        (("Great", None), "Great"),
        ((None, ""), ""),
    ],
)
def test_title_and_text_are_joined_and_either_may_be_missing(parts, text):
    assert decoding.joined(parts) == text


def test_a_title_reads_as_if_it_stood_in_the_body(tmp_path):
    bodies, stars = ["works well", "broke down"], [5, 1]
    apart = write_reviews(tmp_path / "apart", "en", ["great", None], bodies, stars)
    joined = write_reviews(tmp_path / "joined", "en", [None, ""], ["great. works well", "broke down"], stars)
    first, second = (arrays_of(text_view("amazon-en", folder)) for folder in (apart, joined))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_stars_become_labels_from_0_named_by_the_stars(tmp_path):
    stars = [4, 1, 5, 2, 3, 2]
    folder = write_reviews(tmp_path, "en", [None] * 6, ["x" * s for s in stars], stars)
    prepared = datasets.prepare(text_view("amazon-en", folder, vocabulary=261))  # bytes only: one token per letter
    arrays = datasets.load(prepared.key).arrays
    assert prepared.classes == STARS
    tokens = (arrays["train_x"] != PAD["byte-bpe"]).sum(axis=1)
    assert sorted(arrays["train_y"]) == sorted(s - 1 for s in stars)
    np.testing.assert_array_equal(tokens - tokens.min(), arrays["train_y"])


def test_stars_that_do_not_occur_leave_no_gap(tmp_path):
    folder = write_reviews(tmp_path, "en", [None] * 3, ["a", "b", "c"], [5, 2, 5])
    prepared = datasets.prepare(text_view("amazon-en", folder))
    assert prepared.classes == ("2", "5")
    assert sorted(datasets.load(prepared.key).arrays["train_y"]) == [0, 1, 1]


# The hub ---------------------------------------------------------------------------------------

NEWEST = "f" * 40
AMAZON = {"path": "defunct-datasets/amazon_reviews_multi", "revision": NEWEST}
# what is asked of the hub's newest state: a commit where one is pinned, and only the folder that is meant
ASKED = {
    "mnist": {"path": "ylecun/mnist", "revision": "77f3279092a1c1579b2250db8eafed0ad422088c"},
    "fashion-mnist": {
        "path": "zalando-datasets/fashion_mnist",
        "revision": "531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
    },
    "cifar-10": {"path": "uoft-cs/cifar10", "revision": "0b2714987fa478483af9968de7c934580d0bb9a2"},
    "cifar-100": {"path": "uoft-cs/cifar100", "revision": "aadb3af77e9048adbea6b47c21a81e47dd092ae5"},
    "imagenet": {"path": "ILSVRC/imagenet-1k", "revision": "49e2ee26f3810fb5a7536bbf732a7b07389a47b5"},
    "trec": {
        "path": "CogComp/trec",
        "revision": "65752bf53af25bc935a0dce92fb5b6c930728450",
        "data_dir": "default",
    },
    "dbpedia": {"path": "fancyzhx/dbpedia_14", "revision": "9abd46cf7fc8b4c64290f26993c540b92aa145ac"},
    **{f"amazon-{tongue}": {**AMAZON, "data_dir": tongue} for tongue in ("en", "de", "fr", "es", "ja", "zh")},
}


@pytest.fixture
def fake_hub(monkeypatch, fresh_home):
    """A hub that is always at `NEWEST` and gives three rows of anything; lists what it is asked for."""
    asked = SimpleNamespace(revisions=[], loads=[])

    def dataset_info(api, hub, revision=None, timeout=None):
        assert timeout == 3
        asked.revisions.append((hub, revision))
        return SimpleNamespace(sha=NEWEST)

    def load_dataset(path, **given):
        asked.loads.append({"path": path, **given})
        source = next(source for source in datasets.REGISTRY.values() if source.hub == path)
        anything = {"image": PIL.Image.new("L", (4, 4)), "class": 0, "int32": 1, "string": "word"}
        columns = {name: [anything[kind]] * 3 for name, kind in source.columns.items() if name != "fr"}
        return hf.Dataset.from_dict(columns)

    def forget():
        locating.hub_revision.cache_clear()
        locating.hub_is_reachable.cache_clear()

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    monkeypatch.setattr(hf, "load_dataset", load_dataset)
    forget()
    yield asked
    forget()


@pytest.mark.parametrize("name", ASKED)
def test_the_hub_is_asked_for_the_pinned_revision_and_both_splits(name, fake_hub, fresh_home):
    channels = PUBLISHED[name][0]
    view = image_view(name, "auto", channels=channels) if channels else text_view(name, "auto")
    prepared = datasets.prepare(view)
    assert prepared.source == f"hub {ASKED[name]['path']} at {ASKED[name]['revision'][:12]}"
    assert (prepared.n_train, prepared.n_test) == (3, 3)
    for split, said in zip(("train", "test"), fake_hub.loads, strict=True):
        assert said.pop("split") == split
        assert said.pop("cache_dir") == str(fresh_home / "datasets")
        if name == "imagenet":
            official = {
                "train": "data/train-0000{}-of-00294.parquet",
                "test": "data/validation-0000{}-of-00014.parquet",
            }
            files = said.pop("data_files")
            assert files == {split: [official[split].format(i) for i in range(len(files[split]))]}
            assert 0 < len(files[split]) < 10
            assert said.pop("verification_mode") == "no_checks"
        assert said == ASKED[name]


def test_parallel_sentences_come_from_the_commit_that_the_hub_is_at(fake_hub):
    prepared = datasets.prepare(text_view("amazon-de", "auto", n_parallel=2))
    assert prepared.n_parallel == 2
    said = fake_hub.loads[-1]
    assert (said["path"], said["revision"], said["split"]) == ("bentrevett/multi30k", NEWEST, "train")


def test_the_hubs_version_of_multi30k_has_no_french(fake_hub):
    assert "has no column fr" in message_of(text_view("amazon-fr", "auto", n_parallel=2))


def test_only_branches_are_resolved_and_the_hub_is_probed_once(fake_hub):
    for _ in range(2):
        assert locating.locate("cifar-10").fingerprint == ASKED["cifar-10"]["revision"]
        assert locating.locate("amazon-ja").fingerprint == NEWEST
        assert locating.locate("multi30k").fingerprint == NEWEST
    assert fake_hub.revisions == [
        ("ylecun/mnist", None),
        ("uoft-cs/cifar10", ASKED["cifar-10"]["revision"]),
        ("defunct-datasets/amazon_reviews_multi", "refs/convert/parquet"),
        ("bentrevett/multi30k", None),
    ]


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("gated"), FileNotFoundError("gone")])
def test_a_hub_that_gives_no_files_ends_in_one_sentence(error, fake_hub, monkeypatch, fresh_home):
    def refuse(*given, **more):
        raise error

    monkeypatch.setattr(hf, "load_dataset", refuse)
    message = message_of(image_view("mnist", "auto"))
    assert "ylecun/mnist at 77f3279092a1c1579b2250db8eafed0ad422088c" in message
    assert type(error).__name__ in message
    assert "INVARIANCES_DATA" in message


def test_a_revision_that_the_hub_has_no_more_is_named(fake_hub, monkeypatch):
    def gone(api, hub, revision=None, timeout=None):
        if revision:
            raise FileNotFoundError

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", gone)
    message = message_of(image_view("mnist", "auto"))
    assert "ylecun/mnist at revision 77f3279092a1" in message


@pytest.mark.parametrize("n", [1, 1000, 10_000, 50_000])
@pytest.mark.parametrize("split", ["train", "test"])
def test_so_many_shards_of_imagenet_are_read_that_no_class_runs_short(split, n):
    shards = datasets.REGISTRY["imagenet"].shards[split]
    needed = decoding._shards_needed(shards, 1000, n)
    assert needed <= shards.files
    if needed == shards.files:
        assert n / shards.rows > 0.3  # everything is read only where a good part of it is wanted
        return
    rng = np.random.default_rng(0)
    rows = needed * shards.rows // shards.files
    rarest = rng.multinomial(rows, np.full(1000, 0.001), size=100).min(axis=1)
    assert (rarest >= np.ceil(n / 1000)).mean() > 0.7
    assert rows < 5 * n + 20_000


def test_a_part_of_the_shards_loads_although_the_card_states_the_size_of_the_whole(tmp_path, monkeypatch, fresh_home):
    place = tmp_path / "hub" / "data"
    place.mkdir(parents=True)
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["a", "b"])})
    rows = {"image": [PIL.Image.new("L", (4, 4))] * 2, "label": [0, 1]}
    for name in ("train-00000-of-00294", "train-00001-of-00294", "validation-00000-of-00014"):
        hf.Dataset.from_dict(rows, features).to_parquet(place / f"{name}.parquet")
    sizes = {"train": 1281167, "validation": 50000}
    card = "".join(f"  - name: {split}\n    num_examples: {size}\n" for split, size in sizes.items())
    (place.parent / "README.md").write_text(f"---\ndataset_info:\n  splits:\n{card}---\n")
    source = datasets.REGISTRY["imagenet"]
    files = {split: source.shards[split]._replace(rows=2 * source.shards[split].files) for split in ("train", "test")}
    own = source._replace(hub=str(place.parent), classes=source.classes._replace(count=2), shards=files)
    found = locating.Located("imagenet", "hub", "0", None, "0" * 40)
    monkeypatch.setattr(decoding, "_shards_needed", lambda shards, classes, n: n)
    assert len(decoding.load_split(own, found, "train", 1)) == 2
    assert len(decoding.load_split(own, found, "train", 2)) == 4
    assert len(decoding.load_split(own, found, "test", 1)) == 2


# Digests of files ------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch, fresh_home):
    """The names of the files that are read for their digest, in a store of their own."""
    names, compute = [], locating.file_sha256
    monkeypatch.setattr(locating, "file_sha256", lambda path: names.append(path.name) or compute(path))
    return names


def aged(folder, seconds=60):
    """Old files: a young one may change again unseen, so its digest is not kept."""
    for path in folder.rglob("*.parquet"):
        os.utime(path, (time.time() - seconds,) * 2)
    return folder


def test_files_are_hashed_once_and_again_when_they_change(tmp_path, hashed):
    folder = aged(write_questions(tmp_path, ["one", "two"], ["three", "four"]))
    first = locating.locate("trec", str(folder)).fingerprint
    assert sorted(hashed) == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    assert locating.locate("trec", str(folder)).fingerprint == first
    assert len(hashed) == 2
    test = folder / "CogComp/trec/test-00000-of-00001.parquet"
    content = bytearray(test.read_bytes())
    content[9] ^= 1
    test.write_bytes(content)  # as long as before
    aged(folder, 50)
    assert locating.locate("trec", str(folder)).fingerprint != first
    assert hashed[2:].count("test-00000-of-00001.parquet") == 1


def test_another_process_finds_the_digests(tmp_path, hashed):
    folder = aged(write_questions(tmp_path, ["one", "two"], ["three", "four"]))
    first = locating.locate("trec", str(folder)).fingerprint
    code = (
        "from invariances.zoo import locating; locating.file_sha256 = None; "
        f"print(locating.locate('trec', {str(folder)!r}).fingerprint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == first


def test_the_digest_of_a_file_just_written_is_not_trusted(tmp_path, hashed):
    folder = write_questions(tmp_path, ["one", "two"], ["three", "four"])
    path = folder / "CogComp/trec/train-00000-of-00001.parquet"
    first = locating.locate("trec", str(folder)).fingerprint
    stamp = path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[9] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stamp, stamp))  # changed within one tick of the clock
    assert locating.locate("trec", str(folder)).fingerprint != first


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": 1}'], ids=str)
def test_a_damaged_list_of_digests_costs_only_time(damage, tmp_path, hashed, fresh_home):
    folder = aged(write_questions(tmp_path, ["one", "two"], ["three", "four"]))
    first = locating.locate("trec", str(folder)).fingerprint
    (fresh_home / "checksums.json").write_bytes(damage)
    assert locating.locate("trec", str(folder)).fingerprint == first
    assert len(hashed) == 4
    assert locating.locate("trec", str(folder)).fingerprint == first
    assert len(hashed) == 4


@pytest.mark.parametrize("entry", [1, None, "x", [], [1, 2], [1, 2, 3]], ids=str)
def test_a_damaged_entry_is_not_believed(entry, tmp_path, hashed, fresh_home):
    folder = aged(write_questions(tmp_path, ["one", "two"], ["three", "four"]))
    first = locating.locate("trec", str(folder)).fingerprint
    place = fresh_home / "checksums.json"
    place.write_text(json.dumps(dict.fromkeys(json.loads(place.read_text()), entry)))
    assert locating.locate("trec", str(folder)).fingerprint == first
    assert len(hashed) == 4


def test_a_store_that_cannot_be_written_still_finds_the_data(tmp_path, monkeypatch):
    folder = aged(write_questions(tmp_path / "data", ["one", "two"], ["three", "four"]))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "file" / "below"))
    assert locating.locate("trec", str(folder)).files


def test_keys_depend_on_content_and_neither_on_place_nor_on_time(tmp_path):
    folder = write_questions(tmp_path / "one", ["one", "two"], ["three", "four"])
    other = aged(Path(shutil.copytree(folder, tmp_path / "other" / "deeper")), 1000)
    first, second = (datasets.prepare(text_view("trec", place)).key for place in (folder, other))
    assert first == second


def test_exchanged_splits_are_another_content(tmp_path):
    first = write_questions(tmp_path / "first", ["one", "two"], ["three", "four"])
    second = write_questions(tmp_path / "second", ["three", "four"], ["one", "two"])
    assert locating.locate("trec", str(first)).fingerprint != locating.locate("trec", str(second)).fingerprint


# What cannot be had ----------------------------------------------------------------------------


def message_of(view):
    with pytest.raises(DataError) as caught:
        datasets.prepare(view)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_data_name_the_environment_variable_the_file_and_the_stand_ins():
    message = message_of(image_view("mnist", "auto"))
    for part in ("mnist", "INVARIANCES_DATA is not set", "data=builtin", "ylecun/mnist/train-00000-of-00001.parquet"):
        assert part in message


def test_missing_data_name_the_folder_that_was_looked_through(tmp_path):
    message = message_of(text_view("amazon-de", tmp_path))
    assert str(tmp_path) in message
    assert "defunct-datasets/amazon_reviews_multi/de" in message
    assert "hub" not in message  # an explicit folder is never left for the hub


def test_the_hub_is_asked_only_where_no_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(locating, "hub_revision", lambda hub, revision: "0123456789abcdef")
    found = locating.locate("multi30k")
    assert (found.title, found.source) == ("multi30k", "hub bentrevett/multi30k at 0123456789ab")
    assert (found.files, found.revision) == (None, "0123456789abcdef")
    with pytest.raises(DataError, match="missing"):
        locating.locate("mnist", str(tmp_path))
    assert locating.locate("mnist", "builtin").revision is None


def test_an_unknown_name_lists_the_choices():
    message = message_of(image_view("mnits", "auto"))
    assert "'mnits'" in message
    for name in datasets.REGISTRY:
        assert name in message


@pytest.mark.parametrize("language", ["fr", "es", "ja", "zh"])
def test_the_stand_ins_have_no_other_language_than_english_and_german(language):
    message = message_of(text_view(f"amazon-{language}", "builtin"))
    assert f"amazon-{language}" in message
    assert "INVARIANCES_DATA" in message


def test_a_language_without_parallel_sentences_lists_those_with(tmp_path):
    write_reviews(tmp_path, "es", [None] * 2, ["uno", "dos"], [1, 2])
    write_parquet(tmp_path, "bentrevett/multi30k", train={"en": ["a"]}, test={"en": ["a"]})
    message = message_of(text_view("amazon-es", tmp_path, n_parallel=1))
    assert "'es'" in message
    assert "en, de, fr" in message


# Status ----------------------------------------------------------------------------------------


def test_status_offline_names_every_data_set_as_missing():
    table = datasets.status()
    assert list(table["data set"]) == list(datasets.REGISTRY)
    assert set(table["from"]) == {"missing"}
    assert set(table["train"]) == set(table["test"]) == {"-"}


def test_status_of_the_stand_ins_lacks_the_languages_without_one():
    table = datasets.status("builtin").set_index("data set")["from"]
    missing = {name for name, place in table.items() if place == "missing"}
    assert missing == {"amazon-fr", "amazon-es", "amazon-ja", "amazon-zh"}


def test_status_counts_the_rows_of_a_folder(tmp_path, monkeypatch):
    write_questions(tmp_path, [f"text {i}" for i in range(1234)], ["a", "b", "c"])
    monkeypatch.setenv("INVARIANCES_DATA", str(tmp_path))
    table = datasets.status().set_index("data set")
    assert dict(table.loc["trec"]) == {
        "hub id": "CogComp/trec",
        "revision": "65752bf",
        "from": "INVARIANCES_DATA",
        "train": "1,234",
        "test": "3",
        "classes": "6",
        "licence": "none stated",
    }
    assert (table.loc["multi30k", "revision"], table.loc["multi30k", "classes"]) == ("main", "-")
    assert table.loc["mnist", "from"] == "missing"


def test_status_counts_the_rows_of_the_real_samples(real_data):
    table = datasets.status(str(real_data)).set_index("data set")
    assert "missing" not in set(table["from"])
    sizes = {name: (row["train"], row["test"]) for name, row in table.iterrows()}
    assert sizes["mnist"] == ("57,500", "10,000")
    assert sizes["trec"] == ("4,952", "500")
    assert sizes["amazon-en"] == ("3,400", "1,100")


def test_status_gives_up_on_a_hub_that_does_not_answer_within_10_seconds(tmp_path):
    # a socket that takes connections and never says a word
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "INVARIANCES_HOME": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
        }
        code = "from invariances.zoo.datasets import status; print('ready', flush=True); print(set(status()['from']))"
        with subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        ) as asked:
            assert asked.stdout.readline() == "ready\n"
            started = time.monotonic()
            assert asked.stdout.readline() == "{'missing'}\n"
            assert time.monotonic() - started < 10


# Subsets ---------------------------------------------------------------------------------------


@given(
    labels=st.lists(st.integers(-2, 6), min_size=1, max_size=60),
    n=st.integers(1, 80),
    seed=st.integers(0, 5),
)
def test_a_balanced_subset_is_as_even_as_the_classes_allow(labels, n, seed):
    labels = np.array(labels)
    kept = decoding.balanced_subset(labels, n, seed)
    assert len(kept) == min(n, len(labels))
    assert len(set(kept.tolist())) == len(kept)
    assert kept.min() >= 0
    assert kept.max() < len(labels)
    counts = {label: int((labels[kept] == label).sum()) for label in np.unique(labels)}
    largest = max(counts.values())
    for label, count in counts.items():
        assert count >= largest - 1 or count == (labels == label).sum()


def test_a_balanced_subset_depends_on_its_seed_alone():
    labels = np.arange(300) % 7
    first = decoding.balanced_subset(labels, 100)
    np.random.seed(12)  # the global state is what must not matter
    np.testing.assert_array_equal(decoding.balanced_subset(labels, 100), first)
    assert set(decoding.balanced_subset(labels, 100, seed=1)) != set(first)


def test_a_balanced_subset_is_in_random_order():
    labels = np.repeat(np.arange(10), 30)
    kept = labels[decoding.balanced_subset(labels, 100)]
    assert np.bincount(kept[:50], minlength=10).min() > 0
    assert min(len(set(ten.tolist())) for ten in kept.reshape(10, 10)) < 10  # nor one of each class in turn


def subset_of(folder, n, seed):
    """Which of the two letters-long texts are kept, by split."""
    view = text_view("trec", folder, n, n, vocabulary=261, length=200, seed=seed)
    arrays = arrays_of(view)
    return {split: ((arrays[f"{split}_x"] != PAD["byte-bpe"]).sum(axis=1) - 3).tolist() for split in ("train", "test")}


def test_seeds_and_splits_draw_with_generators_of_their_own(tmp_path):
    texts = ["x" * i for i in range(1, 101)]  # the length of a text says which it is
    folder = write_questions(tmp_path, texts, texts)
    zero, one = (subset_of(folder, 50, seed) for seed in (0, 1))
    drawn = [*zero.values(), *one.values()]
    assert all(len(set(ids)) == 50 for ids in drawn)
    for i, first in enumerate(drawn):
        for second in drawn[:i]:
            assert 10 < len(set(first) & set(second)) < 40  # 25 by chance
            assert abs(np.corrcoef(first, second)[0, 1]) < 0.5
    assert subset_of(folder, 50, 0) == zero


def test_seeds_draw_stand_ins_of_their_own():
    pictures = [arrays_of(image_view("mnist", "builtin", 100, 100, seed=seed))["train_x"] for seed in (0, 1)]
    assert {x.tobytes() for x in pictures[0]} != {x.tobytes() for x in pictures[1]}
    texts = [arrays_of(text_view("trec", "builtin", 60, 60, seed=seed)) for seed in (0, 1, 2)]
    labels = [tuple(arrays[f"{split}_y"].tolist()) for arrays in texts for split in ("train", "test")]
    assert labels[0] == tuple(builtin.questions(60, 0)[1].tolist())
    assert len(set(labels)) == 6  # no split is drawn as that of another seed is


@pytest.mark.parametrize("asked", [300, 250])
def test_a_profile_size_is_an_upper_bound(tmp_path, asked):
    folder = write_questions(tmp_path, [f"question {i}" for i in range(300)], [f"other {i}" for i in range(7)])
    prepared = datasets.prepare(text_view("trec", folder, n_train=asked + 100 * (asked == 300), n_test=500))
    assert (prepared.n_train, prepared.n_test) == (asked, 7)
    assert datasets.load(prepared.key).note["n_test"] == 7


def test_1500_digits_are_asked_for_and_1348_are_there():
    prepared = datasets.prepare(image_view("mnist", "builtin", 1500, 100))
    assert (prepared.n_train, prepared.n_test) == (1348, 100)


def test_a_class_that_is_missing_from_either_split_keeps_the_labels_of_the_others(tmp_path):
    features = hf.Features({"text": hf.Value("string"), "coarse_label": hf.ClassLabel(names=["A", "B", "C", "D"])})
    train = {"text": ["x", "xx", "xxx"], "coarse_label": [0, 2, 2]}
    test = {"text": ["x", "xxxx"], "coarse_label": [0, 3]}
    folder = write_parquet(tmp_path, "CogComp/trec", features, train=train, test=test)
    prepared = datasets.prepare(text_view("trec", folder, vocabulary=261))
    assert prepared.classes == ("A", "C", "D")
    arrays = datasets.load(prepared.key).arrays
    pairs = {
        (int((x != PAD["byte-bpe"]).sum()) - 3, int(y))
        for split in ("train", "test")
        for x, y in zip(arrays[f"{split}_x"], arrays[f"{split}_y"], strict=True)
    }
    assert pairs == {(1, 0), (2, 1), (3, 1), (4, 2)}


@pytest.mark.parametrize("rows", [1, 4])
def test_one_class_and_one_row_are_enough(tmp_path, rows):
    folder = write_questions(tmp_path, ["what"] * rows, ["who"] * rows, labels=[1] * rows)
    prepared = datasets.prepare(text_view("trec", folder))
    assert (prepared.classes, prepared.n_train, prepared.n_test) == (("B",), rows, rows)
    assert not datasets.load(prepared.key).arrays["train_y"].any()


def test_no_sample_is_a_data_error():
    with pytest.raises(DataError, match="no sample"):
        decoding.balanced_subset(np.array([], int), 10)


# The stand-ins as arrays -----------------------------------------------------------------------


def test_the_stand_in_digits_are_split_without_overlap_and_without_loss():
    prepared = datasets.prepare(image_view("mnist", "builtin", 10_000, 10_000))
    arrays = datasets.load(prepared.key).arrays
    train, test = ({x.tobytes() for x in arrays[f"{split}_x"]} for split in ("train", "test"))
    images, _ = load_digits(return_X_y=True)
    assert prepared.title == "digits (stand-in for mnist)"
    assert (prepared.n_train, prepared.n_test) == (1348, 449)
    assert not train & test
    assert train | test == {np.rint(x * 15.9375).astype(np.uint8).tobytes() for x in images}


def test_the_stand_in_digits_are_repeated_in_three_channels_and_framed():
    small, large = (
        arrays_of(image_view("cifar-10", "builtin", pixels=pixels, channels=channels))["train_x"]
        for pixels, channels in ((8, 1), (13, 3))
    )
    assert large.shape == (20, 3, 13, 13)
    for channel in range(3):
        np.testing.assert_array_equal(large[:, channel, 2:10, 2:10], small[:, 0])
    assert large.sum(dtype=int) == 3 * small.sum(dtype=int)


# Tokens ----------------------------------------------------------------------------------------


def test_byte_bpe_gives_the_same_arrays_in_two_fresh_stores(tmp_path, monkeypatch):
    twice = []
    for home in ("first", "second"):
        monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / home))
        prepared = datasets.prepare(text_view("trec", "builtin", 300, 100))
        assert (tmp_path / home / "arrays" / f"{prepared.key}.safetensors").is_file()
        twice.append(datasets.load(prepared.key).arrays)
    assert set(twice[0]) == set(twice[1]) == {"train_x", "train_y", "test_x", "test_y"}
    for name, array in twice[0].items():
        np.testing.assert_array_equal(array, twice[1][name])


@pytest.mark.parametrize("tokenizer", ["wordpiece", "byte-bpe"])
def test_texts_start_and_end_with_their_marks_and_are_padded_at_the_end(tmp_path, tokenizer):
    folder = write_questions(tmp_path, ["a", "a b c"], ["c", "b a"])
    view = text_view("trec", folder, tokenizer=tokenizer, length=9)
    prepared = datasets.prepare(view)
    arrays = datasets.load(prepared.key).arrays
    for x in (arrays["train_x"], arrays["test_x"]):
        assert x.shape == (2, 9)
        for row in x:
            end = int(np.flatnonzero(row == SEP[tokenizer])[0])
            assert row[0] == CLS[tokenizer]
            assert end >= 2
            assert PAD[tokenizer] not in row[:end]
            assert (row[end + 1 :] == PAD[tokenizer]).all()
    assert arrays["train_x"].max() < prepared.vocabulary
    assert (arrays["train_x"][0] != PAD[tokenizer]).sum() != (arrays["train_x"][1] != PAD[tokenizer]).sum()


@pytest.mark.parametrize("tokenizer", ["wordpiece", "byte-bpe"])
def test_long_texts_are_cut_and_keep_their_end_mark(tmp_path, tokenizer):
    folder = write_questions(tmp_path, ["w " * 100, "w"], ["w " * 50, "w"])
    for x in arrays_of(text_view("trec", folder, tokenizer=tokenizer, length=6)).values():
        if x.ndim == 2:
            assert x.shape == (2, 6)
            longest = x[(x != PAD[tokenizer]).all(axis=1)]
            assert len(longest) == 1
            assert (longest[0, 0], longest[0, -1]) == (CLS[tokenizer], SEP[tokenizer])
            assert SEP[tokenizer] not in longest[0, :-1]


def test_byte_bpe_knows_every_character_and_wordpiece_marks_those_it_never_saw(tmp_path):
    folder = write_questions(tmp_path, ["plain words", "more words"], ["日本", "日本"])
    unknown = {"wordpiece": 1, "byte-bpe": 3}
    found = {
        tokenizer: (arrays_of(text_view("trec", folder, tokenizer=tokenizer))["test_x"] == mark).any()
        for tokenizer, mark in unknown.items()
    }
    assert found == {"wordpiece": True, "byte-bpe": False}


# empty or nothing but space, of several kinds
BLANK = ["", " ", "\t\n", "\u3000\u00a0", "   \r\n  "]


@pytest.mark.parametrize("tokenizer", ["wordpiece", "byte-bpe"])
@pytest.mark.parametrize("words", [["some words", "and more"], []], ids=["some are blank", "all are blank"])
def test_blank_texts_are_their_two_end_marks(words, tokenizer, tmp_path):
    texts = [*words, *BLANK, None]
    folder = write_questions(tmp_path, texts, texts)
    for x in arrays_of(text_view("trec", folder, tokenizer=tokenizer)).values():
        if x.ndim == 2:
            assert x.shape == (len(texts), 16)
            counts = (x != PAD[tokenizer]).sum(axis=1)
            assert (counts == 2).sum() == len(BLANK) + 1  # so a mean over tokens never divides by 0
            assert (counts[counts != 2] > 2).sum() == len(words)
            assert (x[:, :2][counts == 2] == (CLS[tokenizer], SEP[tokenizer])).all()


@pytest.mark.parametrize("sentence", [None, "", "  "])
def test_blank_parallel_sentences_are_their_two_end_marks(sentence, tmp_path):
    write_reviews(tmp_path, "en", [None] * 2, ["good", "bad"], [5, 1])
    sentences = {"en": ["words", sentence], "de": ["x", "x"], "fr": ["x", "x"]}
    write_parquet(tmp_path, "bentrevett/multi30k", train=sentences, test=sentences)
    x = arrays_of(text_view("amazon-en", tmp_path, n_parallel=2))["parallel_x"]
    assert sorted((x != PAD["byte-bpe"]).sum(axis=1))[0] == 2


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_length_without_room_for_a_token_is_refused(length):
    assert "length >= 3" in message_of(text_view("trec", "builtin", length=length))


WORLD = [
    "😀 ok 👩‍🔬",
    "日本語テキスト",
    "e\u0301le\u0300ve",
    "élève",
    "नमस्ते",
    "مرحبا",
    "한국어",
    "🇩🇪🇫🇷",
    "\u200b\ufeff",
    "a\u0000b",
]


def test_byte_bpe_has_a_token_for_every_byte_of_any_script(tmp_path):
    folder = write_questions(tmp_path, WORLD, WORLD)
    x = arrays_of(text_view("trec", folder, vocabulary=261, length=99))["test_x"]
    assert not (x == 3).any()  # unknown
    counts = sorted((x != PAD["byte-bpe"]).sum(axis=1))
    assert counts == sorted(len(f" {text}".encode()) + 2 for text in WORLD)


def test_wordpiece_reads_any_script_as_berts_tokenizer_does(tmp_path):
    folder = write_questions(tmp_path, WORLD, WORLD)
    view = text_view("trec", folder, tokenizer="wordpiece", vocabulary=2000, length=40)
    arrays = arrays_of(view)
    x = arrays["train_x"]
    assert not (x == 1).any()  # every character was seen in training
    counts = (x != PAD["wordpiece"]).sum(axis=1)
    assert (counts == 2).sum() == 1  # nothing but characters without width
    assert len(np.unique(x, axis=0)) == len(WORLD) - 1  # accents are dropped, however they are written
    kanji = write_questions(tmp_path / "kanji", ["日本語", "本"], ["日本語", "本"])
    x = arrays_of(text_view("trec", kanji, tokenizer="wordpiece", vocabulary=2000))["train_x"]
    assert sorted((x != PAD["wordpiece"]).sum(axis=1)) == [3, 5]  # each ideograph is a word


def test_the_tokenizer_sees_no_test_text(tmp_path):
    train = ["some words of the training text", "words again"]
    first = write_questions(tmp_path / "first", train, ["zebra zebra zebra", "zebra"])
    second = write_questions(tmp_path / "second", train, ["other test text", "other"])
    np.testing.assert_array_equal(
        arrays_of(text_view("trec", first))["train_x"], arrays_of(text_view("trec", second))["train_x"]
    )


def test_parallel_sentences_are_encoded_beside_the_reviews(tmp_path):
    write_reviews(tmp_path, "en", [None] * 2, ["good", "bad"], [5, 1])
    sentences = {"en": ["x" * i for i in range(1, 7)], "de": ["x"] * 6, "fr": ["x"] * 6}
    write_parquet(tmp_path, "bentrevett/multi30k", train=sentences, test=sentences)
    for asked, kept in ((4, 4), (100, 6)):
        prepared = datasets.prepare(text_view("amazon-en", tmp_path, vocabulary=261, n_parallel=asked))
        x = datasets.load(prepared.key).arrays["parallel_x"]
        assert prepared.n_parallel == len(x) == kept
        assert len(set((x != PAD["byte-bpe"]).sum(axis=1).tolist())) == kept  # no sentence twice


def test_stand_in_languages_have_equally_many_parallel_sentences():
    sizes = {
        language: datasets.prepare(text_view(f"amazon-{language}", "builtin", n_parallel=70))
        for language in ("en", "de")
    }
    assert {prepared.n_parallel for prepared in sizes.values()} == {70}
    assert sizes["en"].key != sizes["de"].key
    assert sizes["de"].title == "generated German reviews (stand-in for amazon-de)"


def write_documents(folder, sentences=12, **changed):
    """Reviews, and parallel sentences of four documents, three rows each; a row's words name its document."""
    write_reviews(folder, "en", [None] * 2, ["good", "bad"], [5, 1])
    rows = [f"d{i // 3} s{i}" for i in range(sentences)]
    columns = {"document": [row.split()[0] for row in rows]} | dict.fromkeys(("en", "de", "fr", "es", "ja", "zh"), rows)
    return write_parquet(folder, "MicrosoftTranslator/ntrex-128", train=columns | changed, test=columns)


def documented(folder, n_parallel=100, **more):
    return replace(
        text_view("amazon-en", folder, tokenizer="characters", n_parallel=n_parallel), parallel="ntrex", **more
    )


def test_halves_of_parallel_sentences_share_no_document(tmp_path):
    write_documents(tmp_path)
    arrays = arrays_of(documented(tmp_path))
    texts, documents = texts_of(torch.from_numpy(arrays["parallel_x"])), arrays["parallel_document"]
    assert sorted(texts) == sorted(2 * [f"d{i // 3} s{i}" for i in range(12)])  # both splits
    assert [text.split()[0] for text in texts] == [f"d{number}" for number in documents]
    assert not set(documents[:12]) & set(documents[12:])
    few = arrays_of(documented(tmp_path, n_parallel=9))
    assert few["parallel_x"].shape[0] == 9
    assert any(not set(few["parallel_document"][:i]) & set(few["parallel_document"][i:]) for i in range(5, 8))


# Coarse classes --------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["own", "builtin"])
def test_few_stars_are_told_from_many_and_three_are_left_out(tmp_path, data):
    stars = [star for star in range(1, 6) for _ in range(6)]
    if data == "own":
        data = write_reviews(tmp_path, "en", [None] * 30, [f"stars {star} {i}" for i, star in enumerate(stars)], stars)
    view = text_view("amazon-en", data, 20, 12, tokenizer="characters", length=90)
    prepared = datasets.prepare(replace(view, coarse=True))
    arrays = datasets.load(prepared.key).arrays
    assert prepared.classes == ("1 or 2 stars", "4 or 5 stars")
    assert prepared.title.endswith(", 2 coarse classes")
    assert (prepared.n_train, prepared.n_test) == (20, 12)
    fine = set()
    for split, n in (("train", 20), ("test", 12)):
        texts, labels = texts_of(torch.from_numpy(arrays[f"{split}_x"])), arrays[f"{split}_y"]
        found = [star_of(text) for text in texts]
        assert len(texts) == n
        assert [star > 3 for star in found] == labels.astype(bool).tolist()
        if data != "builtin":
            assert np.bincount(found).tolist() == [0, n // 4, n // 4, 0, n // 4, n // 4]
        fine |= set(found)
    assert fine == {1, 2, 4, 5}
    assert datasets.prepare(view).key != prepared.key


def star_of(text):
    """The stars of a review that names them, or of a generated one, by its first opinion."""
    if text.startswith("stars"):
        return int(text.split()[1])
    opinions = [[english for english, _ in some] for some in builtin._OPINIONS]
    return next(star for star, some in enumerate(opinions, 1) if text.split(" is ")[1].split(" and ")[0] in some)


def test_coarse_classes_of_a_data_set_that_has_none_are_refused():
    assert "trec has no coarse classes" in message_of(replace(text_view("trec", "builtin"), coarse=True))


def test_a_sentence_of_no_document_is_refused(tmp_path):
    write_documents(tmp_path, document=["d0", None, *["d1"] * 10])
    assert "ntrex has sentences of no document" in message_of(documented(tmp_path))


def test_captions_and_news_are_different_arrays_of_the_same_reviews():
    views = [replace(documented("builtin", 40), parallel=parallel) for parallel in ("multi30k", "ntrex")]
    captions, news = map(arrays_of, views)
    np.testing.assert_array_equal(captions["train_x"], news["train_x"])
    assert "parallel_document" not in captions
    np.testing.assert_array_equal(np.bincount(news["parallel_document"]), [10] * 4)
    german = arrays_of(replace(views[1], dataset="amazon-de"))
    np.testing.assert_array_equal(german["parallel_document"], news["parallel_document"])


# Keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"n_train": 21},
        {"n_test": 11},
        {"length": 17},
        {"vocabulary": 401},
        {"tokenizer": "wordpiece"},
        {"n_parallel": 5},
        {"seed": 1},
    ],
    ids=str,
)
def test_arrays_of_different_views_have_different_keys(changed):
    view = {"dataset": "amazon-en", "data": "builtin"}
    assert datasets.prepare(text_view(**view)).key != datasets.prepare(text_view(**view, **changed)).key


def test_damaged_arrays_are_decoded_anew(fresh_home):
    view = image_view("mnist", "builtin")
    prepared = datasets.prepare(view)
    before = datasets.load(prepared.key).arrays
    place = store.path("arrays", prepared.key)
    content = bytearray(place.read_bytes())
    content[-1] ^= 1
    place.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        datasets.load(prepared.key)
    assert datasets.prepare(view) == prepared
    for name, array in datasets.load(prepared.key).arrays.items():
        np.testing.assert_array_equal(array, before[name])


def test_a_tokenizer_that_is_neither_learnt_nor_a_checkpoint_s_is_one_sentence():
    with pytest.raises(PretrainedError, match="the checkpoint wordpeice is missing") as caught:
        datasets.prepare(View("trec", "builtin", 20, 5, tokenizer="wordpeice", length=12))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"n_train": 0}, {"n_test": -1}, {"channels": 2}, {"size": 3}])
def test_a_view_refuses_what_it_cannot_have(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        View(**{"dataset": "mnist", "data": "builtin", "n_train": 10, "n_test": 10, **wrong})


DIGEST = """
import hashlib
from invariances.zoo import datasets, locating
for kind in ("wordpiece", "byte-bpe"):
    view = locating.View("amazon-de", "builtin", 500, 50, tokenizer=kind, vocabulary=400, length=20, n_parallel=50)
    print(kind, hashlib.sha256(datasets.load(datasets.prepare(view).key).arrays["train_x"].tobytes()).hexdigest())
"""


def test_a_tokenizer_is_the_same_in_every_process(tmp_path):
    # hash maps are seeded anew in every process, and the library's trainers iterate over them
    digests = set()
    for i in range(3):
        environment = {**os.environ, "INVARIANCES_HOME": str(tmp_path / str(i))}
        code = [sys.executable, "-c", DIGEST]
        digests.add(subprocess.run(code, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(digests) == 1
    assert digests.pop().count("\n") == 2


# Parquet that is there but not usable ------------------------------------------------------------


def _trec_folder(tmp_path, train, test=None):
    """A folder with TREC's hub name; each split is a list of shards."""
    place = tmp_path / "CogComp" / "trec"
    place.mkdir(parents=True)
    for split, shards in (("train", train), ("test", test or [GOOD])):
        for i, shard in enumerate(shards):
            path = place / f"{split}-{i:05d}-of-{len(shards):05d}.parquet"
            path.write_bytes(shard) if isinstance(shard, bytes) else hf.Dataset.from_dict(shard).to_parquet(path)
    return str(tmp_path)


GOOD = {"text": ["what is it", "who was she", "where is he"], "coarse_label": [0, 1, 2]}


def test_all_shards_are_read_and_plain_labels_name_themselves(tmp_path):
    prepared = datasets.prepare(text_view("trec", _trec_folder(tmp_path, [GOOD, GOOD]), 100, 100))
    assert (prepared.n_train, prepared.n_test) == (6, 3)
    assert prepared.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    "shard",
    [
        b"",
        b"PAR1 and no more",
        {"text": [], "coarse_label": []},
        {"text": ["a", "b"]},
        {"text": ["a", "b"], "coarse_label": [0, None]},
    ],
    ids=["empty file", "truncated", "no rows", "no label column", "empty label"],
)
def test_unusable_parquet_ends_in_one_sentence(shard, tmp_path):
    with pytest.raises(DataError) as error:
        datasets.prepare(text_view("trec", _trec_folder(tmp_path, [shard]), 10, 10))
    assert "\n" not in str(error.value)
    assert "train-00000-of-00001.parquet cannot be used" in str(error.value)
    assert "CogComp/trec" in str(error.value)


@pytest.mark.parametrize("shard", [b"", b"PAR1 and no more", {"text": ["a"]}, {"text": ["a"], "coarse_label": [None]}])
def test_an_unusable_test_split_is_named_too(shard, tmp_path):
    message = message_of(text_view("trec", _trec_folder(tmp_path, [GOOD], [shard])))
    assert "test-00000-of-00001.parquet cannot be used" in message


def test_a_file_cut_in_the_middle_ends_in_one_sentence(tmp_path):
    folder = _trec_folder(tmp_path, [{"text": [f"text {i}" for i in range(999)], "coarse_label": [0] * 999}])
    path = tmp_path / "CogComp/trec/train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be used" in message_of(text_view("trec", folder))


@pytest.mark.parametrize("labels", [["0", "1"], [0.5, 1.0]], ids=["text", "fractions"])
def test_labels_that_are_no_integers_end_in_one_sentence(labels, tmp_path):
    folder = _trec_folder(tmp_path, [{"text": ["a", "b"], "coarse_label": labels}])
    assert "coarse_label is not of integers" in message_of(text_view("trec", folder))


def test_a_missing_column_is_named(tmp_path):
    folder = _trec_folder(tmp_path, [{"question": ["a"], "label": [0]}])
    assert "has no column coarse_label, text" in message_of(text_view("trec", folder))


def test_shards_with_other_columns_that_are_all_empty_load(tmp_path):
    shards = [{**GOOD, "fine_label": [1, 2, 3]}, {**GOOD, "fine_label": [None] * 3}]
    prepared = datasets.prepare(text_view("trec", _trec_folder(tmp_path, shards), 100, 100))
    assert prepared.n_train == 6


def test_columns_that_are_all_empty_and_not_read_do_not_matter(tmp_path):
    columns = {"review_title": [None] * 2, "review_body": ["good", "bad"], "stars": [5, 1]}
    write_parquet(tmp_path, "defunct-datasets/amazon_reviews_multi/en", train=columns, test=columns)
    more = {"product_id": [None] * 2, "product_category": [None] * 2}  # of the type of nothing
    write_parquet(tmp_path / "more", "defunct-datasets/amazon_reviews_multi/en", train=columns | more, test=columns)
    plain, full = (arrays_of(text_view("amazon-en", place)) for place in (tmp_path, tmp_path / "more"))
    for name in plain:
        np.testing.assert_array_equal(plain[name], full[name])


def test_status_shows_an_unreadable_file_as_a_row(tmp_path):
    row = datasets.status(_trec_folder(tmp_path, [b"PAR1"])).set_index("data set").loc["trec"]
    assert row["from"].endswith("unreadable")


def test_the_missing_split_is_the_one_that_is_named(tmp_path):
    folder = _trec_folder(tmp_path, [GOOD])
    (tmp_path / "CogComp" / "trec" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"there is no CogComp/trec/test-00000-of-00001\.parquet"):
        locating.locate("trec", folder)


@pytest.mark.parametrize(
    "view",
    [View("mnist", "builtin", 10, 10), View("trec", "builtin", 10, 10), View("multi30k", "builtin", 10, 10)],
    ids=["image without pixels", "text without tokenizer", "parallel sentences"],
)
def test_a_view_that_does_not_fit_its_data_is_refused(view):
    with pytest.raises(DataError, match=view.dataset):
        datasets.prepare(view)
