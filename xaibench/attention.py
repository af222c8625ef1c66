"""Where a timm transformer's attention matrices can be read, and how a token row becomes a map.

timm's fused attention never materialises the N x N matrix; inside `exposed` it is turned off, so that the softmax
output passes through each block's `attn_drop`, where `Forward` taps it. No module is replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SUFFIX = ".attn_drop"


@dataclass(frozen=True)
class Attention:
    """Attention of a plain transformer: B blocks over the same N tokens.

    Attributes:
        layers: dotted names of the modules that the post-softmax matrices [B, heads, N, N] pass through
        prefix: number of tokens before the patch tokens (class, distillation, registers)
        readout: tokens the head reads: "token" the class token, "distilled" class and distillation token, "avg" the
            mean of all patch tokens
    """

    layers: tuple[str, ...]
    prefix: int
    readout: str

    def row(self, tokens: int, like: Tensor) -> Tensor:
        """[N] weights with which the head reads the tokens: where a rollout starts."""
        row = torch.zeros(tokens, dtype=like.dtype, device=like.device)
        if self.readout == "avg":
            row[self.prefix :] = 1 / (tokens - self.prefix)
        elif self.readout == "distilled":
            row[:2] = 0.5
        else:
            row[0] = 1
        return row


def find_attention(module: nn.Module) -> Attention | str:
    """The attention of `module`, or the reason (a clause) why it cannot be read."""
    from xaibench.models import import_timm

    import_timm()
    from timm.layers.attention import Attention as TimmAttention
    from timm.models.vision_transformer import VisionTransformer

    family = type(module).__name__
    if not isinstance(module, VisionTransformer):
        return f"{family} has no attention over one fixed set of patch tokens (timm VisionTransformer and DeiT have)"
    for block in module.blocks:
        attention: Any = getattr(block, "attn", None)
        if type(attention) is not TimmAttention:
            return f"{family} uses {type(attention).__name__}, whose matrices are not read yet"
        if attention.gate is not None:
            return f"{family} gates its attention output, for which attention maps do not account"
    readout = "distilled" if hasattr(module, "head_dist") else str(module.global_pool)
    if readout not in ("token", "distilled", "avg"):
        return f"{family} reads its tokens by global_pool={module.global_pool!r}; attention maps need token or avg"
    names = tuple(f"blocks.{index}.attn{SUFFIX}" for index in range(len(module.blocks)))
    return Attention(names, int(module.num_prefix_tokens), readout)


@contextlib.contextmanager
def exposed(module: nn.Module, layers: tuple[str, ...]) -> Iterator[None]:
    """Fused attention off in the blocks of `layers`, as it was afterwards."""
    owners: list[Any] = [module.get_submodule(name.removesuffix(SUFFIX)) for name in layers]
    before = [owner.fused_attn for owner in owners]
    try:
        for owner in owners:
            owner.fused_attn = False
        yield
    finally:
        for owner, fused in zip(owners, before, strict=True):
            owner.fused_attn = fused
