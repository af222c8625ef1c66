"""Layer-wise relevance propagation in transformers.

The rules of chefer2021 (`xaibench.forward.propagation.transformer_relprop`) come first, AttnLRP and CP-LRP
(`xaibench.forward.propagation.attn_lrp_rules`) last. For the former:

A^b = post-softmax attention of block b [heads, N, N], R_A^b its relevance, G^b = dS_c/dA^b, r = the row of tokens that
the head reads (the class token). Relevance starts at 1, not at the logit, and goes from the last block B down; so does
a rollout, since later blocks multiply on the left. Prefix tokens are dropped from the map.

Two cases have no original: models that pool their patch tokens (r is uniform, and the relevance of the mean is shared
in proportion) and distilled ones (r is half class, half distillation token, and the two logits are the operands of an
addition).

`rules`: "ours" are the rules of chefer2021; "orig" those of their LRP baseline, in which every linear layer may double
the relevance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor, einsum

from xaibench.core.registry import method
from xaibench.core.registry.bounds import NotNegative
from xaibench.forward import Forward, Hook, Pairs, Plan
from xaibench.forward.propagation.attn_lrp_rules import Rule, relevance_hooks
from xaibench.forward.propagation.transformer_relprop import Rules, attention_relevance, pixel_relevance
from xaibench.forward.propagation.vit_blocks import Blocks, check_patch_embedding

Level = Literal["tokens", "pixels"]


@method(
    needs=("transformer_blocks", "attention_gradients"),
    source="chefer2021",
    forwards="shared",
    backwards="shared * pairs",
    cost="relevance computes as much as 2 forwards per image and 2 per label",
    rankings_change_with=("start_layer", "rules"),
    criticism="Relevance is not conserved, and quotients by sums near 0 make it noisy in float32.",
    elsewhere="transformer_attribution in the authors' code (also what its script calls lrp), which is right for one "
    "image at a time: of a batch it returns the first map, and that depends on the other images. Their evaluation "
    "scripts use start_layer = 1, their notebooks 0, and the maps differ a lot.",
)
def transformer_lrp(forward: Forward, pairs: Pairs, *, start_layer: int = 1, rules: Rules = "ours") -> Tensor:
    """Transformer Attribution: r · (I + M^B) ... (I + M^{s+1}), M^b = mean_h relu(G^b R_A^b).

    Blocks count from 0. Maps [P, h, w], non-negative.
    """
    walk = attention_relevance(forward, pairs, rules=rules, start_layer=start_layer)
    gradients = forward.block_gradients(pairs, start_layer)
    return _rollout(forward, ((gradients[block] * r).relu().mean(1) for block, r in walk))


@method(
    needs=("transformer_blocks",),
    source="chefer2021, ablation",
    forwards="shared",
    backwards=0,
    cost="relevance computes as much as 2 forwards per image and 2 per label",
    rankings_change_with=("start_layer", "rules"),
    criticism="Relevance is not conserved, and quotients by sums near 0 make it noisy in float32.",
    elsewhere="rollout in the relprop of the code of chefer2021, whose Baselines.generate_rollout is "
    "attention_rollout.",
)
def lrp_rollout(forward: Forward, pairs: Pairs, *, start_layer: int = 1, rules: Rules = "ours") -> Tensor:
    """Relevance alone, rolled out: r · (I + M^B) ... (I + M^{s+1}), M^b = mean_h relu(R_A^b). Maps [P, h, w]."""
    walk = attention_relevance(forward, pairs, rules=rules, start_layer=start_layer)
    return _rollout(forward, (r.relu().mean(1) for _, r in walk))


@method(
    needs=("transformer_blocks",),
    source="voita2019; chefer2021, baseline",
    forwards="shared * (1 + gradient)",
    backwards="shared * pairs * gradient",
    cost="relevance computes as much as 2 forwards per image and 2 per label",
    rankings_change_with=("block", "gradient", "rules"),
    criticism="One block of many is shown.",
    elsewhere="last_layer and, for block = 1, second_layer in the code of chefer2021, whose evaluation scripts use "
    'the rules "orig"; is_ablation is `gradient`.',
)
def partial_lrp(
    forward: Forward, pairs: Pairs, *, block: int = -1, gradient: bool = False, rules: Rules = "orig"
) -> Tensor:
    """Relevance of one block's attention: r · mean_h relu(R_A^b), or r · mean_h relu(G^b R_A^b) with `gradient`.

    `block` counts from 0, or from the end: -1 is the last. The evaluation scripts of chefer2021 use the rules "orig".
    Maps [P, h, w], non-negative.
    """
    chosen = Blocks(forward).check("block", block)
    *_, (_, relevance) = attention_relevance(forward, pairs, rules=rules, start_layer=chosen)
    if gradient:
        relevance = forward.block_gradients(pairs, chosen)[chosen] * relevance
    return forward.token_map(forward.readout(relevance.shape[-1]) @ relevance.relu().mean(1))


@method(
    needs=("transformer_blocks", "patch_embedding"),
    source="chefer2021, baseline",
    forwards="shared",
    backwards=0,
    cost="relevance computes as much as 2 forwards per image and 2 per label",
    rankings_change_with=("rules",),
    criticism="Relevance is not conserved, and quotients by sums near 0 make it noisy in float32.",
    elsewhere='full in the code of chefer2021, whose scripts use the rules "orig" and min-max its signed maps.',
)
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


@method(
    needs=("transformer_blocks",),
    source="achtibat2024",
    forwards=1,
    backwards="pairs",
    rankings_change_with=("rule", "gamma", "conv_gamma", "level"),
    criticism="The epsilon rule is noisy in vision transformers, and gamma is to be tuned for each model.",
    elsewhere="The authors' lxt has no mapping for timm's models, and for torchvision's ViT that of cp_lrp.",
)
def attn_lrp(
    forward: Forward,
    pairs: Pairs,
    *,
    level: Level = "tokens",
    rule: Rule = "epsilon",
    gamma: NotNegative = 0.05,
    conv_gamma: NotNegative = 0.25,
) -> Tensor:
    """Input times gradient with the rules of AttnLRP: attention, normalisation and activation have rules of their own.

    Gradients of queries and keys are quartered and those of values halved, so that softmax(q k^T) v shares relevance
    equally among its factors; the standard deviation of a normalisation is a constant; GELU passes relevance unchanged.
    Other layers keep their gradient (epsilon rule at 0) or follow `rule` = "gamma", for which the authors tune `gamma`
    and `conv_gamma` (of the patch embedding) per model; epsilon is noisy in vision transformers.

    Args:
        level: "tokens": relevance of the input of the first block, patch by patch; "pixels": of the image, summed over
            colours (only where the stem is one convolution: through a normalising stem it is zero)

    Returns:
        maps [P, h, w] or [P, H, W], signed, logit units
    """
    hooks = relevance_hooks(forward, query=1 / 4, key=1 / 4, value=1 / 2, rule=rule, gamma=gamma, conv_gamma=conv_gamma)
    return _input_x_gradient(forward, pairs, hooks, level)


@method(
    needs=("transformer_blocks",),
    source="ali2022; achtibat2024, baseline",
    forwards=1,
    backwards="pairs",
    rankings_change_with=("rule", "gamma", "conv_gamma", "level"),
    criticism="What queries and keys do gets no relevance, and gamma is to be tuned for each model.",
    elsewhere="lxt, the code of achtibat2024, has it for torchvision's ViT, and no mapping for timm's models.",
)
def cp_lrp(
    forward: Forward,
    pairs: Pairs,
    *,
    level: Level = "tokens",
    rule: Rule = "epsilon",
    gamma: NotNegative = 0.05,
    conv_gamma: NotNegative = 0.25,
) -> Tensor:
    """Relevance as by attn_lrp, but attention matrices are constants and values keep their gradient.

    The authors of attn_lrp advise it with rule = "gamma" for vision transformers. Maps [P, h, w] or [P, H, W], signed,
    logit units.
    """
    hooks = relevance_hooks(forward, query=0, key=0, value=1, rule=rule, gamma=gamma, conv_gamma=conv_gamma)
    return _input_x_gradient(forward, pairs, hooks, level)


def _input_x_gradient(forward: Forward, pairs: Pairs, hooks: Mapping[str, Hook], level: Level) -> Tensor:
    if level == "pixels":
        check_patch_embedding(forward)
    layer = "input" if level == "pixels" else "norm_pre"
    hooked = forward.hooked(hooks, Plan(gradients=frozenset({layer})))
    return einsum("pkhw,pkhw->phw", hooked.features(layer)[pairs.image], hooked.gradients(pairs, layer))
