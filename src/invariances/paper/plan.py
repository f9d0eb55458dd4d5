"""The plan of a section: every row of the paper's table becomes recipes, before anything is trained.

A notebook calls `rows` first and hands what it gives to the other functions here, which say what is to be trained,
compared and stitched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from invariances.errors import ParameterError, PretrainedError
from invariances.paper.rows import ROWS, Row, Variant, own_row
from invariances.paper.settings import Settings
from invariances.paper.views import anchor_count, view
from invariances.zoo import datasets, heads, models, own_data, pretrained
from invariances.zoo.heads import HeadRecipe
from invariances.zoo.recipes import Network, Recipe, Training

__all__ = [
    "KINDS",
    "UNTRAINED",
    "Group",
    "PlannedRow",
    "anchors",
    "autoencoders",
    "classes",
    "compared",
    "cost",
    "head_recipe",
    "members",
    "not_run",
    "one_model",
    "one_per_modality",
    "pairs",
    "quality",
    "recipes",
    "rows",
    "sized",
    "stitched",
    "summary",
    "trained",
    "untrained_encoders",
    "with_head",
]

UNTRAINED_MODELS = 3
"""Untrained models per group, at most: the reference that alignment is read against."""
UNTRAINED = "untrained"
"""The name of the untrained encoder that is stitched in every head."""
SHARED = "shared 0"
"""The name of the initial weights that the conditions of a training row share, in its control."""
KINDS = {
    "trained": "recipes",
    "untrained": "untrained",
    "same initialization": "shared",
    "self": "recipes",
}
"""The kinds of models that alignment compares, and the field of a `Group` that holds them. "self" compares a model with
itself: the most that an invariance can show."""

Plan = Mapping[str, "PlannedRow"]


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
    heads: int = 1
    """How many heads read each frozen encoder: that of its recipe, and others that differ by their seed."""


class PlannedRow(NamedTuple):
    """A row and what it takes to run it, or why it is not run."""

    row: Row
    groups: tuple[Group, ...]
    not_run: str


def rows(settings: Settings) -> dict[str, PlannedRow]:
    """Find the data of every chosen row of a section and write down its recipes; nothing is trained.

    Parameters
    ----------
    settings : Settings

    Returns
    -------
    dict from row names to PlannedRow
        All rows of the section's table, those that are not run with the reason.

    Raises
    ------
    DataError
        If a data set is missing; one sentence says how to get it.
    ParameterError
        If an explicit size is larger than the data allow.
    PretrainedError
        If no row can be run.
    """
    planned = _rows(settings)
    if all(row.not_run for row in planned.values()):
        reason = next(row.not_run for row in planned.values() if row.row.dataset in settings.chosen_datasets)
        raise PretrainedError(f"no row of {settings.section} can be run; {reason}")
    return planned


def _rows(settings: Settings) -> dict[str, PlannedRow]:
    data = settings.value("data")
    if not own_data.is_own(data):
        return {row.name: _plan_row(row, settings) for row in ROWS[settings.section]}
    if settings.section != "initialization":
        raise ParameterError(
            f"data is {data!r}, which is no folder of Parquet files in the hub's schema; give one, since only "
            "initialization reads your own labelled texts or pictures"
        )
    row = own_row(own_data.register(data))
    return {row.name: PlannedRow(row, (_plan_group(row.variants[0], row, settings),), "")}


def _plan_row(row: Row, settings: Settings) -> PlannedRow:
    if row.dataset not in settings.chosen_datasets:
        return PlannedRow(row, (), "not among the data sets of this run")
    data = settings.value("data")
    kept = [v for v in row.variants if data != "builtin" or datasets.source_named(v.dataset).stand_in]
    if not kept:
        return PlannedRow(row, (), f"{row.dataset} has no embedded stand-in")
    try:
        return PlannedRow(row, tuple(_plan_group(variant, row, settings) for variant in kept), "")
    except PretrainedError as error:
        return PlannedRow(row, (), str(error))


def _plan_group(variant: Variant, row: Row, settings: Settings) -> Group:
    seeds = settings.seeds or settings.sizes.seeds_of(settings.section, row.name)
    heads = (settings.seeds or settings.sizes.frozen["heads"]) if variant.frozen else 1
    networks = _networks(variant, seeds, settings)
    prepared_for = [datasets.prepare(view(variant, row, network, settings)) for network in networks]
    prepared = prepared_for[0]
    if settings.samples and prepared.n_train < settings.samples:
        raise ParameterError(
            f"parameter samples is {settings.samples}, but {prepared.title} has {prepared.n_train} training samples "
            "here; give at most so many"
        )
    anchors = anchor_count(prepared, row, settings)
    bases = [
        Recipe(own.key, own.title, variant.task, network, _training(variant, network, settings), 0)
        for own, network in zip(prepared_for, networks, strict=True)
    ]
    if networks[0].family != "pretrained":
        bases = [replace(bases[0], seed=seed) for seed in range(seeds)]
    if variant.frozen:
        recipes = {_frozen_name(variant, recipe): recipe for recipe in bases}
        untrained = _stand_ins_for_untrained(variant, row, bases[0], settings)
    else:
        recipes = {f"{variant.label} {i}": recipe for i, recipe in enumerate(bases)}
        untrained = {f"{variant.label} {i}": recipe.untrained() for i, recipe in enumerate(bases[:UNTRAINED_MODELS])}
    relative = {name: replace(recipe, anchors=anchors) for name, recipe in recipes.items()}
    product = {name: head_recipe(recipe, anchors, settings) for name, recipe in recipes.items()}
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
        heads,
    )


def _frozen_name(variant: Variant, recipe: Recipe) -> str:
    return f"{variant.label} {recipe.network.checkpoint.partition('@')[0]}"


def _stand_ins_for_untrained(variant: Variant, row: Row, base: Recipe, settings: Settings) -> dict[str, Recipe]:
    """Encoders with random weights, since frozen ones come without a network that could be left untrained."""
    found = {}
    for name in settings.sizes.checkpoints[UNTRAINED]:
        network = Network("pretrained", checkpoint=pretrained.pinned(name))
        data = datasets.prepare(view(variant, row, network, settings)).key
        recipe = replace(base, data=data, network=network, training=replace(base.training, epochs=0))
        found[_frozen_name(variant, recipe)] = recipe
    return found


def head_recipe(base: Recipe, anchors: int, settings: Settings) -> HeadRecipe:
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
    if variant.frozen:
        return [
            Network("pretrained", checkpoint=pretrained.pinned(name)) for name in sizes.checkpoints[variant.network]
        ]
    if not variant.training:
        names = sizes.checkpoints.get(variant.label) or sizes.checkpoints.get(variant.network, ())
        if names:
            chosen = names[:seeds]
            return [Network("pretrained", checkpoint=pretrained.pinned(name)) for name in chosen]
    return [Network(**sizes.networks[variant.network])]


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


def sized(label: str, network: Network | Mapping) -> str:
    """A transformer's name with its real size, layers × width; other networks as they are called.

    ViT-Small and BERT are names of far larger networks than most profiles train.
    """
    fields = network if isinstance(network, Mapping) else asdict(network)
    if fields["family"] not in ("vit", "bert", "roberta"):
        return label
    return f"{label} ({fields['depth']} × {fields['dim']})"


def not_run(plan: Plan) -> dict[str, str]:
    """Why rows are not run, by name."""
    return {name: row.not_run for name, row in plan.items() if row.not_run}


def recipes(plan: Plan) -> list[Recipe | HeadRecipe]:
    """Everything that is to be trained: models, untrained ones, controls, and heads on products."""
    groups = _groups(plan)
    fields = ("recipes", "untrained", "relative", "shared", "product")
    return [recipe for group in groups for field in fields for recipe in _with_all_heads(group, field)]


def _with_all_heads(group: Group, field: str) -> list[Recipe | HeadRecipe]:
    """The recipes of a field; where heads read frozen encoders, those of every seed."""
    found = getattr(group, field).values()
    seeds = 1 if field == "untrained" else group.heads
    return [with_head(recipe, seed) if seed else recipe for recipe in found for seed in range(seeds)]


def with_head(recipe: Recipe | HeadRecipe, seed: int) -> Recipe | HeadRecipe:
    """The same encoder under a head of another seed."""
    if isinstance(recipe, HeadRecipe):
        return replace(recipe, base=replace(recipe.base, seed=seed))
    return replace(recipe, seed=seed)


def anchors(plan: Plan) -> dict[str, np.ndarray]:
    """Which samples of the stored pool are the anchors of a row: the first ones, whose order is random."""
    return {name: np.arange(row.groups[0].anchors) for name, row in _run(plan).items()}


def compared(plan: Plan) -> dict[tuple[str, str], dict[str, Recipe]]:
    """The models whose spaces are compared, by row and kind (`KINDS`)."""
    found = {(name, kind): members(row, field) for name, row in _run(plan).items() for kind, field in KINDS.items()}
    return {key: models for key, models in found.items() if models}


def trained(plan: Plan, head: str = "absolute") -> dict[str, dict[str, Recipe]]:
    """The trained models by row: those whose heads read codes ("absolute"), or relative representations."""
    field = "relative" if head == "relative" else "recipes"
    found = {name: members(row, field) for name, row in _run(plan).items()}
    return {name: models for name, models in found.items() if models}


def one_model(plan: Plan) -> dict[str, Recipe]:
    """One model by row, for what all its models share, such as labels."""
    return {name: next(iter(models.values())) for name, models in trained(plan).items()}


def pairs(plan: Plan) -> dict[str, list[tuple[str, str]]]:
    """The unordered pairs of models that a row compares: across its groups, or all where it has one group.

    Where a pair is of two encoders as well, those of one encoder are left out.
    """
    found = {}
    for name, row in _run(plan).items():
        group_of = {model: group.variant.label for group in row.groups for model in group.recipes}
        network_of = {model: recipe.network for model, recipe in members(row, "recipes").items()}
        apart = [group_of] if len(row.groups) > 1 else []
        apart += [network_of] if row.row.crosses_encoders else []
        found[name] = [(a, b) for a, b in combinations(group_of, 2) if all(of[a] != of[b] for of in apart)]
    return found


def stitched(plan: Plan) -> dict[tuple, dict[str, Recipe | HeadRecipe]]:
    """The models that are stitched, by row and invariance; their heads read what the invariance offers.

    Where several heads read each frozen encoder, the row is there once for every seed of theirs, a third part of the
    key: heads of one seed are stitched among themselves.
    """
    fields = {"relative": "relative", "product": "product"}
    found: dict[tuple, dict[str, Recipe | HeadRecipe]] = {}
    for name, row in _run(plan).items():
        for invariance in row.row.spaces:
            models = members(row, fields.get(invariance, "recipes"))
            heads = row.groups[0].heads
            for seed in range(heads):
                key = (name, invariance, seed) if heads > 1 else (name, invariance)
                found[key] = {model: with_head(recipe, seed) for model, recipe in models.items()} if seed else models
    return found


def untrained_encoders(plan: Plan) -> dict[str, dict[str, Recipe]]:
    """An untrained encoder for every head of a row; one of each language, where models read their own."""
    found = {}
    for name, row in _run(plan).items():
        first = {group.variant.label: next(iter(group.untrained.values())) for group in row.groups}
        if row.row.cross_lingual:
            found[name] = {f"{UNTRAINED} {label}": recipe for label, recipe in first.items()}
        else:
            found[name] = {UNTRAINED: next(iter(first.values()))}
    return found


def quality(plan: Plan) -> dict[str, str]:
    """What the outputs of a row's heads are measured by: mean squared error of pictures, or F1 of classes."""
    names = {"reconstruction": "mse", "classification": "f1"}
    return {name: names[row.groups[0].variant.task] for name, row in _run(plan).items()}


def autoencoders(plan: Plan) -> list[str]:
    """The rows whose models reconstruct pictures."""
    return [name for name, row in _run(plan).items() if row.groups[0].variant.task == "reconstruction"]


def one_per_modality(plan: Plan) -> list[str]:
    """The first row of vision and the first of language."""
    return list({row.row.modality: name for name, row in reversed(_run(plan).items())}.values())[::-1]


def classes(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The names of the classes of every row that is run."""
    return {name: row.groups[0].prepared.classes for name, row in _run(plan).items()}


def members(row: PlannedRow, field: str) -> dict:
    """The models of all groups of a row in one of the fields of `Group`, by name."""
    return {name: recipe for group in row.groups for name, recipe in getattr(group, field).items()}


def _run(plan: Plan) -> dict[str, PlannedRow]:
    return {name: row for name, row in plan.items() if not row.not_run}


def _groups(plan: Plan) -> list[Group]:
    return [group for row in plan.values() for group in row.groups]


# What a run would take -------------------------------------------------------------------------


def summary(plan: Plan) -> pd.DataFrame:
    """One line per row: its data, sizes and number of models, or why it is not run."""
    return pd.DataFrame([_summary_line(row) for row in plan.values()])


def _summary_line(row: PlannedRow) -> dict[str, object]:
    first = row.groups[0] if row.groups else None
    return {
        "row": row.row.name,
        "data": ", ".join(dict.fromkeys(group.prepared.title for group in row.groups)) or row.not_run,
        "source": first.prepared.source if first else "-",
        "training samples": first.prepared.n_train if first else 0,
        "test samples": first.prepared.n_test if first else 0,
        "anchors": first.anchors if first else 0,
        "models": len(set(_model_recipes(row))),
    }


def _model_recipes(row: PlannedRow) -> list[Recipe]:
    return [recipe for recipe in recipes({row.row.name: row}) if isinstance(recipe, Recipe)]


def cost(settings: Settings) -> pd.DataFrame:
    """What a run would train, how long and how large: the `summary`, with what the store lacks.

    Minutes are those of one core (or of the GPU), from the time of some steps of each kind of model; a model that
    two rows share is counted in the first. Heads on products are counted (``heads``, those that are to be trained), but
    not timed.
    """
    device, costs, seen, lines = models.device_named(settings.device), {}, set(), []
    for row in tqdm(_rows(settings).values(), "timing some steps", disable=None):
        new = set(_model_recipes(row)) - seen
        seen |= new
        missing = [recipe for recipe in new if not models.in_store(recipe, device)]
        for kind in {replace(recipe, seed=0) for recipe in missing} - costs.keys():
            costs[kind] = models.cost(kind, device)
        each = {recipe: costs[replace(recipe, seed=0)] for recipe in missing}
        codes = {(recipe.data, recipe.network): one.embedding for recipe, one in each.items()}
        lines.append(
            _summary_line(row)
            | {
                "models": len(new),
                "to train": len(missing),
                "heads": sum(not heads.in_store(head, device) for head in members(row, "product").values()),
                "core minutes": (sum(one.seconds for one in each.values()) + sum(codes.values())) / 60,
                "MB": sum(one.bytes for one in each.values()) / 2**20,
            }
        )
    return pd.DataFrame(lines)
