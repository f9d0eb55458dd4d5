from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

from invariances import ladder
from invariances.fitting import sums_of_others
from invariances.noise import instruments_of, instruments_of_gram, left_out_ridge
from invariances.threads import in_threads

K, N = 40, 160


def spaces(models=5, width=24, factor=1.0):
    """Turned copies of one latent with noise; the features beside a pair are more than its anchors."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 8))
    made = {f"m{i}": x @ rng.normal(size=(8, width)) + 0.3 * rng.normal(size=(N, width)) for i in range(models)}
    return made | {"m1": made["m1"] * factor}


@pytest.mark.parametrize("pairs", [list(combinations(range(6), 2)), [(0, 5), (1, 2), (1, 4), (4, 5)]])
def test_sums_of_others_are_those_of_brute_force(pairs):
    terms = list(torch.from_numpy(np.random.default_rng(0).normal(size=(6, 3, 4))))
    for (i, j), found in zip(pairs, sums_of_others(terms, pairs), strict=True):
        torch.testing.assert_close(found, sum(terms[m] for m in range(6) if m not in (i, j)))


def test_sums_of_others_do_not_cancel_where_one_is_far_larger():
    terms = [torch.tensor([value]) for value in (1.0, 1e20, 2.0, 4.0)]
    assert [float(found) for found in sums_of_others(terms, [(0, 1), (1, 2), (1, 3)])] == [6.0, 5.0, 3.0]


def brute_prediction(source, helpers, penalty):
    """The source's scored rows by ridge regression on the helpers side by side, written out with normal equations."""
    z, z_scored = helpers[:K], helpers[K:]
    mean = z.mean(axis=0)
    gram = (z - mean).T @ (z - mean) + penalty * np.eye(z.shape[1])
    return source[:K].mean(axis=0) + (z_scored - mean) @ np.linalg.solve(
        gram, (z - mean).T @ (source[:K] - source[:K].mean(axis=0))
    )


@pytest.mark.parametrize("by_gram", [True, False])
def test_instruments_by_gram_matrices_predict_as_features_side_by_side(by_gram):
    given = spaces()
    source, helpers = given["m0"], np.concatenate([given[name] for name in ("m2", "m3", "m4")], axis=1)
    z = torch.from_numpy(helpers)
    centred = z[:K] - z[:K].mean(dim=0)
    moved = z[K:] - z[:K].mean(dim=0)
    found, coordinates = (
        (instruments_of_gram(centred @ centred.T), moved @ centred.T) if by_gram else (instruments_of(z[:K]), moved)
    )
    aim = torch.from_numpy(source[:K] - source[:K].mean(axis=0))
    _, weights = left_out_ridge(found, aim, found.left.T @ aim, torch.tensor(3.0, dtype=torch.float64))
    samples = source[:K].mean(axis=0) + (coordinates @ weights).numpy()
    np.testing.assert_allclose(samples, brute_prediction(source, helpers, 3.0), atol=1e-9)


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_a_pair_reads_the_same_alone_and_among_all_pairs(factor):
    given = spaces(factor=factor)
    whole = ladder(given, np.arange(K)).table
    alone = ladder(given, np.arange(K), pairs=[("m3", "m0")]).table
    keys = ["model_a", "model_b", "class"]
    both = alone[alone.model_a.isin(given)].merge(whole, on=keys, suffixes=("", "_whole"))
    assert len(both) == 2 * 8
    np.testing.assert_allclose(both.explained_variance, both.explained_variance_whole, rtol=1e-9, atol=1e-9)


def test_threads_processes_and_none_give_the_same_bits():
    given = spaces(width=60)
    found = [ladder(given, K, workers=workers).table for workers in (None, map, partial(in_threads, threads=3))]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other, check_exact=True)
