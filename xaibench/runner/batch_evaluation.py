"""From one forward pass to the rows of every cell: maps once per method, then each metric on its own pairs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from xaibench.core.pairs import Pairs
from xaibench.core.registry import BoundMetric
from xaibench.evaluation import Evaluation
from xaibench.evaluation.measure import measure
from xaibench.forward import Forward
from xaibench.forward.explainer import Explainer
from xaibench.results.records import rows_of
from xaibench.runner.cells import Key

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class BatchError:
    """An error of a method, which costs all metrics that were wanted of it, or of one metric."""

    method: str
    metrics: Sequence[str]
    of_method: bool
    error: Exception


@dataclass(frozen=True)
class BatchResult:
    """Rows of one batch by cell, and the errors that left cells without rows."""

    rows: dict[Key, Rows] = field(default_factory=dict)
    errors: list[BatchError] = field(default_factory=list)

    def add(self, other: BatchResult) -> None:
        for key, rows in other.rows.items():
            self.rows.setdefault(key, []).extend(rows)
        self.errors.extend(other.errors)


def evaluate_batch(forward: Forward, wanted: Iterable[tuple[Explainer, Sequence[BoundMetric]]]) -> BatchResult:
    """Explain and measure one batch.

    Args:
        wanted: methods, and the metrics that are wanted of each

    Raises:
        torch.OutOfMemoryError: for the caller, who may try smaller batches; every other error comes back as data
    """
    result = BatchResult()
    for explainer, metrics in wanted:
        if metrics:
            result.add(_evaluate(forward, explainer, metrics))
    return result


def _evaluate(forward: Forward, explainer: Explainer, metrics: Sequence[BoundMetric]) -> BatchResult:
    """One method on one batch: maps once for the union of the pairs, then each metric on its own rows."""
    result = BatchResult({(explainer.label, metric.label): [] for metric in metrics})
    chosen = {rule: forward.select(rule) for rule in sorted({metric.explain for metric in metrics})}
    pairs = Pairs.where(torch.stack(list(chosen.values())).any(0))
    if not len(pairs):  # an image without a label still counts in a metric per image
        metrics = [metric for metric in metrics if metric.entry.per == "image"]
    if not metrics:
        return result
    started = time.perf_counter()
    try:
        with torch.no_grad():
            maps = explainer(forward, pairs) if len(pairs) else forward.images.new_zeros((0, 1, 1))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        result.errors.append(BatchError(explainer.label, [metric.label for metric in metrics], True, error))
        return result
    map_seconds = (time.perf_counter() - started) / max(len(pairs), 1)
    evaluations = {}
    for rule, matrix in chosen.items():
        rows = matrix[pairs.image, pairs.label]
        evaluations[rule] = Evaluation(forward, pairs[rows], maps[rows], explainer)
    for metric in metrics:
        result.add(_measure(evaluations[metric.explain], explainer, metric, map_seconds))
    return result


def _measure(evaluation: Evaluation, explainer: Explainer, metric: BoundMetric, map_seconds: float) -> BatchResult:
    started = time.perf_counter()
    try:
        with torch.no_grad():
            measured = measure(evaluation, metric)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return BatchResult(errors=[BatchError(explainer.label, [metric.label], False, error)])
    seconds = map_seconds + (time.perf_counter() - started) / max(len(measured.image), 1)
    ids = [evaluation.forward.ids[row] for row in measured.image]
    rows = rows_of(ids, measured.label, measured.values, measured.statistics, seconds)
    return BatchResult({(explainer.label, metric.label): rows})
