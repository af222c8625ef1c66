"""Gradients of the logit with respect to the input image x [P, C, H, W].

Only methods that read the gradient of the shared pass declare `input_gradients`; the others make passes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.core.registry import method
from xaibench.core.registry.bounds import AtLeastTwo, Count, NotNegative, ProperFraction
from xaibench.forward import Forward, Pairs
from xaibench.forward.propagation.backward_rules import (
    BackwardRule,
    every,
    positive_gradient,
    with_backward_rules,
    with_gradient_of,
)
from xaibench.methods.cam import grad_cam

Reduce = Literal["sum", "max", "abs_sum"]


def over_channels(values: Tensor, reduce: Reduce) -> Tensor:
    """[P, C, H, W] to [P, H, W]: signed sum, largest absolute value, or sum of absolute values."""
    if reduce == "sum":
        return values.sum(1)
    return values.abs().amax(1) if reduce == "max" else values.abs().sum(1)


@method(needs=("input_gradients",), source="simonyan2014, sec. 3", cost="1 forward, 1 backward per label")
def saliency(forward: Forward, pairs: Pairs, *, reduce: Reduce = "max") -> Tensor:
    """|dS_c/dx|, by default the largest over colours. Maps [P, H, W], logits per unit of model input.

    Elsewhere: Saliency in captum, which keeps |dS_c/dx| of every colour.
    """
    return over_channels(forward.gradients(pairs, "input"), reduce)


@method(needs=("input_gradients",), source="shrikumar2016", cost="1 forward, 1 backward per label")
def input_x_gradient(forward: Forward, pairs: Pairs, *, reduce: Reduce = "sum") -> Tensor:
    """x dS_c/dx, by default the signed sum over colours. Maps [P, H, W], logit units.

    Elsewhere: InputXGradient in captum, which keeps the colours apart.
    """
    return over_channels(forward.images[pairs.image] * forward.gradients(pairs, "input"), reduce)


# -- along a path ---------------------------------------------------------------------------------------------------


@method(source="sundararajan2017", cost="steps x (1 forward, 1 backward per label)")
def integrated_gradients(
    forward: Forward, pairs: Pairs, *, steps: Count = 20, baseline: float = 0.0, reduce: Reduce = "sum"
) -> Tensor:
    """(x - b) · integral_0^1 dS_c/dx(b + t (x - b)) dt, by Gauss-Legendre quadrature with `steps` nodes (as captum).

    `baseline` b is one value for all pixels in units of the model's input (0: the mean colour). Maps [P, H, W], logit
    units; they sum to S_c(x) - S_c(b) as steps grow.

    Elsewhere: IntegratedGradients in captum, which keeps the colours apart.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    path = forward.images - baseline
    integral = torch.zeros((), dtype=path.dtype, device=path.device)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        integral = integral + weight / 2 * forward.at(baseline + (1 + node) / 2 * path).gradients(pairs, "input")
    return over_channels(path[pairs.image] * integral, reduce)


@method(source="lundberg2017; captum", cost="samples x (1 forward, 1 backward per label)")
def gradient_shap(
    forward: Forward,
    pairs: Pairs,
    *,
    samples: Count = 20,
    sigma: NotNegative = 0.1,
    baseline: float = 0.0,
    reduce: Reduce = "sum",
) -> Tensor:
    """Mean over samples of (x' - b) · dS_c/dx(b + t (x' - b)), x' = x + noise as in smooth_grad, t uniform in [0, 1).

    Seeded by (suite seed, sample id). Maps [P, H, W], logit units.

    Elsewhere: GradientShap in captum.
    """
    total = torch.zeros((), dtype=forward.images.dtype, device=forward.images.device)
    for i in range(samples):
        path = _noisy(forward, f"gradient_shap/{i}", sigma) - baseline
        t = forward.draw(f"gradient_shap/{i}/t", 1, 1, 1)
        total = total + path[pairs.image] * forward.at(baseline + t * path).gradients(pairs, "input")
    return over_channels(total / samples, reduce)


@method(source="erion2021", cost="samples x (1 forward, 1 backward per label)")
def expected_gradients(forward: Forward, pairs: Pairs, *, samples: Count = 20, reduce: Reduce = "sum") -> Tensor:
    """Mean over baselines b of (x - b) · dS_c/dx(b + t (x - b)), t uniform in [0, 1).

    The paper draws b from the training data. A batch has none, and other samples of the batch must not matter, so b is
    drawn from what normalised training data has pixel by pixel: mean 0 and variance 1, independent. Seeded by (suite
    seed, sample id). Maps [P, H, W], logit units.
    """
    total = torch.zeros((), dtype=forward.images.dtype, device=forward.images.device)
    for i in range(samples):
        b = forward.draw(f"expected_gradients/{i}", *forward.images.shape[1:], kind="normal")
        path, t = forward.images - b, forward.draw(f"expected_gradients/{i}/t", 1, 1, 1)
        total = total + path[pairs.image] * forward.at(b + t * path).gradients(pairs, "input")
    return over_channels(total / samples, reduce)


# -- around the image -----------------------------------------------------------------------------------------------


@method(source="smilkov2017", cost="samples x (1 forward, 1 backward per label)")
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


@method(source="adebayo2018", cost="samples x (1 forward, 1 backward per label)")
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


@method(source="xaibench", cost="passes x (1 forward, 1 backward per label)")
def accumulated_saliency(
    forward: Forward,
    pairs: Pairs,
    *,
    tiles: Count = 4,
    passes: Count = 10,
    hide: ProperFraction = 0.0,
    reduce: Reduce = "max",
) -> Tensor:
    """Saliency summed over passes that break the image's structure, so that less discriminative regions are looked at.

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


# -- by other rules of backpropagation ------------------------------------------------------------------------------


@method(needs=("relu",), source="springenberg2015", cost="1 forward, 1 backward per label")
def guided_backprop(forward: Forward, pairs: Pairs, *, reduce: Reduce = "sum") -> Tensor:
    """dS_c/dx where every ReLU passes back only positive gradients of active units: relu(g) · [x > 0].

    Every nn.ReLU module; a ReLU that is called as a function stays plain. Maps [P, H, W].

    Elsewhere: GuidedBackprop in captum, with the same limit; GuidedBackpropReLU in pytorch-grad-cam.
    """
    return over_channels(_guided(forward, pairs), reduce)


@method(needs=("relu",), source="zeiler2014", cost="1 forward, 1 backward per label")
def deconvolution(forward: Forward, pairs: Pairs, *, reduce: Reduce = "sum") -> Tensor:
    """dS_c/dx where every nn.ReLU passes back relu(g), whether the unit was active or not. Maps [P, H, W].

    Elsewhere: Deconvolution in captum, which rewrites nn.ReLU modules only, too.
    """

    def rule(_: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        return with_gradient_of(output, positive_gradient(x))

    return over_channels(_by_rule(forward, pairs, rule), reduce)


@method(
    needs=("features", "gradients", "relu"),
    source="selvaraju2017; captum",
    cost="2 forwards, 1 backward per label",
)
def guided_grad_cam(forward: Forward, pairs: Pairs, *, layer: str = "last", reduce: Reduce = "sum") -> Tensor:
    """guided_backprop times relu(grad_cam) enlarged to the image (nearest, as captum). Maps [P, H, W].

    Elsewhere: GuidedGradCam in captum, the same.
    """
    region = F.interpolate(grad_cam(forward, pairs, layer=layer).relu()[:, None], forward.images.shape[-2:])
    return over_channels(_guided(forward, pairs) * region, reduce)


@method(
    needs=("relu",),
    source="shrikumar2017, rescale rule",
    cost="2 forwards, 1 backward of two images per label",
)
def deep_lift(forward: Forward, pairs: Pairs, *, baseline: float = 0.0, reduce: Reduce = "sum") -> Tensor:
    """(x - b) · m, with the multiplier m carried back like a gradient, but across a ReLU by the factor Δout / Δin.

    Δ = activation at x minus activation at b. Across max-pooling the difference of the maxima goes to the positions
    that hold them. Only nn.ReLU and nn.MaxPool2d modules get other gradients; with these the map sums to S_c(x) - S_c(b).
    captum gives the same but for two kinds of pools, where its maps do not sum up: those that follow a ReLU directly
    (it passes the plain gradient) and those that overlap (a position is paid by one of its windows only). Maps
    [P, H, W], logit units.
    """
    images = forward.images
    both = torch.cat([images, torch.full_like(images, baseline)])
    rules = every(forward.classifier.module, {nn.ReLU: _rescale, nn.MaxPool2d: _rescale_pool})
    with with_backward_rules(forward.classifier.module, rules):
        rows = torch.arange(len(images), device=images.device).repeat(2)
        multiplier = forward.at(both, rows=rows).gradients(pairs, "input")
    return over_channels((images - baseline)[pairs.image] * multiplier, reduce)


NEARLY_EQUAL = 1e-10  # activations at x and b closer than this pass the plain gradient, as in captum


def _rescale(_: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    change_in, change_out = _change(x.detach()), _change(output.detach())
    equal = change_in.abs() < NEARLY_EQUAL
    slope = (change_out / change_in).where(~equal, 0)
    return torch.where(equal, output, with_gradient_of(output, x * slope))


def _rescale_pool(module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    if type(module) is not nn.MaxPool2d:
        raise IncompatibleError(f"deep_lift has no rule for {type(module).__name__}")
    value = x.detach()
    _, position = F.max_pool2d(
        value, module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode, return_indices=True
    )
    change = _change(value)
    per_unit = (x * (1 / change).where(change != 0, 0)).flatten(2)  # equal activations owe nothing
    at_x, at_b = position.flatten(2).chunk(2)
    out_x, out_b = output.detach().chunk(2)
    highest = torch.maximum(out_x, out_b)
    carried = [
        (half.gather(2, at_x) * (highest - out_b).flatten(2) + half.gather(2, at_b) * (out_x - highest).flatten(2))
        for half in per_unit.chunk(2)
    ]
    return with_gradient_of(output, torch.cat(carried).view_as(output))


def _change(both: Tensor) -> Tensor:
    """Activation at x minus at the baseline, for both halves of the batch."""
    at_x, at_b = both.chunk(2)
    return (at_x - at_b).repeat(2, *[1] * (both.ndim - 1))


def _guided(forward: Forward, pairs: Pairs) -> Tensor:
    return _by_rule(forward, pairs, lambda _, __, output: positive_gradient(output))


def _by_rule(forward: Forward, pairs: Pairs, rule: BackwardRule) -> Tensor:
    """Input gradients [P, C, H, W] with another rule at every nn.ReLU."""
    module = forward.classifier.module
    with with_backward_rules(module, every(module, {nn.ReLU: rule})):
        return forward.at(forward.images).gradients(pairs, "input")


def _noisy(forward: Forward, name: str, sigma: float) -> Tensor:
    """[B, C, H, W]: the images plus noise, relative to the range of each."""
    images = forward.images
    span = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
    return images + sigma * span * forward.draw(name, *images.shape[1:], kind="normal")


def _noisy_gradients(forward: Forward, pairs: Pairs, samples: int, sigma: float) -> Iterator[Tensor]:
    for i in range(samples):
        yield forward.at(_noisy(forward, f"smooth_grad/{i}", sigma)).gradients(pairs, "input")


def _tiles(tiles: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The tile of each pixel [H, W] (0 where no tile reaches) and whether it is in one."""
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    tall, wide = height // tiles, width // tiles
    inside = (y < tall * tiles) & (x < wide * tiles)
    return (y // tall * tiles + x // wide).where(inside, 0), inside


def _pixels_of_tiles(order: Tensor, tiles: int, height: int, width: int) -> Tensor:
    """[B, HW]: the pixel that lands on each pixel when tile `order[b, t]` is put in the place of tile t."""
    y, x = torch.arange(height, device=order.device)[:, None], torch.arange(width, device=order.device)
    tall, wide = height // tiles, width // tiles
    place, inside = _tiles(tiles, height, width, order.device)
    tile = order[:, place]  # [B, H, W]
    source = (tile // tiles * tall + y % tall) * width + tile % tiles * wide + x % wide
    return torch.where(inside, source, y * width + x).flatten(1)


def _tile_values(values: Tensor, tiles: int, height: int, width: int) -> Tensor:
    """[B, tiles^2] as [B, HW], 1 where no tile reaches."""
    place, inside = _tiles(tiles, height, width, values.device)
    return torch.where(inside, values[:, place], 1).flatten(1)
