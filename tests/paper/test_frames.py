"""Rows whose pairs are of two encoders and two languages at once: what is scored, what is a control, over what it is
averaged."""

import numpy as np
import pandas as pd
import pytest

from invariances import align, interval, stitch, zoo
from invariances.paper import frames, plan
from invariances.paper.settings import check
from invariances.zoo import pretrained

SPACES = ("absolute", "relative", "affine", "orthogonal", "product")


@pytest.fixture(scope="module")
def run():
    """The coming row at smoke size: its plan, the trained models, and the table of stitches."""
    settings = check("stitching", {"datasets": "amazon"})
    rows = {name: row for name, row in plan.rows(settings).items() if row.row.crosses_encoders}
    models = zoo.train(plan.recipes(rows), "cpu", processes=1)
    anchors = plan.anchors(rows)
    pieces = zoo.take_apart(plan.stitched(rows), plan.untrained_encoders(rows), anchors)
    aligned = align(zoo.embed(plan.trained(rows), anchors), anchors, ("absolute", "affine", "orthogonal"), ("cosine",))
    table = frames.with_alignment(stitch(pieces, SPACES, plan.quality(rows)), aligned)
    return rows, models, frames.described(table, rows, settings), settings


def test_a_pair_is_of_two_encoders_and_two_languages_and_the_others_are_controls(run):
    table = run[2]
    real = table[table.control == "none"]
    assert (real.group_a != real.group_b).all()
    assert (real.encoder_a != real.encoder_b).all()
    assert set(real.groupby("invariance").size()) == {4}  # two languages, two encoders, either as the head's
    same = table[table.control == frames.SAME_ENCODER]
    assert (same.encoder_a == same.encoder_b).all()
    assert (same.group_a != same.group_b).all()
    assert len(same) == len(real)
    within = table[table.control == frames.SAME_GROUP]
    assert (within.group_a == within.group_b).all()
    assert (within.encoder_a != within.encoder_b).all()
    shuffled = table[table.control == "shuffled anchors"]
    assert set(zip(shuffled.model_a, shuffled.model_b, strict=True)) == set(
        zip(real.model_a, real.model_b, strict=True)
    )
    untrained = table[table.control == "untrained encoder"]
    assert set(untrained.encoder_a) == {"untrained"}
    assert set(untrained.group_a) == {"en", "de"}


def test_the_row_runs_in_every_space_and_its_stand_ins_carry_their_languages(run):
    rows, models, table, settings = run
    assert set(table.invariance) == set(SPACES)
    means = frames.across_groups(table).groupby(["invariance", "control"]).score.mean()
    for space in ("affine", "orthogonal"):
        assert means[space, "none"] > means[space, "shuffled anchors"] + 0.05
    named = frames.model_scores(rows, models, settings).network
    assert named.str.contains("stand-in for").all()
    assert table.data.str.contains("stand-in for amazon-en").all()


def test_scores_are_averaged_over_whose_encoder_is_whose(run):
    real = frames.across_groups(run[2][run[2].control == "none"])
    affine = real[real.invariance == "affine"]
    found = frames.over_groups(affine).set_index(["model_a", "model_b"])
    assert set(found.index) == {("en", "de"), ("de", "en")}
    own = affine[(affine.group_a == "en") & (affine.group_b == "de")]
    assert len(own) == 2
    assert found.score["en", "de"] == pytest.approx(own.score.mean())
    assert found.retention["en", "de"] == pytest.approx(own.retention.mean())
    assert interval(found.reset_index()).note == "no interval from two models"  # two languages are two units


def test_intervals_are_over_languages_and_not_over_pairs_of_encoders():
    rng, languages, encoders = np.random.default_rng(0), list("abcdef"), ("x", "y")
    effect = {(language, encoder): rng.normal() for language in languages for encoder in encoders}
    lines = [
        {
            **{"row": "r", "invariance": "affine", "control": "none", "metric": "f1", "data": "d"},
            **{"group_a": a, "group_b": b, "encoder_a": e, "encoder_b": f, "model_a": a + e, "model_b": b + f},
            **{"score": effect[a, e] + effect[b, f], "ceiling": 1.0, "retention": 1.0},
            **{"n_samples": 9, "n_anchors": 9, "n_train": 9},
        }
        for a in languages
        for b in languages
        for e, f in (encoders, encoders[::-1])
        if a != b
    ]
    span = interval(frames.over_groups(pd.DataFrame(lines)))
    assert span.models == 6
    assert span.mean == pytest.approx(np.mean([line["score"] for line in lines]))


def test_a_row_of_one_encoder_a_model_is_as_it_was():
    frame = pd.DataFrame({"row": ["r"], "model_a": ["x"], "score": [1.0]})
    assert frames.over_groups(frame) is frame
    mixed = frame.assign(encoder_a=np.nan)
    assert frames.over_groups(mixed) is mixed


def test_the_stand_in_for_an_untrained_encoder_is_named_as_one():
    assert "stand-in for an untrained encoder" in pretrained.REGISTRY["stand-in-untrained"].source
    assert "random weights" in pretrained.REGISTRY["minilm-untrained"].languages


def test_heads_of_several_seeds_are_averaged(run):
    rows, models, table, settings = run
    assert set(table.heads) == {2}
    assert not table.duplicated(["model_a", "model_b", "invariance", "control"]).any()
    scores = frames.model_scores(rows, models, settings)
    absolute = scores[scores["head"] == "absolute"].set_index("model")
    assert set(absolute.index) == {f"{language} stand-in-{e}, head {s}" for language in ("en", "de")
                                   for e in ("e5", "use") for s in range(2)}  # fmt: skip
    assert absolute.f1.nunique() > 4  # heads that differ
    own = table[(table.invariance == "absolute") & (table.model_b == "en stand-in-e5")]
    heads = [f"en stand-in-e5, head {s}" for s in range(2)]
    np.testing.assert_allclose(own.ceiling, absolute.f1[heads].mean(), atol=1e-6)


def test_alignment_stands_beside_every_pair_whose_heads_were_averaged():
    pair = {"row": "r", "model_a": "x", "model_b": "y", "invariance": "affine"}
    stitches = pd.DataFrame(
        [pair | {"control": c, "score": s, "ceiling": 1.0, "retention": s, "n_samples": 9, "n_anchors": 5,
                 "metric": "f1"} for c, s in (("none", 0.2), ("shuffled anchors", 0.1), ("none", 0.4))]
    )  # fmt: skip
    aligned = pd.DataFrame([pair | {"score": 0.7, "null": 0.1, "calibrated": 0.6}])
    found = frames.with_alignment(stitches, aligned).set_index("control")
    assert found.score.to_dict() == pytest.approx({"none": 0.3, "shuffled anchors": 0.1})
    assert found.heads.to_dict() == {"none": 2, "shuffled anchors": 1}
    assert found.alignment_calibrated["none"] == 0.6
    assert np.isnan(found.alignment_calibrated["shuffled anchors"])


def test_pretrained_encoders_of_a_data_set_are_stitched_in_all_ordered_pairs():
    planned = plan.rows(check("stitching", {"datasets": "trec,dbpedia"}))
    (row,) = [row for name, row in planned.items() if name.startswith("TREC, ")]
    (group,) = row.groups
    assert list(group.recipes) == ["pretrained stand-in-e5", "pretrained stand-in-use"]
    assert group.heads == 2
    keys = [key for key in plan.stitched(planned) if key[0] == row.row.name]
    assert keys == [(row.row.name, space, seed) for space in SPACES for seed in range(2)]
    heads = {recipe.seed for recipe in plan.stitched(planned)[row.row.name, "affine", 1].values()}
    assert heads == {1}
    assert len(plan.recipes({row.row.name: row})) == 2 * 2 * 3 + 1  # encoders, seeds, kinds of heads; one untrained
