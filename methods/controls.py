"""Controls: methods that explain nothing, or are the ground truth. A metric that ranks them alike measures nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xaibench.core.registry import method
from xaibench.core.registry.bounds import Count, Positive
from xaibench.forward import Forward, Pairs


@method(
    source="xaibench; a coin per cell",
    control=True,
    forwards=0,
    backwards=0,
)
def random(forward: Forward, pairs: Pairs, *, cells: Count = 12) -> Tensor:
    """Uniform noise in [0, 1) on a cells x cells grid, seeded by (suite seed, sample, label). Maps [P, cells, cells]."""
    return forward.draw_per_pair(pairs, "random", cells, cells, dtype=torch.float64).to(forward.images)


@method(
    source="xaibench; the photographer's bias",
    control=True,
    forwards=0,
    backwards=0,
)
def center(forward: Forward, pairs: Pairs, *, sigma: Positive = 0.25) -> Tensor:
    """A Gaussian at the image's centre, `sigma` in units of height and width. Maps [P, H, W] in (0, 1]."""
    height, width = forward.images.shape[-2:]
    y = (torch.arange(height).to(forward.images) + 0.5) / height - 0.5
    x = (torch.arange(width).to(forward.images) + 0.5) / width - 0.5
    gaussian = torch.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2))
    return gaussian.expand(len(pairs), -1, -1)


@method(
    source="adebayo2018: an edge detector knows no model",
    control=True,
    forwards=0,
    backwards=0,
)
def edges(forward: Forward, pairs: Pairs) -> Tensor:
    """Sobel gradient magnitude of the channel mean of the image. Maps [P, H, W] in model input units."""
    sobel = torch.tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]]).to(forward.images) / 8
    grey = F.pad(forward.images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(grey, torch.stack([sobel, sobel.T])[:, None])
    return gradient.square().sum(1).sqrt()[pairs.image]


@method(
    needs=("masks",),
    source="xaibench; the ground truth",
    control=True,
    forwards=0,
    backwards=0,
)
def oracle(forward: Forward, pairs: Pairs) -> Tensor:
    """The ground-truth mask of the label. Maps [P, H, W] in {0, 1}; all 0 where the label is not in the image."""
    return forward.ground_truth.of(pairs).to(forward.images.dtype)
