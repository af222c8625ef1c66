"""Capabilities of models, the reasons for those that are missing, and one check for all callers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import xaibench
from xaibench.core import registry
from xaibench.core.errors import IncompatibleError
from xaibench.models.architectures import create_module
from xaibench.models.capabilities import lacking, offers, require
from xaibench.models.classifier import Classifier

ALWAYS = {"features", "gradients", "input_gradients"}
ATTENTION = {"attention", "attention_gradients"}
PLAIN = {"transformer_blocks", "patch_embedding"}
TINY: dict[str, Any] = {"img_size": 64, "embed_dim": 12, "depth": 2}


def classifier(name: str, **options: Any) -> Classifier:
    made = Classifier(create_module(name, num_classes=3, **options), name=name)
    made.inspect(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return made


@pytest.mark.parametrize(
    ("name", "options", "offered"),
    [
        ("test_resnet", {}, {"linear_head", "any_size", "relu"}),
        ("test_resnet", {"act_layer": "silu"}, {"linear_head", "any_size"}),
        ("vit_tiny_patch16_224", TINY, ATTENTION | PLAIN),
        ("vit_tiny_patch16_224", {**TINY, "dynamic_img_size": True}, ATTENTION | PLAIN | {"any_size"}),
        ("shapes_vit", {"img_size": 64}, ATTENTION | {"transformer_blocks"}),
    ],
)  # fmt: skip
def test_what_models_offer(name: str, options: dict[str, Any], offered: set[str]) -> None:
    found = classifier(name, **options)
    assert offers(found) - ALWAYS == offered
    assert offers(found) >= ALWAYS
    for need in registry.NEEDS.keys() - {"masks", "method"}:
        assert (lacking(found, [need]) is None) == (need in ALWAYS | offered)


@pytest.mark.parametrize(
    ("name", "options", "needs", "reason"),
    [
        ("test_resnet", {}, ["features", "masks"], None),
        ("test_resnet", {"act_layer": "silu"}, ["relu"], "it has activations other than ReLU"),
        ("test_resnet", {}, ["attention", "relu"], "ResNet has no attention over one fixed set of patch tokens"),
        ("test_resnet", {}, ["patch_embedding"], "ResNet has no attention"),
        ("shapes_vit", {"img_size": 64}, ["patch_embedding"], "no rules for its stem (HybridEmbed)"),
        ("vit_tiny_patch16_224", TINY, ["any_size"], "it takes images of one size only"),
        ("vit_tiny_patch16_224", TINY, ["linear_head"], "not linear in the mean of its last features (blocks.1.norm1)"),
        (
            "vit_tiny_patch16_224",
            {**TINY, "class_token": False, "global_pool": "max"},
            ["attention"],
            "global_pool='max'",
        ),
    ],
)
def test_why_a_model_does_not_offer(name: str, options: dict[str, Any], needs: list[str], reason: str | None) -> None:
    found = lacking(classifier(name, **options), needs)
    assert found is None if reason is None else reason in str(found)


def test_the_first_reason_is_given() -> None:
    found = classifier("vit_tiny_patch16_224", **TINY)
    assert lacking(found, ["any_size", "relu"]) == "it takes images of one size only"
    assert lacking(found, ["relu", "any_size"]) == "it has activations other than ReLU"


def test_a_method_that_does_not_go_with_a_model_is_refused() -> None:
    found, images, pairs = classifier("test_resnet"), torch.randn(1, 3, 64, 64), xaibench.Pairs([0], [0])
    message = "method raw_attention does not go with test_resnet: ResNet has no"
    require(found, registry.methods["cam"])
    require(found, registry.methods["oracle"])  # masks belong to the data
    require(found, registry.methods["cam"], no_masks="a sketch lacks")
    with pytest.raises(IncompatibleError, match="method oracle reads ground-truth masks, which a sketch lacks"):
        require(found, registry.methods["oracle"], no_masks="a sketch lacks")
    with pytest.raises(IncompatibleError, match=message):
        require(found, registry.methods["raw_attention"])
    with pytest.raises(IncompatibleError, match=message):
        xaibench.explain(found, images, pairs, method="raw_attention")
    with pytest.raises(IncompatibleError, match=message):
        xaibench.explain(found, images, pairs, method="smooth", base="raw_attention")
