"""The tidy tables: what their columns say, and how they get into a file and out of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from invariances.errors import RunError
from invariances.ladders import ALL_PAIRS
from invariances.paper.plan import UNTRAINED, PlannedRow, sized, with_head
from invariances.paper.profiles import PROFILES
from invariances.paper.rows import row_named
from invariances.paper.settings import Settings
from invariances.threads import cores
from invariances.zoo.models import device_named
from invariances.zoo.pretrained import named
from invariances.zoo.recipes import RECIPE_VERSION, Network, Recipe
from invariances.zoo.trained import machine, numerics

__all__ = [
    "SAME_ENCODER",
    "SAME_GROUP",
    "across_groups",
    "described",
    "groups_of",
    "model_scores",
    "over_groups",
    "planned_table",
    "read_table",
    "save_table",
    "shown_row",
    "with_alignment",
]


MEANS = ("score", "ceiling", "retention")
"""What is averaged where pairs are taken together."""
SAME_ENCODER = "same encoder"
"""The control of pairs across groups by one encoder, in a row whose pairs are of two."""
SAME_GROUP = "same group"
"""The control of pairs of two encoders within a group, in such a row."""


def save_table(frame: pd.DataFrame, name: str, folder: str | Path = ".") -> pd.DataFrame:
    """Write a frame as ``<name>.csv``, whole or not at all, and read it back: what is shown is what is saved."""
    path = Path(folder) / f"{name}.csv"
    temporary = path.with_name(path.name + ".part")
    frame.to_csv(temporary, index=False, float_format="%.6g")
    temporary.replace(path)
    return pd.read_csv(path)


def read_table(name: str, folder: str | Path) -> pd.DataFrame:
    """The table ``<name>.csv`` of a folder.

    Raises
    ------
    RunError
        If it is missing.
    """
    path = Path(folder) / f"{name}.csv"
    if not path.is_file():
        section = name.partition("_")[0]
        raise RunError(f"there is no {path.name} in {folder}; run the section first: invariances run {section}")
    return pd.read_csv(path)


def planned_table(summary: pd.DataFrame, settings: Settings, folder: str | Path = ".") -> pd.DataFrame:
    """Save a section's plan as ``<section>_plan.csv``, with when, by which code and where it is run.

    Parameters
    ----------
    summary : DataFrame
        As `plan.summary` gives it.
    settings : Settings
    folder : path

    Returns
    -------
    DataFrame
        With the columns date, commit, recipe_version and machine as well.
    """
    facts = {"profile": settings.profile, "date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": _commit()}
    facts["recipe_version"] = str(RECIPE_VERSION)
    facts["machine"] = f"{machine(device_named(settings.device))}, {cores()} cores"
    return save_table(summary.assign(**facts), f"{settings.section}_plan", folder)


def _commit() -> str:
    """The commit of the code that runs, or its version where it is installed apart from its repository."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        known = subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=False)
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return f"version {version('invariances')}"
    if known.returncode or head.returncode:
        return f"version {version('invariances')}"
    return head.stdout.strip()


def model_scores(plan: Mapping[str, PlannedRow], models: Mapping, settings: Settings) -> pd.DataFrame:
    """What every model reaches in its own task on the test split, with a head on codes or on relative ones.

    Parameters
    ----------
    plan : mapping from row names to PlannedRow
    models : mapping from recipes to trained models
    settings : Settings

    Returns
    -------
    DataFrame
        One line a model; ``key`` is its name in the store.
    """
    lines, kind = [], numerics(device_named(settings.device))
    for row, planned in plan.items():
        for head, field in (("absolute", "recipes"), ("relative", "relative")):
            for group in planned.groups:
                for name, recipe in getattr(group, field).items():
                    line = {"row": row, "group": group.variant.label, "head": head}
                    line["network"] = _network_words(recipe.network)
                    for seed in range(group.heads):
                        model = f"{name}, head {seed}" if group.heads > 1 else name
                        own = with_head(recipe, seed) if seed else recipe
                        lines.append({**line, "model": model, "key": own.key(kind), **models[own].scores})
    return pd.DataFrame(lines).round(6)


def _network_words(network: Network) -> str:
    if network.checkpoint:
        name = network.checkpoint.partition("@")[0]
        host, source = named(name).host, named(name).source
        return f"{source}, frozen" if host == "embedded" else f"{name}, frozen"
    return f"{network.family}, {network.depth} layers, code {network.dim}"


def described(scores: pd.DataFrame, plan: Mapping[str, PlannedRow], settings: Settings) -> pd.DataFrame:
    """Say of every line of a table which groups its models belong to, and what it was made from.

    Parameters
    ----------
    scores : DataFrame
        With the columns row, model_a and model_b.
    plan : mapping from row names to PlannedRow
    settings : Settings

    Returns
    -------
    DataFrame
        With section, group_a, group_b, data, source, n_train and profile as well.
    """
    parts = [_described_row(part, plan[row]) for row, part in scores.groupby("row", sort=False)]
    frame = pd.concat(parts).assign(profile=settings.profile)
    frame.insert(0, "section", settings.section)
    return frame.reset_index(drop=True)


def _described_row(part: pd.DataFrame, planned: PlannedRow) -> pd.DataFrame:
    labels = {ALL_PAIRS: ALL_PAIRS} | {
        name: group.variant.label
        for group in planned.groups
        for name in [*group.recipes, *group.untrained, *group.shared, f"{UNTRAINED} {group.variant.label}"]
    }
    groups = {f"group_{end}": part[f"model_{end}"].map(labels).fillna(UNTRAINED) for end in "ab"}
    first = planned.groups[0].prepared
    sizes = {group.variant.label: group.prepared.n_train for group in planned.groups}
    n_train = groups["group_a"].map(sizes).fillna(first.n_train).astype(int)
    titles = ", ".join(dict.fromkeys(group.prepared.title for group in planned.groups))
    part = part.assign(**groups, data=titles, source=first.source, n_train=n_train)
    return _by_encoder(part, planned) if planned.row.crosses_encoders and "control" in part else part


def _by_encoder(part: pd.DataFrame, planned: PlannedRow) -> pd.DataFrame:
    """Say which encoders a pair is of; pairs that share one, or their group, become controls, without shuffled ones."""
    encoders = {name: _encoder_of(recipe) for group in planned.groups for name, recipe in group.recipes.items()}
    ends = {
        f"encoder_{end}": pd.Series([encoders.get(name, UNTRAINED) for name in part[f"model_{end}"]], part.index)
        for end in "ab"
    }
    same_encoder = (ends["encoder_a"] == ends["encoder_b"]) & (part.model_a != part.model_b)
    same_group = (part.group_a == part.group_b) & (part.model_a != part.model_b)
    control = part.control.mask(same_encoder & (part.control == "none"), SAME_ENCODER)
    control = control.mask(same_group & (part.control == "none"), SAME_GROUP)
    shares = (same_encoder | same_group) & (part.control == "shuffled anchors")
    return part.assign(**ends, control=control).loc[~shares]


def _encoder_of(recipe: Recipe) -> str:
    return recipe.network.checkpoint.partition("@")[0]


def over_groups(frame: pd.DataFrame) -> pd.DataFrame:
    """Pairs of groups in place of pairs of models, where a pair is of two encoders as well: the encoders are fixed.

    Parameters
    ----------
    frame : DataFrame
        Pairs of one row, as `described` gives them.

    Returns
    -------
    DataFrame
        One line per ordered pair of groups, invariance and control: scores are means over which encoder is whose, and
        models are called by their group. A row whose pairs are of one encoder each is as it was.
    """
    if "encoder_a" not in frame or frame.encoder_a.isna().all():
        return frame
    keys = ["row", "group_a", "group_b", "invariance", "control"]
    rules = dict.fromkeys(MEANS, "mean")
    rules |= {name: "mean" for name in ("alignment", "alignment_null", "alignment_calibrated") if name in frame}
    rules |= dict.fromkeys(("metric", "n_samples", "n_anchors", "n_train", "data"), "first")
    merged = pd.DataFrame(frame.groupby(keys, sort=False, as_index=False).agg(rules))
    return merged.assign(model_a=merged.group_a, model_b=merged.group_b)


def with_alignment(stitches: pd.DataFrame, alignment: pd.DataFrame) -> pd.DataFrame:
    """Put the alignment of every ordered pair beside its stitching, under the same invariance.

    Where frozen encoders are read by several heads, stitching is the mean over these, and ``heads`` says how many.

    Parameters
    ----------
    stitches : DataFrame
        As `invariances.stitch` gives it for rows.
    alignment : DataFrame
        As `invariances.align` gives it; scores of unordered pairs count in both directions.
    """
    stitches = _over_heads(stitches)
    swapped = alignment.rename(columns={"model_a": "model_b", "model_b": "model_a"})
    key = ["row", "model_a", "model_b", "invariance"]
    values = {"score": "alignment", "null": "alignment_null", "calibrated": "alignment_calibrated"}
    both = pd.concat([alignment, swapped]).drop_duplicates(key).rename(columns=values)
    both = both.assign(control="none")
    return stitches.merge(both[[*key, "control", *values.values()]], "left", [*key, "control"])


def _over_heads(stitches: pd.DataFrame) -> pd.DataFrame:
    """The mean over heads that differ by their seed alone, and how many there were."""
    key = ["row", "model_a", "model_b", "invariance", "control"]
    grouped = stitches.groupby(key, sort=False, as_index=False)
    rules = {name: "mean" if name in MEANS else "first" for name in stitches.columns if name not in key}
    return pd.DataFrame(grouped.agg(rules)).assign(heads=grouped.size()["size"])[[*stitches.columns, "heads"]]


def shown_row(part: pd.DataFrame) -> str:
    """What a row is called where it is shown: networks by their real size, ImageNet by what of it is there.

    Parameters
    ----------
    part : DataFrame
        Lines of one row of a section's table, with the columns row, profile, data and n_train.
    """
    first = part.iloc[0]
    row, name = row_named(first.row), str(first.row)
    if row is None or not {"profile", "data"} <= set(part):
        return name
    networks = PROFILES[first.profile].networks
    for variant in row.variants:
        if variant.label.lower() == variant.network and variant.network in networks:
            name = re.sub(rf"\b{re.escape(variant.label)}\b", sized(variant.label, networks[variant.network]), name)
    subset = str(first.data).removeprefix("imagenet, ")
    if row.dataset == "imagenet" and subset != first.data:
        pictures = f", {first.n_train:,} pictures" if "n_train" in part else ""
        name = name.replace("ImageNet", f"ImageNet ({subset}{pictures})")
    return name


def across_groups(frame: pd.DataFrame) -> pd.DataFrame:
    """Only pairs of different groups, where there are several (languages, architectures)."""
    return frame[frame.group_a != frame.group_b] if frame.group_a.nunique() > 1 else frame


def groups_of(frame: pd.DataFrame) -> tuple[list[str], list[str]] | None:
    """The models of the two groups that a table compares, or None where there is one group."""
    members = pd.concat(
        [
            frame[["model_a", "group_a"]].set_axis(["model", "group"], axis=1),
            frame[["model_b", "group_b"]].set_axis(["model", "group"], axis=1),
        ]
    ).drop_duplicates()
    lists = [list(models) for _, models in members.groupby("group", sort=False).model]
    return (lists[0], lists[1]) if len(lists) == 2 else None
