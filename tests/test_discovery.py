import html
import importlib.util
import inspect
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import matplotlib

from invariances.errors import SpaceError

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import ortho_group

import invariances
from invariances import (
    Verdict,
    align,
    cli,
    discover,
)
from invariances.fitting import ALL_CLASSES
from invariances.ladders import ALL_PAIRS, DELTA, SMALLEST_FIRST, choose
from invariances.ladders import CLASSES as MAP_CLASSES
from invariances.noise import instruments_of, left_out_ridge, shrunk
from invariances.noise import predicted as predicted_source
from invariances.represent import INVARIANCES

ROOT = Path(__file__).resolve().parent.parent
D, ANCHORS, N = 32, 128, 628
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
TURNED = CLASSES[3:7]


def ladder(*given, **options):
    """The classes compared for all pairs at once."""
    table = invariances.ladder(*given, **options).table
    return table[table.model_a == ALL_PAIRS].reset_index(drop=True)


def rotation(rng, d=D):
    return ortho_group.rvs(d, random_state=rng)


def latent(rng, codes="linear"):
    x = rng.normal(size=(N, D))
    if codes == "relu":
        return np.maximum(x @ rng.normal(size=(D, D)) / np.sqrt(D), 0)
    spectrum = np.linspace(2, 0.3, D) if codes == "linear" else np.ones(D)
    return x * spectrum + 0.5 * rng.normal(size=D)


def mapped(name, x, rng, codes="linear"):
    """The space after a random map of the class; for "none" a space of its own."""
    shift, factor = x.std() * rng.normal(size=D), rng.choice([0.4, 2.5])
    # condition number 10
    stretched = rotation(rng) * np.geomspace(10**0.5, 10**-0.5, D) @ rotation(rng)
    return {
        "identity": lambda: x.copy(),
        "translation": lambda: x + shift,
        "scale": lambda: factor * x,
        "permutation": lambda: x[:, rng.permutation(D)],
        "orthogonal": lambda: x @ rotation(rng),
        "orthogonal+translation": lambda: x @ rotation(rng) + shift,
        "similarity": lambda: factor * x @ rotation(rng) + shift,
        "affine": lambda: x @ stretched + shift,
        "none": lambda: latent(rng, codes) @ rotation(rng) + shift,
    }[name]()


def noisy(x, rng, share=0.05):
    """Add isotropic noise of that share of the variance."""
    return x + rng.normal(size=x.shape) * np.sqrt(share * x.var(axis=0).mean())


def varied(x, rng, share=0.2, axes=6):
    """Add variation along a few random directions, of that share of the variance."""
    return x + np.sqrt(share * x.var(axis=0).sum() / axes) * rng.normal(size=(N, axes)) @ rotation(rng)[:axes]


def planted(name, noise, seed, share=0.05, codes="linear"):
    rng = np.random.default_rng(seed)
    x = latent(rng, codes)
    y, z = mapped(name, x, rng, codes), mapped(name, x, rng, codes)
    if noise == "target only":
        return {"a": x, "b": noisy(y, rng, share)}
    if noise == "both sides":
        return {"a": noisy(x, rng, share), "b": noisy(y, rng, share)}
    if noise == "three models":
        return {"a": noisy(x, rng, share), "b": noisy(y, rng, share), "c": noisy(z, rng, share)}
    assert noise == "private variation"
    return {key: noisy(varied(s, rng), rng, share) for key, s in zip("abc", (x, y, z), strict=True)}


def named(frame):
    return frame.loc[frame.chosen, "class"].item().replace("constant", "none")


@pytest.fixture(scope="module")
def report():
    return discover(planted("orthogonal", "three models", seed=0), ANCHORS, labels=np.arange(N) % 3)


# The verdict -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "noise"),
    [
        ("isotropic", "both sides"),
        ("linear", "both sides"),
        ("relu", "target only"),
        ("linear", "private variation"),
        ("relu", "private variation"),
    ],
)
@pytest.mark.parametrize("name", CLASSES)
def test_the_planted_class_is_found(name, codes, noise):
    # how often it is found is what the published study counts
    answers = Counter(named(ladder(planted(name, noise, seed, codes=codes), ANCHORS, seed=seed)) for seed in range(4))
    assert answers == {name: 4}


@pytest.mark.parametrize("noise", ["target only", "both sides", "three models"])
@pytest.mark.parametrize("name", CLASSES)
def test_discover_gives_the_ladders_verdict(name, noise):
    given = planted(name, noise, seed=20)
    report = discover(given, ANCHORS, seed=3)
    pd.testing.assert_frame_equal(report.ladder, ladder(given, ANCHORS, seed=3)[list(report.ladder)])
    assert report.verdict.invariance == name
    assert not report.verdict.weak
    assert report.verdict.models == len(given)
    assert report.verdict.explained_variance < 1


@pytest.mark.parametrize("name", ["identity", "orthogonal"])
def test_much_noise_on_both_sides_of_an_isotropic_space_is_no_change_of_scale(name):
    # a regression shrinks by 1 / 1.2 both ways, which a factor would take for its own
    for seed in range(4):
        given = planted(name, "both sides", seed, share=0.2, codes="isotropic")
        assert named(ladder(given, ANCHORS)) == name


@pytest.mark.parametrize("name", ["identity", "scale", "orthogonal", "similarity"])
def test_few_anchors_per_helper_feature_do_not_look_affine(name):
    # the helper's prediction is noisiest along the directions of the private variation
    for seed in range(4):
        given = planted(name, "private variation", seed)
        assert named(ladder(given, 2 * D)) == name


@pytest.mark.parametrize("models", [2, 3])
def test_unrelated_positive_codes_have_no_relation(models):
    # ReLU codes share their positive mean: uncentred maps align it, which a constant does as well
    for seed in range(8):
        rng = np.random.default_rng(seed)
        given = [latent(rng, "relu") for _ in range(models)]
        assert named(ladder(given, ANCHORS)) == "none"


def test_independent_spaces_around_the_origin_have_no_relation():
    # a factor near 0 explains as little as a constant, with fewer parameters
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, N, D))
    report = discover({"a": x, "b": y}, ANCHORS)
    assert report.verdict.invariance == "none"
    assert report.ladder.set_index("class").chosen["constant"]


def test_three_models_see_through_variation_that_looks_affine_to_two():
    for seed in range(4):
        given = planted("orthogonal", "private variation", seed)
        assert named(ladder(given, ANCHORS)) == "orthogonal"
        two = discover({name: given[name] for name in "ab"}, ANCHORS).verdict
        assert two.invariance == "affine"
        assert "with two models variation that is private to each cannot be excluded" in str(two)


def test_a_class_must_fit_every_pair():
    rng = np.random.default_rng(0)
    x = latent(rng)
    given = {"a": x, "b": x, "c": x @ rotation(rng)}
    assert named(ladder({name: noisy(s, rng) for name, s in given.items()}, ANCHORS)) == "orthogonal"


@pytest.mark.parametrize("noise", ["target only", "both sides"])
@pytest.mark.parametrize("codes", ["linear", "relu"])
@pytest.mark.parametrize("kind", ["translation", "scale"])
def test_an_effect_below_delta_goes_to_the_smaller_class(kind, codes, noise):
    for seed in range(3):
        for size, delta, expected in [(0.005, 0.01, "identity"), (0.005, 0.002, kind), (0.02, 0.01, kind)]:
            rng = np.random.default_rng(seed)
            x = latent(rng, codes)
            total = x.var(axis=0).sum()
            shift = rng.normal(size=D)
            shift *= np.sqrt(size * total) / np.linalg.norm(shift)
            factor = 1 + np.sqrt(size * total / np.square(x).sum(axis=1).mean())
            y = x + shift if kind == "translation" else factor * x
            given = [noisy(x, rng) if noise == "both sides" else x, noisy(y, rng)]
            assert named(ladder(given, ANCHORS, delta=delta)) == expected


def test_an_almost_isotropic_affine_map_goes_to_the_smaller_class():
    rng = np.random.default_rng(0)
    x = latent(rng)
    slight, strong = (rotation(rng) * np.geomspace(c**0.5, c**-0.5, D) @ rotation(rng) for c in (1.05, 10))
    assert named(ladder([x, noisy(x @ slight, rng)], ANCHORS)) == "orthogonal"
    assert named(ladder([x, noisy(x @ strong, rng)], ANCHORS)) == "affine"


def test_without_noise_the_class_explains_everything():
    verdict = discover(planted("similarity", "target only", seed=0, share=0), ANCHORS).verdict
    assert verdict.invariance == "similarity"
    assert verdict.explained_variance == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_without_noise_three_models_are_told_apart_too(name):
    assert named(ladder(planted(name, "three models", seed=0, share=0), ANCHORS)) == name


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
    assert report.structure.notna().all(axis=None)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("noise", ["both sides", "private variation"])
def test_order_and_names_of_the_models_do_not_matter(name, noise):
    given = planted(name, noise, seed=30)
    other = {f"model {key}": given[key] for key in reversed(given)}
    first, second = ladder(given, ANCHORS), ladder(other, ANCHORS)
    assert named(first) == named(second) == name
    np.testing.assert_allclose(first.explained_variance, second.explained_variance, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["identity", "orthogonal", "affine", "none"])
def test_the_unit_of_the_spaces_does_not_matter(name):
    given = planted(name, "private variation", seed=31)
    first, second = ladder(given, ANCHORS), ladder({key: 1e3 * x for key, x in given.items()}, ANCHORS)
    assert named(first) == named(second)
    np.testing.assert_allclose(first.explained_variance, second.explained_variance, rtol=1e-6, atol=1e-8)


def test_the_seed_decides_the_draw_and_the_result():
    given = planted("affine", "both sides", seed=0)
    first, again, other = (ladder(given, ANCHORS, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not np.allclose(first.explained_variance, other.explained_variance, atol=1e-12)


def test_the_input_is_not_changed():
    given = planted("affine", "private variation", seed=0)
    discover(given, ANCHORS)
    for name, x in planted("affine", "private variation", seed=0).items():
        np.testing.assert_array_equal(given[name], x)


# Permutations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["both sides", "three models"])
@pytest.mark.parametrize("name", [*CLASSES, "permutation"])
def test_permutations_are_told_from_other_classes_on_request(name, noise):
    for seed in range(2):
        given = planted(name, noise, seed, codes="relu")
        assert named(ladder(given, ANCHORS, permutation=True)) == name


def test_a_permutation_is_a_rotation_where_it_is_not_asked_for():
    given = planted("permutation", "both sides", seed=0, codes="relu")
    assert "permutation" not in set(ladder(given, ANCHORS)["class"])
    assert named(ladder(given, ANCHORS)) == "orthogonal"
    report = discover(given, ANCHORS, permutation=True)
    assert list(report.ladder["class"]) == list(ALL_CLASSES)
    assert "class 'permutation'" in str(report.verdict)


# The rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "spread", "delta", "expected"),
    [
        (0.005, 0.0, 0.01, "orthogonal"),  # less than what counts
        (0.005, 0.0, 0.002, "affine"),
        (0.03, 0.05, 0.01, "affine"),  # 3 SE = 0.015
        (0.03, 0.2, 0.01, "orthogonal"),  # 3 SE = 0.06
        (0.03, 0.0, 0.05, "orthogonal"),
    ],
)
def test_a_smaller_class_is_chosen_within_three_standard_errors_or_delta(gap, spread, delta, expected):
    swing = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(50)
    affine = torch.linspace(0.1, 0.3, 100)
    losses = dict.fromkeys(MAP_CLASSES, affine + 0.5) | {"affine": affine, "orthogonal": affine + gap + spread * swing}
    frame = choose([losses], D, delta).set_index("class")
    assert frame.chosen.idxmax() == expected
    assert frame.gap["orthogonal"] == pytest.approx(gap, abs=1e-6)
    assert frame.tolerance["orthogonal"] == pytest.approx(max(delta, 0.3 * spread), rel=0.01)
    assert frame.explained_variance["affine"] == pytest.approx(0.8)


def test_pairs_are_averaged_before_the_standard_error():
    # what one pair gains on a sample, the other loses on it: the mean does not vary
    swing = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(50)
    base = dict.fromkeys(MAP_CLASSES, torch.full((100,), 0.9, dtype=torch.float64)) | {
        "affine": torch.full((100,), 0.2, dtype=torch.float64)
    }
    pairs = [base | {"similarity": 0.22 + sign * swing} for sign in (1, -1)]
    apart, pooled = (choose(given, D, 0.01).set_index("class") for given in (pairs[:1], pairs))
    assert apart.tolerance["similarity"] == pytest.approx(3 * float(swing.std()) / 10)
    assert apart.chosen.idxmax() == "similarity"
    assert pooled.tolerance["similarity"] == pytest.approx(0.01)
    assert pooled.gap["similarity"] == pytest.approx(0.02)
    assert pooled.chosen.idxmax() == "affine"


@pytest.mark.parametrize(("best", "expected"), [(0.992, "constant"), (0.98, "scale")])
def test_none_is_decided_before_the_size_of_the_classes(best, expected):
    # identity has fewer parameters than a constant and comes as close
    losses = {rung: torch.full((50,), 1.0) for rung in MAP_CLASSES} | {"scale": torch.full((50,), best)}
    assert choose([losses], D, 0.01).set_index("class").chosen.idxmax() == expected


def test_the_order_of_the_classes_is_that_of_their_parameters():
    losses = dict.fromkeys(ALL_CLASSES, torch.ones(9))
    parameters = choose([losses], D, 0.01).set_index("class").parameters
    turns = D * (D - 1) // 2
    assert parameters.to_dict() == {
        "constant": D,
        "identity": 0,
        "translation": D,
        "scale": 1,
        "permutation": 0,
        "orthogonal": turns,
        "orthogonal+translation": turns + D,
        "similarity": turns + D + 1,
        "affine": D * D + D,
    }
    continuous = [rung for rung in SMALLEST_FIRST if rung != "permutation"]
    assert parameters[continuous].is_monotonic_increasing
    # one of d! orders takes more bits than d numbers of 3 bits, and every permutation is a rotation or reflection
    assert math.log2(math.factorial(D)) > 3 * D
    place = SMALLEST_FIRST.index
    assert place("scale") < place("permutation") < place("orthogonal")
    assert place("translation") < place("permutation")


def test_the_ladder_has_a_row_per_class_and_one_choice(report):
    frame = report.ladder
    assert list(frame["class"]) == list(MAP_CLASSES)
    assert list(frame.columns) == [
        "class",
        "parameters",
        "explained_variance",
        "standard_error",
        "gap",
        "tolerance",
        "chosen",
    ]
    chosen = frame[frame.chosen]
    assert list(chosen["class"]) == [report.verdict.invariance]
    assert list(chosen.explained_variance) == [report.verdict.explained_variance]


@pytest.mark.parametrize("name", CLASSES)
def test_the_choice_is_the_smallest_class_within_tolerance_of_the_best(name):
    frame = ladder(planted(name, "both sides", seed=1), ANCHORS).set_index("class")
    best = frame.explained_variance.max()
    np.testing.assert_allclose(frame.gap, best - frame.explained_variance, atol=1e-9)
    assert (frame.tolerance >= 0.01).all()
    good = frame[frame.gap <= frame.tolerance]
    expected = "constant" if name == "none" else good.parameters.idxmin()
    assert frame.chosen.idxmax() == expected


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


def test_the_losses_are_those_of_plain_maps_where_there_is_nothing_to_filter():
    given = planted("orthogonal+translation", "target only", seed=0, share=0)
    ids = np.random.default_rng(0).choice(N, size=ANCHORS, replace=False)
    rest = np.setdiff1d(np.arange(N), ids)
    expected = []
    for a, b in ("ab", "ba"):
        x, y = given[a], given[b]
        u, _, v = np.linalg.svd(y[ids].T @ x[ids])
        error = np.square(y[rest] - x[rest] @ (u @ v).T).sum(axis=1).mean()
        expected.append(1 - error / np.square(y[rest] - y[ids].mean(axis=0)).sum(axis=1).mean())
    explained = ladder(given, ids).set_index("class").explained_variance
    assert explained["orthogonal"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert explained["orthogonal"] < 0.99  # the shift is missing


# Noise on both sides ---------------------------------------------------------------------------


def test_every_anchor_is_predicted_by_a_ridge_fit_without_it():
    rng = np.random.default_rng(0)
    z, x = rng.normal(size=(20, 6)) * [3, 2, 1, 1, 0.5, 0.1], rng.normal(size=(20, 3)) + 5
    penalties = np.array([0.5, 3.0, 40.0])
    instruments, centred = instruments_of(torch.from_numpy(z)), torch.from_numpy(x - x.mean(axis=0))
    residuals, weight = left_out_ridge(instruments, centred, instruments.left.T @ centred, torch.from_numpy(penalties))
    predicted = x - residuals.numpy()
    for j, penalty in enumerate(penalties):
        for i in range(20):
            kept = np.arange(20) != i
            z_mean, x_mean = z[kept].mean(axis=0), x[kept, j].mean()
            centred = z[kept] - z_mean
            slope = np.linalg.solve(centred.T @ centred + penalty * np.eye(6), centred.T @ (x[kept, j] - x_mean))
            assert predicted[i, j] == pytest.approx(x_mean + (z[i] - z_mean) @ slope)
        centred = z - z.mean(axis=0)
        slope = np.linalg.solve(centred.T @ centred + penalty * np.eye(6), centred.T @ x[:, j])
        np.testing.assert_allclose(weight[:, j], slope)


def test_a_prediction_knows_nothing_of_what_is_private_to_the_source():
    rng = np.random.default_rng(0)
    x = latent(rng)
    extra = rng.normal(size=(N, 1)) @ rotation(rng)[:1] * 4
    source, helper = torch.from_numpy(x + extra), torch.from_numpy(noisy(x @ rotation(rng), rng))
    parts = slice(ANCHORS), slice(ANCHORS, None)
    predicted, weights = predicted_source(source[parts[0]], instruments_of(helper[parts[0]]))
    samples = source[parts[0]].mean(dim=0) + (helper[parts[1]] - helper[parts[0]].mean(dim=0)) @ weights
    axis = torch.from_numpy(extra[0] / np.linalg.norm(extra[0]))
    for found, part in ((predicted, parts[0]), (samples, parts[1])):
        private = (found - found.mean(dim=0)) @ axis
        seen = torch.from_numpy(extra)[part] @ axis
        assert abs(np.corrcoef(private, seen)[0, 1]) < 0.2
        # while what is shared stays
        shared = torch.from_numpy(x)[part]
        across = torch.eye(D, dtype=torch.float64) - torch.outer(axis, axis)
        assert float(((found - shared) @ across).square().mean() / (shared @ across).var(dim=0).mean()) < 0.2


def test_a_regression_on_the_prediction_is_not_attenuated():
    # E[y | prediction] = prediction, also along the directions of most private variation
    rng = np.random.default_rng(0)
    n, k = 8000, 50 * D
    x = rng.normal(size=(n, D))
    axes = rotation(rng)
    private = [2 * rng.normal(size=(n, 4)) @ axes[4 * i : 4 * i + 4] for i in range(2)]
    source, helper = (torch.from_numpy(x + v + 0.2 * rng.normal(size=x.shape)) for v in private)
    _, weights = predicted_source(source[:k], instruments_of(helper[:k]))
    samples = (helper[k:] - helper[:k].mean(dim=0)) @ weights
    target = torch.from_numpy(x)[k:]
    for part in (slice(0, 4), slice(8, None)):
        directions = torch.from_numpy(axes[part]).T
        seen, wanted = (samples - samples.mean(dim=0)) @ directions, (target - target.mean(dim=0)) @ directions
        assert float((seen * wanted).sum() / seen.square().sum()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("codes", ["linear", "isotropic"])
@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_filter_takes_out_one_amount_of_noise_on_every_axis(codes, factor, share):
    rng = np.random.default_rng(1)
    x = latent(rng, codes)
    y = factor * x @ rotation(rng)
    source, target = (torch.from_numpy(noisy(s, rng, share) if share else s) for s in (x, y))
    found = shrunk(source[:400], target[:400], factor, seed=0)
    filtered, samples = found.source, source[400:] - (source[400:] - found.factor.mean) @ found.lost
    mean = source[:400].mean(dim=0)
    _, singular, axes = torch.linalg.svd(source[:400] - mean, full_matrices=False)
    before, after = ((s - mean) @ axes.T for s in (source[:400], filtered))
    kept = (after * before).sum(dim=0) / before.square().sum(dim=0)
    np.testing.assert_allclose(after, before * kept, atol=1e-8)
    # the same number taken from every variance that exceeds it
    taken = ((1 - kept) * singular.square() / 400)[kept > 1e-6]
    np.testing.assert_allclose(taken, taken.mean(), rtol=1e-6, atol=1e-9)
    noise = share * float(torch.from_numpy(x).var(dim=0).mean())
    assert float(taken.mean()) == pytest.approx(noise, rel=0.5, abs=0.01 * float(source.var(dim=0).mean()))
    np.testing.assert_allclose((samples - mean) @ axes.T, (source[400:] - mean) @ axes.T * kept, atol=1e-8)


# Description of T ------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["target only", "both sides", "private variation"])
def test_the_structure_tells_an_anisotropic_map_from_a_rotation(noise):
    rows = {name: discover(planted(name, noise, seed=0), ANCHORS).structure for name in ("orthogonal", "affine")}
    turned, stretched = rows["orthogonal"], rows["affine"]
    pairs = [(a, b) for a in turned.model_a.unique() for b in turned.model_a.unique() if a != b]
    assert sorted(zip(turned.model_a, turned.model_b, strict=True)) == sorted(pairs)
    # a rotation reads as the simulated one does
    np.testing.assert_allclose(turned.singular_value_ratio, turned.singular_value_ratio_simulated, rtol=0.25)
    np.testing.assert_allclose(turned.distance_from_rotation, turned.distance_from_rotation_simulated, rtol=0.25)
    # what is private to the models blurs the axes, in the simulated rotation too
    factor = 1.2 if noise == "private variation" else 2
    assert (stretched.singular_value_ratio > factor * stretched.singular_value_ratio_simulated).all()
    assert (stretched.distance_from_rotation > factor * stretched.distance_from_rotation_simulated).all()


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_a_rotation_with_little_noise_reads_one_on_the_axes_that_carry_the_variance(factor):
    # over all axes it would not: the noise is as strong as the last axes
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) * np.geomspace(1, 0.01, D)
    structure = discover({"a": x, "b": noisy(factor * x @ rotation(rng), rng, share=1e-4)}, ANCHORS).structure
    assert (structure.singular_value_ratio < 1.1).all()
    assert (structure.distance_from_rotation < 0.03).all()
    assert (structure.singular_value_ratio_simulated < 1.1).all()
    stretched = x @ (rotation(rng) * np.geomspace(3, 1 / 3, D) @ rotation(rng))
    structure = discover({"a": x, "b": noisy(stretched, rng, share=1e-4)}, ANCHORS).structure
    assert (structure.singular_value_ratio > 2).all()


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_noise_stretches_the_simulated_rotation_as_it_does_a_real_one(factor):
    rng = np.random.default_rng(0)
    x = latent(rng)
    structure = discover([x, noisy(factor * x @ rotation(rng), rng, share=0.5)], ANCHORS).structure.iloc[0]
    assert structure.singular_value_ratio_simulated > 1.4
    assert structure.singular_value_ratio == pytest.approx(structure.singular_value_ratio_simulated, rel=0.25)
    assert structure.distance_from_rotation == pytest.approx(structure.distance_from_rotation_simulated, rel=0.25)


def test_the_shift_is_seen_in_the_structure():
    still, moved = (
        discover(planted(name, "target only", seed=0), ANCHORS).structure.iloc[0]
        for name in ("orthogonal", "orthogonal+translation")
    )
    assert still["shift"] < 0.15
    assert moved["shift"] > 0.5
    for row in (still, moved):  # no shift is simulated
        assert row["shift_simulated"] < 0.15


def test_the_structure_says_which_pair_is_not_related():
    rng = np.random.default_rng(0)
    x = latent(rng)
    given = {"a": noisy(x, rng), "b": noisy(x @ rotation(rng), rng), "c": noisy(x, rng), "d": latent(rng)}
    structure = discover(given, ANCHORS).structure
    alone = (structure.model_a == "d") | (structure.model_b == "d")
    assert (structure.explained_variance[alone] < 0.05).all()
    assert (structure.explained_variance[~alone] > 0.7).all()


# Words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["target only", "three models"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_verdict_is_one_sentence(name, noise):
    text = str(discover(planted(name, noise, seed=0), ANCHORS).verdict)
    assert "\n" not in text
    assert text.endswith(".")
    assert text.count(".") == 1
    if name == "none":
        assert text.startswith(f"No map relates {'both' if noise == 'target only' else 'all 3'} spaces")
    else:
        assert re.search(r"explains \d+ % of the held-out variance", text)
        assert {"identity": "already agree", "affine": "general affine map"}.get(name, repr(name)) in text


@pytest.mark.parametrize("models", [2, 3])
@pytest.mark.parametrize("name", [*CLASSES, "permutation"])
def test_only_the_affine_verdict_of_two_models_is_called_an_upper_bound(name, models):
    assert ("upper bound" in str(Verdict(name, 0.9, False, models))) == (name == "affine" and models == 2)


@pytest.mark.parametrize("name", CLASSES)
def test_no_more_anchors_than_features_make_rotations_uncertain(name):
    assert ("uncertain" in str(Verdict(name, 0.9, False, 2, few_anchors=True))) == (name in TURNED)
    assert "uncertain" not in str(Verdict(name, 0.9, False, 2))


@pytest.mark.parametrize(("anchors", "few"), [(D, True), (D + 1, False)])
def test_anchors_are_few_up_to_the_number_of_features(anchors, few):
    assert discover(planted("orthogonal", "target only", seed=0), anchors).verdict.few_anchors == few


def test_a_barely_explained_pair_is_called_weak():
    rng = np.random.default_rng(0)
    x = latent(rng)
    verdict = discover({"a": x, "b": noisy(x @ rotation(rng), rng, share=3.0)}, ANCHORS).verdict
    assert verdict.invariance != "none"
    assert 0.05 < verdict.explained_variance < 0.5
    assert verdict.weak
    assert "weak evidence, since that is below 50 %" in str(verdict)


@pytest.mark.parametrize("verdict", [Verdict("affine", 0.9, False, 2), Verdict("scale", 0.9, False, 3)])
def test_a_strong_verdict_does_not_speak_of_weakness(verdict):
    assert "weak" not in str(verdict)
    assert "90 %" in str(verdict)


# The report ------------------------------------------------------------------------------------


def test_the_table_is_that_of_align(report):
    given = planted("orthogonal", "three models", seed=0)
    ids = np.random.default_rng(0).choice(N, size=ANCHORS, replace=False)
    pd.testing.assert_frame_equal(report.table, align(given, ids, labels=np.arange(N) % 3))
    assert report.table.null_within_class.notna().all()


@pytest.mark.parametrize("name", CLASSES)
def test_the_papers_rule_takes_the_highest_mean_calibrated_cosine(name):
    report = discover(planted(name, "both sides", seed=0), ANCHORS)
    means = {key: part.calibrated.mean() for key, part in report.table.groupby("invariance")}
    assert report.paper_choice in INVARIANCES
    assert report.paper_choice == max(means, key=means.get)


def test_the_plot_draws_the_table_and_the_ladder(report):
    figure = report.plot()
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert "paper's rule" in left.get_title()
    assert [label.get_text() for label in right.get_yticklabels()] == list(MAP_CLASSES)
    explained = report.ladder.explained_variance
    # what is far below 0 is cut, and written beside its bar
    lowest = right.get_xlim()[0]
    assert lowest <= 0
    np.testing.assert_allclose([bar.get_width() for bar in right.patches], explained.clip(lower=lowest))
    assert [text.get_text() for text in right.texts] == [f"{value:.3f}" for value in explained]
    colours = [bar.get_facecolor() for bar in right.patches]
    assert colours.count(matplotlib.colors.to_rgba("C1")) == 1
    assert colours.index(matplotlib.colors.to_rgba("C1")) == report.ladder.chosen.idxmax()
    assert sum(len(points.get_offsets()) for points in left.collections) == len(report.table)
    plt.close(figure)


def test_no_label_of_the_plot_lies_on_another():
    report = discover(planted("orthogonal", "both sides", seed=0), ANCHORS, permutation=True)
    more = [report.table.assign(invariance=f"relative, similarity {i}") for i in range(8)]
    wide = pd.concat([report.table, *more], ignore_index=True)
    figure = type(report)(**{**vars(report), "table": wide}).plot()
    figure.draw_without_rendering()
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels(), axes.texts):
            boxes = [label.get_window_extent() for label in labels]
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
            assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    plt.close(figure)


def test_the_page_is_self_contained_and_says_the_verdict(report, tmp_path):
    path = report.to_html(tmp_path / "report.html")
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//|file:)|@import|<script|url\((?!#)""", page)
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<svg") == 4
    for said in (report.answer, str(report.verdict), report.rule, *report.next_steps):
        shown = html.unescape(re.sub(r"</?code>", "", page))
        assert said in shown
    assert "not commensurable" in page
    assert page.count("<table") == 6
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert not plt.get_fignums()


def test_the_rule_is_said_with_its_numbers(tmp_path):
    report = discover(planted("identity", "target only", seed=0), ANCHORS, delta=0.03)
    assert report.delta == 0.03
    assert "delta = 0.03 of the target's variance" in report.rule
    assert "below an explained variance of 0.5 the verdict is called weak" in report.rule
    assert report.rule in html.unescape(report.to_html(tmp_path / "report.html").read_text(encoding="utf-8"))
    assert (report.ladder.tolerance >= 0.03).all()


def test_names_of_models_cannot_break_the_page(tmp_path):
    x, y = planted("identity", "target only", seed=0).values()
    page = discover({"<script>": x, "b&c": y}, ANCHORS).to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


# Bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"anchors": N}, "give fewer anchors"),
        ({"anchors": 1}, "at least 2 are needed"),
        ({"anchors": [3, 3, 4]}, "anchor ids are repeated"),
        ({"anchors": [0, N]}, "is outside the rows"),
        ({"anchors": None}, "a count, a list of whole-numbered row ids"),
        ({"labels": [0, 1]}, f"one label for each of the {N} rows"),
        ({"spaces": [np.eye(10)]}, "at least 2 are needed to compare models"),
        ({"spaces": [np.eye(10), np.eye(11)]}, "different numbers of rows"),
        *[
            ({"delta": delta}, "delta is .*; give a share of the target's variance above 0 and below 1")
            for delta in (0, 1, -0.1, math.nan, math.inf, True, "0.01", None)
        ],
    ],
)
def test_unusable_arguments_are_named(arguments, match):
    given = {"spaces": planted("identity", "target only", seed=0), "anchors": ANCHORS}
    with pytest.raises(SpaceError, match=match) as caught:
        discover(**{**given, **arguments})
    assert "\n" not in str(caught.value)
    if "labels" not in arguments:
        with pytest.raises(SpaceError, match=match):
            ladder(**{**given, **arguments})


def test_a_space_that_is_constant_where_it_is_scored_is_named():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    still = np.vstack([np.array([[2.0, 1, 1, 1], [0, 1, 1, 1]]).repeat(10, axis=0), np.ones((40, 4))])
    with pytest.raises(SpaceError, match="space 'b' is constant on the scored rows; choose other anchors"):
        ladder({"a": x, "b": still}, np.arange(20))


def test_spaces_without_any_calibration_still_get_a_report():
    rng = np.random.default_rng(0)
    report = discover([np.outer(rng.uniform(1, 2, 60), np.ones(8)) for _ in range(2)], 20)
    assert report.paper_choice.startswith("none")


@pytest.mark.parametrize("models", [2, 3])
@pytest.mark.parametrize("anchors", [2, 3, 8])
def test_a_handful_of_anchors_gives_numbers(models, anchors):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5))
    report = discover([x + 0.1 * rng.normal(size=x.shape) for _ in range(models)], anchors)
    assert report.ladder[["explained_variance", "gap", "tolerance"]].notna().all(axis=None)
    assert report.structure.notna().all(axis=None)


def test_a_source_that_is_constant_on_the_anchors_is_named():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 60, 4))
    x[:20] = 1.0
    with pytest.raises(SpaceError, match="anchors of 'a' is constant"):
        discover({"a": x, "b": y, "c": rng.normal(size=(60, 4))}, np.arange(20))


# The study of its operating characteristics -----------------------------------------------------


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("characteristics", ROOT / "benchmarks/operating_characteristics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_study_names_the_planted_class_in_95_of_100():
    table = pd.read_csv(ROOT / "book/characteristics/confusion.csv", keep_default_na=False)
    cells = table.groupby(["codes", "reading", "layout", "planted"])
    assert (cells["count"].sum() >= 100).all()
    hits = table[table.named == table.planted].set_index(["codes", "reading", "layout", "planted"])["count"]
    settings = {(codes, "variance") for codes in ("linear", "isotropic", "relu")} | {("linear", "std"), ("relu", "std")}
    layouts = ("target", "both", "private")
    wanted = {(*setting, layout, name) for setting in settings for layout in layouts for name in CLASSES}
    assert set(hits.index) == wanted
    assert (hits / cells["count"].sum()).min() >= 0.95
    fixed = table[["features", "anchors", "noise", "private", "condition", "delta"]].drop_duplicates()
    assert fixed.to_numpy().tolist() == [[64, 256, 0.05, 0.2, 10, 0.01]]


@pytest.mark.parametrize("layout", ["both", "private"])
@pytest.mark.parametrize("codes", ["linear", "isotropic", "relu"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_study_plants_what_it_says(study, name, codes, layout):
    cell = study.Cell(name, codes, layout, noise=0.0, private=0.0, features=8, anchors=56)
    spaces = list(study.draw(cell, seed=3).values())
    assert len(spaces) == (3 if layout == "private" else 2)
    assert (np.min(spaces[0]) >= 0) == (codes == "relu")
    for x in spaces:
        for y in spaces:
            if x is y:
                continue
            xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
            ratio = yc.std() / xc.std()
            holds = {
                "identity": np.allclose(x, y),
                "translation": np.allclose(xc, yc),
                "scale": np.allclose(ratio * x, y),
                "orthogonal": np.allclose(x @ x.T, y @ y.T),
                "orthogonal+translation": np.allclose(xc @ xc.T, yc @ yc.T),
                "similarity": np.allclose(ratio**2 * xc @ xc.T, yc @ yc.T),
                "affine": np.allclose(xc @ np.linalg.lstsq(xc, yc, rcond=None)[0], yc),
            }
            if name == "none":
                assert not any(holds.values())
            else:
                assert holds[name]
    if name == "affine":
        xc, yc = (s - s.mean(axis=0) for s in spaces[:2])
        assert np.linalg.cond(np.linalg.lstsq(xc, yc, rcond=None)[0]) == pytest.approx(10)


@pytest.mark.parametrize(("reading", "noise", "private"), [("variance", 0.05, 0.2), ("std", 0.0025, 0.04)])
def test_the_study_adds_the_noise_that_it_says(study, reading, noise, private):
    given = study.Cell("orthogonal", "linear", "private", reading, anchors=19_256)
    loud = study.draw(given, seed=0)
    silent = study.draw(given._replace(noise=0.0, private=0.0), seed=0)
    varied = study.draw(given._replace(noise=0.0), seed=0)
    total = silent["a"].var(axis=0).sum()
    extra = varied["a"] - silent["a"]
    assert extra.var(axis=0).sum() / total == pytest.approx(private, rel=0.05)
    assert np.linalg.matrix_rank(extra) == 8
    assert (loud["a"] - varied["a"]).var(axis=0).sum() / varied["a"].var(axis=0).sum() == pytest.approx(noise, rel=0.05)
    target = study.draw(given._replace(layout="target"), seed=0)
    np.testing.assert_array_equal(target["a"], silent["a"])


@pytest.mark.parametrize("codes", ["linear", "relu"])
@pytest.mark.parametrize("name", ["translation", "scale"])
def test_the_study_plants_effects_of_the_size_that_it_says(study, name, codes):
    cell = study.Cell(name, codes, noise=0.0, effect=0.008, anchors=56)
    x, y = study.draw(cell, seed=0).values()
    left = np.square(y - x).sum(axis=1).mean()
    shares = [left / s.var(axis=0).sum() for s in (x, y)]
    assert np.mean(shares) == pytest.approx(0.008, rel=0.02)


def test_the_study_goes_on_from_finished_cells(study, tmp_path, monkeypatch):
    cells = [study.Cell(name) for name in ("none", "affine")]
    monkeypatch.setattr(study, "studies", lambda seeds: {"confusion": [(cell, seeds) for cell in cells]})
    asked = []

    def answer(cell, seed):
        asked.append((cell.planted, seed))
        if len(asked) == 5:
            raise KeyboardInterrupt
        return "none" if seed else "affine"

    monkeypatch.setattr(study, "named", answer)
    with pytest.raises(KeyboardInterrupt):
        study.compute(3, tmp_path, processes=1)
    study.compute(3, tmp_path, processes=1)
    assert asked[3:] == [("affine", 0), ("affine", 1), ("affine", 0), ("affine", 1), ("affine", 2)]
    study.compute(3, tmp_path, processes=1)
    assert len(asked) == 8
    table = pd.read_csv(tmp_path / "confusion.csv", keep_default_na=False)
    assert sorted(zip(table.planted, table.named, table["count"], strict=True)) == [
        ("affine", "affine", 1),
        ("affine", "none", 2),
        ("none", "affine", 1),
        ("none", "none", 2),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.csv"]
    study.compute(4, tmp_path, processes=1)  # other seeds are computed anew
    assert len(asked) == 16


def test_the_published_figures_are_there():
    page = (ROOT / "book/characteristics.md").read_text(encoding="utf-8")
    named_files = re.findall(r"```{(?:figure|include)} (\S+)", page)
    assert len(named_files) >= 7
    for name in named_files:
        assert (ROOT / "book" / name).is_file()


def test_the_command_has_the_library_s_default():
    assert inspect.signature(cli.discover).parameters["delta"].default == DELTA


# Few anchors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [2, 3])
@pytest.mark.parametrize("anchors", [10, 20, 50, 100])
def test_unrelated_spaces_are_none_however_few_the_anchors(models, anchors):
    answers = Counter()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        spaces = {f"m{i}": rng.normal(size=(600, 64)) for i in range(models)}
        answers[discover(spaces, anchors=anchors, seed=seed).verdict.invariance] += 1
    assert answers["none"] == 10


@pytest.mark.parametrize("name", ["orthogonal", "similarity", "affine"])
def test_two_anchors_cannot_tell(name):
    verdict = discover(planted(name, "both sides", seed=0), anchors=2).verdict
    assert verdict.invariance == "none"
    assert verdict.undecided
    assert str(verdict) == f"There are too few anchors to tell; give at least {D + 2}."


@pytest.mark.parametrize("name", ["identity", "scale"])
def test_what_a_few_anchors_determine_is_named_all_the_same(name):
    verdict = discover(planted(name, "target only", seed=0), anchors=8).verdict
    assert verdict.invariance == name
    assert not verdict.undecided


@pytest.mark.parametrize("name", CLASSES)
def test_enough_anchors_decide(name):
    verdict = discover(planted(name, "target only", seed=0), anchors=ANCHORS).verdict
    assert verdict.invariance == name
    assert not verdict.undecided


# Memory ----------------------------------------------------------------------------------------


PEAK = """
import sys, threading, time
import numpy as np
from invariances import discover, spaces

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024

def watch():
    while not ended:
        peaks.append(anonymous())
        time.sleep(0.005)

small = np.random.default_rng(0).normal(size=(2, 300, 8))
discover(list(small), anchors=50)
spaces.CHUNK_BYTES = 2**22  # in proportion to the files
peaks, ended = [anonymous()], []
watching = threading.Thread(target=watch)
watching.start()
report = discover(sys.argv[1:], anchors=800)
ended.append(True)
watching.join()
print(set(report.table.n_samples) == {39200}, report.verdict.invariance, max(peaks) - peaks[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
def test_spaces_in_files_are_never_held_whole(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 32)).astype("f4")
    files = [tmp_path / f"{name}.npy" for name in "ab"]
    for file in files:
        turn = np.linalg.qr(rng.normal(size=(96, 32)))[0].T.astype("f4")
        np.save(file, x @ turn + 0.1 * rng.normal(size=(40_000, 96)).astype("f4"))
    profiles = 2 * 39_200 * 800 * 4  # of both spaces, in single precision
    command = [sys.executable, "-W", "ignore", "-c", PEAK, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    all_scored, invariance, peak = done.stdout.split()
    assert (all_scored, invariance) == ("True", "orthogonal")
    assert int(peak) < profiles
