"""Tiny random variants of timm's plain transformer, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import xaibench
from xaibench.core.timm_import import import_timm

CLASSES = 5

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nonsquare": {"img_size": (16, 40)},
    "layer_scale": {"init_values": 0.3},
    "qk_norm": {"qk_norm": True},
    "scale_norm": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "registers": {"reg_tokens": 2, "no_embed_class": True},
    "pooled": {"global_pool": "avg", "class_token": False},
    "pooled_registers": {"global_pool": "avg", "class_token": False, "reg_tokens": 1},
    "pooled_beside_a_class_token": {"global_pool": "avg", "fc_norm": False},
    "pooled_with_the_class_token": {"global_pool": "avg", "pool_include_prefix": True},
    "pre_norm": {"pre_norm": True, "qkv_bias": False},
    "distilled": {"distilled": True},
    "dynamic": {"dynamic_img_size": True},
    "no_position": {"pos_embed": "none"},
}


def classifier(name: str, dtype: torch.dtype = torch.float64) -> xaibench.Classifier:
    import_timm()
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    options = dict(CONFIGURATIONS[name])
    family = VisionTransformerDistilled if options.pop("distilled", False) else VisionTransformer
    small = {"img_size": 24, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0}
    module = family(**{**small, "num_classes": CLASSES, **options})
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():  # timm starts LayerScale, tokens and biases at values that hide mistakes
        scale = 0.3 if parameter.ndim > 1 else 0.1
        offset = 1.0 if parameter.ndim == 1 and parameter.mean() > 0.5 else 0.0
        with torch.no_grad():
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))
    nn.init.constant_(module.head.bias, 0.1)
    return xaibench.Classifier(module.to(dtype).eval(), name=name)


def first_pooled(module: Any) -> int:
    """The first token of the mean that a pooling model reads."""
    return 0 if module.pool_include_prefix else int(module.num_prefix_tokens)


def images(name: str, count: int) -> Tensor:
    """The dynamic model gets a size that is not its own, with as many patches in another arrangement."""
    size = (16, 40) if name == "nonsquare" else (8, 72) if name == "dynamic" else (24, 24)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def some_pairs() -> xaibench.Pairs:
    """Pairs of four images, not in order: the images have three labels, none, one and all five."""
    return xaibench.Pairs([3, 0, 3, 0, 3, 2, 3, 0, 3], [4, 1, 0, 3, 2, 2, 1, 0, 3])
