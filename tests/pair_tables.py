"""Tables of pairs that several test files make."""

from itertools import combinations, permutations

import numpy as np
import pandas as pd


def names(n):
    return [f"m{i:02d}" for i in range(n)]


def unordered(scores, value="score"):
    """The pair table of the upper triangle of a matrix."""
    labels = names(len(scores))
    rows = [(labels[i], labels[j], scores[i, j]) for i, j in combinations(range(len(scores)), 2)]
    return pd.DataFrame(rows, columns=["model_a", "model_b", value])


def ordered(scores, value="score"):
    labels = names(len(scores))
    rows = [(labels[i], labels[j], scores[i, j]) for i, j in permutations(range(len(scores)), 2)]
    return pd.DataFrame(rows, columns=["model_a", "model_b", value])


def halves(a, b):
    return names(a + b)[:a], names(a + b)[a:]


def additive(n, residual, rng, draw=None):
    """Scores whose expectation is 0: an effect of either model and a symmetric residual."""
    effects = rng.normal(size=n) if draw is None else draw(n)
    noise = np.triu(rng.normal(size=(n, n)), 1)
    return effects[:, None] + effects[None, :] + residual * (noise + noise.T)
