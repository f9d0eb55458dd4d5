"""How often the ladder of maps names what was planted.

Spaces with a known relation are simulated, the ladder names a class, and the answers are counted: over the
noise, the codes, the number of anchors, anisotropy, delta, and effects around delta. Needs the extras `zoo`
(tqdm) and `book` (matplotlib, seaborn).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported: processes are the parallelism

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import typer
from matplotlib import pyplot as plt
from tqdm import tqdm

from invariances.ladders import ALL_PAIRS, DELTA, SMALLEST_FIRST, ladder
from invariances.paper.plots import WIDTH, draw_heatmap, save_svg

HERE = Path(__file__).resolve().parent.parent / "book" / "characteristics"
CLASSES = ("identity", "translation", "scale", "orthogonal", "orthogonal+translation", "similarity", "affine", "none")
SCORED = 744
PRIVATE = 8
"""Dimensions of the variation that is private to each model."""
LAYOUTS = {
    "target": "two models, noise on the target",
    "both": "two models, noise on both",
    "private": "three models, private variation",
}

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Cell(NamedTuple):
    """One setting and one planted class."""

    planted: str
    codes: str = "linear"
    """"linear": Gaussian, its spectrum falling geometrically; "isotropic": Gaussian; "relu": relu of a random layer."""
    layout: str = "both"
    """A key of `LAYOUTS`. "private" has noise on all sides too."""
    reading: str = "variance"
    """Of what noise and private variation are a share: of the space's variance or of its standard deviation."""
    noise: float = 0.05
    private: float = 0.2
    features: int = 64
    anchors: int = 256
    condition: float = 10.0
    """Of the planted affine map: its largest over smallest singular value."""
    spectrum: float = 100.0
    """Of linear codes: the largest over the smallest variance of an axis."""
    delta: float = DELTA
    effect: float = 0.0
    """Size of a planted shift or scale alone, as the share of the target's variance that it explains; 0: not small."""


# Planted truths --------------------------------------------------------------------------------


def draw(cell: Cell, seed: int) -> dict[str, np.ndarray]:
    """Spaces whose relation is known.

    The first space is the latent one itself; every other is a map of the class applied to it, so that each
    pair is related by a map of that class. Noise and private variation come on top.
    """
    rng = np.random.default_rng(seed)
    x = latent(cell, rng)
    spaces = [x] + [mapped(cell, x, rng) for _ in range(2 if cell.layout == "private" else 1)]
    power = 2 if cell.reading == "std" else 1
    if cell.layout == "private":
        spaces = [y + private(y, cell.private**power, rng) for y in spaces]
    clean = 1 if cell.layout == "target" else 0
    spaces = spaces[:clean] + [y + noise(y, cell.noise**power, rng) for y in spaces[clean:]]
    return dict(zip("abc", spaces, strict=False))


def latent(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Codes of the first model, shape (n, d)."""
    n, d = cell.anchors + SCORED, cell.features
    x = rng.normal(size=(n, d))
    if cell.codes == "relu":
        return np.maximum(x @ rng.normal(size=(d, d)) / np.sqrt(d) + 0.3 * rng.normal(size=d), 0)
    deviations = np.ones(d) if cell.codes == "isotropic" else np.geomspace(1, cell.spectrum**-0.5, d)
    return x * deviations + 0.5 * deviations.mean() * rng.normal(size=d)


def mapped(cell: Cell, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random map of the planted class applied to the codes; for "none" codes of their own."""
    d, name = cell.features, cell.planted
    shift = rng.normal(size=d) * np.sqrt(0.5 * x.var(axis=0).mean())
    factor = rng.choice([0.5, 2.0])
    if cell.effect:
        total = x.var(axis=0).sum()
        shift *= np.sqrt(cell.effect * total) / np.linalg.norm(shift)
        # identity leaves (c - 1)^2 |x|^2 one way and (1 - 1/c)^2 |c x|^2 the other: the mean of both shares is log(c)^2
        factor = np.exp(np.sqrt(cell.effect * total / np.square(x).sum(axis=1).mean()))
    if name == "none":
        return latent(cell, rng) @ rotation(d, rng) + shift
    if name == "affine":
        stretch = np.geomspace(cell.condition**0.5, cell.condition**-0.5, d)
        return x @ (rotation(d, rng) * stretch @ rotation(d, rng)) + shift
    y = factor * x if name in ("scale", "similarity") else x
    y = y @ rotation(d, rng) if name in ("orthogonal", "orthogonal+translation", "similarity") else y
    return y + shift if name in ("translation", "orthogonal+translation", "similarity") else y


def rotation(d: int, rng: np.random.Generator) -> np.ndarray:
    """A uniformly random orthogonal matrix."""
    q, r = np.linalg.qr(rng.normal(size=(d, d)))
    return q * np.sign(np.diag(r))


def noise(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Independent Gaussian noise with that share of the space's variance."""
    return rng.normal(size=x.shape) * np.sqrt(share * x.var(axis=0).mean())


def private(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian variation in a few random directions with that share of the space's variance."""
    scale = np.sqrt(share * x.var(axis=0).sum() / PRIVATE)
    return scale * rng.normal(size=(len(x), PRIVATE)) @ rotation(x.shape[1], rng)[:PRIVATE]


def named(cell: Cell, seed: int) -> str:
    """The class that the ladder names."""
    torch.set_num_threads(1)
    table = ladder(draw(cell, seed), cell.anchors, seed=seed, delta=cell.delta).table
    rungs = table[table.model_a == ALL_PAIRS]
    name = rungs.loc[rungs.chosen.idxmax(), "class"]
    return "none" if name == "constant" else name


# The studies -----------------------------------------------------------------------------------


def studies(seeds: int) -> dict[str, list[tuple[Cell, int]]]:
    """All cells by study, with how many seeds each has; sweeps have a tenth of the matrices' or a fifth."""
    few, some = max(1, seeds // 10), max(1, seeds // 5)
    settings = [(codes, "variance") for codes in ("linear", "isotropic", "relu")]
    settings += [(codes, "std") for codes in ("linear", "relu")]
    sides = ("both", "private")
    return {
        "confusion": [
            (Cell(name, codes, layout, reading), seeds)
            for codes, reading in settings
            for layout in LAYOUTS
            for name in CLASSES
        ],
        "anchors": [
            (Cell(name, layout=layout, anchors=int(64 * ratio)), few)
            for layout in sides
            for ratio in (0.5, 1, 2, 4, 8)
            for name in CLASSES
        ],
        "condition": [
            (Cell("affine", layout=layout, condition=condition), some)
            for layout in sides
            for condition in (1.05, 1.2, 1.5, 2.0, 3.0, 10.0)
        ],
        "spectrum": [
            (Cell(name, layout=layout, spectrum=spectrum), few)
            for layout in sides
            for spectrum in (1.0, 10.0, 100.0, 10_000.0)
            for name in CLASSES
        ],
        "delta": [
            (Cell(name, layout=layout, delta=delta), few)
            for layout in sides
            for delta in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
            for name in CLASSES
        ],
        "effect": [
            (Cell(name, codes, effect=effect), some)
            for codes in ("linear", "relu")
            for name in ("translation", "scale")
            for effect in (0.0025, 0.005, 0.0075, 0.0125, 0.015, 0.02, 0.04)
        ],
    }


def rows(cell: Cell, counts: Counter) -> list[dict]:
    """A tidy row for every class that was named."""
    return [{**cell._asdict(), "named": name, "count": count} for name, count in sorted(counts.items())]


def finished(path: Path) -> dict[Cell, Counter]:
    """The cells that a table holds already."""
    if not path.exists():
        return {}
    # "none" is a class, not a missing value
    table = pd.read_csv(path, keep_default_na=False)
    done: dict[Cell, Counter] = {}
    for row in table.to_dict("records"):
        done.setdefault(Cell(**{field: row[field] for field in Cell._fields}), Counter())[row["named"]] += row["count"]
    return done


def save(path: Path, done: dict[Cell, Counter]) -> None:
    """Write a table in one step, so that a run that is stopped leaves a whole one."""
    temporary = path.with_name(path.name + ".part")
    pd.DataFrame([row for cell, counts in done.items() for row in rows(cell, counts)]).to_csv(temporary, index=False)
    temporary.replace(path)


@contextmanager
def workers(processes: int) -> Iterator[Callable]:
    """A ``map`` that works here, or in processes of its own."""
    if processes == 1:
        yield map
        return
    # spawned, since a forked torch may hang
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def compute(seeds: int, out: Path, processes: int) -> None:
    """Count the answers in every cell that is not finished, and save after each."""
    plan = studies(seeds)
    total = sum(count for cells in plan.values() for _, count in cells)
    with tqdm(total=total, unit="run") as bar, workers(processes) as spread:
        for study, cells in plan.items():
            bar.set_description(study)
            path = out / f"{study}.csv"
            known = finished(path)
            done = {cell: known[cell] for cell, count in cells if cell in known and known[cell].total() == count}
            for cell, count in cells:
                if cell not in done:
                    done[cell] = Counter(spread(named, [cell] * count, range(count)))
                    save(path, {cell: done[cell] for cell, _ in cells if cell in done})
                bar.update(count)


# Figures and table -----------------------------------------------------------------------------


def read(out: Path, study: str) -> pd.DataFrame:
    """A study's table, with the share of its cell's seeds that each answer got."""
    table = pd.read_csv(out / f"{study}.csv", keep_default_na=False)
    return table.assign(percent=100 * table["count"] / table.groupby(list(Cell._fields))["count"].transform("sum"))


def right(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Percent of right answers: planted classes as columns, the settings as rows."""
    hits = table.assign(percent=table.percent.where(table.named == table.planted, 0.0))
    return hits.pivot_table("percent", by, "planted", aggfunc="sum", sort=False)[list(CLASSES)]


def heatmap(values: pd.DataFrame, axes: plt.Axes, title: str, x: str, y: str = "") -> None:
    """Percent as numbers on a fixed scale; NaN is left blank."""
    written = values.map(lambda value: "" if np.isnan(value) else f"{value:.0f}").to_numpy()
    draw_heatmap(axes, values, written, 8, vmin=0, vmax=100, cmap="Blues")
    axes.set_title(title, fontsize=10)
    axes.set(xlabel=x, ylabel=y)
    axes.tick_params(length=0, labelsize=8)
    if len(str(values.columns[0])) > 6:
        axes.tick_params(axis="x", rotation=90)


def finish(figure: plt.Figure, path: Path) -> None:
    """Save without a date or version, so that equal numbers give equal files."""
    save_svg(figure, path)


def draw_confusion(out: Path) -> None:
    """Planted by named, for codes (columns) and noise (rows), noise being a share of the variance."""
    table = read(out, "confusion").query("reading == 'variance'")
    codes = table.codes.unique()
    figure, grid = plt.subplots(
        len(LAYOUTS), len(codes), figsize=(WIDTH, 10), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for axes_row, (layout, label) in zip(grid, LAYOUTS.items(), strict=True):
        for axes, code in zip(axes_row, codes, strict=True):
            part = table[(table.codes == code) & (table.layout == layout)]
            values = part.pivot_table("percent", "planted", "named", aggfunc="sum")
            values = values.reindex(index=CLASSES, columns=CLASSES)
            planted = f"{label}\n\nplanted" if axes is axes_row[0] else ""
            top, last = layout == next(iter(LAYOUTS)), layout == list(LAYOUTS)[-1]
            heatmap(values, axes, f"{code} codes" if top else "", "named" if last else "", planted)
    finish(figure, out / "confusion.svg")


def draw_sweep(out: Path, study: str, field: str, label: str, divisor: float = 1.0) -> None:
    """Percent of right answers by planted class (rows) and one setting (columns), for two and three models."""
    table = read(out, study)
    table[field] = table[field] / divisor
    figure, grid = plt.subplots(1, 2, figsize=(WIDTH, 3.3), layout="constrained", sharey=True)
    for axes, layout in zip(grid, ("both", "private"), strict=True):
        values = right(table[table.layout == layout], [field]).sort_index().T
        values.columns = [f"{value:,g}" for value in values.columns]
        heatmap(values, axes, LAYOUTS[layout], "", "planted" if layout == "both" else "")
    figure.supxlabel(label, fontsize=10)
    finish(figure, out / f"{study}.svg")


def draw_condition(out: Path) -> None:
    """What an affine map is called, by its condition number, for two and three models."""
    table = read(out, "condition")
    answers = [name for name in SMALLEST_FIRST if name in set(table.named)]
    figure, grid = plt.subplots(1, 2, figsize=(WIDTH, 3), layout="constrained", sharey=True)
    for axes, layout in zip(grid, ("both", "private"), strict=True):
        values = table[table.layout == layout].pivot_table("percent", "condition", "named", fill_value=0.0)
        values = values.reindex(columns=answers, fill_value=0.0)
        values.index = [f"{value:g}" for value in values.index]
        values.plot.bar(stacked=True, ax=axes, color=sns.color_palette("Blues", len(answers)), width=0.8, legend=False)
        axes.set(xlabel="condition number", ylabel="% of seeds")
        axes.set_title(LAYOUTS[layout], fontsize=10)
        axes.tick_params(axis="x", rotation=0)
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, title="named", frameon=False
    )
    finish(figure, out / "condition.svg")


def draw_effect(out: Path) -> None:
    """How often a small shift or scale is named, by its size."""
    table = read(out, "effect")
    hits = table.assign(percent=table.percent.where(table.named == table.planted, 0.0))
    hits["what"] = hits.planted + ", " + hits.codes + " codes"
    values = hits.pivot_table("percent", "what", "effect", aggfunc="sum", sort=False)
    values.columns = [f"{value:g}" for value in values.columns]
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    heatmap(values, axes, "% named as such", "share of the target's variance that the shift or scale explains")
    axes.axvline(sum(float(value) < DELTA for value in values.columns), color="C1", linewidth=2)
    finish(figure, out / "effect.svg")


def write_table(out: Path) -> None:
    """Right answers per class in every required cell, as HTML for the page."""
    table = read(out, "confusion")
    names = {"codes": "Codes", "reading": "5 % and 20 % of", "layout": "Models and noise"}
    readings = {"variance": "the variance", "std": "the standard deviation"}
    values = right(table, list(names)).round(1).reset_index()
    values = values.assign(layout=values.layout.map(LAYOUTS), reading=values.reading.map(readings))
    values = values.rename(columns=names).rename_axis(columns=None)
    least = f"{min(values[name].min() for name in CLASSES):g}"
    html = values.to_html(index=False, border=0, classes="companion", float_format="{:g}".format)
    # a blank line would end the block of HTML
    (out / "confusion.md").write_text(
        f"In percent, by planted class; the least is {least} %.\n\n"
        f'<div class="table-scroll" tabindex="0">\n{html}\n</div>\n',
        encoding="utf-8",
    )


def show(out: Path) -> None:
    """Draw all figures and write the table."""
    draw_confusion(out)
    draw_sweep(out, "anchors", "anchors", "anchors over features", divisor=Cell("none").features)
    draw_condition(out)
    draw_sweep(out, "spectrum", "spectrum", "largest over smallest variance of an axis")
    draw_sweep(out, "delta", "delta", "delta")
    draw_effect(out)
    write_table(out)


@app.command(epilog="\b\nExample:\n  python benchmarks/operating_characteristics.py --seeds 100 --processes 2")
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Per cell of the confusion matrices; sweeps take a part.")] = 100,
    out: Annotated[
        Path, typer.Option(help="Folder of tables and figures.", show_default="book/characteristics")
    ] = HERE,
    processes: Annotated[int, typer.Option(min=1, help="How many work at a time.")] = 1,
) -> None:
    """Plant relations between spaces, count what the ladder names, and draw it.

    A run that was stopped goes on from the cells that are finished; cells with another number of seeds are
    computed anew. 100 seeds take 20 to 25 minutes on one core.
    """
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    compute(seeds, out, processes)
    show(out)
    table = read(out, "confusion")
    worst = right(table, ["codes", "reading", "layout"]).min().min()
    typer.echo(f"{(time.perf_counter() - start) / 60:.1f} minutes; least right answers in a cell: {worst:g} %")


if __name__ == "__main__":
    app()
