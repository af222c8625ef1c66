"""The files of a run: what was asked, each attempt at it, the records, the scores, the leaderboard."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from xaibench.core.atomic_files import write_text
from xaibench.core.errors import UsageError
from xaibench.results.leaderboard import Leaderboard, collect
from xaibench.results.records import Records
from xaibench.runner.cells import Settings
from xaibench.runner.loop import Outcome, Progress, Runner
from xaibench.suite import Suite

BAD_SAMPLES = "bad_samples.csv"


class Run:
    """The result of `xaibench.run`.

    Attributes:
        directory: where everything was written
        scores: long, one row per (model, method, metric)
        leaderboard: the wide view
        outcome: what was computed, what failed
    """

    def __init__(self, directory: Path, scores: pd.DataFrame, leaderboard: Leaderboard, outcome: Outcome) -> None:
        self.directory, self.scores, self.leaderboard, self.outcome = directory, scores, leaderboard, outcome


class Attempt:
    """One try at a run, recorded as it ends: argv, versions, machine, settings, times, exit code."""

    def __init__(self, directory: Path, settings: Settings, suite: Suite) -> None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        self.path = directory / "attempts" / f"{stamp}-{uuid.uuid4().hex[:6]}.json"
        self.started = time.time()
        self.facts: dict[str, Any] = {
            "argv": sys.argv,
            "started": stamp,
            "suite": suite.name,
            "seed": suite.seed,
            "device": settings.device,
            "batch_size": settings.batch_size,
            "workers": "auto" if settings.workers is None else settings.workers,
            "limit": settings.limit,
            "host": platform.node(),
            "platform": platform.platform(),
            "versions": versions(),
            "git": git_state(),
        }

    def end(self, exit_code: int, **facts: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(time.time() - self.started, 3)
        write_text(self.path, json.dumps({**self.facts, "exit_code": exit_code, "seconds": seconds, **facts}, indent=2))


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("xaibench", "torch", "timm", "numpy", "pandas", "pyarrow", "pillow"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and dirtiness of the working directory's repository; None outside of one."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        return {"commit": described.removesuffix("-dirty"), "dirty": described.endswith("-dirty")}
    return None


def run_suite(suite: Suite, text: str, out: Path, settings: Settings, progress: Progress | None = None) -> Run:
    """Compute what is missing of a suite, and write scores and leaderboard.

    Args:
        text: the suite's file, copied verbatim
        out: the run's directory; what it already holds is not computed again

    Raises:
        UsageError, MissingError: before anything is computed
        SampleError: more bad samples than `max_bad_samples`
        WorkerError: a process that read samples died
    """
    attempt = Attempt(out, settings, suite)
    runner = Runner(suite, Records(out), settings, progress)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "suite.yaml", text)
    write_text(out / "suite.resolved.json", json.dumps(resolved(suite), indent=2) + "\n")
    exit_code = 1
    try:
        runner.run()
        exit_code = 3 if runner.outcome.failed else 0
    except BaseException as error:
        exit_code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        raise
    finally:
        outcome = runner.outcome
        bad = {sample_id: outcome.bad[sample_id] for sample_id in runner.ids if sample_id in outcome.bad}
        facts: dict[str, Any] = {"computed_parts": outcome.computed, "failed": outcome.failed, "bad_samples": bad}
        if outcome.contradictions:
            facts["mask_contradictions"] = len(outcome.contradictions)
        attempt.end(exit_code, **facts)
        write_bad_samples(out / BAD_SAMPLES, bad)
    scores = collect(runner)
    leaderboard = Leaderboard(scores, suite.title or suite.name)
    write_text(out / "scores.csv", scores.to_csv(index=False, lineterminator="\n"))
    scores.to_parquet(out / "scores.parquet", index=False)
    write_text(out / "leaderboard.csv", leaderboard.csv())
    write_text(out / "leaderboard.md", leaderboard.markdown())
    return Run(out, scores, leaderboard, runner.outcome)


def write_bad_samples(path: Path, bad: Mapping[str, str]) -> None:
    """A row for each; no file where there are none."""
    if not bad:
        path.unlink(missing_ok=True)
        return
    table = pd.DataFrame({"sample_id": list(bad), "problem": list(bad.values())})
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def resolved(suite: Suite) -> dict[str, Any]:
    """The suite with every default filled in."""
    return {
        **suite.model_dump(mode="json", exclude={"methods", "metrics"}, by_alias=True),
        "methods": [
            {"as": m.label, "name": m.entry.name, "version": m.entry.version, "parameters": dict(m.parameters)}
            for m in suite.bound_methods()
        ],
        "metrics": [
            {
                "as": m.label,
                "name": m.entry.name,
                "version": m.entry.version,
                "explain": m.explain,
                "minimum_effect": m.entry.minimum_effect,
                "parameters": dict(m.parameters),
            }
            for m in suite.bound_metrics()
        ],
    }


def read_leaderboard(runs: Sequence[Path]) -> Leaderboard:
    """The leaderboard of one or several finished runs (directories, or `scores.csv` files)."""
    frames = []
    for run in runs:
        path = run / "scores.csv" if run.is_dir() else run
        if not path.is_file():
            raise UsageError(f"{run}: no scores.csv; a run's directory is needed (xaibench run writes it)")
        frame = pd.read_csv(path)
        if len(runs) > 1 and "suite" in frame.columns:
            frame["model"] = frame["suite"] + " / " + frame["model"]
        frames.append(frame)
    title = " + ".join(sorted({str(name) for frame in frames for name in frame.get("suite", [])}))
    return Leaderboard(pd.concat(frames, ignore_index=True), title)
