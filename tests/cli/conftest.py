"""All tests of commands run in an empty folder."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def in_an_empty_folder(empty_folder: None) -> None:
    """`empty_folder` of tests/conftest.py, for every test of this folder."""
