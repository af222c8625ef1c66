"""How many passes a run would take, from the formulas of the registrations."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from xaibench.core.registry import BoundMethod, BoundMetric, PairRule
from xaibench.core.registry.passes import Case, Count, method_passes, metric_passes
from xaibench.forward import Forward
from xaibench.forward.explainer import Explainer
from xaibench.models.classifier import Classifier
from xaibench.runner.benchmark import Benchmark
from xaibench.runner.cells import Key, ModelCells

PAIRS_PER_IMAGE = 2.5  # a guess: how many labels are detected is known only when the model runs
ONE_LABEL: tuple[PairRule, ...] = ("predicted", "target")


@dataclass
class Estimate:
    """Passes of a run.

    Attributes:
        undeclared: registrations that do not say what they cost, and are not counted
    """

    forwards: float = 0
    backwards: float = 0
    undeclared: set[str] = field(default_factory=set)

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.forwards + other.forwards, self.backwards + other.backwards, self.undeclared | other.undeclared
        )

    def add(self, name: str, count: Count) -> None:
        """Add passes of a registration, unless it does not say how many."""
        if math.isnan(count.forwards + count.backwards):
            self.undeclared.add(name)
        else:
            self.forwards += count.forwards
            self.backwards += count.backwards


def estimate(model: ModelCells, missing: Collection[Key], benchmark: Benchmark) -> Estimate:
    """Passes that the missing cells of a model take: the shared ones once, those of every method and of its metrics."""
    wanted = [
        (method, metrics)
        for method in model.methods
        if (metrics := [metric for metric in benchmark.metrics if (method.label, metric.label) in missing])
    ]
    per_image = Estimate()
    if wanted:
        per_image.add("", Count(1, _shared_backwards(model.classifier, wanted, benchmark)))
    for method, metrics in wanted:
        rules = {metric.explain for metric in metrics}
        per_image.add(method.entry.name, method_passes(method, _case(model.classifier, rules, benchmark), shared=False))
        for name, count in _of_metrics(model.classifier, method, metrics, benchmark):
            per_image.add(name, count)
    images = len(benchmark.ids)
    return Estimate(per_image.forwards * images, per_image.backwards * images, per_image.undeclared)


def _shared_backwards(
    classifier: Classifier, wanted: Iterable[tuple[BoundMethod, list[BoundMetric]]], benchmark: Benchmark
) -> float:
    """Backward passes of the shared pass: those of methods that read gradients of the same layers are the same."""
    found: dict[frozenset[str], float] = {}
    for method, metrics in wanted:
        case = _case(classifier, {metric.explain for metric in metrics}, benchmark)
        own = method_passes(method, case, shared=True).backwards - method_passes(method, case, shared=False).backwards
        layers = Explainer(method).plan(classifier).gradients
        if own > 0:
            found[layers] = max(own, found.get(layers, 0))
    return sum(found.values())


def _of_metrics(
    classifier: Classifier, method: BoundMethod, metrics: Iterable[BoundMetric], benchmark: Benchmark
) -> Iterable[tuple[str, Count]]:
    """Passes of the metrics of one method, each part of those that share it once."""
    done: set[tuple[str, ...]] = set()
    for metric in metrics:
        totals = {"forwards": 0.0, "backwards": 0.0}
        case = _case(classifier, {metric.explain}, benchmark)
        for (kind, of), number in metric_passes(metric.entry, metric.parameters, method, case).items():
            key = (metric.explain, kind, of or f"of {metric.label}")
            totals[kind] += 0 if key in done else number
            done.add(key)
        yield metric.entry.name, Count(**totals)


def _case(classifier: Classifier, rules: Collection[PairRule], benchmark: Benchmark) -> Case:
    """Values of the variables of formulas, for the pairs that some rules choose."""
    several = 1 if benchmark.dataset.entry.single_label else PAIRS_PER_IMAGE
    pairs = 1 if all(rule in ONE_LABEL for rule in rules) else several
    height, width = classifier.geometry.size
    return {
        "pairs": pairs,
        "others": 0 if "detected" in rules else several - pairs,
        "classes": classifier.structure.labels,
        "channels": lambda parameters: _channels(classifier, _layer(classifier, parameters)),
        "linear_head": lambda parameters: float(
            classifier.structure.head is not None
            and _layer(classifier, parameters) == classifier.structure.target_layer
        ),
        "blocks": lambda _: len(classifier.attention.layers),
        "height": height,
        "width": width,
        "cuda": float(classifier.device.type == "cuda"),
    }


def _layer(classifier: Classifier, parameters: Mapping[str, Any]) -> str:
    return classifier.layer_name(str(parameters.get("layer", "last")))


def _channels(classifier: Classifier, layer: str) -> int:
    """Channels of a layer, by a pass of an empty image."""
    geometry = classifier.geometry
    shape = (1, len(geometry.mean), *geometry.size)
    image = torch.zeros(shape, dtype=classifier.dtype, device=classifier.device)
    return Forward(classifier, image).features(layer).shape[1]
