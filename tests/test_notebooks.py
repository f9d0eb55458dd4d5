import nbformat
import pytest
from filelock import FileLock

from invariances import notebooks
from invariances.errors import ParameterError, RunError
from invariances.notebooks import normalised, root, run_section


def test_normalised_removes_what_changes_by_the_clock():
    new = nbformat.v4
    cell = new.new_code_cell("1", metadata={"papermill": {"start_time": "now"}, "tags": ["kept"]})
    cell.outputs = [
        new.new_output("stream", name="stderr", text="100%"),
        new.new_output("stream", name="stdout", text="result"),
    ]
    notebook = new.new_notebook(cells=[cell], metadata={"papermill": {"duration": 1.0}})
    out = normalised(notebook)
    assert [o.name for o in out.cells[0].outputs] == ["stdout"]
    assert out.cells[0].metadata == {"tags": ["kept"]}
    assert out.cells[0].id == "c00"
    assert "papermill" not in out.metadata
    nbformat.validate(out)


def test_a_bad_parameter_stops_before_anything_runs(tmp_path):
    with pytest.raises(ParameterError):
        run_section("initialization", {"seeds": 1}, tmp_path / "out")
    with pytest.raises(ParameterError, match="unknown section"):
        run_section("initialisation", {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ([("a line", "")], {"image": {"alt": "a line"}}),
        (
            [("a line", "Two of them."), ("a dot", "Two of them.")],
            {"image": {"alt": "a line; a dot"}, "figure": {"caption": "Two of them."}},
        ),
    ],
    ids=["one that has no caption", "two with one caption"],
)
def test_the_words_of_figures_are_put_where_the_book_looks_for_them(words, where):
    new = nbformat.v4
    cell = new.new_code_cell("figure")
    for alt, caption in words:
        data, metadata = {"image/svg+xml": "", "text/plain": alt}, {"image/svg+xml": {"alt": alt, "caption": caption}}
        cell.outputs.append(new.new_output("display_data", data, metadata=metadata))
    (out,) = normalised(new.new_notebook(cells=[cell])).cells
    assert out.metadata["mystnb"] == where


def test_the_output_never_replaces_the_notebook(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(root() / "notebooks")
    for folder in (root() / "notebooks", link):
        with pytest.raises(RunError, match="holds the notebooks themselves; give another folder"):
            run_section("initialization", {}, folder)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"cannot be written .*; give another folder"):
        run_section("initialization", {}, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_killed_runs_left_is_removed_and_what_goes_on_is_kept(tmp_path):
    stale, under_way, own = tmp_path / ".running-stale", tmp_path / ".running-now", tmp_path / "kept"
    for folder in (stale, under_way, own):
        folder.mkdir()
        (folder / ".lock").touch()
        (folder / "initialization.csv").touch()
    with FileLock(under_way / ".lock"):
        notebooks._remove_stale(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".running-now", "kept"]
