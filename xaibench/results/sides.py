"""One side of a comparison: cells with their scores, read from a run, a table of scores or a committed leaderboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from xaibench.core.errors import MissingError, UsageError, unknown
from xaibench.results.leaderboard import DECIMALS
from xaibench.results.records import StoredCell, stored_cells
from xaibench.results.scores import COLUMNS, failed, read_score_table

NAN = float("nan")
HALF_DIGIT = 0.5 * 10**-DECIMALS  # the rounding of a committed leaderboard
FEW_COLUMNS = {"model", "method", "metric", "direction", "value"}  # by which a table of scores is recognised


class CellKey(NamedTuple):
    """What names a cell on both sides, by the labels of the suite. A leaderboard does not hold the data set."""

    dataset: str
    model: str
    method: str
    metric: str

    def __str__(self) -> str:
        return " / ".join(part for part in self if part)


@dataclass(frozen=True)
class CellScore:
    """The score of a cell, and what is known about it.

    Attributes:
        direction: which way is better; "" where the file does not say, as for the next two
        aggregate: name of the aggregation, or ""
        minimum_effect: the smallest difference that matters, or None
        n, n_undefined, n_error: as in `Score`; 0 in a leaderboard
        rounding: to which the value was rounded
        stored: its records, where they are there
    """

    value: float
    ci_low: float = NAN
    ci_high: float = NAN
    direction: str = ""
    aggregate: str = ""
    minimum_effect: float | None = None
    n: int = 0
    n_undefined: int = 0
    n_error: int = 0
    control: bool = False
    partial: bool = False
    untrained: bool = False
    failed: bool = False
    fingerprint: str = ""
    rounding: float = 0.0
    stored: StoredCell | None = None


@dataclass(frozen=True)
class Side:
    """The cells of one side.

    Attributes:
        name: as given by the user
        cells: by key, in the order of the suite
        suites: names of the suites they are of; () where the file does not say
        notes: what a reader must know about this side
    """

    name: str
    cells: Mapping[CellKey, CellScore]
    suites: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def filtered(self, keep: Callable[[CellKey], bool]) -> Side:
        """The cells that are to be kept."""
        return replace(self, cells={key: cell for key, cell in self.cells.items() if keep(key)})

    def of_method(self, method: str, label: str) -> Side:
        """The cells of one method, under another label. Raises UsageError where there are none."""
        methods = dict.fromkeys(key.method for key in self.cells)
        if method not in methods:
            raise UsageError(f"{self.name}: {unknown('method', method, methods)}")
        own = {key._replace(method=label): cell for key, cell in self.cells.items() if key.method == method}
        return replace(self, name=method, cells=own)

    def with_suites(self) -> Side:
        """The same with the suite's name before the model's, to be joined with a side of several suites."""
        if len(self.suites) != 1:
            return self
        prefix = f"{self.suites[0]} / "
        return replace(self, cells={key._replace(model=prefix + key.model): c for key, c in self.cells.items()})

    def without_datasets(self) -> Side:
        """The same with keys that do not name the data set, to be joined with a leaderboard."""
        return replace(self, cells={key._replace(dataset=""): cell for key, cell in self.cells.items()})


def read_sides(base: Path, new: Path) -> tuple[Side, Side]:
    """Both sides, with keys that can be joined. See `read_side`."""
    sides = read_side(base), read_side(new)
    if any(len(side.suites) > 1 for side in sides):
        sides = sides[0].with_suites(), sides[1].with_suites()
    if any(key.dataset == "" for side in sides for key in side.cells):
        sides = sides[0].without_datasets(), sides[1].without_datasets()
    return sides


def read_side(path: Path) -> Side:
    """Read a run directory, a directory of several, a `scores.csv`, or a leaderboard (CSV).

    A leaderboard is read with the scores beside it (`NAME.scores.csv`, or `scores.csv` beside `leaderboard.csv`).

    Raises:
        MissingError: nothing is there
        UsageError: something else is there, or two runs with different scores of a cell
    """
    if not path.exists():
        raise MissingError(
            f"{path}: no such file or directory; give a run's directory, a scores.csv or a leaderboard.csv"
        )
    if path.is_dir():
        return _of_runs(path)
    try:
        columns = list(pd.read_csv(path, nrows=0).columns)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a table; give a run's directory, a scores.csv or a leaderboard.csv") from error
    if set(columns) >= FEW_COLUMNS:
        return _of_scores(path, [path])
    if columns[:2] == ["model", "method"] and len(columns) > 2:
        beside = [path.with_name(name) for name in (f"{path.stem}.scores.csv", "scores.csv")]
        found = [scores for scores in beside[: 2 if path.stem == "leaderboard" else 1] if scores.is_file()]
        return _checked(_of_scores(path, found[:1]), path) if found else _of_leaderboard(path)
    raise UsageError(
        f"{path}: neither a table of scores ({', '.join(COLUMNS[:4])}, ...) nor a leaderboard (model, method, ...)"
    )


def _of_runs(path: Path) -> Side:
    found = [path / "scores.csv"] if (path / "scores.csv").is_file() else sorted(path.glob("*/scores.csv"))
    if found:
        return _of_scores(path, found)
    if (path / "cells").is_dir():
        raise UsageError(f"{path}: the run has no scores.csv, so it has not ended; issue its command again")
    raise UsageError(
        f"{path}: no scores.csv in it, nor in a folder in it; give a run's directory (xaibench run writes it)"
    )


def _of_scores(path: Path, files: Iterable[Path]) -> Side:
    """The cells of tables of scores, with records where these are beside them."""
    frames = {file: read_score_table(file) for file in files}
    suites = tuple(sorted({suite for frame in frames.values() for suite in frame["suite"].astype(str)}))
    cells: dict[CellKey, CellScore] = {}
    for file, frame in frames.items():
        stored = stored_cells(file.parent) if file.name == "scores.csv" else {}
        for row, lost in zip(frame.to_dict("records"), failed(frame), strict=True):
            prefix = f"{row['suite']} / " if len(suites) > 1 else ""
            key = CellKey(row["dataset"], prefix + row["model"], row["method"], row["metric"])
            try:
                cell = _cell(row, lost, stored)
            except ValueError as error:
                raise UsageError(f"{file}: the row of {key}: {error}; write the table anew (xaibench run)") from error
            if key in cells and cells[key].fingerprint != cell.fingerprint:
                raise UsageError(f"{path}: two runs have different scores for {key}; give one of them")
            cells[key] = cell
    return Side(str(path), cells, suites)


def _cell(row: Mapping[Any, Any], lost: bool, stored: Mapping[str, StoredCell]) -> CellScore:
    """Raises ValueError for a row with text in place of a number."""
    return CellScore(
        value=float(row["value"]),
        ci_low=float(row["ci_low"]),
        ci_high=float(row["ci_high"]),
        n=int(row["n"]),
        n_undefined=int(row["n_undefined"]),
        n_error=int(row["n_error"]),
        control=bool(row["control"]),
        partial=bool(row["partial"]),
        untrained=bool(row["untrained"]),
        direction=str(row["direction"]),
        aggregate="" if pd.isna(row["aggregate"]) else str(row["aggregate"]),
        minimum_effect=None if pd.isna(row["minimum_effect"]) else float(row["minimum_effect"]),
        failed=lost,
        fingerprint=str(row["fingerprint"]),
        stored=stored.get(str(row["fingerprint"])),
    )


def _of_leaderboard(path: Path) -> Side:
    wide = pd.read_csv(path, dtype={"model": str, "method": str}).drop(columns="note", errors="ignore")
    try:
        cells = {
            CellKey("", row["model"], row["method"], str(metric)): CellScore(float(row[metric]), rounding=HALF_DIGIT)
            for row in wide.to_dict("records")
            for metric in wide.columns[2:]
        }
    except ValueError as error:
        raise UsageError(f"{path}: a leaderboard has numbers only: {error}") from error
    note = (
        f"{path}: a leaderboard without a table of scores beside it has no intervals: values are compared, not tested."
    )
    return Side(str(path), cells, notes=(note,))


def _checked(side: Side, path: Path) -> Side:
    """The side itself, if a leaderboard agrees with the scores beside it. Raises UsageError where it does not."""
    several = len(side.suites) > 1
    own = {key._replace(dataset=""): cell.value for key, cell in side.cells.items()}
    for key, cell in _of_leaderboard(path).cells.items():
        value = own.get(key, NAN)
        both = not (math.isnan(value) and math.isnan(cell.value))
        if both and not several and not abs(value - cell.value) <= 1.01 * HALF_DIGIT:
            raise UsageError(
                f"{path}: {key} is {cell.value}, and {value:.{DECIMALS}f} in the scores beside it; make both anew"
            )
    return side
