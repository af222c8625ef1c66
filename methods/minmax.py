"""MinMax-CAM: evidence for label c minus evidence for the other labels detected in the same image.

C = labels detected in the image (sigmoid(S) > threshold), c = |C|, N = C without the explained label u. A map for a
label that is itself not detected is defined too: N is then all of C. One detected label makes all four equal to CAM
(or Grad-CAM times h·w). The weights act on the SUM over labels; the published text writes a sum of clamped terms,
which is not what the authors' code computes, and not what is computed here.
"""

from __future__ import annotations

import torch
from torch import Tensor, einsum

from xaibench.core.registry import method
from xaibench.forward import Forward, Pairs


def minmax(own: Tensor, others: Tensor, count: Tensor) -> Tensor:
    """Contrast of weights: own - others / max(c - 1, 1)."""
    return own - others / (count - 1).clamp(min=1)


def d_minmax(own: Tensor, others: Tensor, every: Tensor, count: Tensor) -> Tensor:
    """Contrast by sign: relu(own) - relu(others) / max(c - 1, 1) + min(0, every) / max(c, 1)."""
    return own.relu() - others.relu() / (count - 1).clamp(min=1) + every.clamp(max=0) / count.clamp(min=1)


@method(
    needs=("features", "linear_head"),
    source="david2022; official src/minmax.py",
    forwards="shared",
    backwards=0,
    rankings_change_with=("the model's threshold for detected labels",),
    criticism="It hides a dependence on another label that the model really has: evidence that both labels share is "
    "subtracted, not shown.",
    elsewhere="Neither pytorch-grad-cam nor keras-explainable has it; finer_cam comes nearest.",
)
def minmax_cam(forward: Forward, pairs: Pairs) -> Tensor:
    """CAM with the weights w_u = W_u - (sum_{n in N} W_n) / max(c - 1, 1). Raw maps [P, h, w]."""
    own, others, _, count = _head(forward, pairs)
    return einsum("pk,pkhw->phw", minmax(own, others, count), forward.features("last")[pairs.image])


@method(
    needs=("features", "linear_head"),
    source="david2022; official src/minmax.py",
    forwards="shared",
    backwards=0,
    rankings_change_with=("the model's threshold for detected labels",),
    criticism="It hides a dependence on another label that the model really has: evidence that both labels share is "
    "subtracted, not shown.",
    elsewhere="The authors' notebooks write a sum of clamped terms; their code clamps the sum over labels, as is done "
    "here.",
)
def d_minmax_cam(forward: Forward, pairs: Pairs) -> Tensor:
    """CAM with w_u = relu(W_u) - relu(sum_N W_n) / max(c - 1, 1) + min(0, sum_C W_n) / max(c, 1).

    Raw maps [P, h, w].
    """
    weights = d_minmax(*_head(forward, pairs))
    return einsum("pk,pkhw->phw", weights, forward.features("last")[pairs.image])


@method(
    needs=("features", "gradients"),
    source="david2022; official src/minmax.py",
    forwards="shared",
    backwards="shared * (pairs + others)",
    rankings_change_with=("layer", "the model's threshold for detected labels"),
    criticism="It hides a dependence on another label that the model really has: evidence that both labels share is "
    "subtracted, not shown.",
)
def minmax_grad_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Grad-CAM of J_u = S_u - (sum_{n in N} S_n) / max(c - 1, 1), gradients summed over positions.

    Raw maps [P, h, w].
    """
    own, others, _, count = _gradients(forward, pairs, layer)
    weights = minmax(own, others, count).sum((2, 3))
    return einsum("pk,pkhw->phw", weights, forward.features(layer)[pairs.image])


@method(
    needs=("features", "gradients"),
    source="david2022; official src/minmax.py",
    forwards="shared",
    backwards="shared * (pairs + others)",
    rankings_change_with=("layer", "the model's threshold for detected labels"),
    criticism="It hides a dependence on another label that the model really has: evidence that both labels share is "
    "subtracted, not shown.",
    elsewhere="The authors' function for it is named d_minmax_cam, too.",
)
def d_minmax_grad_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Grad-CAM with the D-MinMax weights of the gradients at each position, THEN summed over positions.

    Equal to D-MinMax-CAM on a pooled linear head, different at inner layers. Raw maps [P, h, w].
    """
    weights = d_minmax(*_gradients(forward, pairs, layer)).sum((2, 3))
    return einsum("pk,pkhw->phw", weights, forward.features(layer)[pairs.image])


def _head(forward: Forward, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Head weights [P, K] of the label, of the others and of all, and the count of detected labels [P, 1]."""
    weight, detected = forward.head_weight, forward.detected.to(forward.head_weight.dtype)
    others = detected[pairs.image].scatter(1, pairs.label[:, None], 0)
    count = detected.sum(1, keepdim=True)[pairs.image]
    return weight[pairs.label], others @ weight, (detected @ weight)[pairs.image], count


def _gradients(forward: Forward, pairs: Pairs, layer: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients [P, K, h, w] of the label, of the others and of all, and the count of detected labels [P, 1, 1, 1]."""
    detected = forward.detected_pairs
    per_label = forward.gradients(detected, layer)
    every = per_label.new_zeros((len(forward.images), *per_label.shape[1:])).index_add(0, detected.image, per_label)
    own, every = forward.gradients(pairs, layer), every[pairs.image]
    is_detected = forward.detected[pairs.image, pairs.label][:, None, None, None]
    count = forward.detected.sum(1)[pairs.image][:, None, None, None]
    # a lone detected label has no others: exactly 0, not the rounding of a difference
    others = torch.where(is_detected & (count == 1), 0, every - own * is_detected)
    return own, others, every, count.to(own.dtype)
