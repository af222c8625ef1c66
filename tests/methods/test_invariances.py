"""For every registered method: what must not change a map, and what a method must leave alone.

A new method is tested by existing. Each runs on a small network that offers what it needs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xaibench
from xaibench import registry
from xaibench.forward import Forward, Pairs, Plan
from xaibench.models import import_timm

CLOSE = 1e-5


class Net(nn.Module):
    """Convolutions with in-place activations and additions, a pooled linear head: what real networks look like."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.conv1 = nn.Conv2d(8, 8, 3, 1, 1)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12))
        self.act2 = nn.ReLU(inplace=True)
        self.fc = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branch = self.conv1(x)
        branch += x
        x = self.act2(self.conv2(self.act1(branch)))
        return self.fc(x.mean((2, 3)))


def build(kind: str) -> xaibench.Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "cnn":
            module: nn.Module = Net()
            module.fc.weight.data.mul_(4)  # type: ignore[union-attr, operator]
        else:
            import_timm()
            from timm.models.vision_transformer import VisionTransformer

            module = VisionTransformer(img_size=(24, 32), patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=6)
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.2)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return xaibench.Classifier(module.double(), name=kind)


@cache
def images() -> Tensor:
    return torch.randn(8, 3, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@cache
def mask() -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randint(0, 7, (8, 24, 32), generator=generator).to(torch.uint8)


IDS = [f"sample-{i}" for i in range(8)]
PAIRS = Pairs([0, 1, 1, 1, 1, 1, 3, 4, 4, 5, 6, 7, 7], [2, 0, 1, 2, 4, 5, 3, 0, 5, 1, 1, 2, 3])  # 0, 1 and 5 labels


def classifier_for(method: registry.Method) -> xaibench.Classifier:
    for kind in ("cnn", "vit"):
        classifier = build(kind)
        classifier.inspect(images())
        if set(method.needs) <= classifier.offers() | {"masks"}:
            return classifier
    raise AssertionError(f"{method.name}: no test network offers {method.needs}; add one")


def maps_of(name: str, classifier: xaibench.Classifier, rows: Tensor, pairs: Pairs) -> Tensor:
    """Maps for the batch made of `rows`; pair images are positions in it."""
    method = registry.methods[name]
    parameters = method.bind(required(method))
    forward = Forward(
        classifier, images()[rows], plan=Plan.of(classifier, method.needs, parameters), mask=mask()[rows],
        ids=[IDS[int(row)] for row in rows], seed=1,
    )  # fmt: skip
    with torch.no_grad():
        result: Tensor = method.function(forward, pairs, **parameters)
    return result.detach()


def required(method: registry.Method) -> dict[str, Any]:
    """Values for parameters without a default (wrappers take another method)."""
    return {n: "grad_cam" for n, p in method.parameters.items() if p.default is p.empty and n == "method"}


def assert_close(found: Tensor, expected: Tensor) -> None:
    scale = expected.abs().amax((-2, -1), keepdim=True).clamp(min=1e-12)
    assert found.shape == expected.shape
    assert float(((found - expected).abs() / scale).nan_to_num().max() if len(found) else 0) <= CLOSE
    assert torch.equal(found.isnan(), expected.isnan())


everyone = pytest.mark.parametrize("name", list(registry.methods))


@everyone
def test_shape_and_dtype(name: str) -> None:
    maps = maps_of(name, classifier_for(registry.methods[name]), torch.arange(8), PAIRS)
    assert maps.ndim == 3
    assert len(maps) == len(PAIRS)
    assert maps.dtype == torch.float64


@everyone
def test_batch_size_does_not_matter(name: str) -> None:
    classifier = classifier_for(registry.methods[name])
    together = maps_of(name, classifier, torch.arange(8), PAIRS)
    for row in range(8):
        chosen = (PAIRS.image == row).nonzero()[:, 0]
        alone = maps_of(name, classifier, torch.tensor([row]), Pairs(torch.zeros_like(chosen), PAIRS.label[chosen]))
        assert_close(alone, together[chosen])


@everyone
def test_order_does_not_matter(name: str) -> None:
    classifier = classifier_for(registry.methods[name])
    together = maps_of(name, classifier, torch.arange(8), PAIRS)
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    position = torch.argsort(order)
    shuffle = torch.randperm(len(PAIRS), generator=torch.Generator().manual_seed(0))
    shuffled = maps_of(name, classifier, order, Pairs(position[PAIRS.image[shuffle]], PAIRS.label[shuffle]))
    assert_close(shuffled, together[shuffle])


@everyone
def test_no_pairs_give_no_maps(name: str) -> None:
    maps = maps_of(name, classifier_for(registry.methods[name]), torch.arange(2), Pairs([], []))
    assert maps.ndim == 3
    assert len(maps) == 0


@everyone
@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_is_left_as_it_was(name: str, frozen: bool) -> None:
    classifier = classifier_for(registry.methods[name])
    module = classifier.module
    module.train()
    next(module.modules()).eval()  # mixed modes, as in partial fine-tuning
    for index, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(not frozen and index % 2 == 0)
    modes = [m.training for m in module.modules()]
    grads = [p.requires_grad for p in module.parameters()]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    fused = [getattr(m, "fused_attn", None) for m in module.modules()]
    rng = torch.random.get_rng_state()
    expected = maps_of(name, classifier_for(registry.methods[name]), torch.arange(8), PAIRS)
    found = maps_of(name, classifier, torch.arange(8), PAIRS)
    assert_close(found, expected)
    assert [m.training for m in module.modules()] == modes
    assert [p.requires_grad for p in module.parameters()] == grads
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert [getattr(m, "fused_attn", None) for m in module.modules()] == fused
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())
    assert torch.equal(torch.random.get_rng_state(), rng)


@everyone
def test_the_facts_are_complete(name: str) -> None:
    entry = registry.methods[name]
    assert entry.summary
    assert entry.source
    assert entry.cost
    assert set(entry.parameters) <= set(entry.annotations)
