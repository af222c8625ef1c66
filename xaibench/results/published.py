"""Numbers that papers print, beside the numbers that a run measures.

Published numbers are CSV files of `xaibench.leaderboards`, in long form, each named as the suite that repeats it; the
columns are the fields of `Published`. Measured values are converted to the published unit, and a difference is
measured - published.
"""

from __future__ import annotations

import csv
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from xaibench.core.errors import UsageError, unknown
from xaibench.results.leaderboard import Leaderboard, read_leaderboard
from xaibench.suite import load_suite, shipped_suites

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("model", "method", "metric", "unit", "published", "measured", "difference", "source", "note")
NUMBERS = ("published", "measured", "difference")
PER_WHOLE = {"fraction": 1, "percent": 100}
Key = tuple[str, str, str]  # labels of model, method and metric


@dataclass(frozen=True)
class Published:
    """One printed number.

    Attributes:
        suite: the suite that repeats the measurement
        dataset: the data set of the publication
        method, metric: labels of that suite, by which the two are joined
        value, unit: as printed, in percent or as a fraction
        source: key of docs/references.bib, and the table
        note: why xaibench does not measure it; such a number is shown alone
    """

    suite: str
    dataset: str
    method: str
    metric: str
    value: str
    unit: str
    source: str
    note: str


def published_files() -> dict[str, Traversable]:
    """Files of published numbers by the name of their suite."""
    folder = importlib.resources.files("xaibench.leaderboards") / "published"
    files = {file.name: file for file in folder.iterdir() if file.name.endswith(".csv")}
    return {name.removesuffix(".csv"): files[name] for name in sorted(files)}


def read_published(name: str) -> list[Published]:
    """The published numbers of a suite, in the order of their file. Raises UsageError for an unknown name."""
    files = published_files()
    if name not in files:
        raise UsageError(unknown("published table", name, files))
    return [Published(**line) for line in csv.DictReader(files[name].read_text("utf-8").splitlines())]


def metric_units(name: str) -> dict[str, str]:
    """The unit in which a run of the suite records each metric, by label."""
    suite = load_suite(shipped_suites()[name])
    return {metric.label: metric.entry.unit for metric in suite.bound_metrics()}


def convert(value: float, unit: str, to: str) -> float:
    """Convert between fractions and percent. Raises UsageError for other units, unless they are equal."""
    if unit == to:
        return value
    if unit not in PER_WHOLE or to not in PER_WHOLE:
        raise UsageError(f"a value in {unit!r} does not compare with one in {to!r}; allowed: {', '.join(PER_WHOLE)}")
    return value / PER_WHOLE[unit] * PER_WHOLE[to]


@dataclass(frozen=True)
class Row:
    """One line of a comparison: what was published, what was measured (in `unit`), or both."""

    key: Key
    unit: str
    published: Published | None = None
    measured: float | None = None

    def cells(self) -> list[str]:
        """Texts of `COLUMNS`; empty where there is no number, nan where it is undefined."""
        decimals = 2 if self.unit == "percent" else 4
        measured = "" if self.measured is None else f"{self.measured:.{decimals}f}"
        if self.published is None:
            return [*self.key, self.unit, "", measured, "", "", ""]
        value = self.published.value
        difference = "" if self.measured is None else f"{self.measured - float(value):+.{decimals}f}"
        return [*self.key, self.unit, value, measured, difference, self.published.source, self.published.note]


class Comparison:
    """Published numbers and a run's, row by row; it prints as a `Leaderboard` does.

    Args:
        name: of the published numbers
        board: the run's scores
    """

    def __init__(self, name: str, board: Leaderboard) -> None:
        self.name, self.board = name, board
        self.published, self._units = read_published(name), metric_units(name)
        columns = (board.scores[column] for column in ("model", "method", "metric", "value"))
        measured = {
            (model, method, metric): float(value) for model, method, metric, value in zip(*columns, strict=True)
        }
        paired = [row for number in self.published for row in self._pair(number, measured)]
        self.rows = paired + self._unpublished(measured, paired)

    def _pair(self, number: Published, measured: Mapping[Key, float]) -> Iterator[Row]:
        """Rows of a published number: one per model of the run that measured it, or one without a measurement."""
        own = [key for key in measured if key[1:] == (number.method, number.metric) and not number.note]
        for key in own:
            yield Row(key, number.unit, number, convert(measured[key], self._units[number.metric], number.unit))
        if not own:
            yield Row(("", number.method, number.metric), number.unit, number)

    def _unpublished(self, measured: Mapping[Key, float], paired: Sequence[Row]) -> list[Row]:
        """Rows of measured values that no paper prints, in the published unit of their metric, or else in its own."""
        printed = {number.metric: number.unit for number in self.published if not number.note}
        rows, shown = [], {row.key for row in paired}
        for key, value in measured.items():
            if key not in shown:
                own = self._units.get(key[2], "")
                unit = printed.get(key[2], own)
                rows.append(Row(key, unit, measured=convert(value, own, unit)))
        return rows

    @property
    def notes(self) -> list[str]:
        """The notes of the run, and differences in suite and data set between run and publication."""
        notes = list(self.board.notes)
        suites, datasets = (sorted(set(self.board.scores[column])) for column in ("suite", "dataset"))
        if suites != [self.name]:
            notes.append(f"The run is of {', '.join(suites)}; the published numbers are those of suite {self.name}.")
        published = sorted({number.dataset for number in self.published})
        if datasets != published:
            where = f"Measured on {', '.join(datasets)}, published on {', '.join(published)}"
            notes.append(f"{where}: the differences are between data sets.")
        return notes

    def table(self) -> pd.DataFrame:
        """Cells as text; without the column `note` where no row has one."""
        table = pd.DataFrame([row.cells() for row in self.rows], columns=COLUMNS)
        return table if table["note"].any() else table.drop(columns="note")

    def csv(self) -> str:
        return self.table().to_csv(index=False, lineterminator="\n")

    def markdown(self) -> str:
        table = self.table()
        lines = [list(table.columns), ["---:" if column in NUMBERS else "---" for column in table.columns]]
        lines += [[cell or "–" for cell in line] for line in table.to_numpy().tolist()]
        blocks = [f"# {self.name}: published and measured", *(f"> **Note.** {note}" for note in self.notes)]
        return "\n\n".join([*blocks, "\n".join(f"| {' | '.join(line)} |" for line in lines)]) + "\n"

    def tables(self, width: int = 240, intervals: bool = False) -> list[Table]:
        """One rich table for the terminal. It wraps instead of fitting `width`, and has no intervals."""
        from rich.markup import escape
        from rich.table import Table

        content = self.table()
        table = Table(title=f"{self.name}: published and measured", title_justify="left", pad_edge=False)
        for column in content.columns:
            table.add_column(column, justify="right" if column in NUMBERS else "left")
        for line in content.to_numpy().tolist():
            table.add_row(*(escape(cell) or "–" for cell in line))
        return [table]


def compare_published(name: str, runs: Sequence[Path]) -> Comparison:
    """Compare published numbers with those of one or several runs (directories, or `scores.csv` files).

    Raises:
        UsageError: no such published numbers, or no such run
    """
    return Comparison(name, read_leaderboard(runs))
