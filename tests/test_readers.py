"""What people have of embeddings is read, as it is, from every kind of source; rows are matched by their ids."""

import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from invariances import align, compare, discover
from invariances.errors import SpaceError
from invariances.readers import Embeddings, as_tensor, located, read
from invariances.samples import read_anchors
from invariances.spaces import open_spaces, read_space
from invariances.tabular import ParquetRows

N, D = 30, 3
X = np.random.default_rng(0).normal(size=(N, D))
IDS = [f"doc{i}" for i in range(N)]
NAMES = [f"x{i}" for i in range(D)]


def frame(x=X, ids=IDS):
    return pd.DataFrame(x, index=ids, columns=NAMES)


def listed(x=X, ids=IDS, column="embedding"):
    return pd.DataFrame({"id": ids, column: list(x)})


def stored(kind, folder):
    """The same matrix in a file of every kind; whether its ids are in it."""
    path = folder / kind.replace(" ", "_")
    if kind == "npz":
        np.savez(path.with_suffix(".npz"), emb=X)
        return path.with_suffix(".npz"), False
    if kind == "npz with ids":
        np.savez(path.with_suffix(".npz"), emb=X, ids=np.array(IDS))
        return path.with_suffix(".npz"), True
    if kind.startswith("csv"):
        path = path.with_suffix(".csv")
        {
            "csv": lambda: frame().to_csv(path, index=False),
            "csv without names": lambda: frame().to_csv(path, index=False, header=False),
            "csv with counted names": lambda: pd.DataFrame(X).to_csv(path, index=False),
            "csv with an index": lambda: frame().to_csv(path),
            "csv of lists": lambda: listed(X.tolist()).to_csv(path, index=False),
        }[kind]()
        return path, kind in ("csv with an index", "csv of lists")
    if kind == "tsv":
        frame().to_csv(path.with_suffix(".tsv"), index=False, sep="\t")
        return path.with_suffix(".tsv"), False
    if kind == "shards":
        path.mkdir()
        for i, rows in enumerate(np.array_split(np.arange(N), 12)):  # part-10 follows part-9, not part-1
            listed(X[rows], np.array(IDS)[rows]).to_parquet(path / f"part-{i}.parquet")
        return path, True
    path = path.with_suffix(".parquet")
    {
        "parquet": lambda: frame().reset_index(drop=True).to_parquet(path),
        "parquet with an index": lambda: frame().to_parquet(path),
        "parquet of lists": lambda: listed().to_parquet(path),
    }[kind]()
    return path, kind != "parquet"


KINDS = [
    "npz",
    "npz with ids",
    "csv",
    "csv without names",
    "csv with counted names",
    "csv with an index",
    "csv of lists",
    "tsv",
    "parquet",
    "parquet with an index",
    "parquet of lists",
    "shards",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_its_values_and_ids(kind, tmp_path):
    path, with_ids = stored(kind, tmp_path)
    found = read(path)
    np.testing.assert_array_equal(np.asarray(found.values), X)
    assert (found.ids is not None) == with_ids
    if with_ids:
        assert list(found.ids) == IDS
    torch.testing.assert_close(read_space(path), torch.from_numpy(X), rtol=0, atol=0)


@pytest.mark.parametrize(
    "source",
    [
        X.tolist(),
        tuple(map(tuple, X)),
        list(X),
        list(torch.from_numpy(X)),
        frame(),
        pd.Series(list(X)),
        Embeddings(X),
    ],
    ids=["lists", "tuples", "arrays", "tensors", "frame", "series", "embeddings"],
)
def test_what_is_in_memory_gives_its_values(source):
    torch.testing.assert_close(read_space(source), torch.from_numpy(X), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("kind", ["array", "tensor", "npy", "safetensors", "csv", "parquet", "frame"])
def test_quantized_vectors_keep_their_values(dtype, kind, tmp_path):
    q = np.random.default_rng(1).integers(0 if dtype == "uint8" else -128, 128, size=(N, D)).astype(dtype)
    path = tmp_path / f"q.{kind}"
    if kind == "npy":
        np.save(path, q)
    elif kind == "safetensors":
        save_file({"q": torch.from_numpy(q)}, path)
    elif kind == "csv":
        pd.DataFrame(q, columns=NAMES).to_csv(path, index=False)
    elif kind == "parquet":
        pd.DataFrame(q, columns=NAMES).to_parquet(path)
    source = {"array": q, "tensor": torch.from_numpy(q), "frame": pd.DataFrame(q)}.get(kind, path)
    space = read_space(source)
    assert space.dtype == torch.float32
    np.testing.assert_array_equal(space.numpy(), q)


def test_whole_numbers_that_are_no_quantized_vectors_are_refused():
    for source in (np.arange(12).reshape(6, 2), pd.DataFrame(np.arange(300).reshape(100, 3))):
        with pytest.raises(SpaceError, match=r"floating-point numbers, .*int8 or uint8"):
            read_space(source)


# What in a file is meant -------------------------------------------------------------------------


def test_one_of_several_is_named_behind_a_colon(tmp_path):
    save_file({"layer3": torch.from_numpy(X), "layer4": torch.from_numpy(2 * X)}, tmp_path / "two.safetensors")
    np.savez(tmp_path / "two.npz", a=X, b=2 * X)
    listed().assign(other=list(2 * X)).to_parquet(tmp_path / "two.parquet")
    for name in ("two.safetensors:layer4", "two.npz:b", "two.parquet:other"):
        np.testing.assert_array_equal(read_space(f"{tmp_path}/{name}").numpy(), 2 * X)
    with pytest.raises(SpaceError, match=r"holds no tensor 'layer5'; it holds layer3, layer4"):
        read_space(f"{tmp_path}/two.safetensors:layer5")
    with pytest.raises(SpaceError, match=r"holds 2 tensors .*; name one, e.g. two.safetensors:layer3"):
        read_space(f"{tmp_path}/two.safetensors")


def test_a_file_whose_name_has_a_colon_is_itself(tmp_path):
    np.save(tmp_path / "run:3.npy", X)
    assert located(f"{tmp_path}/run:3.npy") == (tmp_path / "run:3.npy", None)
    np.testing.assert_array_equal(read_space(f"{tmp_path}/run:3.npy").numpy(), X)


def test_columns_are_chosen_by_name_and_pattern(tmp_path):
    table = frame().assign(label=1, doc=IDS)
    table.to_parquet(tmp_path / "t.parquet", index=False)
    found = read(tmp_path / "t.parquet", column="x*", id_column="doc")
    np.testing.assert_array_equal(found.values, X)
    assert list(found.ids) == IDS
    np.testing.assert_array_equal(read(table, column="x1").values, X[:, 1:2])
    for given_, match in (
        ({"column": "y*"}, "has no column 'y.'; it has x0, x1, x2, label, doc"),
        ({"id_column": "nr"}, "has no column 'nr' for ids"),
        ({}, "whole numbers .label. beside its features; name the features with --column"),
    ):
        with pytest.raises(SpaceError, match=match):
            read(tmp_path / "t.parquet", **given_)


def test_no_pickle_is_read_in_an_archive_or_a_table(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "a.npz", x=np.array([Trap()], dtype=object))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Trap()))
    (tmp_path / "c.parquet").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "d.csv").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.npz", "c.parquet", "d.csv"):
        with pytest.raises(SpaceError, match=r"is damaged"):
            read_space(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_vectors_that_cannot_be_one_matrix_are_named(tmp_path):
    for rows, match in (
        ([[1.0, 2.0], [1.0]], "vectors have from 1 to 2 numbers; give all rows vectors of one length"),
        ([[1.0], None], "1 row.s. have no vector .first: row 1.; drop"),
    ):
        pd.DataFrame({"v": rows}).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(SpaceError, match=match):
            read_space(tmp_path / "t.parquet")
    (tmp_path / "shards").mkdir()
    listed().to_parquet(tmp_path / "shards/a.parquet")
    frame().to_parquet(tmp_path / "shards/b.parquet")
    with pytest.raises(SpaceError, match=r"the columns of b.parquet are not those of a.parquet; make them one"):
        read_space(tmp_path / "shards")


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_batches_of_parquet_are_the_file(rows, tmp_path):
    path, _ = stored("shards", tmp_path)
    parts = list(ParquetRows(path, "space").batches(rows))
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), X)
    assert [each for part in parts for each in part.ids] == IDS
    assert max(len(part.values) for part in parts) <= rows


@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.binary(max_size=300), suffix=st.sampled_from(["npz", "csv", "tsv", "parquet"]), start=st.booleans())
def test_any_bytes_are_read_or_refused_in_one_sentence(content, suffix, start):
    magic = {"npz": b"PK\x03\x04", "parquet": b"PAR1"}.get(suffix, b"a,b\n1.0,2.0\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{suffix}"
        path.write_bytes(magic * start + content)
        try:
            assert torch.isfinite(read_space(path)).all()
        except SpaceError as error:
            assert "\n" not in str(error)


# Rows ------------------------------------------------------------------------------------------


def test_rows_are_matched_by_their_ids():
    shuffled = frame(2 * X).sample(frac=1, random_state=0)
    with pytest.warns(UserWarning, match=r"Rows are matched by their ids: 30 are in every space, in different orders"):
        opened = open_spaces({"a": frame(), "b": shuffled})
    np.testing.assert_array_equal(opened["b"].numpy(), 2 * opened["a"].numpy())
    assert list(opened.ids) == IDS


def test_left_over_rows_are_named():
    with pytest.warns(UserWarning, match=r"27 are in every space; left over: 2 of a \(doc0, doc1\), 1 of b \(doc29\)"):
        opened = open_spaces({"a": frame().iloc[:-1], "b": frame(2 * X).iloc[2:]})
    np.testing.assert_array_equal(opened["a"].numpy(), X[2:-1])
    np.testing.assert_array_equal(opened["b"].numpy(), 2 * X[2:-1])


def test_an_index_that_only_counts_is_no_id():
    a, b = pd.DataFrame(X), pd.DataFrame(X[::-1].copy())
    np.testing.assert_array_equal(open_spaces({"a": a, "b": b})["b"].numpy(), X[::-1])


def test_ids_of_numbers_match_the_same_written_out():
    a, b = frame(ids=range(100, 100 + N)), frame(2 * X, ids=map(str, range(100, 100 + N))).iloc[::-1]
    with pytest.warns(UserWarning, match=r"different orders"):
        opened = open_spaces({"a": a, "b": b})
    np.testing.assert_array_equal(opened["b"].numpy(), 2 * X)


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        (frame(), frame(ids=["doc0"] * N), "29 ids of b are repeated .first: doc0.; give every row its own"),
        (frame(), frame(ids=[f"other{i}" for i in range(N)]), "no row has an id that is in all of a, b; give"),
        (frame(), X[1:], "different numbers of rows .a 30, b 29.; embed the same samples .* give the ids of all rows"),
        (frame(ids=[None, *IDS[1:]]), X, "1 row.s. have no id .first: row 0.; fill them in"),
    ],
)
def test_rows_that_cannot_be_matched_are_refused(a, b, match):
    with pytest.raises(SpaceError, match=match):
        open_spaces({"a": a, "b": b})


def test_a_space_without_ids_is_refused_beside_spaces_in_other_orders():
    with pytest.raises(SpaceError, match=r"c has no ids, and those of a, b are not in one order; give it ids too"):
        open_spaces({"a": frame(), "b": frame().iloc[::-1], "c": X})


def test_files_and_frames_are_matched_alike(tmp_path):
    frame(2 * X).iloc[::-1].to_parquet(tmp_path / "b.parquet")
    with pytest.warns(UserWarning, match=r"different orders"):
        assert compare(frame(), tmp_path / "b.parquet", "cosine").score == pytest.approx(1)


# Anchors and labels -------------------------------------------------------------------------------

ROWS = [4, 9, 2, 17, 25, 11]


def anchors_as(kind, folder):
    mask = np.isin(np.arange(N), ROWS)
    ids = [IDS[row] for row in ROWS]
    path = folder / ("anchors.npy" if kind.endswith("npy") else "anchors.txt")
    if kind == "numbers.npy":
        np.save(path, ROWS)
    elif kind == "mask.npy":
        np.save(path, mask)
    elif kind == "ids.npy":
        np.save(path, ids)
    elif kind.endswith("txt"):
        lines = {"numbers.txt": ROWS, "mask.txt": mask, "ids.txt": ["id", *ids]}[kind]
        path.write_text("".join(f"{line}\n" for line in lines))
    return {"numbers": ROWS, "mask": mask, "list mask": mask.tolist(), "ids": ids}.get(kind, path)


@pytest.mark.parametrize(
    "kind",
    ["numbers", "mask", "list mask", "ids", "numbers.npy", "mask.npy", "ids.npy", "numbers.txt", "mask.txt", "ids.txt"],
)
def test_anchors_of_every_kind_are_the_same_rows(kind, tmp_path):
    opened = open_spaces({"a": frame(), "b": frame(2 * X)})
    assert set(opened.anchor_rows(anchors_as(kind, tmp_path))) == set(ROWS)


def test_anchors_count_the_rows_of_the_first_space_where_some_are_left_out():
    with pytest.warns(UserWarning):
        opened = open_spaces({"a": frame(), "b": frame(2 * X).iloc[3:]})
    assert opened.anchor_rows([4, 9]).tolist() == [1, 6]
    assert opened.anchor_rows(np.isin(np.arange(N), [4, 9])).tolist() == [1, 6]
    assert opened.anchor_rows(["doc9", "doc4"]).tolist() == [6, 1]
    with pytest.raises(SpaceError, match=r"1 anchors are no rows that all spaces have .first: 2.; give others"):
        opened.anchor_rows([2, 9])
    with pytest.raises(SpaceError, match=r"1 anchors are no rows .*first: doc2.*; give others"):
        opened.anchor_rows(["doc9", "doc2"])


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", "", "is empty; give one anchor in each line"),
        ("a.json", "[1]", "is not read; give an .npy, .txt, .csv or .tsv file"),
        ("a.npy", "x", "is damaged"),
        ("absent.txt", None, "there is no file .*; give a count"),
    ],
)
def test_a_file_of_anchors_that_cannot_be_read_is_refused(name, content, match, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SpaceError, match=match):
        read_anchors(tmp_path / name)


def test_labels_are_matched_by_their_index_or_count_the_first_space_s_rows():
    labels = pd.Series(np.arange(N) % 3, index=IDS)
    with pytest.warns(UserWarning):
        opened = open_spaces({"a": frame(), "b": frame(2 * X).iloc[3:].iloc[::-1]})
    for given_ in (labels, labels.iloc[::-1], labels.to_numpy(), labels.tolist()):
        assert list(opened.labels_of_rows(given_)) == list(np.arange(3, N) % 3)
    with pytest.raises(SpaceError, match=r"27 row.s. have no label of their own by id; give one for each"):
        opened.labels_of_rows(labels.rename(lambda name: f"no {name}"))


def test_a_permuted_frame_gives_the_tables_of_the_ordered_one():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 6))
    y = x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 0.1 * rng.normal(size=x.shape)
    ids = [f"doc{i}" for i in range(200)]
    a, b = (pd.DataFrame(each, index=ids) for each in (x, y))
    labels = pd.Series(np.arange(200) % 4, index=ids)
    known = discover({"a": x, "b": y}, anchors=60, labels=labels.to_numpy())
    with pytest.warns(UserWarning, match=r"different orders"):
        found = discover({"a": a, "b": b.sample(frac=1, random_state=1)}, anchors=60, labels=labels.sample(frac=1))
    pd.testing.assert_frame_equal(found.table, known.table)
    pd.testing.assert_frame_equal(found.ladder, known.ladder)
    with pytest.warns(UserWarning, match=r"different orders"):
        table = align({"a": a, "b": b.iloc[::-1]}, anchors=[f"doc{i}" for i in range(60)])
    pd.testing.assert_frame_equal(table, align({"a": x, "b": y}, anchors=np.arange(60)))


def test_samples_of_a_transform_may_be_a_frame():
    torch.testing.assert_close(as_tensor(frame(), "x"), torch.from_numpy(X))
