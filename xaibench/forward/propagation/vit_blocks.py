"""The captured activations of timm's plain transformer blocks, by the names of their equations."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor

from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.forward import Forward, Pairs
from xaibench.models.structure import evaluation_mode
from xaibench.models.timm_vit import find_patch_embedding

Pool = Literal["mean", "head"]


class Blocks:
    """What relevance propagation and other methods read of one pass: blocks b = 0..depth-1 over N tokens.

    x (input) -> n1 = norm1(x) -> q, k, v -> A = softmax(q k^T d^-1/2) -> A v -> proj, LayerScale -> a; m = x + a;
    n2 = norm2(m) -> fc1, activation -> u -> fc2, LayerScale -> f; output m + f.
    """

    def __init__(self, forward: Forward) -> None:
        self.module: Any = forward.classifier.module  # a timm VisionTransformer
        self.activations = forward.activations(forward.classifier.blocks)
        self.depth = len(forward.classifier.attention.layers)

    def check(self, what: str, block: int) -> int:
        """A block number, counted from 0 or (negative) from the end, as one from 0."""
        if not -self.depth <= block < self.depth:
            raise UsageError(f"{what} {block}: the model has blocks 0..{self.depth - 1}")
        return block % self.depth

    def of(self, block: int, name: str) -> Tensor:
        """What a module of the block returned, or its "input"."""
        if name == "input":
            return self.activations[f"blocks.{block - 1}" if block else "norm_pre"]
        return self.activations[f"blocks.{block}.{name}"]

    def qkv(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys after their norms, and values: each [B, heads, N, d]."""
        query, key = self.of(block, "attn.q_norm"), self.of(block, "attn.k_norm")
        qkv = self.of(block, "attn.qkv").unflatten(-1, (3, query.shape[1], -1))
        return query, key, qkv[:, :, 2].transpose(1, 2)

    def mixed(self, block: int, attention: Tensor, values: Tensor) -> Tensor:
        """[B, n, heads · d]: the input of the output projection, for attention [B, heads, n, N]."""
        out = (attention @ values).transpose(1, 2).flatten(2)
        norm = getattr(self.module.blocks[block].attn, "norm", None)
        return out if norm is None else cast(Tensor, norm(out))

    def output(self, block: int, attention: Tensor) -> Tensor:
        """The block's output [B, N, D] as a function of its attention [B, heads, N, N]."""
        layer = self.module.blocks[block]
        mixed = self.mixed(block, attention, self.qkv(block)[2])
        m = self.of(block, "input") + layer.drop_path1(layer.ls1(layer.attn.proj_drop(layer.attn.proj(mixed))))
        return cast(Tensor, m + layer.drop_path2(layer.ls2(layer.mlp(layer.norm2(m)))))

    def logits(self, tokens: Tensor, pool: Pool) -> Tensor:
        """[B, L] that the model's head makes of tokens [B, N, D], which need not be those of the last block.

        Args:
            pool: "head": read as the model does; "mean": the mean of all tokens, normalised after the mean
        """
        if pool == "head":
            return cast(Tensor, self.module.forward_head(self.module.norm(tokens)))
        pooled = self.module.fc_norm(self.module.norm(tokens.mean(1)))
        logits: Tensor = self.module.head(pooled)
        distilled = getattr(self.module, "head_dist", None)
        return logits if distilled is None else cast(Tensor, (logits + distilled(pooled)) / 2)


def own_gradients(forward: Forward, pairs: Pairs, *, start_layer: int, pool: Pool) -> dict[int, Tensor]:
    """Gradient of the logit that the head makes of a block's own output, with respect to that block's attention.

    Returns:
        {block: [P, heads, N, N]} from `start_layer` on (negative: from the end)
    """
    blocks = Blocks(forward)
    found: dict[int, Tensor] = {}
    for block in range(blocks.check("start_layer", start_layer), blocks.depth):
        attention = blocks.of(block, "attn.attn_drop").detach().requires_grad_()
        with evaluation_mode(forward.classifier.module), torch.enable_grad():
            logits = blocks.logits(blocks.output(block, attention), pool)
        found[block] = forward.rank_gradients(logits, attention, pairs)
    return found


def check_patch_embedding(forward: Forward) -> None:
    """Raise IncompatibleError unless the stem is timm's plain convolution over an image of whole patches."""
    embed = find_patch_embedding(forward.classifier.module)
    if any(size % patch for size, patch in zip(forward.images.shape[-2:], embed.proj.stride, strict=True)):
        raise IncompatibleError(f"model {forward.classifier.name}: relevance of pixels needs images of whole patches")
