"""Count the passes of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import xaibench


@dataclass
class Counter:
    forwards: int = 0
    backwards: int = 0


@contextmanager
def counting(classifier: xaibench.Classifier, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """Rows of logits that the model puts out, and rows of what gradients are taken of."""
    counter = Counter()

    def put_out(_: Any, __: Any, logits: Tensor) -> None:
        counter.forwards += len(logits)

    differentiate = torch.autograd.grad

    def grad(outputs: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        first = inputs if isinstance(inputs, Tensor) else inputs[0]
        counter.backwards += len(first)
        return differentiate(outputs, inputs, *arguments, **options)

    handle = classifier.module.register_forward_hook(put_out)
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", grad)
        yield counter
    handle.remove()
