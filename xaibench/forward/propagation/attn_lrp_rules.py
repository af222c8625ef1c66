"""Relevance propagation as a backward pass: forward hooks that keep every value and change the gradients.

A hook returns its layer's output with the gradient of another function of the layer's input. Input times the gradient
that then comes out is the relevance under these rules; it starts at the logit. A layer without a hook passes relevance
on by its own gradient, which for a linear layer is the epsilon rule at epsilon = 0, the bias keeping its share.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaibench.core.errors import IncompatibleError
from xaibench.forward import Forward, Hook
from xaibench.forward.propagation.backward_rules import with_gradient_of

Rule = Literal["epsilon", "gamma"]
STABILISER = 1e-6  # of the gamma rule, sign-aware
SECANT = 1e-10  # of the identity rule


def linear_norm(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """LayerNorm or RMSNorm as a linear map: the standard deviation is a constant, the mean is not."""
    x, eps = args[0], getattr(module, "eps", None)
    if isinstance(module, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    scaled = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt().detach()
    weight = getattr(module, "weight", None)
    return with_gradient_of(output, scaled if weight is None else scaled * weight)


def secant(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """An elementwise function as x · (output / x): its relevance passes unchanged."""
    return with_gradient_of(output, args[0] * (output / (args[0] + SECANT)).detach())


def scaled_qkv(query: float, key: float, value: float) -> Hook:
    """Gradients of queries, keys and values, each scaled by a number, at the projection that makes all three."""

    def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        factors = output.new_tensor((query, key, value)).repeat_interleave(output.shape[-1] // 3)
        return with_gradient_of(output, output * factors)

    return hook


def gamma_rule(gamma: float) -> Hook:
    """The generalised gamma rule of a linear or convolutional layer, its bias in the denominator.

    W↑ = W + gamma W+, W↓ = W + gamma W-, b likewise. Where the output y > 0: Z = x+ W↑ + x- W↓ + b↑ and
    R_in = (x+ W↑ + x- W↓) R / Z; where y < 0 with ↑ and ↓ exchanged; nothing passes where y = 0.
    """

    def grown(parameter: Tensor | None, upwards: bool) -> Tensor | None:
        if parameter is None:
            return None
        part = parameter.clamp(min=0) if upwards else parameter.clamp(max=0)
        return (parameter + gamma * part).detach()

    def apply(module: Any, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        return module._conv_forward(x, weight, bias) if isinstance(module, nn.Conv2d) else F.linear(x, weight, bias)

    def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        positive, negative = args[0].relu(), -(-args[0]).relu()
        y = output.detach()
        total = torch.zeros_like(y)
        for upwards in (True, False):
            one, other = grown(module.weight, upwards), grown(module.weight, not upwards)
            z = apply(module, positive, one, grown(module.bias, upwards)) + apply(module, negative, other, None)
            below = z.detach() + (STABILISER if upwards else -STABILISER)  # Z has the sign of y where it is used
            total = total + z * (y / below).where(y > 0 if upwards else y < 0, 0)
        return with_gradient_of(output, total)

    return hook


def relevance_hooks(
    forward: Forward, *, query: float, key: float, value: float, rule: Rule, gamma: float, conv_gamma: float
) -> dict[str, Hook]:
    """Hooks of AttnLRP and CP-LRP for timm's plain transformers, by module name.

    Args:
        query, key, value: what the gradients of the attention's inputs are multiplied with
        rule: of linear layers and the patch embedding

    Raises:
        IncompatibleError: a block normalises with something else than LayerNorm or RMSNorm
    """
    from timm.layers import RmsNorm

    module: Any = forward.classifier.module
    norms = (nn.LayerNorm, nn.RMSNorm, RmsNorm)
    for block in module.blocks:
        unknown = [type(norm).__name__ for norm in (block.norm1, block.norm2) if not isinstance(norm, norms)]
        if unknown:
            raise IncompatibleError(
                f"model {forward.classifier.name}: {unknown[0]} has no rule here (LayerNorm and RMSNorm have)"
            )
    hooks: dict[str, Hook] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, norms):
            hooks[name] = linear_norm
        elif rule == "gamma" and isinstance(layer, nn.Linear):
            hooks[name] = gamma_rule(gamma)
        elif rule == "gamma" and name == "patch_embed.proj" and isinstance(layer, nn.Conv2d):
            hooks[name] = gamma_rule(conv_gamma)
    for index in range(len(module.blocks)):
        hooks[f"blocks.{index}.mlp.act"] = secant
        qkv = f"blocks.{index}.attn.qkv"
        hooks[qkv] = _after(hooks.get(qkv), scaled_qkv(query, key, value))
    return hooks


def _after(first: Hook | None, second: Hook) -> Hook:
    if first is None:
        return second
    before = first
    return lambda module, args, output: second(module, args, before(module, args, output))
