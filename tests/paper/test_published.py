"""What the book shows follows from the CSV files beside it: every table, every verdict, every generated page."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from invariances import interval, reproduce
from invariances.paper import claims, figures, findings, frames, leads, sentences, tables
from invariances.paper.plots import as_svg
from invariances.paper.rows import SECTIONS
from invariances.paper.studies import anchors, attention, cka_tables, combinations, conditions, definitions, structure

BOOK = Path(__file__).parents[2] / "book"
RESULTS = BOOK / "results"
WITHOUT_CSV = {"Models that are not compared here"}


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


def _csv(name):
    return pd.read_csv(RESULTS / f"{name}.csv")


def _intervals(frame):
    parts = frame.groupby(["row", "invariance"], sort=False)
    pairs = {key: frames.over_groups(frames.across_groups(part)) for key, part in parts}
    return {key: interval(part, "score", frames.groups_of(part)) for key, part in pairs.items()}


def _alignment(section):
    frame = _csv(section)
    return tables.alignment(section, frame, _intervals(frame[frame.kind == "trained"]))


def _stitching(section):
    frame = _csv(section)
    return tables.stitching(frame, _intervals(frame[frame.control == "none"]))


RECOMPUTED = {
    "What is trained": lambda section: tables.planned(_csv(f"{section}_plan")),
    "How well the models do": lambda section: tables.models(_csv(f"{section}_models")),
    "Alignment across": lambda section: leads.alignment(section, _csv(section), _alignment(section)),
    "Nulls, untrained networks": lambda section: _alignment(section),
    "Calibrated alignment across and within": lambda section: leads.conditions(conditions.table(_csv(section))),
    "Scale, scores that are not": lambda section: conditions.table(_csv(section)),
    "Which maps lead from": lambda section: leads.ladder(tables.ladder(_csv(f"{section}_ladder"))),
    "All classes of maps": lambda section: tables.ladder(_csv(f"{section}_ladder")),
    "CKA within and across": lambda section: cka_tables.blocks(_csv("architecture_cka")),
    "CKA within vision": lambda section: cka_tables.by_modality(_csv("architecture_cka")),
    "CKA between vision and language": lambda section: cka_tables.cross_modal(_csv("architecture_cka")),
    "Test accuracy with attention": lambda section: attention.accuracies(_csv("training_attention")),
    "Zero-shot stitching": lambda section: leads.stitching(_csv(section), _stitching(section)),
    "Controls, ceilings": lambda section: _stitching(section),
    "Rank correlation of alignment": lambda section: leads.prediction(tables.prediction(_csv(section))),
    "Spread of retention": lambda section: tables.prediction(_csv(section)),
}
"""A table's numbers from the committed CSV alone, by how its caption starts."""


def test_every_table_of_a_notebook_follows_from_its_csv(published):
    section, notebook, _ = published
    shown = {caption: table for caption, table in _shown_tables(notebook).items() if caption not in WITHOUT_CSV}
    assert len(shown) >= 3
    for caption, table in shown.items():
        (recompute,) = (make for start, make in RECOMPUTED.items() if caption.startswith(start))
        made = recompute(section).fillna("").astype(str)
        assert list(table.columns) == list(made.columns)
        not_run = made.get("Measured", pd.Series("", made.index)) == tables.NOT_RUN  # the reason is the notebook's
        for column in made.columns:
            keep = ~not_run if column == "Note" else not_run | True
            assert table[column][keep].tolist() == made[column][keep].tolist(), (caption, column)


def test_the_verdict_of_a_notebook_follows_from_its_csv(published):
    section, notebook, frame = published
    verdict = claims.judge(section, frame)
    said = [text for text in _outputs(notebook, "text/markdown") if "Key finding" in text]
    assert said == [verdict._repr_markdown_()]
    prefix, glued = "application/papermill.record/", {}
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        name = output.get("metadata", {}).get("scrapbook", {}).get("name")
        if name:
            glued[name] = output.data
    assert glued[f"{section}_verdict"][f"{prefix}text/plain"].strip("'") == verdict.verdict
    answer = glued[f"{section}_answer"][f"{prefix}text/markdown"]
    assert answer == f"**What came out: {verdict.verdict}.** {verdict.sentence}"
    assert verdict.sentence
    assert verdict.sentence in said[0]
    assert glued[f"{section}_figure"][f"{prefix}image/svg+xml"] == as_svg(_lead_figure(section, frame))


def _lead_figure(section, frame):
    """Drawn anew from the section's CSV."""
    if section == "stitching":
        return figures.stitching(frame).figure
    trained = frame[frame.kind == "trained"].groupby(["row", "invariance"], sort=False)
    pairs = {key: frames.across_groups(part) for key, part in trained}
    spans = {key: interval(part, "score", frames.groups_of(part)) for key, part in pairs.items()}
    return figures.alignment(section, frame, spans).figure


def test_words_in_published_figures_can_be_read():
    drawn = {str(path.relative_to(BOOK)): path.read_text(encoding="utf-8") for path in BOOK.rglob("*.svg")}
    drawn = {name: text for name, text in drawn.items() if not name.startswith(("_", "../"))}
    for section in SECTIONS:
        notebook = nbformat.read(RESULTS / f"{section}.ipynb", as_version=4)
        for i, text in enumerate(_outputs(notebook, "image/svg+xml")):
            drawn[f"{section}, figure {i}"] = text
    assert len(drawn) > 30
    for name, text in drawn.items():
        (shown, in_points), *_ = re.findall(r'viewBox="0 0 ([\d.]+) [^>]*width="(\d+)"', text)
        pixels = min(float(in_points), 688) / float(shown)
        assert min(float(size) for size in re.findall(r"font-size: ([\d.]+)px", text)) * pixels >= 9, name


def test_every_sentence_of_a_notebook_follows_from_its_csv(published):
    section, notebook, frame = published
    said = {text for text in _outputs(notebook, "text/markdown") if text.startswith("*This shows*")}
    assert said == {f"*This shows* {sentence}." for sentence in _sentences(section, frame)}


def _sentences(section, frame):
    found = [sentences.models(_csv(f"{section}_models"))]
    if section == "stitching":
        found += [sentences.stitching(frame), sentences.prediction(frame)]
    else:
        found.append(sentences.scores(frame))
    if (RESULTS / f"{section}_ladder.csv").is_file():
        steps = _csv(f"{section}_ladder")
        found += [sentences.ladder(steps)] + ([sentences.singular_values(steps)] if section != "stitching" else [])
    if section in ("architecture", "training"):
        found.append(sentences.conditions(conditions.cells(frame)))
    if section == "architecture":
        cka = _csv("architecture_cka")
        found += [sentences.cka(cka_tables.blocks(cka)), sentences.cross_modal(cka_tables.cross_modal(cka))]
        found.append(sentences.by_modality(cka_tables.by_modality(cka)))
    if section == "training":
        found.append(sentences.attention(attention.accuracies(_csv("training_attention"))))
        found += [sentences.features(_csv("training_features")), sentences.by_class(_csv("training_features"))]
        found.append(sentences.received(_csv("training_attention")))
    return found


def test_the_banner_of_a_notebook_follows_from_its_csv(published):
    section, notebook, frame = published
    banner = tables.banner(_csv(f"{section}_plan"), frame.profile.iloc[0])
    assert banner in list(_outputs(notebook, "text/markdown"))
    for words in ("Run on 20", "by commit", "test samples"):
        assert words in banner
    assert "INVARIANCES_DATA" not in banner


def test_every_published_model_is_named_by_its_key_in_the_store(published):
    section, _, _ = published
    models = _csv(f"{section}_models")
    if "key" not in models:
        pytest.skip(f"{section} was run before its table named the models' keys")
    assert models.key.str.fullmatch(r"[0-9a-f]{20}").all()
    assert not models.duplicated("key").any()


def test_the_sections_have_one_size():
    assert len({profile for section in SECTIONS for profile in pd.read_csv(RESULTS / f"{section}.csv").profile}) == 1


def test_the_findings_follow_from_the_csv_of_the_sections(tmp_path):
    findings.write(RESULTS, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (BOOK / "findings").iterdir())
    for name in names:
        assert (BOOK / "findings" / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8")


def test_the_page_on_structure_follows_from_the_ladders_of_the_sections():
    for name, text in structure.pages(structure.read(RESULTS)).items():
        assert (BOOK / "beyond" / f"{name}.md").read_text(encoding="utf-8") == text, name


def test_the_blocks_of_networks_that_read_texts_follow_from_their_csv():
    frame = pd.read_csv(BOOK / "beyond" / "texts.csv")
    assert (BOOK / "beyond" / "texts.md").read_text(encoding="utf-8") == cka_tables.table_of_texts(frame)


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


def test_the_page_on_the_run_follows_from_what_was_measured():
    run = reproduce.read_run(RESULTS / reproduce.RUN)
    assert (BOOK / "reproduce" / "run.md").read_text(encoding="utf-8") == reproduce.run_table(run)


def test_the_tables_on_anchors_and_combinations_follow_from_their_csv():
    drawn, combined = (pd.read_csv(BOOK / "beyond" / f"{name}.csv") for name in ("anchors", "subsets"))
    texts = {
        "banner": tables.banner(drawn, drawn.profile.iloc[0]),
        "counts": anchors.table_of_counts(drawn),
        "spread": anchors.table_of_spread(drawn),
        "findings_anchors": anchors.findings_on_anchors(drawn),
        "subsets": combinations.table_of_subsets(combined),
        "differences": combinations.table_of_differences(combined),
        "findings_subsets": combinations.findings_on_subsets(combined),
    }
    for name, text in texts.items():
        assert (BOOK / "beyond" / f"{name}.md").read_text(encoding="utf-8").split() == text.split(), name


def test_the_readme_shows_the_findings_as_they_are():
    readme = (BOOK.parent / "README.md").read_text(encoding="utf-8")
    overview = (BOOK / "findings" / "overview.md").read_text(encoding="utf-8")
    assert overview.replace("](finding-", "](book/findings.md#finding-") in readme
    assert (BOOK / "findings" / "board.md").read_text(encoding="utf-8").split(":alt: ")[1].split("\n")[0] in readme
    assert "(book/findings/board.svg)" in readme
