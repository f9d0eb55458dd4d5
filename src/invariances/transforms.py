"""The invariances: what is factored out of a space before two spaces are compared.

Two kinds share scikit-learn's interface (``fit``, ``transform``, ``get_params``, ``Pipeline``):

- *intrinsic* transforms need one space: `Absolute`, `Scale`, `Relative`;
- *fitted* maps carry one space onto another, on anchors: `Translation`, `IsotropicScale`,
  `Orthogonal`, `Similarity`, `Affine`, `Permutation`.

Each takes numpy arrays or torch tensors and gives back the kind it got. The arithmetic stands in
pure, differentiable torch functions (`invariances.relative`, `invariances.maps`, by name in
`invariances.represent`), since relative heads are trained through it; a fitted transform lets gradients
through to its samples, not to its anchors. `invariant_to` declares what each transform's output does not
depend on, in the words of `OPERATIONS`; the tests hold every declaration in both directions.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from invariances.errors import SpaceError
from invariances.maps import (
    Map,
    Penalty,
    isotropic_scale_map,
    orthogonal_map,
    permutation_map,
    similarity_map,
    translation_map,
)
from invariances.readers import as_tensor
from invariances.relative import Similarities
from invariances.represent import Invariance, absolute, affine, by_map, relative_to_anchors, unit_norm
from invariances.spaces import all_finite, read_space

__all__ = [
    "Absolute",
    "Affine",
    "IsotropicScale",
    "OPERATIONS",
    "Orthogonal",
    "Permutation",
    "Relative",
    "Scale",
    "Similarity",
    "Transform",
    "Translation",
]


_Matrix: TypeAlias = "np.ndarray | torch.Tensor"
OPERATIONS = ("isotropic-scale", "sample-scale", "translation", "permutation", "sign-flip", "orthogonal", "affine")
"""What may be done to a space: one positive factor, one positive factor per sample, a shift, features
reordered, features negated, a rotation or reflection, any invertible affine map. A transform is
invariant to an operation if its output stays the same when the operation is applied to anchors and
samples alike (of the source, for a fitted map)."""


class Transform(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Reads and checks the input, keeps its kind and dtype; `invariance` does the arithmetic."""

    invariant_to: ClassVar[frozenset[str]] = frozenset()
    """Which of `OPERATIONS` leave the output as it is."""
    fitted: ClassVar[bool] = False
    """Whether ``fit`` needs the target's anchors too."""

    @property
    def invariance(self) -> Invariance:
        """The same in torch, as `align` and `stitch` use it."""
        raise NotImplementedError  # every subclass defines it

    def fit(self, anchors: _Matrix, target_anchors: _Matrix | None = None) -> Transform:
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
        source, target = read_space(anchors, "anchors"), None
        if self.fitted:
            if target_anchors is None:
                raise SpaceError(f"{type(self).__name__} maps one space onto another; give target_anchors to fit")
            target = read_space(target_anchors, "target_anchors")
            if len(source) != len(target):
                raise SpaceError(
                    f"{len(source)} anchors but {len(target)} target_anchors; give the same samples in the same order"
                )
        self.n_features_in_ = source.shape[1]
        self.represent_ = self.invariance.represent(source, target)
        # the width of the output, which names its features (scikit-learn's get_feature_names_out)
        self._n_features_out = self.represent_(source[:1]).shape[1]
        return self

    def transform(self, x: _Matrix) -> _Matrix:
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
        out = self.represent_(self._read_samples(x))
        return out if isinstance(x, torch.Tensor) else out.numpy()

    def _read_samples(self, x: _Matrix) -> torch.Tensor:
        """Unlike a space, samples may be a single one, or rows of zeros."""
        tensor = as_tensor(x, "x")
        if tensor.ndim != 2 or tensor.shape[1] != self.n_features_in_:
            raise SpaceError(
                f"x has shape {tuple(tensor.shape)}, but fit saw {self.n_features_in_} features; use the same encoder"
            )
        if not all_finite(tensor):
            raise SpaceError("x holds NaN or infinity; repair or drop these samples")
        return tensor


class Absolute(Transform):
    """The space as it is: no invariance (the tables' "Raw")."""

    @property
    def invariance(self) -> Invariance:
        """See the base class."""
        return absolute


class Scale(Transform):
    """Unit norm per sample (paper, scale invariance). Cosine cannot see it: it only drops what cosine ignores."""

    invariant_to = frozenset({"isotropic-scale", "sample-scale"})

    @property
    def invariance(self) -> Invariance:
        """See the base class."""
        return unit_norm


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
        self.similarity: Similarities = similarity
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

    @property
    def invariance(self) -> Invariance:
        """See the base class."""
        return relative_to_anchors(self.similarity, self.center, self.whiten, self.shrink)


class _Fitted(Transform):
    fitted = True

    @property
    def map_(self) -> Map:
        """The fitted map."""
        check_is_fitted(self, "represent_")
        fitted: Any = self.represent_
        return fitted


class Translation(_Fitted):
    """The shift onto the target's mean; see `translation_map`."""

    invariant_to = frozenset({"translation"})

    @property
    def invariance(self) -> Invariance:
        """See the base class."""
        return by_map(translation_map)


class IsotropicScale(_Fitted):
    """The one factor that brings the source closest to the target; see `isotropic_scale_map`."""

    invariant_to = frozenset({"isotropic-scale"})

    @property
    def invariance(self) -> Invariance:
        """See the base class."""
        return by_map(isotropic_scale_map)


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

    @property
    def invariance(self) -> Invariance:
        """See the base class."""
        return by_map(partial(orthogonal_map, center=self.center))


class Similarity(_Fitted):
    """Rotation, one factor and a shift onto the target space; see `similarity_map`.

    Its invariances hold where the rotation is unique: centred cross-product of rank min(d, m).
    """

    invariant_to = frozenset({"isotropic-scale", "translation", "permutation", "sign-flip", "orthogonal"})

    @property
    def invariance(self) -> Invariance:
        """See the base class."""
        return by_map(similarity_map)


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
        self.penalty: Penalty = penalty

    @property
    def invariant_to(self) -> frozenset[str]:
        """What the output does not depend on; every affine map only without penalty."""
        invariant = {"isotropic-scale", "translation", "permutation", "sign-flip", "orthogonal"}
        return frozenset(invariant | ({"affine"} if self.penalty == 0 else set()))

    @property
    def invariance(self) -> Invariance:
        """See the base class."""
        return affine(self.penalty)


class Permutation(_Fitted):
    """The matching of features that brings the source closest to the target; see `permutation_map`.

    For ReLU codes, whose features neither rotate nor change sign. Its invariance holds where the
    best matching is the only one.
    """

    invariant_to = frozenset({"permutation"})

    @property
    def invariance(self) -> Invariance:
        """See the base class."""
        return by_map(permutation_map)
