"""Attention methods against slow twins, pair by pair, on timm's variants of the plain transformer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import xaibench
from tests.support.vit import CONFIGURATIONS, classifier, first_pooled, images, some_pairs
from xaibench.core.errors import IncompatibleError, UsageError

METHODS = ("raw_attention", "attention_rollout", "generic_attention", "attention_grad_cam", "getam", "legrad")


class Trace:
    """One image through a model, block by block, with a graph: attention matrices and block outputs."""

    def __init__(self, module: Any, image: Tensor) -> None:
        self.module = module
        x = module.norm_pre(module.patch_drop(module._pos_embed(module.patch_embed(image[None]))))
        self.attentions: list[Tensor] = []
        self.outputs: list[Tensor] = []
        for block in module.blocks:
            attn = block.attn
            q, k, v = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            weights = (attn.q_norm(q) @ attn.k_norm(k).mT * attn.scale).softmax(-1)
            x = x + block.ls1(attn.proj(attn.norm((weights @ v).transpose(1, 2).flatten(2))))
            x = x + block.ls2(block.mlp(block.norm2(x)))
            self.attentions.append(weights)
            self.outputs.append(x)
        self.logits = module.forward_head(module.norm(x))[0]
        tokens = x.shape[1]
        self.read = torch.zeros(tokens, dtype=x.dtype)
        if hasattr(module, "head_dist"):
            self.read[:2] = 0.5
        elif module.global_pool == "token":
            self.read[0] = 1
        else:
            self.read[first_pooled(module) :] = 1 / (tokens - first_pooled(module))

    def gradients(self, label: int) -> list[Tensor]:
        found = torch.autograd.grad(self.logits[label], self.attentions, retain_graph=True)
        return [g[0] for g in found]

    def patches(self, row: Tensor) -> Tensor:
        return row[self.module.num_prefix_tokens :].detach()


def getam_twin(trace: Trace, label: int, start_layer: int) -> Tensor:
    total = torch.zeros_like(trace.attentions[0][0, 0])
    for attention, gradient in list(zip(trace.attentions, trace.gradients(label), strict=True))[start_layer:]:
        product, positive = torch.zeros_like(total), torch.zeros_like(total)
        for head in range(len(gradient)):
            product += (gradient[head] * attention[0, head]).clamp(min=0) / len(gradient)
            positive += gradient[head].clamp(min=0) / len(gradient)
        total = total + product * positive
    return trace.patches(trace.read @ total)


def grad_cam_twin(trace: Trace, label: int) -> Tensor:
    attention, gradient = trace.attentions[-1][0], trace.gradients(label)[-1]
    row = torch.zeros_like(trace.read)
    for head in range(len(gradient)):
        weight = trace.patches(trace.read @ gradient[head]).mean()
        row = row + weight * (trace.read @ attention[head]) / len(gradient)
    return trace.patches(row).clamp(min=0)


def legrad_twin(trace: Trace, label: int, start_layer: int, pool: str) -> Tensor:
    row, module = torch.zeros_like(trace.read), trace.module
    for attention, output in list(zip(trace.attentions, trace.outputs, strict=True))[start_layer:]:
        if pool == "head":
            logits = module.forward_head(module.norm(output))[0]
        else:
            mean = module.fc_norm(module.norm(output.mean(1)))[0]
            logits = module.head(mean)
            if hasattr(module, "head_dist"):
                logits = (logits + module.head_dist(mean)) / 2
        (gradient,) = torch.autograd.grad(logits[label], attention, retain_graph=True)
        row = row + gradient[0].clamp(min=0).mean((0, 1))
    return trace.patches(row)


TWINS: list[tuple[str, dict[str, Any], Any]] = [
    ("getam", {}, lambda trace, label: getam_twin(trace, label, 0)),
    ("getam", {"start_layer": 2}, lambda trace, label: getam_twin(trace, label, 2)),
    ("attention_grad_cam", {}, grad_cam_twin),
    ("legrad", {}, lambda trace, label: legrad_twin(trace, label, -2, "mean")),
    ("legrad", {"start_layer": 0, "pool": "head"}, lambda trace, label: legrad_twin(trace, label, 0, "head")),
]


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize(("method", "parameters", "twin"), TWINS, ids=[f"{m}-{p}" for m, p, _ in TWINS])
def test_against_the_slow_twin(name: str, method: str, parameters: dict[str, Any], twin: Any) -> None:
    model, batch, pairs = classifier(name), images(name, 4), some_pairs()
    found = xaibench.explain(model, batch, pairs, method=method, **parameters).flatten(1)
    expected = torch.stack(
        [
            twin(Trace(model.module, batch[image]), label)
            for image, label in zip(pairs.image.tolist(), pairs.label.tolist(), strict=True)
        ]
    )
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_pairs_do_not_see_each_other(method: str) -> None:
    model, batch, pairs = classifier("registers"), images("registers", 4), some_pairs()
    together = xaibench.explain(model, batch, pairs, method=method)
    for row in range(len(pairs)):
        image, label = int(pairs.image[row]), int(pairs.label[row])
        alone = xaibench.explain(model, batch[image : image + 1], xaibench.Pairs([0], [label]), method=method)
        torch.testing.assert_close(together[row], alone[0])


@pytest.mark.parametrize("method", METHODS)
def test_no_pairs(method: str) -> None:
    maps = xaibench.explain(classifier("plain"), images("plain", 2), xaibench.Pairs([], []), method=method)
    assert len(maps) == 0


def test_legrad_leaves_the_model_as_it_was() -> None:
    model = classifier("plain")
    module = model.module.train()
    xaibench.explain(model, images("plain", 2), xaibench.Pairs([0, 1], [1, 2]), method="legrad")
    assert all(m.training and not m._forward_hooks for m in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


@pytest.mark.parametrize(("method", "start_layer"), [("getam", 3), ("getam", -1), ("legrad", 3), ("legrad", -4)])
def test_a_start_that_is_not_there(method: str, start_layer: int) -> None:
    with pytest.raises(UsageError, match=r"blocks 0\.\.2"):
        xaibench.explain(
            classifier("plain"), images("plain", 1), xaibench.Pairs([0], [0]), method=method, start_layer=start_layer
        )


def test_a_pool_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="pool"):
        xaibench.explain(
            classifier("plain"), images("plain", 1), xaibench.Pairs([0], [0]), method="legrad", pool="class"
        )


def test_legrad_is_refused_where_blocks_are_not_read() -> None:
    module = classifier("plain").module
    module.blocks[1].attn.gate = torch.nn.Linear(24, 24).double()
    with pytest.raises(IncompatibleError, match="gates its attention"):
        xaibench.explain(xaibench.Classifier(module), images("plain", 1), xaibench.Pairs([0], [0]), method="legrad")
