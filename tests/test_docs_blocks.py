"""Every code block of the first pages is run, in order, in one folder for each page.

A block that begins with a comment of a file's name is that file. Python is executed, YAML is checked as a suite or a
recipe, `xaibench` commands go through the command line (a run with two samples, a shipped suite with one method). What
stands below `<!-- reference -->` shows every key there is, and is compared with the keys there are.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from tests.support.console import call
from tests.support.paths import ROOT
from xaibench import load_dataset
from xaibench.core import registry
from xaibench.models.architectures import create_module
from xaibench.models.training import Recipe, read_recipe
from xaibench.suite import Suite, load_suite, shipped_suites

FENCE = re.compile(r"^(?:<!-- (?P<mark>\w+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
NAMED = re.compile(r"# (?P<name>[\w-]+\.(?:py|yaml))\n")
INDENTED = re.compile(r"^ {4}(?:\$ )?(?:xaibench|make|pip|python) ", re.M)
PAGES = ["README.md", "docs/usage.md", "docs/data.md", "docs/training.md"]
NARROW = ["--limit", "2", "--progress", "none", "--device", "cpu"]
TARGETS = set(re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])


@dataclass(frozen=True)
class Block:
    """A code block: where it stands, its language, its text, what a comment before it says."""

    at: str
    language: str
    text: str
    mark: str | None

    @property
    def file(self) -> str | None:
        """The file that it is."""
        named = NAMED.match(self.text)
        return named["name"] if named else None


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = FENCE.finditer(text)
    return [
        Block(f"{page}:{text.count(chr(10), 0, m.start('text'))}", m["language"], m["text"], m["mark"]) for m in found
    ]


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a picture, a folder of pictures with labels, and a model; own registries of plugins."""
    shapes = load_dataset("shapes", samples=17)
    (tmp_path / "pets").mkdir()
    lines = ["image,cat,dog"]
    for index in range(16):
        name = f"{'cat' if index % 2 else 'dog'}_{index}.jpg"
        shapes[index].image.resize((64, 48)).save(tmp_path / "pets" / name)
        lines.append(f"{name},{index % 2},{1 - index % 2}")
    (tmp_path / "pets" / "labels.csv").write_text("\n".join(lines) + "\n")
    shapes[16].image.resize((120, 90), Image.Resampling.BILINEAR).save(tmp_path / "photo.jpg")
    (tmp_path / "checkpoints").mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(
            create_module("resnet18", num_classes=2).state_dict(), tmp_path / "checkpoints/pets-resnet18.safetensors"
        )
    for gallery in (registry.methods, registry.metrics, registry.datasets):
        list(gallery)
        monkeypatch.setattr(gallery, "_entries", dict(gallery._entries))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("xaibench_plugin_")]:
        del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(
    page: str, newcomer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for block in blocks(page):
        if block.file is not None:
            (newcomer / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python" and block.file is None:
            exec(compile(block.text, block.at, "exec"), {"__name__": "example"})
        elif block.language == "yaml":
            check_yaml(block)
        elif block.language == "sh":
            for line in block.text.splitlines():
                run(line, block.at, monkeypatch, capsys)
        else:
            assert block.language in ("python", "text"), f"{block.at}: say of which language this block is"


def check_yaml(block: Block) -> None:
    content = yaml.safe_load(block.text)
    kind = Recipe if "model" in content else Suite
    keys = {field.alias or name for name, field in kind.model_fields.items()}
    if block.mark == "reference":
        # the settings of one optimiser or schedule stand in the schema only
        assert keys - {"momentum", "warmup", "clip"} <= set(content) <= keys, f"{block.at}: {set(content) ^ keys}"
        return
    assert block.file is not None, f"{block.at}: name the file, or mark the block as a reference"
    read = read_recipe if kind is Recipe else load_suite
    read(Path(block.file))


def run(line: str, at: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(line, comments=True)
    if program == "xaibench":
        if arguments[0] == "run":
            shipped = [name for name in arguments[1:] if name in shipped_suites()]
            arguments += [*NARROW, *(["--method", "grad_cam", "--metric", "f1_plus"] if shipped else [])]
        elif arguments[0] == "train":
            arguments += NARROW[2:]
        code = call(monkeypatch, *arguments)
        assert code == 0, f"{at}: {line}: exit code {code}: {capsys.readouterr().err}"
    elif program == "pip":
        assert set(re.findall(r"\[(\w+)\]", line)) <= EXTRAS, f"{at}: {line}"
    else:
        pytest.fail(f"{at}: {line}: this test cannot run {program}")


@pytest.mark.parametrize("page", ["README.md", "docs/usage.md"])
def test_commands_stand_in_blocks_and_exist(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not INDENTED.search(text), "a command in an indented block is not run: give it a fence"
    makes = set(re.findall(r"`make ([\w-]+)", text))
    assert makes <= {target for targets in TARGETS for target in targets.split()}
    verbs = set(re.findall(r"`xaibench ([a-z]+)", text))
    assert len(verbs) > 2
    for verb in verbs:
        assert call(monkeypatch, verb, "--help") == 0
