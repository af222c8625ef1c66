"""Read tables of labels in CSV files; every mistake is reported in one sentence with the file and its line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xaibench.core.errors import UsageError, closest


@dataclass(frozen=True)
class Row:
    """One row of a table: its cells by column, and `at` (path:line) for messages."""

    at: str
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


def read_table(path: Path, needed: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Columns and rows of a CSV file with a header; white space around cells and blank lines are removed.

    Args:
        needed: columns that must be there

    Raises:
        UsageError: text that is not UTF-8 CSV, a needed column that is missing, a column that is there twice, a row
            that is longer or shorter than the header
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error
    if not lines:
        raise UsageError(f"{path}: is empty; a header with {', '.join(needed)} is needed")
    (first, columns), rows = lines[0], lines[1:]
    for column in columns:
        if columns.count(column) > 1:
            raise UsageError(f"{path}:{first}: two columns are called {column!r}")
    for column in needed:
        if column not in columns:
            hint = closest(column, columns)
            raise UsageError(f"{path}:{first}: no column {column!r}{hint}; its columns: {', '.join(columns)}")
    for line, cells in rows:
        if len(cells) != len(columns):
            raise UsageError(f"{path}:{line}: {len(cells)} cells, the header has {len(columns)}")
    return columns, [Row(f"{path}:{line}", dict(zip(columns, cells, strict=True))) for line, cells in rows]


def check_unique(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Raise UsageError where two rows have the same name (one of `names` for each row)."""
    first: dict[str, str] = {}
    for row, name in zip(rows, names, strict=True):
        if name in first:
            raise UsageError(f"{row.at}: {name!r} already stands in line {first[name].rpartition(':')[2]}")
        first[name] = row.at


def label_table(
    rows: Sequence[Row], classes: int, write: Callable[[Row, npt.NDArray[np.uint8]], None]
) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Labels [N, classes] of the rows, and messages about rows with a mistake, by row number.

    A row with a mistake makes its own sample bad, and no other: `load` raises the message. Here the row has no labels.

    Args:
        write: writes the labels of a row into a vector of zeros; raises UsageError
    """
    labels, wrong = np.zeros((len(rows), classes), np.uint8), {}
    for number, row in enumerate(rows):
        try:
            write(row, labels[number])
        except UsageError as error:
            labels[number] = 0
            wrong[number] = str(error)
    return labels, wrong


def label_index(name: str, classes: Sequence[str], at: str) -> int:
    """Position of a class. Raises UsageError, with the closest class, where there is none of this name."""
    if name not in classes:
        allowed = closest(name, classes) or f"; allowed: {', '.join(classes)}"
        raise UsageError(f"{at}: unknown class {name!r}{allowed}")
    return classes.index(name)
