import math
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from pair_tables import additive, halves, names, ordered, unordered
from scipy.stats import binom, spearmanr

from invariances.errors import SpaceError
from invariances.prediction import PREDICTION_COLUMNS, held_out, permutation_test, rank_prediction, relabellings

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
