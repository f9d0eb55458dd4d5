"""What a map is worth: what mapped vectors find in the other space, and how much a head of the other model keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from invariances.maps import factorise, identity_map
from invariances.metrics.neighbours import NEIGHBOURS
from invariances.metrics.retrieval import FOUND_AMONG, GALLERY, Found, directions, look_up
from invariances.metrics.score import subsample
from invariances.represent import Invariance
from invariances.spaces import OpenSpace
from invariances.threads import in_threads

__all__ = [
    "HEAD_ROWS",
    "Bounded",
    "bootstrap",
    "examples",
    "gallery_rows",
    "retention",
    "retrieval",
    "share_of_hits",
    "summary",
]

HEAD_ROWS = 2000
"""Rows that a head is trained on, and rows that it is scored on, at most."""
EXAMPLES = 120
"""Samples that are shown before and after."""
DRAWS = 1000
"""Of the bootstrap over samples."""
QUANTILE = 1.959963984540054
"""Of the standard normal, for 95 %."""


class Bounded(NamedTuple):
    """A mean over samples with its 95 % interval over samples, the models and the anchors given."""

    mean: float
    low: float
    high: float


def bootstrap(values: torch.Tensor, of: torch.Tensor | None = None, seed: int = 0) -> Bounded:
    """A mean over samples, or the ratio of two, with the percentile interval of a seeded bootstrap over samples.

    Parameters
    ----------
    values : tensor of shape (n,)
    of : tensor of shape (n,), optional
        What the mean is given as a share of: of the same samples, which are drawn together.
    seed : int
    """
    counts = _times_drawn(len(values), seed)
    ends = [each.double().cpu() for each in (values, torch.ones_like(values) if of is None else of)]
    drawn = (counts @ ends[0]) / (counts @ ends[1])
    low, high = (float(drawn.quantile(q)) for q in (0.025, 0.975))
    return Bounded(float(ends[0].sum() / ends[1].sum()), low, high)


@lru_cache(maxsize=4)
def _times_drawn(n: int, seed: int) -> torch.Tensor:
    """How often each sample is in each draw, shape (draws, n)."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return torch.from_numpy(drawn).double()


def share_of_hits(hits: torch.Tensor) -> Bounded:
    """A share of hits with Wilson's interval, which does not close where all or none hit.

    Parameters
    ----------
    hits : tensor of shape (n,)
        1, 0, or what a tied one is worth.
    """
    n, share, z = len(hits), float(hits.double().mean()), QUANTILE
    middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = ((middle + side) / (1 + z**2 / n) for side in (-half, half))
    return Bounded(share, min(low, share), max(high, share))  # which round-off may have brought past each other


def summary(found: Found, seed: int = 0) -> dict[str, float]:
    """The four scores with their intervals over samples and what chance gives, as columns of a table.

    Parameters
    ----------
    found : Found
    seed : int
        Of the bootstrap.
    """
    n = len(found.top1)
    scores = {
        "top1": (share_of_hits(found.top1), 1 / n),
        "recall": (share_of_hits(found.recall), min(FOUND_AMONG, n) / n),
        "mrr": (bootstrap(found.mrr, seed=seed), sum(1 / rank for rank in range(1, n + 1)) / n),
        "overlap": (bootstrap(found.overlap, seed=seed), found.overlap_chance),
    }
    columns: dict[str, float] = {"gallery": n, "k": NEIGHBOURS}
    for name, (bounded, chance) in scores.items():
        columns |= {name: bounded.mean, f"{name}_low": bounded.low, f"{name}_high": bounded.high}
        columns[f"{name}_chance"] = chance
    return columns


def gallery_rows(rows: np.ndarray) -> np.ndarray:
    """The rows among which queries look: `GALLERY` of them, or all, as `align` draws them."""
    return subsample(torch.from_numpy(rows), None, GALLERY)[0].numpy()


def retrieval(
    spaces: Mapping[str, OpenSpace],
    anchors: np.ndarray,
    held_out: np.ndarray,
    invariance: Invariance,
    seed: int = 0,
) -> pd.DataFrame:
    """What held-out samples find in the other space once they are mapped, for every ordered pair.

    Parameters
    ----------
    spaces : mapping from names to open spaces
    anchors, held_out : arrays of row numbers
        What maps are fitted on, and what is scored.
    invariance : Invariance
        The class of maps.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        One line per ordered pair: retrieval (``top1``, ``recall`` at 10, ``mrr``) and neighbour ``overlap`` at 10, each
        with a 95 % interval over samples and ``_chance``, what shuffled samples would earn on average.
    """
    widest = reduce(torch.promote_types, (space[:1].dtype for space in spaces.values()), torch.float32)
    rows = gallery_rows(held_out)
    known = {name: (space[anchors].to(widest), space[rows].to(widest)) for name, space in spaces.items()}
    among = {name: directions(x, anchored.mean(dim=0, dtype=torch.float64)) for name, (anchored, x) in known.items()}
    unit = partial(_from_one, known=known, among=among, invariance=invariance, seed=seed)
    return pd.DataFrame([line for lines in in_threads(unit, list(known)) for line in lines])


def _from_one(
    a: str,
    known: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    among: Mapping[str, Any],
    invariance: Invariance,
    seed: int,
) -> list[dict]:
    anchors, queries = known[a]
    source = invariance.prepare(anchors) if invariance.anchored else None
    lines = []
    for b, (targets, _) in known.items():
        if a == b:
            continue
        carry = invariance.fit(source, targets)
        mapped = directions(carry(queries), carry(anchors).mean(dim=0, dtype=torch.float64))
        found = look_up(mapped, among[b])
        lines.append({"model_a": a, "model_b": b, "n_anchors": len(anchors), **summary(found, seed)})
    return lines


def examples(
    spaces: Mapping[str, OpenSpace], anchors: np.ndarray, held_out: np.ndarray, invariance: Invariance
) -> pd.DataFrame:
    """Some samples of the first pair, on the two principal axes of the target's anchors, before and after the map.

    Parameters
    ----------
    spaces : mapping from names to open spaces
    anchors, held_out : arrays of row numbers
    invariance : Invariance
        The class of maps.

    Returns
    -------
    DataFrame
        One line per sample and kind of ``vectors``: those of the "target", and those of the source "before", padded
        with zeros or cut to the target's width, and "after" the map.
    """
    a, b = list(spaces)[:2]
    rows = gallery_rows(held_out)[:EXAMPLES]
    source, target = (spaces[name][anchors].double() for name in (a, b))
    samples, known = (spaces[name][rows].double() for name in (a, b))
    mapped = invariance.represent(source, target)(samples)
    mapped = identity_map(mapped, known)(mapped)  # which pads or cuts what keeps its width
    axes, mean = factorise(target).right[:2], target.mean(dim=0)
    kinds = {"target": known, "before": identity_map(samples, known)(samples), "after": mapped}
    lines = []
    for kind, vectors in kinds.items():
        placed = torch.nn.functional.pad((vectors - mean) @ axes.T, (0, 2 - len(axes)))
        lines += [{"model_a": a, "model_b": b, "vectors": kind, "x": x, "y": y} for x, y in placed.tolist()]
    return pd.DataFrame(lines)


def retention(
    spaces: Mapping[str, OpenSpace],
    anchors: np.ndarray,
    held_out: np.ndarray,
    classes: torch.Tensor,
    invariance: Invariance,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of its accuracy a linear head of one model keeps on the mapped vectors of another.

    Three disjoint sets of samples: maps are fitted on the anchors, heads (logistic regression on standardised features)
    on half of the others, and accuracy is measured on the rest.

    Parameters
    ----------
    spaces : mapping from names to open spaces
    anchors, held_out : arrays of row numbers
    classes : tensor of shape (n,)
        The samples' classes.
    invariance : Invariance
        The class of maps.
    seed : int
        Draws the halves, and is that of the bootstrap.

    Returns
    -------
    DataFrame
        One line per ordered pair, `model_a` mapped onto `model_b`: ``accuracy`` of the head of `model_b` on its own
        vectors, ``mapped_accuracy`` on those of `model_a`, ``guess`` of the largest class, and ``retention``, the
        second as a share of the first, with a 95 % interval over samples.
    """
    drawn = np.random.default_rng(seed).permutation(held_out)
    for_heads, scored = drawn[: len(drawn) // 2][:HEAD_ROWS], drawn[len(drawn) // 2 :][:HEAD_ROWS]
    truth, taught = classes[scored], classes[for_heads]
    guess = float((truth == taught.mode().values).double().mean())
    known = {name: (space[anchors].double(), space[scored].double()) for name, space in spaces.items()}
    heads = {name: _head(space[for_heads].double(), taught) for name, space in spaces.items()}
    right = {name: _right(heads[name], samples, truth) for name, (_, samples) in known.items()}
    lines = []
    for a, (own, samples) in known.items():
        source = invariance.prepare(own) if invariance.anchored else None
        for b, (targets, _) in known.items():
            if a == b:
                continue
            mapped = _right(heads[b], invariance.fit(source, targets)(samples), truth)
            kept = bootstrap(mapped, right[b], seed)
            line = {"model_a": a, "model_b": b, "accuracy": float(right[b].mean()), "guess": guess}
            line |= {"mapped_accuracy": float(mapped.mean()), "retention": kept.mean}
            line |= {"retention_low": kept.low, "retention_high": kept.high}
            lines.append(line | {"n_head": len(for_heads), "n_scored": len(scored)})
    return pd.DataFrame(lines)


def _head(samples: torch.Tensor, classes: torch.Tensor) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    several = len(classes.unique()) > 1
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)) if several else DummyClassifier()
    return head.fit(samples.numpy(), classes.numpy())


def _right(head: Any, samples: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(head.predict(samples.numpy()) == truth.numpy()).double()
