import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import operation
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group
from sklearn.metrics.pairwise import cosine_similarity

from invariances.errors import SpaceError
from invariances.product import AGGREGATIONS, Product
from invariances.relative import SIMILARITIES

DEFAULT = ("cosine", "euclidean", "l1", "linf")
K, D, WIDTH = 9, 5, 6

each_aggregation = pytest.mark.parametrize("aggregation", AGGREGATIONS)


def space(n=7, d=D, k=K, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.normal(size=(rows, d)) * np.linspace(2, 0.5, d) + 0.5) for rows in (n, k)]


def product(similarities=DEFAULT, aggregation="concat", **how):
    return Product(similarities, anchors=K, width=WIDTH, aggregation=aggregation, **how).double()


def normalised(profile):
    """What a fresh LayerNorm makes of the rows."""
    return (profile - profile.mean(axis=1, keepdims=True)) / profile.std(axis=1, keepdims=True)


def components(x, anchors):
    x, anchors = x.numpy(), anchors.numpy()
    cosine = cosine_similarity(x, anchors)
    profiles = {
        "cosine": cosine,
        "euclidean": cdist(x, anchors),
        "l1": cdist(x, anchors, "cityblock"),
        "linf": cdist(x, anchors, "chebyshev"),
        "geodesic": np.arccos(cosine),
    }
    return {name: torch.from_numpy(normalised(profile)) for name, profile in profiles.items()}


def affine(layer, x):
    return x @ layer.weight.T + layer.bias


def attend(module, tokens, equal_weights=False):
    """Multi-head self-attention of tokens (n, c, width) by its definition: outputs and mean weights."""
    width, heads = tokens.shape[2], module.num_heads
    query, key, value = (
        tokens @ weight.T + bias
        for weight, bias in zip(module.in_proj_weight.split(width), module.in_proj_bias.split(width), strict=True)
    )
    outputs, weights = [], []
    for part in torch.arange(width).split(width // heads):
        scores = torch.einsum("nid,njd->nij", query[..., part], key[..., part]) / np.sqrt(width // heads)
        weights.append(torch.full_like(scores, 1 / scores.shape[1]) if equal_weights else scores.exp())
        weights[-1] = weights[-1] / weights[-1].sum(dim=2, keepdim=True)
        outputs.append(weights[-1] @ value[..., part])
    return affine(module.out_proj, torch.cat(outputs, dim=2)), torch.stack(weights).mean(dim=0)


# By definition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("similarities", [DEFAULT, tuple(SIMILARITIES), ("l1",), ["linf", "cosine"]])
def test_concat_is_the_normalised_components_side_by_side(similarities):
    x, anchors = space()
    module = product(similarities)
    expected = torch.cat([components(x, anchors)[name] for name in similarities], dim=1)
    torch.testing.assert_close(module(x, anchors), expected)
    assert module.out_features == expected.shape[1] == K * len(similarities)


def test_sum_adds_up_one_perceptron_per_component():
    x, anchors = space()
    module = product(aggregation="sum")
    expected = 0
    for name in DEFAULT:
        first, _, second = module.embed[name]
        hidden = affine(first, components(x, anchors)[name])
        gelu = hidden * (1 + torch.erf(hidden / np.sqrt(2))) / 2
        expected = expected + affine(second, gelu)
    torch.testing.assert_close(module(x, anchors), expected)
    assert module.out_features == expected.shape[1] == WIDTH


@pytest.mark.parametrize("equal_weights", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_attention_is_the_mean_of_attending_components(heads, equal_weights):
    x, anchors = space()
    module = product(aggregation="attention", heads=heads, equal_weights=equal_weights)
    given = components(x, anchors)
    tokens = torch.stack([affine(module.embed[name], given[name]) for name in DEFAULT], dim=1)
    outputs, weights = attend(module.attention, tokens, equal_weights)
    torch.testing.assert_close(module(x, anchors), outputs.mean(dim=1))
    torch.testing.assert_close(module.attention_weights(x, anchors), weights)
    assert module.out_features == WIDTH


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_weights_are_weights(heads):
    x, anchors = space()
    weights = product(aggregation="attention", heads=heads).attention_weights(x, anchors)
    assert weights.shape == (7, 4, 4)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(7, 4).double())
    assert weights.std(dim=2).min() > 1e-4  # they differ, unlike the control's


def test_equal_weights_are_the_control_and_nothing_else_differs():
    x, anchors = space()
    free, equal = (product(aggregation="attention", equal_weights=flag) for flag in (False, True))
    assert [name for name, _ in free.named_parameters()] == [name for name, _ in equal.named_parameters()]
    for one, other in zip(free.parameters(), equal.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    for parameter in equal.attention.parameters():  # trained ones too: biases start at 0
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    assert (equal.attention_weights(x, anchors) == 0.25).all()
    free.load_state_dict(equal.state_dict())
    assert (free(x, anchors) - equal(x, anchors)).abs().max() > 0.01


# Invariance ------------------------------------------------------------------------------------

DECLARED = {
    ("cosine",): "isotropic-scale sample-scale permutation sign-flip orthogonal",
    ("euclidean",): "isotropic-scale translation permutation sign-flip orthogonal",
    ("cosine", "euclidean"): "isotropic-scale permutation sign-flip orthogonal",
    ("cosine", "geodesic"): "isotropic-scale sample-scale permutation sign-flip orthogonal",
    ("l1", "linf"): "isotropic-scale translation permutation sign-flip",
    DEFAULT: "isotropic-scale permutation sign-flip",
}


@pytest.mark.parametrize("similarities", DECLARED, ids="+".join)
def test_a_product_declares_what_all_components_ignore(similarities):
    assert product(similarities).invariant_to == set(DECLARED[similarities].split())


@each_aggregation
@pytest.mark.parametrize("similarities", DECLARED, ids="+".join)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_output_ignores_exactly_the_declared_operations(similarities, aggregation, seed, dtype):
    module = product(similarities, aggregation).to(dtype)
    x, anchors = space(n=20, seed=seed)
    before = module(x.to(dtype), anchors.to(dtype)).detach()
    for name in ("isotropic-scale", "sample-scale", "translation", "permutation", "sign-flip", "orthogonal", "affine"):
        operate = operation(name, np.random.default_rng(seed), D)
        after = module(*(torch.from_numpy(operate(z.numpy())).to(dtype) for z in (x, anchors))).detach()
        change = float((after - before).norm() / before.norm())
        if name in module.invariant_to:
            assert change < (1e-4 if dtype == torch.float32 else 1e-7), name
        else:
            assert change > 1e-2, name


def test_the_profiles_scale_is_taken_out_in_wide_spaces_too():
    rng = np.random.default_rng(0)
    x, anchors = (torch.from_numpy(rng.normal(size=(rows, 768)) / 28).float() for rows in (50, K))
    module = Product(("euclidean",), anchors=K, width=WIDTH, aggregation="concat")
    torch.testing.assert_close(module(0.1 * x, 0.1 * anchors), module(x, anchors), atol=1e-3, rtol=1e-3)


@each_aggregation
def test_the_order_of_components_does_not_matter_beyond_their_places(aggregation):
    x, anchors = space()
    order = [2, 0, 3, 1]
    one = product(aggregation=aggregation)
    other = product([DEFAULT[i] for i in order], aggregation, seed=5)
    assert not torch.allclose(one(x, anchors), other(x, anchors)) or aggregation == "concat"
    other.load_state_dict(one.state_dict())
    expected = one(x, anchors)
    if aggregation == "concat":
        expected = torch.cat([expected.split(K, dim=1)[i] for i in order], dim=1)
    torch.testing.assert_close(other(x, anchors), expected)
    if aggregation == "attention":
        weights = one.attention_weights(x, anchors)[:, order][:, :, order]
        torch.testing.assert_close(other.attention_weights(x, anchors), weights)


@each_aggregation
@pytest.mark.parametrize("training", [False, True])
def test_a_sample_is_answered_on_its_own(aggregation, training):
    x, anchors = space(n=20)
    module = product(aggregation=aggregation).train(training)
    together = module(x, anchors)
    apart = torch.cat([module(row.unsqueeze(0), anchors) for row in x])
    torch.testing.assert_close(apart, together)


# Weights, gradients, errors --------------------------------------------------------------------


@each_aggregation
def test_the_seed_alone_decides_the_weights(aggregation):
    def state(seed):
        return product(aggregation=aggregation, seed=seed).state_dict()

    torch.manual_seed(0)
    first = state(3)
    drawn = torch.rand(3)
    again, other = state(3), state(4)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, torch.rand(3), atol=0, rtol=0)  # as if no module had been made
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn_weights = [name for name in first if "norms" not in name and "weight" in name]
    assert all(not torch.equal(first[name], other[name]) for name in drawn_weights)
    assert bool(drawn_weights) == (aggregation != "concat")


@pytest.mark.parametrize(
    ("aggregation", "equal_weights"), [("concat", False), ("sum", False), ("attention", False), ("attention", True)]
)
def test_the_gradient_is_right(aggregation, equal_weights):
    x, anchors = (z.requires_grad_() for z in space(n=3))
    assert torch.autograd.gradcheck(product(aggregation=aggregation, equal_weights=equal_weights), (x, anchors))


@each_aggregation
def test_all_weights_are_trained(aggregation):
    x, anchors = space()
    module = product(aggregation=aggregation)
    module(x, anchors).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


def test_a_product_learns_a_rotated_space_and_reads_the_original():
    x, anchors = space(n=200)
    labels = (x[:, 0] > x[:, 1]).double()
    head = torch.nn.Linear(WIDTH, 1).double()
    torch.nn.init.zeros_(head.weight)
    module = product(("cosine", "euclidean"), "attention")
    rotation = torch.from_numpy(ortho_group.rvs(D, random_state=0))
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        answers = head(module(x @ rotation, anchors @ rotation)).squeeze(1)
        torch.nn.functional.binary_cross_entropy_with_logits(answers, labels).backward()
        optimizer.step()
    fresh, _ = space(n=300, seed=1)
    right = (head(module(fresh, anchors)).squeeze(1) > 0) == (fresh[:, 0] > fresh[:, 1])
    assert right.double().mean() > 0.9


def test_double_precision_samples_in_a_single_precision_module():
    x, anchors = space()
    module = Product(anchors=K, width=WIDTH, aggregation="sum")
    assert module(x, anchors).dtype == torch.float32


def make(**changed):
    return Product(**{"anchors": K, "width": WIDTH, "aggregation": "attention", **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"similarities": ("cosine", "dot")}, "similarities are .*'dot'.*; give one or more of cosine, .* each once"),
        ({"similarities": ("l1", "l1")}, "each once$"),
        ({"similarities": ()}, "^similarities are"),
        ({"anchors": 1}, "^anchors is 1; give a whole number of at least 2$"),
        ({"anchors": 9.0}, "^anchors is 9.0; give a whole number"),
        ({"width": 0}, "^width is 0; give a whole number of at least 1$"),
        ({"width": True}, "^width is True; give a whole number"),
        ({"heads": 4}, "^width 6 cannot be shared by 4 heads; give a multiple of 4$"),
        ({"heads": 0}, "^heads is 0; give a whole number of at least 1$"),
        ({"seed": -1}, "^seed is -1; give a whole number of at least 0$"),
        ({"aggregation": "mean"}, "^unknown aggregation 'mean'; choose from concat, sum, attention$"),
        ({"aggregation": "sum", "equal_weights": True}, "^aggregation 'sum' has no weights or heads"),
        ({"aggregation": "concat", "heads": 2}, "^aggregation 'concat' has no weights or heads"),
    ],
)
def test_unusable_parameters_are_named(changed, message):
    with pytest.raises(SpaceError, match=message):
        make(**changed)


def test_unusable_samples_and_anchors_are_named():
    x, anchors = space()
    module = product()
    for bad in [(x[0], anchors), (x[:, :-1], anchors), (x, anchors[:-1]), (x, anchors[None])]:
        with pytest.raises(SpaceError, match=r"^x has shape .* and anchors .*; give n samples and 9 anchors of one"):
            module(*bad)


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_only_attention_has_attention_weights(aggregation):
    with pytest.raises(SpaceError, match=f"^aggregation '{aggregation}' has no attention weights; use aggregation"):
        product(aggregation=aggregation).attention_weights(*space())
