"""What a table or a figure shows, in one sentence made from the numbers behind it."""

from __future__ import annotations

import pandas as pd
from IPython.display import Markdown

from invariances.ladders import ALL_PAIRS
from invariances.paper.frames import across_groups, over_groups
from invariances.paper.judging import percent
from invariances.paper.rows import SIMILARITIES
from invariances.paper.stitched import predicts_sentence
from invariances.paper.tables import CLASS_TITLES, beyond_similarity, ladder_verdict

__all__ = [
    "attention",
    "by_class",
    "by_modality",
    "cka",
    "conditions",
    "cross_modal",
    "features",
    "ladder",
    "models",
    "prediction",
    "received",
    "scores",
    "shows",
    "singular_values",
    "stitching",
]


def shows(sentence: str) -> Markdown:
    """A sentence as a notebook shows it below a table or a figure; nothing where there is none."""
    return Markdown(f"*This shows* {sentence}." if sentence else "")


def _span(values: pd.Series, digits: int = 2) -> str:
    low, high = f"{values.min():z.{digits}f}", f"{values.max():z.{digits}f}"
    return low if low == high else f"{low} to {high}"


def models(frame: pd.DataFrame) -> str:
    """How well models do their own task, from the poorest row to the best: from ``<section>_models.csv``."""
    said = []
    if "accuracy" in frame and frame.accuracy.notna().any():
        means = frame[frame.accuracy.notna()].groupby("row").accuracy.mean()
        said.append(f"classifiers get {100 * means.min():.0f} to {percent(means.max())} of the test samples right")
    if "mse" in frame and frame.mse.notna().any():
        means = 1000 * frame[frame.mse.notna()].groupby("row").mse.mean()
        said.append(f"autoencoders have a squared error of {_span(means, 1)} ×10⁻³ per pixel")
    return f"that {', and '.join(said)} (means of the rows)" if said else ""


def scores(frame: pd.DataFrame) -> str:
    """How alignment stands above chance by invariance, beside untrained networks: from ``<section>.csv``."""
    across = pd.concat([across_groups(part) for _, part in frame.groupby(["row", "kind"], sort=False)])
    means = across.groupby(["kind", "invariance", "row"]).calibrated.mean()
    said = [f"{_span(means['trained', key])} {name}" for key, name in _NAMES.items() if ("trained", key) in means.index]
    if ("untrained", "affine") in means.index:
        said.append(f"{_span(means['untrained', 'affine'])} for untrained networks after an affine map")
    return f"that calibrated alignment (means of the rows) is {', '.join(said)}"


_NAMES = {"absolute": "in raw spaces", "relative": "by relative representations", "affine": "after an affine map"}


def conditions(table: pd.DataFrame) -> str:
    """In how many rows models of one condition agree more than models of two: from the table's cells."""
    across = table[(table.kind == "across") & (table.invariance == "affine")]
    clear = int((across.p < 0.05).sum())
    return (
        f"that after an affine map models of two conditions agree less than models of one in {clear} of {len(across)} "
        f"rows (p < 0.05 by relabelling); across minus within is {_span(across.difference)}"
        if len(across)
        else ""
    )


def ladder(frame: pd.DataFrame) -> str:
    """Which kind of map the ladder names in how many rows, and what freedom adds: from ``<section>_ladder.csv``."""
    parts = [part for _, part in frame.groupby("row", sort=False)]
    names = pd.Series([ladder_verdict(part).invariance for part in parts]).value_counts()
    said = ", ".join(f"{CLASS_TITLES.get(str(name), name)} in {count}" for name, count in names.items())
    gains = pd.Series([beyond_similarity(part).mean for part in parts])
    return (
        f"that the ladder names {said} of {len(parts)} rows; an affine map explains {_span(gains)} of the variance "
        "beyond a similarity"
    )


def singular_values(steps: pd.DataFrame) -> str:
    """How unevenly T stretches beside a rotation with equal noise: from ``<section>_ladder.csv``."""
    pairs = steps[(steps.model_a != ALL_PAIRS) & (steps["class"] == "affine")]
    medians = pairs.groupby("row")[["singular_value_ratio", "singular_value_ratio_simulated"]].median()
    own, simulated = medians.singular_value_ratio, medians.singular_value_ratio_simulated
    return (
        f"that T's largest singular value is {_span(own, 1)} times its smallest, by row; for a rotation with equal "
        f"noise it would be {_span(simulated, 1)} times"
    )


def stitching(frame: pd.DataFrame) -> str:
    """What each connection keeps of the ceiling, from the poorest row to the best: from ``stitching.csv``."""
    parts = [over_groups(across_groups(part)) for _, part in frame[frame.control == "none"].groupby("row", sort=False)]
    kept = pd.concat(parts).groupby(["invariance", "row"], sort=False).retention.mean()
    said = [f"{name} {_span(kept[name])}" for name in dict.fromkeys(kept.index.get_level_values(0))]
    return f"the share of the ceiling that stitching keeps (means of the rows): {', '.join(said)}"


def prediction(frame: pd.DataFrame) -> str:
    """As finding 4 says it: from ``stitching.csv``."""
    sentence = predicts_sentence(frame)
    return f"that {sentence[0].lower()}{sentence[1:].rstrip('.')}"


def cka(table: pd.DataFrame) -> str:
    """How many pairs of architectures stand apart: from the table of blocks."""
    gaps = table["Within minus across, debiased"][table.Block.str.contains(" and ")] if len(table) else pd.Series()
    lows = gaps.str.extract(r"\[(-?[\d.]+),")[0].dropna().astype(float) if len(gaps) else gaps
    if lows.empty:
        return ""
    return (
        "that networks of one architecture are more alike than networks of two in "
        f"{sum(lows > 0)} of {len(lows)} pairs of architectures"
    )


def cross_modal(table: pd.DataFrame) -> str:
    """How many pairs of vision and language models agree more than by chance: from their table."""
    if table.empty:
        return ""
    above, values = int((table["Above chance"] == "yes").sum()), table.Debiased.astype(float)
    return f"that {above} of {len(table)} pairs agree more than by chance, with a debiased CKA of {_span(values)}"


def attention(table: pd.DataFrame) -> str:
    """Whether attention weights help: from the table of accuracies."""
    bounds = table["95 % interval"].str.extract(r"\[(-?[\d.]+), (-?[\d.]+)\]").astype(float)
    apart = int(((bounds[0] > 0) | (bounds[1] < 0)).sum())
    gaps = table["Attention minus equal"].astype(float)
    return (
        f"that attention and equal weights differ in accuracy by {_span(gaps, 3)}, by more than chance in {apart} of "
        f"{len(table)} conditions"
    )


def features(frame: pd.DataFrame) -> str:
    """How far features stay alike beside what classes alone give: from ``training_features.csv``."""
    whole = frame[frame["class"] == "all"]
    by = whole.groupby("component", sort=False)
    ends = zip(dict.fromkeys(whole.component), by.agreement.mean(), by.null_within_class.mean(), strict=True)
    said = [f"{SIMILARITIES[str(name)]} {agreement:.2f} ({within:.2f})" for name, agreement, within in ends]
    return f"the mean agreement of each component, and in brackets what classes alone give: {', '.join(said)}"


def received(frame: pd.DataFrame) -> str:
    """Which component gets most attention in how many conditions: from ``training_attention.csv``."""
    own = frame[~frame.equal_weights].groupby(["row", "group", "key"], sort=False).weight.mean().reset_index()
    highest = own.loc[own.groupby(["row", "group"], sort=False).weight.idxmax()]
    counts = ", ".join(f"{SIMILARITIES[str(name)]} in {count}" for name, count in highest.key.value_counts().items())
    return (
        f"that of {len(highest)} conditions most attention goes to {counts}; it receives a mean weight of "
        f"{_span(highest.weight)}, where equal weights would give {1 / own.key.nunique():.2f}"
    )


def by_class(frame: pd.DataFrame) -> str:
    """Between which classes agreement lies in each row: from ``training_features.csv``."""
    classes = frame[frame["class"] != "all"]
    means = classes.groupby(["row", "class"], sort=False).agreement.mean().reset_index()
    said = []
    for row, own in means.groupby("row", sort=False):
        lines = own.set_index("class").agreement
        low, high = (str(name).partition(",")[0] for name in (lines.idxmin(), lines.idxmax()))
        said.append(f"{row} {lines.min():.2f} ({low}) to {lines.max():.2f} ({high})")
    return f"the agreement of the least and of the most alike class, as the mean over components: {', '.join(said)}"


def by_modality(table: pd.DataFrame) -> str:
    """How alike models of one kind are beside models of two: from the table of kinds."""
    if table.empty:
        return ""
    means = table.set_index("Block").Debiased.str.extract(r"^(-?[\d.]+)")[0].dropna()
    said = ", ".join(f"{float(value):z.2f} {_BLOCKS[str(block)]}" for block, value in means.items())
    return f"that debiased CKA is {said}"


_BLOCKS = {
    "vision": "within vision",
    "language": "within language",
    "vision and language": "between vision and language",
}
