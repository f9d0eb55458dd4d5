import resource
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import operation
from scipy.linalg import fractional_matrix_power, helmert, orthogonal_procrustes
from scipy.spatial import procrustes
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.pipeline import Pipeline, make_pipeline

from invariances.errors import SpaceError
from invariances.maps import (
    affine_map,
    constant_map,
    factorise,
    identity_map,
    isotropic_scale_map,
    orthogonal_map,
    permutation_map,
    similarity_map,
    translation_map,
)
from invariances.relative import SIMILARITIES, relative, scale, whitening
from invariances.represent import INVARIANCES, invariance_named
from invariances.transforms import (
    OPERATIONS,
    Absolute,
    Affine,
    IsotropicScale,
    Orthogonal,
    Permutation,
    Relative,
    Scale,
    Similarity,
    Translation,
)

RELATIVES = [
    Relative(similarity, **how)
    for similarity in ("cosine", "euclidean", "l1", "linf", "geodesic")
    for how in ({}, {"center": True}, {"whiten": True}, {"whiten": True, "shrink": 0})
]
FITTED = [
    Translation(),
    IsotropicScale(),
    Orthogonal(),
    Orthogonal(center=True),
    Similarity(),
    Affine(),
    Affine(penalty="loo"),
    Affine(penalty=0),
    Affine(penalty=0.3),
    Permutation(),
]
TRANSFORMS = [Absolute(), Scale(), *RELATIVES, *FITTED]
MAPS = [
    constant_map,
    identity_map,
    translation_map,
    isotropic_scale_map,
    orthogonal_map,
    similarity_map,
    affine_map,
    permutation_map,
]
GRID = np.logspace(-10, 4, 113)

each_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
each_fitted = pytest.mark.parametrize("transform", FITTED, ids=str)
each_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def planted(k, d=8, m=8, noise=0.1, seed=0, n=200):
    """Source anchors, noisy target anchors of a linear map with intercept, and source samples."""
    rng = np.random.default_rng(seed)
    spectrum = np.linspace(2, 0.3, d)
    weight, bias = rng.normal(size=(d, m)) / np.sqrt(d), rng.normal(size=m)
    source, samples = (rng.normal(size=(rows, d)) * spectrum + 0.5 for rows in (k, n))
    target = source @ weight + bias + noise * rng.normal(size=(k, m))
    return source, target, samples


def fit(transform, source, target):
    return clone(transform).fit(source, target) if transform.fitted else clone(transform).fit(source)


def relative_change(before, after):
    return np.linalg.norm(after - before) / np.linalg.norm(before)


SIZES = [(30, 6, 5, 40), (30, 6, 9, 3), (6, 14, 2, 40), (6, 14, 3, 3)]
"""k, d, m, n: more and fewer anchors than dimensions, wider and narrower targets, more and fewer samples."""


def has_preconditions(transform, name, k, d):
    """Whether k anchors in d dimensions can show the (non-)invariance.

    Unshrunk whitening needs k > d + 1. An unpenalised affine map is affine-invariant for k > d
    only, and with fewer anchors a chosen penalty may be so strong that the map is a constant,
    which is invariant to everything. The other preconditions hold for all `SIZES`: the anchors are
    in general position, and where a rotation is fitted there are more of them than the narrower
    space has dimensions.
    """
    unshrunk = isinstance(transform, Relative) and transform.whiten and transform.shrink == 0
    ridge = isinstance(transform, Affine) and name in ("affine", "sample-scale")
    return k > d + 1 or not (unshrunk or ridge)


@each_transform
@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.sampled_from(SIZES), dtype=st.sampled_from([np.float32, np.float64]))
def test_the_output_ignores_exactly_the_declared_operations(transform, name, seed, sizes, dtype):
    k, d, m, n = sizes
    if not has_preconditions(transform, name, k, d):
        return
    noise = 1.0 if isinstance(transform, Affine) else 0.3  # little noise, little penalty, little left to see
    source, target, samples = planted(k, d, m, noise, seed, n)
    operate = operation(name, np.random.default_rng(seed), d)
    moved = operate(source), operate(samples)
    source, target, samples, moved_source, moved_samples = (x.astype(dtype) for x in (source, target, samples, *moved))
    before = fit(transform, source, target).transform(samples)
    after = fit(transform, moved_source, target).transform(moved_samples)
    if name in transform.invariant_to:
        assert relative_change(before, after) < (1e-4 if dtype == np.float32 else 1e-7)
    else:
        assert relative_change(before, after) > 1e-2


DECLARED = {
    Absolute(): "",
    Scale(): "isotropic-scale sample-scale",
    Relative(): "isotropic-scale sample-scale permutation sign-flip orthogonal",
    Relative("geodesic", center=True): "isotropic-scale translation permutation sign-flip orthogonal",
    Relative("euclidean"): "translation permutation sign-flip orthogonal",
    Relative("linf"): "translation permutation sign-flip",
    Relative(whiten=True): "isotropic-scale translation permutation sign-flip orthogonal",
    Relative(whiten=True, shrink=0.0): "isotropic-scale translation permutation sign-flip orthogonal affine",
    Relative("l1", whiten=True, shrink=0): "isotropic-scale translation permutation sign-flip",
    Orthogonal(): "permutation sign-flip orthogonal",
    Affine(): "isotropic-scale translation permutation sign-flip orthogonal",
    Permutation(): "permutation",
}


@pytest.mark.parametrize("transform", DECLARED, ids=str)
def test_what_is_declared(transform):
    assert transform.invariant_to == set(DECLARED[transform].split())


@each_transform
def test_declared_operations_have_known_names(transform):
    assert transform.invariant_to <= set(OPERATIONS)


def test_declarations_follow_the_parameters():
    changed = Relative("euclidean").set_params(whiten=True, shrink=0)
    assert "affine" in changed.invariant_to
    assert "affine" not in changed.set_params(shrink=0.1).invariant_to


@pytest.mark.parametrize("transform", [Orthogonal(), Orthogonal(center=True), Similarity()], ids=str)
def test_with_few_anchors_a_rotation_is_invariant_on_their_span(transform):
    source, target, _ = planted(k=5, d=12, m=12)
    operate = operation("orthogonal", np.random.default_rng(1), 12)
    before, after = (fit(transform, x, target).transform(x) for x in (source, operate(source)))
    assert relative_change(before, after) < 1e-7


def test_few_percent_of_noise_ruin_unshrunk_whitening_only():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 32)) * np.arange(1, 33) ** -2.0 @ ortho_group.rvs(32, random_state=rng)
    y = 1.7 * x @ ortho_group.rvs(32, random_state=rng) + 3
    noisy = y + 0.05 * np.sqrt(y.var(axis=0).mean()) * rng.normal(size=y.shape)

    def agreement(shrink):
        profiles = [Relative(whiten=True, shrink=shrink).fit(z[:300]).transform(z[300:]) for z in (x, noisy)]
        return np.mean([cosine_similarity([a], [b]) for a, b in zip(*profiles, strict=True)])

    assert agreement(0) < 0.5
    assert agreement(0.1) > 0.97


@each_transform
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_output_is_of_the_kind_and_dtype_of_the_input(transform, dtype):
    source, target, samples = (x.astype(dtype) for x in planted(40))
    tensors = [torch.from_numpy(x) for x in (source, target, samples)]
    array = fit(transform, source, target).transform(samples)
    tensor = fit(transform, *tensors[:2]).transform(tensors[2])
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert array.dtype == dtype
    assert tensor.dtype == tensors[0].dtype
    np.testing.assert_array_equal(array, tensor.numpy())


@each_transform
def test_half_precision_is_widened_to_single(transform):
    source, target, samples = (x.astype(np.float16) for x in planted(40))
    wide = fit(transform, source.astype(np.float32), target.astype(np.float32)).transform(samples.astype(np.float32))
    array = fit(transform, source, target).transform(samples)
    tensor = fit(transform, *map(torch.from_numpy, (source, target))).transform(torch.from_numpy(samples))
    assert array.dtype == np.float32
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(array, wide)
    np.testing.assert_array_equal(tensor.numpy(), wide)


@each_transform
def test_single_precision_agrees_with_double(transform):
    source, target, samples = planted(40)
    double = fit(transform, source, target).transform(samples)
    single = fit(transform, *(x.astype(np.float32) for x in (source, target))).transform(samples.astype(np.float32))
    assert relative_change(double, single) < 1e-5


@each_transform
def test_fitting_on_double_and_transforming_single_keeps_single(transform):
    source, target, samples = planted(40)
    assert fit(transform, source, target).transform(samples.astype(np.float32)).dtype == np.float32


@each_transform
def test_the_input_is_not_changed(transform):
    source, target, samples = planted(40)
    kept = [x.copy() for x in (source, target, samples)]
    fit(transform, source, target).transform(samples)
    for x, copy in zip((source, target, samples), kept, strict=True):
        np.testing.assert_array_equal(x, copy)


@each_transform
def test_clone_keeps_parameters_and_forgets_the_fit(transform):
    source, target, samples = planted(40)
    copy = clone(fit(transform, source, target))
    assert type(copy) is type(transform)
    assert copy.get_params() == transform.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(samples)


@pytest.mark.parametrize(
    ("transform", "params"),
    [
        (Affine(), {"penalty": 0.5}),
        (Orthogonal(), {"center": True}),
        (Relative(), {"similarity": "l1"}),
        (Relative(), {"center": True}),
        (Relative("euclidean"), {"whiten": True}),
        (Relative(whiten=True), {"shrink": 0.7}),
    ],
)
def test_parameters_can_be_read_and_set(transform, params):
    source, target, samples = planted(40)
    changed = clone(transform).set_params(**params)
    assert changed.get_params() == {**transform.get_params(), **params}
    assert clone(changed).get_params() == changed.get_params()
    before = fit(transform, source, target).transform(samples)
    assert relative_change(before, fit(changed, source, target).transform(samples)) > 1e-3


@each_transform
def test_fit_transform_is_fit_then_transform(transform):
    source, target, _ = planted(40)
    expected = fit(transform, source, target).transform(source)
    np.testing.assert_array_equal(clone(transform).fit_transform(source, target), expected)
    if not transform.fitted:
        np.testing.assert_array_equal(clone(transform).fit_transform(source), expected)


@each_transform
def test_what_is_prepared_of_a_source_serves_any_target_as_fit_does(transform):
    source, _, samples = planted(40)
    found = transform.invariance
    prepared = found.prepare(torch.from_numpy(source))
    for seed, width in ((0, 8), (1, 5)):
        target = np.random.default_rng(seed).normal(size=(40, width)) + source[:, :width]
        represent = found.fit(prepared, torch.from_numpy(target) if transform.fitted else None)
        alone = clone(transform).fit(source, target).transform(samples)
        np.testing.assert_allclose(represent(torch.from_numpy(samples)), alone, rtol=1e-12, atol=1e-12)


@each_fitted
def test_a_map_knows_the_pairs_of_anchors_and_not_their_order(transform):
    source, target, samples = planted(40)
    order = np.random.default_rng(1).permutation(40)
    shuffled = clone(transform).fit(source[order], target).transform(samples)
    other_side = clone(transform).fit(source, target[np.argsort(order)]).transform(samples)
    np.testing.assert_allclose(other_side, shuffled)
    together = clone(transform).fit(source[order], target[order]).transform(samples)
    alone = clone(transform).fit(source, target).transform(samples)
    np.testing.assert_allclose(alone, together)
    if not isinstance(transform, Translation):  # which knows the means alone
        assert relative_change(alone, shuffled) > 0.05


@each_transform
def test_a_pipeline_of_one_is_the_transform(transform):
    source, target, samples = planted(40)
    pipeline = make_pipeline(clone(transform))
    pipeline.fit(*((source, target) if transform.fitted else (source,)))
    np.testing.assert_array_equal(pipeline.transform(samples), fit(transform, source, target).transform(samples))


def test_a_pipeline_of_intrinsic_transforms_is_their_composition():
    source, _, samples = planted(40)
    pipeline = Pipeline([("scale", Scale()), ("relative", Relative())]).fit(source)
    np.testing.assert_allclose(pipeline.transform(samples), cosine_similarity(samples, source), atol=1e-12)


def test_a_pipeline_may_end_in_a_fitted_map():
    source, target, samples = planted(40)
    pipeline = Pipeline([("scale", Scale()), ("affine", Affine(penalty=0.1))]).fit(source, target)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (source, samples)]
    expected = Affine(penalty=0.1).fit(unit[0], target).transform(unit[1])
    np.testing.assert_allclose(pipeline.transform(samples), expected, atol=1e-10)
    assert pipeline.set_params(affine__penalty=2.0).get_params()["affine__penalty"] == 2.0


NAMED = {
    "absolute": Absolute(),
    "scale": Scale(),
    "relative": Relative(),
    "affine": Affine("gcv"),
    "orthogonal": Orthogonal(),
    "relative-euclidean": Relative("euclidean"),
    "relative-l1": Relative("l1"),
    "relative-linf": Relative("linf"),
    "relative-geodesic": Relative("geodesic"),
    "relative-centered": Relative(center=True),
    "relative-whitened": Relative(whiten=True, shrink=0.1),
    "translation": Translation(),
    "isotropic-scale": IsotropicScale(),
    "orthogonal+translation": Orthogonal(center=True),
    "similarity": Similarity(),
    "permutation": Permutation(),
}


def test_every_invariance_has_a_transform_that_does_the_same():
    source, target, samples = planted(40)
    assert list(INVARIANCES) == list(NAMED)
    for name, transform in NAMED.items():
        found = INVARIANCES[name]
        given = torch.from_numpy(source) if found.anchored else None
        represent = found.represent(given, torch.from_numpy(target) if found.fitted else None)
        expected = fit(transform, source, target).transform(samples)
        np.testing.assert_array_equal(represent(torch.from_numpy(samples)), expected, err_msg=name)
        assert found.fitted == transform.fitted


def test_an_invariance_is_looked_up_by_its_name():
    assert invariance_named("similarity") is INVARIANCES["similarity"]
    with pytest.raises(SpaceError, match="unknown invariance 'rotation'; choose from absolute, scale, relative,"):
        invariance_named("rotation")


def tensors(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.normal(size=shape) + 0.3).requires_grad_() for shape in shapes]


def test_the_gradient_of_scale_is_right():
    assert torch.autograd.gradcheck(scale, tensors((5, 4)))


@each_similarity
@pytest.mark.parametrize(("n", "k", "d"), [(5, 3, 4), (2, 6, 3)])
def test_the_gradient_of_relative_is_right(similarity, n, k, d):
    # random points: no zero distances, no angle of 0 or pi, no ties between coordinates
    assert torch.autograd.gradcheck(lambda x, a: relative(x, a, similarity), tensors((n, d), (k, d)))


@pytest.mark.parametrize(("k", "d", "shrink"), [(9, 3, 0), (9, 3, 0.1), (4, 6, 0.1), (2, 5, 0.3), (4, 3, 1)])
def test_the_gradient_of_whitening_is_right(k, d, shrink):
    # k <= d leaves several equal eigenvalues, where the derivative of the eigenvectors does not exist
    assert torch.autograd.gradcheck(lambda x, a: whitening(a, shrink=shrink)(x), tensors((2, d), (k, d)))


def test_the_gradient_of_centring_is_right():
    assert torch.autograd.gradcheck(lambda x, a: whitening(a, whiten=False)(x), tensors((2, 3), (4, 3)))


@pytest.mark.parametrize("fit_map", [f for f in MAPS if f not in (affine_map, permutation_map)])
def test_the_gradient_of_a_map_is_right(fit_map):
    def mapped(source, target, x):
        return fit_map(source, target)(x)

    assert torch.autograd.gradcheck(mapped, tensors((9, 3), (9, 3), (2, 3)))


def test_the_gradient_of_a_ridge_map_is_right():
    def mapped(source, target, x):
        weight, bias, _ = affine_map(factorise(source), target, 0)
        return x @ weight.T + bias

    assert torch.autograd.gradcheck(mapped, tensors((9, 3), (9, 2), (2, 3)))


@each_similarity
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_a_sample_is_an_anchor_or_opposite_to_one(similarity, dtype):
    x = torch.tensor([[1.0, 2, 3], [0.3, 0, 0.4], [-1, -2, -3]], dtype=dtype, requires_grad=True)
    anchors = x.detach().clone().requires_grad_()
    relative(x, anchors, similarity).square().sum().backward()
    assert x.grad.isfinite().all()
    assert anchors.grad.isfinite().all()


def test_a_relative_head_trains_through_the_transform():
    source, samples = (torch.from_numpy(a) for a in planted(40)[::2])
    samples.requires_grad_()
    Relative().fit(source).transform(samples).square().sum().backward()
    assert samples.grad.abs().sum() > 0


@pytest.mark.parametrize("transform", [Relative(whiten=True), Similarity()], ids=str)
def test_arrays_may_follow_anchors_that_carry_gradients(transform):
    source, target, samples = planted(40)
    carrying = [torch.from_numpy(x).requires_grad_() for x in (source, target)]
    expected = fit(transform, source, target).transform(samples)
    np.testing.assert_array_equal(fit(transform, *carrying).transform(samples), expected)


def test_absolute_changes_nothing():
    source, _, samples = planted(40)
    np.testing.assert_array_equal(Absolute().fit(source).transform(samples), samples)


def test_scale_gives_unit_rows_of_the_same_direction():
    _, _, samples = planted(40)
    unit = scale(torch.from_numpy(samples)).numpy()
    np.testing.assert_allclose(np.square(unit).sum(axis=1), 1)
    np.testing.assert_allclose(np.diag(cosine_similarity(unit, samples)), 1)


def test_a_zero_row_stays_zero_and_finite():
    assert torch.equal(scale(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_relative_is_the_cosine_similarity_to_the_anchors():
    source, _, samples = planted(15)
    out = Relative().fit(source).transform(samples)
    assert out.shape == (200, 15)
    np.testing.assert_allclose(out, cosine_similarity(samples, source), atol=1e-12)


@each_similarity
@each_dtype
@pytest.mark.parametrize(("n", "k", "d"), [(200, 15, 8), (30, 60, 40), (1, 2, 1)])
def test_every_similarity_is_its_formula(similarity, dtype, n, k, d):
    rng = np.random.default_rng(n)
    x, anchors = (rng.normal(size=(rows, d)).astype(dtype) for rows in (n, k))
    expected = {
        "cosine": cosine_similarity(x, anchors),
        "euclidean": cdist(x, anchors, "euclidean"),
        "l1": cdist(x, anchors, "cityblock"),
        "linf": cdist(x, anchors, "chebyshev"),
        "geodesic": np.arccos(np.clip(cosine_similarity(x.astype(float), anchors), -1, 1)),
    }[similarity]
    out = relative(torch.from_numpy(x), torch.from_numpy(anchors), similarity)
    assert out.numpy().dtype == dtype
    tolerance = 3e-6 if dtype == np.float32 else 1e-8
    np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)


@each_dtype
@pytest.mark.parametrize("similarity", ["euclidean", "l1", "linf"])
@pytest.mark.parametrize("away", [1e-6, 1e-3])
def test_neighbours_far_from_the_origin_are_told_apart(similarity, dtype, away):
    # 100 and more rows: torch's own default multiplies matrices then, and is off by 0.1 here
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(100, 50)) + 30).astype(dtype)
    anchors = (x + away * rng.normal(size=x.shape)).astype(dtype)
    out = relative(torch.from_numpy(x), torch.from_numpy(anchors), similarity).numpy()
    p = {"euclidean": 2, "l1": 1, "linf": np.inf}[similarity]
    exact = np.linalg.norm(anchors.astype(float) - x.astype(float), ord=p, axis=1)
    np.testing.assert_allclose(np.diag(out), exact, rtol=1e-5)
    assert (np.diag(relative(torch.from_numpy(x), torch.from_numpy(x.copy()), similarity)) == 0).all()


@each_dtype
def test_geodesic_is_accurate_at_both_ends(dtype):
    angles = np.array([0, 1e-6, 1e-4, 0.01, 1, 3, 3.14])
    around = np.array([np.cos(angles), np.sin(angles)], dtype=dtype).T
    start = np.array([[1, 0], [-1, 0]], dtype=dtype)
    out = relative(torch.from_numpy(around), torch.from_numpy(start), "geodesic").numpy()
    np.testing.assert_allclose(out[:, 0], angles, atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(out[:, 1], np.pi - angles, atol=1e-6, rtol=1e-5)


@each_dtype
def test_geodesic_of_a_rescaled_anchor_is_zero(dtype):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(50, 300)).astype(dtype))
    assert float(relative(3.7 * x, x, "geodesic").diagonal().abs().max()) < 1e-6


@pytest.mark.parametrize("similarity", ["euclidean", "l1", "linf", "geodesic"])
def test_memory_is_bounded(similarity):
    x, anchors = (torch.randn(rows, 200, requires_grad=True) for rows in (1500, 800))  # n k d floats: 960 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    relative(x, anchors, similarity).sum().backward()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@each_similarity
def test_relative_keeps_half_precision(similarity):
    x, anchors = torch.randn(6, 4), torch.randn(3, 4)
    out = relative(x.bfloat16(), anchors.bfloat16(), similarity)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), relative(x, anchors, similarity), atol=0.05, rtol=0.05)


def test_an_unknown_similarity_is_named():
    x = torch.eye(3)
    message = "unknown similarity 'manhattan'; choose from cosine, euclidean, l1, linf, geodesic"
    with pytest.raises(SpaceError, match=message):
        relative(x, x, "manhattan")
    with pytest.raises(SpaceError, match=message):
        Relative("manhattan").fit(planted(10)[0])


# Centring and whitening ------------------------------------------------------------------------


def shrunk_covariance(anchors, shrink):
    covariance = np.cov(anchors.T, bias=True)
    return (1 - shrink) * covariance + shrink * np.trace(covariance) / len(covariance) * np.eye(len(covariance))


@pytest.mark.parametrize(("k", "d", "shrink"), [(50, 6, 0), (50, 6, 0.1), (50, 6, 1), (5, 9, 0.1), (9, 9, 0.5)])
def test_whitening_is_the_inverse_root_of_the_shrunk_covariance(k, d, shrink):
    anchors, _, samples = planted(k, d)
    expected = fractional_matrix_power(shrunk_covariance(anchors, shrink), -0.5)
    step = whitening(torch.from_numpy(anchors), shrink=shrink)
    np.testing.assert_allclose(step.weight, expected, atol=1e-9)
    moved = step(torch.from_numpy(samples))
    np.testing.assert_allclose(moved, (samples - anchors.mean(axis=0)) @ expected, atol=1e-9)


def test_unshrunk_whitening_makes_the_anchors_covariance_the_identity():
    anchors = torch.from_numpy(planted(50, 6)[0])
    np.testing.assert_allclose(np.cov(whitening(anchors, shrink=0)(anchors).T, bias=True), np.eye(6), atol=1e-10)


@each_similarity
@pytest.mark.parametrize("how", [{"center": True}, {"whiten": True}, {"whiten": True, "shrink": 0}], ids=str)
def test_relative_compares_what_was_centred_and_whitened(similarity, how):
    anchors, _, samples = planted(30, 5)
    weight = fractional_matrix_power(shrunk_covariance(anchors, how.get("shrink", 0.1)), -0.5)
    moved = [(x - anchors.mean(axis=0)) @ (weight if "whiten" in how else np.eye(5)) for x in (samples, anchors)]
    expected = Relative(similarity).fit(moved[1]).transform(moved[0])
    out = Relative(similarity, **how).fit(anchors).transform(samples)
    np.testing.assert_allclose(out, expected, atol=1e-9)


@pytest.mark.parametrize("case", ["few anchors", "constant feature", "repeated feature"])
def test_a_singular_covariance_is_not_whitened_unshrunk(case):
    anchors, _, samples = planted(6 if case == "few anchors" else 40)
    if case == "constant feature":
        anchors[:, 2] = 0.7
    if case == "repeated feature":
        anchors[:, 2] = anchors[:, 5]
    with pytest.raises(SpaceError, match=r"covariance is singular in 8 dimensions .*; set shrink above 0"):
        Relative(whiten=True, shrink=0).fit(anchors)
    assert np.isfinite(Relative(whiten=True).fit(anchors).transform(samples)).all()


@pytest.mark.parametrize("shrink", [-0.1, 1.5, np.nan, "0.1", None, True])
def test_an_impossible_shrinkage_is_named(shrink):
    with pytest.raises(SpaceError, match=r"^shrink is .*; give a number from 0 \(no shrinkage\) to 1$"):
        Relative(whiten=True, shrink=shrink).fit(planted(40)[0])


# Affine maps -----------------------------------------------------------------------------------


def mean_square(source):
    singular = np.linalg.svd(source - source.mean(axis=0), compute_uv=False)
    return np.square(singular[singular > 1e-10 * singular[0]]).mean()


@pytest.mark.parametrize("penalty", [1e-3, 0.3, 5.0])
@pytest.mark.parametrize(("k", "d", "m"), [(40, 8, 8), (40, 8, 3), (60, 5, 9), (12, 20, 4), (9, 8, 8)])
def test_affine_is_sklearns_ridge(k, d, m, penalty):
    source, target, samples = planted(k, d, m)
    ridge = Ridge(alpha=penalty * mean_square(source)).fit(source, target)
    affine = Affine(penalty=penalty).fit(source, target)
    np.testing.assert_allclose(affine.map_.weight, ridge.coef_, atol=1e-9)
    np.testing.assert_allclose(affine.map_.bias, ridge.intercept_, atol=1e-9)
    np.testing.assert_allclose(affine.transform(samples), ridge.predict(samples), atol=1e-9)
    assert affine.map_.penalty == pytest.approx(ridge.alpha)


@pytest.mark.parametrize(("k", "d"), [(40, 8), (6, 20)])
def test_without_penalty_affine_is_least_squares_of_least_norm(k, d):
    source, target, samples = planted(k, d)
    weight = np.linalg.pinv(source - source.mean(axis=0)) @ (target - target.mean(axis=0))
    expected = (samples - source.mean(axis=0)) @ weight + target.mean(axis=0)
    np.testing.assert_allclose(Affine(penalty=0).fit(source, target).transform(samples), expected, atol=1e-9)


def test_affine_finds_a_planted_map():
    rng = np.random.default_rng(3)
    source, samples, weight, bias = (rng.normal(size=s) for s in ((50, 6), (30, 6), (6, 9), 9))
    mapped = Affine().fit(source, source @ weight + bias).transform(samples)
    np.testing.assert_allclose(mapped, samples @ weight + bias, atol=1e-4)


def test_a_duplicated_feature_does_not_break_the_plain_fit():
    source, target, samples = planted(40, d=5)
    twice = [np.hstack([x, x[:, :2]]) for x in (source, samples)]
    once = Affine(penalty=0).fit(source, target).transform(samples)
    np.testing.assert_allclose(Affine(penalty=0).fit(twice[0], target).transform(twice[1]), once, atol=1e-8)


def test_one_factorisation_serves_all_targets():
    source, target, samples = (torch.from_numpy(x) for x in planted(40))
    for y in (target, target.square()):
        torch.testing.assert_close(affine_map(factorise(source), y)(samples), affine_map(source, y)(samples))


def gcv_by_hat_matrix(source, target, ridge):
    """The score of generalized cross-validation, with the intercept's row in the hat matrix."""
    k = len(source)
    centred = source - source.mean(axis=0)
    hat = centred @ np.linalg.solve(centred.T @ centred + ridge * np.eye(centred.shape[1]), centred.T) + 1 / k
    return np.square(target - hat @ target).sum() / (1 - np.trace(hat) / k) ** 2


@pytest.mark.parametrize("noise", [0.05, 0.5, 5.0])
@pytest.mark.parametrize(("k", "d", "m"), [(40, 8, 5), (40, 30, 5), (70, 64, 1), (200, 10, 20)])
def test_gcv_takes_the_penalty_of_the_brute_force_minimum(k, d, m, noise):
    source, target, _ = planted(k, d, m, noise)
    scores = [gcv_by_hat_matrix(source, target, g * mean_square(source)) for g in GRID]
    chosen = Affine().fit(source, target).map_.penalty / mean_square(source)
    assert chosen == pytest.approx(GRID[np.argmin(scores)], rel=1e-6)


def explained(predicted, truth):
    return 1 - np.square(predicted - truth).sum() / np.square(truth - truth.mean(axis=0)).sum()


SPECTRA = {
    "flat": np.ones(64),
    "linear": np.linspace(2, 0.3, 64),
    "power law": 1 / np.arange(1, 65),
    "steep": np.exp(-np.arange(64) / 8),
}


def shortfalls(k, seed, noise, spectrum, source_noise):
    """How much held-out explained variance GCV and leave-one-out give away to the best penalty of a fine grid."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(k + 300, 64)) * SPECTRA[spectrum]
    y = x @ rng.normal(size=(64, 64)) / 8
    y = y + noise * y.std() * rng.normal(size=y.shape)
    x = x + source_noise * x.std() * rng.normal(size=x.shape)
    source, target = factorise(torch.from_numpy(x[:k])), torch.from_numpy(y[:k])

    def held_out(penalty):
        return explained(affine_map(source, target, penalty)(torch.from_numpy(x[k:])).numpy(), y[k:])

    best = max(held_out(penalty) for penalty in np.logspace(-6, 3, 73))
    return [best - held_out(score) for score in ("gcv", "loo")]


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("noise", [0, 0.1, 1.0])
@pytest.mark.parametrize("k", [62, 64, 65, 66, 128])
def test_a_chosen_penalty_is_as_good_as_the_best_where_plain_fits_interpolate(k, noise, spectrum):
    assert np.max(shortfalls(k, 0, noise, spectrum, source_noise=noise)) < 0.01
    assert np.max(shortfalls(k, 1, noise, spectrum, source_noise=0)) < 0.01


@pytest.mark.parametrize("center", [False, True])
def test_orthogonal_is_scipys_procrustes(center):
    source, target, samples = planted(40)
    means = (source.mean(axis=0), target.mean(axis=0)) if center else (0, 0)
    rotation, _ = orthogonal_procrustes(source - means[0], target - means[1])
    fitted = Orthogonal(center=center).fit(source, target)
    np.testing.assert_allclose(fitted.map_.weight, rotation.T, atol=1e-10)
    np.testing.assert_allclose(fitted.transform(samples), (samples - means[0]) @ rotation + means[1], atol=1e-10)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("d", "m"), [(8, 8), (5, 8), (8, 5)])
def test_the_orthogonal_weight_has_orthonormal_rows_or_columns(d, m, center):
    weight = Orthogonal(center=center).fit(*planted(40, d, m)[:2]).map_.weight.numpy()
    assert weight.shape == (m, d)
    gram = weight @ weight.T if m <= d else weight.T @ weight
    np.testing.assert_allclose(gram, np.eye(min(d, m)), atol=1e-12)


@pytest.mark.parametrize(("d", "m"), [(5, 8), (8, 5)])
def test_unequal_widths_equal_zero_padding_then_dropping(d, m):
    source, target, samples = planted(40, d, m)
    pad_x, pad_y = ((0, 0), (0, max(0, m - d))), ((0, 0), (0, max(0, d - m)))
    rotation, _ = orthogonal_procrustes(np.pad(source, pad_x), np.pad(target, pad_y))
    expected = (np.pad(samples, pad_x) @ rotation)[:, :m]
    np.testing.assert_allclose(Orthogonal().fit(source, target).transform(samples), expected, atol=1e-10)


@pytest.mark.parametrize("center", [False, True])
def test_orthogonal_finds_a_planted_rotation(center):
    source, _, samples = planted(40)
    rotation, shift = ortho_group.rvs(8, random_state=1), center * np.arange(8.0)
    mapped = Orthogonal(center=center).fit(source, source @ rotation + shift).transform(samples)
    np.testing.assert_allclose(mapped, samples @ rotation + shift, atol=1e-10)


# The smaller classes of maps --------------------------------------------------------------------


def padded(x, width):
    """Zero-padded to a width, or cut to it."""
    return np.pad(x, ((0, 0), (0, max(0, width - x.shape[1]))))[:, :width]


def plant(name, x, seed=0):
    """Targets that are exactly a map of the class of the source."""
    rng = np.random.default_rng(seed)
    d = x.shape[1]
    rotation, shift = ortho_group.rvs(d, random_state=rng), rng.normal(size=d)
    return {
        "translation": lambda: x + shift,
        "isotropic-scale": lambda: -0.37 * x,
        "orthogonal": lambda: x @ rotation,
        "orthogonal+translation": lambda: x @ rotation + shift,
        "similarity": lambda: 2.6 * x @ rotation + shift,
        "permutation": lambda: x[:, rng.permutation(d)],
    }[name]()


CLASSES = ["translation", "isotropic-scale", "orthogonal", "orthogonal+translation", "similarity", "permutation"]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("k", [9, 40])
def test_a_planted_map_is_found(name, k):
    both = planted(k, d=8, n=100)
    x = np.vstack([both[0], both[2]])
    y = plant(name, x)
    mapped = clone(NAMED[name]).fit(x[:k], y[:k]).transform(x[k:])
    np.testing.assert_allclose(mapped, y[k:], atol=1e-9)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("planted_class", CLASSES)
def test_a_class_reaches_what_it_contains_and_nothing_else(name, planted_class):
    contains = {
        "translation": {"translation"},
        "isotropic-scale": {"isotropic-scale"},
        "orthogonal": {"orthogonal", "permutation"},
        "orthogonal+translation": {"orthogonal", "permutation", "translation", "orthogonal+translation"},
        "similarity": set(CLASSES),
        "permutation": {"permutation"},
    }[name]
    x = planted(40)[0]
    y = plant(planted_class, x)
    error = relative_change(y, clone(NAMED[name]).fit(x, y).transform(x))
    assert error < 1e-9 if planted_class in contains else error > 0.05


@pytest.mark.parametrize(("d", "m"), [(6, 6), (4, 7), (7, 4)])
def test_constant_identity_and_translation_are_the_means(d, m):
    source, target, samples = planted(20, d, m)
    x, y, z = map(torch.from_numpy, (source, target, samples))
    np.testing.assert_allclose(constant_map(x, y)(z), np.tile(target.mean(axis=0), (200, 1)), atol=1e-12)
    np.testing.assert_array_equal(identity_map(x, y)(z), padded(samples, m))
    shift = target.mean(axis=0) - padded(source, m).mean(axis=0)
    np.testing.assert_allclose(translation_map(x, y)(z), padded(samples, m) + shift, atol=1e-12)


@pytest.mark.parametrize(("d", "m"), [(6, 6), (4, 7), (7, 4)])
def test_the_isotropic_factor_is_least_squares(d, m):
    source, target, samples = planted(20, d, m)
    factor = np.linalg.lstsq(padded(source, m).reshape(-1, 1), target.ravel(), rcond=None)[0]
    out = IsotropicScale().fit(source, target).transform(samples)
    np.testing.assert_allclose(out, factor * padded(samples, m), atol=1e-12)


def test_similarity_leaves_scipys_procrustes_disparity():
    source, target, _ = planted(40, noise=2.0)
    mapped = Similarity().fit(source, target).transform(source)
    assert 1 - explained(mapped, target) == pytest.approx(procrustes(target, source)[2], rel=1e-9)


@pytest.mark.parametrize(("d", "m"), [(6, 6), (4, 7), (7, 4)])
def test_similarity_is_the_centred_rotation_with_its_least_squares_factor(d, m):
    source, target, samples = planted(30, d, m, noise=1.0)
    rotation = Orthogonal(center=True).fit(source, target).map_.weight.numpy().T
    turned, centred = (source - source.mean(axis=0)) @ rotation, target - target.mean(axis=0)
    factor = np.linalg.lstsq(turned.reshape(-1, 1), centred.ravel(), rcond=None)[0]
    expected = factor * (samples - source.mean(axis=0)) @ rotation + target.mean(axis=0)
    np.testing.assert_allclose(Similarity().fit(source, target).transform(samples), expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("d", "m"), [(5, 5), (3, 5), (5, 3), (1, 4)])
def test_permutation_is_the_best_of_all_matchings(d, m, seed):
    source, target, samples = planted(20, d, m, noise=2.0, seed=seed)
    wide = max(d, m)
    orders = [list(order) for order in permutations(range(wide))]
    errors = [np.square(padded(source, wide)[:, order] - padded(target, wide)).sum() for order in orders]
    expected = padded(samples, wide)[:, orders[np.argmin(errors)]][:, :m]
    np.testing.assert_array_equal(Permutation().fit(source, target).transform(samples), expected)


def test_permutation_knows_no_signs():
    source = planted(40)[0]
    weight = Permutation().fit(source, -source).map_.weight
    assert set(weight.unique().tolist()) == {0.0, 1.0}
    assert (weight.sum(dim=0) == 1).all()
    assert (weight.sum(dim=1) == 1).all()


@pytest.mark.parametrize("fit_map", MAPS)
@pytest.mark.parametrize("row", [[0, 0, 0, 0, 0], [0.1] * 5, [3e5 / 7, -1 / 3, 0, 1e-7, 0.7]], ids=str)
def test_a_constant_source_gives_finite_maps(fit_map, row):
    source = torch.tensor([row] * 23, dtype=torch.float64)  # centring leaves round-off of it
    target = torch.from_numpy(planted(23, m=4)[1])
    weight, bias, penalty = fit_map(source, target)
    assert weight.isfinite().all()
    assert bias.isfinite().all()
    assert np.isfinite(penalty)
    if fit_map in (similarity_map, affine_map):  # the factor is 0 and the mean is left
        np.testing.assert_array_equal(weight, 0)
        np.testing.assert_allclose(bias, target.mean(dim=0))


def test_the_isotropic_factor_of_a_zero_source_is_zero():
    assert (isotropic_scale_map(torch.zeros(9, 4), torch.randn(9, 4)).weight == 0).all()


@pytest.mark.parametrize("fit_map", MAPS)
def test_maps_are_in_double_precision_whatever_they_are_fitted_on(fit_map):
    source, target = (torch.from_numpy(x) for x in planted(20, d=5, m=4)[:2])
    double, single = fit_map(source, target), fit_map(source.float(), target.float())
    assert single.weight.dtype == single.bias.dtype == torch.float64
    assert double.weight.shape == (4, 5)
    torch.testing.assert_close(single.weight, double.weight, atol=1e-4, rtol=1e-4)


# Bad input -------------------------------------------------------------------------------------


@each_transform
@pytest.mark.parametrize("bad", ["NaN", "infinity"])
def test_unusable_samples_are_named(transform, bad):
    source, target, samples = planted(40)
    samples[7, 1] = np.nan if bad == "NaN" else -np.inf
    with pytest.raises(SpaceError, match=r"^x holds NaN or infinity; repair or drop these samples$"):
        fit(transform, source, target).transform(samples)


@pytest.mark.parametrize("x", [np.ones((3, 8), dtype=int), torch.ones(3, 8, dtype=torch.int64)])
def test_samples_that_are_no_floats_are_named(x):
    with pytest.raises(SpaceError, match=r"^x has dtype .*; give floating-point numbers"):
        Scale().fit(planted(40)[0]).transform(x)


def test_one_sample_and_a_row_of_zeros_may_be_transformed():
    source = planted(40)[0]
    assert (Relative().fit(source).transform(np.zeros((1, 8))) == 0).all()


@pytest.mark.parametrize("penalty", ["best", -1, -1e-9, np.nan, np.inf, True, None, [1.0]])
def test_an_impossible_penalty_is_named(penalty):
    with pytest.raises(SpaceError, match=r"^penalty is .*; give 'gcv', 'loo' or a finite number of at least 0$"):
        Affine(penalty=penalty).fit(*planted(40)[:2])


@each_transform
def test_another_width_is_refused(transform):
    source, target, samples = planted(40)
    fitted = fit(transform, source, target)
    for x in (samples[:, :-1], samples[0], samples[None]):
        with pytest.raises(SpaceError, match="but fit saw 8 features; use the same encoder"):
            fitted.transform(x)


@each_transform
def test_transform_needs_a_fit(transform):
    with pytest.raises(NotFittedError):
        clone(transform).transform(planted(40)[2])


@each_fitted
def test_a_fitted_map_needs_as_many_target_anchors(transform):
    source, target, _ = planted(40)
    with pytest.raises(SpaceError, match="maps one space onto another; give target_anchors"):
        clone(transform).fit(source)
    with pytest.raises(SpaceError, match="40 anchors but 39 target_anchors; give the same samples"):
        clone(transform).fit(source, target[:-1])


@each_transform
def test_unusable_anchors_are_named(transform):
    source, target, _ = planted(40)
    bad = source.copy()
    bad[4] = np.nan
    with pytest.raises(SpaceError, match=r"^anchors: 1 row.s. hold NaN"):
        fit(transform, bad, target)
    if transform.fitted:
        with pytest.raises(SpaceError, match=r"^target_anchors: 1 row.s. hold NaN"):
            fit(transform, source, bad)


def gcv_without_cancellation(source, target, ridge):
    basis = helmert(len(source))  # what the intercept leaves
    left = np.linalg.inv(basis @ source @ source.T @ basis.T + ridge * np.eye(len(basis)))
    return np.square(left @ basis @ target).sum() / np.trace(left) ** 2


@pytest.mark.parametrize("noise", [0.3, 1.0])
@pytest.mark.parametrize(("k", "d", "m"), [(20, 30, 5), (64, 64, 8), (65, 64, 8), (40, 8, 5)])
def test_gcv_takes_the_brute_force_minimum_in_every_regime(k, d, m, noise):
    for seed in range(5):
        source, target, _ = planted(k, d, m, noise, seed)
        scores = [gcv_without_cancellation(source, target, g * mean_square(source)) for g in GRID]
        chosen = Affine().fit(source, target).map_.penalty / mean_square(source)
        assert chosen == pytest.approx(GRID[np.argmin(scores)], rel=1e-6)


def loo_by_refitting(source, target, ridge):
    """Sum of squared errors of each sample under the map fitted on the others."""
    k, d = source.shape
    total = 0
    for i in range(k):
        x, y = np.delete(source, i, axis=0), np.delete(target, i, axis=0)
        augmented = np.vstack([x - x.mean(axis=0), np.sqrt(ridge) * np.eye(d)])
        weight = np.linalg.lstsq(augmented, np.vstack([y - y.mean(axis=0), np.zeros((d, y.shape[1]))]), rcond=None)[0]
        total += np.square((source[i] - x.mean(axis=0)) @ weight + y.mean(axis=0) - target[i]).sum()
    return total


@pytest.mark.parametrize("noise", [0.05, 0.5, 5.0])
@pytest.mark.parametrize(("k", "d", "m"), [(25, 5, 3), (10, 15, 3), (9, 8, 5), (10, 8, 1), (11, 8, 4)])
def test_loo_takes_the_penalty_of_leaving_each_anchor_out(k, d, m, noise):
    source, target, _ = planted(k, d, m, noise)
    # the ridge of a fold is that of all anchors: a number, not a multiple of the fold's own spread
    scores = [loo_by_refitting(source, target, g * mean_square(source)) for g in GRID]
    chosen = Affine(penalty="loo").fit(source, target).map_.penalty / mean_square(source)
    assert chosen == pytest.approx(GRID[np.argmin(scores)], rel=1e-6)


def test_loo_is_not_misled_by_an_anchor_alone_in_its_direction():
    # without it the last feature is constant, so that leaving it out says nothing about that feature
    source, target, samples = planted(40, d=5, m=3)
    source, samples = (np.hstack([x, np.zeros((len(x), 1))]) for x in (source, samples))
    source[17, 5] = 100.0
    scores = [loo_by_refitting(source, target, g * mean_square(source)) for g in GRID]
    fitted = Affine(penalty="loo").fit(source, target)
    assert fitted.map_.penalty / mean_square(source) == pytest.approx(GRID[np.argmin(scores)], rel=1e-6)
    assert np.isfinite(fitted.transform(samples)).all()


# Names of features -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_the_features_of_the_output_have_names(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)), rng.normal(size=(30, 4 if name == "affine" else 6))
    transform = clone(NAMED[name]).set_output(transform="pandas").fit(x[:20], y[:20])
    out = transform.transform(x)
    width = 20 if name.startswith("relative") else y.shape[1]
    assert out.shape == (30, width)
    assert list(out.columns) == list(transform.get_feature_names_out())
    assert len(set(out.columns)) == width
    plain = clone(NAMED[name]).fit(x[:20], y[:20]).transform(x)
    np.testing.assert_array_equal(out.to_numpy(), plain)


def test_a_pipeline_names_the_features_of_its_last_step():
    x = np.random.default_rng(0).normal(size=(30, 6))
    pipeline = make_pipeline(Scale(), Relative()).fit(x[:10])
    assert len(pipeline[-1].get_feature_names_out()) == 10
    assert pipeline.transform(x).shape == (30, 10)
