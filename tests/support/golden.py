"""The golden sets, and the networks they were computed with: results of the original implementations, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import xaibench
from tests.support.evaluations import any_evaluation
from tests.support.paths import GOLDEN
from xaibench.core.timm_import import import_timm
from xaibench.data.ground_truth import GroundTruth
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs
from xaibench.models.architectures import create_module

TOLERANCE = 1e-5  # of the map's maximum: the arrays are float32


def load_arrays(name: str) -> Any:
    """Arrays by key of tests/golden/`name`.npz, read from the file when they are asked for."""
    return np.load(GOLDEN / f"{name}.npz", allow_pickle=False)


def load_facts(name: str) -> Any:
    """The content of tests/golden/`name`.json."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def weights(arrays: Any) -> dict[str, Tensor]:
    """The state of a module: the arrays below `w/`."""
    return {key[2:]: torch.tensor(arrays[key]) for key in arrays if key.startswith("w/")}


def assert_maps_equal(found: npt.NDArray[Any], reference: npt.NDArray[Any], tolerance: float = TOLERANCE) -> None:
    """Assert that no value differs by more than `tolerance` of its map's largest magnitude."""
    assert found.shape == reference.shape
    largest = np.abs(reference).max(axis=(-2, -1), keepdims=True)
    assert (np.abs(found - reference) <= tolerance * np.maximum(largest, 1e-12)).all(), (
        np.abs(found - reference) / np.maximum(largest, 1e-12)
    ).max()


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
    """The convolutional network and arrays of tests/golden/cnn/`name`.npz, in float64."""
    arrays = load_arrays(f"cnn/{name}")
    desc = json.loads(str(arrays["desc"]))
    if desc["source"]:
        scope: dict[str, Any] = {"torch": torch, "nn": nn}
        exec(desc["source"], scope)  # the reference's own source, from our repository
        module = scope["Plain"](**desc["kwargs"])
    else:
        module = create_module(desc["timm_name"], **desc["kwargs"])
    module.load_state_dict(weights(arrays))
    module.double().eval()
    images = torch.tensor(arrays["images"], dtype=torch.float64)
    return Golden(name, arrays, xaibench.Classifier(module, name=name), images, desc["layers"])


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
    """The transformer and arrays of tests/golden/transformers/`name`.npz, in float64."""
    import_timm()
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed, _resnetv2

    arrays = load_arrays(f"transformers/{name}")
    config = json.loads(str(arrays["config"]))
    options = {k: v for k, v in config["model"].items() if k not in ("grid", "norm_eps")}
    options["img_size"] = tuple(options["img_size"])
    options["norm_layer"] = partial(nn.LayerNorm, eps=config["model"]["norm_eps"])
    if config["hybrid"]:
        options["embed_layer"] = partial(HybridEmbed, backbone=_resnetv2(layers=()))
    module = VisionTransformer(**options)
    module.load_state_dict(weights(arrays))
    module.double().eval()
    targets = torch.tensor(arrays["targets"])
    rows = torch.arange(len(targets)).repeat_interleave(targets.shape[1])
    pairs = xaibench.Pairs(rows, targets.flatten())
    images = torch.tensor(arrays["images"], dtype=torch.float64)
    return GoldenTransformer(arrays, xaibench.Classifier(module, name=name), images, pairs)


MAKERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "conv2d": lambda d: nn.Conv2d(d["in"], d["out"], d["k"], d["stride"], d["pad"]),
    "relu": lambda d: nn.ReLU(),
    "maxpool2d": lambda d: nn.MaxPool2d(d["k"]),
    "avgpool2d": lambda d: nn.AvgPool2d(d["k"]),
    "flatten": lambda d: nn.Flatten(),
    "linear": lambda d: nn.Linear(d["in"], d["out"]),
}


class GoldenSet:
    """`golden/metrics/open`: a small network, eight images, maps with and without ties, and the results of peers."""

    def __init__(self) -> None:
        self.arrays = load_arrays("metrics/open")
        self.facts = load_facts("metrics/open")

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    def result(self, key: str) -> Any:
        """The peer's number for `key`."""
        return self.arrays[f"r/{key}"]

    def classifier(self) -> xaibench.Classifier:
        layers = json.loads(str(self.arrays["arch_json"]))["layers"]
        module = nn.Sequential(*(MAKERS[layer["type"]](layer) for layer in layers))
        module.load_state_dict(weights(self.arrays))
        return xaibench.Classifier(module.eval(), activation="softmax", layer="3", name="golden")

    @cached_property
    def pairs(self) -> Pairs:
        return Pairs(torch.arange(8), self["y"])

    def forward(self) -> Forward:
        """The batch, masks carrying the predicted label."""
        mask = self["masks"][:, 0] * (self["y"] + 1).byte()[:, None, None]
        return Forward(self.classifier(), self["x"], ground_truth=GroundTruth(mask=mask))

    def evaluation(self, maps: str) -> Evaluation:
        """An evaluation of maps with one channel (a1, ap, at), or of maps with a value per colour, stacked as rows."""
        values = self[maps]
        if values.shape[1] == 1:
            return Evaluation(self.forward(), self.pairs, values[:, 0])
        return any_evaluation(values.flatten(1, 2))

    def attribution(self, key: str) -> Tensor:
        """[8, c, 32, 32] of a1, a3, ap, at, grad or ixg."""
        return self[f"aux/expl/{key}" if key in ("grad", "ixg") else key]

    def summed(self, maps: Tensor, labels: str = "y") -> Evaluation:
        """An evaluation of maps [8, c, 32, 32], channels summed, of the labels `y` or `y_alt`."""
        pairs = Pairs(torch.arange(8), self[labels])
        return Evaluation(Forward(self.classifier(), self["x"]), pairs, maps.sum(1))


GOLDEN_SET = GoldenSet()
