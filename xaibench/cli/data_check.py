"""`xaibench data check`: run the check of a data set on disk and print its report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from xaibench.cli.console import Bars, out, print_json
from xaibench.core.errors import UsageError
from xaibench.core.yaml.document import read_value
from xaibench.data.disk_check import SHOWN, ArchiveReport, Report, SplitReport, check

INCOMPLETE = 4  # exit code
COLUMNS = ("split", "samples", "official", "missing files", "bad samples", "")


def run(
    name: str,
    *,
    data_root: Path | None,
    splits: Sequence[str],
    options: Sequence[str],
    checksums: bool,
    decode: bool,
    workers: int | None,
    plugins: Sequence[str],
    as_json: bool,
) -> int:
    """Check a data set and print the report. Returns the exit code: 0 complete, 4 incomplete."""
    values: dict[str, Sequence[object]] = {
        "--data-root": [data_root] if data_root else [],
        "--split": splits,
        "--option": options,
        "--plugin": plugins,
    }
    again = _command(name, values, {"--checksums": checksums, "--decode": decode})
    with Bars("auto").showing() as bars:
        report = check(
            name,
            data_root=data_root,
            splits=splits,
            options=parse_options(options),
            checksums=checksums,
            decode=decode,
            workers=workers,
            progress=bars,
        )
    if as_json:
        print_json({**report.as_dict(), "again": again})
    else:
        _print(report, again)
    return 0 if report.complete else INCOMPLETE


def _command(name: str, values: Mapping[str, Sequence[object]], flags: Mapping[str, bool]) -> str:
    """The same command as text, to be repeated when files were added."""
    arguments = [str(argument) for option, given in values.items() for value in given for argument in (option, value)]
    arguments += [flag for flag, given in flags.items() if given]
    return shlex.join(["xaibench", "data", "check", name, *arguments])


def parse_options(assignments: Sequence[str]) -> dict[str, Any]:
    """Options of a data set from `key=value`, where the value is YAML as in a suite.

    Raises:
        UsageError: no `=`, a value that is not YAML, a key that has an option of its own
    """
    options = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise UsageError(f"--option {assignment!r}: key=value is needed")
        if key in ("split", "data_root"):
            raise UsageError(f"--option {assignment!r}: give --{key.replace('_', '-')} instead")
        options[key] = read_value(value, f"--option {assignment}")
    return options


def _print(report: Report, again: str) -> None:
    _print_line(f"{report.dataset}: {report.summary}")
    out().print(_table(report.splits))
    for problem in dict.fromkeys(split.problem for split in report.splits if split.problem):
        _print_line(problem)
    _print_some("missing", dict.fromkeys(file for split in report.splits for file in split.missing))
    _print_some("bad", dict.fromkeys(message for split in report.splits for message in split.bad or []))
    for split in report.splits:
        if split.warning:
            _print_line(f"warning: {split.split}: {split.warning}")
    for archive in report.archives:
        _print_line(f"archive {archive.name}: {_state(archive)}; official MD5 {archive.md5}")
    facts = {"data root": report.data_root, "address": report.address, "licence": report.licence}
    for heading, fact in facts.items():
        if fact:
            _print_line(f"{heading}: {fact}")
    verdict = "complete" if report.complete else "incomplete; nothing was downloaded"
    _print_line(f"{report.dataset} is {verdict}. Check again: {again}")


def _table(splits: Sequence[SplitReport]) -> Table:
    table = Table(header_style="bold", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("split", "") else "right", no_wrap=True)
    for split in splits:
        there = split.samples is not None
        counts = (
            split.samples,
            split.official,
            len(split.missing) if there else None,
            "not read" if there and split.bad is None else None if split.bad is None else len(split.bad),
        )
        style = "red" if not split.complete else "green" if there and not split.contradictions else "yellow"
        cells = ["–" if count is None else str(count) for count in counts]
        table.add_row(escape(split.split), *cells, f"[{style}]{escape(split.state)}[/]")
    return table


def _state(archive: ArchiveReport) -> str:
    states = {"absent": "not on disk", "not compared": "on disk, not compared (--checksums)"}
    return states.get(archive.state, f"on disk, its MD5 is {archive.state}")


def _print_some(heading: str, found: Mapping[str, None]) -> None:
    """Print the first items, and how many more there are."""
    for item in list(found)[:SHOWN]:
        _print_line(f"{heading}: {item}")
    if len(found) > SHOWN:
        _print_line(f"{heading}: {len(found) - SHOWN} more")


def _print_line(text: str) -> None:
    out().print(text, markup=False, soft_wrap=True)
