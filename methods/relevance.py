"""Layer-wise relevance propagation for convolutional networks, as gradients of a pass with other backward rules.

Relevance is R = a · m, a an activation and m its multiplier; at the logit m = 1. A layer with a rule computes m of its
input from m of its output. Everything else passes m back like a gradient, which IS the epsilon rule with eps = 0 for
additions, means and averages, the identity for a ReLU, and winner-takes-all for a maximum: residual nets need no module
for their additions, and identities no rule.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaibench.core.errors import IncompatibleError
from xaibench.core.registry import method
from xaibench.core.registry.bounds import NotNegative, OneOrMore
from xaibench.forward import Forward, Pairs
from xaibench.forward.propagation.backward_rules import (
    BackwardRule,
    batch_norms_after_convolutions,
    with_backward_rules,
    with_gradient_of,
)
from xaibench.models.structure import batch_norm_affine

Bias = Literal["weight", "kept"]
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # of the largest logit: the pass with rules rounds differently


@method(
    needs=("relu",),
    source="bach2015, eq. 58 and 60; montavon2019",
    forwards="shared + 1",
    backwards="pairs",
    cost="convolutions compute their rules beside the pass",
    rankings_change_with=("rule", "first", "bias", "eps"),
    criticism="One rule for all convolutions: composites of rules by depth, as zennit has them, are what is used in "
    "practice.",
    elsewhere="LRP in captum, which has the epsilon rule (1e-9) everywhere by default, leaves biases as they are, "
    "fails on nn.Identity, and passes relevance through means and additions that are called as functions as if it "
    "were a gradient.",
)
def lrp(
    forward: Forward,
    pairs: Pairs,
    *,
    rule: Literal["epsilon", "z_plus", "gamma", "alpha_beta"] = "z_plus",
    first: Literal["epsilon", "same"] = "epsilon",
    eps: NotNegative = 1e-6,
    gamma: NotNegative = 0.25,
    alpha: OneOrMore = 2.0,
    bias: Bias = "weight",
    layer: str = "input",
) -> Tensor:
    """Relevance of the logit, propagated back: R_j = sum_k share_jk R_k with sum_j share_jk = 1 but for biases.

    At convolutions, with w of the convolution and its batch normalisation merged (for this pass only):
    epsilon: share = a_j w_jk / z_k; z_plus: a_j w+ / sum a w+; gamma: a_j (w + gamma w±) / sum a (w + gamma w±), the
    sign that of z_k (the paper, which has only z_k > 0, has +); alpha_beta: alpha (a_j w_jk)+ / sum (a w)+
    - (alpha - 1) (a_j w_jk)- / sum (a w)-. Denominators get eps of their own sign. Where no product has the sign that
    is shared out, z_plus and alpha_beta lose that share. z_plus and gamma are made for a >= 0, which pixels are not:
    `first` is the rule of the first convolution. Linear layers have the epsilon rule. A bias takes its share, as the
    weight of a neuron that is 1 (`bias` weight); `bias` kept leaves it as it is in the denominators of z_plus and
    gamma (captum).

    Convolutions that transform their weights, and normalisations that follow no convolution, pass m back as it is. The
    sum of the map at any `layer` is S_c less what biases took. Maps [P, h, w], logit units.
    """
    classifier = forward.classifier
    norms, convolutions = batch_norms_after_convolutions(classifier.module, forward.images[:1])
    rules: dict[nn.Module, BackwardRule] = dict.fromkeys(norms.values(), _passed)
    for index, module in enumerate(convolutions):
        own = "epsilon" if index == 0 and first == "epsilon" else rule
        rules[module] = _Rule(own, eps, gamma, alpha, bias, norms.get(module))
    for module in classifier.module.modules():
        if type(module) is nn.Linear:
            rules[module] = _Rule("epsilon", eps, gamma, alpha, bias, None)
    twin = forward.at(forward.images)
    with with_backward_rules(classifier.module, rules):
        multiplier = twin.gradients(pairs, layer)
    deviation = (twin.logits - forward.logits).abs().max()
    if not deviation <= TOLERANCE.get(forward.images.dtype, 0.1) * forward.logits.abs().max().clamp(min=1):
        raise IncompatibleError(
            f"model {classifier.name}: its batch normalisations cannot be merged into its convolutions "
            f"(logits change by {float(deviation):.2g}), which lrp needs"
        )
    return (twin.features(layer)[pairs.image] * multiplier).sum(1)


class _Rule:
    """Backward rule of one convolution or linear layer, with its batch normalisation merged into it."""

    def __init__(
        self, name: str, eps: float, gamma: float, alpha: float, bias: Bias, norm: nn.BatchNorm2d | None
    ) -> None:
        self.name, self.eps, self.gamma, self.alpha, self.bias, self.norm = name, eps, gamma, alpha, bias, norm

    def __call__(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        weight, bias = _merged(module, self.norm)

        def linear(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return F.linear(a, w, b) if isinstance(module, nn.Linear) else module._conv_forward(a, w, b)

        with torch.no_grad():
            z = linear(x, weight, bias)
        w_plus, w_minus = weight.clamp(min=0), weight.clamp(max=0)
        b_plus, b_minus = bias.clamp(min=0), bias.clamp(max=0)
        none = torch.zeros_like(bias)
        if self.name == "alpha_beta":
            positive, negative = x.relu(), -(-x).relu()
            plus = linear(positive, w_plus, b_plus) + linear(negative, w_minus, none)
            minus = linear(positive, w_minus, b_minus) + linear(negative, w_plus, none)
            parts = self.alpha * self._share(plus, z) - (self.alpha - 1) * self._share(minus, z)
        elif self.name == "gamma":
            g = self.gamma
            favour = linear(x, weight + g * w_plus, bias + (0 if self.bias == "kept" else g) * b_plus)
            oppose = linear(x, weight + g * w_minus, bias + (0 if self.bias == "kept" else g) * b_minus)
            parts = torch.where(z > 0, self._share(favour, z), self._share(oppose, z))
        elif self.name == "z_plus":
            parts = self._share(linear(x, w_plus, bias if self.bias == "kept" else b_plus), z)
        else:
            parts = self._share(linear(x, weight, bias), z)
        return with_gradient_of(z, parts)

    def _share(self, parts: Tensor, z: Tensor) -> Tensor:
        """Scale `parts`, a sum over inputs, to z: its gradient then shares z out in proportion."""
        total = parts.detach()
        return parts * (z / (total + torch.where(total < 0, -self.eps, self.eps)))


def _merged(module: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Weight and bias [K] of a layer and the batch normalisation behind it."""
    weight = module.weight.detach()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
    if norm is None:
        return weight, bias
    scale, shift = batch_norm_affine(norm, bias)
    return weight * scale[:, None, None, None], shift


def _passed(module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """Input of a batch normalisation that is merged already, through the activation that it may include (timm)."""
    for inner in ("drop", "act"):
        part = getattr(module, inner, None)
        x = part(x) if isinstance(part, nn.Module) else x
    return x
