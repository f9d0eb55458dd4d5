"""The notebooks show the experiment: read their code cells from top to bottom, and you have it."""

import ast
import re
from pathlib import Path

import jupytext
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

import invariances
from invariances import zoo
from invariances.paper.rows import SECTIONS

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PAPER = Path(invariances.__file__).parent / "paper"
STEPS = {"zoo.train", "zoo.embed", "align", "stitch", "ladder", "interval"}
REMOVED = "remove-cell"


def _cells(section):
    return [cell for cell in jupytext.read(NOTEBOOKS / f"{section}.py").cells if cell.cell_type == "code"]


def _shown(section):
    """The code cells that are the experiment: neither parameters, nor the check of them, nor glue."""
    return [cell for cell in _cells(section) if not {"parameters", REMOVED} & set(cell.metadata.get("tags", []))]


def _calls(code):
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]


def _steps(code):
    return {name for name in (ast.unparse(call.func) for call in _calls(code)) if name in STEPS}


@pytest.mark.parametrize("section", SECTIONS)
def test_cells_are_few_short_and_say_one_thing_a_line(section):
    cells = _shown(section)
    assert len(cells) <= 18
    for cell in cells:
        lines = cell.source.splitlines()
        assert len(lines) <= 12, cell.source
        assert all(len(line) <= 100 for line in lines), cell.source
        assert all(";" not in line for line in lines), cell.source


@pytest.mark.parametrize("section", SECTIONS)
def test_nothing_is_removed_but_the_check_and_the_glue(section):
    removed = [cell.source for cell in _cells(section) if REMOVED in cell.metadata.get("tags", [])]
    assert len(removed) == 2
    assert "read(" in removed[0]
    assert "glue(" in removed[1]
    assert all("hide-input" in cell.metadata["tags"] for cell in _shown(section))
    assert not any("remove-input" in cell.metadata.get("tags", []) for cell in _cells(section))


@pytest.mark.parametrize("section", SECTIONS)
def test_the_steps_are_calls_of_public_names_in_their_order(section):
    code = "\n".join(cell.source for cell in _shown(section))
    steps = _steps(code)
    compares = {"align", "stitch"} if section == "stitching" else {"align"}
    assert steps == {"zoo.train", "zoo.embed", "ladder", "interval"} | compares
    imported = re.search(r"from invariances import (.*)", code).group(1).split(", ")
    assert set(imported) == {"zoo", *(steps - {"zoo.train", "zoo.embed"})}
    assert all(name in invariances.__all__ for name in imported if name != "zoo")
    assert {"train", "embed"} <= set(zoo.__all__)
    ends = {}  # a call runs where it closes: what stands in its arguments runs before it
    for call in _calls(code):
        ends.setdefault(ast.unparse(call.func), []).append((call.end_lineno, call.end_col_offset))
    places = [min(ends[step]) for step in ("zoo.train", "zoo.embed", "align", "interval", "ladder", "claims.judge")]
    assert places == sorted(places)


@pytest.mark.parametrize("section", SECTIONS)
def test_what_matters_stands_in_the_calls(section):
    calls = {}
    for call in _calls("\n".join(cell.source for cell in _shown(section))):
        calls.setdefault(ast.unparse(call.func), []).append({keyword.arg for keyword in call.keywords})
    assert all({"anchors", "invariances", "metrics"} <= given for given in calls["align"])
    assert all({"invariances", "quality"} <= given for given in calls.get("stitch", []))
    assert all({"anchors", "pairs"} <= given for given in calls["ladder"])


def test_no_function_of_the_paper_does_two_steps():
    names = {step.removeprefix("zoo.") for step in STEPS} - {"align", "stitch"} | {"compare"}
    found = {}
    for path in PAPER.rglob("*.py"):
        for function in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)):
            called = set()
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                name = ast.unparse(call.func).rpartition(".")[2]
                called.add("compare" if name in ("align", "stitch") else name)
            if len(called & names) > 1:
                found[f"{path.name}: {function.name}"] = called & names
    assert found == {}


def test_no_paragraph_stands_in_two_notebooks():
    seen = {}
    for section in SECTIONS:
        for cell in jupytext.read(NOTEBOOKS / f"{section}.py").cells:
            if cell.cell_type == "markdown":
                for paragraph in cell.source.split("\n\n"):
                    words = " ".join(paragraph.split())
                    if len(words) > 60 and "[](../reproduce.md)" not in words:
                        assert words not in seen, (section, seen[words], words)
                        seen[words] = section


def _executed(section, given, metric=None):
    """The namespace of a notebook whose cells were run one after the other, as "Run All" does."""
    shell = InteractiveShell()
    for cell in _cells(section):
        source = cell.source
        if "parameters" in cell.metadata.get("tags", []):
            source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in given.items())
        if metric:
            source = source.replace("metrics=(settings.metric,)", f"metrics=({metric!r},)")
        if "glue(" not in source:
            shell.run_cell(source, store_history=True).raise_error()
    return shell.user_ns


def test_another_metric_in_the_one_cell_changes_table_and_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"datasets": "mnist", "seeds": 2, "epochs": 1}
    default = _executed("initialization", given)
    own, drawn = default["whole"], default["_oh"]
    pictures = [value.alt for value in drawn.values() if hasattr(value, "alt")]
    changed = _executed("initialization", given, metric="cka")
    again = [value.alt for value in changed["_oh"].values() if hasattr(value, "alt")]
    assert set(changed["results"].metric) == {"cka"}
    assert (
        own.Measured[own.Row == "MNIST"].to_numpy() != changed["whole"].Measured[own.Row == "MNIST"].to_numpy()
    ).any()
    assert any(text.startswith("cosine") for text in pictures)
    assert any(text.startswith("cka") for text in again)
    assert isinstance(pd.read_csv(tmp_path / "initialization.csv"), pd.DataFrame)
