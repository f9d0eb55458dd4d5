"""The notebooks' parameters, checked before anything is computed.

Papermill itself only warns of an unknown name, and passes whatever it was given; here both stop
the run at once, with one sentence that names the valid choices.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, field_validator

from invariances.errors import ParameterError
from invariances.paper.profiles import PROFILES, Profile
from invariances.paper.rows import ROWS, dataset_names

__all__ = ["METRICS", "Settings", "check", "read"]


METRICS = (
    "cosine",
    "pearson",
    "cka",
    "cka_debiased",
    "cka_rbf",
    "cka_rbf_debiased",
    "procrustes",
    "cca",
    "svcca",
    "pwcca",
    "rsa",
    "rsa_pearson",
    "mutual_knn",
    "retrieval_top1",
    "retrieval_top1_uncentred",
    "retrieval_recall",
    "retrieval_recall_uncentred",
    "retrieval_mrr",
    "retrieval_mrr_uncentred",
    "neighbour_overlap",
    "neighbour_overlap_uncentred",
)
DEVICES = ("auto", "cpu", "cuda")
INJECTED = "# Parameters"
"""How the cell starts in which papermill puts the parameters that it was given."""


class Settings(BaseModel):
    """The parameters of one run of one section; None means the profile's value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    section: StrictStr
    profile: StrictStr = Field("smoke", description=f"one of {', '.join(PROFILES)}")
    datasets: StrictStr | None = Field(None, description="a comma list of data sets")
    seeds: StrictInt | None = Field(None, ge=2, description="a whole number of at least 2")
    anchors: StrictInt | None = Field(None, ge=2, description="a whole number of at least 2")
    epochs: StrictInt | None = Field(None, ge=0, description="a whole number of at least 0")
    samples: StrictInt | None = Field(None, ge=20, description="a whole number of at least 20")
    metric: StrictStr = Field("cosine", description=f"one of {', '.join(METRICS)}")
    device: StrictStr = Field("auto", description=f"one of {', '.join(DEVICES)}")
    data: StrictStr | None = Field(
        None, description="auto, builtin, a folder of Parquet files, or your own labelled texts or pictures"
    )

    @field_validator("profile")
    @classmethod
    def _known_profile(cls, value: str) -> str:
        return _one_of(value, tuple(PROFILES))

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        return _one_of(value, METRICS)

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        return _one_of(value, DEVICES)

    @property
    def sizes(self) -> Profile:
        """The profile."""
        return PROFILES[self.profile]

    @property
    def chosen_datasets(self) -> list[str]:
        """The data sets whose rows are run."""
        return _dataset_list(self.section, self.datasets)

    def value(self, name: str) -> Any:
        """A parameter, or the profile's value where it is None."""
        given = getattr(self, name)
        return getattr(self.sizes, name) if given is None else given


def read(section: str, namespace: Mapping[str, Any]) -> Settings:
    """Check a notebook's parameters; call it right after the parameters cell with ``globals()``.

    Parameters
    ----------
    section : str
    namespace : mapping
        The notebook's globals. Names that papermill put in are found in its injected cell.

    Raises
    ------
    ParameterError
        One sentence with the valid choices.
    """
    fields = set(Settings.model_fields) - {"section"}
    unknown = [name for name in _injected_names(namespace) if name not in fields]
    if unknown:
        raise ParameterError(_unknown(*unknown))
    return check(section, {name: namespace[name] for name in fields if name in namespace})


def check(section: str, given: Mapping[str, Any]) -> Settings:
    """The settings of a section from parameters by name.

    Raises
    ------
    ParameterError
        One sentence with the valid choices.
    """
    if section not in ROWS:
        raise ParameterError(f"unknown section {section!r}; choose from {', '.join(ROWS)}")
    if "section" in given:
        raise ParameterError(_unknown("section"))
    try:
        settings = Settings(section=section, **given)
    except ValidationError as error:
        raise ParameterError(_sentence(error)) from None
    _dataset_list(section, settings.datasets)
    return settings


def _dataset_list(section: str, given: str | None) -> list[str]:
    names = dataset_names(section)
    if given is None:
        return names
    plain = {_plain(name): name for name in names}
    asked = [part.strip() for part in given.split(",") if part.strip()]
    unknown = [part for part in asked if _plain(part) not in plain]
    if unknown or not asked:
        said = ", ".join(map(repr, unknown)) or "an empty list"
        raise ParameterError(f"unknown data set {said} in {section}; choose from {', '.join(names)}")
    return [plain[_plain(part)] for part in asked]


def _plain(name: str) -> str:
    """CIFAR-10, cifar10 and cifar_10 are one name."""
    return "".join(character for character in name.lower() if character.isalnum())


def _injected_names(namespace: Mapping[str, Any]) -> list[str]:
    names = []
    for cell in namespace.get("In", []):
        if cell.startswith(INJECTED):
            assigned = (node for node in ast.parse(cell).body if isinstance(node, ast.Assign))
            names += [target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)]
    return names


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return _unknown(name)
    return f"parameter {name} is {first['input']!r}; give {Settings.model_fields[name].description}"


def _unknown(*names: str) -> str:
    known = sorted(set(Settings.model_fields) - {"section"})
    return f"unknown parameter {', '.join(names)}; choose from {', '.join(known)}"


def _one_of(value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(value)
    return value
