"""The ladder's answer, in the words of the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["KEEPS_LENGTHS", "WEAK", "Verdict"]


WEAK = 0.5
"""Explained variance below which a verdict is called weak."""
ROTATIONS = ("orthogonal", "orthogonal+translation", "similarity", "affine")
"""The classes that need as many anchors as features, and one more."""
KEEPS_LENGTHS = ("orthogonal", "orthogonal+translation", "similarity")
"""The classes that keep lengths, up to one factor."""


@dataclass(frozen=True)
class Verdict:
    """The ladder's answer."""

    invariance: str
    """One of `invariances.ladders.CLASSES` or "permutation"; "none" where no class of maps beats a constant."""
    explained_variance: float
    """Share of the target's held-out variance that this class of maps explains."""
    weak: bool
    """Whether that is less than `WEAK`."""
    models: int
    few_anchors: bool = False
    """Whether there were no more anchors than features, so that their span leaves a rotation undetermined."""
    undecided: bool = False
    """Whether the anchors were too few to tell the classes apart; `invariance` is then "none"."""
    anchors_needed: int = 0
    """How many anchors would determine every class of maps."""
    unequal_widths: bool = False
    """Whether the spaces differ in width, so that no map keeps all axes."""
    few_axes: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Of the spaces in which a few axes hold nearly all variance: how many, and what share they hold."""
    without: Verdict | None = None
    """The verdict without these axes."""

    def __str__(self) -> str:
        return self._alone() if self.without is None else f"{self._alone()} {self.axes_in_words}; {self._of_the_rest()}"

    @property
    def axes_in_words(self) -> str:
        """Which few axes hold nearly all variance, for a sentence."""
        parts = [
            f"{count} {'axis' if count == 1 else 'axes'} of {name} {'holds' if count == 1 else 'hold'} "
            f"{100 * share:.0f} % of its variance"
            for name, (count, share) in self.few_axes.items()
        ]
        return " and ".join(parts)

    def _of_the_rest(self) -> str:
        found, count = str(self.without), sum(count for count, _ in self.few_axes.values())
        return f"without {'it' if count == 1 else 'them'}, {found[0].lower()}{found[1:]}"

    def _alone(self) -> str:
        if self.undecided:
            return f"There are too few anchors to tell; give at least {self.anchors_needed}."
        if self.invariance == "none":
            which = "both" if self.models == 2 else f"all {self.models}"
            return f"No map relates {which} spaces: none explains more held-out variance than a constant."
        what = {
            "identity": "The spaces already agree as they are",
            "affine": "The spaces differ by a general affine map",
        }.get(self.invariance, f"The spaces differ by a map of the class {self.invariance!r}")
        remarks = [f"which explains {100 * self.explained_variance:.0f} % of the held-out variance"]
        if self.weak:
            remarks.append(f"weak evidence, since that is below {100 * WEAK:.0f} %")
        if self.models == 2 and self.invariance == "affine":
            remarks.append(
                "an upper bound, since with two models variation that is private to each cannot be excluded "
                "and looks affine"
            )
        if self.unequal_widths and self.invariance in KEEPS_LENGTHS:
            remarks.append(
                "between unequal widths, so that the rotation is semi-orthogonal and keeps lengths only on the axes "
                "that the narrower space has"
            )
        if self.few_anchors and self.invariance in ROTATIONS:
            remarks.append(
                "uncertain, since with no more anchors than features a rotation can look affine, or the reverse"
            )
        return f"{what}, {'; '.join(remarks)}."
