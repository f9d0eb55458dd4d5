"""How far alignment hangs on the anchors, and what a combination of similarities adds to the best single one.

Needs the extras `zoo` and `book`, and at laptop size the data sets under INVARIANCES_DATA (or the hub). Models come
from the store; what is not there is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("Agg")
import pandas as pd
import typer

from invariances.paper import beyond, tables

HERE = Path(__file__).resolve().parent.parent / "book" / "beyond"
STUDIES = {"anchors": beyond.study_anchors, "subsets": beyond.study_subsets}
FIGURES = {"anchors": beyond.draw_anchors, "subsets": beyond.draw_subsets}
TABLES = {
    "banner": ("anchors", tables.banner),
    "counts": ("anchors", beyond.table_of_counts),
    "spread": ("anchors", beyond.table_of_spread),
    "findings_anchors": ("anchors", beyond.findings_on_anchors),
    "subsets": ("subsets", beyond.table_of_subsets),
    "differences": ("subsets", beyond.table_of_differences),
    "findings_subsets": ("subsets", beyond.findings_on_subsets),
}
"""Markdown files of the page: the CSV file that each is made of, and how."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def show(into: Path) -> None:
    """Draw figures and write tables, from the CSV files alone."""
    frames = {name: pd.read_csv(into / f"{name}.csv") for name in STUDIES}
    for name, draw in FIGURES.items():
        draw(frames[name]).savefig(into / f"{name}.png", dpi=110)
    for name, (frame, table) in TABLES.items():
        (into / f"{name}.md").write_text(table(frames[frame]) + "\n", encoding="utf-8")


@app.command(epilog="\b\nExample:\n  INVARIANCES_DATA=path/to/parquet python benchmarks/anchors.py --profile laptop")
def main(
    profile: Annotated[str, typer.Option(help=f"{', '.join(beyond.SIZES)}")] = "laptop",
    redraw: Annotated[bool, typer.Option(help="Only figures and tables, from the CSV files that are there.")] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes; by default one a core.")] = None,
    into: Annotated[Path, typer.Option(help="Folder for all files.", show_default="book/beyond")] = HERE,
) -> None:
    """Redraw the anchors, combine the similarities, and write the tables and figures of the book on both."""
    if profile not in beyond.SIZES:
        raise typer.BadParameter(f"unknown profile {profile}; choose from {', '.join(beyond.SIZES)}")
    into.mkdir(parents=True, exist_ok=True)
    try:
        for name, study in () if redraw else STUDIES.items():
            study(profile, processes).to_csv(into / f"{name}.csv", index=False, float_format="%.5g")
        show(into)
    except (ValueError, RuntimeError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    for name in ("findings_anchors", "differences"):
        typer.echo((into / f"{name}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    app()
