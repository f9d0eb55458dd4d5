"""Moving an index from one encoder to another: what mapped vectors find by the number of pairs, beside isotrieve.

Reads embeddings of the same texts by several encoders, as `invariances embed` writes them (NAME-train.safetensors and
NAME-test.safetensors in one folder, and the classes in test.csv), or without a folder the small ones of the book.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import typer
from safetensors.torch import load_file, save

from invariances import discover, fit_map, score_map
from invariances.metrics.retrieval import directions, look_up
from invariances.migration import KINDS
from invariances.paper.plots import WIDTH, save_svg
from invariances.paper.tables import markdown_table
from invariances.spaces import read_space
from invariances.transfer import bootstrap, share_of_hits

HERE = Path(__file__).resolve().parent.parent / "book" / "own"
SMALL = HERE / "embeddings.safetensors"
"""Eight bits a number, of a part of the texts: enough to run this without data or network."""
PAIRS = (200, 500, 1000, 2000)
SMALL_SAMPLES = {"train": 500, "test": 250}
TITLES = {"minilm": "MiniLM", "e5": "multilingual E5", "use": "multilingual USE"}
METHODS = ("rotation+translation", "similarity", "affine")
"""The library's; affine is ridge regression with its penalty by generalized cross-validation."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)
Embeddings = dict[str, dict[str, torch.Tensor]]


def read(folder: Path | None) -> tuple[Embeddings, np.ndarray]:
    """The embeddings by encoder and split, and the classes of the test samples."""
    if folder is None:
        stored = load_file(SMALL)
        known = {name.rpartition("-")[0] for name in stored if name != "labels"}
        spaces = {
            name: {split: stored[f"{name}-{split}"].float() for split in SMALL_SAMPLES}
            for name in TITLES
            if name in known
        }
        return spaces, stored["labels"].numpy()
    spaces = {
        name: {split: read_space(folder / f"{name}-{split}.safetensors") for split in ("train", "test")}
        for name in TITLES
        if (folder / f"{name}-train.safetensors").is_file()
    }
    return spaces, pd.read_csv(folder / "test.csv").label.to_numpy()


def keep_small(spaces: Embeddings, labels: np.ndarray) -> None:
    """Write a part of the embeddings, eight bits a number, so that this runs without data."""
    kept = {"labels": torch.tensor(labels[: SMALL_SAMPLES["test"]])}
    for name, splits in spaces.items():
        for split, x in splits.items():
            part = x[: SMALL_SAMPLES[split]]
            kept[f"{name}-{split}"] = (part / part.abs().max() * 127).round().to(torch.int8)
    SMALL.write_bytes(save(kept))


def peers() -> dict[str, Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]]:
    """The maps of isotrieve, where it is installed."""
    if importlib.util.find_spec("isotrieve") is None:
        return {}
    from isotrieve import OrthogonalProcrustesMapping, RidgeMapping

    kinds = {"isotrieve, ridge": RidgeMapping, "isotrieve, Procrustes": OrthogonalProcrustesMapping}
    return {
        name: lambda a, b, kind=kind: kind().fit(a.astype("f4"), b.astype("f4")).transform
        for name, kind in kinds.items()
    }


def curve(spaces: Embeddings) -> pd.DataFrame:
    """What mapped test vectors find among the target's test vectors, by pairs and method."""
    lines = []
    for a, b in permutations(spaces, 2):
        x, y = spaces[a], spaces[b]
        index = directions(y["test"].double())
        for k in [k for k in PAIRS if k <= len(x["train"])] or [len(x["train"])]:
            source, target = x["train"][:k].double(), y["train"][:k].double()
            carried = {name: KINDS[name](source, target)(x["test"].double()) for name in METHODS}
            for name, fit in peers().items():
                if name == "isotrieve, Procrustes" and source.shape[1] != target.shape[1]:
                    continue
                mapped = fit(source.numpy(), target.numpy())(x["test"].numpy())
                carried[name] = torch.from_numpy(np.asarray(mapped)).double()
            for method, vectors in carried.items():
                found = look_up(directions(vectors), index)
                hits, overlap = share_of_hits(found.recall), bootstrap(found.overlap)
                line = {"source": a, "target": b, "method": method, "pairs": k, "index": len(vectors)}
                line |= {"recall_at_10": hits.mean, "recall_low": hits.low, "recall_high": hits.high}
                lines.append(line | {"overlap": overlap.mean, "overlap_low": overlap.low, "overlap_high": overlap.high})
    return pd.DataFrame(lines)


def decisions(spaces: Embeddings) -> pd.DataFrame:
    """What `fit_map` and `score_map` decide for every ordered pair."""
    lines = []
    for a, b in permutations(spaces, 2):
        fitted = fit_map(spaces[a]["train"].numpy(), spaces[b]["train"].numpy())
        scored = score_map(fitted, spaces[a]["test"].numpy(), spaces[b]["test"].numpy())
        table = scored.table.set_index("vectors")
        line = {"source": a, "target": b, "kind": fitted.kind, "pairs": fitted.facts["samples"]["fit"]}
        line |= {"index": scored.samples, "recall_at_10": table.loc["mapped", "recall_at_10"]}
        line |= {"unmapped_recall_at_10": table.loc["unmapped", "recall_at_10"], "overlap": scored.overlap.mean}
        line |= {"overlap_low": scored.overlap.low, "overlap_high": scored.overlap.high}
        lines.append(line | {"gate": scored.gate, "passed": scored.passed, "more_pairs": fitted.facts["more_pairs"]})
    return pd.DataFrame(lines)


def draw(frame: pd.DataFrame, into: Path) -> None:
    """Recall against pairs, a panel for every ordered pair."""
    pairs = list(dict.fromkeys(zip(frame.source, frame.target, strict=True)))
    columns = 2
    rows = -(-len(pairs) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, 2.3 * rows + 0.6), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for panel, (a, b) in zip(axes.flat, pairs, strict=False):
        part = frame[(frame.source == a) & (frame.target == b)]
        for i, (method, line) in enumerate(part.groupby("method", sort=False)):
            style = "--" if method.startswith("isotrieve") else "-"
            panel.plot(line.pairs, line.recall_at_10, style, marker="o", markersize=3, color=f"C{i}", label=method)
            panel.fill_between(line.pairs, line.recall_low, line.recall_high, color=f"C{i}", alpha=0.12, linewidth=0)
        panel.set_title(f"{TITLES[a]} into {TITLES[b]}", fontsize=9)
        panel.set_xscale("log")
        panel.set_xticks(sorted(set(frame.pairs)), [str(k) for k in sorted(set(frame.pairs))])
        panel.minorticks_off()
    figure.supxlabel("pairs that the map is fitted on", fontsize=9)
    figure.supylabel("recall@10", fontsize=9)
    lines = {
        label: handle for panel in axes.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    save_svg(figure, into)


def write_decisions(frame: pd.DataFrame, into: Path) -> None:
    """The decisions as a table of six columns."""
    header = ("From, into", "Map, pairs", "Recall@10, mapped", "Recall@10, unmapped", "Neighbours found", "Gate of 0.9")
    lines = [
        (
            f"{TITLES[line.source]}, {TITLES[line.target]}",
            f"{line.kind}, {line.pairs}",
            f"{line.recall_at_10:.2f}",
            f"{line.unmapped_recall_at_10:.2f}",
            f"{line.overlap:.2f} ({line.overlap_low:.2f} to {line.overlap_high:.2f})",
            "passed" if line.passed else "failed",
        )
        for line in frame.itertuples()
    ]
    into.write_text(markdown_table(header, lines), encoding="utf-8")


@app.command()
def main(
    embeddings: Annotated[
        Path | None, typer.Option(help="Folder of embeddings; without it, the book's small ones.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Where tables and figures go.", show_default="the book, or _build/own for the small"),
    ] = None,
) -> None:
    """Compare, decide, and move an index: curve, decisions, and a report, as the tutorial shows them."""
    spaces, labels = read(embeddings)
    into = into or (HERE if embeddings else HERE.parents[1] / "_build" / "own")
    into.mkdir(parents=True, exist_ok=True)
    if embeddings is not None:
        keep_small(spaces, labels)
    found = curve(spaces)
    found.round(6).to_csv(into / "curve.csv", index=False)
    draw(found, into / "curve.svg")
    decided = decisions(spaces)
    decided.round(6).to_csv(into / "decisions.csv", index=False)
    write_decisions(decided, into / "decisions.md")
    test = {TITLES[name]: splits["test"].numpy() for name, splits in spaces.items()}
    half = len(labels) // 2
    report = discover(test, anchors=half, labels=labels)
    names = {TITLES[name]: f"{name}-test.safetensors" for name in spaces}
    command = f"invariances discover {' '.join(names.values())} --anchors {half} --labels test.csv --html report.html"
    replace(report, sources=names, command=command).to_html(into / "report.html")
    (into / "answer.md").write_text(f"> {report.answer}\n", encoding="utf-8")
    typer.echo(f"{report.answer}\n\n{decided.round(3).to_string(index=False)}")


if __name__ == "__main__":
    app()
