import re

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import ortho_group

from invariances import SpaceError, Verdict, align, discover
from invariances.discovery import RUNGS, _choose, _denoised
from invariances.transforms import INVARIANCES

D, ANCHORS, N = 32, 256, 1256
SPECTRUM = np.linspace(2, 0.3, D)
CLASSES = [
    "identity",
    "translation",
    "scale",
    "orthogonal",
    "orthogonal+translation",
    "similarity",
    "affine",
    "none",
]


def rotation(rng):
    return ortho_group.rvs(D, random_state=rng)


def latent(rng):
    return rng.normal(size=(N, D)) * SPECTRUM + 0.5 * rng.normal(size=D)


def mapped(name, x, rng):
    """The space after a random map of the class; for "none" a space of its own."""
    shift, factor = rng.normal(size=D), rng.choice([0.4, 2.5])
    # condition number 10
    stretched = rotation(rng) * np.geomspace(10**0.5, 10**-0.5, D) @ rotation(rng)
    return {
        "identity": lambda: x.copy(),
        "translation": lambda: x + shift,
        "scale": lambda: factor * x,
        "orthogonal": lambda: x @ rotation(rng),
        "orthogonal+translation": lambda: x @ rotation(rng) + shift,
        "similarity": lambda: factor * x @ rotation(rng) + shift,
        "affine": lambda: x @ stretched + shift,
        "none": lambda: latent(rng) @ rotation(rng) + shift,
    }[name]()


def noisy(x, rng, share=0.05):
    """Add isotropic noise of that share of the variance."""
    return x + rng.normal(size=x.shape) * np.sqrt(share * x.var(axis=0).mean())


def planted(name, noise, seed, share=0.05):
    rng = np.random.default_rng(seed)
    x = latent(rng)
    y, z = mapped(name, x, rng), mapped(name, x, rng)
    if noise == "target only":
        return {"a": x, "b": noisy(y, rng, share)}
    if noise == "both sides":
        return {"a": noisy(x, rng, share), "b": noisy(y, rng, share)}
    return {"a": noisy(x, rng, share), "b": noisy(y, rng, share), "c": noisy(z, rng, share)}


@pytest.fixture(scope="module")
def report():
    return discover(planted("orthogonal", "three models", seed=0), ANCHORS, labels=np.arange(N) % 3)


@pytest.mark.parametrize("noise", ["target only", "both sides", "three models"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_planted_class_is_found(name, noise):
    for seed in range(4):
        verdict = discover(planted(name, noise, seed), ANCHORS, seed=seed).verdict
        assert verdict.invariance == name
        assert not verdict.weak
        assert verdict.models == (3 if noise == "three models" else 2)
        if name != "none":
            assert 0.8 < verdict.explained_variance < 1


def test_independent_spaces_around_the_origin_have_no_relation():
    # a factor near 0 explains as little as a constant, with fewer parameters
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, N, D)) * SPECTRUM
    report = discover({"a": x, "b": y}, ANCHORS)
    assert report.verdict.invariance == "none"
    assert report.ladder.set_index("class").chosen["constant"]


def test_three_models_see_through_noise_that_looks_affine_to_two():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = latent(rng)
        given = {}
        for name in "abc":
            private = rng.normal(size=(N, 6)) @ rotation(rng)[:6]
            given[name] = x @ rotation(rng) + private * np.sqrt(0.3 * x.var() * D / 6)
        assert discover(given, ANCHORS).verdict.invariance == "orthogonal"
        assert discover({name: given[name] for name in "ab"}, ANCHORS).verdict.invariance == "affine"


def test_a_cleaned_anchor_does_not_depend_on_itself():
    spaces = {name: torch.from_numpy(x) for name, x in planted("affine", "three models", seed=0).items()}
    anchors, samples = ({name: x[part] for name, x in spaces.items()} for part in (slice(60), slice(60, None)))
    before, _ = _denoised("a", "b", anchors, samples, 0)
    anchors["a"] = anchors["a"].clone()
    anchors["a"][7] += 100
    after, _ = _denoised("a", "b", anchors, samples, 0)
    torch.testing.assert_close(after[7], before[7])
    assert (after - before).abs().amax(dim=1).gt(1e-3).sum() > 30


def test_without_noise_the_class_explains_everything():
    verdict = discover(planted("similarity", "target only", seed=0, share=0), ANCHORS).verdict
    assert verdict.invariance == "similarity"
    assert verdict.explained_variance == pytest.approx(1, abs=1e-6)


def test_the_explained_variance_is_that_of_the_planted_map():
    share = 0.2
    verdict = discover(planted("orthogonal", "target only", seed=0, share=share), ANCHORS).verdict
    assert verdict.invariance == "orthogonal"
    assert verdict.explained_variance == pytest.approx(1 / (1 + share), abs=0.03)


@pytest.mark.parametrize("narrow", ["a", "b"])
def test_unequal_widths_are_compared(narrow):
    given = planted("identity", "target only", seed=0)
    given[narrow] = given[narrow][:, :28]
    report = discover(given, ANCHORS)
    assert report.verdict.invariance == "identity"
    assert report.ladder.explained_variance.notna().all()


@pytest.mark.parametrize("noise", ["target only", "three models"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_verdict_is_one_line_that_ends_in_a_period(name, noise):
    text = str(discover(planted(name, noise, seed=0), ANCHORS).verdict)
    assert "\n" not in text
    assert text.endswith(".")
    if name == "none":
        assert text.startswith("No map relates these")
    else:
        assert re.search(r"explains \d+ % of the held-out variance", text)
        assert {"identity": "already agree", "affine": "general affine map"}.get(name, repr(name)) in text


@pytest.mark.parametrize(("noise", "bounded"), [("target only", True), ("three models", False)])
def test_only_the_affine_verdict_of_two_models_is_called_an_upper_bound(noise, bounded):
    text = str(discover(planted("affine", noise, seed=0), ANCHORS).verdict)
    assert ("upper bound" in text) == bounded
    assert "upper bound" not in str(discover(planted("orthogonal", noise, seed=0), ANCHORS).verdict)


def test_a_barely_explained_pair_is_called_weak():
    rng = np.random.default_rng(0)
    x = latent(rng)
    verdict = discover({"a": x, "b": noisy(x @ rotation(rng), rng, share=3.0)}, ANCHORS).verdict
    assert verdict.invariance != "none"
    assert 0.05 < verdict.explained_variance < 0.5
    assert verdict.weak
    assert "weak evidence" in str(verdict)


@pytest.mark.parametrize("verdict", [Verdict("affine", 0.9, False, 2), Verdict("scale", 0.9, False, 3)])
def test_a_strong_verdict_does_not_speak_of_weakness(verdict):
    assert "weak" not in str(verdict)
    assert "90 %" in str(verdict)


def test_the_table_is_that_of_align(report):
    given = planted("orthogonal", "three models", seed=0)
    ids = np.random.default_rng(0).choice(N, size=ANCHORS, replace=False)
    pd.testing.assert_frame_equal(report.table, align(given, ids, labels=np.arange(N) % 3))
    assert report.table.null_within_class.notna().all()


def test_the_ladder_has_a_row_per_class_and_one_choice(report):
    ladder = report.ladder
    assert list(ladder["class"]) == list(RUNGS)
    assert {"parameters", "explained_variance", "gap", "tolerance", "chosen"} <= set(ladder.columns)
    assert ladder.chosen.sum() == 1
    chosen = ladder[ladder.chosen].iloc[0]
    assert chosen["class"] == report.verdict.invariance
    assert chosen.explained_variance == report.verdict.explained_variance


@pytest.mark.parametrize("name", CLASSES)
def test_the_choice_is_the_smallest_class_within_tolerance_of_the_best(name):
    ladder = discover(planted(name, "both sides", seed=1), ANCHORS).ladder.set_index("class")
    best = ladder.explained_variance.max()
    np.testing.assert_allclose(ladder.gap, best - ladder.explained_variance, atol=1e-9)
    assert (ladder.tolerance >= 0.01).all()
    good = ladder[ladder.gap <= ladder.tolerance]
    expected = "constant" if name == "none" else good.parameters.idxmin()
    assert ladder.chosen.idxmax() == expected


@pytest.mark.parametrize(
    ("gap", "spread", "expected"),
    [
        (0.005, 0.0, "orthogonal"),  # less than what counts
        (0.03, 0.05, "affine"),  # 3 SE = 0.015
        (0.03, 0.2, "orthogonal"),  # 3 SE = 0.06
    ],
)
def test_a_smaller_class_is_chosen_within_three_standard_errors_or_a_hundredth(gap, spread, expected):
    swing = torch.tensor([1.0, -1.0]).repeat(50)
    affine = torch.linspace(0.1, 0.3, 100)
    losses = dict.fromkeys(RUNGS, affine + 0.5) | {"affine": affine, "orthogonal": affine + gap + spread * swing}
    ladder = _choose(losses, D).set_index("class")
    assert ladder.chosen.idxmax() == expected
    assert ladder.gap["orthogonal"] == pytest.approx(gap, abs=1e-6)
    assert ladder.tolerance["orthogonal"] == pytest.approx(max(0.01, 0.3 * spread), rel=0.01)
    assert ladder.explained_variance["affine"] == pytest.approx(0.8)


def test_parameters_count_the_freedom_of_each_class(report):
    turns = D * (D - 1) // 2
    assert report.ladder.set_index("class").parameters.to_dict() == {
        "constant": D,
        "identity": 0,
        "translation": D,
        "scale": 1,
        "orthogonal": turns,
        "orthogonal+translation": turns + D,
        "similarity": turns + D + 1,
        "affine": D * D + D,
    }


def test_larger_classes_explain_more_where_they_contain_the_smaller(report):
    explained = report.ladder.set_index("class").explained_variance
    for small, large in [
        ("identity", "translation"),
        ("identity", "scale"),
        ("identity", "orthogonal"),
        ("orthogonal", "orthogonal+translation"),
        ("orthogonal+translation", "similarity"),
        ("similarity", "affine"),
    ]:
        assert explained[large] > explained[small] - 0.02


def test_a_constant_explains_nothing_of_the_held_out_variance(report):
    assert report.ladder.set_index("class").explained_variance["constant"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("name", CLASSES)
def test_the_papers_rule_takes_the_highest_mean_calibrated_cosine(name):
    report = discover(planted(name, "both sides", seed=0), ANCHORS)
    means = {key: part.calibrated.mean() for key, part in report.table.groupby("invariance")}
    assert report.paper_choice in INVARIANCES
    assert report.paper_choice == max(means, key=means.get)


def test_the_structure_tells_an_anisotropic_map_from_a_rotation():
    rows = {
        name: discover(planted(name, "target only", seed=0), ANCHORS).structure for name in ("orthogonal", "affine")
    }
    for structure in rows.values():
        assert list(zip(structure.model_a, structure.model_b, strict=True)) == [("a", "b"), ("b", "a")]
        # the simulated rotation has the noise of the fit, whatever the class
        assert (structure.singular_ratio_rotation < 1.6).all()
    turned, stretched = rows["orthogonal"].iloc[0], rows["affine"].iloc[0]
    assert turned.singular_ratio < 1.3
    assert turned.off_rotation < 0.1
    assert stretched.singular_ratio > 4
    assert stretched.off_rotation > 0.3


def test_noise_stretches_the_simulated_rotation_as_it_does_a_real_one():
    structure = discover(planted("orthogonal", "target only", seed=0, share=0.5), ANCHORS).structure.iloc[0]
    assert structure.singular_ratio_rotation > 1.4
    assert structure.singular_ratio == pytest.approx(structure.singular_ratio_rotation, rel=0.25)
    assert structure.off_rotation == pytest.approx(structure.off_rotation_rotation, rel=0.25)


def test_the_shift_is_seen_in_the_structure():
    shifts = [
        discover(planted(name, "target only", seed=0), ANCHORS).structure["shift"][0]
        for name in ("orthogonal", "orthogonal+translation")
    ]
    assert shifts[0] < 0.1
    assert shifts[1] > 0.5


def test_the_seed_decides_the_draw_and_the_result():
    given = planted("affine", "both sides", seed=0)
    first, again, other = (discover(given, ANCHORS, seed=seed).ladder for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not np.allclose(first.explained_variance, other.explained_variance, atol=1e-12)


def test_the_input_is_not_changed():
    given = planted("affine", "both sides", seed=0)
    discover(given, ANCHORS)
    for name, x in planted("affine", "both sides", seed=0).items():
        np.testing.assert_array_equal(given[name], x)


def test_the_plot_draws_the_table_and_the_ladder(report):
    figure = report.plot()
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert [label.get_text() for label in right.get_yticklabels()] == list(RUNGS)
    widths = [bar.get_width() for bar in right.patches]
    np.testing.assert_allclose(widths, report.ladder.explained_variance)
    colours = [bar.get_facecolor() for bar in right.patches]
    assert colours.count(matplotlib.colors.to_rgba("C1")) == 1
    assert sum(len(points.get_offsets()) for points in left.collections) == len(report.table)
    plt.close(figure)


def test_the_page_is_self_contained_and_says_the_verdict(report, tmp_path):
    path = report.to_html(tmp_path / "report.html")
    plt.close("all")
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//|file:)|@import|<script|url\(""", page)
    assert "http://" not in page
    assert "https://" not in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 1
    assert str(report.verdict) in page
    assert page.count("<table") == 3
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_names_of_models_cannot_break_the_page(tmp_path):
    x, y = planted("identity", "target only", seed=0).values()
    page = discover({"<script>": x, "b&c": y}, ANCHORS).to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    plt.close("all")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"anchors": N}, "give fewer anchors"),
        ({"anchors": 1}, "at least 2 are needed"),
        ({"anchors": [3, 3, 4]}, "anchor ids are repeated"),
        ({"anchors": [0, N]}, "is outside the rows"),
        ({"anchors": None}, "a count or a list of whole-numbered row ids"),
        ({"labels": [0, 1]}, "one label for each of the 1256 rows"),
        ({"spaces": [np.eye(10)]}, "at least 2 are needed to compare models"),
        ({"spaces": [np.eye(10), np.eye(11)]}, "different numbers of rows"),
    ],
)
def test_unusable_arguments_are_named(arguments, match):
    given = {"spaces": planted("identity", "target only", seed=0), "anchors": ANCHORS}
    with pytest.raises(SpaceError, match=match) as caught:
        discover(**{**given, **arguments})
    assert "\n" not in str(caught.value)


def test_spaces_without_any_calibration_still_get_a_report():
    rng = np.random.default_rng(0)
    report = discover([np.outer(rng.uniform(1, 2, 60), np.ones(8)) for _ in range(2)], 20)
    assert report.paper_choice.startswith("none")
