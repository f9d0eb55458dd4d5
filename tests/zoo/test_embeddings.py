"""Codes of frozen encoders: made once, found by all who read the same samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from invariances import zoo
from invariances.zoo import datasets, embeddings, engines, frozen, pretrained, store, training
from invariances.zoo.contents import CONTENTS
from invariances.zoo.heads import HeadRecipe
from invariances.zoo.locating import View
from invariances.zoo.recipes import Network, Recipe, Training

CPU = torch.device("cpu")
VIEW = View("amazon-en", "builtin", 120, 40, tokenizer="characters", length=90, n_parallel=60, parallel="ntrex")


@pytest.fixture
def texts_read(monkeypatch, tmp_path):
    """An empty store, and every text that the stand-in reads."""
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    start, read = engines.ENGINES["stand-in-e5"], []

    def counting(place):
        engine = start(place)
        return lambda texts: read.extend(texts) or engine(texts)

    monkeypatch.setitem(engines.ENGINES, "stand-in-e5", counting)
    return read


def recipe(view=VIEW, name="stand-in-e5", **changes):
    prepared = datasets.prepare(view)
    network = Network("pretrained", checkpoint=pretrained.pinned(name))
    base = Recipe(prepared.key, prepared.title, "classification", network, Training(20, 16, lr=1e-2), 0)
    return replace(base, **changes)


def test_models_and_heads_of_one_encoder_embed_its_samples_once(texts_read):
    one = recipe()
    models = zoo.train([one, replace(one, anchors=30), HeadRecipe(one, 30, 1)], "cpu", processes=1)
    assert len(texts_read) == 120 + 40 + 60
    assert len(store.entries().query("kind == 'embeddings'")) == 3
    x = torch.from_numpy(datasets.load(one.data).arrays["test_x"])
    np.testing.assert_array_equal(models[one].spaces["test"], frozen.encoder("stand-in-e5")(x).numpy())
    assert models[one].scores["accuracy"] > 0.5  # five stars


def test_the_same_sentences_beside_other_reviews_are_not_embedded_again(texts_read):
    zoo.train([recipe()], "cpu", processes=1)
    before = len(texts_read)
    zoo.train([recipe(replace(VIEW, n_train=60))], "cpu", processes=1)
    assert len(texts_read) == before + 60


def test_other_samples_encoders_and_numerics_have_codes_of_their_own(monkeypatch):
    x = torch.arange(6).reshape(2, 3)
    keys = [
        embeddings.key(x, "a@1", CPU),
        embeddings.key(x + 1, "a@1", CPU),
        embeddings.key(x.reshape(3, 2), "a@1", CPU),
        embeddings.key(x.int(), "a@1", CPU),
        embeddings.key(x, "a@2", CPU),
        embeddings.key(x, "a@1", torch.device("cuda")),
    ]
    monkeypatch.setattr(embeddings, "EMBEDDINGS_VERSION", 0)
    keys.append(embeddings.key(x, "a@1", CPU))
    assert len(set(keys)) == len(keys)
    assert all(store.NAME.fullmatch(f"{key}.json") for key in keys)
    assert embeddings.key(x.T.contiguous().T, "a@1", CPU) != keys[0]  # of version 0
    monkeypatch.undo()
    assert embeddings.key(x.T.contiguous().T, "a@1", CPU) == keys[0]  # values count, not their order in memory


def test_damaged_codes_are_made_again(texts_read):
    one = recipe()
    zoo.train([one], "cpu", processes=1)
    before = len(texts_read)
    x = torch.from_numpy(datasets.load(one.data).arrays["test_x"])
    place = store.path("embeddings", embeddings.key(x, one.network.checkpoint, CPU))
    place.write_bytes(place.read_bytes()[:-1] + b"?")
    zoo.train([replace(one, anchors=20)], "cpu", processes=1)
    assert len(texts_read) == before + 40


def test_the_listing_says_whose_codes_they_are(texts_read):
    zoo.train([recipe()], "cpu", processes=1)
    listed = store.entries(contents=CONTENTS).query("kind == 'embeddings'").what
    assert sorted(listed) == [f"codes of {n} samples by stand-in-e5" for n in (120, 40, 60)]


def test_held_out_sentences_are_of_no_anchor_s_document(texts_read):
    one = recipe()
    zoo.train([one], "cpu", processes=1)
    spaces = zoo.embed({("row", "trained"): {"a": one}}, {"row": np.arange(25)})["row", "trained"]["a"]
    arrays = datasets.load(one.data).arrays
    codes = frozen.encoder("stand-in-e5")(torch.from_numpy(arrays["parallel_x"])).numpy()
    documents = arrays["parallel_document"]
    np.testing.assert_array_equal(spaces[:25], codes[:25])
    np.testing.assert_array_equal(spaces[25:], codes[~np.isin(documents, documents[:25])])
    assert len(spaces) < 60  # some sentences of the anchors' documents are in neither part


def test_what_embedding_costs_is_counted_once_and_not_at_all_when_it_is_done(texts_read):
    one = recipe()
    before = training.cost(one, CPU)
    assert before.seconds == 0
    assert before.embedding > 0
    assert len(texts_read) == training.TIMED
    zoo.train([one], "cpu", processes=1)
    assert training.cost(replace(one, anchors=20), CPU).embedding == 0
    stored = store.entries().query("kind == 'models'")["bytes"].sum()
    assert before.bytes == pytest.approx(stored, abs=3000)  # beside the note
