"""Noisy linear imputation: removed pixels become the weighted mean of their neighbours, solved jointly and in a batch.

Every removed pixel satisfies x_i = sum_j w_j x_j over its eight neighbours (1/6 across an edge, 1/12 across a corner,
renormalised at the image's border), known pixels stay: a discrete Laplace equation, one system per image and channel.
It is solved by conjugate gradients with a multigrid cycle as preconditioner, about ten iterations whatever is removed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-6  # of the residual, relative to the right-hand side
ITERATIONS = 200  # a bound; ten to twenty are used
DAMPING = 0.9
COARSEST = 4  # pixels on the shorter side


def impute(images: Tensor, removed: Tensor) -> Tensor:
    """Images [n, C, H, W] with the pixels of `removed` (bool [n, 1, H, W]) filled in from the others.

    Where everything is removed nothing is known but the image's colour: the mean of each channel.

    Each system stops by its own residual, so an image's result does not depend on the others of the batch.
    """
    blank = removed.flatten(1).all(1)[:, None, None, None]
    removed = removed & ~blank
    unknown = removed.to(images.dtype)
    levels = _levels(unknown)
    weight = levels[0][1]
    solution = torch.where(removed, _guess(images, removed), images)
    residual = unknown * (_neighbours(solution) - weight * solution)
    target = TOLERANCE * _norm(unknown * _neighbours(images * (1 - unknown)))
    corrected = _cycle(levels, residual)
    direction, product = corrected, _dot(residual, corrected)
    for _ in range(ITERATIONS):
        active = _norm(residual) > target
        if not active.any():
            break
        applied = unknown * (weight * direction - _neighbours(direction))
        step = torch.where(active, product / _dot(direction, applied), 0)
        solution, residual = solution + step * direction, residual - step * applied
        corrected = _cycle(levels, residual)
        following = _dot(residual, corrected)
        direction = torch.where(active, corrected + following / product * direction, direction)
        product = torch.where(active, following, product)
    return torch.where(blank, images.mean((2, 3), keepdim=True), solution)


def _neighbours(x: Tensor) -> Tensor:
    """sum_j w_j x_j, nothing beyond the border: ([1 2 1] x [1 2 1] - 4 at the centre) / 12."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:] - 4 * x) / 12


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _levels(unknown: Tensor) -> list[tuple[Tensor, Tensor]]:
    """From fine to coarse: where pixels are unknown (a coarse one is when all of its fine ones are), and sum_j w_j."""
    levels = [(unknown, _neighbours(torch.ones_like(unknown[:1])))]
    while min(unknown.shape[-2:]) > COARSEST:
        unknown = 1 - F.max_pool2d(1 - unknown, 2, ceil_mode=True)
        levels.append((unknown, _neighbours(torch.ones_like(unknown[:1]))))
    return levels


def _cycle(levels: list[tuple[Tensor, Tensor]], residual: Tensor) -> Tensor:
    """One V-cycle: damped Jacobi, the same problem on half the grid, damped Jacobi. Symmetric, as CG asks."""
    unknown, weight = levels[0]
    x = DAMPING * residual / weight
    if len(levels) > 1:
        left = residual - unknown * (weight * x - _neighbours(x))
        coarse = F.avg_pool2d(left, 2, ceil_mode=True, divisor_override=1) * levels[1][0]
        x = x + unknown * _double(_cycle(levels[1:], coarse), residual.shape)
    return x + DAMPING * (residual - unknown * (weight * x - _neighbours(x))) / weight


def _double(x: Tensor, shape: torch.Size) -> Tensor:
    """Every pixel four times, cut to the last two sizes of `shape`."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : shape[-2], : shape[-1]]


def _guess(images: Tensor, removed: Tensor) -> Tensor:
    """What is known of ever larger blocks around a pixel: the mean of the smallest that has a known pixel."""
    known = (~removed).to(images.dtype)
    total, levels = images * known, []
    while True:
        levels.append((total, known))
        if max(total.shape[-2:]) == 1:
            break
        total = F.avg_pool2d(total, 2, ceil_mode=True, divisor_override=1)
        known = F.avg_pool2d(known, 2, ceil_mode=True, divisor_override=1)
    guess = total / known
    for total, known in reversed(levels[:-1]):
        guess = torch.where(known > 0, total / known.clamp(min=1), _double(guess, total.shape))
    return guess
