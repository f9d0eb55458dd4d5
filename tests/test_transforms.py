import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import helmert, orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.pipeline import Pipeline

from invariances.spaces import SpaceError
from invariances.transforms import (
    INVARIANCES,
    Absolute,
    Affine,
    Orthogonal,
    Relative,
    Scale,
    affine_map,
    factorise,
    relative,
    scale,
)

TRANSFORMS = [Absolute(), Scale(), Relative(), Affine(), Orthogonal(), Orthogonal(center=True)]
OPERATIONS = ["isotropic-scale", "sample-scale", "translation", "permutation", "orthogonal", "affine"]
GRID = np.logspace(-10, 4, 113)

each_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=str)


def planted(k, d=8, m=8, noise=0.1, seed=0):
    """Source anchors, noisy target anchors of a linear map with intercept, and source samples."""
    rng = np.random.default_rng(seed)
    spectrum = np.linspace(2, 0.3, d)
    weight, bias = rng.normal(size=(d, m)) / np.sqrt(d), rng.normal(size=m)
    source, samples = (rng.normal(size=(n, d)) * spectrum + 0.5 for n in (k, 200))
    target = source @ weight + bias + noise * rng.normal(size=(k, m))
    return source, target, samples


def operation(name, rng, d):
    q, shift = ortho_group.rvs(d, random_state=rng), rng.normal(size=d) + 1
    factor, turn = rng.choice([0.2, 3.7]), 1 + rng.integers(d - 1)
    stretched = q * np.linspace(0.4, 2.5, d) @ ortho_group.rvs(d, random_state=rng)
    return {
        "isotropic-scale": lambda x: factor * x,
        "sample-scale": lambda x: rng.uniform(0.2, 5, size=(len(x), 1)) * x,
        "translation": lambda x: x + shift,
        "permutation": lambda x: np.roll(x, turn, axis=1),
        "orthogonal": lambda x: x @ q,
        "affine": lambda x: x @ stretched + shift,
    }[name]


def fit(transform, source, target):
    return clone(transform).fit(source, target) if transform.fitted else clone(transform).fit(source)


def relative_change(before, after):
    return np.linalg.norm(after - before) / np.linalg.norm(before)


@each_transform
@pytest.mark.parametrize("name", OPERATIONS)
@given(seed=st.integers(0, 2**32 - 1), d=st.integers(4, 10))
def test_the_output_ignores_exactly_the_declared_operations(transform, name, seed, d):
    if isinstance(transform, Affine) and name == "affine":
        transform = Affine(penalty=0)  # shrinkage depends on the axes' lengths, so only the plain fit is exact
    source, target, samples = planted(k=3 * d + 5, d=d, m=6, seed=seed)
    operate = operation(name, np.random.default_rng(seed), d)
    before = fit(transform, source, target).transform(samples)
    after = fit(transform, operate(source), target).transform(operate(samples))
    if name in transform.invariant_to:
        assert relative_change(before, after) < 1e-7
    else:
        assert relative_change(before, after) > 1e-2


@each_transform
def test_declared_operations_have_known_names(transform):
    assert transform.invariant_to <= set(OPERATIONS)


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


@pytest.mark.parametrize(("transform", "params"), [(Affine(), {"penalty": 0.5}), (Orthogonal(), {"center": True})])
def test_parameters_can_be_read_and_set(transform, params):
    source, target, samples = planted(40)
    changed = clone(transform).set_params(**params)
    assert changed.get_params() == params
    before = fit(transform, source, target).transform(samples)
    assert relative_change(before, fit(changed, source, target).transform(samples)) > 1e-3


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


def test_the_named_transforms_are_the_default_ones():
    assert {name: type(transform) for name, transform in INVARIANCES.items()} == {
        "absolute": Absolute,
        "scale": Scale,
        "relative": Relative,
        "affine": Affine,
        "orthogonal": Orthogonal,
    }
    assert INVARIANCES["affine"].penalty == "gcv"
    assert INVARIANCES["orthogonal"].center is False


def test_gradients_flow_through_the_intrinsic_transforms():
    x, anchors = (torch.from_numpy(a[:7]).requires_grad_() for a in planted(40)[::2])
    assert torch.autograd.gradcheck(scale, (x,))
    assert torch.autograd.gradcheck(relative, (x, anchors))


def test_a_relative_head_trains_through_the_transform():
    source, samples = (torch.from_numpy(a) for a in planted(40)[::2])
    samples.requires_grad_()
    Relative().fit(source).transform(samples).square().sum().backward()
    assert samples.grad.abs().sum() > 0


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


def gcv_shortfall(k, d, seed, noise):
    """How much held-out explained variance GCV gives away to the best penalty of the grid."""
    rng = np.random.default_rng(seed)
    weight, spectrum = rng.normal(size=(d, d)) / np.sqrt(d), np.linspace(2, 0.3, d)
    x = rng.normal(size=(k + 500, d)) * spectrum
    y = x @ weight
    y = y + noise * y.std() * rng.normal(size=y.shape)
    source = factorise(torch.from_numpy(x[:k]))

    def held_out(penalty):
        mapped = affine_map(source, torch.from_numpy(y[:k]), penalty)(torch.from_numpy(x[k:]))
        return explained(mapped.numpy(), y[k:])

    return max(held_out(penalty) for penalty in GRID[::4]) - held_out("gcv")


@pytest.mark.parametrize("noise", [0.05, 0.3])
@pytest.mark.parametrize("k", [62, 64, 65, 66, 128])
def test_gcv_is_as_good_as_the_best_penalty_where_plain_fits_interpolate(k, noise):
    assert np.mean([gcv_shortfall(k, 64, seed, noise) for seed in range(10)]) < 0.01


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


@pytest.mark.parametrize("transform", [Affine(), Orthogonal()], ids=str)
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
