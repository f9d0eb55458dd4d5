"""How often the intervals over models cover the truth, and how often the prediction test is wrong.

Everything is simulated, so that the truth is known. Needs the extras `zoo` (tqdm) and `book` (matplotlib).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from scipy.stats import rankdata
from scipy.stats import t as student
from tqdm import tqdm

from invariances.intervals import one_group, two_groups
from invariances.paper.plots import WIDTH, panels, save_svg
from invariances.prediction import held_out, permutation_test, relabellings

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
BOUNDS = (0.90, 0.98)
ALLOWED = 0.08
HERE = Path(__file__).resolve().parent.parent / "book" / "characteristics"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


def _exponential(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.exponential(size=shape) - 1


def _lognormal(sigma: float) -> Draw:
    """Standardized; skewness 1.7 for sigma 0.5, 6.2 for sigma 1."""
    mean, variance = np.exp(sigma**2 / 2), np.expm1(sigma**2) * np.exp(sigma**2)
    return lambda rng, shape: (np.exp(sigma * rng.normal(size=shape)) - mean) / np.sqrt(variance)


def _failing(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One model in ten is far below the others."""
    return np.where(rng.random(shape) < 0.1, -1.0, 0.0) + 0.02 * rng.normal(size=shape)


class World(NamedTuple):
    """How scores come about: effects of the two models, and what they make with a residual of the pair."""

    draw: Draw
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _additive(draw: Draw, of_models: float, of_pairs: float) -> World:
    return World(draw, lambda a, b, e: of_models * (a + b) + of_pairs * e)


BALANCES = {
    "models dominate": (1.0, 0.1),
    "equal": (1.0, 1.0),
    "pairs dominate": (0.1, 1.0),
}
WORLDS = {
    (name, balance): _additive(draw, *weights)
    for name, draw in {"normal": _normal, "exponential": _exponential, "lognormal": _lognormal(0.5)}.items()
    for balance, weights in BALANCES.items()
} | {
    ("normal", "pairs only"): _additive(_normal, 0.0, 1.0),
    ("product", "lognormal factors"): World(
        lambda rng, shape: np.exp(0.5 * rng.normal(size=shape)), lambda a, b, e: a * b
    ),
    ("ceiling", "product of betas"): World(lambda rng, shape: rng.beta(9, 1, size=shape), lambda a, b, e: a * b),
    ("ceiling", "logistic"): World(_normal, lambda a, b, e: 1 / (1 + np.exp(-2 - a - b - e))),
    ("ceiling", "cut at 1"): World(_normal, lambda a, b, e: np.minimum(1, 0.9 + 0.05 * (a + b + e))),
    ("heavy tail", "lognormal, sigma 1"): _additive(_lognormal(1.0), 1.0, 0.1),
    ("heavy tail", "1 model in 10 fails"): _additive(_failing, 1.0, 0.05),
}
"""Scores by kind of effect and balance; all that add effects have the mean of their sum, 0 unless models fail."""


class Cell(NamedTuple):
    """One line of the coverage table."""

    world: tuple[str, str]
    sizes: tuple[int, ...]
    ordered: bool = False
    missing: bool = False
    """Whether the first pair has no score."""
    one_sided: bool = False
    """Whether only the second group's models differ."""

    @property
    def claimed(self) -> bool:
        """Whether the library promises the bounds here."""
        jackknife = self.missing or self.sizes == (3,)
        return self.world[0] != "heavy tail" and not jackknife


def _cells() -> list[Cell]:
    cells = []
    for sizes in ((3,), (4,), (5,), (10,), (20,), (3, 3), (5, 5), (10, 10), (10, 3)):
        for world in WORLDS:
            directions = (False, True) if world[0] in ("normal", "exponential", "lognormal") else (False,)
            cells += [Cell(world, sizes, ordered) for ordered in directions]
        if len(sizes) == 2:
            cells += [Cell((kind, "models dominate"), sizes, one_sided=True) for kind in ("normal", "exponential")]
    kept = [("normal", "models dominate"), ("normal", "equal"), ("normal", "pairs only"), ("exponential", "equal")]
    kept += [("exponential", "models dominate")]
    cells += [Cell(world, sizes, missing=True) for sizes in ((5,), (10,), (5, 5)) for world in kept]
    return cells


def _scores(cell: Cell, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Matrices of scores, both directions averaged, of shape (replicates, N, N) or (replicates, N_a, N_b)."""
    n = sum(cell.sizes)
    world = WORLDS[cell.world]
    sends = world.draw(rng, (replicates, n))
    if cell.one_sided:
        sends[:, : cell.sizes[0]] = 0
    shared = np.triu(rng.normal(size=(replicates, n, n)), 1)
    shared += shared.swapaxes(1, 2)
    receives, residual = sends, shared
    if cell.ordered:  # a model that sends well receives well, at 0.5; so do the two directions of a pair
        receives = 0.5 * sends + np.sqrt(0.75) * world.draw(rng, (replicates, n))
        residual = np.sqrt(0.5) * (shared + rng.normal(size=(replicates, n, n)))
    scores = world.score(sends[:, :, None], receives[:, None, :], residual)
    scores = (scores + scores.swapaxes(1, 2)) / 2
    if len(cell.sizes) == 2:
        scores = scores[:, : cell.sizes[0], cell.sizes[0] :]
    if cell.missing:
        scores[:, 0, 1] = np.nan
        if len(cell.sizes) == 1:
            scores[:, 1, 0] = np.nan
    return scores


def _truth(world: World, seed: int, draws: int = 4_000_000) -> float:
    rng = np.random.default_rng([seed, 1])
    return float(world.score(world.draw(rng, (draws,)), world.draw(rng, (draws,)), rng.normal(size=draws)).mean())


def coverage(replicates: int, seed: int) -> pd.DataFrame:
    """Coverage of the 95 % interval, and of the one that takes pairs for independent units.

    Columns: `covered` and `covered_naive` (shares), `too_low` and `too_high` (shares of intervals
    on either side of the truth), `stretch` (mean ratio of the longer half to the shorter one).
    """
    truths = {
        key: 0.0 if world.draw in (_normal, _exponential) and key[0] != "ceiling" else _truth(world, seed)
        for key, world in tqdm(WORLDS.items(), desc="true means")
    }
    lines = []
    for i, cell in enumerate(tqdm(_cells(), desc="coverage")):
        scores = _scores(cell, replicates, np.random.default_rng([seed, 2, i]))
        truth = truths[cell.world]
        mean, low, high = (one_group if len(cell.sizes) == 1 else two_groups)(scores)
        off = np.triu_indices(cell.sizes[0], 1) if len(cell.sizes) == 1 else np.indices(cell.sizes).reshape(2, -1)
        pairs = scores[:, off[0], off[1]]
        naive = 1.96 * np.nanstd(pairs, axis=1, ddof=1) / np.sqrt((~np.isnan(pairs)).sum(1))
        halves = np.sort([mean - low, high - mean], axis=0)
        lines.append(
            {
                "models": " + ".join(map(str, cell.sizes)),
                "effects": cell.world[0],
                "balance": cell.world[1] + (", one group only" if cell.one_sided else ""),
                "pairs": "ordered" if cell.ordered else "unordered",
                "missing": int(cell.missing),
                "claimed": cell.claimed,
                "covered": np.mean((low <= truth) & (truth <= high)),
                "too_low": np.mean(high < truth),
                "too_high": np.mean(low > truth),
                "stretch": np.mean(halves[1, halves[0] > 0] / halves[0, halves[0] > 0]),
                "covered_naive": np.mean(np.abs(mean - truth) <= naive),
                "replicates": replicates,
            }
        )
    return pd.DataFrame(lines)


def prediction(replicates: int, seed: int) -> pd.DataFrame:
    """Share of tables where a test calls alignment a predictor of retention.

    Columns: `significant` (joint permutation of model labels, p <= 0.05), `significant_naive` (the
    usual p of Spearman's correlation, pairs taken for independent), `helps_held_out` (the
    line beats the mean for held-out models). Without a relation these are false positives.
    """
    cells = [
        (sizes, symmetric, draw, balance, relation)
        for sizes in ((5,), (10,), (3, 3), (5, 5))
        for symmetric in (True, False)
        for draw in ("normal", "exponential")
        for balance in BALANCES
        for relation in (0.0, 1.0)
        if relation == 0 or (draw == "normal" and balance == "equal")
    ]
    lines = []
    for i, (sizes, symmetric, draw, balance, relation) in enumerate(tqdm(cells, desc="prediction")):
        rng = np.random.default_rng([seed, 3, i])
        x = _directed(rng, sizes, WORLDS[draw, balance], symmetric, replicates)
        y = _directed(rng, sizes, WORLDS[draw, balance], False, replicates) + relation * x
        relabelled = relabellings(sizes, seed=seed)
        tests = np.array([permutation_test(a, b, relabelled) for a, b in zip(x, y, strict=True)])
        helps = np.array([held_out(a, b)[0] for a, b in zip(x, y, strict=True)]) > 0
        lines.append(
            {
                "models": " + ".join(map(str, sizes)),
                "alignment": "symmetric" if symmetric else "ordered",
                "effects": draw,
                "balance": balance,
                "relation": relation,
                "significant": np.mean(tests[:, 1] <= 0.05),
                "significant_naive": np.mean(_naive_p(x, y) <= 0.05),
                "helps_held_out": helps.mean(),
                "replicates": replicates,
            }
        )
    return pd.DataFrame(lines)


def _directed(
    rng: np.random.Generator, sizes: tuple[int, ...], world: World, symmetric: bool, replicates: int
) -> np.ndarray:
    """Matrices with NaN where no pair is scored; ordered ones have effects of their own for senders and receivers."""
    n = sum(sizes)
    effects = world.draw(rng, (replicates, n))
    residual = rng.normal(size=(replicates, n, n))
    scores = world.score(
        effects[:, :, None], (effects if symmetric else world.draw(rng, (replicates, n)))[:, None, :], residual
    )
    if symmetric:
        scores = np.triu(scores, 1) + np.triu(scores, 1).swapaxes(1, 2)
    unscored = np.eye(n, dtype=bool)
    if len(sizes) == 2:
        first = np.arange(n) < sizes[0]
        unscored = first[:, None] == first[None, :]
    return np.where(unscored, np.nan, scores)


def _naive_p(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The usual two-sided p of Spearman's correlation, by Student's t."""
    scored = ~np.isnan(x[0])
    ranks = [rankdata(side[:, scored], axis=1) for side in (x, y)]
    x, y = (side - side.mean(1, keepdims=True) for side in ranks)
    rho = (x * y).sum(1) / np.sqrt(np.square(x).sum(1) * np.square(y).sum(1))
    freedom = x.shape[1] - 2
    return 2 * student.sf(np.abs(rho) * np.sqrt(freedom / (1 - rho**2)), freedom)


def draw_coverage(table: pd.DataFrame, path: Path) -> None:
    """A panel for each number of models, a line for each kind of effect; ordered pairs share their line."""
    gaps = np.where(table.missing == 1, ", a pair missing", "")
    table = table.assign(
        line=table.effects + ": " + table.balance + gaps, grouped=table.models.str.contains("+", regex=False)
    )
    order = list(dict.fromkeys(table.sort_values("claimed", ascending=False, kind="stable").line))[::-1]
    numbers = list(dict.fromkeys(table.sort_values("grouped", kind="stable").models))
    figure, axes = panels(len(numbers), 3, (WIDTH / 3, 0.17 * len(order) + 0.7), extra_height=0.6, sharey=True)
    for i, (models, ax) in enumerate(zip(numbers, axes, strict=True)):
        _draw_panel(ax, table[table.models == models], order)
        ax.set(title=f"{models} models", xlim=(0.22, 1.02), ylim=(-0.7, len(order) - 0.3), xticks=[0.3, 0.6, 0.9])
        if i % 3 == 0:
            ax.set_yticks(range(len(order)), order, fontsize=7.5)
    figure.supxlabel("share of 95 % intervals that cover the true mean; line: 0.95, band: 0.90 to 0.98", fontsize=9)
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    save_svg(figure, path)


def _draw_panel(ax: plt.Axes, part: pd.DataFrame, order: list[str]) -> None:
    ax.axvspan(*BOUNDS, color="C0", alpha=0.13, linewidth=0)
    ax.axvline(0.95, color="C0", linewidth=0.8)
    naive = "pairs taken for independent units"
    ax.plot(part.covered_naive, [order.index(line) for line in part.line], "|", color="0.5", markersize=6, label=naive)
    for claimed, face, label in ((True, "C0", "over models"), (False, "white", "over models, nothing promised")):
        some = part[part.claimed == claimed]
        heights = [order.index(line) for line in some.line]
        ax.plot(some.covered, heights, "o", color="C0", markerfacecolor=face, markersize=4, label=label)
    ax.grid(axis="y", color="0.93")
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8, labelbottom=True)


def draw_prediction(table: pd.DataFrame, path: Path) -> None:
    """False positives of the two tests, and their power where there is a relation."""
    table = table.assign(
        line=[
            f"{a}, {e}, {b}" for a, e, b in zip(*(table[c] for c in ("alignment", "effects", "balance")), strict=True)
        ]
    )
    numbers = list(dict.fromkeys(table.models))
    figure, axes = plt.subplots(
        2,
        len(numbers),
        figsize=(WIDTH, 6),
        height_ratios=[table[table.relation == 0].line.nunique(), 1 + table[table.relation > 0].line.nunique()],
        sharex=True,
        sharey="row",
        layout="constrained",
    )
    for row, none in zip(axes, (True, False), strict=True):
        part = table[(table.relation == 0) == none]
        order = list(dict.fromkeys(part.line))[::-1]
        for ax, models in zip(row, numbers, strict=True):
            own = part[part.models == models]
            heights = [order.index(line) for line in own.line]
            if none:
                ax.axvspan(0, ALLOWED, color="C0", alpha=0.13, linewidth=0)
                ax.set_title(f"{models} models", fontsize=9)
            ax.plot(own.significant, heights, "o", color="C0", markersize=5, label="model labels permuted")
            ax.plot(own.significant_naive, heights, "|", color="0.45", markersize=9, label="usual p of Spearman's rho")
            ax.plot(
                own.helps_held_out, heights, "x", color="C1", markersize=5, label="line beats mean, held-out models"
            )
            ax.axvline(0.05, color="C0", linewidth=0.8)
            ax.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(order) - 0.4), xticks=[0, 0.5, 1])
            ax.grid(axis="y", color="0.93")
            ax.set_axisbelow(True)
        row[0].set_yticks(range(len(order)), order, fontsize=7.5)
        row[0].set_ylabel("no relation" if none else "a relation", fontsize=9)
    figure.supxlabel("share of tables called significant at 0.05; band: at most 0.08 allowed", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    save_svg(figure, path)


@app.command(epilog="\b\nExample:\n  python benchmarks/coverage.py --replicates 2000 --tests 200 --into /tmp/coverage")
def main(
    replicates: Annotated[
        int, typer.Option(min=2, help="Tables of pairs for each cell of the coverage table.")
    ] = 20000,
    tests: Annotated[int, typer.Option(min=2, help="Tables for each cell of the prediction table.")] = 2000,
    seed: Annotated[int, typer.Option(help="Everything random comes from it.")] = 0,
    into: Annotated[
        Path, typer.Option(help="Folder for the two CSV files and their figures.", show_default="book/characteristics")
    ] = HERE,
) -> None:
    """Simulate how the intervals over models and the prediction test behave, and draw it.

    Writes coverage.csv, coverage.svg, prediction.csv and prediction.svg. One core.
    """
    into.mkdir(parents=True, exist_ok=True)
    covered = coverage(replicates, seed)
    covered.to_csv(into / "coverage.csv", index=False, float_format="%.5g")
    draw_coverage(covered, into / "coverage.svg")
    predicted = prediction(tests, seed)
    predicted.to_csv(into / "prediction.csv", index=False, float_format="%.5g")
    draw_prediction(predicted, into / "prediction.svg")
    claimed, null = covered[covered.claimed], predicted[predicted.relation == 0]
    typer.echo(f"coverage where promised: {claimed.covered.min():.3f} to {claimed.covered.max():.3f}")
    typer.echo(f"false positives: at most {null.significant.max():.3f}, usual p {null.significant_naive.max():.3f}")


if __name__ == "__main__":
    app()
