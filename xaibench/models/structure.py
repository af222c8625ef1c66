"""What one look at a forward pass tells of a model: its target layer, and whether its head is linear."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xaibench.core.errors import IncompatibleError, UsageError

if TYPE_CHECKING:
    from xaibench.models.classifier import Classifier

LINEAR_HEAD_TOLERANCE = 1e-4  # of the largest logit: float32 rounding of a sum over a few thousand channels


@dataclass(frozen=True)
class Anatomy:
    """What one look at a forward pass tells.

    Attributes:
        last: dotted name of the target layer
        head: that of the linear layer, of matrix [L, K], where the head is linear in the mean of the last features
        labels: L, the length of the logits
    """

    last: str
    head: str | None
    labels: int


# Looks at one module, by the layer that was named and the shape [C, H, W] of the image.
Anatomies = dict[tuple[str | None, tuple[int, ...]], Anatomy]


def output_logits(output: Any) -> Tensor:
    """The logits [B, L] in what a model returned (tensor, tuple, or an object with `.logits`)."""
    if not isinstance(output, Tensor):
        output = getattr(output, "logits", None) if hasattr(output, "logits") else output[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"the model returned {shape}; logits [B, L] are needed")
    return output


def dissect(classifier: Classifier, image: Tensor) -> Anatomy:
    module = classifier.module
    outputs: dict[str, Tensor] = {}  # in order of completion, so that of equal tensors the outermost is last

    def record(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.pop(name, None)
                outputs[name] = output

        return hook

    handles = [m.register_forward_hook(record(name)) for name, m in module.named_modules() if name]
    try:
        with classifier.prepared(), torch.no_grad():
            features = module.forward_features(image) if hasattr(module, "forward_features") else None  # type: ignore[operator]
            before_head = list(outputs)
            logits = output_logits(module(image))
    finally:
        for handle in handles:
            handle.remove()
    last = classifier._layer or _find_last(classifier, outputs, before_head if features is not None else None, image)
    head = None
    if last in outputs and outputs[last].ndim in (3, 4):
        with contextlib.suppress(IncompatibleError):
            head = _linear_head(module, outputs, classifier.grid(outputs[last], image), logits)
    return Anatomy(last, head, logits.shape[1])


def _find_last(classifier: Classifier, outputs: dict[str, Tensor], backbone: list[str] | None, image: Tensor) -> str:
    """The features before pooling: of a timm model the module that ends `forward_features`, else the last grid."""
    module = classifier.module
    if getattr(module, "global_pool", None) == "token" and hasattr(module, "blocks"):
        return f"blocks.{len(module.blocks) - 1}.norm1"  # type: ignore[arg-type]
    if backbone:
        return backbone[-1]
    grids = [name for name, output in outputs.items() if output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1]
    if not grids:
        raise UsageError(f"model {classifier.name}: no layer with a spatial grid was found; name one with layer=")
    return grids[-1]


def _linear_head(module: nn.Module, outputs: dict[str, Tensor], grid: Tensor, logits: Tensor) -> str | None:
    """The name of the linear layer through which logits are a linear map of the mean features, None if there is none."""
    for name, candidate in module.named_modules():
        if not isinstance(candidate, (nn.Linear, nn.Conv2d)) or name not in outputs:
            continue
        weight = candidate.weight.detach().flatten(1)
        if weight.shape != (logits.shape[1], grid.shape[1]):
            continue
        predicted = grid.mean((2, 3)) @ weight.T + (0 if candidate.bias is None else candidate.bias.detach())
        if float((predicted - logits).abs().max()) <= LINEAR_HEAD_TOLERANCE * max(float(logits.abs().max()), 1.0):
            return str(name)
    return None
