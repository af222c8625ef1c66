"""AttnLRP and CP-LRP: their rules one by one, and a slow twin on timm's variants of the plain transformer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import xaibench
from tests.support.vit import CONFIGURATIONS, classifier, first_pooled, images, some_pairs
from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.forward.propagation.attn_lrp_rules import gamma_rule, linear_norm, secant

METHODS = ("attn_lrp", "cp_lrp")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(module: nn.Module) -> nn.Module:
    """The module in float64 and frozen, with parameters from a fixed draw."""
    for seed, parameter in enumerate(module.double().requires_grad_(False).parameters()):
        parameter.copy_(random(*parameter.shape, seed=20 + seed))
    return module


def hooked(module: nn.Module, hook: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output without and with the hook, and the relevance x · gradient of sum_j y_j c_j (c from a fixed draw)."""
    x = x.clone().requires_grad_()
    plain = module(x).detach()
    handle = module.register_forward_hook(hook)
    output = module(x)
    handle.remove()
    (gradient,) = torch.autograd.grad((output * random(*output.shape, seed=9)).sum(), x)
    return plain, output.detach(), (x * gradient).detach()


def test_gamma_rule_of_a_linear_layer() -> None:
    gamma, module, x = 0.3, filled(nn.Linear(4, 5)), random(3, 4)
    plain, output, relevance = hooked(module, gamma_rule(gamma), x)
    torch.testing.assert_close(output, plain)
    above = plain * random(3, 5, seed=9)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for n in range(3):
        for j in range(5):
            favoured = 1 if plain[n, j] > 0 else -1
            bias = float(module.bias[j])
            z = bias * (1 + gamma * (bias * favoured > 0))
            terms = []
            for i in range(4):
                term = float(module.weight[j, i] * x[n, i])
                terms.append(term * (1 + gamma * (term * favoured > 0)))
            z += sum(terms)
            for i in range(4):
                expected[n, i] += terms[i] * float(above[n, j]) / (z + favoured * 1e-6)
    torch.testing.assert_close(relevance, expected)


def test_gamma_rule_of_a_convolution_is_that_of_its_matrix() -> None:
    convolution, linear = filled(nn.Conv2d(3, 5, 2, stride=2)), filled(nn.Linear(12, 5))
    linear.weight.copy_(convolution.weight.flatten(1))
    linear.bias.copy_(convolution.bias)
    x = random(1, 3, 2, 2)
    _, _, found = hooked(convolution, gamma_rule(0.25), x)
    _, _, expected = hooked(linear, gamma_rule(0.25), x.flatten(1))
    torch.testing.assert_close(found.flatten(), expected.flatten())


def test_gamma_zero_is_the_gradient() -> None:
    module, x = filled(nn.Linear(4, 5)), random(3, 4)
    _, _, relevance = hooked(module, gamma_rule(0.0), x)
    torch.testing.assert_close(relevance, x * (random(3, 5, seed=9) @ module.weight), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", [nn.LayerNorm(6), nn.RMSNorm(6)])
def test_relevance_of_a_norm_sums_to_its_output_without_bias(module: nn.Module) -> None:
    """A linear map without offset conserves relevance exactly."""
    filled(module)
    if isinstance(module, nn.LayerNorm):
        module.bias.zero_()
    plain, output, relevance = hooked(module, linear_norm, random(3, 6))
    torch.testing.assert_close(output, plain)
    torch.testing.assert_close(relevance.sum(-1), (plain * random(3, 6, seed=9)).sum(-1))


def test_an_activation_passes_relevance_unchanged() -> None:
    plain, output, relevance = hooked(nn.GELU(), secant, random(3, 6))
    torch.testing.assert_close(output, plain)
    torch.testing.assert_close(relevance, plain * random(3, 6, seed=9), rtol=1e-7, atol=1e-9)


def twin(module: Any, image: Tensor, label: int, method: str) -> Tensor:
    """Relevance of the tokens that enter the first block, of one pair, by a forward pass with constants in it."""

    def norm(layer: Any, x: Tensor) -> Tensor:
        if isinstance(layer, nn.Identity):
            return x
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt().detach()
        return centred / deviation * layer.weight + layer.bias

    def part(x: Tensor, share: float) -> Tensor:
        return share * x + ((1 - share) * x).detach()

    start = module.norm_pre(module.patch_drop(module._pos_embed(module.patch_embed(image[None]))))
    x = start = start.detach().requires_grad_()
    for block in module.blocks:
        attn = block.attn
        q, k, v = attn.qkv(norm(block.norm1, x)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = norm(attn.q_norm, q), norm(attn.k_norm, k)
        if method == "attn_lrp":
            q, k, v = part(q, 0.25), part(k, 0.25), part(v, 0.5)
        else:
            q, k = q.detach(), k.detach()
        mixed = ((q @ k.mT * attn.scale).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + block.ls1(attn.proj(norm(attn.norm, mixed)))
        hidden = block.mlp.fc1(norm(block.norm2, x))
        hidden = hidden * (F.gelu(hidden) / hidden).detach()
        x = x + block.ls2(block.mlp.fc2(norm(block.mlp.norm, hidden)))
    z = norm(module.norm, x)
    if hasattr(module, "head_dist"):
        logits = (module.head(z[:, 0]) + module.head_dist(z[:, 1])) / 2
    elif module.global_pool == "token":
        logits = module.head(norm(module.fc_norm, z[:, 0]))
    else:
        logits = module.head(norm(module.fc_norm, z[:, first_pooled(module) :].mean(1)))
    (gradient,) = torch.autograd.grad(logits[0, label], start)
    return (start * gradient).sum(-1)[0, module.num_prefix_tokens :].detach()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_against_the_slow_twin(name: str, method: str) -> None:
    model, batch, pairs = classifier(name), images(name, 4), some_pairs()
    found = xaibench.explain(model, batch, pairs, method=method).flatten(1)
    expected = torch.stack(
        [
            twin(model.module, batch[image], label, method)
            for image, label in zip(pairs.image.tolist(), pairs.label.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))


@pytest.mark.parametrize("parameters", [{}, {"level": "pixels"}, {"rule": "gamma"}])
@pytest.mark.parametrize("method", METHODS)
def test_pairs_do_not_see_each_other(method: str, parameters: dict[str, Any]) -> None:
    model, batch, pairs = classifier("registers"), images("registers", 4), some_pairs()
    together = xaibench.explain(model, batch, pairs, method=method, **parameters)
    for row in range(len(pairs)):
        image, label = int(pairs.image[row]), int(pairs.label[row])
        one = batch[image : image + 1]
        alone = xaibench.explain(model, one, xaibench.Pairs([0], [label]), method=method, **parameters)
        torch.testing.assert_close(together[row], alone[0])


@pytest.mark.parametrize("rule", ["epsilon", "gamma"])
@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method: str, rule: str) -> None:
    model, batch = classifier("plain"), images("plain", 2)
    module = model.module.train()
    before = model.logits(batch)
    xaibench.explain(model, batch, xaibench.Pairs([0, 1], [1, 2]), method=method, rule=rule, level="pixels")
    assert all(m.training and not m._forward_hooks for m in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert torch.equal(before, model.logits(batch))


@pytest.mark.parametrize("method", METHODS)
def test_no_pairs(method: str) -> None:
    maps = xaibench.explain(classifier("plain"), images("plain", 2), xaibench.Pairs([], []), method=method)
    assert len(maps) == 0


def test_a_norm_without_a_rule_is_refused() -> None:
    module = classifier("plain").module
    module.blocks[1].norm2 = nn.Identity()
    with pytest.raises(IncompatibleError, match="Identity has no rule"):
        xaibench.explain(xaibench.Classifier(module), images("plain", 1), xaibench.Pairs([0], [0]), method="attn_lrp")


def test_a_level_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="level"):
        xaibench.explain(
            classifier("plain"), images("plain", 1), xaibench.Pairs([0], [0]), method="attn_lrp", level="layers"
        )
