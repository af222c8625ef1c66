"""The docs say what the registrations say, and cite what is in the bibliography."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.support.paths import DOCS
from xaibench.core import registry

KEY = re.compile(r"\b[a-z]+(?:19|20)\d\d[a-z]*\b")
BIBLIOGRAPHY = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(), re.M))


def test_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_cards", DOCS / "make_cards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for page, text in module.pages().items():
        assert (DOCS / page).read_text() == text, f"docs/{page} is old: make docs"


@pytest.mark.parametrize("kind", ["methods", "metrics", "datasets"])
def test_every_source_is_in_the_bibliography(kind: str) -> None:
    entries = getattr(registry, kind)
    for name in entries:
        source = entries[name].source
        keys = KEY.findall(source)
        assert keys or "xaibench" in source, f"{name}: {source!r} cites nothing"
        assert set(keys) <= BIBLIOGRAPHY, f"{name}: {set(keys) - BIBLIOGRAPHY}"
