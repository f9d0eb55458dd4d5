import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes as scipy_procrustes
from scipy.stats import norm, ortho_group
from sklearn.metrics.pairwise import cosine_similarity

from invariances.similarity import METRICS, PERMUTATIONS, cka, compare, cosine, procrustes
from invariances.spaces import SpaceError

OPERATIONS = ["isotropic-scale", "sample-scale", "translation", "permutation", "orthogonal", "affine"]
CLOSED_FORM = ["cosine", "cka", "cka_debiased"]

each_metric = pytest.mark.parametrize("metric", METRICS)
each_closed_form = pytest.mark.parametrize("metric", CLOSED_FORM)


def related(n=40, d=6, m=6, noise=1.0, seed=0, shift=0.4):
    """Two spaces of the same samples, with a mean, skewed so that fourth moments matter."""
    rng = np.random.default_rng(seed)
    x = (rng.exponential(size=(n, d)) - 1) * np.linspace(2, 0.5, d) + shift
    y = x @ rng.normal(size=(d, m)) / np.sqrt(d) + noise * rng.normal(size=(n, m)) + shift
    return x, y


# Independent formulas, from full n x n matrices ----------------------------------------------------


def centred_gram(x):
    n = len(x)
    h = np.eye(n) - 1 / n
    return h @ (x @ x.T) @ h


def u_centred_gram(x):
    """Every entry by its definition (Szekely and Rizzo 2014)."""
    gram, n = x @ x.T, len(x)
    np.fill_diagonal(gram, 0)
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                margins = gram[i].sum() + gram[:, j].sum()
                out[i, j] = gram[i, j] - margins / (n - 2) + gram.sum() / ((n - 1) * (n - 2))
    return out


def hsic_song(x, y):
    """HSIC_1 of Song et al. 2012, equation 5."""
    k, g = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(g, 0)
    n, one = len(x), np.ones(len(x))
    total = np.trace(k @ g) + (one @ k @ one) * (one @ g @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ g @ one
    return total / (n * (n - 3))


def zero_padded(x, width):
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))


def shuffled_scores(metric, x, y, rows):
    """The metric of `x` and of `y` in each of the given orders, by full matrices."""
    if metric == "procrustes":
        a, b = ((z - z.mean(axis=0)) / np.linalg.norm(z - z.mean(axis=0)) for z in (x, y))
        return np.array([2 - 2 * np.linalg.svd(a.T @ b[p], compute_uv=False).sum() for p in rows])
    if metric == "cosine":
        width = max(x.shape[1], y.shape[1])
        similarity = cosine_similarity(zero_padded(x, width), zero_padded(y, width))
        return np.array([similarity[np.arange(len(x)), p].mean() for p in rows])
    gram = {"cka": centred_gram, "cka_debiased": u_centred_gram}[metric]
    k, g = gram(x), gram(y)
    size = np.linalg.norm(k) * np.linalg.norm(g)
    return np.array([(k * g[np.ix_(p, p)]).sum() / size for p in rows])


def within_class_order(labels, rng):
    order = np.arange(len(labels))
    for label in set(labels.tolist()):
        members = np.flatnonzero(labels == label)
        order[members] = rng.permutation(members)
    return order


def null_deviation(score):
    return (score.score - score.null) / score.z


# Scores --------------------------------------------------------------------------------------------


def test_cka_gives_the_published_example():
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    y = rng.randn(100, 10) + x
    assert cka(x, y) == pytest.approx(0.55761, abs=1e-5)
    assert cka(x, y, debiased=True) == pytest.approx(0.51346, abs=1e-5)


@pytest.mark.parametrize(("n", "d", "m"), [(40, 6, 6), (40, 6, 3), (12, 30, 20), (5, 2, 9)])
def test_cka_is_the_cosine_of_centred_gram_matrices(n, d, m):
    x, y = related(n, d, m)
    k, g = centred_gram(x), centred_gram(y)
    assert cka(x, y) == pytest.approx((k * g).sum() / np.linalg.norm(k) / np.linalg.norm(g), abs=1e-12)


@pytest.mark.parametrize(("n", "d", "m"), [(40, 6, 6), (40, 6, 3), (12, 30, 20), (5, 2, 9)])
def test_debiased_cka_is_the_cosine_of_u_centred_gram_matrices(n, d, m):
    x, y = related(n, d, m)
    by_song = hsic_song(x, y) / math.sqrt(hsic_song(x, x) * hsic_song(y, y))
    k, g = u_centred_gram(x), u_centred_gram(y)
    assert cka(x, y, debiased=True) == pytest.approx(by_song, abs=1e-10)
    assert cka(x, y, debiased=True) == pytest.approx((k * g).sum() / np.linalg.norm(k) / np.linalg.norm(g), abs=1e-10)


def test_cosine_is_sklearns_of_corresponding_rows():
    x, y = related()
    assert cosine(x, y) == pytest.approx(np.diag(cosine_similarity(x, y)).mean(), abs=1e-12)


def test_procrustes_is_scipys_disparity():
    x, y = related()
    nuclear = 1 - procrustes(x, y) / 2
    assert 1 - nuclear**2 == pytest.approx(scipy_procrustes(x, y)[2], abs=1e-12)


def test_procrustes_of_unequal_widths_equals_zero_padding():
    x, y = related(d=6, m=4)
    assert procrustes(x, y) == pytest.approx(procrustes(x, zero_padded(y, 6)), abs=1e-12)


@each_metric
def test_the_short_forms_give_the_score(metric):
    x, y = related()
    short = {"cosine": cosine, "cka": cka, "procrustes": procrustes}.get(metric, lambda x, y: cka(x, y, debiased=True))
    assert short(x, y) == compare(x, y, metric).score


@each_metric
def test_scores_lie_in_the_declared_range_and_point_the_declared_way(metric):
    x, near = related(noise=0.1)
    far = np.random.default_rng(1).normal(size=x.shape)
    low, high = METRICS[metric].range
    scores = [compare(x, z, metric).score for z in (x, near, far)]
    assert all(low - 1e-12 <= score <= high + 1e-12 for score in scores)
    closer = scores if METRICS[metric].higher_is_closer else [-score for score in scores]
    if metric != "cosine":  # under a linear map only the shape stays close
        assert closer[0] > closer[1] > closer[2]


@each_metric
def test_both_orders_of_a_pair_agree(metric):
    x, y = related()
    labels = np.arange(40) % 3
    forth, back = compare(x, y, metric, labels), compare(y, x, metric, labels)
    assert forth.score == pytest.approx(back.score, abs=1e-12)
    tolerance = 1e-12 if metric in CLOSED_FORM else 0.1
    assert forth.null == pytest.approx(back.null, abs=tolerance)
    assert forth.null_within_class == pytest.approx(back.null_within_class, abs=tolerance)


@each_metric
def test_tensors_single_precision_and_arrays_agree(metric):
    x, y = related()
    single = compare(torch.from_numpy(x).float(), y.astype(np.float32), metric)
    assert single.score == pytest.approx(compare(x, y, metric).score, abs=1e-6)


# Invariances ---------------------------------------------------------------------------------------


def operation(name, rng, d):
    q, shift = ortho_group.rvs(d, random_state=rng), rng.normal(size=d) + 1
    factor, turn = rng.choice([0.2, 3.7]), 1 + rng.integers(d - 1)
    stretched = q * np.geomspace(0.1, 5, d) @ ortho_group.rvs(d, random_state=rng)
    return {
        "isotropic-scale": lambda x: factor * x,
        "sample-scale": lambda x: rng.uniform(0.1, 5, size=(len(x), 1)) * x,
        "translation": lambda x: x + shift,
        "permutation": lambda x: np.roll(x, turn, axis=1),
        "orthogonal": lambda x: x @ q,
        "affine": lambda x: x @ stretched + shift,
    }[name]


@each_metric
@pytest.mark.parametrize("name", OPERATIONS)
@given(seed=st.integers(0, 2**32 - 1), d=st.integers(4, 10))
def test_the_score_ignores_exactly_the_declared_operations_on_one_side(metric, name, seed, d):
    x, _ = related(n=50, d=d, seed=seed, shift=0)
    y = x + 0.1 * np.random.default_rng(seed).normal(size=x.shape)
    changed = operation(name, np.random.default_rng(seed), d)(x)
    difference = abs(compare(changed, y, metric).score - compare(x, y, metric).score)
    if name in METRICS[metric].invariant_to:
        assert difference < 1e-9
    else:
        assert difference > 1e-3


@each_metric
def test_declared_operations_have_known_names(metric):
    assert METRICS[metric].invariant_to <= set(OPERATIONS)


def test_cosine_of_unequal_widths_equals_explicit_zero_padding():
    x, y = related(d=6, m=4)
    labels = np.arange(40) % 3
    padded = compare(x, zero_padded(y, 6), labels=labels)
    assert compare(x, y, labels=labels) == pytest.approx(padded, abs=1e-12)
    assert compare(y, x, labels=labels) == pytest.approx(padded, abs=1e-12)


# Nulls ---------------------------------------------------------------------------------------------


@each_closed_form
@pytest.mark.parametrize("n", [6, 7])
def test_the_null_is_exact_over_all_permutations(metric, n):
    x, y = related(n, d=3, m=2)
    scores = shuffled_scores(metric, x, y, [list(p) for p in permutations(range(n))])
    found = compare(x, y, metric)
    assert found.score == pytest.approx(scores[0], abs=1e-10)
    assert found.null == pytest.approx(scores.mean(), abs=1e-10)
    assert null_deviation(found) == pytest.approx(scores.std(), rel=1e-8)


@pytest.mark.parametrize("n", [6, 7])
def test_the_debiased_variance_depends_on_nothing_but_n(n):
    for seed in range(3):
        scores = shuffled_scores("cka_debiased", *related(n, 3, 2, seed=seed), list(map(list, permutations(range(n)))))
        assert scores.var() == pytest.approx(2 / (n * (n - 3)), rel=1e-8)


@each_closed_form
@pytest.mark.parametrize(("d", "m"), [(6, 4), (60, 50)])
def test_the_null_matches_explicit_shuffles(metric, d, m):
    x, y = related(d=d, m=m)
    rng = np.random.default_rng(1)
    scores = shuffled_scores(metric, x, y, [rng.permutation(40) for _ in range(2000)])
    found = compare(x, y, metric)
    error = scores.std() / math.sqrt(2000)
    assert abs(found.null - scores.mean()) < 4 * error
    kurtosis = np.mean(((scores - scores.mean()) / scores.std()) ** 4)
    assert abs(null_deviation(found) / scores.std() - 1) < 4 * math.sqrt((kurtosis - 1) / 4 / 2000)


@each_closed_form
def test_the_within_class_null_is_exact_over_all_such_permutations(metric):
    labels = np.array([0, 1, 0, 0, 1, 2, 1])
    x, y = related(7, d=3, m=2)
    rows = [list(p) for p in permutations(range(7)) if (labels[list(p)] == labels).all()]
    assert len(rows) == 36
    expected = shuffled_scores(metric, x, y, rows).mean()
    assert compare(x, y, metric, labels).null_within_class == pytest.approx(expected, abs=1e-10)


@each_metric
@pytest.mark.parametrize("sizes", [(14, 13, 13), (30, 8, 1, 1)])
def test_the_within_class_null_matches_shuffles_within_classes(metric, sizes):
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x, y = related()
    x, y = x + labels[:, None], y + 2 * labels[:, None] * np.array([1, -1] * 3)
    scores = shuffled_scores(metric, x, y, [within_class_order(labels, rng) for _ in range(2000)])
    found = compare(x, y, metric, labels)
    draws = 2000 if metric in CLOSED_FORM else PERMUTATIONS
    assert abs(found.null_within_class - scores.mean()) < 4 * scores.std() / math.sqrt(draws)
    assert abs(found.null_within_class - found.null) > 0.02, "the classes are planted"


@each_metric
def test_singleton_classes_leave_nothing_to_shuffle(metric):
    x, y = related()
    found = compare(x, y, metric, labels=np.arange(40))
    assert found.null_within_class == pytest.approx(found.score, abs=1e-10)


@each_metric
def test_one_class_for_all_gives_the_plain_null(metric):
    x, y = related()
    found = compare(x, y, metric, labels=["all"] * 40)
    assert found.null_within_class == pytest.approx(found.null, abs=1e-10 if metric in CLOSED_FORM else 0.05)


@each_metric
def test_without_labels_there_is_no_within_class_null(metric):
    assert math.isnan(compare(*related(), metric).null_within_class)


def test_the_procrustes_null_matches_explicit_shuffles():
    x, y = related()
    rng = np.random.default_rng(1)
    scores = shuffled_scores("procrustes", x, y, [rng.permutation(40) for _ in range(2000)])
    found = compare(x, y, "procrustes")
    assert abs(found.null - scores.mean()) < 4 * scores.std() / math.sqrt(PERMUTATIONS)
    assert -null_deviation(found) == pytest.approx(scores.std(), rel=0.7)
    assert found.z > 3, "related spaces are closer than chance"


@each_metric
def test_p_values_are_small_for_related_spaces_only(metric):
    x, y = related()
    p = [compare(x, y[np.random.default_rng(s).permutation(40)], metric).p for s in range(200)]
    assert np.mean(p) == pytest.approx(0.5, abs=0.1)
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.08)
    related_p = compare(x, x + 0.1 * y, metric).p
    assert related_p == pytest.approx(1 / (PERMUTATIONS + 1)) if metric == "procrustes" else related_p < 1e-4


@each_closed_form
def test_p_is_the_upper_tail_of_z(metric):
    found = compare(*related(noise=4), metric)
    assert found.p == pytest.approx(norm.cdf(-found.z))


def test_debiased_cka_of_independent_spaces_averages_zero_and_biased_does_not():
    rng = np.random.default_rng(0)
    pairs = [rng.normal(size=(2, 50, 40)) for _ in range(200)]
    for debiased in (True, False):
        scores = np.array([cka(x, y, debiased) for x, y in pairs])
        error = scores.std(ddof=1) / math.sqrt(len(scores))
        assert (abs(scores.mean()) < 3 * error) == debiased
    assert scores.mean() > 0.3


# Calibration ---------------------------------------------------------------------------------------


@each_metric
def test_calibrated_is_one_for_perfect_agreement(metric):
    x, _ = related()
    same = 3 * x if metric == "cosine" else 3 * x @ ortho_group.rvs(6, random_state=0) + 1
    assert compare(x, same, metric).calibrated == pytest.approx(1, abs=1e-9)


@each_metric
def test_calibrated_averages_zero_for_shuffled_samples(metric):
    x, y = related()
    rng = np.random.default_rng(3)
    found = np.array([compare(x, y[rng.permutation(40)], metric).calibrated for _ in range(300)])
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(300)


@pytest.mark.parametrize("metric", ["cosine", "cka_debiased", "procrustes"])
def test_calibrated_is_the_share_of_the_way_from_the_null_to_perfect(metric):
    found = compare(*related(), metric)
    perfect = 1.0 if METRICS[metric].higher_is_closer else 0.0
    assert found.calibrated == pytest.approx((found.score - found.null) / (perfect - found.null))


def test_calibrated_cka_is_that_of_the_kernels_without_their_trace():
    x, y = related(m=3)
    part = np.eye(40) - 1 / 40
    k, g = (gram - np.trace(gram) / 39 * part for gram in map(centred_gram, (x, y)))
    expected = (k * g).sum() / np.linalg.norm(k) / np.linalg.norm(g)
    assert compare(x, y, "cka").calibrated == pytest.approx(expected, abs=1e-10)


@each_metric
def test_calibrated_is_below_one_for_imperfect_agreement(metric):
    x, _ = related()
    y = x + 0.5 * np.random.default_rng(0).normal(size=x.shape)
    assert 0 < compare(x, y, metric).calibrated < 1


def test_calibrated_is_undefined_where_chance_is_already_perfect():
    x = np.outer(np.linspace(1, 2, 30), [1.0, 2.0, 3.0])
    found = compare(x, x[::-1].copy())
    assert found.score == pytest.approx(1)
    assert found.null == pytest.approx(1)
    assert math.isnan(found.calibrated)


# Errors --------------------------------------------------------------------------------------------


def test_an_unknown_metric_is_answered_with_the_names():
    with pytest.raises(SpaceError, match="unknown metric 'svcca'; choose from cosine, cka, cka_debiased, procrustes"):
        compare(*related(), "svcca")


def test_debiased_cka_needs_four_samples():
    x, y = related(n=4)
    assert math.isfinite(cka(x, y, debiased=True))
    with pytest.raises(SpaceError, match="needs at least 4 samples, not 3"):
        cka(x[:3], y[:3], debiased=True)


def test_different_rows_and_bad_labels_are_refused():
    x, y = related()
    with pytest.raises(SpaceError, match=r"different numbers of rows .x 40, y 39."):
        compare(x, y[:-1])
    with pytest.raises(SpaceError, match="one label for each of the 40 rows"):
        compare(x, y, labels=[0, 1])


def test_a_vanishing_kernel_is_named():
    x = np.array([[1.0], [1.0], [1.0], [-3.0]])
    assert np.abs(u_centred_gram(x)).max() < 1e-12
    with pytest.raises(SpaceError, match="CKA is undefined for a space whose centred kernel vanishes"):
        cka(x, related(n=4)[0], debiased=True)
