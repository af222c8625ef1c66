"""The smallest versions that CI installs are those that pyproject.toml declares."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_minima_are_those_of_pyproject() -> None:
    command = [sys.executable, str(ROOT / ".ci" / "minima.py")]
    pins = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *extras["data"], *extras["figures"]]
    assert [pin.replace("==", ">=") for pin in pins] == declared


def test_extras_do_not_repeat_each_other() -> None:
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == ["xaibench[data,figures]"]
    assert "xaibench[all]" in extras["test"]
    listed = [line for lines in extras.values() for line in lines if not line.startswith("captum")]
    assert len(listed) == len(set(listed))


def test_ci_runs_both_ends() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "target: newest" in workflow
    assert "target: minima" in workflow
    assert "\nnewest minima:\n" in makefile
