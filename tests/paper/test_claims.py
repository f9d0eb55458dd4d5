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
    columns = ["row", "model_a", "model_b", "group_a", "group_b", "invariance", "calibrated", "kind", "profile"]
    return pd.DataFrame(lines, columns=columns).assign(score=lambda frame: frame.calibrated / 2)


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


def test_scores_that_are_not_calibrated_stand_in_the_evidence():
    (outcome,) = claims.judge("initialization", _pairs("MNIST", AFFINE_BEST, noise=0)).outcomes
    assert outcome.evidence == "relative minus affine: -0.100 [-0.100, -0.100]; not calibrated: 0.400 and 0.450"


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


# The five findings -----------------------------------------------------------------------------


def aligned(row, affine=0.9, absolute=0.0, within_class=0.3, untrained=0.5, relative=0.85, groups=("A", "B")):
    """An alignment row with planted scores, its nulls and its untrained reference."""
    low = {"absolute": absolute, "scale": absolute}
    frame = _pairs(row, {**low, "relative": relative, "affine": affine}, groups)
    frame = frame.assign(score=frame.calibrated, null_within_class=within_class)
    other = _pairs(row, {**low, "relative": untrained, "affine": untrained}, ("untrained",), seeds=3)
    other = other.assign(score=other.calibrated, null_within_class=0.0, kind="untrained")
    return pd.concat([frame, other])


def sections_with(row_of=None, stitching=None, **planted):
    """All four tables; in each alignment section one row, planted alike but where `row_of` says otherwise."""
    rows = {"initialization": "MNIST", "architecture": "BERT vs RoBERTa", "training": "CIFAR-10: SGD vs Adam"}
    frames = {
        section: aligned(
            row, **{**planted, **(row_of or {}).get(section, {})}, groups=("A",) if section[0] == "i" else ("A", "B")
        )
        for section, row in rows.items()
    }
    if stitching is None:
        stitching = pd.concat([_stitched("MNIST", "mse", 0.1, 0.005, 0.002), _stitched("TREC", "f1", 0.2, 0.85, 0.9)])
    return {**frames, "stitching": stitching}


BURIED = {"affine": 0.1, "within_class": 0.3}
"""Agreement that the labels alone would give."""


@pytest.mark.parametrize(
    ("planted", "rows", "verdict"),
    [
        ({}, {}, claims.HOLDS),
        ({}, {"training": BURIED}, claims.IN_PART),
        (BURIED, {}, claims.FAILS),
        ({"absolute": 0.95, "affine": 0.9}, {}, claims.FAILS),
    ],
)
def test_pervasive_wants_agreement_that_was_hidden_and_is_more_than_labels(planted, rows, verdict):
    judged = claims.judge_finding(1, sections_with(rows, **planted))
    assert judged.verdict == verdict
    assert len(judged.outcomes) == 3
    assert "0.50 untrained" in judged.outcomes[0].evidence


def test_pervasive_without_calibration_cannot_tell():
    frames = sections_with()
    for section in claims.ALIGNED:
        frames[section].loc[frames[section].invariance == "affine", "calibrated"] = np.nan
    assert claims.judge_finding(1, frames).verdict == claims.UNTESTABLE


ROTATED, MAPPED = {"relative": 0.95, "affine": 0.8}, {"relative": 0.8, "affine": 0.95}


@pytest.mark.parametrize(
    ("initialization", "architecture", "training", "verdict"),
    [
        (ROTATED, MAPPED, ROTATED, claims.HOLDS),
        (ROTATED, ROTATED, ROTATED, claims.IN_PART),
        (MAPPED, MAPPED, MAPPED, claims.IN_PART),
        (MAPPED, ROTATED, MAPPED, claims.IN_PART),
    ],
)
def test_dependent_wants_each_factor_its_own(initialization, architecture, training, verdict):
    rows = {"initialization": initialization, "architecture": architecture, "training": training}
    judged = claims.judge_finding(2, sections_with(rows))
    assert judged.verdict == verdict
    assert judged.outcomes[-1].supports == (len({str(rows[section]) for section in rows}) > 1)


@pytest.mark.parametrize(
    ("mse", "f1", "verdict"),
    [
        ((0.1, 0.02), (0.2, 0.85), claims.HOLDS),  # four fifths of the gap are closed
        ((0.1, 0.05), (0.2, 0.85), claims.IN_PART),
        ((0.1, 0.05), (0.2, 0.6), claims.FAILS),
    ],
)
def test_communication_wants_three_quarters_of_the_ceiling_or_of_the_gap(mse, f1, verdict):
    frame = pd.concat([_stitched("MNIST", "mse", *mse, 0.002), _stitched("TREC", "f1", *f1, 0.9)])
    affine = frame[frame.invariance == "relative"].assign(invariance="affine")
    frames = sections_with(stitching=pd.concat([frame, affine.assign(score=affine.score, retention=affine.retention)]))
    assert claims.judge_finding(3, frames).verdict == verdict


def test_communication_by_either_column_counts():
    frame = _stitched("TREC", "f1", 0.2, 0.5, 0.9)
    affine = frame[frame.invariance == "relative"].assign(invariance="affine", score=0.88, retention=0.88 / 0.9)
    assert claims.judge_finding(3, sections_with(stitching=frame)).verdict == claims.FAILS
    assert claims.judge_finding(3, sections_with(stitching=pd.concat([frame, affine]))).verdict == claims.HOLDS


def predicted(row, slope, noise=0.0, spread=0.1):
    """A stitching table in which retention follows alignment by a slope."""
    rng = np.random.default_rng(0)
    frame = _stitched(row, "f1", 0.2, 0.8, 0.9)
    frame = frame[frame.invariance == "relative"].copy()
    pull = dict(zip(sorted(set(frame.model_a)), rng.permutation(5), strict=True))
    effect = frame.model_a.map(pull) + 0.8 * frame.model_b.map(pull)
    frame["alignment_calibrated"] = 0.5 + 0.02 * effect
    frame["retention"] = 0.7 + spread * (slope * effect + noise * rng.normal(size=len(frame)))
    return frame


@pytest.mark.parametrize(
    ("frames", "verdict"),
    [
        ([predicted("TREC", 1), predicted("MNIST", 1)], claims.HOLDS),
        ([predicted("TREC", 1), predicted("MNIST", -1)], claims.IN_PART),
        ([predicted("TREC", -1)], claims.FAILS),
        ([predicted("TREC", 0, noise=1)], claims.FAILS),
        ([predicted("TREC", 1, spread=1e-4)], claims.UNTESTABLE),
    ],
)
def test_prediction_follows_the_planted_relation(frames, verdict):
    judged = claims.judge_finding(4, sections_with(stitching=pd.concat(frames)))
    assert judged.verdict == verdict
    if verdict == claims.UNTESTABLE:
        assert "no spread" in judged.outcomes[0].evidence


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ({}, claims.HOLDS),
        ({"architecture": BURIED}, claims.IN_PART),  # BERT vs RoBERTa
        ({"architecture": BURIED, "training": BURIED}, claims.FAILS),
    ],
)
def test_general_asks_either_domain(rows, verdict):
    judged = claims.judge_finding(5, sections_with(rows))
    assert judged.verdict == verdict
    assert [outcome.row for outcome in judged.outcomes] == ["vision", "language"]


@pytest.mark.parametrize("number", claims.FINDINGS)
def test_no_finding_is_judged_if_one_section_is_of_smoke_size(number):
    frames = sections_with()
    frames["training"] = frames["training"].assign(profile="smoke")
    assert claims.judge_finding(number, frames).verdict == claims.NOT_JUDGED
