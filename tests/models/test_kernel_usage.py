"""Kernel Usage Regularization: the golden kernel, and every method that reads the last layer sees it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import xaibench
from tests.support.golden import Golden
from xaibench.core.errors import UsageError
from xaibench.models.architectures import create_module
from xaibench.models.training.kernel_usage import fold, regularise


def test_effective_kernel_and_logits_are_the_originals(cnn: Golden) -> None:
    module = regularise(copy.deepcopy(cnn.classifier.module))
    head = module.get_submodule("fc")
    kernel = cnn.arrays["minmax/kur_effective_kernel"]
    np.testing.assert_allclose(head.weight.detach().numpy(), kernel, atol=1e-5 * abs(kernel).max())
    with torch.no_grad():
        logits = module(cnn.images).numpy()
    np.testing.assert_allclose(logits, cnn.arrays["minmax/kur_logits_on_same_weights"], atol=1e-5 * abs(logits).max())


@pytest.mark.parametrize("method", ["cam", "minmax_cam", "d_minmax_cam"])
def test_cam_and_minmax_use_the_effective_kernel(cnn: Golden, method: str) -> None:
    regularised = regularise(copy.deepcopy(cnn.classifier.module))
    plain = copy.deepcopy(cnn.classifier.module)
    with torch.no_grad():
        plain.get_submodule("fc").weight.copy_(torch.tensor(cnn.arrays["minmax/kur_effective_kernel"]))
    maps = [
        xaibench.explain(xaibench.Classifier(module), cnn.images, cnn.every_pair, method=method)
        for module in (regularised, plain)
    ]
    assert float((maps[0] - maps[1]).abs().max()) <= 1e-5 * float(maps[1].abs().max())


def test_folding_leaves_an_ordinary_model_with_the_same_logits() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    module = regularise(create_module("test_resnet", num_classes=5), alpha=3.0).eval()
    with torch.no_grad():
        before = module(images)
        after = fold(module)(images)
    assert torch.equal(before, after)
    create_module("test_resnet", num_classes=5).load_state_dict(module.state_dict())


def test_alpha_is_part_of_what_identifies_the_weights() -> None:
    hashes = set()
    for alpha in (1.0, 2.0):
        torch.manual_seed(0)
        hashes.add(xaibench.Classifier(regularise(create_module("test_resnet", num_classes=5), alpha)).weights_hash)
    assert len(hashes) == 2


def test_a_model_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="no linear layer"):
        regularise(nn.Sequential(nn.Conv2d(3, 4, 1)))
