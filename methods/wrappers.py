"""Methods of methods: maps of other views of the image by any registered method.

`base` is the name of a registered method, `options` its parameters. What it needs of the model is checked when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xaibench.core.errors import UsageError
from xaibench.core.registry import bound_method, method
from xaibench.core.registry.bounds import Count, NotNegative, Positive
from xaibench.forward import Forward, Pairs
from xaibench.forward.explainer import Explainer
from xaibench.forward.noise import noisy
from xaibench.models.capabilities import require

Explain = Callable[[Tensor, Pairs, Tensor], Tensor]
RENAMED = {"method": "base"}


@method(
    needs=("any_size",),
    source="ahn2019, make_cam",
    renamed=RENAMED,
    forwards="len(scales) * (1 + flip) * method_forwards",
    backwards="len(scales) * (1 + flip) * method_backwards",
    cost="`method` is `base`; views are counted as if they had the image's size",
    rankings_change_with=("base", "scales", "flip"),
    criticism="What speaks against the label is cut off in every view.",
    elsewhere="pytorch-grad-cam has aug_smooth (6 views), keras-explainable a tta that divides by 2 scales, though "
    "the image itself adds one more pair of views.",
)
def tta(
    forward: Forward,
    pairs: Pairs,
    *,
    base: str = "grad_cam",
    options: Mapping[str, Any] | None = None,
    scales: Sequence[Positive] = (0.5, 1.0, 1.5, 2.0),
    flip: bool = True,
    stride: Count = 4,
) -> Tensor:
    """Sum over scales, and over the image and its mirror image, of relu(map), each resized to one grid.

    The grid has a cell every `stride` pixels, ((H - 1) // stride + 1) rows, and maps reach it bilinearly
    (align_corners = False). Images are rescaled bicubically with antialiasing, as the original does before it
    normalises. The ReLU is the original's: views add up what speaks for the label. Maps [P, h, w] >= 0.
    """
    if not scales:
        raise UsageError("tta needs at least one of scales")
    explain = _inner(forward, base, options)
    height, width = forward.images.shape[-2:]
    rows = torch.arange(len(forward.images), device=forward.images.device)
    grid = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    total = forward.images.new_zeros((len(pairs), *grid))
    for scale in scales:
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        view = forward.images
        if size != (height, width):
            view = F.interpolate(view, size, mode="bicubic", antialias=True, align_corners=False)
        maps = explain(view, pairs, rows).relu()
        if flip:
            maps = maps + explain(view.flip(-1), pairs, rows).relu().flip(-1)
        total += F.interpolate(maps[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
    return total


@method(
    needs=("any_size",),
    source="jo2021",
    renamed=RENAMED,
    forwards="tiles ** 2 * method_forwards",
    backwards="tiles ** 2 * method_backwards",
    cost="`method` is `base`; passes of tiles, which are smaller than the image",
    rankings_change_with=("base", "tiles"),
    criticism="A tile without the object is explained for its label all the same.",
    elsewhere="In jo2021 maps of tiles train a model (Puzzle-CAM); its own maps are plain CAMs.",
)
def puzzle(
    forward: Forward,
    pairs: Pairs,
    *,
    base: str = "grad_cam",
    options: Mapping[str, Any] | None = None,
    tiles: Count = 2,
) -> Tensor:
    """Maps of the tiles x tiles tiles of the image, each explained by itself for the pair's label, merged again.

    An image whose sides are no multiples of `tiles` is first resized (bilinear) to the nearest that are. Raw maps
    [P, tiles h, tiles w], h x w being the method's map of one tile.
    """
    images = forward.images
    count, _, height, width = images.shape
    if tiles > min(height, width):
        raise UsageError(f"tiles {tiles}: at most the image's shorter side ({min(height, width)}) are possible")
    size = (round(height / tiles) * tiles, round(width / tiles) * tiles)
    if size != (height, width):
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
    pieces = cut(images, tiles)
    rows = torch.arange(count, device=images.device).repeat(tiles**2)
    tile = torch.arange(tiles**2, device=images.device).repeat_interleave(len(pairs))
    every = Pairs(tile * count + pairs.image.repeat(tiles**2), pairs.label.repeat(tiles**2))
    return merge(_inner(forward, base, options)(pieces, every, rows)[:, None], tiles)[:, 0]


@method(
    source="smilkov2017, for any method",
    renamed=RENAMED,
    forwards="samples * method_forwards",
    backwards="samples * method_backwards",
    cost="`method` is `base`",
    rankings_change_with=("base", "samples", "sigma"),
    elsewhere="keras-explainable has it as smooth.",
)
def smooth(
    forward: Forward,
    pairs: Pairs,
    *,
    base: str = "grad_cam",
    options: Mapping[str, Any] | None = None,
    samples: Count = 10,
    sigma: NotNegative = 0.15,
) -> Tensor:
    """Mean of the method's maps at x + noise, noise normal with standard deviation sigma · (max x - min x).

    Seeded by (suite seed, sample id). Raw maps [P, h, w] in the method's units.
    """
    explain, images = _inner(forward, base, options), forward.images
    rows = torch.arange(len(images), device=images.device)
    total = torch.zeros((), dtype=images.dtype, device=images.device)
    for i in range(samples):
        total = total + explain(noisy(forward, f"smooth/{i}", sigma), pairs, rows)
    return total / samples


def cut(images: Tensor, tiles: int) -> Tensor:
    """Cut [B, C, H, W] into [tiles^2 B, C, H / tiles, W / tiles]: the first tile of all images, then the second ..."""
    count, channels, height, width = images.shape
    grid = images.view(count, channels, tiles, height // tiles, tiles, width // tiles)
    return grid.permute(2, 4, 0, 1, 3, 5).reshape(-1, channels, height // tiles, width // tiles)


def merge(pieces: Tensor, tiles: int) -> Tensor:
    """Put tiles together again; the inverse of `cut`."""
    _, channels, height, width = pieces.shape
    grid = pieces.view(tiles, tiles, len(pieces) // tiles**2, channels, height, width)
    return grid.permute(2, 3, 0, 4, 1, 5).reshape(-1, channels, tiles * height, tiles * width)


def _inner(forward: Forward, name: str, options: Mapping[str, Any] | None) -> Explain:
    """Method `name` as a function of (images, pairs of them, the row of `forward` that each image comes from)."""
    explainer = Explainer(bound_method(name, options or {}))
    require(forward.classifier, explainer.method.entry, no_masks="other views of an image lack")

    def explain(images: Tensor, pairs: Pairs, rows: Tensor) -> Tensor:
        return explainer(forward.at(images, rows=rows), pairs)

    return explain
