"""Fixtures: the small networks behind the golden arrays, and quick models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import xaibench
from tests.support.paths import GOLDEN
from xaibench.core.timm_import import import_timm
from xaibench.models.architectures import create_module

hypothesis.settings.register_profile("no clock", deadline=None)  # machines are shared
hypothesis.settings.load_profile("no clock")


@dataclass(frozen=True)
class Golden:
    """A network with reference arrays: [image, label, ...] for every image and label."""

    name: str
    arrays: Any
    classifier: xaibench.Classifier
    images: Tensor
    layers: dict[str, str]

    @property
    def every_pair(self) -> xaibench.Pairs:
        images, labels = self.arrays["logits"].shape
        return xaibench.Pairs.where(torch.ones(images, labels, dtype=torch.bool))

    def maps(self, method: str, pairs: xaibench.Pairs | None = None, **parameters: Any) -> Any:
        """Maps of every pair as an array [image, label, h, w]."""
        maps = xaibench.explain(self.classifier, self.images, pairs or self.every_pair, method=method, **parameters)
        return maps.detach().numpy() if pairs else maps.unflatten(0, self.arrays["logits"].shape).detach().numpy()


def load_cnn(name: str) -> Golden:
    arrays = np.load(GOLDEN / "cnn" / f"{name}.npz", allow_pickle=False)
    desc = json.loads(str(arrays["desc"]))
    if desc["source"]:
        scope: dict[str, Any] = {"torch": torch, "nn": nn}
        exec(desc["source"], scope)  # the reference's own source, from our repository
        module = scope["Plain"](**desc["kwargs"])
    else:
        module = create_module(desc["timm_name"], **desc["kwargs"])
    module.load_state_dict({k[2:]: torch.tensor(arrays[k]) for k in arrays if k.startswith("w/")})
    module.double().eval()
    images = torch.tensor(arrays["images"], dtype=torch.float64)
    return Golden(name, arrays, xaibench.Classifier(module, name=name), images, desc["layers"])


@pytest.fixture(scope="session", params=["open_plain", "open_timm"])
def cnn(request: pytest.FixtureRequest) -> Golden:
    return load_cnn(request.param)


@dataclass(frozen=True)
class GoldenTransformer:
    """A transformer with reference arrays: [image, target, ...] for three targets an image."""

    arrays: Any
    classifier: xaibench.Classifier
    images: Tensor
    pairs: xaibench.Pairs

    def maps(self, method: str, **parameters: Any) -> Any:
        """[image, target, patch tokens]"""
        maps = xaibench.explain(self.classifier, self.images, self.pairs, method=method, **parameters)
        return maps.flatten(1).unflatten(0, self.arrays["targets"].shape).numpy()


def load_transformer(name: str) -> GoldenTransformer:
    from functools import partial

    import_timm()
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed, _resnetv2

    arrays = np.load(GOLDEN / "transformers" / f"{name}.npz", allow_pickle=False)
    config = json.loads(str(arrays["config"]))
    options = {k: v for k, v in config["model"].items() if k not in ("grid", "norm_eps")}
    options["img_size"] = tuple(options["img_size"])
    options["norm_layer"] = partial(nn.LayerNorm, eps=config["model"]["norm_eps"])
    if config["hybrid"]:
        options["embed_layer"] = partial(HybridEmbed, backbone=_resnetv2(layers=()))
    module = VisionTransformer(**options)
    module.load_state_dict({k[2:]: torch.tensor(arrays[k]) for k in arrays if k.startswith("w/")})
    module.double().eval()
    targets = torch.tensor(arrays["targets"])
    rows = torch.arange(len(targets)).repeat_interleave(targets.shape[1])
    pairs = xaibench.Pairs(rows, targets.flatten())
    images = torch.tensor(arrays["images"], dtype=torch.float64)
    return GoldenTransformer(arrays, xaibench.Classifier(module, name=name), images, pairs)


@pytest.fixture(scope="session", params=["open_vit", "open_vit_nonsquare", "open_hybrid"])
def transformer(request: pytest.FixtureRequest) -> GoldenTransformer:
    return load_transformer(request.param)
