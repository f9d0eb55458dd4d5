import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets as hf
import numpy as np
import PIL.Image
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from invariances.zoo import datasets, store
from invariances.zoo.datasets import DataError, View

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


def image_view(dataset, data, n_train=20, n_test=10, pixels=8, channels=1):
    return View(dataset, str(data), n_train, n_test, pixels=pixels, channels=channels)


def text_view(dataset, data, n_train=20, n_test=10, tokenizer="byte-bpe", vocabulary=400, length=16, n_parallel=0):
    return View(
        dataset,
        str(data),
        n_train,
        n_test,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        length=length,
        n_parallel=n_parallel,
    )


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
    assert set(PUBLISHED) == set(datasets.REGISTRY) - {"multi30k"}


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

    assert (prepared.title, prepared.source) == (name, "the given folder")
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
        language: datasets._parallel(text_view(f"amazon-{language}", real_data, n_parallel=300))
        for language in (first, second)
    }
    assert len(texts[first]) == len(texts[second]) == 300
    assert set(zip(*texts.values(), strict=True)) <= pairs
    assert len(set(texts[first])) > 290


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


def test_a_relative_folder_counts_from_the_folder_of_the_start(tiny_pictures, monkeypatch):
    monkeypatch.chdir(tiny_pictures.parent)
    given, named = (datasets.prepare(image_view("cifar-10", data)) for data in (tiny_pictures, tiny_pictures.name))
    assert given == named


def test_the_environment_names_the_folder(tiny_pictures, monkeypatch):
    monkeypatch.setenv("INVARIANCES_DATA", str(tiny_pictures))
    prepared = datasets.prepare(image_view("cifar-10", "auto"))
    assert (prepared.title, prepared.source) == ("cifar-10", "INVARIANCES_DATA")
    assert prepared.key == datasets.prepare(image_view("cifar-10", tiny_pictures)).key


def test_a_data_set_is_decoded_once_and_again_when_the_files_change(tmp_path, monkeypatch):
    view = text_view("trec", write_questions(tmp_path, ["one", "two"], ["three", "four"]))
    first = datasets.prepare(view)
    decoded, decode = [], datasets._decode
    monkeypatch.setattr(datasets, "_decode", lambda *given: decoded.append(given) or decode(*given))
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
    assert datasets._joined(parts) == text


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
    monkeypatch.setattr(datasets, "hub_revision", lambda hub: "0123456789abcdef")
    found = datasets.locate("mnist")
    assert (found.title, found.source) == ("mnist", "hub ylecun/mnist at 0123456789ab")
    assert (found.files, found.revision) == (None, "0123456789abcdef")
    with pytest.raises(DataError, match="missing"):
        datasets.locate("mnist", str(tmp_path))
    assert datasets.locate("mnist", "builtin").revision is None


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
        "from": "INVARIANCES_DATA",
        "train": "1,234",
        "test": "3",
    }
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
    kept = datasets.balanced_subset(labels, n, seed)
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
    first = datasets.balanced_subset(labels, 100)
    np.random.seed(12)  # the global state is what must not matter
    np.testing.assert_array_equal(datasets.balanced_subset(labels, 100), first)
    assert set(datasets.balanced_subset(labels, 100, seed=1)) != set(first)


def test_a_balanced_subset_is_in_random_order():
    labels = np.repeat(np.arange(10), 30)
    kept = labels[datasets.balanced_subset(labels, 100)]
    assert np.bincount(kept[:50], minlength=10).min() > 0
    assert min(len(set(ten.tolist())) for ten in kept.reshape(10, 10)) < 10  # nor one of each class in turn


def test_no_sample_is_a_data_error():
    with pytest.raises(DataError, match="no sample"):
        datasets.balanced_subset(np.array([], int), 10)


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


@pytest.mark.parametrize(
    "wrong", [{"n_train": 0}, {"n_test": -1}, {"channels": 2}, {"tokenizer": "words"}, {"size": 3}]
)
def test_a_view_refuses_what_it_cannot_have(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        View(**{"dataset": "mnist", "data": "builtin", "n_train": 10, "n_test": 10, **wrong})


DIGEST = """
import hashlib
from invariances.zoo import datasets
view = datasets.View("amazon-de", "builtin", 500, 50, tokenizer={kind!r}, vocabulary=400, length=20, n_parallel=50)
print(hashlib.sha256(datasets.load(datasets.prepare(view).key).arrays["train_x"].tobytes()).hexdigest())
"""


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe"])
def test_a_tokenizer_is_the_same_in_every_process(kind, tmp_path):
    # hash maps are seeded anew in every process, and the library's trainers iterate over them
    digests = set()
    for i in range(3):
        environment = {**os.environ, "INVARIANCES_HOME": str(tmp_path / str(i))}
        code = [sys.executable, "-c", DIGEST.format(kind=kind)]
        digests.add(subprocess.run(code, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(digests) == 1


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


def test_status_shows_an_unreadable_file_as_a_row(tmp_path):
    row = datasets.status(_trec_folder(tmp_path, [b"PAR1"])).set_index("data set").loc["trec"]
    assert row["from"].endswith("unreadable")


def test_the_missing_split_is_the_one_that_is_named(tmp_path):
    folder = _trec_folder(tmp_path, [GOOD])
    (tmp_path / "CogComp" / "trec" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"there is no CogComp/trec/test-00000-of-00001\.parquet"):
        datasets.locate("trec", folder)


@pytest.mark.parametrize(
    "view",
    [View("mnist", "builtin", 10, 10), View("trec", "builtin", 10, 10), View("multi30k", "builtin", 10, 10)],
    ids=["image without pixels", "text without tokenizer", "parallel sentences"],
)
def test_a_view_that_does_not_fit_its_data_is_refused(view):
    with pytest.raises(DataError, match=view.dataset):
        datasets.prepare(view)
