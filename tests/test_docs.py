"""The docs say what the registrations and the committed leaderboards say, and cite what is in the bibliography."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import xaibench
from tests.support.bibliography import BIBLIOGRAPHY, KEY
from tests.support.paths import DOCS, ROOT
from xaibench.core import registry

SCRIPTS = DOCS / "scripts"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module: its own folder comes first in the path, as when it is run."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module(name)


def test_pages_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    for page, text in script("make_cards", monkeypatch).pages().items():
        assert (DOCS / page).read_text() == text, f"docs/{page} is old: make docs"


def test_the_table_of_kur_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    committed = script("pages", monkeypatch).generated_part((DOCS / "kur.md").read_text(), "make_kur.py")
    assert committed == script("make_kur", monkeypatch).table(), "docs/kur.md is old: make docs"


def test_the_ground_truth_beside_noise_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a run's cells to the page and the figure; the rest of the page stays."""
    suite = tmp_path / "small.yaml"
    suite.write_text(
        "name: small\ndataset: {name: shapes, samples: 3}\nmodels: [shapes-resnet]\nmethods: [oracle, random, center]\n"
        "metrics: [energy_pointing_game]\n"
    )
    xaibench.run(suite, out=tmp_path / "run")
    page = tmp_path / "page.md"
    page.write_text("# Before\n\n<!-- made by docs/scripts/make_correlations.py -->\nold\n<!-- end -->\n\nAfter\n")
    figure = tmp_path / "figure.png"
    arguments = ["make_correlations", str(tmp_path / "run"), "--page", str(page), "--figure", str(figure)]
    monkeypatch.setattr("sys.argv", arguments)
    script("make_correlations", monkeypatch).main()
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("<!-- end -->\n\nAfter\n")
    assert "old" not in text
    assert re.search(
        r"### shapes-resnet\n.*\| energy_pointing_game ↑ \| 1 \| 0\.\d+ \| \+0\.\d+ \[.*\] \| \d \| yes \|", text, re.S
    )
    assert figure.stat().st_size > 1000


def test_the_pictures_of_the_first_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = script("make_figures", monkeypatch)
    monkeypatch.setattr(figures, "IMAGES", tmp_path)
    figures.leaderboard("shapes-resnet")
    figures.gallery("shapes-resnet", ["cam", "saliency"], index=4)
    assert {path.name for path in tmp_path.iterdir()} == {"leaderboard.png", "gallery-shapes-resnet.png"}


@pytest.mark.slow
def test_the_picture_of_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = script("make_figures", monkeypatch)
    monkeypatch.setattr(figures, "IMAGES", tmp_path)
    figures.every_method(index=4)
    assert (tmp_path / "every-method.png").stat().st_size > 100_000


def test_a_page_without_markers_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("a page <!-- end -->")
    with pytest.raises(ValueError, match="make_kur"):
        script("pages", monkeypatch).replace_generated_part(page, "make_kur.py", "text")
    assert page.read_text() == "a page <!-- end -->"


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_scripts_say_what_they_make(path: Path) -> None:
    made = re.search(r"for script in ([\w ]+); do", (DOCS.parent / "Makefile").read_text())
    assert made is not None
    documentation = re.match(r'"""(.*?)"""', path.read_text(), re.S)
    assert documentation is not None
    if path.name.startswith("make_"):
        assert f"python docs/scripts/{path.name}" in documentation[1], "say how it is run"
        assert re.search(r"# .*(seconds|minute)", documentation[1]), "say how long it takes"
        assert path.stem.removeprefix("make_") in made[1].split(), "`make docs` does not run it"


@pytest.mark.parametrize("kind", ["methods", "metrics", "datasets"])
def test_every_source_is_in_the_bibliography(kind: str) -> None:
    entries = getattr(registry, kind)
    for name in entries:
        source = entries[name].source
        keys = KEY.findall(source)
        assert keys or "xaibench" in source, f"{name}: {source!r} cites nothing"
        assert set(keys) <= BIBLIOGRAPHY, f"{name}: {set(keys) - BIBLIOGRAPHY}"


PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), ROOT / "leaderboards" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"`((?:xaibench|methods|metrics|suites|leaderboards|tests|docs)/[\w./*-]+)`", text)
    assert not [path for path in paths if not any(ROOT.glob(path.rstrip("/")))]


def test_the_index_has_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w.]+)\)", (DOCS / "README.md").read_text(encoding="utf-8")))
    assert linked == {path.name for path in DOCS.glob("*.md")} - {"README.md"} | {"references.bib"}
