"""Superpixels: segments of similar colour, by k-means on colour and place (SLIC), for a batch on its device."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 10
COMPACTNESS = 1.0  # standard deviations of colour that weigh as much as one cell's width


def grid_cells(height: int, width: int, grid: int, device: torch.device) -> Tensor:
    """Number, long [H, W], of each pixel's cell in a grid x grid partition of the image, row by row."""
    rows = torch.arange(height, device=device) * grid // height
    columns = torch.arange(width, device=device) * grid // width
    return rows[:, None] * grid + columns


def slic(images: Tensor, grid: int) -> Tensor:
    """Segments long [B, H, W] of images [B, C, H, W], numbered by the cell of a grid x grid partition they grew from.

    Achanta et al. 2012 with every pixel choosing among the nine cells around it, in the images' own colours divided by
    each image's standard deviation; segments are not forced to be connected. Numbers of segments that died out are
    not used.
    """
    count, _, height, width = images.shape
    cells = grid_cells(height, width, grid, images.device).flatten()
    row = torch.arange(height, device=images.device)[:, None].expand(height, width).flatten()
    column = torch.arange(width, device=images.device).expand(height, width).flatten()
    place = torch.stack([row * (grid / height), column * (grid / width)])  # in cells
    spread = images.flatten(1).std(1).clamp(min=torch.finfo(images.dtype).tiny)[:, None, None]
    colour = images.flatten(2) / spread
    # double sums, so that the order of additions on a device does not move a border
    points = torch.cat([colour, COMPACTNESS * place.to(images.dtype).expand(count, -1, -1)], 1).double()
    segment = cells.expand(count, -1)
    around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    for _ in range(ITERATIONS):
        centres = _means(points, segment, grid * grid)
        best = torch.full_like(points[:, 0], torch.inf)
        chosen = segment
        for i, j in around:
            candidate = (cells // grid + i).clamp(0, grid - 1) * grid + (cells % grid + j).clamp(0, grid - 1)
            distance = (points - centres[:, :, candidate]).square().sum(1)
            nearer = distance < best
            best, chosen = torch.where(nearer, distance, best), torch.where(nearer, candidate, chosen)
        segment = chosen
    return segment.view(count, height, width)


def _means(points: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Means [B, D, K] of each segment's points [B, D, N]; infinitely far where there are none."""
    index = segment[:, None].expand_as(points)
    total = points.new_zeros((*points.shape[:2], segments)).scatter_add_(2, index, points)
    size = torch.zeros_like(total).scatter_add_(2, index, torch.ones_like(points))
    return torch.where(size > 0, total / size, torch.inf)
