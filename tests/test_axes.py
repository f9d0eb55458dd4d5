"""A few axes that hold nearly all variance are found where they are planted, and nowhere else."""

import numpy as np
import pytest
import torch

from invariances import discover
from invariances.axes import Without, few_axes


def space(n=600, d=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 12)) @ rng.normal(size=(12, d)) + 0.05 * rng.normal(size=(n, d))


def turned(x, seed=1):
    rng = np.random.default_rng(seed)
    return x @ np.linalg.qr(rng.normal(size=(x.shape[1], x.shape[1])))[0]


def with_axis(x, seed, times=1000):
    return np.c_[x, times * np.random.default_rng(seed).normal(size=len(x))]


@pytest.mark.parametrize("hidden", [False, True])
def test_a_planted_axis_is_found_in_any_basis(hidden):
    x = with_axis(space(), 2)
    found = few_axes(torch.from_numpy(turned(x) if hidden else x))
    assert len(found) == 1
    assert found.share > 0.999


def test_one_axis_in_fifty_may_hold_nearly_all():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 200))
    x[:, :4] *= 100
    assert len(few_axes(torch.from_numpy(x))) == 4
    x[:, 4] *= 100  # five of two hundred are no longer few
    assert few_axes(torch.from_numpy(x)) is None


@pytest.mark.parametrize("x", [space(), np.random.default_rng(0).normal(size=(600, 32)), with_axis(space(), 2)[:, -5:]])
def test_ordinary_spaces_have_no_such_axes(x):
    assert few_axes(torch.from_numpy(x)) is None


def test_the_space_without_an_axis_is_the_one_that_never_had_it():
    x = space()
    rest = Without(torch.from_numpy(with_axis(x, 2)), few_axes(torch.from_numpy(with_axis(x, 2))))
    assert rest.shape == (600, 33)
    left = rest[np.arange(600)][:, :-1].numpy() - x
    assert np.square(left).sum() < 0.01 * np.square(x - x.mean(0)).sum()  # what the axis shares with the rest by chance
    assert rest[:][:, -1].std() < 1e-2


def test_the_verdict_names_the_axes_and_what_relates_the_rest():
    x = space(n=1500)
    given = {"a": with_axis(x, 2), "b": with_axis(turned(x) + 0.02 * np.random.default_rng(9).normal(size=x.shape), 3)}
    report = discover(given, anchors=200)
    assert report.verdict.invariance == "none"
    assert report.verdict.without.invariance.startswith("orthogonal")
    assert set(report.verdict.few_axes) == {"a", "b"}
    text = str(report.verdict)
    assert "1 axis of a holds 100 % of its variance and 1 axis of b holds 100 %" in text
    assert "without them, the spaces differ by a map of the class 'orthogonal" in text
    assert report.without.retrieval.top1.min() > 0.95 > 0.1 > report.retrieval.top1.max()
    assert "Without that, b is a turned" in report.answer
    assert report.next_steps[0].startswith("Take out of every space the axes")


def test_without_such_axes_nothing_is_said():
    report = discover({"a": space(), "b": turned(space())}, anchors=200)
    assert report.without is None
    assert "axis" not in str(report.verdict) + report.answer
