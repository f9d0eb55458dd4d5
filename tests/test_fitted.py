"""A fitted map in a file: read back as it was written, exported as it is, refused where it is none."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file

from invariances import fit_map, read_map
from invariances.errors import ParameterError, SpaceError
from invariances.fitted import check_alike, likeness, row_digests

N, D, M = 300, 7, 5


def codes(seed=0, n=N, shift=0.5):
    return np.random.default_rng(seed).normal(size=(n, D)) * np.linspace(0.5, 2, D) + shift


@pytest.fixture(scope="module")
def fitted():
    x = codes()
    return fit_map(x, x @ np.random.default_rng(1).normal(size=(D, M)) + 1)


def test_a_map_is_read_back_as_it_was_written(fitted, tmp_path):
    again = read_map(fitted.save(tmp_path / "m.safetensors"))
    assert again.kind == fitted.kind == "affine"
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(again, name), getattr(fitted, name), rtol=0, atol=0)
    np.testing.assert_array_equal(again.seen, fitted.seen)
    torch.testing.assert_close(again.source.mean, fitted.source.mean, rtol=0, atol=0)
    assert again.source.norm == fitted.source.norm
    assert again.facts == fitted.facts
    assert repr(again) == repr(fitted)


def test_module_and_graph_give_what_the_map_gives(fitted, tmp_path):
    x = torch.from_numpy(codes(3)).float()
    known = x @ fitted.weight.T + fitted.bias
    torch.testing.assert_close(fitted(x), known)
    torch.testing.assert_close(fitted.linear()(x), known)
    torch.testing.assert_close(fitted.as_map()(x.double()).float(), known)
    path = fitted.to_onnx(tmp_path / "m.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    (found,) = ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, known.numpy(), rtol=1e-5, atol=1e-5)


def test_what_is_no_map_of_these_vectors_is_refused(fitted):
    with pytest.raises(SpaceError, match="the map takes 7 features a row"):
        fitted(torch.zeros(3, D + 1))
    with pytest.raises(SpaceError, match="too large for"):
        fitted(torch.full((2, D), 3e38))


@pytest.mark.parametrize("kind", ["absent", "text", "cut", "other tensors", "weights of other widths"])
def test_a_file_that_is_no_map_is_refused(kind, fitted, tmp_path):
    path = tmp_path / "m.safetensors"
    if kind == "text":
        path.write_text("a map")
    elif kind == "cut":
        fitted.save(path)
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "other tensors":
        save_file({"weight": torch.eye(3)}, path)
    elif kind == "weights of other widths":
        type(fitted)(fitted.weight[:, 1:], fitted.bias, "affine", fitted.source, fitted.seen).save(path)
    with pytest.raises(SpaceError, match=r"m\.safetensors (is damaged|holds no map)|there is no map .*; give a file"):
        read_map(path)


def test_somebody_s_file_is_kept(fitted, tmp_path):
    (tmp_path / "m.safetensors").write_text("mine")
    with pytest.raises(ParameterError, match="give --force"):
        fitted.save(tmp_path / "m.safetensors")
    fitted.save(tmp_path / "m.safetensors", force=True)
    with pytest.raises(ParameterError, match="is there already; give --force"):
        fitted.save(tmp_path / "m.safetensors")  # the map of another pair, perhaps
    assert read_map(tmp_path / "m.safetensors").kind == fitted.kind


# Looks --------------------------------------------------------------------------------------------


def test_vectors_of_the_same_model_look_alike():
    known = likeness(torch.from_numpy(codes(0, 500)))
    for seed in range(1, 100):
        for n in (1, 10, 60, 500):
            check_alike(torch.from_numpy(codes(seed, n)), known, "x") if n > 10 else None
    check_alike(torch.from_numpy(codes(1, 3)) * 1.0, known, "x")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: 3 * x, "their middle norm is"),
        (lambda x: x / 3, "their middle norm is"),
        (lambda x: x - 2.5, "their mean lies .* times the spread away"),
        (lambda x: x[:, ::-1].copy(), "their features' deviations differ by"),
    ],
)
def test_vectors_of_another_model_do_not(change, reason):
    known = likeness(torch.from_numpy(codes(0, 500)))
    with pytest.raises(SpaceError, match=rf"^x does not look like .*{reason}.*; give vectors of the same model"):
        check_alike(torch.from_numpy(change(codes(1, 200))), known, "x")


def test_a_row_is_known_again_in_any_precision_that_holds_it():
    x = torch.from_numpy(codes()).float()
    np.testing.assert_array_equal(row_digests(x), row_digests(x.double()))
    changed = x.clone()
    changed[4, 2] += 1e-6
    assert (row_digests(x) != row_digests(changed)).nonzero()[0].tolist() == [4]
    assert len(set(row_digests(x))) == N
