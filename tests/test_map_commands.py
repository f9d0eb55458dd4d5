"""`invariances map`: a planted map from end to end, both exits of the gate, and what cannot be used in one sentence."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest
import torch

from invariances import read_map
from invariances.cli import main

N, D = 900, 12


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 6)) @ rng.normal(size=(6, D)) + 0.3 * rng.normal(size=(N, D)) + 0.5
    y = x @ np.linalg.qr(rng.normal(size=(D, D)))[0] + 0.01 * rng.normal(size=x.shape)
    monkeypatch.chdir(tmp_path)
    ids = [f"doc{i}" for i in range(N)]
    for name, rows in (("", slice(0, 500)), ("2", slice(500, N))):
        np.save(f"old{name}.npy", x[rows])
        np.save(f"new{name}.npy", y[rows])
        pd.DataFrame({"doc": ids[rows], "vec": list(x[rows])}).to_parquet(f"old{name}.parquet")
        shuffled = pd.DataFrame({"doc": ids[rows], "vec": list(y[rows])}).sample(frac=1, random_state=0)
        shuffled.to_parquet(f"new{name}.parquet")
    np.save("unrelated.npy", rng.normal(size=(400, D)))


@pytest.fixture
def command(monkeypatch, capsys):
    def run(line, status=0):
        monkeypatch.setattr("sys.argv", ["invariances", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == status, (out, err)
        return out, err

    return run


def test_from_pairs_to_a_decision_and_mapped_vectors(command):
    out, _ = command("map fit old.npy new.npy -o a2b.safetensors")
    assert out.startswith("The map is of the kind rotation: ")
    assert "Among 100 samples that it has not seen, a mapped vector finds its counterpart first for" in out
    out, _ = command("map score a2b.safetensors old2.npy new2.npy --gate 0.9")
    assert out.startswith("The map passes the gate of 0.9")
    command("map apply a2b.safetensors old2.npy -o mapped.npy --quiet")
    mapped = np.load("mapped.npy")
    np.testing.assert_allclose(mapped, read_map("a2b.safetensors")(torch.from_numpy(np.load("old2.npy"))), atol=1e-4)
    assert np.abs(mapped - np.load("new2.npy")).mean() < 0.02
    command("map export a2b.safetensors -o a2b.onnx")
    assert pathlib.Path("a2b.onnx").stat().st_size > 4 * D * D


def test_tables_are_matched_by_their_ids(command):
    command("map fit old.npy new.npy -o plain.safetensors")
    _, err = command("map fit old.parquet new.parquet --id doc -o a2b.safetensors")
    assert "Rows are matched by their ids: 500 are in every space, in different orders" in err
    one, other = read_map("plain.safetensors"), read_map("a2b.safetensors")
    torch.testing.assert_close(one.weight, other.weight)
    command("map apply a2b.safetensors old2.parquet -o mapped.parquet --id doc --quiet")
    assert list(pd.read_parquet("mapped.parquet").doc) == [f"doc{i}" for i in range(500, N)]


@pytest.mark.parametrize("new", ["unrelated.npy", "shuffled"])
def test_below_the_gate_the_status_is_one_and_one_sentence_says_why(new, command):
    command("map fit old.npy new.npy -o a2b.safetensors")
    if new == "shuffled":
        np.save("shuffled.npy", np.random.default_rng(0).permutation(np.load("new2.npy")))
        new = "shuffled.npy"
    out, err = command(f"map score a2b.safetensors old2.npy {new}", status=1)
    assert out.startswith("The map fails the gate of 0.9")
    assert err.strip() == "invariances: the map is below the gate; embed everything again, or give more pairs"


def test_the_score_as_json_is_all_that_is_printed(command):
    command("map fit old.npy new.npy -o a2b.safetensors")
    said = json.loads(command("map score a2b.safetensors old2.npy new2.npy --json")[0])
    assert said["passed"] is True
    assert said["samples"] == 400
    assert said["overlap"]["low"] >= said["gate"] == 0.9
    assert [line["vectors"] for line in said["table"]][:2] == ["embedded anew", "mapped"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("map fit old.npy absent.npy -o m.safetensors", "there is no file absent.npy"),
        ("map fit old.npy new.npy -o old.npy", "old.npy is one of the inputs"),
        ("map fit old.npy new.npy -o no/m.safetensors", "is not there; make it first"),
        ("map fit old.npy new2.npy -o m.safetensors", "different numbers of rows"),
        ("map fit old.npy new.npy -o m.safetensors --kind bent", "unknown kind 'bent'; choose from auto"),
        ("map fit old.npy new.npy -o m.safetensors --pairs 3", "the number of pairs (--pairs, most_pairs=) is 3; give"),
        ("map apply new.npy old.npy -o m.npy", "new.npy holds no map; give a file"),
        ("map apply a2b.safetensors absent -o m.npy", "there is no file absent"),
        ("map apply a2b.safetensors old.npy -o old.npy", "is the input or lies in it"),
        ("map apply a2b.safetensors old.npy -o m.txt.csv", "would be a .csv file; give"),
        ("map score a2b.safetensors old.npy new.npy", "are among those that the map was fitted on"),
        ("map score a2b.safetensors old2.npy new2.npy --gate 2", "gate is 2.0; give a share"),
        ("map export a2b.safetensors -o old.npy", "give --force"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_nothing_is_written(line, said, command):
    command("map fit old.npy new.npy -o a2b.safetensors")
    before = {path: path.stat().st_size for path in pathlib.Path().iterdir()}
    out, err = command(line, status=1)
    assert out == ""
    assert said in err
    assert err.count("invariances: ") == 1
    assert {path: path.stat().st_size for path in pathlib.Path().iterdir()} == before
