"""The atlas: CKA between all architectures of the zoo, and between vision and language on paired inputs.

Its frame has one line per unordered pair of models and form of CKA. Tables and figures are functions of that frame
alone, so that a reader can make each again from ``architecture_cka.csv``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch

from invariances import zoo
from invariances.alignment import align
from invariances.errors import DataError, ParameterError, PretrainedError
from invariances.pairs import Interval, interval
from invariances.paper import findings, sections
from invariances.paper.claims import describe
from invariances.paper.figures import _closed
from invariances.paper.frames import save_table
from invariances.paper.settings import Settings, check
from invariances.zoo import datasets, pretrained, training, workers
from invariances.zoo.training import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = [
    "atlas",
    "model_a",
    "model_b",
    "group_a",
    "group_b",
    "modality_a",
    "modality_b",
    "metric",
    "score",
    "null",
    "z",
    "p",
    "calibrated",
    "n_samples",
    "data",
    "note",
]
"""Of the frame; ``atlas`` is "paired" or one of `ZOO`."""
ZOO = {"vision": "zoo", "language": "zoo texts"}
"""The two atlases of the zoo: networks that read the same pictures, and networks that read the same texts."""
FORMS = {"cka": "raw (biased)", "cka_debiased": "debiased"}
"""The two forms of linear CKA, as figures call them."""
ARCHITECTURES = {
    "cnn-3": "CNN-3",
    "cnn-5": "CNN-5",
    "cnn-3-gelu": "CNN-3 GELU",
    "vit-small": "ViT-Small",
    "vit-base": "ViT-Base",
    "bert": "BERT",
    "roberta": "RoBERTa",
}
"""The zoo's networks as the atlas calls them, in the order of its blocks."""
UNTRAINED = ", untrained"
"""What the name of a group of untrained networks ends with."""
ENGLISH = ("minilm", "bert-base-cased", "bert-base-uncased", "google/electra-base-discriminator", "roberta-base")
"""Text models of the registry that read English, the language of the class names."""
VISION = tuple(name for name, checkpoint in pretrained.REGISTRY.items() if checkpoint.kind == "vision")
ONE_EACH = "ILSVRC/imagenet-1k.sample1000"
"""A folder beside that of ImageNet with one picture of each of its classes, in the same schema; may be absent."""
LEAST_CLASSES = 100
"""Pairs of picture and description below which CKA says next to nothing."""
PIXELS = 224
"""Side of the pictures that pretrained encoders get; they resize them as they need."""
TOKENS = 64
"""Of a class description; longer ones are cut."""
CHUNK = 100


class Atlas(NamedTuple):
    """The pairs that were compared, and the models that were not."""

    frame: pd.DataFrame
    """One line per unordered pair and form of CKA, with `COLUMNS`."""
    not_run: dict[str, str]
    """Why a model is not in it, by name."""

    def save(self, folder: str | Path = ".") -> Path:
        """Write the frame as ``architecture_cka.csv``, whole or not at all."""
        return save_table(self.frame, "architecture_cka", folder)


class Member(NamedTuple):
    """One model of an atlas."""

    group: str
    modality: str
    """"vision" or "language"."""
    space: np.ndarray | torch.Tensor


def run(study: sections.Study) -> Atlas:
    """Compare the architecture study's vision models, and vision with language on ImageNet's classes.

    The second needs real pictures and trains what is missing of the training section's ImageNet models, which that
    section then finds in the store. It is left out where a run is restricted to some data sets.

    Parameters
    ----------
    study : Study
        Of the section "architecture".
    """
    with workers.one_thread():
        own, absent = _zoo(study.rows.values(), "vision"), dict(_READ_TEXTS)
        try:
            paired, missing = _paired(study)
        except (DataError, ParameterError) as error:
            paired, missing = pd.DataFrame(columns=COLUMNS), {"vision and language": str(error)}
    frames = [frame for frame in (own, paired) if len(frame)]
    return Atlas(pd.concat(frames, ignore_index=True) if frames else own, absent | missing)


_READ_TEXTS = {
    "BERT and RoBERTa of this zoo": "they read questions or reviews, not the pictures that the zoo's networks share; "
    "class names are none of their texts, and the tokens they learnt are not stored"
}


def write_texts(profile: str, into: str | Path) -> None:
    """Compare BERT and RoBERTa on the questions that both read, and write what the book shows of it.

    Their models are those of the section "architecture", from the store, or trained; where their weights are
    missing, table and figure say so.

    Parameters
    ----------
    profile : str
    into : path
        Gets ``texts.csv``, ``texts.md`` and ``texts.png``.
    """
    settings = check("architecture", {"profile": profile, "datasets": "trec"})
    (planned,) = [row for row in sections.plan(settings) if row.row.dataset == "trec"]
    if planned.not_run:
        path = save_table(pd.DataFrame(columns=COLUMNS), "texts", into)
        shown, drawn = f"Not run: {planned.not_run}.\n", _closed(plt.figure(figsize=(10.0, 1.0)))
        drawn.text(0.5, 0.5, "not run", ha="center", va="center")
    else:
        result = sections._result(planned, sections._trained([planned], settings))
        with workers.one_thread():
            path = save_table(_zoo([result], "language"), "texts", into)
        frame = pd.read_csv(path)
        shown, drawn = table_of_texts(frame), figure_zoo(frame, ZOO["language"])
    path.with_suffix(".md").write_text(shown, encoding="utf-8")
    drawn.savefig(path.with_suffix(".png"), dpi=110)


# The zoo's architectures on the same samples ---------------------------------------------------


def _zoo(rows: Collection[sections.RowResult], modality: str) -> pd.DataFrame:
    members, data = {}, ""
    for kind in ("models", "untrained"):
        for name, (group, model) in _models(rows, kind, modality).items():
            members[name] = Member(group, modality, model.spaces["test"])
            data = f"{model.recipe.dataset}, test split"
    return compare(ZOO[modality], members, data) if members else pd.DataFrame(columns=COLUMNS)


def _models(rows: Collection[sections.RowResult], kind: str, modality: str) -> dict[str, tuple[str, Trained]]:
    """Networks that were run on the same pictures, or texts, with their group, by architecture and seed.

    One recipe can serve two rows under two names (CNN-3, ReLU): it is one model here.
    """
    found = {}
    for result in rows:
        for group in result.planned.groups:
            if bool(group.prepared.vocabulary) != (modality == "language"):
                continue
            title = ARCHITECTURES[group.variant.network] + (UNTRAINED if kind == "untrained" else "")
            models = getattr(result, kind)
            for i, name in enumerate(getattr(group, "recipes" if kind == "models" else "untrained")):
                found.setdefault(f"{title} {i}", (title, models[name]))
    order = list(ARCHITECTURES.values())
    return dict(sorted(found.items(), key=lambda item: order.index(item[1][0].removesuffix(UNTRAINED))))


def compare(atlas: str, members: Mapping[str, Member], data: str) -> pd.DataFrame:
    """Both forms of CKA between all pairs of models, as lines of the frame.

    Parameters
    ----------
    atlas : "zoo", "zoo texts" or "paired"
    members : mapping from model names to Member
        Spaces hold the same samples in the same order.
    data : str
        What the samples are.
    """
    spaces = {name: member.space for name, member in members.items()}
    table = align(spaces, invariances=("absolute",), metrics=tuple(FORMS))
    for end in "ab":
        named = table[f"model_{end}"].map(members)
        table[f"group_{end}"] = [member.group for member in named]
        table[f"modality_{end}"] = [member.modality for member in named]
    return table.assign(atlas=atlas, data=data)[COLUMNS]


# Vision and language ---------------------------------------------------------------------------


def _paired(study: sections.Study) -> tuple[pd.DataFrame, dict[str, str]]:
    """One picture of each class of ImageNet against the class's names."""
    settings = study.settings
    if settings.value("data") == "builtin":
        raise DataError("not drawn with embedded stand-ins: they have no pictures whose classes are described")
    if settings.datasets is not None:
        raise DataError("not drawn: this run is restricted to some data sets, and it takes ImageNet's pictures")
    pictures, descriptions, where = described_pictures(settings.value("data"))
    members, not_run = {}, {}
    members |= _zoo_members(study, pictures)
    members |= _pretrained_members(pictures, descriptions, zoo.device_named(settings.device), not_run)
    return compare("paired", members, where), not_run


def described_pictures(data: str) -> tuple[Sequence, list[str], str]:
    """One picture of each class of ImageNet that is there, the classes' descriptions, and what they are.

    A class is described by its names in the data set, e.g. "tench, Tinca tinca". The pictures come from the folder
    ``ILSVRC/imagenet-1k.sample1000`` where it lies beside that of ImageNet, else from ImageNet's test split.

    Raises
    ------
    DataError
        If ImageNet is missing, or has too few classes here.
    """
    source = datasets.source_named("imagenet")
    folder = datasets.data_folder() if data == "auto" else Path(data).expanduser().absolute()
    files = datasets.parquet_files(source._replace(hub=ONE_EACH), folder)["test"] if folder else []
    if files:
        found = datasets._Located("imagenet", ONE_EACH, "", {"test": files}, None)
    else:
        found = datasets.locate("imagenet", data)
    rows = datasets._load_split(source, found, "test", source.classes.count)
    labels = np.asarray(rows[source.label])
    classes = len(np.unique(labels))
    if classes < LEAST_CLASSES:
        raise DataError(
            f"not drawn: the pictures of imagenet here are of {classes} classes, and each is one pair; "
            f"put {ONE_EACH}/test-00000-of-00001.parquet, or pictures of at least {LEAST_CLASSES} classes, "
            "under INVARIANCES_DATA"
        )
    kept = np.sort(datasets.balanced_subset(labels, classes))
    names = rows.features[source.label].names
    pictures = rows.select(kept)[source.inputs[0]]
    where = f"imagenet, one picture of each of {classes:,} classes and the class's names ({found.source})"
    return pictures, [names[label] for label in labels[kept]], where


def _squares(pictures: Iterable, pixels: int) -> torch.Tensor:
    """The middle of every picture, shape (n, 3, pixels, pixels), uint8."""
    from PIL import ImageOps

    fitted = [np.asarray(ImageOps.fit(picture.convert("RGB"), (pixels, pixels))) for picture in pictures]
    return torch.from_numpy(np.stack(fitted).transpose(0, 3, 1, 2).copy())


@torch.no_grad()
def _codes(encoder: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.cat([encoder(training.inputs(part.to(device))).float().cpu() for part in x.split(CHUNK)])


def _zoo_members(study: sections.Study, pictures: Sequence) -> dict[str, Member]:
    """The zoo's networks: those of CIFAR-10, for which the pictures are out of domain, and those of ImageNet."""
    own = _models(study.rows.values(), "models", "vision")
    models = {f"{name} ({model.recipe.dataset})": (group, model) for name, (group, model) in own.items()}
    models |= _imagenet_models(study.settings)
    squares, members = {}, {}
    for name, (group, model) in models.items():
        pixels = datasets.load(model.recipe.data).arrays["test_x"].shape[-1]
        if pixels not in squares:
            squares[pixels] = _squares(pictures, pixels)
        space = _codes(training.restore(model).encoder, squares[pixels], torch.device("cpu"))
        members[name] = Member(f"{group} ({model.recipe.dataset})", "vision", space)
    return members


def _imagenet_models(settings: Settings) -> dict[str, tuple[str, Trained]]:
    """The training section's, in either condition."""
    same = settings.model_dump(include={"profile", "seeds", "epochs", "samples", "device", "data"})
    (planned,) = [row for row in sections.plan(check("training", same | {"datasets": "imagenet"})) if not row.not_run]
    trained = zoo.train([recipe for group in planned.groups for recipe in group.recipes.values()], settings.device)
    found = {}
    for group in planned.groups:
        title = f"{ARCHITECTURES[group.variant.network]} {group.variant.label.lower()}"
        for i, recipe in enumerate(group.recipes.values()):
            found[f"{title} {i} ({recipe.dataset})"] = (title, trained[recipe])
    return found


def _pretrained_members(
    pictures: Sequence, descriptions: list[str], device: torch.device, not_run: dict[str, str]
) -> dict[str, Member]:
    """The pretrained models that can be had, each with an untrained network of its kind; others go to `not_run`."""
    members, squares = {}, None
    for name in (*VISION, *ENGLISH):
        modality = "vision" if name in VISION else "language"
        try:
            encoders = {name: pretrained.encoder(name), name + UNTRAINED: _fresh(name)}
            tokens = pretrained.tokenizer(name, TOKENS) if modality == "language" else None
        except PretrainedError as error:
            not_run[name] = str(error)
            continue
        if tokens:
            read = tokens.encode_batch(descriptions)
            longest = max(sum(encoding.attention_mask) for encoding in read)  # padding costs time and says nothing
            x = torch.tensor([encoding.ids[:longest] for encoding in read], dtype=torch.int32)
        else:
            squares = x = _squares(pictures, PIXELS) if squares is None else squares
        members |= {title: Member(title, modality, _codes(e.to(device), x, device)) for title, e in encoders.items()}
    others = [name for name, checkpoint in pretrained.REGISTRY.items() if checkpoint.kind == "text"]
    for name in [name for name in others if name not in ENGLISH]:
        not_run[name] = "not made for English, the language of the class names, alone"
    return members


def _fresh(name: str) -> pretrained.Frozen:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return pretrained.encoder(name, fresh=True)


# Tables ----------------------------------------------------------------------------------------


def table_of_texts(frame: pd.DataFrame) -> str:
    """The blocks of the networks that read texts, as Markdown."""
    shown = blocks(frame, ZOO["language"]).assign(Data=frame.data.iloc[0])
    return findings.table(shown.columns, shown.itertuples(index=False))


def blocks(frame: pd.DataFrame, atlas: str = "zoo") -> pd.DataFrame:
    """CKA within and across the zoo's architectures, and whether the blocks stand out.

    Within minus across is the mean over pairs within either architecture minus the mean over pairs across, with an
    interval over models: above 0, networks of one architecture are more alike than networks of the two.

    Parameters
    ----------
    frame : DataFrame
        The atlas's frame.
    atlas : "zoo" or "zoo texts"

    Returns
    -------
    DataFrame
        One line for each architecture and pair of architectures; a model with itself never counts.
    """
    frame = frame[frame.atlas == atlas]
    groups = _members(frame)
    trained = [group for group in groups if not group.endswith(UNTRAINED)]
    matrices = {metric: _matrix(frame[frame.metric == metric]) for metric in FORMS}
    lines = []
    for a, b in [*((a, a) for a in trained), *combinations(trained, 2)]:
        line = {"Block": a if a == b else f"{a} and {b}"}
        for metric, title in (("cka_debiased", "Debiased"), ("cka", "Raw")):
            line[title] = _said(block_interval(matrices[metric], groups[a], groups[b]))
            gap = None if a == b else within_minus_across(matrices[metric], groups[a], groups[b])
            line[f"Within minus across, {title.lower()}"] = _said(gap)
        bare = [groups.get(group + UNTRAINED, []) for group in (a, b)]
        line["Untrained, debiased"] = _said(block_interval(matrices["cka_debiased"], *bare))
        line["Models"] = str(len(groups[a])) if a == b else f"{len(groups[a])} + {len(groups[b])}"
        lines.append(line)
    return pd.DataFrame(lines)


def block_interval(matrix: pd.DataFrame, a: Sequence[str], b: Sequence[str]) -> Interval | None:
    """The mean of a block with its interval over models; None where the block has no pair.

    Parameters
    ----------
    matrix : DataFrame
        Scores of all pairs, square and symmetric.
    a, b : sequences of model names
        The same twice, or without a common model.
    """
    names = list(dict.fromkeys([*a, *b]))
    if not a or not b or len(names) < 2:
        return None
    return interval(_listed(matrix.loc[names, names]), groups=None if list(a) == list(b) else (a, b))


def within_minus_across(matrix: pd.DataFrame, a: Sequence[str], b: Sequence[str]) -> Interval | None:
    """How much more alike models are within their groups than across, with its interval over models.

    A model moves its group's mean by twice the deviation of its own mean, to first order, since each of its pairs
    counts for two models. So every pair across is set against what its two models say of their groups, and the
    differences, whose mean is exact, are averaged over models as any table of pairs.

    Parameters
    ----------
    matrix : DataFrame
        Scores of all pairs, square and symmetric.
    a, b : sequences of model names
        Without a common model.

    Returns
    -------
    Interval or None
        None where a group has fewer than 3 models: one pair says nothing of the spread within.
    """
    if min(len(a), len(b)) < 3:
        return None
    within = []
    for names in (a, b):
        own = matrix.loc[names, names].mask(np.eye(len(names), dtype=bool)).mean(axis=1)
        within.append((2 * own - own.mean()).to_numpy())
    gaps = (within[0][:, None] + within[1][None, :]) / 2 - matrix.loc[a, b]
    return interval(gaps.rename_axis("model_a").reset_index().melt("model_a", var_name="model_b"), "value", (a, b))


def cross_modal(frame: pd.DataFrame) -> pd.DataFrame:
    """CKA of every group of vision models with every language model, beside its chance level.

    Parameters
    ----------
    frame : DataFrame
        The atlas's frame.

    Returns
    -------
    DataFrame
        One line per vision group and language model, both trained. Null is the expected score when the descriptions
        are shuffled over the classes, by its closed form. z and p are those of the least similar model of the group;
        p, normal in z, is multiplied by the number of lines (Bonferroni). The last columns put an untrained network in
        the place of either model.
    """
    cross = _cross_modal_pairs(frame)
    means = cross.groupby(["vision", "language", "metric"]).score.mean()
    trained = cross[~(cross.vision.str.endswith(UNTRAINED) | cross.language.str.endswith(UNTRAINED))]
    keys = list(trained[["vision", "language"]].drop_duplicates().itertuples(index=False, name=None))
    lines = []
    for vision, language in keys:
        own = trained[(trained.vision == vision) & (trained.language == language)]
        raw, debiased = (own[own.metric == metric] for metric in ("cka", "cka_debiased"))
        p = min(1.0, debiased.p.max() * len(keys))
        lines.append(
            {
                "Vision": vision,
                "Language": language,
                "Models": len(debiased),
                "Debiased": f"{debiased.score.mean():z.3f}",
                "Null": "0",
                "Raw": f"{raw.score.mean():.3f}",
                "Null, raw": f"{raw.null.mean():.3f}",
                "Calibrated, raw": f"{raw.calibrated.mean():z.3f}",
                "z": f"{debiased.z.min():.1f}",
                "p": f"{p:.1g}" if p >= 1e-10 else "< 1e-10",
                "Above chance": "yes" if p < 0.05 else "no",
                "Language model untrained": _number(means.get((vision, language + UNTRAINED, "cka_debiased"))),
                "Vision model untrained": _number(means.get((vision + UNTRAINED, language, "cka_debiased"))),
            }
        )
    return pd.DataFrame(lines)


def left_out(not_run: Mapping[str, str]) -> pd.DataFrame:
    """The models that are not in the atlas, and why."""
    return pd.DataFrame({"Not run": list(not_run), "Reason": list(not_run.values())})


def _cross_modal_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Pairs of a vision and a language model, with their groups as ``vision`` and ``language``."""
    cross = frame[(frame.atlas == "paired") & (frame.modality_a != frame.modality_b)]
    first = cross.modality_a == "vision"
    vision = cross.group_a.where(first, cross.group_b)
    return cross.assign(vision=vision, language=cross.group_b.where(first, cross.group_a))


def _members(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The models of every group, in order of appearance."""
    found: dict[str, list[str]] = {}
    for end in "ab":
        for model, group in frame[[f"model_{end}", f"group_{end}"]].drop_duplicates().itertuples(index=False):
            if model not in found.setdefault(group, []):
                found[group].append(model)
    return found


def _matrix(pairs: pd.DataFrame) -> pd.DataFrame:
    """The scores of one form as a square; no model has one with itself."""
    names = [name for models in _members(pairs).values() for name in models]
    both = pd.concat([pairs, pairs.rename(columns={"model_a": "model_b", "model_b": "model_a"})])
    return both.pivot(index="model_a", columns="model_b", values="score").reindex(index=names, columns=names)


def _listed(matrix: pd.DataFrame) -> pd.DataFrame:
    """A square of scores as a table of pairs, each once."""
    rows, columns = np.triu_indices(len(matrix), 1)
    scores = matrix.to_numpy()[rows, columns]
    return pd.DataFrame({"model_a": matrix.index[rows], "model_b": matrix.index[columns], "score": scores})


def _said(span: Interval | None) -> str:
    return "-" if span is None else describe(span)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"


# Figures ---------------------------------------------------------------------------------------


def figure_zoo(frame: pd.DataFrame, atlas: str = "zoo") -> Figure:
    """Raw and debiased CKA between all networks that read the same pictures, or texts, blocks by architecture."""
    frame = frame[frame.atlas == atlas]
    groups = _members(frame)
    figure, axes, bar = _panels(6.4)
    for ax, (metric, title) in zip(axes, FORMS.items(), strict=True):
        _heatmap(ax, _matrix(frame[frame.metric == metric]), bar)
        ends = np.cumsum([len(models) for models in groups.values()])
        _borders(ax, ends[:-1], 1.2)
        _borders(ax, [end for end, (a, b) in zip(ends, pairwise(groups), strict=False) if _bare(a) != _bare(b)], 3.5)
        middles = ends - [len(models) / 2 for models in groups.values()]
        _labels(ax, middles, list(groups), title, ax is axes[0])
    return _closed(figure)


def _bare(group: str) -> bool:
    return group.endswith(UNTRAINED)


def figure_pretrained(frame: pd.DataFrame) -> Figure:
    """Raw and debiased CKA between groups of vision and language models on paired inputs.

    A cell is the mean over pairs of different models; a group of one model has none with itself.
    """
    frame = frame[(frame.atlas == "paired") & ~frame.group_a.str.endswith(UNTRAINED)]
    frame = frame[~frame.group_b.str.endswith(UNTRAINED)]
    groups = _members(frame)
    languages = {*frame.group_a[frame.modality_a == "language"], *frame.group_b[frame.modality_b == "language"]}
    border = [i for i, (a, b) in enumerate(pairwise(groups), 1) if (a in languages) != (b in languages)]
    figure, axes, bar = _panels(6.0)
    for ax, (metric, title) in zip(axes, FORMS.items(), strict=True):
        matrix = _matrix(frame[frame.metric == metric])
        means = [[_mean(matrix.loc[a, b]) for b in groups.values()] for a in groups.values()]
        means = pd.DataFrame(means, list(groups), list(groups))
        _heatmap(ax, means, bar, numbers=True)
        _borders(ax, range(1, len(groups)), 0.6)
        _borders(ax, border, 3.5)
        _labels(ax, np.arange(len(groups)) + 0.5, list(groups), title, ax is axes[0])
    return _closed(figure)


def _mean(block: pd.DataFrame) -> float:
    """Of the scores of different models; NaN where there are none."""
    return float(block.stack().mean())


def _panels(height: float) -> tuple[Figure, list[plt.Axes], plt.Axes]:
    figure = plt.figure(figsize=(10.0, height), layout="constrained")
    *axes, bar = figure.subplots(1, 3, width_ratios=[1, 1, 0.05])
    return figure, axes, bar


def _heatmap(ax: plt.Axes, matrix: pd.DataFrame, bar: plt.Axes, numbers: bool = False) -> None:
    ax.set_facecolor("0.8")
    shown = matrix.map(lambda score: "" if np.isnan(score) else f"{score:z.2f}".replace("0.", "."))
    given = {"annot": shown, "fmt": "", "annot_kws": {"fontsize": 7.5}} if numbers else {}
    sns.heatmap(matrix, vmin=0, vmax=1, cmap="cividis", square=True, ax=ax, cbar_ax=bar, **given)
    bar.set_ylabel("linear CKA")


def _borders(ax: plt.Axes, edges: Iterable[float], width: float) -> None:
    for edge in edges:
        ax.axhline(edge, color="white", linewidth=width)
        ax.axvline(edge, color="white", linewidth=width)


def _labels(ax: plt.Axes, places: Sequence[float], names: list[str], title: str, left: bool) -> None:
    """One label a block, in the middle of its side."""
    ax.set_xticks(places, names, rotation=90)
    ax.set_yticks(places, names if left else [""] * len(names), rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel="", title=title)
