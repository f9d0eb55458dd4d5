import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from invariances.zoo import datasets
from invariances.zoo.heads import HeadRecipe
from invariances.zoo.locating import View
from invariances.zoo.recipes import Network, Recipe, Training

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "training.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("training_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.SECONDS = 0.02
    return module


@pytest.fixture(scope="module")
def recipes():
    prepared = datasets.prepare(View("mnist", "builtin", 200, 60, pixels=8, channels=1))
    network, plan = Network("cnn", depth=3, width=8, dim=16), Training(3, 32, augmentation="light")
    plain = Recipe(prepared.key, prepared.title, "classification", network, plan, 0)
    relative = Recipe(prepared.key, prepared.title, "reconstruction", network, Training(3, 32), 0, 40)
    return {"plain": plain, "relative": relative, "product": HeadRecipe(plain, 40, 2, batch_size=50)}


@pytest.mark.parametrize("name", ["plain", "relative", "product"])
def test_the_parts_are_those_of_a_whole_training(benchmark, recipes, name):
    case = benchmark.case_of(recipes[name])
    before = {key: value.clone() for key, value in case.module.state_dict().items()}
    found = pd.DataFrame(benchmark.parts_of(benchmark.KINDS[0], case)).set_index("part")
    assert list(found.index) == list(benchmark.PARTS)
    assert found.share.sum() == pytest.approx(1)
    assert (found.seconds >= 0).all()
    assert (found.steps == {"plain": 21, "relative": 21, "product": 8}[name]).all()
    assert (found.seconds[["forward", "backward", "optimizer", "clipping"]] > 0).all()
    assert (found.seconds["anchors"] > 0) == (name == "relative")
    assert (found.seconds["evaluation"] > 0) == (name != "product")
    assert all(torch.equal(before[key], value) for key, value in case.module.state_dict().items()), "a copy is trained"


def test_every_way_is_undone_and_the_same_way_gives_the_same_bits(benchmark, recipes):
    case = benchmark.case_of(recipes["relative"])
    before, _ = benchmark.fitted(case, 2)
    ways = pd.DataFrame(benchmark.ways_of(benchmark.KINDS[0], case, rounds=1)).set_index("way")
    after, _ = benchmark.fitted(case, 2)
    assert all(
        torch.equal(a, b) for a, b in zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    )
    assert ways.ratio["as it is"] == 1
    assert ways.same_bits["as it is"]
    assert not ways.same_bits["channels first"]
    assert {"anchors in parts", "Adam by a loop"} <= set(ways.index)
    assert "padding cut" not in ways.index, "which is for texts"


def test_an_unknown_study_is_refused(benchmark, tmp_path):
    result = CliRunner().invoke(benchmark.app, ["--only", "speed", "--into", str(tmp_path / "new")])
    assert result.exit_code == 2
    assert "choose from parts, ways" in result.output
    assert not (tmp_path / "new").exists()
