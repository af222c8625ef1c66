"""`xaibench data check`: what it finds, its exit codes, and that it fetches nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.console import call
from tests.support.paths import DOCS
from tests.support.trees import truncate, write_tree
from xaibench.core import registry
from xaibench.data.datasets.shapes import shapes
from xaibench.data.datasets.voc import voc12

ARCHIVE = "VOCtrainval_11-May-2012.tar"
MASK, XML, JPG = (
    f"{folder}/2007_000001.{suffix}"
    for folder, suffix in (("SegmentationClass", "png"), ("Annotations", "xml"), ("JPEGImages", "jpg"))
)


@dataclass
class Told:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def splits(self) -> dict[str, Any]:
        return {split["split"]: split for split in self.json["splits"]}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    def nowhere(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    def command(*arguments: str | Path) -> Told:
        code = call(monkeypatch, "data", "check", *arguments)
        return Told(code, *capsys.readouterr())

    monkeypatch.setattr(socket, "socket", nowhere)
    monkeypatch.delenv("XAIBENCH_DATA_ROOT", raising=False)
    return command


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tree, and a release that is just as small."""
    tree = write_tree(tmp_path / "VOCdevkit" / "VOC2012")
    (tree / "ImageSets/Segmentation/trainval.txt").write_text("2007_000001\n2007_000002\n2007_000003\n")
    monkeypatch.setattr(voc12, "segmentation", {"train": 1, "val": 3, "trainval": 3, "train_aug": 7})
    monkeypatch.setattr(voc12, "archives", {ARCHIVE: hashlib.md5(b"the archive").hexdigest()})
    return tmp_path


# -- complete -------------------------------------------------------------------------------------------------------


def test_a_complete_release(root: Path, check: Callable[..., Told]) -> None:
    told = check("voc12", "--data-root", root)
    assert told.code == 0
    assert (
        "train_aug │       – │        7 │             – │           – │ not there (not part of the official" in told.out
    )
    assert "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/" in told.out
    assert "licence: The photographs are Flickr's" in told.out
    assert f"archive {ARCHIVE}: not on disk; official MD5 " in told.out
    assert told.out.endswith(f"voc12 is complete. Check again: xaibench data check voc12 --data-root {root}\n")
    found = check("voc12", "--data-root", root, "--json")
    assert found.code == 0
    assert found.json["complete"]
    assert {name: (s["samples"], s["official"], s["missing"], s["bad"]) for name, s in found.splits.items()} == {
        "train": (1, 1, 0, None),
        "val": (3, 3, 0, None),
        "trainval": (3, 3, 0, None),
        "train_aug": (None, 7, 0, None),
    }
    again = shlex.split(found.json["again"])
    assert again[:3] == ["xaibench", "data", "check"]
    assert check(*again[3:]).out == told.out


def test_the_root_may_come_from_the_environment(
    root: Path, check: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAIBENCH_DATA_ROOT", str(root))
    told = check("voc12", "--json")
    assert told.code == 0
    assert told.json["data_root"] == str(root)


def test_what_is_generated_is_complete(check: Callable[..., Told], monkeypatch: pytest.MonkeyPatch) -> None:
    def untouched(*_: Any) -> None:
        raise AssertionError("an image was drawn")

    monkeypatch.setattr(shapes, "load", untouched)
    told = check("shapes", "--json")
    assert told.code == 0
    assert {name: s["samples"] for name, s in told.splits.items()} == {"train": 12000, "val": 1000, "test": 1000}


def test_other_options_have_other_lists(root: Path, check: Callable[..., Told]) -> None:
    flags = "voc12", "--data-root", root, "--split", "val", "--option", "masks=false", "--json"
    told = check(*flags)
    assert told.code == 4
    assert (told.splits["val"]["samples"], told.splits["val"]["official"]) == (2, 5823)
    assert list(told.splits) == ["val"]


# -- incomplete -----------------------------------------------------------------------------------------------------


def test_fewer_samples_than_official(root: Path, check: Callable[..., Told]) -> None:
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainval.txt").write_text("2007_000001\n")
    told = check("voc12", "--data-root", root)
    assert told.code == 4
    assert "1 of 3 samples" in told.out
    assert "voc12 is incomplete; nothing was downloaded. Check again: xaibench data check voc12" in told.out


@pytest.mark.parametrize("file", [MASK, XML, JPG])
def test_a_missing_file_is_named(root: Path, check: Callable[..., Told], file: str) -> None:
    path = root / "VOCdevkit/VOC2012" / file
    path.unlink()
    told = check("voc12", "--data-root", root)
    assert told.code == 4
    assert told.out.count(f"missing: {path}\n") == 1
    assert "files missing" in told.out
    found = check("voc12", "--data-root", root, "--json").splits
    assert {name: found[name]["missing"] for name in ("train", "val", "trainval")} == {
        "train": 0,
        "val": 1,
        "trainval": 1,
    }
    assert found["val"]["first_missing"] == [str(path)]


def test_many_missing_files_are_counted(root: Path, check: Callable[..., Told]) -> None:
    for folder in ("SegmentationClass", "Annotations"):
        for path in (root / "VOCdevkit/VOC2012" / folder).iterdir():
            path.unlink()
    told = check("voc12", "--data-root", root)
    assert len(re.findall("^missing: /", told.out, re.M)) == 5
    assert "missing: 1 more" in told.out


@pytest.mark.parametrize("workers", ["0", "2"])
def test_decoding_finds_what_looking_does_not(root: Path, check: Callable[..., Told], workers: str) -> None:
    path = root / "VOCdevkit/VOC2012" / JPG
    truncate(path)
    flags = "voc12", "--data-root", root, "--split", "val", "--workers", workers
    assert check(*flags).code == 0
    told = check(*flags, "--decode")
    assert told.code == 4
    assert f"bad: {path}: cannot be read as an image" in told.out
    found = check(*flags, "--decode", "--json").splits["val"]
    assert (found["missing"], found["bad"]) == (0, 1)
    assert found["first_bad"][0].startswith(f"{path}: ")


def test_decoding_a_complete_release(root: Path, check: Callable[..., Told]) -> None:
    told = check("voc12", "--data-root", root, "--decode", "--json")
    assert told.code == 0
    assert [split["bad"] for split in told.json["splits"]] == [0, 0, 0, None]


def test_an_extra_split_that_is_asked_for_must_be_there(root: Path, check: Callable[..., Told]) -> None:
    told = check("voc12", "--data-root", root, "--split", "train_aug")
    assert told.code == 4
    assert "SegmentationClassAug of a copy augmented by SBD" in told.out


def test_nothing_there(tmp_path: Path, check: Callable[..., Told]) -> None:
    told = check("voc07", "--data-root", tmp_path)
    assert told.code == 4
    assert told.out.count("unpack VOCtrainval_06-Nov-2007.tar of the PASCAL VOC 2007 site") == 1  # for three splits
    assert "unpack VOCtest_06-Nov-2007.tar" in told.out
    assert "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/" in told.out


def test_an_empty_list_is_not_complete(root: Path, check: Callable[..., Told], monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("\n")
    monkeypatch.setattr(voc12, "official_count", None)
    told = check("voc12", "--data-root", root, "--split", "train", "--split", "val")
    assert told.code == 4
    assert "no samples" in told.out
    assert "nothing missing" in told.out  # of the other, whose number is not known


def test_a_list_that_is_wrong_is_a_finding(root: Path, check: Callable[..., Told]) -> None:
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("2007_000001\n2007_000001\n")
    told = check("voc12", "--data-root", root)
    assert told.code == 4
    assert "train.txt names '2007_000001' twice" in told.out


@pytest.mark.parametrize(
    ("content", "flags", "state", "code"),
    [
        (b"the archive", (), "not compared", 0),
        (b"another", (), "not compared", 0),
        (b"the archive", ("--checksums",), "right", 0),
        (b"another", ("--checksums",), "wrong", 4),
        (None, ("--checksums",), "absent", 0),
    ],
)
@pytest.mark.parametrize("folder", ["", "downloads"])
def test_archives(
    root: Path,
    check: Callable[..., Told],
    content: bytes | None,
    flags: tuple[str, ...],
    state: str,
    code: int,
    folder: str,
) -> None:
    path = root / folder / ARCHIVE
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    told = check("voc12", "--data-root", root, "--json", *flags)
    assert told.code == code
    (archive,) = told.json["archives"]
    assert archive["state"] == state
    assert archive["path"] == ("" if content is None else str(path))
    assert ("its MD5 is wrong" in check("voc12", "--data-root", root, *flags).out) == (state == "wrong")


# -- data sets of a plug-in -----------------------------------------------------------------------------------------

PLUGIN = '''
import numpy as np
from PIL import Image

from xaibench.data import Dataset, Sample, dataset
from xaibench.core.errors import SampleError


@dataset(classes=("a", "b"), splits=("all",), source="test")
class own(Dataset):
    """A data set that does not say its files."""

    def __init__(self, *, data_root: "pathlib.Path", split: str = "all") -> None:
        super().__init__(split=split)
        self.root = data_root
        PACKAGE

    @property
    def ids(self):
        return ["x", "y"]

    @property
    def revision(self):
        return "1"

    def load(self, index):
        path = self.root / f"{self.ids[index]}.txt"
        if not path.is_file():
            raise SampleError(f"{path}: no such file")
        return Sample(self.ids[index], Image.new("RGB", (9, 9)), np.ones(2, np.uint8), np.zeros(2, np.uint8), None, "test")
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    list(registry.datasets)
    monkeypatch.setattr(registry.datasets, "_entries", dict(registry.datasets._entries))
    path = tmp_path / "own_plugin.py"
    path.write_text("import pathlib\n" + PLUGIN.replace("PACKAGE", "pass"))
    yield path
    sys.modules.pop("xaibench_plugin_own_plugin", None)


def test_what_does_not_say_its_files_is_read(tmp_path: Path, plugin: Path, check: Callable[..., Told]) -> None:
    flags = "own", "--data-root", tmp_path, "--plugin", plugin, "--json"
    (tmp_path / "x.txt").touch()
    told = check(*flags)
    assert told.code == 4
    assert told.splits["all"]["first_bad"] == [f"{tmp_path}/y.txt: no such file"]
    assert told.splits["all"]["official"] is None
    (tmp_path / "y.txt").touch()
    told = check(*flags)
    assert told.code == 0
    assert told.splits["all"]["bad"] == 0
    assert f"--plugin {plugin}" in told.json["again"]


def test_a_missing_package_is_named_with_its_pip_line(tmp_path: Path, plugin: Path, check: Callable[..., Told]) -> None:
    plugin.write_text(plugin.read_text().replace("pass", "import no_such_package"))
    told = check("own", "--data-root", tmp_path, "--plugin", plugin)
    assert told.code == 4
    assert "own needs a package that is not installed: pip install no_such_package" in told.out


def test_the_example_of_the_docs_works(tmp_path: Path, plugin: Path, check: Callable[..., Told]) -> None:
    page = (DOCS / "data.md").read_text()
    (example,) = re.findall("```python\n(# my_data.py\n.*?)```", page, re.S)
    plugin.write_text(example)
    (tmp_path / "pets").mkdir()
    for name in ("cat_1", "dog_7"):
        Image.new("RGB", (9, 9)).save(tmp_path / "pets" / f"{name}.jpg")
    flags = "pets", "--data-root", tmp_path, "--plugin", plugin, "--decode", "--json"
    assert check(*flags).code == 0
    truncate(tmp_path / "pets" / "dog_7.jpg")
    told = check(*flags)
    assert told.code == 4
    assert told.splits["all"]["samples"] == 2
    assert told.splits["all"]["bad"] == 1


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["voc13"], 2, "unknown dataset 'voc13'; did you mean 'voc12'?"),
        (["voc12"], 4, "voc12 is read from disk: give --data-root DIR or set XAIBENCH_DATA_ROOT"),
        (["voc12", "--data-root", ".", "--split", "test"], 2, "split"),
        (["voc12", "--data-root", ".", "--option", "maks=false"], 2, "did you mean 'masks'"),
        (["voc12", "--data-root", ".", "--option", "masks"], 2, "key=value is needed"),
        (["voc12", "--data-root", ".", "--option", "split=val"], 2, "give --split instead"),
        (["shapes", "--workers", "two"], 2, "a number from 0, or auto"),
    ],
)
def test_mistakes(check: Callable[..., Told], arguments: list[str], code: int, sentence: str) -> None:
    told = check(*arguments)
    assert told.code == code
    assert sentence in told.err
    assert "Traceback" not in told.err


# -- every data set -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(registry.datasets))
def test_the_facts_of_a_data_set(name: str) -> None:
    entry = registry.datasets[name]
    kind: Any = entry.function
    assert set(kind.official()) <= set(entry.splits), "official() counts samples by split"
    assert set(kind.extra_splits) <= set(entry.splits)
    assert all(count > 0 for count in kind.official().values())
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in kind.archives.values())
    if kind.official():
        assert kind.address
        assert kind.licence


REAL = {
    "voc12": {"train": (2, 1464), "val": (2, 1449), "trainval": (4, 2913), "train_aug": (2, 10582)},
    "coco14": {"train": (None, 82783), "val": (4, 40504)},
    "coco17": {"train": (None, 118287), "val": (4, 5000)},
    "imagenet_seg": {"all": (None, 4276)},
    "hpa": {"trainval": (None, 31072)},
    "planet": {"trainval": (3, 40479)},
}
# their masks are complete, their annotations are not: labelme drew boxes of persons only
CONTRADICTIONS = {"2011_000003: bottle", "2011_000006: chair, sofa"}


@pytest.mark.skipif(
    "XAIBENCH_SAMPLE_DATA" not in os.environ, reason="XAIBENCH_SAMPLE_DATA does not point at the samples"
)
@pytest.mark.parametrize("name", REAL)
def test_the_real_samples_are_incomplete(name: str, check: Callable[..., Told]) -> None:
    """Few samples, but nothing wrong with them, also when they are read."""
    told = check(name, "--data-root", os.environ["XAIBENCH_SAMPLE_DATA"], "--decode", "--json")
    assert told.code == 4
    for split, (samples, official) in REAL[name].items():
        found = told.splits[split]
        assert found["official"] == official
        assert found["samples"] == samples or (samples is None and found["samples"] != official)
        assert found["missing"] == 0
        assert not found["bad"], found["first_bad"]
    contradictions = {text for split in told.splits.values() for text in split["first_contradictions"]}
    assert contradictions == (CONTRADICTIONS if name == "voc12" else set())
