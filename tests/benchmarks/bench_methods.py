"""Maps of five labels an image against one bare forward of the batch: resnet18, 8 x 3 x 224 x 224."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import xaibench
from xaibench.models.architectures import create_module

LABELS = 5


@pytest.fixture(scope="module")
def network() -> tuple[xaibench.Classifier, torch.Tensor, xaibench.Pairs]:
    classifier = xaibench.load_classifier("resnet18", num_classes=20)
    images = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    pairs = xaibench.Pairs(torch.arange(8).repeat_interleave(LABELS), torch.arange(LABELS).repeat(8))
    return classifier, images, pairs


FAMILY = ["cam", "grad_cam", "minmax_cam", "d_minmax_cam", "minmax_grad_cam", "d_minmax_grad_cam"]


@pytest.mark.parametrize("method", FAMILY)
def bench_five_labels(
    method: str, network: tuple[xaibench.Classifier, torch.Tensor, xaibench.Pairs], ratio: Callable[..., float]
) -> None:
    classifier, images, pairs = network
    ratio(
        f"{method}, 5 labels / forward",
        lambda: xaibench.explain(classifier, images, pairs, method=method),
        lambda: classifier.logits(images),
        1.3,
    )


def bench_a_suite_of_ten_last_layer_methods(
    network: tuple[xaibench.Classifier, torch.Tensor, xaibench.Pairs], ratio: Callable[..., float]
) -> None:
    """All ten on one shared pass."""
    classifier, images, pairs = network
    names = [*FAMILY, "grad_cam_pp", "hires_cam", "layer_cam", "vgatt"]
    methods = [xaibench.core.registry.methods[name] for name in names]
    plan = xaibench.forward.forward.Plan()
    for method in methods:
        plan = plan | xaibench.forward.forward.Plan.of(classifier, method.needs, method.bind({}))

    def suite() -> None:
        forward = xaibench.Forward(classifier, images, plan=plan)
        with torch.no_grad():
            for method in methods:
                method.function(forward, pairs, **method.bind({}))

    ratio("ten last-layer methods, 5 labels / forward", suite, lambda: classifier.logits(images), 1.5)


@pytest.mark.parametrize(
    ("method", "parameters"), [("saliency", {}), ("input_x_gradient", {}), ("vgatt", {"layer": "input"})]
)
def bench_input_gradients(
    method: str,
    parameters: dict[str, Any],
    network: tuple[xaibench.Classifier, torch.Tensor, xaibench.Pairs],
    ratio: Callable[..., float],
) -> None:
    """One forward and five backward passes, no more: the yardstick is exactly that in plain torch."""
    classifier, images, pairs = network
    module = create_module("resnet18", num_classes=20).eval().requires_grad_(False)

    def plain() -> None:
        x = images.clone().requires_grad_()
        logits = module(x)
        for label in range(LABELS):
            torch.autograd.grad(logits[:, label].sum(), x, retain_graph=True)

    ratio(
        f"{method}, 5 labels / (forward + 5 backwards)",
        lambda: xaibench.explain(classifier, images, pairs, method=method, **parameters),
        plain,
        1.1,
    )


def bench_integrated_gradients(
    network: tuple[xaibench.Classifier, torch.Tensor, xaibench.Pairs], ratio: Callable[..., float]
) -> None:
    """Steps times one forward and five backward passes, no more."""
    classifier, images, pairs = network
    module = create_module("resnet18", num_classes=20).eval().requires_grad_(False)
    few, steps = images[:2], 3

    def plain() -> None:
        for step in range(steps):
            x = ((step + 0.5) / steps * few).requires_grad_()
            logits = module(x)
            for label in range(LABELS):
                torch.autograd.grad(logits[:, label].sum(), x, retain_graph=True)

    ratio(
        f"integrated_gradients, {steps} steps, 5 labels / steps x (forward + 5 backwards)",
        lambda: xaibench.explain(
            classifier, few, pairs[(pairs.image < 2).nonzero()[:, 0]], method="integrated_gradients", steps=steps
        ),
        plain,
        1.1,
    )


def bench_score_cam(
    network: tuple[xaibench.Classifier, torch.Tensor, xaibench.Pairs], ratio: Callable[..., float]
) -> None:
    """K masked passes and one untouched serve all five labels: the yardstick is (K + 1) forwards in chunks as large."""
    classifier, images, pairs = network
    small = images[:2, :, :96, :96].contiguous()
    few = pairs[(pairs.image < 2).nonzero()[:, 0]]
    channels = 64  # of layer1
    every = small.repeat(channels + 1, 1, 1, 1)
    ratio(
        f"score_cam, {channels} channels, 5 labels / (K + 1) forwards",
        lambda: xaibench.explain(classifier, small, few, method="score_cam", layer="layer1"),
        lambda: classifier.logits(every),
        1.15,
    )


def bench_keep_and_drop(
    network: tuple[xaibench.Classifier, torch.Tensor, xaibench.Pairs], ratio: Callable[..., float]
) -> None:
    """All seven multi-label metrics of two labels an image cost the forward, one keep and one drop pass."""
    classifier, images, pairs = network
    few = pairs[(pairs.label < 2).nonzero()[:, 0]]
    maps = xaibench.explain(classifier, images, few, method="cam")
    twice = images[few.image]

    def bare() -> None:
        classifier.logits(images)
        classifier.logits(twice)
        classifier.logits(twice)

    ratio(
        "seven multi-label metrics / (forward + keep + drop)",
        lambda: xaibench.evaluate(classifier, images, few, maps, ["multi_label"]),
        bare,
        1.1,
    )
