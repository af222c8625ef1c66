"""Kernel Usage Regularization: each channel is used by few labels, so that CAM shows fewer of the other labels.

The kernel W [L, K] of the last linear layer is replaced by W ∘ alpha softmax over labels (W), which weakens a channel
that several labels use equally. It is a parametrisation of torch: `layer.weight` is the effective kernel, which CAM,
MinMax-CAM and propagation rules read without a change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from xaibench.core.errors import UsageError


class KernelUsage(nn.Module):
    """W [L, K] to W · alpha softmax_labels(W) (official src/kur.py, `DenseKur`, has alpha = 1)."""

    alpha: Tensor

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.tensor(float(alpha)))

    def forward(self, kernel: Tensor) -> Tensor:
        return kernel * (self.alpha.to(kernel.dtype) * kernel.softmax(0))


def regularise(module: nn.Module, alpha: float = 1.0) -> nn.Module:
    """Regularise the last linear layer, in place; its present weights become the kernel W.

    Raises:
        UsageError: a model without a linear layer that gives its logits
    """
    parametrize.register_parametrization(_head(module), "weight", KernelUsage(alpha))
    return module


def fold(module: nn.Module) -> nn.Module:
    """Store the effective kernel as plain weights, in place: the result is an ordinary model of its architecture."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer, "weight") and isinstance(_parametrisation(layer), KernelUsage):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module


def _parametrisation(layer: Any) -> Any:
    return layer.parametrizations.weight[0]


def _head(module: Any) -> nn.Linear:
    head = module.get_classifier() if hasattr(module, "get_classifier") else None
    if not isinstance(head, nn.Linear):
        head = next((layer for layer in reversed(list(module.modules())) if isinstance(layer, nn.Linear)), None)
    if head is None:
        raise UsageError(f"{type(module).__name__} has no linear layer whose kernel could be regularised")
    return head
