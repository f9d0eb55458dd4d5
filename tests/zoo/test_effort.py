import math
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from invariances import zoo
from invariances.zoo import datasets, store, workers
from invariances.zoo.effort import effort, longest_first
from invariances.zoo.locating import View
from invariances.zoo.networks import build, multiplications
from invariances.zoo.recipes import Network, Recipe, Training

CNN = Network("cnn", depth=3, width=16, dim=32)
NETWORKS = {
    "cnn": (CNN, (1, 32, 32)),
    "deep cnn": (Network("cnn", depth=5, width=16, dim=32), (3, 64, 64)),
    "vit": (Network("vit", depth=3, dim=48, heads=4, patch=4), (3, 32, 32)),
    "bert": (Network("bert", depth=2, dim=48, heads=4), (40,)),
    "roberta": (Network("roberta", depth=1, dim=96, heads=4), (16,)),
}


def made(network=CNN, task="classification", seed=0, anchors=0, n_train=300, **plan):
    prepared = datasets.prepare(View("mnist", "builtin", n_train, 100, pixels=8, channels=1))
    return Recipe(prepared.key, prepared.title, task, network, Training(**{"epochs": 2, **plan}), seed, anchors)


@pytest.mark.parametrize("name", NETWORKS)
def test_multiplications_are_those_that_torch_counts(name):
    network, shape = NETWORKS[name]
    encoder = build(network, "classification", 0, shape, 10, 100).encoder
    samples = torch.ones(2, *shape, dtype=torch.float32 if len(shape) == 3 else torch.int64)
    # without fused attention, whose operations are not counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        encoder(samples)
    assert 4 * multiplications(network, shape) == pytest.approx(counted.get_total_flops(), rel=0.1)


def test_effort_grows_with_what_takes_time_and_with_nothing_else():
    base = effort(made())
    assert effort(made(epochs=4)) == pytest.approx(2 * base, rel=0.25)  # embedding is done once
    assert effort(made(n_train=600)) == pytest.approx(2 * base, rel=0.25)
    assert effort(made(replace(CNN, width=32))) > 2.5 * base
    assert effort(made(task="reconstruction")) > 2 * base
    assert effort(made(anchors=50)) > base
    assert 0 < effort(made().untrained()) < base / 4
    for other in (made(seed=5), made(batch_size=32), made(lr=0.1), made(optimizer="sgd"), made(augmentation="light")):
        assert effort(other) == base


def test_a_language_that_is_learnt_first_counts():
    view = View("amazon-de", "builtin", 60, 20, tokenizer="byte-bpe", vocabulary=300, length=12, n_parallel=2100)
    prepared = datasets.prepare(view)
    network = Network("bert", depth=1, dim=16, heads=2)
    plain = Recipe(prepared.key, prepared.title, "classification", network, Training(1), 0)
    assert effort(replace(plain, training=Training(1, masked_epochs=3))) > effort(plain)


def test_a_pretrained_encoder_comes_first():
    network = Network("pretrained", checkpoint="a/b@c")
    assert effort(Recipe("0" * 20, "texts", "classification", network, Training(1), 0)) == math.inf


def test_the_longest_come_first_and_equals_stay_in_their_order():
    short, long, untrained = made(), made(epochs=9), made().untrained()
    groups = [(replace(recipe, seed=seed),) for recipe in (short, untrained, long) for seed in range(2)]
    ordered = longest_first(groups)
    assert ordered == [groups[4], groups[5], groups[0], groups[1], groups[2], groups[3]]
    assert longest_first([(short, replace(short, seed=1)), (made(epochs=3),)])[0][0] == short, (
        "two take longer than one"
    )
    assert longest_first([]) == []


def test_one_head_of_each_frozen_encoder_comes_before_the_others():
    networks = [Network("pretrained", checkpoint=name) for name in ("a@1", "b@1")]
    heads = [Recipe("0" * 20, "texts", "classification", n, Training(1), s) for n in networks for s in range(3)]
    ordered = [group[0] for group in longest_first([(head,) for head in heads] + [(made(),)])]
    assert ordered == [heads[0], heads[3], heads[1], heads[4], heads[2], heads[5], made()]


def test_training_starts_with_the_longest_and_gives_the_same_models_in_any_order(tmp_path, monkeypatch):
    started = []

    def run(unit, items, *rest, **named):
        started.extend(items)
        return whole(unit, items, *rest, **named)

    whole = workers.run
    monkeypatch.setattr(workers, "run", run)
    kept = {}
    for folder in ("one", "other"):
        monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / folder))
        recipes = [made(epochs=1), made(epochs=3), made().untrained()]
        zoo.train(recipes if folder == "one" else recipes[::-1], "cpu", processes=1)
        assert [group[0].training.epochs for group in started] == [3, 1, 0]
        started.clear()
        kept[folder] = [store.path("models", recipe.key("cpu-fp32")).read_bytes() for recipe in recipes]
    assert kept["one"] == kept["other"]
