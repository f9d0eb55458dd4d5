"""Somebody's own texts and pictures are found, in order, with ids and classes."""

import pathlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from invariances.errors import DataError
from invariances.zoo.inputs import read_inputs

TEXTS = ["one text", "a second, with a comma", "ein dritter äöü", "第四"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def all_of(data, **options):
    found = read_inputs(data, **options)
    return found, found.load(range(len(found)))


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "parquet"])
def test_texts_of_every_kind_of_file(kind):
    frame = pd.DataFrame({"id": ["a", "b", "c", "d"], "text": TEXTS, "stars": [1, 2, 3, 4]})
    if kind == "txt":
        with pathlib.Path("t.txt").open("w", encoding="utf-8") as file:
            file.write("\n".join(TEXTS))
    elif kind == "parquet":
        frame.to_parquet("t.parquet")
    else:
        frame.to_csv(f"t.{kind}", index=False, sep="\t" if kind == "tsv" else ",")
    found, texts = all_of(f"t.{kind}")
    assert texts == TEXTS
    assert found.kind == "text"
    assert found.ids == (["0", "1", "2", "3"] if kind == "txt" else ["a", "b", "c", "d"])
    assert found.labels is None
    assert found.first(2).ids == found.ids[:2]
    assert found.load([3, 1]) == [TEXTS[3], TEXTS[1]]


def test_the_column_of_texts_is_the_one_of_words_or_the_one_named():
    pd.DataFrame({"title": TEXTS, "body": [text[::-1] for text in TEXTS], "n": 1}).to_csv("t.csv", index=False)
    assert all_of("t.csv")[1] == [text[::-1] for text in TEXTS]
    assert all_of("t.csv", column="title")[1] == TEXTS
    pd.DataFrame({"x": TEXTS, "n": 1}).to_csv("u.csv", index=False)
    assert all_of("u.csv")[1] == TEXTS


def test_pictures_of_a_folder_with_their_classes():
    rng = np.random.default_rng(0)
    names = ["cat/10.png", "cat/9.png", "dog/a.jpg", "dog/deep/b.png"]
    for name in names:
        pathlib.Path("p", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, size=(8, 6, 3), dtype=np.uint8)).save(f"p/{name}")
    pathlib.Path("p/notes.txt").write_text("no picture")
    found, pictures = all_of("p")
    assert (found.kind, found.ids) == ("image", names)
    assert found.labels == ["cat", "cat", "dog", "dog/deep"]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (6, 8))}
    grey = Image.fromarray(rng.integers(0, 255, size=(8, 6), dtype=np.uint8))
    pathlib.Path("q").mkdir()
    grey.save("q/a.png")
    found, (picture,) = all_of("q")
    assert found.labels is None
    assert picture.mode == "RGB"


def test_texts_of_a_folder_with_their_classes():
    for name in ("sport/a.txt", "sport/b.txt", "water/c.txt"):
        pathlib.Path("d", name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path("d", name).write_text(f"two lines\nof {name}")
    found, texts = all_of("d")
    assert (found.kind, found.labels) == ("text", ["sport", "sport", "water"])
    assert texts[2] == "two lines\nof water/c.txt"


@pytest.mark.parametrize("name", ["label", "Class"])
def test_a_table_may_have_a_column_of_classes(name):
    pd.DataFrame({"text": TEXTS, name: ["x", "y", "x", "y"]}).to_csv("t.csv", index=False)
    found, texts = all_of("t.csv")
    assert texts == TEXTS
    assert found.labels == ["x", "y", "x", "y"]


def test_the_stamp_changes_with_the_samples():
    for text in ("x\ny", "x\nz"):
        with pathlib.Path("t.txt").open("w") as file:
            file.write(text)
        before = read_inputs("t.txt").stamp
        assert before == read_inputs("t.txt").stamp
        if text.endswith("y"):
            first = before
    assert first != before


def write(name, content):
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(name).write_bytes(content)
    return name


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (lambda: "absent", {}, "there are no samples at absent; give a folder"),
        (lambda: write("e/none.doc", b"") and "e", {}, "e holds no pictures .*; give"),
        (lambda: write("t.txt", b""), {}, "t.txt holds no texts; give"),
        (lambda: write("t.txt", b"\xff\xfe\x00"), {}, "t.txt cannot be read as UTF-8 text; save"),
        (lambda: write("t.json", b"[]"), {}, "t.json is not read; give"),
        (lambda: write("t.parquet", b"PAR1"), {}, "t.parquet is damaged or no table .*; save it again"),
        (lambda: write("t.csv", b"a,b\nx,y\n"), {}, "has 2 columns of words .a, b.; name the texts with --column"),
        (lambda: write("t.csv", b"a,b\n1,2\n"), {}, "has 0 columns of words .none.; name"),
        (lambda: write("t.csv", b"a,b\nx,y\n"), {"column": "c"}, "has no column 'c'; name another with --column"),
        (lambda: write("t.csv", b"a,b\nx,y\n"), {"id_column": "c"}, "has no column 'c'; name another with --id"),
        (lambda: write("t.csv", b"id,text\n1,y\n1,z\n"), {}, "1 ids are repeated; give every text its own"),
        (lambda: write("t.csv", b"id,text\n1,y\n2,\n"), {}, "1 texts are missing .first: row 1.; drop"),
    ],
)
def test_what_holds_no_samples_is_one_sentence(make, options, match):
    with pytest.raises(DataError, match=match) as caught:
        read_inputs(make(), **options)
    assert "\n" not in str(caught.value)


def test_a_picture_that_is_none_is_named_when_it_is_read():
    write("p/a.png", b"no picture")
    found = read_inputs("p")
    with pytest.raises(DataError, match=r"a.png is no picture that can be read; repair it or take it out"):
        found.load([0])
