"""What cannot be used is refused at once: one sentence that says what, where, and the remedy."""

import itertools
import json
import math
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from invariances import (
    INVARIANCES,
    Absolute,
    Affine,
    Codes,
    IsotropicScale,
    Orthogonal,
    Permutation,
    Product,
    Quality,
    Relative,
    Scale,
    Similarity,
    Stitchable,
    Translation,
    align,
    cka,
    compare,
    cosine,
    difference,
    discover,
    interval,
    pairwise,
    procrustes,
    rank_prediction,
    stitch,
)
from invariances.cli import main
from invariances.errors import ParameterError, SpaceError
from invariances.samples import anchor_ids
from invariances.spaces import read_space, read_spaces

TRANSFORMS = {
    type(transform).__name__: transform
    for transform in (
        Absolute(),
        Scale(),
        Relative(),
        Translation(),
        IsotropicScale(),
        Orthogonal(),
        Similarity(),
        Affine(),
        Permutation(),
    )
}
N, D = 40, 4
X, Y = np.random.default_rng(0).normal(size=(2, N, D))
REMEDY = (
    r"\b(give|drop|choose|save|convert|embed|multiply|divide|rescale|set|keep|select|fill|needs?|needed|use|make|must|"
    r"has|name|nothing)\b"
)


def one_sentence(message):
    """One line, one sentence, with something to do."""
    assert "\n" not in message
    assert not re.search(r"(?<!e\.g)[.!?]\s+[A-Z]", message), message
    assert re.search(REMEDY, message), message


# What is given --------------------------------------------------------------------------------------


def changed(rows, value, x=X):
    x = x.copy()
    x[rows] = value
    return x


def npy(folder, array, **options):
    np.save(folder / "x.npy", array, **options)
    return folder / "x.npy"


def tensors(folder, **named):
    save_file(named, folder / "x.safetensors")
    return folder / "x.safetensors"


def raw(folder, content, name="x.npy"):
    (folder / name).write_bytes(content)
    return folder / name


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])
    return path


def npy_saying(shape, data=b"\0" * 64, version=b"\x01\x00"):
    """An .npy file whose header claims a shape, as text."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def safetensors_saying(header, data=b"", length=None):
    """A .safetensors file with a header of one's own, and a length of one's own."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def matrix_at(shape, start=0, stop=64):
    return {"x": {"dtype": "F64", "shape": shape, "data_offsets": [start, stop]}}


def pairs(models="abcde", seed=0):
    values = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {"model_a": a, "model_b": b, "score": values.random(), "retention": values.random()}
            for a, b in itertools.permutations(models, 2)
        ]
    )


def model(x=X, anchors=10, targets=None, head=lambda codes: codes):
    x = torch.tensor(x)
    samples = x[10:]
    return Stitchable(Codes(x[:anchors], samples, torch.zeros(len(samples)) if targets is None else targets), head)


def mean_size(outputs, targets):
    return float(outputs.abs().mean())


def with_(call, **given):
    """A call with usable arguments but those in `given`; a function among them is called with a folder."""

    def run(folder):
        return call(**{name: value(folder) if callable(value) else value for name, value in given.items()})

    return run


def reading(x):
    return with_(read_space, source=x, name="model")


def aligned(**given):
    return with_(align, **{"spaces": {"a": X, "b": Y}, "anchors": 10, **given})


def compared(**given):
    return with_(compare, **{"x": X, "y": Y, **given})


def discovered(**given):
    return with_(discover, **{"spaces": {"a": X, "b": Y}, "anchors": 20, **given})


def predicted(**given):
    return with_(rank_prediction, **{"alignment": pairs(), "retention": pairs(), **given})


def multiplied(**given):
    return with_(Product, **{"anchors": 5, "width": 4, "aggregation": "sum", **given})


def stitched(measure=mean_size, models=None, invariance="affine", untrained=None, seed=0):
    given = {"a": model(), "b": model(Y)} if models is None else models
    if untrained is not None:
        given = given | {"untrained": Stitchable(untrained, None)}
    invariances = invariance if isinstance(invariance, list) else [invariance]
    return lambda folder: stitch(given, invariances, Quality("own", measure), seed)


def fitted(transform, *anchors):
    return lambda folder: transform.fit(*anchors)


def transformed(x):
    return lambda folder: Affine().fit(X, Y).transform(x)


def into(*given):
    return lambda folder: Product(anchors=5, width=4, aggregation="sum")(*given)


FLOATS = torch.tensor(X, dtype=torch.float32)
WIDE = {"a": model(X[:, :2]), "b": model(Y)}

CASES = [
    # matrices
    (
        "NaN in the first row",
        reading(changed(0, np.nan)),
        r"^model: 1 row.s. hold NaN or infinity .first: row 0.; repair",
    ),
    ("NaN in the last row", reading(changed((-1, -1), np.nan)), r"hold NaN or infinity .first: row 39.; repair"),
    ("infinity", reading(changed([3, 7], np.inf)), r"2 row.s. hold NaN or infinity .first: row 3.; repair"),
    ("minus infinity", reading(changed(-1, -np.inf)), r"hold NaN or infinity .first: row 39.; repair"),
    ("both infinities", reading(changed([0, 1], [[np.inf], [-np.inf]])), r"2 row.s. hold NaN or infinity"),
    ("a row of zeros", reading(changed(5, 0)), r"1 row.s. hold only zeros, .* .first: row 5.; drop"),
    ("all zeros", reading(np.zeros((N, D))), r"40 row.s. hold only zeros, .* .first: row 0.; drop"),
    ("a constant space", reading(np.full((N, D), 1.5)), "^model is constant: all 40 rows are the same"),
    ("too large", reading(X * 1e40), r"^model holds values of up to \de\+40, .*multiply it by a factor"),
    ("too small", reading(X * 1e-40), r"^model holds values of up to \de-40, .*multiply it by a factor"),
    ("one sample", reading(X[:1]), r"^model has shape .1, 4.; give a matrix with at least 2 samples"),
    ("no samples", reading(X[:0]), r"^model has shape .0, 4.; give a matrix with at least 2 samples"),
    ("no features", reading(X[:, :0]), r"^model has shape .40, 0.; give a matrix .* 1 feature"),
    ("a number", reading(np.array(1.0)), r"^model has shape ..; give a matrix"),
    ("a vector", reading(X[0]), r"^model has shape .4,.; give a matrix"),
    ("three axes", reading(X[None]), r"^model has shape .1, 40, 4.; give a matrix"),
    ("integers", reading(np.arange(8).reshape(4, 2)), "^model has dtype int64; give floating-point numbers"),
    ("truth values", reading(X > 0), "^model has dtype bool; give floating-point numbers"),
    ("complex numbers", reading(X.astype(complex)), "^model has dtype complex128; give floating-point numbers"),
    ("objects", reading(X.astype(object)), "^model has dtype object; give floating-point numbers"),
    ("strings", reading(X.astype(str)), "^model has dtype <U32; give floating-point numbers"),
    ("integers in a tensor", reading(FLOATS.long()), "^model has dtype torch.int64; give floating-point numbers"),
    ("eight-bit floats", reading(FLOATS.to(torch.float8_e5m2)), "^model has dtype torch.float8_e5m2; give floating"),
    (
        "ragged lists",
        reading([[1.0, 2.0], [1.0]]),
        "^model: row 0 has a vector of shape .*; give all rows",
    ),
    ("a list of words", reading(["a", "b"]), "^model: row 0 holds no list of numbers; give vectors like"),
    ("a list of unlike tensors", reading([FLOATS[0], FLOATS[0, :2]]), "^model is a list of unlike tensors; give"),
    (
        "a frame of words",
        reading(pd.DataFrame({"a": ["x", "y"]})),
        "^model has no column of numbers .*; give",
    ),
    (
        "labels beside features",
        reading(pd.DataFrame(X).assign(label=1)),
        "^model has whole numbers .label. beside its features; name the features",
    ),
    (
        "vectors of two models in one frame",
        reading(pd.DataFrame({"a": list(X), "b": list(Y)})),
        "^model has 2 columns of vectors .a, b.; name one",
    ),
    ("tokens", reading(np.ones((4, 3, 2))), r"^model has shape .4, 3, 2.; .*; x\.mean\(1\) pools"),
    ("feature maps", reading(np.ones((4, 3, 2, 2))), r"^model has shape .4, 3, 2, 2.; .*; x\.mean\(\(2, 3\)\) pools"),
    ("a sparse matrix", reading(scipy.sparse.csr_array(X)), r"^model is a csr_array; give .*, here x\.toarray\(\)$"),
    ("a sparse tensor", reading(FLOATS.to_sparse()), r"^model is a sparse, .*; give a plain one, e\.g\. x\.to_dense"),
    ("a masked array", reading(np.ma.masked_greater(X, 1)), "^model is a MaskedArray; give a numpy array"),
    ("nothing", reading(None), "^model is a NoneType; give a numpy array"),
    ("a tensor without values", reading(FLOATS.to("meta")), "^model is a sparse, nested or meta tensor; give"),
    # files
    ("no file", reading(lambda f: f / "absent.npy"), "^model: there is no file .*absent.npy; give"),
    ("a folder", reading(lambda f: f), "holds no .parquet file; give a folder of Parquet shards"),
    ("a name too long", reading("x" * 999 + ".npy"), "^model: there is no file x*.npy; give"),
    ("an empty file", reading(lambda f: raw(f, b"")), r"x\.npy is damaged, truncated or not a plain matrix .*save it"),
    ("a header cut off", reading(lambda f: cut(npy(f, X), 40)), "is damaged, truncated .*save it again$"),
    ("data cut off", reading(lambda f: cut(npy(f, X), -8)), "is damaged, truncated .*save it again$"),
    ("more data than said", reading(lambda f: raw(f, npy_saying((2, 2)))), "x.npy holds 32 bytes more than its header"),
    ("less data than said", reading(lambda f: raw(f, npy_saying((4, 4)))), "is damaged, truncated .*save it again$"),
    ("a petabyte", reading(lambda f: raw(f, npy_saying((2**24, 2**24)))), "is damaged, truncated .*save it again$"),
    ("more than can be counted", reading(lambda f: raw(f, npy_saying((2**40, 2**40)))), "is damaged, .*save it again$"),
    ("negative sizes", reading(lambda f: raw(f, npy_saying((-4, -2)))), "is damaged, truncated .*save it again$"),
    ("a header that is code", reading(lambda f: raw(f, npy_saying("print(1)"))), "is damaged, .*save it again$"),
    (
        "a header of gigabytes",
        reading(lambda f: raw(f, b"\x93NUMPY\x02\x00\xff\xff\xff\xff{")),
        "is damaged, .*save it",
    ),
    ("a version to come", reading(lambda f: raw(f, npy_saying((4, 2), version=b"\x09\x00"))), "is damaged, .*save it"),
    ("objects in a file", reading(lambda f: npy(f, np.array([{}, 1], dtype=object))), "is damaged, .*save it again$"),
    ("a pickle by another name", reading(lambda f: raw(f, pickle.dumps(X))), "is damaged, .*save it again$"),
    (
        "an archive by another name",
        reading(lambda f: raw(f, b"PK\x03\x04" + b"\0" * 99)),
        "is damaged, .*save it again$",
    ),
    (
        "an archive",
        reading(lambda f: raw(f, b"", "x.npz")),
        "is damaged, truncated .*save it again$",
    ),
    (
        "a torch file",
        reading(lambda f: raw(f, b"", "x.pt")),
        r"only \.npy, .* or \.parquet are safe to load; convert it",
    ),
    (
        "an empty text file",
        reading(lambda f: raw(f, b"", "x.csv")),
        "is damaged, truncated .*save it again$",
    ),
    ("a vector in a file", reading(lambda f: npy(f, X[0])), r"^model has shape .4,.; give a matrix"),
    ("NaN in a file", reading(lambda f: npy(f, changed(-1, np.nan))), "hold NaN or infinity .first: row 39.; repair"),
    (
        "two tensors",
        reading(lambda f: tensors(f, x=FLOATS, y=FLOATS + 1)),
        "holds 2 tensors .x, y.; name one, e.g. x.safetensors:x",
    ),
    ("no tensor", reading(lambda f: tensors(f)), "holds 0 tensors; give a file with a matrix"),
    (
        "a tensor of integers",
        reading(lambda f: tensors(f, x=FLOATS.int())),
        "has dtype torch.int32; give floating-point",
    ),
    ("a tensor of one axis", reading(lambda f: tensors(f, x=FLOATS[0].clone())), r"has shape .4,.; give a matrix"),
    ("tensors cut off", reading(lambda f: cut(tensors(f, x=FLOATS), -4)), "is damaged, .*save it again$"),
    (
        "a header length beyond all memory",
        reading(lambda f: raw(f, safetensors_saying({}, length=2**62), "x.safetensors")),
        "is damaged, .*save it again$",
    ),
    (
        "a header that is no JSON",
        reading(lambda f: raw(f, safetensors_saying(b"neither here nor there"), "x.safetensors")),
        "is damaged, .*save it again$",
    ),
    (
        "a tensor larger than its data",
        reading(lambda f: raw(f, safetensors_saying(matrix_at([2**20, 2**20]), bytes(64)), "x.safetensors")),
        "is damaged, .*save it again$",
    ),
    (
        "a tensor that ends before it starts",
        reading(lambda f: raw(f, safetensors_saying(matrix_at([4, 2], 64, 0), bytes(64)), "x.safetensors")),
        "is damaged, .*save it again$",
    ),
    # several spaces
    ("one model", with_(read_spaces, spaces={"a": X}), r"^1 space.s. given; at least 2 are needed"),
    ("no models", with_(read_spaces, spaces=[]), r"^0 space.s. given; at least 2 are needed"),
    ("one array for all", with_(read_spaces, spaces=np.stack([X, Y])), "^spaces is a ndarray; give a mapping"),
    ("one path for all", with_(read_spaces, spaces="x.npy"), "^spaces is a str; give a mapping"),
    ("an empty name", with_(read_spaces, spaces={"": X, "b": Y}), "^a space is named ''; give every model a name"),
    ("a name of two lines", with_(read_spaces, spaces={"a\nb": X, "b": Y}), r"^a space is named 'a\\nb'; give every"),
    ("a name given twice", with_(read_spaces, spaces={1: X, "1": Y}), "^two spaces have the same name; give every"),
    ("unequal rows", with_(read_spaces, spaces={"a": X, "b": Y[1:]}), r".a 40, b 39.; embed the same samples"),
    ("one bad space of two", with_(read_spaces, spaces=[X, changed(2, np.nan)]), "^space '1': 1 row.s. hold NaN"),
    # anchors
    ("anchors: a truth value", aligned(anchors=True), "^anchors is a bool; give a count or the row ids"),
    ("anchors: none at all", aligned(anchors=0), r"^0 anchor.s. given; at least 2 are needed"),
    ("anchors: one", aligned(anchors=1), r"^1 anchor.s. given; at least 2 are needed"),
    ("anchors: fewer than none", aligned(anchors=-3), r"^-3 anchor.s. given; at least 2 are needed"),
    ("anchors: too many", aligned(anchors=39), "^39 anchors asked for, but there are 40 rows, .*; give fewer anchors"),
    ("anchors: a fraction", aligned(anchors=10.0), "^anchors must be a count, a list .* row ids"),
    ("anchors: NaN", aligned(anchors=math.nan), "^anchors must be a count, a list .* row ids"),
    ("anchors: no file", aligned(anchors="10"), "^anchors: there is no file 10; give a count"),
    ("anchors: an empty list", aligned(anchors=[]), "^anchors must be a count, a list .* row ids"),
    ("anchors: two axes", aligned(anchors=[[0, 1], [2, 3]]), "^anchors must be a count, a list .* row ids"),
    ("anchors: a short mask", aligned(anchors=[True] * 10), "^the mask of anchors has 10 values; give one for each"),
    ("anchors: ragged", aligned(anchors=[1, [2, 3]]), "^anchors must be a count, a list .* row ids"),
    ("anchors: out of range", aligned(anchors=[0, 40]), r"^anchor id 40 is outside the rows 0\.\.39; give"),
    ("anchors: negative", aligned(anchors=[-1, 3]), r"^anchor id -1 is outside the rows 0\.\.39; give"),
    ("anchors: repeated", aligned(anchors=[1, 1, 2]), "^1 anchor ids are repeated; give every anchor once"),
    ("anchors: missing", aligned(anchors=None), r"^relative, affine need anchors; give a count .anchors=500."),
    ("anchors: ids without seed", lambda folder: anchor_ids([1, 2, 3], 10, seed="x"), "^seed is 'x'; give a whole"),
    ("anchors: constant", aligned(spaces=[changed(range(10), 1), Y], anchors=range(10)), "^anchors of '0' is constant"),
    (
        "constant but for the anchors",
        aligned(spaces=[X, changed(range(10, 40), 1)], anchors=range(10)),
        "^what is scored of '1' is constant: all 30 rows are the same; give",
    ),
    # labels
    ("labels: too few", aligned(labels=[0, 1]), r"^labels have shape .2,.; give one label for each of the 40 rows"),
    ("labels: two axes", aligned(labels=np.zeros((N, 1))), r"^labels have shape .40, 1.; give one label for each"),
    ("labels: ragged", aligned(labels=[[1], [1, 2]] * 20), "^labels are not one a row; give one label for each"),
    ("labels: None", aligned(labels=[None] + [1] * 39), r"^1 labels are missing .first: row 0.; drop these samples"),
    ("labels: NaN", aligned(labels=[1.0] * 39 + [math.nan]), r"^1 labels are missing .first: row 39.; drop these"),
    ("labels: NaN in words", aligned(labels=["a", math.nan] * 20), r"^20 labels are missing .first: row 1.; drop"),
    ("labels: missing in pandas", aligned(labels=pd.Series([1, pd.NA] * 20)), r"^20 labels are missing .first: row 1."),
    (
        "labels: of two kinds",
        aligned(labels=np.array(["a", 1] * 20, dtype=object)),
        "^labels of different kinds .*; give",
    ),
    # names and numbers
    ("an unknown invariance", aligned(invariances=["bent"]), "^unknown invariance 'bent'; choose from absolute, scale"),
    ("an invariance in a list", aligned(invariances=[["affine"]]), r"^unknown invariance \['affine'\]; choose from"),
    ("a name for a list", aligned(invariances="affine"), "^invariances is 'affine'; give a list of at least one name"),
    ("no invariance", aligned(invariances=[]), r"^invariances is \[\]; give a list of at least one name"),
    ("no invariance by name", aligned(invariances={}), r"^invariances is \{\}; give a list of at least one name"),
    ("None for invariances", aligned(invariances=None), "^invariances is None; give a list of at least one name"),
    ("a transform for a list", aligned(invariances=Scale()), r"^invariances is Scale\(\); give a list"),
    (
        "a class for a transform",
        aligned(invariances={"mine": lambda f: 0, "x": Scale}),
        "^invariance 'mine' is a function",
    ),
    ("a penalty below 0", aligned(invariances={"mine": Affine(-1)}), "^mine: penalty is -1; give 'gcv', 'loo' or"),
    ("an unknown penalty", aligned(invariances={"mine": Affine("aic")}), "^mine: penalty is 'aic'; give 'gcv', 'loo'"),
    ("an unknown metric", aligned(metrics=["bleu"]), "^unknown metric 'bleu'; choose from cosine, pearson, cka"),
    ("a number for a metric", aligned(metrics=[5]), "^unknown metric 5; choose from cosine"),
    ("a metric in a list", compared(metric=["cka"]), r"^unknown metric \['cka'\]; choose from cosine"),
    ("a name for metrics", aligned(metrics="cka"), "^metrics is 'cka'; give a list of at least one name"),
    ("None for metrics", aligned(metrics=None), "^metrics is None; give a list of at least one name"),
    ("a negative seed", aligned(seed=-1), "^seed is -1; give a whole number of at least 0"),
    ("a fraction for a seed", aligned(seed=1.5), "^seed is 1.5; give a whole number of at least 0"),
    ("None for a seed", aligned(seed=None), "^seed is None; give a whole number of at least 0"),
    ("a truth value for a seed", aligned(seed=True), "^seed is True; give a whole number of at least 0"),
    ("a seed too large", aligned(seed=2**70), "^seed is 1180591620717411303424; give a whole number below"),
    ("a seed nobody draws by", aligned(anchors=None, invariances=["scale"], seed="x"), "^seed is 'x'; give a whole"),
    ("one shuffle", aligned(permutations=1), "^permutations is 1; give a whole number of at least 2"),
    ("a fraction of shuffles", aligned(permutations=20.0), "^permutations is 20.0; give a whole number of at least 2"),
    ("a truth value of shuffles", compared(permutations=True), "^permutations is True; give a whole number"),
    ("an array of shuffles", compared(permutations=np.eye(9)), "^permutations is array.*; give a whole number"),
    # metrics
    ("unequal rows compared", compared(y=Y[1:]), r".x 40, y 39.; embed the same samples in the same order"),
    (
        "Pearson of two widths",
        compared(y=Y[:, :2], metric="pearson"),
        "needs profiles of one width, not 4 and 2; compare",
    ),
    ("Pearson of one feature", compared(x=X[:, :1], metric="pearson"), "is undefined for 40 row.s. .*; drop these"),
    ("too few for debiased CKA", compared(x=X[:3], y=Y[:3], metric="cka_debiased"), "needs at least 4 samples, not 3"),
    ("too few for RSA", compared(x=X[:3], y=Y[:3], metric="rsa"), "^RSA needs at least 4 samples, not 3; give more"),
    ("too few neighbours", compared(x=X[:9], y=Y[:9], metric="mutual_knn"), "needs at least 12 samples, not 9; give"),
    ("all equally far, ranked", compared(x=np.eye(N), metric="rsa"), "^RSA is undefined .*; use cka"),
    (
        "all equally far, debiased",
        compared(x=np.eye(N), metric="cka_debiased"),
        "^CKA is undefined .*; use more samples",
    ),
    ("all equally far, kernel", compared(x=np.eye(N), metric="cka_rbf_debiased"), "^CKA is undefined .*; use more"),
    (
        "mostly the same sample",
        compared(x=changed(range(35), 1), metric="cka_rbf"),
        "no bandwidth, .*; drop duplicates",
    ),
    ("None for a space", lambda folder: cosine(X, None), "^space 'y' is a NoneType; give a numpy array"),
    ("unequal rows for CKA", lambda folder: cka(X, Y[1:]), r".x 40, y 39.; embed the same samples"),
    ("NaN for Procrustes", lambda folder: procrustes(changed(0, np.nan), Y), "^space 'x': 1 row.s. hold NaN"),
    ("an unknown method", with_(pairwise, spaces=[X, Y], method="fast"), "^unknown method 'fast'; choose from auto"),
    ("an unknown metric for all", with_(pairwise, spaces=[X, Y], metric="x"), "^unknown metric 'x'; choose from"),
    ("one space for all pairs", with_(pairwise, spaces=[X]), r"^1 space.s. given; at least 2 are needed"),
    # transforms
    *(
        (f"{name}: NaN in the anchors", fitted(transform, changed(0, np.nan), Y), "^anchors: 1 row.s. hold NaN")
        for name, transform in TRANSFORMS.items()
    ),
    *(
        (f"{name}: no target", fitted(transform, X), "maps one space onto another; give target_anchors to fit$")
        for name, transform in TRANSFORMS.items()
        if transform.fitted
    ),
    ("target anchors missing one", fitted(Orthogonal(), X, Y[1:]), "^40 anchors but 39 target_anchors; give the same"),
    ("infinite target anchors", fitted(Affine(), X, changed(-1, np.inf)), "^target_anchors: 1 row.s. hold NaN or inf"),
    ("an unknown similarity", fitted(Relative("dot"), X), "^unknown similarity 'dot'; choose from cosine, euclidean"),
    ("a list of similarities", fitted(Relative(["l1"]), X), r"^unknown similarity \['l1'\]; choose from cosine"),
    ("shrinkage beyond 1", fitted(Relative(whiten=True, shrink=2), X), "^shrink is 2; give a number from 0"),
    ("NaN for shrinkage", fitted(Relative(whiten=True, shrink=math.nan), X), "^shrink is nan; give a number from 0"),
    (
        "too few to whiten",
        fitted(Relative(whiten=True, shrink=0), X[:4]),
        "^the anchors' covariance is singular .*; set",
    ),
    ("another width", transformed(X[:, :2]), r"^x has shape .40, 2., but fit saw 4 features; use the same encoder"),
    ("NaN in a sample", transformed(changed(0, np.nan)), "^x holds NaN or infinity; repair or drop these samples"),
    ("one sample without its axis", transformed(X[0]), r"^x has shape .4,., but fit saw 4 features; use"),
    ("integers to transform", transformed(X.astype(int)), "^x has dtype int64; give floating-point numbers"),
    ("a list to transform", transformed(X[0].tolist()), "^x: 4 row.s. have no vector .first: row 0.; drop"),
    (
        "ragged samples",
        transformed([[1.0], [1.0, 2.0]]),
        "^x: row 0 has a vector of shape .*; give all rows",
    ),
    (
        "a narrow data frame",
        transformed(pd.DataFrame(X).iloc[:, :3]),
        r"^x has shape .40, 3., but fit saw 4",
    ),
    ("a sparse tensor to transform", transformed(FLOATS.to_sparse()), "^x is a sparse, nested or meta tensor; give"),
    ("masked samples", transformed(np.ma.masked_greater(X, 1)), "^x is a MaskedArray; give a numpy array"),
    (
        "a map out of range",
        lambda folder: Affine(0).fit(FLOATS * 1e-30, torch.tensor(Y / 9 * 1e30).float()).transform(FLOATS),
        "^what it is mapped to is too large for torch.float32; rescale",
    ),
    # products
    ("an unknown component", multiplied(similarities=("dot",)), "^similarities are .*; give one or more of cosine"),
    (
        "a component twice",
        multiplied(similarities=("l1", "l1")),
        "^similarities are .*; give one or more of .* each once",
    ),
    ("no components", multiplied(similarities=()), "^similarities are .*; give one or more of cosine"),
    ("a name for components", multiplied(similarities="cosine"), "^similarities are 'cosine'; give one or more of"),
    ("None for components", multiplied(similarities=None), "^similarities are None; give one or more of cosine"),
    ("a component in a list", multiplied(similarities=[["l1"]]), "^similarities are .*; give one or more of cosine"),
    ("one anchor", multiplied(anchors=1), "^anchors is 1; give a whole number of at least 2"),
    ("no width", multiplied(width=0), "^width is 0; give a whole number of at least 1"),
    ("a fraction of a width", multiplied(width=4.0), "^width is 4.0; give a whole number of at least 1"),
    ("an unknown aggregation", multiplied(aggregation="mean"), "^unknown aggregation 'mean'; choose from concat"),
    ("heads that do not fit", multiplied(aggregation="attention", heads=3), "cannot be shared by 3 heads; give a"),
    ("heads without attention", multiplied(heads=2), "^aggregation 'sum' has no weights or heads; leave .* or use"),
    (
        "a word for a truth value",
        multiplied(aggregation="attention", equal_weights="no"),
        "^equal_weights is 'no'; give",
    ),
    ("a product's seed", multiplied(seed=2**70), "^seed is 1180591620717411303424; give a whole number below"),
    ("an array for a tensor", into(X, X[:5]), "^x is ndarray; give a tensor of floating-point numbers"),
    ("integers for a product", into(FLOATS.long(), FLOATS[:5]), "^x is torch.int64; give a tensor of floating-point"),
    (
        "two precisions",
        into(FLOATS, FLOATS[:5].double()),
        "^x is torch.float32, but anchors are torch.float64; give both",
    ),
    ("anchors too few", into(FLOATS, FLOATS[:4]), r"^x has shape .* and anchors .4, 4.; give n samples and 5 anchors"),
    ("two encoders", into(FLOATS, FLOATS[:5, :2]), r"^x has shape .* and anchors .5, 2.; give n samples and 5 anchors"),
    # discover
    ("too many anchors to discover", discovered(anchors=500), "^500 anchors asked for, .*; give fewer anchors"),
    ("one model to discover", discovered(spaces=[X]), r"^1 space.s. given; at least 2 are needed"),
    ("no delta", discovered(delta=0), "^delta is 0; give a share of the target's variance above 0"),
    ("NaN for delta", discovered(delta=math.nan), "^delta is nan; give a share of the target's variance"),
    ("a negative seed to discover", discovered(seed=-1), "^seed is -1; give a whole number of at least 0"),
    ("None for a seed to discover", discovered(seed=None), "^seed is None; give a whole number of at least 0"),
    ("a seed too large to discover", discovered(seed=2**70), "^seed is 1180591620717411303424; give a whole"),
    ("labels missing to discover", discovered(labels=[None] * N), r"^40 labels are missing .first: row 0.; drop"),
    # tables of pairs
    ("no table", with_(interval, pairs=None), "^the table of pairs is a NoneType; give a DataFrame"),
    (
        "a table without scores",
        with_(interval, pairs=pairs().drop(columns="score")),
        "^the table of pairs has no column score",
    ),
    ("a table without rows", with_(interval, pairs=pairs()[:0]), "^the table of pairs has no rows; .* needed"),
    (
        "words for scores",
        with_(interval, pairs=pairs().assign(score="x")),
        "holds no numbers; name|holds no numbers; give",
    ),
    ("complex scores", with_(interval, pairs=pairs().assign(score=1j)), "^column score .* holds no numbers"),
    ("infinite scores", with_(interval, pairs=pairs().assign(score=np.inf)), "holds an infinity; set it to NaN"),
    (
        "scores beyond all powers",
        with_(interval, pairs=pairs().assign(score=1e300)),
        "holds numbers beyond 1e60; divide",
    ),
    ("no scores", with_(interval, pairs=pairs().assign(score=np.nan)), "^column score .* holds no finite number"),
    ("a pair twice", with_(interval, pairs=pd.concat([pairs()] * 2)), "^the pair a, b occurs more than once; select"),
    (
        "a model with itself",
        with_(interval, pairs=pairs().replace("b", "a")),
        "^a is paired with itself; keep real pairs",
    ),
    (
        "a pair without a name",
        with_(interval, pairs=pairs().replace("b", None)),
        "rows without the name of a model; fill",
    ),
    ("two values", with_(interval, pairs=pairs(), value=["score"]), r"^the value is \['score'\]; give the name"),
    ("groups that are a word", with_(interval, pairs=pairs(), groups="ab"), "^groups is 'ab'; give two sequences"),
    ("groups that are a number", with_(interval, pairs=pairs(), groups=5), "^groups is 5; give two sequences"),
    (
        "three groups",
        with_(interval, pairs=pairs(), groups=(["a"], ["b"], ["c"])),
        r"^groups is .*; give two sequences",
    ),
    ("groups that overlap", with_(interval, pairs=pairs(), groups=(["a"], ["a"])), "^a stand in both groups; give"),
    ("a group of strangers", with_(interval, pairs=pairs(), groups=(["a"], ["z"])), "^z of the groups are not in"),
    ("a group of nobody", with_(interval, pairs=pairs(), groups=([], ["a"])), "^a group has no models; give two"),
    (
        "other models",
        with_(difference, first=pairs(), second=pairs("abcd")),
        "^e occur in one of the two tables only; give",
    ),
    ("nothing to subtract", with_(difference, first=pairs(), second=None), "^the table of pairs is a NoneType; give"),
    ("no table to predict", predicted(retention=None), "^the retention table is a NoneType; give a DataFrame"),
    ("a word for columns", predicted(by="data"), "^by is 'data'; give a list of column names"),
    ("an absent column", predicted(by=["data"]), "^the alignment table has no column data; it has"),
    ("an absent value", predicted(alignment_value="x"), "^the table of pairs has no column x; it has"),
    ("too few draws", predicted(draws=5), "^draws is 5; give a whole number of at least 19"),
    ("a fraction of draws", predicted(draws=99.5), "^draws is 99.5; give a whole number"),
    ("a negative seed to predict", predicted(seed=-1), "^seed is -1; give a whole number of at least 0"),
    # stitching
    (
        "one model to stitch",
        stitched(models={"a": model()}),
        r"^1 model\(s\) with a head given; stitching needs at least 2",
    ),
    ("a list of models", stitched(models=[model(), model()]), "^models is no mapping from names to Stitchable; give"),
    ("numbers for models", stitched(models={"a": 1, "b": 2}), "^models is no mapping from names to Stitchable; give"),
    ("an unknown way to stitch", stitched(invariance="glue"), "^unknown invariance 'glue'; choose from absolute"),
    ("no way", stitched(invariance=[]), r"^invariances is \[\]; give a list of at least one name"),
    ("unequal anchors", stitched(models={"a": model(), "b": model(anchors=9)}), "different numbers of anchors; embed"),
    (
        "NaN to stitch",
        stitched(models={"a": model(), "b": model(changed(20, np.nan))}),
        "^the samples of b hold NaN or infinity; drop",
    ),
    (
        "widths that no head reads",
        stitched(models=WIDE, invariance="absolute"),
        "^the encoders differ in width, .*; choose",
    ),
    (
        "targets too few",
        stitched(models={"a": model(targets=[0, 1]), "b": model()}),
        "30 samples, but 2 targets; give one",
    ),
    ("untrained on other anchors", stitched(untrained=model(anchors=9).codes), "different numbers of anchors; embed"),
    (
        "an untrained encoder that no head reads",
        stitched(untrained=WIDE["a"].codes, invariance="absolute"),
        "^the encoders differ in width, .*; choose",
    ),
    ("a quality that is NaN", stitched(lambda *_: math.nan), "^the quality of a unstitched is nan; give a function"),
    (
        "a quality that is a word",
        stitched(lambda *_: "good"),
        "^the quality of a unstitched is 'good'; give a function",
    ),
    ("a negative seed to stitch", stitched(seed=-1), "^seed is -1; give a whole number of at least 0"),
]


@pytest.mark.parametrize(("call", "match"), [pytest.param(call, match, id=name) for name, call, match in CASES])
def test_what_cannot_be_used_is_refused_in_one_sentence(call, match, tmp_path):
    with pytest.raises(SpaceError, match=match) as refused:
        call(tmp_path)
    one_sentence(str(refused.value))


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_nothing_is_transformed_before_fit(transform):
    with pytest.raises(NotFittedError):
        clone(transform).transform(X)


# What is unusual but sound --------------------------------------------------------------------------

ODD = {
    "Fortran order": lambda f: npy(f, np.asfortranarray(X)),
    "big-endian": lambda f: npy(f, X.astype(">f8")),
    "long double": lambda f: npy(f, X.astype(np.longdouble)),
    "an old version": lambda f: raw(f, npy_saying((N, D), X.tobytes(), b"\x02\x00")),
    "a strided array": lambda f: np.repeat(X, 2, axis=0)[::2],
    "an array that may not be written": lambda f: np.broadcast_to(X, X.shape),
    "a tensor that wants a gradient": lambda f: torch.tensor(X, requires_grad=True),
    "a parameter": lambda f: torch.nn.Parameter(torch.tensor(X)),
    "a transposed tensor": lambda f: torch.tensor(X.T.copy()).T,
}


@pytest.mark.parametrize("source", ODD.values(), ids=ODD)
def test_unusual_matrices_are_read_as_they_are(source, tmp_path):
    read = read_space(source(tmp_path))
    assert read.dtype == torch.float64
    assert not read.requires_grad
    np.testing.assert_array_equal(read.numpy(), X)


@pytest.mark.parametrize("size", [1e30, 1.1e-30])
def test_values_up_to_the_limits_are_read(size):
    x = X / np.abs(X).max() * size
    np.testing.assert_array_equal(read_space(x).numpy(), x)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_in_a_file_is_widened(half, tmp_path):
    x = FLOATS.to(half)
    read = read_space(tensors(tmp_path, x=x))
    assert read.dtype == torch.float32
    assert torch.equal(read, x.float())


def test_spaces_of_two_precisions_can_be_compared():
    mixed = align({"a": X.astype("f4"), "b": Y}, 10, list(INVARIANCES), ["cosine", "cka", "procrustes"])
    double = align({"a": X.astype("f4").astype("f8"), "b": Y}, 10, list(INVARIANCES), ["cosine", "cka", "procrustes"])
    pd.testing.assert_frame_equal(mixed, double)


@pytest.mark.parametrize("part", [slice(0, 10), slice(10, N)], ids=["anchors", "samples"])
@pytest.mark.parametrize("invariance", ["absolute", "relative", "orthogonal"])
def test_a_float32_space_with_a_faint_part_is_compared_as_one_in_float64(invariance, part):
    faint = changed(part, X[part] * 2.0**-30).astype("f4")
    metrics = ["cosine", "cka", "procrustes", "cca", "svcca", "pwcca"]
    other = Y.astype("f4")
    single, double = (align([faint, y], range(10), [invariance], metrics) for y in (other, other.astype("f8")))
    np.testing.assert_allclose(single.score, double.score, atol=1e-5)


# What must not happen on the way --------------------------------------------------------------------

LYING = [case for case in CASES if case[0] in ("a petabyte", "a header of gigabytes", "more than can be counted")]


@pytest.mark.parametrize(("name", "call", "match"), LYING, ids=[name for name, *_ in LYING])
def test_no_memory_is_taken_for_what_a_file_only_claims(name, call, match, tmp_path):
    tracemalloc.start()
    with pytest.raises(SpaceError):
        call(tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**20


class Payload:
    """What a pickle can do: make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("wrapped", [False, True], ids=["a pickle", "an array of objects"])
def test_no_pickle_is_ever_run(wrapped, tmp_path):
    payload = Payload(tmp_path / "ran")
    if wrapped:
        array = np.empty(2, dtype=object)
        array[:] = payload
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
    else:
        raw(tmp_path, pickle.dumps(payload))
    with pytest.raises(SpaceError, match="damaged"):
        read_space(tmp_path / "x.npy")
    assert not (tmp_path / "ran").exists()
    np.load(tmp_path / "x.npy", allow_pickle=True)  # it would have run
    assert (tmp_path / "ran").exists()


def test_a_refused_report_leaves_no_file_behind(tmp_path):
    report = discover([X, Y], 20)
    (tmp_path / "report").mkdir()
    with pytest.raises(ParameterError, match="report is a folder; give the name of a file in it"):
        report.to_html(tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


# The command line -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to be in, with the embeddings of two models and a few that cannot be used."""
    monkeypatch.chdir(tmp_path)
    for name, x in {"a": X, "b": Y, "short": Y[1:], "nan": changed(-1, np.nan), "words": X.astype(str)}.items():
        np.save(f"{name}.npy", x)
    Path("cut.npy").write_bytes(Path("a.npy").read_bytes()[:-8])
    Path("note.txt").write_text("no matrix")
    return tmp_path


COMMANDS = [
    ("no files", "", "Missing argument"),
    ("one file", "a.npy --anchors 20", "1 space.s. given; at least 2 are needed"),
    ("one file twice", "a.npy a.npy b.npy --anchors 20", "a.npy and a.npy are one file; give"),
    ("an absent file", "a.npy absent.npy --anchors 20", "space 'absent': there is no file absent.npy; give"),
    ("a folder", "a.npy . --anchors 20", "holds no .parquet file; give"),
    ("a text file", "a.npy note.txt --anchors 20", "space 'note': note.txt is not read, .*; convert it"),
    ("a truncated file", "a.npy cut.npy --anchors 20", "space 'cut': cut.npy is damaged, truncated .*; save it again"),
    ("NaN", "a.npy nan.npy --anchors 20", "space 'nan': 1 row.s. hold NaN or infinity .first: row 39.; repair"),
    ("strings", "a.npy words.npy --anchors 20", "space 'words' has dtype <U32; give floating-point numbers"),
    ("unequal rows", "a.npy short.npy --anchors 20", "a 40, short 39.; embed the same samples"),
    ("more anchors than rows", "a.npy b.npy", "500 anchors asked for, but there are 40 rows, .*; give fewer"),
    ("one anchor", "a.npy b.npy --anchors 1", "1 anchor.s. given; at least 2 are needed"),
    ("anchors in words", "a.npy b.npy --anchors many", "anchors: there is no file many; give a count"),
    ("a negative seed", "a.npy b.npy --anchors 20 --seed -1", "seed is -1; give a whole number of at least 0"),
    ("a seed too large", f"a.npy b.npy --anchors 20 --seed {2**70}", "seed is .*; give a whole number below"),
    (
        "a report into no folder",
        "a.npy b.npy --anchors 20 --html no/x.html",
        "the folder .*/no is not there; make it first, or give another one",
    ),
    ("a report onto a folder", "a.npy b.npy --anchors 20 --html .", "is a folder; give the name of a file in it"),
    ("an unknown option", "a.npy b.npy --colour x", "No such option: --colour"),
]


@pytest.mark.parametrize(("arguments", "match"), [pytest.param(line, m, id=name) for name, line, m in COMMANDS])
def test_the_command_ends_in_one_sentence(arguments, match, folder, monkeypatch, capsys):
    before = sorted(folder.iterdir())
    monkeypatch.setattr(sys, "argv", ["invariances", "discover", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code not in (0, None)
    assert "Traceback" not in out + err
    last = err.strip().splitlines()[-1]
    assert re.search(match, last), last
    assert not re.search(r"(?<!e\.g)[.!?]\s+[A-Z]", last)
    assert out == "", "no half of an answer"
    assert sorted(folder.iterdir()) == before


def test_the_exit_status_reaches_the_shell(folder):
    command = [sys.executable, "-c", "from invariances.cli import main; main()", "discover", "a.npy", "nan.npy"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "invariances: space 'nan': 1 row(s) hold NaN or infinity (first: row 39); "
        "repair or drop these samples in every space"
    ]
