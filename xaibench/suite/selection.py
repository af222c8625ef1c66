"""Choose a part of a suite: by globs, or the part that the suite calls representative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from xaibench.core.errors import UsageError, closest
from xaibench.suite.schema import Suite

Globs = str | Sequence[str]


@dataclass(frozen=True)
class Selection:
    """Labels of the models, methods and metrics whose cells are to be computed."""

    models: frozenset[str]
    methods: frozenset[str]
    metrics: frozenset[str]

    def __and__(self, other: Selection) -> Selection:
        return Selection(self.models & other.models, self.methods & other.methods, self.metrics & other.metrics)


def select(
    suite: Suite, *, quick: bool = False, models: Globs = "*", methods: Globs = "*", metrics: Globs = "*"
) -> Selection:
    """The part of a suite whose labels match.

    Args:
        quick: choose from the part that the suite calls representative
        models, methods: labels, or globs of labels
        metrics: the same; the metrics of a group have labels of their own

    Raises:
        UsageError: a glob that chooses nothing, or `quick` where the suite has no such part
    """
    labels = {
        "models": [model.label for model in suite.models],
        "methods": [method.label for method in suite.methods],
        "metrics": [metric.label for metric in suite.bound_metrics()],
    }
    whose = f"suite {suite.name}"
    if quick:
        if suite.quick is None:
            raise UsageError(
                f"suite {suite.name} names no quick part; add `quick: {{methods: [...]}}`, or use --method"
            )
        labels = {kind: choose(_option(kind), own, getattr(suite.quick, kind), whose) for kind, own in labels.items()}
        whose = f"the quick part of suite {suite.name}"
    given = {"models": models, "methods": methods, "metrics": metrics}
    return Selection(
        **{kind: frozenset(choose(_option(kind), own, given[kind], whose)) for kind, own in labels.items()}
    )


def _option(kind: str) -> str:
    return f"--{kind.removesuffix('s')}"


def choose(option: str, labels: Sequence[str], globs: Globs, whose: str) -> list[str]:
    """The labels that match one of `globs`, in their order.

    Args:
        option, whose: where the globs come from, and to what the labels belong; for the message

    Raises:
        UsageError: a glob that matches no label
    """
    patterns = [globs] if isinstance(globs, str) else globs
    for pattern in patterns:
        if not any(fnmatch(label, pattern) for label in labels):
            hint = closest(pattern, labels) or f": {', '.join(labels)}"
            raise UsageError(f"{option} {pattern!r} chooses nothing of {whose}{hint}")
    return [label for label in labels if any(fnmatch(label, pattern) for pattern in patterns)]
