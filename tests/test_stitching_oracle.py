"""Every score of a table against the plain formula of its pair, and what is computed how often."""

import threading
import time

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

import invariances
from invariances import INVARIANCES, Affine, Codes, Product, Quality, Rows, Stitchable
from invariances.maps import factorise
from invariances.stitching import weighted_f1

K, N, OUTPUTS = 40, 90, 5
WIDTHS = {"a": 6, "b": 6, "c": 6, "outsider": 6}
WAYS = ["absolute", "scale", "relative", "relative-euclidean", "affine", "orthogonal", "product"]
UNSHUFFLED = ("absolute", "scale")
FITTED = ("affine", "orthogonal")
SIMILARITIES = ("cosine", "euclidean")


def squared_error(outputs, targets):
    return float((outputs - targets).square().mean())


ERROR = Quality("error", squared_error, lower_is_better=True)


def encoders():
    """Codes that share a signal, each model's bent in a way of its own; the untrained one shares nothing."""
    rng = np.random.default_rng(3)
    z, targets = rng.normal(size=(K + N, 6)), rng.normal(size=(N, OUTPUTS))
    found = {}
    for name, width in WIDTHS.items():
        signal = rng.normal(size=z.shape) if name == "outsider" else z
        code = np.tanh(signal @ rng.normal(size=(6, width))) + 0.3 * rng.normal(size=(K + N, width)) + rng.normal()
        found[name] = Codes(torch.from_numpy(code[:K]), torch.from_numpy(code[K:]), torch.from_numpy(targets))
    return found


def heads(way):
    """By name a weight, and what the head makes of arrays with it: nothing linear, so that scores tell maps apart."""
    rng = np.random.default_rng(4)
    reads = {"relative": K, "relative-euclidean": K, "product": K * len(SIMILARITIES)}.get(way, 6)
    return {name: rng.normal(size=(reads, OUTPUTS)) / np.sqrt(reads) for name in "abc"}


def models(way, shared=False):
    weights, codes = heads(way), encoders()
    made = {}
    for seed, (name, weight) in enumerate(weights.items()):
        matrix = torch.from_numpy(weight)
        if way != "product":
            made[name] = Stitchable(codes[name], lambda x, matrix=matrix: torch.tanh(x @ matrix))
            continue
        product = Product(SIMILARITIES, anchors=K, width=4, aggregation="concat", seed=seed).double()
        made[name] = Stitchable(codes[name], _Reader(product, matrix), product if shared else None)
    return made | {"outsider": Stitchable(codes["outsider"], None)}


class _Reader(torch.nn.Module):
    """A head on a product; its parameters have gradients, as any module's."""

    def __init__(self, product, matrix):
        super().__init__()
        self.product, self.matrix, self.seen = product, matrix, []

    def forward(self, x, anchors=None):
        self.seen.append((tuple(x.shape), anchors is not None))
        combined = self.product.combine(x) if anchors is None else self.product(x, anchors)
        return torch.tanh(combined @ self.matrix)


def normalised(profile):
    return (profile - profile.mean(axis=1, keepdims=True)) / profile.std(axis=1, keepdims=True)


def plain(way, source, target, order):
    """What a head reads of a source whose anchors come in an order: the definitions, in numpy and libraries."""
    anchors, x, onto = (part.numpy() for part in (source.anchors[order], source.samples, target.anchors))
    if way == "absolute":
        return x
    if way == "scale":
        return x / np.linalg.norm(x, axis=1, keepdims=True)
    if way == "orthogonal":
        return x @ orthogonal_procrustes(anchors, onto)[0]
    if way == "affine":
        alpha = Affine().fit(anchors, onto).map_.penalty  # which is a test of its own
        return Ridge(alpha=alpha).fit(anchors, onto).predict(x)
    cosine, distance = cosine_similarity(x, anchors), euclidean_distances(x, anchors)
    if way == "product":
        return np.concatenate([normalised(cosine), normalised(distance)], axis=1)
    return cosine if way == "relative" else distance


def expected(way, seed):
    """Score, ceiling and retention of every connection, pair by pair, in the order of the table."""
    codes, weights = encoders(), heads(way)
    straight, shuffled = np.arange(K), np.random.default_rng(seed).permutation(K)

    def error(read, name):
        return float(((np.tanh(read @ weights[name]) - codes[name].targets.numpy()) ** 2).mean())

    def own(name):
        return codes[name].samples.numpy() if way in FITTED else plain(way, codes[name], codes[name], straight)

    pairs = [(a, b) for a in "abc" for b in "abc" if a != b]
    asked = [(a, b, "none") for a, b in pairs]
    for name in "abc":
        asked += [(name, name, "self-stitch"), ("outsider", name, "untrained encoder")]
    asked += [(a, b, "shuffled anchors") for a, b in pairs if way not in UNSHUFFLED]
    rows = []
    for a, b, control in asked:
        order = shuffled if control == "shuffled anchors" else straight
        score, ceiling = error(plain(way, codes[a], codes[b], order), b), error(own(b), b)
        rows.append((a, b, control, score, ceiling, ceiling / score))
    return rows


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_score_is_that_of_the_plain_formula_in_the_plain_order(way, shared):
    table = invariances.stitch(models(way, shared), [way], ERROR, seed=5)
    rows = expected(way, seed=5)
    found = table[["model_a", "model_b", "control", "score", "ceiling", "retention"]]
    assert found[["model_a", "model_b", "control"]].values.tolist() == [list(row[:3]) for row in rows]
    np.testing.assert_allclose(
        found[["score", "ceiling", "retention"]].to_numpy(float), [row[3:] for row in rows], rtol=1e-6
    )


@pytest.mark.parametrize("way", [way for way in WAYS if way not in UNSHUFFLED])
def test_shuffled_anchors_are_those_of_the_encoder_alone(way):
    table = invariances.stitch(models(way, shared=True), [way], ERROR, seed=5).set_index(["model_a", "model_b"])
    shuffled, real = (table[table.control == control].score for control in ("shuffled anchors", "none"))
    assert (shuffled - real[shuffled.index]).abs().min() > 1e-4
    other = invariances.stitch(models(way, shared=True), [way], ERROR, seed=6).set_index(["model_a", "model_b"])
    assert (other[other.control == "shuffled anchors"].score - shuffled).abs().max() > 1e-4


# How often -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_head_reads_each_encoder_once_for_each_control(way):
    calls = dict.fromkeys("abc", 0)

    def counting(name, head):
        def read(*given):
            calls[name] += 1
            return head(*given)

        return read

    given = {
        name: model if model.head is None else Stitchable(model.codes, counting(name, model.head))
        for name, model in models(way).items()
    }
    invariances.stitch(given, [way], ERROR, workers=map)
    # two others, itself unstitched, the outsider; a map of a space onto itself; two others shuffled
    most = 4 + (way in FITTED) + 2 * (way not in UNSHUFFLED)
    assert calls == dict.fromkeys("abc", most)


def test_an_affine_map_factorizes_every_source_once(monkeypatch):
    seen = []

    def counting(x):
        seen.append(x)
        return factorise(x)

    monkeypatch.setitem(INVARIANCES, "affine", INVARIANCES["affine"]._replace(prepare=counting))
    invariances.stitch(models("affine"), ["affine"], ERROR)
    assert len(seen) == len(WIDTHS)


def test_heads_that_compare_alike_share_components_and_others_do_not():
    counted = []

    class Counting(Product):
        def components(self, x, anchors):
            counted.append(self.similarities)
            return super().components(x, anchors)

    def head(similarities, seed):
        return Counting(similarities, anchors=K, width=OUTPUTS, aggregation="sum", seed=seed).double()

    products = {"a": head(SIMILARITIES, 0), "b": head(SIMILARITIES, 1), "c": head(("l1",), 2)}
    codes = encoders()

    class Head(_Reader):
        def forward(self, x, anchors=None):
            self.seen.append((tuple(x.shape), anchors is not None))
            return self.product.combine(x) if anchors is None else self.product(x, anchors)

    shared = {name: Stitchable(codes[name], Head(product, None), product) for name, product in products.items()}
    table = invariances.stitch(shared, ["product"], ERROR)
    assert sorted(counted) == sorted([SIMILARITIES, ("l1",)] * 3)
    seen = {name: set(model.head.seen) for name, model in shared.items()}
    assert seen == {"a": {((N, 2, K), False)}, "b": {((N, 2, K), False)}, "c": {((N, 1, K), False)}}
    counted.clear()
    apart = {name: Stitchable(model.codes, model.head) for name, model in shared.items()}
    again = invariances.stitch(apart, ["product"], ERROR)
    assert len(counted) == len(again)
    np.testing.assert_allclose(table.score, again.score, rtol=1e-9)


# On threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_bits_do_not_hang_on_how_heads_are_spread(way):
    table = invariances.stitch(models(way, shared=True), [way], ERROR)
    rows = Rows([("row", way)], lambda key: models(key[1], shared=True))
    for other in (
        invariances.stitch(models(way, shared=True), [way], ERROR, workers=map),
        invariances.stitch(rows, [way], ERROR).drop(columns="row"),
        invariances.stitch(rows, [way], ERROR, workers=map).drop(columns="row"),
    ):
        assert other.equals(table)


def test_a_measure_is_called_once_at_a_time_and_without_gradients():
    inside, most = [], []

    def stateful(outputs, targets):
        inside.append(threading.get_ident())
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return float(((outputs.numpy() - targets.numpy()) ** 2).mean())

    table = invariances.stitch(models("product"), ["product"], Quality("own", stateful))
    assert len(most) == len(table)  # three ceilings, which are the self-stitches
    assert set(most) == {1}


def test_the_failure_that_is_told_is_the_first_of_the_table():
    def broken(outputs, targets):
        return np.nan if outputs.shape[1] == 2 else 1.0

    given = models("affine")
    given["b"] = Stitchable(given["b"].codes, lambda x: x[:, :2])
    with pytest.raises(invariances.errors.SpaceError, match=r"^the quality of b unstitched is nan"):
        invariances.stitch(given, ["affine"], Quality("own", broken))


# The measure -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 2, 6, 100])
def test_weighted_f1_is_that_of_scikit_learn_to_the_bit(classes):
    rng = np.random.default_rng(classes)
    for strength in (0.0, 1.0, 4.0):
        targets = torch.from_numpy(rng.integers(0, classes, 50))  # of a hundred classes, many are absent
        outputs = torch.from_numpy(rng.normal(size=(50, classes)))
        outputs[torch.arange(50), targets] += strength
        answer = outputs.argmax(dim=1)
        assert weighted_f1(outputs, targets) == f1_score(targets, answer, average="weighted", zero_division=0)
    assert weighted_f1(torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 1, 1, 1])) == pytest.approx(
        (1 * 2 / 3 + 3 * 4 / 5) / 4
    )
