"""The tables: what was reported beside what was measured, from the tidy table alone.

Every function takes the tidy frame of a section, so that a reader can make each table again from
the CSV that lies beside a notebook.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

import pandas as pd

from invariances.pairs import Interval, interval
from invariances.paper.claims import across_groups, groups_of, predictions
from invariances.paper.reported import ALIGNMENT, STITCHING
from invariances.paper.rows import INVARIANCES, ROWS

NOT_RUN = "not run"
SPACES = {
    "absolute": "Abs",
    "relative": "Rel",
    "affine": "Affine",
    "orthogonal": "Orthogonal",
    "product": "Product",
}


def alignment(section: str, frame: pd.DataFrame, not_run: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Alignment by row and invariance: reported, measured, nulls, calibrated, interval, data.

    Parameters
    ----------
    section : "initialization", "architecture" or "training"
    frame : DataFrame
        The tidy table; rows of several groups count only pairs across groups.
    not_run : mapping from row names to reasons, optional
        Why rows that are not in `frame` were left out.

    Returns
    -------
    DataFrame
        One line for every row and invariance of the paper's table, run or not.
    """
    lines = []
    for row in ROWS[section]:
        cells = ALIGNMENT[section].get(row.name, {})
        part = across_groups(frame[frame.row == row.name])
        for invariance, title in INVARIANCES.items():
            line = {"Row": row.name, "Invariance": title, "Reported": str(cells.get(invariance, "not in the paper"))}
            pairs = part[part.invariance == invariance]
            itself = frame[(frame.row == row.name) & (frame.reference == "self") & (frame.invariance == invariance)]
            lines.append(line | (_aligned(pairs, itself) if len(pairs) else _not_run(_reason(row.name, not_run))))
    return pd.DataFrame(lines)


def _aligned(pairs: pd.DataFrame, itself: pd.DataFrame) -> dict[str, str]:
    trained, untrained = (pairs[pairs.reference == kind] for kind in ("trained", "untrained"))
    span = interval(trained, "score", groups_of(trained))
    first = trained.iloc[0]
    return {
        "Measured": f"{span.mean:z.2f} ± {span.std:.2f}",
        "95 % interval": _interval(span),
        "Null": _number(trained.null.mean()),
        "Null in class": _number(trained.null_within_class.mean()),
        "Untrained": _number(untrained.score.mean()),
        "Itself": _number(itself.score.mean()),
        "Calibrated": _number(trained.calibrated.mean()),
        "Calibrated, untrained": _number(untrained.calibrated.mean()),
        "Models": str(span.models),
        "Data": _data(first, f"{first.n_anchors} anchors, {first.n_samples:,} scored"),
        "Note": _notes(trained, span),
    }


def stitching(frame: pd.DataFrame, not_run: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Stitching by row and space: reported, ceiling, stitched, interval, null (shuffled anchors), calibrated.

    The null is the score with shuffled anchors, or of an untrained encoder for the absolute space,
    which has no anchors. Errors are MSE x 1000, F1 is in percent, as in the paper.
    """
    lines = []
    for row in ROWS["stitching"]:
        part = frame[frame.row == row.name]
        for space in row.spaces:
            reported = STITCHING.get(row.name, {})
            line = {
                "Row": row.name,
                "Stitched": SPACES[space],
                "Reported non-stitched": str(reported.get("ceiling", "not in the paper")),
                "Reported stitched": str(reported.get(space, "not in the paper")),
            }
            own = part[part.invariance == space]
            lines.append(line | (_stitched(own) if len(own) else _not_run(_reason(row.name, not_run))))
    return pd.DataFrame(lines)


def _stitched(own: pd.DataFrame) -> dict[str, str]:
    factor = 1000 if own.metric.iloc[0] == "mse" else 100
    real = across_groups(own[own.control == "none"])
    itself = own[own.control == "self-stitch"].score.mean()
    shuffled, untrained = (
        across_groups(own[own.control == name]).score.mean() for name in ("shuffled anchors", "untrained encoder")
    )
    null = untrained if math.isnan(shuffled) else shuffled
    span = interval(real, "score", groups_of(real))
    ceiling, score = real.ceiling.mean(), real.score.mean()
    first = real.iloc[0]
    return {
        "Metric": "MSE ×10⁻³" if factor == 1000 else "F1, %",
        "Ceiling": f"{factor * ceiling:.2f}",
        "Measured": f"{factor * span.mean:.2f} ± {factor * span.std:.2f}",
        "95 % interval": _interval(span, factor, digits=2),
        "Self-stitch": _number(factor * itself),
        "Shuffled anchors": _number(factor * shuffled),
        "Untrained encoder": _number(factor * untrained),
        "Calibrated": _number((score - null) / (ceiling - null)),
        "Retention": _number(real.retention.mean()),
        "Models": str(real.model_a.nunique()),
        "Data": f"{first.data}; {_range(real.n_train)} training samples, {first.n_anchors} anchors, "
        f"{_range(real.n_samples)} scored",
        "Note": span.note,
    }


def prediction(frame: pd.DataFrame) -> pd.DataFrame:
    """Whether alignment predicts stitching, by row and way of stitching."""
    lines = []
    for line in predictions(frame).itertuples():
        own = frame[(frame.row == line.row) & (frame.invariance == line.invariance) & (frame.control == "none")]
        lines.append(
            {
                "Row": line.row,
                "Stitched": SPACES[line.invariance],
                "Models": str(own.model_a.nunique()),
                "Retention, lowest": f"{own.retention.min():.2f}",
                "highest": f"{own.retention.max():.2f}",
                "Rank correlation": _number(line.rho) if line.testable else "-",
                "p (models relabelled)": f"{line.p:.3f}" if line.testable else "-",
                "p (within groups)": line.within or "-",
                "R² for held-out models": _number(line.held_out_r2) if line.testable else "-",
                "Note": line.reason if not line.testable else "",
            }
        )
    return pd.DataFrame(lines)


def _not_run(reason: str) -> dict[str, str]:
    return {"Measured": NOT_RUN, "Note": reason}


def _reason(row: str, not_run: Mapping[str, str] | None) -> str:
    return (not_run or {}).get(row, "not in this run")


def _interval(span: Interval, factor: float = 1.0, digits: int = 2) -> str:
    if math.isnan(span.low):
        return "-"
    return f"[{factor * span.low:z.{digits}f}, {factor * span.high:z.{digits}f}]"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:z.2f}"


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
    return pd.DataFrame(lines)


class Shown:
    """A table as a notebook shows it: HTML that scrolls within itself, with a caption."""

    def __init__(self, table: pd.DataFrame, caption: str) -> None:
        self.table = table
        self.caption = caption

    def _repr_html_(self) -> str:
        body = self.table.fillna("").to_html(index=False, border=0, classes="companion", justify="left", na_rep="")
        caption = f"<caption>{html.escape(self.caption)}</caption>"
        body = body.replace("<thead>", f"{caption}<thead>", 1).replace("<th>", '<th scope="col">')
        label = html.escape(self.caption)
        return f'<div class="table-scroll" tabindex="0" role="region" aria-label="{label}">{body}</div>'

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.table.fillna('').to_string(index=False)}"


def banner(frame: pd.DataFrame) -> str:
    """Markdown that says at the top of a results page what its numbers are worth, and which data they come from."""
    profile = frame.profile.iloc[0]
    used = "; ".join(dict.fromkeys(f"{data} ({source})" for data, source in zip(frame.data, frame.source, strict=True)))
    size = {
        "smoke": "**Smoke size.** Embedded stand-in data and tiny networks: these numbers show that every step runs, "
        "they do not speak for or against the paper, and no verdict is passed on them.",
        "laptop": "**Laptop size.** Real data at the size of a laptop run.",
        "full": "**Full size.** Whole data sets.",
    }[profile]
    return f"> {size}\n>\n> Data used: {used}."
