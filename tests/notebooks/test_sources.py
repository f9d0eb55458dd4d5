"""The source notebooks: parameterised, without outputs, equal to their scripts."""

from pathlib import Path

import jupytext
import nbformat
import pytest

from invariances.paper.rows import SECTIONS, dataset_names
from invariances.paper.settings import Settings

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(params=SECTIONS)
def section(request):
    return request.param


def _cells(section):
    return nbformat.read(NOTEBOOKS / f"{section}.ipynb", as_version=4).cells


def test_has_no_outputs(section):
    for cell in _cells(section):
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_cells_equal_those_of_the_script(section):
    script = jupytext.read(NOTEBOOKS / f"{section}.py").cells

    def content(cells):
        return [(c.cell_type, c.source, c.metadata.get("tags", []), c.metadata.get("mystnb")) for c in cells]

    assert content(_cells(section)) == content(script)


def test_parameters_cell_declares_exactly_the_settings_with_help(section):
    import papermill

    declared = papermill.inspect_notebook(str(NOTEBOOKS / f"{section}.ipynb"))
    assert set(declared) == set(Settings.model_fields) - {"section"}
    for name, parameter in declared.items():
        assert parameter["help"], name
        assert parameter["inferred_type_name"] not in ("None", ""), name
    for dataset in dataset_names(section):
        assert dataset in declared["datasets"]["help"]


def test_defaults_equal_those_of_the_settings(section):
    import ast

    import papermill

    declared = papermill.inspect_notebook(str(NOTEBOOKS / f"{section}.ipynb"))
    for name, parameter in declared.items():
        assert ast.literal_eval(parameter["default"]) == Settings.model_fields[name].default, name


def test_parameters_are_checked_before_anything_is_imported_that_takes_time(section):
    code = [cell.source for cell in _cells(section) if cell.cell_type == "code"]
    assert "read" in code[1]
    assert "sections" not in code[1]
