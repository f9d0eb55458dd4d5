"""What mapped vectors find and what heads keep: by hand, by other packages, and both ways on planted spaces."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from invariances import INVARIANCES, align
from invariances.metrics.retrieval import directions, look_up
from invariances.transfer import bootstrap, gallery_rows, retention, retrieval, share_of_hits

N, D = 400, 8
IDS = np.arange(100)
REST = np.arange(100, N)


def spaces(noise=0.1, seed=0, models=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D))
    turns = [np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(models)]
    return {
        name: torch.from_numpy(x @ turn + 1 + noise * rng.normal(size=x.shape))
        for name, turn in zip("abcdef", turns, strict=False)
    }


def unrelated(seed=0):
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.normal(size=(N, D))) for name in "ab"}


@pytest.mark.parametrize("name", ["orthogonal+translation", "affine", "absolute", "isotropic-scale"])
def test_what_is_found_is_what_align_scores(name):
    given = spaces(noise=0.6)
    metrics = {
        "top1": "retrieval_top1",
        "recall": "retrieval_recall",
        "mrr": "retrieval_mrr",
        "overlap": "neighbour_overlap",
    }
    table = align(given, IDS, [name], list(metrics.values()))
    found = retrieval(given, IDS, REST, INVARIANCES[name])
    assert len(found) == 6
    for ours, theirs in metrics.items():
        known = table[table.metric == theirs].set_index(["model_a", "model_b"])
        pairs = found.set_index(["model_a", "model_b"])
        np.testing.assert_allclose(pairs[ours], known.score[pairs.index], atol=1e-12)
        np.testing.assert_allclose(pairs[f"{ours}_chance"], known.null[pairs.index], atol=1e-12)
        assert (pairs[f"{ours}_low"] <= pairs[ours]).all()
        assert (pairs[ours] <= pairs[f"{ours}_high"]).all()


def test_every_query_is_looked_up_as_by_hand():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 30, 4))
    found = look_up(*(directions(x, x.mean(dim=0)) for x in map(torch.from_numpy, (a, b))))
    a, b = (x - x.mean(0) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    for i in range(30):
        order = list(np.argsort(-(b @ a[i])))
        rank = order.index(i) + 1
        assert found.top1[i] == (rank == 1)
        assert found.recall[i] == (rank <= 10)
        assert found.mrr[i] == pytest.approx(1 / rank)
        own = [j for j in np.argsort(-(b @ b[i])) if j != i][:10]
        first = [j for j in order if j != i][:10]
        assert found.overlap[i] == pytest.approx(len(set(first) & set(own)) / 10)


def test_unrelated_spaces_find_what_chance_gives():
    found = retrieval(unrelated(), IDS, REST, INVARIANCES["affine"])
    for name in ("top1", "recall", "mrr", "overlap"):
        assert (found[f"{name}_low"] <= found[f"{name}_chance"] + 0.01).all()


def test_the_gallery_is_that_of_align():
    assert len(gallery_rows(np.arange(1000, 3000))) == 500
    assert gallery_rows(REST).tolist() == REST.tolist()


# Intervals over samples -----------------------------------------------------------------------


@pytest.mark.parametrize("hits", [0, 1, 37, 99, 100])
def test_the_interval_of_hits_is_wilson_s(hits):
    ours = share_of_hits(torch.arange(100) < hits)
    theirs = binomtest(hits, 100).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.mean == hits / 100


def test_the_bootstrap_covers_the_mean_and_a_ratio():
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(200):
        x = torch.from_numpy(rng.beta(2, 3, size=150))
        y = x * torch.from_numpy(rng.uniform(0.5, 1, size=150))
        for found, truth in ((bootstrap(x, seed=seed), 0.4), (bootstrap(y, x, seed=seed), 0.75)):
            covered.append(found.low <= truth <= found.high)
    assert 0.91 < np.mean(covered) < 0.98  # 400 draws: 0.95 +- 0.022


def test_the_bootstrap_draws_both_ends_of_a_ratio_together():
    x = torch.from_numpy(np.random.default_rng(0).uniform(size=50))
    assert bootstrap(0.5 * x, x) == pytest.approx((0.5, 0.5, 0.5))


# Heads ----------------------------------------------------------------------------------------


def test_a_head_keeps_all_across_a_rotation_and_nothing_across_unrelated_spaces():
    given = spaces(noise=0.02, models=2)
    classes = (given["a"][:, 0] > 1).long()
    kept = retention(given, IDS, REST, classes, INVARIANCES["orthogonal+translation"])
    assert (kept.retention > 0.95).all()
    assert (kept.accuracy > 0.85).all()
    lost = retention(given | {"b": unrelated()["b"]}, IDS, REST, classes, INVARIANCES["affine"])
    onto_a = lost[lost.model_b == "a"].iloc[0]
    assert onto_a.mapped_accuracy < onto_a.guess + 0.1
    assert onto_a.retention_high < 0.8


def test_no_sample_is_in_two_of_the_three_sets():
    # classes that nothing predicts: only a head that is scored on what it has seen could tell
    rng = np.random.default_rng(0)
    wide = {name: torch.from_numpy(rng.normal(size=(N, 300))) for name in "ab"}
    classes = torch.from_numpy(rng.integers(0, 4, size=N))
    kept = retention(wide, IDS, REST, classes, INVARIANCES["affine"])
    assert (kept.accuracy < 0.4).all()
    assert (kept.n_head + kept.n_scored <= len(REST)).all()


def test_one_class_among_the_rows_of_a_head_is_no_error():
    classes = torch.zeros(N, dtype=torch.long)
    assert (retention(unrelated(), IDS, REST, classes, INVARIANCES["affine"]).retention == 1).all()
