"""Anything may be given: what comes back is a sound answer or one sentence, never a crash, a hang or a silent NaN."""

import ast
import itertools
import json
import math
import re
import struct
import tempfile
import tracemalloc
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save

from invariances import (
    INVARIANCES,
    METRICS,
    align,
    pairwise,
)
from invariances.alignment import COLUMNS, FOUND_COLUMNS
from invariances.errors import SpaceError
from invariances.files import StoredSpace
from invariances.relative import relative
from invariances.spaces import read_space

LIMIT = timedelta(seconds=10)  # for what takes a few hundredths of one, on a busy machine too


def fuzz(examples):
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=LIMIT, derandomize=True, suppress_health_check=quiet)


def one_sentence(message):
    assert "\n" not in message
    message = re.sub(r"\(.*\)", "", message)  # what is said in brackets may be a damaged header
    assert not re.search(r"(?<!e\.g)[.!?]\s+[A-Z]", message), message


# Spaces ---------------------------------------------------------------------------------------------

ENDS = [1e30, -1e30, 3e29, 1e19, 1e-19, 1e-30, -1e-30, 1e-44, 0.0, 1.0]
"""Where squares and fourth powers leave float32, and a number that is subnormal in it."""


@st.composite
def matrices(draw, n, d, dtype):
    """Any matrix, or a random one of a kind that is prone to trouble."""
    kind = draw(
        st.sampled_from(
            [
                "any",
                "few values",
                "random",
                "repeated",
                "flat column",
                "faint rows",
                "line",
                "positive",
                "nearly constant",
                "uneven",
            ]
        )
    )
    width = np.dtype(dtype).itemsize * 8
    if kind == "any":
        return draw(
            arrays(dtype, (n, d), elements=st.floats(-(2.0**100), 2.0**100, width=width) | st.sampled_from(ENDS))
        )
    if kind == "few values":
        return draw(arrays(dtype, (n, d), elements=st.integers(-1, 2).map(float)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.normal(size=(n, d))
    if kind == "repeated":
        x = x[rng.integers(0, max(1, n // 2), size=n)]
    if kind == "flat column":
        x[:, rng.integers(d)] = rng.choice([0, 1])
    if kind == "faint rows":
        x[rng.permutation(n)[: rng.integers(1, n)]] *= 10.0 ** -rng.integers(1, 40)
    if kind == "line":
        x = np.outer(x[:, 0], rng.normal(size=d)) + rng.choice([0, 1])
    if kind == "positive":
        x = np.maximum(x, 0)
    if kind == "nearly constant":
        x = rng.normal(size=d) + x * 10.0 ** rng.integers(-17, -3)
    if kind == "uneven":
        x = x * 10.0 ** rng.integers(-25, 25, size=(n, 1) if rng.random() < 0.5 else (1, d))
    with np.errstate(over="ignore"):
        return (x * draw(st.sampled_from([1, 1, 1, 1e-29, 1e-15, 1e15, 1e28]))).astype(dtype)


@st.composite
def requests(draw):
    """Arguments of `align`."""
    n, width, dtype = draw(st.integers(2, 14)), draw(st.integers(1, 6)), draw(st.sampled_from(["f4", "f8"]))
    spaces = []
    for _ in range(draw(st.integers(2, 3))):
        d = draw(st.sampled_from([width, width, 2, 5]))
        spaces.append(draw(matrices(n, d, draw(st.sampled_from([dtype] * 5 + ["f8"])))))
    if draw(st.integers(0, 5)) == 0:
        spaces[1] = spaces[0]
    ids = st.lists(st.integers(0, n - 1), min_size=2, max_size=max(2, n - 2), unique=True)
    anchors = draw(st.none() | st.integers(2, max(2, n - 2)) | ids)
    names = ["absolute", "scale"] if anchors is None else list(INVARIANCES)
    return {
        "spaces": spaces,
        "anchors": anchors,
        "invariances": draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)),
        "metrics": draw(st.lists(st.sampled_from(list(METRICS)), min_size=1, max_size=3, unique=True)),
        "labels": draw(st.none() | st.lists(st.integers(0, 2), min_size=n, max_size=n)),
        "permutations": 4,
    }


@given(requests())
@fuzz(400)
def test_align_gives_a_sound_table_or_one_sentence(request):
    try:
        table = align(**request)
    except SpaceError as error:
        one_sentence(str(error))
        return
    check_table(table, **request)


def check_table(table, spaces, anchors, invariances, metrics, labels, permutations):
    names = [str(i) for i in range(len(spaces))]
    expected = [
        (a, b, invariance, metric)
        for invariance in invariances
        for metric in metrics
        for a, b in (
            itertools.permutations
            if INVARIANCES[invariance].fitted or METRICS[metric].ordered
            else itertools.combinations
        )(names, 2)
    ]
    assert list(table.columns) == COLUMNS + FOUND_COLUMNS * any(METRICS[metric].ordered for metric in metrics)
    keys = ["model_a", "model_b", "invariance", "metric"]
    assert sorted(table[keys].itertuples(index=False, name=None)) == sorted(expected)
    for row in table.itertuples():
        low, high = METRICS[row.metric].range
        # each side's round-off, in the type that the spaces are compared in
        slack = 1e-5 if all(x.dtype.itemsize < 8 for x in spaces) else 1e-9
        assert low - slack <= row.score <= high + slack, row
        assert low - slack <= row.null <= high + slack, row
        if labels is None:
            assert math.isnan(row.null_within_class), row
        else:
            assert low - slack <= row.null_within_class <= high + slack, row
        assert math.isfinite(row.calibrated) != ("not calibrated" in row.note), row
        assert math.isfinite(row.z) != ("no z" in row.note), row
        assert 0 <= row.p <= 1 or (math.isnan(row.p) and math.isnan(row.z)), row


NEAR = st.integers(-15, 15)
FAR = st.integers(-90, -25) | st.integers(25, 90)
SIZES = st.tuples(NEAR, NEAR) | st.tuples(FAR, NEAR | FAR)
"""Exponents of two, which change no digit; far from 1 all spaces are compared in float64."""


def of_sizes(compared, spaces, dtype, sizes):
    """The scores of the spaces as they are, and times powers of two."""
    spaces = [x.astype(dtype) for x in spaces]
    plain = spaces if max(map(abs, sizes)) <= 15 else [x.astype("f8") for x in spaces]
    return compared(plain), compared([x * np.exp2(size).astype(dtype) for x, size in zip(spaces, sizes, strict=True)])


@given(
    st.sampled_from(["f4", "f8"]),
    SIZES,
    st.sampled_from([name for name, transform in INVARIANCES.items() if not transform.fitted]),
    st.sampled_from(list(METRICS)),
    st.integers(0, 10),
)
@fuzz(150)
def test_scores_do_not_depend_on_the_unit(dtype, sizes, invariance, metric, seed):
    """Every metric ignores one factor for all samples, and so does every intrinsic transform, up to that factor."""

    def aligned(spaces):
        table = align(spaces, 4, [invariance], [metric], [0, 1] * 8)
        return table[["score", "null", "null_within_class", "calibrated", "p"]]

    spaces = np.random.default_rng(seed).normal(size=(2, 16, 5)) + 0.5
    np.testing.assert_allclose(*of_sizes(aligned, spaces, dtype, sizes), atol=1e-9)


@given(
    st.sampled_from(["f4", "f8"]),
    SIZES,
    st.sampled_from(["cka", "cka_debiased"]),
    st.sampled_from(["features", "gram"]),
)
@fuzz(60)
def test_scores_of_all_pairs_do_not_depend_on_the_unit(dtype, sizes, metric, method):
    spaces = np.random.default_rng(0).normal(size=(2, 16, 5))
    plain, scaled = of_sizes(lambda given: pairwise(given, metric, method), spaces, dtype, sizes)
    np.testing.assert_allclose(plain, scaled, atol=1e-9)


@given(st.integers(1, 44), st.sampled_from(["cosine", "pearson", "mutual_knn", "rsa"]), st.booleans())
@fuzz(60)
def test_the_size_of_single_rows_does_not_reach_a_cosine(exponent, metric, in_file):
    """Rows of 10^-exponent beside rows of size 1, in float32, score as in float64."""
    spaces = np.random.default_rng(exponent).normal(size=(2, 20, 4))
    spaces[:, 5:] *= 10.0**-exponent
    spaces = [x.astype("f4") for x in spaces]
    with tempfile.TemporaryDirectory() as folder:
        given = spaces
        if in_file:
            given = [Path(folder) / f"{i}.npy" for i in range(2)]
            for path, x in zip(given, spaces, strict=True):
                np.save(path, x)
        scores = [pairwise(these, metric).iloc[0, 1] for these in (given, [x.astype("f8") for x in spaces])]
    assert scores[0] == pytest.approx(scores[1], abs=2e-7)


@pytest.mark.parametrize("similarity", ["cosine", "geodesic", "euclidean"])
@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_profiles_in_float32_are_those_in_float64(similarity, size):
    """For samples that are transformed as they come, with no space read."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 4)) * size)
    profiles = relative(x.float(), x[:5].float(), similarity).double()
    expected = relative(x, x[:5], similarity)
    torch.testing.assert_close(profiles, expected, rtol=0, atol=1e-6 * float(expected.max()))


@pytest.mark.parametrize("metric", ["cka", "cka_debiased"])
def test_faint_spaces_do_not_underflow_in_all_pairs(metric):
    """Their kernels have squared norms of some 2^-560, and products of two such vanish."""
    x, y = np.random.default_rng(0).normal(size=(2, 30, 4))
    faint = [np.c_[np.full(30, 2.0**-90), z * 2.0**-140] for z in (x, y)]
    found, plain = (pairwise(given, metric) for given in (faint, [np.c_[np.ones(30), z] for z in (x, y)]))
    np.testing.assert_allclose(found, plain, atol=1e-9)


def test_all_pairs_of_nearly_constant_spaces_stay_in_range():
    """Samples that differ in the last digits only."""
    scores = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n = rng.integers(5, 16)
        x = rng.normal(size=3) + rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-16, -13)
        with suppress(SpaceError):
            scores.append(pairwise([x, rng.normal(size=(n, 3))], "cka_debiased", "features").iloc[0, 1])
    assert len(scores) > 200
    assert np.abs(scores).max() <= 1 + 1e-9


# Files ----------------------------------------------------------------------------------------------

MATRIX = np.random.default_rng(0).normal(size=(7, 3))
TORCH_NAMES = {"F16": "f2", "F32": "f4", "F64": "f8"}


def npy(array):
    with tempfile.TemporaryFile() as file:
        np.save(file, array)
        file.seek(0)
        return file.read()


VALID = {
    ".npy": [npy(MATRIX), npy(MATRIX.astype(">f4")), npy(np.asfortranarray(MATRIX)), npy(MATRIX.astype("f2"))],
    ".safetensors": [
        save({"x": torch.tensor(MATRIX).to(dtype)}) for dtype in (torch.float64, torch.float32, torch.half)
    ]
    + [save({"x": torch.tensor(MATRIX).bfloat16()}, {"note": "{}"})],
}


def matrix_of_npy(content):
    """What the format's description says that the bytes hold."""
    size = struct.unpack_from("<H" if content[6] == 1 else "<I", content, 8)[0]
    start = 10 if content[6] == 1 else 12
    said = ast.literal_eval(content[start : start + size].decode("latin1"))
    values = np.frombuffer(content[start + size :], dtype=said["descr"])
    return values.reshape(said["shape"], order="F" if said["fortran_order"] else "C").astype(float)


def matrix_of_safetensors(content):
    size = struct.unpack_from("<Q", content)[0]
    said = json.loads(content[8 : 8 + size])
    said.pop("__metadata__", None)
    (one,) = said.values()
    start, stop = one["data_offsets"]
    data = content[8 + size + start : 8 + size + stop]
    if one["dtype"] == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(data, "<" + TORCH_NAMES[one["dtype"]])
    return values.reshape(one["shape"]).astype(float)


ORACLES = {".npy": matrix_of_npy, ".safetensors": matrix_of_safetensors}


@st.composite
def damaged(draw, suffix):
    """A valid file with bits flipped, bytes cut out or put in, or its end cut off."""
    content = bytearray(draw(st.sampled_from(VALID[suffix])))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "flip", "flip", "cut out", "put in", "cut off", "digit"])):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "cut out":
                del content[place : place + draw(st.integers(1, 9))]
            case "put in":
                content[place:place] = draw(st.binary(min_size=1, max_size=9))
            case "cut off":
                del content[place:]
            case "digit" if digits := [i for i, c in enumerate(content[:200]) if chr(c).isdigit()]:
                content[draw(st.sampled_from(digits))] = ord(draw(st.sampled_from("0123456789")))
    return bytes(content)


def noise(suffix):
    starts = {".npy": [b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"PK\x03\x04", b"\x80\x04"], ".safetensors": [b""]}
    return st.tuples(st.sampled_from([b"", *starts[suffix]]), st.binary(max_size=200)).map(b"".join)


@pytest.mark.parametrize("suffix", VALID)
@given(data=st.data())
@fuzz(400)
def test_a_damaged_file_is_refused_or_read_as_it_stands(suffix, data, tmp_path):
    content = data.draw(damaged(suffix) | noise(suffix))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        read = read_space(path)
    except SpaceError as error:
        one_sentence(str(error))
        return
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 2**20
    np.testing.assert_array_equal(read.numpy().astype(float), ORACLES[suffix](content))


@pytest.mark.parametrize("suffix", VALID)
def test_the_oracle_reads_what_is_sound(suffix, tmp_path):
    for content in VALID[suffix]:
        (tmp_path / f"x{suffix}").write_bytes(content)
        read = read_space(tmp_path / f"x{suffix}")
        np.testing.assert_array_equal(read.numpy().astype(float), ORACLES[suffix](content))
        np.testing.assert_allclose(read.numpy(), MATRIX, atol=0.02)


@given(st.integers(0, 2), st.data())
@fuzz(60)
def test_every_end_of_a_file_counts(which, data):
    """A file that lacks a byte anywhere, or has one too many, is no file of this matrix."""
    suffix = data.draw(st.sampled_from(list(VALID)))
    content = VALID[suffix][which]
    cut = data.draw(st.integers(1, len(content)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        for wrong in (content[:-cut], content + bytes(cut)):
            path.write_bytes(wrong)
            with pytest.raises(SpaceError, match=r"damaged|more than its header"):
                read_space(path)


@pytest.mark.parametrize("suffix", VALID)
@given(rows=st.slices(7) | arrays(int, st.integers(0, 9), elements=st.integers(0, 6)))
@fuzz(60)
def test_rows_of_a_stored_space_are_those_of_the_matrix(suffix, rows, tmp_path):
    (tmp_path / f"x{suffix}").write_bytes(VALID[suffix][0])
    stored = StoredSpace(tmp_path / f"x{suffix}")
    if suffix == ".npy" or not isinstance(rows, slice) or (rows.step or 1) > 0:  # torch has no negative steps
        np.testing.assert_array_equal(stored[rows].numpy(), MATRIX[rows])


@given(st.binary(max_size=40))
@fuzz(100)
def test_no_object_array_is_unpickled(content):
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 1), }".ljust(117) + b"\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        path.write_bytes(head + header + content)
        with pytest.raises(SpaceError, match=r"not a plain matrix .*objects"):
            read_space(path)


def test_a_table_of_fuzzed_requests_is_not_all_errors():
    """The generator must reach the answers too, or the test above says nothing."""
    answered = 0

    @given(requests())
    @fuzz(100)
    def count(request):
        nonlocal answered
        with suppress(SpaceError):
            answered += len(align(**request)) > 0

    count()
    assert answered >= 15
