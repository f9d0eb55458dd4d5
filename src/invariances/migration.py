"""Moving vectors from one model's space into another's: fit a map, choose its class, and decide by what it finds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from invariances.arguments import check_whole, is_number
from invariances.errors import SpaceError
from invariances.fitted import FittedMap, check_alike, likeness, read_map, row_digests, stamped
from invariances.maps import (
    Map,
    affine_map,
    identity_map,
    isotropic_scale_map,
    orthogonal_map,
    similarity_map,
    translation_map,
)
from invariances.metrics.neighbours import NEIGHBOURS
from invariances.metrics.retrieval import FOUND_AMONG, Found, directions, look_up
from invariances.spaces import OpenSpace, Space, open_spaces
from invariances.transfer import Bounded, bootstrap, share_of_hits, summary

__all__ = ["GATE", "KINDS", "MapScore", "fit_map", "score_map"]

KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor], Map]] = {
    "identity": identity_map,
    "scale": isotropic_scale_map,
    "translation": translation_map,
    "rotation": orthogonal_map,
    "rotation+translation": partial(orthogonal_map, center=True),
    "similarity": similarity_map,
    "affine": affine_map,
}
"""The classes of maps, the smallest first."""
GATE = 0.9
"""Share of a new vector's neighbours that a mapped old one has to find."""
LEAST_PAIRS = 60
"""Of which a fifth each is kept for the choice and for the quality."""
MOST_CHOOSING, MOST_SCORED = 500, 2000
"""Samples by which the class is chosen, and by which a map is scored, at most."""
MOST_PAIRS = 20_000
"""Pairs that a map is fitted on, at most."""
CURVE = (1 / 8, 1 / 4, 1 / 2, 1)
"""Shares of the pairs for the learning curve."""
FLAT = 0.01
"""Gain of neighbour overlap below which more pairs are said not to help."""


class _Sets(NamedTuple):
    """Three disjoint sets of rows."""

    fit: np.ndarray
    choice: np.ndarray
    quality: np.ndarray


def fit_map(a: Space, b: Space, kind: str = "auto", seed: int = 0, most_pairs: int = MOST_PAIRS) -> FittedMap:
    """Fit a map that carries vectors of one model into another's space.

    Parameters
    ----------
    a, b : what `invariances.readers.read` takes, shapes (n, d) and (n, m)
        Embeddings of the same samples by the old and by the new model, at least `LEAST_PAIRS`.
    kind : "auto", or one of `KINDS`
        The class of maps. "auto" takes the smallest class whose neighbour overlap, on samples kept for the choice, is
        within two standard errors of the best.
    seed : int
        Draws the three sets: for the fit, for the choice, and for the quality that the map's facts report.
    most_pairs : int
        Pairs that it is fitted on, at most.

    Returns
    -------
    FittedMap
        Of its ``facts``, ``choice`` says how each class did, ``why`` what decided, ``curve`` how neighbour overlap grew
        with the pairs, ``more_pairs`` what more would bring, and ``quality`` what the map finds among samples that
        neither the fit nor the choice has seen.

    Raises
    ------
    SpaceError
        If the embeddings or options cannot be used.
    """
    kind = kind.replace("orthogonal", "rotation")  # what the ladder calls it in code
    if kind != "auto" and kind not in KINDS:
        raise SpaceError(f"unknown kind {kind!r}; choose from auto, {', '.join(KINDS)}")
    check_whole(seed, "seed")
    check_whole(most_pairs, "the number of pairs (--pairs, most_pairs=)", LEAST_PAIRS)
    opened = open_spaces({"a": a, "b": b})
    sets = _split(opened.n, seed, most_pairs)
    pairs = {name: _Pair(*(space[rows].double() for space in opened.values())) for name, rows in sets._asdict().items()}
    choice = _choice(pairs["fit"], pairs["choice"], list(KINDS) if kind == "auto" else [kind])
    taken = kind if kind != "auto" else str(choice.kind[choice.taken].iloc[0])
    fitted = KINDS[taken](*pairs["fit"])
    curve = _curve(KINDS[taken], pairs["fit"], pairs["choice"])
    digests = {name: row_digests(pair.a) for name, pair in pairs.items()}
    found = FittedMap(
        fitted.weight.float(),
        fitted.bias.float(),
        taken,
        likeness(pairs["fit"].a),
        np.unique(np.concatenate([digests["fit"], digests["choice"]])),
    )
    return stamped(
        found,
        samples={name: len(rows) for name, rows in sets._asdict().items()},
        checksums={name: hashlib.sha256(found.tobytes()).hexdigest() for name, found in digests.items()},
        seed=seed,
        penalty=fitted.penalty,
        choice=choice.to_dict("records"),
        why=_why(choice, taken, kind),
        curve=curve.to_dict("records"),
        more_pairs=_more_pairs(curve),
        quality=summary(_looked_up(fitted, pairs["quality"]), seed),
    )


class _Pair(NamedTuple):
    """The same samples by both models."""

    a: torch.Tensor
    b: torch.Tensor


def _split(n: int, seed: int, most_pairs: int) -> _Sets:
    if n < LEAST_PAIRS:
        raise SpaceError(f"{n} pairs are too few to fit a map and to test it; give at least {LEAST_PAIRS}")
    rows = np.random.default_rng(seed).permutation(n)
    choice, quality = min(n // 5, MOST_CHOOSING), min(n // 5, MOST_SCORED)
    return _Sets(rows[choice + quality :][:most_pairs], rows[:choice], rows[choice : choice + quality])


def _looked_up(fitted: Callable[[torch.Tensor], torch.Tensor], pair: _Pair) -> Found:
    """What mapped vectors find among new ones, by the cosine as it is: so an index looks."""
    return look_up(directions(fitted(pair.a)), directions(pair.b))


def _choice(fit: _Pair, held: _Pair, kinds: list[str]) -> pd.DataFrame:
    """How each class does on the samples for the choice, and which is taken."""
    overlaps = {kind: _looked_up(KINDS[kind](*fit), held).overlap for kind in kinds}
    best = max(overlaps.values(), key=lambda overlap: float(overlap.mean()))
    lines = []
    for kind, overlap in overlaps.items():
        behind = best - overlap
        error = float(behind.std()) / len(behind) ** 0.5
        lines.append({"kind": kind, "overlap": float(overlap.mean()), "behind": float(behind.mean()), "error": error})
    table = pd.DataFrame(lines)
    return table.assign(taken=table.index == int((table.behind <= 2 * table.error).idxmax()))


def _why(choice: pd.DataFrame, taken: str, asked: str) -> str:
    if asked != "auto":
        return f"{taken} was asked for"
    best, chosen = choice.loc[choice.overlap.idxmax()], choice[choice.taken].iloc[0]
    if best.kind == taken:
        return f"{taken} finds the most neighbours, {best.overlap:.3f} of them, on samples that it was not fitted on"
    return (
        f"{taken} finds {chosen.overlap:.3f} of the neighbours on samples that it was not fitted on, {best.kind} "
        f"{best.overlap:.3f}: the difference is within two standard errors ({2 * chosen.error:.3f}), so the smaller "
        "class is taken"
    )


def _curve(fit_kind: Callable[..., Map], fit: _Pair, held: _Pair) -> pd.DataFrame:
    """Neighbour overlap by the number of pairs; the sets grow by adding."""
    lines = []
    for share in CURVE:
        some = _Pair(*(x[: max(2, round(share * len(x)))] for x in fit))
        bounded = bootstrap(_looked_up(fit_kind(*some), held).overlap)
        lines.append({"pairs": len(some.a), "overlap": bounded.mean, "low": bounded.low, "high": bounded.high})
    return pd.DataFrame(lines)


def _more_pairs(curve: pd.DataFrame) -> str:
    """What twice as many pairs would bring, if gains go on falling as they did."""
    before, last = curve.overlap.diff().iloc[-2:]
    n = int(curve.pairs.iloc[-1])
    if last < FLAT:
        added = f"the last doubling added {max(0, last):.3f} to the neighbour overlap"
        return f"more than {n} pairs would hardly help: {added}"
    further = last * min(1.0, last / before) if before > 0 else last
    further = min(further, 1 - float(curve.overlap.iloc[-1]))
    return (
        f"twice as many pairs ({2 * n}) would add about {further:.2f} to the neighbour overlap; "
        f"the last doubling added {last:.2f}"
    )


# Scoring ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MapScore:
    """Whether mapped old vectors may stand in for new ones."""

    table: pd.DataFrame
    """Recall at 1 and 10, mean reciprocal rank and neighbour overlap at 10, one line each for new vectors embedded
    anew, mapped old ones, new queries among mapped old ones, and old ones as they are."""
    overlap: Bounded
    """The share of a new vector's 10 nearest neighbours that the mapped old one finds, with its interval."""
    gate: float
    samples: int

    @property
    def passed(self) -> bool:
        """Whether the lower end of the interval reaches the gate."""
        return self.overlap.low >= self.gate

    def __str__(self) -> str:
        which = "passes" if self.passed else "fails"
        return (
            f"The map {which} the gate of {self.gate:g}: mapped old vectors find {self.overlap.mean:.3f} of the "
            f"neighbours that new ones find among {self.samples} samples (95 % interval over samples "
            f"{self.overlap.low:.3f} to {self.overlap.high:.3f})."
        )


def score_map(
    fitted: FittedMap | str | Path, a: Space, b: Space, gate: float = GATE, seed: int = 0, skip_seen: bool = False
) -> MapScore:
    """Score a map on pairs that it has not seen, and decide.

    Parameters
    ----------
    fitted : FittedMap, or the path of one
    a, b : what `invariances.readers.read` takes, shapes (n, d) and (n, m)
        Embeddings of the same new samples by the old and by the new model; of more than `MOST_SCORED`, some are drawn.
    gate : float
        Share of the neighbours that have to be found, at the lower end of the interval.
    seed : int
        Draws samples, and is that of the bootstrap.
    skip_seen : bool
        Leave out the pairs that the map was fitted on or chosen by, instead of refusing them.

    Raises
    ------
    SpaceError
        If the embeddings cannot be used, or hold pairs that the map has seen.

    Notes
    -----
    Vectors are compared by their cosine as they are, not centred, since that is what an index does. The samples are the
    index: the more of them, the nearer are neighbours, and the harder they are to find. Compare
    scores at one number of samples only.
    """
    if not is_number(gate) or not 0 < gate <= 1:
        raise SpaceError(f"gate is {gate!r}; give a share above 0 and at most 1, e.g. {GATE}")
    fitted = fitted if isinstance(fitted, FittedMap) else read_map(fitted)
    opened = open_spaces({"a": a, "b": b})
    widths = {name: space.shape[1] for name, space in opened.items()}
    if widths != {"a": fitted.width, "b": len(fitted.bias)}:
        raise SpaceError(
            f"the map carries {fitted.width} features to {len(fitted.bias)}, but the vectors have {widths['a']} and "
            f"{widths['b']}; give those of the same two models"
        )
    rows = _unseen(fitted, opened["a"], skip_seen)
    if len(rows) < LEAST_PAIRS:
        raise SpaceError(f"{len(rows)} pairs that the map has not seen are too few; give at least {LEAST_PAIRS}")
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_SCORED])
    pair = _Pair(*(space[rows].double() for space in opened.values()))
    check_alike(pair.a, fitted.source, "the first file")
    mapped, new = directions(fitted.as_map()(pair.a)), directions(pair.b)
    unmapped = directions(identity_map(pair.a, pair.b)(pair.a))
    ways = {"embedded anew": (new, new), "mapped": (mapped, new), "new queries, mapped index": (new, mapped)}
    ways["unmapped"] = (unmapped, new)
    found = {name: look_up(*ends) for name, ends in ways.items()}
    table = pd.DataFrame([{"vectors": name, **_scores(each)} for name, each in found.items()])
    return MapScore(table, bootstrap(found["mapped"].overlap, seed=seed), float(gate), len(rows))


def _unseen(fitted: FittedMap, space: OpenSpace, skip: bool) -> np.ndarray:
    seen = np.isin(row_digests(space), fitted.seen)
    if seen.any() and not skip:
        raise SpaceError(
            f"{seen.sum()} of the {len(seen)} pairs are among those that the map was fitted on or chosen by; give "
            "others, or leave these out (--skip-seen, skip_seen=True in Python)"
        )
    return np.flatnonzero(~seen)


def _scores(found: Found) -> Mapping[str, Any]:
    return {
        "recall_at_1": share_of_hits(found.top1).mean,
        f"recall_at_{FOUND_AMONG}": share_of_hits(found.recall).mean,
        "mrr": float(found.mrr.mean()),
        f"overlap_at_{NEIGHBOURS}": float(found.overlap.mean()),
    }
