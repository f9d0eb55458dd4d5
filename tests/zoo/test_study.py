"""The tables of the page on the zoo are those of the committed CSV files."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "book" / "zoo"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study", ROOT / "benchmarks" / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_of_the_page_follows_from_its_csv(study):
    models, family = (pd.read_csv(PAGE / f"{name}.csv") for name in ("models", "family"))
    made = {
        "networks": study.table_of_networks(),
        "encoders": study.table_of_encoders(),
        "data": study.table_of_data(),
        "models": study.table_of_models(models),
        "family": study.table_of_family(family),
        "findings": study.findings(PAGE),
    }
    for name, table in made.items():
        assert (PAGE / f"{name}.md").read_text(encoding="utf-8") == table, name


def test_a_finding_that_is_missed_says_so(study, tmp_path):
    for seconds, accuracy, met in ((30.0, 0.981, "yes"), (20.0, 0.981, "**no**"), (30.0, 0.99, "**no**")):
        rows = [(10.0, 0.98), (seconds, accuracy)]
        frame = pd.DataFrame(rows, columns=["seconds", "accuracy"]).assign(timed=10, models=10, what="x")
        frame.assign(ratio=frame.seconds / 10).to_csv(tmp_path / "family.csv", index=False)
        assert met in study.findings(tmp_path)
        assert ("**no**" in study.findings(tmp_path)) == (met != "yes")


def test_the_study_has_a_model_of_every_row(study):
    models = pd.read_csv(PAGE / "models.csv")
    assert models.key.is_unique
    trained = models[models["head"] == "absolute"].groupby(["data", "model"]).size()
    assert (trained >= 1).all()
    assert {"mnist", "fashion-mnist", "cifar-10", "cifar-100", "imagenet", "trec", "dbpedia", "amazon-en"} <= set(
        models.data
    )
    assert {"cnn-3", "cnn-5", "cnn-3-gelu", "vit-small", "vit-base", "bert", "roberta"} <= set(models.network)
