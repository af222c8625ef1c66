"""THIRD_PARTY.md names every dependency with the licence that its package states, and nothing that is none."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([\w-]+) \| (.+?) \| (.+?) \|$", PAGE.partition("## Shipped")[0], re.M)
LICENCES = {name: licence for name, licence, _ in ROWS if name != "package"}


def dependencies() -> set[str]:
    """Names in pyproject.toml: what is installed always, what extras add, and what builds."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), pyproject["build-system"]["requires"]]
    found = {re.split(r"[\[<>=!~; ]", line)[0] for listed in lists for line in listed}
    return found - {project["name"]}


def test_every_dependency_is_named_and_nothing_else() -> None:
    missing, extra = dependencies() - LICENCES.keys(), LICENCES.keys() - dependencies()
    assert not missing, f"THIRD_PARTY.md lacks the rows of {sorted(missing)}"
    assert not extra, f"THIRD_PARTY.md names {sorted(extra)}, which pyproject.toml does not"
    assert len(ROWS) == len(LICENCES) + 3, "a package is named twice, or a table has another head"


@pytest.mark.parametrize("name", sorted(LICENCES))
def test_a_licence_is_the_one_that_the_package_states(name: str) -> None:
    """Where the package states an SPDX expression; older packages have free text, which a person has read."""
    try:
        stated = importlib.metadata.metadata(name).get("License-Expression")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    if stated is None:
        pytest.skip("states no expression")
    assert LICENCES[name].split(";")[0] == stated, f"THIRD_PARTY.md: the licence of {name} is now {stated}"


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:xaibench|leaderboards|tests|docs)/[\w./-]*|constraints\.txt)`", PAGE)
    assert len(named) > 5
    assert not [path for path in named if not (ROOT / path).exists()]
