"""The reference set of metrics: eight images, a small network, maps with and without ties, and results of the peers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import xaibench
from tests.support.paths import GOLDEN
from xaibench.data.ground_truth import GroundTruth
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs

MAKERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "conv2d": lambda d: nn.Conv2d(d["in"], d["out"], d["k"], d["stride"], d["pad"]),
    "relu": lambda d: nn.ReLU(),
    "maxpool2d": lambda d: nn.MaxPool2d(d["k"]),
    "avgpool2d": lambda d: nn.AvgPool2d(d["k"]),
    "flatten": lambda d: nn.Flatten(),
    "linear": lambda d: nn.Linear(d["in"], d["out"]),
}


class GoldenSet:
    """`golden/metrics/open.npz`."""

    def __init__(self) -> None:
        self.arrays = np.load(GOLDEN / "metrics" / "open.npz", allow_pickle=False)
        self.facts = json.loads((GOLDEN / "metrics" / "open.json").read_text())

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    def result(self, key: str) -> Any:
        return self.arrays[f"r/{key}"]

    def classifier(self) -> xaibench.Classifier:
        layers = json.loads(str(self.arrays["arch_json"]))["layers"]
        module = nn.Sequential(*(MAKERS[layer["type"]](layer) for layer in layers))
        module.load_state_dict({k[2:]: self[k] for k in self.arrays if k.startswith("w/")})
        return xaibench.Classifier(module.eval(), activation="softmax", layer="3", name="golden")

    @cached_property
    def pairs(self) -> Pairs:
        return Pairs(torch.arange(8), self["y"])

    def forward(self) -> Forward:
        """The batch, masks carrying the predicted label."""
        mask = self["masks"][:, 0] * (self["y"] + 1).byte()[:, None, None]
        return Forward(self.classifier(), self["x"], ground_truth=GroundTruth(mask=mask))

    def evaluation(self, maps: str, method: Callable[[Forward, Pairs], Tensor] | None = None) -> Evaluation:
        """Of a one-channel map (a1, ap, at); or of a map with a value per colour, its colours one below the other."""
        values = self[maps]
        if values.shape[1] == 1:
            return Evaluation(self.forward(), self.pairs, values[:, 0])
        return any_evaluation(values.flatten(1, 2))


def any_classifier(labels: int = 3, channels: int = 3) -> xaibench.Classifier:
    """A small untrained network for images of any size."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, labels)
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return xaibench.Classifier(module.eval(), layer="1")


def any_evaluation(maps: Tensor, mask: Tensor | None = None, size: tuple[int, int] | None = None) -> Evaluation:
    """Maps [P, h, w] of the first label of P black images; `size` of the images, else that of the maps."""
    images = maps.new_zeros((len(maps), 3, *(size or maps.shape[1:])))
    classifier = any_classifier()
    classifier.module.to(maps.dtype)
    forward = Forward(classifier, images, ground_truth=GroundTruth(mask=mask))
    return Evaluation(forward, Pairs(torch.arange(len(maps)), torch.zeros(len(maps), dtype=torch.long)), maps)


GOLDEN_SET = GoldenSet()
