"""`xaibench run`: the suites that are asked for, their output on the terminal, the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from xaibench.cli.console import Bars, ProgressMode, err, out, print_leaderboard
from xaibench.cli.exit_codes import naming
from xaibench.cli.options import check_patterns
from xaibench.core.errors import MissingError, UsageError
from xaibench.results.leaderboard import plural
from xaibench.results.records import Records
from xaibench.runner.cells import Settings
from xaibench.runner.loop import Progress, Runner
from xaibench.runner.run_directory import BAD_SAMPLES, run_suite
from xaibench.suite import Suite, find_suite, load_suite, select
from xaibench.suite import quick as quick_part

BYTES_PER_ROW = 12  # of a Parquet cell, measured
PAIRS_PER_IMAGE = 2.5  # a guess for the plan; the number of detected labels is known only when it is run


@dataclass(frozen=True)
class Job:
    """One suite to run: its file, the text of it, the suite after the options of the command, the directory of its run."""

    path: Path
    text: str
    suite: Suite
    directory: Path

    def run(self, settings: Settings, mode: ProgressMode) -> int:
        """Run the suite and print its leaderboard; returns the exit code."""
        for note in self.suite.notes:
            err.print(f"note: {note}", markup=False)
        with Bars(mode).showing() as bars, naming(self.directory):
            progress = Progress(bars.start, bars.advance, bars.note)
            result = run_suite(self.suite, self.text, self.directory, self._own(settings), progress)
        print_leaderboard(result.leaderboard)
        err.print(f"written to {self.directory}/ (leaderboard.csv, leaderboard.md, scores.csv)", markup=False)
        for sample_id, sentence in result.outcome.bad.items():
            err.print(f"bad sample {sample_id}: {sentence}", markup=False, style="red")
        if result.outcome.bad:
            count = plural(len(result.outcome.bad), "bad sample")
            err.print(f"left out of every score: {count}, listed in {self.directory / BAD_SAMPLES}", markup=False)
        for sentence in result.outcome.failed:
            err.print(f"failed: {sentence}", markup=False, style="red")
        return 3 if result.outcome.failed else 0

    def print_plan(self, settings: Settings) -> None:
        """Print what a run would do."""
        runner = Runner(self.suite, Records(self.directory), self._own(settings))
        table = Table(title=f"{self.suite.name}: what would be done", title_justify="left")
        for column in ("model", "methods", "cells", "there already", "samples", "forwards", "backwards", "disk"):
            table.add_column(column, justify="left" if column == "model" else "right")
        for section in self.suite.models:
            prepared = runner.prepare(section)
            plan = runner.plan(prepared)
            left = plan["cells"] - plan["done"]
            pairs = round(plan["samples"] * PAIRS_PER_IMAGE)
            probes = sum("forward" in metric.entry.cost for metric in runner.metrics) > 0
            forwards = plan["samples"] + (2 * pairs * len(prepared.methods) if probes else 0)
            backward = any("gradients" in need for method in prepared.methods for need in method.entry.needs)
            megabytes = left * pairs * BYTES_PER_ROW / 1e6
            table.add_row(
                section.label,
                str(len(prepared.methods)),
                str(plan["cells"]),
                str(plan["done"]),
                str(plan["samples"]),
                f"~{forwards if left else 0}",
                f"~{pairs if left and backward else 0}",
                f"~{megabytes:.1f} MB",
            )
            for sentence in prepared.skipped:
                err.print(f"note: {sentence}", markup=False)
        out().print(table)
        err.print(
            f"(counts marked ~ assume {PAIRS_PER_IMAGE} explained labels per image; passes of perturbation methods, and of "
            "metrics that remove step by step or explain again, come on top: see `xaibench show NAME`)"
        )

    def _own(self, settings: Settings) -> Settings:
        return replace(settings, suite_folder=self.path.parent)


def jobs_of(
    names: Sequence[str],
    directory: Path | None,
    *,
    overrides: Sequence[str],
    quick: bool,
    patterns: Mapping[str, Sequence[str]],
) -> list[Job]:
    """The suites of a command, all checked before the first of them runs.

    Args:
        directory: of the one suite's run; several suites are written into folders in it that are called like them.
            None: `runs`, also for one
        patterns: names and globs that choose methods, metrics and models, see `patterns_of`

    Raises:
        UsageError: mistakes in a suite, a pattern that chooses nothing, two suites of one name
        MissingError: the place of a run is a file
    """
    jobs: dict[str, Job] = {}
    for name in names:
        path = find_suite(name)
        suite = load_suite(path, overrides)
        suite = _chosen(quick_part(suite) if quick else suite, patterns, quick)
        if suite.name in jobs:
            first = jobs[suite.name].path
            raise UsageError(f"{first} and {path} are both called {suite.name!r}; change one `name`, or run them apart")
        own = directory if directory is not None and len(names) == 1 else (directory or Path("runs")) / suite.name
        if own.exists() and not own.is_dir():
            raise MissingError(f"{own}: a run needs a directory here, and this is a file; choose another --out")
        jobs[suite.name] = Job(path, path.read_text(encoding="utf-8"), suite, own)
    return list(jobs.values())


def _chosen(suite: Suite, patterns: Mapping[str, Sequence[str]], quick: bool) -> Suite:
    """The part of a suite that the patterns choose. Raises UsageError for one that chooses nothing."""
    labels = {
        "model": [model.label for model in suite.models],
        "method": [method.label for method in suite.methods],
        "metric": [metric.label for metric in suite.bound_metrics()],
    }
    whose = f"the quick part of suite {suite.name}" if quick else f"suite {suite.name}"
    for kind, names in labels.items():
        check_patterns(f"--{kind}", patterns[kind], names, whose)
    return select(suite, models=patterns["model"], methods=patterns["method"], metrics=patterns["metric"])


def run(jobs: Sequence[Job], settings: Settings, *, dry_run: bool, progress: ProgressMode) -> int:
    """Run the jobs one after another, or with `dry_run` print their plans; returns the highest exit code."""
    if dry_run:
        for job in jobs:
            job.print_plan(settings)
        return 0
    return max(job.run(settings, progress) for job in jobs)
