import numpy as np
import pandas as pd
import pytest

from invariances.paper import claims
from invariances.paper.rows import ROWS, SECTIONS


def _pairs(row, scores, groups=("CNN-3",), seeds=6, noise=0.005, profile="laptop"):
    """A tidy alignment table in which each invariance has a planted calibrated score."""
    rng = np.random.default_rng(0)
    names = [(f"{group} {seed}", group) for group in groups for seed in range(seeds)]
    lines = []
    for i, (a, group_a) in enumerate(names):
        for b, group_b in names[i + 1 :]:
            for invariance, score in scores.items():
                ordered = [(a, group_a, b, group_b)] + ([(b, group_b, a, group_a)] if invariance == "affine" else [])
                for x, group_x, y, group_y in ordered:
                    value = score + noise * rng.normal()
                    lines.append((row, x, y, group_x, group_y, invariance, value, "trained", profile))
    columns = ["row", "model_a", "model_b", "group_a", "group_b", "invariance", "calibrated", "reference", "profile"]
    return pd.DataFrame(lines, columns=columns)


LOW = {"absolute": 0.0, "scale": 0.0}
RELATIVE_BEST = {**LOW, "relative": 0.9, "affine": 0.8}
AFFINE_BEST = {**LOW, "relative": 0.8, "affine": 0.9}
TIE = {**LOW, "relative": 0.85, "affine": 0.85}


@pytest.mark.parametrize(
    ("mnist", "trec", "verdict"),
    [
        (RELATIVE_BEST, RELATIVE_BEST, claims.HOLDS),
        (RELATIVE_BEST, AFFINE_BEST, claims.IN_PART),
        (AFFINE_BEST, AFFINE_BEST, claims.FAILS),
        (TIE, TIE, claims.UNTESTABLE),
        (RELATIVE_BEST, TIE, claims.HOLDS),
    ],
)
def test_initialization_follows_the_planted_scores(mnist, trec, verdict):
    frame = pd.concat([_pairs("MNIST", mnist, noise=0.02), _pairs("TREC", trec, noise=0.02)])
    assert claims.judge("initialization", frame).verdict == verdict


def test_architecture_wants_affine_and_counts_only_pairs_across_groups():
    groups = ("CNN-3", "CNN-5")
    frame = _pairs("CNN-3 vs CNN-5", AFFINE_BEST, groups)
    within = frame.group_a == frame.group_b
    frame.loc[within & (frame.invariance == "relative"), "calibrated"] = 1.0
    assert claims.judge("architecture", frame).verdict == claims.HOLDS
    assert claims.judge("architecture", _pairs("CNN-3 vs CNN-5", RELATIVE_BEST, groups)).verdict == claims.FAILS


def test_training_expects_each_row_its_own_invariance():
    names = [row.name for row in ROWS["training"]]
    expected = ["relative", "relative", "affine", "relative"]
    frames = [
        _pairs(name, RELATIVE_BEST if best == "relative" else AFFINE_BEST, ("A", "B"))
        for name, best in zip(names, expected, strict=True)
    ]
    assert claims.judge("training", pd.concat(frames)).verdict == claims.HOLDS


def test_a_score_without_calibration_cannot_tell():
    frame = _pairs("MNIST", RELATIVE_BEST)
    frame.loc[frame.invariance == "relative", "calibrated"] = np.nan
    verdict = claims.judge("initialization", frame)
    assert verdict.verdict == claims.UNTESTABLE
    assert verdict.outcomes[0].supports is None


def test_two_models_cannot_tell():
    assert claims.judge("initialization", _pairs("MNIST", RELATIVE_BEST, seeds=2)).verdict == claims.UNTESTABLE


@pytest.mark.parametrize("section", SECTIONS)
def test_smoke_is_never_judged(section):
    frame = _pairs("MNIST", RELATIVE_BEST, profile="smoke")
    verdict = claims.judge(section, frame)
    assert verdict.verdict == "not judged at smoke size"
    assert "not judged at smoke size" in verdict._repr_markdown_()


def _stitched(row, metric, absolute, relative, ceiling):
    lines = []
    names = [f"m {seed}" for seed in range(5)]
    for a in names:
        for b in names:
            for invariance, score in (("absolute", absolute), ("relative", relative)):
                retention = ceiling / score if metric == "mse" else score / ceiling
                control = "none" if a != b else "self-stitch"
                lines.append((row, a, b, "m", "m", invariance, control, score, ceiling, retention, metric, "laptop"))
    columns = ["row", "model_a", "model_b", "group_a", "group_b", "invariance"]
    columns += ["control", "score", "ceiling", "retention", "metric", "profile"]
    return pd.DataFrame(lines, columns=columns)


@pytest.mark.parametrize(
    ("mse", "f1", "verdict"),
    [
        ((0.1, 0.005), (0.2, 0.85), claims.HOLDS),
        ((0.1, 0.005), (0.2, 0.6), claims.IN_PART),
        ((0.01, 0.05), (0.2, 0.6), claims.FAILS),
    ],
)
def test_stitching_follows_the_planted_scores(mse, f1, verdict):
    frame = pd.concat([_stitched("MNIST", "mse", *mse, 0.002), _stitched("TREC", "f1", *f1, 0.9)])
    assert claims.judge("stitching", frame).verdict == verdict


def test_every_claim_states_its_rule():
    for section in SECTIONS:
        assert len(claims.CLAIMS[section].rule) > 80
