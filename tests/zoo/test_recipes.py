import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from pydantic import ValidationError

from invariances.zoo import recipes
from invariances.zoo.recipes import Network, Recipe, Training

CNN = Network("cnn", 3, 32, width=16)
BERT = Network("bert", 2, 48, heads=2)
PRETRAINED = Network("pretrained", checkpoint="minilm@53aa51172d142c89")
RECIPE = Recipe("0" * 20, "digits", "classification", CNN, Training(3), 0)
SIZES = ("depth", "dim", "width", "patch", "heads")
OTHERS = {
    "data": replace(RECIPE, data="1" * 20),
    "dataset": replace(RECIPE, dataset="mnist"),
    "task": replace(RECIPE, task="reconstruction"),
    "seed": replace(RECIPE, seed=1),
    "anchors": replace(RECIPE, anchors=100),
    "initialization": replace(RECIPE, initialization="shared"),
    "network.family": replace(RECIPE, network=replace(BERT, depth=3, dim=32, width=16)),
    "network.depth": replace(RECIPE, network=replace(CNN, depth=5)),
    "network.dim": replace(RECIPE, network=replace(CNN, dim=33)),
    "network.width": replace(RECIPE, network=replace(CNN, width=17)),
    "network.activation": replace(RECIPE, network=replace(CNN, activation="gelu")),
    "network.patch": replace(RECIPE, network=replace(CNN, patch=2)),
    "network.heads": replace(RECIPE, network=replace(CNN, heads=2)),
    "network.checkpoint": replace(RECIPE, network=PRETRAINED),
    "network.fresh": replace(RECIPE, network=replace(PRETRAINED, fresh=True)),
    "training.epochs": replace(RECIPE, training=Training(4)),
    "training.batch_size": replace(RECIPE, training=Training(3, batch_size=64)),
    "training.optimizer": replace(RECIPE, training=Training(3, optimizer="sgd")),
    "training.lr": replace(RECIPE, training=Training(3, lr=2e-3)),
    "training.schedule": replace(RECIPE, training=Training(3, schedule="constant")),
    "training.augmentation": replace(RECIPE, training=Training(3, augmentation="light")),
    "training.masked_epochs": replace(RECIPE, network=BERT, training=Training(3, masked_epochs=1)),
}


def test_a_key_is_what_it_was():
    # The names of all stored models hang on this. If it changes on purpose, count RECIPE_VERSION up and pin anew:
    # a change without a new version would take old models for new ones, or forget them all unawares.
    assert recipes.RECIPE_VERSION == 2
    assert RECIPE.key("cpu-fp32") == "4a4938e89eb895297215"


def test_every_field_of_a_recipe_is_tried_below():
    fields = {*Recipe.__dataclass_fields__} - {"network", "training"}
    for part, kind in (("network", Network), ("training", Training)):
        fields |= {f"{part}.{field}" for field in kind.__dataclass_fields__}
    assert set(OTHERS) == fields


@pytest.mark.parametrize("field", OTHERS)
def test_a_key_differs_by_every_field(field):
    assert OTHERS[field].key("cpu-fp32") != RECIPE.key("cpu-fp32")


def test_keys_collide_with_no_other():
    every = [RECIPE, *OTHERS.values()]
    keys = {recipe.key(numerics) for recipe in every for numerics in ("cpu-fp32", "cuda-bf16")}
    assert len(keys) == 2 * len(every)


def test_a_key_differs_by_version(monkeypatch):
    before = RECIPE.key("cpu-fp32")
    monkeypatch.setattr(recipes, "RECIPE_VERSION", recipes.RECIPE_VERSION + 1)
    assert RECIPE.key("cpu-fp32") != before


def test_equal_recipes_are_one_however_they_are_written():
    again = Recipe(
        seed=0,
        training=Training(epochs=3, lr=0.001),
        network=Network(width=16, dim=32, depth=3, family="cnn"),
        task="classification",
        dataset="digits",
        data="0" * 20,
    )
    assert again == RECIPE
    assert hash(again) == hash(RECIPE)
    assert {RECIPE: 1}[again] == 1
    assert again.key("cpu-fp32") == RECIPE.key("cpu-fp32")
    assert len({RECIPE, again, *OTHERS.values()}) == 1 + len(OTHERS)


def test_a_learning_rate_of_1_is_one_key_as_int_and_float():
    keys = {replace(RECIPE, training=Training(3, lr=lr)).key("cpu-fp32") for lr in (1, 1.0)}
    assert len(keys) == 1


def test_a_recipe_travels_to_a_worker_unchanged():
    assert pickle.loads(pickle.dumps(RECIPE)) == RECIPE


@pytest.mark.parametrize(("whole", "field"), [(RECIPE, "seed"), (CNN, "depth"), (RECIPE.training, "lr")])
def test_recipes_do_not_change(whole, field):
    with pytest.raises(FrozenInstanceError):
        setattr(whole, field, 5)


def test_untrained_is_the_same_network_with_no_epoch():
    untrained = replace(RECIPE, seed=4, anchors=7).untrained()
    assert untrained.training.epochs == 0
    assert replace(untrained, training=RECIPE.training) == replace(RECIPE, seed=4, anchors=7)
    assert untrained.untrained() == untrained
    assert RECIPE.training.epochs == 3


def test_untrained_is_a_checkpoint_s_network_with_fresh_weights():
    recipe = replace(RECIPE, network=PRETRAINED)
    untrained = recipe.untrained()
    assert untrained == replace(
        recipe, network=replace(PRETRAINED, fresh=True), training=replace(RECIPE.training, epochs=0)
    )
    assert untrained.untrained() == untrained


def test_heads_of_one_frozen_encoder_differ_by_their_seed():
    recipe = replace(RECIPE, network=PRETRAINED)
    assert replace(recipe, seed=1).key("cpu-fp32") != recipe.key("cpu-fp32")
    other = replace(recipe, network=replace(PRETRAINED, checkpoint="roberta-base"))
    assert other.key("cpu-fp32") != recipe.key("cpu-fp32")


@pytest.mark.parametrize(
    "wrong", [{"task": "reconstruction"}, {"training": Training(3, augmentation="light")}], ids=str
)
def test_codes_that_are_made_once_are_neither_decoded_nor_augmented(wrong):
    with pytest.raises(ValidationError, match="codes are made once"):
        replace(RECIPE, network=PRETRAINED, **wrong)


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_a_cnn_has_depth_3_or_5(depth):
    with pytest.raises(ValidationError, match="depth 3 or 5"):
        Network("cnn", depth, 32, width=16)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"family": "cnn", "depth": 3, "dim": 32}, "and a width"),
        ({"family": "bert", "depth": 2, "dim": 50, "heads": 4}, "multiple of its heads"),
        ({"family": "roberta", "depth": 2, "dim": 48}, "multiple of its heads"),
        ({"family": "vit", "depth": 2, "dim": 48, "heads": 5, "patch": 2}, "multiple of its heads"),
        ({"family": "vit", "depth": 2, "dim": 48, "heads": 4}, "patch size"),
        ({"family": "mlp", "depth": 3, "dim": 32, "width": 16}, "family"),
        ({"family": "cnn", "depth": 3, "dim": 0, "width": 16}, "dim"),
        ({"family": "bert", "dim": 48, "heads": 2}, "depth and a dim"),
        ({"family": "bert", "depth": 2, "heads": 2}, "depth and a dim"),
        ({"family": "bert", "depth": 2, "dim": -48, "heads": 2}, "dim"),
        ({"family": "pretrained"}, "has a checkpoint"),
        *(({"family": "pretrained", "checkpoint": "x", size: 1}, "no sizes") for size in SIZES),
        ({"family": "bert", "depth": 2, "dim": 48, "heads": 2, "checkpoint": "x"}, "only a pretrained"),
        ({"family": "bert", "depth": 2, "dim": 48, "heads": 2, "fresh": True}, "only a pretrained"),
        ({"family": "cnn", "depth": 3, "dim": 32, "width": 16, "activation": "tanh"}, "activation"),
        ({"family": "cnn", "depth": 3, "dim": 32, "width": 16, "dropout": 0.1}, "dropout"),
    ],
)
def test_a_network_that_cannot_be_is_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Network(**fields)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "rmsprop"},
        {"schedule": "linear"},
        {"augmentation": "strong"},
        {"epochs": -1},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"weight_decay": 0.1},
    ],
    ids=str,
)
def test_training_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Training(**{"epochs": 3, **wrong})


@pytest.mark.parametrize("wrong", [{"task": "segmentation"}, {"seed": -1}, {"anchors": -1}, {"name": "x"}], ids=str)
def test_a_recipe_that_cannot_be_is_refused(wrong):
    whole = {"data": "0", "dataset": "x", "task": "classification", "network": CNN, "training": Training(1), "seed": 0}
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Recipe(**{**whole, **wrong})
