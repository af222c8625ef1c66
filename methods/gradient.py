"""Gradients of the logit with respect to the input image x [P, C, H, W]."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from xaibench.forward import Forward, Pairs
from xaibench.registry import method

Reduce = Literal["sum", "max", "abs_sum"]


def over_channels(values: Tensor, reduce: Reduce) -> Tensor:
    """[P, C, H, W] to [P, H, W]: signed sum, largest absolute value, or sum of absolute values."""
    if reduce == "sum":
        return values.sum(1)
    return values.abs().amax(1) if reduce == "max" else values.abs().sum(1)


@method(needs=("input_gradients",), source="simonyan2014, sec. 3", cost="1 forward, 1 backward per label")
def saliency(forward: Forward, pairs: Pairs, *, reduce: Reduce = "max") -> Tensor:
    """|dS_c/dx|, by default the largest over colours. Maps [P, H, W], logits per unit of model input."""
    return over_channels(forward.gradients(pairs, "input"), reduce)


@method(needs=("input_gradients",), source="shrikumar2016", cost="1 forward, 1 backward per label")
def input_x_gradient(forward: Forward, pairs: Pairs, *, reduce: Reduce = "sum") -> Tensor:
    """x dS_c/dx, by default the signed sum over colours. Maps [P, H, W], logit units."""
    return over_channels(forward.images[pairs.image] * forward.gradients(pairs, "input"), reduce)
