"""The files of a run: what was asked, each attempt at it, the records, the scores, the leaderboard."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd

from xaibench.core.atomic_files import whole_file, write_text
from xaibench.results.leaderboard import Leaderboard
from xaibench.results.records import SCHEMA, Records
from xaibench.results.scores import score_table, without_value
from xaibench.runner.attempt import Attempt, versions
from xaibench.runner.benchmark import Benchmark
from xaibench.runner.cells import scored_cells
from xaibench.runner.loop import Outcome, Runner
from xaibench.runner.settings import Progress, Settings
from xaibench.suite import Selection

BAD_SAMPLES = "bad_samples.csv"


class Run:
    """The result of `xaibench.run` and of `xaibench.benchmark`.

    Attributes:
        directory: where everything was written
        scores: long, one row per (model, method, metric)
        leaderboard: the wide view
        outcome: what was computed, what failed
    """

    def __init__(self, directory: Path, scores: pd.DataFrame, leaderboard: Leaderboard, outcome: Outcome) -> None:
        self.directory, self.scores, self.leaderboard, self.outcome = directory, scores, leaderboard, outcome

    def __repr__(self) -> str:
        failed = f", {len(self.outcome.failed)} failed" if self.outcome.failed else ""
        return f"Run({str(self.directory)!r}: {len(self.scores)} scores{failed})"

    def records(self) -> pd.DataFrame:
        """The value of every pair: the rows of all cells that are there, see `xaibench.results.records`."""
        records = Records(self.directory)
        cells = [cell for model in self.outcome.models for cell in model.cells.values() if records.complete(cell)]
        frames = [records.read(cell) for cell in cells]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=SCHEMA.names)

    @property
    def exit_code(self) -> int:
        """3 where a method or metric failed, or where not one value of a row is defined, else 0."""
        return 3 if self.outcome.failed or without_value(self.scores) else 0


def run_benchmark(
    benchmark: Benchmark,
    out: Path,
    settings: Settings,
    progress: Progress | None = None,
    selection: Selection | None = None,
) -> Run:
    """Compute what is missing of a benchmark, and write scores and leaderboard.

    Args:
        out: the run's directory; what it already holds is not computed again
        selection: the part to compute; None: all. The tables show every cell of the benchmark that is there

    Raises:
        UsageError, MissingError: a model that cannot be opened, or that goes with no method
        SampleError: more bad samples than `max_bad_samples`
        WorkerError: a process that read samples died
        CellError: the first error in a method or metric, where the settings say `fail_fast`
    """
    attempt = Attempt(out, benchmark.name, benchmark.seed, benchmark.suite_file, settings)
    runner = Runner(benchmark, Records(out), settings, progress, selection)
    out.mkdir(parents=True, exist_ok=True)
    if benchmark.text is not None:
        write_text(out / "suite.yaml", benchmark.text)
    write_text(out / "suite.resolved.json", json.dumps(benchmark.resolved, indent=2) + "\n")
    exit_code = 1
    try:
        runner.run()
        exit_code = 3 if runner.outcome.failed else 0
    except BaseException as error:
        exit_code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        raise
    finally:
        outcome = runner.outcome
        bad = {sample_id: outcome.bad[sample_id] for sample_id in benchmark.ids if sample_id in outcome.bad}
        facts: dict[str, Any] = {"computed_parts": outcome.computed, "failed": outcome.failed, "bad_samples": bad}
        if outcome.contradictions:
            facts["mask_contradictions"] = len(outcome.contradictions)
        attempt.end(exit_code, **facts)
        _write_bad_samples(out / BAD_SAMPLES, bad)
    return _write_tables(benchmark, out, runner)


def run_and_forget(benchmark: Benchmark, settings: Settings, progress: Progress | None = None) -> Run:
    """Run in a temporary directory, which is removed with the result."""
    directory = mkdtemp(prefix="xaibench-")
    try:
        result = run_benchmark(benchmark, Path(directory), settings, progress)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    weakref.finalize(result, shutil.rmtree, directory, ignore_errors=True)
    return result


def _write_tables(benchmark: Benchmark, out: Path, runner: Runner) -> Run:
    version = versions().get("xaibench", "0+unknown")
    scores = score_table(runner.records, scored_cells(benchmark, runner.outcome.models, version))
    leaderboard = Leaderboard(scores, benchmark.title)
    write_text(out / "scores.csv", scores.to_csv(index=False, lineterminator="\n"))
    with whole_file(out / "scores.parquet") as file:
        scores.to_parquet(file, index=False)
    write_text(out / "leaderboard.csv", leaderboard.csv())
    write_text(out / "leaderboard.md", leaderboard.markdown())
    return Run(out, scores, leaderboard, runner.outcome)


def _write_bad_samples(path: Path, bad: Mapping[str, str]) -> None:
    """Write a row for each; remove the file where there are none."""
    if not bad:
        path.unlink(missing_ok=True)
        return
    table = pd.DataFrame({"sample_id": list(bad), "problem": list(bad.values())})
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
