"""Layer-wise relevance propagation in transformers (rules: `xaibench.relprop`).

A^b = post-softmax attention of block b [heads, N, N], R_A^b its relevance, G^b = dS_c/dA^b, r = the row of tokens that
the head reads (the class token). Relevance starts at 1, not at the logit, and walks down from the last block B; a
rollout does too, since later blocks multiply on the left. Prefix tokens are dropped from the map.

Two cases have no original: models that pool their patch tokens (r is uniform, and the relevance of the mean is shared
in proportion) and distilled ones (r is half class, half distillation token, and the two logits are the operands of an
addition).

`rules`: "ours" are the rules of chefer2021; "orig" those of their LRP baseline, in which every linear layer may double
the relevance.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, einsum

from xaibench.errors import UsageError
from xaibench.forward import Forward, Pairs
from xaibench.registry import method
from xaibench.relprop import Rules, attention_relevance, pixel_relevance


@method(
    needs=("transformer_blocks", "attention_gradients"), source="chefer2021",
    cost="1 forward, 1 backward per label; relevance: 2 forwards' worth per image and 2 per label",
)  # fmt: skip
def transformer_lrp(forward: Forward, pairs: Pairs, *, start_layer: int = 1, rules: Rules = "ours") -> Tensor:
    """Transformer Attribution: r · (I + M^B) ... (I + M^{s+1}), M^b = mean_h relu(G^b R_A^b).

    Blocks count from 0. The authors' evaluation scripts use start_layer = 1, their notebooks 0, and the maps differ a
    lot. Maps [P, h, w], non-negative.
    """
    walk = attention_relevance(forward, pairs, rules=rules, start_layer=start_layer)
    gradients = forward.block_gradients(pairs, start_layer)
    return _rollout(forward, ((gradients[block] * r).relu().mean(1) for block, r in walk))


@method(needs=("transformer_blocks",), source="chefer2021, ablation", cost="as transformer_lrp, no backward")
def lrp_rollout(forward: Forward, pairs: Pairs, *, start_layer: int = 1, rules: Rules = "ours") -> Tensor:
    """Relevance alone, rolled out: r · (I + M^B) ... (I + M^{s+1}), M^b = mean_h relu(R_A^b). Maps [P, h, w]."""
    walk = attention_relevance(forward, pairs, rules=rules, start_layer=start_layer)
    return _rollout(forward, (r.relu().mean(1) for _, r in walk))


@method(needs=("transformer_blocks",), source="voita2019; chefer2021, baseline", cost="as transformer_lrp, no backward")
def partial_lrp(
    forward: Forward, pairs: Pairs, *, block: int = -1, gradient: bool = False, rules: Rules = "orig"
) -> Tensor:
    """Relevance of one block's attention: r · mean_h relu(R_A^b), or r · mean_h relu(G^b R_A^b) with `gradient`.

    `block` counts from 0, or from the end: -1 is the last. The evaluation scripts of chefer2021 use the rules "orig".
    Maps [P, h, w], non-negative.
    """
    blocks = len(forward.classifier.attention.layers)
    if not -blocks <= block < blocks:
        raise UsageError(f"block {block}: the model has blocks 0..{blocks - 1}")
    chosen = block % blocks
    *_, (_, relevance) = attention_relevance(forward, pairs, rules=rules, start_layer=chosen)
    if gradient:
        relevance = forward.block_gradients(pairs, chosen)[chosen] * relevance
    return forward.token_map(forward.readout(relevance.shape[-1]) @ relevance.relu().mean(1))


@method(needs=("transformer_blocks",), source="chefer2021, baseline", cost="as transformer_lrp, no backward")
def full_lrp(forward: Forward, pairs: Pairs, *, rules: Rules = "orig") -> Tensor:
    """Relevance down to the pixels, summed over colours: the z^B rule at the patch embedding.

    The evaluation scripts of chefer2021 use the rules "orig". Only for stems that are one convolution of patches
    (IncompatibleError otherwise). Maps [P, H, W], signed.
    """
    return pixel_relevance(forward, pairs, rules=rules)


def _rollout(forward: Forward, matrices: Iterable[Tensor]) -> Tensor:
    """Map of r · (I + M^B) ... (I + M^{s+1}) from matrices [P, N, N], the last block's first."""
    row: Tensor | None = None
    for m in matrices:
        row = forward.readout(m.shape[-1]).expand(len(m), -1) if row is None else row
        row = row + einsum("pn,pnm->pm", row, m)
    assert row is not None
    return forward.token_map(row)
