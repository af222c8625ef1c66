"""The registry of methods, metrics and data sets, those of plugins included."""

from xaibench.core.registry.entries import (
    INVARIANCES,
    NEEDS,
    PER_IMAGE,
    RESERVED,
    BoundMethod,
    BoundMetric,
    Computation,
    DatasetEntry,
    Entry,
    Method,
    Metric,
    PairRule,
)
from xaibench.core.registry.mappings import Keys
from xaibench.core.registry.plugins import load_plugin
from xaibench.core.registry.registry import (
    Registry,
    bound_method,
    dataset,
    datasets,
    method,
    methods,
    metric,
    metric_groups,
    metrics,
)

__all__ = [
    "INVARIANCES", "NEEDS", "PER_IMAGE", "RESERVED", "BoundMethod", "BoundMetric", "Computation", "DatasetEntry",
    "Entry", "Keys", "Method", "Metric", "PairRule", "Registry", "bound_method", "dataset", "datasets", "load_plugin",
    "method", "methods", "metric", "metric_groups", "metrics",
]  # fmt: skip
