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


def _published(said, **chosen):
    """The line of the committed CSV that the moments belong to."""
    frame = pd.read_csv(RESULTS / f"{said['table']}.csv")
    chosen |= dict(zip(("model_a", "model_b"), said["models"], strict=True))
    (line,) = frame[(frame[list(chosen)] == pd.Series(chosen)).all(axis=1)].to_dict("records")
    return line


@pytest.mark.parametrize("invariance", ["absolute", "relative", "affine"])
def test_cosine_its_null_and_the_calibrated_score(invariance):
    moments, said = _read("mnist")
    of = {key.partition(".")[2]: values for key, values in moments.items() if key.startswith(f"{invariance}.")}
    line = _published(said, row="MNIST", kind="trained", invariance=invariance)
    assert line["profile"] == said["profile"]
    assert len(of["dots"]) == line["n_samples"]
    score = np.mean(of["dots"] / of["norms_a"] / of["norms_b"])
    null = sum(a * b for a, b in zip(of["mean_unit_a"], of["mean_unit_b"], strict=True))
    assert score == pytest.approx(line["score"], abs=1e-5)
    assert null == pytest.approx(line["null"], abs=1e-5)
    assert (score - null) / (1 - null) == pytest.approx(line["calibrated"], abs=1e-5)


def test_debiased_cka():
    moments, said = _read("architectures")
    line = _published(said, map="pictures", metric="cka_debiased")
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
