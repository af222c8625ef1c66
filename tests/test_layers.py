"""Imports point down, from one package to the next, and never round in a circle; light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

GALLERIES = ("methods", "metrics")
LAYERS = [
    ("core",),
    ("data",),
    ("models",),
    ("suite", "forward"),
    ("methods", "evaluation"),
    ("metrics", "results"),
    ("runner",),
    ("api",),
    ("cli",),
]
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}


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
