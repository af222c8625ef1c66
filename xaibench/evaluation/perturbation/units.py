"""Units that are removed as a whole: pixels, patches or segments, and their ranks. Ties go in raster order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from xaibench.core.pairs import Pairs
from xaibench.core.rank_statistics import comparable
from xaibench.evaluation.perturbation.removal import Unit
from xaibench.evaluation.perturbation.superpixels import grid_cells, slic


@dataclass(frozen=True)
class Units:
    """Partition of images into what is removed as a whole.

    Attributes:
        index: long [P, c, H, W], the unit of each pixel (c = 1: all its channels) or of each scalar (c = C)
        total: numbers run from 0 to total - 1; not all need to occur in every image
        single: every unit is one pixel
    """

    index: Tensor
    total: int
    single: bool = False

    def sums(self, values: Tensor) -> Tensor:
        """Sums, double [P, total], of values [P, c, H, W] over each unit."""
        zeros = torch.zeros(len(values), self.total, dtype=torch.float64, device=values.device)
        return zeros.scatter_add_(1, self.index.flatten(1), values.flatten(1).double())

    @cached_property
    def sizes(self) -> Tensor:
        """Number of pixels (or scalars) of each unit, double [P, total]."""
        return self.sums(torch.ones(self.index.shape, device=self.index.device))

    def spread(self, values: Tensor) -> Tensor:
        """Give each pixel its unit's value: [P, total] -> [P, c, H, W]."""
        return values.gather(1, self.index.flatten(1)).view(self.index.shape)

    def ranks(self, values: Tensor, order: Literal["morf", "lerf"]) -> Tensor:
        """Ranks, int32 [P, c, H, W], of units by their mean of values [P, c, H, W]: 0 for the unit removed first.

        Values are compared by `xaibench.core.rank_statistics.comparable`; units without a pixel come last.
        """
        last = -torch.inf if order == "morf" else torch.inf
        means = self.sums(values) / self.sizes  # exact where a unit is one pixel
        if self.single:
            means = means.to(values.dtype)
        else:
            means = means.where(self.sizes > 0, means.nanmean(1, keepdim=True))
        means = comparable(means).masked_fill(self.sizes == 0, last)
        sequence = means.argsort(dim=1, descending=order == "morf", stable=True)
        places = torch.arange(self.total, device=means.device).expand_as(sequence)
        return self.spread(torch.empty_like(sequence).scatter_(1, sequence, places)).int()


def units(images: Tensor, pairs: Pairs, unit: Unit, grid: int) -> Units:
    """Partition of each pair's image; images [B, C, H, W]."""
    height, width = images.shape[-2:]
    if unit == "segment":
        return Units(slic(images, grid)[pairs.image][:, None], grid * grid)
    if unit == "patch":
        index, total = grid_cells(height, width, grid, images.device), grid * grid
    else:
        index, total = torch.arange(height * width, device=images.device).view(height, width), height * width
    return Units(index.expand(len(pairs), 1, height, width), total, single=unit == "pixel")
