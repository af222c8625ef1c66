"""Relevance propagation through timm's plain transformers: the rules of chefer2021, in closed form.

Every rule takes forward activations of images [B, ...] and relevance of pairs [P, ...]; `image` [P] is the image that a
pair belongs to, so that what depends on the image alone (Z, 1/Z) is computed once and shared by its labels. Biases get
no relevance; normalisation, activation functions, softmax, dropout and LayerScale pass it on unchanged. Nothing is
conserved from input to output, by design of the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaibench.core.errors import UsageError
from xaibench.forward import Forward, Pairs
from xaibench.forward.propagation.vit_blocks import Blocks, check_patch_embedding

Rules = Literal["ours", "orig"]
EPS = 1e-9


# -- the rules ----------------------------------------------------------------------------------------------------


def inverse(b: Tensor) -> Tensor:
    """1 / (b + 1e-9) and 0 where b = 0: the original's safe division, which ignores the sign of b."""
    shifted = b + EPS
    return shifted.where(shifted != 0, EPS).reciprocal().where(b != 0, 0)


def linear(x: Tensor, weight: Tensor, relevance: Tensor, image: Tensor, rules: Rules) -> Tensor:
    """R_i = sum_j [x_i w_ji]+ R_j / sum_i' [x_i' w_ji']+  ("ours": alpha 1, beta 0).

    "orig" normalises x+ w+ and x- w- separately, so that each part carries all of R_j.

    Args:
        x: input [B, n, I]
        weight: [J, I]
        relevance: of the output [P, n, J]

    Returns:
        relevance of the input [P, n, I]
    """
    weight = weight.detach()
    if rules == "ours":  # [t]+ = (t + |t|) / 2, which needs one copy of the weight and not two
        size = weight.abs()
        z = positive_part(x @ weight.T, x.abs() @ size.T, weight.shape[1])
        s = relevance * (inverse(z) / 2)[image]
        return torch.addcmul(x[image] * (s @ weight), x.abs()[image], s @ size)
    x_positive, x_negative = x.clamp(min=0), x.clamp(max=0)
    w_positive, w_negative = weight.clamp(min=0), weight.clamp(max=0)
    s_positive = relevance * inverse(x_positive @ w_positive.T)[image]
    s_negative = relevance * inverse(x_negative @ w_negative.T)[image]
    return x_positive[image] * (s_positive @ w_positive) + x_negative[image] * (s_negative @ w_negative)


def positive_part(total: Tensor, size: Tensor, terms: int) -> Tensor:
    """sum [t]+ from sum t and sum |t|; exactly 0 where their rounding hides it, as where no term is positive."""
    positive = (total + size) / 2
    return positive.where(positive > 2 * terms**0.5 * torch.finfo(size.dtype).eps * size, 0)


def add(skip: Tensor, branch: Tensor, relevance: Tensor, image: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Relevance [P, n, D] of m = skip + branch [B, n, D], split in proportion: R skip / m and R branch / m.

    "ours" rescales both parts by their sums A, B over all tokens and channels of the pair to |A| Q / ((|A| + |B|) A)
    and |B| Q / ((|A| + |B|) B), Q = sum R: nothing changes unless A and B differ in sign.
    """
    share = inverse(skip + branch)
    parts = relevance * (skip * share)[image], relevance * (branch * share)[image]
    if rules == "orig":
        return parts
    a, b = (part.sum((1, 2), keepdim=True) for part in parts)
    unit = inverse(a.abs() + b.abs()) * relevance.sum((1, 2), keepdim=True)
    return parts[0] * (a.abs() * unit * inverse(a)), parts[1] * (b.abs() * unit * inverse(b))


def clone(x: Tensor, first: Tensor, second: Tensor, image: Tensor) -> Tensor:
    """Relevance of x [B, n, D] used twice: x (R1 / x + R2 / x), their sum up to the stabiliser, 0 where x = 0."""
    return (first + second) * (x * inverse(x))[image]


def product(left: Tensor, right: Tensor, relevance: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of o = left · right (matrices [B, H, n, k] and [B, H, k, d]): half to each factor, in proportion."""
    s = relevance * inverse(left @ right)[image]
    return left[image] * (s @ right[image].mT) / 2, right[image] * (left[image].mT @ s) / 2


def pick(tokens: Tensor, picked: Tensor, relevance: Tensor, image: Tensor) -> Tensor:
    """Relevance [P, n, D] of tokens [B, n, D] with sum `picked` [B, D], in proportion, from its relevance [P, D]."""
    return tokens[image] * (relevance * inverse(picked)[image])[:, None]


def patches(images: Tensor, convolution: nn.Conv2d, relevance: Tensor, image: Tensor) -> Tensor:
    """z^B rule of the patch embedding, summed over colours: [P, D, h, w] to [P, H, W].

    R = X·(S * W) - L·(S * W+) - U·(S * W-) with Z = X * W - L * W+ - U * W- + 1e-9 and S = R / Z; L and U are the
    smallest and largest value of the image itself, not of the data set.
    """
    weight, stride = convolution.weight.detach(), convolution.stride
    low = images.amin((1, 2, 3), keepdim=True).expand_as(images)
    high = images.amax((1, 2, 3), keepdim=True).expand_as(images)
    terms = [(images, weight), (-low, weight.clamp(min=0)), (-high, weight.clamp(max=0))]
    z = torch.stack([F.conv2d(x, w, stride=stride) for x, w in terms]).sum(0) + EPS
    s = relevance / z[image]
    return torch.stack([(x[image] * F.conv_transpose2d(s, w, stride=stride)).sum(1) for x, w in terms]).sum(0)


# -- the walk -----------------------------------------------------------------------------------------------------


def attention_relevance(
    forward: Forward, pairs: Pairs, *, rules: Rules, start_layer: int
) -> Iterator[tuple[int, Tensor]]:
    """Block and relevance R_A of its attention [P, heads, N, N], from the last block down to `start_layer`."""
    walk = _Walk(forward, pairs, rules)
    if not 0 <= start_layer < walk.blocks.depth:
        raise UsageError(f"start_layer {start_layer}: the model has blocks 0..{walk.blocks.depth - 1}")
    relevance = walk.head()
    for block in reversed(range(start_layer, walk.blocks.depth)):
        attention, values, skip = walk.down_to_attention(block, relevance)
        yield block, F.pad(attention, (0, 0, 0, attention.shape[-1] - attention.shape[-2]))
        if block > start_layer:
            relevance = walk.below_attention(block, attention, values, skip)


def pixel_relevance(forward: Forward, pairs: Pairs, *, rules: Rules) -> Tensor:
    """Relevance of every pixel [P, H, W], signed."""
    check_patch_embedding(forward)
    walk = _Walk(forward, pairs, rules)
    relevance = walk.head()
    for block in reversed(range(walk.blocks.depth)):
        relevance = walk.below_attention(block, *walk.down_to_attention(block, relevance))
    return walk.pixels(relevance)


class _Walk:
    """One pass of relevance from the logits down, by the captured activations of the pass of `forward`.

    Above the attention of the last block only the tokens that the head reads carry relevance. They come first, so that
    activations are cut to as many tokens as the relevance has.
    """

    def __init__(self, forward: Forward, pairs: Pairs, rules: Rules) -> None:
        self.module: Any = forward.classifier.module
        self.attention = forward.classifier.attention
        self.images = forward.images
        self.blocks = Blocks(forward)
        self.image, self.label, self.rules = pairs.image, pairs.label, rules

    def head(self) -> Tensor:
        """Relevance of the last block's output [P, n, D], n the number of leading tokens that the head reads."""
        tokens = self.blocks.activations["norm"]
        start = F.one_hot(self.label, self.module.head.out_features).to(tokens.dtype)[:, None]
        if self.attention.readout == "distilled":
            heads = (self.module.head, self.module.head_dist)
            logits = [head(tokens[:, index : index + 1]).detach() for index, head in enumerate(heads)]
            starts = add(logits[0], logits[1], start, self.image, self.rules)
            return torch.cat([self._read(index, heads[index], starts[index]) for index in range(2)], 1)
        if self.attention.readout == "token":
            return self._read(0, self.module.head, start, self.blocks.activations["fc_norm"])
        first = self.attention.pooled
        relevance = self._linear(self.blocks.activations["fc_norm"][:, None], self.module.head, start)[:, 0]
        pooled = tokens[:, first:]
        return F.pad(pick(pooled, pooled.sum(1), relevance, self.image), (0, 0, first, 0))

    def _read(self, index: int, head: nn.Linear, relevance: Tensor, features: Tensor | None = None) -> Tensor:
        """Relevance [P, 1, D] of the token that a linear head reads, as it is or through a norm as `features`."""
        token = self.blocks.activations["norm"][:, index]
        below = self._linear((token if features is None else features)[:, None], head, relevance)
        return pick(token[:, None], token, below[:, 0], self.image)

    def down_to_attention(self, block: int, relevance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From a block's output to its attention: relevance of A [P, heads, n, N], of v and of the skip [P, n, D]."""
        layer, n = self.module.blocks[block], relevance.shape[1]
        x, a, n2, u, f = (
            self.blocks.of(block, name)[:, :n] for name in ("input", "drop_path1", "norm2", "mlp.norm", "drop_path2")
        )
        m = x + a
        skip, branch = add(m, f, relevance, self.image, self.rules)
        branch = self._linear(n2, layer.mlp.fc1, self._linear(u, layer.mlp.fc2, branch))
        skip, branch = add(x, a, clone(m, skip, branch, self.image), self.image, self.rules)
        attention, values = self.blocks.of(block, "attn.attn_drop")[:, :, :n], self.blocks.qkv(block)[2]
        branch = self._linear(self.blocks.mixed(block, attention, values).detach(), layer.attn.proj, branch)
        heads = branch.unflatten(-1, (attention.shape[1], -1)).transpose(1, 2)
        return *product(attention, values, heads, self.image), skip

    def below_attention(self, block: int, attention: Tensor, values: Tensor, skip: Tensor) -> Tensor:
        """From a block's attention to its input [P, N, D]."""
        n, tokens = attention.shape[-2:]
        query, key, _ = self.blocks.qkv(block)
        queries, keys = product(query[:, :, :n], key.mT, attention, self.image)
        qkv = torch.stack([F.pad(queries, (0, 0, 0, tokens - n)), keys.mT, values], 1)  # [P, 3, heads, N, d]
        branch = self._linear(
            self.blocks.of(block, "norm1"), self.module.blocks[block].attn.qkv, qkv.permute(0, 3, 1, 2, 4).flatten(2)
        )
        return clone(self.blocks.of(block, "input"), F.pad(skip, (0, 0, 0, tokens - n)), branch, self.image)

    def pixels(self, relevance: Tensor) -> Tensor:
        """From the first block's input [P, N, D] to the image [P, H, W]."""
        tokens, embedded = self.blocks.activations["patch_drop"], self.blocks.activations["patch_embed"]
        convolution, prefix = self.module.patch_embed.proj, self.attention.prefix
        if embedded.ndim == 4:  # dynamic image size: [B, h, w, D]
            embedded = embedded.flatten(1, 2)
        if self.module.pos_embed is not None:
            if self.module.no_embed_class:
                relevance, tokens, prefix = relevance[:, prefix:], tokens[:, prefix:], 0
            else:
                first = (getattr(self.module, name, None) for name in ("cls_token", "dist_token", "reg_token"))
                extra = [token.detach().expand(len(embedded), -1, -1) for token in first if token is not None]
                embedded = torch.cat([*extra, embedded], 1)
            relevance, _ = add(embedded, tokens - embedded, relevance, self.image, self.rules)
        h, w = (size // patch for size, patch in zip(self.images.shape[-2:], convolution.stride, strict=True))
        grid = relevance[:, prefix:].transpose(1, 2).unflatten(-1, (h, w))
        return patches(self.images, convolution, grid, self.image)

    def _linear(self, x: Tensor, layer: nn.Linear, relevance: Tensor) -> Tensor:
        return linear(x, layer.weight, relevance, self.image, self.rules)
