"""The sections: rows become recipes, recipes become models, models become one tidy table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from invariances import zoo
from invariances.alignment import align
from invariances.errors import ParameterError, PretrainedError
from invariances.paper.frames import save_table
from invariances.paper.rows import INVARIANCES, ROWS, Row, Variant
from invariances.paper.settings import Settings
from invariances.stitching import UNTRAINED, Codes, Stitchable, stitch
from invariances.zoo import datasets, heads, pretrained, training, workers
from invariances.zoo.heads import Head, HeadRecipe
from invariances.zoo.recipes import Network, Recipe, Training
from invariances.zoo.training import ANCHOR_POOL, Trained

REFERENCES = 3
"""Untrained models per group, at most: the reference that alignment is read against."""
SWAPPED = {"model_a": "model_b", "model_b": "model_a"}
SHARED = "shared 0"
"""The name of the initial weights that the conditions of a training row share, in its control."""


class Group(NamedTuple):
    """The models of one variant, one per seed or pretrained checkpoint."""

    variant: Variant
    prepared: datasets.Prepared
    """The first model's; those of other checkpoints differ by their token ids alone."""
    anchors: int
    recipes: dict[str, Recipe]
    """By model name, e.g. "CNN-3 0"."""
    untrained: dict[str, Recipe]
    relative: dict[str, Recipe]
    """With heads on relative representations; only for stitching."""
    shared: dict[str, Recipe]
    """The control with the initial weights of the row's other conditions; only for training."""
    product: dict[str, HeadRecipe]
    """Heads on products of invariances that read these models' encoders; only for stitching."""

    @property
    def all_recipes(self) -> list[Recipe]:
        """Every recipe of the group."""
        return [*self.recipes.values(), *self.untrained.values(), *self.relative.values(), *self.shared.values()]


class PlannedRow(NamedTuple):
    """A row and what it takes to run it, or why it is not run."""

    row: Row
    groups: tuple[Group, ...]
    not_run: str


class RowResult(NamedTuple):
    """A row that was run, with what figures need."""

    planned: PlannedRow
    models: dict[str, Trained]
    untrained: dict[str, Trained]
    relative: dict[str, Trained]
    shared: dict[str, Trained]
    product: dict[str, Head]


class Study(NamedTuple):
    """One section's results."""

    settings: Settings
    frame: pd.DataFrame
    """Tidy: one row per pair of models and invariance."""
    rows: dict[str, RowResult]
    """The rows that were run, by name."""
    not_run: dict[str, str]
    """Why the others were not, by name."""

    def save(self, folder: str | Path = ".") -> Path:
        """Write the tidy table as ``<section>.csv``, and `models` as ``<section>_models.csv``."""
        save_table(self.models, f"{self.settings.section}_models", folder)
        return save_table(self.frame, self.settings.section, folder)

    @property
    def models(self) -> pd.DataFrame:
        """What every model reaches in its own task on the test split, with a head on codes or on relative ones."""
        lines = []
        for row, result in self.rows.items():
            for head, models in (("absolute", result.models), ("relative", result.relative)):
                for name, model in models.items():
                    group = next(group for group in result.planned.groups if name in group.recipes).variant.label
                    said = {"row": row, "group": group, "model": name, "head": head}
                    lines.append({**said, "network": _described_network(model.recipe.network), **model.scores})
        return pd.DataFrame(lines).round(6)  # as it is saved, so that a table is the same from either


# Planning --------------------------------------------------------------------------------------


def plan(settings: Settings) -> list[PlannedRow]:
    """Find the data of every chosen row and write down its recipes; nothing is trained.

    Raises
    ------
    DataError
        If a data set is missing; one sentence says how to get it.
    ParameterError
        If an explicit size is larger than the data allow.
    """
    return [_plan_row(row, settings) for row in ROWS[settings.section]]


def _plan_row(row: Row, settings: Settings) -> PlannedRow:
    if row.dataset not in settings.chosen_datasets:
        return PlannedRow(row, (), "not among the data sets of this run")
    data = settings.value("data")
    kept = [v for v in row.variants if data != "builtin" or datasets.REGISTRY[v.dataset].stand_in]
    try:
        return PlannedRow(row, tuple(_plan_group(variant, row, settings) for variant in kept), "")
    except PretrainedError as error:
        return PlannedRow(row, (), str(error))


def _plan_group(variant: Variant, row: Row, settings: Settings) -> Group:
    seeds = settings.seeds or settings.sizes.seeds_of(settings.section, row.name)
    networks = _networks(variant, seeds, settings)
    prepared_for = [datasets.prepare(_view(variant, network, settings)) for network in networks]
    prepared = prepared_for[0]
    if settings.samples and prepared.n_train < settings.samples:
        raise ParameterError(
            f"parameter samples is {settings.samples}, but {prepared.title} has {prepared.n_train} training samples "
            "here; give at most so many"
        )
    anchors = _anchor_count(prepared, settings)
    bases = [
        Recipe(own.key, own.title, variant.task, network, _training(variant, network, settings), 0)
        for own, network in zip(prepared_for, networks, strict=True)
    ]
    if networks[0].family != "pretrained":
        bases = [replace(bases[0], seed=seed) for seed in range(seeds)]
    recipes = {f"{variant.label} {i}": recipe for i, recipe in enumerate(bases)}
    untrained = {f"{variant.label} {i}": recipe.untrained() for i, recipe in enumerate(bases[:REFERENCES])}
    relative = {name: replace(recipe, anchors=anchors) for name, recipe in recipes.items()}
    product = {name: _head_recipe(recipe, anchors, settings) for name, recipe in recipes.items()}
    shared = {}
    if settings.section == "training" and networks[0].family != "pretrained":
        shared = {f"{variant.label} {SHARED}": replace(bases[0], initialization=SHARED)}
    return Group(
        variant,
        prepared,
        anchors,
        recipes,
        untrained,
        relative if "relative" in row.spaces else {},
        shared,
        product if "product" in row.spaces else {},
    )


def _head_recipe(base: Recipe, anchors: int, settings: Settings) -> HeadRecipe:
    """A head that reads an encoder, with the profile's training of heads."""
    sizes = settings.sizes
    epochs = sizes.epochs["head"] if settings.epochs is None else max(settings.epochs, 1)
    lr = sizes.lr["autoencoder" if base.task == "reconstruction" else "head"]
    return HeadRecipe(base, anchors, epochs, batch_size=sizes.batch_size["head"], lr=lr)


def _networks(variant: Variant, seeds: int, settings: Settings) -> list[Network]:
    """The one network whose seeds are compared, or one pretrained network for each model.

    Conditions of training are compared from scratch: a frozen encoder does not feel them.
    """
    sizes = settings.sizes
    if not variant.training:
        names = sizes.checkpoints.get(variant.label) or sizes.checkpoints.get(variant.network, ())
        if names:
            chosen = names[:seeds]
            return [Network("pretrained", checkpoint=pretrained.pinned(name)) for name in chosen]
    return [Network(**sizes.networks[variant.network])]


def _view(variant: Variant, network: Network, settings: Settings) -> datasets.View:
    sizes, source = settings.sizes, datasets.source_named(variant.dataset)
    n_train = settings.samples or sizes.n_train.get(variant.dataset, sizes.n_train[""])
    common = {"dataset": variant.dataset, "data": settings.value("data"), "n_train": n_train, "n_test": sizes.n_test}
    if source.kind == "image":
        pixels = sizes.pixels_imagenet if variant.dataset == "imagenet" else sizes.pixels
        return datasets.View(**common, pixels=pixels, channels=1 if "mnist" in variant.dataset else 3)
    crosses = settings.section == "stitching" and source.config is not None
    return datasets.View(
        **common,
        tokenizer=network.checkpoint or ("byte-bpe" if network.family == "roberta" else "wordpiece"),
        vocabulary=0 if network.checkpoint else sizes.vocabulary,
        length=sizes.length.get(variant.dataset, sizes.length[""]),
        n_parallel=sizes.n_parallel if crosses else 0,
    )


def _anchor_count(prepared: datasets.Prepared, settings: Settings) -> int:
    pool = min(prepared.n_parallel or prepared.n_train, ANCHOR_POOL)
    if settings.anchors and settings.anchors > pool:
        raise ParameterError(
            f"parameter anchors is {settings.anchors}, but {prepared.title} offers {pool}; give at most so many"
        )
    return min(settings.value("anchors"), pool)


def _training(variant: Variant, network: Network, settings: Settings) -> Training:
    kinds = {"cnn": "cnn", "vit": "vit", "bert": "text", "roberta": "text", "pretrained": "head"}
    kind = "autoencoder" if variant.task == "reconstruction" else kinds[network.family]
    masked = variant.masked and kind == "text"
    kind = "tuned" if masked else kind  # a language first, then gently: at the rate of text one of six collapsed
    sizes = settings.sizes
    epochs = sizes.epochs[kind] if settings.epochs is None else settings.epochs
    base = {"epochs": epochs, "batch_size": sizes.batch_size[kind], "lr": sizes.lr[kind]}
    if variant.task == "classification" and variant.dataset in sizes.augmentation:
        base["augmentation"] = sizes.augmentation[variant.dataset]
    if masked:
        base["masked_epochs"] = sizes.epochs["masked"]
    return Training(**{**base, **dict(variant.training)})


def plan_table(settings: Settings) -> pd.DataFrame:
    """What a run would train, how long and how large: one line per row, with the data it would use.

    Minutes are those of one core (or of the GPU), from the time of some steps of each kind of model; a model that
    two rows share is counted in the first. Heads on products are counted (``heads``, those that are to be trained), but
    not timed.
    """
    device, kinds, seen, lines = zoo.device_named(settings.device), {}, set(), []
    for planned in tqdm(plan(settings), "timing some steps", disable=None):
        recipes = {recipe for group in planned.groups for recipe in group.all_recipes} - seen
        seen |= recipes
        todo = [recipe for recipe in recipes if not zoo.in_store(recipe, device)]
        for kind in {replace(recipe, seed=0) for recipe in todo} - kinds.keys():
            kinds[kind] = zoo.cost(kind, device)
        costs = [kinds[replace(recipe, seed=0)] for recipe in todo]
        first = planned.groups[0] if planned.groups else None
        lines.append(
            {
                "row": planned.row.name,
                "data": ", ".join(dict.fromkeys(g.prepared.title for g in planned.groups)) or planned.not_run,
                "from": first.prepared.source if first else "-",
                "training samples": first.prepared.n_train if first else 0,
                "test samples": first.prepared.n_test if first else 0,
                "anchors": first.anchors if first else 0,
                "models": len(recipes),
                "to train": len(todo),
                "heads": sum(not heads.in_store(h, device) for g in planned.groups for h in g.product.values()),
                "core minutes": sum(cost.seconds for cost in costs) / 60,
                "MB": sum(cost.bytes for cost in costs) / 2**20,
            }
        )
    return pd.DataFrame(lines)


# Running ---------------------------------------------------------------------------------------


def run(settings: Settings) -> Study:
    """Train what is not in the store, and compare or stitch all pairs of models.

    Raises
    ------
    DataError, ParameterError, PretrainedError, StoreError
        Each with one sentence that says what to do.
    """
    planned = plan(settings)
    todo = [row for row in planned if not row.not_run]
    if not todo:
        reason = next(row.not_run for row in planned if row.row.dataset in settings.chosen_datasets)
        raise PretrainedError(f"no row of {settings.section} can be run; {reason}")
    trained = _trained(todo, settings)
    results = {row.row.name: _result(row, trained) for row in todo}
    frames = dict(workers.run(partial(_scored, settings=settings), todo, "scoring rows"))
    frame = pd.concat([frames[name] for name in results], ignore_index=True)
    return Study(settings, frame, results, {row.row.name: row.not_run for row in planned if row.not_run})


def _trained(planned: Sequence[PlannedRow], settings: Settings) -> dict[Recipe | HeadRecipe, Trained | Head]:
    """The models and heads of some rows: from the store where they are there, else trained."""
    groups = [group for row in planned for group in row.groups]
    models = zoo.train([recipe for group in groups for recipe in group.all_recipes], settings.device)
    return models | heads.train([recipe for group in groups for recipe in group.product.values()], settings.device)


def _result(planned: PlannedRow, trained: Mapping[Recipe | HeadRecipe, Trained | Head]) -> RowResult:
    kinds = ("recipes", "untrained", "relative", "shared", "product")
    by_name = [
        {name: trained[recipe] for group in planned.groups for name, recipe in getattr(group, kind).items()}
        for kind in kinds
    ]
    return RowResult(planned, *by_name)


def _scored(planned: PlannedRow, settings: Settings) -> tuple[str, pd.DataFrame]:
    """A row's name and its lines of the table; its models come out of the store, so that any worker can do it."""
    measure = _stitch_row if settings.section == "stitching" else _align_row
    return planned.row.name, measure(_result(planned, _trained([planned], settings)), settings)


def _align_row(result: RowResult, settings: Settings) -> pd.DataFrame:
    """All pairs under the paper's invariances: of trained models, and of what these are read against.

    ``reference`` is "trained", "untrained", "same initialization" (a control whose raw spaces agree from the start),
    or "self": a model with itself, the most that an invariance can show.
    """
    frames = []
    kinds = {"trained": result.models, "untrained": result.untrained, "same initialization": result.shared}
    for reference, models in kinds.items():
        if models:
            frames.append(_align(result.planned, models, settings).assign(reference=reference))
    for name, model in result.models.items():
        itself = _align(result.planned, {name: model, "again": model}, settings)
        frames.append(itself[itself.model_a == name].assign(reference="self", model_b=name))
    return _described(pd.concat(frames, ignore_index=True), result.planned, settings)


def _align(planned: PlannedRow, models: Mapping[str, Trained], settings: Settings) -> pd.DataFrame:
    spaces, labels, k = _spaces(planned, models)
    return align(spaces, np.arange(k), tuple(INVARIANCES), (settings.metric,), labels)


def _spaces(planned: PlannedRow, models: Mapping[str, Trained]) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """Anchors and test samples of every model as one space, their labels, and the number of anchors."""
    group = planned.groups[0]
    arrays = datasets.load(group.prepared.key).arrays
    k = group.anchors
    labels = np.concatenate([arrays["train_y"][:k], arrays["test_y"]])
    return {name: np.concatenate([m.spaces["pool"][:k], m.spaces["test"]]) for name, m in models.items()}, labels, k


def _stitch_row(result: RowResult, settings: Settings) -> pd.DataFrame:
    """All ordered pairs in every space; a fitted map leaves the absolute head untouched."""
    task = result.planned.groups[0].variant.task
    measure = "mse" if task == "reconstruction" else "f1"

    def score(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return training.quality(task, outputs, targets)[measure]

    frames, outsiders = [], _outsiders(result)
    for invariance in result.planned.row.spaces:
        pieces = stitchables(result, invariance)
        frames.append(stitch(pieces, score, invariance, outsiders, lower_is_better=task == "reconstruction"))
    stitched = pd.concat(frames, ignore_index=True).assign(metric=measure)
    stitched = stitched.merge(_alignments(result), "left", ["model_a", "model_b", "invariance", "control"])
    return _described(stitched, result.planned, settings)


def _outsiders(result: RowResult) -> dict[str, Codes]:
    """An untrained encoder for every head; one of each language, where models read their own."""
    groups = result.planned.groups
    crosses = bool(groups[0].prepared.n_parallel)
    firsts = {
        f"{UNTRAINED} {group.variant.label}" if crosses else UNTRAINED: next(iter(group.untrained))
        for group in (groups if crosses else groups[:1])
    }
    return {title: codes(result.planned, name, result.untrained[name]) for title, name in firsts.items()}


def _alignments(result: RowResult) -> pd.DataFrame:
    """How well the spaces of every ordered pair agree under each connection, to be held against its stitching.

    Calibrated cosine; of languages on parallel sentences that are no anchors, since their reviews are not parallel.
    """
    frames, connections = [], [name for name in result.planned.row.spaces if name != "product"]
    for invariance in connections:
        models = result.relative if invariance == "relative" else result.models
        table = align(*_alignable(result.planned, models), (invariance,))
        frames += [table] if invariance in ("affine", "orthogonal") else [table, table.rename(columns=SWAPPED)]
    columns = {"score": "alignment", "null": "alignment_null", "calibrated": "alignment_calibrated"}
    table = pd.concat(frames, ignore_index=True).rename(columns=columns)
    return table.assign(control="none")[["model_a", "model_b", "invariance", "control", *columns.values()]]


def _alignable(planned: PlannedRow, models: Mapping[str, Trained]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Spaces of paired samples, and which rows are anchors."""
    if planned.groups[0].prepared.n_parallel:
        return {name: model.spaces["pool"] for name, model in models.items()}, np.arange(planned.groups[0].anchors)
    spaces, _, k = _spaces(planned, models)
    return spaces, np.arange(k)


def stitchables(result: RowResult, space: str) -> dict[str, Stitchable]:
    """A row's models taken apart into codes and heads, those that read what a space offers."""
    models = result.relative if space == "relative" else result.models
    modules = {
        name: result.product[name].module if space == "product" else training.restore(model).head
        for name, model in models.items()
    }
    return {
        name: Stitchable(codes(result.planned, name, model), _head(modules[name])) for name, model in models.items()
    }


def codes(planned: PlannedRow, name: str, model: Trained) -> Codes:
    """A model's embeddings of its anchors and test samples, and what a head should make of them."""
    group = next(group for group in planned.groups if name in group.recipes)
    arrays = datasets.load(group.prepared.key).arrays
    pictures = group.variant.task == "reconstruction"
    targets = torch.from_numpy(arrays["test_x"] if pictures else arrays["test_y"])
    pool, test = (torch.from_numpy(model.spaces[split]) for split in ("pool", "test"))
    return Codes(pool[: group.anchors], test, training.inputs(targets))


def _head(module: torch.nn.Module) -> Callable[..., torch.Tensor]:
    def answer(x: torch.Tensor, *anchors: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([module(part, *anchors) for part in x.split(training.CHUNK)])

    return answer


def _described(frame: pd.DataFrame, planned: PlannedRow, settings: Settings) -> pd.DataFrame:
    """Say of every line which row it belongs to and what it was made from."""
    labels = {
        name: group.variant.label
        for group in planned.groups
        for name in [*group.recipes, *group.untrained, *group.shared, f"{UNTRAINED} {group.variant.label}"]
    }
    titles = ", ".join(dict.fromkeys(group.prepared.title for group in planned.groups))
    first = planned.groups[0].prepared
    said = {"section": settings.section, "row": planned.row.name}
    groups = {f"group_{end}": frame[f"model_{end}"].map(labels).fillna(UNTRAINED) for end in "ab"}
    n_train = groups["group_a"].map({group.variant.label: group.prepared.n_train for group in planned.groups})
    n_train = n_train.fillna(first.n_train).astype(int)
    sizes = {"data": titles, "source": first.source, "n_train": n_train, "profile": settings.profile}
    front = pd.DataFrame(said, index=frame.index)
    return pd.concat([front, frame.assign(**groups, **sizes)], axis=1)


def _described_network(network: Network) -> str:
    if network.checkpoint:
        return f"{network.checkpoint.partition('@')[0]}, frozen"
    return f"{network.family}, {network.depth} layers, code {network.dim}"
