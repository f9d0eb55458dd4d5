import math
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group
from scipy.stats import t as student
from sklearn.metrics.pairwise import cosine_similarity

from invariances import Affine, Orthogonal, SpaceError, align, compare, interval
from invariances.alignment import COLUMNS
from invariances.similarity import METRICS
from invariances.transforms import INVARIANCES

N, D = 120, 8
INTRINSIC, FITTED = ["absolute", "scale", "relative"], ["affine", "orthogonal"]
ANCHORS = list(range(5, 65))
SCORED = [i for i in range(N) if i not in set(ANCHORS)]


def spaces(names="abc", noise=0.3, seed=0):
    """Noisy rotations of one space, away from the origin."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)) * np.linspace(2, 0.5, D) + 0.3
    return {name: x @ ortho_group.rvs(D, random_state=rng) + noise * rng.normal(size=(N, D)) for name in names}


def mean_cosine(x, y):
    return np.diag(cosine_similarity(x, y)).mean()


def pairs_of(table):
    return list(zip(table.model_a, table.model_b, strict=True))


# align ---------------------------------------------------------------------------------------------


def test_the_table_has_the_declared_columns():
    table = align(spaces(), ANCHORS, list(INVARIANCES), list(METRICS))
    assert list(table.columns) == COLUMNS
    assert COLUMNS[:5] == ["model_a", "model_b", "invariance", "metric", "score"]
    assert {"null", "null_within_class", "calibrated"} <= set(COLUMNS)


@pytest.mark.parametrize("invariance", INTRINSIC + FITTED)
@pytest.mark.parametrize("metric", METRICS)
def test_pairs_are_unordered_for_intrinsic_transforms_and_ordered_for_fitted_maps(invariance, metric):
    table = align(spaces(), ANCHORS, [invariance], [metric])
    expected = permutations("abc", 2) if invariance in FITTED else combinations("abc", 2)
    assert sorted(pairs_of(table)) == sorted(expected)
    assert set(table.invariance) == {invariance}
    assert set(table.metric) == {metric}


def test_every_invariance_meets_every_metric():
    table = align(spaces(), ANCHORS, list(INVARIANCES), list(METRICS))
    assert len(table) == (3 * 3 + 2 * 6) * len(METRICS)
    assert not table.duplicated(["model_a", "model_b", "invariance", "metric"]).any()


def test_a_sequence_names_the_models_by_order():
    assert pairs_of(align(list(spaces().values()), invariances=["absolute"])) == [("0", "1"), ("0", "2"), ("1", "2")]


@pytest.mark.parametrize("metric", METRICS)
def test_the_absolute_score_compares_the_scored_rows_only(metric):
    given = spaces("ab")
    labels = np.arange(N) % 4
    row = align(given, ANCHORS, ["absolute"], [metric], labels).iloc[0]
    expected = compare(given["a"][SCORED], given["b"][SCORED], metric, labels[SCORED])
    assert row[list(expected._fields)].to_dict() == pytest.approx(expected._asdict(), abs=1e-9)
    assert (row.n_samples, row.n_anchors) == (60, 60)


def test_the_content_of_anchor_rows_does_not_reach_the_absolute_score():
    given = spaces("ab")
    before = align(given, ANCHORS, ["absolute"], list(METRICS))
    given["a"][ANCHORS] = np.random.default_rng(1).normal(size=(60, D))
    pd.testing.assert_frame_equal(before, align(given, ANCHORS, ["absolute"], list(METRICS)))


@pytest.mark.parametrize("invariance", ["relative", *FITTED])
def test_the_content_of_anchor_rows_reaches_the_score_of_what_is_fitted_on_them(invariance):
    given = spaces("ab")
    before = align(given, ANCHORS, [invariance]).score
    given["a"][ANCHORS] = np.random.default_rng(1).normal(size=(60, D))
    assert (align(given, ANCHORS, [invariance]).score < before - 0.1).all()


def test_without_anchors_all_rows_are_scored():
    given = spaces("ab")
    row = align(given, invariances=["absolute"]).iloc[0]
    assert row.score == pytest.approx(mean_cosine(given["a"], given["b"]))
    assert (row.n_samples, row.n_anchors) == (N, 0)


def test_a_count_draws_anchors_by_the_seed():
    by_seed = [align(spaces("ab"), 30, ["relative"], seed=s).score[0] for s in (0, 0, 1)]
    assert by_seed[0] == by_seed[1] != by_seed[2]
    assert align(spaces("ab"), 30).n_samples.eq(N - 30).all()
    assert align(spaces("ab"), 30).n_anchors.eq(30).all()


def test_given_ids_leave_nothing_to_the_seed():
    first, second = (align(spaces("ab"), ANCHORS, seed=s) for s in (0, 1))
    pd.testing.assert_frame_equal(first, second)


def test_the_order_of_anchor_ids_does_not_matter():
    first, second = (align(spaces("ab"), ids).score for ids in (ANCHORS, ANCHORS[::-1]))
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_the_relative_score_is_that_of_cosine_profiles():
    given = spaces("ab")
    profiles = [cosine_similarity(x[SCORED], x[ANCHORS]) for x in given.values()]
    assert align(given, ANCHORS, ["relative"]).score[0] == pytest.approx(mean_cosine(*profiles))


@pytest.mark.parametrize(("invariance", "transform"), [("affine", Affine()), ("orthogonal", Orthogonal())])
def test_a_fitted_row_is_the_first_model_mapped_onto_the_second(invariance, transform):
    given = spaces()
    table = align(given, ANCHORS, [invariance])
    for row in table.itertuples():
        source, target = given[row.model_a], given[row.model_b]
        mapped = transform.fit(source[ANCHORS], target[ANCHORS]).transform(source[SCORED])
        assert row.score == pytest.approx(mean_cosine(mapped, target[SCORED]), abs=1e-9)


def test_a_planted_rotation_is_invisible_to_relative_and_orthogonal_only():
    given = spaces("ab", noise=0)
    scores = align(given, ANCHORS, list(INVARIANCES)).groupby("invariance").score.min()
    assert scores[["relative", "orthogonal"]].to_numpy() == pytest.approx(1, abs=1e-9)
    assert scores["affine"] == pytest.approx(1, abs=1e-3)
    assert (scores[["absolute", "scale"]] < 0.5).all()


def test_absolute_and_scale_coincide_under_cosine_but_not_under_cka():
    table = align(spaces(), ANCHORS, ["absolute", "scale"], ["cosine", "cka"], labels=np.arange(N) % 4)
    by_name = dict(iter(table.groupby(["metric", "invariance"])))
    numbers = ["score", "null", "null_within_class", "calibrated", "z", "p"]
    difference = {
        metric: np.abs(by_name[metric, "absolute"][numbers].values - by_name[metric, "scale"][numbers].values)
        for metric in ("cosine", "cka")
    }
    assert difference["cosine"].max() < 1e-12
    assert difference["cka"][:, 0].min() > 1e-4


def test_unequal_widths_are_padded_for_the_absolute_cosine_and_said_so():
    given = spaces("ab")
    given["b"] = given["b"][:, :5]
    table = align(given, ANCHORS, list(INVARIANCES), ["cosine", "cka"])
    padded = table[table.note == "zero-padded"]
    assert sorted(padded.invariance) == ["absolute", "scale"]
    assert set(padded.metric) == {"cosine"}
    assert (table.note[padded.index.symmetric_difference(table.index)] == "").all()
    wide = np.pad(given["b"], ((0, 0), (0, 3)))
    expected = mean_cosine(given["a"][SCORED], wide[SCORED])
    assert padded.score.to_numpy() == pytest.approx([expected] * 2)


@pytest.mark.parametrize("invariance", ["relative", "affine"])
def test_unequal_widths_need_no_padding_where_a_common_space_is_reached(invariance):
    given = spaces("ab", noise=0)
    given["b"] = np.hstack([given["b"], given["b"][:, :3]]) if invariance == "affine" else zero_columns(given["b"])
    assert align(given, ANCHORS, [invariance]).score.min() > 0.999


def zero_columns(x):
    return np.hstack([x, np.zeros((len(x), 3))])


def test_a_score_that_chance_would_reach_is_noted_as_not_calibrated():
    rng = np.random.default_rng(0)
    same_direction = [np.outer(rng.uniform(1, 2, N), np.ones(3)) for _ in range(2)]
    row = align(same_direction, invariances=["absolute"]).iloc[0]
    assert math.isnan(row.calibrated)
    assert "not calibrated" in row.note


def test_a_calibrated_score_has_no_note():
    table = align(spaces(), ANCHORS, list(INVARIANCES), list(METRICS))
    assert table.calibrated.notna().all()
    assert (table.note == "").all()


def test_the_input_is_not_changed():
    given = spaces()
    align(given, ANCHORS, list(INVARIANCES), list(METRICS))
    for name, x in spaces().items():
        np.testing.assert_array_equal(given[name], x)


def test_missing_anchors_are_asked_for_by_the_invariances_that_need_them():
    with pytest.raises(SpaceError, match=r"^relative, affine, orthogonal need anchors; give a count") as caught:
        align(spaces(), invariances=list(INVARIANCES))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"invariances": ["rotation"]}, "unknown invariance 'rotation'; choose from absolute, scale, relative, affine"),
        ({"metrics": ["svcca"]}, "unknown metric 'svcca'; choose from cosine"),
        ({"labels": [0, 1]}, "one label for each of the 120 rows"),
        ({"anchors": N}, "give fewer anchors"),
        ({"anchors": [0, 0, 1]}, "1 anchor ids are repeated"),
    ],
)
def test_unusable_arguments_are_named(arguments, match):
    with pytest.raises(SpaceError, match=match):
        align(**{"spaces": spaces(), "anchors": 30, **arguments})


def test_one_model_is_not_enough():
    with pytest.raises(SpaceError, match="at least 2 are needed to compare models"):
        align(spaces("a"), 30)


# interval ------------------------------------------------------------------------------------------


def names(n):
    return [f"m{i:02d}" for i in range(n)]


def unordered(scores):
    """The pair table of a symmetric matrix of scores."""
    labels = names(len(scores))
    rows = [(labels[i], labels[j], scores[i, j]) for i, j in combinations(range(len(scores)), 2)]
    return pd.DataFrame(rows, columns=["model_a", "model_b", "score"])


def additive(n, residual, rng):
    """Scores of pairs whose expectation is zero: an effect of either model and a residual."""
    effects = rng.normal(size=n)
    return effects[:, None] + effects[None, :] + residual * rng.normal(size=(n, n))


def t_interval(mean, variance, freedom):
    half = student.ppf(0.975, freedom) * math.sqrt(variance)
    return pytest.approx((mean - half, mean + half))


def test_the_mean_and_the_spread_are_those_of_the_pairs():
    table = unordered(additive(6, 0.5, np.random.default_rng(0)))
    found = interval(table)
    assert found.mean == pytest.approx(table.score.mean())
    assert found.std == pytest.approx(table.score.std())
    assert found.models == 6
    assert found.note == ""
    assert found.low < found.mean < found.high


def jackknife(scores):
    n = len(scores)
    means = [unordered(np.delete(np.delete(scores, i, 0), i, 1)).score.mean() for i in range(n)]
    return (n - 1) / n * sum((m - np.mean(means)) ** 2 for m in means)


def u_statistic_variance(scores):
    """From the least-squares fit of additive effects to the pairs."""
    n = len(scores)
    pairs = list(combinations(range(n), 2))
    design = np.array([[float(m in pair) for m in range(n)] for pair in pairs])
    values = np.array([scores[pair] for pair in pairs])
    effects, (squares,), *_ = np.linalg.lstsq(design, values)
    residual = squares / (len(pairs) - n)
    between = max(0, effects.var(ddof=1) - residual / (n - 2))
    return 4 * between / n + 2 * residual / (n * (n - 1))


@pytest.mark.parametrize("n", [4, 5, 10])
@pytest.mark.parametrize("residual", [0.1, 1.0, 10.0])
def test_one_group_takes_the_larger_of_two_variances(n, residual):
    for seed in range(5):
        scores = additive(n, residual, np.random.default_rng(seed))
        variance = max(u_statistic_variance(scores), jackknife(scores) / 2)
        found = interval(unordered(scores))
        assert (found.low, found.high) == t_interval(found.mean, variance, n - 1)


def test_two_models_give_no_interval_and_say_so():
    found = interval(unordered(additive(2, 0.5, np.random.default_rng(0))))
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not math.isnan(found.mean)
    assert found.note == "no interval from two models"


def test_three_models_give_a_rough_interval_and_say_so():
    scores = additive(3, 0.5, np.random.default_rng(0))
    found = interval(unordered(scores))
    assert (found.low, found.high) == t_interval(found.mean, jackknife(scores), 2)
    assert "3 models: jackknife only" in found.note


def test_a_missing_pair_leaves_the_jackknife_and_is_said():
    table = unordered(additive(5, 0.5, np.random.default_rng(0)))
    table.loc[3, "score"] = math.nan
    found = interval(table)
    assert found.mean == pytest.approx(table.score.mean())
    assert found.low < found.mean < found.high
    assert "not all pairs count" in found.note


def test_both_directions_are_averaged():
    rng = np.random.default_rng(0)
    forth, back = rng.normal(size=(2, 5, 5))
    one_way, other_way = unordered(forth), unordered(back)
    other_way = other_way.rename(columns={"model_a": "model_b", "model_b": "model_a"})
    both = pd.concat([one_way, other_way]).sample(frac=1, random_state=0)
    assert interval(both) == pytest.approx(interval(unordered((forth + back) / 2)))
    groups = (names(5)[:2], names(5)[2:])
    assert interval(both, groups=groups)[:5] == pytest.approx(
        interval(unordered((forth + back) / 2), groups=groups)[:5]
    )


def test_another_column_can_be_averaged():
    table = align(spaces("abcde"), ANCHORS, ["relative"])
    assert interval(table, "calibrated").mean == pytest.approx(table.calibrated.mean())


def anova(scores):
    """Mean squares of a two-way table with one observation per cell, by their sums."""
    a, b = scores.shape
    mean = scores.mean()
    rows = sum(b * (scores[i].mean() - mean) ** 2 for i in range(a)) / (a - 1)
    columns = sum(a * (scores[:, j].mean() - mean) ** 2 for j in range(b)) / (b - 1)
    cells = sum((scores[i, j] - scores[i].mean() - scores[:, j].mean() + mean) ** 2 for i in range(a) for j in range(b))
    return rows, columns, cells / ((a - 1) * (b - 1))


@pytest.mark.parametrize(("a", "b"), [(5, 5), (10, 3), (2, 4)])
def test_two_groups_follow_the_balanced_analysis_of_variance(a, b):
    scores = additive(a + b, 0.3, np.random.default_rng(1))
    scores = (scores + scores.T) / 2
    groups = (names(a + b)[:a], names(a + b)[a:])
    found = interval(unordered(scores), groups=groups)
    block = scores[:a, a:]
    msa, msb, mse = anova(block)
    assert mse < min(msa, msb), "else the variance is bounded by a main effect"
    total = msa + msb - mse
    freedom = total**2 / (msa**2 / (a - 1) + msb**2 / (b - 1) + mse**2 / ((a - 1) * (b - 1)))
    freedom = np.clip(freedom, min(a, b) - 1, a + b - 2)
    assert found.mean == pytest.approx(block.mean())
    assert found.std == pytest.approx(block.std(ddof=1))
    assert (found.low, found.high) == t_interval(block.mean(), total / (a * b), freedom)
    assert found.models == a + b


def test_two_groups_never_fall_below_the_larger_main_effect():
    for seed in range(50):
        scores = additive(8, 5.0, np.random.default_rng(seed))
        found = interval(unordered(scores), groups=(names(8)[:4], names(8)[4:]))
        least = max(anova(scores[:4, 4:])[:2]) / 16
        assert found.high - found.mean >= student.ppf(0.975, 6) * math.sqrt(least) - 1e-12


def test_one_model_in_a_group_gives_no_interval_and_says_so():
    scores = additive(4, 0.5, np.random.default_rng(0))
    found = interval(unordered(scores), groups=(names(4)[:1], names(4)[1:]))
    assert found.mean == pytest.approx(scores[0, 1:].mean())
    assert math.isnan(found.low)
    assert "one model in a group" in found.note


@pytest.mark.parametrize(("n", "groups"), [(5, None), (10, None), (10, (5, 5)), (13, (10, 3))])
def test_the_interval_covers_the_mean_at_its_level(n, groups):
    rng = np.random.default_rng(0)
    split = None if groups is None else (names(n)[: groups[0]], names(n)[groups[0] :])
    intervals = [interval(unordered(additive(n, 0.5, rng)), groups=split) for _ in range(1000)]
    covered = np.mean([found.low <= 0 <= found.high for found in intervals])
    assert 0.90 < covered < 0.99


@pytest.mark.parametrize("metric", ["cosine", "cka", "cka_debiased"])
def test_a_class_that_only_anchors_have_leaves_the_null_sound(metric):
    x, y = np.random.default_rng(0).normal(size=(2, 60, 8))
    labels = [0] * 20 + [1] * 20 + [2] * 20
    table = align([x, y], list(range(20)), ["absolute"], [metric], labels)
    rest = align([x[20:], y[20:]], None, ["absolute"], [metric], labels[20:])
    assert table.null_within_class[0] == pytest.approx(rest.null_within_class[0])


def test_constant_anchors_are_named():
    x, y = np.random.default_rng(0).normal(size=(2, 60, 8))
    x[:20] = 1
    with pytest.raises(SpaceError, match="anchors of '0' is constant"):
        align([x, y], list(range(20)), ["affine"])
