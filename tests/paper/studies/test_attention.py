from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group, ttest_1samp
from torch import nn

from invariances import zoo
from invariances.paper import plan
from invariances.paper.frames import save_table
from invariances.paper.settings import check
from invariances.paper.studies import attention
from invariances.zoo import datasets
from invariances.zoo.heads import Head

ROW = "CIFAR-10: SGD vs Adam"
COMPONENTS = ["cosine", "euclidean", "l1", "linf"]


# Agreement ---------------------------------------------------------------------------------------


def _spaces(seed=0, n=150, d=6, k=12, classes=3):
    """Codes of two models that differ by a rotation, and of a third that has nothing to do with them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = rng.normal(size=(classes, d)) * 2
    codes = {"test": centres[labels] + rng.normal(size=(n, d)), "pool": rng.normal(size=(k + 5, d)) * 2}
    turn = ortho_group.rvs(d, random_state=1)
    spaces = {
        "a": codes,
        "turned": {split: 3 * x @ turn for split, x in codes.items()},
        "other": {split: rng.normal(size=x.shape) for split, x in codes.items()},
    }
    return {name: {s: x.astype(np.float32) for s, x in codes.items()} for name, codes in spaces.items()}, labels


def _agreement(pairs, **given):
    spaces, labels = _spaces(**given)
    return attention.component_agreement(spaces, 12, labels, ["x", "y", "z"], pairs)


def test_a_rotation_keeps_cosine_and_euclidean_and_not_the_other_distances():
    found = _agreement([("a", "turned")])
    for _, part in found.groupby("class"):
        agreement = part.set_index("component").agreement
        assert agreement[["cosine", "euclidean"]].tolist() == pytest.approx([1, 1], abs=1e-4)
        assert agreement[["l1", "linf"]].max() < 0.99
        assert agreement[["l1", "linf"]].min() > 0.4


def test_models_that_have_nothing_in_common_agree_as_shuffled_ones_do():
    found = _agreement([("a", "other")], n=600)
    whole = found[found["class"] == "all"]
    assert whole.agreement.abs().max() < 0.1
    assert (whole.null == 0).all()


def _profiles(codes, component):
    metric = {"euclidean": "euclidean", "l1": "cityblock", "linf": "chebyshev", "cosine": "cosine"}[component]
    profiles = cdist(codes["test"].astype(float), codes["pool"][:12].astype(float), metric)
    profiles = 1 - profiles if component == "cosine" else profiles
    profiles = (profiles - profiles.mean(1, keepdims=True)) / profiles.std(1, keepdims=True)
    return profiles - profiles.mean(0)


@pytest.mark.parametrize("component", COMPONENTS)
def test_agreement_and_its_nulls_by_brute_force(component):
    spaces, labels = _spaces()
    found = _agreement([("a", "turned")])
    found = found[found.component == component].set_index("class")
    a, b = (_profiles(spaces[name], component) for name in ("a", "turned"))
    pearson = np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])
    assert found.agreement["all"] == pytest.approx(pearson, abs=1e-4)
    # the mean over all arrangements within classes: every sample meets every one of its class equally often
    same = labels[:, None] == labels
    share = same / same.sum(1, keepdims=True)
    within = np.mean([(x @ share @ y) / (len(x) * x.std() * y.std()) for x, y in zip(a.T, b.T, strict=True)])
    assert found.null_within_class["all"] == pytest.approx(within, abs=1e-4)
    cosines = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    for i, name in enumerate("xyz"):
        own = labels == i
        assert found.agreement[name] == pytest.approx(cosines.diagonal()[own].mean(), abs=1e-4)
        assert found.null[name] == pytest.approx(cosines[own].mean(), abs=1e-4)
        assert found.null_within_class[name] == pytest.approx(cosines[np.ix_(own, own)].mean(), abs=1e-4)
        assert found.samples[name] == own.sum()


def test_classes_are_averaged_over_pairs_with_their_spread():
    pairs = [("a", "turned"), ("a", "other")]
    both, one, other = (_agreement(chosen) for chosen in (pairs, pairs[:1], pairs[1:]))
    keys = ["component", "class"]
    both, one, other = (f[f["class"] != "all"].set_index(keys) for f in (both, one, other))
    assert (both.pairs == 2).all()
    np.testing.assert_allclose(both.agreement, (one.agreement + other.agreement) / 2, atol=1e-6)
    np.testing.assert_allclose(both.spread, np.abs(one.agreement - other.agreement) / 2**0.5, atol=1e-6)


def test_a_feature_that_does_not_vary_agrees_with_nothing():
    spaces, labels = _spaces()
    spaces["flat"] = {split: np.ones_like(codes) for split, codes in spaces["a"].items()}
    found = attention.component_agreement(spaces, 12, labels, ["x", "y", "z"], [("a", "flat")])
    assert found.agreement.abs().max() < 1e-6
    assert found.drop(columns="spread").drop(columns=["model_a", "model_b"]).notna().all(axis=None)


# Attention ---------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A product whose attention is known: each query attends to its successor, more so for a large first feature."""

    def attention_weights(self, x, anchors):
        assert len(anchors) == 12
        weights = torch.full((len(x), 4, 4), 0.1)
        weights += (torch.roll(torch.eye(4), 1, dims=1) * 0.6) * (x[:, :1, None] > 0)
        weights += 0.15 * (x[:, :1, None] <= 0)
        return weights


@pytest.fixture
def study(monkeypatch):
    """The plan of one row with two models in each of two conditions, their planted spaces, and known heads."""
    settings = check("training", {"datasets": "cifar-10", "seeds": 2, "anchors": 12})
    rows = plan.rows(settings)
    spaces, labels = _spaces()
    chosen = dict(zip(plan.trained(rows)[ROW].values(), ["a", "turned", "other", "a"], strict=True))
    scores = {"accuracy": 0.9, "f1": 0.8}
    models = {recipe: SimpleNamespace(spaces=spaces[name], scores=scores) for recipe, name in chosen.items()}
    module = SimpleNamespace(product=Fixed())
    heads = {
        recipe: Head(recipe, module, {"accuracy": 0.7 - 0.1 * recipe.equal_weights, "f1": 0.5}, [0.0])
        for recipe in attention.recipes(rows, settings)
    }
    held = SimpleNamespace(arrays={"test_y": labels}, note={"classes": ["x", "y", "z"]})
    monkeypatch.setattr(datasets, "load", lambda key: held)
    return SimpleNamespace(rows=rows, models=models, heads=heads, settings=settings)


def _attend(study):
    return attention.attend(study.rows, study.models, study.heads, study.settings)


def test_attention_is_averaged_over_the_test_samples(study):
    frame = _attend(study)
    assert len(frame) == 4 * 2 * 16
    first = study.models[plan.trained(study.rows)[ROW]["Adam 0"]].spaces["test"][:, 0]
    share = (first > 0).mean()
    own = frame[(frame.model == "Adam 0") & ~frame.equal_weights].set_index(["query", "key"])
    after = dict(zip(COMPONENTS, [*COMPONENTS[1:], COMPONENTS[0]], strict=True))
    for (query, key), line in own.iterrows():
        high, low = (0.7 if after[query] == key else 0.1), 0.25
        assert line.weight == pytest.approx(share * high + (1 - share) * low)
        assert line.spread == pytest.approx(abs(high - low) * (share * (1 - share)) ** 0.5, abs=1e-6)
    assert set(frame[frame.equal_weights].accuracy) == {0.6}
    assert set(frame.plain_accuracy) == {0.9}


def test_frames_save_and_draw_again_from_their_csv(study, tmp_path):
    weights, alike = _attend(study), attention.agree(study.rows, study.models, study.settings)
    weights_again, alike_again = (save_table(f, n, tmp_path) for f, n in ((weights, "weights"), (alike, "features")))
    assert len(alike_again) == 4 * (4 + 3)
    pd.testing.assert_frame_equal(attention.accuracies(weights), attention.accuracies(weights_again))
    left, right, bar = attention.heatmaps(weights_again).figure.axes
    expected = weights[~weights.equal_weights & (weights.group == "Adam")].groupby(["query", "key"]).weight
    for ax, group in ((left, "SGD"), (right, "Adam")):
        assert group in ax.get_title()
        assert len(ax.texts) == 16
    drawn = np.asarray(right.collections[0].get_array()).reshape(4, 4)
    np.testing.assert_allclose(drawn, expected.mean().unstack().loc[COMPONENTS, COMPONENTS], atol=1e-4)
    said = right.texts[1].get_text()
    assert said == f"{expected.mean()['cosine', 'euclidean']:.2f}\n±{expected.std()['cosine', 'euclidean']:.2f}"
    assert bar.lines[0].get_ydata()[0] == 0.25
    agreement, received = attention.features(alike_again, weights_again).figure.axes
    points = np.concatenate([x.get_ydata() for x in agreement.lines if x.get_label() == "pairs"])
    whole = alike[alike["class"] == "all"]
    np.testing.assert_allclose(points, whole.sort_values("component", kind="stable").agreement, atol=1e-4)
    heads_drawn = np.concatenate([x.get_ydata() for x in received.lines if x.get_label() in ("SGD", "Adam")])
    assert heads_drawn.sum() == pytest.approx(4, abs=1e-3)  # what the four components of four heads receive
    assert attention.classes(alike_again).figure.axes[0].get_title() == ROW


def test_more_classes_than_fit_are_the_highest_and_the_lowest():
    lines = [
        {"row": "r", "component": c, "class": f"class {i}", "agreement": i / 50, "null_within_class": 0.0}
        for c in COMPONENTS
        for i in range(50)
    ]
    ax = attention.classes(pd.DataFrame(lines)).figure.axes[0]
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == [f"class {i}" for i in [*range(49, 39, -1), *range(9, -1, -1)]]
    assert "10 highest and 10 lowest of 50" in ax.get_title()


# The control -------------------------------------------------------------------------------------


def _scores(gaps):
    lines = [
        {"row": "r", "group": "g", "model": f"g {i}", "equal_weights": equal, "query": "a", "key": key}
        | {"accuracy": 0.5 + 0.02 * i + (0 if equal else gap), "plain_accuracy": 0.9}
        for i, gap in enumerate(gaps)
        for equal in (False, True)
        for key in "ab"
    ]
    return pd.DataFrame(lines)


def test_the_difference_is_paired_by_encoder():
    gaps = [0.03, 0.01, 0.02, 0.05]
    line = attention.accuracies(_scores(gaps)).iloc[0]
    span = ttest_1samp(gaps, 0).confidence_interval()
    assert line["Attention minus equal"] == "0.0275"
    assert line["95 % interval"] == f"[{span.low:.4f}, {span.high:.4f}]"
    assert (line["The model's own head"], line["Equal weights"]) == ("0.9000", "0.5300")
    assert line.Models == 4


def test_no_interval_from_one_model_or_without_spread():
    for gaps in ([0.03], [0.25, 0.25]):
        assert attention.accuracies(_scores(gaps))["95 % interval"].tolist() == ["-"]


def test_real_heads_have_equal_weights_where_they_should():
    """Two digits' models of two conditions, at smoke size: heads through the store."""
    settings = check("training", {"datasets": "cifar-10", "seeds": 2, "epochs": 1, "samples": 200})
    rows = plan.rows(settings)
    models = zoo.train(plan.recipes(rows), processes=1)
    heads = zoo.train(attention.recipes(rows, settings), processes=1)
    frame = attention.attend(rows, models, heads, settings)
    control = frame[frame.equal_weights]
    np.testing.assert_allclose(control.weight, 0.25, atol=1e-6)
    np.testing.assert_allclose(control.spread, 0, atol=1e-6)
    sums = frame.groupby(["model", "equal_weights", "query"]).weight.sum()
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert (frame[~frame.equal_weights].weight - 0.25).abs().max() > 1e-4
    assert frame.model.nunique() == 4
    assert set(frame.epochs) == {1}
    alike = attention.agree(rows, models, settings)
    assert alike[alike["class"] == "all"].groupby("component").size().to_dict() == dict.fromkeys(COMPONENTS, 4)
    assert alike.agreement.between(-1, 1).all()
