"""The answer in plain words: every kind of verdict has one, its numbers are the tables', and so are the commands."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from invariances import Verdict, discover
from invariances.answers import RELATION, answer, next_steps
from invariances.cli import main
from invariances.ladders import SMALLEST_FIRST

N, D = 600, 6


def found(top1=(0.93, 0.91), low=0.9, chance=0.002):
    ends = [("old", "new"), ("new", "old")]
    return pd.DataFrame(
        [
            {"model_a": a, "model_b": b, "n_anchors": 500, "gallery": 500, "top1": score, "top1_low": low}
            | {"top1_high": 0.95, "top1_chance": chance}
            for (a, b), score in zip(ends, top1, strict=True)
        ]
    )


def test_every_class_has_its_words():
    assert set(RELATION) == set(SMALLEST_FIRST)
    said = {name: answer(Verdict(name, 0.9, False, 2), found(), None) for name in SMALLEST_FIRST}
    assert len(set(said.values())) == len(SMALLEST_FIRST)
    assert said["orthogonal+translation"] == (
        "new is old turned and shifted, which explains 90 % of the held-out variance (mean of both "
        "directions); a map fitted on 500 pairs carries old's vectors into new's space and finds the right "
        "counterpart among 500 for 93 of 100 held-out samples (90 to 95; 91 the other way, 1 in 500 by "
        "chance)."
    )


def test_weak_none_undecided_and_unequal_widths_are_said():
    assert "only loosely related to old" in answer(Verdict("affine", 0.3, True, 2), found(), None)
    none = answer(Verdict("none", 0.0, False, 2), found((0.002, 0.0), 0.0), None)
    assert none.startswith("old and new are not related by any map that was tried")
    assert "0 of 100" in none
    few = answer(Verdict("none", 0.0, False, 2, undecided=True, anchors_needed=66), found(), None)
    assert few == (
        "500 pairs are too few to tell how these spaces are related; give at least 66 (--anchors, anchors= in Python)."
    )
    assert "onto fewer axes, where it keeps lengths" in answer(
        Verdict("orthogonal", 0.9, False, 2, unequal_widths=True), found(), None
    )
    assert "semi-orthogonal" in str(Verdict("orthogonal", 0.9, False, 2, unequal_widths=True))
    assert "semi-orthogonal" not in str(Verdict("affine", 0.9, False, 2, unequal_widths=True))


SOURCES = {"old": "my old.npy", "new": "new.npy"}


def test_the_next_steps_are_commands_for_these_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in SOURCES.values():
        Path(name).touch()
    steps = next_steps(Verdict("orthogonal", 0.9, False, 2), found(), SOURCES, labelled=False)
    assert "invariances map fit 'my old.npy' new.npy -o a2b.safetensors" in steps[0]
    assert "map score a2b.safetensors" in steps[1]
    assert "--labels" in steps[2]
    assert len(next_steps(Verdict("orthogonal", 0.9, False, 2), found(), SOURCES, labelled=True)) == 2
    few = next_steps(Verdict("none", 0, False, 2, undecided=True, anchors_needed=66), found(), SOURCES, False)
    assert few == ["Give more pairs: invariances discover 'my old.npy' new.npy --anchors 66"]
    tables = next_steps(Verdict("orthogonal", 0.9, False, 2), found(), SOURCES, False, " --id doc", " --anchors 20")
    assert "invariances map fit 'my old.npy' new.npy --id doc -o a2b.safetensors" in tables[0]
    assert "new.npy --id doc --anchors 20 --labels" in tables[2]
    in_python = next_steps(Verdict("orthogonal", 0.9, False, 2), found(), {"old": "old", "new": "new"}, labelled=True)
    assert "invariances.fit_map(a, b)" in in_python[0]
    lost = next_steps(Verdict("none", 0, False, 2), found((0.002, 0.002), 0.0), SOURCES, False)
    assert "row i is the same sample" in lost[0]
    assert "embed everything again" in lost[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D))
    turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
    np.save(tmp_path / "old.npy", x)
    np.save(tmp_path / "new.npy", x @ turn + 0.05 * rng.normal(size=x.shape))
    np.save(tmp_path / "shuffled.npy", (x @ turn)[rng.permutation(N)])
    pd.DataFrame({"label": np.where(x[:, 0] > 0, "yes", "no")}).to_csv(tmp_path / "labels.csv", index=False)
    monkeypatch.chdir(tmp_path)


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["invariances", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return out


def test_the_command_begins_with_the_answer(folder, monkeypatch, capsys):
    out = command(monkeypatch, capsys, "discover", "old.npy", "new.npy", "--anchors", "100", "--labels", "labels.csv")
    first, steps, *_ = out.split("\n\n")
    assert re.match(r"new is old turned, which explains \d+ % .* for (9\d|100) of 100 held-out samples", first)
    assert re.search(r"A linear head of \w+ keeps (9\d|10\d) % of its accuracy", first)
    assert steps.startswith("- Fit and save the map: invariances map fit old.npy new.npy -o a2b.safetensors")


def test_a_shuffled_file_is_suspected(folder, monkeypatch, capsys):
    out = command(monkeypatch, capsys, "discover", "old.npy", "shuffled.npy", "--anchors", "100")
    assert out.startswith("old and shuffled are not related by any map")
    assert "a shuffled file looks unrelated" in out


def test_json_is_all_that_is_printed_and_holds_what_python_has(folder, monkeypatch, capsys):
    arguments = ["discover", "old.npy", "new.npy", "--anchors", "100", "--labels", "labels.csv", "--json"]
    said = json.loads(command(monkeypatch, capsys, *arguments))
    labels = pd.read_csv("labels.csv").label
    report = discover({"old": "old.npy", "new": "new.npy"}, anchors=100, labels=labels.to_numpy())
    assert said["rows_matched"] == ""
    assert said == json.loads(json.dumps(report.to_dict()))
    assert said["verdict"]["invariance"] == "orthogonal"
    assert said["answer"] == report.answer
    assert said["retrieval"][0]["top1"] == pytest.approx(report.retrieval.top1[0])
    assert repr(report).startswith(report.answer)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("absent.csv", None, "labels: there is no file absent.csv; give"),
        ("l.json", "[]", "l.json is not read; give an .npy"),
        ("l.csv", "a,b\n1,2\n", "has 2 columns beside the ids .a, b.; keep the one"),
        ("l.csv", "a\n1\n", "one label for each of the 600 rows"),
        ("l.npy", "x", "is damaged"),
    ],
)
def test_labels_that_cannot_be_read_are_one_sentence(name, content, match, folder, monkeypatch, capsys):
    if content is not None:
        Path(name).write_text(content)
    monkeypatch.setattr(
        "sys.argv", ["invariances", "discover", "old.npy", "new.npy", "--anchors", "9", "--labels", name]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert out == ""
    assert re.search(match, err), err
    assert len(err.splitlines()) == 1


def test_no_report_replaces_labels_or_anchors(folder, monkeypatch, capsys):
    Path("anchors.txt").write_text("\n".join(map(str, range(100))))
    arguments = ["discover", "old.npy", "new.npy", "--anchors", "anchors.txt", "--labels", "labels.csv", "--force"]
    for name in ("anchors.txt", "labels.csv"):
        before = Path(name).read_bytes()
        monkeypatch.setattr("sys.argv", ["invariances", *arguments, "--html", name])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert "is one of the inputs" in capsys.readouterr().err
        assert Path(name).read_bytes() == before


def test_labels_have_ids_only_where_they_have_the_column(folder, monkeypatch, capsys):
    plain = pd.read_csv("labels.csv")
    plain.assign(doc=[f"d{i}" for i in range(N)]).sample(frac=1, random_state=0).to_csv("by-id.csv", index=False)
    for name in ("old", "new"):
        frame = pd.DataFrame(np.load(f"{name}.npy")).add_prefix("x").assign(doc=[f"d{i}" for i in range(N)])
        frame.to_parquet(f"{name}.parquet", index=False)
    arguments = ["discover", "old.parquet", "new.parquet", "--id", "doc", "--anchors", "100", "--json", "--labels"]
    said = [
        json.loads(command(monkeypatch, capsys, *arguments, name))["retention"] for name in ("labels.csv", "by-id.csv")
    ]
    assert said[0] == said[1]
