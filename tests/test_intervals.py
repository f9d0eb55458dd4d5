import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_tables import additive, halves, ordered, unordered
from scipy.stats import binom
from scipy.stats import t as student

from invariances.errors import SpaceError
from invariances.intervals import difference, interval, one_group, two_groups

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
