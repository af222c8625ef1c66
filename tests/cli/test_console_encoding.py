"""Output on streams that do not hold every character."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.console import SUITE, call
from xaibench.cli.console_encoding import replace_what_cannot_be_encoded


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", "^ v - e a ~ ? x"), ("latin-1", "^ v - é a ~ ? ×"), ("utf-8", "↑ ↓ – é ａ … 😀 ×")],
)
def test_what_cannot_be_encoded_is_replaced(encoding: str, expected: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    replace_what_cannot_be_encoded(stream)
    stream.write("↑ ↓ – é ａ … 😀 ×")
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == expected  # type: ignore[attr-defined]


def test_a_run_on_an_ascii_terminal(tmp_path: Path) -> None:
    """A suite with an umlaut, its table on stdout and in files."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE.replace("cam, raw_attention", "cam") + "title: Köln\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "xaibench",
        "run",
        str(path),
        "--out",
        str(tmp_path / "run"),
        "--progress",
        "plain",
    ]
    environment = {key: value for key, value in os.environ.items() if key not in ("LANG", "LC_CTYPE")}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode("ascii")
    assert "\ncam " in printed
    assert "v" in printed.split("method")[1].split("cam")[0]
    assert "Köln" in (tmp_path / "run" / "leaderboard.md").read_text(encoding="utf-8")
    assert "title: Köln" in (tmp_path / "run" / "suite.yaml").read_text(encoding="utf-8")


def test_streams_without_an_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # as a notebook's, it cannot be configured
    assert call(monkeypatch, "--version") == 0
