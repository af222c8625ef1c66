"""Drops of the model's output when parts of the image are hidden. x = image, b = value of a hidden part.

No part depends on the label, so every changed image is run once for all labels of its image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, einsum
from torch.nn import functional as F

from xaibench.core.errors import UsageError
from xaibench.core.registry import method
from xaibench.core.registry.bounds import AtLeastTwo, Count, Positive, PositiveFraction
from xaibench.forward import Forward, Pairs


def _window(window: int | None, stride: int | None, height: int, width: int) -> tuple[int, int]:
    """Side and step of the windows of occlusion in pixels."""
    window = window or max(min(height, width) // 4, 1)
    return window, stride or max(window // 2, 1)


def _patch(patch: int | None, height: int, width: int) -> int:
    """Side of the patches of feature_ablation in pixels."""
    return patch or max(min(height, width) // 8, 1)


def _number(size: int, window: int, stride: int) -> int:
    """Number of windows up to the border."""
    return math.ceil((size - window) / stride) + 1


def _occluded(shared: int, window: int | None, stride: int | None, height: int, width: int) -> float:
    """shared + windows"""
    window, stride = _window(window, stride, height, width)
    return shared + _number(height, window, stride) * _number(width, window, stride)


def _ablated(shared: int, patch: int | None, height: int, width: int) -> float:
    """shared + patches"""
    patch = _patch(patch, height, width)
    return shared + math.ceil(height / patch) * math.ceil(width / patch)


@method(
    source="zeiler2014; captum",
    forwards=_occluded,
    backwards=0,
    cost="each serves all labels of the image",
    rankings_change_with=("window", "stride", "baseline"),
    criticism="Images with hidden parts are unlike any training image.",
    elsewhere="Occlusion in captum, which repeats every window for every label.",
)
def occlusion(
    forward: Forward, pairs: Pairs, *, window: Count | None = None, stride: Count | None = None, baseline: float = 0.0
) -> Tensor:
    """Loss of the logit when a square window is set to b, averaged over the windows that cover a pixel.

    R = sum_w [pixel in w] (S_c(x) - S_c(x without w)) / sum_w [pixel in w]. Windows start every `stride` pixels; the
    last one is cut off at the border. Defaults: a window of a quarter of the shorter side, moved by half of itself.
    `baseline` is in units of the model's input (0: the mean colour). Maps [P, H, W], logit units.
    """
    height, width = forward.images.shape[-2:]
    window, stride = _window(window, stride, height, width)
    if not stride <= window <= min(height, width):
        raise UsageError(
            f"occlusion needs stride <= window <= {min(height, width)}, found stride {stride}, window {window}"
        )
    rows = _windows(height, window, stride).to(forward.images)  # [ny, H]
    columns = _windows(width, window, stride).to(forward.images)  # [nx, W]

    def hidden(image: Tensor, index: Tensor) -> Tensor:
        cover = rows[index // len(columns)][:, :, None] * columns[index % len(columns)][:, None]
        return torch.where(cover[:, None] > 0, baseline, forward.images[image])

    loss = _loss(forward, pairs, len(rows) * len(columns), hidden).view(len(pairs), len(rows), len(columns))
    return einsum("pyx,yh,xw->phw", loss, rows, columns) / (rows.sum(0)[:, None] * columns.sum(0))


@method(
    source="kokhlikyan2020, captum",
    forwards=_ablated,
    backwards=0,
    cost="each serves all labels of the image",
    rankings_change_with=("patch", "baseline"),
    criticism="Images with hidden parts are unlike any training image.",
    elsewhere="FeatureAblation in captum.",
)
def feature_ablation(forward: Forward, pairs: Pairs, *, patch: Count | None = None, baseline: float = 0.0) -> Tensor:
    """Loss of the logit when one patch of a grid is set to b: S_c(x) - S_c(x without the patch), at its pixels.

    Patches are squares of `patch` pixels (default: an eighth of the shorter side) from the upper left; those at the
    lower and right border are cut off. Maps [P, H, W], logit units.
    """
    height, width = forward.images.shape[-2:]
    patch = _patch(patch, height, width)
    rows, columns = (torch.arange(size, device=forward.images.device) // patch for size in (height, width))
    part = rows[:, None] * math.ceil(width / patch) + columns  # [H, W]: the number of each pixel's patch

    def hidden(image: Tensor, index: Tensor) -> Tensor:
        return torch.where(part == index[:, None, None, None], baseline, forward.images[image])

    loss = _loss(forward, pairs, math.ceil(height / patch) * math.ceil(width / patch), hidden)
    return loss[:, part]


@method(
    source="petsiuk2018",
    renamed={"masks": "samples"},
    forwards="samples",
    backwards=0,
    cost="each serves all labels of the image",
    rankings_change_with=("samples", "cells", "probability"),
    criticism="Images with hidden parts are unlike any training image. With few masks the map is noise.",
    elsewhere="The paper takes 4000 masks (VGG) and 8000 (ResNet).",
)
def rise(
    forward: Forward, pairs: Pairs, *, samples: Count = 1000, cells: Count = 7, probability: PositiveFraction = 0.5
) -> Tensor:
    """Mean of random masks weighted by the confidence they leave: sum_i p_c(x m_i) m_i / (samples · probability).

    m_i: a cells x cells grid of coins (1 with `probability`), bilinearly enlarged to (cells + 1) x (cells + 1) cells
    of ceil(H / cells) x ceil(W / cells) pixels, cut out at a random offset of less than a cell.
    Coins are seeded by (suite seed, sample id). Maps [P, H, W],
    probability units.
    """
    _check_grid(forward, cells)
    images = forward.images
    height, width = images.shape[-2:]
    tall, wide = math.ceil(height / cells), math.ceil(width / cells)
    grids = (forward.draw("rise/grids", samples, cells, cells) < probability).to(images)  # [B, samples, cells, cells]
    offset = forward.draw("rise/offsets", samples, 2)
    top = (offset[..., 0] * tall).long()[..., None] + torch.arange(height, device=images.device)  # [B, samples, H]
    left = (offset[..., 1] * wide).long()[..., None] + torch.arange(width, device=images.device)

    def mask(image: Tensor, index: Tensor) -> Tensor:
        size = ((cells + 1) * tall, (cells + 1) * wide)
        large = F.interpolate(grids[image, index][:, None], size, mode="bilinear", align_corners=False)[:, 0]
        cut = large.gather(1, top[image, index][:, :, None].expand(-1, -1, size[1]))
        return cut.gather(2, left[image, index][:, None].expand(-1, height, -1))

    def masked(image: Tensor, index: Tensor) -> Tensor:
        return images[image] * mask(image, index)[:, None]

    confidence = forward.perturbed(pairs, samples, masked, output="probabilities").to(images)
    return _weighted_sum(forward, pairs, confidence, mask) / (samples * probability)


@method(
    source="ribeiro2016; the authors' image explainer",
    version=2,
    forwards="samples",
    backwards=0,
    cost="each serves all labels of the image",
    rankings_change_with=("cells", "samples", "kernel_width", "baseline"),
    criticism="Images with hidden parts are unlike any training image.",
    elsewhere="Lime in captum; the authors' image explainer segments by quickshift, where this has the cells of a "
    "grid.",
)
def lime(
    forward: Forward,
    pairs: Pairs,
    *,
    cells: Count = 7,
    samples: Count = 500,
    kernel_width: Positive = 0.25,
    penalty: Positive = 1.0,
    baseline: float = 0.0,
) -> Tensor:
    """Weights of a ridge regression of the confidence on which superpixels are there.

    argmin_v sum_i pi_i (p_c(x_i) - v_0 - z_i · v)^2 + penalty |v|^2, z_i in {0, 1}^M coins (z_0 = 1), x_i = image with
    superpixels z = 0 set to b, pi = sqrt(exp(-d^2 / kernel_width^2)), d = 1 - sqrt(mean z) the cosine distance to all
    ones. Superpixels are the cells x cells of a grid. Coins
    are seeded by (suite seed, sample id). Solved in float64, so that a label that is nearly certain keeps its map.
    Maps [P, cells, cells], probability units.
    """
    _check_grid(forward, cells)
    z = (forward.draw("lime", samples, cells**2) < 0.5).to(forward.images)  # [B, samples, M]
    z[:, 0] = 1
    confidence = forward.perturbed(
        pairs,
        samples,
        lambda image, index: _grid_kept(forward.images[image], z[image, index], cells, baseline),
        output="probabilities",
    )
    z = z.double()
    distance = 1 - z.mean(2).sqrt()
    pi = (-(distance**2) / (2 * kernel_width**2)).exp()  # [B, samples]
    centred = z - (einsum("bi,bim->bm", pi, z) / pi.sum(1, keepdim=True))[:, None]  # takes v_0 out
    gram = einsum("bi,bim,bin->bmn", pi, centred, centred) + penalty * torch.eye(cells**2).to(z)
    moment = einsum("pi,pim,pi->pm", pi[pairs.image], centred[pairs.image], confidence)
    weights: Tensor = torch.linalg.solve(gram[pairs.image], moment[..., None])
    return weights.view(len(pairs), cells, cells).to(forward.images)


@method(
    source="lundberg2017, theorem 2",
    version=2,
    forwards="shared + 1 + min(2 ** cells ** 2 - 2, samples // 2 * 2)",
    backwards=0,
    cost="each serves all labels of the image",
    rankings_change_with=("cells", "samples", "baseline"),
    criticism="Images with hidden parts are unlike any training image.",
    elsewhere="KernelShap in captum.",
)
def kernel_shap(
    forward: Forward, pairs: Pairs, *, cells: AtLeastTwo = 7, samples: Count = 500, baseline: float = 0.0
) -> Tensor:
    """Shapley values of the superpixels of a grid in the game S_c(x without the rest), by weighted least squares.

    argmin_v sum_i k(z_i) (S_c(x_i) - S_c(b) - z_i · v)^2 subject to sum v = S_c(x) - S_c(b), with the weight of a
    coalition of size s among M: k = (M - 1) / (binom(M, s) s (M - s)). All 2^M - 2 coalitions are taken where
    `samples` allows it, and the values are then exact; else sizes and members are drawn with probability k, each
    coalition with its complement, seeded by (suite seed, sample id). Maps [P, cells, cells], logit units; they sum
    to S_c(x) - S_c(b).
    """
    _check_grid(forward, cells)
    players = cells**2
    if samples < 2 * players:
        raise UsageError(f"kernel_shap needs samples >= 2 cells^2, found {samples} for {cells} cells")
    z, kernel = _coalitions(forward, players, samples)  # [B, N, M], [N]
    with_none = torch.cat([z, torch.zeros_like(z[:, :1])], 1)
    scores = forward.perturbed(
        pairs,
        with_none.shape[1],
        lambda image, index: _grid_kept(forward.images[image], with_none[image, index], cells, baseline),
    ).double()
    z, kernel, nothing = z.double(), kernel.double(), scores[:, -1:]
    gain = scores[:, :-1] - nothing
    everything = forward.logits[pairs.image, pairs.label][:, None] - nothing
    inverse: Tensor = torch.linalg.pinv(einsum("i,bim,bin->bmn", kernel, z, z), hermitian=True)[pairs.image]
    free = einsum("pmn,i,pin,pi->pm", inverse, kernel, z[pairs.image], gain)  # without the constraint
    ones = inverse.sum(2)
    values = free + ones * (everything - free.sum(1, keepdim=True)) / ones.sum(1, keepdim=True)
    return values.view(len(pairs), cells, cells).to(forward.images)


def _check_grid(forward: Forward, cells: int) -> None:
    shorter = min(forward.images.shape[-2:])
    if cells > shorter:
        raise UsageError(f"cells {cells}: at most the image's shorter side ({shorter}) are possible")


def _windows(size: int, window: int, stride: int) -> Tensor:
    """Indicators [n, size] of the windows: 1 where window n lies. Enough windows to reach the border."""
    starts = torch.arange(_number(size, window, stride)) * stride
    position = torch.arange(size)
    return ((position >= starts[:, None]) & (position < starts[:, None] + window)).double()


def _loss(forward: Forward, pairs: Pairs, count: int, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Drops [P, count] of the logit: S_c(x) - S_c(changed x)."""
    return forward.logits[pairs.image, pairs.label][:, None] - forward.perturbed(pairs, count, change)


def _weighted_sum(forward: Forward, pairs: Pairs, weights: Tensor, mask: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Weighted sum [P, H, W] of the masks of each pair's image: sum_i weights[p, i] mask_i, by chunks of masks."""
    total = forward.images.new_zeros((len(pairs), *forward.images.shape[-2:]))
    for row in torch.unique(pairs.image):
        own = pairs.image == row
        for index in torch.split(torch.arange(weights.shape[1], device=row.device), forward.classifier.chunk):
            total[own] += einsum("pi,ihw->phw", weights[own][:, index], mask(row.expand(len(index)), index))
    return total


def _grid_kept(images: Tensor, z: Tensor, cells: int, baseline: float) -> Tensor:
    """Images [n, C, H, W] with the cells of a grid kept where z [n, cells^2] is 1, `baseline` elsewhere."""
    height, width = images.shape[-2:]
    rows, columns = (torch.arange(size, device=images.device) * cells // size for size in (height, width))
    return torch.where(z[:, rows[:, None] * cells + columns][:, None] > 0, images, baseline)


def _coalitions(forward: Forward, players: int, samples: int) -> tuple[Tensor, Tensor]:
    """Draw or list coalitions z [B, N, M] in {0, 1}, and their weights [N]."""
    sizes = torch.arange(1, players).to(forward.images)
    if 2**players - 2 <= samples:
        number = torch.arange(1, 2**players - 1, device=forward.images.device)
        z = (number[:, None] >> torch.arange(players, device=number.device) & 1).to(forward.images)
        binomial = torch.tensor([math.comb(players, s) for s in range(1, players)]).to(forward.images)
        kernel = (players - 1) / (binomial * sizes * (players - sizes))
        return z.expand(len(forward.images), -1, -1), kernel[z.sum(1).long() - 1]
    chance = (1 / (sizes * (players - sizes))).cumsum(0)
    size = torch.searchsorted(chance / chance[-1], forward.draw("kernel_shap/sizes", samples // 2), right=True) + 1
    order = forward.draw("kernel_shap/members", samples // 2, players).argsort(-1).argsort(-1)
    half = (order < size[..., None]).to(forward.images)
    return torch.cat([half, 1 - half], 1), forward.images.new_ones(samples // 2 * 2)
