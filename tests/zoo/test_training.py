import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from invariances import zoo
from invariances.zoo import datasets, store, training
from invariances.zoo import trained as trained_models
from invariances.zoo.locating import View
from invariances.zoo.recipes import Network, Recipe, Training

CPU = torch.device("cpu")
CNN = Network("cnn", 3, 32, width=16)


def digits():
    return datasets.prepare(View("mnist", "builtin", 1000, 449, pixels=8, channels=1))


def recipe(prepared=None, epochs=1, seed=0, task="classification", network=CNN, anchors=0, **changes):
    prepared = prepared or digits()
    plan = Training(epochs, **{"batch_size": 64, **changes})
    return Recipe(prepared.key, prepared.title, task, network, plan, seed, anchors)


def some_recipes():
    """One of each kind, all small; made in the store of the moment, since they name its arrays."""
    # byte-bpe, since its vocabulary is the same in every store
    text = View("trec", "builtin", 200, 50, tokenizer="byte-bpe", vocabulary=300, length=12)
    return [
        recipe(augmentation="heavy"),
        recipe(task="reconstruction", anchors=50, optimizer="sgd", lr=0.01),
        recipe(network=Network("vit", 1, 16, heads=2, patch=4), schedule="constant"),
        recipe(datasets.prepare(text), network=Network("roberta", 1, 16, heads=2)),
    ]


@pytest.fixture
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def classifier():
    return zoo.train([recipe(epochs=5)], "cpu")


@pytest.fixture(scope="module")
def models(classifier):
    """Trained models by what they are, shared by the tests that only look at them."""
    wanted = {
        "classifier": recipe(epochs=5),
        "relative classifier": recipe(epochs=3, anchors=100),
        "autoencoder": recipe(epochs=6, task="reconstruction", lr=2e-3),
        "relative autoencoder": recipe(epochs=3, task="reconstruction", anchors=100, lr=2e-3),
        "untrained": recipe().untrained(),
    }
    trained = zoo.train(list(wanted.values()), "cpu", processes=1)
    return {name: trained[wanted[name]] for name in wanted}


def train_alone(one, device=CPU):
    return training.train([one], device)[0]


def numbers(array):
    """The bits of an array, whatever its shape."""
    return np.ascontiguousarray(array).tobytes()


def same_bits(first, second):
    for part in ("weights", "spaces"):
        one, other = getattr(first, part), getattr(second, part)
        assert set(one) == set(other)
        assert [name for name in one if numbers(one[name]) != numbers(other[name])] == []
    assert first.scores == second.scores


# The same numbers, always ----------------------------------------------------------------------


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
    elsewhere = zoo.train(some_recipes(), "cpu", processes=2)

    assert len(here) == 4
    for one in here:
        same_bits(here[one], again[one])
        same_bits(here[one], elsewhere[one])


def test_training_uses_every_sample_once_an_epoch_in_an_order_of_its_own(monkeypatch):
    drawn, permute = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *args, **kw: drawn.append(permute(*args, **kw)) or drawn[-1])
    for one in (recipe(epochs=2, seed=0), recipe(epochs=2, seed=1), recipe(epochs=2, seed=0, optimizer="sgd")):
        train_alone(one)
    assert len(drawn) == 6
    for order in drawn:
        assert torch.equal(order.sort().values, torch.arange(1000))
    for first, second in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.15  # 5 standard errors


def test_no_two_recipes_share_initial_weights(monkeypatch):
    kinds = {
        "seed 0": recipe(),
        "seed 1": recipe(seed=1),
        "sgd": recipe(optimizer="sgd"),
        "augmented": recipe(augmentation="light"),
        "longer": recipe(epochs=2),
        "relative": recipe(anchors=50),
        "untrained": recipe().untrained(),
    }
    fresh, build = {}, trained_models.fresh_model

    def watched(*given):
        model = build(*given)
        fresh[given[0]] = model.encoder[-1].weight.detach().clone().flatten()
        raise StopIteration  # the weights are all that is wanted

    monkeypatch.setattr(training, "fresh_model", watched)
    for one in kinds.values():
        with pytest.raises(StopIteration):
            train_alone(one)
    assert len(fresh) == len(kinds)
    for first, second in itertools.combinations(fresh.values(), 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.12  # 5 standard errors of 2,048 independent weights


def test_no_epoch_leaves_the_fresh_weights():
    one = recipe(epochs=0)
    artefact = train_alone(one)
    torch.manual_seed(int(one.key("cpu-fp32")[:12], 16))
    fresh = trained_models.fresh_model(one, datasets.load(one.data)).state_dict()
    assert artefact.note["losses"] == []
    assert {f"weights.{name}" for name in fresh} < set(artefact.arrays)
    for name, tensor in fresh.items():
        np.testing.assert_array_equal(artefact.arrays[f"weights.{name}"], tensor)


# What training reaches -------------------------------------------------------------------------


def test_the_loss_falls_over_the_epochs():
    losses = train_alone(recipe(epochs=4)).note["losses"]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]


def test_a_classifier_is_far_above_chance(models):
    assert models["classifier"].scores["accuracy"] > 0.85
    assert models["relative classifier"].scores["accuracy"] > 0.5
    assert models["untrained"].scores["accuracy"] < 0.3


def test_an_autoencoder_is_better_than_the_mean_picture(models):
    arrays = datasets.load(digits().key).arrays
    train, test = arrays["train_x"] / 255, arrays["test_x"] / 255
    mean_picture = ((test - train.mean(axis=0)) ** 2).mean()
    assert mean_picture < test.var()
    assert models["autoencoder"].scores["mse"] < 0.6 * mean_picture
    assert models["relative autoencoder"].scores["mse"] < mean_picture


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.05), ("adam", 1e-3)])
def test_either_optimizer_learns(optimizer, lr):
    assert train_alone(recipe(epochs=4, optimizer=optimizer, lr=lr)).note["scores"]["accuracy"] > 0.8


def test_text_is_learnt():
    view = View("trec", "builtin", 600, 200, tokenizer="byte-bpe", vocabulary=400, length=20)
    one = recipe(datasets.prepare(view), epochs=2, network=Network("roberta", 1, 32, heads=2))
    assert train_alone(one).note["scores"]["accuracy"] > 0.4  # 1/6 by chance


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_training_walks_its_schedule_to_the_end(monkeypatch, schedule):
    rates, make = [], training._optimizer

    def watched(*given):
        optimizer = make(*given)
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(training, "_optimizer", watched)
    train_alone(recipe(epochs=2, lr=0.5, schedule=schedule))
    cosine = 0.25 * (1 + np.cos(np.pi * np.arange(32) / 32))  # 1,000 samples by 64, twice
    np.testing.assert_allclose(rates, cosine if schedule == "cosine" else [0.5] * 32, atol=1e-12)


@pytest.mark.parametrize(("name", "epochs"), [("classifier", 5), ("relative classifier", 3), ("untrained", 0)])
def test_batchnorm_sees_every_batch_once_and_no_anchors(models, name, epochs):
    counts = {key: n.item() for key, n in models[name].weights.items() if key.endswith("num_batches_tracked")}
    assert len(counts) == 3
    assert set(counts.values()) == {epochs * 16}  # 1,000 samples by 64


def test_an_autoencoder_restores_what_augmentation_has_changed(monkeypatch):
    targets, losses = [], training._losses
    monkeypatch.setattr(training, "augmentation", lambda name: torch.zeros_like)
    monkeypatch.setattr(
        training, "_losses", lambda task, outputs, target: targets.append(target[0]) or losses(task, outputs, target)
    )
    train_alone(recipe(task="reconstruction", augmentation="heavy"))
    pictures = datasets.load(digits().key).arrays["train_x"].astype(np.float32) / 255
    assert sorted(x.numpy().tobytes() for x in torch.cat(targets)) == sorted(x.tobytes() for x in pictures)


# What is stored --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["classifier", "relative classifier", "autoencoder", "untrained"])
def test_a_restored_model_makes_the_stored_codes(models, name):
    trained, arrays = models[name], datasets.load(digits().key).arrays
    encoder = trained_models.restore(trained).encoder
    for split, pictures in (("test", arrays["test_x"]), ("pool", arrays["train_x"])):
        with torch.no_grad():
            codes = encoder(torch.from_numpy(pictures).float() / 255)
        assert trained.spaces[split].shape == (len(pictures), 32)
        assert trained.spaces[split].dtype == np.float32
        np.testing.assert_allclose(trained.spaces[split], codes, atol=1e-5)


def cosines(x, anchors):
    x, anchors = x.astype(float), anchors.astype(float)
    return (x @ anchors.T) / np.outer(np.sqrt((x**2).sum(1)), np.sqrt((anchors**2).sum(1)))


@pytest.mark.parametrize("name", ["classifier", "relative classifier", "autoencoder", "relative autoencoder"])
def test_the_stored_score_is_what_the_restored_head_reaches_on_the_stored_codes(models, name):
    trained, arrays = models[name], datasets.load(digits().key).arrays
    read = trained.spaces["test"]
    if trained.recipe.anchors:
        read = cosines(read, trained.spaces["pool"][: trained.recipe.anchors])
    with torch.no_grad():
        answer = trained_models.restore(trained).head(torch.from_numpy(read).float()).numpy()
    if "autoencoder" in name:
        error = ((answer.astype(float) - arrays["test_x"] / 255) ** 2).mean()
        assert trained.scores == {"mse": pytest.approx(error, rel=1e-4)}
    else:
        accuracy = (answer.argmax(axis=1) == arrays["test_y"]).mean()
        assert trained.scores["accuracy"] == pytest.approx(accuracy, abs=1 / 449 + 1e-9)  # one tie at most


def test_the_pool_is_the_parallel_sentences_where_there_are_some():
    view = View("amazon-de", "builtin", 60, 20, tokenizer="byte-bpe", vocabulary=300, length=12, n_parallel=33)
    prepared = datasets.prepare(view)
    one = recipe(prepared, epochs=0, network=Network("roberta", 1, 16, heads=2))
    trained = trained_models.unpack(one, train_alone(one))
    sentences = torch.from_numpy(datasets.load(prepared.key).arrays["parallel_x"]).long()
    assert trained.spaces["pool"].shape == (33, 16)
    with torch.no_grad():
        np.testing.assert_allclose(
            trained.spaces["pool"], trained_models.restore(trained).encoder(sentences), atol=1e-5
        )


def test_what_is_stored_says_how_it_was_made(models, classifier):
    (one,) = classifier
    note = store.load("models", one.key("cpu-fp32")).note
    assert note["recipe"]["training"]["epochs"] == 5
    assert note["recipe"]["dataset"] == "digits (stand-in for mnist)"
    assert len(note["losses"]) == 5
    assert f"torch {torch.__version__}" in note["machine"]
    assert models["classifier"].machine == note["machine"]


@pytest.mark.parametrize("seed", [0, 1])
def test_quality_of_classification_by_hand(seed):
    # classes 0, 1, 2 with recall 1/1, 2/3, 1/1 and precision 1/2, 2/2, 1/1
    answers, truth = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 2])
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    outputs = torch.eye(3)[answers] * 7 - 3
    scores = trained_models.quality("classification", outputs[order], truth[order])
    f1 = [2 / 3, 4 / 5, 1]
    assert scores == {
        "accuracy": pytest.approx(4 / 5),
        "f1": pytest.approx((1 * f1[0] + 3 * f1[1] + 1 * f1[2]) / 5),
        "f1_macro": pytest.approx(sum(f1) / 3),
    }


def test_quality_of_reconstruction_by_hand():
    outputs, targets = torch.tensor([[0.0, 0.5], [1.0, 0.25]]), torch.tensor([[0.0, 1.0], [0.0, 0.25]])
    assert trained_models.quality("reconstruction", outputs, targets) == {"mse": pytest.approx((0.25 + 1) / 4)}


def test_inputs_are_pictures_from_0_to_1_and_tokens_as_they_are():
    pictures = trained_models.inputs(torch.tensor([0, 51, 255], dtype=torch.uint8))
    torch.testing.assert_close(pictures, torch.tensor([0.0, 0.2, 1.0]))
    tokens = trained_models.inputs(torch.tensor([0, 51, 999], dtype=torch.int32))
    assert (tokens.dtype, tokens.tolist()) == (torch.int64, [0, 51, 999])


# The store in between --------------------------------------------------------------------------


def test_models_that_are_there_are_not_trained_again(fresh_home, monkeypatch):
    made, train = [], training.train
    monkeypatch.setattr(training, "train", lambda some, *rest: made.extend(some) or train(some, *rest))
    first, second, third = (recipe(epochs=0, seed=seed) for seed in range(3))
    zoo.train([first, second, first], "cpu", processes=1)
    assert made == [first, second]
    assert zoo.models.in_store(first, CPU)
    assert not zoo.models.in_store(third, CPU)
    trained = zoo.train([third, second], "cpu", processes=1)
    assert made == [first, second, third]
    assert list(trained) == [third, second]
    assert [model.recipe for model in trained.values()] == [third, second]


def test_a_damaged_model_is_trained_again_to_the_same_bits(fresh_home, monkeypatch):
    one = recipe()
    before = zoo.train([one], "cpu")[one]
    place = store.path("models", one.key("cpu-fp32"))
    content = bytearray(place.read_bytes())
    content[-1] ^= 1
    place.write_bytes(content)
    threads, train = [], training.train
    monkeypatch.setattr(training, "train", lambda *given: threads.append(torch.get_num_threads()) or train(*given))
    torch.set_num_threads(2)
    try:
        same_bits(zoo.train([one], "cpu")[one], before)
    finally:
        torch.set_num_threads(1)
    assert threads == [1]
    assert place.read_bytes() != bytes(content)


# Devices ---------------------------------------------------------------------------------------


def test_cuda_without_a_gpu_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU") as caught:
        zoo.device_named("cuda")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        zoo.train([recipe(epochs=0, seed=99)], "cuda")
    assert not zoo.models.in_store(recipe(epochs=0, seed=99), CPU)


@pytest.mark.parametrize(
    ("name", "gpu", "kind"), [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu")]
)
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, name, gpu, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert zoo.device_named(name).type == kind


def test_models_of_different_numerics_are_different_models():
    assert trained_models.numerics(torch.device("cpu")) == "cpu-fp32"
    assert trained_models.numerics(torch.device("cuda")) == "cuda-bf16"
    assert recipe().key("cpu-fp32") != recipe().key("cuda-bf16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_trains_as_well_and_its_models_run_on_the_cpu(fresh_home):
    classifier, autoencoder = recipe(epochs=5), recipe(epochs=3, task="reconstruction", anchors=100)
    trained = zoo.train([classifier, autoencoder], "cuda")
    assert trained[classifier].scores["accuracy"] > 0.8
    assert np.isfinite(trained[autoencoder].scores["mse"])
    assert zoo.models.in_store(classifier, torch.device("cuda"))
    assert not zoo.models.in_store(classifier, CPU)
    pictures = torch.from_numpy(datasets.load(digits().key).arrays["test_x"]).float() / 255
    with torch.no_grad():
        codes = trained_models.restore(trained[classifier]).encoder(pictures).numpy()
    assert np.abs(codes - trained[classifier].spaces["test"]).max() < 0.01 * np.abs(codes).max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_gives_the_same_bits_twice(fresh_home):
    for one in some_recipes():
        first, second = (train_alone(one, torch.device("cuda")) for _ in range(2))
        assert first.note == second.note
        assert [name for name in first.arrays if numbers(first.arrays[name]) != numbers(second.arrays[name])] == []


def test_a_recipe_with_another_seed_is_another_model():
    first, second = recipe(epochs=0), replace(recipe(epochs=0), seed=1)
    spaces = [train_alone(one).arrays["spaces.test"] for one in (first, second)]
    assert np.abs(spaces[0] - spaces[1]).max() > 1e-2
