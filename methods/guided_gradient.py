"""Gradients of the logit with respect to the input image under other rules of backpropagation at ReLUs and pools."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaibench.core.errors import IncompatibleError
from xaibench.core.registry import method
from xaibench.forward import Forward, Pairs
from xaibench.forward.propagation.backward_rules import (
    BackwardRule,
    every,
    positive_gradient,
    with_backward_rules,
    with_gradient_of,
)
from xaibench.methods.cam import grad_cam
from xaibench.methods.gradient import Reduce, over_channels


@method(
    needs=("relu",),
    source="springenberg2015",
    forwards=1,
    backwards="pairs",
    rankings_change_with=("reduce",),
    criticism="The map hardly depends on the upper layers and on the label (adebayo2018): read `mprt` and "
    "`random_logit`.",
    elsewhere="GuidedBackprop in captum, with the same limit; GuidedBackpropReLU in pytorch-grad-cam.",
)
def guided_backprop(forward: Forward, pairs: Pairs, *, reduce: Reduce = "sum") -> Tensor:
    """Gradient dS_c/dx where every ReLU passes back only positive gradients of active units: relu(g) · [x > 0].

    Every nn.ReLU module; a ReLU that is called as a function stays plain. Maps [P, H, W].
    """
    return over_channels(_guided(forward, pairs), reduce)


@method(
    needs=("relu",),
    source="zeiler2014",
    forwards=1,
    backwards="pairs",
    rankings_change_with=("reduce",),
    criticism="The map hardly depends on the upper layers and on the label (adebayo2018): read `mprt` and "
    "`random_logit`.",
    elsewhere="Deconvolution in captum, which rewrites nn.ReLU modules only, too.",
)
def deconvolution(forward: Forward, pairs: Pairs, *, reduce: Reduce = "sum") -> Tensor:
    """Gradient dS_c/dx where every nn.ReLU passes back relu(g), whether the unit was active or not. Maps [P, H, W]."""

    def rule(_: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        return with_gradient_of(output, positive_gradient(x))

    return over_channels(_by_rule(forward, pairs, rule), reduce)


@method(
    needs=("features", "gradients", "relu"),
    source="selvaraju2017; captum",
    forwards="shared + 1",
    backwards="(shared + 1) * pairs",
    rankings_change_with=("layer", "reduce"),
    criticism="Its details are those of guided_backprop, which hardly depend on the label.",
    elsewhere="GuidedGradCam in captum, the same.",
)
def guided_grad_cam(forward: Forward, pairs: Pairs, *, layer: str = "last", reduce: Reduce = "sum") -> Tensor:
    """Product of guided_backprop and relu(grad_cam) enlarged to the image (nearest, as captum). Maps [P, H, W]."""
    region = F.interpolate(grad_cam(forward, pairs, layer=layer).relu()[:, None], forward.images.shape[-2:])
    return over_channels(_guided(forward, pairs) * region, reduce)


@method(
    needs=("relu",),
    source="shrikumar2017, rescale rule",
    forwards=2,
    backwards="2 * pairs",
    rankings_change_with=("baseline", "reduce"),
    criticism="Pixels equal to the baseline have no relevance whatever they mean.",
    elsewhere="DeepLift in captum gives the same but for two kinds of pools, where its maps do not sum up: those that "
    "follow a ReLU directly (it passes the plain gradient) and those that overlap (a position gets relevance from one "
    "of its windows only).",
)
def deep_lift(forward: Forward, pairs: Pairs, *, baseline: float = 0.0, reduce: Reduce = "sum") -> Tensor:
    """Difference to a baseline times multiplier, (x - b) · m; m is a gradient, but with Δout / Δin for every ReLU.

    Δ = activation at x minus activation at b. Across max-pooling the difference of the maxima goes to the positions
    that hold them. Only nn.ReLU and nn.MaxPool2d modules get other gradients; with these the map sums to S_c(x) - S_c(b).
    Maps [P, H, W], logit units.
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
    per_unit = (x * (1 / change).where(change != 0, 0)).flatten(2)  # equal activations get nothing
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
