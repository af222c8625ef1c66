"""Paths that the scripts share, and the replacement of the generated part of a page."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
LEADERBOARDS = ROOT / "leaderboards"
END = "<!-- end -->"


def generated_part(page: str, script: str) -> str:
    """The text between the markers of `script` in a page. Raises ValueError where a marker is missing."""
    _, start, rest = page.partition(_marker(script))
    text, end, _ = rest.partition(END)
    if not start or not end:
        raise ValueError(f"the page has no {_marker(script)!r} followed by {END!r}")
    return text.strip("\n")


def replace_generated_part(page: Path, script: str, text: str) -> None:
    """Write `text` between the markers of `script` in a file. Raises ValueError where a marker is missing."""
    old = page.read_text(encoding="utf-8")
    generated_part(old, script)
    before, start, rest = old.partition(_marker(script))
    after = rest.partition(END)[2]
    page.write_text(f"{before}{start}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _marker(script: str) -> str:
    return f"<!-- made by docs/scripts/{script} -->"
