"""The zoo at laptop size: what its models reach, how fast they are trained, and how fast they come back from the store.

Needs the extras `zoo` and `book` (matplotlib), and the data sets under INVARIANCES_DATA (or the hub).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import matplotlib

from invariances.zoo import checkpoints, decoding, locating

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import typer
from torch import nn
from tqdm import tqdm

from invariances import threads, zoo
from invariances.paper import plan
from invariances.paper.plots import WIDTH, save_svg
from invariances.paper.profiles import PROFILES
from invariances.paper.rows import SECTIONS
from invariances.paper.settings import check
from invariances.zoo import datasets, store, training, workers
from invariances.zoo.networks import build
from invariances.zoo.pretrained import REGISTRY
from invariances.zoo.recipes import Network, Recipe
from invariances.zoo.sources import REGISTRY as SOURCES

HERE = Path(__file__).resolve().parent.parent / "book" / "zoo"
CPU = torch.device("cpu")
FAMILY = 10
"""Seeds of the family that is timed."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)
PARTS = ("models", "family", "store", "networks")


@contextmanager
def empty_store() -> Iterator[None]:
    """A store of its own, so that nothing is there already."""
    before = os.environ.get("INVARIANCES_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INVARIANCES_HOME"] = folder
        try:
            yield
        finally:
            os.environ.pop("INVARIANCES_HOME")
            if before:
                os.environ["INVARIANCES_HOME"] = before


# What the models reach -------------------------------------------------------------------------


def planned(profile: str, seeds: int) -> dict[str, tuple[plan.Group, str, str, Recipe]]:
    """Every model of the four sections once, by key: its group, the section, what head it has, and its recipe."""
    found = {}
    for section in SECTIONS:
        for row in plan.rows(check(section, {"profile": profile})).values():
            for group in row.groups:
                heads = {"absolute": group.recipes, "relative": group.relative, "untrained": group.untrained}
                for head, recipes in heads.items():
                    for recipe in list(recipes.values())[: seeds if head != "untrained" else 1]:
                        found.setdefault(recipe.key("cpu-fp32"), (group, section, head, recipe))
    return found


def measured(recipe: Recipe) -> dict:
    """Train a model, or take it from the store; seconds are those of one core, where all of it was trained now."""
    seconds, key = [], recipe.key("cpu-fp32")
    resumed = any(store.has("checkpoints", slot) for slot in checkpoints.checkpoint_slots([key]))

    def make() -> store.Artefact:
        start = time.process_time()
        made = training.train([recipe], CPU, workers.advance)[0]
        seconds.append(time.process_time() - start)
        return made

    found = store.fetch("models", key, make)
    checkpoints.forget([key])
    parameters = sum(a.size for name, a in found.arrays.items() if name.startswith("weights."))
    said = {"key": key, "seconds": np.nan if resumed or not seconds else seconds[0], "parameters": parameters}
    return {**said, "loss": found.note["losses"][-1] if found.note["losses"] else np.nan, **found.note["scores"]}


def guess(recipe: Recipe) -> float:
    """What knows nothing of the input reaches: the commonest class, or the mean picture."""
    arrays = datasets.load(recipe.data).arrays
    if recipe.task == "reconstruction":
        return float(np.square(arrays["test_x"] / 255 - arrays["train_x"].mean(axis=0) / 255).mean())
    return float((arrays["test_y"] == np.bincount(arrays["train_y"]).argmax()).mean())


def study_models(profile: str, seeds: int, into: Path) -> None:
    """Train all models, and write what they reach; what an earlier run measured is kept."""
    wanted, path = planned(profile, seeds), into / "models.csv"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    rows = [row for row in rows if row["key"] in wanted]
    todo = [wanted[key][3] for key in wanted if key not in {row["key"] for row in rows}]
    for row in workers.run(measured, todo, "models", size=lambda recipe: max(recipe.training.epochs, 1)):
        group, section, head, recipe = wanted[row["key"]]
        plan = recipe.training
        said = {
            "section": section,
            "data": group.prepared.title,
            "n_train": group.prepared.n_train,
            "n_test": group.prepared.n_test,
            "classes": len(group.prepared.classes),
            "model": group.variant.label,
            "network": group.variant.network,
            "head": head,
            "task": recipe.task,
            "seed": recipe.seed,
            **{name: getattr(plan, name) for name in ("epochs", "batch_size", "optimizer", "lr", "augmentation")},
            "guess": guess(recipe),
        }
        rows.append({**said, **row})
        order = list(wanted)
        rows.sort(key=lambda row: order.index(row["key"]))
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.5g")
    draw_models(pd.read_csv(path), into / "models.svg")
    (into / "models.md").write_text(table_of_models(pd.read_csv(path)), encoding="utf-8")


def draw_models(frame: pd.DataFrame, path: Path) -> None:
    """Every model's test score, beside its untrained network and a guess."""
    tasks = {"classification": ("accuracy", "test accuracy"), "reconstruction": ("mse", "test MSE")}
    frame = frame.assign(line=frame["data"] + ", " + frame.model + np.where(frame["head"] == "relative", ", rel", ""))
    counts = [frame[frame.task == task].line.nunique() for task in tasks]
    figure, axes = plt.subplots(
        2, 1, figsize=(WIDTH, 1.4 + 0.24 * sum(counts)), height_ratios=counts, layout="constrained"
    )
    for ax, (task, (score, label)) in zip(axes, tasks.items(), strict=True):
        part = frame[frame.task == task]
        order = list(dict.fromkeys(part.line))[::-1]
        for untrained, one in part.groupby(part["head"] == "untrained"):
            look = {"color": "0.6", "label": "untrained"} if untrained else {"color": "C0", "label": "trained"}
            ax.plot(one[score], [order.index(line) for line in one.line], "o", markersize=5, alpha=0.8, **look)
        ax.plot(part.guess, [order.index(line) for line in part.line], "|", color="C1", markersize=9, label="guess")
        ax.set_yticks(range(len(order)), order, fontsize=8)
        ax.set(xlabel=label, xlim=(0, None), ylim=(-0.6, len(order) - 0.4))
        ax.grid(axis="y", color="0.93")
        ax.set_axisbelow(True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    save_svg(figure, path)


def table_of_models(frame: pd.DataFrame) -> str:
    """One line per data set, network and way of training, as Markdown."""
    by = ["data", "model", "network", "head", "task", "optimizer", "lr", "batch_size", "augmentation"]
    lines = [
        "| Data | Model | Head | Training | Score | Guess | Parameters | Seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    frame = frame[frame["head"] != "untrained"]
    for _, part in frame.groupby(by, sort=False):
        one = part.iloc[0]
        scale, name = (1e3, "MSE × 10⁻³") if one["task"] == "reconstruction" else (100, "% right")
        values = part["mse" if one["task"] == "reconstruction" else "accuracy"] * scale
        spread = f" ({values.min():.1f} to {values.max():.1f})" if len(values) > 1 else ""
        plan = f"{one.epochs} epochs, {one.optimizer} {one.lr:g}, batch {one.batch_size}"
        plan += "" if one.augmentation == "none" else f", {one.augmentation} augmentation"
        cells = [
            f"{one.data} ({one.n_train:,})",
            one.model if one.model == one.network.upper() else f"{one.model} ({one.network.upper()})",
            one["head"],
            plan,
            f"{values.mean():.1f}{spread} {name}",
            f"{one.guess * scale:.1f}",
            f"{one.parameters:,}",
            f"{part.seconds.median():.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


# How fast a family is trained ------------------------------------------------------------------


class Pictures(torch.utils.data.Dataset):
    """A data set as one usually writes it: every sample is decoded and transformed whenever it is asked for."""

    def __init__(self, rows: object) -> None:
        from torchvision.transforms import v2

        self.rows = rows
        self.transform = v2.Compose([v2.Pad(2), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        row = self.rows[i]
        return self.transform(row["image"]), row["label"]


def plain_loop(recipe: Recipe, rows: dict, seed: int, loaders: int, epochs: int) -> tuple[float, float]:
    """Seconds and test accuracy of the loop that one usually writes, with all cores for the network."""
    plan = recipe.training
    torch.manual_seed(seed)
    start = time.perf_counter()
    model = build(recipe.network, recipe.task, 0, (1, 32, 32), 10, 0)
    keep = {"persistent_workers": True} if loaders else {}
    loader = torch.utils.data.DataLoader(
        Pictures(rows["train"]), plan.batch_size, shuffle=True, num_workers=loaders, **keep
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=plan.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.epochs * len(loader))
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - start
    model.eval()
    test = torch.utils.data.DataLoader(Pictures(rows["test"]), 500)
    with torch.no_grad():
        right = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in test)
    return seconds, right / len(rows["test"])


def study_family(profile: str, seeds: int, into: Path) -> None:
    """Ten seeds of one MNIST network: this zoo from an empty store, and a plain loop."""
    from datasets import load_dataset

    sizes = PROFILES[profile]
    with empty_store():
        start = time.perf_counter()
        row = plan.rows(check("initialization", {"profile": profile, "datasets": "mnist", "seeds": FAMILY}))["MNIST"]
        recipes = list(row.groups[0].recipes.values())
        trained = zoo.train(recipes, "cpu")
        ours = time.perf_counter() - start
        accuracy = float(np.mean([model.scores["accuracy"] for model in trained.values()]))
        files = locating.locate("mnist").files
        rows = {}
        for split, n in (("train", sizes.n_train[""]), ("test", sizes.n_test)):
            whole = load_dataset("parquet", data_files={split: files[split]}, split=split)
            rows[split] = whole.select(decoding.balanced_subset(np.asarray(whole["label"]), n))
    torch.set_num_threads(threads.cores())
    recipe = recipes[0]
    by_loaders = {n: plain_loop(recipe, rows, 0, n, 1)[0] for n in tqdm(range(threads.cores() + 1), "loader workers")}
    best = min(by_loaders, key=by_loaders.get)
    runs = [plain_loop(recipe, rows, seed, best, recipe.training.epochs) for seed in tqdm(range(seeds), "plain loop")]
    torch.set_num_threads(1)
    plain = float(np.mean([seconds for seconds, _ in runs])) * FAMILY
    table = pd.DataFrame(
        [
            {"what": "this zoo, from an empty store", "seconds": ours, "accuracy": accuracy, "timed": FAMILY},
            {
                "what": f"plain loop, {best} loader workers",
                "seconds": plain,
                "accuracy": float(np.mean([right for _, right in runs])),
                "timed": seeds,
            },
        ]
    )
    table["ratio"] = table.seconds / ours
    table["models"], table["cores"] = FAMILY, threads.cores()
    table.to_csv(into / "family.csv", index=False, float_format="%.5g")
    (into / "family.md").write_text(table_of_family(pd.read_csv(into / "family.csv")), encoding="utf-8")


def table_of_family(table: pd.DataFrame) -> str:
    """The two ways of training, as Markdown."""
    lines = ["| | Time over this zoo's | Accuracy | Models timed |", "| --- | --- | --- | --- |"]
    for row in table.itertuples():
        lines.append(f"| {row.what} | {row.ratio:.2f} × | {100 * row.accuracy:.1f} % | {row.timed} of {row.models} |")
    return "\n".join(lines) + "\n"


def study_store(profile: str, seeds: int, into: Path) -> None:
    """A whole section's models, trained and then taken from the store."""
    settings = check("initialization", {"profile": profile, "seeds": max(seeds, 2)})

    def models() -> dict:
        return zoo.train(plan.recipes(plan.rows(settings)), "cpu")

    seconds, trained = [], {}
    with empty_store():
        for _ in range(4):
            start = time.perf_counter()
            trained = models()
            seconds.append(time.perf_counter() - start)
    cold, warm = seconds[0], float(np.median(seconds[1:]))
    said = {"section": "initialization", "models": len(trained), "cold": cold, "warm": warm, "ratio": cold / warm}
    pd.DataFrame([said]).to_csv(into / "store.csv", index=False, float_format="%.5g")


# Pages -----------------------------------------------------------------------------------------


def table_of_networks() -> str:
    """The networks' sizes by profile, as Markdown."""
    lines = ["| Network | " + " | ".join(PROFILES) + " |", "| --- |" + " --- |" * len(PROFILES)]
    for name in PROFILES["laptop"].networks:
        cells = [_sizes(profile.networks[name], profile.pixels) for profile in PROFILES.values()]
        lines.append(f"| {name.upper()} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def table_of_encoders() -> str:
    """The pretrained encoders that come as packages, and the stand-ins of the smoke size, as Markdown."""
    lines = ["| Name | Reads | Width | Languages | From | Licence |", "| --- | --- | --- | --- | --- | --- |"]
    for name, entry in REGISTRY.items():
        if entry.host not in ("package", "embedded"):
            continue
        source = f"`{entry.source.split()[0]}`" if entry.host == "package" else entry.source
        reads = ("whole texts" if entry.engine else "tokens") if entry.kind == "text" else "pictures"
        languages = entry.languages if entry.kind == "text" else "-"
        lines.append(f"| {name} | {reads} | {entry.dim} | {languages} | {source} | {entry.licence} |")
    return "\n".join(lines) + "\n"


def table_of_data() -> str:
    """The data sets with their licences, as Markdown; languages of one data set share a line."""
    lines = ["| Data set | Hub | Kind | Licence | Stand-in at smoke size |", "| --- | --- | --- | --- | --- |"]
    names: dict[str, list[str]] = {}
    for name, source in SOURCES.items():
        names.setdefault(source.hub, []).append(name)
    kinds = {"image": "pictures", "text": "texts", "parallel": "parallel sentences"}
    for hub, some in names.items():
        entry = SOURCES[some[0]]
        stand_ins = ", ".join(dict.fromkeys(SOURCES[name].stand_in or "" for name in some if SOURCES[name].stand_in))
        cells = (", ".join(some), f"`{hub}`", kinds[entry.kind], entry.licence, stand_ins)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _sizes(fields: dict, pixels: int) -> str:
    if "family" not in fields or fields["family"] == "pretrained":
        return "pretrained, from the hub"
    network = Network(**fields)
    if network.family == "cnn":
        return f"first {network.width} channels, code {network.dim}"
    patch = f", patches of {network.patch} of {pixels} pixels" if network.family == "vit" else ""
    return f"{network.depth} layers of width {network.dim}, {network.heads} heads{patch}"


def findings(into: Path) -> str:
    """What was promised, and what was measured, as Markdown."""
    lines = ["| What | Target | Measured | Met |", "| --- | --- | --- | --- |"]

    def at_least(what: str, bound: float, value: float, unit: str) -> None:
        met = "yes" if value >= bound else "**no**"
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        lines.append(f"| {what} | ≥ {bound:g}{unit} | {shown}{unit} | {met} |")

    if (into / "family.csv").is_file():
        family = pd.read_csv(into / "family.csv")
        at_least("ten MNIST models: plain loop over this zoo", 2.5, family.ratio.iloc[1], " ×")
        gap = 100 * abs(family.accuracy.iloc[0] - family.accuracy.iloc[1])
        lines.append(
            f"| their accuracies: distance | ≤ 1 point | {gap:.2f} points | {'yes' if gap <= 1 else '**no**'} |"
        )
    if (into / "store.csv").is_file():
        said = pd.read_csv(into / "store.csv").iloc[0]
        at_least(f"{said.models} models of a section: trained over taken from the store", 50, said.ratio, " ×")
    if (into / "models.csv").is_file():
        models = pd.read_csv(into / "models.csv")
        trained = models[(models["head"] == "absolute") & (models.task == "classification")]
        for data, network, bound in (("mnist", "cnn-3", 97), ("cifar-10", "cnn-3", 65), ("trec", "bert", 80)):
            part = trained[(trained.data == data) & (trained.network == network) & (trained.section != "training")]
            if len(part):
                at_least(f"{data}, {network.upper()}: accuracy, mean of seeds", bound, 100 * part.accuracy.mean(), " %")
    return "\n".join(lines) + "\n"


@app.command(epilog="\b\nExample:\n  INVARIANCES_DATA=path/to/parquet python benchmarks/zoo.py --only family")
def main(
    only: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; may be repeated.")] = None,
    profile: Annotated[str, typer.Option(help="smoke, laptop or full")] = "laptop",
    seeds: Annotated[int, typer.Option(min=1, help="Models per variant; seeds of the plain loop.")] = 2,
    into: Annotated[Path, typer.Option(help="Folder for CSV and Markdown files.", show_default="book/zoo")] = HERE,
) -> None:
    """Measure the zoo, section by section of the paper, and write the tables of the book's page on it."""
    if unknown := set(only or ()) - set(PARTS):
        raise typer.BadParameter(f"unknown part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    into.mkdir(parents=True, exist_ok=True)
    parts = only or PARTS
    if "models" in parts:
        study_models(profile, seeds, into)
    if "store" in parts:
        study_store(profile, seeds, into)
    if "family" in parts:
        study_family(profile, seeds, into)
    pages = {"networks": table_of_networks(), "encoders": table_of_encoders(), "data": table_of_data()}
    for name, table in pages.items():
        (into / f"{name}.md").write_text(table, encoding="utf-8")
    (into / "findings.md").write_text(findings(into), encoding="utf-8")
    typer.echo(findings(into))


if __name__ == "__main__":
    app()
