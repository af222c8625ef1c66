"""Noisy linear imputation: removed pixels become the weighted mean of their neighbours, solved jointly and in a batch.

Every removed pixel satisfies x_i = sum_j w_j x_j over its eight neighbours (1/6 across an edge, 1/12 across a corner,
renormalised at the image's border), known pixels stay: a discrete Laplace equation, one system per image and channel.
It is solved by conjugate gradients with a multigrid cycle as preconditioner, in fewer than twenty iterations.
Weights are multiples of 1/12.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-6  # of the residual, relative to the right-hand side
ITERATIONS = 200  # a bound; ten to twenty are used
DAMPING = 0.9
COARSEST = 4  # pixels on the shorter side
CACHED = 4  # images at a time on a CPU; more do not fit its cache


def impute(images: Tensor, removed: Tensor) -> Tensor:
    """Images [n, C, H, W] with the pixels of `removed` (bool [n, 1, H, W]) filled in from the others.

    Where everything is removed nothing is known but the image's colour: the mean of each channel.

    Each system stops by its own residual, so an image's result does not depend on the others of the batch.
    """
    if images.device.type == "cpu" and len(images) > CACHED:
        parts = zip(images.split(CACHED), removed.split(CACHED), strict=True)
        return torch.cat([impute(image, part) for image, part in parts])
    blank = removed.flatten(1).all(1)[:, None, None, None]
    return torch.where(blank, images.mean((2, 3), keepdim=True), _solve(images, removed & ~blank))


def _solve(images: Tensor, removed: Tensor) -> Tensor:
    levels = _levels(removed.to(images.dtype))
    unknown, weight = levels[0].unknown, levels[0].weight
    solution = torch.where(removed, _guess(images, removed), images)
    residual = unknown * (_neighbours(solution) - weight * solution)
    target = TOLERANCE * _norm(unknown * _neighbours(images * (1 - unknown)))
    direction, product = torch.zeros_like(residual), torch.ones_like(target)
    for _ in range(ITERATIONS):
        active = _norm(residual) > target
        if not active.any():
            break
        corrected = _cycle(levels, residual)
        product, before = torch.where(active, _dot(residual, corrected), product), product
        direction = torch.addcmul(corrected, product / before, direction)
        applied = (weight * direction).sub_(_neighbours(direction)).mul_(unknown)
        step = torch.where(active, product / _dot(direction, applied), 0)
        solution, residual = solution.addcmul(step, direction), residual.addcmul(step, applied, value=-1)
    return solution


def _neighbours(x: Tensor) -> Tensor:
    """Sum over neighbours, 12 sum_j w_j x_j, nothing beyond the border: [1 2 1] x [1 2 1] - 4 at the centre."""
    rows = 2 * x
    rows[..., 1:, :] += x[..., :-1, :]
    rows[..., :-1, :] += x[..., 1:, :]
    both = 2 * rows
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    return both.sub_(x, alpha=4)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


@dataclass(frozen=True)
class _Level:
    """One grid: 1 where a pixel is unknown [n, 1, h, w], 12 sum_j w_j [1, 1, h, w], the factor of damped Jacobi."""

    unknown: Tensor
    weight: Tensor
    relax: Tensor

    @staticmethod
    def of(unknown: Tensor) -> _Level:
        weight = _neighbours(torch.ones_like(unknown[:1]))
        return _Level(unknown, weight, DAMPING * unknown / weight.clamp(min=1))


def _levels(unknown: Tensor) -> list[_Level]:
    """Grids from fine to coarse; a coarse pixel is unknown when all of its fine ones are."""
    levels = [_Level.of(unknown)]
    while min(unknown.shape[-2:]) > COARSEST:
        unknown = 1 - F.max_pool2d(1 - unknown, 2, ceil_mode=True)
        levels.append(_Level.of(unknown))
    return levels


def _cycle(levels: list[_Level], residual: Tensor) -> Tensor:
    """One V-cycle: damped Jacobi, the same problem on half the grid, damped Jacobi. Symmetric, as CG needs."""
    level = levels[0]
    x = level.relax * residual
    if len(levels) > 1:
        # the residual of x: weight * x is DAMPING * residual where the residual is not 0
        left = _neighbours(x).mul_(level.unknown).add_(residual, alpha=1 - DAMPING)
        coarse = F.avg_pool2d(left, 2, ceil_mode=True, divisor_override=1) * levels[1].unknown
        x = torch.addcmul(x, level.unknown, _double(_cycle(levels[1:], coarse), residual.shape))
    return _neighbours(x).add_(residual).mul_(level.relax).add_(x, alpha=1 - DAMPING)


def _double(x: Tensor, shape: torch.Size) -> Tensor:
    """Repeat every pixel four times, cut to the last two sizes of `shape`."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : shape[-2], : shape[-1]]


def _guess(images: Tensor, removed: Tensor) -> Tensor:
    """First guess: the mean of the smallest block around a pixel that has a known one; larger blocks bilinearly."""
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
        finer = F.interpolate(guess, total.shape[-2:], mode="bilinear", align_corners=False)
        guess = torch.where(known > 0, total / known.clamp(min=1), finer)
    return guess
