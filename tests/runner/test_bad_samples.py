"""Samples that cannot be read, through the command line: named in a sentence, counted, and seen in every table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.support.console import call
from xaibench.core import registry
from xaibench.results.records import PART_SIZE

pytestmark = pytest.mark.usefixtures("empty_folder")

COUNT = PART_SIZE + 4  # two parts
SUITE = """\
name: tiny
dataset: {name: voc12}
models: [{name: test_resnet, input: {size: 32, resize: squash}}]
explain: present
methods: [cam, oracle]
metrics: [sparseness]
"""
Breaks = Callable[[Path, int], Path]


def name_of(index: int) -> str:
    return f"2007_{index:06d}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VOC 2012 with 68 photographs of 20 x 16, and a suite beside it."""
    tree = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tree / folder).mkdir(parents=True)
    mask = np.zeros((16, 20), np.uint8)
    mask[4:12, 4:12] = 12
    for index in range(COUNT):
        name = name_of(index)
        Image.new("RGB", (20, 16), (index, 80, 90)).save(tree / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(mask).save(tree / "SegmentationClass" / f"{name}.png")
        (tree / "Annotations" / f"{name}.xml").write_text("<annotation><object><name>dog</name></object></annotation>")
    (tree / "ImageSets/Segmentation/val.txt").write_text("\n".join(map(name_of, range(COUNT))))
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


class Told:
    """A finished command: its exit code, what it wrote."""

    def __init__(self, code: int, captured: Any, out: Path) -> None:
        self.code, self.out, self.err, self.directory = code, captured.out, captured.err, out

    @property
    def bad(self) -> pd.DataFrame:
        return pd.read_csv(self.directory / "bad_samples.csv")

    @property
    def attempt(self) -> Any:
        """The latest one."""
        files = (self.directory / "attempts").glob("*.json")
        return json.loads(max(files, key=lambda file: file.stat().st_mtime_ns).read_text())

    @property
    def scores(self) -> pd.DataFrame:
        return pd.read_csv(self.directory / "scores.csv")

    @property
    def notes(self) -> set[str]:
        table = pd.read_csv(self.directory / "leaderboard.csv")
        return set(table["note"])


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    def command(*flags: str, data_root: Path = root) -> Told:
        arguments = [
            "run",
            root / "suite.yaml",
            "--data-root",
            data_root,
            "--out",
            root / "run",
            "--device",
            "cpu",
            "--progress",
            "none",
        ]
        return Told(call(monkeypatch, *arguments, *flags), capsys.readouterr(), root / "run")

    return command


# -- one kind at a time ---------------------------------------------------------------------------------------------


def truncated(root: Path, index: int) -> Path:
    path = root / f"VOCdevkit/VOC2012/JPEGImages/{name_of(index)}.jpg"
    path.write_bytes(path.read_bytes()[:300])
    return path


def no_mask(root: Path, index: int) -> Path:
    path = root / f"VOCdevkit/VOC2012/SegmentationClass/{name_of(index)}.png"
    path.unlink()
    return path


def small_mask(root: Path, index: int) -> Path:
    path = root / f"VOCdevkit/VOC2012/SegmentationClass/{name_of(index)}.png"
    Image.fromarray(np.zeros((16, 19), np.uint8)).save(path)
    return path


def unknown_class(root: Path, index: int) -> Path:
    path = root / f"VOCdevkit/VOC2012/Annotations/{name_of(index)}.xml"
    path.write_text(path.read_text().replace("dog", "dgo"))
    return path


KINDS: dict[str, tuple[Breaks, str]] = {
    "an unreadable JPEG": (truncated, "cannot be read as an image"),
    "a missing mask": (no_mask, "cannot be read as a mask (No such file or directory)"),
    "a mask of another size": (small_mask, "the mask is 19x16, its photograph 20x16 (width x height)"),
    "an unknown class": (unknown_class, "unknown class 'dgo'; did you mean 'dog'?"),
}


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_named_and_costs_itself_alone(
    root: Path, run: Callable[..., Told], kind: str, workers: str
) -> None:
    breaks, words = KINDS[kind]
    path = breaks(root, 2)
    refused = run("--limit", "4", "--workers", workers)
    assert refused.code == 3
    assert "Traceback" not in refused.err
    line = refused.err.splitlines()[-1]
    assert line.startswith(f"error: bad samples: 1 found, 0 allowed (--max-bad-samples): 2007_000002: {path}: ")
    assert words in line
    assert refused.attempt["exit_code"] == 3
    assert list(refused.attempt["bad_samples"]) == ["2007_000002"]

    allowed = run("--limit", "4", "--workers", workers, "--max-bad-samples", "3")
    assert allowed.code == 0
    sentence = allowed.attempt["bad_samples"]["2007_000002"]
    assert sentence.startswith(f"{path}: ")
    assert words in sentence
    assert allowed.bad.to_dict("records") == [{"sample_id": "2007_000002", "problem": sentence}]
    assert f"bad sample 2007_000002: {sentence}" in allowed.err
    assert "left out of every score: 1 bad sample, listed in" in allowed.err
    assert allowed.scores["n_error"].tolist() == [1, 1]
    assert allowed.scores["n"].tolist() == [3, 3]
    assert all(note.endswith("partial run; 1 bad sample left out") for note in allowed.notes)
    assert "1 sample could not be read: left out of every score" in (root / "run" / "leaderboard.md").read_text()
    assert "1 bad sample left out" in " ".join(allowed.out.split())


PLUGIN = '''
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from xaibench.data import Dataset, Sample, dataset
from xaibench.core.errors import SampleError, closest


@dataset(classes=("cat", "dog"), splits=("all",), source="test")
class pets(Dataset):
    """Pictures listed in a CSV."""

    def __init__(self, *, data_root: Path, split: str = "all") -> None:
        super().__init__(split=split)
        self.path = data_root / "pets.csv"
        self.rows = list(csv.DictReader(self.path.read_text().splitlines()))

    @property
    def ids(self):
        return [row["name"] for row in self.rows]

    @property
    def revision(self):
        return "1"

    def load(self, index):
        row = self.rows[index]
        if row["label"] not in self.class_names:
            hint = closest(row["label"], self.class_names)
            raise SampleError(f"{self.path}:{index + 2}: unknown class {row['label']!r}{hint}")
        labels = np.array([name == row["label"] for name in self.class_names], np.uint8)
        return Sample(row["name"], Image.new("RGB", (16, 16)), labels, np.zeros_like(labels), None, str(self.path))
'''


@pytest.fixture
def pets(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (root / "pets_plugin.py").write_text(PLUGIN)
    (root / "pets.csv").write_text("name,label\na,cat\nb,dgo\nc,dog\n")
    suite = SUITE.replace("{name: voc12}", "pets").replace("[cam, oracle]", "[cam]")
    (root / "suite.yaml").write_text(suite)
    list(registry.datasets)
    monkeypatch.setattr(registry.datasets, "_entries", dict(registry.datasets._entries))
    yield root / "pets_plugin.py"
    sys.modules.pop("xaibench_plugin_pets_plugin", None)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_row_of_a_csv_with_an_unknown_class(root: Path, pets: Path, run: Callable[..., Told], workers: str) -> None:
    """A plug-in's data set goes to workers as well."""
    flags = ["--plugin", str(pets), "--workers", workers]
    sentence = f"{root}/pets.csv:3: unknown class 'dgo'; did you mean 'dog'?"
    refused = run(*flags)
    assert refused.code == 3
    assert refused.err.splitlines()[-1] == f"error: bad samples: 1 found, 0 allowed (--max-bad-samples): b: {sentence}"
    allowed = run(*flags, "--max-bad-samples", "3")
    assert allowed.code == 0
    assert allowed.attempt["bad_samples"] == {"b": sentence}
    assert allowed.bad["problem"].tolist() == [sentence]
    assert allowed.scores[["n", "n_error"]].to_numpy().tolist() == [[2, 1]]


def test_a_row_of_your_own_table_with_an_unknown_class(root: Path, run: Callable[..., Told]) -> None:
    for name in "abc":
        Image.new("RGB", (16, 16)).save(root / f"{name}.png")
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "labels.csv").write_text("image,labels\na.png,cat\nb.png,cat;dgo\nc.png,dog\n")
    (root / "suite.yaml").write_text(SUITE.replace("{name: voc12}", "folder").replace("[cam, oracle]", "[cam]"))
    sentence = f"{root}/labels.csv:3: unknown class 'dgo'; did you mean 'dog'?"
    refused = run()
    assert refused.code == 3
    assert refused.err.splitlines()[-1].endswith(f"b.png: {sentence}")
    allowed = run("--max-bad-samples", "3")
    assert allowed.code == 0
    assert allowed.bad.to_dict("records") == [{"sample_id": "b.png", "problem": sentence}]
    assert allowed.scores[["n", "n_error"]].to_numpy().tolist() == [[2, 1]]
    assert all("1 bad sample left out" in note for note in allowed.notes)


# -- how many -------------------------------------------------------------------------------------------------------


def test_more_than_allowed_keeps_what_is_finished(root: Path, run: Callable[..., Told]) -> None:
    """Bad samples of the first part count on when the second is computed by another command."""
    no_mask(root, 3), truncated(root, PART_SIZE + 1)
    stopped = run("--max-bad-samples", "1")
    assert stopped.code == 3
    assert "2 found, 1 allowed" in stopped.err
    for name in (name_of(3), name_of(PART_SIZE + 1)):
        assert f"{name}: {root}/VOCdevkit" in stopped.err
    assert (
        stopped.bad["sample_id"].tolist()
        == list(stopped.attempt["bad_samples"])
        == [name_of(3), name_of(PART_SIZE + 1)]
    )
    kept = {path: path.stat().st_mtime_ns for path in (root / "run").glob("cells/**/*.1of2.parquet")}
    assert len(kept) == 2
    assert not (root / "run" / "leaderboard.csv").exists()

    (root / "run" / "bad_samples.csv").unlink()
    again = run("--max-bad-samples", "1")
    assert again.code == 3  # the one of the part that is there, and the one it meets
    assert "2 found, 1 allowed" in again.err
    assert {path: path.stat().st_mtime_ns for path in (root / "run").glob("cells/**/*.1of2.parquet")} == kept

    done = run("--max-bad-samples", "2")
    assert done.code == 0
    assert done.attempt["computed_parts"] == 2  # of two methods, the second part
    assert done.scores["n_error"].tolist() == [2, 2]
    assert done.bad["sample_id"].tolist() == [name_of(3), name_of(PART_SIZE + 1)]


def test_a_resumed_run_keeps_its_marks(root: Path, run: Callable[..., Told]) -> None:
    path = no_mask(root, 0)
    first = run("--limit", "5", "--max-bad-samples", "1")
    (root / "run" / "bad_samples.csv").unlink()
    again = run("--limit", "5", "--max-bad-samples", "1")
    assert again.code == 0
    assert again.attempt["computed_parts"] == 0
    assert again.attempt["bad_samples"] == first.attempt["bad_samples"]
    assert again.bad.to_dict() == first.bad.to_dict()
    assert again.notes == first.notes
    assert again.scores["n_error"].tolist() == [1, 1]
    assert f"bad sample 2007_000000: {path}: " in again.err
    more = run("--limit", "5", "--max-bad-samples", "1", "--set", "metrics=[sparseness,average_drop]")
    assert more.code == 0
    assert more.scores["n_error"].tolist() == [1, 1, 1, 1]


def test_zero_on_the_command_line_overrides_the_suite(root: Path, run: Callable[..., Told]) -> None:
    no_mask(root, 0)
    (root / "suite.yaml").write_text(SUITE + "max_bad_samples: 3\n")
    assert run("--limit", "3").code == 0  # the suite over the default
    refused = run("--limit", "3", "--max-bad-samples", "0")  # the command line over the suite, and over records
    assert refused.code == 3
    assert "1 found, 0 allowed" in refused.err
    (root / "suite.yaml").write_text(SUITE + "max_bad_samples: 0\n")
    assert run("--limit", "3", "--max-bad-samples", "1").code == 0


def test_a_sample_that_is_bad_for_two_models_counts_once(root: Path, run: Callable[..., Told]) -> None:
    no_mask(root, 1)
    models = "models:\n" + "".join(f"  - {{name: test_resnet, as: {n}, input: {{size: 32}}}}\n" for n in ("one", "two"))
    (root / "suite.yaml").write_text(SUITE.replace(SUITE.splitlines(keepends=True)[2], models))
    done = run("--limit", "3", "--max-bad-samples", "1")
    assert done.code == 0
    assert done.bad["sample_id"].tolist() == ["2007_000001"]
    assert done.scores["n_error"].tolist() == [1] * 4
    assert "1 sample could not be read" in (root / "run" / "leaderboard.md").read_text()


def test_a_mended_file_is_measured_and_the_mark_goes(root: Path, run: Callable[..., Told]) -> None:
    path = no_mask(root, 0)
    assert run("--limit", "3", "--max-bad-samples", "1").code == 0
    Image.fromarray(np.full((16, 20), 12, np.uint8)).save(path)
    mended = run("--limit", "3")
    assert mended.code == 0
    assert mended.scores[["n", "n_error"]].to_numpy().tolist() == [[3, 0]] * 2
    assert not (root / "run" / "bad_samples.csv").exists()
    assert not any("bad" in note for note in mended.notes)


def test_a_mended_sample_of_old_records_is_said_to_be_one(root: Path, pets: Path, run: Callable[..., Told]) -> None:
    """The plug-in's revision does not see the change, so the records stand."""
    assert run("--plugin", str(pets), "--max-bad-samples", "1").code == 0
    (root / "pets.csv").write_text("name,label\na,cat\nb,dog\nc,dog\n")
    sys.modules.pop("xaibench_plugin_pets_plugin")
    registry.datasets._entries.pop("pets")
    again = run("--plugin", str(pets), "--max-bad-samples", "1")
    assert again.code == 0
    assert again.scores["n_error"].tolist() == [1]
    assert "could not be read when its records were made; it can be read now" in again.bad["problem"][0]


def test_a_long_list_is_cut_short_in_the_sentence(root: Path, run: Callable[..., Told]) -> None:
    for index in range(30):
        no_mask(root, index)
    assert run("--limit", "32", "--max-bad-samples", "30").code == 0
    refused = run("--limit", "32", "--max-bad-samples", "2")
    assert refused.code == 3
    assert "30 found, 2 allowed" in refused.err
    assert refused.err.rstrip().endswith("and 10 more in bad_samples.csv")
    assert len(refused.bad) == 30


def test_every_sample_may_be_bad(root: Path, run: Callable[..., Told]) -> None:
    for index in range(3):
        truncated(root, index)
    done = run("--limit", "3", "--max-bad-samples", "3")
    assert done.code == 0
    assert done.scores[["n", "n_error"]].to_numpy().tolist() == [[0, 3]] * 2
    assert done.scores["value"].isna().all()
