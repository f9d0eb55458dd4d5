import math
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group
from sklearn.metrics.pairwise import cosine_similarity

from invariances import (
    Affine,
    Orthogonal,
    Relative,
    Rows,
    align,
    compare,
)
from invariances.alignment import COLUMNS, FOUND_COLUMNS
from invariances.errors import SpaceError
from invariances.metrics.table import METRICS
from invariances.represent import INVARIANCES
from invariances.spaces import Subset

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
    assert list(table.columns) == COLUMNS + FOUND_COLUMNS
    assert list(align(spaces(), ANCHORS, list(INVARIANCES), ["cosine", "pwcca"]).columns) == COLUMNS
    assert COLUMNS[:5] == ["model_a", "model_b", "invariance", "metric", "score"]
    assert {"null", "null_within_class", "calibrated"} <= set(COLUMNS)


@pytest.mark.parametrize("invariance", INTRINSIC + FITTED)
@pytest.mark.parametrize("metric", METRICS)
def test_pairs_are_unordered_for_intrinsic_transforms_and_ordered_for_fitted_maps(invariance, metric):
    table = align(spaces(), ANCHORS, [invariance], [metric])
    ordered = invariance in FITTED or METRICS[metric].ordered
    expected = permutations("abc", 2) if ordered else combinations("abc", 2)
    assert sorted(pairs_of(table)) == sorted(expected)
    assert set(table.invariance) == {invariance}
    assert set(table.metric) == {metric}


def test_every_invariance_meets_every_metric():
    table = align(spaces(), ANCHORS, list(INVARIANCES), list(METRICS))
    ordered = [transform.fitted or metric.ordered for transform in INVARIANCES.values() for metric in METRICS.values()]
    assert len(table) == sum(6 if both else 3 for both in ordered)
    assert not table.duplicated(["model_a", "model_b", "invariance", "metric"]).any()


def test_a_sequence_names_the_models_by_order():
    assert pairs_of(align(list(spaces().values()), invariances=["absolute"])) == [("0", "1"), ("0", "2"), ("1", "2")]


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if not metric.centred])
def test_the_absolute_score_compares_the_scored_rows_only(metric):
    given = spaces("ab")
    labels = np.arange(N) % 4
    row = align(given, ANCHORS, ["absolute"], [metric], labels).iloc[0]
    expected = compare(given["a"][SCORED], given["b"][SCORED], metric, labels[SCORED])
    assert row[list(expected._fields)].to_dict() == pytest.approx(expected._asdict(), abs=1e-9)
    assert (row.n_samples, row.n_anchors) == (60, 60)


def test_the_content_of_anchor_rows_does_not_reach_the_absolute_score():
    given = spaces("ab")
    metrics = [name for name, metric in METRICS.items() if not metric.centred]
    before = align(given, ANCHORS, ["absolute"], metrics)
    given["a"][ANCHORS] = np.random.default_rng(1).normal(size=(60, D))
    pd.testing.assert_frame_equal(before, align(given, ANCHORS, ["absolute"], metrics))


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
    table = align(given, ANCHORS, INTRINSIC, ["cosine", "cka"])
    padded = table[table.note == "zero-padded"]
    assert sorted(padded.invariance) == ["absolute", "scale"]
    assert set(padded.metric) == {"cosine"}
    assert (table.note[padded.index.symmetric_difference(table.index)] == "").all()
    wide = np.pad(given["b"], ((0, 0), (0, 3)))
    expected = mean_cosine(given["a"][SCORED], wide[SCORED])
    assert padded.score.to_numpy() == pytest.approx([expected] * 2)


def test_maps_between_unequal_widths_say_that_they_pad():
    given = spaces("ab")
    given["b"] = given["b"][:, :5]
    fitted = [name for name, transform in INVARIANCES.items() if transform.fitted]
    table = align(given, ANCHORS, fitted, ["cka"])
    assert set(table.invariance[table.note != "zero-padded"]) == {"affine"}
    assert not (align(spaces("ab"), ANCHORS, fitted, ["cka"]).note == "zero-padded").any()


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
    table = align(spaces(), ANCHORS, INTRINSIC + FITTED, ["cosine", "cka", "cka_debiased", "procrustes"])
    assert table.calibrated.notna().all()
    assert (table.note == "").all()


def test_the_input_is_not_changed():
    given = spaces()
    align(given, ANCHORS, list(INVARIANCES), list(METRICS))
    for name, x in spaces().items():
        np.testing.assert_array_equal(given[name], x)


def test_missing_anchors_are_asked_for_by_the_invariances_that_need_them():
    with pytest.raises(SpaceError, match=r"^relative, affine, orthogonal need anchors; give a count") as caught:
        align(spaces(), invariances=INTRINSIC + FITTED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"invariances": ["rotation"]}, "unknown invariance 'rotation'; choose from absolute, scale, relative, affine"),
        ({"metrics": ["bleu"]}, "unknown metric 'bleu'; choose from cosine"),
        ({"metrics": "cka"}, "metrics is 'cka'; give a list of at least one name"),
        ({"invariances": []}, "invariances is .*; give a list of at least one name"),
        ({"invariances": {"mine": Relative}}, "invariance 'mine' is a ABCMeta|type; give a transform"),
        ({"permutations": 1}, "permutations is 1; give a whole number of at least 2"),
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


def test_a_transform_of_ones_own_stands_under_its_own_name():
    mine = align(spaces(), ANCHORS, {"euclid": Relative("euclidean", center=True), "loo": Affine("loo")})
    named = align(spaces(), ANCHORS, ["relative-euclidean"])
    np.testing.assert_allclose(mine.score[mine.invariance == "euclid"], named.score, atol=1e-9)
    assert (mine.invariance == "loo").sum() == 6


@pytest.mark.parametrize("metric", ["cka", "cka_debiased"])
def test_the_scores_of_all_pairs_at_once_are_those_of_single_pairs(metric):
    given = spaces("abcde")
    table = align(given, invariances=["absolute"], metrics=[metric])
    for row in table.itertuples():
        expected = compare(given[row.model_a], given[row.model_b], metric)
        assert (row.score, row.null, row.z) == pytest.approx((expected.score, expected.null, expected.z), rel=1e-9)


def test_spaces_may_lie_in_files(tmp_path):
    given = spaces()
    for name, x in given.items():
        np.save(tmp_path / f"{name}.npy", x)
    read = align({name: tmp_path / f"{name}.npy" for name in given}, ANCHORS, labels=np.arange(N) % 3)
    pd.testing.assert_frame_equal(read, align(given, ANCHORS, labels=np.arange(N) % 3))


def test_quadratic_metrics_say_on_how_many_samples(monkeypatch):
    monkeypatch.setattr("invariances.metrics.score.SUBSAMPLE", 50)
    monkeypatch.setattr("invariances.alignment.SUBSAMPLE", 50)
    table = align(spaces(), invariances=["absolute"], metrics=["rsa", "cka"]).set_index("metric")
    assert (table.note["rsa"] == "on 50 of the samples").all()
    assert (table.note["cka"] == "").all()


def test_float32_spaces_agree_with_float64_ones():
    single = {name: x.astype("f4") for name, x in spaces().items()}
    metrics = ["cosine", "cka", "cka_debiased", "procrustes", "cca", "svcca"]
    columns = ["score", "null", "calibrated"]
    one, other = (align(given, ANCHORS, metrics=metrics)[columns] for given in (single, spaces()))
    np.testing.assert_allclose(one, other, atol=1e-4)


# Tiles and threads ---------------------------------------------------------------------------------


@pytest.fixture
def small_tiles(monkeypatch):
    """Let a tile have few rows; gives what is read of the scored rows."""
    read, whole = [], Subset.__getitem__

    def counting(self, rows):
        read.append(len(range(len(self))[rows]))
        return whole(self, rows)

    def use():
        monkeypatch.setattr("invariances.spaces.CHUNK_BYTES", 6000)
        monkeypatch.setattr(Subset, "__getitem__", counting)
        return read

    return use


def planted(kind, n, d, dtype):
    """A space, the same turned, and one that has nothing to do with them; of another width and scale at times."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, n)
    x = rng.normal(size=(n, d)) * np.linspace(2, 0.5, d) + 0.3
    if kind == "sorted clusters":
        labels.sort()
        x = 0.1 * x + 5 * rng.normal(size=(4, d))[labels]
    turned = x @ ortho_group.rvs(d, random_state=rng) * (1000 if kind == "badly scaled" else 1)
    given = {"x": x, "turned": turned, "other": rng.normal(size=(n, d + 3))}
    return {name: space.astype(dtype) for name, space in given.items()}, labels


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("kind", "n", "d"),
    [
        ("random", 700, 12),
        ("sorted clusters", 700, 12),
        ("badly scaled", 700, 12),
        ("more features than rows", 150, 160),
        ("few rows", 62, 300),
    ],
)
def test_a_tile_at_a_time_gives_what_all_rows_at_once_give(kind, n, d, dtype, small_tiles):
    given, labels = planted(kind, n, d, dtype)
    invariances = [*INTRINSIC, *FITTED, "relative-euclidean", "similarity"]
    whole = align(given, 50, invariances, labels=labels)
    read = small_tiles()
    tiled = align(given, 50, invariances, labels=labels)
    assert max(read) < (n - 50) / 2
    numbers = list(whole.select_dtypes("number"))
    np.testing.assert_allclose(tiled[numbers], whole[numbers], rtol=1e-6, atol=1e-6)
    pd.testing.assert_frame_equal(tiled.drop(columns=numbers), whole.drop(columns=numbers))
    scores = tiled[(tiled.model_a == "x") & (tiled.model_b == "turned")].set_index("invariance").score
    assert (scores[["relative", "similarity"]] > (0.999 if d < 50 else 0.1)).all()
    assert (scores[["absolute", "scale"]] < 0.9).all()


def test_a_metric_that_needs_all_rows_at_once_gets_them(small_tiles):
    given, labels = planted("random", 700, 12, "f8")
    both = align(given, 50, metrics=["cosine", "cka"], labels=labels)
    read = small_tiles()
    pd.testing.assert_frame_equal(both, align(given, 50, metrics=["cosine", "cka"], labels=labels))
    assert 650 in read


def test_threads_and_none_give_the_same_bits(monkeypatch):
    given = spaces("abcd")
    alone = align(given, ANCHORS, list(INVARIANCES))
    monkeypatch.setattr("invariances.alignment.SMALL", 0)
    monkeypatch.setattr("invariances.threads.cores", lambda: 3)
    pd.testing.assert_frame_equal(align(given, ANCHORS, list(INVARIANCES)), alone, check_exact=True)


# Rows ------------------------------------------------------------------------------------------------


def test_rows_are_aligned_as_each_by_itself():
    rng = np.random.default_rng(0)
    given = {(row, kind): {n: rng.normal(size=(60, 5)) for n in "abc"} for row in ("x", "y") for kind in ("t", "u")}
    rows = Rows(given, given.__getitem__)
    labels = {"x": np.arange(60) % 3, "y": np.arange(60) % 4}
    anchors = {"x": np.arange(20), "y": np.arange(30)}
    table = align(rows, anchors, ["absolute", "affine"], ["cosine", "cka"], labels)
    assert list(table.columns[:2]) == ["row", "kind"]
    for (row, kind), spaces in given.items():
        alone = align(spaces, anchors[row], ["absolute", "affine"], ["cosine", "cka"], labels[row])
        own = table[(table.row == row) & (table.kind == kind)].drop(columns=["row", "kind"])
        pd.testing.assert_frame_equal(own.reset_index(drop=True), alone, check_exact=True)


def test_rows_are_read_one_at_a_time_and_only_when_they_are_asked_for():
    rng = np.random.default_rng(0)
    read = []

    def load(key):
        read.append(key)
        return {name: rng.normal(size=(40, 4)) for name in "ab"}

    rows = Rows(["x", "y"], load)
    assert read == []
    table = align(rows, invariances=["absolute"])
    assert read == ["x", "y"]
    assert list(table.row) == ["x", "y"]
    assert "kind" not in table


def test_under_the_kind_self_every_model_is_compared_with_itself():
    rng = np.random.default_rng(0)
    spaces = {name: rng.normal(size=(60, 5)) for name in "abc"}
    rows = Rows([("x", "self")], lambda key: spaces)
    table = align(rows, np.arange(20), ["absolute", "relative", "affine"])
    assert (table.model_a == table.model_b).all()
    assert all(list(own.model_a) == ["a", "b", "c"] for _, own in table.groupby("invariance"))
    np.testing.assert_allclose(table.score, 1, atol=1e-6)
