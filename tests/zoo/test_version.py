"""What training gives, pinned: a change of it needs a new RECIPE_VERSION, and then new values here."""

import numpy as np
import pytest

from invariances import zoo
from invariances.zoo import datasets, locating
from invariances.zoo.recipes import RECIPE_VERSION, Network, Recipe, Training

PICTURES = {"dataset": "mnist", "data": "builtin", "n_train": 200, "n_test": 60, "pixels": 8, "channels": 1}
TEXTS = {
    "dataset": "trec",
    "data": "builtin",
    "n_train": 200,
    "n_test": 60,
    "tokenizer": "wordpiece",
    "vocabulary": 200,
    "length": 12,
}
RECIPES = {
    "cnn": (PICTURES, "classification", Network("cnn", depth=3, width=8, dim=16)),
    "vit": (PICTURES, "classification", Network("vit", depth=2, dim=16, heads=2, patch=2)),
    "autoencoder": (PICTURES, "reconstruction", Network("cnn", depth=3, width=8, dim=16)),
    "bert": (TEXTS, "classification", Network("bert", depth=1, dim=16, heads=2)),
}
PINNED = {
    "version": 2,
    "cnn": [0.1541, 0.1750, -0.1529, 0.2075, -0.2479],
    "vit": [1.0031, 0.5702, -1.6002, -0.6533, -0.6577],
    "autoencoder": [0.1172, -0.1539, 0.1282, -0.0858, -0.0266],
    "bert": [0.5359, 0.7026, 0.0154, -0.2098, 1.1527],
}
"""The version; of each model's codes of the test split, the standard deviation and the first four codes."""


@pytest.mark.parametrize("name", RECIPES)
def test_training_gives_what_it_gave_under_this_version(name):
    view, task, network = RECIPES[name]
    prepared = datasets.prepare(locating.View(**view))
    recipe = Recipe(prepared.key, prepared.title, task, network, Training(2, 32), 0)
    codes = zoo.train([recipe], "cpu", processes=1)[recipe].spaces["test"]
    assert PINNED["version"] == RECIPE_VERSION
    np.testing.assert_allclose([codes.std(), *codes[0, :4]], PINNED[name], atol=2e-3)
