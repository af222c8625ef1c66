"""Paired differences against plain loops; what is shared, what is not, and what cannot be compared."""

from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xaibench.core.errors import UsageError
from xaibench.results.compare import Difference, paired
from xaibench.results.records import Cell, Records, rows_of
from xaibench.results.scores import RESAMPLES, score

Rows = dict[tuple[str, int], list[float]]  # (image, label) -> statistics; NaN makes a row undefined
NAN = float("nan")


def frame(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": [image for image, _ in rows],
            "label": [label for _, label in rows],
            "value": [parts[0] for parts in rows.values()],
            "status": ["undefined" if math.isnan(parts[0]) else "ok" for parts in rows.values()],
            "statistics": [parts if len(parts) > 1 else None for parts in rows.values()],
        }
    )


def drawn(seed: int, images: int = 9, labels: int = 3, size: int = 1) -> Rows:
    """Rows in a random order; a quarter of the pairs are not there, a tenth are undefined."""
    rng = np.random.default_rng(seed)
    keys = [(f"{image:03d}", label) for image in range(images) for label in range(labels) if rng.random() < 0.75]
    rng.shuffle(keys)
    return {(str(i), int(k)): [NAN] * size if rng.random() < 0.1 else list(rng.random(size)) for i, k in keys}


def aggregated(rows: list[tuple[int, list[float]]], name: str) -> float:
    """Labels and statistics of pairs to one value, with loops."""

    def mean(chosen: list[list[float]]) -> list[float]:
        return [sum(column) / len(chosen) for column in zip(*chosen, strict=True)]

    by_label = [mean([parts for own, parts in rows if own == label]) for label in sorted({own for own, _ in rows})]
    if name == "mean":
        return mean([parts for _, parts in rows])[0]
    if name == "label_macro":
        return mean(by_label)[0]
    return sum(2 * a * b / (a + b) for a, b in by_label) / len(by_label)


def slow(first: Rows, second: Rows, name: str, seed: int) -> Difference:
    """The twin: images are written out as often as they are drawn."""
    shared = [key for key in first if key in second and not math.isnan(first[key][0] + second[key][0])]
    images = sorted({image for image, _ in shared})

    def value(rows: Rows, chosen: list[str]) -> float:
        return aggregated([(label, rows[i, label]) for c in chosen for i, label in shared if i == c], name)

    rng = np.random.default_rng(seed)
    differences = []
    for times in rng.multinomial(len(images), [1 / len(images)] * len(images), size=RESAMPLES):
        chosen = [image for image, count in zip(images, times, strict=True) for _ in range(count)]
        differences.append(value(first, chosen) - value(second, chosen))
    low, high = np.percentile(differences, [2.5, 97.5])
    one, two = value(first, images), value(second, images)
    return Difference(one, two, one - two, float(low), float(high), len(shared), len(images))


@pytest.mark.parametrize("name", ["mean", "label_macro", "label_macro_f1"])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_plain_loops(name: str, seed: int) -> None:
    size = 2 if "f1" in name else 1
    first, second = drawn(seed, size=size), drawn(seed + 100, size=size)
    found, expected = paired(frame(first), frame(second), name, seed=7), slow(first, second, name, seed=7)
    assert astuple(found) == pytest.approx(astuple(expected), abs=1e-12)
    assert (found.n, found.images) == (expected.n, expected.images)
    assert found.ci_low < found.value < found.ci_high


def test_both_values_are_the_scores_of_the_shared_pairs() -> None:
    first, second = drawn(3), drawn(4)
    shared = [key for key in first if key in second and not math.isnan(first[key][0] + second[key][0])]
    found = paired(frame(first), frame(second), "label_macro", seed=0)
    for value, rows in ((found.first, first), (found.second, second)):
        alone = score(frame({key: rows[key] for key in shared}), "label_macro", resamples=0)
        assert value == alone.value
    assert 0 < len(shared) < min(len(first), len(second)), "the test needs pairs that only one side has"


def test_an_image_of_one_side_changes_nothing() -> None:
    first, second = drawn(5), drawn(6)
    before = paired(frame(first), frame(second), "mean", seed=0)
    assert paired(frame({**first, ("zzz", 0): [0.5]}), frame({("aaa", 1): [0.1], **second}), "mean", seed=0) == before


def test_exchanged_sides_change_the_sign() -> None:
    first, second = frame(drawn(7)), frame(drawn(8))
    one, two = paired(first, second, "label_macro", seed=0), paired(second, first, "label_macro", seed=0)
    assert (two.first, two.second, two.value) == (one.second, one.first, -one.value)
    assert (two.ci_low, two.ci_high) == pytest.approx((-one.ci_high, -one.ci_low), abs=1e-15)


def test_pairing_cancels_what_makes_an_image_hard() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(100)
    first = {(f"{i:03d}", 0): [float(value)] for i, value in enumerate(hard + 0.02 + 0.01 * rng.random(100))}
    second = {(f"{i:03d}", 0): [float(value)] for i, value in enumerate(hard)}
    found = paired(frame(first), frame(second), "mean", seed=0)
    alone = score(frame(first), "mean")
    assert found.ci_low > 0
    assert found.ci_high - found.ci_low < 0.05 * (alone.ci_high - alone.ci_low)


def test_equal_cells_do_not_differ() -> None:
    rows = frame(drawn(9))
    found = paired(rows, rows, "label_macro", seed=0)
    assert (found.value, found.ci_low, found.ci_high) == (0.0, 0.0, 0.0)


@pytest.mark.filterwarnings("error")
def test_one_image_has_no_interval_and_none_has_no_value() -> None:
    found = paired(frame({("a", 0): [0.5]}), frame({("a", 0): [0.2], ("b", 0): [0.1]}), "mean", seed=0)
    assert (found.value, found.n, found.images) == (pytest.approx(0.3), 1, 1)
    assert math.isnan(found.ci_low)
    assert math.isnan(found.ci_high)
    nothing = paired(frame({("a", 0): [NAN]}), frame({("a", 0): [0.2]}), "mean", seed=0)
    assert (nothing.n, nothing.images) == (0, 0)
    assert all(math.isnan(value) for value in astuple(nothing)[:5])


@pytest.mark.filterwarnings("error")
def test_a_difference_of_infinite_ratios_is_undefined() -> None:
    first = {(str(i), 0): [1.0, 0.0] for i in range(4)}
    found = paired(frame(first), frame(first), "ratio", seed=0)
    assert found.first == math.inf
    assert math.isnan(found.value)
    assert math.isnan(found.ci_low)


def test_an_unknown_aggregation_is_named() -> None:
    with pytest.raises(UsageError, match="label_makro"):
        paired(frame(drawn(0)), frame(drawn(1)), "label_makro", seed=0)


def test_cells_as_they_lie_on_disk(tmp_path: Path) -> None:
    """Names are dictionary-encoded there, labels have 32 bits, statistics are arrays."""
    records, frames, rows = Records(tmp_path), [], (drawn(1, size=2), drawn(2, size=2))
    for method, own in zip(("cam", "random"), rows, strict=True):
        cell = Cell("shapes", "model", method, "f1_plus", {"method": method, "metric": "f1_plus"})
        ids, labels = zip(*own, strict=True)
        values = [parts[0] for parts in own.values()]
        records.write(cell, 0, 1, rows_of(ids, labels, values, list(own.values()), seconds=0.1))
        frames.append(records.read(cell))
    found = paired(*frames, "label_macro_f1", seed=3)
    assert found == paired(*map(frame, rows), "label_macro_f1", seed=3)
