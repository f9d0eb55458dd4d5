"""CKA of all pairs of layers of two networks, by forward hooks, batch by batch: no activation is kept.

Debiased linear CKA needs only sums over samples: of products of features, of squared norms, and of both together. They
are gathered in one pass and centred afterwards, so that the result does not depend on how samples fall into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import torch
from torch import nn

from invariances.errors import SpaceError
from invariances.metrics.cka import normalised_pair, u_inner
from invariances.metrics.nulls import Moments, hollow_deviation
from invariances.metrics.score import normal_score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LAYER_POOLINGS", "course", "draw_layers", "layer_names", "layers", "pooled"]

LAYER_POOLINGS = ("mean", "cls", "last", "flatten")
"""How a layer's output becomes one vector a sample: mean over tokens or places, first or last token, or all."""
MOST_BYTES = 4 * 2**30
"""Of the products of features that are gathered."""
Forward: TypeAlias = "Callable[[nn.Module, Any], Any]"


def layers(
    model_a: nn.Module,
    model_b: nn.Module,
    loader: Iterable[Any],
    loader_b: Iterable[Any] | None = None,
    layers_a: Sequence[str] | None = None,
    layers_b: Sequence[str] | None = None,
    pooling: str = "mean",
    forward: Forward | None = None,
) -> pd.DataFrame:
    """Debiased linear CKA of every layer of one network with every layer of another (Kornblith et al. 2019).

    Parameters
    ----------
    model_a, model_b : Module
        In evaluation mode during the call; they may be one and the same.
    loader : iterable of batches
        Tensors, dicts that a model takes as keywords, or tuples whose first part is the input.
    loader_b : iterable of batches, optional
        What the second network reads of the same samples in the same order, e.g. with another tokenizer.
    layers_a, layers_b : sequence of str, optional
        Names of modules; by default `layer_names`.
    pooling : str
        One of `LAYER_POOLINGS`. With an ``attention_mask`` in a batch, the mean is over its tokens, and the last is
        the last of these.
    forward : callable, optional
        Called with a model and a batch, instead of the model with the batch.

    Returns
    -------
    DataFrame
        One line per pair: ``layer_a``, ``layer_b``, ``cka``, ``null`` (0), ``calibrated``, ``z`` and ``p`` under
        shuffled samples, ``n_samples``.

    Raises
    ------
    SpaceError
        If a layer is not there or gives no vectors, or the sums would not fit into memory.

    Notes
    -----
    Exact up to round-off, with the unbiased estimator of Song et al. (2012). Memory grows with the product of all
    widths of one network and all of the other, not with the samples.
    """
    if pooling not in LAYER_POOLINGS:
        raise SpaceError(f"unknown pooling {pooling!r}; choose from {', '.join(LAYER_POOLINGS)}")
    names = [_checked_names(model, given) for model, given in ((model_a, layers_a), (model_b, layers_b))]
    sums = None
    with _evaluating(model_a, model_b), torch.no_grad():
        for a, b in _batches(loader, loader_b):
            given = zip((model_a, model_b), names, (a, b), strict=True)
            ends = [_outputs(model, wanted, batch, pooling, forward or _call) for model, wanted, batch in given]
            _check_samples(len(ends[0][0]), len(ends[1][0]))
            sums = _Sums(ends[0], ends[1]) if sums is None else sums
            sums.add(ends[0], ends[1])
    if sums is None or sums.n < 4:
        raise SpaceError(f"{0 if sums is None else sums.n} samples are too few for debiased CKA; give at least 4")
    return _table(sums, names[0], names[1])


def course(models: Mapping[str, nn.Module], loader: Iterable[Any], **options: Any) -> pd.DataFrame:
    """CKA of every layer of one network, along its checkpoints, with the same layer of the last checkpoint.

    Parameters
    ----------
    models : mapping from names to Modules
        Checkpoints in their order, of one architecture.
    loader : iterable of batches
        Gone through once for each checkpoint: a list or a DataLoader, no generator.
    **options
        As `layers` takes them.

    Returns
    -------
    DataFrame
        The lines of `layers` where both layers have one name, with ``checkpoint``.

    Raises
    ------
    SpaceError
        If there are fewer than two checkpoints; else as `layers`.
    """
    if len(models) < 2:
        raise SpaceError(f"{len(models)} checkpoint(s) given; give at least 2")
    *_, last = models.values()
    parts = []
    for name, model in models.items():
        found = layers(model, last, loader, **options)
        parts.append(found[found.layer_a == found.layer_b].assign(checkpoint=name))
    return pd.concat(parts, ignore_index=True)


def layer_names(model: nn.Module) -> list[str]:
    """The blocks of a network: members of the outermost lists of several modules, and what stands beside these.

    Parameters
    ----------
    model : Module
    """
    names: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            listed = isinstance(child, (nn.ModuleList, nn.Sequential)) and len(child) > 1
            if listed:
                names.extend(f"{path}.{member}" for member, _ in child.named_children())
            elif any(isinstance(part, nn.ModuleList) and len(part) > 1 for part in child.modules()):
                walk(child, f"{path}.")
            else:
                names.append(path)

    walk(model, "")
    return names


def _checked_names(model: nn.Module, given: Sequence[str] | None) -> list[str]:
    known = dict(model.named_modules())
    names = layer_names(model) if given is None else list(given)
    missing = [name for name in names if name not in known or not name]
    if missing or not names:
        listed = ", ".join(layer_names(model)[:8])
        raise SpaceError(f"there is no layer {missing[0] if missing else '(none given)'!r}; name some of {listed}, ...")
    return names


def _batches(loader: Iterable[Any], loader_b: Iterable[Any] | None) -> Iterator[tuple[Any, Any]]:
    if loader_b is None:
        yield from ((batch, batch) for batch in loader)
        return
    for a, b in zip_longest(loader, loader_b):
        if a is None or b is None:
            raise SpaceError("one loader has more batches than the other; give both the same samples")
        yield a, b


def _check_samples(a: int, b: int) -> None:
    if a != b:
        raise SpaceError(
            f"a batch has {a} samples for one network and {b} for the other; give both the same samples in the same "
            "batches"
        )


def _call(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    before = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def _outputs(model: nn.Module, names: Sequence[str], batch: Any, pooling: str, forward: Forward) -> list[torch.Tensor]:
    """What each layer gives of a batch, one vector a sample, in float64."""
    seen: dict[str, torch.Tensor] = {}
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    modules = dict(model.named_modules())

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: Any, out: Any) -> None:
            first = out[0] if isinstance(out, (tuple, list)) else getattr(out, "last_hidden_state", out)
            if not isinstance(first, torch.Tensor) or not first.is_floating_point():
                raise SpaceError(f"layer {name!r} gives a {type(first).__name__}, no vectors; name other layers")
            seen[name] = pooled(first, pooling, mask).detach().double()

        return hook

    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    unused = [name for name in names if name not in seen]
    if unused:
        raise SpaceError(f"layer {unused[0]!r} is not used by the network's forward pass; name other layers")
    return [seen[name] for name in names]


def pooled(out: torch.Tensor, pooling: str = "mean", mask: torch.Tensor | None = None) -> torch.Tensor:
    """One vector a sample of a layer's output.

    Parameters
    ----------
    out : tensor of shape (n, d), (n, tokens, d) or (n, channels, height, width)
    pooling : str
        One of `LAYER_POOLINGS`.
    mask : tensor of shape (n, tokens), optional
        Which tokens are there.

    Returns
    -------
    tensor of shape (n, m)

    Raises
    ------
    SpaceError
        If there are no tokens to choose from, or as many places a sample as flattening would need are not the same.
    """
    if out.ndim < 2:
        raise SpaceError(f"a layer gives shape {tuple(out.shape)}, no vector a sample; name other layers")
    if pooling == "flatten" or out.ndim == 2:
        return out.flatten(1)
    if out.ndim > 3:
        if pooling != "mean":
            raise SpaceError(
                f"a layer gives {tuple(out.shape[1:])} a sample, which has no tokens; pool by mean or flatten"
            )
        return out.flatten(2).mean(dim=2)
    if mask is None or mask.shape != out.shape[:2]:
        return {"mean": out.mean(dim=1), "cls": out[:, 0], "last": out[:, -1]}[pooling]
    if pooling == "cls":
        return out[:, 0]
    if pooling == "last":
        return out[torch.arange(len(out), device=out.device), mask.sum(dim=1).clamp_min(1) - 1]
    weights = mask.unsqueeze(-1).to(out)
    return (out * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)


# Sums ---------------------------------------------------------------------------------------------


class _Side:
    """The layers of one network side by side: where each begins, and sums over samples."""

    def __init__(self, outputs: Sequence[torch.Tensor]) -> None:
        self.widths = [out.shape[1] for out in outputs]
        # a vector near the mean is taken off first: far from the origin, products would be rounded
        self.shift = torch.cat([out.mean(dim=0) for out in outputs])
        self.total = torch.zeros_like(self.shift)
        self.norms = torch.zeros(len(outputs), dtype=torch.float64, device=self.shift.device)

    def moved(self, outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features less the shift, shape (n, D), and squared norms by layer, shape (n, L)."""
        x = torch.cat(list(outputs), dim=1) - self.shift
        return x, torch.stack([part.square().sum(dim=1) for part in x.split(self.widths, dim=1)], dim=1)

    def blocks(self, x: torch.Tensor, dim: int) -> Sequence[torch.Tensor]:
        """The parts of the layers along one axis."""
        return x.split(self.widths, dim=dim)


class _Products:
    """Sums over samples of products of two sides, of which the inner products of their kernels follow."""

    def __init__(self, left: _Side, right: _Side, own: bool) -> None:
        self.left, self.right, self.own = left, right, own
        make = torch.zeros_like
        shapes = [(d, d) for d in left.widths] if own else [(len(left.shift), len(right.shift))]
        self.features = [torch.zeros(shape, dtype=torch.float64, device=left.shift.device) for shape in shapes]
        self.norms = torch.outer(make(left.norms), make(right.norms))
        self.left_by_norms = torch.outer(make(left.shift), make(right.norms))
        self.right_by_norms = torch.outer(make(right.shift), make(left.norms))

    def add(self, x: torch.Tensor, k: torch.Tensor, y: torch.Tensor, l: torch.Tensor) -> None:  # noqa: E741
        parts = zip(self.left.blocks(x, 1), self.right.blocks(y, 1), strict=True) if self.own else [(x, y)]
        for into, (left, right) in zip(self.features, parts, strict=True):
            into.addmm_(left.T, right)
        self.norms.addmm_(k.T, l)
        self.left_by_norms.addmm_(x.T, l)
        self.right_by_norms.addmm_(y.T, k)

    def _block(self, i: int, j: int) -> torch.Tensor:
        return self.right.blocks(self.left.blocks(self.features[0], 0)[i], 1)[j]

    def inner(self, i: int, j: int, n: int) -> float:
        """The inner product of the U-centred kernels of two layers."""
        mu, nu = (side.blocks(side.total / n, 0)[place] for side, place in ((self.left, i), (self.right, j)))
        product = self.features[i] if self.own else self._block(i, j)
        centred = product - n * torch.outer(mu, nu)
        m, v = float(mu @ mu), float(nu @ nu)
        k, l = float(self.left.norms[i]), float(self.right.norms[j])  # noqa: E741
        by_l = self.left.blocks(self.left_by_norms, 0)[i][:, j]
        by_k = self.right.blocks(self.right_by_norms, 0)[j][:, i]
        # of the centred norms |x - mu|^2 = |x|^2 - 2 mu x + m, multiplied out
        diagonals = float(
            self.norms[i, j]
            - 2 * nu @ by_k
            + v * k
            - 2 * mu @ by_l
            + 4 * mu @ product @ nu
            - 4 * n * m * v
            + m * l
            + n * m * v
        )
        traces = (k - n * m) * (l - n * v)
        return u_inner(float(centred.square().sum()), diagonals, traces, n)


class _Sums:
    """All sums that CKA of all pairs of layers needs."""

    def __init__(self, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> None:
        widths = [[out.shape[1] for out in end] for end in (a, b)]
        needed = 8 * (sum(widths[0]) * sum(widths[1]) + sum(d * d for end in widths for d in end))
        if needed > MOST_BYTES:
            raise SpaceError(
                f"the layers have {sum(widths[0]):,} and {sum(widths[1]):,} features in all, whose products take "
                f"{needed / 2**30:.1f} GiB; name fewer layers, or pool by mean"
            )
        self.n = 0
        self.a, self.b = _Side(a), _Side(b)
        self.cross = _Products(self.a, self.b, own=False)
        self.within = [_Products(side, side, own=True) for side in (self.a, self.b)]

    def add(self, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> None:
        self.n += len(a[0])
        (x, k), (y, l) = self.a.moved(a), self.b.moved(b)  # noqa: E741
        for side, moved, norms in ((self.a, x, k), (self.b, y, l)):
            side.total += moved.sum(dim=0)
            side.norms += norms.sum(dim=0)
        self.cross.add(x, k, y, l)
        for products, moved, norms in ((self.within[0], x, k), (self.within[1], y, l)):
            products.add(moved, norms, moved, norms)


def _table(sums: _Sums, names_a: Sequence[str], names_b: Sequence[str]) -> pd.DataFrame:
    n, deviation = sums.n, hollow_deviation(sums.n, 0.0, 0.0)
    powers = [
        [products.inner(i, i, n) for i in range(len(side.widths))]
        for products, side in ((sums.within[0], sums.a), (sums.within[1], sums.b))
    ]
    lines = []
    for i, a in enumerate(names_a):
        for j, b in enumerate(names_b):
            value = normalised_pair(sums.cross.inner(i, j, n), powers[0][i], powers[1][j])
            score = normal_score(value, Moments(0.0, deviation), float("nan"))
            line = {"layer_a": a, "layer_b": b, "cka": value, "null": 0.0, "calibrated": value}
            lines.append(line | {"z": score.z, "p": score.p, "n_samples": n})
    return pd.DataFrame(lines)


def draw_layers(table: pd.DataFrame, name_a: str = "a", name_b: str = "b") -> Figure:
    """A heatmap of `layers`, or lines of `course`.

    Parameters
    ----------
    table : DataFrame
    name_a, name_b : str
        What the networks are called.
    """
    from matplotlib.figure import Figure

    if "checkpoint" in table:
        shown = table.pivot(index="checkpoint", columns="layer_a", values="cka")
        shown = shown.reindex(index=list(dict.fromkeys(table.checkpoint)), columns=list(dict.fromkeys(table.layer_a)))
        labels = ("checkpoint", f"layer of {name_a}", "CKA with the last checkpoint's layer")
    else:
        shown = table.pivot(index="layer_a", columns="layer_b", values="cka")
        shown = shown.reindex(index=list(dict.fromkeys(table.layer_a)), columns=list(dict.fromkeys(table.layer_b)))
        labels = (f"layer of {name_a}", f"layer of {name_b}", "debiased CKA (0: chance)")
    size = (2.5 + 0.32 * shown.shape[1], 1.8 + 0.28 * shown.shape[0])
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.imshow(shown.to_numpy(dtype=float), vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_xticks(range(shown.shape[1]), shown.columns, rotation=90)
    axes.set_yticks(range(shown.shape[0]), shown.index)
    axes.set(ylabel=labels[0], xlabel=labels[1])
    figure.colorbar(drawn, ax=axes, label=labels[2])
    return figure
