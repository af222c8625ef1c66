"""Gradients by other rules: modules keep their values and pass back something else, for as long as a `with` lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.models.classifier import Classifier
from xaibench.models.structure import evaluation_mode

Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]


@contextlib.contextmanager
def rewired(module: nn.Module, rules: Mapping[nn.Module, Rule]) -> Iterator[None]:
    """Outputs of some modules replaced by rule(module, input, output). In-place activations keep their input meanwhile.

    The rules are in the graph of every pass that is run inside; the module is left as it was found.
    """

    def hook(rule: Rule) -> Any:
        return lambda owner, inputs, output: rule(owner, inputs[0], output)

    in_place = [m for m in module.modules() if getattr(m, "inplace", False) is True]
    with contextlib.ExitStack() as stack:
        for m in in_place:
            setattr(m, "inplace", False)  # noqa: B010
            stack.callback(setattr, m, "inplace", True)
        for target, rule in rules.items():
            stack.callback(target.register_forward_hook(hook(rule)).remove)
        yield


def every(module: nn.Module, kinds: Mapping[type[nn.Module], Rule]) -> dict[nn.Module, Rule]:
    """The rule of each submodule that is an instance of one of `kinds`."""
    return {m: rule for kind, rule in kinds.items() for m in module.modules() if isinstance(m, kind)}


def keep(value: Tensor, surrogate: Tensor) -> Tensor:
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


def normalisations(classifier: Classifier, image: Tensor) -> tuple[dict[nn.Module, nn.BatchNorm2d], list[nn.Module]]:
    """The batch normalisation that directly follows a plain convolution, and all plain convolutions, in running order.

    Found by running one image: a normalisation follows a convolution if it is given the very tensor that came out.
    """
    made_by: dict[int, nn.Module] = {}
    kept: list[Tensor] = []  # alive, so that no id is given twice
    norms: dict[nn.Module, nn.BatchNorm2d] = {}
    convolutions: dict[nn.Module, None] = {}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d):
            if id(inputs[0]) in made_by:
                norms[made_by[id(inputs[0])]] = module
        else:
            convolutions[module] = None
            made_by[id(output)] = module
            kept.append(output)

    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluation_mode(classifier.module))
        stack.enter_context(torch.inference_mode())
        for module in classifier.module.modules():
            if type(module) is nn.Conv2d or (isinstance(module, nn.BatchNorm2d) and module.running_mean is not None):
                stack.callback(module.register_forward_hook(hook).remove)
        classifier.module(image)
    return norms, list(convolutions)
