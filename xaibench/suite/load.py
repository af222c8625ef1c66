"""Find suites and load them."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from xaibench.core.errors import UsageError, unknown
from xaibench.core.yaml.document import Document
from xaibench.suite.checks import check_names
from xaibench.suite.schema import Suite


def find_suite(name: str) -> Path:
    """The file of a suite, from its path or from the name of a shipped suite. Raises UsageError where there is none."""
    shipped, path = shipped_suites(), Path(name)
    if name in shipped:
        return shipped[name]
    if os.path.isdir(name):
        raise UsageError(
            f"suite {name}: this is a folder; give the path of a .yaml file, or a shipped suite: {', '.join(shipped)}"
        )
    if path.suffix not in (".yaml", ".yml") and "/" not in name:
        raise UsageError(unknown("suite", name, shipped) + "; or give the path of a .yaml file")
    if not os.path.isfile(name):
        raise UsageError(f"suite {name}: no such file")
    return path


def shipped_suites() -> dict[str, Path]:
    """Files of the shipped suites by name."""
    folder = importlib.resources.files("xaibench.suites")
    files = [Path(str(item)) for item in folder.iterdir() if item.name.endswith(".yaml")]
    return {file.stem: file for file in sorted(files)}


def read_suite(path: Path) -> Suite:
    """Read a suite and check its keys and types; names are not looked up. Raises ProblemsError."""
    return _read(Document.read(path), names=False)


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read and check a suite. Raises ProblemsError with every problem of the file."""
    document = Document.read(path)
    for assignment in overrides:
        document.override(assignment)
    return _read(document, names=True)


def suite_of(suite: str | Path | Mapping[str, Any] | Suite, overrides: Sequence[str] = ()) -> Suite:
    """A suite from its file, from the name of a shipped suite, or from a mapping with the content of such a file.

    Raises:
        ProblemsError: every problem of the file or mapping
        UsageError: no such file or name
    """
    if isinstance(suite, Suite):
        if overrides:
            raise UsageError("overrides go with a suite's file, name or mapping, not with a suite that is loaded")
        return suite
    if isinstance(suite, Mapping):
        document = Document(Path("suite"), yaml.safe_dump(dict(suite), sort_keys=False))
        for assignment in overrides:
            document.override(assignment)
        return _read(document, names=True)
    return load_suite(find_suite(str(suite)), overrides)


def _read(document: Document, *, names: bool) -> Suite:
    suite = document.validate(Suite)
    if names:
        check_names(document)
    document.raise_problems()
    assert suite is not None
    suite._document = document
    return suite
