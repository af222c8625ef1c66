"""Where suites are, and how a file becomes one."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from xaibench.errors import UsageError, unknown
from xaibench.suite.checks import check_names
from xaibench.suite.schema import Suite
from xaibench.yamlfile import Document

# in place of what is missing or wrong, so that one report names every problem of a file
STAND_INS = {
    "name": "unnamed",
    "dataset": {"name": "shapes"},
    "models": ["shapes-resnet"],
    "methods": ["cam"],
    "metrics": ["sparseness"],
}


def find_suite(name: str) -> Path:
    """The file of a suite: a path, or the bare name of one that is shipped."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or "/" in name:
        if not path.is_file():
            raise UsageError(f"suite {name}: no such file")
        return path
    shipped = shipped_suites()
    if name not in shipped:
        raise UsageError(unknown("suite", name, shipped) + "; or give the path of a .yaml file")
    return shipped[name]


def shipped_suites() -> dict[str, Path]:
    folder = importlib.resources.files("xaibench.suites")
    files = [Path(str(item)) for item in folder.iterdir() if item.name.endswith(".yaml")]
    return {file.stem: file for file in sorted(files)}


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read and check a suite. Raises ProblemsError with every problem of the file."""
    document = Document.read(path)
    for assignment in overrides:
        document.override(assignment)
    suite = document.validate(Suite, STAND_INS)
    if suite is not None:
        check_names(suite, document)
    document.raise_problems()
    assert suite is not None
    return suite
