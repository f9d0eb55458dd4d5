"""Somebody's own labelled texts and pictures go through plan, training and alignment like those of the registry."""

import pathlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from invariances import align, zoo
from invariances.errors import DataError, ParameterError
from invariances.paper import frames, plan, tables
from invariances.paper.settings import check
from invariances.zoo import datasets, own_data

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place = tmp_path_factory.mktemp("mine")
    for channel, name in enumerate(("cat", "dog", "emu")):
        (place / name).mkdir()
        for i in range(40):
            pixels = RNG.integers(0, 60, size=(12 + i % 3, 16, 3), dtype=np.uint8)
            pixels[:, :, channel] += 120
            Image.fromarray(pixels).save(place / name / f"{i}.png")
    return str(place)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    words = {"water": ["river", "lake", "sea"], "sport": ["goal", "match", "team"]}
    rows = [(" ".join(RNG.choice(words[name], 4)), name) for name in words for _ in range(60)]
    place = tmp_path_factory.mktemp("texts") / "mine.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(place, index=False)
    return str(place)


@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_own_data_become_a_row_and_its_classes_and_splits_are_right(kind, pictures, texts):
    settings = check("initialization", {"data": pictures if kind == "pictures" else texts, "seeds": 2})
    (row,) = plan.rows(settings).values()
    assert row.row.name == f"Own {kind}"
    prepared = row.groups[0].prepared
    assert prepared.classes == (("cat", "dog", "emu") if kind == "pictures" else ("sport", "water"))
    assert (prepared.n_train, prepared.n_test) == (90, 30)
    assert prepared.source == "the given folder"
    arrays = datasets.load(prepared.key).arrays
    for split in ("train", "test"):
        counts = np.bincount(arrays[f"{split}_y"])
        assert counts.max() == counts.min()
    if kind == "pictures":  # each class is the channel that is bright
        np.testing.assert_array_equal(arrays["test_x"].mean(axis=(2, 3)).argmax(axis=1), arrays["test_y"])


def test_own_pictures_are_trained_and_aligned_and_shown(pictures):
    settings = check("initialization", {"data": pictures, "seeds": 2, "epochs": 1})
    rows = plan.rows(settings)
    zoo.train(plan.recipes(rows), device="cpu")
    ids = plan.anchors(rows)
    table = align(
        zoo.embed(plan.compared(rows), ids, device="cpu"), anchors=ids, labels=zoo.labels(plan.one_model(rows), ids)
    )
    results = frames.described(table, rows, settings)
    shown = tables.alignment("initialization", results, {}, plan.not_run(rows))
    assert set(shown["Row"]) == {"Own pictures"}
    assert set(shown["Reported"]) == {"not in the paper"}
    assert results.data.iloc[0].startswith("own pictures (mine")


def test_other_sections_refuse_own_data(pictures):
    with pytest.raises(ParameterError, match=r"give one, since only initialization reads your own"):
        plan.rows(check("stitching", {"data": pictures}))


def test_a_folder_of_the_hub_s_schema_is_no_own_data(tmp_path, pictures):
    (tmp_path / "ylecun/mnist").mkdir(parents=True)
    assert not own_data.is_own(str(tmp_path))
    assert not own_data.is_own("auto")
    assert not own_data.is_own("builtin")
    assert own_data.is_own(pictures)


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        ({"text": ["a", "b"] * 20}, r"have no classes; put each class in a folder"),
        ({"text": ["a"] * 40, "label": [1] * 40}, r"are 1 class.es., the smallest of 40; give at least 2 classes"),
        ({"text": ["a"] * 40, "label": [1] * 39 + [2]}, r"are 2 class.es., the smallest of 1; give at least 2 classes"),
        ({"text": ["a"] * 3, "label": [1, None, 2]}, r"1 labels are missing; fill them in"),
    ],
)
def test_own_data_that_cannot_be_used_are_one_sentence(frame, match, tmp_path):
    pd.DataFrame(frame).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=match):
        own_data.register(str(tmp_path / "t.csv"))


def test_samples_that_change_during_the_run_are_noticed(texts, tmp_path):
    copy = tmp_path / "copy.csv"
    copy.write_bytes(pathlib.Path(texts).read_bytes())
    source = own_data.OWN[own_data.register(str(copy))]
    assert len(own_data.load(source, "train")) == 90
    pd.DataFrame({"text": ["x"] * 40, "label": [1, 2] * 20}).to_csv(copy, index=False)
    with pytest.raises(DataError, match=r"have changed during the run; run it again"):
        own_data.load(source, "test")
