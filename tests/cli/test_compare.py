"""`xaibench compare`: exit codes, tables that fit, files, and two methods of one run."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.support.console import call
from tests.support.paths import ROOT
from tests.support.runs import FakeRun, drawn

LONG = "average_retention_of_others"
BASE = {("cam", "hit"): drawn(1), ("cam", LONG): drawn(2), ("lime", "hit"): drawn(3), ("lime", LONG): drawn(4)}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return FakeRun(BASE).write(tmp_path / "base")


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    return FakeRun({**BASE, ("cam", LONG): drawn(9, shift=-0.1)}).write(tmp_path / "worse")


def test_exit_codes(
    base: Path, worse: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "compare", base, base) == 0
    assert "4 cells: 4 same." in capsys.readouterr().out
    assert call(monkeypatch, "compare", base, worse) == 1
    printed = capsys.readouterr().out
    assert "net / cam\n" in printed
    assert "worse" in printed
    assert "failed: 1 cell (" in printed
    assert "lime" not in printed, "what is the same is not listed"
    assert call(monkeypatch, "compare", base, worse, "--all") == 1
    assert "lime" in capsys.readouterr().out
    assert call(monkeypatch, "compare", worse, base) == 0
    assert call(monkeypatch, "compare", worse, base, "--fail-on", "changed") == 1
    assert call(monkeypatch, "compare", base, worse, "--fail-on", "none") == 0
    assert call(monkeypatch, "compare", base, worse, "--min-effect", "0.5") == 0
    assert call(monkeypatch, "compare", base, worse, "--method", "lime") == 0
    assert call(monkeypatch, "compare", base, worse, "--exact", "0.001") == 1
    assert call(monkeypatch, "compare", base, worse, "--exact", "0.5") == 0


def test_a_missing_method_is_one_line(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = FakeRun({key: values for key, values in BASE.items() if key[0] == "cam"}).write(tmp_path / "part")
    assert call(monkeypatch, "compare", base, part) == 1
    assert "net / lime  missing, 2 cells\n" in capsys.readouterr().out
    assert call(monkeypatch, "compare", base, part, "--allow-missing") == 0
    assert "net / lime" not in capsys.readouterr().out


def test_the_table_fits_into_80_columns(
    base: Path, worse: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "compare", base, worse)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines[:-1]) <= 80
    assert any(line.startswith("of_others ↑") for line in lines), "a long name is broken behind an underscore"


def test_reports(
    base: Path, worse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    md, xml = tmp_path / "comment.md", tmp_path / "junit.xml"
    assert call(monkeypatch, "compare", base, worse, "--md", md, "--junit", xml, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in found["rows"]] == ["same", "worse", "same", "same"]
    assert "**worse**" in md.read_text()
    assert len(list(ET.parse(xml).getroot().iter("failure"))) == 1
    assert call(monkeypatch, "compare", base, worse, "--md", "-") == 1
    assert capsys.readouterr().out == md.read_text()


def test_two_methods_of_one_run(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "compare", "--methods", "cam", "lime", base) == 0
    printed = capsys.readouterr()
    assert "net / lime against cam" in printed.out
    assert "hit" in printed.out
    assert "version" not in printed.err, "two methods differ by intention"
    assert call(monkeypatch, "compare", "--methods", "cam", "lime", base, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["metric"], row["basis"]) for row in rows] == [("hit", "paired"), (LONG, "paired")]


def test_a_question_may_fail_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun({("cam", "hit"): drawn(1), ("lime", "hit"): drawn(2, shift=-0.2)}).write(tmp_path / "run")
    assert call(monkeypatch, "compare", "--methods", "cam", "lime", run) == 0
    assert call(monkeypatch, "compare", "--methods", "cam", "lime", run, "--fail-on", "worse") == 1
    assert call(monkeypatch, "compare", "--methods", "lime", "cam", run, "--fail-on", "worse") == 0


@pytest.mark.parametrize(("arguments", "code", "sentence"), [
    (["{base}"], 2, "give two runs, BASE and NEW, or one run with --methods A B; found 1"),
    (["{base}", "{base}", "{base}"], 2, "found 3"),
    (["{base}", "{base}", "--methods", "cam", "lime"], 2, "compares within one run; give one, found 2"),
    (["{base}", "--methods", "cam", "cam"], 2, "cam is given twice"),
    (["{base}", "--methods", "cam", "lima"], 2, "unknown method 'lima'; did you mean 'lime'?"),
    (["{base}", "{base}", "--metric", "zzz"], 2, "--metric 'zzz' chooses nothing of the runs"),
    (["{base}", "{base}", "--alpha", "2"], 2, "alpha 2: give a number between 0 and 1"),
    (["{base}", "{base}", "--json", "--md", "-"], 2, "both write to stdout"),
    (["{base}", "{base}", "--md", "no/such/folder.md"], 4, "there is no directory"),
    (["{base}", "nothing"], 4, "nothing: no such file or directory"),
    (["{base}", "."], 2, "cells are joined by data set, model, method and metric"),
])  # fmt: skip
def test_mistakes(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    FakeRun({("cam", "hit"): drawn(1)}, model="another").write(tmp_path / "here" / "run")
    assert call(monkeypatch, "compare", *[argument.format(base=base) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err


def test_needs_no_torch(base: Path, worse: Path) -> None:
    code = (
        f"import sys; sys.argv = ['xaibench', 'compare', {str(base)!r}, {str(worse)!r}]\n"
        "from xaibench.cli.app import main\n"
        "try: main()\nexcept SystemExit as end: print('CODE', end.code)\n"
        "print('HEAVY', sorted({'torch', 'timm', 'matplotlib', 'xaibench.metrics'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "CODE 1" in printed
    assert "HEAVY []" in printed


def test_the_committed_leaderboards_are_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shapes", "shapes-full"):
        board = ROOT / "leaderboards" / f"{name}.csv"
        scores = ROOT / "leaderboards" / f"{name}.scores.csv"
        assert call(monkeypatch, "compare", board, scores, "--exact", "0") == 0
