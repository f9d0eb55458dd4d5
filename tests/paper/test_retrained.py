"""A committed table trained anew, from data to scores: on any machine the scores come out within 0.02."""

from pathlib import Path

import pandas as pd
import pytest

from invariances import align, zoo
from invariances.paper import frames, plan
from invariances.paper.settings import check

COMMITTED = Path(__file__).parent / "smoke" / "initialization_mnist.csv"
"""Made by ``invariances run initialization -p datasets mnist``."""
KEYS = ["row", "kind", "invariance", "metric", "model_a", "model_b"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVARIANCES_HOME", str(tmp_path_factory.mktemp("empty")))
        settings = check("initialization", {"profile": "smoke", "datasets": "mnist", "seeds": 3})
        rows = plan.rows(settings)
        zoo.train(plan.recipes(rows))
        anchors = plan.anchors(rows)
        spaces, labels = zoo.embed(plan.compared(rows), anchors), zoo.labels(plan.one_model(rows), anchors)
        frame = frames.described(align(spaces, anchors, labels=labels, workers=zoo.spread), rows, settings)
    return pd.read_csv(COMMITTED).set_index(KEYS).sort_index(), frame.set_index(KEYS).sort_index()


def test_every_pair_is_there_again(both):
    committed, again = both
    assert committed.index.is_unique
    assert list(committed.index) == list(again.index)


@pytest.mark.parametrize("score", ["score", "null", "null_within_class"])
def test_scores_come_out_again(both, score):
    committed, again = both
    assert committed[score].notna().all()
    assert (committed[score] - again[score]).abs().max() < 0.02


def test_the_scores_are_of_these_models_and_no_others(both):
    """Other models would be further apart than the tolerance, so that it can tell."""
    committed, _ = both
    raw = committed.xs("trained", level="kind").xs("affine", level="invariance").loc["MNIST"].score
    assert raw.max() - raw.min() > 0.02
