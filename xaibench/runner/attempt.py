"""A record of each attempt at a run: what was asked, on which machine, with which versions, and how it ended."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xaibench.core.atomic_files import write_text
from xaibench.core.errors import UsageError
from xaibench.runner.settings import Settings
from xaibench.suite import Suite, shipped_suites


class Attempt:
    """One attempt at a run. It is written when it ends.

    Args:
        directory: of the run
        name, seed: of the benchmark
        suite_file: see `suite_file`; None without one
    """

    def __init__(self, directory: Path, name: str, seed: int, suite_file: str | None, settings: Settings) -> None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        self.path = directory / "attempts" / f"{stamp}-{uuid.uuid4().hex[:6]}.json"
        self.started = time.time()
        self.facts: dict[str, Any] = {
            "argv": sys.argv,
            "started": stamp,
            "suite": name,
            "suite_file": suite_file,
            "seed": seed,
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
        """Write the record, with more facts."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(time.time() - self.started, 3)
        write_text(self.path, json.dumps({**self.facts, "exit_code": exit_code, "seconds": seconds, **facts}, indent=2))


def suite_file(suite: Suite) -> str | None:
    """What tells suites of one name apart: the file's absolute path; None for a mapping and for a shipped suite."""
    path = suite.path
    return None if path is None or path in shipped_suites().values() else str(path.resolve())


def default_directory(suite: Suite) -> Path:
    """`runs/<suite name>`. Raises UsageError where that is the run of another suite file of the same name."""
    directory, own = Path("runs") / suite.name, suite_file(suite)
    for path in sorted((directory / "attempts").glob("*.json"))[-1:]:
        with suppress(ValueError):
            other = json.loads(path.read_text(encoding="utf-8")).get("suite_file", own)
            if other != own:
                raise UsageError(
                    f"{directory}: the run of another suite that is called {suite.name!r} ({other or 'not a file'}); "
                    f"choose another directory with --out, or change the suite's `name`"
                )
    return directory


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
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
