"""The statistics of seed metrics, packed into rows that records can hold; `xaibench.core.seed_curve` unpacks them."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(thresholds: Tensor, hits: Tensor, predicted: Tensor, truth: Tensor, defined: Tensor) -> Tensor:
    """Pack counts of images into rows float64 [B, S], see `xaibench.core.seed_curve.SeedCounts`.

    Args:
        thresholds: float64 [T]
        hits, predicted: [B, T, K]
        truth: [B, K]
        defined: bool [B], False for images whose counts are NaN
    """
    images, classes = truth.shape
    header = torch.cat([thresholds.new_tensor([classes, len(thresholds)]), thresholds])
    counts = torch.cat([part.flatten(1).to(header) for part in (hits, predicted, truth)], 1)
    return torch.cat([header.expand(images, -1), counts.where(defined[:, None], torch.nan)], 1)
