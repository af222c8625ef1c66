"""Aggregation against plain loops; intervals; undefined values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaibench.core.aggregation import aggregation, find_aggregation
from xaibench.core.errors import UsageError
from xaibench.results.scores import score


def frame(rows: list[tuple[int, int, list[float]]]) -> pd.DataFrame:
    """Rows of (image, label, statistics); NaN makes a row undefined."""
    return pd.DataFrame(
        {
            "sample_id": [str(image) for image, _, _ in rows],
            "label": [label for _, label, _ in rows],
            "value": [parts[0] for _, _, parts in rows],
            "status": ["undefined" if math.isnan(parts[0]) else "ok" for _, _, parts in rows],
            "statistics": [parts if len(parts) > 1 else None for _, _, parts in rows],
        }
    )


def slow(rows: list[tuple[int, int, list[float]]], name: str) -> float:
    rows = [row for row in rows if not math.isnan(row[2][0])]
    if not rows:
        return math.nan

    def mean(chosen: list[tuple[int, int, list[float]]]) -> list[float]:
        return [sum(parts[s] for _, _, parts in chosen) / len(chosen) for s in range(len(chosen[0][2]))]

    def f1(a: float, b: float) -> float:
        return 2 * a * b / (a + b) if a + b else 0.0

    by_label = [mean([row for row in rows if row[1] == label]) for label in sorted({row[1] for row in rows})]
    columns = list(zip(*by_label, strict=True))
    return {
        "mean": lambda: mean(rows)[0],
        "label_macro": lambda: sum(columns[0]) / len(columns[0]),
        "label_macro_f1": lambda: sum(f1(*means) for means in by_label) / len(by_label),
        "f1_of_macro": lambda: f1(*(sum(column) / len(column) for column in columns)),
        "f1_of_mean": lambda: f1(*mean(rows)),
    }[name]()


numbers = st.one_of(st.floats(0, 1), st.just(math.nan))
entries = st.tuples(st.integers(0, 4), st.integers(0, 3))


@pytest.mark.parametrize("name", ["mean", "label_macro", "label_macro_f1", "f1_of_macro", "f1_of_mean"])
@given(data=st.data())
def test_against_plain_loops(name: str, data: Any) -> None:
    size = 2 if "f1" in name else 1
    raw = data.draw(st.lists(st.tuples(entries, numbers, st.floats(0, 1)), max_size=12))
    rows = [(image, label, [first, second][:size]) for (image, label), first, second in raw]
    found = score(frame(rows), name, resamples=0)
    assert found.value == pytest.approx(slow(rows, name), nan_ok=True)
    assert found.n + found.n_undefined == len(rows)


def test_every_aggregation_is_tested() -> None:
    for name in ("mean", "label_macro", "label_macro_f1", "f1_of_macro", "f1_of_mean"):
        assert find_aggregation(name).per in ("all", "label", "macro")
    with pytest.raises(UsageError, match="did you mean 'label_macro'"):
        find_aggregation("label_makro")
    with pytest.raises(ValueError, match="'mean' is defined twice"):
        aggregation("mean")(lambda means: means[..., 0])


def test_an_aggregation_of_a_metric_is_found() -> None:
    assert find_aggregation("seed_width_all").per == "all"


def test_f1_is_a_mean_of_harmonic_means_and_not_the_other_way_round() -> None:
    rows = [(0, 0, [0.9, 0.1]), (1, 1, [0.1, 0.9])]
    assert score(frame(rows), "label_macro_f1", resamples=0).value == pytest.approx(0.18)
    assert score(frame(rows), "f1_of_macro", resamples=0).value == pytest.approx(0.5)


def test_the_bootstrap_resamples_images() -> None:
    """Two pairs of one image are one observation: an interval over pairs would be narrower."""
    rng = np.random.default_rng(0)
    values = rng.random(200)
    doubled = [(i, label, [value]) for i, value in enumerate(values) for label in (0, 1)]
    single = [(i, 0, [value]) for i, value in enumerate(values)]
    one, two = score(frame(single), "mean", seed=1), score(frame(doubled), "mean", seed=1)
    assert (two.ci_low, two.ci_high) == pytest.approx((one.ci_low, one.ci_high))
    half_width = (one.ci_high - one.ci_low) / 2
    assert half_width == pytest.approx(1.96 * values.std() / 200**0.5, rel=0.1)
    assert one.ci_low < one.value < one.ci_high


def test_the_interval_is_the_same_every_time() -> None:
    rows = frame([(i, i % 3, [i / 20]) for i in range(20)])
    assert score(rows, "label_macro", seed=5) == score(rows, "label_macro", seed=5)
    assert score(rows, "label_macro", seed=5).ci_low != score(rows, "label_macro", seed=6).ci_low
