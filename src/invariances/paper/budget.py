"""What the laptop run may cost, written down before it: core-seconds, on two cores that both train.

A model that two rows share is counted in the first. Two cores have 18,000 core-seconds in the 150 minutes that
``make reproduce`` may take from an empty store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MINUTES, CORES = 150, 2

TRAINING: dict[str, dict[str, int]] = {
    "initialization": {
        "MNIST": 330,
        "Fashion-MNIST": 320,
        "CIFAR-10": 400,
        "CIFAR-100": 380,
        "TREC": 360,
        "DBpedia": 540,
        "MNIST, reconstruction": 310,
        "Fashion-MNIST, reconstruction": 300,
        "CIFAR-10, reconstruction": 330,
        "CIFAR-100, reconstruction": 270,
    },
    "architecture": {
        "CNN-3 vs CNN-5": 500,
        "ReLU vs GELU": 240,
        "ViT-Small vs ViT-Base": 2_300,
        "BERT vs RoBERTa": 280,
    },
    "training": {
        "CIFAR-10: SGD vs Adam": 280,
        "CIFAR-100: LR 0.001 vs 0.01": 470,
        "ImageNet: Aug Light vs Heavy": 1_000,
        "Amazon Reviews: Batch 32 vs 128": 740,
    },
    "stitching": {
        "MNIST": 720,
        "CIFAR-10": 720,
        "TREC": 380,
        "Amazon (Cross-lingual)": 1_500,
        "MNIST, classification": 0,
        "CIFAR-10, classification": 0,
    },
}
"""Training the models of a row, by section."""

OTHER: dict[str, int] = {
    "data, decoded once": 60,
    "heads on products of invariances": 1_200,
    "scores, ladders and figures of the four sections": 1_500,
    "anchors and subsets": 720,
    "findings and definitions": 60,
    "the book": 120,
}
"""Everything else."""


def total() -> int:
    """Core-seconds of the whole run."""
    return sum(sum(rows.values()) for rows in TRAINING.values()) + sum(OTHER.values())


PARTS: dict[str, tuple[str, ...]] = {
    "data, decoded once": ("data",),
    **{section: (section,) for section in TRAINING},
    "anchors and subsets": ("anchors",),
    "findings and definitions": ("pages",),
}
"""Lines of the budget, and the parts of a run that they are held against."""


def table(run: pd.DataFrame) -> str:
    """Budget beside what was measured, as Markdown.

    Parameters
    ----------
    run : DataFrame
        What each part took: part, profile, minutes, models, finished; may be empty.
    """
    run = run[run.part != "book"]  # which shows this table
    profiles = ", ".join(dict.fromkeys(run.profile)) or "not timed"
    lines = [
        f"| Part | Budget at laptop size, minutes on {CORES} cores | Minutes measured ({profiles}) | Models trained |",
        "| --- | --- | --- | --- |",
    ]
    for title, parts in PARTS.items():
        planned = OTHER[title] if title in OTHER else sum(TRAINING[title].values())
        own = run[run.part.isin(parts)]
        known = len(own) > 0 and bool(own[own.finished.astype(bool)].part.nunique() == len(parts))
        cells = (f"{own.minutes.sum():.1f}", f"{own.models.sum():.0f}") if known else ("not timed", "")
        lines.append(f"| {title} | {_minutes(planned)} | {cells[0]} | {cells[1]} |")
        if title == "stitching":
            within = [name for name in OTHER if name not in (*PARTS, "the book")]
            lines += [f"| {name} | {_minutes(OTHER[name])} | in the sections | |" for name in within]
    lines.append(f"| the book | {_minutes(OTHER['the book'])} | shows this table | |")
    lines.append(
        f"| **in all** | {_minutes(total())} of {MINUTES} | {run.minutes.sum():.1f} | {run.models.sum():.0f} |"
    )
    return "\n".join(lines) + "\n"


def _minutes(core_seconds: float) -> str:
    return f"{core_seconds / CORES / 60:.1f}"
