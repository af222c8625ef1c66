"""Ratios of seconds, and the lines of the table that ends a run of the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable

RATIOS: list[tuple[str, float, float]] = []


def report(name: str, found: float, target: float) -> None:
    """A line of the closing table."""
    RATIOS.append((name, found, target))


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
