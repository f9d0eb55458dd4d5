"""The invariances: what is factored out of a space before two spaces are compared.

Two kinds share scikit-learn's interface (``fit``, ``transform``, ``get_params``, ``Pipeline``):

- *intrinsic* transforms need one space: `Absolute`, `Scale`, `Relative`;
- *fitted* maps carry one space onto another, on anchors: `Affine`, `Orthogonal`.

Each takes numpy arrays or torch tensors and gives back the kind it got. The arithmetic stands in
pure, differentiable torch functions (`scale`, `relative`, `affine_map`, `orthogonal_map`), since
relative heads are trained through it. `invariant_to` declares what each transform's output does
not depend on; the tests hold every declaration in both directions.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from invariances.spaces import SpaceError, read_space, to_tensor

Matrix: TypeAlias = "np.ndarray | torch.Tensor"
Penalty: TypeAlias = "float | Literal['gcv']"


class Map(NamedTuple):
    """An affine map ``x -> x @ weight.T + bias`` between spaces of widths d (source) and m (target)."""

    weight: torch.Tensor
    """Shape (m, d)."""
    bias: torch.Tensor
    """Shape (m,)."""
    penalty: float
    """The ridge penalty that was used; 0 for an orthogonal map."""

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
    return x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def relative(x: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of every row to every anchor (paper, rotation invariance).

    Parameters
    ----------
    x : tensor of shape (n, d)
    anchors : tensor of shape (k, d)
        The anchors' embeddings by the same encoder.

    Returns
    -------
    tensor of shape (n, k)
        The relative representation.
    """
    return scale(x) @ scale(anchors).T


def factorise(x: torch.Tensor) -> Factor:
    """Centre the source anchors, shape (k, d), and take their thin SVD, in float64."""
    x = x.double()
    mean = x.mean(dim=0)
    left, singular, right = torch.linalg.svd(x - mean, full_matrices=False)
    kept = singular > singular[0] * max(x.shape) * torch.finfo(torch.float64).eps
    return Factor(mean, left[:, kept], singular[kept], right[kept])


def affine_map(source: torch.Tensor | Factor, target: torch.Tensor, penalty: Penalty = "gcv") -> Map:
    """Ridge regression with intercept of the target anchors on the source anchors.

    The penalty is a multiple of the mean squared singular value. ``"gcv"`` takes the minimum of
    generalized cross-validation over a logarithmic grid; its divisor counts the intercept,
    ``1 - (sum f + 1) / k``, without which the fit interpolates when k is about d + 1.

    Parameters
    ----------
    source : tensor of shape (k, d), or its `factorise`
    target : tensor of shape (k, m)
    penalty : float or "gcv"

    Returns
    -------
    Map
    """
    factor = source if isinstance(source, Factor) else factorise(source)
    target = target.double()
    target_mean = target.mean(dim=0)
    power = factor.singular.square()
    projected = factor.left.T @ (target - target_mean)
    if penalty == "gcv":
        unit = _gcv_penalty(power, projected, (target - target_mean).square().sum(), len(target))
    else:
        unit = torch.as_tensor(float(penalty), dtype=torch.float64)
    ridge = unit * power.mean()
    weight = ((factor.singular / (power + ridge)).unsqueeze(1) * projected).T @ factor.right
    return Map(weight, target_mean - weight @ factor.mean, float(ridge))


def _gcv_penalty(power: torch.Tensor, projected: torch.Tensor, total: torch.Tensor, k: int) -> torch.Tensor:
    """The grid value that minimises GCV, all candidates at once; `projected` is ``U.T @ y``.

    Residual and divisor are sums of ``1 - f``, never differences of numbers near 1: where the
    anchors have rank k - 1 both go to 0 with the penalty, and rounding noise would choose.
    """
    grid = torch.logspace(-10, 4, 113, dtype=torch.float64, device=power.device)
    ridge = grid.unsqueeze(1) * power.mean()
    shrunk = ridge / (power + ridge)
    explained = projected.square().sum(dim=1)
    unreached = k - 1 - len(power)  # directions of the target that no map of these anchors reaches
    outside = (total - explained.sum()).clamp_min(0) if unreached > 0 else torch.zeros_like(total)
    residual = shrunk.square() @ explained + outside
    divisor = (shrunk.sum(dim=1) + unreached) / k
    return grid[(residual / divisor.square()).argmin()]


def orthogonal_map(source: torch.Tensor, target: torch.Tensor, center: bool = False) -> Map:
    """Orthogonal Procrustes: the rotation (or reflection) of the source closest to the target.

    Spaces of unequal width are related by a semi-orthogonal map, which equals zero-padding the
    narrower one first. Features are never standardised: that would not be Procrustes.

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


class Transform(TransformerMixin, BaseEstimator):
    """Reads and checks the input, keeps its kind and dtype; subclasses do the arithmetic."""

    invariant_to: ClassVar[frozenset[str]] = frozenset()
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
            Of the kind and floating-point type of `x`.

        Raises
        ------
        SpaceError
            If the width differs from the one seen in ``fit``.
        """
        check_is_fitted(self, "n_features_in_")
        tensor = x if isinstance(x, torch.Tensor) else to_tensor(np.asarray(x))
        if tensor.ndim != 2 or tensor.shape[1] != self.n_features_in_:
            raise SpaceError(
                f"x has shape {tuple(tensor.shape)}, but fit saw {self.n_features_in_} features; use the same encoder"
            )
        out = self._apply(tensor)
        return out if isinstance(x, torch.Tensor) else out.numpy()

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
    """Cosine similarities to the anchors (paper, rotation invariance).

    Invariant to orthogonal maps and to any positive rescaling of single samples, *not* to
    translation. Codes that are mostly positive have relative profiles that agree by chance
    alone; read the null beside the score.
    """

    invariant_to = frozenset({"isotropic-scale", "sample-scale", "permutation", "orthogonal"})

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.anchors_ = anchors

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return relative(x, self.anchors_.to(x))


class _Fitted(Transform):
    fitted = True
    map_: Map

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.map_(x)


class Affine(_Fitted):
    """A ridge map with intercept onto the target space (paper, affine invariance); see `affine_map`.

    Parameters
    ----------
    penalty : float or "gcv"
        The ridge penalty as a multiple of the mean squared singular value of the centred anchors,
        or "gcv" to choose it in closed form.
    """

    invariant_to = frozenset({"isotropic-scale", "translation", "permutation", "orthogonal", "affine"})

    def __init__(self, penalty: Penalty = "gcv") -> None:
        self.penalty = penalty

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.map_ = affine_map(anchors, targets, self.penalty)


class Orthogonal(_Fitted):
    """The closest orthogonal map onto the target space; see `orthogonal_map`.

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
        return frozenset({"permutation", "orthogonal"} | ({"translation"} if self.center else set()))

    def _fit(self, anchors: torch.Tensor, targets: torch.Tensor | None) -> None:
        self.map_ = orthogonal_map(anchors, targets, self.center)


INVARIANCES: dict[str, Transform] = {
    "absolute": Absolute(),
    "scale": Scale(),
    "relative": Relative(),
    "affine": Affine(),
    "orthogonal": Orthogonal(),
}
"""The names that `align` and `stitch` take, with their default transform (clone before fitting)."""


def transform_named(name: str) -> Transform:
    """Look up an invariance.

    Raises
    ------
    SpaceError
        If there is none of that name; the message lists the names.
    """
    if name not in INVARIANCES:
        raise SpaceError(f"unknown invariance {name!r}; choose from {', '.join(INVARIANCES)}")
    return INVARIANCES[name]
