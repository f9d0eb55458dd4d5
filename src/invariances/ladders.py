"""Phase 2: the ladder of maps, from none to affine, into one and the same target space.

Scores under different invariances live in different spaces and do not say which map relates two models. Maps do: they
all end in the target's space, where the held-out variance that they explain can be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from invariances.arguments import check_whole, shown
from invariances.errors import SpaceError
from invariances.fitting import ALL_CLASSES, Compared, blocks_of_pairs, compare, read_model
from invariances.rows import Rows, Spread, of_row, row_columns
from invariances.samples import Anchors
from invariances.spaces import OpenSpace, Spaces, open_spaces
from invariances.threads import SMALL, cores, in_threads

__all__ = ["ALL_PAIRS", "CLASSES", "DELTA", "SMALLEST_FIRST", "Ladder", "check_delta", "choose", "ladder"]

DELTA = 0.01
"""Share of the target's variance below which a difference between classes of maps does not count."""
ALL_PAIRS = "all pairs"
"""In place of a model: the line holds the choice over all pairs at once."""
PAIRS_WITH_SINGULAR_VALUES = 6
"""Ordered pairs of a row whose singular values are kept, at most."""
LEAST_REACH = 0.5
"""Share of the held-out variance that the anchors must span: with less, even a true rotation would explain less."""

CLASSES = tuple(name for name in ALL_CLASSES if name != "permutation")
"""The classes of maps that are compared, from none (a constant) to affine."""

SMALLEST_FIRST = (
    "identity",
    "scale",
    "translation",
    "permutation",
    "orthogonal",
    "orthogonal+translation",
    "similarity",
    "affine",
)
"""The classes by their free parameters. A permutation has none that is continuous, but is one of d!:
more to choose from than a factor or a shift of d numbers, and every permutation is a rotation or reflection."""
DETERMINED_BY_FEW = ("identity", "scale", "translation")
"""Classes whose parameters a few anchors determine."""


class Ladder(NamedTuple):
    """The classes of maps compared, pair by pair and for all pairs at once."""

    table: pd.DataFrame
    """One line per ordered pair and class of maps, and per class for all pairs at once (both models `ALL_PAIRS`)."""
    singular_values: pd.DataFrame
    """One line per singular value of T, for some of the pairs, beside those of a simulated rotation."""


def ladder(
    spaces: Spaces | Rows,
    anchors: Anchors | Mapping[str, Any] = 500,
    pairs: Iterable[tuple[str, str]] | Mapping[str, Iterable[tuple[str, str]]] | None = None,
    most_pairs: int | None = None,
    seed: int = 0,
    permutation: bool = False,
    delta: float = DELTA,
    workers: Spread | None = None,
) -> Ladder:
    """Compare the classes of maps between the spaces, and choose one (paper, phase 2).

    Parameters
    ----------
    spaces : mapping from model names to spaces, sequence of spaces, or Rows
        Each n x d, the same samples in the same order. The models beside a pair help to take out of its source what is
        private to it, whether or not they are among `pairs`. Of `Rows`, each is compared by itself.
    anchors : int, sequence, mask or path
        Rows that maps are fitted on, as `align` takes them; the others are scored. For `Rows`, perhaps a mapping from
        their names.
    pairs : sequence of two model names each, optional
        Unordered pairs to compare, in both directions; all by default. For `Rows`, perhaps a mapping from their names.
    most_pairs : int, optional
        Compare at most so many of them: a seeded draw in which no model comes much more often than another.
    seed : int
        Draws anchors, pairs, folds and the simulated rotation.
    permutation : bool
        Compare permutations of features too, between translation and orthogonal. Only codes with
        preferred axes, such as the output of a ReLU, can be told from rotated ones.
    delta : float
        Share of the target's variance below which a difference between classes does not count.
    workers : callable, optional
        How `Rows`, or else blocks of pairs, are spread, called like the builtin `map`; e.g. `invariances.zoo.spread`,
        over processes or a cluster. By default pairs are spread over threads, and one row follows the other.

    Returns
    -------
    Ladder
        Of the table's columns, ``explained_variance`` is the class's share of the held-out variance, ``gap`` its
        distance to the best class, ``standard_error`` that of the gap over samples, ``tolerance`` the larger of 3
        standard errors and delta, ``chosen`` the rule's choice, and ``verdict`` its name ("none" for a constant).
        ``undecided`` says that the anchors are too few to tell the classes apart. T's description
        (`invariances.structure`) stands on the lines of the affine map. For `Rows`, both tables begin with ``row``.

    Raises
    ------
    SpaceError
        If the input cannot be used.

    Notes
    -----
    The class with the fewest parameters is chosen whose explained variance is within ``max(3 SE, delta)`` of the
    best class's. Losses are shares of the target's variance around its anchors' mean, averaged
    over the ordered pairs for every held-out sample; SE is the standard error over samples of the
    difference between two classes. So it holds for these models and anchors, and a class is named
    only if it fits every pair. If a constant is within the tolerance, nothing else is considered. The constant is the
    mean of the scored rows: that of few anchors would miss it by 1/k of the variance, which any map that shrinks
    towards 0 could seem to explain.

    Noise in the source shrinks every regression on it, most where there is least variance, which
    a rotation cannot follow: without a remedy it looks affine. With three or more models the
    source is first replaced by its left-out ridge prediction from the models other than the pair
    (instrumental variables). Its principal axes are then shrunk by ``max(0, 1 - s2 / variance)``, with
    one s2 from cross-validation on the anchors, and all classes of maps see the same source. With two
    models the second step is the only one; it takes out noise alike in all directions, but nothing
    of another structure.
    """
    check_delta(delta)
    if most_pairs is not None:
        check_whole(most_pairs, "most_pairs", 1)
    options = _Options(seed, ALL_CLASSES if permutation else CLASSES, delta, most_pairs)
    if not isinstance(spaces, Rows):
        return _ladder(spaces, anchors, pairs, options, workers or in_threads)
    of_pairs = partial(in_threads, threads=1) if workers else in_threads
    unit = partial(_of_row, spaces=spaces, anchors=anchors, pairs=pairs, options=options, workers=of_pairs)
    found = (workers or map)(unit, list(spaces))
    each = [tuple(row_columns(frame, key) for frame in part) for key, part in zip(spaces, found, strict=True)]
    return Ladder(*(pd.concat(frames, ignore_index=True) for frames in zip(*each, strict=True)))


def check_delta(delta: object) -> None:
    """Refuse what is no share of the variance."""
    if isinstance(delta, (bool, np.bool_)) or not isinstance(delta, Real) or not 0 < delta < 1:
        raise SpaceError(f"delta is {delta!r}; give a share of the target's variance above 0 and below 1, e.g. {DELTA}")


class _Options(NamedTuple):
    seed: int
    classes: tuple[str, ...]
    delta: float
    most_pairs: int | None


def _of_row(key: Any, spaces: Rows, anchors: Any, pairs: Any, options: _Options, workers: Spread) -> Ladder:
    return _ladder(spaces[key], of_row(anchors, key), of_row(pairs, key), options, workers)


def _ladder(spaces: Spaces, anchors: Any, pairs: Any, options: _Options, workers: Spread) -> Ladder:
    read = open_spaces(spaces)
    n, ids = read.n, read.anchor_rows(anchors, options.seed)
    wanted = _checked(pairs, read)
    found, reach = _compared(read, ids, _drawn(wanted, options), options, workers)
    sizes = {"n_anchors": len(ids), "n_samples": n - len(ids), "n_models": len(read), "ordered_pairs": 2 * len(wanted)}
    parts = [*([pair] for pair in found), found]
    tables = [_table(part, sizes, options.delta, reach) for part in parts]
    values = [_singular_values(pair) for pair in found[:PAIRS_WITH_SINGULAR_VALUES]]
    return Ladder(pd.concat(tables, ignore_index=True), pd.concat(values, ignore_index=True))


def _table(pairs: Sequence[Compared], sizes: Mapping[str, int], delta: float, reach: float) -> pd.DataFrame:
    """The classes compared for one ordered pair, or for all at once."""
    widths = {f"width_{end}": max(getattr(pair, f"width_{end}") for pair in pairs) for end in "ab"}
    steps = choose([pair.losses for pair in pairs], max(widths.values()), delta, reach).assign(**widths, **sizes)
    for place, name in enumerate(("model_a", "model_b")):
        steps.insert(place, name, getattr(pairs[0], name) if len(pairs) == 1 else ALL_PAIRS)
    if len(pairs) == 1:
        described = pairs[0].structure.described
        steps.loc[steps["class"] == "affine", list(described)] = list(described.values())
    return steps


def _compared(
    spaces: Mapping[str, OpenSpace],
    ids: np.ndarray,
    pairs: Sequence[tuple[str, str]],
    options: _Options,
    workers: Spread,
) -> tuple[list[Compared], float]:
    """All ordered pairs, and the share of the held-out variance that the anchors span where it is least."""
    rest = np.setdiff1d(np.arange(len(next(iter(spaces.values())))), ids)
    models = {name: read_model(space, ids, rest, name) for name, space in spaces.items()}
    small = len(rest) * len(pairs) * max(len(model.mean) for model in models.values()) < SMALL
    # so many that threads end together, and that a cluster has something for every worker
    blocks = blocks_of_pairs(pairs, models, len(rest), 1 if small else max(2 * cores(), len(models)))
    unit = partial(compare, spaces=spaces, models=models, rest=rest, classes=options.classes, seed=options.seed)
    found = {(pair.model_a, pair.model_b): pair for part in workers(unit, blocks) for pair in part}
    ordered = [found[pair] for a, b in pairs for pair in ((a, b), (b, a))]
    return ordered, min(model.reach for model in models.values())


def _checked(pairs: Iterable[tuple[str, str]] | None, spaces: Mapping[str, OpenSpace]) -> list[tuple[str, str]]:
    """The pairs that are wanted, of models that are there."""
    if pairs is None:
        return list(combinations(spaces, 2))
    wanted = [tuple(map(str, pair)) for pair in pairs]
    for pair in wanted:
        if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(spaces):
            raise SpaceError(f"pairs holds {shown(pair)}; give two different models of {', '.join(spaces)}")
    if not wanted:
        raise SpaceError("pairs is empty; give at least one pair of models, or leave it out")
    return wanted


def _drawn(pairs: Sequence[tuple[str, str]], options: _Options) -> Sequence[tuple[str, str]]:
    """At most as many pairs as are asked for, seeded so that no model comes much more often than another."""
    if options.most_pairs is None:
        return pairs
    left = [pairs[i] for i in np.random.default_rng(options.seed).permutation(len(pairs))]
    times: Counter[str] = Counter()
    drawn = []
    while left and len(drawn) < options.most_pairs:
        drawn.append(min(left, key=lambda pair: sorted((times[pair[0]], times[pair[1]]), reverse=True)))
        left.remove(drawn[-1])
        times.update(drawn[-1])
    return drawn


def _parameters(d: int) -> dict[str, int]:
    """Free continuous parameters of each class of maps between spaces of width d."""
    rotation = d * (d - 1) // 2
    return {
        "constant": d,
        "identity": 0,
        "translation": d,
        "scale": 1,
        "permutation": 0,
        "orthogonal": rotation,
        "orthogonal+translation": rotation + d,
        "similarity": rotation + d + 1,
        "affine": d * d + d,
    }


def choose(pair_losses: Sequence[Mapping[str, torch.Tensor]], d: int, delta: float, reach: float = 1.0) -> pd.DataFrame:
    """Choose the class with the fewest parameters among those within max(3 SE, delta) of the best; see `ladder`.

    Parameters
    ----------
    pair_losses : sequence of mappings from classes to tensors of shape (n,)
        For every pair, the losses of the held-out samples.
    d : int
        The width of the spaces.
    delta : float
    reach : float
        Share of the held-out variance that the anchors span.
    """
    # pairs share their samples, so they are averaged first and samples are what varies
    losses = {name: torch.stack([loss[name] for loss in pair_losses]).mean(dim=0) for name in pair_losses[0]}
    best = min(losses.values(), key=lambda loss: float(loss.mean()))
    lines = []
    for name, loss in losses.items():
        gap = loss - best
        error = float(gap.std()) / math.sqrt(len(gap))
        explained, parameters = 1 - float(loss.mean()), _parameters(d)[name]
        lines.append((name, explained, error, float(gap.mean()), max(3 * error, delta), parameters))
    columns = ["class", "explained_variance", "standard_error", "gap", "tolerance", "parameters"]
    frame = pd.DataFrame(lines, columns=columns)
    within = set(frame["class"][frame.gap <= frame.tolerance])
    # no relation, whatever class comes close to a constant, e.g. a factor near 0
    chosen = "constant" if "constant" in within else next(name for name in SMALLEST_FIRST if name in within)
    explained = frame.explained_variance[frame["class"] == chosen].item()
    certain = chosen in DETERMINED_BY_FEW and explained >= LEAST_REACH
    undecided = reach < LEAST_REACH and not certain
    verdict = "none" if undecided or chosen == "constant" else chosen
    return frame.assign(chosen=frame["class"] == chosen, verdict=verdict, undecided=undecided)


def _singular_values(pair: Compared) -> pd.DataFrame:
    values, simulated = pair.structure.singular_values, pair.structure.simulated
    return pd.DataFrame(
        {
            "model_a": pair.model_a,
            "model_b": pair.model_b,
            "index": np.arange(1, len(values) + 1),
            "value": values,
            "simulated": simulated,
        }
    )
