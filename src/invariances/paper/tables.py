"""The tables: what was reported beside what was measured, from the tidy table alone.

Every function takes the tidy frame of a section, so that a reader can make each table again from
the CSV that lies beside a notebook.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

from invariances.intervals import Interval, difference, interval
from invariances.ladders import ALL_PAIRS
from invariances.paper.frames import SAME_ENCODER, SAME_GROUP, across_groups, groups_of, shown_row
from invariances.paper.judging import percent
from invariances.paper.reported import ALIGNMENT, stitching_beside
from invariances.paper.rows import INVARIANCES, ROWS
from invariances.paper.stitched import predictions
from invariances.verdict import WEAK, Verdict

__all__ = [
    "NOT_RUN",
    "SPACES",
    "alignment",
    "banner",
    "beyond_similarity",
    "bounds",
    "class_title",
    "fold",
    "ladder",
    "ladder_verdict",
    "markdown_table",
    "mean_with_bounds",
    "models",
    "number",
    "planned",
    "prediction",
    "show",
    "stitching",
]

Intervals = Mapping[tuple[str, str], Interval]

ORIGIN = ("date", "commit", "recipe_version", "machine")
"""Columns of a plan that say when, by what and where it was run."""
NOT_RUN = "not run"
SPACES = {
    "absolute": "Abs",
    "relative": "Rel",
    "affine": "Affine",
    "orthogonal": "Orthogonal",
    "product": "Product",
}


def alignment(
    section: str, frame: pd.DataFrame, intervals: Intervals, not_run: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Alignment by row and invariance: reported, measured, nulls, calibrated, interval, data.

    Parameters
    ----------
    section : "initialization", "architecture" or "training"
    frame : DataFrame
        The tidy table; rows of several groups count only pairs across groups.
    intervals : mapping from (row, invariance) to Interval
        Of the scores of trained models.
    not_run : mapping from row names to reasons, optional
        Why rows that are not in `frame` were left out.

    Returns
    -------
    DataFrame
        One line for every row and invariance of the paper's table, run or not.
    """
    lines = []
    names = [row.name for row in ROWS[section]]
    own = [name for name in dict.fromkeys(frame.row) if name not in names]  # somebody's own data stand alone
    for name in own or names:
        cells = ALIGNMENT[section].get(name, {})
        part = across_groups(frame.loc[frame.row == name])
        shown = shown_row(part) if len(part) else name
        for invariance, title in INVARIANCES.items():
            line = {"Row": shown, "Invariance": title, "Reported": str(cells.get(invariance, "not in the paper"))}
            pairs = part[part.invariance == invariance]
            itself = frame[(frame.row == name) & (frame.kind == "self") & (frame.invariance == invariance)]
            span = intervals.get((name, invariance))
            lines.append(line | (_aligned(pairs, itself, span) if span else _not_run(name, not_run)))
    return pd.DataFrame(lines)


def _aligned(pairs: pd.DataFrame, itself: pd.DataFrame, span: Interval) -> dict[str, str]:
    trained, untrained = (pairs[pairs.kind == kind] for kind in ("trained", "untrained"))
    first = trained.iloc[0]
    return {
        "Measured": f"{span.mean:z.2f} ± {span.std:.2f}",
        "95 % interval": bounds(span),
        "Null": number(trained.null.mean()),
        "Null in class": number(trained.null_within_class.mean()),
        "Untrained": number(untrained.score.mean()),
        "Itself": number(itself.score.mean()),
        "Calibrated": number(trained.calibrated.mean()),
        "Calibrated, untrained": number(untrained.calibrated.mean()),
        "Models": str(span.models),
        "Data": _data(first, f"{first.n_anchors} anchors, {first.n_samples:,} scored"),
        "Note": _notes(trained, span),
    }


def stitching(frame: pd.DataFrame, intervals: Intervals, not_run: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Stitching by row and space: reported, ceiling, stitched, interval, null (shuffled anchors), calibrated.

    The null is the score with shuffled anchors, or of an untrained encoder for the absolute space,
    which has no anchors. Errors are MSE x 1000, F1 is in percent, as in the paper.

    Parameters
    ----------
    frame : DataFrame
        The tidy table.
    intervals : mapping from (row, invariance) to Interval
        Of the scores of real pairs, across groups where there are several.
    not_run : mapping from row names to reasons, optional
    """
    lines = []
    for row in ROWS["stitching"]:
        part = frame[frame.row == row.name]
        for space in row.spaces:
            reported = stitching_beside(row.name)
            line = {
                "Row": row.name,
                "Stitched": SPACES[space],
                "Reported non-stitched": str(reported.get("ceiling", "not in the paper")),
                "Reported stitched": str(reported.get(space, "not in the paper")),
            }
            span = intervals.get((row.name, space))
            own = part[part.invariance == space]
            lines.append(line | (_stitched(own, span) if span else _not_run(row.name, not_run)))
    return pd.DataFrame(lines)


def _stitched(own: pd.DataFrame, span: Interval) -> dict[str, str]:
    factor = 1000 if own.metric.iloc[0] == "mse" else 100
    real = across_groups(own[own.control == "none"])
    itself = own[own.control == "self-stitch"].score.mean()
    shuffled, untrained = (
        across_groups(own[own.control == name]).score.mean() for name in ("shuffled anchors", "untrained encoder")
    )
    null = untrained if math.isnan(shuffled) else shuffled
    ceiling, score = real.ceiling.mean(), real.score.mean()
    room = ceiling - null
    first = real.iloc[0]
    return {
        "Metric": "MSE ×10⁻³" if factor == 1000 else "F1, %",
        "Ceiling": f"{factor * ceiling:.2f}",
        "Measured": f"{factor * span.mean:.2f} ± {factor * span.std:.2f}",
        "95 % interval": bounds(span, factor=factor),
        "Self-stitch": number(factor * itself),
        "Shuffled anchors": number(factor * shuffled),
        "Untrained encoder": number(factor * untrained),
        "Calibrated": number((score - null) / room if room else math.nan),
        "Retention": number(real.retention.mean()),
        "Models": _crossed(real) or str(real.model_a.nunique()),
        "Data": f"{first.data}; {_range(real.n_train)} training samples, {first.n_anchors} anchors, "
        f"{_range(real.n_samples)} scored",
        "Note": "; ".join(filter(None, [span.note, *_shared_ends(own, factor)])),
    }


def _crossed(real: pd.DataFrame) -> str:
    """How many groups and encoders the models are of, where a pair is of two of either; empty elsewhere."""
    if "encoder_a" not in real or real.encoder_a.isna().all():
        return ""
    return f"{real.model_a.nunique()} ({real.group_a.nunique()} groups, {real.encoder_a.nunique()} encoders)"


def _shared_ends(own: pd.DataFrame, factor: int) -> list[str]:
    """What pairs reach that share their encoder or their group, where these are controls."""
    means = {name: own[own.control == name].score.mean() for name in (SAME_ENCODER, SAME_GROUP)}
    return [f"{name}: {factor * mean:.2f}" for name, mean in means.items() if not math.isnan(mean)]


def prediction(frame: pd.DataFrame) -> pd.DataFrame:
    """Whether alignment predicts stitching, by row and way of stitching."""
    lines = []
    for line in predictions(frame).to_dict("records"):
        own = frame[(frame.row == line["row"]) & (frame.invariance == line["invariance"]) & (frame.control == "none")]
        lines.append(
            {
                "Row": line["row"],
                "Stitched": SPACES[line["invariance"]],
                "Models": str(own.model_a.nunique()),
                "Retention, lowest": f"{own.retention.min():.2f}",
                "highest": f"{own.retention.max():.2f}",
                "Rank correlation": number(line["rho"]) if line["testable"] else "-",
                "p (models relabelled)": f"{line['p']:.3f}" if line["testable"] else "-",
                "p (Holm)": f"{line['holm']:.3f}" if line["testable"] else "-",
                "p (within groups)": line["within"] or "-",
                "Rank correlation, not calibrated": number(line["rho_uncalibrated"]),
                "Gain from the best-aligned encoder": percent(line["gain"]),
                "R² for held-out models": number(line["held_out_r2"]) if line["testable"] else "-",
                "Note": line["reason"] if not line["testable"] else "",
            }
        )
    return _named_once(pd.DataFrame(lines)) if lines else pd.DataFrame()


def _not_run(row: str, reasons: Mapping[str, str] | None) -> dict[str, str]:
    return {"Measured": NOT_RUN, "Note": (reasons or {}).get(row, "not in this run")}


def _range(sizes: pd.Series) -> str:
    return f"{sizes.min():,}" if sizes.nunique() == 1 else f"{sizes.min():,} to {sizes.max():,}"


def _data(first: pd.Series, sizes: str) -> str:
    return f"{first.data}; {first.n_train:,} training samples, {sizes}"


def _notes(pairs: pd.DataFrame, span: Interval) -> str:
    return "; ".join(dict.fromkeys(note for note in (span.note, *pairs.note.dropna()) if note))


def models(frame: pd.DataFrame) -> pd.DataFrame:
    """How well the models do their own task, by row and group: the mean over models, from ``<section>_models.csv``."""
    lines = []
    for (row, group, head), part in frame.groupby(["row", "group", "head"], sort=False):
        said = {"Row": row, "Group": group, "Network": "; ".join(dict.fromkeys(part.network)), "Head on": head}
        shown = {
            score: f"{part[score].mean():.4f}"
            for score in ("accuracy", "f1", "mse")
            if score in part and part[score].notna().all()
        }
        lines.append({**said, "Models": str(len(part)), **shown})
    return _named_once(pd.DataFrame(lines))


def _named_once(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the name of a row on the first of its lines alone."""
    return table.assign(Row=table.Row.where(table.Row != table.Row.shift(), ""))


# The ladder ------------------------------------------------------------------------------------

CLASS_TITLES = {
    "constant": "none",
    "scale": "isotropic scaling",
    "orthogonal": "rotation",
    "orthogonal+translation": "rotation + translation",
}
"""How tables and figures call a class of maps, where not by its own name."""


def class_title(name: str) -> str:
    """A class of maps as tables and figures call it."""
    return CLASS_TITLES.get(name, name)


def ladder(frame: pd.DataFrame) -> pd.DataFrame:
    """The ladder by row: the verdict, how the pairs voted, what each class explains, and T described.

    Parameters
    ----------
    frame : DataFrame
        As saved in ``<section>_ladder.csv``.

    Returns
    -------
    DataFrame
        Explained variances with their 95 % interval over models, where the models are enough for one.
        T's figures are medians over pairs, in brackets those of a simulated rotation with equal noise.
    """
    return pd.DataFrame([_ladder_line(row, part) for row, part in frame.groupby("row", sort=False)])


def _ladder_line(row: str, part: pd.DataFrame) -> dict[str, str]:
    verdict, first, pairs = (
        ladder_verdict(part),
        part[part.model_a == ALL_PAIRS].iloc[0],
        part[part.model_a != ALL_PAIRS],
    )
    chosen = pairs[pairs.chosen]
    shares = chosen.verdict.value_counts(normalize=True)
    classes = {name: lines for name, lines in pairs.groupby("class", sort=False) if name != "constant"}
    groups = groups_of(chosen)
    spans = {name: interval(lines, "explained_variance", groups) for name, lines in classes.items()}
    all_compared = len(chosen) == first.ordered_pairs
    padded = (chosen.width_a != chosen.width_b).any()
    notes = [next(iter(spans.values())).note]
    notes += ["widths differ: all classes but affine zero-pad the narrower space"] if padded else []
    return {
        "Row": shown_row(part),
        "Structure of T": class_title(verdict.invariance) + (" (weak)" if verdict.weak else ""),
        "Pairs, each by itself": ", ".join(f"{class_title(name)} {share:.0%}" for name, share in shares.items()),
        **{f"Explained by {class_title(name)}": mean_with_bounds(span) for name, span in spans.items()},
        "Affine beyond similarity": mean_with_bounds(beyond_similarity(part)),
        "Singular values, largest / smallest": _beside_simulated(classes["affine"], "singular_value_ratio"),
        "Distance from a scaled rotation": _beside_simulated(classes["affine"], "distance_from_rotation"),
        "Shift, in standard deviations": _beside_simulated(classes["affine"], "shift"),
        "In words": str(verdict),
        "Ordered pairs": str(len(chosen)) if all_compared else f"{len(chosen)} of {first.ordered_pairs}",
        "Models": str(first.n_models),
        "Data": f"{first.data}; {first.n_anchors} anchors, {first.n_samples:,} scored",
        "Note": "; ".join(filter(None, notes)),
    }


def ladder_verdict(part: pd.DataFrame) -> Verdict:
    """The ladder's answer for all pairs of a row at once."""
    (chosen,) = part[(part.model_a == ALL_PAIRS) & part.chosen].itertuples()
    return Verdict(
        chosen.verdict,
        chosen.explained_variance,
        weak=chosen.verdict != "none" and chosen.explained_variance < WEAK,
        models=int(chosen.n_models),
        few_anchors=chosen.n_anchors <= max(chosen.width_a, chosen.width_b),
        undecided=bool(getattr(chosen, "undecided", False)),  # tables of earlier runs do not say
        anchors_needed=max(chosen.width_a, chosen.width_b) + 2,
    )


def beyond_similarity(part: pd.DataFrame) -> Interval:
    """What full freedom adds to turning, rescaling and shifting, over the pairs of a row."""
    pairs = part[part.model_a != ALL_PAIRS]
    affine, similarity = (pairs[pairs["class"] == name] for name in ("affine", "similarity"))
    return difference(affine, similarity, "explained_variance", groups_of(affine))


def _beside_simulated(affine: pd.DataFrame, figure: str) -> str:
    return f"{affine[figure].median():.2f} ({affine[f'{figure}_simulated'].median():.2f})"


# How a table is shown --------------------------------------------------------------------------


def show(table: pd.DataFrame, caption: str) -> HTML:
    """A table as a notebook shows it: it scrolls within itself, and has a caption.

    Parameters
    ----------
    table : DataFrame
        Of texts and numbers as they are to be read.
    caption : str
    """
    styler = Styler(table.fillna(""), uuid="companion", cell_ids=False).hide(axis="index").set_caption(caption)
    body = styler.set_table_attributes('class="companion"').to_html()
    return HTML(f'<div class="table-scroll" tabindex="0" role="region" aria-label="{escape(caption)}">{body}</div>')


def fold(table: pd.DataFrame, caption: str) -> HTML:
    """A table that is shown when its caption is clicked; print shows it."""
    whole = show(table, caption).data
    return HTML(f'<details class="whole-table"><summary>{escape(caption)}</summary>{whole}</details>')


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    rows = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def number(value: float, digits: int = 2) -> str:
    """A number, or a dash where there is none; never a negative zero."""
    return "-" if math.isnan(value) else f"{value:z.{digits}f}"


def bounds(span: Interval, digits: int = 2, factor: float = 1.0) -> str:
    """The bounds of an interval in brackets, or a dash where there is none."""
    if math.isnan(span.low):
        return "-"
    return f"[{factor * span.low:z.{digits}f}, {factor * span.high:z.{digits}f}]"


def mean_with_bounds(span: Interval, digits: int = 2) -> str:
    """The mean, and the bounds of the interval where there is one."""
    return number(span.mean, digits) + ("" if math.isnan(span.low) else f" {bounds(span, digits)}")


def banner(frame: pd.DataFrame, profile: str) -> str:
    """Markdown that says at the top of a page what its numbers are worth, and what they come from.

    Parameters
    ----------
    frame : DataFrame
        With the column data; of a section's plan, with its sizes, and when, by which code and where it was run.
    profile : str
    """
    size = {
        "smoke": "**Smoke size.** Embedded stand-in data and tiny networks: these numbers show that every step runs, "
        "they do not speak for or against the paper, and no verdict is passed on them.",
        "laptop": "**Laptop size.** Real data at the size of a laptop run.",
        "full": "**Full size.** Whole data sets.",
    }[profile]
    run = frame[frame.models > 0] if "models" in frame else frame
    lines = [size, f"Data used: {'; '.join(dict.fromkeys(run.data))}."]
    if "commit" in run:
        runs = run.groupby(["date", "commit", "machine"], sort=False).row.agg(", ".join)
        said = [
            f"Run on {date} by commit {commit}, {machine}" + (f": {rows}." if len(runs) > 1 else ".")
            for (date, commit, machine), rows in runs.items()
        ]
        lines.insert(
            1,
            f"{len(run)} rows of {_range(run.models)} models; {_range(run['training samples'])} training samples, "
            f"{_range(run.anchors)} anchors, {_range(run['test samples'])} test samples. {' '.join(said)}",
        )
    return "\n>\n".join(f"> {line}" for line in lines)


def planned(frame: pd.DataFrame) -> pd.DataFrame:
    """A section's plan as a table: what does not differ by row stands in the banner."""
    return frame.drop(columns=["source", "profile", *ORIGIN], errors="ignore").rename(columns=str.capitalize)
