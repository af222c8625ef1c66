"""Values of a metric on an Evaluation, their shape checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from xaibench.core.aggregation import find_aggregation
from xaibench.core.errors import UsageError
from xaibench.core.pairs import Pairs
from xaibench.core.registry import PER_IMAGE, BoundMetric
from xaibench.evaluation.evaluation import Evaluation


@dataclass(frozen=True)
class Measured:
    """Values of a metric: one per pair, or one per image of the batch with the label `PER_IMAGE`.

    Attributes:
        image: row of the batch; label: of the pair, or `PER_IMAGE`
        statistics: that a value comes from, where a mean of values is not the score
    """

    image: list[int]
    label: list[int]
    values: list[float]
    statistics: list[list[float] | None]


def statistics(evaluation: Evaluation, metric: BoundMetric) -> Tensor:
    """Rows of a metric, checked: float64 [P] or [P, S], a row per pair; of a metric per image [B] or [B, S].

    The row of a pair whose map is undefined is NaN, whatever the metric returns.
    """
    result = metric.entry.function(evaluation, **metric.arguments)
    per_image = metric.entry.per == "image"
    count = len(evaluation.forward.images if per_image else evaluation.pairs)
    if not isinstance(result, Tensor) or result.ndim not in (1, 2) or len(result) != count:
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise UsageError(f"metric {metric.label} returned {found}; one row per {metric.entry.per} is needed")
    if per_image:
        return result.double()
    defined = evaluation.defined if result.ndim == 1 else evaluation.defined[:, None]
    return result.double().masked_fill(~defined, torch.nan)


def measure(evaluation: Evaluation, metric: BoundMetric) -> Measured:
    """Values of a metric, with the pair or image of each."""
    rows = statistics(evaluation, metric).cpu().numpy()
    if metric.entry.per == "image":
        image = list(range(len(evaluation.forward.images)))
        label = [PER_IMAGE] * len(image)
    else:
        image, label = evaluation.pairs.image.tolist(), evaluation.pairs.label.tolist()
    if rows.ndim == 1:
        return Measured(image, label, rows.tolist(), [None] * len(rows))
    return Measured(image, label, find_aggregation(metric.aggregate).value(rows).tolist(), list(rows.tolist()))


def pair_table(pairs: Pairs, metrics: Sequence[BoundMetric], measured: Mapping[str, Measured]) -> pd.DataFrame:
    """A row per pair: image, label, and the value of each metric; one per image has it in each of the image's rows."""
    images = pairs.image.tolist()
    table = pd.DataFrame({"image": images, "label": pairs.label.tolist()})
    for metric in metrics:
        values = measured[metric.label].values
        table[metric.label] = [values[image] for image in images] if metric.entry.per == "image" else values
    return table
