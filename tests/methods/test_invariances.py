"""Every registered method: changes of the batch that change no map, and a model that is left as it was.

A new method is tested by existing. Each runs on every small network here that offers what it needs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import xaibench
from tests.support.networks import IDS, PAIRS, build, images, mask
from xaibench.core import registry
from xaibench.data.ground_truth import GroundTruth
from xaibench.forward import Forward, Pairs, Plan
from xaibench.models.capabilities import lacking

CLOSE = 1e-5
SINGLE = 0.9999  # cosine of float32 and float64 maps
# defaults are for real images; what is tested here does not get truer with more samples
QUICK: dict[str, dict[str, Any]] = {
    "rise": {"samples": 20, "cells": 4},
    "lime": {"samples": 40, "cells": 3},
    "kernel_shap": {"samples": 40, "cells": 4},
    "integrated_gradients": {"steps": 3},
    **{name: {"samples": 3} for name in ("gradient_shap", "expected_gradients", "smooth_grad", "var_grad", "smooth")},
    "accumulated_saliency": {"passes": 3, "hide": 0.2},
    "tta": {"scales": [1.0, 1.5]},
}


@cache
def shared(kind: str) -> xaibench.Classifier:
    """One network for all tests that do not touch it."""
    return build(kind)


def maps_of(name: str, classifier: xaibench.Classifier, rows: Tensor, pairs: Pairs) -> Tensor:
    """Maps for the batch made of `rows`; pair images are positions in it."""
    method = registry.methods[name]
    parameters = method.bind(QUICK.get(name, {}))
    dtype = next(classifier.module.parameters()).dtype
    forward = Forward(
        classifier,
        images()[rows].to(dtype),
        plan=Plan.of(classifier, method.needs, parameters),
        ground_truth=GroundTruth(mask=mask()[rows]),
        ids=[IDS[int(row)] for row in rows],
        seed=1,
    )
    with torch.no_grad():
        result: Tensor = method.function(forward, pairs, **parameters)
    return result.detach()


@cache
def reference(name: str, kind: str) -> Tensor:
    """Maps of all pairs, from one batch."""
    return maps_of(name, shared(kind), torch.arange(8), PAIRS)


def fitting(name: str) -> list[str]:
    needs = set(registry.methods[name].needs)
    return [kind for kind in ("cnn", "vit") if lacking(shared(kind), needs) is None]


def assert_close(found: Tensor, expected: Tensor) -> None:
    scale = expected.abs().amax((-2, -1), keepdim=True).clamp(min=1e-12)
    assert found.shape == expected.shape
    assert float(((found - expected).abs() / scale).nan_to_num().max() if len(found) else 0) <= CLOSE
    assert torch.equal(found.isnan(), expected.isnan())


everyone = pytest.mark.parametrize("name", list(registry.methods))
everywhere = pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in registry.methods for kind in fitting(name)]
)


@everyone
def test_some_network_offers_what_it_needs(name: str) -> None:
    assert fitting(name), f"{name}: no test network offers {registry.methods[name].needs}; add one"


@everywhere
def test_shape_and_dtype(name: str, kind: str) -> None:
    maps = reference(name, kind)
    assert maps.ndim == 3
    assert len(maps) == len(PAIRS)
    assert maps.dtype == torch.float64
    assert maps.isfinite().all()
    assert maps.abs().max() > 0


@everywhere
def test_batch_size_does_not_matter(name: str, kind: str) -> None:
    for row in range(8):
        chosen = (PAIRS.image == row).nonzero()[:, 0]
        own = Pairs(torch.zeros_like(chosen), PAIRS.label[chosen])
        assert_close(maps_of(name, shared(kind), torch.tensor([row]), own), reference(name, kind)[chosen])


@everywhere
def test_order_and_chunks_do_not_matter(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    position = torch.argsort(order)
    shuffle = torch.randperm(len(PAIRS), generator=torch.Generator().manual_seed(0))
    pairs = Pairs(position[PAIRS.image[shuffle]], PAIRS.label[shuffle])
    monkeypatch.setattr(shared(kind), "chunk", 3)
    assert_close(maps_of(name, shared(kind), order, pairs), reference(name, kind)[shuffle])


@everywhere
def test_no_pairs_give_no_maps(name: str, kind: str) -> None:
    maps = maps_of(name, shared(kind), torch.arange(2), Pairs([], []))
    assert maps.shape == (0, *reference(name, kind).shape[1:])


@everywhere
def test_single_precision_agrees(name: str, kind: str) -> None:
    classifier = build(kind)
    classifier.module.float()
    found = maps_of(name, classifier, torch.arange(8), PAIRS)
    assert found.dtype == torch.float32
    agreement = F.cosine_similarity(found.double().flatten(), reference(name, kind).flatten(), dim=0)
    assert agreement > SINGLE


@everyone
@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_is_left_as_it_was(name: str, frozen: bool) -> None:
    kind = fitting(name)[0]
    classifier = build(kind)
    module = classifier.module
    module.train()
    next(module.modules()).eval()  # mixed modes, as in partial fine-tuning
    for index, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(not frozen and index % 2 == 0)
    modes = [m.training for m in module.modules()]
    grads = [p.requires_grad for p in module.parameters()]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    switches = [(getattr(m, "fused_attn", None), getattr(m, "inplace", None)) for m in module.modules()]
    rng = torch.random.get_rng_state()
    assert_close(maps_of(name, classifier, torch.arange(8), PAIRS), reference(name, kind))
    assert [m.training for m in module.modules()] == modes
    assert [p.requires_grad for p in module.parameters()] == grads
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert [(getattr(m, "fused_attn", None), getattr(m, "inplace", None)) for m in module.modules()] == switches
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())
    assert torch.equal(torch.random.get_rng_state(), rng)


@everyone
def test_the_facts_are_complete(name: str) -> None:
    entry = registry.methods[name]
    assert entry.summary
    assert entry.source
    assert entry.forwards is not None
    assert entry.backwards is not None
    assert set(entry.parameters) <= set(entry.annotations)
