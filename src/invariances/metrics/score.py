"""What all metrics share: a score beside its null, and the form of a metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from invariances.errors import SpaceError
from invariances.metrics.nulls import FEW_SAMPLES, Moments, few_permutations
from invariances.samples import class_codes
from invariances.spaces import unit_factor

__all__ = [
    "Metric",
    "ROTATION",
    "SCALES",
    "SHAPE",
    "SUBSAMPLE",
    "Score",
    "UP_TO_ONE",
    "beyond_round_off",
    "centre",
    "check_rows",
    "counted_score",
    "few_axes",
    "few_samples_p",
    "normal_score",
    "permuted_p",
    "subsample",
]


SUBSAMPLE = 2000
"""Rows that the metrics of quadratic cost use where there are more; drawn once, by seed 0."""
_ROUND_OFF = 1e-6
"""Scores that differ by no more count as equal: single precision cannot tell them apart."""
_SKEWED = 0.02
"""Skewness below which a null counts as normal."""


class Score(NamedTuple):
    """One metric of one pair of spaces, with what it would be by chance."""

    score: float
    null: float
    """Expected score when one side's samples are shuffled."""
    null_within_class: float
    """Expected score when they are shuffled within classes; NaN without labels."""
    calibrated: float
    """0 at the null, 1 for perfect agreement; NaN where the two coincide."""
    z: float
    """Standard deviations of the null that the score lies above it (below it, for a distance).

    NaN where no shuffle changes the score.
    """
    p: float
    """One-sided p-value of the null: normal in z; for kernels of a gamma distribution, since few axes that carry the
    variance make it skewed; or counted over permutations, as of at most 12 samples and of what is found by queries."""


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed and how it is to be read."""

    name: str
    prepare: Callable[..., Any]
    """Of a space and its classes; see `centred`."""
    score: Callable[[Any, Any], float]
    chance: Callable[[Any, Any, float, int], Score]
    range: tuple[float, float]
    null: str
    invariant_to: frozenset[str]
    """What may be done to either space, differently to each, without a change of the score."""
    jointly_invariant_to: frozenset[str] = frozenset()
    """What may be done to both spaces alike."""
    higher_is_closer: bool = True
    quadratic: bool = False
    """Whether cost grows with the square of the samples, so that at most `SUBSAMPLE` are used."""
    symmetric: bool = True
    padded: bool = False
    """Whether the narrower of unequal widths is padded with zeros."""
    ordered: bool = False
    """Whether the first space asks and the second answers, so that `align` gives both directions in every case."""
    centred: bool = False
    """Whether `prepare` takes a third argument: where to centre, None for the mean of the samples themselves."""
    k: int | None = None
    """How many of the first that are found count, where that is a parameter."""
    score_all: Callable[[Sequence[Any]], np.ndarray] | None = None
    """All pairs of prepared spaces at once, shape (N, N), where that is cheaper."""
    merge: Callable[[Any, Any], Any] | None = None
    """What `prepare` makes of two tiles of rows, as one; the first may be changed. Only of a metric whose score is a
    mean over samples: `align` then needs no more than a tile of each space at a time."""

    def scores(self, states: Sequence[Any]) -> np.ndarray:
        """The scores of all pairs of prepared spaces, shape (N, N); rows are the first of a pair."""
        if self.score_all is not None:
            return self.score_all(states)
        table = np.empty((len(states), len(states)))
        for i, a in enumerate(states):
            for j, b in enumerate(states):
                table[i, j] = table[j, i] if self.symmetric and j < i else self.score(a, b)
        return table


def normal_score(score: float, null: Moments, within: float, perfect: float = 1.0, skewness: float = 0.0) -> Score:
    """A score whose null is normal, or skewed; `perfect` below the null means that low scores are close."""
    above = score - null.mean if perfect > null.mean else null.mean - score
    z = above / null.deviation if null.deviation > 1e-15 else math.nan
    return Score(score, null.mean, within, _calibrated(score, null.mean, perfect), z, _p_value(z, skewness))


def counted_score(score: float, draws: np.ndarray, within: float, perfect: float = 1.0) -> Score:
    """A score whose null is a sample of shuffles."""
    mean, deviation = float(draws.mean()), float(draws.std(ddof=1))
    closer = draws >= score - _ROUND_OFF if perfect > mean else draws <= score + _ROUND_OFF
    known = normal_score(score, beyond_round_off(mean, deviation), within, perfect)
    return known._replace(p=(int(closer.sum()) + 1) / (len(draws) + 1))


def few_samples_p(known: Score, n: int, scores: Callable[[torch.Tensor], torch.Tensor]) -> Score:
    """The score with p counted over permutations where there are few samples; otherwise as it is.

    Parameters
    ----------
    known : Score
        With a normal p, whose tail is far too thin for few samples.
    n : int
        Number of samples.
    scores : callable
        What permutations of one side's rows, shape (count, n), score, in any unit: shape (count,).
    """
    return known if n > FEW_SAMPLES else permuted_p(known, n, scores)


def permuted_p(known: Score, n: int, scores: Callable[[torch.Tensor], torch.Tensor]) -> Score:
    """The score with p counted over permutations, as `few_samples_p` has it, however many samples there are."""
    if math.isnan(known.z):
        return known
    shuffled = scores(few_permutations(n))
    round_off = 1e-9 * float(shuffled.abs().max())
    # the first permutation is the identity, which counts as one of them
    return known._replace(p=float((shuffled >= shuffled[0] - round_off).double().mean()))


def beyond_round_off(mean: float, deviation: float) -> Moments:
    """Moments that were not computed exactly: a deviation of round-off is none."""
    return Moments(mean, deviation if deviation > _ROUND_OFF else 0.0)


def _calibrated(score: float, null: float, perfect: float) -> float:
    return (score - null) / (perfect - null) if abs(perfect - null) >= _ROUND_OFF else math.nan


def _p_value(z: float, skewness: float) -> float:
    """The upper tail of a gamma distribution of that skewness, of mean 0 and variance 1; normal where it has none."""
    if math.isnan(z) or skewness < _SKEWED:
        return math.nan if math.isnan(z) else math.erfc(z / math.sqrt(2)) / 2
    shape = 4 / skewness**2
    at = torch.tensor([shape, max(0.0, shape + z * math.sqrt(shape))], dtype=torch.float64)
    return float(torch.special.gammaincc(at[0], at[1]))


def centre(x: torch.Tensor) -> torch.Tensor:
    """Centre the columns of a space, without a constant left by rounding."""
    # in float64, and twice: a rounded mean would leave a constant, and with it one axis too many
    centred = x.double()
    for _ in range(2):
        centred = centred - centred.mean(dim=0)
    if not centred.any():
        raise SpaceError("all samples are the same, so that there is nothing to compare; give samples that differ")
    return (centred * unit_factor(centred)).to(x)


def few_axes(x: torch.Tensor) -> torch.Tensor:
    """The same linear kernel in at most n features."""
    return x if x.shape[1] <= len(x) else torch.linalg.qr(x.T, mode="r").R.T


def check_rows(x: torch.Tensor, n: int, what: str) -> None:
    """Refuse spaces of too few samples for a metric."""
    if len(x) < n:
        raise SpaceError(f"{what} needs at least {n} samples, not {len(x)}; give more")


def subsample(
    x: torch.Tensor, classes: torch.Tensor | None, most: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """At most so many rows, `SUBSAMPLE` if not said otherwise, the same for every space of as many samples."""
    most = SUBSAMPLE if most is None else most
    if len(x) <= most:
        return x, classes
    rows = np.sort(np.random.default_rng(0).choice(len(x), most, replace=False))
    return x[rows], None if classes is None else class_codes(classes.numpy(force=True)[rows], most)


SCALES = frozenset({"isotropic-scale", "sample-scale"})
ROTATION = frozenset({"permutation", "orthogonal"})
SHAPE = ROTATION | {"isotropic-scale", "translation"}
UP_TO_ONE = (0.0, 1.0)
