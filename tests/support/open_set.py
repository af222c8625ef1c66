"""The reference set `golden/metrics/open`: a small network, eight images, maps, and the peers' results."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import xaibench
from tests.support.paths import GOLDEN
from xaibench.evaluation import Evaluation
from xaibench.forward import Pairs

ARRAYS = np.load(GOLDEN / "metrics" / "open.npz", allow_pickle=False)
FACTS = json.loads((GOLDEN / "metrics" / "open.json").read_text())


def tensor(key: str) -> Tensor:
    return torch.tensor(ARRAYS[key])


def result(key: str) -> Any:
    return ARRAYS[f"r/{key}"]


def attribution(key: str) -> Tensor:
    """[8, c, 32, 32] of a1, a3, ap, at, grad or ixg."""
    return tensor(f"aux/expl/{key}" if key in ("grad", "ixg") else key)


@functools.cache
def classifier() -> xaibench.Classifier:
    kinds: dict[str, Any] = {
        "conv2d": lambda d: nn.Conv2d(d["in"], d["out"], d["k"], d["stride"], d["pad"]),
        "relu": lambda d: nn.ReLU(),
        "maxpool2d": lambda d: nn.MaxPool2d(d["k"]),
        "avgpool2d": lambda d: nn.AvgPool2d(d["k"]),
        "flatten": lambda d: nn.Flatten(),
        "linear": lambda d: nn.Linear(d["in"], d["out"]),
    }
    arch = json.loads(str(ARRAYS["arch_json"]))
    module = nn.Sequential(*(kinds[layer["type"]](layer) for layer in arch["layers"]))
    module.load_state_dict({k[2:]: tensor(k) for k in ARRAYS if k.startswith("w/")})
    return xaibench.Classifier(module, activation="softmax", name="open")


def evaluation(maps: Tensor, labels: str = "y") -> Evaluation:
    """An evaluation of maps [8, c, 32, 32], channels summed, of the labels `y` or `y_alt`."""
    images = tensor("x")
    pairs = Pairs(torch.arange(len(images)), tensor(labels))
    return Evaluation(xaibench.Forward(classifier(), images), pairs, maps.sum(1))
