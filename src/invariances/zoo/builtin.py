"""The embedded stand-ins: scikit-learn's scanned digits, text generated from the word lists below, and encoders of it.

They need no download, so that a first run and the tests work anywhere. They are never used
silently: every table that they enter names them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

__all__ = [
    "ENCODERS",
    "LANGUAGES",
    "QUESTION_CLASSES",
    "SENTENCES_OF_A_DOCUMENT",
    "VERSION",
    "digits",
    "embed",
    "parallel_sentences",
    "questions",
    "reviews",
]


VERSION = 1
"""Counted up whenever the generated text changes, so that stored models are not mixed up."""

QUESTION_CLASSES = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]

_TOPICS = [
    "river",
    "mountain",
    "novel",
    "engine",
    "festival",
    "planet",
    "bridge",
    "orchestra",
    "vaccine",
    "museum",
    "language",
    "island",
    "treaty",
    "telescope",
    "harbour",
    "currency",
    "volcano",
    "theorem",
    "satellite",
    "castle",
    "recipe",
    "dialect",
    "glacier",
    "comet",
]
_PLACES = [
    "Norway",
    "Peru",
    "Kenya",
    "Vietnam",
    "Canada",
    "Greece",
    "Morocco",
    "Iceland",
    "Chile",
    "Nepal",
    "Austria",
    "Tunisia",
]
_TEMPLATES = {
    "ABBR": ["what does {a} stand for in {p}", "what is the abbreviation of {t} {u}", "what is {a} short for"],
    "ENTY": ["what kind of {t} is found in {p}", "which {t} do people in {p} prefer", "what {t} is named after a {u}"],
    "DESC": ["why is the {t} important to {p}", "how does a {t} differ from a {u}", "what is the origin of the {t}"],
    "HUM": ["who discovered the {t} in {p}", "who wrote about the {t}", "which person owned the {t} of {p}"],
    "LOC": ["where is the {t} of {p}", "what country has the oldest {t}", "where can a {t} be seen near {p}"],
    "NUM": ["how many {t}s are there in {p}", "when was the {t} of {p} built", "how far is {p} from the {t}"],
}

# English and German word for word, so that a review and its translation share one structure
_THINGS = [
    ("lamp", "Lampe"),
    ("kettle", "Kanne"),
    ("jacket", "Jacke"),
    ("camera", "Kamera"),
    ("bag", "Tasche"),
    ("watch", "Uhr"),
    ("blanket", "Decke"),
    ("battery", "Batterie"),
    ("mouse", "Maus"),
    ("brush", "Bürste"),
]
_PARTS = [
    ("colour", "Farbe"),
    ("quality", "Qualität"),
    ("packaging", "Verpackung"),
    ("delivery", "Lieferung"),
    ("size", "Größe"),
    ("price", "Rechnung"),
    ("surface", "Oberfläche"),
    ("manual", "Anleitung"),
]
_OPINIONS = [
    [("terrible", "furchtbar"), ("useless", "nutzlos"), ("broken", "kaputt"), ("awful", "schrecklich")],
    [("poor", "schlecht"), ("weak", "schwach"), ("disappointing", "enttäuschend"), ("noisy", "laut")],
    [("average", "mittelmäßig"), ("acceptable", "annehmbar"), ("plain", "schlicht"), ("ordinary", "gewöhnlich")],
    [("good", "gut"), ("solid", "solide"), ("useful", "nützlich"), ("nice", "schön")],
    [("excellent", "hervorragend"), ("perfect", "perfekt"), ("wonderful", "wunderbar"), ("brilliant", "brillant")],
]
_PEOPLE = [("a man", "ein Mann"), ("a woman", "eine Frau"), ("a child", "ein Kind"), ("my friend", "mein Freund")]
_ACTIONS = [
    ("buys", "kauft"),
    ("sells", "verkauft"),
    ("repairs", "repariert"),
    ("carries", "trägt"),
    ("shows", "zeigt"),
    ("cleans", "putzt"),
]
LANGUAGES = {"en": "English", "de": "German"}
SENTENCES_OF_A_DOCUMENT = 10
"""Parallel sentences come as documents of so many, where documents are asked for."""


class _Encoder(NamedTuple):
    """An encoder of the generated text."""

    width: int
    translations: float
    """Share of a word's vector that it has in common with its translation."""


ENCODERS = {"e5": _Encoder(32, 0.8), "use": _Encoder(40, 0.8), "untrained": _Encoder(32, 0.0)}
"""Stand-ins for pretrained encoders, by what they stand in for."""
_LITTLE_WORDS = [("the", "die"), ("is", "ist"), ("and", "und"), ("it", "sie")]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 scanned digits.

    Returns
    -------
    images : uint8 array of shape (1797, 1, 8, 8)
    labels : int64 array of shape (1797,)
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 1, 8, 8) * 255 / 16).round().astype(np.uint8), labels.astype(np.int64)


def questions(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Generated questions in TREC's six coarse classes.

    Returns
    -------
    texts : list of n str
    labels : int64 array of shape (n,)
        Indices into `QUESTION_CLASSES`.
    """
    rng = np.random.default_rng([VERSION, seed])
    texts, labels = [], rng.integers(len(QUESTION_CLASSES), size=n)
    for label in labels:
        templates = _TEMPLATES[QUESTION_CLASSES[label]]
        topic, other = rng.choice(_TOPICS, size=2, replace=False)
        letters = "".join(rng.choice(list("ABCDEFGHKLMNPRST"), size=3))
        template = templates[rng.integers(len(templates))]
        texts.append(template.format(t=topic, u=other, p=rng.choice(_PLACES), a=letters) + "?")
    return texts, labels


def reviews(n: int, seed: int, language: str) -> tuple[list[str], np.ndarray]:
    """Generated product reviews of 1 to 5 stars; each language draws its own.

    Returns
    -------
    texts : list of n str
    labels : int64 array of shape (n,)
        Stars minus one.
    """
    which = list(LANGUAGES).index(language)
    rng = np.random.default_rng([VERSION, seed, which])
    labels = rng.integers(5, size=n)
    return [_review(rng, int(label))[which] for label in labels], labels


def parallel_sentences(n: int, seed: int) -> dict[str, list[str]]:
    """Generated sentences and their translations, for cross-lingual anchors; stars are drawn at random."""
    rng = np.random.default_rng([VERSION, seed, len(LANGUAGES)])
    pairs = [_scene(rng) if rng.random() < 0.5 else _review(rng, int(rng.integers(5))) for _ in range(n)]
    return {language: [pair[i] for pair in pairs] for i, language in enumerate(LANGUAGES)}


def _review(rng: np.random.Generator, stars: int) -> tuple[str, str]:
    """One review in both languages; one opinion in five belongs to a neighbouring star."""
    thing, part = _pick(rng, _THINGS), _pick(rng, _PARTS)
    first = _pick(rng, _OPINIONS[stars])
    shifted = int(np.clip(stars + rng.choice([-1, 1]), 0, 4)) if rng.random() < 0.2 else stars
    second = _pick(rng, _OPINIONS[shifted])
    return (
        f"The {thing[0]} is {first[0]} and the {part[0]} is {second[0]}.",
        f"Die {thing[1]} ist {first[1]} und die {part[1]} ist {second[1]}.",
    )


def _scene(rng: np.random.Generator) -> tuple[str, str]:
    person, action, thing, opinion = (
        _pick(rng, words) for words in (_PEOPLE, _ACTIONS, _THINGS, _OPINIONS[int(rng.integers(5))])
    )
    return (
        f"{person[0]} {action[0]} the {thing[0]} and it is {opinion[0]}.",
        f"{person[1]} {action[1]} die {thing[1]} und sie ist {opinion[1]}.",
    )


def _pick(rng: np.random.Generator, words: list[tuple[str, str]]) -> tuple[str, str]:
    return words[int(rng.integers(len(words)))]


def embed(texts: Sequence[str], encoder: str) -> np.ndarray:
    """Codes by made-up word vectors: a word and its translation have similar ones, unless the encoder is untrained.

    Parameters
    ----------
    texts : sequence of str
    encoder : str
        One of `ENCODERS`.

    Returns
    -------
    float32 array of shape (n, width)
    """
    width = ENCODERS[encoder].width
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    sums = [sum((_vector(word, encoder) for word in some), np.zeros(width)) / max(len(some), 1) for some in words]
    return np.tanh(3 * np.stack(sums)).astype(np.float32)


@cache
def _vector(word: str, encoder: str) -> np.ndarray:
    width, translations = ENCODERS[encoder]
    meaning, own = (
        np.random.default_rng(list(hashlib.sha256(f"{VERSION}/{encoder}/{name}".encode()).digest())).normal(size=width)
        for name in (f"meaning/{_english().get(word, word)}", f"word/{word}")
    )
    return np.sqrt(translations) * meaning + np.sqrt(1 - translations) * own


@cache
def _english() -> dict[str, str]:
    """English by German word, in lower case."""
    pairs = [*_THINGS, *_PARTS, *_PEOPLE, *_ACTIONS, *_LITTLE_WORDS, *(pair for some in _OPINIONS for pair in some)]
    words = (zip(german.lower().split(), english.lower().split(), strict=True) for english, german in pairs)
    return dict(pair for some in words for pair in some)
