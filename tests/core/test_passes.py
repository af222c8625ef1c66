"""Costs that registrations state, compared with counted passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch

import xaibench
from tests.support.networks import build
from tests.support.parameters import taken
from tests.support.passes import Counter, counting
from xaibench.core import registry
from xaibench.core.registry import BoundMethod, BoundMetric
from xaibench.core.registry.passes import Case, Count, method_passes, metric_passes
from xaibench.data.ground_truth import GroundTruth
from xaibench.data.preprocess import Preprocess
from xaibench.evaluation import Evaluation
from xaibench.evaluation.measure import statistics
from xaibench.forward import Forward, Pairs
from xaibench.forward.explainer import Explainer
from xaibench.models.capabilities import lacking

# values of parameters by name, so that a new method or metric needs no entry here; none is a default
SMALL: dict[str, Any] = {
    **{"samples": 18, "steps": 3, "passes": 2, "cells": 3, "grid": 2, "layers": 2, "rounds": 2, "tiles": 2},
    **{"window": 8, "stride": 5, "patch": 7, "start_layer": 1, "scales": [1.0, 0.5, 1.5], "radius": 0.05},
    **{"gradient": True, "polarity": "negative"},
}
DEFAULT_WINDOWS = {"window": None, "stride": None, "patch": None}
VARIANTS: list[dict[str, Any]] = [
    SMALL,
    {**SMALL, "order": "lerf", "base": "integrated_gradients", "options": {"steps": 4}},
    {**SMALL, "layer": "conv1", "flip": False, "cells": 4, "samples": 33, "gradient": False},
    {**SMALL, "steps": None, "unit": "patch", "variant": "logit_diff", "perturbation": "noise", "level": "pixels"},
    {**SMALL, "layer": "input", "start_layer": 0, **DEFAULT_WINDOWS},
]
LABELS = [0, 2]


def parameters(entry: registry.Computation, values: dict[str, Any]) -> dict[str, Any]:
    """The defaults, with those of `values` that the entry takes."""
    given = taken(entry, values)
    for name in entry.mappings.keys() & given.keys():
        if entry.problems({name: given[name]}):
            given[name] = {key: value for key, value in given[name].items() if not entry.problems({name: {key: value}})}
    return entry.bind({key: value for key, value in given.items() if not entry.problems({key: value})})


def variants(entry: registry.Computation) -> list[dict[str, Any]]:
    """Parameters of an entry, each set once."""
    found: list[dict[str, Any]] = []
    for values in VARIANTS:
        if (bound := parameters(entry, values)) not in found:
            found.append(bound)
    return found


@cache
def network(kind: str) -> xaibench.Classifier:
    classifier = build(kind)
    classifier.preprocess = Preprocess(size=(24, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    return classifier


def batch(kind: str, images: int) -> tuple[Forward, Pairs]:
    """Copies of one image that differ in brightness, with the same labels."""
    image = torch.randn(1, 3, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    shown = image.expand(images, -1, -1, -1).contiguous()
    mask = torch.zeros(images, 24, 32, dtype=torch.uint8)
    mask[:, 4:12, 6:20], mask[:, 14:20, 20:30] = LABELS[0] + 1, LABELS[1] + 1
    present = torch.zeros(images, 6, dtype=torch.bool)
    present[:, LABELS] = True
    truth = GroundTruth(mask=mask, present=present)
    rows = torch.arange(images).repeat_interleave(len(LABELS))
    forward = Forward(network(kind), shown, ground_truth=truth, ids=["one"] * images, seed=3)
    return forward, Pairs(rows, torch.tensor(LABELS * images))


def case(kind: str) -> Case:
    """The variables of formulas for `batch`."""
    forward, _ = batch(kind, 1)
    classifier = forward.classifier
    linear = classifier.structure.target_layer if classifier.structure.head else None

    def layer(given: Any) -> str:
        return classifier.layer_name(given.get("layer", "last"))

    return {
        "pairs": len(LABELS),
        "others": int(forward.detected.sum() - forward.detected[0, LABELS].sum()),
        "classes": 6,
        "channels": lambda given: forward.features(layer(given)).shape[1],
        "linear_head": lambda given: float(layer(given) == linear),
        "blocks": 3 if kind == "vit" else 0,
        "height": 24,
        "width": 32,
        "cuda": 0,
    }


def per_image(run: Callable[[int], Counter]) -> Count:
    """Passes per image, from the passes that two more images need; this leaves out what a batch computes once."""
    two, four = run(2), run(4)
    return Count((four.forwards - two.forwards) / 2, (four.backwards - two.backwards) / 2)


def fitting(name: str) -> list[str]:
    """The networks that offer what a method needs."""
    return [kind for kind in ("cnn", "vit") if lacking(network(kind), registry.methods[name].needs) is None]


METHODS = [
    (name, kind, given)
    for name in registry.methods
    for kind in fitting(name)
    for given in variants(registry.methods[name])
    if given.get("layer", "last") in ("last", "input") or kind == "cnn"
]


def described(value: Any) -> str:
    return (
        str(value)
        if isinstance(value, str)
        else "-".join(f"{k}={v}" for k, v in value.items() if k in SMALL or k == "removal")
    )


@pytest.mark.parametrize(("name", "kind", "given"), METHODS, ids=described)
def test_passes_of_a_method(name: str, kind: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A method alone, and in a suite where the shared pass and its gradients exist already."""
    method = BoundMethod(name, registry.methods[name], given)
    explain = Explainer(method)

    def run(images: int, *, shared: bool) -> Counter:
        forward, pairs = batch(kind, images)
        if not shared:
            explain(forward, pairs)
        with torch.no_grad(), counting(forward.classifier, monkeypatch) as counter:
            explain(forward, pairs)
        return counter

    for shared in (True, False):
        counted = per_image(partial(run, shared=shared))
        assert run(2, shared=shared).forwards - 2 * counted.forwards <= 2, "a batch costs more than a few passes"
        assert method_passes(method, case(kind), shared=shared) == counted, f"shared = {shared}"


METRICS = [(name, given) for name in registry.metrics for given in variants(registry.metrics[name])]
EXPLAINING = ["integrated_gradients", "saliency", "occlusion", "center", "smooth"]


@pytest.mark.parametrize(("name", "given"), METRICS, ids=described)
def test_passes_of_a_metric(name: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.metrics[name]
    for explaining in EXPLAINING if "method" in entry.needs else EXPLAINING[:1]:
        explained = registry.methods[explaining]
        method = BoundMethod(explaining, explained, parameters(explained, SMALL))
        metric = BoundMetric(name, entry, given, "present")

        def run(images: int, method: BoundMethod = method, metric: BoundMetric = metric) -> Counter:
            forward, pairs = batch("cnn", images)
            with torch.no_grad():
                maps = Explainer(method)(forward, pairs)
                _ = forward.logits
                evaluation = Evaluation(forward, pairs, maps, Explainer(method))
                with counting(forward.classifier, monkeypatch) as counter:
                    statistics(evaluation, metric)
            return counter

        found = metric_passes(entry, given, method, case("cnn"))
        totals = {kind: sum(n for (own, _), n in found.items() if own == kind) for kind in ("forwards", "backwards")}
        assert Count(**totals) == per_image(run), explaining
