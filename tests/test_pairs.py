import importlib.util
import math
import sys
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, spearmanr
from scipy.stats import t as student
from typer.testing import CliRunner

from invariances.errors import SpaceError
from invariances.pairs import (
    PREDICTION_COLUMNS,
    difference,
    held_out,
    interval,
    one_group,
    permutation_test,
    rank_prediction,
    relabellings,
    two_groups,
)

ROOT = Path(__file__).resolve().parent.parent
CHARACTERISTICS = ROOT / "book" / "characteristics"
BENCHMARK = ROOT / "benchmarks" / "coverage.py"


def names(n):
    return [f"m{i:02d}" for i in range(n)]


def unordered(scores, value="score"):
    """The pair table of the upper triangle of a matrix."""
    labels = names(len(scores))
    rows = [(labels[i], labels[j], scores[i, j]) for i, j in combinations(range(len(scores)), 2)]
    return pd.DataFrame(rows, columns=["model_a", "model_b", value])


def ordered(scores, value="score"):
    labels = names(len(scores))
    rows = [(labels[i], labels[j], scores[i, j]) for i, j in permutations(range(len(scores)), 2)]
    return pd.DataFrame(rows, columns=["model_a", "model_b", value])


def halves(a, b):
    return names(a + b)[:a], names(a + b)[a:]


def additive(n, residual, rng, draw=None):
    """Scores whose expectation is 0: an effect of either model and a symmetric residual."""
    effects = rng.normal(size=n) if draw is None else draw(n)
    noise = np.triu(rng.normal(size=(n, n)), 1)
    return effects[:, None] + effects[None, :] + residual * (noise + noise.T)


# interval: the mean, the spread, and by hand ---------------------------------------------------------


def test_the_mean_and_the_spread_are_those_of_the_pairs():
    table = unordered(additive(6, 0.5, np.random.default_rng(0)))
    found = interval(table)
    assert found.mean == pytest.approx(table.score.mean())
    assert found.std == pytest.approx(table.score.std())
    assert found.models == 6
    assert found.note == ""
    assert found.low < found.mean < found.high


def test_purely_additive_scores_give_students_interval_of_the_models():
    # s_ij = a_i + a_j without residual: the mean is twice that of a, and (3, 1, 0, -1, -3) shows no skew
    a = np.array([3.0, 1.0, 0.0, -1.0, -3.0])
    found = interval(unordered(a[:, None] + a[None, :]))
    half = 2.7764451 * 2 * a.std(ddof=1) / math.sqrt(5)
    assert (found.low, found.high) == pytest.approx((-half, half))


def test_a_skewed_sample_stretches_the_longer_tail_only():
    # a = (0, 0, 0, 0, 5): variance 5, third cumulant 25, so that the mean's skewness is 1
    a = np.array([0.0, 0.0, 0.0, 0.0, 5.0])
    found = interval(unordered(a[:, None] + a[None, :]))
    t = 2.7764451
    assert found.mean - found.low == pytest.approx(t * 2)
    assert found.high - found.mean == pytest.approx(2 * (t + (2 * t**2 + 1) / 6))
    mirrored = interval(unordered(-a[:, None] - a[None, :]))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def by_definition(scores, groups=None):
    """Bounds from a least-squares fit of model effects, model by model and pair by pair."""
    n = len(scores)
    pairs = list(combinations(range(n), 2)) if groups is None else [(i, j) for i in groups[0] for j in groups[1]]
    values = np.array([scores[pair] for pair in pairs])
    mean = values.mean()
    design = np.array([[float(m in pair) for m in range(n)] for pair in pairs])
    effects = np.linalg.pinv(design) @ (values - mean)
    residual = values - mean - design @ effects
    members = [range(n)] if groups is None else groups
    within = residual @ residual / (len(pairs) - 1 - sum(len(group) - 1 for group in members))
    squares, kappas = [], []
    for group in members:
        own = effects[list(group)] - effects[list(group)].mean()
        k = len(group)
        squares.append(own @ own / (k - 1))
        kappas.append(k / ((k - 1) * (k - 2)) * (own**3).sum())
    freedom = len(pairs) - 1 - sum(len(group) - 1 for group in members)
    own = [effects[m] - next(effects[list(g)].mean() for g in members if m in g) for m in range(n)]
    together = sum(own[i] * r * own[j] for (i, j), r in zip(pairs, residual, strict=True)) / freedom
    if groups is None:
        between = (n - 2) * squares[0]
        excess = 2 / ((n - 1) * (n - 2)) * max(0, between - within)
        variance = 2 / (n * (n - 1)) * between + excess
        full = 2 / (n * (n - 1)) * max(between, within) + excess
        third, cross, nu = 8 * kappas[0] / n**2, 24 * together / n**2, n - 1
    else:
        a, b = map(len, groups)
        rows, columns = b * squares[0], a * squares[1]
        pooled = ((a - 1) * rows + (b - 1) * columns) / (a + b - 2)
        total = max(rows + columns - within, pooled)
        p, q = max(0, rows - within), max(0, columns - within)
        nu = total**2 / (p**2 / (a - 1) + q**2 / (b - 1) + (total - p - q) ** 2 / (a + b - 2))
        nu = min(max(nu, min(a, b) - 1), a + b - 2)
        variance, full = total / (a * b), max(total, within) / (a * b)
        third, cross = kappas[0] / a**2 + kappas[1] / b**2, 6 * together / (a * b)
    t = student.ppf(0.975, nu)
    stretch = ((2 * t**2 + 1) * third + (t**2 + 1) * cross) / 6 / full**1.5
    error = math.sqrt(variance)
    return mean - error * (t + max(0, -stretch)), mean + error * (t + max(0, stretch))


@pytest.mark.parametrize("n", [4, 5, 10])
@pytest.mark.parametrize("residual", [0.1, 1.0, 10.0])
def test_one_group_follows_its_definition(n, residual):
    for seed in range(5):
        scores = additive(n, residual, np.random.default_rng(seed))
        found = interval(unordered(scores))
        assert (found.low, found.high) == pytest.approx(by_definition(scores))


@pytest.mark.parametrize(("a", "b"), [(5, 5), (10, 3), (3, 4)])
@pytest.mark.parametrize("residual", [0.1, 1.0, 10.0])
def test_two_groups_follow_their_definition(a, b, residual):
    for seed in range(5):
        scores = additive(a + b, residual, np.random.default_rng(seed))
        found = interval(unordered(scores), groups=halves(a, b))
        expected = by_definition(scores, (range(a), range(a, a + b)))
        assert (found.low, found.high) == pytest.approx(expected)
        assert found.mean == pytest.approx(scores[:a, a:].mean())
        assert found.std == pytest.approx(scores[:a, a:].std(ddof=1))
        assert found.models == a + b


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 100), shift=st.floats(-10, 10), n=st.integers(3, 8))
def test_intervals_follow_shifts_and_scales_and_forget_names(seed, scale, shift, n):
    rng = np.random.default_rng(seed)
    scores = additive(n, 0.5, rng)
    before, after = interval(unordered(scores)), interval(unordered(shift + scale * scores))
    assert after[:4] == pytest.approx(
        [shift + scale * before.mean, scale * before.std, shift + scale * before.low, shift + scale * before.high],
        rel=1e-6,
        abs=1e-6,
    )
    order = rng.permutation(n)
    assert interval(unordered(scores[order][:, order]))[:4] == pytest.approx(before[:4])


def test_both_directions_are_averaged():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 6))
    table = ordered(scores).sample(frac=1, random_state=0)
    mean = unordered((scores + scores.T) / 2)
    for groups in (None, halves(3, 3)):
        assert interval(table, groups=groups)[:5] == pytest.approx(interval(mean, groups=groups)[:5])
    assert interval(table).low != pytest.approx(interval(unordered(scores)).low)


def test_another_column_can_be_averaged():
    table = unordered(additive(5, 0.5, np.random.default_rng(0))).assign(calibrated=lambda t: 3 * t.score + 1)
    assert interval(table, "calibrated").low == pytest.approx(3 * interval(table).low + 1)


# interval: few models, missing pairs, errors ---------------------------------------------------------


def test_two_models_give_no_interval_and_say_so():
    found = interval(unordered(additive(2, 0.5, np.random.default_rng(0))))
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not math.isnan(found.mean)
    assert found.note == "no interval from two models"


def leave_one_out_variance(table, groups=None):
    """The delete-one-model jackknife, by deleting models from the table."""
    total = 0.0
    for group in groups or [sorted({*table.model_a, *table.model_b})]:
        means = [table[(table.model_a != m) & (table.model_b != m)].score.mean() for m in group]
        total += (len(group) - 1) / len(group) * np.square(means - np.mean(means)).sum()
    return total


def test_three_models_give_a_rough_interval_and_say_so():
    table = unordered(additive(3, 0.5, np.random.default_rng(0)))
    found = interval(table)
    shorter = min(found.high - found.mean, found.mean - found.low)
    assert shorter == pytest.approx(student.ppf(0.975, 2) * math.sqrt(leave_one_out_variance(table)))
    assert "3 models: jackknife only, a rough interval" in found.note


@pytest.mark.parametrize("absent", [True, False])
def test_a_missing_pair_leaves_the_jackknife_and_is_said(absent):
    table = unordered(additive(5, 0.5, np.random.default_rng(0)))
    table.loc[3, "score"] = math.nan
    found = interval(table.drop(index=3) if absent else table)
    assert found.mean == pytest.approx(table.score.mean())
    shorter = min(found.high - found.mean, found.mean - found.low)
    assert shorter == pytest.approx(student.ppf(0.975, 4) * math.sqrt(leave_one_out_variance(table)))
    assert found.note == "1 of 10 pairs have no score: jackknife only"


def test_a_missing_pair_of_two_groups_leaves_the_jackknife_over_both():
    groups = halves(4, 4)
    table = unordered(additive(8, 0.5, np.random.default_rng(0)))
    table = table[table.model_a.isin(groups[0]) & table.model_b.isin(groups[1])].reset_index(drop=True)
    table.loc[2, "score"] = math.nan
    found = interval(table, groups=groups)
    variance = leave_one_out_variance(table, groups)
    shorter = min(found.high - found.mean, found.mean - found.low)
    assert student.ppf(0.975, 6) <= shorter / math.sqrt(variance) <= student.ppf(0.975, 3)
    assert found.mean == pytest.approx(table.score.mean())
    assert "1 of 16 pairs have no score" in found.note


def test_a_pair_that_lacks_one_of_two_directions_is_missing():
    table = ordered(additive(5, 0.5, np.random.default_rng(0)))
    assert interval(table.drop(index=3)).note == "1 of 10 pairs have no score: jackknife only"


def test_a_model_without_scores_is_left_out_and_named():
    scores = additive(6, 0.5, np.random.default_rng(0))
    table = unordered(scores)
    table.loc[(table.model_a == "m02") | (table.model_b == "m02"), "score"] = math.nan
    found = interval(table)
    kept = np.delete(np.delete(scores, 2, 0), 2, 1)
    assert found.note == "left out, having no scores: m02"
    assert found[:5] == pytest.approx(interval(unordered(kept))[:5])


def test_pairs_that_all_share_one_model_give_no_interval():
    table = unordered(additive(5, 0.5, np.random.default_rng(0)))
    table = table[table.model_a == "m00"]
    found = interval(table)
    assert math.isnan(found.low)
    assert "without one of the models no pair is left" in found.note


def test_one_model_in_a_group_gives_no_interval_and_says_so():
    scores = additive(4, 0.5, np.random.default_rng(0))
    found = interval(unordered(scores), groups=halves(1, 3))
    assert found.mean == pytest.approx(scores[0, 1:].mean())
    assert math.isnan(found.low)
    assert found.note == "no interval from one model in a group"


def test_a_group_of_two_is_marked_as_rough():
    found = interval(unordered(additive(6, 0.5, np.random.default_rng(0))), groups=halves(2, 4))
    assert found.low < found.mean < found.high
    assert found.note == "a group of 2 models: a rough interval"


def test_equal_scores_give_an_interval_of_no_width_and_say_so():
    found = interval(unordered(np.full((5, 5), 0.25)))
    assert found[:4] == (0.25, 0, 0.25, 0.25)
    assert "no spread" in found.note


def test_the_input_is_not_changed():
    table = ordered(additive(5, 0.5, np.random.default_rng(0)))
    before = table.copy()
    interval(table, groups=halves(2, 3))
    pd.testing.assert_frame_equal(table, before)


GOOD = unordered(additive(4, 0.5, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("table", "arguments", "match"),
    [
        (GOOD, {"value": "calibrated"}, "no column calibrated; it has model_a, model_b, score"),
        (GOOD.drop(columns="model_b"), {}, "no column model_b"),
        (GOOD.iloc[:0], {}, "no rows; at least 2 models are needed"),
        (GOOD.assign(score=math.nan), {}, "holds no finite number"),
        (GOOD.assign(score=math.inf), {}, "holds an infinity; set it to NaN"),
        (GOOD.assign(score="high"), {}, "holds no numbers"),
        (pd.concat([GOOD, GOOD]), {}, "the pair m00, m01 occurs more than once; select one invariance"),
        (GOOD.assign(model_b=GOOD.model_a), {}, "m00 is paired with itself; keep real pairs only"),
        (GOOD, {"groups": (["m00", "m01"], ["m01", "m02"])}, "m01 stand in both groups"),
        (GOOD, {"groups": (["m00"], ["cnn"])}, "cnn of the groups are not in the table of pairs; it has m00"),
        (GOOD, {"groups": (["m00"], [])}, "a group has no models"),
        (GOOD, {"groups": (["m00"],)}, "groups is .*; give two"),
        (GOOD[GOOD.model_a == "m00"], {"groups": (["m01"], ["m02"])}, "none of the pairs asked for has a score"),
    ],
)
def test_unusable_tables_are_named_in_one_sentence(table, arguments, match):
    with pytest.raises(SpaceError, match=match) as caught:
        interval(table, **arguments)
    assert "\n" not in str(caught.value)


# difference ------------------------------------------------------------------------------------------


def test_what_a_model_does_to_both_tables_drops_out():
    rng = np.random.default_rng(0)
    shared = additive(6, 1.0, rng) * 10
    gaps = additive(6, 0.2, rng)
    found = difference(unordered(shared + gaps), unordered(shared))
    assert found[:5] == pytest.approx(interval(unordered(gaps))[:5])
    apart = interval(unordered(shared + gaps))
    assert found.high - found.low < (apart.high - apart.low) / 3


def test_ordered_pairs_can_be_subtracted_from_unordered_ones():
    rng = np.random.default_rng(0)
    symmetric, directed = additive(6, 1.0, rng), rng.normal(size=(6, 6))
    expected = interval(unordered(symmetric - (directed + directed.T) / 2), groups=halves(3, 3))
    found = difference(unordered(symmetric), ordered(directed), groups=halves(3, 3))
    assert found[:5] == pytest.approx(expected[:5])
    assert difference(ordered(directed), unordered(symmetric)).mean == pytest.approx(
        -difference(unordered(symmetric), ordered(directed)).mean
    )


def test_a_score_missing_in_either_table_is_missing_in_the_difference():
    scores = additive(5, 0.5, np.random.default_rng(0))
    first, second = unordered(scores), unordered(scores * 2)
    first.loc[0, "score"] = second.loc[1, "score"] = math.nan
    found = difference(first, second)
    assert found.note == "2 of 10 pairs have no score: jackknife only"
    assert found.mean == pytest.approx(-unordered(scores).score[2:].mean())


def test_tables_of_other_models_cannot_be_subtracted():
    with pytest.raises(SpaceError, match="m04 occur in one of the two tables only"):
        difference(unordered(np.ones((4, 4))), unordered(np.ones((5, 5))))


# coverage --------------------------------------------------------------------------------------------

REPLICATES = 4000


def symmetric_noise(rng, n):
    noise = np.triu(rng.normal(size=(REPLICATES, n, n)), 1)
    return noise + noise.swapaxes(1, 2)


def simulated(kind, n, rng):
    """Scores of the hard cases and their true mean."""
    if kind == "pairs only":
        return symmetric_noise(rng, n), 0.0
    if kind == "logistic":
        a, e = rng.normal(size=(REPLICATES, n)), symmetric_noise(rng, n)
        # the mean of a logistic of a normal with mean 2 and variance 3, by quadrature
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        truth = (weights / (1 + np.exp(-2 - math.sqrt(3) * nodes))).sum() / math.sqrt(2 * math.pi)
        return 1 / (1 + np.exp(-2 - a[:, :, None] - a[:, None, :] - e)), truth
    if kind == "products":
        a = np.exp(0.5 * rng.normal(size=(REPLICATES, n)))
        return a[:, :, None] * a[:, None, :], math.exp(0.25)
    a = rng.exponential(size=(REPLICATES, n)) - 1
    b = 0.5 * a + math.sqrt(0.75) * (rng.exponential(size=(REPLICATES, n)) - 1) if kind == "ordered" else a
    scores = a[:, :, None] + b[:, None, :] + {"exponential": 0.1}.get(kind, 1.0) * symmetric_noise(rng, n)
    return (scores + scores.swapaxes(1, 2)) / 2, 0.0


def holds(covered, low=0.90, high=0.98):
    """Whether a simulated share is one that a coverage within the bounds gives, but for 1 in 1,000 runs."""
    return binom.ppf(0.001, REPLICATES, low) <= covered.sum() <= binom.ppf(0.999, REPLICATES, high)


@pytest.mark.parametrize("kind", ["pairs only", "logistic", "products", "exponential", "equal", "ordered"])
@pytest.mark.parametrize("sizes", [(5,), (10,), (3, 3), (5, 5), (10, 3)])
def test_the_interval_covers_the_truth_at_its_level(kind, sizes):
    rng = np.random.default_rng([5, *sizes])
    scores, truth = simulated(kind, sum(sizes), rng)
    if len(sizes) == 2:
        scores = scores[:, : sizes[0], sizes[0] :]
    _, low, high = (one_group if len(sizes) == 1 else two_groups)(scores)
    assert holds((low <= truth) & (truth <= high))


def test_taking_pairs_for_independent_units_would_not_hold():
    scores, truth = simulated("exponential", 10, np.random.default_rng(0))
    pairs = scores[:, *np.triu_indices(10, 1)]
    half = 1.96 * pairs.std(axis=1, ddof=1) / math.sqrt(45)
    covered = np.abs(pairs.mean(1) - truth) <= half
    assert covered.mean() < 0.6
    assert not holds(covered)


@pytest.mark.parametrize("sizes", [(5,), (4, 3)])
def test_the_table_and_the_simulation_go_through_the_same_bounds(sizes):
    n = sum(sizes)
    scores = np.stack([additive(n, 1.0, np.random.default_rng(seed)) for seed in range(4)])
    groups = None if len(sizes) == 1 else halves(*sizes)
    cut = scores if groups is None else scores[:, : sizes[0], sizes[0] :]
    batch = np.stack((one_group if groups is None else two_groups)(cut), axis=1)
    for matrix, expected in zip(scores, batch, strict=True):
        found = interval(unordered(matrix), groups=groups)
        assert (found.mean, found.low, found.high) == pytest.approx(tuple(expected))


# rank_prediction -------------------------------------------------------------------------------------


def planted(n=6, noise=0.3, seed=0, symmetric=True):
    """Alignment and retention that follows it, ordered."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n))
    x = (x + x.T) / 2 if symmetric else x
    return x, x + noise * rng.normal(size=(n, n))


def brute_force(x, y):
    """Spearman's correlation over ordered pairs, and the share of all relabellings that reach it."""
    n = len(x)
    pairs = [pair for pair in permutations(range(n), 2) if not np.isnan(y[pair])]

    def rho(order):
        moved = np.array([x[order[i], order[j]] for i, j in pairs])
        kept = np.array([y[pair] for pair in pairs])
        held = ~np.isnan(moved)
        return spearmanr(moved[held], kept[held]).statistic

    found = rho(range(n))
    every = np.array([rho(order) for order in permutations(range(n))])
    return found, np.mean(np.abs(every) >= abs(found) - 1e-9)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n", [4, 5])
def test_all_relabellings_are_tried_where_they_are_few(n, symmetric):
    for seed in range(3):
        x, y = planted(n, 1.0, seed, symmetric)
        alignment = unordered(x) if symmetric else ordered(x)
        (line,) = rank_prediction(alignment, ordered(y, "retention")).itertuples()
        assert (line.rho, line.p) == pytest.approx(brute_force(x, y))
        assert (line.n_models, line.n_pairs, line.n_relabellings) == (n, n * (n - 1), math.factorial(n))


def test_pairs_without_a_value_are_left_out_under_every_relabelling():
    x, y = planted(5, 1.0, 1)
    x[0, 1] = x[1, 0] = y[2, 3] = math.nan
    (line,) = rank_prediction(unordered(x), ordered(y, "retention")).itertuples()
    assert (line.rho, line.p) == pytest.approx(brute_force(x, y))
    assert line.n_pairs == 17


def test_both_tables_may_be_unordered():
    x, y = planted(6)
    y = (y + y.T) / 2
    line = rank_prediction(unordered(x), unordered(y, "retention")).iloc[0]
    assert line.n_pairs == 15
    assert line.rho == pytest.approx(spearmanr(unordered(x).score, unordered(y).score).statistic)
    mirrored = rank_prediction(ordered(x), ordered(y, "retention")).iloc[0]
    assert mirrored.n_pairs == 30
    assert mirrored[["rho", "p"]].tolist() == pytest.approx(line[["rho", "p"]].tolist())


def test_the_direction_of_ordered_alignment_counts():
    x, y = planted(6, 0.1, symmetric=False)
    forth = rank_prediction(ordered(x), ordered(y, "retention")).rho[0]
    back = rank_prediction(ordered(x.T), ordered(y, "retention")).rho[0]
    assert forth > 0.9
    assert back < 0.5


def test_two_groups_are_relabelled_each_on_its_own():
    x, y = planted(7, 1.0, 3)
    groups = halves(3, 4)
    line = rank_prediction(unordered(x), ordered(y, "retention"), groups=groups).iloc[0]
    cells = [(i, j) for i in range(7) for j in range(7) if (i < 3) != (j < 3)]

    def rho(order):
        return spearmanr([x[order[i], order[j]] for i, j in cells], [y[cell] for cell in cells]).statistic

    orders = [a + b for a in permutations(range(3)) for b in permutations(range(3, 7))]
    every = np.abs([rho(order) for order in orders])
    assert (line.n_models, line.n_pairs, line.n_relabellings) == (7, 24, 144)
    assert line.rho == pytest.approx(rho(range(7)))
    assert line.p == pytest.approx(np.mean(every >= every[0] - 1e-9))


def test_strata_are_relabelled_each_on_its_own_and_all_pairs_count():
    x, y = planted(7, 1.0, 3)
    strata = [names(7)[::2], names(7)[1::2]]
    line = rank_prediction(unordered(x), ordered(y, "retention"), strata=strata).iloc[0]
    cells = [(i, j) for i in range(7) for j in range(7) if i != j]

    def rho(order):
        return spearmanr([x[order[i], order[j]] for i, j in cells], [y[cell] for cell in cells]).statistic

    orders = []
    for even in permutations((0, 2, 4, 6)):
        for odd in permutations((1, 3, 5)):
            order = np.empty(7, int)
            order[::2], order[1::2] = even, odd
            orders.append(order)
    every = np.abs([rho(order) for order in orders])
    assert (line.n_models, line.n_pairs, line.n_relabellings) == (7, 42, 144)
    assert line.rho == pytest.approx(rho(range(7)))
    assert line.rho == pytest.approx(rank_prediction(unordered(x), ordered(y, "retention")).rho[0])
    assert line.p == pytest.approx(np.mean(every >= abs(rho(range(7))) - 1e-9))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"strata": [names(4)]}, r"^strata lack m04; put every model of the tables into one of them"),
        ({"strata": [names(5), names(1)]}, r"^strata hold m00 twice; put every model into one of them"),
        ({"strata": [names(5)], "groups": (names(2), names(5)[2:])}, "^groups and strata are given; give groups"),
    ],
)
def test_strata_that_cannot_be_used_are_refused(given, match):
    x, y = planted(5, 1.0, 0)
    with pytest.raises(SpaceError, match=match):
        rank_prediction(unordered(x), ordered(y, "retention"), **given)


def test_many_models_draw_relabellings_by_the_seed():
    x, y = planted(9, 6.0)
    draws = [rank_prediction(unordered(x), ordered(y, "retention"), draws=199, seed=s).iloc[0] for s in (0, 0, 1)]
    assert [line.n_relabellings for line in draws] == [200] * 3
    assert draws[0].p == draws[1].p != draws[2].p
    assert draws[0].rho == draws[2].rho
    assert draws[0].p * 200 == pytest.approx(round(draws[0].p * 200))


def test_the_least_p_is_one_over_the_relabellings():
    x, _ = planted(9)
    line = rank_prediction(unordered(x), ordered(x, "retention")).iloc[0]
    assert (line.rho, line.p) == pytest.approx((1, 1 / 1000))


@pytest.mark.parametrize(("sizes", "count"), [([4], 24), ([6], 720), ([3, 4], 144), ([7], 1000), ([5, 5], 1000)])
def test_relabellings_are_permutations_within_groups_and_begin_with_the_identity(sizes, count):
    found = relabellings(sizes)
    n = sum(sizes)
    assert found.shape == (count, n)
    assert found[0].tolist() == list(range(n))
    assert (np.sort(found, axis=1) == np.arange(n)).all()
    assert (np.sort(found[:, : sizes[0]], axis=1) == np.arange(sizes[0])).all()
    if count < 1000:
        assert len(np.unique(found, axis=0)) == count


def test_data_sets_are_never_pooled():
    # each by itself shows nothing; together they would show a strong correlation
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(2, 6, 6)) + 10 * level for level in range(3)]
    x, y = (
        pd.concat([ordered(part[side], value).assign(data=str(i)) for i, part in enumerate(parts)])
        for side, value in ((0, "score"), (1, "retention"))
    )
    result = rank_prediction(x, y, by=["data"])
    assert result.data.tolist() == ["0", "1", "2"]
    assert list(result.columns) == ["data", *PREDICTION_COLUMNS]
    assert result.rho.abs().max() < 0.5
    assert spearmanr(x.score, y.retention).statistic > 0.8
    single = rank_prediction(x[x.data == "1"], y[y.data == "1"]).iloc[0]
    assert result.iloc[1][PREDICTION_COLUMNS].tolist() == single[PREDICTION_COLUMNS].tolist()


def test_one_table_may_hold_both_values():
    x, y = planted(6)
    table = ordered(x).assign(retention=ordered(y).score)
    pd.testing.assert_frame_equal(rank_prediction(table, table), rank_prediction(unordered(x), ordered(y, "retention")))


def test_columns_have_any_name():
    x, y = planted(6)
    named = rank_prediction(unordered(x, "cka"), ordered(y, "kept"), alignment_value="cka", retention_value="kept")
    pd.testing.assert_frame_equal(named, rank_prediction(unordered(x), ordered(y, "retention")))


@pytest.mark.parametrize(
    ("n", "change_x", "change_y", "groups", "reason"),
    [
        (5, 1, 0, None, "retention has no spread"),
        (5, 0, 1, None, "alignment has no spread"),
        (3, 1, 1, None, "3 models are too few: 6 relabellings cannot give p < 0.05"),
        (5, 1, 1, halves(2, 3), "5 models are too few: 12 relabellings cannot give p < 0.05"),
        (5, math.nan, 1, None, "no alignment here"),
        (5, 1, math.nan, None, "no retention here"),
    ],
)
def test_what_cannot_be_tested_says_why(n, change_x, change_y, groups, reason):
    x, y = planted(n)
    line = rank_prediction(unordered(0.5 + change_x * x), ordered(0.9 + change_y * y, "retention"), groups=groups)
    assert not line.testable[0]
    assert line.reason[0] == reason
    assert line[["rho", "p", "held_out_r2"]].isna().all(axis=None)


def test_what_can_be_tested_gives_no_reason():
    x, y = planted(4)
    line = rank_prediction(unordered(x), ordered(y, "retention"), groups=None).iloc[0]
    assert line.testable
    assert line.reason == ""


def test_a_data_set_that_one_table_lacks_is_not_dropped():
    x, y = planted(5)
    both = [("one", unordered(x), ordered(y, "retention")), ("two", unordered(x), ordered(y, "retention"))]
    alignment, retention = (pd.concat([part[k].assign(data=part[0]) for part in both]) for k in (1, 2))
    result = rank_prediction(alignment, retention[retention.data == "one"], by=["data"])
    assert result.set_index("data").reason.to_dict() == {"one": "", "two": "no retention here"}


def test_models_of_one_table_only_are_left_out():
    x, y = planted(7)
    line = rank_prediction(unordered(x), ordered(y[:5, :5], "retention")).iloc[0]
    expected = rank_prediction(unordered(x[:5, :5]), ordered(y[:5, :5], "retention")).iloc[0]
    assert line.tolist() == expected.tolist()
    assert line.n_models == 5


def test_the_order_of_rows_does_not_matter():
    x, y = planted(6)
    first = rank_prediction(unordered(x), ordered(y, "retention")).iloc[0]
    shuffled = [table.sample(frac=1, random_state=1) for table in (unordered(x), ordered(y, "retention"))]
    assert rank_prediction(*shuffled).iloc[0].tolist() == pytest.approx(first.tolist())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"by": ["data"]}, "the alignment table has no column data"),
        ({"alignment_value": "cka"}, "no column cka"),
        ({"retention_value": "kept"}, "no column kept"),
        ({"groups": (["m00"], ["m00"])}, "m00 stand in both groups"),
        ({"groups": (["m00"], ["m99"])}, "m99 of the groups are not in the table"),
        ({"draws": 5}, "draws is 5; give a whole number of at least 19"),
        ({"alignment": pd.concat([unordered(planted()[0])] * 2)}, "occurs more than once"),
        ({"by": ["score"], "retention": ordered(planted()[1], "retention").assign(score=math.nan)}, "empty cells"),
    ],
)
def test_unusable_arguments_are_named(arguments, match):
    x, y = planted()
    with pytest.raises(SpaceError, match=match) as caught:
        rank_prediction(**{"alignment": unordered(x), "retention": ordered(y, "retention"), **arguments})
    assert "\n" not in str(caught.value)


# held-out models -------------------------------------------------------------------------------------


def test_held_out_pairs_are_predicted_from_pairs_that_do_not_touch_the_model():
    x, y = planted(5, 1.0, 2, symmetric=False)
    lines, means = [], []
    for model in range(5):
        seen = [p for p in permutations(range(5), 2) if model not in p]
        asked = [p for p in permutations(range(5), 2) if model in p]
        slope, offset = np.polyfit([x[p] for p in seen], [y[p] for p in seen], 1)
        lines += [y[p] - offset - slope * x[p] for p in asked]
        means += [y[p] - np.mean([y[q] for q in seen]) for p in asked]
    expected = (1 - np.square(lines).sum() / np.square(means).sum(), np.abs(lines).mean(), np.abs(means).mean())
    off = np.where(np.eye(5, dtype=bool), np.nan, 0)
    assert held_out(x + off, y + off) == pytest.approx(expected)
    line = rank_prediction(ordered(x), ordered(y, "retention")).iloc[0]
    assert tuple(line[["held_out_r2", "held_out_mae", "held_out_mae_mean"]]) == pytest.approx(expected)


def test_a_straight_line_is_found_and_noise_is_not():
    x, _ = planted(8)
    exact = rank_prediction(unordered(x), ordered(0.3 + 0.2 * x, "retention")).iloc[0]
    assert exact.held_out_r2 == pytest.approx(1)
    assert exact.held_out_mae == pytest.approx(0, abs=1e-12)
    unrelated = np.random.default_rng(9).normal(size=(8, 8))
    assert rank_prediction(unordered(x), ordered(unrelated, "retention")).held_out_r2[0] < 0.2


# false positives and power ---------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "symmetric"), [(5, True), (10, False)])
def test_the_test_keeps_its_level_where_the_usual_p_does_not(n, symmetric):
    rng = np.random.default_rng([7, n])
    off = ~np.eye(n, dtype=bool)
    relabelled = relabellings([n], draws=199)
    tables, ours, usual = 600, 0, 0
    for _ in range(tables):
        a, b, c, d = rng.normal(size=(4, n))
        x = a[:, None] + (a if symmetric else b)[None, :] + 0.1 * rng.normal(size=(n, n))
        x = (x + x.T) / 2 if symmetric else x
        y = c[:, None] + d[None, :] + 0.1 * rng.normal(size=(n, n))
        ours += permutation_test(*(np.where(off, side, np.nan) for side in (x, y)), relabelled)[1] <= 0.05
        usual += spearmanr(x[off], y[off]).pvalue <= 0.05
    assert ours <= binom.ppf(0.999, tables, 0.05)
    assert usual > 2 * 0.05 * tables


@pytest.mark.parametrize("n", [5, 10])
def test_a_relation_is_found(n):
    rng = np.random.default_rng(3)
    off = ~np.eye(n, dtype=bool)
    relabelled = relabellings([n], draws=199)
    found = 0
    for _ in range(40):
        x = additive(n, 1.0, rng)
        y = x + 0.5 * rng.normal(size=(n, n))
        found += permutation_test(*(np.where(off, side, np.nan) for side in (x, y)), relabelled)[1] <= 0.05
    assert found >= 32


# the committed tables --------------------------------------------------------------------------------


def test_the_committed_coverage_holds_its_bounds():
    table = pd.read_csv(CHARACTERISTICS / "coverage.csv")
    claimed = table[table.claimed]
    assert (table.replicates >= 2000).all()
    assert {"4", "5", "10", "3 + 3", "5 + 5", "10 + 10", "10 + 3"} <= set(claimed.models)
    assert {"normal", "exponential", "lognormal", "product", "ceiling"} <= set(claimed.effects)
    for models in ("5", "10", "3 + 3", "5 + 5", "10 + 10", "10 + 3"):
        assert set(claimed.pairs[claimed.models == models]) == {"ordered", "unordered"}
    assert claimed.covered.between(0.90, 0.98).all()
    # what is not promised stands in the table too
    assert (table.covered[table.effects == "heavy tail"] < 0.90).any()


def test_the_committed_false_positives_hold_their_bound():
    table = pd.read_csv(CHARACTERISTICS / "prediction.csv")
    none, some = table[table.relation == 0], table[table.relation > 0]
    assert (table.replicates >= 2000).all()
    assert {"5", "10", "3 + 3", "5 + 5"} == set(none.models)
    assert {"symmetric", "ordered"} == set(none.alignment)
    assert (none.significant <= 0.08).all()
    assert none.significant_naive.max() > 0.3
    assert (some.significant[some.models.isin(["5", "10", "5 + 5"])] > 0.7).all()


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("coverage_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_committed_tables_have_the_cells_of_the_benchmark(benchmark):
    fresh, kept = benchmark.coverage(40, 0), pd.read_csv(CHARACTERISTICS / "coverage.csv", dtype={"models": str})
    keys = ["models", "effects", "balance", "pairs", "missing", "claimed"]
    pd.testing.assert_frame_equal(fresh[keys], kept[keys])
    tested, stored = benchmark.prediction(2, 0), pd.read_csv(CHARACTERISTICS / "prediction.csv")
    keys = ["models", "alignment", "effects", "balance", "relation"]
    pd.testing.assert_frame_equal(tested[keys], stored[keys].astype({"relation": float}))


def test_the_benchmark_is_seeded(benchmark):
    first, again, other = (benchmark.prediction(2, seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_the_benchmark_explains_itself(benchmark):
    done = CliRunner().invoke(benchmark.app, ["--help"])
    assert done.exit_code == 0
    assert "Example:" in done.stdout
    assert "--replicates" in done.stdout
