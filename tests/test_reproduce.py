import os
import re
import runpy
from pathlib import Path

import pandas as pd
import pytest

from invariances import reproduce as book
from invariances.errors import DataError, ParameterError, RunError
from invariances.paper.profiles import PROFILES
from invariances.paper.rows import SECTIONS
from invariances.paper.studies import anchors, combinations, definitions
from invariances.zoo import workers

PAGES = Path(__file__).parents[1] / "book"


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


# The profile "full", at toy sizes -----------------------------------------------------------------

TOY = Path(__file__).parent / "toy_full"
FEW_ROWS = {
    "initialization": "mnist,trec",
    "architecture": "cifar-10,trec",
    "training": "cifar-10",
    "stitching": "mnist,trec,amazon",
}
"""Data sets of a section; the first one's rows can be run, those of texts lack their pretrained weights."""
BY_OTHER_COMMANDS = ("_static", "characteristics", "speed", "zoo", "own")
"""Folders of the book that `reproduce` does not write: pictures by hand, and what `make studies` writes."""


@pytest.fixture
def toy_full(tmp_path, monkeypatch):
    """The profile "full" at toy sizes in this process and in kernels; gives the results of an empty book."""
    monkeypatch.setitem(PROFILES, "full", PROFILES["full"])  # both are put back at the end
    monkeypatch.setattr(workers, "cores", workers.cores)
    runpy.run_path(str(TOY / "sitecustomize.py"))
    paths = [str(TOY), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "home"))
    run_section = book.run_section

    def run_few_rows(section, given, *rest):
        return run_section(section, {**given, "datasets": FEW_ROWS[section]}, *rest)

    monkeypatch.setattr(book, "run_section", run_few_rows)
    for module, name in ((anchors, "ANCHORED"), (combinations, "COMBINED")):
        monkeypatch.setattr(module, name, ("MNIST", "TREC"))
    monkeypatch.setitem(anchors.SIZES, "full", anchors.SIZES["full"]._replace(draws=2))
    monkeypatch.setattr(definitions, "SEEDS", 1)
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "book" / "_toc.yml").touch()
    return tmp_path / "book" / "results"


def _included():
    """What the book's pages include and the notebooks among them, as paths below the book's folder."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    found = set(re.findall(r"^```\{(?:include|figure|image)\} (\S+)", pages, flags=re.MULTILINE))
    notebooks = {f"results/{section}.ipynb" for section in SECTIONS}
    return {path for path in found if not path.startswith(BY_OTHER_COMMANDS)} | notebooks


def test_full_runs_to_its_end_without_pretrained_weights_and_writes_all_that_pages_include(toy_full):
    parts = [part for part in book.PARTS if part != "book"]
    run = book.reproduce("full", toy_full, parts, progress=False)
    assert run.part.tolist() == parts
    assert run.finished.all()
    assert run.set_index("part").models[["anchors", "combinations", "texts"]].eq(0).all(), "sections have trained them"
    place, included = toy_full.parent, _included()
    folders = {"beyond", "definitions", "findings", "reproduce", "results"}
    assert {path.partition("/")[0] for path in included} == folders
    assert [path for path in sorted(included) if not (place / path).is_file()] == []
    assert all((place / path).stat().st_size for path in included)

    reason = "the checkpoint bert-base-cased is missing"
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (place / "beyond").glob("*.md")}
    assert texts["texts"].startswith(f"Not run: no row of architecture can be run; {reason}")
    assert f"- TREC was not run: {reason}" in texts["findings_anchors"]
    assert f"- TREC was not run: {reason}" in texts["findings_subsets"]
    assert "MNIST has only 100 stored codes to draw from" in texts["findings_anchors"]
    frame = pd.read_csv(place / "beyond" / "anchors.csv")
    assert frame.k.unique().tolist() == [5, 10, 20, 50, 100]
    assert set(frame.row) == {"MNIST"}
    for section in ("initialization", "architecture", "stitching"):
        assert reason in (toy_full / f"{section}.ipynb").read_text(encoding="utf-8")
