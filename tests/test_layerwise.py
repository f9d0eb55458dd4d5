"""CKA of all pairs of layers: the same as of whole spaces, however samples fall into batches."""

from itertools import pairwise as neighbours

import numpy as np
import pytest
import torch
from torch import nn

from invariances import layers, pairwise
from invariances.errors import SpaceError
from invariances.layerwise import course, draw_layers, layer_names, pooled

N = 150


def network(widths, seed, activation=nn.ReLU):
    torch.manual_seed(seed)
    parts = []
    for before, after in neighbours(widths):
        parts += [nn.Linear(before, after), activation()]
    return nn.Sequential(*parts)


def inputs(shift=3.0):
    return torch.randn(N, 6, generator=torch.Generator().manual_seed(0)) + shift


def outputs(model, x):
    found = {}
    for name, part in model.named_children():
        x = part(x)
        found[name] = x.detach().double()
    return found


A, B = network([6, 12, 8], 0), network([6, 10, 9, 7], 1, nn.Tanh)


@pytest.mark.parametrize("size", [1, 7, 64, N])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_batches_give_what_whole_spaces_give(size, shift):
    x = inputs(shift)
    table = layers(A, B, x.split(size))
    assert len(table) == 4 * 6
    a, b = outputs(A, x), outputs(B, x)
    known = pairwise(
        {f"a{name}": out for name, out in a.items()} | {f"b{name}": out for name, out in b.items()}, "cka_debiased"
    )
    for line in table.itertuples():
        assert line.cka == pytest.approx(known.loc[f"a{line.layer_a}", f"b{line.layer_b}"], abs=1e-5)  # of float32
    assert set(table.n_samples) == {N}


def test_the_estimator_is_that_of_song_et_al():
    x = inputs()
    (line,) = layers(A, B, [x], layers_a=["0"], layers_b=["2"]).itertuples()

    def hsic(k, l):  # noqa: E741
        n = len(k)
        np.fill_diagonal(k, 0)
        np.fill_diagonal(l, 0)
        return (np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l).sum() / (n - 2)) / (n * (n - 3))

    k, l = (z.numpy() @ z.numpy().T for z in (outputs(A, x)["0"], outputs(B, x)["2"]))  # noqa: E741
    known = hsic(k.copy(), l.copy()) / np.sqrt(hsic(k.copy(), k.copy()) * hsic(l.copy(), l.copy()))
    assert line.cka == pytest.approx(known, abs=1e-10)


def test_a_layer_is_like_itself_and_unlike_one_that_reads_other_samples():
    x = inputs(0.0)
    same = layers(A, A, x.split(50)).set_index(["layer_a", "layer_b"]).cka
    assert all(same[name, name] == pytest.approx(1) for name, _ in A.named_children())
    other = layers(A, A, x.split(50), loader_b=x.flip(0).roll(7, 0).split(50))
    assert other.z.abs().max() < 6
    assert other.cka.abs().max() < 0.2


def test_the_null_is_that_of_shuffled_samples():
    x, rng = inputs(0.0), torch.Generator().manual_seed(1)
    scores, z = [], []
    for _ in range(200):
        shuffled = x[torch.randperm(N, generator=rng)]
        (line,) = layers(A, B, [x], [shuffled], ["0"], ["0"]).itertuples()
        scores.append(line.cka)
        z.append(line.z)
    assert abs(np.mean(scores)) < 4 * np.std(scores) / np.sqrt(200)
    assert 0.5 < np.std(z) < 2  # few axes carry the variance, so that it is no normal one


class Tokens(nn.Module):
    """As transformers has it: hidden states of tokens, in a tuple."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = nn.Embedding(20, 8)
        self.layer = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, input_ids, attention_mask=None):
        x = self.embeddings(input_ids)
        for part in self.layer:
            x = torch.tanh(part(x))
        return (x,)


def test_tokens_that_are_padding_do_not_count():
    model, rng = Tokens(), torch.Generator().manual_seed(0)
    ids = torch.randint(1, 20, (40, 6), generator=rng)
    mask = torch.arange(6) < torch.randint(1, 7, (40, 1), generator=rng)
    batch = {"input_ids": ids * mask, "attention_mask": mask.long()}
    longer = {name: nn.functional.pad(part, (0, 3)) for name, part in batch.items()}
    assert layer_names(model) == ["embeddings", "layer.0", "layer.1"]
    for pooling in ("mean", "cls", "last"):
        one, other = (layers(model, model, [each], pooling=pooling).cka for each in (batch, longer))
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "pooling", "known"),
    [
        ((3, 4), "mean", lambda x: x),
        ((3, 5, 4), "mean", lambda x: x.mean(1)),
        ((3, 5, 4), "cls", lambda x: x[:, 0]),
        ((3, 5, 4), "last", lambda x: x[:, -1]),
        ((3, 5, 4), "flatten", lambda x: x.reshape(3, 20)),
        ((3, 4, 2, 2), "mean", lambda x: x.mean((2, 3))),
        ((3, 4, 2, 2), "flatten", lambda x: x.reshape(3, 16)),
    ],
)
def test_pooling(shape, pooling, known):
    x = torch.randn(shape)
    torch.testing.assert_close(pooled(x, pooling), known(x))


def test_the_blocks_of_a_vision_network_are_named():
    from torchvision.models import resnet18

    names = layer_names(resnet18(weights=None))
    assert {"layer1.0", "layer4.1", "fc"} <= set(names)
    assert "layer1.0.conv1" not in names


def test_models_are_left_as_they_were():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers(model, model, inputs().split(50))
    assert model.training
    assert all(module._forward_hooks == {} for module in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_course_of_a_training_ends_in_its_last_checkpoint():
    models = {f"step {i}": network([6, 12, 8], i % 2) for i in range(3)}
    table = course(models, inputs().split(50))
    assert list(dict.fromkeys(table.checkpoint)) == list(models)
    last = table[table.checkpoint.isin(["step 0", "step 2"])]  # the same weights
    np.testing.assert_allclose(last.cka, 1, atol=1e-9)
    assert (table[table.checkpoint == "step 1"].cka < 0.999).all()
    for frame in (table, layers(A, B, [inputs()])):
        figure = draw_layers(frame)
        assert len(figure.axes) == 2


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: layers(A, B, [x], layers_a=["9"]), r"there is no layer '9'; name some of 0, 1"),
        (lambda x: layers(A, B, [x], layers_a=[]), r"there is no layer '.none given.'; name some"),
        (lambda x: layers(A, B, [x], pooling="max"), r"unknown pooling 'max'; choose from"),
        (lambda x: layers(A, B, []), r"0 samples are too few for debiased CKA; give at least 4"),
        (lambda x: layers(A, B, [x[:3]]), r"3 samples are too few"),
        (lambda x: layers(A, B, [x], [x[:9]]), r"150 samples for one network and 9 for the other; give"),
        (lambda x: layers(A, B, x.split(50), x.split(75)), r"50 samples for one network and 75|more batches than"),
        (lambda x: layers(A, B, x.split(50), x[:100].split(50)), r"one loader has more batches than the other; give"),
        (
            lambda x: layers(
                A, Tokens(), [x], [{"input_ids": torch.ones(150, 2).long()}], pooling="flatten", layers_b=["layer"]
            ),
            r"layer 'layer' is not used by the network's forward pass; name",
        ),
        (lambda x: course({"a": A}, [x]), r"1 checkpoint.s. given; give at least 2"),
        (lambda x: pooled(torch.ones(3)), r"no vector a sample; name other layers"),
        (lambda x: pooled(torch.ones(3, 2, 2, 2), "cls"), r"which has no tokens; pool by mean or flatten"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(call, match):
    with pytest.raises(SpaceError, match=match) as caught:
        call(inputs())
    assert "\n" not in str(caught.value)


def test_products_that_would_not_fit_are_refused_before_they_are_made():
    wide = nn.Sequential(nn.Linear(6, 40_000))
    with pytest.raises(SpaceError, match=r"40,000 features in all, whose products take .* GiB; name fewer layers"):
        layers(wide, wide, [inputs()])
