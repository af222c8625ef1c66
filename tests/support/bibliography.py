"""Keys of docs/references.bib, and how a key looks in a text."""

from __future__ import annotations

import re

from tests.support.paths import DOCS

KEY = re.compile(r"\b[a-z]+(?:19|20)\d\d[a-z]*\b")
BIBLIOGRAPHY = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(), re.M))
