from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import ortho_group
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from invariances import (
    Codes,
    Stitchable,
    zoo,
)
from invariances.errors import SpaceError
from invariances.stitching import connect
from invariances.zoo import checkpoints, datasets, heads, pretrained, store, training
from invariances.zoo import trained as trained_models
from invariances.zoo.contents import CONTENTS
from invariances.zoo.heads import HeadRecipe
from invariances.zoo.locating import View
from invariances.zoo.recipes import Network, Recipe, Training

CPU = torch.device("cpu")
K = 60


def base(task="classification", epochs=8, seed=0, **sizes):
    prepared = datasets.prepare(
        View("mnist", "builtin", **{"n_train": 600, "n_test": 300, **sizes}, pixels=8, channels=1)
    )
    plan = Training(epochs, batch_size=64, lr=2e-3)
    return Recipe(prepared.key, prepared.title, task, Network("cnn", 3, 24, width=8), plan, seed)


def text():
    # byte-bpe, since its vocabulary is the same in every store
    view = View("amazon-de", "builtin", 60, 20, tokenizer="byte-bpe", vocabulary=300, length=12, n_parallel=33)
    prepared = datasets.prepare(view)
    return Recipe(
        prepared.key, prepared.title, "classification", Network("bert", 1, 16, heads=2), Training(1, batch_size=16), 0
    )


def some_recipes():
    """One of each kind, all small; made in the store of the moment, since they name its arrays."""
    return [
        HeadRecipe(base(), K, 2),
        HeadRecipe(base("reconstruction"), K, 1, aggregation="sum", width=32),
        HeadRecipe(text(), 33, 2, ("cosine", "euclidean"), "concat", batch_size=16),
    ]


@pytest.fixture
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def trained():
    """Heads by what they are, shared by the tests that only look at them."""
    wanted = {
        "attention": HeadRecipe(base(), K, 4),
        "equal weights": HeadRecipe(base(), K, 4, equal_weights=True),
        "decoder": HeadRecipe(base("reconstruction"), K, 4, batch_size=16, lr=3e-3),
        "rotations": HeadRecipe(base(), K, 3, ("cosine", "euclidean")),
        "rotations and shifts": HeadRecipe(base(), K, 3, ("euclidean",), "sum"),
        "shifts": HeadRecipe(base(), K, 3, ("l1",), "concat"),
        "texts": HeadRecipe(text(), 33, 4, ("cosine", "euclidean"), "concat", batch_size=16, lr=1e-2),
    }
    made = zoo.train(list(wanted.values()), "cpu", processes=1)
    return {name: made[recipe] for name, recipe in wanted.items()}


def codes(head):
    """The encoder's codes of test samples and of the anchors."""
    spaces = zoo.train([head.recipe.base], "cpu", processes=1)[head.recipe.base].spaces
    return torch.from_numpy(spaces["test"]), torch.from_numpy(spaces["pool"][: head.recipe.anchors])


def data(head):
    return {name: torch.from_numpy(a) for name, a in datasets.load(head.recipe.base.data).arrays.items()}


@torch.no_grad()
def answers(head):
    return head.module(*codes(head))


def same_bits(first, second):
    one, other = first.module.state_dict(), second.module.state_dict()
    assert set(one) == set(other)
    assert [name for name in one if one[name].numpy().tobytes() != other[name].numpy().tobytes()] == []
    assert (first.scores, first.losses) == (second.scores, second.losses)


# What a head is --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attention", "equal weights", "texts"])
def test_a_classifier_s_scores_are_those_of_its_answers_for_the_test_split(trained, name):
    head = trained[name]
    assert head.scores["accuracy"] == (answers(head).argmax(dim=1) == data(head)["test_y"]).double().mean()
    assert set(head.scores) == {"accuracy", "f1", "f1_macro"}
    assert not head.module.training


def test_digits_are_told_apart_about_as_well_as_by_the_encoder_s_own_head(trained):
    own = zoo.train([base()], "cpu", processes=1)[base()].scores["accuracy"]
    assert own > 0.8
    assert trained["attention"].scores["accuracy"] > own - 0.05
    assert trained["equal weights"].scores["accuracy"] > own - 0.05


def test_a_decoder_s_score_is_the_error_of_its_pictures(trained):
    head = trained["decoder"]
    pictures = data(head)["test_x"].numpy() / 255
    np.testing.assert_allclose(head.scores["mse"], np.square(answers(head).numpy() - pictures).mean(), rtol=1e-4)
    assert head.scores["mse"] < pictures.var()  # better than grey


@pytest.mark.parametrize("task", ["classification", "reconstruction"])
def test_the_first_loss_is_that_of_fresh_weights_on_the_codes_of_all_training_samples(task):
    recipe = HeadRecipe(base(task), K, 1, batch_size=600)
    head = zoo.train([recipe], "cpu", processes=1)[recipe]
    arrays = data(head)
    encoder = trained_models.restore(zoo.train([recipe.base], "cpu", processes=1)[recipe.base]).encoder
    key = recipe.key("cpu-fp32")
    torch.manual_seed(int(key[:12], 16))
    module = heads._fresh(recipe, datasets.load(recipe.base.data), key).train()
    with torch.no_grad():
        x = encoder(arrays["train_x"].float() / 255)
        outputs = module(x, x[:K])
    expected = {
        "classification": lambda: cross_entropy(outputs, arrays["train_y"]),
        "reconstruction": lambda: 100 * (outputs - arrays["train_x"].float() / 255).square().mean(),
    }[task]()
    assert head.losses == [pytest.approx(float(expected), rel=1e-4)]


@pytest.mark.parametrize("name", ["attention", "decoder", "texts"])
def test_it_learns(trained, name):
    losses = trained[name].losses
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]


def test_the_encoder_and_its_own_head_stay_as_they_are(fresh_home):
    place = store.path("models", base().key("cpu-fp32"))
    zoo.train([base()], "cpu", processes=1)
    before = place.read_bytes(), place.stat().st_mtime_ns
    recipe = HeadRecipe(base(), K, 1)
    head = zoo.train([recipe], "cpu", processes=1)[recipe]
    assert (place.read_bytes(), place.stat().st_mtime_ns) == before
    assert {name.partition(".")[0] for name, _ in head.module.named_parameters()} == {"product", "head"}


def test_equal_weights_are_equal_and_those_of_attention_are_not(trained):
    weights = {
        name: trained[name].module.product.attention_weights(*codes(trained[name]))
        for name in trained
        if trained[name].recipe.aggregation == "attention"
    }
    assert (weights["equal weights"] == 0.25).all()
    assert weights["attention"].std(dim=2).mean() > 0.01
    torch.testing.assert_close(weights["attention"].sum(dim=2), torch.ones(300, 4))


def test_a_pretrained_encoder_serves_as_well(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "resnet18-mine.safetensors"
    save_file(resnet18(weights=None).state_dict(), path)
    few = base(n_train=40, n_test=10)
    network = Network("pretrained", checkpoint=pretrained.pinned(str(path)))
    recipe = HeadRecipe(replace(few, network=network), 20, 3)
    head = zoo.train([recipe], "cpu", processes=1)[recipe]
    assert answers(head).shape == (10, 10)
    assert head.losses[-1] < head.losses[0]


# A relation that is planted --------------------------------------------------------------------


def moved(x, anchors, rotate, shift):
    """The same codes in another coordinate system, with one factor for all."""
    rng, d = np.random.default_rng(3), x.shape[1]
    q = torch.from_numpy(ortho_group.rvs(d, random_state=rng)) if rotate else torch.eye(d).double()
    offset = torch.from_numpy(rng.normal(size=d)) * shift * x.std()
    return [3.5 * part @ q + offset for part in (x, anchors)]


@pytest.mark.parametrize(
    ("name", "rotate", "shift", "exact"),
    [
        ("rotations", True, 0.0, True),
        ("rotations", True, 1.0, False),  # a cosine knows where the origin is
        ("rotations and shifts", True, 1.0, True),
        ("shifts", False, 1.0, True),
        ("shifts", True, 0.0, False),
        ("attention", True, 0.0, False),  # since L1 and L-infinity are among its components
    ],
)
def test_a_head_answers_the_same_for_codes_that_its_components_cannot_tell_apart(trained, name, rotate, shift, exact):
    head = trained[name]
    x, anchors = (part.double() for part in codes(head))
    target = Stitchable(Codes(anchors, x, torch.zeros(len(x))), head.module.double())
    other, other_anchors = moved(x, anchors, rotate, shift)
    with torch.no_grad():
        own = connect(target.codes, target, "product")
        stitched = connect(Codes(other_anchors, other, target.codes.targets), target, "product")
    head.module.float()
    off = (own - stitched).abs().max() / own.std()
    assert off < 1e-8 if exact else off > 1e-2


# The same numbers, always, and the store ---------------------------------------------------------


def test_a_recipe_gives_the_same_bits_in_any_process_on_any_day(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "here"))
    here = zoo.train(some_recipes(), "cpu", processes=1)

    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "again"))
    torch.rand(17)  # other draws before
    torch.set_num_threads(2)
    try:
        again = zoo.train(some_recipes()[::-1], "cpu", processes=1)
    finally:
        torch.set_num_threads(1)

    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "elsewhere"))
    zoo.train([one.base for one in some_recipes()], "cpu", processes=1)
    elsewhere = zoo.train(some_recipes(), "cpu", processes=2)

    assert len(here) == 3
    for one in here:
        same_bits(here[one], again[one])
        same_bits(here[one], elsewhere[one])


def test_heads_that_are_there_are_not_trained_again_nor_their_encoders(fresh_home, monkeypatch):
    made, make = [], heads._trained
    monkeypatch.setattr(heads, "_trained", lambda recipe, device: made.append(recipe) or make(recipe, device))
    first, second, third = (HeadRecipe(base(epochs=0, seed=seed), K, 1) for seed in range(3))
    before = zoo.train([first, second, first], "cpu", processes=1)
    assert made == [first, second]
    assert heads.in_store(first, CPU)
    assert not heads.in_store(third, CPU)
    assert zoo.models.in_store(first.base, CPU)
    store.remove("models", first.base.key("cpu-fp32"))
    after = zoo.train([third, first], "cpu", processes=1)
    assert made == [first, second, third]
    assert list(after) == [third, first]
    assert after[first].recipe == first
    same_bits(after[first], before[first])
    assert not zoo.models.in_store(first.base, CPU)


def test_a_damaged_head_is_trained_again_to_the_same_bits(fresh_home, caplog):
    recipe = HeadRecipe(base(epochs=0), K, 1)
    before = zoo.train([recipe], "cpu", processes=1)[recipe]
    place = store.path("heads", recipe.key("cpu-fp32"))
    whole = place.read_bytes()
    place.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    same_bits(zoo.train([recipe], "cpu", processes=1)[recipe], before)
    assert "is damaged and will be made again" in caplog.text
    assert place.read_bytes() == whole


def test_a_head_that_was_interrupted_goes_on_to_the_same_bits_and_leaves_no_checkpoint(fresh_home, monkeypatch):
    recipe = HeadRecipe(base(epochs=0), K, 2)
    expected = zoo.train([recipe], "cpu", processes=1)[recipe]
    store.remove("heads", recipe.key("cpu-fp32"))
    steps, clip = [], training._clip

    def interrupted(network, alone):
        steps.append(network)
        if len(steps) == 13:
            raise KeyboardInterrupt
        clip(network, alone)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "CHECKPOINT_SECONDS", -1.0)
        patch.setattr(training, "_clip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            zoo.train([recipe], "cpu", processes=1)
        assert (store.entries(contents=CONTENTS).kind == "checkpoints").any()
        same_bits(zoo.train([recipe], "cpu", processes=1)[recipe], expected)
    assert len(steps) == 21  # ten an epoch, and the one that was interrupted
    assert not (store.entries(contents=CONTENTS).kind == "checkpoints").any()


def test_the_store_lists_and_prunes_heads(fresh_home):
    recipes = [HeadRecipe(base(epochs=0), K, 1, equal_weights=equal) for equal in (False, True)]
    zoo.train(recipes, "cpu", processes=1)
    keys = [recipe.key("cpu-fp32") for recipe in recipes]
    listed = store.entries(True, CONTENTS).set_index("key")
    assert listed.loc[keys].state.tolist() == ["whole", "whole"]
    said = "digits (stand-in for mnist), cnn-3, classification, 0 epochs, seed 0: head on a product of 4, attention"
    assert listed.what[keys].tolist() == [said, f"{said}, equal weights"]
    store.save("checkpoints", keys[0], store.Artefact({}, {"models": keys}))
    assert store.prune(store.Selection(), CONTENTS).kind.tolist() == ["checkpoints"]
    store.remove("heads", keys[1])
    store.save("checkpoints", keys[0], store.Artefact({}, {"models": keys}))
    assert store.prune(store.Selection(), CONTENTS).empty
    assert store.prune(store.Selection("heads", everything=True), CONTENTS).key.tolist() == keys[:1]
    assert not heads.in_store(recipes[0], CPU)


def test_every_field_of_a_recipe_is_in_its_key():
    recipe = HeadRecipe(base(), K, 2)
    changes = {
        "base": base(seed=1),
        "anchors": K + 1,
        "epochs": 3,
        "similarities": ("cosine",),
        "aggregation": "sum",
        "width": 64,
        "equal_weights": True,
        "batch_size": 32,
        "lr": 2e-3,
    }
    assert set(changes) == set(vars(recipe)) - {"__pydantic_fields_set__"}
    keys = {replace(recipe, **{name: value}).key("cpu-fp32") for name, value in changes.items()}
    keys |= {recipe.key("cpu-fp32"), recipe.key("cuda-bf16")}
    assert len(keys) == len(changes) + 2
    assert all(len(key) == 20 and set(key) <= set("0123456789abcdef") for key in keys)


def test_heads_of_two_recipes_share_no_initial_weights():
    prepared = datasets.load(base().data)
    recipes = [HeadRecipe(base(), K, 2), HeadRecipe(base(), K, 2, equal_weights=True), HeadRecipe(base(seed=1), K, 2)]
    drawn = []
    for recipe in recipes:
        key = recipe.key("cpu-fp32")
        drawn.append(heads._fresh(recipe, prepared, key).product.embed["l1"].weight.detach().flatten().numpy())
    assert np.abs(np.corrcoef(drawn) - np.eye(3)).max() < 0.06  # 5 standard errors of 7,680 independent weights


# What cannot be ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"similarities": ("cosine", "angle")}, "give one or more of cosine, euclidean, l1, linf, geodesic, each once"),
        ({"similarities": ("l1", "l1")}, "each once"),
        ({"similarities": ()}, "give one or more of"),
        ({"aggregation": "concat", "equal_weights": True}, "has no weights"),
        ({"aggregation": "mean"}, "'concat', 'sum' or 'attention'"),
        ({"anchors": 1}, "anchors is 1"),
        ({"anchors": 0}, "greater than 0"),
        ({"epochs": 0}, "greater than 0"),
        ({"lr": 0.0}, "greater than 0"),
        ({"width": 2.5}, "valid integer"),
        ({"depth": 3}, "depth"),
    ],
)
def test_what_no_head_can_have_is_refused(changes, said):
    with pytest.raises((ValueError, TypeError), match=said):
        HeadRecipe(**{"base": base(), "anchors": K, "epochs": 1, **changes})


def test_more_anchors_than_samples_are_one_sentence_and_leave_nothing(fresh_home):
    recipe = HeadRecipe(base(epochs=0), 601, 1)
    with pytest.raises(
        SpaceError,
        match=r"^601 anchors are asked for, but digits [(]stand-in for mnist[)] has 600; give at most so many$",
    ) as error:
        zoo.train([recipe], "cpu", processes=1)
    assert "\n" not in str(error.value)
    assert not heads.in_store(recipe, CPU)


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        zoo.train([HeadRecipe(base(), K, 1)], "cuda")
