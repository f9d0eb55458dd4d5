import itertools

import numpy as np
import pytest
import torch

from invariances import zoo
from invariances.zoo import checkpoints as checkpoint_files
from invariances.zoo import datasets, store, training, workers
from invariances.zoo.locating import View
from invariances.zoo.networks import Model, build
from invariances.zoo.recipes import Network, Recipe, Training
from invariances.zoo.stacking import FAMILIES, Stacked

CPU = torch.device("cpu")
NETWORKS = {
    "cnn": Network("cnn", 3, 16, width=4),
    "deep cnn": Network("cnn", 5, 16, width=4, activation="gelu"),
    "vit": Network("vit", 1, 16, heads=2, patch=4),
}
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention on the CPU


def seeds(network="cnn", count=3, task="classification", anchors=0, **plan):
    prepared = datasets.prepare(View("mnist", "builtin", 300, 100, pixels=8, channels=1))
    plan = Training(**{"epochs": 2, "batch_size": 64, "optimizer": "sgd", "lr": 1e-3, **plan})
    family = Recipe(prepared.key, prepared.title, task, NETWORKS[network], plan, 0, anchors)
    return [Recipe(**{**vars(family), "seed": seed}) for seed in range(count)]


def models(network, count=3, anchors=0):
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(build(NETWORKS[network], "classification", anchors, (1, 8, 8), 10, 0).double())
    return made


@pytest.mark.parametrize("anchors", [0, 6])
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_stacked_models_answer_as_each_alone_and_keep_the_same_statistics(network, mode, anchors):
    alone, stacked = models(network, anchors=anchors), Stacked(models(network, anchors=anchors)).train(mode)
    x = torch.rand(3, 20, 1, 8, 8, dtype=torch.float64)
    a = torch.rand(6, 1, 8, 8, dtype=torch.float64) if anchors else None
    codes = stacked.embed_anchors(a) if anchors else None
    answers = stacked(x, codes)
    for i, model in enumerate(alone):
        model.train(mode)
        own = model.embed_anchors(a) if anchors else None
        if anchors:
            torch.testing.assert_close(codes[i], own, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(answers[i], model(x[i], own), rtol=1e-8, atol=1e-10)
    apart = models(network, anchors=anchors)
    stacked.unstack(apart)
    for one, other in zip(apart, alone, strict=True):
        for name, tensor in other.state_dict().items():  # BatchNorm's statistics too
            torch.testing.assert_close(one.state_dict()[name], tensor, rtol=1e-10, atol=1e-12)
    assert (answers[0] - answers[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("network", "what"),
    [
        ("cnn", {}),
        ("cnn", {"task": "reconstruction"}),
        ("cnn", {"anchors": 20}),
        ("cnn", {"task": "reconstruction", "anchors": 20}),
        ("deep cnn", {"augmentation": "heavy"}),
        ("vit", {"schedule": "constant"}),
    ],
    ids=str,
)
def test_seeds_trained_together_are_what_they_are_alone(network, what):
    recipes = seeds(network, **what)
    together, alone = training.train(recipes, CPU), [training.train([recipe], CPU)[0] for recipe in recipes]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.note["losses"], other.note["losses"], rtol=1e-4)
        assert list(one.arrays) == list(other.arrays)
        for name, array in other.arrays.items():
            np.testing.assert_allclose(one.arrays[name], array, rtol=5e-3, atol=1e-4, err_msg=name)
    spaces = [artefact.arrays["spaces.test"] for artefact in together]
    assert np.abs(spaces[0] - spaces[1]).max() > 0.1 * np.abs(spaces[0]).max()


class Halved(torch.nn.Module):
    """What autocast does before a BatchNorm on a GPU."""

    def forward(self, x):
        return x.bfloat16()


def test_stacked_models_take_half_precision_into_batch_norm_and_back():
    def model(*first):
        torch.manual_seed(0)
        encoder = torch.nn.Sequential(*first, torch.nn.BatchNorm2d(1), torch.nn.Flatten())
        return Model(encoder, torch.nn.Linear(64, 3))

    x = torch.rand(2, 20, 1, 8, 8)
    stacked, alone = Stacked([model(Halved()), model(Halved())]), model()
    stacked(x).square().sum().backward()
    for i in range(2):
        alone.zero_grad()
        alone(x[i].bfloat16().float()).square().sum().backward()
        for gradient, expected in zip(stacked.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(gradient.grad[i], expected.grad)


def test_each_model_s_gradient_is_clipped_by_its_own_norm():
    stacked, alone = Stacked(models("cnn")), models("cnn")
    scales = torch.tensor([1e4, 1.0, 1e-4])
    for model, scale in zip(alone, scales, strict=True):
        for parameter in model.parameters():
            parameter.grad = scale.double() * torch.sin(parameter.detach() * 50)
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.GRADIENT_NORM)
    for parameter in stacked.parameters():
        parameter.grad = torch.sin(parameter.detach() * 50) * scales.double().view(-1, *[1] * (parameter.ndim - 1))
    training._clip(stacked, alone=False)
    for gradients in zip(stacked.parameters(), *(model.parameters() for model in alone), strict=True):
        for i, expected in enumerate(gradients[1:]):
            torch.testing.assert_close(gradients[0].grad[i], expected.grad, rtol=1e-4, atol=0)


def test_on_a_gpu_seeds_of_a_recipe_go_together_and_nothing_else_does():
    first, other = seeds(count=12), seeds("deep cnn", count=2)
    longer = seeds(epochs=3, count=1)
    mixed = [first[0], *other, *longer, *first[1:]]
    groups = training.seeds_at_once(mixed, torch.device("cuda"))
    assert groups == [tuple(first[:10]), tuple(first[10:]), tuple(other), tuple(longer)]
    assert training.seeds_at_once(mixed, CPU) == [(recipe,) for recipe in [*first, *other, *longer]]
    text = Recipe("0" * 20, "trec", "classification", Network("bert", 1, 16, heads=2), Training(1), 0)
    assert not {"bert", "roberta", "vit"} & set(FAMILIES)
    assert len(training.seeds_at_once(seeds("vit", count=2), torch.device("cuda"))) == 2
    assert len(training.seeds_at_once([text, Recipe(**{**vars(text), "seed": 1})], torch.device("cuda"))) == 2


def test_recipes_that_differ_by_more_than_their_seed_are_refused():
    with pytest.raises(ValueError, match="only recipes that differ by their seed"):
        training.train([seeds()[0], seeds(epochs=3)[1]], CPU)


def test_of_seeds_that_go_together_those_in_the_store_are_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    stacks, train = [], training.train
    monkeypatch.setattr(training, "FAMILIES", ())
    monkeypatch.setattr(training, "train", lambda some, *rest: stacks.append(list(some)) or train(some, *rest))
    recipes = seeds(count=4, epochs=1)
    zoo.train(recipes[1:2], "cpu")
    # as on a GPU, which this machine need not have
    monkeypatch.setattr(training, "seeds_at_once", lambda some, device: [tuple(some)] if some else [])
    trained = zoo.train(recipes, "cpu")
    assert stacks == [recipes[1:2], [recipes[0], *recipes[2:]]]
    assert [model.recipe for model in trained.values()] == recipes
    assert zoo.train(recipes, "cpu").keys() == trained.keys()
    assert len(stacks) == 2


def test_a_stack_that_a_gpu_cannot_hold_is_halved(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    tried, train = [], training.train

    def small_gpu(some, *rest):
        tried.append(len(some))
        if len(some) > 2:
            raise torch.OutOfMemoryError
        return train(some, *rest)

    monkeypatch.setattr(training, "train", small_gpu)
    monkeypatch.setattr(training, "seeds_at_once", lambda some, device: [tuple(some)])
    recipes = seeds(count=5, epochs=0)
    assert len(zoo.train(recipes, "cpu")) == 5
    assert tried == [5, 2, 3, 1, 2]


def test_a_model_that_a_gpu_cannot_hold_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))

    def no_room(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(training, "train", no_room)
    with pytest.raises(RuntimeError, match="run again with device=cpu or a smaller profile"):
        zoo.train(seeds(count=1), "cpu")


# Checkpoints -----------------------------------------------------------------------------------


class Killed(Exception):
    pass


def die_after(monkeypatch, steps):
    """Make training end after so many steps of its optimizer, as if the process were killed."""
    make = training._optimizer

    def mortal(*given):
        optimizer, left = make(*given), iter(range(steps))

        def step(*_):
            if next(left, None) is None:
                raise Killed

        optimizer.register_step_pre_hook(step)
        return optimizer

    monkeypatch.setattr(training, "_optimizer", mortal)


def steps_done(monkeypatch):
    """A list that grows with every step of an optimizer."""
    done, make = [], training._optimizer

    def counted(*given):
        optimizer = make(*given)
        optimizer.register_step_post_hook(lambda *_: done.append(1))
        return optimizer

    monkeypatch.setattr(training, "_optimizer", counted)
    return done


@pytest.mark.parametrize("steps", [1, 5, 9, 10, 14])  # five steps an epoch, three epochs
@pytest.mark.parametrize(
    "what",
    [{"optimizer": "adam", "augmentation": "light"}, {"optimizer": "sgd", "task": "reconstruction", "anchors": 20}],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 2])
def test_training_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path, monkeypatch, what, steps, count):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    recipes = seeds(count=count, epochs=3, **what)
    undisturbed = training.train(recipes, CPU)
    monkeypatch.setattr(checkpoint_files, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_after(patch, steps)
        training.train(recipes, CPU)
    assert any(tmp_path.glob("checkpoints/*.safetensors"))
    done = steps_done(monkeypatch)
    torch.rand(7)  # another place in torch's own stream
    for one, other in zip(training.train(recipes, CPU), undisturbed, strict=True):
        assert one.note == other.note
        for name, array in other.arrays.items():
            assert one.arrays[name].tobytes() == array.tobytes(), name
    assert len(done) == 15 - steps  # nothing was done twice


@pytest.mark.parametrize(("every", "times"), [(1, 10), (2, 6)])
def test_anchors_are_embedded_anew_every_few_steps(monkeypatch, every, times):
    codes, embed = [], Model.embed_anchors
    monkeypatch.setattr(Model, "embed_anchors", lambda self, x: codes.append(embed(self, x)) or codes[-1])
    monkeypatch.setattr(training, "ANCHOR_STEPS", {"cnn": every})
    training.train(seeds(count=1, anchors=20, lr=0.05), CPU)  # five steps an epoch, two epochs
    assert len(codes) == times
    assert all(one.shape == (20, 16) for one in codes)
    assert all((one - other).abs().max() > 1e-4 for one, other in itertools.pairwise(codes))


def test_a_finished_model_leaves_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    monkeypatch.setattr(checkpoint_files, "CHECKPOINT_SECONDS", 0.0)
    saved, save = [], store.save
    monkeypatch.setattr(store, "save", lambda kind, *rest: saved.append(kind) or save(kind, *rest))
    zoo.train(seeds(count=1), "cpu")
    assert saved.count("checkpoints") == 10
    assert not list((tmp_path / "checkpoints").glob("*.safetensors"))


def test_a_short_training_writes_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    zoo.train(seeds(count=1), "cpu")
    assert not (tmp_path / "checkpoints").exists()


def checkpoints(folder):
    return sorted(folder.glob("checkpoints/*.safetensors"), key=lambda path: path.stat().st_mtime_ns)


def test_the_checkpoint_of_other_models_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    pair = seeds(count=2)
    expected = training.train(pair[:1], CPU)[0]
    monkeypatch.setattr(checkpoint_files, "CHECKPOINT_SECONDS", 0.0)
    training.train(pair, CPU)
    assert len(checkpoints(tmp_path)) == 2
    assert training.train(pair[:1], CPU)[0].note == expected.note


@pytest.mark.parametrize("damaged", [1, 2])
def test_where_the_last_checkpoint_is_damaged_the_one_before_serves(tmp_path, monkeypatch, damaged):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    recipes = seeds(count=1)
    expected = training.train(recipes, CPU)[0]
    monkeypatch.setattr(checkpoint_files, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_after(patch, 7)
        training.train(recipes, CPU)
    for place in checkpoints(tmp_path)[-damaged:]:
        content = bytearray(place.read_bytes())
        content[len(content) // 2] ^= 1
        place.write_bytes(content)
    done = steps_done(monkeypatch)
    assert training.train(recipes, CPU)[0].note == expected.note
    assert len(done) == {1: 10 - 6, 2: 10}[damaged]


# On a GPU --------------------------------------------------------------------------------------


def test_data_stay_on_the_host_where_a_gpu_has_no_room(monkeypatch):
    class Gpu:
        type = "cuda"

    tensor, went = torch.zeros(100, dtype=torch.uint8), []
    free = [199, 200]  # popped from the end
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free.pop(), 10_000))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: went.append("device") or self)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: went.append("host") or self)
    for device in (Gpu(), Gpu(), CPU):
        training._placed(tensor, device)
    assert went == ["device", "host"]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


@needs_gpu
@pytest.mark.parametrize("network", ["cnn", "deep cnn"])
def test_a_gpu_trains_a_stack_to_the_same_bits_twice_and_near_each_alone(network):
    gpu, recipes = torch.device("cuda"), seeds(network)
    first, second = training.train(recipes, gpu), training.train(recipes, gpu)
    alone = [training.train([recipe], gpu)[0] for recipe in recipes]
    for one, other, single in zip(first, second, alone, strict=True):
        assert all(one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays)
        np.testing.assert_allclose(one.note["losses"], single.note["losses"], rtol=0.02)  # bfloat16


@needs_gpu
def test_a_gpu_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    gpu, recipes = torch.device("cuda"), seeds(epochs=3, augmentation="light", optimizer="adam")
    undisturbed = training.train(recipes, gpu)
    monkeypatch.setattr(checkpoint_files, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_after(patch, 7)
        training.train(recipes, gpu)
    for one, other in zip(training.train(recipes, gpu), undisturbed, strict=True):
        assert one.note == other.note


# Progress --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_progress_is_told_in_epochs_with_the_loss(count, monkeypatch):
    told = []
    clock = iter(np.arange(0, 1e6, 0.6))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    made = training.train(seeds(count=count), CPU, lambda epochs, **shown: told.append((epochs, shown)))
    assert sum(epochs for epochs, _ in told) == pytest.approx(2 * count)
    assert len(told) > 3
    assert all(set(shown) == {"loss"} and shown["loss"] > 0 for _, shown in told)
    assert told[-1][1]["loss"] == pytest.approx(np.mean([artefact.note["losses"][-1] for artefact in made]))


def test_the_bar_of_a_run_counts_epochs(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    sizes = []
    monkeypatch.setattr(workers, "run", lambda unit, items, label, processes, size: map(sizes.append, map(size, items)))
    monkeypatch.setattr(
        zoo.models, "fetch", lambda recipes, device: [store.Artefact({}, {"scores": {}, "machine": ""})]
    )
    zoo.train([*seeds(count=1), seeds(count=1)[0].untrained(), *seeds(epochs=7, count=1)], "cpu")
    assert sizes == [7, 2, 1]  # the longest first
