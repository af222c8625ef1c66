"""Other rules for the backward pass: inside a `with`, modules keep their values and pass back other gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.models.structure import evaluation_mode

BackwardRule = Callable[[nn.Module, Tensor, Tensor], Tensor]


@contextlib.contextmanager
def with_backward_rules(module: nn.Module, rules: Mapping[nn.Module, BackwardRule]) -> Iterator[None]:
    """Replace outputs of some modules by rule(module, input, output).

    The rules are in the graph of every pass that is run inside. In-place activations keep their input meanwhile. The
    module is restored at the end.
    """

    def hook(rule: BackwardRule) -> Any:
        return lambda owner, inputs, output: rule(owner, inputs[0], output)

    in_place = [m for m in module.modules() if getattr(m, "inplace", False) is True]
    with contextlib.ExitStack() as stack:
        for m in in_place:
            setattr(m, "inplace", False)  # noqa: B010
            stack.callback(setattr, m, "inplace", True)
        for target, rule in rules.items():
            stack.callback(target.register_forward_hook(hook(rule)).remove)
        yield


def every(module: nn.Module, kinds: Mapping[type[nn.Module], BackwardRule]) -> dict[nn.Module, BackwardRule]:
    """The rule of each submodule that is an instance of one of `kinds`."""
    return {m: rule for kind, rule in kinds.items() for m in module.modules() if isinstance(m, kind)}


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value`, with the gradient of `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())


class _Positive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.relu()


def positive_gradient(x: Tensor) -> Tensor:
    """x, through which only positive gradients pass back."""
    result: Tensor = _Positive.apply(x)  # type: ignore[no-untyped-call]
    return result


def batch_norms_after_convolutions(
    module: nn.Module, image: Tensor
) -> tuple[dict[nn.Module, nn.BatchNorm2d], list[nn.Module]]:
    """The batch normalisation that directly follows a plain convolution, and all plain convolutions, in running order.

    Found by running one image: a normalisation follows a convolution if it is given the very tensor that came out.
    """
    made_by: dict[int, nn.Module] = {}
    kept: list[Tensor] = []  # alive, so that no id is given twice
    norms: dict[nn.Module, nn.BatchNorm2d] = {}
    convolutions: dict[nn.Module, None] = {}

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.BatchNorm2d):
            if id(inputs[0]) in made_by:
                norms[made_by[id(inputs[0])]] = layer
        else:
            convolutions[layer] = None
            made_by[id(output)] = layer
            kept.append(output)

    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluation_mode(module))
        stack.enter_context(torch.inference_mode())
        for layer in module.modules():
            if type(layer) is nn.Conv2d or (isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None):
                stack.callback(layer.register_forward_hook(hook).remove)
        module(image)
    return norms, list(convolutions)
