"""Baselines of `Removal`: what removed pixels become."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xaibench.core.errors import UsageError
from xaibench.core.pairs import Pairs
from xaibench.evaluation.perturbation.imputation import impute
from xaibench.evaluation.perturbation.removal import Removal
from xaibench.forward import Forward

Remove = Callable[[Tensor, Tensor], Tensor]  # rows of pairs [n], removed bool [n, c, H, W] -> images [n, C, H, W]


def remover(forward: Forward, pairs: Pairs, removal: Removal) -> Remove:
    """Function that makes images with removed pixels: `remove(pair rows [n], removed [n, c, H, W]) -> [n, C, H, W]`."""
    images, rows = forward.images, pairs.image
    if removal.baseline == "running_mean":
        raise UsageError("baseline: running_mean is for metrics that remove one portion after the other")
    if removal.baseline == "road":
        jitter = _noise(forward, pairs, "road") * removal.noise if removal.noise else None

        def imputed(pair: Tensor, removed: Tensor) -> Tensor:
            filled = impute(images[rows[pair]], removed)
            return filled if jitter is None else torch.where(removed, filled + jitter[pair], filled)

        return imputed
    if removal.baseline == "noise":
        drawn = _noise(forward, pairs, "noise")
        mean, deviation = images.mean((2, 3), keepdim=True)[rows], images.std((2, 3), keepdim=True)[rows]
        return substitute(forward, pairs, mean + deviation * drawn)
    per_image = _replacement(forward, removal)
    return lambda pair, removed: torch.where(removed, per_image[rows[pair]], images[rows[pair]])


def substitute(forward: Forward, pairs: Pairs, replacement: Tensor) -> Remove:
    """Function that gives removed pixels their value from a replacement per pair [P, C, H, W]."""
    images, rows = forward.images, pairs.image
    return lambda pair, removed: torch.where(removed, replacement[pair], images[rows[pair]])


def _replacement(forward: Forward, removal: Removal) -> Tensor:
    """Replacement [B, C, H, W] (or with sizes of 1) of the baselines that are one per image."""
    images = forward.images
    match removal.baseline:
        case "mean":
            return images.mean((2, 3), keepdim=True)
        case "min":
            return images.amin((1, 2, 3), keepdim=True).expand(-1, images.shape[1], 1, 1)
        case "blur":
            return blur(images, removal.blur_kernel, removal.blur_sigma)
        case "black":
            preprocess = forward.classifier.preprocess
            if preprocess is None:
                raise UsageError("baseline: black needs the model's normalisation (Classifier(preprocess=...))")
            return preprocess.normalise(torch.zeros_like(images))
    return torch.zeros_like(images)


def _noise(forward: Forward, pairs: Pairs, name: str) -> Tensor:
    """Standard normal noise [P, C, H, W], seeded by pair; drawn in float32, the same for every precision."""
    return forward.draw_per_pair(pairs, name, *forward.images.shape[1:], kind="normal").to(forward.images)


def blur(images: Tensor, kernel: int, sigma: float) -> Tensor:
    """Blur as RISE does: a Gaussian folded into `kernel` taps (reflected at its ends), 0 beyond the border.

    As a product with two banded matrices, which no device computes in reduced precision by default.
    """
    taps = _taps(kernel, sigma).to(images)
    height, width = images.shape[-2:]
    return _band(taps, height) @ images @ _band(taps, width).T


def _taps(kernel: int, sigma: float) -> Tensor:
    """Impulse, double [kernel], at the centre of `kernel` samples, filtered with half-sample reflection."""
    offsets = torch.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    position = (kernel // 2 + offsets) % (2 * kernel)
    position = torch.where(position < kernel, position, 2 * kernel - 1 - position)
    return torch.zeros(kernel, dtype=torch.float64).scatter_add_(0, position, weights / weights.sum())


def _band(taps: Tensor, size: int) -> Tensor:
    """Banded matrix [size, size] whose row i has the taps around column i."""
    place = torch.arange(size, device=taps.device)
    offset = place[None, :] - place[:, None] + len(taps) // 2
    inside = (offset >= 0) & (offset < len(taps))
    return torch.where(inside, taps[offset.clamp(0, len(taps) - 1)], 0)


def running_mean(images: Tensor, ranks: Tensor, counts: Tensor) -> Tensor:
    """Replacement [P, C, H, W] in which what goes at a step takes the image's mean (all channels) before that step.

    Args:
        images: [P, C, H, W]
        ranks: [P, c, H, W]
        counts: [P, T + 1]
    """
    flat = ranks.expand_as(images).flatten(1).long()
    step = torch.searchsorted(counts[:, 1:].contiguous(), flat, right=True).clamp(max=counts.shape[1] - 2)
    zeros = torch.zeros(counts[:, 1:].shape, dtype=torch.float64, device=images.device)
    sums = zeros.scatter_add(1, step, images.flatten(1).double())
    sizes = zeros.scatter_add(1, step, torch.ones_like(flat, dtype=torch.float64))
    means, total, n = [], images.double().sum((1, 2, 3)), images[0].numel()
    for t in range(counts.shape[1] - 1):
        means.append(total / n)
        total = total - sums[:, t] + sizes[:, t] * means[-1]
    return torch.stack(means, 1).gather(1, step).view_as(images).to(images.dtype)
