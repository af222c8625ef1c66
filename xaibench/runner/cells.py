"""`ModelCells`: a model of a benchmark, the methods that go with it, and the cells that they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.core.registry import BoundMethod, BoundMetric
from xaibench.models.capabilities import lacking
from xaibench.models.classifier import Classifier
from xaibench.results.records import Cell, digest
from xaibench.results.scores import ScoredCell
from xaibench.runner.benchmark import Benchmark, ModelSource

Key = tuple[str, str]  # (method label, metric label)


@dataclass(frozen=True)
class ModelCells:
    """A model of a benchmark, ready to run.

    Attributes:
        methods: those that go with it
        skipped: a message for every reason why others do not
        cells: by method and metric
    """

    label: str
    classifier: Classifier
    methods: list[BoundMethod]
    skipped: list[str]
    cells: dict[Key, Cell]


def model_cells(source: ModelSource, benchmark: Benchmark) -> ModelCells:
    """Load a model, select its compatible methods, build its cells.

    Raises:
        IncompatibleError: no method goes with it
        UsageError: it does not go with the data, or a method names a layer that the only model does not have
    """
    classifier = source.open()
    methods, skipped = _compatible(source, classifier, benchmark)
    if not methods:
        raise IncompatibleError(f"no method goes with {source.label}: " + "; ".join(skipped))
    identity = _identity(source, classifier, benchmark)
    names = (benchmark.dataset.name, source.label)
    cells = {
        (method.label, metric.label): Cell(
            *names,
            method.label,
            metric.label,
            {**identity, "method": _method_identity(method), "metric": _metric_identity(metric)},
            benchmark.dataset.class_names,
        )
        for method in methods
        for metric in benchmark.metrics
    }
    return ModelCells(source.label, classifier, methods, skipped, cells)


def _compatible(
    source: ModelSource, classifier: Classifier, benchmark: Benchmark
) -> tuple[list[BoundMethod], list[str]]:
    """The methods that go with a model, and a message for every reason why others do not."""
    methods: list[BoundMethod] = []
    left_out: dict[str, list[str]] = {}  # by reason
    for method in source.methods:
        if (reason := lacking(classifier, method.entry.needs)) is not None:
            left_out.setdefault(reason, []).append(method.label)
            continue
        try:
            with benchmark.locating("methods", method.label):
                classifier.layer_name(method.parameters.get("layer") or "last")
            methods.append(method)
        except UsageError as error:
            if len(benchmark.models) == 1:
                raise
            # a layer's name is one model's; `validate` finds a method that goes with none
            left_out.setdefault(error.message, []).append(method.label)
    return methods, [f"{source.label}: {', '.join(labels)} left out: {why}" for why, labels in left_out.items()]


def _identity(source: ModelSource, classifier: Classifier, benchmark: Benchmark) -> dict[str, Any]:
    """What changes the numbers of all cells of a model."""
    dataset = benchmark.dataset
    return {
        "dataset": {
            "name": dataset.name,
            "version": dataset.entry.version,
            "split": dataset.split,
            "revision": dataset.revision,
            "ids": digest(benchmark.ids),
        },
        "model": {
            **source.identity,
            "weights": classifier.weights_hash,
            "activation": classifier.activation,
            "threshold": classifier.threshold,
            "layer": classifier.structure.target_layer,
            "preprocess": None if classifier.preprocess is None else vars(classifier.preprocess),
        },
        "seed": benchmark.seed,
        "precision": benchmark.precision,
    }


def _method_identity(method: BoundMethod) -> Mapping[str, Any]:
    entry = method.entry
    named = {"name": entry.name, "version": entry.version, "parameters": dict(method.parameters)}
    return named | ({"source": entry.source_hash} if entry.source_hash else {})


def _metric_identity(metric: BoundMetric) -> Mapping[str, Any]:
    entry = metric.entry
    named = {"name": entry.name, "version": entry.version, "parameters": dict(metric.deciding)}
    return {**named, "explain": metric.explain}


def scored_cells(benchmark: Benchmark, models: list[ModelCells], version: str) -> list[ScoredCell]:
    """What the table of scores needs of every cell, in the order of the benchmark.

    Args:
        version: of xaibench
    """
    dataset = {"suite": benchmark.name, "split": benchmark.dataset.split, "partial": benchmark.partial}
    return [
        ScoredCell(
            model.cells[method.label, metric.label],
            metric.aggregate,
            benchmark.seed,
            {
                **dataset,
                "version": version,
                "untrained": not model.classifier.trained,
                "control": method.entry.control,
                "direction": metric.better,
                "minimum_effect": metric.entry.minimum_effect,
            },
        )
        for model in models
        for method in model.methods
        for metric in benchmark.metrics
    ]
