"""The CKA map: CKA between all architectures of the zoo, and between vision and language on paired inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from invariances import zoo
from invariances.errors import DataError, ParameterError, PretrainedError
from invariances.paper import plan
from invariances.paper.frames import save_table
from invariances.paper.plan import PlannedRow
from invariances.paper.plots import save_svg
from invariances.paper.settings import Settings, check
from invariances.paper.studies.cka_spaces import zoo_map
from invariances.paper.studies.cka_tables import COLUMNS, figure_texts, not_drawn, table_of_texts
from invariances.paper.studies.paired_inputs import paired_map

__all__ = ["run", "write_texts"]


class CkaMap(NamedTuple):
    """The pairs that were compared, and the models that were not."""

    frame: pd.DataFrame
    """One line per unordered pair and form of CKA, with `COLUMNS`."""
    not_run: dict[str, str]
    """Why a model is not in it, by name."""


def run(rows: Mapping[str, PlannedRow], models: Mapping, settings: Settings) -> CkaMap:
    """Compare the architecture section's vision models, and vision with language on ImageNet's classes.

    The second needs real pictures and trains what is missing of the training section's ImageNet models, which that
    section then finds in the store. It is left out where a run is restricted to some data sets.

    Parameters
    ----------
    rows : mapping from row names to PlannedRow
        Of the section "architecture".
    models : mapping from recipes to trained models
    settings : Settings
    """
    own = zoo_map(rows, models, "vision")
    try:
        paired, missing = paired_map(rows, models, settings)
    except (DataError, ParameterError) as error:
        paired, missing = pd.DataFrame(columns=COLUMNS), {"vision and language": str(error)}
    frames = [frame for frame in (own, paired) if len(frame)]
    return CkaMap(pd.concat(frames, ignore_index=True) if frames else own, READ_TEXTS | missing)


READ_TEXTS = {
    "BERT and RoBERTa of this zoo": "they read questions or reviews, not the pictures that the zoo's networks share; "
    "class names are none of their texts, and the tokens they learnt are not stored"
}
"""Why some of the section's networks are on a map of their own."""


def write_texts(profile: str, into: Path) -> None:
    """Compare BERT and RoBERTa on the questions that both read, and write what the book shows of it.

    Their models are those of the section "architecture", from the store, or trained; where their weights are
    missing, table and figure say so.

    Parameters
    ----------
    profile : str
    into : Path
        Gets ``texts.csv``, ``texts.md`` and ``texts.svg``.
    """
    settings = check("architecture", {"profile": profile, "datasets": "trec"})
    into.mkdir(parents=True, exist_ok=True)
    try:
        rows = plan.rows(settings)
    except PretrainedError as error:
        save_table(pd.DataFrame(columns=COLUMNS), "texts", into)
        words, drawing = f"Not run: {error}.\n", not_drawn("not run")
    else:
        models = zoo.train(plan.recipes(rows), settings.device)
        frame = save_table(zoo_map(rows, models, "language"), "texts", into)
        words, drawing = table_of_texts(frame), figure_texts(frame)
    (into / "texts.md").write_text(words, encoding="utf-8")
    save_svg(drawing.figure, into / "texts.svg")
