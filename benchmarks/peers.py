"""The rivals that `speed.py` times: other people's packages as they offer their metrics, and loops written by hand.

Every rival takes what a user has, numpy arrays of float32, and returns its numbers, to be held against ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics.pairwise import cosine_similarity, paired_cosine_distances
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import normalize

Spaces = Sequence[np.ndarray]
PACKAGES = ("ckatorch", "hoggorm", "latentis", "pytorch-cka", "scikit-learn", "scipy", "shesha-geometry")
ALPHAS = np.logspace(-4, 4, 9)
"""Penalties of ridge regression."""
PERMUTATIONS = 20
"""Shuffles per null, for peers have no nulls of their own; as many as ours where no closed form exists."""


class Peer(NamedTuple):
    """A package's linear CKA of one pair."""

    name: str
    dtype: str
    """Of its arithmetic, float32 in."""
    score: Callable[[np.ndarray, np.ndarray], float]
    debiased: bool
    pairs: int
    """How many pairs are timed; the rest is extrapolated."""


def _shesha() -> Peer:
    from shesha.sim import cka_linear

    return Peer("shesha-geometry", "float64", cka_linear, debiased=False, pairs=16)


def _pytorch_cka() -> Peer:
    from cka import cka_from_features

    def score(x: np.ndarray, y: np.ndarray) -> float:
        return cka_from_features(torch.from_numpy(x), torch.from_numpy(y)).item()

    return Peer("pytorch-cka", "float32", score, debiased=True, pairs=4)


def _ckatorch() -> Peer:
    from ckatorch.core import cka_base

    def score(x: np.ndarray, y: np.ndarray) -> float:
        return cka_base(torch.from_numpy(x), torch.from_numpy(y)).item()

    return Peer("ckatorch", "float64", score, debiased=False, pairs=2)


def _hoggorm() -> Peer:
    from hoggorm import RVcoeff

    def score(x: np.ndarray, y: np.ndarray) -> float:
        return RVcoeff([x - x.mean(axis=0), y - y.mean(axis=0)])[0, 1]

    return Peer("hoggorm", "float32", score, debiased=False, pairs=1)


def _latentis() -> Peer:
    from latentis.measure.functional.cka import linear_cka

    def score(x: np.ndarray, y: np.ndarray) -> float:
        return linear_cka(torch.from_numpy(x), torch.from_numpy(y)).item()

    return Peer("latentis", "float32", score, debiased=False, pairs=1)


def cka_peers() -> list[Peer]:
    """The packages' linear CKA, pair by pair."""
    return [peer() for peer in (_shesha, _pytorch_cka, _ckatorch, _hoggorm, _latentis)]


def pytorch_cka_at_once(spaces: Spaces) -> np.ndarray:
    """Debiased CKA of all pairs in one call, which no other peer offers for embeddings; it keeps every Gram matrix."""
    from cka import cka_from_features

    stacked = torch.from_numpy(np.stack(spaces))
    return cka_from_features(stacked, stacked).numpy()


# By hand -----------------------------------------------------------------------------------------


def cached_loop_numpy(spaces: Spaces) -> np.ndarray:
    """CKA in feature space, all that depends on one model computed once; a product and a norm per pair."""
    centred = [x - x.mean(axis=0) for x in spaces]
    norms = [np.linalg.norm(x.T @ x) for x in centred]
    scores = np.eye(len(spaces))
    for i, x in enumerate(centred):
        for j in range(i):
            scores[i, j] = scores[j, i] = np.linalg.norm(x.T @ centred[j]) ** 2 / (norms[i] * norms[j])
    return scores


def cached_loop_torch(spaces: Spaces) -> np.ndarray:
    """The same in torch."""
    centred = [x - x.mean(dim=0) for x in map(torch.from_numpy, spaces)]
    norms = [(x.T @ x).norm() for x in centred]
    scores = torch.eye(len(spaces))
    for i, x in enumerate(centred):
        for j in range(i):
            scores[i, j] = scores[j, i] = (x.T @ centred[j]).norm() ** 2 / (norms[i] * norms[j])
    return scores.numpy()


def bare_products_numpy(spaces: Spaces) -> None:
    """The matrix products of the Gram formula and nothing else: triangular tiles, then their inner products."""
    _bare_products(spaces, np.matmul, np.empty)


def bare_products_torch(spaces: Spaces) -> None:
    """The same in torch."""
    _bare_products([torch.from_numpy(x) for x in spaces], torch.mm, torch.empty)


def _bare_products(spaces: Sequence, multiply: Callable, empty: Callable, side: int = 500) -> None:
    n = len(spaces[0])
    tile = empty((len(spaces), side * side), dtype=spaces[0].dtype)
    for i in range(0, n, side):
        for j in range(i, n, side):
            height, width = min(side, n - i), min(side, n - j)
            part = tile[:, : height * width]
            for x, row in zip(spaces, part, strict=True):
                multiply(x[i : i + side], x[j : j + side].T, out=row.reshape(height, width))
            multiply(part, part.T)


# Phase 1 from peers' calls -----------------------------------------------------------------------


def _procrustes(x: np.ndarray, y: np.ndarray) -> float:
    shapes = [(z - z.mean(axis=0)) / np.linalg.norm(z - z.mean(axis=0)) for z in (x, y)]
    return 2 - 2 * orthogonal_procrustes(*shapes)[1]


def _phase_one_metrics() -> dict[str, Callable[[np.ndarray, np.ndarray], float]]:
    """The fastest peer of each metric."""
    from shesha.sim import cka_linear

    return {
        "cosine": lambda x, y: 1 - paired_cosine_distances(x, y).mean(),
        "cka": cka_linear,
        "procrustes": _procrustes,
    }


def represent(x: np.ndarray, anchors: np.ndarray) -> dict[str, np.ndarray]:
    """One model under the invariances that need no other model, by scikit-learn; done once per model."""
    return {"absolute": x, "scale": normalize(x), "relative": cosine_similarity(x, anchors)}


def phase_one_pair(
    a: Mapping[str, np.ndarray],
    b: Mapping[str, np.ndarray],
    anchors_a: np.ndarray,
    anchors_b: np.ndarray,
    shuffles: Mapping[str, Sequence[np.ndarray]],
) -> dict[tuple[str, str], dict[str, float]]:
    """Scores and both nulls of one pair of models under four invariances, the affine map both ways."""
    sides = {name: (a[name], b[name]) for name in a}
    there, back = RidgeCV(ALPHAS), RidgeCV(ALPHAS)
    sides["affine"] = there.fit(anchors_a, anchors_b).predict(a["absolute"]), b["absolute"]
    sides["affine back"] = back.fit(anchors_b, anchors_a).predict(b["absolute"]), a["absolute"]
    return {
        (invariance, name): {
            "score": metric(x, y),
            **{null: float(np.mean([metric(x, y[rows]) for rows in orders])) for null, orders in shuffles.items()},
        }
        for invariance, (x, y) in sides.items()
        for name, metric in _phase_one_metrics().items()
    }


def shuffles_of(labels: np.ndarray, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Orders of the samples for both nulls, under the names of `align`'s columns."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == value) for value in np.unique(labels)]

    def within() -> np.ndarray:
        order = np.arange(len(labels))
        for rows in classes:
            order[rows] = rng.permutation(rows)
        return order

    return {
        "null": [rng.permutation(len(labels)) for _ in range(PERMUTATIONS)],
        "null_within_class": [within() for _ in range(PERMUTATIONS)],
    }


def ladder_pair(
    a: tuple[np.ndarray, np.ndarray],
    b: tuple[np.ndarray, np.ndarray],
    others: tuple[np.ndarray, np.ndarray] | None,
    folds: KFold,
) -> dict[str, float]:
    """Explained held-out variance of the classes of maps from a to b, each given as anchors and held-out samples.

    Noise private to the source is taken out by ridge regression on the other models side by side, left-out for the
    anchors, as one would write it with scikit-learn; the maps are scipy's and scikit-learn's.
    """
    (x, samples), (y, truth) = a, b
    if others is not None:
        helped = RidgeCV(ALPHAS, cv=folds).fit(others[0], x)
        x = cross_val_predict(Ridge(helped.alpha_), others[0], x, cv=folds)
        samples = helped.predict(others[1])
    centred, target, moved = x - x.mean(axis=0), y - y.mean(axis=0), samples - x.mean(axis=0)
    plain, turned = orthogonal_procrustes(x, y)[0], orthogonal_procrustes(centred, target)
    factor = turned[1] / np.square(centred).sum()
    guesses = {
        "constant": truth.mean(axis=0),
        "identity": samples,
        "translation": samples + y.mean(axis=0) - x.mean(axis=0),
        "scale": samples * ((x * y).sum() / np.square(x).sum()),
        "orthogonal": samples @ plain,
        "orthogonal+translation": moved @ turned[0] + y.mean(axis=0),
        "similarity": factor * moved @ turned[0] + y.mean(axis=0),
        "affine": RidgeCV(ALPHAS, cv=folds).fit(x, y).predict(samples),
    }
    variance = np.square(truth - y.mean(axis=0)).sum()
    return {name: float(1 - np.square(guess - truth).sum() / variance) for name, guess in guesses.items()}
