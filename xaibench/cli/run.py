"""`xaibench run`: check suites, run them or print their plans, print their leaderboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from xaibench import api
from xaibench.cli.console import Bars, ProgressMode, err, note, out, print_leaderboard
from xaibench.cli.exit_codes import naming
from xaibench.core.errors import MissingError, UsageError
from xaibench.results.leaderboard import plural
from xaibench.results.records import Records
from xaibench.runner.attempt import default_directory
from xaibench.runner.benchmark import Benchmark, benchmark_of
from xaibench.runner.cells import ModelCells, model_cells
from xaibench.runner.estimate import PAIRS_PER_IMAGE, Estimate, estimate
from xaibench.runner.run_directory import BAD_SAMPLES, Run
from xaibench.runner.settings import Progress, Settings
from xaibench.suite import Selection, Suite, find_suite, load_suite, select

BYTES_PER_ROW = 12  # of a Parquet cell, measured


@dataclass(frozen=True)
class Job:
    """One suite to run.

    Attributes:
        path: the suite's file
        suite: the file with the overrides of the command line
        directory: of the run
        chosen: arguments of `xaibench.run` that choose a part of the suite
    """

    path: Path
    suite: Suite
    directory: Path
    chosen: Mapping[str, Any]

    def run(self, settings: Settings, mode: ProgressMode, intervals: bool) -> int:
        """Run the suite and print its leaderboard. Returns the exit code."""
        for message in self.suite.notes:
            note(message)
        with Bars(mode).showing() as bars, naming(self.directory):
            result = api.run(
                self.suite,
                out=self.directory,
                data_root=settings.data_root,
                device=settings.device,
                batch_size=settings.batch_size,
                workers=settings.workers,
                limit=settings.limit,
                progress=Progress(bars.start, bars.advance, bars.note),
                fail_fast=settings.fail_fast,
                cache=settings.cache,
                **self.chosen,
            )
        self._report(result, intervals)
        return result.exit_code

    def _report(self, result: Run, intervals: bool) -> None:
        print_leaderboard(result.leaderboard, intervals=intervals)
        err.print(f"written to {self.directory}/ (leaderboard.csv, leaderboard.md, scores.csv)", markup=False)
        for sample_id, reason in result.outcome.bad.items():
            err.print(f"bad sample {sample_id}: {reason}", markup=False, style="red")
        if result.outcome.bad:
            count = plural(len(result.outcome.bad), "bad sample")
            err.print(f"left out of every score: {count}, listed in {self.directory / BAD_SAMPLES}", markup=False)
        for message in result.outcome.failed:
            err.print(f"failed: {message}", markup=False, style="red")

    def print_plan(self, settings: Settings) -> None:
        """Print a table of what a run would compute: a row per model."""
        benchmark = benchmark_of(self.suite, replace(settings, suite_folder=self.suite.folder))
        selection, records = select(self.suite, **self.chosen), Records(self.directory)
        table = Table(title=f"{self.suite.name}: what would be done", title_justify="left")
        for column in ("model", "methods", "cells", "there already", "samples", "forwards", "backwards", "disk"):
            table.add_column(column, justify="left" if column == "model" else "right")
        total, models = Estimate(), [source for source in benchmark.models if source.label in selection.models]
        for source in models:
            model = model_cells(source, benchmark)
            row, found = _plan_row(model, selection, records, benchmark)
            table.add_row(*row)
            total += found
            for message in model.skipped:
                note(message)
        if len(models) > 1:
            table.add_row("all", *[""] * 4, *_passes(total), "")
        out().print(table)
        err.print(
            "(forwards and backwards are passes of one image, computed from the formulas that `xaibench show NAME` prints; "
            f"counts marked ~ assume {PAIRS_PER_IMAGE} explained labels per image where their number is not known)"
        )
        if total.undeclared:
            names = ", ".join(sorted(total.undeclared))
            note(f"{names}: not counted; give forwards= and backwards= where it is registered")


def _plan_row(
    model: ModelCells, selection: Selection, records: Records, benchmark: Benchmark
) -> tuple[list[str], Estimate]:
    """A row of the plan, and the passes that it takes."""
    chosen = {
        key: cell for key, cell in model.cells.items() if key[0] in selection.methods and key[1] in selection.metrics
    }
    methods = [method for method in model.methods if method.label in selection.methods]
    missing = [key for key, cell in chosen.items() if not records.complete(cell)]
    found = estimate(model, missing, benchmark)
    samples, done = len(benchmark.ids), len(chosen) - len(missing)
    counts = [len(methods), len(chosen), done, samples]
    disk = len(missing) * samples * PAIRS_PER_IMAGE * BYTES_PER_ROW / 1e6
    return [model.label, *map(str, counts), *_passes(found), f"~{disk:.1f} MB"], found


def _passes(found: Estimate) -> list[str]:
    return [f"~{round(number):,}" for number in (found.forwards, found.backwards)]


def jobs_of(
    names: Sequence[str],
    directory: Path | None,
    *,
    overrides: Sequence[str],
    quick: bool,
    patterns: Mapping[str, Sequence[str]],
) -> list[Job]:
    """The suites of a command as jobs; all are checked before the first job runs.

    Args:
        directory: of the run; with several suites the parent of their directories, which have the suites' names.
            None: the parent is `runs`, also for one suite
        patterns: names and globs of methods, metrics and models, see `patterns_of`

    Raises:
        UsageError: mistakes in a suite, a pattern that chooses nothing, two suites of one name, or a default directory
            that holds the run of another
        MissingError: a file where a run needs a directory
    """
    jobs: dict[str, Job] = {}
    for name in names:
        path = find_suite(name)
        suite = load_suite(path, overrides)
        chosen: dict[str, Any] = {"quick": quick, **{f"{kind}s": list(globs) for kind, globs in patterns.items()}}
        select(suite, **chosen)  # refuses what chooses nothing
        if suite.name in jobs:
            first = jobs[suite.name].path
            raise UsageError(f"{first} and {path} are both called {suite.name!r}; change one `name`, or run them apart")
        if directory is None:
            own = default_directory(suite)
        else:
            own = directory if len(names) == 1 else directory / suite.name
        if own.exists() and not own.is_dir():
            raise MissingError(f"{own}: a run needs a directory here, and this is a file; choose another --out")
        jobs[suite.name] = Job(path, suite, own, chosen)
    return list(jobs.values())


def run(
    jobs: Sequence[Job], settings: Settings, *, dry_run: bool, progress: ProgressMode, intervals: bool = False
) -> int:
    """Run jobs one after another, or with `dry_run` print their plans. Returns the highest exit code."""
    if dry_run:
        for job in jobs:
            job.print_plan(settings)
        return 0
    return max(job.run(settings, progress, intervals) for job in jobs)
