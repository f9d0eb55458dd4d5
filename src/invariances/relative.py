"""What one space is represented by: unit length, similarities to anchors, whitening; differentiable functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch.autograd.function import once_differentiable

from invariances.arguments import is_number
from invariances.errors import SpaceError
from invariances.spaces import check_range, unit_factor

__all__ = ["SIMILARITIES", "Profile", "Similarities", "Whitening", "profile", "relative", "scale", "whitening"]


Similarities: TypeAlias = "Literal['cosine', 'euclidean', 'l1', 'linf', 'geodesic']"


def scale(x: torch.Tensor) -> torch.Tensor:
    """Divide every row by its Euclidean norm: ``r = e / |e|`` (paper, scale invariance).

    Parameters
    ----------
    x : tensor of shape (n, d)
    """
    x = x * unit_factor(x, dim=1)  # else the squares of float32 rows beyond 1e19 overflow, and below 1e-19 vanish
    return x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def relative(x: torch.Tensor, anchors: torch.Tensor, similarity: Similarities = "cosine") -> torch.Tensor:
    """Similarity of every row to every anchor (paper, rotation invariance).

    Parameters
    ----------
    x : tensor of shape (n, d)
    anchors : tensor of shape (k, d)
        The anchors' embeddings by the same encoder.
    similarity : {"cosine", "euclidean", "l1", "linf", "geodesic"}
        "geodesic" is the angle in radians. It and the three distances are given as they are, not
        negated: every score in this package is the same for a profile and its negative.

    Returns
    -------
    tensor of shape (n, k)
        The relative representation.

    Raises
    ------
    SpaceError
        If there is no such similarity.

    Notes
    -----
    Memory is O(n k + n d). A distance is a sum of d differences, never a difference of squared
    norms, so that it is exact for neighbours too; it takes about 15 times as long as the
    cosine, the geodesic twice that.
    """
    if not isinstance(similarity, str) or similarity not in SIMILARITIES:
        raise SpaceError(f"unknown similarity {similarity!r}; choose from {', '.join(SIMILARITIES)}")
    return SIMILARITIES[similarity](x, anchors)


def _cosine(x: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    return scale(x) @ scale(anchors).T


def _distance(x: torch.Tensor, anchors: torch.Tensor, p: float = 2) -> torch.Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)  # torch has no distances in half precision
    mode = "donot_use_mm_for_euclid_dist"  # the product form loses neighbours to cancellation
    factor = unit_factor(torch.cat([x.detach(), anchors.detach()]).to(wide))  # squares keep their range, as in `scale`
    distances = torch.cdist(x.to(wide) * factor, anchors.to(wide) * factor, p=p, compute_mode=mode)
    return (distances / factor).to(x.dtype)


def _geodesic(x: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The angle as ``2 atan(|u - v| / |u + v|)``: arccos loses half the digits at 0 and pi, and its gradient."""
    unit, unit_anchors = scale(x), scale(anchors)
    return 2 * torch.atan2(_distance(unit, unit_anchors), _distance(unit, -unit_anchors))


SIMILARITIES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cosine": _cosine,
    "euclidean": _distance,
    "l1": lambda x, anchors: _distance(x, anchors, p=1),
    "linf": lambda x, anchors: _distance(x, anchors, p=math.inf),
    "geodesic": _geodesic,
}
"""What `relative` may compare by; each maps (n, d) and (k, d) to (n, k)."""


class Whitening(NamedTuple):
    """Centres rows, and whitens them where there is a weight: ``x -> (x - mean) @ weight``."""

    mean: torch.Tensor
    """Shape (d,)."""
    weight: torch.Tensor | None
    """Shape (d, d), symmetric; None for centring alone."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Centre and whiten the rows of `x`, shape (n, d)."""
        centred = x - self.mean.to(x)
        return centred if self.weight is None else centred @ self.weight.to(x)


def whitening(anchors: torch.Tensor, whiten: bool = True, shrink: float = 0.1) -> Whitening:
    """The anchors' mean and the inverse root of their shrunk covariance, in float64.

    ``C = (1 - shrink) cov + shrink trace(cov) / d I``, and the weight is the symmetric
    ``C^(-1/2)`` (ZCA): among all whitenings the one that turns with the space, so that distances
    by coordinates (L1, L-infinity) keep what they are invariant to.

    Parameters
    ----------
    anchors : tensor of shape (k, d)
    whiten : bool
        False gives the mean alone.
    shrink : float
        From 0 (the covariance as it is) to 1 (one factor for all directions).

    Raises
    ------
    SpaceError
        If `shrink` is no number from 0 to 1, or the shrunk covariance is singular.

    Notes
    -----
    With shrink 0, at least d + 1 anchors of full rank are needed. With exactly d + 1 the whitened
    anchors form a regular simplex whatever the space, so take more.
    """
    anchors = anchors.double()
    mean = anchors.mean(dim=0)
    if not whiten:
        return Whitening(mean, None)
    if not (is_number(shrink) and 0 <= shrink <= 1):
        raise SpaceError(f"shrink is {shrink!r}; give a number from 0 (no shrinkage) to 1")
    centred = anchors - mean
    covariance = centred.T @ centred / len(anchors)
    even = covariance.trace() / len(covariance) * torch.eye(len(covariance)).to(covariance)
    return Whitening(mean, _InverseRoot.apply((1 - shrink) * covariance + shrink * even))


class Profile(NamedTuple):
    """Represents samples by their similarities to anchors."""

    anchors: torch.Tensor
    """Shape (k, d), centred and whitened as the samples will be."""
    whitening: Whitening | None
    similarity: Similarities

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Compare the rows of `x`, shape (n, d), with the anchors, which gives shape (n, k).

        Raises
        ------
        SpaceError
            If the result leaves the range of its type.
        """
        moved = x if self.whitening is None else self.whitening(x)
        return check_range(relative(moved, self.anchors.to(moved), self.similarity))


def profile(
    anchors: torch.Tensor,
    similarity: Similarities = "cosine",
    center: bool = False,
    whiten: bool = False,
    shrink: float = 0.1,
) -> Profile:
    """Prepare relative representations by these anchors (paper, rotation invariance).

    Parameters
    ----------
    anchors : tensor of shape (k, d)
    similarity : str
        As for `relative`.
    center, whiten : bool
        Whether the anchors' mean is taken off first, and their covariance taken out, which centres too.
    shrink : float
        See `whitening`.

    Raises
    ------
    SpaceError
        If the similarity is unknown, or as `whitening`.
    """
    found = whitening(anchors, whiten, shrink) if center or whiten else None
    moved = anchors if found is None else found(anchors)
    relative(moved[:1], moved[:1], similarity)  # an unknown one is named now
    return Profile(moved, found, similarity)


class _InverseRoot(torch.autograd.Function):
    """``C^(-1/2)`` of a symmetric positive definite matrix.

    The derivative of ``eigh`` divides by differences of eigenvalues, which vanish whenever k <= d;
    the divided differences of the inverse root itself, ``-1 / (r_i r_j (r_i + r_j))`` with r the
    roots of the eigenvalues, do not.
    """

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        if values[0] <= len(matrix) * torch.finfo(matrix.dtype).eps * values[-1]:
            raise SpaceError(
                f"the anchors' covariance is singular in {len(matrix)} dimensions and cannot be whitened as it is; "
                "set shrink above 0, e.g. 0.1, or give more anchors and no constant features"
            )
        roots = values.sqrt()
        ctx.save_for_backward(roots, vectors)
        return (vectors / roots) @ vectors.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        roots, vectors = ctx.saved_tensors
        divided = -1 / (torch.outer(roots, roots) * (roots.unsqueeze(1) + roots))
        return vectors @ (divided * (vectors.T @ gradient @ vectors)) @ vectors.T
