"""Training on a CPU: which part of a step takes the time, and what other ways of computing it would take.

Nothing here alters how models are trained: a way that gives other bits waits for another version of the recipes. Needs
the extra `zoo` and, but for `--profile smoke`, the data sets under INVARIANCES_DATA (or the hub). A table stands in
`parts.csv`: seconds of one core for a whole model by part; another in `ways.csv`: time of a step over that of today's.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, NamedTuple
from unittest.mock import patch

import pandas as pd
import torch
import typer
from torch import nn
from tqdm import tqdm

from invariances.paper import plan
from invariances.paper.settings import check
from invariances.zoo import checkpoints, datasets, heads, networks, trained, training, workers
from invariances.zoo.heads import HeadRecipe, ProductHead
from invariances.zoo.networks import Model
from invariances.zoo.recipes import Recipe, Training

HERE = Path(__file__).resolve().parent.parent / "book" / "zoo" / "training"
CPU = torch.device("cpu")
SECONDS = 0.4
"""How long a way of training is timed in one round, about."""
PARTS = ("data", "anchors", "forward", "backward", "clipping", "optimizer", "rest of the loop", "evaluation")
STUDIES = ("parts", "ways")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Kind(NamedTuple):
    """Models of one kind, by the row of the paper that has them."""

    name: str
    section: str
    row: str
    group: int = 0
    field: str = "recipes"


KINDS = (
    Kind("CNN-3", "initialization", "MNIST"),
    Kind("CNN-3, augmented", "initialization", "CIFAR-10"),
    Kind("CNN-5, augmented", "architecture", "CNN-3 vs CNN-5", 1),
    Kind("ViT-Small, augmented", "architecture", "ViT-Small vs ViT-Base"),
    Kind("ViT-Base, augmented", "architecture", "ViT-Small vs ViT-Base", 1),
    Kind("autoencoder", "stitching", "MNIST"),
    Kind("autoencoder, relative", "stitching", "MNIST", 0, "relative"),
    Kind("decoder on a product", "stitching", "MNIST", 0, "product"),
    Kind("BERT, questions", "stitching", "TREC"),
    Kind("BERT, questions, relative", "stitching", "TREC", 0, "relative"),
    Kind("BERT, reviews", "training", "Amazon Reviews: Batch 32 vs 128"),
)
DATASETS = {
    "initialization": "mnist,cifar-10",
    "architecture": "cifar-10",
    "training": "amazon",
    "stitching": "mnist,trec",
}


class Case(NamedTuple):
    """A model that is to be trained, or the head of one."""

    module: nn.Module
    recipe: Recipe
    """As `training.fit` takes it."""
    data: dict[str, torch.Tensor]

    def steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.training.epochs * math.ceil(len(self.data["train_x"]) / self.recipe.training.batch_size)


def cases(profile: str) -> Iterator[tuple[Kind, Case]]:
    """A model of every kind, with fresh weights."""
    for kind in KINDS:
        settings = check(kind.section, {"profile": profile, "datasets": DATASETS[kind.section]})
        group = plan.rows(settings)[kind.row].groups[kind.group]
        yield kind, case_of(next(iter(getattr(group, kind.field).values())))


def case_of(recipe: Recipe | HeadRecipe) -> Case:
    """A recipe's network and data; what a head reads is drawn, since its values cost nothing."""
    base = recipe.base if isinstance(recipe, HeadRecipe) else recipe
    prepared = datasets.load(base.data)
    data = {name: torch.from_numpy(array) for name, array in prepared.arrays.items()}
    torch.manual_seed(0)
    if isinstance(recipe, Recipe):
        return Case(trained.fresh_model(recipe, prepared), recipe, data)
    drawn = torch.rand(len(data["train_x"]), len(recipe.similarities), recipe.anchors)
    data = {"train_x": drawn, "train_y": data["train_y"], "pictures": data["train_x"], "test_x": data["test_x"]}
    its_plan = Training(recipe.epochs, recipe.batch_size, lr=recipe.lr)
    return Case(heads._fresh(recipe, prepared, "0" * 20), replace(base, training=its_plan, anchors=0), data)


def fitted(case: Case, steps: int) -> tuple[nn.Module, float]:
    """A copy of the module after some steps, and the seconds of the processor that they took."""
    module, rows = copy.deepcopy(case.module), steps * case.recipe.training.batch_size
    some = {name: case.data[name][:rows] for name in ("train_x", "train_y", "pictures") if name in case.data}
    seeded = training.Seeded([module], ["benchmark"], [torch.get_rng_state()], [torch.Generator().manual_seed(0)])
    short = replace(case.recipe, training=replace(case.recipe.training, epochs=1))
    start = time.process_time()
    training.fit(seeded, short, {**some, "parallel_x": trained.pool(case.data)}, lambda *_, **__: None)
    return module, time.process_time() - start


# The parts of training -------------------------------------------------------------------------


@contextmanager
def watched(seconds: Counter) -> Iterator[None]:
    """Add up what the parts of `training.fit` take."""

    def timed(part: str, function: Callable) -> Callable:
        @wraps(function)
        def run(*args: object, **kwargs: object) -> object:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[part] += time.process_time() - start

        return run

    def optimizer(network: nn.Module, its_plan: Training) -> torch.optim.Optimizer:
        made = make_optimizer(network, its_plan)
        made.step = timed("optimizer", made.step)
        return made

    make_optimizer = training._optimizer
    places = [
        (checkpoints.Run, "drawn", "data"),
        (training, "inputs", "data"),
        (Model, "embed_anchors", "anchors"),
        (Model, "forward", "forward"),
        (ProductHead, "forward", "forward"),
        (training, "_losses", "forward"),
        (torch.Tensor, "backward", "backward"),
        (training, "_clip", "clipping"),
    ]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        stack.enter_context(patch.object(training, "_optimizer", optimizer))
        yield


def parts_of(kind: Kind, case: Case) -> list[dict]:
    """Seconds of one core for a whole model by part, from some of its steps and some of its codes."""
    _, warm = fitted(case, 2)
    steps = max(3, min(40, math.ceil(5 * SECONDS / (warm / 2))))
    seconds: Counter = Counter()
    with watched(seconds):
        _, whole = fitted(case, steps)
    seconds["rest of the loop"] = whole - seconds.total()
    found = {part: seconds[part] / steps * case.steps() for part in PARTS}
    if isinstance(case.module, Model):  # the heads' evaluation is a part of stitching
        rows = len(trained.pool(case.data)) + len(case.data["test_x"])
        start = time.process_time()
        codes = trained.encode(case.module.eval().encoder, case.data["test_x"][: trained.BATCH], CPU)
        found["evaluation"] = (time.process_time() - start) * rows / len(codes)
    total = sum(found.values())
    common = {"kind": kind.name, "steps": case.steps()}
    return [{**common, "part": part, "seconds": value, "share": value / total} for part, value in found.items()]


# Other ways ------------------------------------------------------------------------------------


def as_it_is(case: Case) -> AbstractContextManager:
    """Train as the zoo does."""
    return nullcontext()


def channels_first(case: Case) -> AbstractContextManager | None:
    """Leave convolutions in torch's own order."""
    pictures = any(part.ndim == 4 for part in case.data.values())
    return patch.object(nn.Module, "to", lambda module, *_, **__: module) if pictures else None


def optimizer(case: Case, **how: bool) -> AbstractContextManager:
    """Take another way through Adam."""
    return patch.object(training, "_optimizer", lambda n, its: torch.optim.Adam(n.parameters(), lr=its.lr, **how))


@contextmanager
def denormals_flushed(case: Case) -> Iterator[None]:
    """Take the tiniest numbers for 0."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def without_onednn(case: Case) -> Iterator[None]:
    """Compute by torch's own kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of GPUs that nobody asked for
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def bfloat16(case: Case) -> AbstractContextManager | None:
    """Multiply in half precision, where the processor can."""
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return None  # it would be emulated
    owner = type(case.module)
    narrow = torch.autocast("cpu", dtype=torch.bfloat16)
    return patch.object(owner, "forward", narrow(owner.forward))


def padding_cut(case: Case) -> AbstractContextManager | None:
    """Pad the texts of a batch to the longest among them."""
    if case.recipe.network.family not in ("bert", "roberta"):
        return None
    whole = networks._TextEncoder.forward

    def cut(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return whole(encoder, x[:, : int((x != encoder.padding).sum(dim=1).max())])

    return patch.object(networks._TextEncoder, "forward", cut)


def anchors_in_parts(case: Case) -> AbstractContextManager | None:
    """Embed the anchors as few at a time as there are samples in a batch."""
    if not case.recipe.anchors:
        return None
    whole, size = Model.embed_anchors, case.recipe.training.batch_size
    return patch.object(
        Model, "embed_anchors", lambda model, x: torch.cat([whole(model, part) for part in x.split(size)])
    )


WAYS: dict[str, Callable[[Case], AbstractContextManager | None]] = {
    "as it is": as_it_is,
    "channels first": channels_first,
    "Adam by a loop": partial(optimizer, fused=False, foreach=False),
    "Adam by foreach": partial(optimizer, foreach=True),
    "denormals flushed": denormals_flushed,
    "without oneDNN": without_onednn,
    "bfloat16": bfloat16,
    "padding cut": padding_cut,
    "anchors in parts": anchors_in_parts,
}
"""How else a step could be computed; None where that means nothing."""


def ways_of(kind: Kind, case: Case, rounds: int) -> list[dict]:
    """The time of a step in every way over that of today's, by turns; and whether the weights have the same bits."""
    _, warm = fitted(case, 2)
    steps = max(2, min(20, math.ceil(SECONDS / (warm / 2))))
    today, seconds, same = {}, {}, {}
    for _ in range(rounds):
        for name, way in WAYS.items():
            context = way(case)
            if context is None:
                continue
            with context:
                module, taken = fitted(case, steps)
            weights = module.state_dict()
            today = today or weights
            seconds.setdefault(name, []).append(taken)
            same[name] = all(torch.equal(weights[key], today[key]) for key in today)
    base = pd.Series(seconds["as it is"])
    return [
        {"kind": kind.name, "way": name, "ratio": float((taken / base).median()), "same_bits": same[name]}
        for name, taken in seconds.items()
    ]


@app.command(epilog="\b\nExample:\n  INVARIANCES_DATA=path/to/parquet python benchmarks/training.py --only ways")
def main(
    only: Annotated[list[str] | None, typer.Option(help=f"{', '.join(STUDIES)}; may be repeated.")] = None,
    profile: Annotated[str, typer.Option(help="smoke, laptop or full")] = "laptop",
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is timed; medians are shown.")] = 3,
    into: Annotated[Path, typer.Option(help="Folder for the CSV files.", show_default="book/zoo/training")] = HERE,
) -> None:
    """Time the parts of training and other ways of computing a step, by kind of model, on one core."""
    if unknown := set(only or ()) - set(STUDIES):
        raise typer.BadParameter(f"unknown study {', '.join(unknown)}; choose from {', '.join(STUDIES)}")
    into.mkdir(parents=True, exist_ok=True)
    made: dict[str, list[dict]] = {name: [] for name in only or STUDIES}
    with workers.one_thread():
        for kind, case in tqdm(cases(profile), "kinds of models", total=len(KINDS)):
            if "parts" in made:
                made["parts"] += parts_of(kind, case)
            if "ways" in made:
                made["ways"] += ways_of(kind, case, rounds)
    for name, lines in made.items():
        table = pd.DataFrame(lines).assign(machine=trained.machine(CPU))
        table.to_csv(into / f"{name}.csv", index=False, float_format="%.4g")
        columns, values = ("part", "share") if name == "parts" else ("way", "ratio")
        order = list(dict.fromkeys(table[columns]))
        typer.echo(table.pivot(index="kind", columns=columns, values=values)[order].round(2).to_string())


if __name__ == "__main__":
    app()
