"""Retrieval and neighbour overlap: ties, gallery and centring, and nulls that are exact over all shuffles."""

import math
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from planted import related
from sklearn.metrics.pairwise import cosine_similarity

from invariances import Affine, Orthogonal, Relative, Rows, align, compare
from invariances.errors import SpaceError
from invariances.metrics import nulls, retrieval
from invariances.metrics.table import METRICS

SCORES = ["retrieval_top1", "retrieval_recall", "retrieval_mrr"]
OVERLAP = "neighbour_overlap"
FOUND = [f"{name}{centred}" for name in [*SCORES, OVERLAP] for centred in ("", "_uncentred")]

each_found = pytest.mark.parametrize("metric", FOUND)
each_score = pytest.mark.parametrize("score", SCORES)


@pytest.fixture
def few(monkeypatch):
    """Two neighbours, and three that count as found, so that all permutations can be gone through."""
    monkeypatch.setattr(retrieval, "NEIGHBOURS", 2)
    monkeypatch.setattr(retrieval, "FOUND_AMONG", 3)


def worth(score, place):
    """Of a place counted from 0."""
    return {
        "retrieval_top1": float(place == 0),
        "retrieval_recall": float(place < retrieval.FOUND_AMONG),
        "retrieval_mrr": 1 / (place + 1),
    }[score]


def cosines(metric, x, y):
    if not metric.endswith("_uncentred"):
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    width = max(x.shape[1], y.shape[1])
    return [
        cosine_similarity(*(np.pad(z, ((0, 0), (0, width - z.shape[1]))) for z in (a, b))) for a, b in ((x, y), (y, y))
    ]


def earned(metric, x, y):
    """What each query (row) would earn, were each sample (column) its own; by definition, without ties."""
    ours, own = cosines(metric, x, y)
    n, k = len(x), retrieval.NEIGHBOURS
    table = np.empty((n, n))
    for query in range(n):
        falling = sorted(range(n), key=lambda j: -ours[query, j])
        for sample in range(n):
            if metric.startswith(OVERLAP):
                nearest = [j for j in sorted(range(n), key=lambda j: -own[sample, j]) if j != sample][:k]
                seen = [j for j in falling if j != sample][:k]
                table[query, sample] = len({*nearest} & {*seen}) / k
            else:
                table[query, sample] = worth(metric.removesuffix("_uncentred"), falling.index(sample))
    return table


def scores_of(metric, x, y, orders):
    """The score if sample i's query were that of order[i]."""
    table = earned(metric, x, y)
    return np.array([np.mean([table[query, sample] for sample, query in enumerate(order)]) for order in orders])


def harmonic(n):
    return sum(1 / i for i in range(1, n + 1))


# Nulls ---------------------------------------------------------------------------------------------


@each_found
@pytest.mark.parametrize(("n", "d", "m"), [(5, 3, 3), (6, 3, 5), (6, 5, 2), (7, 4, 4)])
def test_mean_and_deviation_are_exact_over_all_permutations(metric, n, d, m, few):
    x, y = related(n, d, m, noise=0.3)
    scores = scores_of(metric, x, y, permutations(range(n)))
    found = compare(x, y, metric)
    assert found.score == pytest.approx(scores[0], abs=1e-12)
    assert found.null == pytest.approx(scores.mean(), abs=1e-12)
    assert found.z * scores.std() == pytest.approx(scores[0] - scores.mean(), abs=1e-12)
    if n <= 6:
        assert found.p == pytest.approx((scores >= scores[0] - 1e-12).mean())


@each_found
@pytest.mark.parametrize("labels", [[0, 1, 0, 0, 1, 2, 1], [3, 3, 3, 0, 1, 2, 5]], ids=str)
def test_the_within_class_null_is_exact_over_all_such_permutations(metric, labels, few):
    labels = np.array(labels)
    x, y = related(7, d=3, m=4)
    orders = [order for order in permutations(range(7)) if (labels[list(order)] == labels).all()]
    expected = scores_of(metric, x, y, orders).mean()
    found = compare(x, y, metric, labels)
    assert found.null_within_class == pytest.approx(expected, abs=1e-12)
    assert found.null_within_class != pytest.approx(found.null, abs=1e-3)


@each_found
def test_shuffles_of_many_samples_have_the_known_moments(metric):
    """Scores of shuffled queries, each prepared anew: nothing is taken from the table that the moments come from."""
    x, y = related(n=60, noise=2)
    rng, scores, prepare = np.random.default_rng(1), [], METRICS[metric].prepare
    gallery = prepare(torch.from_numpy(y), None)
    for _ in range(500):
        scores.append(METRICS[metric].score(prepare(torch.from_numpy(x[rng.permutation(60)]), None), gallery))
    found, scores = compare(x, y, metric), np.array(scores)
    assert abs(found.null - scores.mean()) < 3.5 * scores.std() / math.sqrt(len(scores))
    kurtosis = np.mean(((scores - scores.mean()) / scores.std()) ** 4)
    deviation = (found.score - found.null) / found.z
    assert abs(deviation / scores.std() - 1) < 3.5 * math.sqrt((kurtosis - 1) / 4 / len(scores))
    share = (scores >= found.score - 1e-12).mean()
    assert abs(found.p - share) < 4 * math.sqrt(share * (1 - share) * (1 / 500 + 1 / 1000)) + 1e-3


@pytest.mark.parametrize("n", [3, 9, 40])
@pytest.mark.parametrize("copies", [1, 2])
def test_the_null_of_retrieval_depends_on_nothing_but_n_and_k(n, copies):
    """Whatever the spaces, and with tied rows too."""
    expected = {"retrieval_top1": 1 / n, "retrieval_recall": min(10, n) / n, "retrieval_mrr": harmonic(n) / n}
    for seed in range(3):
        x, y = related(n, seed=seed)
        y = y[np.arange(n) // copies]
        for score, null in expected.items():
            for metric in (score, f"{score}_uncentred"):
                assert compare(x, y, metric).null == pytest.approx(null, abs=1e-12)
    found = compare(*related(n, noise=0.2), "retrieval_mrr")
    assert found.calibrated == pytest.approx((found.score - harmonic(n) / n) / (1 - harmonic(n) / n))


def test_recall_among_all_says_nothing():
    found = compare(*related(10), "retrieval_recall")
    assert found.score == found.null == 1
    assert math.isnan(found.calibrated)
    assert math.isnan(found.z)
    assert math.isnan(found.p)


def test_the_null_of_neighbour_overlap_grows_where_some_rows_are_near_to_all():
    """Were every row found by as many queries, and near to as many, it would be about that of mutual k-NN."""
    steps = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    even, turned = (np.c_[np.cos(steps + turn), np.sin(steps + turn)] for turn in (0, 0.03))
    assert 10 / 60 <= compare(turned, even, "neighbour_overlap_uncentred").null <= 11 / 60
    x, y = (z + 0.5 for z in related(n=60, d=30, m=30))
    y[:12] = 0.5 + 0.02 * y[:12]
    assert compare(x, y, "neighbour_overlap_uncentred").null > 1.5 * 10 / 59


# Ties ----------------------------------------------------------------------------------------------


@each_score
@pytest.mark.parametrize("n", [5, 6])
def test_ties_take_the_mean_over_all_orders_of_the_tied_rows(score, n, monkeypatch):
    monkeypatch.setattr(retrieval, "FOUND_AMONG", 2)
    x, y = related(n, 4, 4)
    y = x + 0.1 * y
    for groups in ([0, 0, *range(1, n - 1)], [0, 0, 0, 1, 1, 2][:n]):
        tied = y[groups]
        similar = cosine_similarity(x, tied).round(12)
        worths = [
            [worth(score, sorted(range(n), key=lambda j, i=i: (-similar[i, j], order[j])).index(i)) for i in range(n)]
            for order in permutations(range(n))  # of equal rows, those come first that are first in the order
        ]
        assert compare(x, tied, f"{score}_uncentred").score == pytest.approx(np.mean(worths), abs=1e-12)
        assert np.ptp(worths, axis=0).max() > 0.1, "the orders matter"


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("d", [6, 300, 2000])
@pytest.mark.parametrize("through", ["as it is", "relative"])
def test_copies_of_a_row_are_tied_whatever_round_off_makes_of_them(dtype, d, through):
    """A matrix product may give equal rows different last digits."""
    rng = np.random.default_rng(d)
    x = rng.normal(size=(120, d)).astype(dtype)
    x = x[np.arange(120) // 3]
    if through == "relative":
        x = Relative().fit(rng.normal(size=(50, d)).astype(dtype)).transform(x)
    for centred in ("", "_uncentred"):
        scores = [compare(x, x, f"{score}{centred}").score for score in SCORES]
        assert scores == pytest.approx([1 / 3, 1, (1 + 1 / 2 + 1 / 3) / 3], abs=1e-12)
        assert compare(x, x, f"{OVERLAP}{centred}").score == 1, "a space finds all of its own neighbours"


def test_rows_that_differ_in_the_fifth_digit_are_not_tied():
    rng = np.random.default_rng(0)
    x = (1 + 1e-5 * rng.normal(size=(100, 40))).astype("f4")
    assert compare(x, x, "retrieval_top1_uncentred").score == 1
    assert compare(x, x, "retrieval_top1").score == 1


def test_queries_without_a_direction_find_their_own_by_chance():
    """All are the centre itself: every row is tied."""
    x, y = related(n=60)
    same = np.repeat(x[:1], 60, axis=0)
    same[0] += 1e-17 * np.arange(6)
    states = [METRICS["retrieval_mrr"].prepare(torch.from_numpy(z), None) for z in (same, y)]
    assert METRICS["retrieval_mrr"].score(*states) == pytest.approx(harmonic(60) / 60, abs=1e-12)


# What is found -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_planted_share_of_swapped_rows_is_not_found(dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 20)).astype(dtype)
    order = np.arange(200)
    order[:50] = np.roll(order[:50], 1)
    found = compare(x, x[order], "retrieval_top1")
    assert found.score == 0.75
    assert found.calibrated == pytest.approx((0.75 - 1 / 200) / (1 - 1 / 200))


def test_overlap_is_of_neighbours_and_not_of_the_sample_itself():
    """Clusters of eleven: queries that find another of the cluster first still share nearly all neighbours."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(12, 30)), 11, axis=0)
    x, y = (centres + 0.02 * rng.normal(size=(132, 30)) for _ in range(2))
    assert compare(x, y, OVERLAP).score == 1
    assert compare(x, y, "retrieval_top1").score < 0.3
    assert compare(x, y, "retrieval_recall").score > 0.8


@each_found
def test_unequal_widths_equal_explicit_zero_padding(metric):
    x, y = related(d=6, m=4)
    labels = np.arange(40) % 3
    wide = np.pad(y, ((0, 0), (0, 2)))
    assert compare(x, y, metric, labels) == pytest.approx(compare(x, wide, metric, labels), abs=1e-12)
    assert compare(y, x, metric, labels) == pytest.approx(compare(wide, x, metric, labels), abs=1e-12)


def test_the_gallery_is_five_hundred_rows_drawn_by_seed_zero():
    assert retrieval.GALLERY == 500
    x, y = related(n=730, noise=0.4)
    labels = np.arange(730) % 5
    rows = np.sort(np.random.default_rng(0).choice(730, 500, replace=False))
    for metric in FOUND:
        assert compare(x, y, metric, labels) == pytest.approx(
            compare(x[rows], y[rows], metric, labels[rows]), abs=1e-12
        )


def test_overlap_needs_two_samples_more_than_neighbours():
    x, y = related(n=12)
    assert 0 <= compare(x, y, OVERLAP).score <= 1
    for metric in (OVERLAP, f"{OVERLAP}_uncentred"):
        with pytest.raises(SpaceError, match="neighbour overlap needs at least 12 samples, not 11; give more"):
            compare(x[:11], y[:11], metric)


def test_permutation_moments_are_those_of_any_table():
    table = np.random.default_rng(0).normal(size=(6, 6))
    sums = np.array([table[np.arange(6), list(order)].mean() for order in permutations(range(6))])
    found = nulls.permutation_moments(torch.from_numpy(table))
    assert found == pytest.approx((sums.mean(), sums.std()), rel=1e-12)


# align ---------------------------------------------------------------------------------------------

ANCHORS = list(range(40))
SCORED = list(range(40, 160))


def spaces(names="abc", noise=0.6):
    """Noisy rotations of one space, each with a mean of its own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 8)) * np.linspace(2, 0.5, 8)
    turns = {name: np.linalg.qr(rng.normal(size=(8, 8)))[0] for name in names}
    return {name: x @ q + noise * rng.normal(size=x.shape) + 3 * rng.normal(size=8) for name, q in turns.items()}


def reciprocal_ranks(queries, gallery):
    similar = cosine_similarity(queries, gallery)
    return np.mean(1 / (similar >= np.diag(similar)[:, None]).sum(axis=1))


REPRESENTED = {
    "absolute": lambda x: x,
    "scale": lambda x: x / np.linalg.norm(x, axis=1, keepdims=True),
}


@pytest.mark.parametrize("invariance", ["absolute", "scale", "relative"])
def test_each_side_is_centred_by_its_own_represented_anchors(invariance):
    given = spaces("ab")
    table = align(given, ANCHORS, [invariance], ["retrieval_mrr", "retrieval_mrr_uncentred"])
    assert list(table.model_a) == list("abab")
    for line in table.itertuples():
        sides = []
        for name in (line.model_a, line.model_b):
            x = given[name]
            shown = cosine_similarity(x, x[ANCHORS]) if invariance == "relative" else REPRESENTED[invariance](x)
            centre = 0 if line.metric.endswith("_uncentred") else shown[ANCHORS].mean(axis=0)
            sides.append(shown[SCORED] - centre)
        assert line.score == pytest.approx(reciprocal_ranks(*sides), abs=1e-9)


@pytest.mark.parametrize(("invariance", "transform"), [("affine", Affine()), ("orthogonal", Orthogonal())])
def test_a_mapped_query_is_centred_by_the_mapped_anchors(invariance, transform):
    given = spaces("ab")
    table = align(given, ANCHORS, [invariance], ["retrieval_mrr", "retrieval_mrr_uncentred"])
    for line in table.itertuples():
        a, b = given[line.model_a], given[line.model_b]
        mapped = transform.fit(a[ANCHORS], b[ANCHORS]).transform(a)
        centres = (
            (0, 0) if line.metric.endswith("_uncentred") else (mapped[ANCHORS].mean(axis=0), b[ANCHORS].mean(axis=0))
        )
        expected = reciprocal_ranks(mapped[SCORED] - centres[0], b[SCORED] - centres[1])
        assert line.score == pytest.approx(expected, abs=1e-9)


def test_a_shift_of_one_side_reaches_the_uncentred_variant_only():
    given = spaces("ab")
    moved = {"a": given["a"] + 50 * np.ones(8), "b": given["b"]}
    metrics = ["retrieval_mrr", "retrieval_mrr_uncentred"]
    before, after = (align(each, ANCHORS, ["absolute"], metrics).set_index("metric").score for each in (given, moved))
    np.testing.assert_allclose(before["retrieval_mrr"], after["retrieval_mrr"], atol=1e-9)
    assert (np.abs(before["retrieval_mrr_uncentred"] - after["retrieval_mrr_uncentred"]) > 1e-3).any()


@pytest.mark.parametrize("invariance", ["absolute", "relative", "affine"])
def test_every_ordered_pair_has_a_row_with_gallery_and_k(invariance):
    table = align(spaces(), ANCHORS, [invariance], [*FOUND, "cosine"])
    for metric in FOUND:
        own = table[table.metric == metric]
        assert sorted(zip(own.model_a, own.model_b, strict=True)) == sorted(permutations("abc", 2))
        assert (own.gallery == 120).all()
        k = {"retrieval_top1": 1, "retrieval_recall": 10, OVERLAP: 10}.get(metric.removesuffix("_uncentred"), pd.NA)
        assert own.k.isna().all() if k is pd.NA else (own.k == k).all()
    assert table[table.metric == "cosine"].gallery.isna().all()
    assert "gallery" not in align(spaces(), ANCHORS, [invariance], ["cosine"])


def test_the_directions_of_a_pair_differ_and_the_columns_say_which_asks():
    given = spaces("ab")
    given["b"][SCORED] += np.random.default_rng(1).normal(size=(120, 1)) * np.linspace(0, 5, 8)
    table = align(given, ANCHORS, ["affine", "relative"], ["retrieval_mrr"]).set_index(["invariance", "model_a"]).score
    for invariance in ("affine", "relative"):
        assert abs(table[invariance, "a"] - table[invariance, "b"]) > 0.02


def test_a_rotation_is_found_through_a_map_and_not_without():
    table = align(spaces("ab", noise=0), ANCHORS, ["absolute", "orthogonal+translation"], ["retrieval_top1", OVERLAP])
    through, without = (table[table.invariance == name] for name in ("orthogonal+translation", "absolute"))
    assert (through.score == 1).all()
    assert (without.calibrated.abs() < 0.2).all()
    assert (through.p < 0.002).all()


def test_without_anchors_the_samples_themselves_are_the_centre_and_the_note_says_so():
    given = spaces("ab")
    table = align(given, None, ["absolute"], ["retrieval_mrr", "retrieval_mrr_uncentred"]).set_index("metric")
    assert (table.note["retrieval_mrr"] == "centred by the samples themselves, since there are no anchors").all()
    assert (table.note["retrieval_mrr_uncentred"] == "").all()
    expected = reciprocal_ranks(*(x - x.mean(axis=0) for x in given.values()))
    assert table.score["retrieval_mrr"].iloc[0] == pytest.approx(expected, abs=1e-9)


def test_more_samples_than_the_gallery_holds_are_noted(monkeypatch):
    monkeypatch.setattr(retrieval, "GALLERY", 50)
    monkeypatch.setattr("invariances.alignment.GALLERY", 50)
    table = align(spaces(), ANCHORS, ["absolute"], ["retrieval_top1", "cosine"])
    own = table[table.metric == "retrieval_top1"]
    assert (own.note == "on 50 of the samples").all()
    assert (own.gallery == 50).all()
    assert (own.null == 1 / 50).all()
    assert (table[table.metric == "cosine"].note == "").all()


def test_padding_is_noted_and_models_find_themselves():
    given = spaces("ab")
    given["b"] = given["b"][:, :5]
    notes = align(given, ANCHORS, ["absolute", "relative", "affine"], ["retrieval_mrr"]).groupby("invariance").note
    assert notes.unique().explode().to_dict() == {"absolute": "zero-padded", "relative": "", "affine": ""}
    themselves = Rows([("x", "self")], lambda key: spaces())
    table = align(themselves, ANCHORS, ["absolute", "affine"], ["retrieval_top1"])
    assert list(table.model_a) == list(table.model_b) == list("aabbcc")
    assert table.score.min() == 1
