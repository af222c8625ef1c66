"""Metrics against the forwards (and backwards) that they cannot do without: resnet18, 3 x 224 x 224."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import xaibench
from xaibench.forward import Pairs
from xaibench.models.architectures import create_module

IMAGES, STEPS, SAMPLES = 2, 8, 4
REMOVAL = {"baseline": "zero", "unit": "pixel", "steps": STEPS}


@pytest.fixture(scope="module")
def network() -> tuple[xaibench.Classifier, Tensor, Pairs, Tensor]:
    """A classifier, images, one pair of each, and its map at the images' resolution."""
    classifier = xaibench.load_classifier("resnet18", num_classes=20)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, 224, 224, generator=generator)
    maps = torch.randn(IMAGES, 224, 224, generator=generator)
    return classifier, images, Pairs(torch.arange(IMAGES), torch.arange(IMAGES)), maps


def bench_five_perturbation_metrics(
    network: tuple[xaibench.Classifier, Tensor, Pairs, Tensor], ratio: Callable[..., float]
) -> None:
    """deletion, insertion, SRG, AOPC and selectivity on one baseline: two curves of T steps, and the clean forward."""
    classifier, images, pairs, maps = network
    metrics = [{"name": name, "removal": REMOVAL} for name in ("deletion", "insertion", "srg", "aopc", "selectivity")]
    every = images.repeat(2 * STEPS, 1, 1, 1)

    def bare() -> None:
        classifier.logits(images)
        classifier.logits(every)

    ratio(
        f"five perturbation metrics, T = {STEPS} / (1 + 2T forwards)",
        lambda: xaibench.evaluate(classifier, images, pairs, maps, metrics),
        bare,
        1.15,
    )


@pytest.mark.parametrize("percent", [10, 50, 90])
def bench_road(
    percent: int, network: tuple[xaibench.Classifier, Tensor, Pairs, Tensor], ratio: Callable[..., float]
) -> None:
    """Imputing this share of the pixels, for both orders, against the forwards of the imputed images alone."""
    classifier, images, pairs, maps = network
    removal = xaibench.evaluation.perturbation.Removal("road", steps=None, fractions=(percent / 100,))
    twice = images.repeat(2, 1, 1, 1)

    def imputed() -> None:
        evaluation = xaibench.Evaluation(xaibench.Forward(classifier, images), pairs, maps)
        with torch.no_grad():
            evaluation.curve("morf", removal)
            evaluation.curve("lerf", removal)

    def bare() -> None:
        classifier.logits(images)
        classifier.logits(twice)

    ratio(f"ROAD, {percent} % / (1 + 2 forwards)", imputed, bare, 2.0)


def bench_max_sensitivity(
    network: tuple[xaibench.Classifier, Tensor, Pairs, Tensor], ratio: Callable[..., float]
) -> None:
    """Sensitivity of saliency: one forward and one backward of each noisy image, and the clean forward."""
    classifier, images, pairs, _ = network
    module = create_module("resnet18", num_classes=20).eval().requires_grad_(False)
    maps = xaibench.explain(classifier, images, pairs, method="saliency")
    metric = {"name": "max_sensitivity", "samples": SAMPLES}

    def plain() -> None:
        classifier.logits(images)
        for _ in range(SAMPLES):
            noisy = images.clone().requires_grad_()
            torch.autograd.grad(module(noisy)[pairs.image, pairs.label].sum(), noisy)

    ratio(
        f"max_sensitivity of saliency, {SAMPLES} samples / (forwards + backwards)",
        lambda: xaibench.evaluate(classifier, images, pairs, maps, [metric], method="saliency"),
        plain,
        1.2,
    )
