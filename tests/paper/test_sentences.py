"""Sentences below tables and figures: each is false as soon as the numbers say otherwise."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from invariances import interval
from invariances.paper import claims, frames, leads, sentences, tables
from invariances.paper.studies import attention, cka_tables, conditions

RESULTS = Path(__file__).parents[2] / "book" / "results"
ALIGNED = ("initialization", "architecture", "training")


def published(name):
    return pd.read_csv(RESULTS / f"{name}.csv")


def spans(frame, kind):
    column, value = ("control", "none") if kind == "stitching" else ("kind", "trained")
    parts = frame[frame[column] == value].groupby(["row", "invariance"], sort=False)
    pairs = {key: frames.over_groups(frames.across_groups(part)) for key, part in parts}
    return {key: interval(part, "score", frames.groups_of(part)) for key, part in pairs.items()}


@pytest.mark.parametrize("section", ALIGNED)
def test_alignment_s_sentence_moves_with_the_scores(section):
    frame = published(section)
    said = sentences.scores(frame)
    affine = frame[(frame.kind == "trained") & (frame.invariance == "affine")]
    means = (
        pd.concat([frames.across_groups(part) for _, part in affine.groupby("row")]).groupby("row").calibrated.mean()
    )
    assert f"{means.min():z.2f} to {means.max():z.2f} after an affine map" in said
    assert sentences.scores(frame.assign(calibrated=frame.calibrated / 2)) != said


@pytest.mark.parametrize("section", ALIGNED)
def test_the_ladder_s_sentences_count_its_verdicts(section):
    steps = published(f"{section}_ladder")
    said = sentences.ladder(steps)
    counts = tables.ladder(steps)["Structure of T"].str.removesuffix(" (weak)").value_counts()
    for name, count in counts.items():
        assert f"{name} in {count}" in said
    wide = steps.assign(singular_value_ratio=steps.singular_value_ratio * 7)
    assert sentences.singular_values(wide) != sentences.singular_values(steps)


def test_models_and_stitching_say_lowest_and_highest_row():
    models = published("initialization_models")
    accuracy = models[models.accuracy.notna()].groupby("row").accuracy.mean()
    assert f"{100 * accuracy.min():.0f} to {100 * accuracy.max():.0f} % of the test samples" in sentences.models(models)
    assert "autoencoders" not in sentences.models(models.drop(columns="mse"))
    frame = published("stitching")
    kept = frames.across_groups(frame[(frame.row == "MNIST") & (frame.control == "none")])
    product = kept[kept.invariance == "product"].retention.mean()
    assert f"{product:.2f}" in sentences.stitching(frame[frame.row == "MNIST"])


def test_conditions_attention_and_cka_count_what_stands_apart():
    cells = conditions.cells(published("training"))
    across = cells[(cells.kind == "across") & (cells.invariance == "affine")]
    assert f"in {(across.p < 0.05).sum()} of {len(across)} rows" in sentences.conditions(cells)
    assert "in 0 of" in sentences.conditions(cells.assign(p=1.0))
    accuracies = attention.accuracies(published("training_attention"))
    none = accuracies.assign(**{"95 % interval": "[-1.0000, 1.0000]"})
    assert "in 0 of 8 conditions" in sentences.attention(none)
    assert sentences.attention(accuracies) != sentences.attention(none)
    blocks = cka_tables.blocks(published("architecture_cka"))
    alike = blocks.assign(**{"Within minus across, debiased": "0.000 [-0.100, 0.100]"})
    assert "in 0 of" in sentences.cka(alike)
    assert sentences.cka(blocks) != sentences.cka(alike)
    cross = cka_tables.cross_modal(published("architecture_cka"))
    assert f"that 0 of {len(cross)}" in sentences.cross_modal(cross.assign(**{"Above chance": "no"}))
    weights = published("training_attention")
    most = weights.assign(weight=(weights.key == "l1") * 1.0)
    assert "8 conditions most attention goes to L1 in 8; it receives a mean weight of 1.00" in sentences.received(most)
    features = published("training_features")
    lowest = features.assign(agreement=features.agreement.where(features["class"] != "cat", -0.5))
    assert "-0.50 (cat) to" in sentences.by_class(lowest)
    kinds = cka_tables.by_modality(published("architecture_cka"))
    assert "0.99 within vision" in sentences.by_modality(kinds.assign(Debiased="0.990 [0.980, 1.000]"))
    assert sentences.by_modality(kinds.iloc[:0]) == ""
    assert sentences.features(features.assign(agreement=0.0)) != sentences.features(features)


@pytest.mark.parametrize("section", ALIGNED)
def test_the_lead_table_has_six_columns_and_the_verdict_of_every_row(section):
    frame = published(section)
    lead = leads.alignment(section, frame, tables.alignment(section, frame, spans(frame, section)))
    assert list(lead.columns) == ["Row", "Invariance", "Reported", "Measured", "Calibrated", "Verdict"]
    assert not (lead.Invariance == "Scale Inv").any()  # equal to raw, by definition
    outcomes = claims.judge(section, frame).outcomes
    verdicts = [verdict for verdict in lead.Verdict if verdict]
    signs = {True: "✓", False: "✗", None: "?"}
    assert [verdict[0] for verdict in verdicts] == [signs[outcome.supports] for outcome in outcomes]
    assert (lead.Row != "").sum() == frame.row.nunique()
    moved = frame.assign(score=np.where(frame.invariance == "scale", frame.score + 1, frame.score))
    assert (
        leads.alignment(section, moved, tables.alignment(section, moved, spans(moved, section))).Invariance
        == "Scale Inv"
    ).any()


def test_the_lead_table_of_stitching_has_six_columns_and_the_verdicts_of_the_finding():
    frame = published("stitching")
    lead = leads.stitching(frame, tables.stitching(frame, spans(frame, "stitching")))
    assert list(lead.columns) == ["Row", "Stitched", "Reported", "Measured", "Kept", "Verdict"]
    outcomes = {outcome.row: outcome.supports for outcome in claims.judge("stitching", frame).outcomes}
    shown = dict(zip(lead.Row, lead.Verdict, strict=True))
    for row, supports in outcomes.items():
        assert shown[row].startswith("✓" if supports else "✗")
    assert shown["MNIST, classification"] == ""  # beside no reported number


def test_lead_tables_of_the_ladder_and_of_prediction_have_six_columns_of_the_whole_ones():
    wholes = (tables.ladder(published("training_ladder")), tables.prediction(published("stitching")))
    for made, whole in zip((leads.ladder, leads.prediction), wholes, strict=True):
        assert made(whole).shape == (len(whole), 6)
        assert made(whole).equals(whole[list(made(whole).columns)])


def test_the_lead_table_within_and_across_has_six_columns_and_no_scale_that_equals_raw():
    whole = conditions.table(published("training"))
    lead = leads.conditions(whole)
    assert lead.shape == (3 * whole.Row.nunique(), 6)
    assert not (lead.Invariance == "Scale Inv").any()
    assert lead["Within the first; the second"][0] == f"{whole['Within the first'][0]}; {whole['Within the second'][0]}"
    assert list(lead["p, relabelled"]) == list(whole["p, relabelled"][whole.Invariance != "Scale Inv"])
    moved = whole.assign(Across=[f"{i}" for i in range(len(whole))])
    assert (leads.conditions(moved).Invariance == "Scale Inv").any()


def test_transformers_are_called_by_their_real_size_and_imagenet_by_what_is_there():
    part = pd.DataFrame({"row": ["BERT vs RoBERTa"], "profile": ["laptop"], "data": ["trec"], "n_train": [9]})
    assert frames.shown_row(part) == "BERT (2 × 128) vs RoBERTa (2 × 128)"
    vits = part.assign(row="ViT-Small vs ViT-Base")
    assert frames.shown_row(vits) == "ViT-Small (4 × 64) vs ViT-Base (6 × 96)"
    assert frames.shown_row(vits.assign(profile="full")) == "ViT-Small (12 × 384) vs ViT-Base (12 × 768)"
    batches = part.assign(row="Amazon Reviews: Batch 32 vs 128")
    assert frames.shown_row(batches) == "Amazon Reviews: Batch 32 vs 128"
    pictures = part.assign(row="ImageNet: Aug Light vs Heavy", data="imagenet, 10 classes (Imagenette)", n_train=2_500)
    assert frames.shown_row(pictures) == "ImageNet (10 classes (Imagenette), 2,500 pictures): Aug Light vs Heavy"
    assert frames.shown_row(pictures.assign(data="imagenet")) == "ImageNet: Aug Light vs Heavy"
