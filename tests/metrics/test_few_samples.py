"""p of the metrics where samples are few: never below what the permutations allow, and right under the null."""

import math
from itertools import permutations

import numpy as np
import pytest

from invariances import cka, compare
from invariances.metrics.nulls import FEW_SAMPLES

METRICS = [
    "cka",
    "cka_debiased",
    "cka_rbf",
    "cka_rbf_debiased",
    "cca",
    "rsa",
    "rsa_pearson",
    "svcca",
    "pwcca",
    "procrustes",
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [5, 6])
def test_p_is_never_below_the_share_of_one_permutation(metric, n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    found = compare(x, x, metric)
    assert found.p >= 1 / math.factorial(n) - 1e-12
    assert found.p < 0.02, "a space and itself"


def test_p_of_cka_is_the_share_of_all_permutations_that_score_as_high():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 3))
    y = x + rng.normal(size=(5, 3))
    scores = [cka(x, y[list(order)]) for order in permutations(range(5))]
    assert compare(x, y, "cka").p == pytest.approx(np.mean(np.array(scores) >= cka(x, y) - 1e-12))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [6, 8, FEW_SAMPLES])
def test_p_is_right_where_nothing_relates_the_spaces(metric, n):
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found.append(compare(rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), metric).p)
    # three deviations of a binomial above the level
    for level in (0.05, 0.01):
        assert np.mean(np.array(found) < level) <= level + 3 * math.sqrt(level * (1 - level) / 200)


@pytest.mark.parametrize("metric", METRICS)
def test_a_real_relation_is_found(metric):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FEW_SAMPLES, 3))
    assert compare(x, x + 0.1 * rng.normal(size=x.shape), metric).p < 0.01
