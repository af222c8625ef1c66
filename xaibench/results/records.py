"""Records: the value of each metric for each pair, as Parquet cells; the only thing that survives a crash.

A cell is one (dataset, model, method, metric), named by a fingerprint of everything that changes its numbers. It is
written in parts (consecutive samples), each to a temporary name, fsynced and renamed; a complete set of parts is merged
into one file. A run computes the parts that do not exist, so a second run of the same command resumes the first.

A row of a cell:

| column | type | what |
|---|---|---|
| dataset, model, method, metric | dictionary-encoded string | as named in the suite (`as:`) |
| sample_id | string | id within the data set |
| label | int32 | explained label; -1 for a value of the whole image, or a sample that could not be read |
| value | float64 | NaN where undefined |
| status | dictionary-encoded string | ok, undefined or error |
| seconds | float32 | time of map and metric, per pair |
| statistics | list<float64>, nullable | what `value` was computed from, where a mean of values is not the score |

Key-value metadata of the file: `xaibench.schema`, `xaibench.fingerprint`, `xaibench.cell` (the identity, canonical
JSON), `xaibench.class_names` (JSON).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xaibench.core.atomic_files import whole_file, write_text
from xaibench.core.registry import PER_IMAGE

SCHEMA_VERSION = 2  # 1 called the column `statistics` `parts`
PART_SIZE = 64  # samples; a killed run loses at most this many

_NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("dataset", _NAMES),
        ("model", _NAMES),
        ("method", _NAMES),
        ("metric", _NAMES),
        ("sample_id", pa.string()),
        ("label", pa.int32()),
        ("value", pa.float64()),
        ("status", _NAMES),
        ("seconds", pa.float32()),
        ("statistics", pa.list_(pa.float64())),
    ]
)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def digest(value: Any) -> str:
    """SHA-256 of a value, as hexadecimal text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One (dataset, model, method, metric).

    Attributes:
        identity: everything that changes its numbers, and nothing else
        class_names: of the labels
    """

    dataset: str
    model: str
    method: str
    metric: str
    identity: Mapping[str, Any]
    class_names: Sequence[str] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the identity and of the version of the schema."""
        return digest({"schema": SCHEMA_VERSION, **self.identity})

    @cached_property
    def path(self) -> Path:
        """Relative to `cells/`, without suffix."""
        method = digest({k: v for k, v in self.identity.items() if k != "metric"})[:8]
        names = [_safe(self.dataset), _safe(self.model), f"{_safe(self.method)}@{method}"]
        return Path(*names) / f"{_safe(self.metric)}@{self.fingerprint[:8]}"


def _safe(name: str) -> str:
    return re.sub(r"^\.|[^A-Za-z0-9._+-]", "_", name)


class Records:
    """The cells below one run directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cells = directory / "cells"

    def part_path(self, cell: Cell, part: int, parts: int) -> Path:
        suffix = ".parquet" if parts == 1 else f".{part + 1}of{parts}.parquet"
        return self.cells / f"{cell.path}{suffix}"

    def whole_path(self, cell: Cell) -> Path:
        return self.cells / f"{cell.path}.parquet"

    def error_path(self, cell: Cell) -> Path:
        return self.cells / f"{cell.path}.error.json"

    def knows(self, dataset: str, model: str) -> bool:
        """Whether there is a folder of this model."""
        return (self.cells / _safe(dataset) / _safe(model)).is_dir()

    def has(self, cell: Cell, part: int, parts: int) -> bool:
        return self.whole_path(cell).exists() or self.part_path(cell, part, parts).exists()

    def write(self, cell: Cell, part: int, parts: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one part, whole or not at all."""
        names = {"dataset": cell.dataset, "model": cell.model, "method": cell.method, "metric": cell.metric}
        table = pa.Table.from_pylist([{**names, **row} for row in rows], schema=SCHEMA)
        self._save(table, cell, self.part_path(cell, part, parts))
        self.error_path(cell).unlink(missing_ok=True)

    def _save(self, table: Any, cell: Cell, path: Path) -> None:
        metadata = {
            "xaibench.schema": str(SCHEMA_VERSION),
            "xaibench.fingerprint": cell.fingerprint,
            "xaibench.cell": canonical(cell.identity),
            "xaibench.class_names": json.dumps(list(cell.class_names)),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            pq.write_table(table.replace_schema_metadata(metadata), file)

    def write_error(self, cell: Cell, message: str, traceback: str) -> None:
        """Record why a cell could not be computed."""
        path = self.error_path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(
            path, json.dumps({"error": message, "traceback": traceback, "cell": cell.identity}, indent=2, default=str)
        )

    def error(self, cell: Cell) -> str | None:
        path = self.error_path(cell)
        return str(json.loads(path.read_text(encoding="utf-8"))["error"]) if path.exists() else None

    def merge(self, cell: Cell, parts: int) -> None:
        """Replace the parts by one file, once all of them exist."""
        whole = self.whole_path(cell)
        paths = [self.part_path(cell, part, parts) for part in range(parts)]
        if whole.exists() or parts == 1 or not all(path.exists() for path in paths):
            return
        self._save(pa.concat_tables([pq.read_table(path, schema=SCHEMA) for path in paths]), cell, whole)
        for path in paths:
            path.unlink()

    def complete(self, cell: Cell) -> bool:
        return self.whole_path(cell).exists()

    def bad_samples(self, cells: Iterable[Cell], parts: int) -> set[str]:
        """Ids of the samples that could not be read when these cells, or parts of them, were computed."""
        paths = {
            path
            for cell in cells
            for path in (self.whole_path(cell), *(self.part_path(cell, part, parts) for part in range(parts)))
        }
        found: set[str] = set()
        for path in paths:
            if path.exists():
                rows = pq.read_table(path, columns=["sample_id", "status"])
                found.update(rows.filter(pc.equal(rows["status"], "error"))["sample_id"].to_pylist())
        return found

    def read(self, cell: Cell) -> pd.DataFrame:
        """The rows of a complete cell."""
        frame = pq.read_table(self.whole_path(cell), schema=SCHEMA).to_pandas()
        assert isinstance(frame, pd.DataFrame)
        return frame


def parts_of(ids: Sequence[str], size: int = PART_SIZE) -> list[range]:
    """Consecutive ranges of at most `size` samples. They depend on the number of samples only."""
    return [range(start, min(start + size, len(ids))) for start in range(0, len(ids), size)] or [range(0)]


def part_of(samples: range) -> int:
    """The part that these samples, or the first of them, belong to."""
    return samples.start // PART_SIZE


def rows_of(
    sample_ids: Iterable[str],
    labels: Iterable[int],
    values: Iterable[float],
    statistics: Iterable[list[float] | None],
    seconds: float,
) -> list[dict[str, Any]]:
    """Rows of pairs; a value that is not a number is `undefined`."""
    return [
        {
            "sample_id": sample,
            "label": label,
            "value": value,
            "status": "ok" if value == value else "undefined",
            "seconds": seconds,
            "statistics": row if value == value else None,
        }
        for sample, label, value, row in zip(sample_ids, labels, values, statistics, strict=True)
    ]


def error_row(sample_id: str) -> dict[str, Any]:
    """What a sample that could not be read leaves in every cell."""
    row = {"sample_id": sample_id, "label": PER_IMAGE, "value": float("nan"), "status": "error"}
    return {**row, "seconds": 0.0, "statistics": None}
