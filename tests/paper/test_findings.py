import re

import numpy as np
import pandas as pd
import pytest

from invariances.errors import RunError
from invariances.paper import board, findings, judging
from invariances.paper.aligned import ALIGNED, BY_RETRIEVAL
from invariances.paper.judging import Outcome, Verdict
from invariances.paper.reported import STITCHING
from invariances.paper.rows import ROWS, SECTIONS
from invariances.paper.tables import markdown_table


def _alignment(section, affine, profile="laptop"):
    """Tidy tables in which raw spaces share nothing and an affine map reaches the planted score."""
    rng = np.random.default_rng(1)
    lines = []
    for row in ROWS[section]:
        groups = [variant.label for variant in row.variants]
        names = [(f"{group} {seed}", group) for group in groups for seed in range(6 // len(groups) + 2)]
        for i, (a, group_a) in enumerate(names):
            for b, group_b in names[i + 1 :]:
                scores = {"absolute": 0.0, "scale": 0.0, "relative": affine - 0.2, "affine": affine}
                for invariance, score in scores.items():
                    value = score + 0.01 * rng.normal()
                    lines.append((row.name, a, b, group_a, group_b, invariance, value, value, 0.1, "trained", profile))
    columns = "row model_a model_b group_a group_b invariance score calibrated null_within_class kind profile"
    return pd.DataFrame(lines, columns=columns.split()).assign(null=0.05)


def _stitching(kept, profile="laptop"):
    """A tidy table in which stitching keeps the planted share of the ceiling, whatever the alignment."""
    rng = np.random.default_rng(2)
    lines = []
    for row in ROWS["stitching"]:
        error = row.variants[0].task == "reconstruction"
        groups = [variant.label for variant in row.variants]
        names = [(f"{group} {seed}", group) for group in groups for seed in range(5 if len(groups) == 1 else 2)]
        for a, group_a in names:
            for b, group_b in names:
                for space in row.spaces if a != b else ():
                    share = (0.1 if space == "absolute" else kept) + 0.01 * rng.normal()
                    score = 0.1 - share * 0.09 if error else share * 0.9
                    ceiling, metric = (0.01, "mse") if error else (0.9, "f1")
                    retention = ceiling / score if error else share
                    aligned = rng.normal()
                    line = (row.name, a, b, group_a, group_b, space, metric, score, ceiling, retention, aligned)
                    lines.append((*line, "none", profile))
    columns = "row model_a model_b group_a group_b invariance metric score ceiling retention alignment_calibrated"
    return pd.DataFrame(lines, columns=[*columns.split(), "control", "profile"])


@pytest.fixture
def published(tmp_path):
    """Writes planted CSV files and the page's snippets; gives the verdicts and the snippets' folder."""

    def make(affine=0.9, kept=0.95, profile="laptop"):
        for section in SECTIONS:
            frame = _stitching(kept, profile) if section == "stitching" else _alignment(section, affine, profile)
            frame.to_csv(tmp_path / f"{section}.csv", index=False)
        return findings.write(tmp_path, tmp_path / "findings"), tmp_path / "findings"

    return make


@pytest.mark.parametrize(
    ("affine", "kept", "words"),
    [
        (0.9, 0.95, {"1": judging.HOLDS, "3": judging.HOLDS, "5": judging.HOLDS}),
        (-0.3, 0.3, {"1": judging.FAILS, "3": judging.FAILS, "5": judging.FAILS}),
        (0.9, 0.3, {"1": judging.HOLDS, "3": judging.FAILS, "5": judging.FAILS}),
    ],
)
def test_the_page_says_what_was_planted(affine, kept, words, published):
    verdicts, folder = published(affine, kept)
    overview = (folder / "overview.md").read_text()
    lines = [line for line in overview.splitlines() if line.startswith("| [")]
    assert len(lines) == 5
    for number, word in words.items():
        assert verdicts[number].verdict == word
        assert re.search(rf"\| . {word} \|", lines[int(number) - 1])
        assert re.search(rf"\*\*Verdict: . {word}\.\*\*", (folder / f"finding_{number}.md").read_text())


def test_every_row_stands_with_its_outcome_and_a_link_to_its_section(published):
    verdicts, folder = published()
    text = (folder / "finding_3.md").read_text()
    for row in [row.name for row in ROWS["stitching"] if row.beside in STITCHING]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| [{row}](results/stitching.ipynb)")]
        assert "✓ supports" in line
        word = "closes" if row in ("MNIST", "CIFAR-10") else "keeps"
        assert re.search(rf"affine {word} 0\.9\d+ \[", line)
    assert "| [TREC: affine](results/stitching.ipynb) |" in (folder / "finding_4.md").read_text()
    for section in ALIGNED:
        for row in ROWS[section]:
            assert f"| [{row.name}](results/{section}.ipynb) |" in (folder / "finding_1.md").read_text()
    table = pd.read_csv(folder / "outcomes.csv")
    assert table.finding.astype(str).value_counts().to_dict() == {n: len(v.outcomes) for n, v in verdicts.items()}
    assert (table[table.finding == 3].outcome == "supports").all()


def test_the_overview_counts_rows_that_can_tell():
    outcomes = [Outcome("a", True, "x"), Outcome("b", False, "y"), Outcome("c", None, "z")]
    line = findings.overview({"1": Verdict("claim", judging.IN_PART, "said", "reason", outcomes)}).splitlines()[2]
    assert line.endswith("| 1 of 2 | 1 |")


def test_smoke_is_not_judged_and_lists_no_row(published):
    verdicts, folder = published(profile="smoke")
    assert {verdict.verdict for verdict in verdicts.values()} == {"not judged at smoke size"}
    assert (folder / "overview.md").read_text().count("not judged at smoke size") == 5
    assert len(pd.read_csv(folder / "outcomes.csv")) == 0
    assert "supports" not in (folder / "finding_1.md").read_text()


def test_a_section_that_was_not_run_is_one_sentence(tmp_path):
    with pytest.raises(RunError, match=r"no initialization\.csv .*run the section first"):
        findings.write(tmp_path, tmp_path / "findings")
    assert not (tmp_path / "findings").exists()


def test_reported_numbers_are_those_of_the_page():
    # by hand from the page: 97.79, 2.83, 0.66; 86.74, 5.39, 1.94; 75.89 / 91.70; 78.53 / 91.54
    gaps = [(97.79 - 2.83) / (97.79 - 0.66), (86.74 - 5.39) / (86.74 - 1.94)]
    shares = [75.89 / 91.70, 78.53 / 91.54]
    said = findings.reported(3)
    assert f"{100 * min(gaps):.0f} to {100 * max(gaps):.0f} %" in said
    assert f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %" in said
    assert "raw spaces 0.16 to 0.54, after an affine map 0.75 to 0.91 (13 rows)" in findings.reported(1)
    assert "Rotation Inv (Rel) highest in 3 of 4 rows, Affine Inv highest in 1 of 4 rows" in findings.reported(2)
    assert "raw spaces 0.28 to 0.54, after an affine map 0.85 to 0.90 (4 rows)" in findings.reported(5)


def test_bars_in_a_cell_do_not_break_a_table():
    assert markdown_table(("a", "b"), [("x|y", 1)]).splitlines()[2] == "| x\\|y | 1 |"


def test_retrieval_adds_a_second_line_to_the_second_finding(published, tmp_path):
    published()
    results, study = tmp_path / "book" / "results", tmp_path / "book" / "beyond"
    results.mkdir(parents=True)
    study.mkdir()
    for section in SECTIONS:
        (tmp_path / f"{section}.csv").rename(results / f"{section}.csv")
    alone = findings.write(results, tmp_path / "alone")
    table = pd.concat([_alignment(section, 0.9) for section in ALIGNED]).assign(metric=BY_RETRIEVAL)
    table.to_csv(study / "retrieval.csv", index=False)
    both = findings.write(results, tmp_path / "both")
    assert set(both) - set(alone) == {"2, by retrieval"}
    overview = (tmp_path / "both" / "overview.md").read_text()
    assert "| [2, by retrieval](finding-2) |" in overview
    text = (tmp_path / "both" / "finding_2.md").read_text()
    assert text.startswith((tmp_path / "alone" / "finding_2.md").read_text())
    assert "**By retrieval: ◐ holds in part.** Affine is highest in 18 of the 18 rows" in text
    assert set(pd.read_csv(tmp_path / "both" / "outcomes.csv").finding) >= {"2", "2, by retrieval"}


def test_the_board_sets_reported_beside_measured_and_chance(published, tmp_path):
    _, folder = published(affine=0.9, kept=0.95)
    frames = {section: pd.read_csv(tmp_path / f"{section}.csv") for section in SECTIONS}
    found = board.numbers(frames).set_index(["panel", "row", "invariance"])
    line = found.loc["alignment", "MNIST", "affine"]
    assert line.reported == 0.91
    assert line.chance == pytest.approx(0.05)
    assert line.measured == pytest.approx(0.9, abs=0.02)
    trec = found.loc["stitching", "TREC", "relative"]
    assert trec.reported == pytest.approx(75.89 / 91.70)
    assert trec.measured == pytest.approx(0.95, abs=0.02)
    mnist = found.loc["stitching", "MNIST", "affine"]
    assert mnist.reported == pytest.approx((97.79 - 3.12) / (97.79 - 0.66))
    assert (folder / "board.svg").stat().st_size > 20_000
    assert f"{len(found.groupby(level=[0, 1]))} rows of the paper" in (folder / "board.md").read_text()
