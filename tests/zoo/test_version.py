"""What training gives, pinned: who changes it counts a version up, and then pins new values here."""

import numpy as np
import pytest
import torch

from invariances import zoo
from invariances.zoo import datasets
from invariances.zoo.heads import HEAD_VERSION, HeadRecipe
from invariances.zoo.locating import View
from invariances.zoo.recipes import RECIPE_VERSION, Network, Recipe, Training

PICTURES = View("mnist", "builtin", 200, 60, pixels=8, channels=1)
COLOURS = View("cifar-10", "builtin", 200, 60, pixels=8, channels=3)
QUESTIONS = View("trec", "builtin", 200, 60, tokenizer="wordpiece", vocabulary=200, length=12)
REVIEWS = View("amazon-de", "builtin", 200, 60, tokenizer="byte-bpe", vocabulary=300, length=16, n_parallel=2100)
CNN = Network("cnn", depth=3, width=8, dim=16)
VIT = Network("vit", depth=2, dim=16, heads=2, patch=2)
BERT = Network("bert", depth=1, dim=16, heads=2)
ROBERTA = Network("roberta", depth=1, dim=16, heads=2)
PLAN = Training(2, 32)
RECIPES = {
    "cnn": (PICTURES, "classification", CNN, PLAN, 0),
    "vit": (PICTURES, "classification", VIT, PLAN, 0),
    "relative autoencoder": (PICTURES, "reconstruction", CNN, PLAN, 20),
    "augmented": (COLOURS, "classification", CNN, Training(2, 32, augmentation="heavy"), 0),
    "bert": (QUESTIONS, "classification", BERT, PLAN, 0),
    "relative roberta": (REVIEWS, "classification", ROBERTA, PLAN, 20),
    "masked roberta": (REVIEWS, "classification", ROBERTA, Training(2, 32, masked_epochs=1), 0),
}
VERSIONS = (2, 1)
PINNED = {
    "cnn": ("11ca7b874a6542936102", 0.1541, 0.1750, -0.1529, 0.2075, -0.2479),
    "vit": ("b268cf3e3c6d6f42f0a7", 1.0031, 0.5702, -1.6002, -0.6533, -0.6577),
    "relative autoencoder": ("3af173a8a1600f7a17d0", 0.1017, -0.1238, -0.0019, -0.0923, -0.0888),
    "augmented": ("f852c6f9dfd628207f5e", 0.1289, -0.0540, 0.0008, -0.0358, 0.1785),
    "bert": ("05fc9b6b8e8b8d0dad8c", 0.5359, 0.7026, 0.0154, -0.2098, 1.1527),
    "relative roberta": ("64717ae687b66c2456b9", 0.6144, 0.9972, -0.3297, -1.1947, 0.3350),
    "masked roberta": ("54f5442b193545697b80", 0.7152, -1.0097, -0.0720, -0.6507, 0.4089),
}
"""By model its key on a CPU, and of its codes of the test split the standard deviation and the first four."""
HEAD = ("06f8397b9093e3368ba1", 0.6592, 0.1128, -0.2812, -1.2156, -0.1560)
"""The same of a head and its answers to the test split, of which the first 60 stand in for anchors."""


def made(name):
    view, task, network, plan, anchors = RECIPES[name]
    prepared = datasets.prepare(view)
    return Recipe(prepared.key, prepared.title, task, network, plan, 0, anchors)


def summary(values):
    return [float(values.std()), *map(float, values.flatten()[:4])]


def test_the_values_here_are_of_these_versions():
    assert (RECIPE_VERSION, HEAD_VERSION) == VERSIONS


@pytest.mark.parametrize("name", RECIPES)
def test_a_model_has_the_name_and_the_codes_that_it_had(name):
    recipe = made(name)
    trained = zoo.train([recipe], "cpu", processes=1)[recipe]
    key, *values = PINNED[name]
    assert recipe.key("cpu-fp32") == key
    np.testing.assert_allclose(summary(trained.spaces["test"]), values, atol=2e-3)


def test_a_head_has_the_name_and_the_answers_that_it_had():
    recipe = HeadRecipe(made("cnn"), 60, 2)
    head = zoo.train([recipe], "cpu", processes=1)[recipe]
    codes = torch.from_numpy(zoo.train([recipe.base], "cpu", processes=1)[recipe.base].spaces["test"])
    with torch.no_grad():
        answers = head.module(codes, codes[:60])
    key, *values = HEAD
    assert recipe.key("cpu-fp32") == key
    np.testing.assert_allclose(summary(answers.numpy()), values, atol=2e-3)
