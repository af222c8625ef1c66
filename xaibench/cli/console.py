"""The terminal: progress and messages on stderr, tables and JSON on stdout.

Progress is a bar on a terminal and plain lines elsewhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from xaibench.results.leaderboard import Leaderboard
    from xaibench.results.published import Comparison

ProgressMode = Literal["auto", "plain", "none"]
PLAIN_SECONDS = 10.0  # between two plain progress lines
WIDE = 240  # columns of a table that goes to a file or a pipe, where a narrow table would lose text

err = Console(stderr=True, highlight=False, soft_wrap=True)


def out() -> Console:
    """A console on stdout, as wide as the terminal; elsewhere wide enough for any table."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=WIDE)


def note(message: str) -> None:
    """Print a note on stderr."""
    err.print(f"note: {message}", markup=False)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout; text in place of what JSON does not have."""
    out().file.write(json.dumps(value, indent=2, default=str) + "\n")


def print_leaderboard(
    board: Leaderboard | Comparison, console: Console | None = None, *, intervals: bool = False
) -> None:
    """Print the tables of a leaderboard on stdout (or on another console), and its notes on stderr.

    Args:
        intervals: print the interval of every value
    """
    for message in board.notes:
        err.print(f"[bold red]note:[/] {escape(message)}")
    console = console or out()
    for table in board.tables(console.width, intervals):
        title, table.title = table.title, None  # rich would wrap it at the table's width
        console.print(title)
        console.print(table)
        console.print()


class Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("– images/s" if speed is None else f"{speed:.1f} images/s")


class Bars:
    """Progress of work counted in images: a bar per model on a terminal, a line every 10 s elsewhere."""

    def __init__(self, mode: ProgressMode) -> None:
        self.mode = "plain" if mode == "auto" and not err.is_terminal else mode
        self._progress: Progress | None = None
        self._task: Any = None
        self._label, self._total, self._done = "", 0, 0
        self._started = self._last = time.monotonic()

    @contextmanager
    def showing(self) -> Iterator[Bars]:
        """Show bars until the block ends."""
        if self.mode != "auto":
            yield self
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=err) as self._progress:
            yield self

    def start(self, label: str, total: int) -> None:
        """Begin a bar of `total` images."""
        self._label, self._total, self._done = label, total, 0
        self._started = self._last = time.monotonic()
        if self._progress is not None:
            self._task = self._progress.add_task(label, total=total)
        elif self.mode == "plain":
            err.print(f"{label}: {total} images to do" if total else f"{label}: everything is there already")

    def advance(self, count: int) -> None:
        """Add images that are done to the present bar."""
        self._done += count
        if self._progress is not None:
            self._progress.advance(self._task, count)
            return
        now = time.monotonic()
        if self.mode == "plain" and (now - self._last > PLAIN_SECONDS or self._done == self._total):
            self._last = now
            rate = self._done / max(now - self._started, 1e-9)
            left = (self._total - self._done) / rate
            err.print(f"{self._label}: {self._done}/{self._total} images, {rate:.1f} images/s, ETA {left:.0f} s")

    def note(self, message: str) -> None:
        """Print a note above the bars."""
        if self._progress is None:
            note(message)
        else:
            self._progress.console.print(f"note: {message}", markup=False)
