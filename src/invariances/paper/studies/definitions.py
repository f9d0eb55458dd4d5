"""Where the paper's tables cannot follow from its definitions: each point demonstrated by numbers computed here.

Demonstrations are seeded and need no data; the rest is arithmetic on the reported tables and on the CSV files
that lie beside the executed notebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from invariances.alignment import align
from invariances.paper import plots
from invariances.paper.findings import is_error, read
from invariances.paper.frames import across_groups
from invariances.paper.reported import ALIGNMENT, STITCHING, stitching_beside
from invariances.paper.tables import markdown_table
from invariances.transforms import Relative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DECAYS", "ceilings", "chance", "commensurable", "errors", "pages", "scale", "shares", "widths", "write"]


SEEDS = 5
SAMPLES, WIDTH, ANCHORS = 1_300, 64, 300
"""Of planted spaces; the samples that are no anchors are scored."""
DECAYS = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Planted variances fall as 1 / j^decay over the axes j."""
NOISES = (0.3, 0.5)
"""Standard deviation of the noise on either side, that of the signal is 1."""
DISTANCES = ("cosine", "euclidean", "l1", "linf")


def write(results: str | Path, into: str | Path) -> None:
    """Write the tables (CSV and Markdown) and the figure of the book's page on definitions.

    Parameters
    ----------
    results : path
        The folder of the four ``<section>.csv``.
    into : path
    """
    into, frames = Path(into), read(results)
    into.mkdir(parents=True, exist_ok=True)
    tables = {
        "scale": scale(frames),
        "widths": widths(),
        "commensurable": commensurable(),
        "chance": chance(),
        "errors": errors(frames["stitching"]),
        "ceilings": ceilings(frames["stitching"]),
        "shares": shares(),
    }
    for name, frame in tables.items():
        frame.to_csv(into / f"{name}.csv", index=False, float_format="%.6g")
    for name, text in pages(into).items():
        (into / f"{name}.md").write_text(text, encoding="utf-8")
    plots.save_svg(draw(pd.read_csv(into / "commensurable.csv")), into / "commensurable.svg")


def pages(folder: str | Path) -> dict[str, str]:
    """The page's tables as Markdown, from the CSV files in `folder`."""
    return {name: show(pd.read_csv(Path(folder) / f"{name}.csv")) for name, show in _SHOW.items()}


# Raw and scale --------------------------------------------------------------------------------


def scale(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Raw and scale cosine, reported and measured, per section: how far apart they are at most."""
    lines = []
    for section, rows in ALIGNMENT.items():
        frame = frames[section]
        frame = frame[frame.metric == "cosine"]
        keys = ["row", "kind", "model_a", "model_b"]
        raw, scaled = (frame[frame.invariance == name].set_index(keys).score for name in ("absolute", "scale"))
        both = pd.concat([raw, scaled], axis=1, keys=["raw", "scale"]).dropna()
        gaps = [cells["scale"].mean - cells["absolute"].mean for cells in rows.values()]
        lines.append(
            {
                "section": section,
                "reported_least": min(gaps),
                "reported_most": max(gaps),
                "measured_most": (both.raw - both.scale).abs().max(),
                "pairs": len(both),
            }
        )
    return pd.DataFrame(lines)


def _show_scale(frame: pd.DataFrame) -> str:
    lines = [
        (
            row.section,
            f"{row.reported_least:.2f} to {row.reported_most:.2f}",
            f"{row.measured_most:.1g}",
            f"{row.pairs:,}",
        )
        for row in frame.itertuples()
    ]
    return markdown_table(
        (
            "Section",
            "Reported: scale minus raw",
            "Measured: largest difference",
            "Pairs of models, references included",
        ),
        lines,
    )


# Planted spaces -------------------------------------------------------------------------------


def _rotation(rng: np.random.Generator, d: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def widths() -> pd.DataFrame:
    """Cosine of one and the same code with itself in a wider space, zero-padded, by where its features stand there."""
    lines = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        code = rng.normal(size=(SAMPLES, WIDTH))
        orders = {
            "the first ones": np.arange(WIDTH),
            "half of them first": np.r_[: WIDTH // 2, WIDTH : WIDTH + WIDTH // 2],
            "drawn at random": rng.permutation(2 * WIDTH)[:WIDTH],
            "the last ones": np.arange(WIDTH, 2 * WIDTH),
        }
        for placed, columns in orders.items():
            wide = np.zeros((SAMPLES, 2 * WIDTH))
            wide[:, columns] = code
            scores = align({"narrow": code, "wide": wide}, np.arange(ANCHORS), ("absolute", "relative"))
            lines += [
                {"placed": placed, "seed": seed, "invariance": row.invariance, "score": row.score}
                for row in scores.itertuples()
            ]
    return pd.DataFrame(lines)


def _show_widths(frame: pd.DataFrame) -> str:
    means = frame.groupby(["placed", "invariance"], sort=False).score.mean().unstack()
    lines = [(placed, f"{row.absolute:z.2f}", f"{row.relative:z.2f}") for placed, row in means.iterrows()]
    return markdown_table(
        ("The code's features stand in the wider space as", "Raw cosine, zero-padded", "Relative cosine"), lines
    )


def commensurable() -> pd.DataFrame:
    """Scores of one planted rotation with noise on both sides, by the decay of the code's spectrum."""
    lines = []
    for noise in NOISES:
        for decay in DECAYS:
            for seed in range(SEEDS):
                rng = np.random.default_rng([seed, round(10 * decay), round(10 * noise)])
                deviations = np.arange(1, WIDTH + 1) ** (-decay / 2)
                code = rng.normal(size=(SAMPLES, WIDTH)) * deviations / np.linalg.norm(deviations)
                sides = {"a": code, "b": code @ _rotation(rng, WIDTH)}
                spaces = {
                    name: side + noise * rng.normal(size=code.shape) / np.sqrt(WIDTH) for name, side in sides.items()
                }
                scores = align(spaces, np.arange(ANCHORS), ("relative", "affine")).groupby("invariance", sort=False)
                for invariance, row in scores[["score", "calibrated"]].mean().iterrows():
                    lines.append({"noise": noise, "decay": decay, "seed": seed, "invariance": invariance, **row})
    return pd.DataFrame(lines)


def _show_commensurable(frame: pd.DataFrame) -> str:
    means = frame.groupby(["noise", "decay", "invariance"], sort=False).calibrated.mean().unstack()
    lines = [
        (f"{noise:g}", f"{decay:g}", f"{row.relative:.2f}", f"{row.affine:.2f}", row.idxmax())
        for (noise, decay), row in means.iterrows()
    ]
    return markdown_table(("Noise", "Decay of the spectrum", "Relative", "Affine", "Higher"), lines)


def draw(frame: pd.DataFrame) -> Figure:
    """Relative and affine scores of the same planted rotation, by the decay of the spectrum, a panel per noise."""
    import matplotlib.pyplot as plt

    noises = frame.noise.unique()
    figure, axes = plt.subplots(
        1, len(noises), figsize=(plots.WIDTH, 3.2), sharey=True, layout="constrained", squeeze=False
    )
    looks = {"relative": ("C0", "o", "-"), "affine": ("C1", "s", "--")}
    for ax, noise in zip(axes.flat, noises, strict=True):
        for invariance, (color, marker, line) in looks.items():
            part = frame[(frame.noise == noise) & (frame.invariance == invariance)].groupby("decay").calibrated
            ax.plot(part.mean().index, part.mean(), line, color=color, marker=marker, label=invariance)
            ax.fill_between(part.min().index, part.min(), part.max(), color=color, alpha=0.2, linewidth=0)
        ax.set(title=f"noise {noise:g} on both sides", xlabel="decay of the variances, 1 / j^decay")
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
    axes[0, 0].set_ylabel("calibrated cosine")
    axes[0, 0].legend(frameon=False)
    plt.close(figure)
    return figure


def chance() -> pd.DataFrame:
    """Scores of relative profiles of *independent* random features, by activation, similarity and metric."""
    lines = []
    for activation, apply in _activations().items():
        for seed in range(SEEDS):
            rng = np.random.default_rng([seed, len(activation)])
            spaces = {name: apply(rng.normal(size=(SAMPLES, WIDTH))) for name in "ab"}
            profiles = {similarity: Relative(similarity) for similarity in DISTANCES}
            scores = align(spaces, np.arange(ANCHORS), profiles, ("cosine", "pearson"))
            for row in scores.itertuples():
                lines.append(
                    {
                        "activation": activation,
                        "similarity": row.invariance,
                        "metric": row.metric,
                        "seed": seed,
                        "score": row.score,
                        "null": row.null,
                        "calibrated": row.calibrated,
                    }
                )
    return pd.DataFrame(lines)


def _activations() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    from scipy.stats import norm

    return {"none": lambda x: x, "GELU": lambda x: x * norm.cdf(x), "ReLU": lambda x: np.maximum(x, 0)}


def _show_chance(frame: pd.DataFrame) -> str:
    means = frame.groupby(["activation", "similarity", "metric"], sort=False)[["score", "null", "calibrated"]].mean()
    lines = []
    for activation, similarity in frame[["activation", "similarity"]].drop_duplicates().itertuples(index=False):
        cosine, pearson = (means.loc[activation, similarity, metric] for metric in ("cosine", "pearson"))
        cells = (cosine.score, cosine.null, cosine.calibrated, pearson.score)
        lines.append((activation, similarity, *(f"{cell:z.2f}" for cell in cells)))
    return markdown_table(
        ("Activation", "Similarity to the anchors", "Cosine", "its null", "calibrated", "Pearson"),
        lines,
    )


# Stitching ------------------------------------------------------------------------------------


def _real(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The paper's stitching rows without controls, as far as they were run."""
    for row, found in frame[frame.control == "none"].groupby("row", sort=False):
        if stitching_beside(str(row)):
            yield str(row), across_groups(found)


def errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean squared errors as reported, and as measured on pixels between 0 and 1."""
    lines = []
    for row, part in _real(frame):
        cells = stitching_beside(row)
        if is_error(cells):
            measured = part[part.invariance == "absolute"]
            lines.append(
                {
                    "row": row,
                    "reported_ceiling": cells["ceiling"].mean,
                    "reported_absolute": cells["absolute"].mean,
                    "measured_ceiling": measured.ceiling.mean(),
                    "measured_absolute": measured.score.mean(),
                    "data": part.data.iloc[0],
                }
            )
    return pd.DataFrame(lines)


def _show_errors(frame: pd.DataFrame) -> str:
    lines = [
        (
            row.row,
            f"{row.reported_ceiling:.2f} / {row.reported_absolute:.2f}",
            f"{row.measured_ceiling:.5f} / {row.measured_absolute:.5f}",
            row.data,
        )
        for row in frame.itertuples()
    ]
    return markdown_table(("Row", "Reported: not stitched / absolute", "Measured, pixels from 0 to 1", "Data"), lines)


def ceilings(frame: pd.DataFrame) -> pd.DataFrame:
    """The unstitched score of absolute and of relative models, as measured, with the reported column."""
    lines = []
    for row, part in _real(frame):
        own = {space: part[part.invariance == space].ceiling.mean() for space in ("absolute", "relative")}
        factor = 1000 if is_error(stitching_beside(row)) else 100
        lines.append(
            {
                "row": row,
                "metric": part.metric.iloc[0],
                "reported": stitching_beside(row)["ceiling"].mean,
                **{space: factor * value for space, value in own.items()},
                "data": part.data.iloc[0],
            }
        )
    return pd.DataFrame(lines)


def _show_ceilings(frame: pd.DataFrame) -> str:
    units = {"mse": "MSE ×10⁻³"}
    lines = [
        (
            row.row,
            units.get(row.metric, "F1, %"),
            f"{row.reported:.2f}",
            f"{row.absolute:.2f}",
            f"{row.relative:.2f}",
            row.data,
        )
        for row in frame.itertuples()
    ]
    header = (
        "Row",
        "Metric",
        "Reported non-stitched",
        "Measured, absolute models",
        "Measured, relative models",
        "Data",
    )
    return markdown_table(header, lines)


def shares() -> pd.DataFrame:
    """What the reported table keeps of its own ceiling, by way of stitching; for errors, how many times they drop."""
    lines = []
    for row, cells in STITCHING.items():
        for space in ("relative", "affine"):
            stitched = cells[space].mean
            value = cells["absolute"].mean / stitched if is_error(cells) else stitched / cells["ceiling"].mean
            what = "error drops, times" if is_error(cells) else "share of the ceiling"
            above = cells["absolute"].mean if is_error(cells) else stitched
            below = stitched if is_error(cells) else cells["ceiling"].mean
            lines.append({"row": row, "space": space, "what": what, "of": above, "over": below, "value": value})
    return pd.DataFrame(lines)


def _show_shares(frame: pd.DataFrame) -> str:
    lines = []
    for row in frame.itertuples():
        errors_drop = row.what.startswith("error")
        shown = f"{row.value:.1f} times lower" if errors_drop else f"{100 * row.value:.1f} % kept"
        lines.append((row.row, row.space, f"{row.of:.2f} / {row.over:.2f}", shown))
    return markdown_table(("Row", "Stitched", "From the reported table", "That is"), lines)


_SHOW: dict[str, Callable[[pd.DataFrame], str]] = {
    "scale": _show_scale,
    "widths": _show_widths,
    "commensurable": _show_commensurable,
    "chance": _show_chance,
    "errors": _show_errors,
    "ceilings": _show_ceilings,
    "shares": _show_shares,
}
