"""The notebooks executed: their tables' content, and how they end when they cannot run."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from invariances.notebooks import run_section
from invariances.paper.reported import ALIGNMENT, STITCHING
from invariances.paper.rows import FIVE_STARS, ROWS, SECTIONS
from invariances.zoo import store

ROOT = Path(__file__).parents[2]
PAPERMILL = [str(Path(sys.executable).with_name("papermill"))]
INVARIANCES = [str(Path(sys.executable).with_name("invariances"))]
SEEDS = {"initialization": 3, "architecture": 2, "training": 2, "stitching": 2}
REAL = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module", params=SECTIONS)
def executed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    given = {"profile": "smoke", "seeds": SEEDS[request.param], "epochs": 1, "samples": 300}
    notebook = run_section(request.param, given, folder, progress=False)
    return request.param, nbformat.read(notebook, as_version=4), pd.read_csv(folder / f"{request.param}.csv")


@pytest.mark.parametrize("section", ["initialization", "architecture", "training"])
def test_a_score_can_be_computed_by_hand_from_the_models_that_its_table_names(section, tmp_path):
    given = {"profile": "smoke", "seeds": 2, "epochs": 0, "samples": 300, "datasets": ROWS[section][0].dataset}
    run_section(section, given, tmp_path, progress=False)
    models = pd.read_csv(tmp_path / f"{section}_models.csv").set_index(["row", "model"])
    frame = pd.read_csv(tmp_path / f"{section}.csv")
    pair = frame[(frame.kind == "trained") & (frame.invariance == "relative")].iloc[-1]
    stored = [store.load("models", models.key[pair.row, pair[side]]).arrays for side in ("model_a", "model_b")]
    profiles = [unit(part["spaces.test"]) @ unit(part["spaces.pool"][: pair.n_anchors]).T for part in stored]
    cosines = (unit(profiles[0]) * unit(profiles[1])).sum(axis=1)
    assert pair.score == pytest.approx(cosines.mean(), abs=1e-5)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _texts(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield from (str(v) for k, v in output.get("data", {}).items() if k.startswith("text/"))


def test_every_row_of_the_paper_is_in_the_table_with_its_reported_numbers(executed):
    section, notebook, _ = executed
    shown = "\n".join(_texts(notebook))
    for row in ROWS[section]:
        assert row.name in shown
    reported = STITCHING if section == "stitching" else ALIGNMENT[section]
    for cells in reported.values():
        for cell in cells.values():
            assert f"{cell.mean:.2f} ± {cell.spread:.2f}" in shown


def test_stand_ins_are_named_and_nothing_is_judged(executed):
    _, notebook, frame = executed
    shown = "\n".join(_texts(notebook))
    assert "Smoke size" in shown
    assert "not judged at smoke size" in shown
    assert frame.data.str.contains("stand-in for").all()


def test_every_pair_is_there_once_with_its_null(executed):
    section, _, frame = executed
    if section == "stitching":
        real = frame[frame.control == "none"]
        assert real.groupby(["row", "invariance"]).size().to_dict().items() >= {("MNIST", "affine"): 2}.items()
        assert not real.duplicated(["row", "invariance", "model_a", "model_b"]).any()
        shared = {"same encoder", "same group"}  # of the row whose pairs are of two encoders
        assert set(frame.control) == {"none", "self-stitch", "untrained encoder", "shuffled anchors"} | shared
        assert real.score.notna().all()
        untrained = frame[frame.control == "untrained encoder"]
        assert set(untrained.groupby(["row", "invariance"]).groups) == set(real.groupby(["row", "invariance"]).groups)
        crossing = untrained[untrained.row == FIVE_STARS]
        assert (crossing.model_a == "untrained " + crossing.group_a).all()
        assert set(crossing[crossing.group_a != crossing.group_b].model_b) == set(crossing.model_b)
    else:
        assert not frame.duplicated(["row", "kind", "invariance", "model_a", "model_b"]).any()
        control = {"same initialization"} if section == "training" else set()
        assert set(frame.kind) == {"trained", "untrained", "self"} | control
        assert frame[["score", "null", "null_within_class"]].notna().all(axis=None)
        counts = frame[frame.kind == "trained"].groupby(["row", "invariance"]).size()
        models = SEEDS[section] * len(ROWS[section][0].variants)
        pairs = models * (models - 1) // 2
        assert (counts.xs("relative", level=1) == pairs).all()
        assert (counts.xs("affine", level=1) == 2 * pairs).all()


def test_raw_and_scale_coincide_under_cosine(executed):
    section, _, frame = executed
    if section != "stitching":
        keys = ["row", "kind", "model_a", "model_b"]
        raw, scale = (frame[frame.invariance == i].set_index(keys).score for i in ("absolute", "scale"))
        assert (raw - scale).abs().max() < 1e-5


def test_figures_have_text_for_those_who_cannot_see_them(executed):
    _, notebook, _ = executed
    with_picture = [
        c for c in notebook.cells if any("image/svg+xml" in o.get("data", {}) for o in c.get("outputs", []))
    ]
    assert with_picture
    for cell in with_picture:
        assert len(cell.metadata["mystnb"]["image"]["alt"]) > 30


def test_the_executed_notebook_holds_no_clock_and_no_progress_bar(executed):
    _, notebook, _ = executed
    text = nbformat.writes(notebook)
    assert "training models" not in text
    assert "start_time" not in text
    assert str(Path.home()) not in text


# How a run ends that cannot go on -----------------------------------------------------------------


def _run(command, tmp_path, **environment):
    return subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
        check=False,
    )


def _notebook(section="initialization"):
    return str(ROOT / "notebooks" / f"{section}.ipynb")


BAD = [
    ("sedes", "3", "seeds"),
    ("seeds", "many", "a whole number of at least 2"),
    ("seeds", "True", "a whole number of at least 2"),
    ("datasets", "mnits", "mnist, fashion-mnist, cifar-10"),
]


@pytest.mark.parametrize(("name", "value", "choices"), BAD[:2])
def test_papermill_ends_with_one_sentence_that_names_the_choices(name, value, choices, tmp_path):
    done = _run([*PAPERMILL, _notebook(), "out.ipynb", "-p", name, value], tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert last.startswith("invariances.errors.ParameterError") or last.startswith("ParameterError")
    assert choices in last


@pytest.mark.parametrize(("name", "value", "choices"), BAD)
def test_the_command_ends_with_one_sentence_and_leaves_nothing(name, value, choices, tmp_path):
    done = _run([*INVARIANCES, "run", "initialization", "-p", name, value, "--into", "out"], tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert choices in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.ipynb"))


def test_missing_data_end_in_one_sentence(tmp_path):
    command = [*INVARIANCES, "run", "initialization", "-p", "profile", "laptop", "-p", "datasets", "mnist", "--quiet"]
    done = _run([*command, "--into", "out"], tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "INVARIANCES_DATA" in last
    assert "ylecun/mnist" in last
    assert "data=builtin" in last
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.ipynb"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data samples are not beside the repository")
def test_real_mnist_is_trained_on_and_named(tmp_path):
    given = ["-p", "datasets", "mnist", "-p", "seeds", "2", "-p", "profile", "laptop", "-p", "epochs", "1"]
    given += ["-p", "samples", "500"]
    done = _run([*PAPERMILL, _notebook(), "out.ipynb", *given], tmp_path, INVARIANCES_DATA=str(REAL))
    assert done.returncode == 0, done.stderr[-2000:]
    shown = "\n".join(_texts(nbformat.read(tmp_path / "out.ipynb", as_version=4)))
    assert "Data used: mnist." in shown
    assert "stand-in" not in shown.replace("Embedded stand-in", "")
    frame = pd.read_csv(tmp_path / "initialization.csv")
    assert set(frame.row) == {"MNIST", "MNIST, reconstruction"}
    assert set(frame.n_train) == {500}
