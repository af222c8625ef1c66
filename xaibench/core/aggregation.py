"""Aggregation: from statistics of pairs to one value.

Everything is a function of moments: sums and counts per (image, label). A weighted sum over images gives the estimate
(weights 1), a subset (weights 0 or 1) and a bootstrap resample (multinomial weights) alike, exactly and vectorised.

A metric with statistics of its own registers its aggregation beside itself, with the same decorator as here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from xaibench.core.errors import UsageError, unknown
from xaibench.core.registry import metrics

Array = npt.NDArray[np.float64]
Value = Callable[[Array], Array]
Per = Literal["all", "label", "macro"]


@dataclass(frozen=True)
class Aggregation:
    """How statistics of pairs [n, S] become one value.

    Attributes:
        value: from mean statistics [..., S] to values [...]
        per: "all": of the mean over all pairs; "label": per label, then the mean of labels; "macro": of the mean over
            labels of the label means. Labels without a defined pair are left out of a mean over labels
    """

    value: Value
    per: Per

    def __call__(self, sums: Array, counts: Array) -> Array:
        """Sums [..., L, S] and counts [..., L] to values [...]; NaN where there is nothing to average."""
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.per == "all":
                return self.value(sums.sum(-2) / counts.sum(-1)[..., None])
            labels = sums / counts[..., None]
            if self.per == "label":
                return mean_of_defined(self.value(labels))
            return self.value(mean_of_defined(labels, -2))


_aggregations: dict[str, Aggregation] = {}


def aggregation(name: str, per: Per = "all") -> Callable[[Value], Value]:
    """Register a function of mean statistics under a name. One function may have several names."""

    def register(value: Value) -> Value:
        if name in _aggregations:
            raise ValueError(f"aggregation {name!r} is defined twice")
        _aggregations[name] = Aggregation(value, per)
        return value

    return register


def find_aggregation(name: str) -> Aggregation:
    """An aggregation by name. Raises UsageError for an unknown name.

    Metrics may register aggregations of their own, so they are imported before a name is reported as unknown.
    """
    if name not in _aggregations:
        metrics.load()
    if name not in _aggregations:
        raise UsageError(unknown("aggregation", name, _aggregations))
    return _aggregations[name]


def mean_of_defined(values: Array, axis: int = -1) -> Array:
    """Mean over an axis of the values that are not NaN; NaN where there are none."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(defined.any(axis), total / defined.sum(axis), np.nan))


# -- general ------------------------------------------------------------------------------------------------------


@aggregation("mean")
@aggregation("label_macro", per="label")
def identity(means: Array) -> Array:
    """[..., 1] -> [...]"""
    return means[..., 0]


@aggregation("label_macro_f1", per="label")
@aggregation("f1_of_macro", per="macro")
@aggregation("f1_of_mean")
def harmonic(means: Array) -> Array:
    """[..., 2] -> [...]: 2ab / (a + b), 0 where a + b = 0."""
    a, b = means[..., 0], means[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(a + b == 0, 0.0, 2 * a * b / (a + b))


@aggregation("ratio")
def ratio(means: Array) -> Array:
    """[..., 2] -> [...]: a / b. The ratio of two means is that of the totals."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(means[..., 0] / means[..., 1])


@aggregation("mean_iou")
def mean_iou(means: Array) -> Array:
    """[..., 2 K] intersections and unions of K classes -> [...]: mean IoU of the classes whose union is not empty."""
    intersections, unions = np.split(means, 2, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return mean_of_defined(np.where(unions == 0, np.nan, intersections / unions))


@aggregation("cascade_mean")
def cascade_mean(means: Array) -> Array:
    """[..., depths] -> [...]"""
    return np.asarray(means.mean(-1))


@aggregation("cascade_last")
def cascade_last(means: Array) -> Array:
    """[..., depths] -> [...]"""
    return np.asarray(means[..., -1])
