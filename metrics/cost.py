"""Cost of a map: every image is explained once more by itself, with all its labels, and the cost is divided by them.

A suite shares passes among methods, so that what a row of a leaderboard took is not what its method takes. Here nothing
is shared but what one explanation of one image shares among its labels. Time and memory are measurements of a machine:
they are not repeated to the digit, and a table of them belongs to the machine that made it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.core.registry import metric
from xaibench.core.registry.bounds import Count
from xaibench.evaluation import Evaluation
from xaibench.forward import Pairs

MEBIBYTE = 1 << 20


@metric(
    better="lower",
    range=(0, math.inf),
    unit="forwards",
    needs=("method",),
    group="cost",
    per="image",
    source="xaibench",
    forwards="method_forwards",
    backwards="method_backwards",
    cost="image by image",
    rankings_change_with=("the number of labels, for most methods share their forwards among them",),
    criticism="A backward pass costs twice a forward and counts nothing.",
)
def forwards_per_pair(evaluation: Evaluation) -> Tensor:
    """Images that the whole model is run on to explain one image, per label explained.

    Backward passes and passes of single blocks are not counted. Undefined (NaN) where nothing is explained.
    """

    def count(work: Callable[[], Tensor]) -> float:
        rows = 0

        def seen(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            nonlocal rows
            rows += len(arguments[0])

        handle = evaluation.forward.classifier.module.register_forward_pre_hook(seen)
        try:
            work()
        finally:
            handle.remove()
        return rows

    return _alone(evaluation, count)


@metric(
    better="lower",
    range=(0, math.inf),
    unit="s",
    needs=("method",),
    group="cost",
    per="image",
    source="xaibench",
    repeatable=False,
    forwards="rounds * method_forwards",
    backwards="rounds * method_backwards",
    cost="image by image",
    rankings_change_with=("the machine", "its load", "the image's size", "the number of labels"),
    criticism="An image alone does not fill a GPU; batches are cheaper there.",
)
def seconds_per_pair(evaluation: Evaluation, *, rounds: Count = 1) -> Tensor:
    """Wall-clock seconds to explain one image, per label explained: the best of `rounds`."""
    cuda = evaluation.maps.device.type == "cuda"

    def seconds(work: Callable[[], Tensor]) -> float:
        best = math.inf
        for _ in range(rounds):
            started = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize(evaluation.maps.device)
            best = min(best, time.perf_counter() - started)
        return best

    return _alone(evaluation, seconds)


@metric(
    better="lower",
    range=(0, math.inf),
    unit="MiB",
    needs=("method",),
    group="cost",
    per="image",
    source="xaibench",
    repeatable=False,
    forwards="cuda * method_forwards",
    backwards="cuda * method_backwards",
    cost="image by image, on CUDA devices only",
    rankings_change_with=("the image's size", "the chunk size", "the number of labels"),
    criticism="The allocator's caches and fragmentation come on top.",
)
def peak_memory(evaluation: Evaluation) -> Tensor:
    """Peak of device memory while one image is explained, beyond what was allocated before, per label explained.

    CUDA alone keeps these books; undefined (NaN) elsewhere.
    """
    device = evaluation.maps.device
    if device.type != "cuda":
        return torch.full((len(evaluation.forward.images),), math.nan)

    def mebibytes(work: Callable[[], Tensor]) -> float:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / MEBIBYTE

    return _alone(evaluation, mebibytes)


def _alone(evaluation: Evaluation, measure: Callable[[Callable[[], Tensor]], float]) -> Tensor:
    """Measurements [B] of explaining each image by itself, divided by its pairs; NaN without any, or with NaN maps."""
    images, pairs = evaluation.forward.images, evaluation.pairs
    found = []
    for row in range(len(images)):
        own = pairs.image == row
        if not own.any() or not evaluation.defined[own].all():
            found.append(math.nan)
            continue
        labels = pairs.label[own]
        alone, source = Pairs(torch.zeros_like(labels), labels), torch.tensor([row], device=images.device)

        def work(row: int = row, alone: Pairs = alone, source: Tensor = source) -> Tensor:
            return evaluation.explain(images[row : row + 1], alone, source)

        found.append(measure(work) / len(labels))
    return torch.tensor(found, dtype=torch.float64)
