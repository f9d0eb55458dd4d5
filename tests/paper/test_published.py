"""What the book shows follows from the CSV files beside it: every table, every verdict, every generated page."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from invariances import book
from invariances.paper import budget, claims, definitions, findings, tables
from invariances.paper.rows import SECTIONS

BOOK = Path(__file__).parents[2] / "book"
RESULTS = BOOK / "results"
WITHOUT_CSV = {"How well the models do their own task, on the test split"}
"""Captions of tables that need the models themselves."""


@pytest.fixture(scope="module", params=SECTIONS)
def published(request):
    notebook = nbformat.read(RESULTS / f"{request.param}.ipynb", as_version=4)
    return request.param, notebook, pd.read_csv(RESULTS / f"{request.param}.csv")


def _outputs(notebook, kind):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if kind in output.get("data", {}):
                yield str(output["data"][kind])


def _shown_tables(notebook):
    """Every table of the notebook by its caption: its cells as they are shown."""
    found = {}
    for html in _outputs(notebook, "text/html"):
        for table in BeautifulSoup(html, "html.parser").find_all("table", class_="companion"):
            cells = [[cell.get_text() for cell in line.find_all(["th", "td"])] for line in table.find_all("tr")]
            found[table.caption.get_text()] = pd.DataFrame(cells[1:], columns=cells[0])
    return found


def _recomputed(section, frame, shown):
    """The section's tables from its CSV; why a row was not run stands in the notebook alone."""
    if section == "stitching":
        return {"Zero-shot stitching, reported and measured": tables.stitching(frame)}
    (caption,) = [caption for caption in shown if caption.startswith("Alignment ")]
    return {caption: tables.alignment(section, frame)}


def test_every_table_of_a_notebook_follows_from_its_csv(published):
    section, notebook, frame = published
    shown = _shown_tables(notebook)
    made = _recomputed(section, frame, shown)
    assert shown.keys() - WITHOUT_CSV == made.keys()
    for caption, table in made.items():
        table = table.fillna("")
        not_run = table.Measured == tables.NOT_RUN
        assert list(shown[caption].columns) == list(table.columns)
        for column in table.columns:
            keep = ~not_run if column == "Note" else not_run | True
            assert shown[caption][column][keep].tolist() == table[column][keep].tolist(), (caption, column)


def test_the_verdict_of_a_notebook_follows_from_its_csv(published):
    section, notebook, frame = published
    verdict = claims.judge(section, frame)
    said = [text for text in _outputs(notebook, "text/markdown") if "Key finding" in text]
    assert said == [verdict._repr_markdown_()]
    glued = [
        output.data["application/papermill.record/text/plain"].strip("'")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("metadata", {}).get("scrapbook", {}).get("name") == f"{section}_verdict"
    ]
    assert glued == [verdict.verdict]


def test_the_banner_of_a_notebook_follows_from_its_csv(published):
    _, notebook, frame = published
    assert tables.banner(frame) in list(_outputs(notebook, "text/markdown"))


def test_the_sections_have_one_size():
    assert len({profile for section in SECTIONS for profile in pd.read_csv(RESULTS / f"{section}.csv").profile}) == 1


def test_the_findings_follow_from_the_csv_of_the_sections(tmp_path):
    findings.write(RESULTS, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (BOOK / "findings").iterdir())
    for name in names:
        assert (BOOK / "findings" / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8")


def test_the_tables_on_definitions_follow_from_their_csv():
    for name, text in definitions.pages(BOOK / "definitions").items():
        assert (BOOK / "definitions" / f"{name}.md").read_text(encoding="utf-8") == text, name


def test_the_numbers_on_definitions_come_out_again():
    frames = findings.read(RESULTS)
    made = {
        "scale": definitions.scale(frames),
        "widths": definitions.widths(),
        "commensurable": definitions.commensurable(),
        "chance": definitions.chance(),
        "errors": definitions.errors(frames["stitching"]),
        "ceilings": definitions.ceilings(frames["stitching"]),
        "shares": definitions.shares(),
    }
    assert {f"{name}.csv" for name in made} == {path.name for path in (BOOK / "definitions").glob("*.csv")}
    for name, frame in made.items():
        committed = pd.read_csv(BOOK / "definitions" / f"{name}.csv")
        pd.testing.assert_frame_equal(committed, frame, check_dtype=False, rtol=1e-4, atol=1e-6)


def test_the_budget_page_follows_from_what_was_measured():
    run = book.read_run(RESULTS / book.RUN)
    assert (BOOK / "reproduce" / "budget.md").read_text(encoding="utf-8") == budget.table(run)
