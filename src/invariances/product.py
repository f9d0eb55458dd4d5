"""Products of invariances: several relative representations of one space, combined in one module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from invariances.arguments import check_whole
from invariances.errors import SpaceError
from invariances.relative import SIMILARITIES, relative

__all__ = ["AGGREGATIONS", "LAYER_NORM_EPS", "Product", "check_product"]


AGGREGATIONS = ("concat", "sum", "attention")

LAYER_NORM_EPS = 1e-12
"""Of the LayerNorms. In wide spaces a profile of distances varies by a few percent only, which the usual
1e-5 would be seen beside."""


class Product(nn.Module):
    """Relative components of one space, each layer-normalised, combined by one of three aggregations.

    Every component is ``LayerNorm(relative(x, anchors, similarity))``, of shape (n, k). "concat" puts
    them side by side. "sum" carries each through its own two-layer perceptron and adds up (Deep Sets,
    Zaheer et al. 2017). "attention" projects each to `width`, lets the c components of a sample attend
    to each other (Vaswani et al. 2017) and averages them. No batch statistics enter anywhere: the
    answer for a sample does not depend on the others.

    Parameters
    ----------
    similarities : sequence of str
        The components, each at most once; see `invariances.relative.relative`.
    anchors : int
        Number of anchors, k.
    width : int
        Number of output features of "sum" and "attention"; "concat" gives k c whatever the width.
    aggregation : {"concat", "sum", "attention"}
    heads : int
        Attention heads, a divisor of `width`.
    equal_weights : bool
        Attention whose weights are all 1 / c, everything else equal: the control that tells what
        the weights contribute.
    seed : int
        Draws the initial weights; torch's global random state is neither read nor changed.

    Attributes
    ----------
    out_features : int
        Width of the output.

    Raises
    ------
    SpaceError
        If a parameter cannot be used.
    """

    def __init__(
        self,
        similarities: Sequence[str] = ("cosine", "euclidean", "l1", "linf"),
        *,
        anchors: int,
        width: int,
        aggregation: str,
        heads: int = 1,
        equal_weights: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_product(similarities, anchors, width, aggregation, heads, equal_weights)
        check_whole(seed, "seed")
        self.similarities = tuple(similarities)
        self.anchors = anchors
        self.aggregation = aggregation
        self.equal_weights = equal_weights
        self.out_features = anchors * len(self.similarities) if aggregation == "concat" else width
        # on the CPU, whose generator alone is seeded and put back
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.random.default_generator.manual_seed(seed)
            self.norms = nn.ModuleDict({name: nn.LayerNorm(anchors, eps=LAYER_NORM_EPS) for name in self.similarities})
            if aggregation == "sum":
                self.embed = nn.ModuleDict({name: _perceptron(anchors, width) for name in self.similarities})
            if aggregation == "attention":
                self.embed = nn.ModuleDict({name: nn.Linear(anchors, width) for name in self.similarities})
                self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    @property
    def invariant_to(self) -> frozenset[str]:
        """What the output does not depend on: what every component ignores, and one factor for all.

        The factor is taken out by the LayerNorms, up to their eps. A product of cosine and
        Euclidean distances is invariant to rotation but not to translation; one of Euclidean
        distances alone to both; with L1 or L-infinity it is invariant to neither rotation.
        """
        from invariances.transforms import Relative  # which brings scikit-learn, too slow to import for nothing

        shared = frozenset.intersection(*(Relative(name).invariant_to for name in self.similarities))
        return shared | {"isotropic-scale"}

    def forward(self, x: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Combine the components of samples `x`.

        Parameters
        ----------
        x : tensor of shape (n, d)
        anchors : tensor of shape (k, d)
            The anchors' embeddings by the same encoder.

        Returns
        -------
        tensor of shape (n, out_features)

        Raises
        ------
        SpaceError
            If the number of anchors or a width is not as expected.
        """
        return self.combine(self.components(x, anchors))

    def attention_weights(self, x: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """How much each component (axis 1) attends to each (axis 2), averaged over heads.

        Parameters
        ----------
        x : tensor of shape (n, d)
        anchors : tensor of shape (k, d)

        Returns
        -------
        tensor of shape (n, c, c)
            Rows sum to 1; components in the order of `similarities`.

        Raises
        ------
        SpaceError
            If the aggregation is not "attention".
        """
        if self.aggregation != "attention":
            raise SpaceError(f"aggregation {self.aggregation!r} has no attention weights; use aggregation='attention'")
        return self._attend(self._tokens(self._normalised(self.components(x, anchors))), need_weights=True)[1]

    def components(self, x: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """The relative representations before their LayerNorms: nothing here is learnt.

        What reads a frozen encoder can compute them once and `combine` them in every step.

        Parameters
        ----------
        x : tensor of shape (n, d)
        anchors : tensor of shape (k, d)

        Returns
        -------
        tensor of shape (n, c, k)
            In the order of `similarities`.

        Raises
        ------
        SpaceError
            If the number of anchors or a width is not as expected.
        """
        for name, given in (("x", x), ("anchors", anchors)):
            if not isinstance(given, torch.Tensor) or not given.is_floating_point():
                kind = given.dtype if isinstance(given, torch.Tensor) else type(given).__name__
                raise SpaceError(f"{name} is {kind}; give a tensor of floating-point numbers")
        if x.dtype != anchors.dtype:
            raise SpaceError(f"x is {x.dtype}, but anchors are {anchors.dtype}; give both in one precision")
        if x.ndim != 2 or anchors.ndim != 2 or x.shape[1] != anchors.shape[1] or len(anchors) != self.anchors:
            raise SpaceError(
                f"x has shape {tuple(x.shape)} and anchors {tuple(anchors.shape)}; "
                f"give n samples and {self.anchors} anchors of one encoder"
            )
        # compared in the precision of x, combined in the module's
        wanted = next(self.parameters()).dtype
        return torch.stack([relative(x, anchors, name).to(wanted) for name in self.similarities], dim=1)

    def combine(self, components: torch.Tensor) -> torch.Tensor:
        """Combine `components` of shape (n, c, k), as `forward` does: shape (n, out_features)."""
        normalised = self._normalised(components)
        if self.aggregation == "concat":
            return torch.cat(normalised, dim=1)
        tokens = self._tokens(normalised)
        if self.aggregation == "sum":
            return tokens.sum(dim=1)
        return self._attend(tokens, need_weights=False)[0].mean(dim=1)

    def _normalised(self, components: torch.Tensor) -> list[torch.Tensor]:
        """Every component after its LayerNorm, each of shape (n, k)."""
        return [norm(component) for norm, component in zip(self.norms.values(), components.unbind(dim=1), strict=True)]

    def _tokens(self, normalised: list[torch.Tensor]) -> torch.Tensor:
        """Each component carried to `width`, shape (n, c, width)."""
        return torch.stack(
            [embed(component) for embed, component in zip(self.embed.values(), normalised, strict=True)], dim=1
        )

    def _attend(self, tokens: torch.Tensor, need_weights: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        # keys that are all alike weigh all components alike
        keys = torch.zeros_like(tokens) if self.equal_weights else tokens
        return self.attention(tokens, keys, tokens, need_weights=need_weights)


def _perceptron(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


def check_product(
    similarities: Sequence[str],
    anchors: int,
    width: int,
    aggregation: str,
    heads: int = 1,
    equal_weights: bool = False,
) -> None:
    """Refuse what `Product` cannot be made of, with one sentence.

    Raises
    ------
    SpaceError
        As `Product` says.
    """
    known = not isinstance(similarities, str) and isinstance(similarities, Sequence) and len(similarities)
    if not known or any(name not in list(SIMILARITIES) for name in similarities) or len(set(similarities)) < known:
        raise SpaceError(f"similarities are {similarities!r}; give one or more of {', '.join(SIMILARITIES)}, each once")
    for name, value, least in (("anchors", anchors, 2), ("width", width, 1), ("heads", heads, 1)):
        check_whole(value, name, least)
    if not isinstance(equal_weights, bool):
        raise SpaceError(f"equal_weights is {equal_weights!r}; give True or False")
    if aggregation not in AGGREGATIONS:
        raise SpaceError(f"unknown aggregation {aggregation!r}; choose from {', '.join(AGGREGATIONS)}")
    if aggregation == "attention" and width % heads:
        raise SpaceError(f"width {width} cannot be shared by {heads} heads; give a multiple of {heads}")
    if aggregation != "attention" and (equal_weights or heads != 1):
        raise SpaceError(f"aggregation {aggregation!r} has no weights or heads; leave them out, or use 'attention'")
