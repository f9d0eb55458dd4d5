"""Which of many models are interchangeable: groups in which every model's mapped vectors find their counterparts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["INTERCHANGEABLE", "groups", "ordered_matrix"]

INTERCHANGEABLE = 0.9
"""Share of the samples whose counterpart must be the first that is found, in both directions."""


def groups(pairs: pd.DataFrame, value: str = "top1", least: float = INTERCHANGEABLE) -> list[list[str]]:
    """Groups of models in which every pair reaches a score in both directions (complete linkage), largest first.

    Parameters
    ----------
    pairs : DataFrame
        With ``model_a``, ``model_b`` and `value`, one line per ordered pair.
    value : str
        Of which the lower direction counts.
    least : float

    Returns
    -------
    list of lists of model names
        A model that is interchangeable with no other is alone in its group.
    """
    from scipy.cluster.hierarchy import fcluster

    names, apart = _apart(pairs, value)
    of_group = fcluster(_linkage(apart), 1 - least + 1e-12, criterion="distance")
    found = [[name for name, group in zip(names, of_group, strict=True) if group == each] for each in set(of_group)]
    return sorted(found, key=lambda group: (-len(group), names.index(group[0])))


def ordered_matrix(pairs: pd.DataFrame, value: str = "top1") -> pd.DataFrame:
    """The scores as a matrix, rows `model_a`, with models that are alike side by side; the diagonal is NaN.

    Parameters
    ----------
    pairs : DataFrame
        As `groups` takes it.
    value : str
    """
    from scipy.cluster.hierarchy import leaves_list

    names, apart = _apart(pairs, value)
    order = [names[i] for i in leaves_list(_linkage(apart))]
    return pairs.pivot(index="model_a", columns="model_b", values=value).reindex(index=order, columns=order)


def _apart(pairs: pd.DataFrame, value: str) -> tuple[Sequence[str], np.ndarray]:
    names = list(dict.fromkeys(pairs.model_a))
    matrix = pairs.pivot(index="model_a", columns="model_b", values=value).reindex(index=names, columns=names)
    both = np.fmin(matrix.to_numpy(dtype=float), matrix.to_numpy(dtype=float).T)
    np.fill_diagonal(both, 1.0)
    return names, 1 - both


def _linkage(apart: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    return linkage(squareform(apart, checks=False), method="complete", optimal_ordering=True)
