"""The invariances: what is factored out of a space before two spaces are compared.

Two kinds share scikit-learn's interface (``fit``, ``transform``, ``get_params``, ``Pipeline``):

- *intrinsic* transforms need one space: `Absolute`, `Scale`, `Relative`;
- *fitted* maps carry one space onto another, on anchors: `Translation`, `IsotropicScale`,
  `Orthogonal`, `Similarity`, `Affine`, `Permutation`.

Each takes numpy arrays or torch tensors and gives back the kind it got. The arithmetic stands in
pure, differentiable torch functions (`scale`, `relative`, `whitening`, `affine_map`, ...), since
relative heads are trained through it; a fitted transform lets gradients through to its samples, not
to its anchors. `invariant_to` declares what each transform's output does not depend on, in the words
of `OPERATIONS`; the tests hold every declaration in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch.autograd.function import once_differentiable

from invariances.errors import SpaceError
from invariances.spaces import as_tensor, read_space, unit_factor

Matrix: TypeAlias = "np.ndarray | torch.Tensor"
Penalty: TypeAlias = "float | Literal['gcv', 'loo']"
Similarities: TypeAlias = "Literal['cosine', 'euclidean', 'l1', 'linf', 'geodesic']"

OPERATIONS = ("isotropic-scale", "sample-scale", "translation", "permutation", "sign-flip", "orthogonal", "affine")
"""What may be done to a space: one positive factor, one positive factor per sample, a shift, features
reordered, features negated, a rotation or reflection, any invertible affine map. A transform is
invariant to an operation if its output stays the same when the operation is applied to anchors and
samples alike (of the source, for a fitted map)."""


class Map(NamedTuple):
    """An affine map ``x -> x @ weight.T + bias`` between spaces of widths d (source) and m (target)."""

    weight: torch.Tensor
    """Shape (m, d)."""
    bias: torch.Tensor
    """Shape (m,)."""
    penalty: float
    """The ridge penalty that was used; 0 for every other map."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Carry the rows of `x`, shape (n, d), into the target space."""
        return x @ self.weight.T.to(x) + self.bias.to(x)


class Factor(NamedTuple):
    """What fitting a ridge map needs of its source, computed once for all targets."""

    mean: torch.Tensor
    left: torch.Tensor
    singular: torch.Tensor
    right: torch.Tensor


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
    if not (_is_number(shrink) and 0 <= shrink <= 1):
        raise SpaceError(f"shrink is {shrink!r}; give a number from 0 (no shrinkage) to 1")
    centred = anchors - mean
    covariance = centred.T @ centred / len(anchors)
    even = covariance.trace() / len(covariance) * torch.eye(len(covariance)).to(covariance)
    return Whitening(mean, _InverseRoot.apply((1 - shrink) * covariance + shrink * even))


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


def factorise(x: torch.Tensor) -> Factor:
    """Centre the source anchors, shape (k, d), and take their thin SVD, in float64."""
    x = x.double()
    mean = x.mean(dim=0)
    left, singular, right = torch.linalg.svd(x - mean, full_matrices=False)
    # against the uncentred norm, so that nothing is kept of what round-off leaves of a constant space
    kept = singular > x.norm() * max(x.shape) * torch.finfo(torch.float64).eps
    return Factor(mean, left[:, kept], singular[kept], right[kept])


def affine_map(source: torch.Tensor | Factor, target: torch.Tensor, penalty: Penalty = "gcv") -> Map:
    """Ridge regression with intercept of the target anchors on the source anchors.

    The penalty is a multiple of the mean squared singular value. It is given, or taken from a
    logarithmic grid where one of two closed forms is least, both with the intercept counted,
    without which the fit interpolates when k is about d + 1: ``"gcv"``, generalized
    cross-validation with the divisor ``1 - (sum f + 1) / k``, or ``"loo"``, leave-one-out with the
    leverages ``1/k + sum u^2 f``. Leave-one-out takes k m rank operations per grid value, GCV
    next to none. One penalty serves all target features, and they average out its error: with
    fewer than about 16 of them and k about d + 1, either score may settle on far too little.

    Parameters
    ----------
    source : tensor of shape (k, d), or its `factorise`
    target : tensor of shape (k, m)
    penalty : "gcv", "loo" or float

    Returns
    -------
    Map

    Raises
    ------
    SpaceError
        If `penalty` is none of these, or negative.
    """
    chosen = isinstance(penalty, str) and penalty in _SCORES
    if not chosen and not (_is_number(penalty) and 0 <= penalty < math.inf):
        raise SpaceError(f"penalty is {penalty!r}; give 'gcv', 'loo' or a finite number of at least 0")
    factor = source if isinstance(source, Factor) else factorise(source)
    target = target.double()
    target_mean = target.mean(dim=0)
    power = factor.singular.square()
    projected = factor.left.T @ (target - target_mean)
    # summed, not averaged: a constant source has no singular values, and its map is the target's mean
    mean_power = power.sum() / max(1, len(power))
    if chosen:
        grid = mean_power * torch.logspace(-10, 4, 113, dtype=torch.float64, device=power.device).unsqueeze(1)
        ridge = grid[_SCORES[penalty](factor.left, grid / (power + grid), projected, target).argmin(), 0]
    else:
        ridge = float(penalty) * mean_power
    weight = ((factor.singular / (power + ridge)).unsqueeze(1) * projected).T @ factor.right
    return Map(weight, target_mean - weight @ factor.mean, float(ridge.detach()))


# Both scores take `shrunk`, the 1 - f of every penalty and axis, shape (g, r), and `projected`, U.T @ y.
# Residuals and divisors are sums of 1 - f, never differences of numbers near 1: where the anchors have
# rank k - 1 both go to 0 with the penalty, and rounding noise would choose.


def _gcv(left: torch.Tensor, shrunk: torch.Tensor, projected: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Generalized cross-validation for each of g penalties."""
    k, rank = left.shape
    explained = projected.square().sum(dim=1)
    total = (target - target.mean(dim=0)).square().sum()
    unreached = k - 1 - rank  # directions of the target that no map of these anchors reaches
    outside = (total - explained.sum()).clamp_min(0) if unreached > 0 else torch.zeros_like(total)
    residual = shrunk.square() @ explained + outside
    divisor = (shrunk.sum(dim=1) + unreached) / k
    return residual / divisor.square()


def _loo(left: torch.Tensor, shrunk: torch.Tensor, projected: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum of squared leave-one-out residuals, ``r_i / (1 - h_i)``, for each of g penalties."""
    # what is out of reach: round-off where there is nothing, far below the sums of 1 - f > 1e-10 that it is added to
    unreached = ((1 - 1 / len(left)) - left.square().sum(dim=1)).clamp_min(0)
    outside = target - target.mean(dim=0) - left @ projected
    scores = []
    for kept in shrunk:  # one at a time: k x m each
        residual = left @ (kept.unsqueeze(1) * projected) + outside
        divisor = left.square() @ kept + unreached
        scores.append((residual / divisor.unsqueeze(1)).square().sum())
    return torch.stack(scores)


_SCORES = {"gcv": _gcv, "loo": _loo}


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


# Maps of the ladder, each (source, target) -> Map in float64. Unequal widths: the narrower space is
# padded with zeros, so that surplus source features are dropped and surplus target features stay 0.


def constant_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """The target's mean, whatever the source: the class of maps that knows no relation.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    return Map(torch.zeros_like(_eye(source, target)), target.double().mean(dim=0), 0.0)


def identity_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """The source as it is.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    return Map(_eye(source, target), torch.zeros_like(target[0].double()), 0.0)


def translation_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """The source shifted so that the anchors' means agree (least squares).

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    eye = _eye(source, target)
    return Map(eye, target.double().mean(dim=0) - eye @ source.double().mean(dim=0), 0.0)


def isotropic_scale_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """The source times one factor, ``<x, y> / <x, x>`` (least squares).

    The factor is negative where the spaces point in opposite directions, and 0 where no feature
    of the source that has a counterpart ever differs from 0.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    eye, target = _eye(source, target), target.double()
    padded = source.double() @ eye.T
    return Map(_factor(padded, target, 0.0) * eye, torch.zeros_like(target[0]), 0.0)


def orthogonal_map(source: torch.Tensor, target: torch.Tensor, center: bool = False) -> Map:
    """Orthogonal Procrustes: the rotation (or reflection) of the source closest to the target.

    Spaces of unequal width are related by a semi-orthogonal map, which equals zero-padding the
    narrower one first. Features are never standardised: that would not be Procrustes. The map is
    unique where the anchors' cross-product has rank min(d, m); with fewer anchors it is unique on
    their span only.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    center : bool
        Also fit a translation, from the anchors' means.
    """
    source, target = source.double(), target.double()
    source_mean = source.mean(dim=0) if center else torch.zeros_like(source[0])
    target_mean = target.mean(dim=0) if center else torch.zeros_like(target[0])
    left, _, right = torch.linalg.svd((target - target_mean).T @ (source - source_mean), full_matrices=False)
    weight = left @ right
    return Map(weight, target_mean - weight @ source_mean, 0.0)


def similarity_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """Rotation, one factor and a translation: Procrustes of the centred anchors, then least squares.

    The factor is 0 where the source is constant.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    source, target = source.double(), target.double()
    rotation = orthogonal_map(source, target, center=True).weight
    source_mean, target_mean = source.mean(dim=0), target.mean(dim=0)
    turned = (source - source_mean) @ rotation.T
    # what centring leaves of a constant source is round-off of this size
    noise = len(source) * torch.finfo(torch.float64).eps * float(source.detach().norm())
    weight = _factor(turned, target - target_mean, noise) * rotation
    return Map(weight, target_mean - weight @ source_mean, 0.0)


def permutation_map(source: torch.Tensor, target: torch.Tensor) -> Map:
    """Every source feature becomes one target feature, so that ``<x P, y>`` is largest; no signs.

    A linear assignment on the uncentred cross-product, which is least squares since a permutation
    keeps the source's norm.

    Parameters
    ----------
    source : tensor of shape (k, d)
    target : tensor of shape (k, m)
    """
    source, target = source.double(), target.double()
    gain = target.detach().T @ source.detach()
    rows, columns = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
    weight = torch.zeros_like(gain)
    weight[rows, columns] = 1.0
    return Map(weight, torch.zeros_like(target[0]), 0.0)


def _eye(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The identity between unequal widths, shape (m, d): zero-padding, or dropping the last features."""
    return torch.eye(target.shape[1], source.shape[1], dtype=torch.float64, device=source.device)


def _factor(source: torch.Tensor, target: torch.Tensor, noise: float) -> torch.Tensor:
    """The factor of `source` that comes closest to `target`; 0 where the source's norm is no more than `noise`."""
    power = source.square().sum()
    if float(power.detach()) <= noise**2:
        return torch.zeros_like(power)
    return (source * target).sum() / power


class Transform(TransformerMixin, BaseEstimator):
    """Reads and checks the input, keeps its kind and dtype; subclasses do the arithmetic."""

    invariant_to: ClassVar[frozenset[str]] = frozenset()
    """Which of `OPERATIONS` leave the output as it is."""
    fitted: ClassVar[bool] = False
    """Whether ``fit`` needs the target's anchors too."""

    def fit(self, anchors: Matrix, target_anchors: Matrix | None = None) -> Transform:
        """Learn from anchors.

        Parameters
        ----------
        anchors : array or tensor of shape (k, d)
            The anchors' embeddings in the space to be transformed.
        target_anchors : array or tensor of shape (k, m), optional
            The same samples in the target space, in the same order. Fitted maps need it.

        Raises
        ------
        SpaceError
            If a matrix is unusable, or the two do not hold the same number of anchors.
        """
        anchors = read_space(anchors, "anchors")
        if self.fitted:
            if target_anchors is None:
                raise SpaceError(f"{type(self).__name__} maps one space onto another; give target_anchors to fit")
            target_anchors = read_space(target_anchors, "target_anchors")
            if len(anchors) != len(target_anchors):
                raise SpaceError(
                    f"{len(anchors)} anchors but {len(target_anchors)} target_anchors; "
                    "give the same samples in the same order"
                )
        self.n_features_in_ = anchors.shape[1]
        self._fit(anchors, target_anchors)
        return self

    def transform(self, x: Matrix) -> Matrix:
        """Transform samples.

        Parameters
        ----------
        x : array or tensor of shape (n, d)

        Returns
        -------
        array or tensor of shape (n, m)
            Of the kind, the device and the floating-point type of `x`; half precision is widened
            to float32.

        Raises
        ------
        SpaceError
            If `x` holds no finite floating-point numbers, or its width is not the one seen in ``fit``.
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self, "n_features_in_")
        out = self._apply(self._read_samples(x))
        return out if isinstance(x, torch.Tensor) else out.numpy()

    def _read_samples(self, x: Matrix) -> torch.Tensor:
        """Unlike a space, samples may be a single one, or rows of zeros."""
        tensor = as_tensor(x, "x")
        if tensor.ndim != 2 or tensor.shape[1] != self.n_features_in_:
            raise SpaceError(
                f"x has shape {tuple(tensor.shape)}, but fit saw {self.n_features_in_} features; use the same encoder"
            )
        if not tensor.isfinite().all():
            raise SpaceError("x holds NaN or infinity; repair or drop these samples")
        return tensor

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None: ...

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError  # every subclass defines it


class Absolute(Transform):
    """The space as it is: no invariance (the tables' "Raw")."""

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Scale(Transform):
    """Unit norm per sample (paper, scale invariance). Cosine cannot see it: it only drops what cosine ignores."""

    invariant_to = frozenset({"isotropic-scale", "sample-scale"})

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return scale(x)


class Relative(Transform):
    """Similarities to the anchors (paper, rotation invariance); see `relative`.

    Parameters
    ----------
    similarity : {"cosine", "euclidean", "l1", "linf", "geodesic"}
        How a sample is compared with an anchor. Distances and angles stay positive; no score in
        this package depends on the sign of a profile.
    center : bool
        Take off the anchors' mean first.
    whiten : bool
        Whiten with the anchors' covariance first, which centres too; see `whitening`.
    shrink : float
        How far the covariance is shrunk towards a multiple of the identity, 0 to 1, when whitening.

    Notes
    -----
    What the profile is invariant to, beside reordered and negated features:

    ==================  =====================  ============================  ================================
    similarity          as it is               centred                       whitened (shrunk)
    ==================  =====================  ============================  ================================
    cosine, geodesic    orthogonal, a factor   orthogonal, translation, one  orthogonal, translation, a factor
                        per sample             factor for all
    euclidean           orthogonal,            the same                      orthogonal, translation, a factor
                        translation
    l1, linf            translation            the same                      translation, a factor
    ==================  =====================  ============================  ================================

    The plain cosine is *not* invariant to translation; centred, it loses the factor per sample
    and keeps the common one. Distances by coordinates, l1 and linf, are never invariant to
    rotation, whitened or not.

    Whitened cosine, geodesic and euclidean profiles are affine-invariant only with ``shrink=0``,
    and then exactly only if the anchors have full rank, k > d + 1, and the spaces differ by
    nothing but the affine map: unshrunk whitening blows up the directions of least variance, so
    that a few percent of noise ruin the profile, which the default ``shrink=0.1`` prevents.

    Codes that are mostly positive have cosine profiles that agree by chance alone; read the null
    beside the score.
    """

    def __init__(
        self, similarity: Similarities = "cosine", center: bool = False, whiten: bool = False, shrink: float = 0.1
    ) -> None:
        self.similarity = similarity
        self.center = center
        self.whiten = whiten
        self.shrink = shrink

    @property
    def invariant_to(self) -> frozenset[str]:
        """What the output does not depend on, for these parameters; preconditions in the class's notes."""
        directional = self.similarity in ("cosine", "geodesic")
        moved = self.center or self.whiten
        invariant = {"permutation", "sign-flip"}
        if self.similarity not in ("l1", "linf"):
            invariant |= {"orthogonal"} | ({"affine"} if self.whiten and self.shrink == 0 else set())
        if moved or not directional:
            invariant.add("translation")
        if directional or self.whiten:
            invariant.add("isotropic-scale")
        if directional and not moved:
            invariant.add("sample-scale")
        return frozenset(invariant)

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.whitening_ = whitening(anchors, self.whiten, self.shrink) if self.center or self.whiten else None
        self.anchors_ = self._moved(anchors)
        relative(self.anchors_[:1], self.anchors_[:1], self.similarity)  # an unknown one is named now

    def _moved(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.whitening_ is None else self.whitening_(x)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return relative(self._moved(x), self.anchors_.to(x), self.similarity)


class _Fitted(Transform):
    fitted = True
    map_: Map

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        mapped = self.map_(x)
        if not mapped.isfinite().all():
            raise SpaceError(f"the transformed samples leave the range of {mapped.dtype}; rescale the spaces")
        return mapped


class Translation(_Fitted):
    """The shift onto the target's mean; see `translation_map`."""

    invariant_to = frozenset({"translation"})

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.map_ = translation_map(anchors, targets)


class IsotropicScale(_Fitted):
    """The one factor that brings the source closest to the target; see `isotropic_scale_map`."""

    invariant_to = frozenset({"isotropic-scale"})

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.map_ = isotropic_scale_map(anchors, targets)


class Orthogonal(_Fitted):
    """The closest orthogonal map onto the target space; see `orthogonal_map`.

    Its invariances hold where the map is unique: cross-product of the anchors of rank min(d, m).

    Parameters
    ----------
    center : bool
        Also fit a translation; without it the map is not invariant to one.
    """

    def __init__(self, center: bool = False) -> None:
        self.center = center

    @property
    def invariant_to(self) -> frozenset[str]:
        """What the output does not depend on; translation only when centred."""
        return frozenset({"permutation", "sign-flip", "orthogonal"} | ({"translation"} if self.center else set()))

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.map_ = orthogonal_map(anchors, targets, self.center)


class Similarity(_Fitted):
    """Rotation, one factor and a shift onto the target space; see `similarity_map`.

    Its invariances hold where the rotation is unique: centred cross-product of rank min(d, m).
    """

    invariant_to = frozenset({"isotropic-scale", "translation", "permutation", "sign-flip", "orthogonal"})

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.map_ = similarity_map(anchors, targets)


class Affine(_Fitted):
    """A ridge map with intercept onto the target space (paper, affine invariance); see `affine_map`.

    Parameters
    ----------
    penalty : "gcv", "loo" or float
        The ridge penalty as a multiple of the mean squared singular value of the centred anchors,
        or the closed form that chooses it.

    Notes
    -----
    Any penalty depends on the lengths of the source's axes, so only the plain fit, penalty 0, is
    affine-invariant, and that with anchors of full rank, k > d. A chosen penalty comes close where
    it is small, that is with many anchors and little noise.
    """

    def __init__(self, penalty: Penalty = "gcv") -> None:
        self.penalty = penalty

    @property
    def invariant_to(self) -> frozenset[str]:
        """What the output does not depend on; every affine map only without penalty."""
        invariant = {"isotropic-scale", "translation", "permutation", "sign-flip", "orthogonal"}
        return frozenset(invariant | ({"affine"} if self.penalty == 0 else set()))

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.map_ = affine_map(anchors, targets, self.penalty)


class Permutation(_Fitted):
    """The matching of features that brings the source closest to the target; see `permutation_map`.

    For ReLU codes, whose features neither rotate nor change sign. Its invariance holds where the
    best matching is the only one.
    """

    invariant_to = frozenset({"permutation"})

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.map_ = permutation_map(anchors, targets)


INVARIANCES: dict[str, Transform] = {
    "absolute": Absolute(),
    "scale": Scale(),
    "relative": Relative(),
    "affine": Affine(),
    "orthogonal": Orthogonal(),
    "relative-euclidean": Relative("euclidean"),
    "relative-l1": Relative("l1"),
    "relative-linf": Relative("linf"),
    "relative-geodesic": Relative("geodesic"),
    "relative-centered": Relative(center=True),
    "relative-whitened": Relative(whiten=True),
    "translation": Translation(),
    "isotropic-scale": IsotropicScale(),
    "orthogonal+translation": Orthogonal(center=True),
    "similarity": Similarity(),
    "permutation": Permutation(),
}
"""The names that `align` and `stitch` take, with their default transform (clone before fitting)."""


def transform_named(name: str) -> Transform:
    """Look up an invariance.

    Raises
    ------
    SpaceError
        If there is none of that name; the message lists the names.
    """
    if not isinstance(name, str) or name not in INVARIANCES:
        raise SpaceError(f"unknown invariance {name!r}; choose from {', '.join(INVARIANCES)}")
    return INVARIANCES[name]
