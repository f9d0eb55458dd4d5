import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from invariances.zoo import builtin

QUESTIONS = {
    "ABBR": r"what does [A-Z]{3} stand for in [A-Z]\w+|what is the abbreviation of \w+ \w+|what is [A-Z]{3} short for",
    "ENTY": r"what kind of \w+ is .+|which \w+ do people in .+|what \w+ is named after a \w+",
    "DESC": r"why is the .+|how does a \w+ differ from a \w+|what is the origin of the \w+",
    "HUM": r"who discovered .+|who wrote .+|which person .+",
    "LOC": r"where is .+|what country has .+|where can .+",
    "NUM": r"how many .+|when was .+|how far .+",
}
# opinions by stars, and how German says them
OPINIONS = {
    0: {"terrible": "furchtbar", "useless": "nutzlos", "broken": "kaputt", "awful": "schrecklich"},
    1: {"poor": "schlecht", "weak": "schwach", "disappointing": "enttäuschend", "noisy": "laut"},
    2: {"average": "mittelmäßig", "acceptable": "annehmbar", "plain": "schlicht", "ordinary": "gewöhnlich"},
    3: {"good": "gut", "solid": "solide", "useful": "nützlich", "nice": "schön"},
    4: {"excellent": "hervorragend", "perfect": "perfekt", "wonderful": "wunderbar", "brilliant": "brillant"},
}
STARS = {
    "en": {word: stars for stars, words in OPINIONS.items() for word in words},
    "de": {word: stars for stars, words in OPINIONS.items() for word in words.values()},
}
REVIEW = {
    "en": r"The (\w+) is (\w+) and the (\w+) is (\w+)\.",
    "de": r"Die (\w+) ist (\w+) und die (\w+) ist (\w+)\.",
}
SCENE = {
    "en": r"(a man|a woman|a child|my friend) (\w+) the (\w+) and it is (\w+)\.",
    "de": r"(ein Mann|eine Frau|ein Kind|mein Freund) (\w+) die (\w+) und sie ist (\w+)\.",
}


def test_digits_are_those_of_scikit_learn_in_full_range():
    images, labels = builtin.digits()
    published, classes = load_digits(return_X_y=True)
    assert images.shape == (1797, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert (images.min(), images.max()) == (0, 255)
    np.testing.assert_allclose(images.reshape(1797, 64) / 255, published / 16, atol=0.5 / 255 + 1e-9)
    np.testing.assert_array_equal(labels, classes)


def test_every_question_is_of_its_class():
    texts, labels = builtin.questions(600, seed=0)
    assert len(texts) == len(labels) == 600
    for text, label in zip(texts, labels, strict=True):
        assert re.fullmatch(f"(?:{QUESTIONS[builtin.QUESTION_CLASSES[label]]})" + r"\?", text)
    assert np.bincount(labels, minlength=6).min() > 60


@pytest.mark.parametrize("language", ["en", "de"])
def test_reviews_say_what_their_stars_say(language):
    texts, labels = builtin.reviews(2000, 0, language)
    shifted = 0
    for text, label in zip(texts, labels, strict=True):
        _, first, _, second = re.fullmatch(REVIEW[language], text).groups()
        assert STARS[language][first] == label
        assert abs(STARS[language][second] - label) <= 1
        shifted += STARS[language][second] != label
    # one in five is shifted; at either end of the scale half of these stay where they are
    assert shifted / 2000 == pytest.approx(0.2 * (3 / 5 + 2 / 5 / 2), abs=0.03)
    assert np.bincount(labels, minlength=5).min() > 300


@pytest.mark.parametrize("seed", [0, 1])
def test_parallel_sentences_are_row_by_row_translations(seed):
    sentences = builtin.parallel_sentences(400, seed)
    assert list(sentences) == ["en", "de"]
    assert len(sentences["en"]) == len(sentences["de"]) == 400
    opinions = {english: german for words in OPINIONS.values() for english, german in words.items()}
    meant, kinds = {}, {"review": 0, "scene": 0}
    for english, german in zip(sentences["en"], sentences["de"], strict=True):
        kind, pattern = ("review", REVIEW) if english.startswith("The ") else ("scene", SCENE)
        kinds[kind] += 1
        words = [re.fullmatch(pattern[language], text).groups() for language, text in (("en", english), ("de", german))]
        for first, second in zip(*words, strict=True):
            assert opinions.get(first, second) == second
            assert meant.setdefault(first, second) == second  # a word has one translation
    assert len(set(meant.values())) == len(meant)
    assert min(kinds.values()) > 120


@pytest.mark.parametrize(
    "generate",
    [
        lambda seed: builtin.questions(50, seed),
        lambda seed: builtin.reviews(50, seed, "en"),
        lambda seed: builtin.reviews(50, seed, "de"),
        lambda seed: (builtin.parallel_sentences(50, seed)["en"], []),
    ],
    ids=["questions", "reviews en", "reviews de", "parallel"],
)
def test_text_depends_on_its_seed_and_on_nothing_else(generate):
    texts, labels = generate(3)
    np.random.seed(0)  # the global state is what must not matter
    again, labels_again = generate(3)
    assert texts == again
    np.testing.assert_array_equal(labels, labels_again)
    assert generate(4)[0] != texts


def test_languages_draw_their_own_reviews():
    english, german = (builtin.reviews(300, 0, language)[1] for language in ("en", "de"))
    assert (english == german).mean() < 0.4  # a fifth by chance


SENTENCES = builtin.parallel_sentences(300, 0)


def _unit(codes):
    codes = codes - codes.mean(axis=0)
    return codes / np.linalg.norm(codes, axis=1, keepdims=True)


@pytest.mark.parametrize("name", builtin.ENCODERS)
def test_translations_are_near_for_stand_ins_that_know_languages_alone(name):
    english, german = (_unit(builtin.embed(SENTENCES[language], name)) for language in ("en", "de"))
    assert english.shape == (300, builtin.ENCODERS[name].width)
    near = (english * german).sum(axis=1).mean()
    assert near > 0.5 if builtin.ENCODERS[name].translations else abs(near) < 0.3


def test_stand_ins_of_two_encoders_have_codes_of_their_own():
    first, second = (builtin.embed(SENTENCES["en"], name) for name in ("e5", "untrained"))
    assert np.abs((_unit(first) * _unit(second)).sum(axis=1)).mean() < 0.3


def test_codes_are_those_of_version_1():
    assert builtin.VERSION == 1
    codes = builtin.embed(["The lamp is good.", "?"], "use")
    np.testing.assert_allclose(codes[0, :3], [0.41028, 0.61697, 0.29073], atol=1e-4)
    assert not codes[1].any()


def test_the_generated_text_is_the_text_of_version_1():
    # stored models were trained on this text: whoever changes it counts builtin.VERSION up and pins anew
    assert builtin.VERSION == 1
    assert builtin.questions(2, 0)[0] == ["why is the glacier important to Vietnam?", "who wrote about the language?"]
    assert builtin.reviews(2, 0, "en")[0][0] == "The battery is average and the manual is average."
    assert builtin.reviews(2, 0, "de")[0][0] == "Die Batterie ist brillant und die Qualität ist hervorragend."
    assert builtin.parallel_sentences(2, 0)["en"][0] == "my friend sells the lamp and it is solid."
