import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from sklearn.metrics.pairwise import cosine_similarity

import invariances
from invariances import Affine, Codes, Orthogonal, Product, Quality, Rows, Stitchable
from invariances.errors import SpaceError
from invariances.stitching import COLUMNS, connect

K, N, D, CLASSES = 100, 300, 12, 4
INVARIANCES = ["absolute", "scale", "relative", "affine", "orthogonal"]
EACH = [*INVARIANCES, "product"]
FITTED = ["affine", "orthogonal"]


def stitch(models, measure, invariance, untrained=None, lower_is_better=False, seed=0):
    """The table of one invariance; untrained encoders are models without a head."""
    several = {"untrained": untrained} if isinstance(untrained, Codes) else untrained or {}
    given = models | {name: Stitchable(codes, None) for name, codes in several.items()}
    return invariances.stitch(given, [invariance], Quality("own", measure, lower_is_better), seed)


def accuracy(outputs, targets):
    return float((outputs.argmax(dim=1) == targets).double().mean())


def squared_error(outputs, targets):
    return float((outputs - targets).square().mean())


def world(seed=0):
    """Latents of anchors and samples in clusters, a readout, and their classes; all models see the same."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(CLASSES, D))
    classes = rng.integers(CLASSES, size=K + N)
    z = torch.from_numpy(centres[classes] + rng.normal(size=(K + N, D)))
    return z, torch.from_numpy(centres.T.copy()), torch.from_numpy(classes)


def encoder(kind, seed, width=D):
    rng = np.random.default_rng(seed)
    q = ortho_group.rvs(width, random_state=rng)[:D]
    stretch = np.geomspace(0.3, 3, D) if kind == "affine" else np.ones(D)
    return torch.from_numpy(ortho_group.rvs(D, random_state=rng) * stretch @ q)


def codes(weight, targets):
    z, _, _ = world()
    return Codes(z[:K] @ weight, z[K:] @ weight, targets)


def classifiers(kind="orthogonal", names="abc", widths=None):
    """Linear encoders of one latent, each with the linear head that undoes it."""
    _, readout, classes = world()
    models = {}
    for seed, name in enumerate(names):
        weight = encoder(kind, seed + 10, (widths or {}).get(name, D))
        undo = torch.linalg.pinv(weight)
        models[name] = Stitchable(codes(weight, classes[K:]), lambda x, undo=undo: x @ undo @ readout)
    return models


def decoders(kind="orthogonal", names="abc", blur=0.3):
    """The same with heads that give the latent back; noisy targets leave every ceiling an error."""
    z, _, _ = world()
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    models = {}
    for seed, name in enumerate(names):
        weight = encoder(kind, seed + 10)
        undo = torch.linalg.pinv(weight)
        models[name] = Stitchable(codes(weight, z[K:] + blur * noise), lambda x, undo=undo: x @ undo)
    return models


def relative_classifiers(kind="orthogonal", names="abc"):
    """Heads that read relative representations: the mean similarity to each class of anchors."""
    _, _, classes = world()
    votes = torch.nn.functional.one_hot(classes[:K], CLASSES).double()
    votes = votes / votes.sum(dim=0)
    return {name: Stitchable(model.codes, lambda r: r @ votes) for name, model in classifiers(kind, names).items()}


def product_classifiers(kind="orthogonal", names="abc"):
    """Heads that read codes and anchors: minus the mean distance to each class of anchors."""
    _, _, classes = world()
    votes = torch.nn.functional.one_hot(classes[:K], CLASSES).double()
    votes = votes / votes.sum(dim=0)
    return {
        name: Stitchable(model.codes, lambda x, anchors: -torch.cdist(x, anchors) @ votes)
        for name, model in classifiers(kind, names).items()
    }


def models_for(invariance):
    return {"relative": relative_classifiers, "product": product_classifiers}.get(invariance, classifiers)()


def untrained():
    _, _, classes = world()
    rng = torch.Generator().manual_seed(5)
    random = [torch.randn(n, D, generator=rng, dtype=torch.float64) for n in (K, N)]
    return Codes(*random, classes[K:])


def of(table, control):
    return table[table.control == control]


# What is stitched ----------------------------------------------------------------------------------


@pytest.mark.parametrize("invariance", EACH)
def test_the_table_has_every_ordered_pair_and_the_controls_of_its_invariance(invariance):
    table = stitch(models_for(invariance), accuracy, invariance)
    ordered = {(a, b) for a in "abc" for b in "abc" if a != b}
    assert list(table.columns) == COLUMNS
    assert table.invariance.eq(invariance).all()
    assert set(zip(*of(table, "none")[["model_a", "model_b"]].T.values, strict=True)) == ordered
    assert of(table, "self-stitch")[["model_a", "model_b"]].values.tolist() == [[m, m] for m in "abc"]
    shuffled = of(table, "shuffled anchors")
    if invariance in ("absolute", "scale"):
        assert shuffled.empty
    else:
        assert set(zip(*shuffled[["model_a", "model_b"]].T.values, strict=True)) == ordered
    assert not table.duplicated(["model_a", "model_b", "control"]).any()
    assert len(table) == 6 + 3 + len(shuffled)


@pytest.mark.parametrize("invariance", EACH)
def test_an_untrained_encoder_adds_one_row_per_head(invariance):
    table = stitch(models_for(invariance), accuracy, invariance, untrained=untrained())
    rows = of(table, "untrained encoder")
    assert rows[["model_a", "model_b"]].values.tolist() == [["untrained", m] for m in "abc"]
    assert (rows.score < 0.6).all(), "random codes carry nothing of the class"
    without = stitch(models_for(invariance), accuracy, invariance)
    assert table[table.control != "untrained encoder"].reset_index(drop=True).equals(without)


def test_several_untrained_encoders_meet_every_head_with_their_own_samples():
    one = untrained()
    other = Codes(one.anchors, one.samples[: N // 2], one.targets[: N // 2])
    several = {"first": one, "second": other}
    table = of(stitch(classifiers(), accuracy, "affine", untrained=several), "untrained encoder")
    assert sorted(zip(table.model_a, table.model_b, strict=True)) == [(u, m) for u in several for m in "abc"]
    assert table.groupby("model_a").n_samples.first().to_dict() == {"first": N, "second": N // 2}
    alone = of(stitch(classifiers(), accuracy, "affine", untrained=one), "untrained encoder")
    assert table[table.model_a == "first"].score.tolist() == alone.score.tolist()


def test_an_untrained_encoder_whose_codes_are_not_finite_is_refused():
    broken = untrained()
    broken.samples[3, 0] = torch.nan
    with pytest.raises(SpaceError, match=r"^the samples of en hold NaN or infinity"):
        stitch(classifiers(), accuracy, "affine", untrained={"en": broken})


def test_the_sizes_are_those_of_the_encoder():
    table = stitch(classifiers(), accuracy, "affine", untrained=untrained())
    assert table.n_samples.eq(N).all()
    assert table.n_anchors.eq(K).all()


def test_the_score_is_of_encoder_a_in_head_b():
    given = classifiers(names="ab")
    given["b"] = Stitchable(given["b"].codes, lambda x: torch.zeros(len(x), CLASSES))
    table = of(stitch(given, accuracy, "orthogonal"), "none").set_index(["model_a", "model_b"])
    assert table.score["b", "a"] > 0.95
    assert table.score["a", "b"] < 0.5
    assert table.ceiling["a", "b"] == table.score["a", "b"]


@pytest.mark.parametrize(
    ("kind", "invariance", "stitches"),
    [
        ("orthogonal", "orthogonal", True),
        ("orthogonal", "affine", True),
        ("affine", "affine", True),
        ("orthogonal", "absolute", False),
        ("affine", "orthogonal", False),
        ("affine", "absolute", False),
    ],
)
def test_a_planted_relation_is_stitched_by_the_maps_that_contain_it(kind, invariance, stitches):
    pairs = of(stitch(decoders(kind), squared_error, invariance, lower_is_better=True), "none")
    assert len(pairs) == 6
    if stitches:
        assert pairs.retention.to_numpy() == pytest.approx(1, abs=0.02)
    else:
        assert (pairs.retention < 0.5).all()


@pytest.mark.parametrize(
    ("invariance", "survives"), [("absolute", False), ("scale", False), ("affine", True), ("orthogonal", True)]
)
def test_classes_survive_a_fitted_stitch_only(invariance, survives):
    table = stitch(classifiers(), accuracy, invariance)
    assert (table.ceiling > 0.95).all()
    assert (of(table, "none").score > 0.95).eq(survives).all()
    assert (of(table, "none").score.mean() > 0.5) == survives


@pytest.mark.parametrize("invariance", ["relative", "product"])
def test_relative_heads_stitch_rotated_encoders_perfectly(invariance):
    table = stitch(models_for(invariance), accuracy, invariance)
    assert (table.ceiling > 0.9).all()
    assert of(table, "none").retention.to_numpy() == pytest.approx(1)


@pytest.mark.parametrize("invariance", ["relative", "product", *FITTED])
def test_shuffled_anchors_break_the_stitch(invariance):
    table = stitch(models_for(invariance), accuracy, invariance)
    assert (of(table, "none").score > 0.9).all()
    assert (of(table, "shuffled anchors").score < 0.7).all()
    assert of(table, "shuffled anchors").score.mean() < 0.5


def test_the_seed_shuffles_the_anchors_and_nothing_else():
    first, again, other = (stitch(classifiers(), accuracy, "orthogonal", seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    kept = first.control != "shuffled anchors"
    assert first[kept].equals(other[kept])
    assert not first[~kept].score.equals(other[~kept].score)


@pytest.mark.parametrize("invariance", FITTED)
def test_unequal_widths_are_stitched_by_a_fitted_map(invariance):
    pairs = of(stitch(classifiers(widths={"b": 20}), accuracy, invariance), "none")
    assert (pairs.score > 0.95).all()


@pytest.mark.parametrize("invariance", ["absolute", "scale", "relative", "product"])
def test_the_self_stitch_of_an_intrinsic_transform_is_its_ceiling(invariance):
    rows = of(stitch(models_for(invariance), accuracy, invariance), "self-stitch")
    assert rows.score.equals(rows.ceiling)
    assert rows.retention.eq(1).all()


@pytest.mark.parametrize("invariance", FITTED)
def test_the_self_stitch_of_a_fitted_map_reaches_its_ceiling(invariance):
    rows = of(stitch(decoders("affine"), squared_error, invariance, lower_is_better=True), "self-stitch")
    assert rows.score.to_numpy() == pytest.approx(rows.ceiling.to_numpy(), rel=1e-3)


# Ceiling and retention -----------------------------------------------------------------------------


@pytest.mark.parametrize("invariance", ["absolute", *FITTED])
def test_the_ceiling_is_the_head_on_its_own_codes(invariance):
    given = decoders()
    expected = {name: squared_error(m.head(m.codes.samples), m.codes.targets) for name, m in given.items()}
    table = stitch(given, squared_error, invariance, lower_is_better=True)
    assert table.ceiling.to_numpy() == pytest.approx(table.model_b.map(expected).to_numpy())


def test_the_ceiling_of_a_relative_head_is_on_relative_codes():
    given = relative_classifiers()
    table = stitch(given, accuracy, "relative")
    for name, model in given.items():
        own = torch.from_numpy(cosine_similarity(model.codes.samples, model.codes.anchors))
        expected = accuracy(model.head(own), model.codes.targets)
        assert table[table.model_b == name].ceiling.to_numpy() == pytest.approx(expected)


def test_the_ceiling_of_scale_is_on_unit_codes():
    given = decoders()
    table = stitch(given, squared_error, "scale", lower_is_better=True)
    for name, model in given.items():
        unit = model.codes.samples / model.codes.samples.norm(dim=1, keepdim=True)
        expected = squared_error(model.head(unit), model.codes.targets)
        assert table[table.model_b == name].ceiling.to_numpy() == pytest.approx(expected)


@pytest.mark.parametrize("invariance", ["absolute", "affine"])
def test_retention_is_the_share_of_a_score_and_the_inverse_share_of_an_error(invariance):
    scores = stitch(classifiers(), accuracy, invariance)
    np.testing.assert_allclose(scores.retention, scores.score / scores.ceiling)
    errors = stitch(decoders(), squared_error, invariance, lower_is_better=True)
    np.testing.assert_allclose(errors.retention, errors.ceiling / errors.score)
    assert (errors.retention < 1.05).all(), "a worse error keeps less"


# What the heads read -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("invariance", "width"), [("absolute", D), ("scale", D), ("relative", K), ("affine", D), ("orthogonal", D)]
)
def test_heads_read_k_similarities_or_codes_of_their_own_width(invariance, width):
    seen = []

    def head(x):
        seen.append(tuple(x.shape))
        return torch.zeros(len(x), CLASSES)

    given = {name: Stitchable(model.codes, head) for name, model in classifiers().items()}
    stitch(given, accuracy, invariance, untrained=untrained())
    assert set(seen) == {(N, width)}


@pytest.mark.parametrize(("invariance", "transform"), [("affine", Affine()), ("orthogonal", Orthogonal())])
def test_connect_carries_samples_by_the_map_fitted_on_both_anchors(invariance, transform):
    a, b = classifiers("affine", names="ab").values()
    expected = b.head(transform.fit(a.codes.anchors, b.codes.anchors).transform(a.codes.samples))
    torch.testing.assert_close(connect(a.codes, b, invariance), expected)


def test_connect_hands_over_relative_codes_of_the_encoders_own_anchors():
    a, b = classifiers("affine", names="ab").values()
    reading = Stitchable(b.codes, lambda r: r)
    expected = cosine_similarity(a.codes.samples, a.codes.anchors)
    np.testing.assert_allclose(connect(a.codes, reading, "relative"), expected, atol=1e-12)


def test_connect_hands_over_samples_and_anchors_of_one_encoder_to_a_product():
    a, b = classifiers("affine", names="ab").values()
    x, anchors = connect(a.codes, Stitchable(b.codes, lambda *given: given), "product")
    assert x is a.codes.samples
    assert anchors is a.codes.anchors


@pytest.mark.parametrize(
    ("similarities", "rotated", "shifted", "exact"),
    [
        (("cosine", "euclidean"), True, False, True),
        (("cosine", "euclidean"), True, True, False),
        (("euclidean",), True, True, True),
        (("l1", "linf"), False, True, True),
        (("l1",), True, False, False),
    ],
)
@pytest.mark.parametrize("aggregation", ["concat", "sum", "attention"])
def test_a_product_transfers_over_what_all_its_components_ignore(similarities, rotated, shifted, exact, aggregation):
    (a,) = classifiers(names="a").values()
    q = encoder("orthogonal", 5) if rotated else torch.eye(D).double()
    moved = [2.5 * part @ q + (4.0 if shifted else 0.0) for part in (a.codes.anchors, a.codes.samples)]
    product = Product(similarities, anchors=K, width=8, aggregation=aggregation).double()
    target = Stitchable(a.codes, product)
    own, stitched = (connect(codes, target, "product") for codes in (a.codes, Codes(*moved, a.codes.targets)))
    if exact:
        torch.testing.assert_close(stitched, own, rtol=1e-7, atol=1e-7)
    else:
        assert (stitched - own).abs().max() > 1e-2 * own.std()


def test_single_precision_codes_stay_so():
    given = {
        name: Stitchable(
            Codes(m.codes.anchors.float(), m.codes.samples.float(), m.codes.targets), lambda x, h=m.head: h(x.double())
        )
        for name, m in classifiers().items()
    }
    for invariance in INVARIANCES:
        reading = Stitchable(given["b"].codes, lambda x: x)
        assert connect(given["a"].codes, reading, invariance).dtype == torch.float32
    assert (of(stitch(given, accuracy, "affine"), "none").score > 0.95).all()


# Errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["", "a"])
def test_fewer_than_two_models_are_refused(names):
    with pytest.raises(SpaceError, match=rf"{len(names)} model\(s\) with a head given; stitching needs at least 2"):
        stitch(classifiers(names=names), accuracy, "absolute")


@pytest.mark.parametrize("invariance", EACH)
def test_different_numbers_of_anchors_are_refused(invariance):
    given = classifiers()
    short = given["b"].codes
    given["b"] = Stitchable(Codes(short.anchors[1:], short.samples, short.targets), given["b"].head)
    with pytest.raises(SpaceError, match="different numbers of anchors; embed the same anchors with every encoder"):
        stitch(given, accuracy, invariance)


def test_an_unknown_invariance_is_named():
    with pytest.raises(SpaceError, match=r"unknown invariance 'rotation'; choose from absolute, .*, product$"):
        stitch(classifiers(), accuracy, "rotation")


# Rows ------------------------------------------------------------------------------------------------


def test_rows_are_stitched_as_each_by_itself_under_the_invariances_that_they_have():
    models = {("first", "affine"): classifiers(), ("second", "affine"): classifiers("affine")}
    models |= {("second", "orthogonal"): classifiers("affine"), ("second", "absolute"): classifiers()}
    rows = Rows(models, models.__getitem__)
    table = invariances.stitch(rows, ["affine", "orthogonal"], {"first": "f1", "second": "f1"})
    assert set(table[["row", "invariance"]].itertuples(index=False, name=None)) == {
        ("first", "affine"),
        ("second", "affine"),
        ("second", "orthogonal"),
    }
    alone = invariances.stitch(models["second", "orthogonal"], ["orthogonal"], "f1")
    own = table[(table.row == "second") & (table.invariance == "orthogonal")].drop(columns="row")
    assert own.reset_index(drop=True).equals(alone)
    assert set(table.metric) == {"f1"}


def test_rows_are_spread_by_whatever_is_given():
    models = {(name, "affine"): classifiers() for name in ("first", "second")}
    asked = []

    def backwards(unit, items):
        asked.extend(items)
        return [unit(item) for item in reversed(items)][::-1]

    rows = Rows(models, models.__getitem__)
    table = invariances.stitch(rows, ["affine"], "f1", workers=backwards)
    assert asked == list(models)
    assert table.equals(invariances.stitch(rows, ["affine"], "f1"))


def test_a_quality_by_name_is_what_scikit_learn_says():
    from sklearn.metrics import f1_score, mean_squared_error

    pair = stitch(classifiers("affine", names="ab"), accuracy, "affine")
    own = invariances.stitch(classifiers("affine", names="ab"), ["affine"], "f1")
    a, b = classifiers("affine", names="ab").values()
    outputs = connect(a.codes, b, "affine")
    first = own[(own.model_a == "a") & (own.model_b == "b") & (own.control == "none")]
    assert first.score.item() == pytest.approx(f1_score(a.codes.targets, outputs.argmax(1), average="weighted"))
    assert list(pair.control) == list(own.control)
    a, b = decoders(names="ab").values()
    errors = invariances.stitch({"a": a, "b": b}, ["affine"], "mse")
    first = errors[(errors.model_a == "a") & (errors.model_b == "b") & (errors.control == "none")]
    assert first.score.item() == pytest.approx(mean_squared_error(a.codes.targets, connect(a.codes, b, "affine")))
    assert first.retention.item() == pytest.approx(first.ceiling.item() / first.score.item())


@pytest.mark.parametrize("quality", ["accuracy", None, accuracy])
def test_an_unknown_quality_is_refused(quality):
    with pytest.raises(SpaceError, match="choose from f1, mse, or give a Quality of your own"):
        invariances.stitch(classifiers(), ["affine"], quality)


@pytest.mark.parametrize("names", [[], "affine"])
def test_invariances_are_a_list_of_names(names):
    with pytest.raises(SpaceError, match="give a list of at least one name"):
        invariances.stitch(classifiers(), names, "f1")
