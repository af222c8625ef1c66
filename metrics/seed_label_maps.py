"""Label maps of one image from the maps of its labels: seeds by a threshold, and seeds by a fraction of the maximum."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xaibench.data.dataset import VOID

BACKGROUND, UNKNOWN = 0, VOID


def threshold_seeds(maps: Tensor, labels: Tensor, *, background: float | Tensor) -> Tensor:
    """Label whose map is largest, 0 where none is above the background.

    Among equal values the background wins, then the label that comes first.

    Args:
        maps: [n, h, w], normalised
        labels: [n] values to give; their order decides ties
        background: a threshold, or a map [h, w] of it such as (1 - max_c maps) ** 16

    Returns:
        [h, w] of the type of `labels`
    """
    best, label = strongest(maps, labels)
    return label.where(best > background, BACKGROUND)


def fraction_seeds(
    maps: Tensor,
    labels: Tensor,
    *,
    fraction: float,
    strict: bool = False,
    area: Literal["claimed", "undisputed"] = "claimed",
    zero: Literal["unknown", "background"] = "unknown",
) -> Tensor:
    """Labels where a map reaches `fraction` of its own maximum, if that is positive: the seeds. Maps are signed.

    A pixel of several seeds goes to the label of the smallest seed, of equal sizes to the one that comes first. A pixel
    of no seed is background where every map is negative, else unknown: a map after ReLU has no background at all.

    Args:
        maps: [n, h, w], raw
        labels: [n] values to give
        fraction: 0 to 1
        strict: a seed must exceed the fraction, not only reach it
        area: size of a seed before conflicts (claimed), or without the pixels that others claim too (undisputed)
        zero: what a pixel is where the largest map is exactly 0

    Returns:
        [h, w] of the type of `labels`: 0 background, 255 unknown
    """
    if not len(maps):
        return torch.full(maps.shape[1:], UNKNOWN, dtype=labels.dtype, device=maps.device)
    highest = maps.amax((1, 2), keepdim=True)
    claimed = ((maps > fraction * highest) if strict else (maps >= fraction * highest)) & (highest > 0)
    sizes = claimed if area == "claimed" else claimed & (claimed.sum(0) == 1)
    order = sizes.sum((1, 2)).argsort(stable=True)
    winner = order[claimed[order].int().argmax(0)]  # the first True: argmax gives the first of equal values
    top = maps.amax(0)
    is_background = top < 0 if zero == "unknown" else top <= 0
    rest = torch.where(is_background, BACKGROUND, UNKNOWN).to(labels.dtype)
    return labels[winner].where(claimed.any(0), rest)


def strongest(maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value [h, w] over the maps and its label [h, w], the first of equals; without a map -inf and 0."""
    if not len(maps):
        shape = maps.shape[1:]
        return maps.new_full(shape, -torch.inf), torch.full(shape, BACKGROUND, dtype=labels.dtype, device=maps.device)
    best, index = maps.max(0).values, maps.argmax(0)
    return best, labels[index]
