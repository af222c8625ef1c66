"""Modules that suites share: entries of equal architecture, options, weights and device are one module in memory.

Two entries of a suite may differ in activation, threshold, layer or input alone, and several suites of one command
often name the same model. Such a module is built and inspected (`Structure`) once. The command or the run owns the
cache; `load_classifier` without one gives the caller a module of its own, to train or to change. Explaining switches
modes and sets hooks for the time of a call, so that two threads must not use one module at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from xaibench.models.structure import Structures

SIZE = 2  # modules: a suite compares few models, and device memory is scarce


@dataclass(frozen=True)
class Identity:
    """What decides a loaded module.

    Attributes:
        architecture: the name that `create_module` takes
        options: of its constructor, spelled out
        weights: hash of the checkpoint's tensors; without a checkpoint, their origin (a seed, timm)
    """

    architecture: str
    options: str
    weights: str
    device: torch.device


@dataclass
class Shared:
    """A module and its structures, to which the classifiers that share it add."""

    module: nn.Module
    structures: Structures = field(default_factory=dict)
    tensors: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        self.tensors = _traces(self.module)

    @property
    def untouched(self) -> bool:
        """Whether every tensor is the loaded one: same type, same device, never written to."""
        return self.tensors == _traces(self.module)


def _traces(module: nn.Module) -> tuple[object, ...]:
    def trace(tensor: Tensor) -> object:
        return tensor.data_ptr(), tensor.dtype, tensor.device, tensor._version

    return tuple(trace(tensor) for tensor in (*module.parameters(), *module.buffers()))


class ModelCache:
    """The `size` modules that were used last; 0 shares nothing."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self._kept: OrderedDict[Identity, Shared] = OrderedDict()

    def get(self, identity: Identity, build: Callable[[], nn.Module]) -> Shared:
        """The module of that identity, built if it is missing or was changed."""
        kept = self._kept.pop(identity, None)
        if kept is None or not kept.untouched:
            while len(self._kept) >= max(self.size, 1):  # before the next one is built, not both in memory at once
                self._kept.popitem(last=False)
            kept = Shared(build())
        if self.size > 0:
            self._kept[identity] = kept
        return kept

    def clear(self) -> None:
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)
