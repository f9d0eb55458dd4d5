import functools
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import related
from scipy.spatial.distance import pdist, squareform
from scipy.stats import binom, chi2, norm, ortho_group, pearson3, rankdata

from invariances.metrics import neighbours as neighbour_family
from invariances.metrics import nulls
from invariances.metrics.table import METRICS, compare, procrustes

BIASED = ["cka", "cka_rbf", "cca"]
HOLLOW = ["cka_debiased", "cka_rbf_debiased", "rsa", "rsa_pearson"]
CLOSED_FORM = ["cosine", "pearson", *BIASED, *HOLLOW]
"""Metrics whose mean and deviation are exact."""
NUCLEAR = ["procrustes", "svcca"]
"""Metrics whose null is the asymptotic law of a sum of singular values."""
SHUFFLES = 2000

each_closed_form = pytest.mark.parametrize("metric", CLOSED_FORM)


# Every closed form is that of an inner product of two n x n matrices; here they are, by definition ---


def double_centred(kernel):
    h = np.eye(len(kernel)) - 1 / len(kernel)
    return h @ kernel @ h


def u_centred(kernel):
    """Every entry by its definition (Szekely and Rizzo 2014)."""
    kernel, n = kernel - np.diag(np.diag(kernel)), len(kernel)
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                margins = kernel[i].sum() + kernel[:, j].sum()
                out[i, j] = kernel[i, j] - margins / (n - 2) + kernel.sum() / ((n - 1) * (n - 2))
    return out


def linear(x):
    return x @ x.T


def rbf(x):
    distances = pdist(x)
    width = np.sort(distances)[(len(distances) - 1) // 2]
    return np.exp(-(squareform(distances) ** 2) / (2 * width**2))


def projection(x):
    basis = np.linalg.qr(x - x.mean(axis=0))[0]
    return basis @ basis.T


def dissimilarities(x, ranked):
    distances = pdist(x, "correlation")
    distances = rankdata(distances) if ranked else distances
    return squareform(distances - distances.mean())


def neighbours(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similar = unit @ unit.T - 10 * np.eye(len(x))
    threshold = np.sort(similar, axis=1)[:, -neighbour_family.NEIGHBOURS, None]
    return (similar >= threshold).astype(float)


MATRICES = {
    "cka": lambda x: double_centred(linear(x)),
    "cka_debiased": lambda x: u_centred(linear(x)),
    "cka_rbf": lambda x: double_centred(rbf(x)),
    "cka_rbf_debiased": lambda x: u_centred(rbf(x)),
    "cca": projection,
    "rsa": lambda x: dissimilarities(x, ranked=True),
    "rsa_pearson": lambda x: dissimilarities(x, ranked=False),
    "mutual_knn": neighbours,
}


def cosines_of_all_rows(x, y, centre):
    """Shape (n, n): the cosine, or the correlation, of every row of one side with every row of the other."""
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(z, ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    if centre:
        x, y = (z - z.mean(axis=1, keepdims=True) for z in (x, y))
    return x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)


def shuffled_scores(metric, x, y, orders):
    """The metric of `x` and of `y` in each of the orders, by full matrices."""
    if metric in ("cosine", "pearson"):
        table = cosines_of_all_rows(x, y, centre=metric == "pearson")
        return np.array([table[np.arange(len(x)), p].mean() for p in orders])
    k, g = MATRICES[metric](x), MATRICES[metric](y)
    size = np.linalg.norm(k) * np.linalg.norm(g)
    if metric == "cca":
        size = min(x.shape[1], y.shape[1])
    if metric == "mutual_knn":
        size = len(x) * neighbour_family.NEIGHBOURS
    return np.array([(k * g[np.ix_(p, p)]).sum() / size for p in orders])


def all_orders(n, labels=None):
    orders = [list(p) for p in permutations(range(n))]
    return orders if labels is None else [p for p in orders if (labels[p] == labels).all()]


def deviation(found):
    """The null's, from the score's distance in its units."""
    return (found.score - found.null) / found.z


# Exact forms, against all permutations -------------------------------------------------------------


@each_closed_form
@pytest.mark.parametrize(("n", "d", "m"), [(5, 3, 3), (5, 3, 2), (6, 3, 4), (6, 8, 7), (7, 2, 3), (7, 9, 4)])
def test_mean_and_deviation_are_exact_over_all_permutations(metric, n, d, m):
    if metric == "cca" and max(d, m) >= n - 1:
        pytest.skip("CCA with d >= n - 1 does not vary")
    if metric == "pearson":
        d = m = max(d, m)
    if metric in ("rsa", "rsa_pearson"):
        d, m = max(d, 3), max(m, 3)
    x, y = related(n, d, m)
    scores = shuffled_scores(metric, x, y, all_orders(n))
    found = compare(x, y, metric)
    assert found.score == pytest.approx(scores[0], abs=1e-10)
    assert found.null == pytest.approx(scores.mean(), abs=1e-10)
    assert deviation(found) == pytest.approx(scores.std(), rel=1e-7)
    as_close = (scores >= scores[0] - 1e-9).sum()
    if n <= 6:
        assert found.p == as_close / math.factorial(n)
    else:  # 999 of the permutations, drawn by seed, and the identity
        low, high = binom.ppf([1e-6, 1 - 1e-6], 999, as_close / math.factorial(n))
        assert low + 1 <= 1000 * found.p <= high + 1


# Few samples ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def p_of_unrelated():
    """p-values of every metric with a closed form for pairs of unrelated spaces of n samples."""

    def draw(n, pairs=300):
        rng = np.random.default_rng(n)
        spaces = rng.normal(size=(pairs, 2, n, 3))
        return {metric: np.array([compare(x, y, metric).p for x, y in spaces]) for metric in CLOSED_FORM}

    return functools.cache(draw)


@each_closed_form
@pytest.mark.parametrize("n", [5, 6, 8])
def test_p_of_few_samples_is_as_frequent_as_it_says(metric, n, p_of_unrelated):
    """Each bound is passed by a true p-value with probability 0.9999."""
    p = p_of_unrelated(n)[metric]
    assert p.min() >= 1 / min(math.factorial(n), 1000)  # of all permutations, or of 1,000
    for level in (0.01, 0.05, 0.3):
        low, high = binom.ppf([0.00005, 0.99995], len(p), level)
        assert (p <= level).sum() <= high
        assert (p <= 1.5 * level).sum() >= low


@each_closed_form
@pytest.mark.parametrize("n", [5, 8, 12])
def test_a_relation_of_few_samples_is_found(metric, n):
    x = np.random.default_rng(n).normal(size=(n, 3))
    assert compare(x, 2 * x, metric).p == pytest.approx(1 / min(math.factorial(n), 1000), rel=0.01)


@each_closed_form
def test_p_of_more_samples_is_normal_but_for_kernels_whose_null_is_skewed(metric):
    x, y = related(nulls.FEW_SAMPLES + 1, 4, 4)
    found = compare(x, y, metric)
    if not metric.startswith(("cka", "rsa")):
        assert found.p == pytest.approx(norm.sf(found.z), rel=1e-12)
        return
    assert norm.sf(found.z) < found.p < 0.02
    if metric == "cka":
        values = [np.linalg.eigvalsh(np.cov(space.T)) for space in (x, y)]
        skewness = np.sqrt(8) * np.prod([(v**3).sum() / (v**2).sum() ** 1.5 for v in values])
        assert found.p == pytest.approx(pearson3.sf(found.z, skewness), rel=1e-5)


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_mean_of_common_neighbours_is_exact_over_all_permutations(n, k, monkeypatch):
    monkeypatch.setattr(neighbour_family, "NEIGHBOURS", k)
    x, y = related(n, 4, 3)
    scores = shuffled_scores("mutual_knn", x, y, all_orders(n))
    found = compare(x, y, "mutual_knn")
    assert found.score == pytest.approx(scores[0], abs=1e-12)
    assert found.null == pytest.approx(scores.mean(), abs=1e-12)


@pytest.mark.parametrize("metric", ["cka_debiased", "cka_rbf_debiased"])
@pytest.mark.parametrize("n", [5, 6, 7])
def test_the_debiased_variance_depends_on_nothing_but_n(metric, n):
    for seed in range(3):
        scores = shuffled_scores(metric, *related(n, 3, 4, seed=seed), all_orders(n))
        assert scores.var() == pytest.approx(2 / (n * (n - 3)), rel=1e-8)


def test_the_variance_of_rsa_depends_on_the_row_effects():
    """By how much the plain variance of U-centred matrices would be off."""
    x, y = related(7, 3, 3)
    x[0] *= -4  # far from all others
    scores = shuffled_scores("rsa_pearson", x, y, all_orders(7))
    assert abs(scores.var() / (2 / (7 * 4)) - 1) > 0.05
    assert deviation(compare(x, y, "rsa_pearson")) == pytest.approx(scores.std(), rel=1e-8)


@pytest.mark.parametrize("metric", [*CLOSED_FORM, "mutual_knn"])
@pytest.mark.parametrize("labels", [[0, 1, 0, 0, 1, 2, 1], [0, 0, 1, 1, 1, 1, 1], [3, 3, 3, 0, 1, 2, 5]], ids=str)
def test_the_within_class_null_is_exact_over_all_such_permutations(metric, labels, monkeypatch):
    """Classes of one sample, whose block has no rest to average, among them."""
    monkeypatch.setattr(neighbour_family, "NEIGHBOURS", 2)
    labels = np.array(labels)
    x, y = related(7, d=3, m=3)
    orders = all_orders(7, labels)
    assert len(orders) == math.prod(math.factorial(size) for size in np.unique(labels, return_counts=True)[1])
    expected = shuffled_scores(metric, x, y, orders).mean()
    assert compare(x, y, metric, labels).null_within_class == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("metric", ["cosine", *BIASED, "cka_debiased", "cka_rbf_debiased", "mutual_knn"])
def test_the_within_class_null_of_unequal_widths(metric, monkeypatch):
    monkeypatch.setattr(neighbour_family, "NEIGHBOURS", 2)
    labels = np.array([0, 1, 0, 1, 1, 2, 1])
    x, y = related(7, d=5, m=2)
    expected = shuffled_scores(metric, x, y, all_orders(7, labels)).mean()
    assert compare(x, y, metric, labels).null_within_class == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("metric", METRICS)
def test_singleton_classes_leave_nothing_to_shuffle(metric):
    x, y = related()
    found = compare(x, y, metric, labels=np.arange(40))
    assert found.null_within_class == pytest.approx(found.score, abs=1e-10)


@pytest.mark.parametrize("metric", [*CLOSED_FORM, "mutual_knn"])
def test_one_class_for_all_gives_the_plain_null(metric):
    x, y = related()
    found = compare(x, y, metric, labels=["all"] * 40)
    assert found.null_within_class == pytest.approx(found.null, abs=1e-10)


@pytest.mark.parametrize("metric", METRICS)
def test_without_labels_there_is_no_within_class_null(metric):
    assert math.isnan(compare(*related(), metric).null_within_class)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(40, 6, 4), (30, 50, 60)])
@pytest.mark.parametrize("metric", ["cosine", "cka", "cka_debiased"])
def test_both_nulls_match_shuffles_of_wide_and_narrow_spaces(metric, shape, dtype):
    """Single precision too: the class sums and the diagonals go different ways there."""
    x, y = (z.astype(dtype).astype("f8") for z in related(*shape))
    labels = np.random.default_rng(2).integers(4, size=len(x))
    rng = np.random.default_rng(3)
    orders = [rng.permutation(len(x)) for _ in range(SHUFFLES)]
    draws = nulls.shuffles(len(x), torch.from_numpy(labels), seed=4)
    within = [next(draws).numpy() for _ in range(SHUFFLES)]
    found = compare(x.astype(dtype), y.astype(dtype), metric, labels)
    scores, scores_within = (shuffled_scores(metric, x, y, each) for each in (orders, within))
    assert_mean(found.null, scores)
    assert_deviation(deviation(found), scores)
    assert_mean(found.null_within_class, scores_within)


def assert_mean(mean, draws):
    """Within three Monte-Carlo errors."""
    assert abs(mean - draws.mean()) < 3 * draws.std() / math.sqrt(len(draws))


def assert_deviation(value, draws):
    kurtosis = np.mean(((draws - draws.mean()) / draws.std()) ** 4)
    assert abs(value / draws.std() - 1) < 3 * math.sqrt((kurtosis - 1) / 4 / len(draws))


# Exact forms, against explicit shuffles ------------------------------------------------------------


@each_closed_form
def test_mean_and_deviation_match_explicit_shuffles(metric):
    x, y = related(n=60, d=8, m=8, seed=5)
    rng = np.random.default_rng(1)
    scores = shuffled_scores(metric, x, y, [rng.permutation(60) for _ in range(SHUFFLES)])
    found = compare(x, y, metric)
    assert_mean(found.null, scores)
    assert_deviation(deviation(found), scores)


@pytest.mark.parametrize("metric", [*CLOSED_FORM, "mutual_knn"])
@pytest.mark.parametrize("sizes", [(14, 13, 13), (28, 9, 2, 1)])
def test_the_within_class_null_matches_shuffles_within_classes(metric, sizes):
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x, y = related()
    direction = np.array([2, 1, 0, 0, -1, 3])
    x, y = x + labels[:, None] * direction, y + 2 * labels[:, None] * direction
    orders = []
    for _ in range(SHUFFLES):
        order = np.arange(40)
        for label in range(len(sizes)):
            members = np.flatnonzero(labels == label)
            order[members] = rng.permutation(members)
        orders.append(order)
    found = compare(x, y, metric, labels)
    assert_mean(found.null_within_class, shuffled_scores(metric, x, y, orders))
    assert abs(found.null_within_class - found.null) > 0.02, "the classes are planted"


def test_shuffles_of_common_neighbours_have_the_known_mean_and_give_the_deviation():
    x, y = related(n=60)
    rng = np.random.default_rng(1)
    scores = shuffled_scores("mutual_knn", x, y, [rng.permutation(60) for _ in range(SHUFFLES)])
    found = compare(x, y, "mutual_knn", permutations=400)
    assert found.null == pytest.approx(10 / 59, abs=1e-12)
    assert_mean(found.null, scores)
    assert deviation(found) == pytest.approx(scores.std(), rel=3 * math.sqrt(1 / 800 + 1 / 2 / SHUFFLES))
    assert found.p == pytest.approx(1 / 401), "counted, of spaces that no shuffle brings as close"
    found = compare(*related(n=60, noise=9), "mutual_knn", permutations=400)
    scores = shuffled_scores("mutual_knn", *related(n=60, noise=9), [rng.permutation(60) for _ in range(SHUFFLES)])
    assert 0.02 < found.p < 0.98
    assert found.p == pytest.approx((scores >= found.score).mean(), abs=3 * math.sqrt(0.25 / 400))


def test_debiased_cka_of_independent_spaces_averages_zero_and_biased_does_not():
    rng = np.random.default_rng(0)
    pairs = [rng.normal(size=(2, 50, 40)) for _ in range(300)]
    for metric in ("cka_debiased", "cka_rbf_debiased", "cka", "cka_rbf"):
        scores = np.array([compare(x, y, metric).score for x, y in pairs])
        error = scores.std(ddof=1) / math.sqrt(len(scores))
        if "debiased" in metric:
            assert abs(scores.mean()) < 3 * error
        else:
            assert scores.mean() > 0.3
            assert scores.mean() > 100 * error


def test_kernel_moments_of_all_axes_equally_long_do_not_vary():
    flat = nulls.Kernel(20, power=19.0, trace=19.0, squares=20 * (19 / 20) ** 2)
    other = nulls.Kernel(20, power=3.0, trace=5.0, squares=2.0)
    assert flat.room == 0
    for pair in ((flat, other), (other, flat), (flat, flat)):
        assert nulls.kernel_moments(*pair).deviation == 0
        assert nulls.unevenness(*pair) == 0


def test_below_four_samples_there_is_no_deviation():
    x, y = related(n=3, d=2, m=2)
    found = compare(x, y, "cka")
    assert found.null == pytest.approx(shuffled_scores("cka", x, y, all_orders(3)).mean())
    assert math.isnan(found.z)
    assert math.isnan(found.p)


# The asymptotic law of sums of singular values -----------------------------------------------------


def isotropic(rng, n):
    return rng.normal(size=(2, n, 30))


def decaying(rng, n):
    axes = np.arange(1, 41)
    return rng.normal(size=(n, 40)) * axes**-0.5, rng.normal(size=(n, 40)) / axes


def relu_codes(rng, n):
    return [np.maximum(rng.normal(size=(n, 20)) @ rng.normal(size=(20, 48)) + shift, 0) for shift in (0.3, 0)]


def class_clusters(rng, n):
    classes = rng.integers(10, size=n)
    return [3 * rng.normal(size=(10, 32))[classes] + rng.normal(size=(n, 32)) for _ in range(2)]


def skewed(rng, n):
    return rng.exponential(size=(2, n, 30))


def unequal_widths(rng, n):
    return rng.normal(size=(n, 17)), rng.normal(size=(n, 90)) * np.linspace(2, 0.2, 90)


def as_many_features_as_samples(rng, n):
    return rng.normal(size=(n, n - 3)), rng.normal(size=(n, n))


def more_features_than_samples(rng, n):
    return rng.normal(size=(n, 2 * n)), rng.normal(size=(n, 3 * n)) * np.linspace(2, 0.2, 3 * n)


def one_uneven_side(rng, n):
    return rng.normal(size=(n, 30)) * rng.lognormal(size=(n, 1)), rng.normal(size=(n, 30))


def least_rank(rng, n):
    return rng.normal(size=(2, n, nulls.LEAST_RANK)) * np.linspace(1, 1.2, nulls.LEAST_RANK)


SPECTRA = [
    isotropic,
    decaying,
    relu_codes,
    class_clusters,
    skewed,
    unequal_widths,
    as_many_features_as_samples,
    more_features_than_samples,
    one_uneven_side,
    least_rank,
]


def shape(x):
    x = x - x.mean(axis=0)
    return x / np.linalg.norm(x)


def principal_basis(x, share=0.99):
    left, singular, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    return left[:, : np.searchsorted(np.cumsum(singular**2) / (singular**2).sum(), share) + 1]


def shuffled_sums(metric, x, y, count=SHUFFLES, seed=1):
    """The score for shuffles of one side, by explicit singular values."""
    a, b = ((shape if metric == "procrustes" else principal_basis)(z) for z in (x, y))
    rng = np.random.default_rng(seed)
    sums = np.array([np.linalg.svd(a.T @ b[rng.permutation(len(x))], compute_uv=False).sum() for _ in range(count)])
    return 2 - 2 * sums if metric == "procrustes" else sums / min(a.shape[1], b.shape[1])


@pytest.mark.parametrize("metric", NUCLEAR)
@pytest.mark.parametrize("spaces", SPECTRA)
def test_the_law_matches_explicit_shuffles(metric, spaces):
    x, y = spaces(np.random.default_rng(3), 50)
    few, many = (compare(x, y, metric, permutations=count) for count in (2, 5))
    assert few == pytest.approx(many, rel=0, abs=0, nan_ok=True), "no shuffles are used"
    scores = shuffled_sums(metric, x, y)
    # asymptotic: a tenth of the null's deviation is allowed, in mean and in deviation
    assert abs(few.null - scores.mean()) < max(0.1, 3 / math.sqrt(SHUFFLES)) * scores.std()
    assert abs(deviation(few)) == pytest.approx(scores.std(), rel=0.1)
    assert few.p == pytest.approx(norm.sf(few.z))


def moments(a, b, n):
    return nulls.nuclear_moments(*(nulls.Spectrum(torch.tensor(v, dtype=torch.float64), n) for v in (a, b)))


@pytest.mark.parametrize("n", [5, 17, 60, 200])
def test_the_law_is_exact_where_all_axes_are_equally_long(n):
    """Then X'PY is a rotation, or a rotation of Y, and its singular values are known."""
    flat = [1.0] * (n - 1)
    both = moments(flat, flat, n)
    assert both.mean == pytest.approx(n - 1, rel=1e-6)
    assert both.deviation < 1e-4
    other = np.linspace(1, 9, n - 1)
    one = moments([4.0] * (n - 1), other, n)
    assert one.mean == pytest.approx(2 * np.sqrt(other).sum(), rel=1e-6)
    assert one.deviation < 1e-4 * one.mean
    fewer = moments(flat, [9.0] * 3, n)
    assert fewer.mean == pytest.approx(9, rel=1e-6)
    assert fewer.deviation < 1e-4


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-12, 1e12))
@settings(max_examples=20)
def test_the_law_scales_like_a_norm_and_knows_no_order(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.exponential(size=20), rng.exponential(size=rng.integers(16, 49))
    plain, scaled, swapped = moments(a, b, 50), moments(scale * a, b, 50), moments(b[::-1].copy(), a, 50)
    assert scaled == pytest.approx(math.sqrt(scale) * np.array(plain), rel=1e-9)
    assert swapped == pytest.approx(plain, rel=1e-9)


def test_the_law_is_that_of_products_of_random_rotations():
    """Free of samples altogether: a and b are spectra, the rotation is drawn by Haar's measure."""
    rng = np.random.default_rng(0)
    a, b = np.geomspace(0.01, 1, 40), np.linspace(0.1, 2, 25)
    sums = np.array(
        [
            np.linalg.svd(np.sqrt(a)[:, None] * ortho_group.rvs(60, random_state=rng)[:40, :25] * np.sqrt(b))[1].sum()
            for _ in range(1500)
        ]
    )
    law = moments(a, b, 61)
    assert abs(law.mean - sums.mean()) < 0.1 * sums.std()
    assert law.deviation == pytest.approx(sums.std(), rel=0.06)


# Where the law does not hold, shuffles ---------------------------------------------------------------


@pytest.mark.parametrize("metric", NUCLEAR)
def test_below_the_least_rank_shuffles_are_used(metric):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, nulls.LEAST_RANK))
    few, many = (compare(x, y, metric, permutations=count) for count in (5, 9))
    assert few.null == many.null, "the least rank is enough"
    assert f"below rank {nulls.LEAST_RANK}" in METRICS[metric].null
    for narrow in ((x[:, 1:], y), (x, y[:, 1:])):
        few, many = (compare(*narrow, metric, permutations=count) for count in (5, 9))
        assert few.null != many.null
        assert few.p * 6 == pytest.approx(round(few.p * 6))
        assert many.p * 10 == pytest.approx(round(many.p * 10))


@pytest.mark.parametrize("metric", NUCLEAR)
@pytest.mark.parametrize("spread", [0.7, 1.2])
def test_uneven_sample_norms_are_shuffled_since_the_law_is_off_there(metric, spread):
    """Samples of lognormal norms on both sides: a few of them make the score, whatever the spectrum."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 60, 30)) * rng.lognormal(sigma=spread, size=(2, 60, 1))
    states = [METRICS[metric].prepare(torch.from_numpy(z), None) for z in (x, y)]
    assert min(len(state.spectrum) for state in states) >= nulls.LEAST_RANK
    few, many = (compare(x, y, metric, permutations=count) for count in (20, 40))
    assert few.null != many.null
    scores = shuffled_sums(metric, x, y)
    error = scores.std() * math.sqrt(1 / 500 + 1 / SHUFFLES)
    assert abs(compare(x, y, metric, permutations=500).null - scores.mean()) < 3 * error
    law = nulls.nuclear_moments(*(state.spectrum for state in states))
    of = (lambda s: 2 - 2 * s) if metric == "procrustes" else (lambda s: s / min(len(t.spectrum) for t in states))
    off = abs(of(law.mean) - scores.mean()) / scores.std()
    narrow = abs(of(law.deviation) - of(0.0)) / scores.std()
    assert off > 0.2
    assert narrow < 0.8, "and the law's deviation is too small, so that chance would look like evidence"


def test_unevenness_is_the_relative_excess_of_the_exact_variance():
    """Against the variance over all permutations, and that of a Gaussian's even norms."""
    x, y = related(7, 3, 3)
    states = [METRICS["cka"].prepare(torch.from_numpy(z), None) for z in (x, y)]
    kernels = [state.summary for state in states]
    exact = shuffled_scores("cka", x, y, all_orders(7)).var()
    k, g = (double_centred(linear(z)) for z in (x, y))
    rooms = [6 - np.trace(kernel) ** 2 / (kernel**2).sum() for kernel in (k, g)]
    even = 2 * rooms[0] * rooms[1] / (8 * 36 * 5)
    assert nulls.unevenness(*kernels) == pytest.approx(exact / even - 1, rel=1e-8)


def test_counted_p_values_are_the_share_of_shuffles_that_are_at_least_as_close():
    x, y = related(noise=4)
    for metric in ("procrustes", "pwcca"):
        found = compare(x, y, metric, permutations=200)
        draws = [
            METRICS[metric].score(*(METRICS[metric].prepare(torch.from_numpy(z), None) for z in (x, y[p])))
            for p in (p.numpy() for p, _ in zip(nulls.shuffles(40), range(200), strict=False))
        ]
        closer = np.array(draws) <= found.score if metric == "procrustes" else np.array(draws) >= found.score
        assert found.p == pytest.approx((closer.sum() + 1) / 201)
        assert found.null == pytest.approx(np.mean(draws), abs=1e-10)
        assert abs(deviation(found)) == pytest.approx(np.std(draws, ddof=1), rel=1e-8)


# Shuffles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [None, [0, 1, 0, 0, 1, 2, 1]])
def test_every_allowed_order_is_drawn_equally_often(labels):
    n = 4 if labels is None else 7
    classes = None if labels is None else torch.tensor(labels)
    draws, count = nulls.shuffles(n, classes, seed=3), 6000
    seen: dict[tuple, int] = {}
    for _ in range(count):
        order = tuple(next(draws).tolist())
        seen[order] = seen.get(order, 0) + 1
    allowed = all_orders(n, None if labels is None else np.array(labels))
    assert set(seen) == {tuple(p) for p in allowed}
    expected = count / len(allowed)
    statistic = sum((times - expected) ** 2 / expected for times in seen.values())
    assert statistic < chi2.ppf(0.999, len(allowed) - 1)


def test_shuffles_repeat_by_seed():
    first, again, other = (np.array([next(draws).tolist() for _ in range(3)]) for draws in map(seeded, (0, 0, 1)))
    assert (first == again).all()
    assert (first != other).any()


def seeded(seed):
    return nulls.shuffles(30, torch.arange(30) % 3, seed)


@pytest.mark.parametrize("metric", ["procrustes", "svcca", "pwcca"])
@pytest.mark.parametrize("sizes", [(14, 13, 13), (28, 9, 2, 1)])
def test_the_shuffled_within_class_null_matches_other_shuffles(metric, sizes, monkeypatch):
    monkeypatch.setattr(nulls, "TOLERANCE", 0)  # all shuffles that are asked for
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x, y = related()
    x, y = x + labels[:, None] * np.array([1, 2, 0] * 2), y + 2 * labels[:, None] * np.array([1, -1] * 3)
    prepare, rate = METRICS[metric].prepare, METRICS[metric].score
    scores = []
    for _ in range(500):
        order = np.arange(40)
        for label in range(len(sizes)):
            members = np.flatnonzero(labels == label)
            order[members] = rng.permutation(members)
        scores.append(rate(prepare(torch.from_numpy(x), None), prepare(torch.from_numpy(y[order]), None)))
    found = compare(x, y, metric, labels, permutations=500)
    error = np.std(scores) * math.sqrt(2 / 500)
    assert abs(found.null_within_class - np.mean(scores)) < 3 * error
    assert abs(found.null_within_class - found.null) > 6 * error, "the classes are planted"


def test_shuffles_within_classes_stop_once_their_mean_is_precise():
    classes = torch.zeros(9, dtype=torch.int64)

    def drawn(scores):
        given, used = iter(scores), []
        mean = nulls.shuffled_within(lambda rows: used.append(next(given)) or used[-1], classes, 20)
        assert mean == pytest.approx(np.mean(used))
        return len(used)

    assert drawn([0.5] * 20) < 20
    assert drawn([0.5, 0.9] * 10) == 20
    precise = drawn([0.5, 0.51] * 10)
    assert 3 < precise < 20
    assert np.std(([0.5, 0.51] * 10)[:precise], ddof=1) / math.sqrt(precise) < nulls.TOLERANCE


def test_procrustes_of_unrelated_spaces_is_near_its_null():
    x, y = np.random.default_rng(0).normal(size=(2, 300, 40))
    found = compare(x, y, "procrustes")
    assert found.score == procrustes(x, y)
    assert abs(found.z) < 3
    assert abs(found.calibrated) < 0.02


@pytest.mark.parametrize("metric", ["cka", "cka_debiased"])
def test_p_of_unrelated_spaces_with_one_long_axis_is_no_smaller_than_chance(metric):
    rng = np.random.default_rng(0)
    scales = np.array([10.0, *[1.0] * 7])
    p = np.array([compare(*(rng.normal(size=(2, 60, 8)) * scales), metric).p for _ in range(1500)])
    for level in (0.05, 0.01, 0.002):
        share, error = (p < level).mean(), math.sqrt(level / len(p))
        assert share < level + 4 * error, level  # a normal tail has ten times as many below 0.002
    assert (p < 0.05).mean() > 0.02
    assert (p < 0.01).mean() > 0.002
    even = compare(*rng.normal(size=(2, 400, 60)), metric)
    assert even.p == pytest.approx(norm.sf(even.z), rel=0.2)


@pytest.mark.parametrize("metric", ["cka", "cka_rbf"])
def test_p_of_few_axes_is_that_of_counted_permutations(metric):
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=(2, 80, 4)) * np.array([6.0, 1, 1, 1]))[:, :, :]
    y = y + 0.35 * x
    found = compare(x, y, metric)
    scores = np.array([compare(x, y[rng.permutation(80)], metric).score for _ in range(1000)])
    counted = (scores >= found.score).mean()
    assert found.p == pytest.approx(counted, abs=4 * math.sqrt(max(counted, 0.002) / 1000), rel=0.5)
