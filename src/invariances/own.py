"""The commands for your own embeddings."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from invariances.errors import ParameterError
from invariances.extras import need

if TYPE_CHECKING:
    from invariances.report import Report

__all__ = [
    "BY_ORDER",
    "DISCOVER_EPILOG",
    "EMBED_EPILOG",
    "LAYERS_EPILOG",
    "Column",
    "IdColumn",
    "anchors_given",
    "discover",
    "embed",
    "layers",
    "named_sources",
]


DISCOVER_EPILOG = """\b
Examples:
  invariances discover a.npy b.npy --anchors 500 --html report.html
  invariances discover two.safetensors:layer3 two.safetensors:layer4
  invariances discover old.parquet shards/ --id doc --column embedding
  invariances discover a.npy b.npy --labels classes.csv --json

\b
Read are .npy, .npz, .safetensors, .csv, .tsv, .parquet, and folders of
Parquet shards. FILE:NAME is one of several tensors, arrays or columns.
Rows are matched by their ids where all files have some.
"""
BY_ORDER = "Rows are matched by their order: row i of every file is taken for the same sample."
Sources = Annotated[list[str], typer.Argument(help="Embeddings of the same samples, a file a model; see below.")]
Column = Annotated[
    str | None,
    typer.Option(help="Column of vectors in tables, or a pattern of columns such as 'x*'; several by commas."),
]
IdColumn = Annotated[
    str | None, typer.Option("--id", help="Column of ids in tables, to match rows by; where files differ, by commas.")
]


def named_sources(sources: Sequence[str]) -> dict[str, str]:
    """Paths by the names of their models; a file, or a tensor in it, may be given once.

    Raises
    ------
    ParameterError
        If two are one.
    """
    from invariances.outputs import same_file
    from invariances.readers import located

    places = [located(source) for source in sources]
    for (first, one), (second, other) in combinations(places, 2):
        if one == other and (first == second or same_file(first, second)):
            raise ParameterError(f"{first} and {second} are one file; give the embeddings of every model once")
    names = [":".join([path.stem or str(path), *([inside] if inside else [])]) for path, inside in places]
    # files of one name in several folders keep their paths as names
    names = names if len(set(names)) == len(names) else list(sources)
    readable = [os.fsencode(name).decode("utf-8", "replace") for name in names]  # in any locale
    return dict(zip(readable, sources, strict=True))


def anchors_given(anchors: str) -> int | str:
    """A count, or the path of a file that says which rows are the anchors."""
    digits = anchors.strip().removeprefix("-")
    return int(anchors) if digits.isdecimal() and len(digits) < 20 else anchors


def discover(
    spaces: Sources,
    anchors: Annotated[
        str, typer.Option(metavar="COUNT|FILE", help="Rows that maps are fitted on: how many, or a file of row ids.")
    ] = "500",
    column: Column = None,
    id_column: IdColumn = None,
    seed: Annotated[int, typer.Option(help="Draws the anchors.")] = 0,
    delta: Annotated[float, typer.Option(help="Share of the variance below which classes do not differ.")] = 0.01,
    permutation: Annotated[
        bool, typer.Option("--permutation", help="Compare permutations too, for ReLU codes.")
    ] = False,
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Classes, one a row or by id: says what a linear head keeps across the map."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a report as one HTML page. Needs the extra plot.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --html replace a file that is no report.")] = False,
) -> None:
    """Find the transformation that relates your own embeddings, or none."""
    from invariances.outputs import check_output
    from invariances.readers import located, read
    from invariances.report import MARKER, check_plots

    named = named_sources(spaces)
    if html:  # said before the work, not after it
        check_plots()
        inputs = [*(located(source)[0] for source in spaces), *filter(None, (labels, anchors))]
        check_output(html, inputs, MARKER, force)
    from invariances.discovery import discover as find
    from invariances.samples import read_labels
    from invariances.spaces import open_spaces

    given = {name: read(source, f"space {name!r}", column, id_column) for name, source in named.items()}
    opened = open_spaces(given, warn=False)
    classes = None if labels is None else read_labels(labels, id_column)
    settings = {"seed": seed, "permutation": permutation, "delta": delta}
    report = find(opened, anchors=anchors_given(anchors), labels=classes, **settings, workers=_cluster())
    columns = [*(["--id", id_column] if id_column else []), *(["--column", column] if column else [])]
    options = (f" {shlex.join(columns)}" if columns else "", f" --anchors {shlex.quote(anchors)}")
    report = replace(report, sources=named, options=options, command=shlex.join(["invariances", *sys.argv[1:]]))
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        _print(report)
    if html:
        typer.echo(f"Report: {report.to_html(html)}", err=as_json)


def _print(report: Report) -> None:
    """The answer first, then what to do, then the numbers."""
    parts = [report.answer, "\n".join(f"- {step}" for step in report.next_steps), report.matched_by or BY_ORDER]
    parts.append(report.ladder.round(3).to_string(index=False))
    scores = [f"{name}{end}" for name in ("top1", "mrr", "overlap") for end in ("", "_chance")]
    parts.append(report.retrieval[["model_a", "model_b", *scores]].round(3).to_string(index=False))
    if report.retention is not None:
        parts.append(report.retention.round(3).to_string(index=False))
    parts.append("Intervals are over samples (95 %), with these models and these pairs given.")
    parts.append(
        f"{report.verdict}\n{report.rule}\n"
        f"By the paper's rule, which compares scores under each invariance and not maps: {report.paper_choice}"
    )
    typer.echo("\n\n".join(part for part in parts if part))


def _cluster() -> Any:
    """How blocks of pairs are spread over the cluster that the environment names; None where it names none."""
    if not os.environ.get("INVARIANCES_CLUSTER"):
        return None
    need("discover", "zoo")
    from invariances.zoo.workers import spread

    return partial(spread, label="comparing pairs")


EMBED_EPILOG = """\b
Examples:
  invariances embed minilm reviews.csv --column text -o minilm.safetensors
  invariances embed resnet18 pictures/ -o layer3.safetensors --layer layer3
  invariances embed bert-base-uncased texts.txt -o l6.parquet --layer 6
  invariances embed mymodel:encode texts.txt -o mine.safetensors

\b
`invariances data --pretrained` lists the encoders that are known by name.
"""


def embed(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An encoder by name, a hub id, a folder or file of weights, or module:function, which gets a list of "
            "texts or pictures and gives an n x d array.",
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder of pictures, a .txt file, a column of a .csv, .tsv or .parquet file, or a data set by name, "
            "e.g. trec or trec:train.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .safetensors or .parquet file.")],
    column: Annotated[str | None, typer.Option(help="Column of the texts in a table.")] = None,
    id_column: Annotated[str | None, typer.Option("--id", help="Column of the ids in a table.")] = None,
    layer: Annotated[
        str | None, typer.Option(help="Number of a transformer's hidden state, or name of a vision network's module.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, cls, last or flatten.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens (or characters) of a text; longer ones are cut.")] = None,
    most: Annotated[int | None, typer.Option(help="Embed the first so many samples.")] = None,
    batch: Annotated[int, typer.Option(help="Samples at once.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Write the classes of the samples to this .csv, by id.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what another command wrote.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Embed your own texts or pictures; stopped, the same command goes on. Needs the extra zoo."""
    need("embed", "zoo")
    from invariances.outputs import check_output, write_whole
    from invariances.progress import progress_bar
    from invariances.zoo.embedding import Options, embed_samples, find_samples

    if device not in ("auto", "cpu", "cuda"):
        raise ParameterError(f"unknown device {device!r}; choose from auto, cpu, cuda")
    classes = None
    if labels is not None:
        check_output(labels, [data], force=force)
        samples = find_samples(data, column, id_column).first(most)
        if samples.labels is None:
            raise ParameterError(f"{data} has no classes to write; leave --labels out")
        classes = _csv(samples.ids, samples.labels)
    options = Options(layer, pooling, length, batch, device)
    with progress_bar("embedding", "samples", quiet) as progress:
        target = embed_samples(model, data, output, column, id_column, most, options, force, progress)
    typer.echo(f"{target}")
    if labels is not None and classes is not None:
        write_whole(labels, classes)
        typer.echo(f"{labels}")


def _csv(ids: Sequence[str], labels: Sequence[str]) -> bytes:
    """The classes as a table of ids and labels."""
    import pandas as pd

    return pd.DataFrame({"id": ids, "label": labels}).to_csv(index=False).encode()


LAYERS_EPILOG = """\b
Examples:
  invariances layers minilm bert-base-uncased texts.txt -o layers.csv --figure layers.png
  invariances layers resnet18 resnet50 pictures/ -o layers.csv
  invariances layers step-1000/ step-2000/ step-4000/ texts.txt -o course.csv

\b
Two models: every layer of one with every layer of the other. More: checkpoints
of one model in their order, each layer with the same layer of the last one.
"""


def layers(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL MODEL... DATA",
            help="Networks of transformers or torchvision by name or path, and what they read.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .csv file with a line per pair of layers.")],
    figure: Annotated[
        Path | None, typer.Option(help="Draw a heatmap: .png, .svg or .pdf. Needs the extra plot.")
    ] = None,
    pooling: Annotated[str, typer.Option(help="mean, cls, last or flatten.")] = "mean",
    column: Annotated[str | None, typer.Option(help="Column of the texts in a table.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a text; longer ones are cut.")] = None,
    most: Annotated[int, typer.Option(help="Read the first so many samples.")] = 2000,
    batch: Annotated[int, typer.Option(help="Samples at once.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Compare the layers of two networks, or of one along its checkpoints, by debiased CKA. Needs the extra zoo."""
    need("layers", "zoo")
    from invariances.layerwise import course, draw_layers
    from invariances.layerwise import layers as compare_layers
    from invariances.outputs import check_output, write_whole
    from invariances.progress import progress_bar
    from invariances.report import check_plots
    from invariances.zoo.embedding import find_samples, open_network

    *models, data = given
    if len(models) < 2:
        raise ParameterError(f"{len(models)} model(s) given; give two models or more, and then the data")
    for path in filter(None, (output, figure)):
        check_output(path, [data], force=force)
    if figure:
        check_plots()
    samples = find_samples(data, column).first(most)
    opened = [open_network(model, device, length) for model in models]
    if any(network.kind != samples.kind for network in opened):
        raise ParameterError(f"{data} holds {samples.kind}s, which not all of {', '.join(models)} read; give others")
    with progress_bar("comparing layers", "batches", quiet) as progress:
        passes = -(-len(samples) // batch) * (2 if len(models) == 2 else 2 * len(models))
        told = _told(progress, passes)
        a, b = opened[0], opened[1]
        if len(models) == 2:
            fed = told(a.batches(samples, batch)), told(b.batches(samples, batch))
            table = compare_layers(a.module, b.module, *fed, pooling=pooling)
        else:
            networks = {model: network.module for model, network in zip(models, opened, strict=True)}
            table = course(networks, _Again(lambda: told(a.batches(samples, batch))), pooling=pooling)
    write_whole(output, table.to_csv(index=False).encode())
    typer.echo(f"{output}")
    if figure:
        draw_layers(table, models[0], models[-1]).savefig(figure)
        typer.echo(f"{figure}")


class _Again:
    """Batches that can be gone through several times."""

    def __init__(self, start: Callable[[], Iterator[Any]]) -> None:
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        return self.start()


def _told(progress: Callable[[int, int], None], total: int) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Report every batch that is taken."""
    done = 0

    def tell(batches: Iterator[Any]) -> Iterator[Any]:
        nonlocal done
        for batch in batches:
            yield batch
            done += 1
            progress(min(done, total), total)

    return tell
