"""What must hold for each method, whatever it computes: nothing depends on the batch, and the model is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import xaibench
from xaibench import registry
from xaibench.forward import Forward, Pairs
from xaibench.models import create_module

METHODS = [
    "xgrad_cam", "ablation_cam", "eigen_cam", "eigen_grad_cam", "score_cam", "shapley_cam", "finer_cam",
    "occlusion", "feature_ablation", "rise", "lime", "kernel_shap",
    "integrated_gradients", "gradient_shap", "expected_gradients", "smooth_grad", "var_grad", "accumulated_saliency",
    "guided_backprop", "deconvolution", "guided_grad_cam", "deep_lift", "full_grad", "tta", "puzzle", "smooth", "lrp",
]  # fmt: skip
QUICK: dict[str, dict[str, Any]] = {
    "rise": {"masks": 20, "cells": 4},
    "lime": {"samples": 60, "cells": 3},
    "kernel_shap": {"samples": 60, "cells": 4},
    "integrated_gradients": {"steps": 5},
    **{name: {"samples": 5} for name in ("gradient_shap", "expected_gradients", "smooth_grad", "var_grad")},
    "accumulated_saliency": {"passes": 3, "hide": 0.2},
    "tta": {"scales": [1.0, 1.5]},
    "smooth": {"samples": 3},
}


@pytest.fixture(scope="module")
def classifier() -> xaibench.Classifier:
    torch.manual_seed(0)
    module = create_module("test_resnet", num_classes=6, channels=(8, 8, 12, 16), stem_width=4, output_stride=8)
    for m in module.modules():  # BatchNorm that does something
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(m.running_mean, std=0.2)
            torch.nn.init.uniform_(m.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            torch.nn.init.normal_(m.bias, std=0.2)
    return xaibench.Classifier(module.double().eval())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 40, 56, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


IDS = ["a", "b", "c", "d"]
PAIRS = Pairs([1, 1, 1, 1, 1, 3, 2, 2], [0, 5, 2, 3, 1, 4, 4, 0])  # 0, 5, 2 and 1 pairs an image


def maps_of(
    classifier: xaibench.Classifier, method: str, images: Tensor, pairs: Pairs, ids: list[str]
) -> Tensor:
    entry = registry.methods[method]
    with torch.no_grad():
        return entry.function(Forward(classifier, images, ids=ids, seed=1), pairs, **entry.bind(QUICK.get(method, {})))


def close(found: Tensor, reference: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == reference.shape
    assert found.isfinite().all()
    assert (found - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_batch_order_size_and_chunk_do_not_matter(classifier: xaibench.Classifier, images: Tensor, method: str) -> None:
    reference = maps_of(classifier, method, images, PAIRS, IDS)
    assert reference.abs().max() > 0
    for row in range(len(PAIRS)):
        image = int(PAIRS.image[row])
        alone = maps_of(classifier, method, images[image][None], Pairs([0], PAIRS.label[row][None]), [IDS[image]])
        close(alone, reference[row][None])
    order = torch.tensor([2, 0, 3, 1])
    mixed = torch.tensor([4, 6, 0, 5, 1, 7, 3, 2])
    shuffled = Pairs(order.argsort()[PAIRS.image[mixed]], PAIRS.label[mixed])
    chunk = classifier.chunk
    try:
        classifier.chunk = 3
        close(maps_of(classifier, method, images[order], shuffled, [IDS[i] for i in order]), reference[mixed])
    finally:
        classifier.chunk = chunk


@pytest.mark.parametrize("method", METHODS)
def test_no_pairs_no_maps(classifier: xaibench.Classifier, images: Tensor, method: str) -> None:
    found = maps_of(classifier, method, images, Pairs([], []), IDS)
    some = maps_of(classifier, method, images, Pairs([0], [0]), IDS)
    assert found.shape == (0, *some.shape[1:])


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was_and_single_precision_agrees(
    classifier: xaibench.Classifier, images: Tensor, method: str
) -> None:
    reference = maps_of(classifier, method, images, PAIRS, IDS)
    module = classifier.module
    state = {k: v.clone() for k, v in module.state_dict().items()}
    module.train()
    module.layer1.requires_grad_(False)
    flags = [p.requires_grad for p in module.parameters()]
    in_place = [getattr(m, "inplace", None) for m in module.modules()]
    random_state = torch.get_rng_state()
    try:
        close(maps_of(classifier, method, images, PAIRS, IDS), reference, 1e-12)
        assert all(m.training for m in module.modules())
        assert [p.requires_grad for p in module.parameters()] == flags
        assert [getattr(m, "inplace", None) for m in module.modules()] == in_place
    finally:
        module.requires_grad_(True).eval()
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    try:
        single = xaibench.Classifier(module.float())
        found = maps_of(single, method, images.float(), PAIRS, IDS)
    finally:
        module.double()
        module.load_state_dict(state)
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found.double().flatten(), reference.flatten(), dim=0) > 0.9999
