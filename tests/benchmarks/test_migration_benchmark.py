"""The tutorial's numbers follow from its tables, and all of it runs on the small embeddings of the book."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "book" / "own"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("migration_benchmark", ROOT / "benchmarks" / "migration.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_published_table_follows_from_its_csv(benchmark, tmp_path):
    benchmark.write_decisions(pd.read_csv(OWN / "decisions.csv"), tmp_path / "decisions.md")
    assert (tmp_path / "decisions.md").read_text() == (OWN / "decisions.md").read_text()


def test_all_of_it_runs_on_the_small_embeddings(benchmark, tmp_path):
    benchmark.main(None, tmp_path)
    curve, decisions = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("curve", "decisions"))
    assert len(decisions) == 6
    assert set(curve.method) >= set(benchmark.METHODS)
    # a map finds what unmapped vectors do not, in every direction
    assert (decisions.recall_at_10 > 5 * decisions.unmapped_recall_at_10).all()
    assert (decisions.passed == (decisions.overlap_low >= decisions.gate)).all()
    for name in ("curve.svg", "report.html", "answer.md"):
        assert (tmp_path / name).stat().st_size > 100


def test_what_is_committed_holds_vectors_and_classes_and_nothing_else():
    stored = load_file(OWN / "embeddings.safetensors")
    assert set(stored) == {
        "labels",
        *(f"{name}-{split}" for name in ("minilm", "e5", "use") for split in ("train", "test")),
    }
    assert (OWN / "embeddings.safetensors").stat().st_size < 1_200_000


def test_what_the_tutorial_says_of_its_results_is_so():
    curve, decisions = (pd.read_csv(OWN / f"{name}.csv") for name in ("curve", "decisions"))
    assert not decisions.passed.any()
    assert (decisions.recall_at_10 > 0.9).all()
    assert (decisions.unmapped_recall_at_10 < 0.02).all()
    assert decisions.overlap.between(0.4, 0.6).all()
    assert set(decisions.kind) == {"affine"}
    table = curve.pivot_table(index=["source", "target", "pairs"], columns="method", values="recall_at_10")
    few, many = table.xs(200, level="pairs"), table.xs(2000, level="pairs")
    assert (few.similarity > few.affine).all()
    assert (many.similarity - many.affine).abs().max() < 0.05
    assert (many.affine - many["isotrieve, ridge"]).abs().max() <= 0.02
    behind = many[many["rotation+translation"] < many.similarity - 0.05].reset_index()
    assert len(behind)
    assert ((behind.source == "e5") | (behind.target == "e5")).all()
