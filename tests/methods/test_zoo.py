"""Stock timm models at random weights and small sizes: every method that goes with one runs, the others say why."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import xaibench
from xaibench.core import registry
from xaibench.core.errors import IncompatibleError
from xaibench.models.architectures import create_module

FROM_ATTENTION = {"raw_attention", "attention_rollout", "generic_attention", "attention_grad_cam", "getam", "legrad"}
RELEVANCE = {"transformer_lrp", "lrp_rollout", "partial_lrp", "attn_lrp", "cp_lrp"}
TRANSFORMER = FROM_ATTENTION | RELEVANCE | {"full_lrp"}
RELU = {"deconvolution", "deep_lift", "full_grad", "guided_backprop", "guided_grad_cam", "lrp"}
LINEAR = {"cam", "minmax_cam", "d_minmax_cam"}
ANY_SIZE = {"tta", "puzzle"}
VIT = RELU | LINEAR | ANY_SIZE

# options, side of the image and of the token grid, what does not go with it; test_timm_transformers.py has more
# transformers, in other sizes
MODELS: dict[str, tuple[dict[str, Any], int, int, set[str]]] = {
    "resnet50": ({}, 64, 0, TRANSFORMER),
    "wide_resnet50_2": ({}, 64, 0, TRANSFORMER),
    "vgg19_bn": ({}, 64, 0, TRANSFORMER | LINEAR),
    "densenet121": ({}, 64, 0, TRANSFORMER),
    "efficientnet_b0": ({}, 64, 0, TRANSFORMER | RELU),
    "convnext_tiny": ({}, 64, 0, TRANSFORMER | RELU | LINEAR),
    "regnety_002": ({}, 64, 0, TRANSFORMER | RELU),
    "resnest26d": ({}, 64, 0, TRANSFORMER | RELU),
    "vit_tiny_patch16_224": ({"img_size": 64}, 64, 4, VIT),
    "deit_tiny_distilled_patch16_224": ({"img_size": 64}, 64, 4, VIT),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56}, 56, 4, VIT),
    "vit_base_r26_s32_224": ({"img_size": 64}, 64, 2, VIT | {"full_lrp"}),
    "swin_tiny_patch4_window7_224": ({"img_size": 64, "window_size": 2}, 64, 0, TRANSFORMER | RELU | ANY_SIZE),
}
CHEAP: dict[str, dict[str, Any]] = {
    "rise": {"samples": 3, "cells": 2},
    "lime": {"samples": 6, "cells": 2},
    "kernel_shap": {"samples": 8, "cells": 2},
    "integrated_gradients": {"steps": 2},
    **{name: {"samples": 2} for name in ("gradient_shap", "expected_gradients", "smooth_grad", "var_grad", "smooth")},
    "accumulated_saliency": {"passes": 1, "tiles": 2},
    "tta": {"scales": [1.0]},
    "occlusion": {"window": 32, "stride": 32},
    "feature_ablation": {"patch": 32},
    "score_cam": {"layer": "input"},  # a pass per channel: the input has three
    "ablation_cam": {"layer": "input"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_compatible_method_runs(name: str) -> None:
    options, side, grid, unfit = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    module = create_module(name, num_classes=6, **options).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                scale = parameter[0].numel() ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model = xaibench.Classifier(module, name=name)
    images = torch.randn(2, 3, side, side, generator=generator)
    pairs = xaibench.Pairs([0, 0, 1], [0, 4, 2])
    refused = {}
    for method in sorted(set(registry.methods) - {"oracle"}):
        try:
            maps = xaibench.explain(model, images, pairs, method=method, **CHEAP.get(method, {}))
        except IncompatibleError as reason:
            refused[method] = str(reason)
            continue
        assert maps.ndim == 3, method
        assert len(maps) == len(pairs), method
        assert maps.shape[-2] == maps.shape[-1] <= side, method
        assert maps.shape[-1] == grid or method not in FROM_ATTENTION | RELEVANCE, method
        assert maps.isfinite().all(), method
    assert refused.keys() == unfit
    for method, reason in refused.items():
        assert name in reason, method
        assert "\n" not in reason, method
    if "swin" in name:
        assert "SwinTransformer has no attention over one fixed set of patch tokens" in refused["raw_attention"]
