"""The commands that fit, apply, score and export maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from invariances.extras import need
from invariances.own import Column, IdColumn

__all__ = ["MAP_EPILOG", "maps"]

MAP_EPILOG = """\b
Examples:
  invariances map fit old.npy new.npy -o a2b.safetensors
  invariances map score a2b.safetensors old2.npy new2.npy --gate 0.9
  invariances map apply a2b.safetensors shards/ -o mapped/
  invariances map export a2b.safetensors -o a2b.onnx

\b
In Python:
  fitted = invariances.read_map("a2b.safetensors")
  fitted(vectors); fitted.linear()
"""
maps = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Carry vectors from one model's space into another's, and decide whether that will do.",
    epilog=MAP_EPILOG,
)
FILES = "a .npy, .npz, .safetensors, .csv, .tsv or .parquet file, or a folder of Parquet shards"
Stored = Annotated[Path, typer.Argument(metavar="MAP", help="What `map fit` wrote.")]
Old = Annotated[str, typer.Argument(metavar="A", help=f"Vectors of the old model: {FILES}.")]
New = Annotated[str, typer.Argument(metavar="B", help="Vectors of the same samples by the new model.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write.")]
Seed = Annotated[int, typer.Option(help="Draws the samples.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


@maps.command(epilog="\b\nExample:\n  invariances map fit old.npy new.npy -o a2b.safetensors --kind rotation")
def fit(
    a: Old,
    b: New,
    output: Output,
    kind: Annotated[
        str,
        typer.Option(
            help="auto, identity, scale, translation, rotation, rotation+translation, similarity or affine. auto takes "
            "the smallest that finds as many neighbours as the best."
        ),
    ] = "auto",
    pairs: Annotated[int, typer.Option(help="Pairs that it is fitted on, at most.")] = 20_000,
    column: Column = None,
    id_column: IdColumn = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Fit a map on pairs, and save it with what is known of it."""
    from invariances.migration import fit_map
    from invariances.outputs import check_output
    from invariances.readers import located

    check_output(output, [located(source)[0] for source in (a, b)], force=force)
    found = fit_map(*_pair(a, b, column, id_column), kind=kind, seed=seed, most_pairs=pairs)
    target = found.save(output, force)
    facts, quality = found.facts, found.facts["quality"]
    typer.echo(f"The map is of the kind {found.kind}: {facts['why']}.")
    top1, overlap = (
        "{:.0f} of 100 ({:.0f} to {:.0f})".format(*(100 * quality[f"{name}{end}"] for end in ("", "_low", "_high")))
        for name in ("top1", "overlap")
    )
    typer.echo(
        f"Among {quality['gallery']} samples that it has not seen, a mapped vector finds its counterpart first for "
        f"{top1}, and {overlap} of its nearest neighbours; by chance {100 * quality['top1_chance']:.1f} and "
        f"{100 * quality['overlap_chance']:.0f}."
    )
    if quality["top1_low"] <= quality["top1_chance"]:
        typer.echo("The two files look unrelated: the map finds no more than chance. Check the order of their rows.")
    typer.echo(f"{facts['more_pairs'][0].upper()}{facts['more_pairs'][1:]}.")
    typer.echo(f"Map: {target}")


@maps.command(epilog="\b\nExample:\n  invariances map apply a2b.safetensors shards/ -o mapped/ --id doc")
def apply(
    stored: Stored,
    source: Annotated[str, typer.Argument(metavar="VECTORS", help=f"Vectors of the old model: {FILES}.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A .parquet or .npy file, or a folder of Parquet shards.")
    ],
    column: Column = None,
    id_column: IdColumn = None,
    insist: Annotated[
        bool, typer.Option("--insist", help="Also map vectors that do not look like those that it was fitted on.")
    ] = False,
    force: Force = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Carry vectors through a map, in batches; stopped, the same command goes on. Needs the extra tables."""
    need("map apply", "tables")
    from invariances.fitted import read_map
    from invariances.progress import progress_bar
    from invariances.streaming import apply_map

    found = read_map(stored)
    with progress_bar("mapping", "rows", quiet) as progress:
        done = apply_map(found, source, output, column, id_column, insist, force, progress)
    kept = f", {done.reused} of them by an earlier run" if done.reused else ""
    typer.echo(f"{done.rows} vectors mapped{kept}: {done.path}")


@maps.command(epilog="\b\nExample:\n  invariances map score a2b.safetensors old2.npy new2.npy --gate 0.9")
def score(
    stored: Stored,
    a: Old,
    b: New,
    gate: Annotated[
        float, typer.Option(help="Share of a new vector's 10 nearest neighbours that the mapped old one has to find.")
    ] = 0.9,
    skip_seen: Annotated[
        bool, typer.Option("--skip-seen", help="Leave out pairs that the map was fitted on, instead of refusing them.")
    ] = False,
    column: Column = None,
    id_column: IdColumn = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead.")] = False,
) -> None:
    """Score a map on pairs that it has not seen; exit status 1 below the gate."""
    from invariances.fitted import read_map
    from invariances.migration import score_map

    found = score_map(read_map(stored), *_pair(a, b, column, id_column), gate=gate, seed=seed, skip_seen=skip_seen)
    if as_json:
        said = {"passed": found.passed, "gate": found.gate, "samples": found.samples, "sentence": str(found)}
        said |= {"overlap": found.overlap._asdict(), "table": found.table.to_dict("records")}
        typer.echo(json.dumps(said, indent=1))
    else:
        typer.echo(f"{found}\n\n{found.table.round(3).to_string(index=False)}")
    if not found.passed:
        typer.echo("invariances: the map is below the gate; embed everything again, or give more pairs", err=True)
        raise typer.Exit(1)


@maps.command(epilog="\b\nExample:\n  invariances map export a2b.safetensors -o a2b.onnx")
def export(stored: Stored, output: Output, force: Force = False) -> None:
    """Write a map as an ONNX graph. Needs the extra onnx."""
    need("map export", "onnx")
    from invariances.fitted import read_map

    typer.echo(f"{read_map(stored).to_onnx(output, force)}")


def _pair(a: str, b: str, column: str | None, id_column: str | None) -> tuple:
    """Both files, their rows matched by ids where they have some."""
    from invariances.readers import read
    from invariances.spaces import open_spaces

    given = {name: read(source, name, column, id_column) for name, source in (("A", a), ("B", b))}
    opened = open_spaces(given, warn=False)
    if opened.matched_by:
        typer.echo(opened.matched_by, err=True)
    return tuple(opened.values())
