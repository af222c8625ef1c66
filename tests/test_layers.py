"""Imports point down and form no circle; light modules import no torch; files and functions stay short.

docs/architecture.md draws the floors; tests/test_architecture.py compares the two.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.layers import FLOOR
from tests.support.paths import ROOT

GALLERIES = ("methods", "metrics")
LONGEST_FILE, LONGEST_FUNCTION = 300, 60  # lines; of a function those of its code


def module_of(path: Path) -> str:
    """`xaibench.methods.cam` for methods/cam.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "xaibench" else ("xaibench", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_of(path): path for folder in ("xaibench", *GALLERIES) for path in sorted((ROOT / folder).rglob("*.py"))
}


@cache
def imports(module: str) -> tuple[str, ...]:
    """Modules of xaibench that a module imports, also inside functions and for type checking."""
    return tuple(sorted(set(_imports(module))))


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "xaibench")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "xaibench":
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in SOURCES else node.module


def package_of(module: str) -> str:
    """`forward` for xaibench.forward.plan, "" for xaibench itself."""
    return (module.split(".") + [""])[1]


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module: str) -> None:
    own = package_of(module)
    for other in imports(module):
        target = package_of(other)
        if target == "":  # the face itself is for scripts, the command line and `python -m xaibench`
            assert own in ("", "cli", "__main__"), f"{module} imports xaibench itself"
        elif target != own and own in FLOOR:
            assert FLOOR[target] < FLOOR[own], f"{module} imports {other}"


def test_every_package_has_a_floor() -> None:
    assert {package_of(module) for module in SOURCES} - {"", "__main__"} == set(FLOOR)


def test_no_circle_of_files() -> None:
    graph = {module: [other for other in imports(module) if other != module] for module in SOURCES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", ["xaibench.results.leaderboard", "xaibench.data", "xaibench.core.registry"])
def test_light_modules_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("module", [module for module in SOURCES if package_of(module) == "results"])
def test_results_know_no_torch(module: str) -> None:
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in named if name.partition(".")[0] == "torch"]


# -- lengths ------------------------------------------------------------------------------------------------------------


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of a function's code: without decorators, docstring, comments and blank lines."""
    body = range(function.lineno, int(function.end_lineno or 0) + 1)
    first = function.body[0]
    documentation = range(first.lineno, int(first.end_lineno or 0) + 1) if ast.get_docstring(function) else ()
    code = (lines[number - 1].strip() for number in body if number not in documentation)
    return sum(bool(line) and not line.startswith("#") for line in code)


@pytest.mark.parametrize("module", SOURCES)
def test_files_and_functions_are_short(module: str) -> None:
    text = SOURCES[module].read_text(encoding="utf-8")
    lines, functions = text.splitlines(), (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [(node.name, code_lines(node, lines)) for node in ast.walk(ast.parse(text)) if isinstance(node, functions)]
    too_long = [(name, count) for name, count in found if count > LONGEST_FUNCTION]
    assert not too_long
    assert len(lines) <= LONGEST_FILE


def test_lines_of_code_are_counted() -> None:
    text = '''
@decorated(
    1
)
def function(
    a,
):
    """Two

    paragraphs."""

    # why
    x = """
    text"""
    return x
'''
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert code_lines(function, text.splitlines()) == 6
