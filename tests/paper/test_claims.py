import numpy as np
import pandas as pd
import pytest

from invariances.paper import aligned as alignments
from invariances.paper import claims, judging, stitched
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
        (RELATIVE_BEST, RELATIVE_BEST, judging.HOLDS),
        (RELATIVE_BEST, AFFINE_BEST, judging.IN_PART),
        (AFFINE_BEST, AFFINE_BEST, judging.FAILS),
        (TIE, TIE, judging.UNTESTABLE),
        (RELATIVE_BEST, TIE, judging.HOLDS),
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
    assert claims.judge("architecture", frame).verdict == judging.HOLDS
    assert claims.judge("architecture", _pairs("CNN-3 vs CNN-5", RELATIVE_BEST, groups)).verdict == judging.FAILS


def test_training_expects_each_row_its_own_invariance():
    names = [row.name for row in ROWS["training"]]
    expected = ["relative", "relative", "affine", "relative"]
    frames = [
        _pairs(name, RELATIVE_BEST if best == "relative" else AFFINE_BEST, ("A", "B"))
        for name, best in zip(names, expected, strict=True)
    ]
    assert claims.judge("training", pd.concat(frames)).verdict == judging.HOLDS


def test_a_score_without_calibration_cannot_tell():
    frame = _pairs("MNIST", RELATIVE_BEST)
    frame.loc[frame.invariance == "relative", "calibrated"] = np.nan
    verdict = claims.judge("initialization", frame)
    assert verdict.verdict == judging.UNTESTABLE
    assert verdict.outcomes[0].supports is None


def test_two_models_cannot_tell():
    assert claims.judge("initialization", _pairs("MNIST", RELATIVE_BEST, seeds=2)).verdict == judging.UNTESTABLE


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
        ((0.1, 0.005), (0.2, 0.85), judging.HOLDS),
        ((0.1, 0.005), (0.2, 0.6), judging.IN_PART),
        ((0.01, 0.05), (0.2, 0.6), judging.FAILS),
    ],
)
def test_stitching_follows_the_planted_scores(mse, f1, verdict):
    frame = pd.concat([_stitched("MNIST", "mse", *mse, 0.002), _stitched("TREC", "f1", *f1, 0.9)])
    assert claims.judge("stitching", frame).verdict == verdict


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


def looked_up(rows, seeds=6, noise=0.01, profile="laptop"):
    """A table of the study of retrieval with planted scores, beside another score that would say otherwise."""
    frames = []
    for row, scores in rows.items():
        groups = ("A",) if row in alignments.EXPECTED["initialization"] else ("A", "B")
        beside = {"relative-centered": 0.99, "orthogonal+translation": 0.99}
        own = _pairs(row, {**scores, **beside}, groups, seeds, noise, profile)
        other = {name: 1 - score for name, score in scores.items()}
        frames += [own.assign(metric="retrieval_mrr"), _pairs(row, other, groups).assign(metric="retrieval_top1")]
    return pd.concat(frames)


@pytest.mark.parametrize(
    ("mnist", "vits", "verdict", "said"),
    [
        (RELATIVE_BEST, AFFINE_BEST, judging.HOLDS, "Affine is highest in 1 of the 2"),
        (RELATIVE_BEST, RELATIVE_BEST, judging.IN_PART, "so the winner does not depend on what varied"),
        (AFFINE_BEST, RELATIVE_BEST, judging.FAILS, "relative in 1"),
        (TIE, TIE, judging.UNTESTABLE, ""),
    ],
)
def test_by_retrieval_the_claimed_invariance_is_held_against_the_papers_others(mnist, vits, verdict, said):
    frame = looked_up({"MNIST": mnist, "ViT-Small vs ViT-Base": vits}, noise=0.02)
    judged = claims.judge_by_retrieval(frame)
    assert judged.verdict == verdict
    assert len(judged.outcomes) == 2  # what stands beside the four, and other scores, do not count
    if verdict != judging.HOLDS:
        assert said in judged.sentence
    assert claims.judge_by_retrieval(frame.assign(profile="smoke")).verdict == judging.NOT_JUDGED


BURIED = {"affine": 0.1, "within_class": 0.3}
"""Agreement that the labels alone would give."""


@pytest.mark.parametrize(
    ("planted", "rows", "verdict"),
    [
        ({}, {}, judging.HOLDS),
        ({}, {"training": BURIED}, judging.IN_PART),
        (BURIED, {}, judging.FAILS),
        ({"absolute": 0.95, "affine": 0.9}, {}, judging.FAILS),
    ],
)
def test_pervasive_wants_agreement_that_was_hidden_and_is_more_than_labels(planted, rows, verdict):
    judged = claims.judge_finding(1, sections_with(rows, **planted))
    assert judged.verdict == verdict
    assert len(judged.outcomes) == 3
    assert "0.50 untrained" in judged.outcomes[0].evidence


def test_pervasive_without_calibration_cannot_tell():
    frames = sections_with()
    for section in alignments.ALIGNED:
        frames[section].loc[frames[section].invariance == "affine", "calibrated"] = np.nan
    assert claims.judge_finding(1, frames).verdict == judging.UNTESTABLE


ROTATED, MAPPED = {"relative": 0.95, "affine": 0.8}, {"relative": 0.8, "affine": 0.95}


@pytest.mark.parametrize(
    ("initialization", "architecture", "training", "verdict"),
    [
        (ROTATED, MAPPED, ROTATED, judging.HOLDS),
        (ROTATED, ROTATED, ROTATED, judging.IN_PART),
        (MAPPED, MAPPED, MAPPED, judging.IN_PART),
        (MAPPED, ROTATED, MAPPED, judging.FAILS),
    ],
)
def test_dependent_wants_each_factor_its_own(initialization, architecture, training, verdict):
    rows = {"initialization": initialization, "architecture": architecture, "training": training}
    judged = claims.judge_finding(2, sections_with(rows))
    assert judged.verdict == verdict
    assert len(judged.outcomes) == 3
    one_winner = len({str(rows[section]) for section in rows}) == 1
    assert judged.sentence.endswith("so the winner does not depend on what varied.") == one_winner


@pytest.mark.parametrize(
    ("mse", "f1", "verdict"),
    [
        ((0.1, 0.02), (0.2, 0.85), judging.HOLDS),  # four fifths of the gap are closed
        ((0.1, 0.05), (0.2, 0.85), judging.IN_PART),
        ((0.1, 0.05), (0.2, 0.6), judging.FAILS),
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
    assert claims.judge_finding(3, sections_with(stitching=frame)).verdict == judging.FAILS
    assert claims.judge_finding(3, sections_with(stitching=pd.concat([frame, affine]))).verdict == judging.HOLDS


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
        ([predicted("TREC", 1), predicted("MNIST", 1)], judging.HOLDS),
        ([predicted("TREC", 1), predicted("MNIST", -1)], judging.IN_PART),
        ([predicted("TREC", -1)], judging.FAILS),
        ([predicted("TREC", 0, noise=1)], judging.FAILS),
        ([predicted("TREC", 1, spread=1e-4)], judging.UNTESTABLE),
    ],
)
def test_prediction_follows_the_planted_relation(frames, verdict):
    judged = claims.judge_finding(4, sections_with(stitching=pd.concat(frames)))
    assert judged.verdict == verdict
    if verdict == judging.UNTESTABLE:
        assert "no spread" in judged.outcomes[0].evidence


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ({}, judging.HOLDS),
        ({"architecture": BURIED}, judging.IN_PART),  # BERT vs RoBERTa
        ({"architecture": BURIED, "training": BURIED}, judging.FAILS),
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
    assert claims.judge_finding(number, frames).verdict == judging.NOT_JUDGED


# What the rules do not ask for -------------------------------------------------------------------


def test_the_gain_of_choosing_by_alignment():
    pairs = pd.DataFrame(
        [(a, b, s, r) for b, part in {"x": ((1, 0.9), (2, 0.5), (3, 0.7)), "y": ((1, 0.6), (2, 0.6), (3, 0.9))}.items()
         for a, (s, r) in zip("abc", part, strict=True)],
        columns=["model_a", "model_b", "alignment_calibrated", "retention"],
    )  # fmt: skip
    # the head x: mean .7, best .9, chosen c with .7; the head y: mean .7, best .9, chosen c with .9
    assert stitched.gain_of_choice(pairs) == pytest.approx(0.2 / 0.4)
    assert np.isnan(stitched.gain_of_choice(pairs.assign(retention=1.0)))
    worst = pairs.assign(alignment_calibrated=-pairs.retention)
    assert stitched.gain_of_choice(worst) < 0


def test_holm_steps_down_and_leaves_out_what_was_not_tested():
    found = stitched.holm(pd.Series([0.01, np.nan, 0.04, 0.03]))
    np.testing.assert_allclose(found, [0.03, np.nan, 0.06, 0.06])
    assert stitched.holm(pd.Series([0.9, 0.8])).max() == 1
    # an independent definition: the smallest level at which the step-down procedure rejects
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = pd.Series(rng.uniform(size=6) ** 3)
        order, adjusted = np.argsort(p.to_numpy()), stitched.holm(p)
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for step, i in enumerate(order):
                if p[i] > level / (len(p) - step):
                    break
                rejected.add(int(i))
            assert rejected == set(adjusted.index[adjusted <= level])


def test_a_correlation_that_groups_alone_could_make_is_left_out_of_the_second_count():
    rng = np.random.default_rng(1)
    frame = predicted("TREC", 1)
    names = sorted(set(frame.model_a))
    many = pd.concat([frame.assign(row="MNIST"), _grouped(rng, names)])
    sentence = claims.judge_finding(4, sections_with(stitching=many)).sentence
    assert sentence.startswith("Of the 2 combinations of row and connection that can tell, 2 support it")
    assert "1 of 1 support it" in sentence


def _grouped(rng, names):
    """Two groups that differ in alignment and retention, without any relation within them."""
    models = [f"g{i} {j}" for i in range(2) for j in range(5)]
    lines = []
    for a in models:
        for b in models:
            level = (a[1] == "1") + (b[1] == "1")
            values = 0.5 + 0.1 * level + 0.001 * rng.normal(size=2)
            lines.append(("TREC", a, b, a[:2], b[:2], "affine", "none" if a != b else "self-stitch", *values))
    columns = ["row", "model_a", "model_b", "group_a", "group_b", "invariance", "control"]
    table = pd.DataFrame(lines, columns=[*columns, "alignment_calibrated", "retention"])
    return table.assign(metric="f1", score=table.retention, ceiling=1.0, profile="laptop")


def test_pictures_are_said_to_be_blurred_where_a_gap_is_closed():
    frame = pd.concat([_stitched("MNIST", "mse", 0.1, 0.02, 0.002), _stitched("TREC", "f1", 0.2, 0.85, 0.9)])
    affine = frame[frame.invariance == "relative"].assign(invariance="affine")
    frames = sections_with(stitching=pd.concat([frame, affine]))
    for verdict in (claims.judge_finding(3, frames), claims.judge("stitching", frames["stitching"])):
        assert verdict.verdict == judging.HOLDS
        assert "is 10.0 to 10.0 with relative representations" in verdict.sentence
        assert (
            "10.00 times the error of models that are not stitched (4.29 in the paper)" in verdict.outcomes[0].evidence
        )


def test_a_rotation_that_keeps_more_than_a_freer_map_is_named():
    frame = _stitched("TREC", "f1", 0.2, 0.8, 0.9)
    other = frame[frame.invariance == "relative"]
    maps = [other.assign(invariance=name, retention=kept) for name, kept in (("affine", 0.35), ("orthogonal", 0.71))]
    frames = sections_with(stitching=pd.concat([frame, *maps]))
    assert 'In "TREC" a rotation keeps 0.71 where an affine map keeps 0.35' in claims.judge_finding(3, frames).sentence
