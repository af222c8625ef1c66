"""`xaibench leaderboard`: tables of finished runs, on the terminal or in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from xaibench.cli.console import WIDE, out, print_leaderboard
from xaibench.cli.exit_codes import naming
from xaibench.cli.options import check_place
from xaibench.core.errors import UsageError

TableFormat = Literal["table", "csv", "md"]
ENDINGS: Mapping[str, TableFormat] = {".csv": "csv", ".md": "md"}
STDOUT = Path("-")


def leaderboard(
    runs: Sequence[Path],
    format: TableFormat | None,
    output: Path,
    published: str | None = None,
    *,
    intervals: bool = False,
) -> None:
    """Print or write the table of runs, with `published` beside the numbers of a paper.

    Args:
        format: None: chosen by the ending of `output`; a table on stdout
        output: a file, or "-" for stdout
        intervals: print the interval of every value; for a table on the terminal

    Raises:
        UsageError: an unknown ending
        MissingError: a file that cannot be written here
    """
    from xaibench.results.leaderboard import read_leaderboard
    from xaibench.results.published import compare_published

    if output != STDOUT:
        check_place(output)
    form = format or ("table" if output == STDOUT else _format_of(output))
    board = read_leaderboard(runs) if published is None else compare_published(published, runs)
    if output == STDOUT and form == "table":
        print_leaderboard(board, intervals=intervals)
    elif output == STDOUT:
        out().file.write(board.csv() if form == "csv" else board.markdown())
    else:
        with naming(output), output.open("w", encoding="utf-8") as file:
            if form == "table":
                print_leaderboard(board, Console(file=file, width=WIDE), intervals=intervals)
            else:
                file.write(board.csv() if form == "csv" else board.markdown())


def _format_of(output: Path) -> TableFormat:
    if output.suffix not in ENDINGS:
        raise UsageError(
            f"-o {output}: unknown ending {output.suffix!r}; allowed: {', '.join(ENDINGS)}; or choose with --format"
        )
    return ENDINGS[output.suffix]
