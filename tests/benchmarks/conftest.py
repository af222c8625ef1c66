"""Ratios within one run: work and yardstick are timed in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.ratios import RATIOS, report, seconds

ROUNDS = 7


@pytest.fixture
def ratio(benchmark: Any) -> Callable[..., float]:
    """ratio(name, work, yardstick, target): median of time(work) / time(yardstick), kept for the closing table."""

    def measure(name: str, work: Callable[[], object], yardstick: Callable[[], object], target: float) -> float:
        work(), yardstick()  # warm caches and lazy imports
        quotients = [seconds(work) / seconds(yardstick) for _ in range(ROUNDS)]
        benchmark.pedantic(work, rounds=3)
        found = statistics.median(quotients)
        benchmark.extra_info.update(ratio=found, target=target)
        report(name, found, target)
        return found

    return measure


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if RATIOS:
        terminalreporter.section("ratios within this run (target)")
        width = max(len(name) for name, _, _ in RATIOS)
        for name, found, target in RATIOS:
            mark = "ok  " if found <= target else "OVER"
            terminalreporter.write_line(f"{mark} {name:<{width}}  {found:6.2f}  (<= {target:.2f})")
