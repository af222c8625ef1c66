"""A part of a suite: what globs choose, or what the suite itself calls representative."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import TypeVar

from xaibench.core import registry
from xaibench.core.errors import UsageError
from xaibench.suite.schema import LeaderboardSection, MetricNamed, ModelSection, Named, Suite

Globs = str | Sequence[str]
N = TypeVar("N", Named, MetricNamed, ModelSection)


def select(suite: Suite, *, models: Globs = "*", methods: Globs = "*", metrics: Globs = "*") -> Suite:
    """The suite with only what the globs choose (metric groups are spelled out). Raises UsageError if nothing is left."""

    def keep(kind: str, entries: list[N], globs: Globs) -> list[N]:
        patterns = [globs] if isinstance(globs, str) else globs
        kept = [entry for entry in entries if any(fnmatch(entry.label, pattern) for pattern in patterns)]
        if not kept:
            labels = ", ".join(entry.label for entry in entries)
            raise UsageError(f"--{kind} {', '.join(patterns)!r} chooses nothing of the suite's {kind}s: {labels}")
        return kept

    groups = registry.metric_groups()
    spelled = [
        entry if entry.name not in groups else entry.model_copy(update={"name": name, "as_": None})
        for entry in suite.metrics
        for name in groups.get(entry.name, [entry.name])
    ]
    chosen_metrics = keep("metric", spelled, metrics)
    chosen_methods = keep("method", suite.methods, methods)
    kept_labels = {entry.label for entry in chosen_metrics}
    board = suite.leaderboard
    return suite.model_copy(
        update={
            "models": keep("model", suite.models, models),
            "methods": chosen_methods,
            "metrics": chosen_metrics,
            "leaderboard": LeaderboardSection(
                reference=board.reference if board.reference in {m.label for m in chosen_methods} else None,
                rank_by=[label for label in board.rank_by if label in kept_labels],
            ),
        }
    )


def quick(suite: Suite) -> Suite:
    """The suite's own representative part. Raises UsageError where it names none."""
    if suite.quick is None:
        raise UsageError(f"suite {suite.name} names no quick part; add `quick: {{methods: [...]}}`, or use --method")
    return select(suite, **suite.quick.model_dump())
