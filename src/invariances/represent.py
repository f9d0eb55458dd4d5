"""The invariances by name: each is fitted to anchors, and then represents samples, in torch.

What `align` and `stitch` work with; `invariances.transforms` has the same for scikit-learn's pipelines.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch

from invariances.errors import SpaceError
from invariances.maps import (
    Penalty,
    affine_map,
    factorise,
    isotropic_scale_map,
    orthogonal_map,
    permutation_map,
    similarity_map,
    translation_map,
)
from invariances.relative import Similarities, profile, scale

__all__ = [
    "INVARIANCES",
    "Invariance",
    "Representation",
    "absolute",
    "affine",
    "by_map",
    "invariance_named",
    "relative_to_anchors",
    "unit_norm",
]

Representation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Gives what samples, shape (n, d), are represented by, shape (n, m)."""


def _as_it_is(x: torch.Tensor) -> torch.Tensor:
    return x


class Invariance(NamedTuple):
    """How spaces are represented under an invariance.

    To represent samples x: ``fit(prepare(anchors), target_anchors)(x)``, with None for the target's anchors where no
    map is fitted.
    """

    fit: Callable[[Any, Any], Representation]
    """Takes what `prepare` made of a source, and perhaps the target's anchors, shape (k, m)."""
    prepare: Callable[[torch.Tensor], Any] = _as_it_is
    """What a source's anchors, shape (k, d), are made into, once for all targets."""
    anchored: bool = True
    """Whether it needs anchors."""
    fitted: bool = False
    """Whether it is a map of one space onto another, and needs the target's anchors too."""
    padded: bool = False
    """Whether it maps between unequal widths by adding zeros or leaving features out."""

    def represent(self, anchors: torch.Tensor | None, target_anchors: torch.Tensor | None = None) -> Representation:
        """Prepare and fit at once."""
        return self.fit(anchors if anchors is None else self.prepare(anchors), target_anchors)


absolute = Invariance(lambda anchors, target: _as_it_is, anchored=False)
"""The space as it is (the tables' "Raw")."""
unit_norm = Invariance(lambda anchors, target: scale, anchored=False)
"""Every sample divided by its norm (paper, scale invariance)."""


def relative_to_anchors(
    similarity: Similarities = "cosine", center: bool = False, whiten: bool = False, shrink: float = 0.1
) -> Invariance:
    """Similarities to the anchors (paper, rotation invariance); see `invariances.relative.profile`."""
    return Invariance(lambda anchors, target: profile(anchors, similarity, center, whiten, shrink))


def affine(penalty: Penalty = "gcv") -> Invariance:
    """A ridge map with intercept (paper, affine invariance); see `invariances.maps.affine_map`."""
    return Invariance(partial(affine_map, penalty=penalty), factorise, fitted=True)


def by_map(fit: Callable[[Any, Any], Representation]) -> Invariance:
    """Another class of maps, by one of the functions of `invariances.maps`."""
    return Invariance(fit, fitted=True, padded=True)


INVARIANCES: dict[str, Invariance] = {
    "absolute": absolute,
    "scale": unit_norm,
    "relative": relative_to_anchors(),
    "affine": affine(),
    "orthogonal": by_map(orthogonal_map),
    "relative-euclidean": relative_to_anchors("euclidean"),
    "relative-l1": relative_to_anchors("l1"),
    "relative-linf": relative_to_anchors("linf"),
    "relative-geodesic": relative_to_anchors("geodesic"),
    "relative-centered": relative_to_anchors(center=True),
    "relative-whitened": relative_to_anchors(whiten=True),
    "translation": by_map(translation_map),
    "isotropic-scale": by_map(isotropic_scale_map),
    "orthogonal+translation": by_map(partial(orthogonal_map, center=True)),
    "similarity": by_map(similarity_map),
    "permutation": by_map(permutation_map),
}
"""The names that `align` and `stitch` take."""


def invariance_named(name: str) -> Invariance:
    """Look up an invariance.

    Raises
    ------
    SpaceError
        If there is none of that name; the message lists the names.
    """
    if not isinstance(name, str) or name not in INVARIANCES:
        raise SpaceError(f"unknown invariance {name!r}; choose from {', '.join(INVARIANCES)}")
    return INVARIANCES[name]
