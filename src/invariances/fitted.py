"""A fitted map as a file: what it does, what it was fitted on, how good it was, and what it may be used for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save

from invariances.errors import ParameterError, SpaceError
from invariances.files import damage, is_file
from invariances.maps import Map
from invariances.outputs import check_output, write_whole
from invariances.readers import as_tensor
from invariances.spaces import OpenSpace, check_range, chunks

__all__ = ["FittedMap", "Likeness", "check_alike", "likeness", "read_map", "row_digests"]

FORMAT = "invariances map 1"
"""Stands in the metadata of every file of a map."""
NORM_FACTOR = 1.5
"""By how much the middle norm may differ from that of the vectors that the map was fitted on."""
MEAN_SHIFT = 0.5
"""How far the mean may lie from theirs, in units of their spread around it."""
SPREAD_CHANGE = 0.3
"""By how much the standard deviations of the features may differ from theirs, as a share of these."""
LEAST_ROWS = 30
"""Rows from which a mean and standard deviations are compared; of fewer, width and, loosely, norm are."""


@dataclass(frozen=True)
class Likeness:
    """What vectors look like: enough to notice those of another model."""

    norm: float
    """The middle one of the rows' norms."""
    mean: torch.Tensor
    """Shape (d,)."""
    deviation: torch.Tensor
    """Standard deviations of the features, shape (d,)."""


def likeness(x: torch.Tensor) -> Likeness:
    """Describe vectors, shape (n, d)."""
    x = x.double()
    return Likeness(float(x.norm(dim=1).median()), x.mean(dim=0), x.std(dim=0, correction=0))


def check_alike(x: torch.Tensor, known: Likeness, name: str) -> None:
    """Refuse vectors that do not look like those that a map was fitted on.

    Parameters
    ----------
    x : tensor of shape (n, d)
    known : Likeness
        Of those.
    name : str
        What to call them in the message.

    Raises
    ------
    SpaceError
        One sentence says in what they differ.
    """
    found, reasons = likeness(x), []
    ratio = found.norm / max(known.norm, 1e-300)
    factor = NORM_FACTOR if len(x) >= LEAST_ROWS else NORM_FACTOR**3  # the middle of a few says little
    if not 1 / factor <= ratio <= factor:
        reasons.append(f"their middle norm is {found.norm:.3g} instead of {known.norm:.3g}")
    if len(x) >= LEAST_ROWS:
        spread = float(known.deviation.norm())
        shift = float((found.mean - known.mean).norm()) / max(spread, 1e-300)
        if shift > MEAN_SHIFT:
            reasons.append(f"their mean lies {shift:.2g} times the spread away")
        change = float((found.deviation - known.deviation).norm()) / max(spread, 1e-300)
        if change > SPREAD_CHANGE:
            reasons.append(f"their features' deviations differ by {100 * change:.0f} %")
    if reasons:
        raise SpaceError(
            f"{name} does not look like the vectors that the map was fitted on ({'; '.join(reasons)}); give vectors of "
            "the same model, or insist (--insist, insist=True in Python)"
        )


def row_digests(space: OpenSpace) -> np.ndarray:
    """A number for each row by which it is known again, in single precision, shape (n,)."""
    digests = np.empty(len(space), dtype=np.int64)
    for rows in chunks(len(space), space.shape[1] * 8):
        for i, row in enumerate(space[rows].float().numpy(force=True), start=rows.start):
            digests[i] = int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little", signed=True)
    return digests


@dataclass(frozen=True)
class FittedMap:
    """A map from one model's space into another's, with what is known of it.

    Read it back with `read_map`; it is called with vectors, shape (n, d), and gives their images, shape (n, m).
    """

    weight: torch.Tensor
    """Shape (m, d), float32."""
    bias: torch.Tensor
    """Shape (m,), float32."""
    kind: str
    """The class of maps: one of `invariances.migration.KINDS`."""
    source: Likeness
    """What the vectors look like that it was fitted on."""
    seen: np.ndarray
    """Digests of the source rows that it was fitted on or chosen by, sorted."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Counts and checksums of the three sets of samples, the scores by which the kind was chosen, the learning curve,
    the quality on samples that neither the fit nor the choice has seen, and the version that wrote it."""

    @property
    def width(self) -> int:
        """Features of the vectors that it takes."""
        return self.weight.shape[1]

    def __call__(self, x: Any) -> Any:
        """Carry the rows of `x`, shape (n, d), into the target space: tensors become tensors, anything else arrays.

        Raises
        ------
        SpaceError
            If the width is another one, or the result leaves the range of its type.
        """
        if not isinstance(x, torch.Tensor):
            return self(as_tensor(x, "the vectors")).numpy()
        if x.ndim != 2 or x.shape[1] != self.width:
            raise SpaceError(f"vectors of shape {tuple(x.shape)} given; the map takes {self.width} features a row")
        return check_range(torch.addmm(self.bias.to(x), x, self.weight.T.to(x)))

    def __repr__(self) -> str:
        quality = self.facts.get("quality", {})
        found = f", neighbour overlap {quality['overlap']:.2f} on unseen samples" if quality else ""
        return f"FittedMap({self.kind}, {self.width} -> {len(self.bias)} features{found})"

    def linear(self) -> torch.nn.Linear:
        """The same as a torch module."""
        layer = torch.nn.Linear(self.width, len(self.bias))
        layer.load_state_dict({"weight": self.weight, "bias": self.bias})
        return layer.requires_grad_(requires_grad=False)

    def as_map(self) -> Map:
        """The same as a map of the method."""
        return Map(self.weight.double(), self.bias.double(), 0.0)

    def save(self, path: str | Path, force: bool = False) -> Path:
        """Write it to a ``.safetensors`` file.

        Parameters
        ----------
        path : str or Path
        force : bool
            Replace a file that is there.

        Raises
        ------
        ParameterError
            If it cannot be written.
        """
        target = check_output(path, force=force)
        tensors = {
            "weight": self.weight.contiguous(),
            "bias": self.bias.contiguous(),
            "source_mean": self.source.mean,
            "source_deviation": self.source.deviation,
            "seen": torch.from_numpy(self.seen),
        }
        facts = {"kind": self.kind, "source_norm": self.source.norm, **self.facts}
        write_whole(target, save(tensors, {"format": FORMAT, "facts": json.dumps(facts)}))
        return target

    def to_onnx(self, path: str | Path, force: bool = False) -> Path:
        """Write it as an ONNX graph with the input ``x``, shape (n, d), and the output ``y``, shape (n, m).

        Raises
        ------
        ParameterError
            If onnx is not installed, or the file cannot be written.
        """
        try:
            import onnx
        except ModuleNotFoundError as error:
            raise ParameterError(
                "ONNX files need onnx, which is not installed; run pip install 'invariances[onnx]'"
            ) from error
        target = check_output(path, force=force)
        n, kind = "n", onnx.TensorProto.FLOAT
        given = [onnx.numpy_helper.from_array(x.numpy(), name) for name, x in (("w", self.weight), ("b", self.bias))]
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
            FORMAT,
            [onnx.helper.make_tensor_value_info("x", kind, [n, self.width])],
            [onnx.helper.make_tensor_value_info("y", kind, [n, len(self.bias)])],
            given,
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        model.doc_string = FORMAT
        onnx.checker.check_model(model)
        write_whole(target, model.SerializeToString())
        return target


def read_map(path: str | Path) -> FittedMap:
    """Read a map that `FittedMap.save` wrote.

    Raises
    ------
    SpaceError
        If the file is missing or damaged, or holds no map.
    """
    path = Path(path)
    if not is_file(path):
        raise SpaceError(f"there is no map {path}; give a file that `invariances map fit` wrote")
    if path.suffix != ".safetensors":
        raise SpaceError(f"{path} holds no map; give a file that `invariances map fit` wrote, a .safetensors file")
    with damage(f"the map {path}"), safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise SpaceError(f"{path} holds no map; give a file that `invariances map fit` wrote")
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}  # it is no mapping
        facts = json.loads(metadata["facts"])
        known = Likeness(float(facts.pop("source_norm")), tensors["source_mean"], tensors["source_deviation"])
        found = FittedMap(
            tensors["weight"], tensors["bias"], str(facts.pop("kind")), known, tensors["seen"].numpy(), facts
        )
        if found.weight.shape != (len(found.bias), len(known.mean)) or not found.weight.isfinite().all():
            raise ValueError("its weights do not fit together")
    return found


def stamped(found: FittedMap, **facts: Any) -> FittedMap:
    """The map with more that is known of it, and the version that found it out."""
    return replace(found, facts={**found.facts, **facts, "version": version("invariances")})
