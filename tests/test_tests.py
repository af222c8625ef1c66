"""Test folders mirror the packages, and tests share helpers through tests/support alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
OTHER_FOLDERS = {"support", "golden", "benchmarks"}
MODULES = sorted(TESTS.rglob("*.py"))


def imported_from_tests(path: Path) -> Iterator[str]:
    """Modules of `tests` that a file imports, also inside functions; relative imports as they are written."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "tests")
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tests":
            yield f"{node.module}.{node.names[0].name}"


def package_folder(folder: Path) -> Path:
    """The folder of the package whose tests stand in `folder`: metrics for tests/metrics, xaibench/data for tests/data."""
    relative = folder.relative_to(TESTS)
    return ROOT / relative if relative.parts[0] in ("methods", "metrics") else ROOT / "xaibench" / relative


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_only_helpers_are_imported(path: Path) -> None:
    wrong = [name for name in imported_from_tests(path) if not name.startswith("tests.support.")]
    assert not wrong, f"{path} imports {', '.join(wrong)}: move what several tests need into tests/support/"


def test_every_folder_of_tests_belongs_to_a_package() -> None:
    folders = {path.parent for path in TESTS.rglob("test_*.py")} - {TESTS}
    assert {folder.relative_to(TESTS).parts[0] for folder in folders}.isdisjoint(OTHER_FOLDERS)
    assert not [folder for folder in folders if not (package_folder(folder) / "__init__.py").is_file()]


def test_every_package_has_tests() -> None:
    packages = {path.parent.name for path in (ROOT / "xaibench").glob("*/__init__.py")} | {"methods", "metrics"}
    assert not [name for name in packages if not list((TESTS / name).rglob("test_*.py"))]
