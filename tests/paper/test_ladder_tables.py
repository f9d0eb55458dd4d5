"""The table and the figures of a section's ladder, from planted spaces and from the saved files alone."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from test_ladders import ANCHORS, D, N, climbed, planted

from invariances import interval, ladder
from invariances.ladders import ALL_PAIRS
from invariances.paper import figures, frames, plan, tables
from invariances.paper.settings import check
from invariances.rows import Rows

ROW = "CIFAR-10: SGD vs Adam"


def as_section(frame, row="planted"):
    """As a section describes a frame, without the zoo."""
    said = {"section": "initialization", "row": row, "data": "made", "profile": "smoke"}
    return frame.assign(group_a="one", group_b="one", **said)


# The table ---------------------------------------------------------------------------------------


def test_the_table_says_what_the_frame_holds():
    kinds = ("orthogonal", "none", "affine")
    frame = pd.concat([as_section(climbed(kind).table, kind) for kind in kinds], ignore_index=True)
    table = tables.ladder(frame).set_index("Row")
    assert list(table["Structure of T"]) == ["rotation", "none", "affine"]
    assert table["Pairs, each by itself"]["orthogonal"] == "rotation 100%"
    assert table["In words"]["none"].startswith("No map relates all 4 spaces")
    assert "'orthogonal'" in table["In words"]["orthogonal"]
    own = frame[(frame.row == "affine") & (frame.model_a != ALL_PAIRS)]
    affine, similarity = (own[own["class"] == name] for name in ("affine", "similarity"))
    assert table["Explained by affine"]["affine"].startswith(f"{affine.explained_variance.mean():.2f} [")
    span = interval(affine, "explained_variance")
    assert table["Explained by affine"]["affine"].endswith(f"[{span.low:.2f}, {span.high:.2f}]")
    gap = affine.explained_variance.mean() - similarity.explained_variance.mean()
    assert table["Affine beyond similarity"]["affine"].startswith(f"{gap:.2f} [")
    ratio, simulated = affine.singular_value_ratio.median(), affine.singular_value_ratio_simulated.median()
    assert table["Singular values, largest / smallest"]["affine"] == f"{ratio:.2f} ({simulated:.2f})"


def test_the_table_says_of_how_many_pairs_it_speaks():
    spaces = planted("orthogonal")
    drawn = ladder(spaces, np.arange(ANCHORS), most_pairs=4).table
    assert tables.ladder(as_section(drawn))["Ordered pairs"].item() == "8 of 12"
    assert tables.ladder(as_section(climbed("orthogonal").table))["Ordered pairs"].item() == "12"


def test_a_verdict_that_explains_little_is_called_weak():
    table = tables.ladder(as_section(climbed("orthogonal", noise=2.5).table))
    assert table["Structure of T"].item().endswith(" (weak)")
    assert "weak evidence" in table["In words"].item()
    assert "weak" not in tables.ladder(as_section(climbed("orthogonal").table)).to_string()


def test_two_models_have_no_interval_and_unequal_widths_are_noted():
    x = np.random.default_rng(0).normal(size=(N, 8))
    frame = ladder({"x": x, "y": x[:, :5]}, np.arange(ANCHORS)).table
    line = tables.ladder(as_section(frame)).iloc[0]
    assert "[" not in line["Explained by affine"]
    assert "zero-pad" in line["Note"]
    assert "zero-pad" not in tables.ladder(as_section(climbed("orthogonal").table))["Note"].item()


# A row of a section, and its files ---------------------------------------------------------------


@pytest.fixture(scope="module")
def section():
    """The frames of a row of two conditions with planted models: affine between conditions, rotations within."""
    settings = check("training", {"datasets": "cifar-10", "seeds": 3, "anchors": ANCHORS})
    rows = plan.rows(settings)
    names = list(plan.trained(rows)[ROW])
    factors = np.geomspace(0.3, 3, D)
    given = enumerate(zip(names, planted("orthogonal", models=6).values(), strict=True))
    spaces = {name: x if i < 3 else x * factors for i, (name, x) in given}
    found = ladder(Rows([ROW], {ROW: spaces}.__getitem__), plan.anchors(rows), plan.pairs(rows))
    return tuple(frames.described(part, rows, settings) for part in found)


def test_two_groups_are_compared_across_only(section):
    frame, values = section
    described = ("singular", "distance", "shift")
    assert frame.drop(columns=[c for c in frame if c.startswith(described)]).notna().all(axis=None)
    for part, pairs in ((frame[frame.model_a != ALL_PAIRS], 18), (values, 6)):
        assert (part.group_a != part.group_b).all()
        assert part[["model_a", "model_b"]].drop_duplicates().shape == (pairs, 2)
    assert set(frame.n_models) == {6}
    assert set(frame.verdict) == {"affine"}
    assert set(frame.group_a) == {"SGD", "Adam", ALL_PAIRS}
    front = {"section": "training", "row": ROW, "profile": "smoke"}
    assert (frame[list(front)] == pd.Series(front)).all(axis=None)
    assert frame.data.str.contains("stand-in for cifar-10").all()
    assert set(frame.n_anchors) == {ANCHORS}
    assert set(frame.n_samples) == {N - ANCHORS}


def test_tables_and_figures_follow_from_the_saved_files_alone(section, tmp_path):
    saved = [frames.save_table(part, name, tmp_path) for part, name in zip(section, "ab", strict=True)]
    pd.testing.assert_frame_equal(saved[0], section[0], check_dtype=False, rtol=1e-4)
    pd.testing.assert_frame_equal(tables.ladder(saved[0]), tables.ladder(section[0]))
    before = plt.get_fignums()
    drawn = [figures.ladder(saved[0]), figures.singular_values(saved[1])]
    assert plt.get_fignums() == before
    for drawing in drawn:
        assert [ax.get_title() for ax in drawing.figure.axes if ax.get_visible()] == [ROW]


def test_the_figure_marks_each_pairs_choice_and_that_of_all():
    frame = as_section(climbed("affine").table)
    ax = figures.ladder(frame).figure.axes[0]
    points = {line.get_color(): line for line in ax.lines if len(line.get_xdata()) > 2}
    own = frame[frame.model_a != ALL_PAIRS]
    chosen, others = own.explained_variance[own.chosen], own.explained_variance[~own.chosen]
    np.testing.assert_allclose(sorted(points["C1"].get_xdata()), sorted(chosen))
    np.testing.assert_allclose(sorted(points["C0"].get_xdata()), sorted(others.clip(lower=figures.LOWEST)))
    (band,) = ax.patches
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[round(band.get_y() + band.get_height() / 2)] == "affine"
    assert to_rgba(points["C0"].get_color()) != to_rgba(points["C1"].get_color())


def test_singular_values_are_drawn_relative_to_their_mean():
    values = as_section(climbed("affine", models=2).singular_values)
    ax = figures.singular_values(values).figure.axes[0]
    own = values[(values.model_a == "m0") & (values.model_b == "m1")]
    solid = next(line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 2)
    np.testing.assert_allclose(solid.get_ydata(), own.value / own.value.mean())
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > solid.get_ydata().max()
