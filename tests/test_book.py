import nbformat
import pytest

from invariances import book
from invariances.paper.parameters import ParameterError


def test_normalised_removes_what_changes_by_the_clock():
    new = nbformat.v4
    cell = new.new_code_cell("1", metadata={"papermill": {"start_time": "now"}, "tags": ["kept"]})
    cell.outputs = [
        new.new_output("stream", name="stderr", text="100%"),
        new.new_output("stream", name="stdout", text="result"),
    ]
    notebook = new.new_notebook(cells=[cell], metadata={"papermill": {"duration": 1.0}})
    out = book.normalised(notebook)
    assert [o.name for o in out.cells[0].outputs] == ["stdout"]
    assert out.cells[0].metadata == {"tags": ["kept"]}
    assert out.cells[0].id == "c00"
    assert "papermill" not in out.metadata
    nbformat.validate(out)


def test_a_bad_parameter_stops_before_anything_runs(tmp_path):
    with pytest.raises(ParameterError):
        book.run_section("initialization", {"seeds": 1}, tmp_path / "out")
    with pytest.raises(ParameterError, match="unknown section"):
        book.run_section("initialisation", {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_book_that_cannot_be_built_is_one_sentence(tmp_path, capsys):
    (tmp_path / "book").mkdir()
    with pytest.raises(book.RunError, match="could not build the book"):
        book.build(tmp_path / "book")
