"""The page on the structure of T: planted structures are named and drawn, over all sections together."""

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from test_ladders import PLANTED, climbed

from invariances.errors import RunError
from invariances.ladders import ALL_PAIRS
from invariances.paper.figures import LOWEST
from invariances.paper.rows import TITLES
from invariances.paper.studies import structure
from invariances.paper.tables import class_title


def as_section(frame, row):
    """As a section describes a frame, without the zoo."""
    said = {"section": "initialization", "row": row, "data": "made", "profile": "smoke"}
    return frame.assign(group_a="one", group_b="one", **said)


@pytest.fixture(scope="module")
def sections():
    """Rows by what is planted in them, in no order of the alphabet; architectures have one of each kind."""
    kinds = {
        "initialization": ("orthogonal", "orthogonal"),
        "architecture": ("orthogonal+scale", "affine"),
        "training": ("none", "none"),
    }
    return {
        section: pd.concat(
            [as_section(climbed(kind, seed=i).table, f"row {9 - i} {kind}") for i, kind in enumerate(pair)]
        )
        for section, pair in kinds.items()
    }


def _means(frame, name):
    pairs = frame[(frame.model_a != ALL_PAIRS) & (frame["class"] == name)]
    return pairs.groupby("row").explained_variance.mean().to_dict()


def test_the_planted_structure_of_every_factor_is_named_together(sections):
    pages = structure.pages(sections)
    rotation, mixed, none = pages["structure_by_factor"].splitlines()
    assert rotation.startswith("- **Invariances to initialization**, 2 rows: rotation in 2. ")
    assert mixed.startswith("- **Invariances to architecture**, 2 rows: similarity in 1, affine in 1. ")
    assert none.startswith("- **Invariances to training modality**, 2 rows: none in 2. ")
    header, _, *lines = pages["structure"].splitlines()
    table = pd.DataFrame([[cell.strip() for cell in line.split("|")[1:-1]] for line in lines])
    table.columns = [cell.strip() for cell in header.split("|")[1:-1]]
    table = table.set_index("Row")
    for section, said in zip(sections, (rotation, mixed, none), strict=True):
        frame = sections[section]
        affine, similarity = _means(frame, "affine"), _means(frame, "similarity")
        low, high = min(affine.values()), max(affine.values())
        assert said.endswith(f"affine {low:z.2f} to {high:z.2f}.")
        for row in affine:
            line = table.loc[f"[{row}](results/{section}.ipynb)"]
            assert line["Structure of T"] == class_title(PLANTED[row.split()[-1]])
            assert line["By affine"].startswith(f"{affine[row]:z.2f}")
            assert line["Affine beyond similarity"].startswith(f"{affine[row] - similarity[row]:z.3f}")
            assert (line.Models, line.Data) == ("4", "made")


def test_the_figure_of_all_sections_draws_each_mean_in_its_row_and_says_its_choice(sections):
    before = plt.get_fignums()
    drawn = structure.overview(sections)
    assert plt.get_fignums() == before
    for ax, (section, frame) in zip(drawn.axes, sections.items(), strict=True):
        assert TITLES[section] in ax.get_title(loc="left")
        row_at = {round(y): label.get_text() for y, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
        words = {row_at[round(text.get_position()[1])]: text.get_text() for text in ax.texts}
        assert words == {row: class_title(PLANTED[row.split()[-1]]) for row in frame.row.unique()}
        for name in structure.SHOWN:
            (line,) = (line for line in ax.lines if line.get_label() == class_title(name))
            at = {row_at[round(y)]: x for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
            assert at == pytest.approx({row: max(mean, LOWEST) for row, mean in _means(frame, name).items()})
    identity = next(line for line in drawn.axes[0].lines if line.get_label() == "identity")
    assert list(identity.get_xdata()) == [LOWEST] * 2, "what explains less than is drawn stands at the edge"


def test_the_page_is_written_whole_or_says_what_is_missing(sections, tmp_path):
    for section, frame in sections.items():
        frame.to_csv(tmp_path / f"{section}_ladder.csv", index=False)
        frame.assign(source="made").to_csv(tmp_path / f"{section}.csv", index=False)
    structure.write(tmp_path, tmp_path / "page")
    names = {"structure.md", "structure.svg", "structure_banner.md", "structure_by_factor.md"}
    assert {path.name for path in (tmp_path / "page").iterdir()} == names
    assert "Smoke size" in (tmp_path / "page" / "structure_banner.md").read_text()
    (tmp_path / "training_ladder.csv").unlink()
    with pytest.raises(RunError, match=r"^there is no training_ladder\.csv .*run the section first"):
        structure.write(tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()
