import os
import re

import nbformat
import pandas as pd
import pytest

from invariances import book
from invariances.errors import DataError, ParameterError, RunError
from invariances.paper import budget


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
    with pytest.raises(RunError, match="could not build the book"):
        book.build(tmp_path / "book")


# Everything in one command ------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A book's folder, and the parts of a run as they are asked for; nothing is computed."""
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "book" / "_toc.yml").write_text("")
    done = []
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(book, "_prepare", lambda profile: done.append("data"))
    monkeypatch.setattr(book, "run_section", lambda section, *rest: done.append(section))
    monkeypatch.setattr(book, "_run_study", lambda study, *rest: done.append(study))
    monkeypatch.setattr(book, "write_pages", lambda profile, results: done.append("pages"))
    monkeypatch.setattr(book, "build", lambda folder: done.append("book"))
    monkeypatch.setattr(book, "_script", lambda study: tmp_path / "book" / "_toc.yml")
    return tmp_path / "book" / "results", done


def test_reproduce_does_every_part_once_in_order_and_writes_down_what_it_took(parts):
    results, done = parts
    run = book.reproduce("smoke", results, progress=False)
    assert done == list(book.PARTS)
    assert run.part.tolist() == list(book.PARTS)
    assert run.finished.all()
    assert (run.profile == "smoke").all()
    assert "| training |" in (results.parent / "reproduce" / "budget.md").read_text()


def test_only_some_parts(parts):
    results, done = parts
    assert book.reproduce("smoke", results, ["pages", "training"], progress=False).part.tolist() == [
        "training",
        "pages",
    ]
    assert done == ["training", "pages"]


def test_a_part_that_was_stopped_goes_on_and_counts_whole(parts, monkeypatch):
    results, _ = parts

    def stopped(*rest):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(book, "run_section", stopped)
        with pytest.raises(KeyboardInterrupt):
            book.reproduce("smoke", results, ["training"], progress=False)
    assert book.read_run(results / book.RUN).finished.tolist() == [False]
    assert book.reproduce("smoke", results, ["training"], progress=False).finished.tolist() == [False, True]
    # a finished part is superseded when it is run again
    assert book.reproduce("smoke", results, ["training"], progress=False).finished.tolist() == [True]


def test_what_would_end_a_run_is_said_before_anything_is_trained(parts, tmp_path, monkeypatch):
    results, done = parts
    with pytest.raises(ParameterError, match="profile"):
        book.reproduce("lap", results)
    with pytest.raises(ParameterError, match="unknown part sections; choose from data, initialization"):
        book.reproduce("smoke", results, ["sections"])
    with pytest.raises(RunError, match=r"is no book; give the folder results of one, e\.g\. book/results"):
        book.reproduce("smoke", tmp_path / "elsewhere" / "results")
    monkeypatch.setenv("INVARIANCES_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"the data set mnist is missing: .*INVARIANCES_DATA"):
        book.reproduce("laptop", results)
    monkeypatch.setattr(book, "_script", lambda study: tmp_path / "none.py")
    with pytest.raises(RunError, match=r"there is no benchmarks/anchors\.py"):
        book.reproduce("smoke", results)
    assert done == []
    assert not (results / book.RUN).exists()


def test_relative_paths_count_from_the_folder_of_the_start(parts, tmp_path, monkeypatch):
    results, _ = parts
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INVARIANCES_DATA", "data")
    monkeypatch.setenv("INVARIANCES_HOME", "home")
    book.reproduce("smoke", results, ["data"], progress=False)
    assert os.environ["INVARIANCES_DATA"] == str(tmp_path / "data")
    assert os.environ["INVARIANCES_HOME"] == str(tmp_path / "home")


def test_the_budget_stands_beside_what_was_measured():
    columns = ["part", "profile", "started", "minutes", "models", "finished"]
    rows = [("training", "laptop", "", 3.0, 5, False), ("training", "laptop", "", 4.5, 7, True)]
    text = budget.table(pd.DataFrame([*rows, ("pages", "laptop", "", 1.0, 0, True)], columns=columns))
    planned = (280 + 470 + 1_000 + 740) / 2 / 60  # core-seconds, by hand
    assert f"| training | {planned:.1f} | 7.5 | 12 |" in text
    assert re.search(r"\| findings and definitions \| [0-9.]+ \| 1.0 \|", text)
    assert re.search(r"\| stitching \| [0-9.]+ \| not timed \|", text)
    assert re.search(r"\| the book \| [0-9.]+ \| shows this table \|", text)
    assert "| 8.5 | 12 |" in text.splitlines()[-1]
    shown = [float(line.split("|")[2].split()[0]) for line in text.splitlines()[2:-1]]
    assert sum(shown) == pytest.approx(budget.total() / 120, abs=0.05 * len(shown))
    assert budget.total() <= 60 * budget.MINUTES * budget.CORES
