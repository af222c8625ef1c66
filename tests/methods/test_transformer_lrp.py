"""Relevance propagation: against a slow twin, its rules one by one, and timm's variants of the plain transformer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xaibench
from tests.support.vit import CONFIGURATIONS, classifier, first_pooled, images, some_pairs
from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.core.timm_import import import_timm
from xaibench.forward.propagation import transformer_relprop

METHODS = ("transformer_lrp", "lrp_rollout", "partial_lrp", "full_lrp")


# -- the rules, each against its definition -----------------------------------------------------------------------


def safe(a: float, b: float) -> float:
    """D(a, b) of the original."""
    if b == 0:
        return 0.0
    return a / (b + 1e-9) if b + 1e-9 != 0 else a / 1e-9


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rules", ["ours", "orig"])
def test_linear_rule(rules: transformer_relprop.Rules) -> None:
    x, weight, relevance = random(2, 3, 5), random(4, 5, seed=1), random(3, 3, 4, seed=2)
    image = torch.tensor([0, 1, 1])
    found = transformer_relprop.linear(x, weight, relevance, image, rules)
    for p in range(3):
        for n in range(3):
            expected = [0.0] * 5
            for j in range(4):
                terms = [float(x[image[p], n, i] * weight[j, i]) for i in range(5)]
                up = [float(x[image[p], n, i]) > 0 for i in range(5)]
                groups = [[i for i in range(5) if terms[i] > 0]]
                if rules == "orig":
                    groups = [[i for i in groups[0] if up[i]], [i for i in groups[0] if not up[i]]]
                for group in groups:
                    z = sum(terms[i] for i in group)
                    for i in group:
                        expected[i] += terms[i] * safe(float(relevance[p, n, j]), z)
            torch.testing.assert_close(found[p, n], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_output_without_a_positive_term_passes_nothing_on(dtype: torch.dtype) -> None:
    x = random(1, 6, 3072).abs().to(dtype)
    weight = -random(8, 3072, seed=1).abs().to(dtype)
    found = transformer_relprop.linear(x, weight, random(1, 6, 8, seed=2).to(dtype), torch.tensor([0]), "ours")
    assert (found == 0).all()


@pytest.mark.parametrize("rules", ["ours", "orig"])
def test_add_rule_sums_over_the_tensor_of_its_own_pair(rules: transformer_relprop.Rules) -> None:
    skip, branch, relevance = random(2, 3, 4), random(2, 3, 4, seed=1), random(24, 3, 4, seed=2)
    image = torch.arange(24) % 2
    found = transformer_relprop.add(skip, branch, relevance, image, rules)
    flipped = 0
    for p in range(24):
        m = skip[image[p]] + branch[image[p]]
        parts = [x[image[p]] * relevance[p] / (m + 1e-9) for x in (skip, branch)]
        if rules == "ours":
            a, b = (float(part.sum()) for part in parts)
            flipped += a * b < 0
            q = float(relevance[p].sum())
            parts = [part * safe(safe(abs(s), abs(a) + abs(b)) * q, s) for part, s in zip(parts, (a, b), strict=True)]
        for one, other in zip(found, parts, strict=True):
            torch.testing.assert_close(one[p], other)
    assert rules == "orig" or flipped  # the branch in which the rule does something is reached


def test_safe_division() -> None:
    b = torch.tensor([2.0, -2.0, 0.0, -1e-9, 1e-12], dtype=torch.float64)
    expected = [safe(1, float(value)) for value in b]
    torch.testing.assert_close(
        transformer_relprop.inverse(b), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_clone_is_a_sum_but_where_the_value_is_zero() -> None:
    x = random(1, 2, 3)
    x[0, 0, 0] = 0
    first, second = random(2, 2, 3, seed=1), random(2, 2, 3, seed=2)
    found = transformer_relprop.clone(x, first, second, torch.tensor([0, 0]))
    assert (found[:, 0, 0] == 0).all()
    torch.testing.assert_close(found[:, 1], (first + second)[:, 1], rtol=1e-6, atol=1e-6)


def test_patch_rule() -> None:
    """z^B: every pixel gets (x w - l w+ - h w-) R / Z, and all of R arrives."""
    pictures, relevance = random(2, 3, 4, 6), random(3, 5, 2, 3, seed=1)
    convolution = nn.Conv2d(3, 5, 2, stride=2).double().requires_grad_(False)
    convolution.weight.copy_(random(5, 3, 2, 2, seed=2))
    image = torch.tensor([1, 0, 1])
    found = transformer_relprop.patches(pictures, convolution, relevance, image)
    torch.testing.assert_close(found.sum((1, 2)), relevance.sum((1, 2, 3)), rtol=1e-6, atol=1e-6)
    weight = convolution.weight
    for p, row, column in ((0, 0, 0), (1, 3, 5), (2, 1, 2)):
        x = pictures[image[p]]
        low, high = x.min(), x.max()
        top, left = row // 2 * 2, column // 2 * 2
        cut = x[:, top : top + 2, left : left + 2]
        share = cut * weight - low * weight.clamp(min=0) - high * weight.clamp(max=0)  # [5, 3, 2, 2]
        ratio = relevance[p, :, row // 2, column // 2] / (share.sum((1, 2, 3)) + 1e-9)
        expected = (share[:, :, row - top, column - left].sum(1) * ratio).sum()
        torch.testing.assert_close(found[p, row, column], expected)


# -- a batch is its samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_pairs_do_not_see_each_other(name: str, method: str) -> None:
    model, batch = classifier(name), images(name, 4)
    pairs = some_pairs()
    together = xaibench.explain(model, batch, pairs, method=method)
    assert torch.isfinite(together).all()
    assert together.abs().amax((1, 2)).min() > 0
    for row in range(len(pairs)):
        image, label = int(pairs.image[row]), int(pairs.label[row])
        alone = xaibench.explain(model, batch[image : image + 1], xaibench.Pairs([0], [label]), method=method)
        torch.testing.assert_close(together[row], alone[0], rtol=1e-7, atol=1e-7 * float(alone.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_no_pairs(method: str) -> None:
    model, batch = classifier("plain"), images("plain", 2)
    maps = xaibench.explain(model, batch, xaibench.Pairs([], []), method=method)
    assert maps.ndim == 3
    assert len(maps) == 0


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method: str) -> None:
    model, batch = classifier("plain"), images("plain", 2)
    module = model.module.train()
    fused = [block.attn.fused_attn for block in module.blocks]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    xaibench.explain(model, batch, xaibench.Pairs([0, 1], [1, 2]), method=method)
    assert all(m.training for m in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())
    assert fused == [block.attn.fused_attn for block in module.blocks]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module.eval()


def test_single_precision_follows_double() -> None:
    model, batch = classifier("plain", dtype=torch.float32), images("plain", 2).float()
    double = classifier("plain")
    pairs = xaibench.Pairs([0, 0, 1], [0, 3, 2])
    single = xaibench.explain(model, batch, pairs, method="transformer_lrp")
    reference = xaibench.explain(double, batch.double(), pairs, method="transformer_lrp")
    assert single.dtype == torch.float32
    assert (single - reference).abs().max() <= 0.02 * reference.abs().max()


# -- what timm has beyond the original ----------------------------------------------------------------------------


def relevance_twin(module: Any, image: Tensor, label: int, start_layer: int) -> Tensor:
    """One pair of transformer_lrp, written from the rules with autograd: R_in = x · d(sum of z · R/z)/dx."""

    def divide(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(b == 0, 0, a / torch.where(b + 1e-9 == 0, torch.full_like(b, 1e-9), b + 1e-9))

    def through(function: Any, inputs: list[Tensor], relevance: Tensor) -> list[Tensor]:
        inputs = [x.detach().requires_grad_() for x in inputs]
        output = function(*inputs)
        gradients = torch.autograd.grad(output, inputs, divide(relevance, output.detach()))
        return [(x * g).detach() for x, g in zip(inputs, gradients, strict=True)]

    def dense(layer: nn.Linear, x: Tensor, relevance: Tensor) -> Tensor:
        up, down = x.detach().clamp(min=0), x.detach().clamp(max=0)
        up_w, down_w = layer.weight.detach().clamp(min=0), layer.weight.detach().clamp(max=0)
        return sum(through(lambda p, n: p @ up_w.T + n @ down_w.T, [up, down], relevance), torch.zeros_like(x))

    def plus(x: Tensor, y: Tensor, relevance: Tensor) -> list[Tensor]:
        parts = through(lambda p, q: p + q, [x, y], relevance)
        sums = [part.sum() for part in parts]
        total = sums[0].abs() + sums[1].abs()
        return [part * divide(divide(s.abs(), total) * relevance.sum(), s) for part, s in zip(parts, sums, strict=True)]

    def twice(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return x * (divide(first, x) + divide(second, x))

    module = module.eval()
    with torch.no_grad():
        x = module.patch_embed(image[None])
        x = module.norm_pre(module.patch_drop(module._pos_embed(x)))[0]
    trace = []
    matrices: list[Tensor] = []
    for block in module.blocks:
        attn = block.attn
        n1 = block.norm1(x)
        q, k, v = attn.qkv(n1).unflatten(-1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
        q, k = attn.q_norm(q), attn.k_norm(k)
        weights = ((q * attn.scale) @ k.mT).softmax(-1)
        matrices.append(weights)
        o = attn.norm((weights @ v).transpose(0, 1).flatten(1))
        a = block.ls1(attn.proj(o))
        m = x + a
        n2 = block.norm2(m)
        u = block.mlp.norm(block.mlp.act(block.mlp.fc1(n2)))
        f = block.ls2(block.mlp.fc2(u))
        names = ("x", "n1", "q", "k", "v", "A", "o", "a", "m", "n2", "u", "f")
        values = (x, n1, q, k, v, weights, o, a, m, n2, u, f)
        trace.append({name: value.detach() for name, value in zip(names, values, strict=True)})
        x = m + f
    z = module.norm(x)
    prefix, first, count = module.num_prefix_tokens, first_pooled(module), len(x)
    row = torch.zeros(count, dtype=x.dtype)
    if hasattr(module, "head_dist"):
        logits = [module.head(z[0]), module.head_dist(z[1])]
        score = (logits[0] + logits[1])[label] / 2
        row[:2] = 0.5
    elif module.global_pool == "token":
        score = module.head(module.fc_norm(z[0]))[label]
        row[0] = 1
    else:
        score = module.head(module.fc_norm(z[first:].mean(0)))[label]
        row[first:] = 1 / (count - first)
    gradients = torch.autograd.grad(score, matrices)
    start = torch.eye(module.num_classes, dtype=x.dtype)[label]
    z, r = z.detach(), torch.zeros_like(z)
    if hasattr(module, "head_dist"):
        for index, (head, part) in enumerate(
            zip((module.head, module.head_dist), plus(logits[0], logits[1], start), strict=True)
        ):
            r[index] = z[index] * divide(dense(head, z[index], part), z[index])
    elif module.global_pool == "token":
        r[0] = z[0] * divide(dense(module.head, module.fc_norm(z[0]), start), z[0])
    else:
        mean = z[first:].mean(0)
        below = dense(module.head, module.fc_norm(mean), start)
        r[first:] = through(lambda t: t.mean(0), [z[first:]], below)[0]
    for index in reversed(range(start_layer, len(trace))):
        block, t = module.blocks[index], trace[index]
        skip, branch = plus(t["m"], t["f"], r)
        branch = dense(block.mlp.fc1, t["n2"], dense(block.mlp.fc2, t["u"], branch))
        skip, branch = plus(t["x"], t["a"], twice(t["m"], skip, branch))
        branch = dense(block.attn.proj, t["o"], branch).unflatten(-1, (block.attn.num_heads, -1)).transpose(0, 1)
        r_a, r_v = (part / 2 for part in through(torch.matmul, [t["A"], t["v"]], branch))
        row = row + row @ (gradients[index] * r_a).clamp(min=0).mean(0)
        r_q, r_k = (part / 2 for part in through(lambda q, k: q @ k.mT, [t["q"], t["k"]], r_a))
        qkv = torch.stack([r_q, r_k, r_v]).permute(2, 0, 1, 3).flatten(1)
        r = twice(t["x"], skip, dense(block.attn.qkv, t["n1"], qkv))
    return row[prefix:].detach()


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("start_layer", [0, 1])
def test_against_the_slow_twin(name: str, start_layer: int) -> None:
    model, batch = classifier(name), images(name, 2)
    pairs = xaibench.Pairs([0, 0, 1], [0, 3, 2])
    found = xaibench.explain(model, batch, pairs, method="transformer_lrp", start_layer=start_layer)
    for row in range(len(pairs)):
        reference = relevance_twin(model.module, batch[pairs.image[row]], int(pairs.label[row]), start_layer)
        assert reference.abs().max() > 0
        error = (found[row].flatten() - reference).abs().max() / reference.abs().max()
        assert error <= 1e-8


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_full_lrp_has_the_size_of_the_image(name: str) -> None:
    model, batch = classifier(name), images(name, 2)
    maps = xaibench.explain(model, batch, xaibench.Pairs([0, 1], [0, 1]), method="full_lrp", rules="ours")
    assert maps.shape == (2, *batch.shape[-2:])


def test_a_dynamic_grid_is_that_of_the_image() -> None:
    """1 x 9 patches, though the model's own 3 x 3 would fit them as well."""
    model, batch = classifier("dynamic"), images("dynamic", 1)
    for method in ("transformer_lrp", "raw_attention"):
        assert xaibench.explain(model, batch, xaibench.Pairs([0], [0]), method=method).shape == (1, 1, 9)


def test_layer_scale_of_one_changes_nothing() -> None:
    plain, scaled = classifier("plain"), classifier("layer_scale")
    scaled.module.load_state_dict(plain.module.state_dict(), strict=False)
    for block in scaled.module.blocks:
        for scale in (block.ls1, block.ls2):
            nn.init.ones_(scale.gamma)
    batch, pairs = images("plain", 2), xaibench.Pairs([0, 1], [2, 4])
    one, other = (xaibench.explain(model, batch, pairs, method="transformer_lrp") for model in (plain, scaled))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("block", [-4, 3])
def test_a_block_that_is_not_there(block: int) -> None:
    with pytest.raises(UsageError, match=r"blocks 0\.\.2"):
        xaibench.explain(
            classifier("plain"), images("plain", 1), xaibench.Pairs([0], [0]), method="partial_lrp", block=block
        )


@pytest.mark.parametrize("start_layer", [-1, 3])
def test_a_start_that_is_not_there(start_layer: int) -> None:
    for method in ("transformer_lrp", "lrp_rollout"):
        with pytest.raises(UsageError, match=r"blocks 0\.\.2"):
            xaibench.explain(
                classifier("plain"),
                images("plain", 1),
                xaibench.Pairs([0], [0]),
                method=method,
                start_layer=start_layer,
            )


# -- refusals -----------------------------------------------------------------------------------------------------


def variant(**options: Any) -> nn.Module:
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    small = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    return VisionTransformer(**{**small, **options}).eval()


def parallel() -> nn.Module:
    import_timm()
    from timm.models.vision_transformer import ParallelScalingBlock

    return variant(block_fn=ParallelScalingBlock)


def swiglu() -> nn.Module:
    import_timm()
    from timm.layers import SwiGLUPacked

    return variant(mlp_layer=SwiGLUPacked)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (partial(variant, global_pool="map", class_token=False), "global_pool='map'"),
        (partial(variant, global_pool="max"), "global_pool='max'"),
        (partial(variant, attn_layer="diff"), "DiffAttention"),
        (partial(variant, num_classes=0), "no linear classification head"),
        (parallel, "ParallelScalingBlock"),
        (swiglu, "GluMlp"),
    ],
)
def test_variants_without_rules_are_refused_in_one_sentence(build: Any, reason: str) -> None:
    model = xaibench.Classifier(build())
    with pytest.raises(IncompatibleError, match=reason) as caught:
        xaibench.explain(model, torch.zeros(1, 3, 16, 16), xaibench.Pairs([0], [0]), method="transformer_lrp")
    assert "\n" not in str(caught.value)


def test_gated_attention_is_refused() -> None:
    module = variant()
    module.blocks[0].attn.gate = nn.Linear(16, 16)
    model = xaibench.Classifier(module)
    with pytest.raises(IncompatibleError, match="gates its attention"):
        xaibench.explain(model, torch.zeros(1, 3, 16, 16), xaibench.Pairs([0], [0]), method="transformer_lrp")


@pytest.mark.parametrize(
    ("name", "options", "family"),
    [
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
            "SwinTransformer",
        ),
        ("cait_xxs24_224", {"img_size": 32, "depth": 1, "embed_dim": 16, "num_heads": 2}, "Cait"),
        ("xcit_nano_12_p8_224", {"img_size": 32, "depth": 1, "embed_dim": 16, "num_heads": 2}, "Xcit"),
        ("beit_base_patch16_224", {"img_size": 32, "depth": 1, "embed_dim": 16, "num_heads": 2}, "Beit"),
        ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 1, "embed_dim": 24, "num_heads": 2}, "Eva"),
    ],
)
def test_other_families_are_refused_by_name(name: str, options: dict[str, Any], family: str) -> None:
    import_timm()
    from timm import create_model

    module = create_model(name, pretrained=False, num_classes=3, **options).eval()
    size = options["img_size"]
    model = xaibench.Classifier(module, name=name)
    for method in ("transformer_lrp", "raw_attention"):
        with pytest.raises(IncompatibleError, match=family):
            xaibench.explain(model, torch.zeros(1, 3, size, size), xaibench.Pairs([0], [0]), method=method)
