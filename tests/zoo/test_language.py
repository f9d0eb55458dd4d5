"""Masked-language modelling before a text's task, and initial weights that are shared as a control."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from invariances.zoo import checkpoints, datasets, decoding, networks, store, training
from invariances.zoo import trained as trained_models
from invariances.zoo.locating import View
from invariances.zoo.recipes import Network, Recipe, Training

CPU = torch.device("cpu")
ROBERTA = Network("roberta", 1, 16, heads=2)


def text_recipe(masked=2, epochs=1, seed=0, n_parallel=0, length=12):
    view = View("amazon-de", "builtin", 64, 20, 0, 0, "byte-bpe", 300, length, n_parallel)
    prepared = datasets.prepare(view)
    plan = Training(epochs, batch_size=16, masked_epochs=masked)
    return Recipe(prepared.key, prepared.title, "classification", ROBERTA, plan, seed)


def language(pairs, n=256, length=10):
    """Texts of two words in turn, of `pairs` pairs: a hidden word follows from its neighbours."""
    rng = np.random.default_rng(0)
    first = 5 + 2 * rng.integers(pairs, size=n)
    body = np.where(np.arange(length) % 2, first[:, None] + 1, first[:, None])
    return {"train_x": torch.tensor(np.pad(body, ((0, 0), (0, 3)), constant_values=1), dtype=torch.int32)}


def encoder(vocabulary):
    torch.manual_seed(0)
    return networks.build(ROBERTA, "classification", 0, (13,), 2, vocabulary).encoder


def told():
    losses = []
    return losses, lambda epochs, **shown: losses.append(shown["loss"])


def test_a_language_that_can_be_guessed_is_learnt():
    losses, tell = told()
    plan = Training(1, batch_size=32, lr=5e-3, masked_epochs=30)
    training._learn_language(encoder(25), plan, language(10), torch.Generator(), tell)
    assert len(losses) == 30
    assert losses[0] > 0.8 * np.log(20)
    assert losses[-1] < 0.15 * np.log(20)


def test_what_cannot_be_guessed_is_not_learnt():
    losses, tell = told()
    words = torch.randint(5, 25, (256, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    plan = Training(1, batch_size=32, lr=5e-3, masked_epochs=10)
    training._learn_language(encoder(25), plan, {"train_x": words}, torch.Generator(), tell)
    assert np.mean(losses[-3:]) > 0.9 * np.log(20)


def test_about_15_percent_of_the_words_are_hidden_and_no_mark(monkeypatch):
    seen, guess = [], networks.MaskedLanguage.forward
    monkeypatch.setattr(networks.MaskedLanguage, "forward", lambda self, x: seen.append(x.clone()) or guess(self, x))
    data = {"train_x": language(10)["train_x"].clone()}
    data["train_x"][:, 0] = 0  # a mark
    training._learn_language(
        encoder(25), Training(1, batch_size=32, masked_epochs=4), data, torch.Generator(), lambda *_, **__: None
    )
    hidden = torch.cat([(x == networks.MASK).float() for x in seen])
    assert hidden[:, 0].sum() == 0
    assert hidden.shape[1] == 10  # padding is cut off
    share = hidden[:, 1:].mean()
    assert abs(share - 0.15) < 5 * (0.15 * 0.85 / (4 * 256 * 9)) ** 0.5


def test_logits_are_those_of_the_masked_places_alone():
    network = networks.MaskedLanguage(encoder(25))
    x = language(10)["train_x"][:3, :10].long()
    x[0, 4] = x[2, 7] = networks.MASK
    logits = network(x)
    assert logits.shape == (2, 25)
    states = network.encoder.hidden(x)
    expected = network.head(states[2, 7]) @ network.encoder.body.embeddings.word_embeddings.weight.T + network.bias
    torch.testing.assert_close(logits[1], expected)


@pytest.mark.parametrize("tokenizer", ["wordpiece", "byte-bpe"])
def test_the_tokenizers_hide_words_by_the_same_token(tokenizer):
    view = View("trec", "builtin", 100, 20, tokenizer=tokenizer, vocabulary=400, length=12)
    learnt = decoding._tokenizer(["What is a mask ?"] * 9, view)
    assert learnt.id_to_token(networks.MASK) in ("[MASK]", "<mask>")
    assert all("mask" not in learnt.id_to_token(i) for i in range(networks.MASK))


def test_anchors_and_held_out_sentences_teach_no_language(monkeypatch):
    for module in (trained_models, training):
        monkeypatch.setattr(module, "ANCHOR_POOL", 30)
    one = text_recipe(n_parallel=50)
    arrays = {name: torch.from_numpy(array) for name, array in datasets.load(one.data).arrays.items()}
    reviews, sentences = training._language(arrays)
    assert torch.equal(reviews, arrays["train_x"])
    assert torch.equal(sentences, arrays["parallel_x"][30:])
    assert len(training._language({"train_x": reviews, "parallel_x": sentences[:20]})) == 1


def test_a_language_is_another_model_and_the_same_bits_again():
    plain, learnt = text_recipe(masked=0), text_recipe(masked=2)
    one, again = (training.train([learnt], CPU)[0] for _ in range(2))
    other = training.train([plain], CPU)[0]
    for name in one.arrays:
        assert one.arrays[name].tobytes() == again.arrays[name].tobytes()
    assert not np.allclose(one.arrays["spaces.test"], other.arrays["spaces.test"])


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_training_goes_on_without_learning_the_language_again(tmp_path, monkeypatch, steps):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    one = text_recipe(epochs=2)
    undisturbed = training.train([one], CPU)[0]
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    saved, save = [], store.save

    def save_and_die(*given):
        save(*given)
        saved.append(given)
        if len(saved) == steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "save", save_and_die)
        training.train([one], CPU)
    monkeypatch.setattr(training, "_learn_language", lambda *_: pytest.fail("learnt again"))
    (resumed,) = training.train([one], CPU)
    assert resumed.note == undisturbed.note
    for name in resumed.arrays:
        assert resumed.arrays[name].tobytes() == undisturbed.arrays[name].tobytes()


def test_masks_are_for_tokens():
    with pytest.raises(ValidationError, match="masked_epochs are for bert and roberta"):
        Recipe("0" * 20, "x", "classification", Network("cnn", 3, 32, width=16), Training(3, masked_epochs=1), 0)
    assert text_recipe().untrained().training.masked_epochs == 0


def digits(**changes):
    prepared = datasets.prepare(View("mnist", "builtin", 200, 50, pixels=8, channels=1))
    plan = Training(0, batch_size=64, **changes)
    network = Network("cnn", 3, 32, width=16)
    return Recipe(prepared.key, prepared.title, "classification", network, plan, 0, 0, "shared")


def test_recipes_of_one_initialization_start_from_the_same_weights_in_orders_of_their_own(monkeypatch):
    kinds = [digits(), digits(optimizer="sgd"), digits(lr=0.01)]
    start = [training.train([one], CPU)[0].arrays for one in kinds]
    for one, other in itertools.combinations(start, 2):
        assert all(np.array_equal(one[name], other[name]) for name in one if name.startswith("weights."))
    orders, permute = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *args, **kw: orders.append(permute(*args, **kw)) or orders[-1])
    for one in kinds:
        training.train([replace(one, training=replace(one.training, epochs=1))], CPU)
    assert len(orders) == 3
    for one, other in itertools.combinations(orders, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.36  # 5 standard errors


@pytest.mark.parametrize("name", ["", "another"])
def test_another_initialization_has_other_weights(name):
    one, other = (
        training.train([recipe], CPU)[0].arrays for recipe in (digits(), replace(digits(), initialization=name))
    )
    assert not np.allclose(one["weights.encoder.0.weight"], other["weights.encoder.0.weight"])


def test_pretrained_weights_cannot_be_shared():
    network = Network("pretrained", checkpoint="minilm@53aa51172d142c89")
    with pytest.raises(ValidationError, match="leave initialization out"):
        Recipe("0" * 20, "x", "classification", network, Training(3), 0, initialization="shared")
