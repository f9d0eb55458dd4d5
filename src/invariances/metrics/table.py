"""The metrics by name, and what compares two spaces or many by one of them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from invariances.arguments import check_whole, shown
from invariances.errors import SpaceError
from invariances.metrics.cca import CCA, PWCCA, SVCCA
from invariances.metrics.cka import CKA, CKA_DEBIASED, CKA_RBF, CKA_RBF_DEBIASED, all_inner, normalised
from invariances.metrics.cosine import COSINE, PEARSON
from invariances.metrics.kernels import Method
from invariances.metrics.neighbours import MUTUAL_KNN
from invariances.metrics.nulls import PERMUTATIONS
from invariances.metrics.procrustes import PROCRUSTES
from invariances.metrics.retrieval import OVERLAPS, RETRIEVALS
from invariances.metrics.rsa import RSA, RSA_PEARSON
from invariances.metrics.score import Metric, Score
from invariances.samples import class_codes
from invariances.spaces import Space, Spaces, open_spaces, read_spaces

__all__ = ["METRICS", "check_permutations", "cka", "compare", "cosine", "metric_named", "pairwise", "procrustes"]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        COSINE,
        PEARSON,
        CKA,
        CKA_DEBIASED,
        CKA_RBF,
        CKA_RBF_DEBIASED,
        PROCRUSTES,
        CCA,
        SVCCA,
        PWCCA,
        RSA,
        RSA_PEARSON,
        MUTUAL_KNN,
        *RETRIEVALS,
        *OVERLAPS,
    )
}
"""The metrics that `align` takes, by name."""


def metric_named(name: str) -> Metric:
    """Look up a metric.

    Raises
    ------
    SpaceError
        If there is none of that name; the message lists the names.
    """
    if not isinstance(name, str) or name not in METRICS:
        raise SpaceError(f"unknown metric {shown(name)}; choose from {', '.join(METRICS)}")
    return METRICS[name]


def compare(
    x: Space, y: Space, metric: str = "cosine", labels: Sequence | None = None, permutations: int = PERMUTATIONS
) -> Score:
    """Compare two spaces by one metric, with both nulls.

    Parameters
    ----------
    x : array, tensor or path, shape (n, d)
    y : array, tensor or path, shape (n, m)
        The same samples in the same order. Cosine and retrieval zero-pad the narrower of unequal widths. What is
        retrieved is rows of `y`, by those of `x`, each side centred by its own mean.
    metric : str
        One of `METRICS`.
    labels : sequence of length n, optional
        Classes, for the within-class null.
    permutations : int
        Seeded shuffles, where the metric's null has no closed form.

    Returns
    -------
    Score

    Raises
    ------
    SpaceError
        If the input cannot be used, or the metric is undefined for it.
    """
    chosen = metric_named(metric)
    check_permutations(permutations)
    read = read_spaces({"x": x, "y": y})
    (x, y), classes = read.values(), class_codes(read.labels_of_rows(labels), read.n)
    a, b = chosen.prepare(x, classes), chosen.prepare(y, classes)
    return chosen.chance(a, b, chosen.score(a, b), permutations)


def check_permutations(count: int) -> None:
    """Refuse a number of shuffles that no deviation can be had from."""
    check_whole(count, "permutations", 2)


def pairwise(spaces: Spaces, metric: str = "cka", method: Method = "auto") -> pd.DataFrame:
    """The scores of all pairs of spaces as a matrix, without nulls.

    Linear CKA, biased and debiased, is computed for all pairs at once; spaces in files are then
    streamed, in memory that does not grow with the samples, and with the models only by the result.

    Parameters
    ----------
    spaces : mapping from model names to spaces, or sequence of spaces
        Each n x d, the same n samples in the same order; widths may differ.
    metric : str
        One of `METRICS`. For "pwcca", rows are the spaces whose features weigh; for retrieval and neighbour
        overlap, rows are the spaces that ask.
    method : "auto", "features" or "gram"
        For linear CKA: the formula; see `invariances.metrics.kernels`.

    Returns
    -------
    DataFrame of shape (N, N)
        Each space with itself on the diagonal.

    Raises
    ------
    SpaceError
        If the input cannot be used, or the metric is undefined for it.
    """
    chosen = metric_named(metric)
    if method not in ("auto", "features", "gram"):
        raise SpaceError(f"unknown method {method!r}; choose from auto, features, gram")
    if metric in ("cka", "cka_debiased"):
        opened = open_spaces(spaces)
        inner = all_inner(list(opened.values()), method, debiased=metric == "cka_debiased")
        return pd.DataFrame(normalised(inner), index=list(opened), columns=list(opened))
    opened = read_spaces(spaces)
    states = [chosen.prepare(space, None) for space in opened.values()]
    return pd.DataFrame(chosen.scores(states), index=list(opened), columns=list(opened))


def cosine(x: Space, y: Space) -> float:
    """Mean cosine of corresponding rows, in [-1, 1] (the paper's tables)."""
    return _score(x, y, "cosine")


def cka(x: Space, y: Space, debiased: bool = False) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019); debiased by U-centring, it can be negative."""
    return _score(x, y, "cka_debiased" if debiased else "cka")


def procrustes(x: Space, y: Space) -> float:
    """Procrustes distance ``2 - 2 |X'Y|_*`` of centred spaces of unit norm, in [0, 2]; 0 is one shape."""
    return _score(x, y, "procrustes")


def _score(x: Space, y: Space, metric: str) -> float:
    chosen = metric_named(metric)
    a, b = (chosen.prepare(space, None) for space in read_spaces({"x": x, "y": y}).values())
    return chosen.score(a, b)
