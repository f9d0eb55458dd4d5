import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from invariances import spaces
from invariances.files import StoredSpace
from invariances.metrics import cka as cka_family
from invariances.metrics import kernels
from invariances.metrics.kernels import cheaper, linear_products
from invariances.metrics.table import METRICS, compare, pairwise

METHODS = ["features", "gram"]
WIDTHS = (5, 12, 3, 40)

each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def tiny_tiles(monkeypatch):
    """Chunks of a few rows, tiles of one model or of a few samples."""
    monkeypatch.setattr(spaces, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(kernels, "TILE_BYTES", 1500)


def several(n=37, widths=WIDTHS, shift=0.5, seed=0):
    """Related spaces of unequal widths: n is a multiple of no chunk and no tile."""
    rng = np.random.default_rng(seed)
    common = rng.exponential(size=(n, 4))
    return [common @ rng.normal(size=(4, d)) + rng.normal(size=(n, d)) + shift for d in widths]


# By full matrices, the textbook way ----------------------------------------------------------------


def centred_gram(x):
    h = np.eye(len(x)) - 1 / len(x)
    return h @ x @ x.T @ h


def hsic_song(x, y):
    """HSIC_1 of Song et al. 2012, equation 5; centred first, since it ignores a mean but for round-off."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    k, g = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(g, 0)
    n, one = len(x), np.ones(len(x))
    total = np.trace(k @ g) + (one @ k @ one) * (one @ g @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ g @ one
    return total / (n * (n - 3))


def expected_products(several):
    grams = [centred_gram(x) for x in several]
    inner = np.array([[np.trace(k @ g) for g in grams] for k in grams])
    diagonals = np.array([[np.diag(k) @ np.diag(g) for g in grams] for k in grams])
    return inner, diagonals, np.array([np.trace(k) for k in grams])


def expected_cka(several, debiased):
    if debiased:
        inner = np.array([[hsic_song(x, y) for y in several] for x in several])
    else:
        inner = expected_products(several)[0]
    return inner / np.sqrt(np.outer(np.diag(inner), np.diag(inner)))


def agree(found, several, rel):
    for part, expected in zip(found, expected_products(several), strict=True):
        assert part.dtype == torch.float64
        np.testing.assert_allclose(part.numpy(), expected, rtol=rel)


# Sources -------------------------------------------------------------------------------------------


def as_array(x, path):
    return x


def as_tensor(x, path):
    return torch.from_numpy(x)


def as_npy(x, path):
    np.save(path.with_suffix(".npy"), x)
    return path.with_suffix(".npy")


def as_npy_name(x, path):
    return str(as_npy(x, path))


def as_fortran_npy(x, path):
    assert np.asfortranarray(x).flags.f_contiguous
    return as_npy(np.asfortranarray(x), path)


def as_big_endian_npy(x, path):
    return as_npy(x.astype(x.dtype.newbyteorder(">")), path)


def as_safetensors(x, path):
    save_file({"embeddings": torch.from_numpy(x)}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


SOURCES = [as_array, as_tensor, as_npy, as_npy_name, as_fortran_npy, as_big_endian_npy, as_safetensors]


# Products ------------------------------------------------------------------------------------------


@each_method
@pytest.mark.parametrize(("dtype", "rel"), [("f8", 1e-10), ("f4", 1e-5)])
def test_products_are_those_of_the_centred_gram_matrices(method, dtype, rel):
    given_spaces = [x.astype(dtype) for x in several()]
    found = linear_products([torch.from_numpy(x) for x in given_spaces], method)
    agree(found, [x.astype("f8") for x in given_spaces], rel)


@each_method
@pytest.mark.parametrize(("dtype", "rel"), [("f8", 1e-10), ("f4", 1e-5)])
def test_products_in_chunks_and_tiles_are_the_same(method, dtype, rel, tiny_tiles):
    given_spaces = [x.astype(dtype) for x in several()]
    found = linear_products([torch.from_numpy(x) for x in given_spaces], method)
    agree(found, [x.astype("f8") for x in given_spaces], rel)


@each_method
@given(
    n=st.integers(2, 23),
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    chunk=st.integers(1, 400),
    tile=st.integers(1, 4000),
)
@settings(max_examples=40)
def test_products_do_not_depend_on_the_sizes_of_chunks_and_tiles(method, n, widths, chunk, tile):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spaces, "CHUNK_BYTES", chunk)
        patch.setattr(kernels, "TILE_BYTES", tile)
        given_spaces = several(n, widths)
        agree(linear_products([torch.from_numpy(x) for x in given_spaces], method), given_spaces, 1e-9)


@each_method
def test_chunks_and_tiles_are_as_small_as_asked_for(method, tiny_tiles, monkeypatch, tmp_path):
    """Of 37 rows no more than a chunk's or a tile's are read at once."""
    read = []
    original = StoredSpace.__getitem__

    def counting(self, rows):
        out = original(self, rows)
        read.append(out.numel() * out.element_size())
        return out

    paths = {str(i): as_npy(x, tmp_path / str(i)) for i, x in enumerate(several())}
    opened = list(spaces.open_spaces(paths).values())
    monkeypatch.setattr(StoredSpace, "__getitem__", counting)
    agree(linear_products(opened, method), several(), 1e-10)
    # a tile of all four Gram matrices holds 6 x 6 samples
    assert max(read) <= max(1000, 6 * 40 * 8)
    assert len(read) > 4 * 37 * 3 * 8 // 1000


@each_method
def test_a_mean_a_thousand_times_the_spread_costs_single_precision_nothing(method, tiny_tiles):
    given_spaces = [x.astype("f4") for x in several(shift=1e3)]
    found = linear_products([torch.from_numpy(x) for x in given_spaces], method)
    agree(found, [x.astype("f8") for x in given_spaces], 1e-4)


@each_method
def test_millions_of_products_in_single_precision_keep_their_digits(method):
    """Two Gram matrices of 1500 x 1500 in one tile: summed in float32, their product is off by 1e-4."""
    given_spaces = [x.astype("f4") for x in several(1500, (300, 200))]
    found = linear_products([torch.from_numpy(x) for x in given_spaces], method).inner
    expected = linear_products([torch.from_numpy(x).double() for x in given_spaces], "features").inner
    np.testing.assert_allclose(found, expected, rtol=5e-6)


@each_method
def test_mixed_types_are_computed_in_the_widest(method):
    given_spaces = several()
    mixed = [x.astype(dtype) for x, dtype in zip(given_spaces, ["f4", "f8", "f4", "f8"], strict=True)]
    found = linear_products([torch.from_numpy(x) for x in mixed], method)
    agree(found, [x.astype("f8") for x in mixed], 1e-6)


# The cost rule -------------------------------------------------------------------------------------


def multiplications(n, widths):
    """Counted pair by pair and tile by tile; an entry of a Gram matrix also costs its way to memory and back."""
    pairs = itertools.combinations_with_replacement(widths, 2)
    tiles = n * n / 2
    return {
        "features": sum(n * d * m for d, m in pairs),
        "gram": tiles * sum(widths) + tiles * (len(widths) + kernels.MULTIPLICATIONS_PER_ENTRY) * len(widths),
    }


@given(n=st.integers(2, 100_000), widths=st.lists(st.integers(1, 2000), min_size=1, max_size=40))
def test_the_cheaper_method_needs_fewer_multiplications(n, widths):
    counted = multiplications(n, widths)
    assert counted[cheaper(n, widths)] == pytest.approx(min(counted.values()))


@pytest.mark.parametrize(("count", "d"), [(2, 64), (10, 64), (45, 512), (100, 30)])
def test_the_border_between_the_methods_is_where_it_should_be(count, d):
    """For equal widths at n = (N + 1) d^2 / (d + N + 64), which for wide spaces is n = (N + 1) d."""
    border = (count + 1) * d**2 / (d + count + 64)
    assert cheaper(math.floor(0.99 * border), [d] * count) == "gram"
    assert cheaper(math.ceil(1.01 * border), [d] * count) == "features"


@pytest.mark.parametrize("n", [8, 24])
def test_auto_takes_the_cheaper_method_and_all_agree(n, monkeypatch):
    """On both sides of the border, which for five spaces of width 12 is near n = 10.7."""
    given_spaces = several(n, (12,) * 5)
    called = []
    for name in ("_by_features", "_by_gram"):
        original = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda views, f=original, name=name: called.append(name) or f(views))
    auto = pairwise(given_spaces)
    assert called == ["_by_gram" if n < 10 else "_by_features"]
    assert called == [f"_by_{cheaper(n, [12] * 5)}"]
    for method in METHODS:
        np.testing.assert_allclose(pairwise(given_spaces, method=method), auto, atol=1e-12)
    assert len(called) == 3


# CKA of all pairs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("metric", ["cka", "cka_debiased"])
def test_the_numerics_demo_by_every_way(method, metric):
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    y = rng.randn(100, 10) + x
    figure = {"cka": 0.55761, "cka_debiased": 0.51346}[metric]
    assert round(compare(x, y, metric).score, 5) == figure
    table = pairwise({"x": x, "y": y}, metric, method)
    assert table.loc["x", "y"].round(5) == table.loc["y", "x"].round(5) == figure
    assert table.loc["x", "x"] == table.loc["y", "y"] == pytest.approx(1)


@each_method
def test_the_numerics_demo_from_products_and_gram_matrices(method):
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    y = rng.randn(100, 10) + x
    inner, diagonals, traces = linear_products([torch.from_numpy(x), torch.from_numpy(y)], method)
    assert round(float(inner[0, 1] / (inner[0, 0] * inner[1, 1]).sqrt()), 5) == 0.55761
    debiased = cka_family.u_inner(inner, diagonals, torch.outer(traces, traces), 100)
    assert round(float(debiased[0, 1] / (debiased[0, 0] * debiased[1, 1]).sqrt()), 5) == 0.51346


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("dtype", "bound"), [("f8", 1e-6), ("f4", 1e-4)])
def test_all_pairs_from_any_source_in_chunks(debiased, method, source, dtype, bound, tmp_path, tiny_tiles):
    given_spaces = [x.astype(dtype) for x in several()]
    sources = {f"m{i}": source(x, tmp_path / f"{i}") for i, x in enumerate(given_spaces)}
    table = pairwise(sources, "cka_debiased" if debiased else "cka", method)
    np.testing.assert_allclose(
        table, expected_cka([x.astype("f8") for x in given_spaces], debiased), rtol=0, atol=bound
    )


@pytest.mark.parametrize("metric", ["cka", "cka_debiased"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "bound"), [("f8", 1e-6), ("f4", 1e-4)])
def test_large_means_large_and_small_scales_and_unequal_types(metric, method, dtype, bound, tmp_path, tiny_tiles):
    a, b, c, d = (x.astype(dtype) for x in several(shift=1e3))
    given_spaces = [a, 1e-6 * b.astype("f8"), c, 1e4 * d]
    mixed = [as_npy(a, tmp_path / "a"), given_spaces[1], as_safetensors(c, tmp_path / "c"), torch.from_numpy(1e4 * d)]
    expected = expected_cka([x.astype("f8") for x in given_spaces], metric == "cka_debiased")
    np.testing.assert_allclose(pairwise(mixed, metric, method), expected, rtol=0, atol=bound)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_half_precision_files_are_read(kind, tmp_path):
    given_spaces = [x.astype("f2") for x in several(widths=(5, 12))]
    sources = [(as_npy if kind == "npy" else as_safetensors)(x, tmp_path / str(i)) for i, x in enumerate(given_spaces)]
    expected = expected_cka([x.astype("f8") for x in given_spaces], False)
    np.testing.assert_allclose(pairwise(sources), expected, atol=1e-5)


@each_method
def test_pairs_by_streaming_equal_pairs_one_by_one(method, tiny_tiles):
    given_spaces = several(50)
    for metric in ("cka", "cka_debiased"):
        table = pairwise(given_spaces, metric, method).to_numpy()
        for i, x in enumerate(given_spaces):
            for j, y in enumerate(given_spaces):
                assert table[i, j] == pytest.approx(compare(x, y, metric).score, abs=1e-10)


def test_prepared_spaces_give_the_same_pairs_and_keep_their_norms():
    for name in ("cka", "cka_debiased"):
        metric = METRICS[name]
        states = [metric.prepare(torch.from_numpy(x), None) for x in several()]
        table = metric.scores(states)
        np.testing.assert_allclose(table, expected_cka(several(), name == "cka_debiased"), atol=1e-10)
        for state, fresh in zip(states, [metric.prepare(torch.from_numpy(x), None) for x in several()], strict=True):
            assert state.power == pytest.approx(fresh.inner(fresh), rel=1e-10)


def test_the_result_has_the_bits_of_the_first_run(tmp_path, tiny_tiles):
    sources = [as_npy(x.astype("f4"), tmp_path / str(i)) for i, x in enumerate(several())]
    for method in METHODS:
        first, second = (pairwise(sources, "cka_debiased", method).to_numpy() for _ in range(2))
        assert (first == second).all()
