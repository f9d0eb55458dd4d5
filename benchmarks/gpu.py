"""What a GPU gives: stacked training, mixed precision, transfer, CKA and the ladder, each beside what it replaces.

Takes at most four minutes. Needs the extra `zoo`, a CUDA device, and MNIST under INVARIANCES_DATA (or the hub); with
`--profile smoke` embedded digits. Where there is no CUDA device it says so and ends.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import typer

from invariances import align, ladder, pairwise, threads
from invariances.paper import plan
from invariances.paper.settings import check
from invariances.zoo import datasets, training
from invariances.zoo.networks import Model
from invariances.zoo.recipes import Network, Recipe
from invariances.zoo.trained import embed, evaluate, fresh_model

HERE = Path(__file__).resolve().parent.parent / "book" / "speed"
CPU = torch.device("cpu")
FAMILY = 10
"""Seeds that are trained as one."""
EPOCHS = 3
MIB = 2**20
STEPS = {"cnn": 40, "vit": 10}
"""Steps of training that are timed in either precision."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Sizes(NamedTuple):
    """What is run; smoke only shows that it works."""

    transfer: int = 512 * MIB
    cka: tuple[int, int, int] = (4000, 512, 32)
    """Samples, width, models."""
    ladder: tuple[int, int, int, int] = (20_000, 256, 5, 600)
    """The same, and anchors."""
    rounds: int = 3


SIZES = {"smoke": Sizes(2**20, (300, 16, 4), (700, 16, 3, 60), 1), "laptop": Sizes()}


class Line(NamedTuple):
    """One comparison."""

    part: str
    what: str
    beside: str
    """What it is compared with."""
    seconds: float
    ratio: float
    """Time of what it is compared with, over its own."""
    difference: float
    """Of the results, as the table's head says for its part; NaN where there is none."""
    memory_mib: float
    """Most memory of the device that tensors took."""


# Timing ------------------------------------------------------------------------------------------


def settled(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: torch.device, rounds: int = 1) -> tuple[float, Any]:
    """Median seconds of `rounds` runs, and what the last one returned."""
    seconds, found = [], None
    for _ in range(rounds):
        settled(device)
        start = time.perf_counter()
        found = run()
        settled(device)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), found


@contextmanager
def peak(device: torch.device) -> Iterator[list[float]]:
    """Append, at the end, how many MiB of the device's memory tensors took at most."""
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    found.append(torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else float("nan"))


@contextmanager
def float32() -> Iterator[None]:
    """Training as on a GPU, but without mixed precision."""
    with patch.object(torch, "autocast", lambda *args, **kwargs: nullcontext()):
        yield


@contextmanager
def empty_store() -> Iterator[None]:
    """A store of its own, so that nothing is there already."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"INVARIANCES_HOME": folder}):
        yield


# What is measured --------------------------------------------------------------------------------


def family(profile: str) -> list[Recipe]:
    """Ten seeds of MNIST's network."""
    settings = check("initialization", {"profile": profile, "datasets": "mnist", "seeds": FAMILY})
    recipes = plan.rows(settings)["MNIST"].groups[0].recipes.values()
    return [replace(recipe, training=replace(recipe.training, epochs=EPOCHS)) for recipe in recipes]


def stacked_training(recipes: list[Recipe], gpu: torch.device) -> Iterator[Line]:
    """Ten seeds as one, beside one after the other."""
    few = [replace(recipe, training=replace(recipe.training, epochs=1)) for recipe in recipes]
    training.train(few[:1], gpu)  # the first step of a process is slow
    with peak(gpu) as loop_memory:
        loop, alone = timed(lambda: [training.train([recipe], gpu)[0] for recipe in recipes], gpu)
    training.train(few, gpu)
    with peak(gpu) as memory:
        seconds, together = timed(lambda: training.train(recipes, gpu), gpu)
    reached = [np.mean([one.note["scores"]["accuracy"] for one in some]) for some in (alone, together)]
    yield Line("training", "ten seeds one by one", "itself", loop, 1.0, np.nan, loop_memory[0])
    yield Line(
        "training", "ten seeds stacked", "one by one", seconds, loop / seconds, reached[1] - reached[0], memory[0]
    )


def mixed_precision(recipe: Recipe, gpu: torch.device, rounds: int) -> Iterator[Line]:
    """Steps of training in bfloat16 beside float32, for the network of the family and for a ViT-Base."""
    wide = Network("vit", 12, 768, patch=4, heads=12) if rounds > 1 else Network("vit", 2, 32, patch=4, heads=2)
    for network in (recipe.network, wide):
        one = replace(recipe, network=network, training=replace(recipe.training, epochs=1, batch_size=128))
        rows = STEPS[network.family] * 128
        found: dict[str, tuple[float, float]] = {}
        for name, precision in (("float32", float32), ("bfloat16", nullcontext)):
            with precision():
                steps_of(one, gpu, 2 * 128)()
                with peak(gpu) as memory:
                    seconds, _ = timed(steps_of(one, gpu, rows), gpu, rounds)
            found[name] = seconds, memory[0]
        title = {"cnn": "CNN-3", "vit": f"ViT, {network.depth} layers of width {network.dim}"}[network.family]
        plain, mixed = found["float32"], found["bfloat16"]
        yield Line("precision", f"{title}: float32", "itself", plain[0], 1.0, np.nan, plain[1])
        yield Line("precision", f"{title}: bfloat16", "float32", mixed[0], plain[0] / mixed[0], np.nan, mixed[1])


def steps_of(recipe: Recipe, device: torch.device, rows: int) -> Callable[[], None]:
    """An epoch over the first `rows` training samples."""
    prepared = datasets.load(recipe.data)
    data = {name: torch.from_numpy(array).to(device) for name, array in prepared.arrays.items()}
    some = {name: data[name][:rows] for name in ("train_x", "train_y")} | {"parallel_x": data["train_x"][:100]}

    def run() -> None:
        torch.manual_seed(0)
        model = fresh_model(recipe, prepared).to(device)
        fitted_here(model, recipe, some, device)

    return run


def fitted_here(model: Model, recipe: Recipe, data: dict[str, torch.Tensor], device: torch.device) -> None:
    """Train in place, with draws that are the same on every device."""
    seeded = training.Seeded([model], ["benchmark"], [torch.get_rng_state()], [torch.Generator().manual_seed(0)])
    with training.deterministic(device):
        training.fit(seeded, recipe, data, lambda *_, **__: None)


def transfer(gpu: torch.device, bytes_: int, rounds: int) -> Iterator[Line]:
    """Memory of the host to the device and back, pageable and pinned."""
    pageable = torch.zeros(bytes_, dtype=torch.uint8)
    on_device, pageable_seconds = pageable.to(gpu), np.nan
    kinds = {"pageable": pageable, "pinned": pageable.pin_memory() if gpu.type == "cuda" else pageable.clone()}
    for way, (name, host) in product(("to the device", "back"), kinds.items()):
        ends = (on_device, host) if way == "to the device" else (host, on_device)
        seconds, _ = timed(lambda ends=ends: ends[0].copy_(ends[1], non_blocking=False), gpu, 3 * rounds)
        pageable_seconds = seconds if name == "pageable" else pageable_seconds
        ratio = pageable_seconds / seconds
        yield Line("transfer", f"{bytes_ // MIB} MiB {way}, {name}", "pageable", seconds, ratio, np.nan, np.nan)


def spaces_like(n: int, d: int, count: int) -> dict[str, torch.Tensor]:
    """Spaces of one latent of a quarter of the width, each with its own map and noise; float32."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((n, d // 4))
    return {
        str(i): torch.from_numpy(
            (latent @ rng.standard_normal((d // 4, d)) + 0.5 * rng.standard_normal((n, d))).astype("f4")
        )
        for i in range(count)
    }


def scoring(gpu: torch.device, sizes: Sizes) -> Iterator[Line]:
    """CKA of all pairs, and the ladder, on the device beside the processor's cores."""
    spaces = spaces_like(*sizes.cka)
    yield from on_both(
        "CKA of all pairs", lambda given: pairwise(given, "cka").to_numpy(float), spaces, gpu, sizes.rounds
    )
    *shape, anchors = sizes.ladder
    spaces = spaces_like(*shape)
    yield from on_both(
        "ladder, all pairs",
        lambda given: ladder(given, anchors=anchors).table.explained_variance.to_numpy(float),
        spaces,
        gpu,
        1,
    )


def on_both(
    what: str,
    run: Callable[[Mapping[str, torch.Tensor]], np.ndarray],
    spaces: Mapping[str, torch.Tensor],
    gpu: torch.device,
    rounds: int,
) -> Iterator[Line]:
    """One function on the processor, with all its cores, and on the device, from spaces that lie there."""
    there = {name: space.to(gpu) for name, space in spaces.items()}
    run(dict(list(there.items())[:3]))
    before = torch.get_num_threads()
    torch.set_num_threads(threads.cores())
    run(dict(list(spaces.items())[:3]))
    here_seconds, here = timed(lambda: run(spaces), CPU, rounds)
    torch.set_num_threads(before)
    with peak(gpu) as memory:
        seconds, found = timed(lambda: run(there), gpu, rounds)
    yield Line("scoring", f"{what}: CPU", "itself", here_seconds, 1.0, np.nan, np.nan)
    yield Line("scoring", f"{what}: GPU", "CPU", seconds, here_seconds / seconds, np.abs(found - here).max(), memory[0])


def same_spaces(recipe: Recipe, gpu: torch.device) -> Iterator[Line]:
    """How well the spaces align of one model that is trained from the same weights on the CPU and on the GPU."""
    prepared = datasets.load(recipe.data)
    found, seconds = {}, {}
    ways = {"CPU": (CPU, nullcontext), "GPU, float32": (gpu, float32), "GPU, bfloat16": (gpu, nullcontext)}
    for name, (device, precision) in ways.items():
        data = {key: torch.from_numpy(array).to(device) for key, array in prepared.arrays.items()}
        torch.manual_seed(0)
        model = fresh_model(recipe, prepared).to(device)
        with precision():
            seconds[name], _ = timed(lambda m=model, d=data, on=device: fitted_here(m, recipe, d, on), device)
        found[name] = embed(model, data)
        accuracy = evaluate(model, recipe, data, found[name])["accuracy"]
        typer.echo(f"  trained on {name}: {100 * accuracy:.1f} % of the test samples are right", err=True)
    here = {name: torch.from_numpy(array) for name, array in prepared.arrays.items()}
    found["the GPU's model, embedded on the CPU"] = embed(model.to(CPU), here)
    whole = {name: torch.cat([part["pool"], part["test"]]).cpu() for name, part in found.items()}
    anchors = min(500, len(found["CPU"]["pool"]) // 2)
    yield Line("spaces", "CPU, one thread", "itself", seconds["CPU"], 1.0, np.nan, np.nan)
    for name, beside in (
        ("GPU, float32", "CPU"),
        ("GPU, bfloat16", "CPU"),
        ("the GPU's model, embedded on the CPU", "GPU, bfloat16"),
    ):
        pair = {"a": whole[name], "b": whole[beside]}
        table = align(pair, np.arange(anchors), ["affine"], ["cosine"])
        ratio = seconds[beside] / seconds[name] if name in seconds else np.nan
        yield Line("spaces", name, beside, seconds.get(name, np.nan), ratio, float(table.calibrated.mean()), np.nan)


# The table ---------------------------------------------------------------------------------------

LAST_COLUMN = {
    "training": "Accuracy, difference",
    "scoring": "Scores differ by at most",
    "spaces": "Calibrated affine alignment",
}
"""What `difference` holds, by part."""
TITLES = {
    "training": "Ten seeds of MNIST's CNN, three epochs",
    "precision": "Mixed precision, 128 pictures a step",
    "transfer": "Transfer",
    "scoring": "Scoring",
    "spaces": "The same model trained on both devices",
}


def as_markdown(table: pd.DataFrame, card: str, torch_version: str, cores: int) -> str:
    """The lines by part, with the name of the card."""
    lines = [f"Measured on one {card} beside {cores} cores of its host, torch {torch_version}, in one run.", ""]
    for part, rows in table.groupby("part", sort=False):
        last = LAST_COLUMN.get(part)
        heads = [TITLES[part], "Seconds", "Faster by", "Peak memory, MiB", *([last] if last else [])]
        lines += ["| " + " | ".join(heads) + " |", "| --- |" + " --- |" * (len(heads) - 1)]
        for row in rows.itertuples():
            shown = row.beside != "itself" and not np.isnan(row.ratio)
            beside = f"{_number(row.ratio)} × ({row.beside})" if shown else ""
            cells = [row.what, _number(row.seconds), beside, _number(row.memory_mib)]
            cells += [_number(row.difference)] if last else []
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _number(value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}" if abs(value) > 1e-3 else f"{value:.1g}"


@app.command(epilog="\b\nExample:\n  INVARIANCES_DATA=path/to/parquet python benchmarks/gpu.py")
def main(
    profile: Annotated[str, typer.Option(help="laptop, or smoke to see that it works")] = "laptop",
    device: Annotated[str, typer.Option(help="cuda, or cpu to see that it works")] = "cuda",
    into: Annotated[Path, typer.Option(help="Folder for the tables.", show_default="book/speed")] = HERE,
) -> None:
    """Measure what a GPU gives, and write the table of the book's page on speed."""
    if profile not in SIZES:
        raise typer.BadParameter(f"there is no profile {profile}; choose from {', '.join(SIZES)}")
    if device == "cuda" and not torch.cuda.is_available():
        typer.echo("torch sees no CUDA device here, so nothing was measured; run this on a machine with a GPU")
        return
    gpu, sizes, lines = torch.device(device), SIZES[profile], []
    with ExitStack() as stack:
        stack.enter_context(empty_store())
        recipes = family(profile)
        for part in (
            transfer(gpu, sizes.transfer, sizes.rounds),
            stacked_training(recipes, gpu),
            mixed_precision(recipes[0], gpu, sizes.rounds),
            scoring(gpu, sizes),
            same_spaces(recipes[0], gpu),
        ):
            for line in part:
                typer.echo(
                    f"{line.part}: {line.what}, {line.seconds:.3g} s, {line.ratio:.3g} × {line.beside}", err=True
                )
                lines.append(line)
    table = pd.DataFrame(lines)
    card = torch.cuda.get_device_name(gpu) if gpu.type == "cuda" else "CPU that stands in for a GPU"
    into.mkdir(parents=True, exist_ok=True)
    table.assign(card=card).to_csv(into / "gpu.csv", index=False, float_format="%.5g")
    (into / "gpu.md").write_text(as_markdown(table, card, torch.__version__, threads.cores()), encoding="utf-8")
    typer.echo((into / "gpu.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    app()
