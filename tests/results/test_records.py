"""Cells: atomic, resumable, named by everything that changes their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaibench.results.records import SCHEMA, Cell, Records, parts_of, rows_of

FACTS = {"dataset": {"name": "d"}, "model": {"weights": "0"}, "method": {"name": "m"}, "metric": {"name": "k"}}
CELL = Cell("d", "a/b", "m", "k", FACTS)


def rows(first: int, count: int) -> list[dict[str, object]]:
    ids = [f"s{i}" for i in range(first, first + count)]
    return rows_of(ids, range(count), [0.5, float("nan")] * (count // 2), [[1.0, 2.0]] * count, 0.25)


def test_round_trip(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write(CELL, 0, 1, rows(0, 4))
    frame = records.read(CELL)
    assert list(frame["status"]) == ["ok", "undefined"] * 2
    np.testing.assert_array_equal(frame["value"], [0.5, np.nan, 0.5, np.nan])
    assert frame["statistics"][0].tolist() == [1.0, 2.0]
    assert frame["statistics"][1] is None
    metadata = pq.read_schema(records.whole_path(CELL)).metadata
    assert metadata[b"xaibench.fingerprint"].decode() == CELL.fingerprint
    assert json.loads(metadata[b"xaibench.cell"]) == FACTS
    assert pq.read_schema(records.whole_path(CELL)).names == SCHEMA.names


def test_parts_are_merged_when_all_are_there(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for part in (2, 0):
        records.write(CELL, part, 3, rows(2 * part, 2))
        records.merge(CELL, 3)
    assert not records.complete(CELL)
    assert [records.has(CELL, part, 3) for part in range(3)] == [True, False, True]
    records.write(CELL, 1, 3, rows(2, 2))
    records.merge(CELL, 3)
    assert list(records.read(CELL)["sample_id"]) == [f"s{i}" for i in range(6)]
    assert [path.name for path in records.whole_path(CELL).parent.iterdir()] == [records.whole_path(CELL).name]


def test_a_crash_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path)

    def crash(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError, match="power cut"):
        records.write(CELL, 0, 1, rows(0, 2))
    assert not records.has(CELL, 0, 1)


def test_an_error_is_kept_until_the_cell_is_there(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write_error(CELL, "why", "where")
    assert records.error(CELL) == "why"
    records.write(CELL, 0, 1, rows(0, 2))
    assert records.error(CELL) is None


def test_names_are_safe_and_distinct(tmp_path: Path) -> None:
    assert not {".", ".."} & set(Cell("..", ".", "..", "..", FACTS).path.parts)
    assert len(Cell("..", "../m", "a/b", "c/d", FACTS).path.parts) == 4
    assert CELL.path.parts[1] == "a_b"
    changed = Cell("d", "a/b", "m", "k", {**FACTS, "seed": 1})
    assert changed.path != CELL.path
    assert changed.fingerprint != CELL.fingerprint


@given(st.integers(0, 400), st.integers(1, 70))
def test_parts_cover_every_sample_once(samples: int, size: int) -> None:
    parts = parts_of([str(i) for i in range(samples)], size)
    assert [i for part in parts for i in part] == list(range(samples))
    assert all(len(part) <= size for part in parts)
