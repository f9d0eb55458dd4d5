import os

import pandas as pd
import pytest

from invariances import reproduce as book
from invariances.errors import DataError, ParameterError, RunError


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
    monkeypatch.setattr(book, "study", lambda name: lambda *rest: done.append(name))
    monkeypatch.setattr(book, "write_pages", lambda results: done.append("pages"))
    monkeypatch.setattr(book, "build", lambda folder: done.append("book"))
    return tmp_path / "book" / "results", done


def test_reproduce_does_every_part_once_in_order_and_writes_down_what_it_took(parts):
    results, done = parts
    run = book.reproduce("smoke", results, progress=False)
    assert done == list(book.PARTS)
    assert run.part.tolist() == list(book.PARTS)
    assert run.finished.all()
    assert (run.profile == "smoke").all()
    assert "| training |" in (results.parent / "reproduce" / "run.md").read_text()


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


def test_the_table_of_the_run_adds_up():
    columns = ["part", "profile", "started", "minutes", "models", "finished"]
    rows = [("training", "laptop", "", 3.0, 5, False), ("training", "laptop", "", 4.5, 7, True)]
    text = book.run_table(pd.DataFrame([*rows, ("book", "laptop", "", 1.0, 0, True)], columns=columns))
    assert text.splitlines()[2:] == ["| training |  | 3.0 | 5 |", "| training |  | 4.5 | 7 |", "| all |  | 7.5 | 12 |"]


def test_a_folder_that_holds_somebody_s_book_is_refused(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "novel.txt").write_text("mine")
    with pytest.raises(RunError, match="is no copy of the book that may be replaced; give another folder"):
        book.make_book("smoke", tmp_path)
    assert (tmp_path / "book" / "novel.txt").read_text() == "mine"
    with pytest.raises(RunError, match="is no copy of the book"):
        book.make_book("smoke", book.root())
