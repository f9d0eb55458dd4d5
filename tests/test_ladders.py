"""The ladder of maps, pair by pair and for all pairs at once, on spaces whose relation is planted."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ortho_group

from invariances import discover, ladder
from invariances.ladders import ALL_PAIRS, CLASSES
from invariances.rows import Rows
from invariances.structure import structure

D, ANCHORS, N = 24, 150, 650
PLANTED = {"orthogonal": "orthogonal", "orthogonal+scale": "similarity", "affine": "affine", "none": "none"}
"""What is planted, and the class that it should be called."""
PAIR = ["model_a", "model_b"]


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


def climbed(kind, **given):
    return ladder(planted(kind, **given), np.arange(ANCHORS))


# The choice --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("seed", range(3))
def test_the_planted_structure_comes_out_for_every_pair_and_for_all(kind, seed):
    table = climbed(kind, seed=seed).table
    assert set(table.verdict) == {PLANTED[kind]}
    chosen = table[table.chosen]
    assert set(chosen["class"]) == {PLANTED[kind].replace("none", "constant")}
    assert len(chosen) == 12 + 1  # ordered pairs of four models, and all of them


@pytest.mark.parametrize("models", [2, 3, 5])
def test_discovery_says_the_same_of_all_pairs_and_of_t(models):
    spaces = planted("affine", models=models)
    table = ladder(spaces, np.arange(ANCHORS)).table
    report = discover(spaces, np.arange(ANCHORS))
    whole = table[table.model_a == ALL_PAIRS]
    pd.testing.assert_frame_equal(whole[report.ladder.columns].reset_index(drop=True), report.ladder)
    own = table[(table["class"] == "affine") & (table.model_a != ALL_PAIRS)].set_index(PAIR).sort_index()
    structure = report.structure.set_index(PAIR).sort_index()
    pd.testing.assert_frame_equal(own[structure.columns], structure, check_exact=False, rtol=1e-9)


def test_models_beside_a_pair_help_whether_or_not_they_are_asked_about():
    spaces, anchors = planted("orthogonal", noise=0.1), np.arange(ANCHORS)
    whole = ladder(spaces, anchors).table
    one = ladder(spaces, anchors, [("m1", "m2")]).table
    alone = ladder({name: spaces[name] for name in ("m1", "m2")}, anchors).table
    keys = [*PAIR, "class"]
    same, lonely, of_all = (t[t.model_a != ALL_PAIRS].set_index(keys).explained_variance for t in (one, alone, whole))
    assert len(same) == 2 * len(CLASSES)
    pd.testing.assert_series_equal(same, of_all.loc[same.index])
    assert not np.allclose(lonely, same)


def test_tolerances_are_three_standard_errors_or_delta():
    spaces = planted("affine")
    for delta in (0.2, 1e-6):
        table = ladder(spaces, np.arange(ANCHORS), [("m0", "m1")], delta=delta).table
        np.testing.assert_allclose(table.tolerance, np.maximum(3 * table.standard_error, delta))
        best = table.groupby(PAIR).explained_variance.transform("max")
        np.testing.assert_allclose(table.gap, best - table.explained_variance, atol=1e-12)
        assert (table.standard_error > 1e-4).any()


def test_a_constant_is_the_mean_of_the_scored_rows_and_has_no_variance_to_explain_but_its_anchors():
    spaces = planted("orthogonal", models=2)
    table = ladder(spaces, np.arange(ANCHORS)).table
    constant = table[table["class"] == "constant"].set_index("model_b").explained_variance
    for name, x in spaces.items():
        anchors, scored = x[:ANCHORS], x[ANCHORS:]
        around = [np.square(scored - mean).sum() for mean in (scored.mean(axis=0), anchors.mean(axis=0))]
        assert constant[name] == pytest.approx(1 - around[0] / around[1])
        assert 0 < constant[name] < 3 / ANCHORS


# The singular values -----------------------------------------------------------------------------


def test_singular_values_are_those_of_the_planted_map():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ANCHORS, 6))
    factors = np.array([3.0, 2.5, 2.0, 1.5, 1.0, 0.5])
    y = x @ (ortho_group.rvs(6, random_state=rng) * factors) @ ortho_group.rvs(6, random_state=rng) + 1
    _, value, simulated = structure(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(value, factors, rtol=1e-6)
    # a map that only turns and rescales, and gives the target its size
    factor = np.linalg.norm(y - y.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0))
    np.testing.assert_allclose(simulated, factor, rtol=1e-6)


def test_a_rotations_singular_values_are_those_of_the_simulated_one_and_a_stretched_spaces_are_not():
    ratios = {}
    for kind in ("orthogonal+scale", "affine"):
        values = climbed(kind).singular_values.groupby(PAIR)
        ratio, simulated = (values[column].agg(lambda v: v.max() / v.min()) for column in ("value", "simulated"))
        ratios[kind] = ratio / simulated
    assert ratios["orthogonal+scale"].max() < 1.2
    assert ratios["affine"].min() > 2


@pytest.mark.parametrize("kind", ["orthogonal", "affine"])
def test_singular_values_give_the_figures_that_describe_t(kind):
    found = climbed(kind, models=3)
    table = found.table[found.table["class"] == "affine"].set_index(PAIR)
    pairs = found.singular_values.groupby(PAIR)
    for pair, own in pairs:
        assert list(own["index"]) == list(range(1, len(own) + 1))
        for column, suffix in (("value", ""), ("simulated", "_simulated")):
            v = own[column].to_numpy()
            ratio, distance = (
                table.loc[pair, f"{x}{suffix}"] for x in ("singular_value_ratio", "distance_from_rotation")
            )
            assert ratio == pytest.approx(v.max() / v.min())
            assert distance == pytest.approx(v.std() / np.sqrt((v**2).mean()))
    assert len(pairs) == 6


# Many pairs and rows -----------------------------------------------------------------------------


def test_of_many_pairs_a_balanced_seeded_part_is_compared():
    spaces = {name: x[:, :4] for name, x in planted("orthogonal", models=8, d=6).items()}
    tables = [ladder(spaces, np.arange(ANCHORS), most_pairs=12, seed=seed).table for seed in (0, 0, 1)]
    drawn = [table[(table["class"] == "affine") & (table.model_a != ALL_PAIRS)][PAIR] for table in tables]
    assert len(drawn[0]) == 24
    assert set(tables[0].ordered_pairs) == {56}
    times = drawn[0].stack().value_counts()
    assert len(times) == 8
    assert times.between(4, 8).all()  # 48 ends over 8 models
    assert drawn[0].equals(drawn[1])
    assert not drawn[0].equals(drawn[2])


def test_rows_are_compared_each_by_itself():
    kinds = ["orthogonal", "affine"]
    found = ladder(Rows(kinds, planted), np.arange(ANCHORS))
    for part, own in ((found.table, "table"), (found.singular_values, "singular_values")):
        assert list(part.row.unique()) == kinds
        for kind in kinds:
            alone = getattr(climbed(kind), own).reset_index(drop=True)
            pd.testing.assert_frame_equal(part[part.row == kind].drop(columns="row").reset_index(drop=True), alone)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize(("models", "anchors"), [(2, ANCHORS), (4, ANCHORS), (6, 40)])
def test_spaces_on_a_gpu_give_the_same_numbers(models, anchors):
    spaces = {name: torch.from_numpy(space) for name, space in planted("affine", models=models).items()}
    there = {name: space.to("cuda") for name, space in spaces.items()}
    here, found = (ladder(given, np.arange(anchors), permutation=True) for given in (spaces, there))
    pd.testing.assert_frame_equal(found.table, here.table, rtol=1e-6, atol=1e-6)
    pd.testing.assert_frame_equal(found.singular_values, here.singular_values, rtol=1e-6, atol=1e-6)
