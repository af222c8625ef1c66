"""The cost of a map: forwards are counted, seconds and memory measured."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from tests.support.networks import IDS, PAIRS, images, network
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs
from xaibench.methods.gradient import input_x_gradient, smooth_grad
from xaibench.methods.perturbation import occlusion
from xaibench.metrics.cost import forwards_per_pair, peak_memory, seconds_per_pair

LABELS = torch.bincount(PAIRS.image, minlength=len(IDS)).double()


def evaluation(method: object) -> Evaluation:
    forward = Forward(network(), images(), ids=IDS, seed=1)
    maps = torch.rand(len(PAIRS), 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Evaluation(forward, PAIRS, maps, method)  # type: ignore[arg-type]


def split(total: float) -> Tensor:
    """A cost of `total` per image, shared by its labels."""
    return torch.where(LABELS > 0, total / LABELS, torch.nan)


@pytest.mark.parametrize(
    ("method", "forwards"),
    [
        (input_x_gradient, 1),
        (lambda forward, pairs: smooth_grad(forward, pairs, samples=3), 3),
        # windows of 8 pixels every 8 in 24 x 32: 3 x 4, and the untouched image
        (lambda forward, pairs: occlusion(forward, pairs, window=8, stride=8), 13),
        (lambda forward, pairs: torch.ones(len(pairs), 2, 2), 0),
    ],
)
def test_forwards_are_counted_once_for_all_labels_of_an_image(method: object, forwards: int) -> None:
    torch.testing.assert_close(forwards_per_pair(evaluation(method)), split(forwards), equal_nan=True)


def test_seconds_are_those_of_the_method() -> None:
    def slow(forward: Forward, pairs: Pairs) -> Tensor:
        time.sleep(0.02)
        return torch.ones(len(pairs), 2, 2)

    found = seconds_per_pair(evaluation(slow), rounds=2)
    assert bool((found >= split(0.02)).logical_or(LABELS == 0).all())
    assert torch.equal(found.isnan(), LABELS == 0)


def test_memory_is_undefined_without_cuda() -> None:
    assert peak_memory(evaluation(input_x_gradient)).isnan().all()


@pytest.mark.parametrize("metric", [forwards_per_pair, seconds_per_pair])
def test_a_map_of_nan_has_no_cost(metric: object) -> None:
    given = evaluation(input_x_gradient)
    own = Evaluation(given.forward, PAIRS, given.maps.index_fill(0, torch.tensor([0]), torch.nan), input_x_gradient)
    found = metric(own)  # type: ignore[operator]
    assert found[PAIRS.image[0]].isnan()
    assert found.isfinite().any()
    assert not network().module._forward_pre_hooks
