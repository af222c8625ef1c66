"""VGatt and FullGrad: a logit as value times gradient plus what biases contribute."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, einsum, nn
from torch.nn import functional as F

from xaibench.core.registry import method
from xaibench.core.value_range import min_max
from xaibench.forward import Forward, Pairs, Plan
from xaibench.models.structure import batch_norm_affine, stages


@method(
    needs=("features", "gradients"),
    source="chen2020",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("layer",),
    criticism="What the biases above the cut contribute is in no pixel: `bias_ratio` measures it.",
)
def vgatt(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Activation times gradient, summed over channels, at any cut of the network: sum_k A_k g_k.

    The map sums to S_c minus a bias term that the layers above the cut contribute. At "input" it is input x gradient
    summed over colours, at a convolution HiResCAM; it is the same before and after a ReLU. Raw maps [P, h, w], logit
    units.

    The bias term and its share of the logit, from the input to the last layer, as a table and a plot:
    `xaibench explain IMAGE --model NAME --method vgatt --layers all -o shares.png`.
    """
    return einsum("pkhw,pkhw->phw", forward.features(layer)[pairs.image], forward.gradients(pairs, layer))


def vgatt_bias(forward: Forward, pairs: Pairs, layer: str = "last") -> tuple[Tensor, Tensor]:
    """Bias term of the map of `vgatt`, and its share: b = S_c - sum M [P] and |b| / |S_c| [P].

    The share is NaN where the logit is 0.
    """
    logit = forward.logits[pairs.image, pairs.label]
    bias = logit - vgatt(forward, pairs, layer=layer).sum((1, 2))
    return bias, (bias.abs() / logit.abs()).where(logit != 0, torch.nan)


def vgatt_bias_by_layer(forward: Forward, pairs: Pairs) -> dict[str, tuple[Tensor, Tensor]]:
    """Bias terms of `vgatt` at every stage of the network (see `stages`), from the input on; one forward pass for all.

    In a transformer the map leaves out prefix tokens such as the class token, so their part of the logit counts as bias.
    """
    classifier = forward.classifier
    layers = stages(classifier.module, classifier.structure.target_layer, forward.images)
    forward.expect(Plan(features=frozenset(layers[1:]), gradients=frozenset(layers)))
    return {layer: vgatt_bias(forward, pairs, layer) for layer in layers}


@method(
    needs=("relu",),
    source="srinivas2019; idiap/fullgrad-saliency",
    forwards=1,
    backwards="pairs",
    rankings_change_with=("variant",),
    criticism="Absolute values and a min-max of every layer: neither sign nor size of a contribution is left.",
    elsewhere="FullGrad in pytorch-grad-cam min-maxes each channel by itself and so makes another map, and finds "
    "batch normalisations by exact type, which timm's BatchNormAct2d is not. full_gradients in keras-explainable also "
    "min-maxes each channel, takes means over channels, and the gradient of the sum of all logits asked for.",
)
def full_grad(forward: Forward, pairs: Pairs, *, variant: Literal["original", "simple"] = "original") -> Tensor:
    """Input x gradient plus bias x gradient of every layer: psi(x g_x) + sum_l sum_k psi(b_l g_l).

    g_l: gradient at the output of the convolutions and batch normalisations that have a bias, b_l: that bias (of a
    normalisation beta - mean gamma / sqrt(var + eps)). psi: absolute values, min-max over all channels of the map
    (with 1e-6 in the denominator), summed over channels, resized bilinearly with align_corners = True. `variant`
    simple leaves the factor b_l out. Before psi, all terms and the biases of linear layers sum to S_c (see
    `full_grad_terms`). Maps [P, H, W] >= 0.
    """
    biases = _biases(forward)
    size = forward.images.shape[-2:]
    maps = forward.images.new_zeros((len(pairs), *size))
    twin = forward.at(forward.images, plan=Plan(gradients=frozenset({"input", *biases})))
    for rows, gradients in twin.each_gradient(pairs, ["input", *biases]):
        maps[rows] = _psi(forward.images[pairs.image[rows]] * gradients["input"])[:, 0]
        for layer, bias in biases.items():
            term = gradients[layer] * (bias[:, None, None] if variant == "original" else 1)
            maps[rows] += F.interpolate(_psi(term), size, mode="bilinear", align_corners=True)[:, 0]
    return maps


def full_grad_terms(forward: Forward, pairs: Pairs) -> Tensor:
    """Sums [P] of x · g_x + sum_l b_l · g_l: the logit, but for the biases of linear layers (the head's among them)."""
    biases = _biases(forward)
    terms = forward.images.new_zeros(len(pairs))
    twin = forward.at(forward.images, plan=Plan(gradients=frozenset({"input", *biases})))
    for rows, gradients in twin.each_gradient(pairs, ["input", *biases]):
        terms[rows] = (forward.images[pairs.image[rows]] * gradients["input"]).sum((1, 2, 3))
        for layer, bias in biases.items():
            terms[rows] += einsum("pkhw,k->p", gradients[layer], bias)
    return terms


def _biases(forward: Forward) -> dict[str, Tensor]:
    """Bias [K] of each convolution and batch normalisation that has one, by the name of the module that puts it out."""
    biases: dict[str, Tensor] = {}
    for name, module in forward.classifier.module.named_modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            biases[name] = module.bias.detach()
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            # timm's normalisation with an activation of its own: its output is that of the inner `drop`
            owner = f"{name}.drop" if isinstance(getattr(module, "drop", None), nn.Module) else name
            _, biases[owner] = batch_norm_affine(module)
    return biases


def _psi(term: Tensor) -> Tensor:
    """Absolute values [n, K, h, w], min-max over channels and positions, summed over channels to [n, 1, h, w]."""
    return min_max(term.abs(), (1, 2, 3), epsilon=1e-6).sum(1, keepdim=True)
