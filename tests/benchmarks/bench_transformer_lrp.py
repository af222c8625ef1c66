"""transformer_lrp on a model of ViT-B/16's size, 224 x 224, in forwards of that model (the original: 13 a label)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import xaibench
from xaibench.models.architectures import create_module


@pytest.fixture(scope="module")
def network() -> tuple[xaibench.Classifier, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    module = create_module("vit_base_patch16_224").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return xaibench.Classifier(module), torch.randn(1, 3, 224, 224, generator=generator)


@pytest.mark.parametrize(("labels", "forwards"), [(1, 6.5), (8, 8 * 3.5)])
def bench_transformer_lrp(
    labels: int, forwards: float, network: tuple[xaibench.Classifier, torch.Tensor], ratio: Callable[..., float]
) -> None:
    classifier, image = network
    pairs = xaibench.Pairs([0] * labels, list(range(labels)))
    ratio(
        f"transformer_lrp, {labels} label(s) / forward",
        lambda: xaibench.explain(classifier, image, pairs, method="transformer_lrp"),
        lambda: classifier.logits(image),
        forwards,
    )
