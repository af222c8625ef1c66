"""`Removal`: what a perturbation removes, in which portions, and what takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from xaibench.core.errors import UsageError
from xaibench.core.registry import Keys
from xaibench.core.registry.bounds import Count, NotNegative, Odd, Positive

Static = Literal["zero", "black", "mean", "min", "blur", "noise", "road"]
Baseline = Literal["zero", "black", "mean", "min", "blur", "noise", "road", "running_mean"]
Order = Literal["morf", "lerf", "random"]
Unit = Literal["pixel", "patch", "segment"]


@dataclass(frozen=True)
class Removal:
    """Removal of parts of an image: what goes, in which portions, and what replaces it.

    Metrics of equal removals share curves.

    Attributes:
        baseline: `zero` (0 in model space: the mean colour of the training data), `black` (0 before normalisation),
            `mean` (of each channel of the image), `min` (of the image over all channels), `blur` (`blur_kernel`,
            `blur_sigma`; zero-padded), `noise` (Gaussian of each channel's mean and deviation, a fixed draw per pair),
            `road` (imputed from what is left, plus Gaussian noise of deviation `noise`), `running_mean` (the mean of the
            image, all channels, as it was before the step; what Quantus calls mean)
        unit: `pixel`, `patch` (cells of a `grid` x `grid` partition) or `segment` (superpixels grown from that grid)
        steps: T portions of (nearly) equal numbers of units: floor(t n / T) are gone after step t. None: one unit a
            step, which is meant for patches and segments
        fractions: of the units, instead of steps
    """

    baseline: Baseline = "zero"
    unit: Unit = "pixel"
    grid: Count = 8
    steps: Count | None = 32
    fractions: tuple[float, ...] | None = None
    blur_kernel: Odd = 11
    blur_sigma: Positive = 5.0
    noise: NotNegative = 0.01

    def __post_init__(self) -> None:
        if self.steps is None and self.fractions is None and self.unit == "pixel":
            why = "steps: null removes one unit at a time, which is for patches and segments; give a number"
            raise UsageError(why, key="steps")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps: {self.steps}; at least 1 is needed")
        if self.grid < 1:
            raise UsageError(f"grid: {self.grid}; at least 1 is needed")
        if self.blur_kernel < 1 or self.blur_kernel % 2 == 0 or self.blur_sigma <= 0:
            raise UsageError(f"blur: kernel {self.blur_kernel} must be odd and sigma {self.blur_sigma} positive")
        if self.fractions is not None and not all(0 < fraction <= 1 for fraction in self.fractions):
            raise UsageError(f"fractions: {self.fractions} must lie in (0, 1]")

    def at(self, fractions: Sequence[float]) -> Removal:
        """Copy of the removal, of these fractions of the units."""
        return replace(self, steps=None, fractions=tuple(fractions))

    def counts(self, units: Tensor) -> Tensor:
        """Counts, long [P, T + 1], of the [P] units that are removed before the first and after each step.

        Where units are removed one at a time, pairs with fewer units than others have counts beyond their number.
        """
        n = units[:, None]
        if self.fractions is not None:
            # 0.29 * 100 is 28.999999999999996
            wanted = torch.tensor((0.0, *self.fractions), dtype=torch.float64, device=n.device)
            return (n * wanted + 1e-6).floor().long()
        if self.steps is not None:
            return n * torch.arange(self.steps + 1, device=n.device) // self.steps
        longest = int(units.max()) if len(units) else 1
        return torch.arange(longest + 1, device=n.device).expand(len(units), -1)


Replacement = Annotated[
    Removal, Keys(baseline=Static)
]  # the `removal` of metrics that choose themselves what is removed
