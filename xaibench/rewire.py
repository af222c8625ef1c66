"""Gradients by other rules: modules keep their values and pass back something else, for as long as a `with` lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

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
            m.inplace = False
            stack.callback(setattr, m, "inplace", True)
        for target, rule in rules.items():
            stack.callback(target.register_forward_hook(hook(rule)).remove)
        yield


def every(module: nn.Module, kinds: Mapping[type[nn.Module], Rule]) -> dict[nn.Module, Rule]:
    """The rule of each submodule that is an instance of one of `kinds`."""
    return {m: rule for kind, rule in kinds.items() for m in module.modules() if isinstance(m, kind)}


def with_gradient_of(carrier: Tensor, value: Tensor) -> Tensor:
    """A tensor of this value whose gradient goes to `carrier`."""
    return carrier + (value - carrier).detach()


class _Positive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.relu()


def positive_gradient(x: Tensor) -> Tensor:
    """x, through which only positive gradients pass back."""
    result: Tensor = _Positive.apply(x)  # type: ignore[no-untyped-call]
    return result
