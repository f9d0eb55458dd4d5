from itertools import combinations
from types import SimpleNamespace

import matplotlib

from invariances.paper.settings import check

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from scipy.stats import ortho_group

from invariances import discover, discovery, pairs
from invariances.paper import ladder, sections

D, ANCHORS, N = 24, 150, 650
PLANTED = {"orthogonal": "orthogonal", "orthogonal+scale": "similarity", "affine": "affine", "none": "none"}
"""What is planted, and the class that it should be called."""


def planted(kind, models=4, noise=0.03, seed=0, d=D):
    """Spaces of one latent, each after its own map of that kind, with noise of that share of the variance."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(N, d)) * np.linspace(2, 0.4, d)
    spaces = {}
    for i in range(models):
        turned = ortho_group.rvs(d, random_state=rng)
        x = {
            "orthogonal": lambda q: latent @ q,
            "orthogonal+scale": lambda q, factor=(1, 0.3, 4, 2)[i % 4]: factor * latent @ q,
            "affine": lambda q: latent @ (q * rng.permutation(np.geomspace(0.3, 3, d))) + rng.normal(size=d),
            "none": lambda q: rng.normal(size=(N, d)) @ q + rng.normal(size=d),
        }[kind](turned)
        spaces[f"m{i}"] = x + rng.normal(size=x.shape) * np.sqrt(noise * x.var(axis=0).mean())
    return spaces


def all_pairs(spaces):
    return list(combinations(spaces, 2))


def ladders(kind, **given):
    spaces = planted(kind, **given)
    return ladder.pair_ladders(spaces, np.arange(ANCHORS), all_pairs(spaces))


def as_section(frame, row="planted"):
    """As `run` describes a frame, without the zoo."""
    said = {"section": "initialization", "row": row, "data": "made", "profile": "smoke"}
    return frame.assign(group_a="one", group_b="one", **said)


# The verdict -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("seed", range(3))
def test_the_planted_structure_comes_out_for_every_pair_and_for_all(kind, seed):
    frame = ladders(kind, seed=seed).frame
    assert set(frame.verdict) == {PLANTED[kind]}
    chosen = frame[frame.chosen]
    assert set(chosen.rung) == {PLANTED[kind].replace("none", "constant")}
    assert len(chosen) == 12 + 1  # ordered pairs of four models, and all of them


@pytest.mark.parametrize("models", [2, 3, 5])
def test_discovery_says_the_same_of_all_pairs_and_of_t(models):
    spaces = planted("affine", models=models)
    frame = ladder.pair_ladders(spaces, np.arange(ANCHORS), all_pairs(spaces)).frame
    report = discover(spaces, np.arange(ANCHORS))
    whole = frame[frame.model_a == ladder.ALL].rename(columns={"rung": "class", "explained": "explained_variance"})
    pd.testing.assert_frame_equal(whole[report.ladder.columns].reset_index(drop=True), report.ladder)
    keys = ["model_a", "model_b"]
    own = frame[(frame.rung == "affine") & (frame.model_a != ladder.ALL)].set_index(keys).sort_index()
    structure = report.structure.set_index(keys).sort_index()
    structure = structure.rename(columns={"explained_variance": "explained"})
    pd.testing.assert_frame_equal(own[structure.columns], structure, check_exact=False, rtol=1e-9)


def test_models_beside_a_pair_help_whether_or_not_they_are_asked_about():
    spaces = planted("orthogonal", noise=0.1)
    whole = ladder.pair_ladders(spaces, np.arange(ANCHORS), all_pairs(spaces)).frame
    one = ladder.pair_ladders(spaces, np.arange(ANCHORS), [("m1", "m2")]).frame
    alone = ladder.pair_ladders({m: spaces[m] for m in ("m1", "m2")}, np.arange(ANCHORS), [("m1", "m2")]).frame
    keys = ["model_a", "model_b", "rung"]
    same, lonely, of_all = (f[f.model_a != ladder.ALL].set_index(keys).explained for f in (one, alone, whole))
    assert len(same) == 2 * len(discovery.RUNGS)
    pd.testing.assert_series_equal(same, of_all.loc[same.index])
    assert not np.allclose(lonely, same)


def test_tolerances_are_three_standard_errors_or_delta():
    spaces = planted("affine")
    for delta in (0.2, 1e-6):
        frame = ladder.pair_ladders(spaces, np.arange(ANCHORS), [("m0", "m1")], delta=delta).frame
        np.testing.assert_allclose(frame.tolerance, np.maximum(3 * frame.se, delta))
        best = frame.groupby(["model_a", "model_b"]).explained.transform("max")
        np.testing.assert_allclose(frame.gap, best - frame.explained, atol=1e-12)
        assert (frame.se > 1e-4).any()


# The singular values ---------------------------------------------------------------------------


def test_singular_values_are_those_of_the_planted_map():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ANCHORS, 6))
    factors = np.array([3.0, 2.5, 2.0, 1.5, 1.0, 0.5])
    y = x @ (ortho_group.rvs(6, random_state=rng) * factors) @ ortho_group.rvs(6, random_state=rng) + 1
    values = ladder._spectrum(discovery._Pair("x", "y", torch.from_numpy(x), torch.from_numpy(y), {}), seed=0)
    np.testing.assert_allclose(values.value, factors, rtol=1e-6)
    assert list(values["index"]) == [1, 2, 3, 4, 5, 6]
    # a map that only turns and rescales, and gives the target its size
    factor = np.linalg.norm(y - y.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0))
    np.testing.assert_allclose(values.reference, factor, rtol=1e-6)


def test_a_rotations_spectrum_is_that_of_the_simulated_one_and_a_stretched_spaces_is_not():
    beyond = {}
    for kind in ("orthogonal+scale", "affine"):
        values = ladders(kind).singular_values.groupby(["model_a", "model_b"])
        ratio, reference = (values[column].agg(lambda v: v.max() / v.min()) for column in ("value", "reference"))
        beyond[kind] = ratio / reference
    assert beyond["orthogonal+scale"].max() < 1.2
    assert beyond["affine"].min() > 2


@pytest.mark.parametrize("kind", ["orthogonal", "affine"])
def test_singular_values_give_the_figures_that_describe_t(kind):
    frame, values = ladders(kind, models=3)
    frame = frame[frame.rung == "affine"].set_index(["model_a", "model_b"])
    for pair, own in values.groupby(["model_a", "model_b"]):
        for column, suffix in (("value", ""), ("reference", "_rotation")):
            v = own[column].to_numpy()
            assert frame.loc[pair, f"singular_ratio{suffix}"] == pytest.approx(v.max() / v.min())
            assert frame.loc[pair, f"off_rotation{suffix}"] == pytest.approx(v.std() / np.sqrt((v**2).mean()))
    assert len(values.groupby(["model_a", "model_b"])) == 6


# Many pairs ------------------------------------------------------------------------------------


def test_of_many_pairs_a_balanced_seeded_part_is_compared_and_the_table_says_so(monkeypatch):
    monkeypatch.setattr(ladder, "MOST", 12)
    spaces = {name: x[:, :4] for name, x in planted("orthogonal", models=8, d=6).items()}
    pairs_of = [
        list(ladder.pair_ladders(spaces, np.arange(ANCHORS), all_pairs(spaces), seed).frame.model_a.unique())
        for seed in (0, 0, 1)
    ]
    frame = ladder.pair_ladders(spaces, np.arange(ANCHORS), all_pairs(spaces)).frame
    drawn = frame[(frame.rung == "affine") & (frame.model_a != ladder.ALL)][["model_a", "model_b"]]
    assert len(drawn) == 24
    times = drawn.stack().value_counts()
    assert len(times) == 8
    assert times.between(4, 8).all()  # 48 ends over 8 models
    assert pairs_of[0] == pairs_of[1] != pairs_of[2]
    assert ladder.table(as_section(frame))["Ordered pairs"].item() == "24 of 56"


# The table -------------------------------------------------------------------------------------


def test_the_table_says_what_the_frame_holds():
    frame = pd.concat(
        [as_section(ladders(kind).frame, kind) for kind in ("orthogonal", "none", "affine")], ignore_index=True
    )
    table = ladder.table(frame).set_index("Row")
    assert list(table["Structure of T"]) == ["rotation", "none", "affine"]
    assert table["Pairs, each by itself"]["orthogonal"] == "rotation 100%"
    assert table["In words"]["none"].startswith("No map relates all 4 spaces")
    assert "'orthogonal'" in table["In words"]["orthogonal"]
    own = frame[(frame.row == "affine") & (frame.model_a != ladder.ALL)]
    affine, similarity = (own[own.rung == rung] for rung in ("affine", "similarity"))
    assert table["Explained by affine"]["affine"].startswith(f"{affine.explained.mean():.2f} [")
    span = pairs.interval(affine, "explained")
    assert table["Explained by affine"]["affine"].endswith(f"[{span.low:.2f}, {span.high:.2f}]")
    gap = affine.explained.mean() - similarity.explained.mean()
    assert table["Affine beyond similarity"]["affine"].startswith(f"{gap:.2f} [")
    ratio, rotation = affine.singular_ratio.median(), affine.singular_ratio_rotation.median()
    assert table["Singular values, largest / smallest"]["affine"] == f"{ratio:.2f} ({rotation:.2f})"


def test_a_verdict_that_explains_little_is_called_weak():
    table = ladder.table(as_section(ladders("orthogonal", noise=2.5).frame))
    assert table["Structure of T"].item().endswith(" (weak)")
    assert "weak evidence" in table["In words"].item()
    assert "weak" not in ladder.table(as_section(ladders("orthogonal").frame)).to_string()


def test_two_models_have_no_interval_and_unequal_widths_are_noted():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 8))
    frame = ladder.pair_ladders({"x": x, "y": x[:, :5]}, np.arange(ANCHORS), [("x", "y")]).frame
    line = ladder.table(as_section(frame)).iloc[0]
    assert "[" not in line["Explained by affine"]
    assert "zero-pad" in line["Note"]
    assert "zero-pad" not in ladder.table(as_section(ladders("orthogonal").frame))["Note"].item()


# Sections and files ----------------------------------------------------------------------------


@pytest.fixture
def study(monkeypatch):
    """A row of two conditions whose models are planted: affine between the conditions, rotations within."""
    settings = check("training", {"datasets": "cifar-10", "seeds": 3, "anchors": ANCHORS})
    planned = next(p for p in sections.plan(settings) if p.groups)
    monkeypatch.setattr(
        sections.datasets,
        "load",
        lambda key: SimpleNamespace(arrays={"train_y": np.zeros(ANCHORS + 10), "test_y": np.zeros(N - ANCHORS)}),
    )
    one, other = planted("orthogonal", models=6), np.geomspace(0.3, 3, D)
    models = {}
    for i, (name, x) in enumerate(zip([n for g in planned.groups for n in g.recipes], one.values(), strict=True)):
        x = x if i < 3 else x * other
        rest = np.zeros((10, D))  # of the pool, anchors come first
        models[name] = SimpleNamespace(spaces={"pool": np.vstack([x[:ANCHORS], rest]), "test": x[ANCHORS:]})
    row = sections.RowResult(planned, models, {}, {}, {}, {})
    return sections.Study(settings, pd.DataFrame(), {planned.row.name: row}, {})


def test_two_groups_are_compared_across_only(study):
    frame, values = ladder.run(study)
    assert frame.notna().drop(columns=[c for c in frame if "ratio" in c or "off" in c or "shift" in c]).all(axis=None)
    for part in (frame[frame.model_a != ladder.ALL], values):
        assert (part.group_a != part.group_b).all()
        assert part[["model_a", "model_b"]].drop_duplicates().shape == ((6 if part is values else 18), 2)
    assert set(frame.n_models) == {6}
    assert set(frame.verdict) == {"affine"}
    assert set(frame.group_a) == {"SGD", "Adam", ladder.ALL}
    front = {"section": "training", "row": "CIFAR-10: SGD vs Adam", "profile": "smoke"}
    assert (frame[list(front)] == pd.Series(front)).all(axis=None)
    assert frame.data.str.contains("stand-in for cifar-10").all()
    assert set(frame.n_anchors) == {ANCHORS}
    assert set(frame.n_samples) == {N - ANCHORS}


def test_tables_and_figures_follow_from_the_saved_files_alone(study, tmp_path):
    found = ladder.run(study)
    paths = found.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["training_ladder.csv", "training_singular_values.csv"]
    frame, values = (pd.read_csv(path) for path in paths)
    pd.testing.assert_frame_equal(frame, found.frame, check_dtype=False, rtol=1e-4)
    pd.testing.assert_frame_equal(ladder.table(frame), ladder.table(found.frame))
    before = plt.get_fignums()
    drawn = [ladder.figure(frame), ladder.spectrum(values)]
    assert plt.get_fignums() == before
    for picture in drawn:
        assert [ax.get_title() for ax in picture.axes if ax.get_visible()] == ["CIFAR-10: SGD vs Adam"]


def test_the_figure_marks_each_pairs_choice_and_that_of_all():
    frame = as_section(ladders("affine").frame)
    ax = ladder.figure(frame).axes[0]
    points = {line.get_color(): line for line in ax.lines if len(line.get_xdata()) > 2}
    own = frame[frame.model_a != ladder.ALL]
    np.testing.assert_allclose(sorted(points["C1"].get_xdata()), sorted(own.explained[own.chosen]))
    np.testing.assert_allclose(
        sorted(points["C0"].get_xdata()), sorted(own.explained[~own.chosen].clip(lower=ladder.LOWEST))
    )
    (band,) = ax.patches
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[round(band.get_y() + band.get_height() / 2)] == "affine"
    assert to_rgba(points["C0"].get_color()) != to_rgba(points["C1"].get_color())


def test_the_spectrum_is_drawn_relative_to_its_mean():
    values = as_section(ladders("affine", models=2).singular_values)
    ax = ladder.spectrum(values).axes[0]
    own = values[(values.model_a == "m0") & (values.model_b == "m1")]
    solid = next(line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 2)
    np.testing.assert_allclose(solid.get_ydata(), own.value / own.value.mean())
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > solid.get_ydata().max()


# All sections ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sections_together():
    """Rows by what is planted in them, in no order of the alphabet; architectures have one of each kind."""
    kinds = {
        "initialization": ("orthogonal", "orthogonal"),
        "architecture": ("orthogonal+scale", "affine"),
        "training": ("none", "none"),
    }
    return {
        section: pd.concat(
            [as_section(ladders(kind, seed=i).frame, f"row {9 - i} {kind}") for i, kind in enumerate(pair)]
        )
        for section, pair in kinds.items()
    }


def _means(frame, rung):
    pairs = frame[(frame.model_a != ladder.ALL) & (frame.rung == rung)]
    return pairs.groupby("row").explained.mean().to_dict()


def test_the_planted_structure_of_every_factor_is_named_together(sections_together):
    pages = ladder.pages(sections_together)
    rotation, mixed, none = pages["structure_by_factor"].splitlines()
    assert rotation.startswith("- **Invariances to initialization**, 2 rows: rotation in 2. ")
    assert mixed.startswith("- **Invariances to architecture**, 2 rows: similarity in 1, affine in 1. ")
    assert none.startswith("- **Invariances to training modality**, 2 rows: none in 2. ")
    header, _, *lines = pages["structure"].splitlines()
    table = pd.DataFrame([[cell.strip() for cell in line.split("|")[1:-1]] for line in lines])
    table.columns = [cell.strip() for cell in header.split("|")[1:-1]]
    table = table.set_index("Row")
    for section, said in zip(sections_together, (rotation, mixed, none), strict=True):
        frame = sections_together[section]
        affine, similarity = _means(frame, "affine"), _means(frame, "similarity")
        low, high = min(affine.values()), max(affine.values())
        assert said.endswith(f"affine {low:z.2f} to {high:z.2f}.")
        for row in affine:
            line = table.loc[f"[{row}](results/{section}.ipynb)"]
            assert line["Structure of T"] == ladder.named(PLANTED[row.split()[-1]])
            assert line["By affine"].startswith(f"{affine[row]:z.2f}")
            assert line["Affine beyond similarity"].startswith(f"{affine[row] - similarity[row]:z.3f}")
            assert (line.Models, line.Data) == ("4", "made")


def test_the_figure_of_all_sections_draws_each_mean_in_its_row_and_says_its_choice(sections_together):
    drawn = ladder.overview(sections_together)
    assert not plt.get_fignums()
    for ax, (section, frame) in zip(drawn.axes, sections_together.items(), strict=True):
        assert ladder.TITLES[section] in ax.get_title(loc="left")
        row_at = {round(y): label.get_text() for y, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
        words = {row_at[round(text.get_position()[1])]: text.get_text() for text in ax.texts}
        assert words == {row: ladder.named(PLANTED[row.split()[-1]]) for row in frame.row.unique()}
        for rung in ladder.STEPS:
            (line,) = (line for line in ax.lines if line.get_label() == ladder.named(rung))
            at = {row_at[round(y)]: x for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
            expected = {row: max(mean, ladder.LOWEST) for row, mean in _means(frame, rung).items()}
            assert at == pytest.approx(expected)
    identity = next(line for line in drawn.axes[0].lines if line.get_label() == "identity")
    assert list(identity.get_xdata()) == [ladder.LOWEST] * 2, "what explains less than is drawn stands at the edge"


def test_the_page_is_written_whole_or_says_what_is_missing(sections_together, tmp_path):
    for section, frame in sections_together.items():
        frame.to_csv(tmp_path / f"{section}_ladder.csv", index=False)
        frame.assign(source="made").to_csv(tmp_path / f"{section}.csv", index=False)
    ladder.write(tmp_path, tmp_path / "page")
    names = {"structure.md", "structure.png", "structure_banner.md", "structure_by_factor.md"}
    assert {path.name for path in (tmp_path / "page").iterdir()} == names
    assert "Smoke size" in (tmp_path / "page" / "structure_banner.md").read_text()
    (tmp_path / "training_ladder.csv").unlink()
    with pytest.raises(ValueError, match=r"^there is no training_ladder\.csv .*run the section first"):
        ladder.write(tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()
