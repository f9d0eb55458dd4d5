import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from invariances.errors import SpaceError
from invariances.samples import anchor_ids, class_codes
from invariances.spaces import read_space, read_spaces

FLOATS = [np.float16, np.float32, np.float64]


def matrix(n=12, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def with_rows(rows, value):
    x = matrix()
    x[rows] = value
    return x


def refused(match, call, *args, **kwargs):
    with pytest.raises(SpaceError, match=match) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value), "one sentence stands on one line"


def as_numpy(x, folder):
    return x


def as_torch(x, folder):
    return torch.from_numpy(x)


def as_npy(x, folder):
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


def as_npy_string(x, folder):
    return str(as_npy(x, folder))


def as_safetensors(x, folder):
    save_file({"x": torch.from_numpy(x)}, folder / "x.safetensors")
    return folder / "x.safetensors"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("source", [as_numpy, as_torch, as_npy, as_npy_string, as_safetensors])
def test_every_source_gives_its_values_in_its_dtype(source, dtype, tmp_path):
    x = matrix().astype(dtype)
    read = read_space(source(x, tmp_path))
    assert read.dtype == (torch.float64 if dtype is np.float64 else torch.float32)
    np.testing.assert_array_equal(read.numpy(), x)


def test_bfloat16_is_widened():
    x = torch.from_numpy(matrix()).bfloat16()
    assert read_space(x).dtype == torch.float32
    assert torch.equal(read_space(x), x.float())


def test_an_array_is_copied_so_that_later_writes_do_not_reach_the_space():
    x = matrix()
    read = read_space(x)
    x[:] = 0
    assert read.abs().sum() > 0


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (with_rows([3, 7], np.nan), r"space: 2 row.s. hold NaN or infinity .first: row 3.; repair or drop"),
        (with_rows(5, np.inf), "1 row.s. hold NaN or infinity .first: row 5.; repair or drop"),
        (with_rows(5, -np.inf), "NaN or infinity .first: row 5"),
        (with_rows([0, 2, 4], 0), "3 row.s. hold only zeros, .* .first: row 0.; drop these samples"),
        (with_rows(slice(None), 1.5), "space is constant: all 12 rows are the same"),
        (matrix()[0], r"shape \(5,\); give a matrix"),
        (matrix()[None], r"shape \(1, 12, 5\); give a matrix"),
        (matrix(n=1), r"shape \(1, 5\); .* at least 2 samples"),
        (matrix(d=0), r"shape \(12, 0\); .* 1 feature"),
        (np.arange(12).reshape(6, 2), "dtype int64; give floating-point numbers"),
        (torch.arange(12).reshape(6, 2), "dtype torch.int64; give floating-point numbers"),
        (matrix() > 0, "dtype bool; give floating-point"),
        (matrix().astype(complex), "dtype complex128; give floating-point"),
        (matrix().astype(object), "dtype object; give floating-point numbers"),
        (None, "is a NoneType; give a numpy array"),
    ],
)
def test_an_unusable_matrix_is_named_with_its_remedy(x, match):
    refused(match, read_space, x)


def test_half_precision_overflow_is_found_as_infinity():
    with np.errstate(over="ignore"):
        x = with_rows(2, 1e6).astype(np.float16)
    refused("NaN or infinity .first: row 2", read_space, x)


def test_the_message_names_the_space():
    refused("^space 'resnet': 1 row", read_spaces, {"vit": matrix(), "resnet": with_rows(1, np.nan)})


def pickled(folder):
    np.save(folder / "x.npy", np.array([{"a": 1}, 2], dtype=object), allow_pickle=True)
    return folder / "x.npy"


def truncated(write):
    def file(folder):
        path = write(matrix(n=200), folder)
        path.write_bytes(path.read_bytes()[:-500])
        return path

    return file


def empty(suffix):
    def file(folder):
        (folder / f"x{suffix}").touch()
        return folder / f"x{suffix}"

    return file


def two_tensors(folder):
    save_file({"x": torch.ones(3, 2), "y": torch.ones(3, 2)}, folder / "x.safetensors")
    return folder / "x.safetensors"


def torch_pickle(folder):
    torch.save(torch.from_numpy(matrix()), folder / "x.pt")
    return folder / "x.pt"


@pytest.mark.parametrize(
    ("file", "match"),
    [
        (pickled, "is damaged, truncated or not a plain matrix .*save it again"),
        (truncated(as_npy), "is damaged, truncated .*save it again"),
        (truncated(as_safetensors), "is damaged, truncated .*save it again"),
        (empty(".npy"), "is damaged, truncated .*save it again"),
        (empty(".safetensors"), "is damaged, truncated .*save it again"),
        (two_tensors, "holds 2 tensors .x, y.; name one, e.g. x.safetensors:x"),
        (torch_pickle, "only .npy, .* are safe to load; convert it"),
        (lambda folder: folder / "absent.npy", "there is no file"),
        (lambda folder: folder, "holds no .parquet file; give"),
    ],
)
def test_an_unusable_file_is_named_with_its_remedy(file, match, tmp_path):
    path = file(tmp_path)
    refused("^model: ", read_space, path, "model")
    refused(re.escape(str(path)), read_space, path)
    refused(match, read_space, path)


def test_a_pickled_file_runs_no_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    array = np.empty(2, dtype=object)
    array[0] = Payload()
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    refused("not a plain matrix", read_space, tmp_path / "x.npy")
    assert not (tmp_path / "ran").exists()


def test_a_sequence_is_named_by_its_order_and_a_mapping_keeps_its_own():
    x, y = matrix(seed=0), matrix(seed=1)
    assert list(read_spaces([x, y])) == ["0", "1"]
    read = read_spaces({"b": x, "a": y})
    assert list(read) == ["b", "a"]
    np.testing.assert_array_equal(read["a"].numpy(), y)


def test_widths_may_differ_but_rows_may_not():
    assert [s.shape for s in read_spaces([matrix(d=5), matrix(d=9)]).values()] == [(12, 5), (12, 9)]
    refused(r"\(a 12, b 11\); embed the same samples", read_spaces, {"a": matrix(), "b": matrix(n=11)})


@pytest.mark.parametrize("spaces", [[], [matrix()], {}, {"a": matrix()}])
def test_fewer_than_two_spaces_are_refused(spaces):
    refused(rf"{len(spaces)} space.s. given; at least 2", read_spaces, spaces)


def test_one_space_is_enough_where_the_caller_says_so():
    assert len(read_spaces([matrix()], at_least=1)) == 1


def test_a_count_draws_that_many_different_rows():
    ids = anchor_ids(40, 100)
    assert len(set(ids.tolist())) == 40
    assert min(ids) >= 0
    assert max(ids) < 100


def test_the_seed_decides_the_draw():
    assert (anchor_ids(20, 100, seed=1) == anchor_ids(20, 100, seed=1)).all()
    assert set(anchor_ids(20, 100, seed=1)) != set(anchor_ids(20, 100, seed=2))


@pytest.mark.parametrize("ids", [[7, 2, 5], (7, 2, 5), np.array([7, 2, 5]), np.array([7, 2, 5], dtype=np.int32)])
def test_ids_keep_their_order(ids):
    assert anchor_ids(ids, 10).tolist() == [7, 2, 5]


@pytest.mark.parametrize("anchors", [8, np.int64(8), list(range(8))])
def test_two_rows_remain_at_the_limit(anchors):
    assert len(anchor_ids(anchors, 10)) == 8


@pytest.mark.parametrize(
    ("anchors", "match"),
    [
        (True, "anchors is a bool; give a count or the row ids"),
        (np.True_, "anchors is a bool; give a count"),
        (1, "1 anchor.s. given; at least 2"),
        (0, "0 anchor.s. given; at least 2"),
        (-3, "-3 anchor.s. given; at least 2"),
        ([4], "1 anchor.s. given; at least 2"),
        (9, "9 anchors asked for, but there are 10 rows, .*give fewer"),
        (list(range(9)), "9 anchors asked for, .*give fewer"),
        ([1, 2, 2, 3, 3, 3], "3 anchor ids are repeated; give every anchor once"),
        ([0, 10], r"anchor id 10 is outside the rows 0\.\.9"),
        ([-1, 3], r"anchor id -1 is outside the rows 0\.\.9"),
        ([0.0, 1.0], "a count, a list of whole-numbered row ids, a mask, or a file"),
        (5.0, "a count, a list of whole-numbered row ids, a mask, or a file"),
        ([[0, 1], [2, 3]], "a count, a list of whole-numbered row ids, a mask, or a file"),
        ([True] * 3, "the mask of anchors has 3 values; give one for each of the 10 rows"),
        (["a", "b"], "a count, a list of whole-numbered row ids, a mask, or a file"),
        ([], "a count, a list of whole-numbered row ids, a mask, or a file"),
        (None, "a count, a list of whole-numbered row ids, a mask, or a file"),
    ],
)
def test_unusable_anchors_are_named_with_their_remedy(anchors, match):
    refused(match, anchor_ids, anchors, 10)


@pytest.mark.parametrize("labels", [["b", "a", "b", "c"], np.array([5, -1, 5, 9]), torch.tensor([5, 2, 5, 9])])
def test_labels_of_any_kind_become_codes(labels):
    codes = class_codes(labels, 4)
    assert codes.dtype == torch.int64
    assert codes.tolist() == [1, 0, 1, 2]


def test_no_labels_give_no_codes():
    assert class_codes(None, 4) is None


@pytest.mark.parametrize("labels", [[0, 1, 0], [0] * 5, [[0], [1], [0], [1]], 3])
def test_labels_must_be_one_per_row(labels):
    refused("labels have shape .*give one label for each of the 4 rows", class_codes, labels, 4)


@pytest.mark.parametrize("kind", ["reversed", "big-endian", "longdouble"])
def test_unusual_layouts_are_read_as_they_are(kind):
    x = np.random.default_rng(0).normal(size=(60, 8))
    x = {"reversed": x[::-1], "big-endian": x.astype(">f8"), "longdouble": x.astype(np.longdouble)}[kind]
    np.testing.assert_array_equal(read_space(x).numpy(), x.astype(float))


def test_anchor_ids_of_any_integer_type_are_no_mask():
    assert anchor_ids(np.arange(20, dtype=np.uint8), 60).dtype == np.int64
