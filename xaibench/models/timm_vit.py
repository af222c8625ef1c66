"""Attention and blocks of timm's VisionTransformer: the modules whose outputs are read.

timm's fused attention never materialises the N x N matrix; `unfused_attention` turns it off, so that the softmax output
passes through each block's `attn_drop`, where `Forward` reads it. No module is replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.core.errors import IncompatibleError
from xaibench.core.timm_import import import_timm

SUFFIX = ".attn_drop"


@dataclass(frozen=True)
class Attention:
    """Attention of a plain transformer: B blocks over the same N tokens.

    Attributes:
        layers: dotted names of the modules that the post-softmax matrices [B, heads, N, N] pass through
        prefix: number of tokens before the patch tokens (class, distillation, registers)
        readout: tokens the head reads: "token" the class token, "distilled" class and distillation token, "avg" the
            mean of the tokens from `pooled` on
        pooled: the first token of that mean: `prefix`, or 0 where the pooling includes the prefix tokens
    """

    layers: tuple[str, ...]
    prefix: int
    readout: str
    pooled: int = 0

    def row(self, tokens: int, like: Tensor) -> Tensor:
        """[N] weights with which the head reads the tokens: where a rollout starts."""
        row = torch.zeros(tokens, dtype=like.dtype, device=like.device)
        if self.readout == "avg":
            row[self.pooled :] = 1 / (tokens - self.pooled)
        elif self.readout == "distilled":
            row[:2] = 0.5
        else:
            row[0] = 1
        return row


def find_attention(module: nn.Module) -> Attention:
    """The attention of a module. Raises IncompatibleError with the reason, a clause, where it cannot be read."""
    import_timm()
    from timm.models.vision_transformer import Attention as TimmAttention
    from timm.models.vision_transformer import VisionTransformer

    family = type(module).__name__
    if not isinstance(module, VisionTransformer):
        raise IncompatibleError(
            f"{family} has no attention over one fixed set of patch tokens (timm VisionTransformer and DeiT have)"
        )
    for block in module.blocks:
        attention: Any = getattr(block, "attn", None)
        if attention is None:
            raise IncompatibleError(
                f"{family} is built of {type(block).__name__}, whose attention matrices are not read yet"
            )
        if type(attention) is not TimmAttention:
            raise IncompatibleError(f"{family} uses {type(attention).__name__}, whose matrices are not read yet")
        if getattr(attention, "gate", None) is not None:
            raise IncompatibleError(f"{family} gates its attention output, for which attention maps do not account")
    readout = "distilled" if hasattr(module, "head_dist") else str(module.global_pool)
    if readout not in ("token", "distilled", "avg"):
        raise IncompatibleError(
            f"{family} reads its tokens by global_pool={module.global_pool!r}; attention maps need token or avg"
        )
    names = tuple(f"blocks.{index}.attn{SUFFIX}" for index in range(len(module.blocks)))
    prefix = int(module.num_prefix_tokens)
    return Attention(names, prefix, readout, 0 if getattr(module, "pool_include_prefix", False) else prefix)


def find_blocks(module: nn.Module) -> tuple[str, ...]:
    """The modules whose outputs relevance propagation reads.

    Raises:
        IncompatibleError: with the reason, a clause, where there are no rules for them
    """
    attention = find_attention(module)
    from timm.layers import Mlp
    from timm.models.vision_transformer import Block

    family = type(module).__name__
    if not isinstance(module.head, nn.Linear):
        raise IncompatibleError(f"{family} has no linear classification head")
    for block in module.blocks:  # type: ignore[union-attr]
        if type(block) is not Block:
            raise IncompatibleError(
                f"{family} is built of {type(block).__name__}, for which relevance propagation has no rules"
            )
        if type(block.mlp) is not Mlp or not isinstance(block.mlp.fc1, nn.Linear):
            raise IncompatibleError(
                f"{family} uses {type(block.mlp).__name__}, for which relevance propagation has no rules"
            )
    inner = ("norm1", "attn.qkv", "attn.q_norm", "attn.k_norm", "attn.attn_drop", "drop_path1", "norm2", "mlp.norm",
             "drop_path2")  # fmt: skip
    taps = ["patch_embed", "patch_drop", "norm_pre", "norm"] + ([] if attention.readout == "distilled" else ["fc_norm"])
    for index in range(len(module.blocks)):  # type: ignore[arg-type]
        taps += [f"blocks.{index}", *(f"blocks.{index}.{name}" for name in inner)]
    return tuple(taps)


def find_patch_embedding(module: nn.Module) -> Any:
    """The plain convolution over patches of a plain transformer.

    Raises:
        IncompatibleError: with the reason, a clause, where there is none
    """
    find_blocks(module)
    from timm.layers import PatchEmbed

    embed: Any = getattr(module, "patch_embed", None)
    if type(embed) is not PatchEmbed:
        kind = type(embed).__name__
        raise IncompatibleError(
            f"relevance of pixels has no rules for its stem ({kind}), only for a convolution that embeds patches"
        )
    return embed


@contextlib.contextmanager
def unfused_attention(module: nn.Module, layers: tuple[str, ...]) -> Iterator[None]:
    """Fused attention off in the blocks of `layers`, and restored at the end."""
    owners: list[Any] = [module.get_submodule(name.removesuffix(SUFFIX)) for name in layers]
    before = [owner.fused_attn for owner in owners]
    try:
        for owner in owners:
            owner.fused_attn = False
        yield
    finally:
        for owner, fused in zip(owners, before, strict=True):
            owner.fused_attn = fused
