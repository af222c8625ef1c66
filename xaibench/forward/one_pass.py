"""One run of a module that keeps what a plan names: logits, and the outputs of layers with their graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.core.errors import UsageError
from xaibench.forward.plan import Plan
from xaibench.models.classifier import Classifier
from xaibench.models.structure import evaluation_mode, output_logits
from xaibench.models.timm_vit import SUFFIX, unfused_attention

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]
PRECISIONS = (torch.float32, torch.float64)


@dataclass
class OnePass:
    """A pass of a batch.

    Attributes:
        plan: what is kept; outputs that need gradients have a graph
        kept: outputs by layer, in the order of the pass
        logits: [B, L]
    """

    plan: Plan
    kept: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def tap(self, name: str) -> Hook:
        """A forward hook that keeps the output of a layer."""
        differentiate = name in self.plan.gradients

        def hook(_: nn.Module, __: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise UsageError(f"layer {name!r} returns {type(output).__name__}, not a tensor; choose another")
            if name in self.kept:
                raise UsageError(f"layer {name!r} runs more than once in a forward pass; choose one that runs once")
            if differentiate:
                torch.set_grad_enabled(True)
                if not output.requires_grad:
                    output = output.detach().requires_grad_()
            self.kept[name] = output
            # what follows gets a copy, so that an in-place activation or `x += shortcut` cannot change what is kept
            follower: Tensor = output if name.endswith(SUFFIX) else output.clone()
            return follower

        return hook


def run_once(module: nn.Module, images: Tensor, plan: Plan, hooks: Mapping[str, Hook]) -> OnePass:
    """Run a module on images [B, C, H, W].

    Args:
        hooks: forward hooks by the name of their layer, which come before what is kept

    Raises:
        UsageError: a layer of the plan that returns no tensor, or does not run exactly once
    """
    taps = (plan.features | plan.gradients) - {"input"}
    attention = tuple(sorted(name for name in taps if name.endswith(SUFFIX)))
    images = images.detach().contiguous(memory_format=torch.channels_last)  # faster convolutions
    found = OnePass(plan)
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluation_mode(module))
        stack.enter_context(unfused_attention(module, attention))
        stack.enter_context(torch.no_grad())  # a tap turns the graph on where the plan first needs it
        for name, hook in hooks.items():
            stack.callback(module.get_submodule(name).register_forward_hook(hook).remove)
        for name in taps:
            stack.callback(module.get_submodule(name).register_forward_hook(found.tap(name)).remove)
        if "input" in plan.gradients:
            found.kept["input"] = images.clone().requires_grad_()
            torch.set_grad_enabled(True)
            images = found.kept["input"].clone()  # the leaf survives an in-place first layer
        found.logits = output_logits(module(images))
    if idle := sorted(taps - found.kept.keys()):
        raise UsageError(f"layer {idle[0]!r} does not run in a forward pass; choose one that does")
    return found


def check_images(classifier: Classifier, images: Tensor) -> None:
    """Raise UsageError unless images are a batch in the precision of the model's weights."""
    if not isinstance(classifier, Classifier):
        raise UsageError(
            f"a Classifier is needed, found {type(classifier).__name__}; write xaibench.Classifier(module)"
        )
    if not isinstance(images, Tensor):
        raise UsageError(
            f"images must be a tensor [B, C, H, W], found {type(images).__name__}; write torch.as_tensor(...)"
        )
    if images.ndim != 4:
        raise UsageError(f"images must be [B, C, H, W], found {tuple(images.shape)}")
    weights = next((p.dtype for p in classifier.module.parameters() if p.is_floating_point()), images.dtype)
    if images.dtype not in PRECISIONS:
        raise UsageError(
            f"images must be normalised float32 or float64, found {images.dtype}; write images.to({weights})"
        )
    if images.dtype != weights:
        raise UsageError(f"images are {images.dtype}, the model's weights {weights}; convert one of them")
