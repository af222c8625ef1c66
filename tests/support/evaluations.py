"""Evaluations of given maps, and the values of one metric on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.support.networks import any_classifier
from xaibench.core.registry import BoundMetric, metrics
from xaibench.data.ground_truth import GroundTruth
from xaibench.evaluation import Evaluation
from xaibench.evaluation.measure import statistics
from xaibench.forward import Forward, Pairs


def any_evaluation(maps: Tensor, mask: Tensor | None = None, size: tuple[int, int] | None = None) -> Evaluation:
    """Maps [P, h, w] of the first label of P black images; `size` of the images, else that of the maps."""
    images = maps.new_zeros((len(maps), 3, *(size or maps.shape[1:])))
    classifier = any_classifier()
    classifier.module.to(maps.dtype)
    forward = Forward(classifier, images, ground_truth=GroundTruth(mask=mask))
    return Evaluation(forward, Pairs(torch.arange(len(maps)), torch.zeros(len(maps), dtype=torch.long)), maps)


def gradient(forward: Forward, pairs: Pairs) -> Tensor:
    """dS/dx with its colours one below the other: [P, C H, W]."""
    return forward.gradients(pairs, "input").flatten(1, 2)


def compute(name: str, evaluation: Evaluation, **parameters: Any) -> Tensor:
    """Values of a metric with its defaults and the given parameters: [pairs], or [pairs, k] of statistics."""
    entry = metrics[name]
    return statistics(evaluation, BoundMetric(name, entry, entry.bind(parameters), "detected"))
