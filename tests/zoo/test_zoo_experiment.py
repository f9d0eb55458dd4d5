"""Trained models taken apart: what stitching connects."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from invariances import stitch, zoo
from invariances.relative import relative
from invariances.zoo import datasets, pretrained
from invariances.zoo import trained as trained_models
from invariances.zoo.heads import HeadRecipe
from invariances.zoo.locating import View
from invariances.zoo.recipes import Network, Recipe, Training

K = 40


@pytest.fixture(scope="module")
def rows():
    """Recipes by row and invariance: autoencoders and classifiers, and the untrained encoders of each."""
    prepared = datasets.prepare(View("mnist", "builtin", 200, 130, pixels=8, channels=1))
    network, plan = Network("cnn", 3, 16, width=8), Training(1, batch_size=50, lr=2e-3)

    def family(task):
        return {f"model {i}": Recipe(prepared.key, prepared.title, task, network, plan, i) for i in range(2)}

    found, untrained = {}, {}
    for row, task in (("pictures", "reconstruction"), ("classes", "classification")):
        recipes = family(task)
        found |= {(row, way): recipes for way in ("absolute", "affine")}
        found[row, "relative"] = {name: replace(recipe, anchors=K) for name, recipe in recipes.items()}
        found[row, "product"] = {name: HeadRecipe(recipe, K, 1) for name, recipe in recipes.items()}
        untrained[row] = {"untrained": recipes["model 0"].untrained()}
    made = [recipe for recipes in (*found.values(), *untrained.values()) for recipe in recipes.values()]
    return found, untrained, zoo.train(made, "cpu", processes=1)


@pytest.fixture(scope="module")
def pieces(rows):
    found, untrained, _ = rows
    return zoo.take_apart(found, untrained, dict.fromkeys(untrained, range(K)), "cpu")


def answers(model, way, recipe, models):
    """What a model answers for its test samples, by its modules as they were trained."""
    base = models[recipe.base] if way == "product" else model
    pool, test = (torch.from_numpy(base.spaces[split]) for split in ("pool", "test"))
    with torch.no_grad():
        if way == "product":
            return model.module(test, pool[:K])
        head = trained_models.restore(model).head
        return head(relative(test, pool[:K]) if way == "relative" else test)


@pytest.mark.parametrize("row", ["pictures", "classes"])
@pytest.mark.parametrize("way", ["absolute", "affine", "relative", "product"])
def test_a_piece_answers_as_the_model_that_it_is_of(rows, pieces, row, way):
    recipes, _, models = rows
    for name, recipe in recipes[row, way].items():
        piece = pieces[row, way][name]
        codes = piece.codes
        if way == "product":
            given = (piece.product.components(codes.samples, codes.anchors),)
            with_anchors = piece.head(codes.samples, codes.anchors)
            torch.testing.assert_close(piece.head(*given), with_anchors, rtol=1e-5, atol=1e-6)
        else:
            given = (relative(codes.samples, codes.anchors) if way == "relative" else codes.samples,)
            assert piece.product is None
        expected = answers(models[recipe], way, recipe, models)
        torch.testing.assert_close(piece.head(*given), expected, rtol=1e-5, atol=1e-6)


def test_ceilings_are_the_scores_that_the_models_have(rows, pieces):
    recipes, _, models = rows
    table = stitch(pieces, ["absolute", "relative", "product"], {"pictures": "mse", "classes": "f1"})
    for (row, way), named in recipes.items():
        for name, recipe in named.items() if way != "affine" else ():
            part = table[(table.row == row) & (table.invariance == way) & (table.model_b == name)]
            own = models[recipe].scores["mse" if row == "pictures" else "f1"]
            np.testing.assert_allclose(part.ceiling, own, rtol=1e-6)


def test_models_of_one_data_set_share_what_their_heads_should_answer(pieces, monkeypatch):
    read = []

    def counting(key):
        read.append(key)
        return load(key)

    load = datasets.load
    monkeypatch.setattr(datasets, "load", counting)
    parts = pieces["pictures", "affine"]
    assert list(parts) == ["model 0", "model 1", "untrained"]
    assert parts["untrained"].head is None
    assert len({id(part.codes.targets) for part in parts.values()}) == 1
    assert len(read) == 1


# Encoders of unequal widths ---------------------------------------------------------------------

VIEW = View("amazon-en", "builtin", 150, 60, tokenizer="characters", length=90)
WIDTHS = {"e5": 32, "use": 40}


@pytest.fixture(scope="module")
def unequal():
    prepared = datasets.prepare(VIEW)
    recipes = {
        name: Recipe(
            prepared.key,
            prepared.title,
            "classification",
            Network("pretrained", checkpoint=pretrained.pinned(f"stand-in-{name}")),
            Training(5, 16, lr=1e-2),
            0,
        )
        for name in WIDTHS
    }
    models = zoo.train(list(recipes.values()), "cpu", processes=1)
    spaces = {name: models[recipe].spaces for name, recipe in recipes.items()}
    keys = [("row", "absolute"), ("row", "affine")]
    return spaces, zoo.take_apart(dict.fromkeys(keys, recipes), {"row": {}}, {"row": np.arange(50)})


def test_raw_codes_of_unequal_widths_are_padded_with_zeros(unequal):
    spaces, apart = unequal
    for name, width in WIDTHS.items():
        codes = apart["row", "absolute"][name].codes.samples
        assert codes.shape == (60, 40)
        np.testing.assert_array_equal(codes[:, :width].numpy(), spaces[name]["test"])
        assert not codes[:, width:].any()
        assert apart["row", "affine"][name].codes.samples.shape == (60, width)  # a map knows both widths


def test_a_head_reads_the_axes_that_it_knows(unequal):
    apart = unequal[1]
    for name, width in WIDTHS.items():
        raw, own = (apart["row", space][name] for space in ("absolute", "affine"))
        answers = own.head(own.codes.samples)
        torch.testing.assert_close(raw.head(raw.codes.samples), answers)
        other = raw.codes.samples.clone()
        other[:, width:] += 1
        torch.testing.assert_close(raw.head(other), answers)


def test_encoders_of_unequal_widths_are_stitched_in_the_raw_space_too(unequal):
    found = stitch(unequal[1], ("absolute", "affine"), "f1").set_index(["invariance", "control", "model_a", "model_b"])
    assert found.score["absolute", "self-stitch", "e5", "e5"] == found.ceiling["absolute", "none", "use", "e5"]
    assert found.score["affine", "none", "use", "e5"] > found.score["absolute", "none", "use", "e5"]
