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
from xaibench.runner.settings import Settings


class Attempt:
    """One attempt at a run. It is written when it ends.

    Args:
        directory: of the run
        name, seed: of the benchmark
    """

    def __init__(self, directory: Path, name: str, seed: int, settings: Settings) -> None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        self.path = directory / "attempts" / f"{stamp}-{uuid.uuid4().hex[:6]}.json"
        self.started = time.time()
        self.facts: dict[str, Any] = {
            "argv": sys.argv,
            "started": stamp,
            "suite": name,
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
