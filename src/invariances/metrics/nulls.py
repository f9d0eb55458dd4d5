"""What scores are by chance: the moments of a score when the samples of one side are shuffled.

Inner products of matrices over pairs of samples (kernels, distances, neighbours) have exact
moments, since the symmetric group acts on such matrices in few irreducible pieces. Sums of
singular values have none; their law is asymptotically that of a random rotation, which free
probability gives in closed form. What is left is shuffled, with a seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch

__all__ = [
    "Blocks",
    "FEW_SAMPLES",
    "Kernel",
    "LEAST_RANK",
    "MOST_UNEVEN",
    "Moments",
    "PERMUTATIONS",
    "Spectrum",
    "TOLERANCE",
    "blocks_of",
    "blocks_of_features",
    "class_sums",
    "few_permutations",
    "hollow_deviation",
    "kernel_moments",
    "nuclear_moments",
    "permutation_moments",
    "shuffled",
    "shuffled_within",
    "shuffles",
    "unevenness",
    "within_class_mean",
    "within_class_product",
]


PERMUTATIONS = 20
"""Shuffles where no closed form exists; a p-value is then at least 1 / 21."""
TOLERANCE = 0.002
"""Estimated standard error at which the mean over shuffles within classes is good enough."""
FEW_SAMPLES = 12
"""With at most so many samples, p is counted over permutations."""
_MOST_ENUMERATED = 720
"""Permutations that are all tried: those of 6 samples."""
LEAST_RANK = 16
"""Rank from which on the asymptotic law of a sum of singular values is used."""
MOST_UNEVEN = 0.5
"""Relative excess of the exact variance of CKA over its Gaussian value up to which that law is used."""


class Moments(NamedTuple):
    """Mean and standard deviation of a score under shuffling."""

    mean: float
    deviation: float


class Kernel(NamedTuple):
    """What the moments of a kernel's inner product need of one centred kernel matrix."""

    n: int
    power: float
    """Squared Frobenius norm."""
    trace: float
    squares: float
    """Sum of the squares of the diagonal."""

    @property
    def spread(self) -> float:
        """Effective dimension: squared trace over squared norm."""
        return self.trace**2 / self.power

    @property
    def room(self) -> float:
        """What the effective dimension lacks of its greatest, n - 1; 0 up to round-off.

        At 0 the kernel is a multiple of the centring matrix, which no shuffle changes.
        """
        room = self.n - 1 - self.spread
        return room if room > 1e-6 * (self.n - 1) else 0.0


def kernel_moments(a: Kernel, b: Kernel) -> Moments:
    """Mean and deviation of CKA, ``tr(KL) / (|K| |L|)``, under shuffling (Kazi-Aoual et al. 1995).

    The deviation is NaN below four samples, and 0 where no shuffle changes one of the kernels.
    """
    n = a.n
    mean = math.sqrt(a.spread * b.spread) / (n - 1)
    main = _gaussian_variance(a, b)
    if math.isnan(main):
        return Moments(mean, math.nan)
    return Moments(mean, math.sqrt(max(0.0, main * (1 + unevenness(a, b)))))


def _gaussian_variance(a: Kernel, b: Kernel) -> float:
    """The variance of CKA were all samples' norms as even as a Gaussian's."""
    n = a.n
    return 2 * a.room * b.room / ((n + 1) * (n - 1) ** 2 * (n - 2)) if n >= 4 else math.nan


def unevenness(a: Kernel, b: Kernel) -> float:
    """Relative excess of CKA's exact variance over `_gaussian_variance`, from the samples' norms."""
    n = a.n
    if n < 4 or min(a.room, b.room) == 0:
        return 0.0

    def excess(k: Kernel) -> float:
        fourth = n * (n + 1) * k.squares / k.power
        return (fourth - (n - 1) * (k.spread + 2)) * (n - 1) / ((n - 3) * k.room)

    return (n - 3) / (2 * n * (n - 1)) * excess(a) * excess(b)


def hollow_deviation(n: int, rows_a: float, rows_b: float) -> float:
    """Deviation of the correlation of two hollow symmetric n x n matrices of mean 0 under shuffling.

    Such matrices split into row effects, of dimension n - 1, and the rest, of dimension
    n (n - 3) / 2; a shuffle mixes neither with the other.

    Parameters
    ----------
    n : int
    rows_a, rows_b : float
        Share of each matrix's squared norm that its row effects carry; 0 for a U-centred kernel.
    """
    if n < 4:
        return math.nan
    return math.sqrt(rows_a * rows_b / (n - 1) + (1 - rows_a) * (1 - rows_b) * 2 / (n * (n - 3)))


def permutation_moments(table: torch.Tensor) -> Moments:
    """Mean and deviation of ``mean_i table[i, p(i)]`` over all permutations p of n (Hoeffding 1951).

    Parameters
    ----------
    table : tensor of shape (n, n)
    """
    n, mean = len(table), table.mean()
    rest = table - table.mean(dim=0) - table.mean(dim=1, keepdim=True) + mean
    return Moments(float(mean), math.sqrt(float(rest.square().sum()) / (n - 1)) / n)


# Within classes --------------------------------------------------------------------------------


class Blocks(NamedTuple):
    """Sums of an n x n matrix over pairs of classes, and of its diagonal over each class."""

    counts: torch.Tensor
    sums: torch.Tensor
    """Shape (C, C)."""
    diagonal: torch.Tensor
    """Shape (C,)."""


def class_sums(x: torch.Tensor, classes: torch.Tensor, count: int) -> torch.Tensor:
    """Sum of the rows of `x`, shape (n, d), over each class: shape (C, d), in float64."""
    out = torch.zeros(count, x.shape[1], dtype=x.dtype, device=x.device)
    return out.index_add_(0, classes.to(x.device), x).double()


def blocks_of(matrix: torch.Tensor, classes: torch.Tensor) -> Blocks:
    """The class sums of a matrix over pairs of samples, shape (n, n)."""
    counts = torch.bincount(classes).double()
    halfway = class_sums(matrix, classes, len(counts))
    sums = class_sums(halfway.T.contiguous(), classes, len(counts)).T
    diagonal = class_sums(matrix.diagonal().unsqueeze(1), classes, len(counts)).flatten()
    return Blocks(counts, sums, diagonal)


def blocks_of_features(rows: torch.Tensor, classes: torch.Tensor, diagonal: torch.Tensor) -> Blocks:
    """The class sums of the linear kernel of `rows`, shape (n, d), without forming it."""
    counts = torch.bincount(classes).double()
    sums = class_sums(rows, classes, len(counts))
    return Blocks(counts, sums @ sums.T, class_sums(diagonal.unsqueeze(1), classes, len(counts)).flatten())


def within_class_product(a: Blocks, b: Blocks) -> float:
    """Expected inner product of two matrices over pairs of samples when one is shuffled within classes.

    Such a shuffle replaces every block between two classes by its mean, and within a class the
    diagonal and the rest of the block each by theirs.
    """
    counts = a.counts
    between = a.sums * b.sums / torch.outer(counts, counts)
    between = between.sum() - between.diagonal().sum()
    rest = (a.sums.diagonal() - a.diagonal) * (b.sums.diagonal() - b.diagonal)
    rest = torch.where(counts > 1, rest / (counts * (counts - 1)).clamp_min(1), torch.zeros_like(rest))
    return float(between + (a.diagonal * b.diagonal / counts).sum() + rest.sum())


def within_class_mean(table: torch.Tensor, classes: torch.Tensor) -> float:
    """Expected ``mean_i table[i, p(i)]``, table of shape (n, n), when p shuffles within classes."""
    counts = torch.bincount(classes).double().to(table)
    same = (classes.unsqueeze(1) == classes).to(table)
    return float(((table * same).sum(dim=1) / counts[classes]).mean())


# Sums of singular values -----------------------------------------------------------------------


class Spectrum:
    """The positive eigenvalues of a centred linear kernel of n samples, shape (r,).

    What the law of the nuclear norm needs of one kernel is kept, for the next pair.
    """

    def __init__(self, eigenvalues: torch.Tensor, n: int) -> None:
        self.eigenvalues, self.total = eigenvalues, n - 1
        self._solved: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def __len__(self) -> int:
        return len(self.eigenvalues)

    def solved(self, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`_shrinkage` at the nodes below `rank`, with f replaced by the mean of ``f_v f_w``."""
        if rank not in self._solved:
            shrink, f, slope = _shrinkage(self.eigenvalues, self.total, _nodes(rank, self.total)[0])
            self._solved[rank] = shrink, f.T @ f / self.total, slope
        return self._solved[rank]


def nuclear_moments(a: Spectrum, b: Spectrum) -> Moments:
    """Mean and deviation of the nuclear norm of ``X' P Y``, P a random shuffle of n samples.

    On centred samples a shuffle acts like a random rotation of N = n - 1 dimensions, so that the
    spectrum of K P L P' is the free product of the spectra of K = XX' and L = YY'. With
    ``w = mean(a t / (1 + a t))`` over the N eigenvalues t of K defining a(w), and b(w) likewise
    for L, that product has the quantile function ``x(w) = w / ((1 - w) a(w) b(w))``, and the
    expected nuclear norm is ``(2 N / pi) * integral of sqrt(x) dw``. Mean shift and variance at
    the next order follow from the covariance ``-2 log(1 - G(v, w))`` of log-determinants,
    ``G(v, w) = g_a g_b`` with ``g_a(v, w) = (mean(f_v f_w) - v w) / sqrt(v (1-v) w (1-w))``,
    ``f_w = a t / (1 + a t)``.

    Parameters
    ----------
    a, b : Spectrum
        Of the two centred linear kernels.

    Returns
    -------
    Moments
        Asymptotic in the ranks and for samples of even norms; see `LEAST_RANK`, `MOST_UNEVEN`.
    """
    total, rank = a.total, min(len(a), len(b))
    w, other, step = _nodes(rank, total)
    (shrink_a, f_a, slope_a), (shrink_b, f_b, slope_b) = a.solved(rank), b.solved(rank)
    root = (w / other / shrink_a / shrink_b).sqrt()
    mean = 2 * total / math.pi * float((step * root).sum())
    # d sqrt(x) / dw, by the chain rule through a(w) and b(w)
    weight = step * root / 2 * (1 / (w * other) - 1 / slope_a - 1 / slope_b)
    spread = torch.outer(w * other, w * other)
    g = (f_a - torch.outer(w, w)) * (f_b - torch.outer(w, w)) / spread
    covariance = torch.log1p(-g.clamp(max=1 - 1e-15))
    shift = -float((weight * covariance.diagonal()).sum()) / (2 * math.pi)
    variance = -2 / math.pi**2 * float(weight @ covariance @ weight)
    return Moments(mean + shift, math.sqrt(max(0.0, variance)))


def _nodes(rank: int, total: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """64 nodes w in (0, rank / total), 1 - w, and weights (double exponential, for the singular ends)."""
    t = torch.linspace(-3.2, 3.2, 64, dtype=torch.float64)
    u = math.pi * torch.sinh(t)
    share, rest = torch.sigmoid(u), torch.sigmoid(-u)
    weights = (t[1] - t[0]) * math.pi * torch.cosh(t) * share * rest
    least = rank / total
    # 1 - w without cancellation where the rank is full
    return share * least, (1 - least) + least * rest, weights * least


def _shrinkage(
    eigenvalues: torch.Tensor, total: int, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Solve ``sum(f) / total = w``, ``f = a t / (1 + a t)``, for a, all w at once.

    Returns a; f, shape (r, len(w)); and the slope dw / d log a = sum(f (1 - f)) / total.
    """
    logs = eigenvalues.double().log().unsqueeze(1)
    low = torch.full_like(w, -80.0) - logs.max()
    high = torch.full_like(w, 80.0) - logs.min()
    for _ in range(70):  # bisection in log a: the sum is increasing
        middle = (low + high) / 2
        below = torch.sigmoid(middle + logs).sum(dim=0) < w * total
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    middle = (low + high) / 2
    f = torch.sigmoid(middle + logs)
    return middle.exp(), f, (f * torch.sigmoid(-middle - logs)).sum(dim=0) / total


# Shuffles --------------------------------------------------------------------------------------


def shuffles(n: int, classes: torch.Tensor | None = None, seed: int = 0) -> Iterator[torch.Tensor]:
    """Endless seeded permutations of n rows; with `classes`, each row keeps its class."""
    rng = np.random.default_rng(seed)
    order = None if classes is None else np.argsort(classes.numpy(force=True), kind="stable")
    while True:
        if order is None:
            yield torch.from_numpy(rng.permutation(n))
            continue
        rows = np.empty_like(order)
        rows[order] = order[np.lexsort((rng.random(n), classes.numpy(force=True)[order]))]
        yield torch.from_numpy(rows)


@functools.lru_cache(maxsize=2)
def few_permutations(n: int) -> torch.Tensor:
    """Permutations of few rows, the identity first: all n! of at most 6, else 999 seeded ones after it.

    Returns
    -------
    tensor of shape (count, n)
    """
    if math.factorial(n) <= _MOST_ENUMERATED:
        return torch.tensor(list(permutations(range(n))))
    draws = shuffles(n)
    return torch.stack([torch.arange(n), *(next(draws) for _ in range(999))])


def shuffled(score: Callable[[torch.Tensor], float], n: int, count: int) -> np.ndarray:
    """The score under `count` seeded shuffles."""
    draws = shuffles(n)
    return np.array([score(next(draws)) for _ in range(count)])


def shuffled_within(score: Callable[[torch.Tensor], float], classes: torch.Tensor, count: int) -> float:
    """Mean score under seeded shuffles within classes, at most `count`, fewer once it is precise."""
    draws, scores = shuffles(len(classes), classes, seed=1), []
    while len(scores) < count:
        scores.append(score(next(draws)))
        if len(scores) >= 3 and np.std(scores, ddof=1) / math.sqrt(len(scores)) < TOLERANCE:
            break
    return float(np.mean(scores))
