import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import related
from scipy.spatial.distance import pdist, squareform
from scipy.stats import binom, ortho_group, pearsonr, spearmanr
from sklearn.metrics.pairwise import cosine_similarity

from invariances.errors import SpaceError
from invariances.metrics import score as metric_form
from invariances.metrics.nulls import PERMUTATIONS
from invariances.metrics.table import METRICS, cka, compare, cosine, pairwise, procrustes

OPERATIONS = [
    "isotropic-scale",
    "sample-scale",
    "feature-constant",
    "translation",
    "permutation",
    "orthogonal",
    "affine",
]
DEBIASED = ["cka_debiased", "cka_rbf_debiased"]
CANONICAL = ["cca", "svcca", "pwcca"]
ROWS = ["cosine", "pearson"]
RSA = ["rsa", "rsa_pearson"]
SHUFFLED = ["procrustes", "svcca", "pwcca"]
"""Metrics whose nulls are means over shuffles, where the space has fewer than 16 axes."""
COUNTED = ["pwcca", "mutual_knn"]
"""Metrics whose p-value is always counted over the shuffles that are asked for."""
FOUND = [
    f"{name}{centred}"
    for name in ("retrieval_top1", "retrieval_recall", "retrieval_mrr", "neighbour_overlap")
    for centred in ("", "_uncentred")
]
"""Metrics of what queries find, whose p-value is counted over 999 shuffles; more of them in test_retrieval."""
COARSE = [metric for metric in FOUND if metric.startswith(("retrieval_top1", "retrieval_recall"))]
"""Metrics that count hits, so that a small change, or one of few samples, need not show."""

each_metric = pytest.mark.parametrize("metric", METRICS)


def shuffle_error(found):
    """Four standard errors of the difference of two means over 20 shuffles."""
    return 4 * math.sqrt(2 / PERMUTATIONS) * abs((found.score - found.null) / found.z)


def queried(d):
    """Two spaces of many samples, of which some but not all are found."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, d)) + 0.4
    return x, x + (d / 20 + 0.2) * rng.normal(size=x.shape)


def score(x, y, metric):
    return compare(x, y, metric, permutations=2).score


# Definitions, written anew from their sources, with n x n matrices and explicit loops --------------


def centred(x):
    return x - x.mean(axis=0)


def padded(x, width):
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))


def both_padded(x, y):
    width = max(x.shape[1], y.shape[1])
    return padded(x, width), padded(y, width)


def double_centred(kernel):
    h = np.eye(len(kernel)) - 1 / len(kernel)
    return h @ kernel @ h


def hsic_song(k, g):
    """HSIC_1 of Song et al. 2012, equation 5, of the kernels without their diagonals."""
    n, one = len(k), np.ones(len(k))
    k, g = k - np.diag(np.diag(k)), g - np.diag(np.diag(g))
    total = np.trace(k @ g) + (one @ k @ one) * (one @ g @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ g @ one
    return total / (n * (n - 3))


def rbf(x):
    """Gaussian kernel whose bandwidth is the (lower) median distance of different samples."""
    distances = pdist(x)
    width = np.sort(distances)[(len(distances) - 1) // 2]
    return np.exp(-(squareform(distances) ** 2) / (2 * width**2))


def biased_cka(kernel):
    def by_definition(x, y):
        k, g = double_centred(kernel(x)), double_centred(kernel(y))
        return np.trace(k @ g) / math.sqrt(np.trace(k @ k) * np.trace(g @ g))

    return by_definition


def debiased_cka(kernel):
    def by_definition(x, y):
        k, g = kernel(x), kernel(y)
        return hsic_song(k, g) / math.sqrt(hsic_song(k, k) * hsic_song(g, g))

    return by_definition


def linear(x):
    return x @ x.T


def mean_cosine(x, y):
    return np.mean([a @ b / math.sqrt(a @ a) / math.sqrt(b @ b) for a, b in zip(*both_padded(x, y), strict=True)])


def mean_correlation(x, y):
    return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])


def procrustes_residual(x, y):
    """What is left of the second shape after the best rotation of the first, by carrying it out."""
    a, b = both_padded(*(centred(z) / np.linalg.norm(centred(z)) for z in (x, y)))
    rotation = scipy.linalg.orthogonal_procrustes(a, b)[0]
    return np.square(a @ rotation - b).sum()


def canonical_pairs(x, y):
    """Canonical correlations and the first side's weights, by the generalised eigenproblem; needs full rank, d < n."""
    x, y = centred(x), centred(y)
    cross = x.T @ y
    values, vectors = scipy.linalg.eigh(cross @ np.linalg.solve(y.T @ y, cross.T), x.T @ x)
    kept = min(x.shape[1], y.shape[1])
    return np.sqrt(values[::-1][:kept].clip(0)), vectors[:, ::-1][:, :kept]


def mean_squared_correlation(x, y):
    return np.square(canonical_pairs(x, y)[0]).mean()


def principal_scores(x, share=0.99):
    x = centred(x)
    values, vectors = np.linalg.eigh(x.T @ x)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = np.searchsorted(np.cumsum(values) / values.sum(), share) + 1
    return x @ vectors[:, :kept]


def singular_vector_correlation(x, y):
    return canonical_pairs(principal_scores(x), principal_scores(y))[0].mean()


def projection_weighted_correlation(x, y):
    """Morcos et al. 2018: each canonical variate h of x weighs sum_j |<h, x_j>| over the features x_j of x."""
    correlations, vectors = canonical_pairs(x, y)
    variates = centred(x) @ vectors
    weights = [sum(abs(h @ feature) for feature in centred(x).T) for h in variates.T]
    return np.average(correlations, weights=weights)


def common_neighbours(x, y, k=10):
    def neighbours(z):
        similar = cosine_similarity(z)
        return [set(sorted(set(range(len(z))) - {i}, key=lambda j: -similar[i, j])[:k]) for i in range(len(z))]

    return np.mean([len(a & b) / k for a, b in zip(neighbours(x), neighbours(y), strict=True)])


def lists(x, y):
    """The rows of `y` by falling cosine with each row of `x`."""
    similar = cosine_similarity(*both_padded(x, y))
    return [sorted(range(len(y)), key=lambda j, row=row: -row[j]) for row in similar]


def found(x, y, worth):
    """Mean worth of the place, from 1, at which a row of `x` finds its counterpart."""
    return np.mean([worth(row.index(i) + 1) for i, row in enumerate(lists(x, y))])


def neighbours_found(x, y, k=10):
    shares = []
    for i, (own, row) in enumerate(zip(lists(y, y), lists(x, y), strict=True)):
        nearest, seen = ([j for j in each if j != i][:k] for each in (own, row))
        shares.append(len({*nearest} & {*seen}) / k)
    return np.mean(shares)


QUERIES = {
    "retrieval_top1": lambda x, y: found(x, y, lambda place: place == 1),
    "retrieval_recall": lambda x, y: found(x, y, lambda place: place <= 10),
    "retrieval_mrr": lambda x, y: found(x, y, lambda place: 1 / place),
    "neighbour_overlap": neighbours_found,
}
DEFINITIONS = {
    **{f"{name}_uncentred": of for name, of in QUERIES.items()},
    **{name: lambda x, y, of=of: of(centred(x), centred(y)) for name, of in QUERIES.items()},
    "cosine": mean_cosine,
    "pearson": mean_correlation,
    "cka": biased_cka(linear),
    "cka_debiased": debiased_cka(linear),
    "cka_rbf": biased_cka(rbf),
    "cka_rbf_debiased": debiased_cka(rbf),
    "procrustes": procrustes_residual,
    "cca": mean_squared_correlation,
    "svcca": singular_vector_correlation,
    "pwcca": projection_weighted_correlation,
    "rsa": lambda x, y: spearmanr(pdist(x, "correlation"), pdist(y, "correlation")).statistic,
    "rsa_pearson": lambda x, y: pearsonr(pdist(x, "correlation"), pdist(y, "correlation")).statistic,
    "mutual_knn": common_neighbours,
}


@each_metric
@pytest.mark.parametrize(("n", "d", "m"), [(40, 6, 6), (41, 9, 5), (30, 4, 12), (12, 30, 20), (13, 12, 14)])
def test_the_score_is_its_definition(metric, n, d, m):
    if metric in CANONICAL and max(d, m) >= n:
        pytest.skip("the eigenproblem needs d < n")
    x, y = related(n, d, d if metric == "pearson" else m)
    assert score(x, y, metric) == pytest.approx(DEFINITIONS[metric](x, y), abs=1e-9)


def test_cca_is_the_overlap_of_orthonormal_bases():
    x, y = related(40, 6, 4)
    bases = [np.linalg.qr(centred(z))[0] for z in (x, y)]
    assert score(x, y, "cca") == pytest.approx(np.square(bases[0].T @ bases[1]).sum() / 4, abs=1e-12)


@pytest.mark.parametrize("metric", CANONICAL)
def test_canonical_correlations_count_axes_not_features(metric):
    """Features that are sums of others, and a constant one, span nothing new."""
    x, y = related(40, 6, 5)
    redundant = np.hstack([x, x @ np.ones((6, 2)), np.full((40, 1), 3.0)])
    if metric == "cca":
        assert score(redundant, y, metric) == pytest.approx(score(x, y, metric), abs=1e-9)
        assert score(y, redundant, metric) == pytest.approx(score(x, y, metric), abs=1e-9)
    assert score(redundant, redundant, metric) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("metric", ["cca", "pwcca"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("d", [19, 20, 60])
def test_as_many_features_as_samples_leave_canonical_correlations_nothing_to_tell(metric, dtype, d):
    x, y = np.random.default_rng(0).normal(size=(2, 20, d)).astype(dtype)
    found = compare(x, y, metric)
    assert found.score == pytest.approx(1, abs=1e-5)
    assert found.null == pytest.approx(1, abs=1e-5)
    assert math.isnan(found.calibrated)
    assert math.isnan(found.z), "round-off is no evidence"
    assert math.isnan(found.p) or found.p == 1


@pytest.mark.parametrize("metric", ["procrustes", "svcca", "cca", "pwcca"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", [5, 12, 17, 18, 30, 33, 50, 64])
def test_spaces_that_no_shuffle_changes_have_no_chance_level(metric, dtype, n):
    """All n - 1 axes equally long: every shuffle is a rotation of the space, round-off must not look like evidence."""
    flat = np.linalg.svd(np.eye(n) - 1 / n)[0][:, :-1]
    for turn in (np.eye(n - 1), ortho_group.rvs(n - 1, random_state=n)):
        found = compare((flat @ turn).astype(dtype), flat.astype(dtype), metric)
        assert found.score == pytest.approx(1 if METRICS[metric].higher_is_closer else 0, abs=1e-5)
        assert found.null == pytest.approx(found.score, abs=1e-5)
        assert math.isnan(found.z)
        assert math.isnan(found.p) or found.p == 1


def test_rsa_ranks_equal_distances_equally():
    """With two features every correlation is 1 or -1; round-off would rank them at random."""
    x, y = np.random.default_rng(0).normal(size=(2, 40, 2)), np.random.default_rng(1).normal(size=(40, 5))
    up = x[0][:, 0] > x[0][:, 1]
    expected = spearmanr(pdist(up[:, None].astype(float), "cityblock"), pdist(y, "correlation")).statistic
    for factor in (1, 3, 0.7):
        assert score(factor * x[0], y, "rsa") == pytest.approx(expected, abs=1e-12)


# What a score says -------------------------------------------------------------------------------


@each_metric
@pytest.mark.parametrize("d", [6, 60])
def test_scores_lie_in_the_declared_range_and_point_the_declared_way(metric, d):
    x, _ = related(d=d)
    rng = np.random.default_rng(1)
    spaces = [x, x + 0.3 * rng.normal(size=x.shape), x + 3 * rng.normal(size=x.shape), rng.normal(size=x.shape), -x]
    low, high = METRICS[metric].range
    scores = [score(x, z, metric) for z in spaces]
    assert all(low - 1e-12 <= s <= high + 1e-12 for s in scores)
    assert scores[0] == pytest.approx(high if METRICS[metric].higher_is_closer else low, abs=1e-9)
    if metric in FOUND:
        assert scores[0] >= scores[1] >= scores[2] > scores[3]
    elif d < 40 or metric not in CANONICAL:
        closer = np.array(scores[:4]) if METRICS[metric].higher_is_closer else -np.array(scores[:4])
        assert (np.diff(closer) < -1e-3).all(), "itself, a near, a far, an unrelated space"


@pytest.mark.parametrize("metric", [*ROWS, "rsa", "rsa_pearson", *DEBIASED])
def test_scores_that_can_be_negative_are(metric):
    x, _ = related()
    y = -x if metric in ROWS else np.random.default_rng(3).normal(size=x.shape)
    draws = (
        [score(x, y[np.random.default_rng(s).permutation(40)], metric) for s in range(20)] if metric not in ROWS else []
    )
    assert min([*draws, score(x, y, metric)]) < -1e-3


@each_metric
def test_both_orders_of_a_pair_agree_where_declared(metric):
    x, y = related(m=6)
    x, y = queried(6) if metric in COARSE else (x, y)
    labels = np.arange(len(x)) % 3
    forth, back = compare(x, y, metric, labels), compare(y, x, metric, labels)
    if METRICS[metric].symmetric:
        assert forth.score == pytest.approx(back.score, abs=1e-12)
        tolerance = shuffle_error(forth) if metric in SHUFFLED else 1e-12
        assert forth.null == pytest.approx(back.null, abs=tolerance)
        assert forth.null_within_class == pytest.approx(back.null_within_class, abs=tolerance)
    else:
        assert abs(forth.score - back.score) > 1e-3


def test_cosine_of_unequal_widths_equals_explicit_zero_padding():
    x, y = related(d=6, m=4)
    labels = np.arange(40) % 3
    expected = compare(x, padded(y, 6), labels=labels)
    assert compare(x, y, labels=labels) == pytest.approx(expected, abs=1e-12)
    assert compare(y, x, labels=labels) == pytest.approx(expected, abs=1e-12)


def test_the_short_forms_give_the_score():
    x, y = related()
    assert cosine(x, y) == compare(x, y).score
    assert cka(x, y) == compare(x, y, "cka").score
    assert cka(x, y, debiased=True) == compare(x, y, "cka_debiased").score
    assert procrustes(x, y) == compare(x, y, "procrustes").score


@each_metric
def test_the_matrix_of_all_pairs_holds_the_scores(metric):
    x, y = related(noise=0.5)
    spaces = {"x": x, "y": y, "z": x[:, ::-1] + 0.2 * y}
    table = pairwise(spaces, metric)
    assert list(table.index) == list(table.columns) == ["x", "y", "z"]
    for a in spaces:
        for b in spaces:
            assert table.loc[a, b] == pytest.approx(score(spaces[a], spaces[b], metric), abs=1e-10)


def test_samples_of_the_numerics_demo_give_its_figures():
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    y = rng.randn(100, 10) + x
    assert round(cka(x, y), 5) == 0.55761
    assert round(cka(x, y, debiased=True), 5) == 0.51346


# Calibration, z and p ----------------------------------------------------------------------------


@each_metric
def test_calibrated_is_one_for_perfect_agreement(metric):
    x = np.random.default_rng(0).normal(size=(40, 20)) + 0.4
    same = 3 * x @ ortho_group.rvs(20, random_state=0) if "orthogonal" in METRICS[metric].invariant_to else 3 * x
    found = compare(x, same, metric)
    assert found.calibrated == pytest.approx(1, abs=1e-9)
    assert found.z > 3
    assert found.p < 1e-4 or found.p == pytest.approx({**dict.fromkeys(COUNTED, 1 / 21)}.get(metric, 1 / 1000))
    assert found.p < 1e-4 or metric in COUNTED + FOUND


@each_metric
def test_calibrated_is_between_zero_and_one_for_imperfect_agreement(metric):
    x, _ = related(d=20, m=20)
    noise = 3 if metric in COARSE else 1
    found = compare(x, x + noise * np.random.default_rng(0).normal(size=x.shape), metric)
    assert 0.01 < found.calibrated < 0.99
    assert found.z > 3
    assert found.p < 0.05


@each_metric
def test_calibrated_averages_zero_for_shuffled_samples(metric):
    """Of shuffles that are not the null's own."""
    x, y = related(n=36, d=20, m=20)
    prepare, rate = METRICS[metric].prepare, METRICS[metric].score
    rng = np.random.default_rng(3)
    found = compare(x, y, metric, permutations=400)
    scores = np.array(
        [
            rate(prepare(torch.from_numpy(x), None), prepare(torch.from_numpy(y[rng.permutation(36)]), None))
            for _ in range(400)
        ]
    )
    slope = (found.calibrated - 0) / (found.score - found.null)
    calibrated = (scores - found.null) * slope
    # the null of shuffles has an error of its own
    error = calibrated.std() / 20 * (math.sqrt(2) if metric in COUNTED else 1)
    assert abs(calibrated.mean()) < 3 * error


@pytest.mark.parametrize("metric", [m for m in METRICS if m not in ("cka", "cka_rbf", *DEBIASED)])
def test_calibrated_is_the_share_of_the_way_from_the_null_to_perfect(metric):
    found = compare(*related(), metric)
    perfect = 1.0 if METRICS[metric].higher_is_closer else 0.0
    assert found.calibrated == pytest.approx((found.score - found.null) / (perfect - found.null), abs=1e-12)


@pytest.mark.parametrize(("metric", "kernel"), [("cka", linear), ("cka_rbf", rbf)])
def test_calibrated_cka_is_that_of_the_kernels_without_their_trace(metric, kernel):
    x, y = related(m=3)
    part = np.eye(40) - 1 / 40
    k, g = (gram - np.trace(gram) / 39 * part for gram in (double_centred(kernel(z)) for z in (x, y)))
    expected = (k * g).sum() / np.linalg.norm(k) / np.linalg.norm(g)
    assert compare(x, y, metric).calibrated == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("metric", DEBIASED)
def test_what_is_debiased_is_not_calibrated_again(metric):
    found = compare(*related(), metric)
    assert found.calibrated == found.score
    assert found.null == 0


def test_calibrated_is_undefined_where_chance_is_already_perfect():
    x = np.outer(np.linspace(1, 2, 30), [1.0, 2.0, 3.0])
    found = compare(x, x[::-1].copy())
    assert found.score == pytest.approx(1)
    assert found.null == pytest.approx(1)
    assert math.isnan(found.calibrated)


@each_metric
def test_p_values_of_unrelated_spaces_are_as_frequent_as_they_say(metric):
    """Each bound is passed by a true p-value with probability 0.999."""
    rng = np.random.default_rng(11)
    pairs = 160
    p = np.array([compare(*rng.normal(size=(2, 40, 18)), metric).p for _ in range(pairs)])
    for level in (0.05, 0.5):
        # p-values counted over 20 shuffles are multiples of 1 / 21
        share = math.floor(21 * level) / 21 if metric in COUNTED else level
        low, high = binom.ppf([0.0005, 0.9995], pairs, share)
        # a few hits that many shuffles have as well make p larger than it needs to be
        assert (0 if metric in COARSE else low) <= (p <= level).sum() <= high


# Invariances -------------------------------------------------------------------------------------


def operation(name, rng, n, d):
    """A draw of the operation; a per-sample one has n draws."""
    q, shift = ortho_group.rvs(d, random_state=rng), rng.normal(size=d) + 1
    factor, turn = rng.choice([0.2, 3.7]), 1 + rng.integers(d - 1)
    stretched = q * np.geomspace(0.3, 3, d) @ ortho_group.rvs(d, random_state=rng)
    sizes, constants = rng.uniform(0.2, 4, size=(n, 1)), rng.normal(size=(n, 1))
    return {
        "isotropic-scale": lambda x: factor * x,
        "sample-scale": lambda x: sizes * x,
        "feature-constant": lambda x: x + constants,
        "translation": lambda x: x + shift,
        "permutation": lambda x: np.roll(x, turn, axis=1),
        "orthogonal": lambda x: x @ q,
        "affine": lambda x: x @ stretched + shift,
    }[name]


@each_metric
def test_declared_operations_have_known_names(metric):
    assert METRICS[metric].invariant_to | METRICS[metric].jointly_invariant_to <= set(OPERATIONS)


def draws_of_spaces():
    return {
        "seed": st.integers(0, 2**32 - 1),
        "shape": st.sampled_from([(30, 5), (24, 9), (14, 20), (12, 12)]),
        "dtype": st.sampled_from(["f4", "f8"]),
    }


@pytest.mark.parametrize(
    ("metric", "name"),
    [(metric, name) for metric in METRICS for name in OPERATIONS if name in METRICS[metric].invariant_to],
)
@given(**draws_of_spaces())
@settings(max_examples=12)
def test_the_score_ignores_the_declared_operations_on_either_side(metric, name, seed, shape, dtype):
    """CCA's affine invariance has the preconditions full rank and d < n; with d >= n its score is 1 anyhow."""
    x, y = related(*shape, shape[1], seed=seed)
    rng = np.random.default_rng(seed)
    changed = [operation(name, rng, *shape)(z).astype(dtype) for z in (x, y)]
    before = score(x.astype(dtype), y.astype(dtype), metric)
    assert score(*changed, metric) == pytest.approx(before, abs=1e-9 if dtype == "f8" else 1e-4)


@pytest.mark.parametrize(
    ("metric", "name"),
    [(metric, name) for metric in METRICS for name in OPERATIONS if name in METRICS[metric].jointly_invariant_to],
)
@given(**draws_of_spaces())
@settings(max_examples=12)
def test_the_score_ignores_the_jointly_declared_operations_on_both_sides_alike(metric, name, seed, shape, dtype):
    x, y = related(*shape, shape[1], seed=seed)
    apply = operation(name, np.random.default_rng(seed), *shape)
    before = score(x.astype(dtype), y.astype(dtype), metric)
    assert score(apply(x).astype(dtype), apply(y).astype(dtype), metric) == pytest.approx(
        before, abs=1e-9 if dtype == "f8" else 1e-4
    )


@pytest.mark.parametrize(
    ("metric", "name"),
    [(metric, name) for metric in METRICS for name in OPERATIONS if name not in METRICS[metric].invariant_to],
)
@pytest.mark.parametrize("shape", [(40, 6), (20, 30)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_score_sees_every_other_operation_on_one_side(metric, name, shape, dtype):
    if metric in CANONICAL and shape[1] >= shape[0]:
        pytest.skip("with d >= n canonical correlations are 1, or nearly so")
    x, y = related(*shape, shape[1])
    x, y = queried(shape[1]) if metric in FOUND else (x, x + y)
    changed = operation(name, np.random.default_rng(1), *x.shape)(x)
    difference = score(changed.astype(dtype), y.astype(dtype), metric) - score(x.astype(dtype), y.astype(dtype), metric)
    assert abs(difference) > 1e-2


def test_pwcca_weighs_the_features_of_the_first_space_only():
    x, y = related()
    y = x + y
    apply = operation("affine", np.random.default_rng(1), 40, 6)
    assert score(x, apply(y), "pwcca") == pytest.approx(score(x, y, "pwcca"), abs=1e-9)
    assert abs(score(apply(x), y, "pwcca") - score(x, y, "pwcca")) > 1e-2


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (metric, name)
        for metric in METRICS
        for name in OPERATIONS
        if name not in METRICS[metric].invariant_to | METRICS[metric].jointly_invariant_to
    ],
)
def test_the_score_sees_every_other_operation_on_both_sides_alike(metric, name):
    x, y = queried(6) if metric in FOUND else related(noise=2)
    apply = operation(name, np.random.default_rng(1), *x.shape)
    assert abs(score(apply(x), apply(y), metric) - score(x, y, metric)) > 2e-3


@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric not in ROWS])
@pytest.mark.parametrize("shape", [(40, 6), (20, 60)])
def test_a_mean_a_thousand_times_the_spread_costs_single_precision_nothing(metric, shape):
    """The single-precision values themselves, in double precision, are the reference.

    The mean cosine itself then differs from 1 by less than single precision resolves.
    """
    x, y = ((z + 1e3).astype("f4") for z in related(*shape, shape[1]))
    single, double = compare(x, y, metric), compare(x.astype("f8"), y.astype("f8"), metric)
    assert single == pytest.approx(double, abs=1e-4, rel=1e-3, nan_ok=True)


# Quadratic metrics -------------------------------------------------------------------------------


@each_metric
def test_quadratic_metrics_use_the_same_rows_of_every_space(metric, monkeypatch):
    x, y = related(n=90)
    labels = np.arange(90) // 3
    whole = compare(x, y, metric, labels)
    monkeypatch.setattr(metric_form, "SUBSAMPLE", 25)
    rows = np.sort(np.random.default_rng(0).choice(90, 25, replace=False))
    assert len(set(labels[rows])) < 30, "classes get lost, so that labels must be coded anew"
    found = compare(x, y, metric, labels)
    if METRICS[metric].quadratic:
        assert found == pytest.approx(compare(x[rows], y[rows], metric, labels[rows]), abs=1e-12)
        assert abs(found.score - whole.score) > 1e-3
    else:
        assert found == whole


def test_the_subsample_is_two_thousand_rows_drawn_by_seed_zero():
    assert metric_form.SUBSAMPLE == 2000
    x, y = related(n=2050, d=3, m=3)
    rows = np.sort(np.random.default_rng(0).choice(2050, 2000, replace=False))
    assert pairwise([x, y], "rsa_pearson").iloc[0, 1] == pairwise([x[rows], y[rows]], "rsa_pearson").iloc[0, 1]


@each_metric
def test_the_order_of_samples_does_not_matter(metric):
    x, y = related()
    labels = np.arange(40) % 3
    order = np.random.default_rng(0).permutation(40)
    found, other = compare(x, y, metric, labels), compare(x[order], y[order], metric, labels[order])
    assert other.score == pytest.approx(found.score, abs=1e-12)
    tolerance = shuffle_error(found) if metric in SHUFFLED else 1e-12
    assert other.null == pytest.approx(found.null, abs=tolerance)
    assert other.null_within_class == pytest.approx(found.null_within_class, abs=tolerance)
    # and the correspondence of samples does
    y = x + y if metric in COARSE else y  # of unrelated ones too few are found
    assert abs(score(x, y[order], metric) - score(x, y, metric)) > 0.02


# Determinism, precision, kinds of input ------------------------------------------------------------


@each_metric
def test_a_comparison_repeats_to_the_bit_and_leaves_global_generators_alone(metric):
    x, y = related(d=5, m=5)
    labels = np.arange(40) % 3
    np.random.seed(0)
    torch.manual_seed(0)
    first = compare(x, y, metric, labels)
    after = np.random.rand(), torch.rand(1).item()
    np.random.seed(0)
    torch.manual_seed(0)
    assert after == (np.random.rand(), torch.rand(1).item())
    np.random.seed(5)
    torch.manual_seed(5)
    assert compare(x, y, metric, labels) == pytest.approx(first, rel=0, abs=0, nan_ok=True)


@each_metric
@pytest.mark.parametrize("shape", [(40, 6), (60, 24), (20, 60)])
def test_single_and_double_precision_agree(metric, shape):
    labels = np.arange(shape[0]) % 3
    x, y = (z.astype("f4") for z in related(*shape, shape[1]))
    single, double = compare(x, y, metric, labels), compare(x.astype("f8"), y.astype("f8"), metric, labels)
    assert single == pytest.approx(double, abs=1e-4, rel=1e-4, nan_ok=True)


@each_metric
def test_memory_layout_and_gradients_do_not_matter(metric):
    x, y = related()
    expected = compare(x, y, metric)
    wide = np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)
    kinds = {
        "fortran order": np.asfortranarray(x),
        "every other row and third column": wide[::2, ::3],
        "negative strides": x[::-1, ::-1].copy()[::-1, ::-1],
        "transposed tensor": torch.from_numpy(x.T.copy()).T,
        "strided tensor": torch.from_numpy(wide)[::2, ::3],
        "big-endian": x.astype(">f8"),
        "trained": torch.from_numpy(x.copy()).requires_grad_(),
        "within a graph": torch.from_numpy(x.copy()).requires_grad_() * 1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, z in kinds.items():
            assert compare(z, y, metric) == pytest.approx(expected, abs=1e-12, rel=1e-9, nan_ok=True), kind
            assert pairwise([z, y], metric).iloc[0, 1] == pytest.approx(expected.score, abs=1e-12), kind
    assert np.array_equal(x, related()[0]), "the input stays as it was"


@each_metric
def test_mixed_precision_and_labels_of_any_kind_are_taken(metric):
    x, y = related()
    labels = np.arange(40) % 3
    expected = compare(x, y, metric, labels)
    mixed = compare(x.astype("f4"), y, metric, [["a", "b", "c"][i] for i in labels])
    assert mixed == pytest.approx(expected, abs=1e-4, rel=1e-3)
    assert compare(x, y, metric, torch.from_numpy(labels - 1)) == expected


def test_wide_spaces_are_compared_over_samples():
    """A matrix of d x d would take 160 GB, which is refused at once."""
    x, y = np.random.default_rng(0).normal(size=(2, 12, 200_000)).astype("f4")
    for metric in METRICS:
        assert math.isfinite(compare(x, y, metric, labels=np.arange(12) % 2).score)


# Errors ------------------------------------------------------------------------------------------


def refused(match, metric="cosine", x=None, y=None, **options):
    first, second = related()
    with pytest.raises(SpaceError, match=match) as caught:
        compare(first if x is None else x, second if y is None else y, metric, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(". ") == 0, "one sentence"


def test_an_unknown_metric_is_answered_with_the_names():
    refused(rf"unknown metric 'ccka'; choose from {', '.join(METRICS)}$", "ccka")
    with pytest.raises(SpaceError, match="unknown metric 'ccka'; choose from cosine, pearson"):
        pairwise(related(), "ccka")


def test_an_unknown_method_is_answered_with_the_names():
    with pytest.raises(SpaceError, match="unknown method 'grams'; choose from auto, features, gram"):
        pairwise(related(), method="grams")


@pytest.mark.parametrize("count", [1, 0, -3, 2.0, True, "20", None])
def test_bad_numbers_of_permutations_are_refused(count):
    refused("permutations is .*; give a whole number of at least 2", "pwcca", permutations=count)


def test_numpys_whole_numbers_are_numbers_of_permutations():
    assert compare(*related(), "pwcca", permutations=np.int64(5)).p * 6 == pytest.approx(1)


def test_pearson_names_the_first_constant_row_and_unequal_widths():
    x, _ = related()
    x[[7, 11]] = 3.0
    refused(r"undefined for 2 row\(s\) whose features are all equal \(first: row 7\); drop these", "pearson", x=x)
    refused(r"undefined for 2 row\(s\)", "pearson", x=x.astype("f4") + np.float32(1e4))
    refused(r"undefined for 2 row\(s\)", "rsa", x=x)
    refused("needs profiles of one width, not 6 and 4; compare relative", "pearson", y=related(m=4)[1])
    with pytest.raises(SpaceError, match="needs profiles of one width, not 6 and 4"):
        pairwise(related(m=4), "pearson")


@pytest.mark.parametrize("metric", [*DEBIASED, *RSA])
def test_four_samples_are_needed(metric):
    x, y = related(n=4, d=5, m=5)
    assert math.isfinite(compare(x, y, metric).score)
    refused("needs at least 4 samples, not 3; give more", metric, x=x[:3], y=y[:3])
    with pytest.raises(SpaceError, match="needs at least 4 samples, not 3"):
        pairwise([x[:3], y[:3]], metric)


def test_neighbours_need_two_samples_more_than_they_are():
    x, y = related(n=12)
    assert 0 <= score(x, y, "mutual_knn") <= 1
    refused("mutual k-NN needs at least 12 samples, not 11; give more", "mutual_knn", x=x[:11], y=y[:11])


@pytest.mark.parametrize("metric", ["cka_rbf", "cka_rbf_debiased"])
@pytest.mark.parametrize("shift", [0, 3, 1000])
@pytest.mark.parametrize("n", [20, 60])
def test_rbf_needs_samples_that_differ(metric, shift, n):
    x = np.repeat(np.random.default_rng(0).normal(size=(3, 20)) + shift, [n - 4, 2, 2], axis=0)
    refused("has no bandwidth, since over half of all pairs of samples coincide; drop duplicates", metric, x, x)
    half = np.repeat(x[[0, -1]], [n // 2, n // 2], axis=0)
    assert score(half, half, metric) == pytest.approx(1), "just under half of the pairs coincide"


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_vanishing_kernel_is_named(dtype):
    x = np.array([[0.1], [0.1], [0.1], [-0.3]], dtype)
    gram = x.astype("f8") @ x.T.astype("f8")
    assert abs(hsic_song(gram, gram)) < 1e-12
    message = "CKA is undefined for a space whose centred kernel vanishes; use more samples"
    refused(message, "cka_debiased", x=x, y=related(n=4)[0].astype(dtype))
    with pytest.raises(SpaceError, match=message):
        pairwise([x, related(n=4)[0].astype(dtype)], "cka_debiased")


@pytest.mark.parametrize("metric", DEBIASED)
def test_equally_far_samples_leave_nothing_of_a_debiased_kernel(metric):
    x = ortho_group.rvs(12, random_state=0)
    refused("CKA is undefined for a space whose centred kernel vanishes", metric, x=x, y=related(n=12)[1])


@pytest.mark.parametrize("metric", RSA)
def test_rsa_needs_distances_that_differ(metric):
    """All pairs of a simplex's corners are equally far, up to round-off."""
    for simplex in (np.eye(12), (3.3 * np.eye(12) - 0.1)[:, ::-1], np.eye(12)[:, np.arange(24) % 12]):
        refused("RSA is undefined for a space in which all pairs", metric, x=simplex, y=related(n=12)[1])


def test_different_rows_and_bad_labels_are_refused():
    x, y = related()
    refused(r"different numbers of rows .x 40, y 39.", x=x, y=y[:-1])
    refused("one label for each of the 40 rows", labels=[0, 1])
    with pytest.raises(SpaceError, match="at least 2 are needed to compare models"):
        pairwise([x])
