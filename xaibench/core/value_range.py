"""The range of values, each row (a map, an image) on its own."""

from __future__ import annotations

import torch
from torch import Tensor

Dims = int | tuple[int, ...]


def span(values: Tensor, dims: Dims) -> Tensor:
    """Largest minus smallest value over some dimensions, which are kept with size 1."""
    return values.amax(dims, keepdim=True) - values.amin(dims, keepdim=True)


def min_max(
    values: Tensor, dims: Dims, *, constant: float = 0.0, tolerance: float = 0.0, epsilon: float = 0.0
) -> Tensor:
    """Values moved and scaled to [0, 1] over some dimensions: (v - min v) / (max v - min v + epsilon).

    Args:
        dims: what belongs together, such as (1, 2) for each of maps [P, h, w]
        constant: what equal values become, which have no range
        tolerance: of the largest absolute value: a range up to that is none
        epsilon: added to the range

    NaN where there is a NaN.
    """
    lowest, highest = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    width = highest - lowest
    flat = width <= tolerance * torch.maximum(lowest.abs(), highest.abs())
    # in place: a copy may have another memory layout, and sums over it another rounding
    return ((values - lowest) / (width + epsilon)).masked_fill_(flat, constant)
