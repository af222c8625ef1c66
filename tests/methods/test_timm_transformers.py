"""timm's own configurations, at random weights and small sizes: every attention and relevance method runs, or says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import xaibench
from xaibench.core.errors import IncompatibleError
from xaibench.models.architectures import create_module

ATTENTION = ("raw_attention", "attention_rollout", "generic_attention", "attention_grad_cam", "getam", "legrad")
RELEVANCE = ("transformer_lrp", "lrp_rollout", "partial_lrp", "attn_lrp", "cp_lrp")

# name, options, image size, map size; test_zoo.py has more, with every method
MODELS: list[tuple[str, dict[str, Any], tuple[int, int], tuple[int, int]]] = [
    ("vit_tiny_patch16_224", {"img_size": (64, 96)}, (64, 96), (4, 6)),
    ("deit3_small_patch16_224", {"img_size": 64}, (64, 64), (4, 4)),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "dynamic_img_size": True}, (28, 70), (2, 5)),
    ("vit_little_patch16_reg1_gap_256", {"img_size": 64}, (64, 64), (4, 4)),
    ("vit_tiny_r_s16_p8_224", {"img_size": 64}, (64, 64), (2, 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "size", "grid"), MODELS, ids=[f"{m[0]}-{m[2]}" for m in MODELS])
def test_every_method_runs(name: str, options: dict[str, Any], size: tuple[int, int], grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    module = create_module(name, num_classes=6, **options).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model = xaibench.Classifier(module, name=name)
    images = torch.randn(2, 3, *size, generator=generator)
    pairs = xaibench.Pairs([0, 0, 1], [0, 4, 2])
    for method in (*ATTENTION, *RELEVANCE):
        maps = xaibench.explain(model, images, pairs, method=method)
        assert maps.shape == (3, *grid), method
        assert torch.isfinite(maps).all(), method
    for method, parameters in (("full_lrp", {}), ("attn_lrp", {"level": "pixels"})):
        if "_r" in name.replace("_reg", ""):
            with pytest.raises(IncompatibleError, match="its stem"):
                xaibench.explain(model, images, pairs, method=method, **parameters)
        else:
            assert xaibench.explain(model, images, pairs, method=method, **parameters).shape == (3, *size)


@pytest.mark.slow
def test_swiglu_keeps_its_attention_methods() -> None:
    module = create_module("vit_giant_patch14_dinov2", img_size=28, embed_dim=32, depth=2, num_heads=2, num_classes=3)
    model = xaibench.Classifier(module.eval())
    images, pairs = torch.zeros(1, 3, 28, 28), xaibench.Pairs([0], [1])
    assert xaibench.explain(model, images, pairs, method="generic_attention").shape == (1, 2, 2)
    with pytest.raises(IncompatibleError, match=r"GluMlp|SwiGLU"):
        xaibench.explain(model, images, pairs, method="transformer_lrp")
