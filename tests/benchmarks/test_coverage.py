import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
CHARACTERISTICS = ROOT / "book" / "characteristics"
BENCHMARK = ROOT / "benchmarks" / "coverage.py"


def test_the_committed_coverage_holds_its_bounds():
    table = pd.read_csv(CHARACTERISTICS / "coverage.csv")
    claimed = table[table.claimed]
    assert (table.replicates >= 2000).all()
    assert {"4", "5", "10", "3 + 3", "5 + 5", "10 + 10", "10 + 3"} <= set(claimed.models)
    assert {"normal", "exponential", "lognormal", "product", "ceiling"} <= set(claimed.effects)
    for models in ("5", "10", "3 + 3", "5 + 5", "10 + 10", "10 + 3"):
        assert set(claimed.pairs[claimed.models == models]) == {"ordered", "unordered"}
    assert claimed.covered.between(0.90, 0.98).all()
    # what is not promised stands in the table too
    assert (table.covered[table.effects == "heavy tail"] < 0.90).any()


def test_the_committed_false_positives_hold_their_bound():
    table = pd.read_csv(CHARACTERISTICS / "prediction.csv")
    none, some = table[table.relation == 0], table[table.relation > 0]
    assert (table.replicates >= 2000).all()
    assert {"5", "10", "3 + 3", "5 + 5"} == set(none.models)
    assert {"symmetric", "ordered"} == set(none.alignment)
    assert (none.significant <= 0.08).all()
    assert none.significant_naive.max() > 0.3
    assert (some.significant[some.models.isin(["5", "10", "5 + 5"])] > 0.7).all()


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("coverage_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_committed_tables_have_the_cells_of_the_benchmark(benchmark):
    fresh, kept = benchmark.coverage(40, 0), pd.read_csv(CHARACTERISTICS / "coverage.csv", dtype={"models": str})
    keys = ["models", "effects", "balance", "pairs", "missing", "claimed"]
    pd.testing.assert_frame_equal(fresh[keys], kept[keys])
    tested, stored = benchmark.prediction(2, 0), pd.read_csv(CHARACTERISTICS / "prediction.csv")
    keys = ["models", "alignment", "effects", "balance", "relation"]
    pd.testing.assert_frame_equal(tested[keys], stored[keys].astype({"relation": float}))


def test_the_benchmark_is_seeded(benchmark):
    first, again, other = (benchmark.prediction(2, seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_the_benchmark_explains_itself(benchmark):
    done = CliRunner().invoke(benchmark.app, ["--help"])
    assert done.exit_code == 0
    assert "Example:" in done.stdout
    assert "--replicates" in done.stdout
