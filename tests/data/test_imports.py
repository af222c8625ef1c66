"""The data package imports nothing that lies above it, and no torch before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xaibench
from xaibench.core import registry
from xaibench.data import dataset

PACKAGE = Path(xaibench.__file__).parent
FILES = [path.relative_to(PACKAGE) for path in sorted((PACKAGE / "data").rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """Names of what a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_down(file: Path) -> None:
    names = [name.split(".") for name in imported(PACKAGE / file)]
    assert {".".join(name[:2]) for name in names if name[0] == "xaibench"} <= {"xaibench.core", "xaibench.data"}
    assert not [name for name in names if name[0] in ("timm", "rich", "typer")]


def test_data_sets_are_listed_without_torch() -> None:
    script = (
        "import sys; from xaibench.core import registry; import xaibench.data; assert list(registry.datasets);"
        "assert not {'torch', 'timm', 'rich'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_decorator_has_one_home() -> None:
    assert dataset is registry.dataset is xaibench.dataset
