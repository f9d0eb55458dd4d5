"""The project's own rules: one environment, one direction of imports, a quick command."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

import invariances

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMED = [
    "jupyter-book",
    "jupytext",
    "papermill",
    "torch",
    "torchvision",
    "transformers",
    "datasets",
    "seaborn",
    "pandas",
]


def _requirements():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {re.split(r"[<>=!~[]", line)[0] for group in groups for line in group}


def _pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def test_environment_yml_gives_what_make_install_gives():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip[0] == "--constraint constraints.txt"
    extras = re.search(r"\[(.*)\]", pip[1]).group(1)
    assert f"EXTRAS := {extras}" in (ROOT / "Makefile").read_text()
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    python = next(d for d in plain if d.startswith("python=")).split("=")[1]
    least = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.split("."))) >= tuple(map(int, least.split(".")))


def test_the_named_packages_are_required_and_pinned():
    assert set(NAMED) <= _requirements()
    pins = _pins()
    assert set(NAMED) <= set(pins)
    assert pins["jupyter-book"].startswith("1.")
    assert {name for name in _requirements() if name.lower() not in pins} == set()


def test_constraints_name_no_index():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "@" not in text


def test_version_is_the_same_everywhere():
    assert invariances.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}" in (ROOT / "CITATION.cff").read_text()


def test_public_names_resolve():
    for name in invariances.__all__:
        assert getattr(invariances, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        _ = invariances.nothing


def _python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **environment},
    ).stdout


@pytest.mark.parametrize("module", ["invariances", "invariances.cli", "invariances.paper.settings"])
def test_what_starts_first_imports_nothing_heavy(module):
    loaded = json.loads(_python(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"))
    assert not {"torch", "pandas", "transformers", "datasets", "matplotlib", "papermill"} & set(loaded)


def test_import_contract_holds():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_public_functions_have_types_and_docstrings():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "src"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def _command(*arguments, **environment):
    return subprocess.run(
        [str(Path(sys.executable).with_name("invariances")), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_help_shows_examples_and_the_environment():
    done = _command("--help", COLUMNS="100")
    assert done.returncode == 0
    for word in (
        "Examples",
        "INVARIANCES_DATA",
        "INVARIANCES_HOME",
        "INVARIANCES_CLUSTER",
        "run",
        "book",
        "data",
        "discover",
    ):
        assert word in done.stdout


def test_version_option():
    assert _command("--version").stdout.strip() == f"invariances {invariances.__version__}"


def test_data_lists_every_set_without_a_network(tmp_path):
    start = time.monotonic()
    done = _command("data", INVARIANCES_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("missing") >= 8
    assert "ylecun/mnist" in done.stdout
    assert time.monotonic() - start < 30  # the issue is a hang: the libraries' own retries take far longer


def test_dry_run_trains_nothing(tmp_path):
    done = _command("run", "initialization", "--dry-run", "-p", "datasets", "mnist", INVARIANCES_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "digits (stand-in for mnist)" in done.stdout
    assert not (tmp_path / "models").exists()


def test_discover_command_on_files(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 8)) * np.linspace(2, 0.5, 8)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", x @ rotation)
    page = tmp_path / "r.html"
    done = _command(
        "discover", str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), "--anchors", "100", "--html", str(page)
    )
    assert done.returncode == 0, done.stderr
    assert "'orthogonal'" in done.stdout
    assert page.is_file()
    done = _command("discover", str(tmp_path / "a.npy"), str(tmp_path / "none.npy"))
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
