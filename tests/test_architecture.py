"""docs/architecture.md describes the tree that there is: every file, every floor, no path that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.layers import LAYERS
from tests.support.paths import DOCS, ROOT

PAGE = DOCS / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```text\n(.*?)^```$", TEXT, re.M | re.S)
LINE = re.compile(r"(?P<indent> *)(?P<name>[\w.*-]+/?)(?: {2,}(?P<sentence>\S.*))?")
PATHS = re.compile(r"`((?:xaibench|methods|metrics|suites|leaderboards|tests|docs)/[\w./*-]*|[\w-]+\.(?:md|toml))`")


def drawn_tree() -> dict[str, str]:
    """Paths of the page's tree, folders with a slash at the end, to their descriptions."""
    (tree,) = [block for block in BLOCKS if block.startswith("xaibench/")]
    found: dict[str, str] = {}
    folders: list[str] = []
    for number, line in enumerate(tree.splitlines(), 1):
        match = LINE.fullmatch(line)
        assert match is not None, f"line {number} of the tree is not `name  description`: {line!r}"
        depth, rest = divmod(len(match["indent"]), 2)
        assert rest == 0, f"line {number} of the tree is not indented by twos: {line!r}"
        assert depth <= len(folders), f"line {number} of the tree is in no folder: {line!r}"
        path = "".join(folders[:depth]) + match["name"]
        assert path not in found, f"{path} is twice in the tree"
        found[path] = match["sentence"] or ""
        folders = [*folders[:depth], match["name"]] if path.endswith("/") else folders[:depth]
    return found


def files_on_disk() -> list[str]:
    paths = sorted((ROOT / "xaibench").rglob("*"))
    return [str(path.relative_to(ROOT)) for path in paths if path.is_file() and "__pycache__" not in path.parts]


def own_line(file: str) -> str:
    """The path whose line describes a file: the file, or its folder for an __init__.py."""
    return file.removesuffix("__init__.py")


def names(drawn: str, file: str) -> bool:
    """Whether a line of the tree stands for a file. A folder's line stands for its __init__.py."""
    if drawn.endswith("/"):
        return file == f"{drawn}__init__.py"
    return Path(file).parent == Path(drawn).parent and Path(file).match(drawn)


def test_every_file_has_a_line_in_the_tree() -> None:
    drawn = drawn_tree()
    missing = [file for file in files_on_disk() if not any(names(line, file) for line in drawn)]
    wanted = [
        f"  below {Path(line).parent}/: {Path(line).name}{'/' * line.endswith('/')}" for line in map(own_line, missing)
    ]
    assert not missing, "docs/architecture.md, section The tree: add the lines\n" + "\n".join(wanted)


def test_every_line_of_the_tree_is_a_file_with_a_description() -> None:
    files = files_on_disk()
    for drawn, sentence in drawn_tree().items():
        assert any(names(drawn, file) for file in files), (
            f"docs/architecture.md: {drawn} does not exist; remove its line"
        )
        assert sentence, f"docs/architecture.md: say what {drawn} holds"


def test_the_tree_is_in_order() -> None:
    """Files by name, then folders: a new file has one place."""
    drawn = list(drawn_tree())
    for folder in (path for path in drawn if path.endswith("/")):
        inside = [p for p in drawn if p.startswith(folder) and "/" not in p[len(folder) : -1] and p != folder]
        files = [path for path in inside if not path.endswith("/")]
        assert files == sorted(files), f"docs/architecture.md: sort the files of {folder} by name"
        assert inside[: len(files)] == files, f"docs/architecture.md: in {folder}, files come before folders"


def test_the_floors_are_those_of_the_test() -> None:
    (block,) = [block for block in BLOCKS if re.match(r"\d  ", block)]
    rows = [re.match(r"(\d)  (\w+(?:, \w+)*)  ", line) for line in block.splitlines()]
    drawn = {int(row[1]): tuple(row[2].split(", ")) for row in rows if row is not None}
    assert len(drawn) == len(rows), f"a line of the floors is not `number  packages  description`:\n{block}"
    assert drawn == dict(enumerate(LAYERS)), (
        "docs/architecture.md, section Floors, differs from tests/support/layers.py"
    )


def test_every_path_in_the_text_exists() -> None:
    found = set(PATHS.findall(TEXT))
    assert len(found) > 30
    missing = sorted(path for path in found if not (ROOT / path).exists() and not (DOCS / path).exists())
    assert not missing, f"docs/architecture.md names what does not exist: {missing}"


def test_it_is_linked() -> None:
    for page, link in (("CONTRIBUTING.md", "docs/architecture.md"), ("README.md", "docs/architecture.md")):
        assert f"]({link})" in (ROOT / page).read_text(encoding="utf-8"), f"{page} does not link {link}"
