"""The command line: output, exit codes, and what it says when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xaibench.cli import main

SUITE = """\
name: tiny
dataset: {name: shapes, samples: 3}
models: [{name: test_resnet, input: {size: 64, resize: squash}}]
explain: present
methods: [cam, raw_attention]
metrics: [average_drop, sparseness]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["xaibench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_run_and_leaderboard(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call(monkeypatch, "run", suite, "--out", out, "--progress", "plain", "--device", "cpu") == 0
    first = capsys.readouterr()
    assert "untrained model" in first.err
    assert "raw_attention left out: ResNet has no attention" in first.err
    assert "images/s, ETA" in first.err
    assert "cam" in first.out
    assert call(monkeypatch, "run", suite, "--out", out, "--progress", "plain", "--device", "cpu") == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert "everything is there already" in second.err
    assert call(monkeypatch, "leaderboard", out, "--format", "csv") == 0
    assert capsys.readouterr().out == (out / "leaderboard.csv").read_text()
    assert call(monkeypatch, "leaderboard", out, "-o", tmp_path / "board.md") == 0
    assert "| cam |" in (tmp_path / "board.md").read_text()
    assert call(monkeypatch, "leaderboard", tmp_path) == 2
    assert "no scores.csv" in capsys.readouterr().err


def test_dry_run_does_nothing(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", suite, "--out", tmp_path / "run", "--dry-run") == 0
    assert "test_resnet" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_flags_change_the_suite(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ["--method", "c*", "--metric", "spars*", "--limit", "2", "--seed", "4", "--set", "dataset.seed=1"]
    assert call(monkeypatch, "run", suite, "--out", out, "--progress", "none", *flags) == 0
    resolved = json.loads((out / "suite.resolved.json").read_text())
    assert resolved["seed"] == 4
    assert resolved["dataset"]["seed"] == 1
    assert [m["name"] for m in resolved["metrics"]] == ["sparseness"]
    assert "partial run" in (out / "leaderboard.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "shape"], "did you mean 'shapes'"),
        (["run", "{suite}", "--method", "zzz"], "chooses nothing"),
        (["run", "{suite}", "--batch-size", "many"], "a positive number, or auto"),
        (["run", "{suite}", "--workers", "some"], "a number from 0, or auto"),
        (["run", "{suite}", "--device", "cuda:99"], "not available here"),
        (["run", "{suite}", "--set", "metrics.0=average_drp"], "did you mean 'average_drop'"),
        (["run", "{suite}", "--plugin", "no_such.py"], "no such file"),
        (["list", "methods", "zzz"], "no methods match"),
        (["show", "grad_kam"], "did you mean 'grad_cam'"),
        (["train", "no.yaml"], "no such file"),
        (["list", "nothing"], "methods"),
        (["frobnicate"], "No such command"),
    ],
)
def test_usage_errors_end_with_2(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert call(monkeypatch, *[argument.format(suite=suite) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err


def test_missing_data_ends_with_4(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write_text(SUITE.replace("name: test_resnet,", "name: test_resnet, checkpoint: absent.safetensors,"))
    assert call(monkeypatch, "run", suite, "--progress", "none") == 4
    assert "absent.safetensors: no such file" in capsys.readouterr().err


def test_failed_cells_end_with_3(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "failing_plugin.py"
    plugin.write_text(
        "from xaibench import method\n\n\n"
        "@method(source='test', cost='none')\n"
        "def always_fails(forward, pairs):\n    '''Fails.'''\n    raise ValueError('on purpose')\n"
    )
    suite.write_text(SUITE.replace("raw_attention", "always_fails"))
    arguments = ["run", suite, "--out", tmp_path / "run", "--progress", "none", "--plugin", plugin]
    from xaibench import registry

    monkeypatch.setattr(registry.methods, "_entries", dict(registry.methods._entries))
    assert call(monkeypatch, *arguments) == 3
    captured = capsys.readouterr()
    assert "always_fails / average_drop: ValueError: on purpose" in captured.err
    assert "cam" in captured.out
    monkeypatch.delitem(sys.modules, "xaibench_plugin_failing_plugin")


def test_validate(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "validate", suite) == 1
    assert "method 'raw_attention' goes with no model" in capsys.readouterr().out
    suite.write_text(SUITE.replace(", raw_attention", ""))
    assert call(monkeypatch, "validate", suite, "shapes") == 0
    assert capsys.readouterr().out.count(": ok") == 2
    suite.write_text(SUITE + "titel: x\nname: again\n")
    assert call(monkeypatch, "validate", suite, "--json") == 2
    (report,) = json.loads(capsys.readouterr().out)
    assert len(report["problems"]) == 2


@pytest.mark.parametrize("kind", ["methods", "metrics", "models", "datasets", "suites"])
def test_list(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "list", kind, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row["summary"] for row in rows)
    assert call(monkeypatch, "list", kind, rows[0]["name"], "--long") == 0
    assert rows[0]["name"] in capsys.readouterr().out


def test_list_methods_of_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "list", "methods", "--model", "shapes-vit", "--json") == 0
    fits = {row["name"]: row["goes with it"] for row in json.loads(capsys.readouterr().out)}
    assert fits["raw_attention"] == fits["grad_cam"] == "yes"
    assert fits["cam"].startswith("no: its head is not linear")


@pytest.mark.parametrize("name", ["grad_cam", "f1_plus", "shapes", "shapes-resnet", "resnet18"])
def test_show(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "show", name) == 0
    assert name in capsys.readouterr().out
    assert call(monkeypatch, "show", name, "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == name


def test_help_imports_nothing_heavy() -> None:
    """What makes `xaibench --help` quick."""
    code = (
        "import sys; sys.argv = ['xaibench', '--help']\n"
        "from xaibench.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'numpy', 'pandas', 'pyarrow', 'pydantic', 'scipy', 'PIL', 'yaml'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in printed
    assert "leaderboard" in printed
