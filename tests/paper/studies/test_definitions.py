"""The demonstrations of the page on definitions, against independent formulas and planted truths."""

import numpy as np
import pandas as pd
import pytest

from invariances.paper.studies import definitions


@pytest.fixture(scope="module")
def chance():
    return definitions.chance().groupby(["activation", "similarity", "metric"])[["score", "null", "calibrated"]].mean()


def test_profiles_of_independent_positive_features_agree_by_chance(chance):
    # brute force, in plain numpy: cosine of two independent samples' profiles
    rng = np.random.default_rng(9)
    for name, apply in (("none", lambda x: x), ("ReLU", lambda x: np.maximum(x, 0))):
        unit = []
        for _ in range(2):
            x = apply(rng.normal(size=(800, 64)))
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
            profile = x[300:] @ x[:300].T
            unit.append(profile / np.linalg.norm(profile, axis=1, keepdims=True))
        expected = (unit[0] * unit[1]).sum(axis=1).mean()
        assert chance.loc[name, "cosine", "cosine"].score == pytest.approx(expected, abs=0.02)
    assert chance.loc["none", "cosine", "cosine"].score < 0.05 < 0.9 < chance.loc["ReLU", "cosine", "cosine"].score
    assert (chance.calibrated.abs() < 0.02).all()
    distances = chance.loc[["none"]].drop(index="cosine", level="similarity")
    assert (distances.xs("cosine", level="metric").score > 0.95).all()
    assert (chance.xs("pearson", level="metric").score.abs() < 0.1).all()


def test_padding_makes_raw_cosine_anything_and_leaves_relative_at_one():
    means = definitions.widths().groupby(["placed", "invariance"]).score.mean().unstack()
    assert means.absolute["the first ones"] == pytest.approx(1, abs=1e-6)
    assert means.absolute["half of them first"] == pytest.approx(0.5, abs=0.02)
    assert means.absolute["the last ones"] == pytest.approx(0, abs=1e-6)
    assert (means.relative - 1).abs().max() < 1e-6


def test_the_higher_score_of_a_planted_rotation_depends_on_the_spectrum():
    means = definitions.commensurable().groupby(["noise", "decay", "invariance"]).calibrated.mean().unstack()
    gap = (means.relative - means.affine).unstack()
    assert (gap[definitions.DECAYS[0]] < -0.02).all()
    assert (gap[definitions.DECAYS[-1]] > 0.02).all()


def test_shares_are_those_of_the_reported_table():
    shares = definitions.shares().set_index(["row", "space"]).value
    assert shares["MNIST", "relative"] == pytest.approx(97.79 / 2.83)
    assert shares["TREC", "relative"] == pytest.approx(75.89 / 91.70)
    assert shares["Amazon (Cross-lingual)", "affine"] == pytest.approx(74.21 / 91.54)
    text = definitions._show_shares(definitions.shares())
    for said in ("34.6 times lower", "82.8 % kept", "85.8 % kept", "78.9 % kept", "81.1 % kept"):
        assert said in text


def test_raw_and_scale_are_compared_pair_by_pair():
    line = {"row": "MNIST", "metric": "cosine", "kind": "trained", "model_a": "a", "model_b": "b"}
    frame = pd.DataFrame(
        [{**line, "invariance": "absolute", "score": 0.2}, {**line, "invariance": "scale", "score": 0.5}]
    )
    table = definitions.scale(dict.fromkeys(("initialization", "architecture", "training"), frame))
    assert table.measured_most.tolist() == pytest.approx([0.3] * 3)
    # the least and the most by hand: TREC 0.52 - 0.31 = DBpedia's; MNIST 0.45 - 0.23
    assert table.reported_least[0] == pytest.approx(0.35 - 0.16)
    assert table.reported_most[0] == pytest.approx(0.45 - 0.23)


def test_ceilings_are_those_of_each_space_over_pairs_without_controls():
    line = {"row": "TREC", "metric": "f1", "group_a": "BERT", "group_b": "BERT", "data": "trec"}
    real = [
        {**line, "invariance": s, "control": "none", "ceiling": c} for s, c in (("absolute", 0.9), ("relative", 0.8))
    ]
    other = [{**one, "control": "shuffled anchors", "ceiling": 0.1} for one in real]
    (row,) = definitions.ceilings(pd.DataFrame(real + other)).itertuples()
    assert (row.absolute, row.relative, row.reported) == (pytest.approx(90), pytest.approx(80), 91.70)
