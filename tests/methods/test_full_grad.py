"""FullGrad is complete: input and biases together make the logit, wherever the bias of a normalisation is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import xaibench
from xaibench.forward import Forward, Pairs
from xaibench.methods.vgatt import full_grad_terms
from xaibench.models.architectures import create_module


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "test_resnet"])
def test_terms_sum_to_the_logit(name: str) -> None:
    torch.manual_seed(0)
    module = create_module(name, num_classes=3).double().eval()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=0.2)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.2)
    classifier = xaibench.Classifier(module)
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    pairs = Pairs([1, 0, 1], [2, 0, 1])
    forward = Forward(classifier, images)
    with torch.no_grad():
        found = full_grad_terms(forward, pairs)
    head = module.get_classifier().bias.detach()[pairs.label]
    torch.testing.assert_close(found + head, forward.logits[pairs.image, pairs.label], atol=1e-9, rtol=1e-9)
