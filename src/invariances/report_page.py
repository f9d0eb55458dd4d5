"""A report as one page that asks nothing of a network: the decision on top, then what it rests on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import date
from importlib import resources
from importlib.metadata import version
from typing import Any, TypeAlias

import pandas as pd

from invariances import report_figures as figures
from invariances.answers import QUESTION

__all__ = ["render"]

Report: TypeAlias = Any
"""An `invariances.Report`, which calls this."""
MOST_POINTS = 12
"""Ordered pairs that are drawn one by one; of more, a heatmap is."""


def render(report: Report, marker: str) -> str:
    """The page.

    Parameters
    ----------
    report : Report
    marker : str
        A comment that stands at its head.
    """
    import jinja2

    source = resources.files("invariances").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    sections = [_ladder(report), _found(report), *_heads(report), _structure(report), *_samples(report)]
    return page.render(
        marker=marker,
        question=QUESTION,
        names=list(report.sources),
        answer=report.answer,
        steps=report.next_steps,
        sections=[*sections, _alignment(report), _left_out(report)],
        command=report.command,
        version=version("invariances"),
        libraries=f"torch {version('torch')}, numpy {version('numpy')}, Python {platform.python_version()}",
        date=date.today().isoformat(),
    )


def _section(title: str, texts: Sequence[str] = (), drawn: Sequence[dict] = (), tables: Sequence[dict] = ()) -> dict:
    return {"title": title, "texts": texts, "figures": drawn, "tables": tables}


def _figure(svg: str, caption: str, alt: str) -> dict[str, str]:
    return {"svg": svg, "caption": caption, "alt": alt}


def _table(frame: pd.DataFrame, title: str, unfolded: bool = False) -> dict[str, Any]:
    html = frame.to_html(index=False, float_format="{:.3f}".format, border=0, na_rep="not known", justify="unset")
    return {"html": html.replace("<th>", '<th scope="col">'), "title": title, "open": unfolded}


def _ladder(report: Report) -> dict:
    chosen = report.ladder[report.ladder.chosen].iloc[0]
    drawn = _figure(
        figures.ladder_of_maps(report.ladder),
        "The chosen class is coloured. Below 0, a map leads to a wrong place.",
        f"Explained variance by class of maps; {chosen['class']} is chosen with {chosen.explained_variance:.2f}.",
    )
    texts = [str(report.verdict), report.rule]
    return _section("The ladder of maps", texts, [drawn], [_table(report.ladder, "The ladder in numbers")])


def _found(report: Report) -> dict:
    found = report.retrieval
    texts = [
        f"Held-out samples are carried across by a map fitted on {found.n_anchors.iloc[0]} pairs. They look for their "
        f"own counterpart, and for its {found.k.iloc[0]} nearest neighbours, among {found.gallery.iloc[0]} samples of "
        "the other model, by the cosine after both sides are centred."
    ]
    best, worst = found.top1.max(), found.top1.min()
    alt = f"Share of samples that find their counterpart first: from {worst:.2f} to {best:.2f} over the ordered pairs."
    many = len(found) > MOST_POINTS
    draw = figures.models_by_models if many else figures.what_is_found
    caption = "In percent, of samples." if many else "By ordered pair of models."
    shown = found.drop(columns=[name for name in found if name.startswith(("recall", "mrr"))])
    return _section(
        "What mapped vectors find",
        texts,
        [_figure(draw(found), caption, alt)],
        [_table(shown, "What is found, in numbers", unfolded=not many), _table(found, "All scores")],
    )


def _heads(report: Report) -> list[dict]:
    if report.retention is None:
        return []
    text = (
        "A linear head is trained on one model's own vectors, and given the mapped vectors of the other. Maps, heads "
        "and accuracies rest on three disjoint sets of samples; intervals are over samples."
    )
    return [_section("What a linear head keeps", [text], tables=[_table(report.retention, "Retention", unfolded=True)])]


def _structure(report: Report) -> dict:
    values = report.singular_values
    drawn = []
    if len(values):
        a, b = values.model_a.iloc[0], values.model_b.iloc[0]
        drawn.append(
            _figure(
                figures.singular_values(values),
                f"{a} into {b}. Equal values would be a rotation times one factor.",
                f"Singular values of the map of {a} into {b} beside those of a simulated rotation with equal noise.",
            )
        )
    text = "The affine map T of each pair, described beside a simulated rotation with equal noise."
    return _section("The structure of T", [text], drawn, [_table(report.structure, "T in numbers")])


def _samples(report: Report) -> list[dict]:
    if not len(report.examples):
        return []
    a, b = report.examples.model_a.iloc[0], report.examples.model_b.iloc[0]
    drawn = _figure(
        figures.before_and_after(report.examples),
        f"On the two principal axes of {b}; a line joins the two vectors of a sample.",
        f"Held-out samples of {a} beside those of {b}, as they are and after the map.",
    )
    return [_section("Samples before and after", drawn=[drawn])]


def _alignment(report: Report) -> dict:
    text = (
        f"By the paper's rule (highest calibrated alignment): {report.paper_choice}. Scores of different spaces are "
        "not commensurable, so nothing about T follows from it."
    )
    return _section("Alignment under the paper's invariances", [text], tables=[_table(report.table, "All pairs")])


def _left_out(report: Report) -> dict:
    texts = (
        [report.matched_by]
        if report.matched_by
        else ["All rows were used, matched by their order: row i of every space is taken for the same sample."]
    )
    first = report.table.iloc[0]
    texts.append(
        f"Maps were fitted on {first.n_anchors} samples (anchors), which are left out of every score; "
        f"{first.n_samples} were scored."
    )
    if report.without is not None:
        texts.append(f"{report.verdict.axes_in_words}; the answer without is given above.")
    return _section("What was left out", texts)
