"""Groups of interchangeable models: planted blocks, and that no chain makes a group."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from invariances import discover
from invariances.answers import groups_in_words
from invariances.groups import groups, ordered_matrix


def table(scores, names="abcde", otherwise=0.1):
    """One line per ordered pair; scores by unordered pair, or by one direction of it."""
    return pd.DataFrame(
        [(a, b, scores.get(a + b, scores.get(b + a, otherwise))) for a, b in itertools.permutations(names, 2)],
        columns=["model_a", "model_b", "top1"],
    )


def test_blocks_are_groups_and_the_rest_is_alone():
    found = groups(table({"ac": 0.95, "ae": 0.97, "ce": 0.93, "bd": 0.91}))
    assert found == [["a", "c", "e"], ["b", "d"]]
    assert groups(table({"ac": 0.95})) == [["a", "c"], ["b"], ["d"], ["e"]]


def test_a_chain_is_no_group():
    assert sorted(map(len, groups(table({"ab": 0.95, "bc": 0.94}, "abc")))) == [1, 2]


def test_the_worse_direction_counts():
    assert groups(table({"ab": 0.95, "ba": 0.5}, "ab")) == [["a"], ["b"]]
    assert groups(table({"ab": 0.95, "ba": 0.9}, "ab")) == [["a", "b"]]


def test_models_that_are_alike_stand_side_by_side():
    matrix = ordered_matrix(table({"ac": 0.95, "ae": 0.97, "ce": 0.93, "bd": 0.91}))
    order = list(matrix.index)
    assert order == list(matrix.columns)
    assert {order.index("b"), order.index("d")} in ({0, 1}, {3, 4})
    assert np.isnan(np.diag(matrix)).all()


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([["a", "b"], ["c"]], r"^Interchangeable are a, b \(in a group, .*\)\. With no other: c\.$"),
        ([["a", "b"], ["c", "d"]], r"^Interchangeable are a, b; and c, d \(in a group"),
        ([["a"], ["b"]], "^No two of the 2 models are interchangeable"),
        ([["a", "b", "c"]], "^All 3 models are interchangeable"),
    ],
)
def test_groups_in_words(found, text):
    assert re.search(text, groups_in_words(found))


def test_discover_names_the_groups_of_more_than_two_models():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 500, 8))

    def of(z):
        return z @ np.linalg.qr(rng.normal(size=(8, 8)))[0] + 0.02 * rng.normal(size=z.shape)

    given = {"a": of(x), "b": of(y), "c": of(x), "d": of(y), "e": rng.normal(size=(500, 8))}
    report = discover(given, anchors=100)
    assert report.groups == [["a", "c"], ["b", "d"], ["e"]]
    assert report.answer.startswith("Interchangeable are a, c; and b, d")
    assert "which explains" not in report.answer  # no class of maps relates them all
    assert discover({name: given[name] for name in "ab"}, anchors=100).groups is None
