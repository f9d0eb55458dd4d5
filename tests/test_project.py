"""The project's own rules: one environment, one direction of imports, a quick command."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import invariances
from invariances.zoo.pretrained import REGISTRY

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
    pins = _pins()
    assert pip[2:] == [f"{name}=={pins[name]}" for name in NAMED]
    python = next(d for d in plain if d.startswith("python=")).split("=")[1]
    least = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.split("."))) >= tuple(map(int, least.split(".")))


def test_the_named_packages_are_required_and_pinned():
    assert set(NAMED) <= _requirements()
    pins = _pins()
    assert set(NAMED) <= set(pins)
    assert pins["jupyter-book"].startswith("1.")
    assert {name for name in _requirements() if name.lower() not in pins} == set()


def test_the_encoders_packages_are_the_same_everywhere():
    (line,) = re.findall(r"^PRETRAINED := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.M)
    extra = PROJECT["optional-dependencies"]["pretrained"]
    assert line.replace("\\", " ").split() == extra
    asked = {package for entry in REGISTRY.values() if entry.host == "package" for package in entry.source.split()}
    assert asked == set(extra)
    pins = _pins()
    assert {f"{name}=={pins[name]}" for name in (package.split("==")[0] for package in extra)} == set(extra)


def test_constraints_name_no_index():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "@" not in text


def test_version_is_the_same_everywhere():
    assert PROJECT["dynamic"] == ["version"]
    assert f"version: {invariances.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"extra_footer: invariances {invariances.__version__} " in (ROOT / "_config.yml").read_text()
    assert f"## [{invariances.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


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
        timeout=600,
        check=True,
        env={**os.environ, **environment},
    ).stdout


@pytest.mark.parametrize("module", ["invariances", "invariances.cli", "invariances.paper.settings"])
def test_what_starts_first_imports_nothing_heavy(module):
    loaded = json.loads(_python(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"))
    assert not {"torch", "pandas", "transformers", "datasets", "matplotlib", "papermill"} & set(loaded)


def test_discover_starts_without_what_it_does_not_use():
    code = """
import json, sys
import numpy as np
import invariances
x, y = np.random.default_rng(0).normal(size=(2, 60, 4))
invariances.discover([x, y], anchors=30)
print(json.dumps(list(sys.modules)))
"""
    loaded = set(json.loads(_python(code)))
    assert {"torch", "pandas"} <= loaded
    assert not {"sklearn", "scipy", "seaborn", "matplotlib", "torchvision", "distributed"} & loaded


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


# The house -----------------------------------------------------------------------------------------

SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 450, 60
LONG = {"rank_prediction", "ladder", "align", "discover"}
"""Public functions whose documentation of parameters, results and rule makes them longer."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_file_and_its_functions_can_be_held_in_the_head(path):
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name not in LONG:
            assert node.end_lineno - node.lineno < FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_what_a_file_gives_is_listed_and_there(path):
    if path.name in ("cli.py", "__init__.py"):
        return
    tree = ast.parse(path.read_text())
    (listed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    given = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            given.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            given |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    assert set(listed) <= given


def test_the_workflow_tests_every_python_that_is_promised():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={versions[0]}"
