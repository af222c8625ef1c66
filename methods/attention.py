"""Maps from attention. A^b = post-softmax attention of block b [heads, N, N], G^b = dS_c/dA^b, r = the row of tokens
that the head reads (the class token; the mean of all patch tokens for models that pool; both class and distillation
token for distilled ones: the last two have no original). Prefix tokens are dropped from the map.
"""

from __future__ import annotations

import torch
from torch import Tensor, einsum

from xaibench.errors import UsageError
from xaibench.forward import Forward, Pairs
from xaibench.registry import method


@method(needs=("attention",), source="chefer2021, baseline", cost="1 forward")
def raw_attention(forward: Forward, pairs: Pairs) -> Tensor:
    """Attention of the last block: r · mean_h A^B. The same for all labels. Maps [P, h, w], fractions of attention."""
    last = forward.attentions[:, -1].mean(1)
    return forward.token_map(forward.readout(last.shape[-1]) @ last)[pairs.image]


@method(needs=("attention",), source="abnar2020, eq. 1; chefer2021, baseline", cost="1 forward")
def attention_rollout(forward: Forward, pairs: Pairs, *, start_layer: int = 1) -> Tensor:
    """r · Ā^B ... Ā^{s+1}, Ā = (mean_h A + I) with rows normalised, from block `start_layer` (0 is the first) on.

    The evaluation scripts of chefer2021 use start_layer = 1, their notebooks 0, and the maps differ a lot. The same for
    all labels. Maps [P, h, w].
    """
    attention = _from(forward.attentions, start_layer).mean(2)  # [B, blocks, N, N]
    mixed = attention + torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    mixed = mixed / mixed.sum(-1, keepdim=True)
    row = forward.readout(mixed.shape[-1]).expand(len(mixed), -1)
    for block in reversed(mixed.unbind(1)):
        row = einsum("bn,bnm->bm", row, block)
    return forward.token_map(row)[pairs.image]


@method(
    needs=("attention", "attention_gradients"), source="chefer2021generic, eq. 5-6", cost="1 forward, 1 backward per label"
)
def generic_attention(forward: Forward, pairs: Pairs, *, start_layer: int = 0) -> Tensor:
    """r · (I + M^B) ... (I + M^{s+1}), M^b = mean_h relu(G^b A^b). Maps [P, h, w]."""
    attention = _from(forward.attentions, start_layer)[pairs.image]
    gradients = forward.attention_gradients(pairs, start_layer)
    row = forward.readout(attention.shape[-1]).expand(len(pairs), -1)
    for m in reversed((gradients * attention).relu().mean(2).unbind(1)):
        row = row + einsum("pn,pnm->pm", row, m)
    return forward.token_map(row)


def _from(blocks: Tensor, start_layer: int) -> Tensor:
    if not 0 <= start_layer < blocks.shape[1]:
        raise UsageError(f"start_layer {start_layer}: the model has blocks 0..{blocks.shape[1] - 1}")
    return blocks[:, start_layer:]
