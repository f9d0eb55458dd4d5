"""What several test files plant: related spaces, and operations on a space."""

import numpy as np
from scipy.stats import ortho_group


def related(n=40, d=6, m=6, noise=1.0, seed=0, shift=0.4):
    """Two spaces of the same samples, with a mean, skewed so that fourth moments matter."""
    rng = np.random.default_rng(seed)
    x = (rng.exponential(size=(n, d)) - 1) * np.linspace(2, 0.5, d) + shift
    y = x @ rng.normal(size=(d, m)) / np.sqrt(d) + noise * rng.normal(size=(n, m)) + shift
    return x, y


def operation(name, rng, d):
    q, shift = ortho_group.rvs(d, random_state=rng), rng.normal(size=d) + 1
    factor, turn = rng.choice([0.2, 3.7]), 1 + rng.integers(d - 1)
    stretched = q * np.linspace(0.4, 2.5, d) @ ortho_group.rvs(d, random_state=rng)
    signs = np.where(np.arange(d) % 2, 1.0, -1.0)  # among the first two, which narrow targets keep, too
    return {
        "isotropic-scale": lambda x: factor * x,
        "sample-scale": lambda x: rng.uniform(0.2, 5, size=(len(x), 1)) * x,
        "translation": lambda x: x + shift,
        "permutation": lambda x: np.roll(x, turn, axis=1),
        "sign-flip": lambda x: x * signs,
        "orthogonal": lambda x: x @ q,
        "affine": lambda x: x @ stretched + shift,
    }[name]
