"""transformer_lrp on a model of ViT-B/16's size, in forwards of that model: CPU time of both from the same run.

pytest tests/benchmarks/bench_transformer_lrp.py --benchmark-only      # wall time, ratio in extra_info
python -m tests.benchmarks.bench_transformer_lrp                       # the ratios alone
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import xaibench
from xaibench.models import create_module

LABELS = (1, 8)


@cache
def model() -> tuple[xaibench.Classifier, Tensor]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    module = create_module("vit_base_patch16_224").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return xaibench.Classifier(module), torch.randn(1, 3, 224, 224, generator=generator)


def explain(labels: int) -> Tensor:
    classifier, image = model()
    pairs = xaibench.Pairs([0] * labels, list(range(labels)))
    return xaibench.explain(classifier, image, pairs, method="transformer_lrp")


def forward() -> Tensor:
    classifier, image = model()
    with torch.no_grad():
        return classifier.module(image)  # type: ignore[no-any-return]


def seconds(function: Callable[[], Any], rounds: int) -> float:
    """CPU seconds, the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def forwards_per_label(labels: int, rounds: int = 3) -> float:
    explain(1)
    before = seconds(forward, rounds)
    spent = seconds(lambda: explain(labels), rounds)
    return spent / min(before, seconds(forward, rounds)) / labels


@pytest.mark.parametrize("labels", LABELS)
def test_transformer_lrp(benchmark: Any, labels: int) -> None:
    benchmark.extra_info["forwards_per_label"] = forwards_per_label(labels)
    benchmark.pedantic(explain, args=(labels,), rounds=3)


if __name__ == "__main__":
    for count in LABELS:
        print(f"transformer_lrp, {count} label(s): {forwards_per_label(count):.2f} forwards per label")
