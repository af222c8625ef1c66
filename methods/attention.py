"""Maps from attention. A^b = post-softmax attention of block b [heads, N, N], G^b = dS_c/dA^b, r = the row of tokens
that the head reads (the class token; the mean of all patch tokens for models that pool; both class and distillation
token for distilled ones: the last two have no original). Prefix tokens are dropped from the map.
"""

from __future__ import annotations

import torch
from torch import Tensor, einsum

from xaibench.core.errors import UsageError
from xaibench.core.registry import method
from xaibench.forward import Forward, Pairs
from xaibench.forward.propagation.vit_blocks import Pool, own_gradients


@method(
    needs=("attention",),
    source="chefer2021, baseline",
    forwards="shared",
    backwards=0,
    criticism="It is the same for all labels, and the last block only.",
    elsewhere="last_layer_attn in the code of chefer2021.",
)
def raw_attention(forward: Forward, pairs: Pairs) -> Tensor:
    """Attention of the last block: r · mean_h A^B. The same for all labels. Maps [P, h, w], fractions of attention."""
    last = forward.attentions[:, -1].mean(1)
    return forward.token_map(forward.readout(last.shape[-1]) @ last)[pairs.image]


@method(
    needs=("attention",),
    source="abnar2020, eq. 1; chefer2021, baseline",
    forwards="shared",
    backwards=0,
    rankings_change_with=("start_layer",),
    criticism="It is the same for all labels: attention says which tokens are mixed, not which speak for a label.",
    elsewhere="The evaluation scripts of chefer2021 use start_layer = 1, their notebooks 0, and the maps differ a lot.",
)
def attention_rollout(forward: Forward, pairs: Pairs, *, start_layer: int = 1) -> Tensor:
    """Attention of all blocks, multiplied: r · Ā^B ... Ā^{s+1}, Ā = (mean_h A + I) with rows normalised.

    Blocks from `start_layer` (0 is the first) on. The same for all labels. Maps [P, h, w].
    """
    attention = _from(forward.attentions, start_layer).mean(2)  # [B, blocks, N, N]
    mixed = attention + torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    mixed = mixed / mixed.sum(-1, keepdim=True)
    row = forward.readout(mixed.shape[-1]).expand(len(mixed), -1)
    for block in reversed(mixed.unbind(1)):
        row = einsum("bn,bnm->bm", row, block)
    return forward.token_map(row)[pairs.image]


@method(
    needs=("attention", "attention_gradients"),
    source="chefer2021generic, eq. 5-6",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("start_layer",),
    criticism="What speaks against the label is cut off in every block.",
    elsewhere="The authors' CLIP notebook takes the last block only. They normalise rows for co-attention, not for a "
    "ViT.",
)
def generic_attention(forward: Forward, pairs: Pairs, *, start_layer: int = 0) -> Tensor:
    """Attention times its gradient, rolled out: r · (I + M^B) ... (I + M^{s+1}), M^b = mean_h relu(G^b A^b).

    Maps [P, h, w].
    """
    attention = _from(forward.attentions, start_layer)[pairs.image]
    gradients = forward.attention_gradients(pairs, start_layer)
    row = forward.readout(attention.shape[-1]).expand(len(pairs), -1)
    for m in reversed((gradients * attention).relu().mean(2).unbind(1)):
        row = row + einsum("pn,pnm->pm", row, m)
    return forward.token_map(row)


@method(
    needs=("attention", "attention_gradients"),
    source="chefer2021, baseline",
    forwards="shared",
    backwards="shared * pairs",
    criticism="The ReLU may empty a map; it is 0 then.",
    elsewhere="attn_gradcam in the code of chefer2021, whose min-max makes 0/0 of an empty map.",
)
def attention_grad_cam(forward: Forward, pairs: Pairs) -> Tensor:
    """Grad-CAM on the attention of the last block: relu(mean_h w_h (r · A^B_h)), w_h = mean over patches of r · G^B_h.

    Maps [P, h, w] before the original's min-max, which makes 0/0 of a map that the ReLU has emptied; here it is 0.
    """
    last = len(forward.classifier.attention.layers) - 1
    r = forward.readout(forward.attentions.shape[-1])
    attended = einsum("n,bhnm->bhm", r, forward.attentions[:, last])[pairs.image]
    gradients = einsum("n,phnm->phm", r, forward.attention_gradients(pairs, last)[:, 0])
    weights = forward.token_map(gradients).mean((-2, -1))
    return forward.token_map(einsum("ph,phm->phm", weights, attended).mean(1).relu())


@method(
    needs=("attention", "attention_gradients"),
    source="sun2021; official DPT/DPT.py",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("start_layer",),
    elsewhere="The authors train with the last 6 of 12 blocks, and refine maps by the image's colours.",
)
def getam(forward: Forward, pairs: Pairs, *, start_layer: int = 0) -> Tensor:
    """Attention, coupled twice with its gradient: r · sum_b (mean_h relu(G^b A^b)) ⊙ (mean_h relu(G^b)).

    The sum runs over blocks from `start_layer` (0 is the first) on; the authors train with the last 6 of 12. Maps
    [P, h, w], non-negative, before their pixel-adaptive refinement.
    """
    attention = _from(forward.attentions, start_layer)[pairs.image]
    gradients = forward.attention_gradients(pairs, start_layer)
    coupled = (gradients * attention).relu().mean(2) * gradients.relu().mean(2)  # [P, blocks, N, N]
    return forward.token_map(einsum("n,pbnm->pm", forward.readout(attention.shape[-1]), coupled))


@method(
    needs=("transformer_blocks",),
    source="bousselham2024; official legrad/wrapper.py",
    forwards="shared",
    backwards="pairs * ((-start_layer - 1) % blocks + 1)",
    cost="a backward is one of a single block and the head; blocks run once more for their gradients",
    rankings_change_with=("start_layer", "pool"),
    elsewhere="The authors' wrapper is for CLIP, where the score is a cosine with a text.",
)
def legrad(forward: Forward, pairs: Pairs, *, start_layer: int = -2, pool: Pool = "mean") -> Tensor:
    """Positive gradients of every block's own score: sum_b mean_h mean_i relu(ds^b/dA^b)[h, i, :].

    s^b is the label's logit that the model's head makes of block b's output, so each gradient goes through one block
    only; attention itself does not enter. i runs over all tokens. The sum runs over blocks from `start_layer` on;
    negative numbers count from the end, and -2 is the default of the authors' code.

    Args:
        pool: what the head is given: "mean" of all tokens, as the authors do for CLIP (their score is then a cosine
            with a text, here it is the logit); "head": the tokens the model reads

    Returns:
        maps [P, h, w], non-negative
    """
    gradients = own_gradients(forward, pairs, start_layer=start_layer, pool=pool)
    return forward.token_map(torch.stack([g.relu().mean((1, 2)) for g in gradients.values()]).sum(0))


def _from(blocks: Tensor, start_layer: int) -> Tensor:
    if not 0 <= start_layer < blocks.shape[1]:
        raise UsageError(f"start_layer {start_layer}: the model has blocks 0..{blocks.shape[1] - 1}")
    return blocks[:, start_layer:]
