import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from invariances.errors import PretrainedError
from invariances.zoo import frozen
from invariances.zoo.networks import build
from invariances.zoo.recipes import Network

CLASSES, VOCABULARY, LENGTH = 7, 60, 12
CNNS = {
    f"cnn-{depth} {activation}": Network("cnn", depth, 24, width=4, activation=activation)
    for depth in (3, 5)
    for activation in ("relu", "gelu")
}
VIT = Network("vit", 2, 24, heads=3, patch=2)
TEXT = {family: Network(family, 2, 24, heads=3) for family in ("bert", "roberta")}
PADDING = {"bert": 0, "roberta": 1}
PICTURES = [(1, 8, 8), (3, 8, 8), (1, 32, 32), (3, 32, 32)]
ALL = {**CNNS, "vit": VIT, **TEXT}


def shape_of(network):
    return (LENGTH,) if network.family in TEXT else (3, 8, 8)


def samples(n, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if len(shape) == 1:
        return torch.randint(5, VOCABULARY, (n, *shape), generator=generator)
    return torch.rand(n, *shape, generator=generator)


def fresh(network, task="classification", anchors=0, shape=None):
    torch.manual_seed(0)
    return build(network, task, anchors, shape or shape_of(network), CLASSES, VOCABULARY).eval()


def modules(network, kind):
    return [module for module in network.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("shape", PICTURES, ids=str)
@pytest.mark.parametrize("name", [*CNNS, "vit"])
def test_picture_encoders_and_classifiers_have_the_shapes_asked_for(name, shape):
    model, x = fresh(ALL[name], shape=shape), samples(5, shape)
    assert model.encoder(x).shape == (5, 24)
    assert model(x).shape == (5, CLASSES)


@pytest.mark.parametrize("family", TEXT)
def test_text_encoders_and_classifiers_have_the_shapes_asked_for(family):
    model, x = fresh(TEXT[family]), samples(5, (LENGTH,))
    assert model.encoder(x).shape == (5, 24)
    assert model(x).shape == (5, CLASSES)


@pytest.mark.parametrize("anchors", [0, 9])
@pytest.mark.parametrize("shape", PICTURES, ids=str)
@pytest.mark.parametrize("name", CNNS)
def test_a_decoder_gives_back_a_picture_of_the_shape_and_range_it_was_given(name, shape, anchors):
    model, x = fresh(CNNS[name], "reconstruction", anchors, shape), samples(5, shape)
    # codes far from the origin, to reach for values outside [0, 1]
    codes = torch.randn(5, anchors or 24, generator=torch.Generator().manual_seed(1)) * 100
    pictures = model.head(codes)
    assert pictures.shape == x.shape
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert pictures.std() > 0


@pytest.mark.parametrize("name", CNNS)
def test_a_cnn_is_as_deep_and_as_curved_as_its_recipe_says(name):
    network, encoder = CNNS[name], fresh(CNNS[name]).encoder
    curve, other = (nn.ReLU, nn.GELU) if network.activation == "relu" else (nn.GELU, nn.ReLU)
    assert len(modules(encoder, nn.Conv2d)) == len(modules(encoder, curve)) == network.depth
    assert not modules(encoder, other)
    decoder = fresh(network, "reconstruction").head
    assert len(modules(decoder, curve)) == network.depth + 1
    assert not modules(decoder, other)


@pytest.mark.parametrize("name", CNNS)
def test_a_decoder_is_its_encoder_mirrored(name):
    down = [(c.in_channels, c.out_channels, c.stride) for c in modules(fresh(CNNS[name]).encoder, nn.Conv2d)]
    up = modules(fresh(CNNS[name], "reconstruction").head, nn.ConvTranspose2d)
    mirrored = [(c.out_channels, c.in_channels, c.stride) for c in reversed(up)]
    assert mirrored[1:] == down[1:]
    assert mirrored[0] == (4, *down[0][1:])  # the last convolution brings the width's 4 channels to the picture's


@pytest.mark.parametrize("name", ["vit", *TEXT])
def test_a_transformer_has_as_many_layers_and_heads_as_its_recipe_says(name):
    for depth, heads in ((1, 2), (3, 4)):
        encoder = fresh(Network(ALL[name].family, depth, 24, heads=heads, patch=2)).encoder
        layers = encoder.body.encoder.layers if name == "vit" else encoder.body.encoder.layer
        assert len(layers) == depth
        said = layers[0].num_heads if name == "vit" else layers[0].attention.self.num_attention_heads
        assert said == heads


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("k", [1, 9])
def test_a_relative_head_reads_the_cosine_to_each_of_k_anchors(name, k):
    model = fresh(ALL[name], anchors=k)
    x, anchors = samples(4, shape_of(ALL[name])), torch.randn(k, 24, generator=torch.Generator().manual_seed(2))
    assert model.head[0].normalized_shape == (k,)
    cosines = torch.cosine_similarity(model.encoder(x)[:, None], anchors[None], dim=-1)
    torch.testing.assert_close(model(x, anchors), model.head(cosines))


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_anchors_are_embedded_in_evaluation_mode_and_without_gradient(name, mode):
    model, x = fresh(ALL[name]), samples(9, shape_of(ALL[name]))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    expected = model.encoder(x)
    codes = model.train(mode).embed_anchors(x)
    assert torch.equal(codes, expected)
    assert not codes.requires_grad
    assert model.encoder.training == mode
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("task", ["classification", "reconstruction"])
def test_an_absolute_head_reads_the_codes(task):
    model, x = fresh(CNNS["cnn-3 relu"], task), samples(4, (3, 8, 8))
    torch.testing.assert_close(model(x), model.head(model.encoder(x)))


@pytest.mark.parametrize("name", ALL)
def test_in_evaluation_a_code_does_not_depend_on_its_neighbours(name):
    encoder, shape = fresh(ALL[name]).encoder, shape_of(ALL[name])
    x, others = samples(6, shape), samples(6, shape, seed=9)
    if x.is_floating_point():
        x, others = 50 * x, 50 * others  # fresh weights barely tell pictures apart
    others[0] = x[0]
    code = encoder(x[:1])
    for batch in (x, others, others.flip(0).roll(1, 0)):
        torch.testing.assert_close(encoder(batch)[:1], code, rtol=0, atol=1e-5)
    assert (encoder(x)[1:] - code).abs().amax(dim=1).min() > 1e-3  # other samples have other codes


@pytest.mark.parametrize("anchors", [0, 9])
@pytest.mark.parametrize("task", ["classification", "reconstruction"])
def test_in_evaluation_an_answer_does_not_depend_on_its_neighbours(task, anchors):
    model = fresh(CNNS["cnn-3 relu"], task, anchors)
    codes = torch.randn(6, anchors or 24, generator=torch.Generator().manual_seed(3))
    codes[1:] *= 50
    torch.testing.assert_close(model.head(codes)[:1], model.head(codes[:1]), rtol=0, atol=1e-5)


def test_in_training_a_cnn_does_look_at_its_neighbours():
    # the control of the two tests above: BatchNorm is there, and evaluation mode is what silences it
    encoder = fresh(CNNS["cnn-3 relu"]).encoder.train()
    x = samples(6, (3, 8, 8))
    others = torch.cat([x[:1], 5 * samples(5, (3, 8, 8), seed=9)])
    assert (encoder(x)[0] - encoder(others)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("family", TEXT)
def test_padding_does_not_change_a_text_s_code(family):
    encoder, tokens = fresh(TEXT[family]).encoder, samples(4, (5,))
    code = encoder(tokens)
    for length in (6, LENGTH):
        padded = torch.full((4, length), PADDING[family])
        padded[:, :5] = tokens
        torch.testing.assert_close(encoder(padded), code, rtol=0, atol=1e-5)
    longer = torch.cat([tokens, samples(4, (1,), seed=5)], dim=1)
    assert (encoder(longer) - code).abs().max() > 1e-3  # a word more does change it


@pytest.mark.parametrize("family", TEXT)
def test_the_order_of_words_matters(family):
    encoder, tokens = fresh(TEXT[family]).encoder, samples(4, (LENGTH,))
    assert (encoder(tokens) - encoder(tokens.flip(1))).abs().max() > 1e-3


@pytest.mark.parametrize("family", TEXT)
def test_a_text_of_nothing_but_padding_has_a_finite_code(family):
    assert fresh(TEXT[family]).encoder(torch.full((2, LENGTH), PADDING[family])).isfinite().all()


def test_a_vit_reads_one_channel_as_three_equal_ones():
    encoder, x = fresh(VIT).encoder, samples(3, (1, 8, 8))
    torch.testing.assert_close(encoder(x), encoder(x.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("name", ALL)
def test_weights_come_from_the_current_seed(name):
    def weights(seed):
        torch.manual_seed(seed)
        state = build(ALL[name], "classification", 0, shape_of(ALL[name]), CLASSES, VOCABULARY).state_dict()
        return torch.cat([tensor.flatten().float() for tensor in state.values()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "resnet18.safetensors"
    torch.manual_seed(1)
    save_file(resnet18(weights=None).state_dict(), path)
    return str(path)


@pytest.mark.parametrize("anchors", [0, 9])
def test_a_pretrained_encoder_is_the_checkpoint_s_and_only_the_head_is_new(checkpoint, anchors):
    network = Network("pretrained", checkpoint=checkpoint)
    model = fresh(network, anchors=anchors, shape=(3, 8, 8)).train()
    x = samples(4, (3, 8, 8))
    assert torch.equal(model.encoder(x), frozen.encoder(checkpoint)(x))
    assert model.head[0].normalized_shape == (anchors or 512,)
    assert model.head.training
    assert not model.encoder.training
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == set(model.state_dict()) == {f"head.{name}" for name in model.head.state_dict()}


def test_a_pretrained_model_is_restored_from_its_head_alone(checkpoint):
    network, x = Network("pretrained", checkpoint=checkpoint), samples(4, (3, 8, 8))
    model = fresh(network, shape=(3, 8, 8))
    torch.manual_seed(9)
    other = build(network, "classification", 0, (3, 8, 8), CLASSES, 0)
    assert not torch.equal(other(x), model(x))
    state = model.state_dict()
    other.load_state_dict(state)
    assert torch.equal(other(x), model(x))
    del state["head.1.bias"]
    with pytest.raises(RuntimeError, match=r"head\.1\.bias"):
        other.load_state_dict(state)


def test_a_fresh_network_of_a_checkpoint_keeps_its_weights_in_its_state(checkpoint):
    network, x = Network("pretrained", checkpoint=checkpoint, fresh=True), samples(4, (3, 8, 8))
    torch.manual_seed(0)
    first, second = (build(network, "classification", 0, (3, 8, 8), CLASSES, 0) for _ in range(2))
    assert not torch.equal(first.encoder(x), second.encoder(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.encoder(x), second.encoder(x))
    with pytest.raises(RuntimeError, match="encoder"):
        second.load_state_dict({k: v for k, v in first.state_dict().items() if not k.startswith("encoder")})


def test_data_that_are_not_made_for_a_checkpoint_are_refused(checkpoint):
    with pytest.raises(PretrainedError, match="not for text"):
        build(Network("pretrained", checkpoint=checkpoint), "classification", 0, (LENGTH,), CLASSES, VOCABULARY)
