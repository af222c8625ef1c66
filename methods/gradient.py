"""Gradients of the logit with respect to the input image x [P, C, H, W].

Only methods that read the gradient of the shared pass declare `input_gradients`; the others make passes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from xaibench.core.errors import UsageError
from xaibench.core.registry import method
from xaibench.core.registry.bounds import AtLeastTwo, Count, NotNegative, ProperFraction
from xaibench.forward import Forward, Pairs
from xaibench.forward.noise import noisy

Reduce = Literal["sum", "max", "abs_sum"]


def over_channels(values: Tensor, reduce: Reduce) -> Tensor:
    """Reduce [P, C, H, W] to [P, H, W]: signed sum, largest absolute value, or sum of absolute values."""
    if reduce == "sum":
        return values.sum(1)
    return values.abs().amax(1) if reduce == "max" else values.abs().sum(1)


@method(
    needs=("input_gradients",),
    source="simonyan2014, sec. 3",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("reduce",),
    criticism="It says what would change the logit, not what the logit consists of.",
    elsewhere="Saliency in captum, which keeps |dS_c/dx| of every colour.",
)
def saliency(forward: Forward, pairs: Pairs, *, reduce: Reduce = "max") -> Tensor:
    """Absolute gradient |dS_c/dx|, by default the largest over colours. Maps [P, H, W], logits per unit of input."""
    return over_channels(forward.gradients(pairs, "input"), reduce)


@method(
    needs=("input_gradients",),
    source="shrikumar2016",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("reduce",),
    criticism="Pixels at 0, the mean colour, have no relevance whatever they mean.",
    elsewhere="InputXGradient in captum, which keeps the colours apart.",
)
def input_x_gradient(forward: Forward, pairs: Pairs, *, reduce: Reduce = "sum") -> Tensor:
    """Input times gradient, x dS_c/dx, by default the signed sum over colours. Maps [P, H, W], logit units."""
    return over_channels(forward.images[pairs.image] * forward.gradients(pairs, "input"), reduce)


@method(
    source="smilkov2017",
    forwards="samples",
    backwards="samples * pairs",
    rankings_change_with=("samples", "sigma", "reduce"),
)
def smooth_grad(
    forward: Forward, pairs: Pairs, *, samples: Count = 20, sigma: NotNegative = 0.15, reduce: Reduce = "sum"
) -> Tensor:
    """Mean of dS_c/dx at x + noise, noise normal with standard deviation sigma · (max x - min x) of the image.

    Seeded by (suite seed, sample id), the same for all labels of an image. Maps [P, H, W], logits per unit of input.
    """
    total = torch.zeros((), dtype=forward.images.dtype, device=forward.images.device)
    for gradient in _noisy_gradients(forward, pairs, samples, sigma):
        total = total + gradient
    return over_channels(total / samples, reduce)


@method(
    source="adebayo2018",
    forwards="samples",
    backwards="samples * pairs",
    rankings_change_with=("samples", "sigma", "reduce"),
    criticism="The variance of a gradient has no sign and no unit of the logit.",
)
def var_grad(
    forward: Forward, pairs: Pairs, *, samples: AtLeastTwo = 20, sigma: NotNegative = 0.15, reduce: Reduce = "sum"
) -> Tensor:
    """Variance of dS_c/dx over the noisy images of smooth_grad (divided by n). Maps [P, H, W] >= 0."""
    mean = squares = torch.zeros((), dtype=forward.images.dtype, device=forward.images.device)
    for i, gradient in enumerate(_noisy_gradients(forward, pairs, samples, sigma), 1):
        deviation = gradient - mean
        mean = mean + deviation / i
        squares = squares + deviation * (gradient - mean)  # Welford's update loses no digits to a difference of sums
    return over_channels(squares / samples, reduce)


@method(
    source="xaibench",
    forwards="passes",
    backwards="passes * pairs",
    rankings_change_with=("tiles", "passes", "hide"),
    criticism="Shuffled tiles are unlike any training image.",
)
def accumulated_saliency(
    forward: Forward,
    pairs: Pairs,
    *,
    tiles: Count = 4,
    passes: Count = 10,
    hide: ProperFraction = 0.0,
    reduce: Reduce = "max",
) -> Tensor:
    """Saliency summed over passes on shuffled tiles of the image, so that less discriminative regions count, too.

    In each pass the tiles x tiles tiles of the image are permuted, each is set to 0 (the mean colour) with chance
    `hide`; |dS_c/dx| is taken there and put back where it came from (0 at hidden tiles). Rows and columns left
    over when the side is no multiple of `tiles` stay in place. Seeded by (suite seed, sample id). Maps [P, H, W],
    logits per unit of input.
    """
    height, width = forward.images.shape[-2:]
    if tiles > min(height, width):
        raise UsageError(f"accumulated_saliency needs tiles <= {min(height, width)}")
    total = forward.images.new_zeros((len(pairs), height, width))
    for i in range(passes):
        order = forward.draw(f"accumulated_saliency/{i}", tiles**2).argsort(1)
        shown = forward.draw(f"accumulated_saliency/{i}/hide", tiles**2) >= hide
        source = _pixels_of_tiles(order, tiles, height, width)  # [B, HW]: where a pixel of the shuffled image is from
        visible = _tile_values(shown, tiles, height, width)  # [B, HW], in the untouched image
        intact = (forward.images * visible.view(-1, 1, height, width)).flatten(2)
        shuffled = intact.gather(2, source[:, None].expand_as(intact)).view_as(forward.images)
        gradient = over_channels(forward.at(shuffled).gradients(pairs, "input"), reduce).abs().flatten(1)
        restored = torch.zeros_like(gradient).scatter(1, source[pairs.image], gradient)
        total += (restored * visible[pairs.image]).view_as(total)
    return total


def _noisy_gradients(forward: Forward, pairs: Pairs, samples: int, sigma: float) -> Iterator[Tensor]:
    for i in range(samples):
        yield forward.at(noisy(forward, f"smooth_grad/{i}", sigma)).gradients(pairs, "input")


def _tiles(tiles: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The tile of each pixel [H, W] (0 where no tile reaches) and whether it is in one."""
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    tall, wide = height // tiles, width // tiles
    inside = (y < tall * tiles) & (x < wide * tiles)
    return (y // tall * tiles + x // wide).where(inside, 0), inside


def _pixels_of_tiles(order: Tensor, tiles: int, height: int, width: int) -> Tensor:
    """Pixel [B, HW] that comes to each pixel when tile `order[b, t]` is moved to the place of tile t."""
    y, x = torch.arange(height, device=order.device)[:, None], torch.arange(width, device=order.device)
    tall, wide = height // tiles, width // tiles
    place, inside = _tiles(tiles, height, width, order.device)
    tile = order[:, place]  # [B, H, W]
    source = (tile // tiles * tall + y % tall) * width + tile % tiles * wide + x % wide
    return torch.where(inside, source, y * width + x).flatten(1)


def _tile_values(values: Tensor, tiles: int, height: int, width: int) -> Tensor:
    """Values [B, tiles^2] of tiles as values [B, HW] of pixels, 1 where no tile reaches."""
    place, inside = _tiles(tiles, height, width, values.device)
    return torch.where(inside, values[:, place], 1).flatten(1)
