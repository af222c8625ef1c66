"""Masks that hold classes which the labels deny: when they count, and where they are reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import xaibench
from tests.support.console import call
from tests.support.trees import write_tree
from xaibench.data import Sample, load_dataset
from xaibench.data.contradictions import Contradictions, contradicted
from xaibench.data.loader import chunks, read_ahead
from xaibench.data.preprocess import Preprocess
from xaibench.runner.loop import Progress

pytestmark = pytest.mark.usefixtures("empty_folder")

CLASSES = ("disk", "bar", "checker")  # in the order of mask values; sorted they are bar, checker, disk
COUNT = 12
SUITE = """\
name: mine
dataset: {name: folder, masks: masks}
models:
  - {name: test_resnet, as: one, input: {size: 16}}
  - {name: test_resnet, as: two, input: {size: 16}}
explain: present
methods: [cam]
metrics: [sparseness]
"""
SENTENCE = (
    "masks of 10 of 12 pictures hold classes that labels.csv does not give them (first: 1.png: bar); "
    "is the order bar, checker, disk right? write classes.txt"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Twelve pictures of one to three classes, with masks in another order than that of sorted names."""
    (tmp_path / "masks").mkdir()
    lines = ["image,labels,split"]
    for number in range(1, COUNT + 1):
        mask = np.zeros((16, 16), np.uint8)
        present = [label for label in range(3) if number >> label & 1] or [0, 1, 2]
        for label in present:
            mask[4 * label : 4 * label + 4] = label + 1
        mask[15] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        Image.new("RGB", (16, 16), (number, 9, 9)).save(tmp_path / f"{number}.png")
        split = "train" if number <= 8 else "val"
        lines.append(f"{number}.png,{';'.join(CLASSES[label] for label in present)},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def sample(
    mask: npt.NDArray[Any], labels: Sequence[int], ignore: Sequence[int] = (0, 0, 0), regions: Any = None
) -> Sample:
    image = Image.new("RGB", (mask.shape[1], mask.shape[0]))
    return Sample("a", image, np.array(labels, np.uint8), np.array(ignore, np.uint8), mask, "a.png", regions)


# -- what counts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "labels", "ignore", "expected"),
    [
        ([0, 1, 255], [1, 0, 0], [0, 0, 0], []),
        ([0, 1, 2], [1, 0, 0], [0, 0, 0], [1]),
        ([3, 2, 1], [0, 0, 0], [0, 0, 0], [0, 1, 2]),
        ([0, 2], [1, 0, 0], [0, 1, 0], []),  # neither present nor absent
        ([0], [1, 1, 0], [0, 0, 0], []),  # a small object may be void
        ([0, 4], [0, 0, 0], [0, 0, 0], []),  # an object without a label, as in ImageNet-Segmentation
    ],
)
@pytest.mark.parametrize("wide", [False, True])
def test_what_contradicts(
    values: list[int], labels: list[int], ignore: list[int], expected: list[int], wide: bool
) -> None:
    mask = np.array([values, values], np.int16 if wide else np.uint8)
    if wide:
        mask[mask == 255] = -1
    assert contradicted(sample(mask, labels, ignore)) == expected


def test_regions_contradict_too() -> None:
    void, inside = np.full((2, 2), 255, np.uint8), np.ones((2, 2), bool)
    assert contradicted(sample(void, [1, 0, 0], regions={0: inside, 2: inside})) == [2]
    assert contradicted(sample(void, [1, 0, 0], regions={0: inside, 2: ~inside})) == []


def test_what_an_option_leaves_out_is_no_contradiction(tmp_path: Path) -> None:
    """Masks of VOC show difficult objects, whatever the labels say of them."""
    write_tree(tmp_path / "VOCdevkit" / "VOC2012")
    found = {}
    for rule in ("positive", "ignore", "negative"):
        dataset = load_dataset("voc12", data_root=tmp_path, difficult=rule)
        found[rule] = [contradicted(dataset[index]) for index in range(3)]
        watched = Contradictions(dataset)
        list(watched.watch(read_ahead(dataset, Preprocess((8, 8)), chunks(range(3), 2))))
        assert (watched.pictures, watched.message) == (3, "")
    assert not any(found["positive"])
    assert not any(found["ignore"])
    assert any(found["negative"])  # else this test would show nothing


# -- who says so ----------------------------------------------------------------------------------------------------


def watched(tree: Path, workers: int = 0, **options: Any) -> Contradictions:
    dataset = load_dataset("folder", data_root=tree, masks="masks", **options)
    found = Contradictions(dataset)
    asked = chunks(range(len(dataset)), 5)
    batches = list(found.watch(read_ahead(dataset, Preprocess((4, 4)), asked, workers=workers)))
    assert [name for batch in batches for name in batch.ids] == dataset.ids
    assert [pair for batch in batches for pair in batch.contradictions] == list(found.found.items())
    assert all(half.contradictions == [] for batch in batches for half in batch.halves())
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_classes_in_another_order_are_counted(tree: Path, workers: int) -> None:
    found = watched(tree, workers)
    assert found.pictures == COUNT
    assert found.found["1.png"] == ("bar",)  # it shows a disk, and value 1 is the first of the sorted names
    assert found.message == SENTENCE


def test_the_right_order_contradicts_nothing(tree: Path) -> None:
    (tree / "classes.txt").write_text("\n".join(CLASSES))
    found = watched(tree)
    assert (found.pictures, found.found, found.message) == (COUNT, {}, "")
    (tree / "classes.txt").write_text("bar\ndisk\nchecker")
    assert watched(tree).message.endswith("; is the order bar, disk, checker of classes.txt right?")


def test_a_small_class_counts_though_the_model_would_not_see_it(tree: Path) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[0, 0] = 3  # one pixel, which nearest interpolation to 4 x 4 leaves out
    Image.fromarray(mask).save(tree / "masks" / "1.png")
    (tree / "classes.txt").write_text("\n".join(CLASSES))
    assert watched(tree).found == {"1.png": ("checker",)}


def test_a_run_warns_once_per_model_and_records_the_count(tree: Path) -> None:
    (tree / "suite.yaml").write_text(SUITE)
    notes: list[str] = []
    run = xaibench.run(
        tree / "suite.yaml", out=tree / "run", data_root=tree, batch_size=5, progress=Progress(note=notes.append)
    )
    assert [note for note in notes if "masks of" in note] == [SENTENCE, SENTENCE]
    assert len(run.outcome.contradictions) == 10
    (attempt,) = (tree / "run" / "attempts").glob("*.json")
    assert json.loads(attempt.read_text())["mask_contradictions"] == 10
    (tree / "classes.txt").write_text("\n".join(CLASSES))
    notes.clear()
    xaibench.run(tree / "suite.yaml", out=tree / "right", data_root=tree, progress=Progress(note=notes.append))
    assert not [note for note in notes if "masks of" in note]
    (attempt,) = (tree / "right" / "attempts").glob("*.json")
    assert "mask_contradictions" not in json.loads(attempt.read_text())


@pytest.fixture
def check(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    def command(*flags: str) -> tuple[int, str]:
        code = call(monkeypatch, "data", "check", "folder", "--data-root", tree, "--option", "masks=masks", *flags)
        return code, capsys.readouterr().out

    return command


def test_data_check_reports_them(tree: Path, check: Callable[..., tuple[int, str]]) -> None:
    """Nothing is missing, so that is no failure."""
    code, out = check("--decode", "--split", "all")
    assert code == 0
    assert f"warning: all: {SENTENCE}\n" in out
    assert "nothing missing, masks contradict labels" in out
    code, out = check("--split", "all")
    assert code == 0
    assert "contradict" not in out
    found = json.loads(check("--decode", "--split", "all", "--json")[1])["splits"][0]
    assert (found["complete"], found["contradictions"], found["warning"]) == (True, 10, SENTENCE)
    assert found["first_contradictions"][:2] == ["1.png: bar", "2.png: checker"]
    (tree / "classes.txt").write_text("\n".join(CLASSES))
    code, out = check("--decode", "--json")
    assert code == 0
    assert [split["contradictions"] for split in json.loads(out)["splits"]] == [0, 0, 0]


def test_data_check_takes_the_splits_of_the_table(tree: Path, check: Callable[..., tuple[int, str]]) -> None:
    def counts(*flags: str) -> dict[str, int]:
        code, out = check("--json", *flags)
        assert code == 0
        return {split["split"]: split["samples"] for split in json.loads(out)["splits"]}

    assert counts() == {"all": 12, "train": 8, "val": 4}
    assert counts("--split", "val") == {"val": 4}
    table = (tree / "labels.csv").read_text()
    (tree / "labels.csv").write_text(table.replace(",split", "").replace(",train", "").replace(",val", ""))
    assert counts() == {"all": 12}
    held_out = counts("--option", "hold_out=0.25")
    assert list(held_out) == ["all", "train", "val"]
    assert held_out["train"] + held_out["val"] == 12
