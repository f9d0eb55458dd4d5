"""Maps between models: the planted class is taken, three sets stay apart, and the gate lets pass what it should."""

import numpy as np
import pytest
import torch

from invariances import fit_map, score_map
from invariances.errors import SpaceError
from invariances.fitted import row_digests
from invariances.migration import KINDS, LEAST_PAIRS

N, D = 1500, 16


def latent(seed=0, n=N):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 8)) @ rng.normal(size=(8, D)) + 0.3 * rng.normal(size=(n, D)) + 0.5


def planted(kind, seed=0, noise=0.03):
    rng = np.random.default_rng(100 + seed)
    x = latent(seed)
    turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
    bent = turn * rng.uniform(0.2, 2, size=D)
    image = {
        "identity": x,
        "translation": x + 3 * rng.normal(size=D),
        "rotation": x @ turn,
        "rotation+translation": x @ turn + 3 * rng.normal(size=D),
        "similarity": 2.5 * x @ turn + 3 * rng.normal(size=D),
        "affine": x @ bent + 3 * rng.normal(size=D),
    }[kind]
    return x, image + noise * image.std() * rng.normal(size=x.shape)


@pytest.mark.parametrize(
    "kind", ["identity", "translation", "rotation", "rotation+translation", "similarity", "affine"]
)
def test_auto_takes_the_planted_class(kind):
    taken = [fit_map(*planted(kind, seed)).kind for seed in range(6)]
    assert taken.count(kind) >= 5, taken


def test_a_larger_class_is_not_taken_for_chance_s_sake():
    found = fit_map(*planted("rotation+translation"))
    assert "the smaller class is taken" in found.facts["why"] or "finds the most neighbours" in found.facts["why"]
    choice = {line["kind"]: line for line in found.facts["choice"]}
    assert set(choice) == set(KINDS)
    assert choice[found.kind]["behind"] <= 2 * choice[found.kind]["error"]
    smaller = list(KINDS)[: list(KINDS).index(found.kind)]
    assert all(choice[kind]["behind"] > 2 * choice[kind]["error"] for kind in smaller)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_class_that_is_asked_for_is_taken(kind):
    x, y = planted("similarity")
    found = fit_map(x, y, kind=kind)
    assert found.kind == kind
    assert found.facts["why"] == f"{kind} was asked for"


def test_the_three_sets_are_disjoint_and_only_the_last_is_unseen():
    x, y = planted("rotation")
    found = fit_map(x, y)
    sizes = found.facts["samples"]
    assert sizes == {"fit": 900, "choice": 300, "quality": 300}
    seen = np.isin(row_digests(torch.from_numpy(x)), found.seen)
    assert seen.sum() == sizes["fit"] + sizes["choice"]
    # whatever happens to what is unseen, the map is the same
    x, y = x.copy(), y.copy()
    rows = np.flatnonzero(~seen)
    y[rows] = np.random.default_rng(0).normal(size=(len(rows), D))
    again = fit_map(x, y)
    torch.testing.assert_close(again.weight, found.weight, rtol=0, atol=0)
    assert again.facts["quality"]["overlap"] < 0.1 < 0.9 < found.facts["quality"]["overlap"]


def test_the_same_seed_gives_the_same_map_and_another_one_other_sets():
    x, y = planted("affine")
    first, same, other = (fit_map(x, y, seed=seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first.weight, same.weight, rtol=0, atol=0)
    assert first.facts == same.facts
    assert first.facts["checksums"] != other.facts["checksums"]


def test_the_learning_curve_says_whether_more_pairs_would_help():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(400, 200)), latent()
    turn = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    hungry = fit_map(few, few @ turn * rng.uniform(0.3, 2, 200) + 0.3 * rng.normal(size=few.shape), kind="affine").facts
    assert "twice as many pairs (480) would add about" in hungry["more_pairs"]
    assert [line["pairs"] for line in hungry["curve"]] == [30, 60, 120, 240]
    assert np.all(np.diff([line["overlap"] for line in hungry["curve"]]) > 0)
    full = fit_map(many, many @ turn[:D, :D], kind="affine").facts
    assert full["more_pairs"].startswith("more than 900 pairs would hardly help")


# The gate -----------------------------------------------------------------------------------------


def halves(kind="rotation", noise=0.03):
    x, y = planted(kind, noise=noise)
    return (x[:700], y[:700]), (x[700:], y[700:])


def test_a_good_map_passes_and_says_so():
    (a, b), new = halves()
    found = score_map(fit_map(a, b), *new)
    assert found.passed
    assert found.overlap.low >= 0.9
    assert str(found).startswith("The map passes the gate of 0.9: mapped old vectors find 0.9")


def test_the_scores_are_those_by_hand():
    (a, b), (x, y) = halves("affine", noise=0.2)
    fitted = fit_map(a, b)
    found = score_map(fitted, x, y)
    mapped = fitted.as_map()(torch.from_numpy(x)).numpy()

    def unit(z):
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    def nearest(queries, index):
        similar = unit(queries) @ unit(index).T
        ranks = (similar > np.diag(similar)[:, None]).sum(axis=1) + 1
        np.fill_diagonal(similar, -9)
        return ranks, [set(row) for row in np.argsort(-similar, axis=1)[:, :10]]

    own = nearest(y, y)[1]
    table = found.table.set_index("vectors")
    for name, ends, truth in (
        ("mapped", (mapped, y), own),
        ("new queries, mapped index", (y, mapped), nearest(mapped, mapped)[1]),
        ("unmapped", (x, y), own),
        ("embedded anew", (y, y), own),
    ):
        ranks, neighbours = nearest(*ends)
        overlaps = [len(one & other) / 10 for one, other in zip(neighbours, truth, strict=True)]
        known = [np.mean(ranks == 1), np.mean(ranks <= 10), np.mean(1 / ranks), np.mean(overlaps)]
        np.testing.assert_allclose(table.loc[name].to_numpy(dtype=float), known, atol=1e-9)
    assert found.overlap.mean == pytest.approx(table.loc["mapped", "overlap_at_10"])


def test_the_lower_end_of_the_interval_decides():
    (a, b), new = halves("affine", noise=0.1)
    found = score_map(fit_map(a, b), *new)
    between = (found.overlap.low + found.overlap.mean) / 2
    assert not score_map(fit_map(a, b), *new, gate=between).passed
    assert score_map(fit_map(a, b), *new, gate=found.overlap.low - 1e-6).passed


@pytest.mark.parametrize("kind", ["unrelated", "permuted rows", "permuted when fitted"])
def test_an_unrelated_pair_and_a_permuted_row_order_fail(kind):
    (a, b), (x, y) = halves()
    rng = np.random.default_rng(0)
    if kind == "unrelated":
        b, y = rng.normal(size=b.shape), rng.normal(size=y.shape)
    elif kind == "permuted rows":
        y = y[rng.permutation(len(y))]
    else:
        b = b[rng.permutation(len(b))]
    found = score_map(fit_map(a, b), x, y)
    assert not found.passed
    assert found.overlap.high < 0.2
    assert "fails the gate" in str(found)


def test_pairs_that_the_map_has_seen_are_refused_or_left_out():
    (a, b), (x, y) = halves()
    fitted = fit_map(a, b)
    with pytest.raises(SpaceError, match=r"560 of the 700 pairs are among those .*; give others, or leave these out"):
        score_map(fitted, a, b)
    with pytest.raises(SpaceError, match="1 of the 801 pairs are among"):
        # one of those it was fitted on, hidden among new ones
        row = int(np.flatnonzero(np.isin(row_digests(torch.from_numpy(a)), fitted.seen))[0])
        score_map(fitted, np.r_[x, a[row : row + 1]], np.r_[y, b[row : row + 1]])
    assert score_map(fitted, a, b, skip_seen=True).samples == 140


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x, y: fit_map(x[: LEAST_PAIRS - 1], y[: LEAST_PAIRS - 1]), "59 pairs are too few .*; give at least 60"),
        (lambda x, y: fit_map(x, y, kind="linear"), "unknown kind 'linear'; choose from auto, identity"),
        (lambda x, y: fit_map(x, y[:-1]), "different numbers of rows"),
        (lambda x, y: fit_map(x, y, seed=-1), "seed is -1; give"),
        (lambda x, y: fit_map(x, y, most_pairs=3), "most_pairs=. is 3; give a whole number of at least 60"),
        (lambda x, y: score_map(fit_map(x, y), x, y, gate=1.1), "gate is 1.1; give a share"),
        (lambda x, y: score_map(fit_map(x, y), x[:, 1:], y), "the map carries 16 features to 16, but .* 15 and 16"),
        (lambda x, y: score_map(fit_map(x, y), 10 + x[:99], y[:99]), "the first file does not look like"),
        (lambda x, y: score_map(fit_map(x[:500], y[:500]), x[500:510], y[500:510]), "10 pairs .* are too few; give"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(call, match):
    with pytest.raises(SpaceError, match=match):
        call(*planted("rotation"))
