"""Small moments of a few pairs of models, from which their published scores can be computed without this library.

Per sample the inner product and the norms, of all samples the mean unit rows: cosine and its null follow. Per
centred sample the squared norms, of all the singular values of the cross products: debiased CKA follows.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from invariances import zoo
from invariances.paper import plan
from invariances.paper.settings import check
from invariances.transforms import Affine, Relative
from invariances.zoo.recipes import Recipe


def write(profile: str, into: str | Path) -> list[Path]:
    """Write the moments of one MNIST pair (raw, relative, affine) and of one pair of architectures (debiased CKA).

    Their models are taken from the store, or trained.

    Parameters
    ----------
    profile : str
    into : path
        Gets ``mnist.safetensors`` and ``architectures.safetensors``; which pair it is stands in their metadata.
    """
    into = Path(into)
    into.mkdir(parents=True, exist_ok=True)
    (mnist,) = _row("initialization", "mnist", profile).groups
    pair = list(mnist.recipes.items())[:2]
    cnns = [next(iter(group.recipes.items())) for group in _row("architecture", "cifar-10", profile).groups]
    trained = zoo.train([recipe for _, recipe in [*pair, *cnns]])
    spaces = [trained[recipe].spaces for _, recipe in pair]
    anchors, test = ([space[split] for space in spaces] for split in ("pool", "test"))
    anchors = [space[: mnist.anchors] for space in anchors]
    invariances = {
        "absolute": test,
        "relative": [Relative().fit(a).transform(x) for a, x in zip(anchors, test, strict=True)],
        "affine": [Affine().fit(*anchors).transform(test[0]), test[1]],
    }
    cosines = {
        f"{invariance}.{name}": values
        for invariance, sides in invariances.items()
        for name, values in _cosine(*sides).items()
    }
    kernels = _kernel(*(trained[recipe].spaces["test"] for _, recipe in cnns))
    return [
        _save(into / "mnist.safetensors", cosines, "initialization", pair, profile),
        _save(into / "architectures.safetensors", kernels, "architecture_cka", cnns, profile),
    ]


def _row(section: str, dataset: str, profile: str) -> plan.PlannedRow:
    planned = plan.rows(check(section, {"profile": profile, "datasets": dataset}))
    return next(row for row in planned.values() if not row.not_run)


def _cosine(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """What cosine and its null need."""
    x, y = (np.asarray(side, np.float64) for side in (x, y))
    norms = [np.linalg.norm(side, axis=1) for side in (x, y)]
    means = [(side / norm[:, None]).mean(axis=0) for side, norm in zip((x, y), norms, strict=True)]
    per_sample = {"dots": (x * y).sum(axis=1), "norms_a": norms[0], "norms_b": norms[1]}
    return {
        **{name: values.astype(np.float32) for name, values in per_sample.items()},
        "mean_unit_a": means[0],
        "mean_unit_b": means[1],
    }


def _kernel(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """What debiased linear CKA needs; spaces are centred first, which it does not feel."""
    x, y = (np.asarray(side, np.float64) - np.asarray(side, np.float64).mean(axis=0) for side in (x, y))
    pairs = {"aa": (x, x), "ab": (x, y), "bb": (y, y)}
    values = {f"singular_{name}": np.linalg.svd(a.T @ b, compute_uv=False) for name, (a, b) in pairs.items()}
    squares = {f"squares_{name}": (side**2).sum(axis=1) for name, side in (("a", x), ("b", y))}
    return {**values, **squares}


def _save(
    path: Path,
    tensors: dict[str, np.ndarray],
    table: str,
    pair: list[tuple[str, Recipe]],
    profile: str,
) -> Path:
    said = {"table": table, "models": [name for name, _ in pair], "profile": profile}
    whole = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    # one key: several are written in random order
    save_file(whole, path, {"said": json.dumps(said, sort_keys=True)})
    return path


if __name__ == "__main__":
    write("laptop", Path(__file__).resolve().parent.parent / "book" / "results" / "moments")
