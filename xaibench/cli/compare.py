"""`xaibench compare`: two runs, or two methods of one run, as a table, in files, and by exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from xaibench.cli.console import err, out, print_json
from xaibench.cli.exit_codes import naming
from xaibench.cli.options import check_place
from xaibench.core.errors import UsageError
from xaibench.results.gate import Gate, Row, Rules, compare_sides
from xaibench.results.gate_reports import as_json, junit, listed, markdown, numbers, remark, summary
from xaibench.results.leaderboard import ARROWS, plural
from xaibench.results.sides import CellKey, Side, read_side, read_sides
from xaibench.suite import choose

NAME_WIDTH = 19  # of a metric's name; with its numbers it fits into 80 columns
COLORS = {"better": "green", "worse": "red", "missing": "red", "undefined": "red", "marked": "red", "changed": "yellow"}
STDOUT = Path("-")


@dataclass(frozen=True)
class Reports:
    """What is written beside, or in place of, the table on the terminal.

    Attributes:
        markdown: a file, or "-" for stdout in place of the table
        junit: a file
        json: print JSON in place of the table
        everything: also the rows that are the same
    """

    markdown: Path | None = None
    junit: Path | None = None
    json: bool = False
    everything: bool = False


def compare(
    paths: Sequence[Path],
    methods: tuple[str, str] | None,
    patterns: Mapping[str, Sequence[str]],
    rules: Rules,
    reports: Reports,
) -> int:
    """Compare two runs, or two methods of one run; print or write the result.

    Args:
        paths: base and new; one run where `methods` are given
        methods: labels; the first is the base
        patterns: names and globs by kind: model, method, metric

    Returns:
        1 where a cell fails by the rules, else 0

    Raises:
        UsageError: wrong arguments or files, a glob that chooses nothing
        MissingError: a path where nothing is, a file that cannot be written here
    """
    if reports.json and reports.markdown == STDOUT:
        raise UsageError("--json and --md - both write to stdout; give --md a file")
    for path in (reports.markdown, reports.junit):
        if path is not None and path != STDOUT:
            check_place(path)
    base, new = _sides(paths, methods)
    sides = _chosen((base, new), patterns)
    gate = compare_sides(*sides, rules, one_run=methods is not None)
    _report(gate, reports)
    return 0 if gate.passed else 1


def _sides(paths: Sequence[Path], methods: tuple[str, str] | None) -> tuple[Side, Side]:
    if methods is None:
        if len(paths) != 2:
            raise UsageError(f"give two runs, BASE and NEW, or one run with --methods A B; found {len(paths)}")
        return read_sides(*paths)
    if len(paths) != 1:
        raise UsageError(f"--methods {' '.join(methods)} compares within one run; give one, found {len(paths)}")
    if methods[0] == methods[1]:
        raise UsageError(f"--methods: {methods[0]} is given twice; give two methods")
    side, label = read_side(paths[0]), f"{methods[1]} against {methods[0]}"
    base, new = (side.of_method(method, label) for method in methods)
    return base, replace(new, notes=())  # those of the run are in the first side


def _chosen(sides: tuple[Side, Side], patterns: Mapping[str, Sequence[str]]) -> tuple[Side, Side]:
    """The cells that match. Raises UsageError for a glob that matches no label of either side."""
    keys = [key for side in sides for key in side.cells]
    allowed = {
        kind: set(choose(f"--{kind}", list(dict.fromkeys(getattr(key, kind) for key in keys)), globs, "the runs"))
        for kind, globs in patterns.items()
    }

    def keep(key: CellKey) -> bool:
        return all(getattr(key, kind) in labels for kind, labels in allowed.items())

    return sides[0].filtered(keep), sides[1].filtered(keep)


def _report(gate: Gate, reports: Reports) -> None:
    for path, text in ((reports.markdown, markdown), (reports.junit, junit)):
        if path is not None and path != STDOUT:
            with naming(path):
                path.write_text(text(gate), encoding="utf-8")
    if reports.json:
        print_json(as_json(gate))
        return
    if reports.markdown == STDOUT:
        out().file.write(markdown(gate))
        return
    for note in gate.notes:
        err.print(f"[bold red]note:[/] {escape(note)}")
    console = out()
    for title, group in groupby(listed(gate, reports.everything), key=lambda row: _title(gate, row)):
        rows = list(group)
        missing = {row.verdict for row in rows} == {"missing"}
        count = f"  [red]missing, {plural(len(rows), 'cell')}[/]" if missing else ""
        console.print(f"[bold]{escape(title)}[/]{count}")
        if not missing:
            console.print(_table(rows, gate))
            console.print()
    console.print(summary(gate), markup=False)
    answer = "[green]passed[/]" if gate.passed else f"[bold red]failed[/]: {plural(len(gate.failing), 'cell')}"
    console.print(f"{answer} ({escape(gate.base)} -> {escape(gate.new)})")


def _title(gate: Gate, row: Row) -> str:
    """Model and method; the data set where there are several."""
    several = len({other.key.dataset for other in gate.rows}) > 1
    return " / ".join(row.key[:3] if several else row.key[1:3])


def _table(rows: Sequence[Row], gate: Gate) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    interval = f"{100 * (1 - gate.rules.alpha):g} % interval"
    for column in ("metric", "base", "new", "diff.", interval, "p Holm"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    table.add_column("verdict")
    for row in rows:
        words = escape("; ".join(filter(None, [row.verdict, remark(row)])))
        color = COLORS.get(row.verdict)
        metric = folded(f"{row.key.metric} {ARROWS.get(row.direction, '')}".strip())
        table.add_row(escape(metric), *numbers(row), f"[{color}]{words}[/]" if color else words)
    return table


def folded(name: str) -> str:
    """A name in lines of at most `NAME_WIDTH` characters, broken behind underscores where there are any."""
    lines = [""]
    for part in name.replace("_", "_\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > NAME_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
