"""Any number of vectors through a map: the same as at once, in order, with their ids, however often it is stopped."""

import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from invariances import apply_map, fit_map, streaming
from invariances.errors import ParameterError, SpaceError

N, D, M = 1000, 6, 4
X = np.random.default_rng(0).normal(size=(N, D)).astype("f4") + 1
IDS = [f"doc{i}" for i in range(N)]


@pytest.fixture(scope="module")
def fitted():
    return fit_map(X, X @ np.random.default_rng(1).normal(size=(D, M)).astype("f4"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch, tmp_path):
    monkeypatch.setattr(streaming, "PART_ROWS", 300)
    monkeypatch.setattr(streaming, "BATCH_ROWS", 70)
    monkeypatch.chdir(tmp_path)


def shards(folder="shards", column="vec"):
    pathlib.Path(folder).mkdir()
    for i, rows in enumerate(np.array_split(np.arange(N), 11)):
        frame = pd.DataFrame({"doc": np.array(IDS)[rows], column: list(X[rows]), "text": "x"})
        frame.to_parquet(f"{folder}/part-{i}.parquet")
    return folder


def source(kind):
    if kind == "shards":
        return shards()
    path = f"x.{kind}"
    if kind == "npy":
        np.save(path, X)
    elif kind == "npz":
        np.savez(path, x=X, ids=np.array(IDS))
    elif kind == "safetensors":
        save_file({"x": torch.from_numpy(X)}, path)
    elif kind == "csv":
        pd.DataFrame(X, index=pd.Index(IDS, name="id")).add_prefix("x").to_csv(path)
    else:
        pd.DataFrame({"id": IDS, "vec": list(X)}).to_parquet(path)
    return path


def written(path):
    if str(path).endswith(".npy"):
        return None, np.load(path)
    frame = (
        pd.read_parquet(path)
        if pathlib.Path(path).is_file()
        else pd.concat(
            pd.read_parquet(name)
            for name in sorted(pathlib.Path(path).glob("*.parquet"), key=lambda place: int(place.stem.split("-")[1]))
        )
    )
    vectors = next(name for name in frame if name in ("vec", "embedding"))
    others = [name for name in frame if name != vectors]
    return (list(frame[others[0]]) if others else None), np.stack(frame[vectors].to_list())


@pytest.mark.parametrize("into", ["out", "out.parquet", "out.npy"])
@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "csv", "parquet", "shards"])
def test_all_is_carried_in_order_with_its_ids(kind, into, fitted):
    steps = []
    done = apply_map(
        fitted,
        source(kind),
        into,
        id_column="doc" if kind == "shards" else None,
        progress=lambda done, total: steps.append((done, total)),
    )
    ids, found = written(into)
    np.testing.assert_allclose(found, fitted(torch.from_numpy(X)).numpy(), rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32
    if into != "out.npy":
        assert ids == (None if kind in ("npy", "safetensors") else IDS)
    assert (done.rows, done.reused, steps[-1]) == (N, 0, (N, N))
    assert steps == sorted(steps)
    assert list(pathlib.Path().glob(".*")) == []


@pytest.mark.parametrize("kind", ["npy", "shards"])
@pytest.mark.parametrize("into", ["out", "out.parquet", "out.npy"])
def test_stopped_it_goes_on_with_what_is_finished(kind, into, fitted):
    given = source(kind)

    class Stopped(Exception):
        pass

    def stop(after):
        def progress(done, total):
            if done > after:
                raise Stopped

        return progress

    ids = {"id_column": "doc"} if kind == "shards" else {}
    with pytest.raises(Stopped):
        apply_map(fitted, given, into, **ids, progress=stop(700))
    done = apply_map(fitted, given, into, **ids)
    assert 300 <= done.reused <= 700
    apply_map(fitted, given, "at-once" + into[3:], **ids)
    for one, other in zip(written(into), written("at-once" + into[3:]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_killed_it_goes_on_and_ends_with_the_same_bytes(fitted):
    shards()
    fitted.save("m.safetensors")
    code = (
        "import sys, time; from invariances import apply_map, read_map, streaming; streaming.BATCH_ROWS = 70; "
        "apply_map(read_map('m.safetensors'), 'shards', 'out', id_column='doc', progress=lambda *_: time.sleep(0.05))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.time() + 300
    while not pathlib.Path("out/part-3.parquet").exists() and time.time() < deadline and worker.poll() is None:
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait(300)
    done = apply_map(fitted, "shards", "out", id_column="doc")
    assert 300 < done.reused < N
    apply_map(fitted, "shards", "at-once", id_column="doc")
    for i in range(11):
        with (
            pathlib.Path(f"out/part-{i}.parquet").open("rb") as one,
            pathlib.Path(f"at-once/part-{i}.parquet").open("rb") as other,
        ):
            assert one.read() == other.read()


def test_another_map_or_input_does_not_go_on_in_the_same_folder(fitted):
    given = source("npy")
    apply_map(fitted, given, "out")
    other = fit_map(X, X @ np.random.default_rng(2).normal(size=(D, M)).astype("f4"))
    with pytest.raises(ParameterError, match="parts of other work; give --force"):
        apply_map(other, given, "out")
    np.save("x.npy", X[:500])
    with pytest.raises(ParameterError, match="parts of other work; give --force"):
        apply_map(fitted, "x.npy", "out")
    apply_map(fitted, "x.npy", "out", force=True)
    assert len(written("out")[1]) == 500


def test_somebody_s_files_are_kept(fitted):
    given = source("npy")
    pathlib.Path("out").mkdir()
    with pathlib.Path("out/notes.txt").open("w") as file:
        file.write("mine")
    np.save("out.npy", X)
    for into in ("out", "out.npy"):
        with pytest.raises(ParameterError, match="give --force"):
            apply_map(fitted, given, into)
    apply_map(fitted, given, "out", force=True)
    assert pathlib.Path("out/notes.txt").exists()


@pytest.mark.parametrize("into", ["x.npy", "./x.npy", "shards", "shards/new"])
def test_no_output_is_the_input(into, fitted):
    source("npy")
    shards()
    before = sorted(pathlib.Path("shards").iterdir())
    with pytest.raises(ParameterError, match="is the input or lies in it; give"):
        apply_map(fitted, "shards" if "shards" in into else "x.npy", into, id_column="doc")
    assert sorted(pathlib.Path("shards").iterdir()) == before
    np.testing.assert_array_equal(np.load("x.npy"), X)


def changed(rows, value):
    x = X.copy()
    x[rows] = value
    return x


@pytest.mark.parametrize(
    ("given", "into", "match"),
    [
        (X[:, 1:], "out.npy", "vectors of shape .5,., the map takes 6 features; give"),
        (changed(905, np.nan), "out.npy", "row 905 of the input holds NaN or infinity; repair"),
        (10 * X, "out.npy", "the input does not look like the vectors .*; give vectors of the same model, or insist"),
        (X, "out.csv", "out.csv would be a .csv file; give a .parquet or .npy file, or a folder"),
        (X, "no/out.npy", "is not there; make it first"),
    ],
)
def test_what_cannot_be_carried_is_one_sentence_and_leaves_nothing(given, into, match, fitted):
    np.save("x.npy", given)
    with pytest.raises((SpaceError, ParameterError), match=match):
        apply_map(fitted, "x.npy", into)
    assert not pathlib.Path(into).exists()


def test_one_may_insist(fitted):
    np.save("x.npy", 10 * X)
    apply_map(fitted, "x.npy", "out.npy", insist=True)
    np.testing.assert_allclose(np.load("out.npy"), fitted(torch.from_numpy(10 * X)), rtol=1e-5, atol=1e-4)


def test_a_damaged_shard_is_named_and_the_others_stay(fitted):
    shards()
    with pathlib.Path("shards/part-5.parquet").open("r+b") as file:
        file.seek(100)
        file.write(b"\0" * 600)
    with pytest.raises(SpaceError, match=r"part-5\.parquet is damaged, .*; save it again"):
        apply_map(fitted, "shards", "out", id_column="doc")
    assert pathlib.Path("out/part-4.parquet").exists()
    assert not pathlib.Path("out/part-5.parquet").exists()
