"""Published scores computed again from committed moments, in plain numpy."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

RESULTS = Path(__file__).parents[2] / "book" / "results"
MOMENTS = RESULTS / "moments"


def _read(name):
    path = MOMENTS / f"{name}.safetensors"
    with safe_open(path, "numpy") as file:
        said = json.loads(file.metadata()["said"])
    return {key: np.asarray(values, np.float64) for key, values in load_file(path).items()}, said


def _published(said, invariance):
    """The line of the committed CSV that the moments belong to."""
    frame = pd.read_csv(RESULTS / f"{said['section']}.csv")
    a, b = said["models"]
    chosen = frame[(frame.row == said["row"]) & (frame.invariance == invariance) & (frame.reference == "trained")]
    (line,) = chosen[(chosen.model_a == a) & (chosen.model_b == b)].to_dict("records")
    assert line["profile"] == said["profile"]
    return line


@pytest.mark.parametrize("invariance", ["absolute", "relative", "affine"])
def test_cosine_its_null_and_the_calibrated_score(invariance):
    moments, said = _read("mnist")
    of = {key.partition(".")[2]: values for key, values in moments.items() if key.startswith(f"{invariance}.")}
    line = _published(said, invariance)
    assert len(of["dots"]) == line["n_samples"] == len(moments["classes"])
    score = np.mean(of["dots"] / of["norms_a"] / of["norms_b"])
    null = sum(a * b for a, b in zip(of["mean_unit_a"], of["mean_unit_b"], strict=True))
    assert score == pytest.approx(line["score"], abs=1e-5)
    assert null == pytest.approx(line["null"], abs=1e-5)
    assert (score - null) / (1 - null) == pytest.approx(line["calibrated"], abs=1e-5)


def test_debiased_cka():
    moments, said = _read("architectures")
    line = _published(said, "absolute")
    assert line["metric"] == "cka_debiased"
    n = len(moments["squares_a"])

    def hsic(pair):
        """The unbiased estimator of Song et al. 2012 for hollow kernels of centred features.

        Each row of a centred linear kernel sums to zero, so without the diagonal it sums to minus the diagonal.
        """
        k, l = (moments[f"squares_{end}"] for end in pair)  # noqa: E741
        trace = np.square(moments[f"singular_{pair}"]).sum() - (k * l).sum()
        sums, both = (-k).sum() * (-l).sum(), ((-k) * (-l)).sum()
        return trace + sums / ((n - 1) * (n - 2)) - 2 * both / (n - 2)

    assert hsic("ab") / np.sqrt(hsic("aa") * hsic("bb")) == pytest.approx(line["score"], abs=1e-5)


def test_the_moments_are_small():
    assert sum(path.stat().st_size for path in MOMENTS.iterdir()) < 200_000
