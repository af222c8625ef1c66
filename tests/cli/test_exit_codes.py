"""Every error ends in one sentence and its exit code; the traceback is there with --debug."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.console import SUITE, call
from tests.support.paths import DOCS
from xaibench.cli import run as run_command
from xaibench.cli.exit_codes import MEANING, explained
from xaibench.core import registry
from xaibench.core.tracebacks import place

USAGE = DOCS / "usage.md"
FAILING = """\
from xaibench import method


@method(source='test', cost='none')
def always_fails(forward, pairs):
    '''Fails.'''
    return inner(pairs)


def inner(pairs):
    raise ValueError('on purpose')
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The text of stderr, which is one line."""
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1, text
    return text


def test_the_codes_are_documented(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    assert call(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    for code, words in MEANING.items():
        assert f"{code} {words}" in printed
        assert f"| {code} |" in USAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("tiny.yaml", "a run needs a directory here, and this is a file; choose another --out"),
        ("tiny.yaml/run", "not a directory; a part of this path is a file"),
        ("/proc/run", "no such file or directory"),
    ],
)
def test_a_run_that_cannot_be_written(
    suite: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    sentence: str,
) -> None:
    assert call(monkeypatch, "run", suite, "--out", tmp_path / place, "--progress", "none") == 4
    found = one_sentence(capsys)
    assert sentence in found
    assert place in found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("format", ["table", "csv"])
def test_a_full_disk(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    run = tmp_path / "run"
    flags = ["--method", "cam", "--metric", "sparseness", "--limit", "1", "--progress", "none"]
    assert call(monkeypatch, "run", suite, "--out", run, *flags) == 0
    capsys.readouterr()
    assert call(monkeypatch, "leaderboard", run, "-o", "/dev/full", "--format", format) == 4
    assert "error: /dev/full: no space left on device; free some space" in capsys.readouterr().err


def test_a_suite_that_is_not_utf8(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write_bytes(SUITE.encode() + "title: Kön\n".encode("latin-1"))
    assert call(monkeypatch, "run", suite) == 2
    assert f"{suite}:7:9: byte 0xf6 is not UTF-8; save the file as UTF-8" in one_sentence(capsys)
    assert call(monkeypatch, "validate", suite) == 2
    assert f"{suite}:7:9: byte 0xf6 is not UTF-8" in capsys.readouterr().out
    assert call(monkeypatch, "train", suite) == 2
    assert f"{suite}:7:9: byte 0xf6 is not UTF-8" in one_sentence(capsys)


def test_an_unexpected_error(suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run_command, "find_suite", lambda name: {}[name])
    assert call(monkeypatch, "run", "a suite") == 70
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: unexpected KeyError: 'a suite' (")
    assert "xaibench/cli/run.py:" in first
    assert second == "for the traceback: xaibench --debug run 'a suite'"
    assert call(monkeypatch, "--debug", "run", "a suite") == 70
    with_debug = capsys.readouterr().err
    assert "Traceback (most recent call last)" in with_debug
    assert with_debug.endswith(first + "\n")


def test_text_that_cannot_be_decoded() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"\xff".decode()
    assert explained(caught.value)[1] == 4


def test_errors_of_files_have_a_remedy() -> None:
    assert explained(PermissionError(13, "Permission denied", "here")) == (
        "here: permission denied; choose another place, or change its permissions",
        4,
    )
    assert explained(ConnectionError("no route")) == ("ConnectionError: no route", 4)
    assert explained(OSError(5, "Input/output error", "a", None, "b"))[0] == "a -> b: input/output error"


def test_fail_fast_names_the_line(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry.methods, "_entries", dict(registry.methods._entries))
    Path("fast_plugin.py").write_text(FAILING)
    suite.write_text(SUITE.replace("cam, raw_attention", "always_fails"))
    arguments = [
        "run",
        suite,
        "--out",
        tmp_path / "run",
        "--progress",
        "none",
        "--plugin",
        "fast_plugin.py",
        "--fail-fast",
    ]
    try:
        assert call(monkeypatch, *arguments) == 3
        expected = "error: test_resnet / always_fails: ValueError: on purpose (fast_plugin.py:11)\n"
        assert capsys.readouterr().err == expected
        assert call(monkeypatch, "--debug", *arguments) == 3
        with_debug = capsys.readouterr().err
    finally:
        sys.modules.pop("xaibench_plugin_fast_plugin", None)
    assert "in inner" in with_debug
    assert with_debug.endswith(expected)


def test_place_is_the_innermost_line_that_counts() -> None:
    def fails() -> None:
        os.stat("/no/such/file")

    with pytest.raises(OSError) as caught:
        fails()
    found = place(caught.value, lambda module: module == __name__)
    assert found is not None
    assert found.startswith("tests/cli/test_exit_codes.py:") or found.startswith(__file__)
    assert found.endswith(f":{fails.__code__.co_firstlineno + 1}")
    assert place(caught.value, lambda module: False) is None
    with pytest.raises(SyntaxError) as mistake:
        compile("a = = 1", "written.py", "exec")
    assert place(mistake.value, lambda module: False) == "written.py:1"
