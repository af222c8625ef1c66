"""Planet: real samples where XAIBENCH_SAMPLE_DATA points at them, and a folder that these tests write."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import xaibench
from xaibench.core import registry
from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.data import Dataset, Sample, load_dataset
from xaibench.data.datasets.planet import CLASSES

TAGS = {
    "train_0": "haze primary", "train_1": "agriculture clear primary water", "train_2": "clear primary",
    "train_3": "cloudy", "train_10": "clear artisinal_mine water",
}  # fmt: skip


def write_tree(root: Path) -> Path:
    (root / "train-jpg").mkdir(parents=True)
    (root / "train_v2.csv").write_text("image_name,tags\n" + "".join(f"{n},{t}\n" for n, t in TAGS.items()))
    rng = np.random.default_rng(0)
    for name in TAGS:
        chip = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
        chip.save(root / "train-jpg" / f"{name}.jpg")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "planet")


def planet(tree: Path, **options: Any) -> Dataset:
    return load_dataset("planet", data_root=tree, **({"split": "trainval"} | options))


def tags(sample: Sample) -> set[str]:
    return {CLASSES[label] for label in np.flatnonzero(sample.labels)}


def test_tags_and_chips(tree: Path) -> None:
    dataset = planet(tree)
    assert dataset.ids == list(TAGS)
    assert dataset.class_names == CLASSES == tuple(sorted(CLASSES))
    assert not dataset.has_masks
    assert dataset.channels == 3
    for sample in dataset:
        assert tags(sample) == set(TAGS[sample.id].split())
        assert sample.labels.shape == sample.ignore.shape == (17,)
        assert sample.labels.dtype == sample.ignore.dtype == np.uint8
        assert not sample.ignore.any()
        assert sample.mask is None
        assert sample.image.mode == "RGB"
        assert sample.size == (32, 32)
        assert sample.source == str(tree / "train-jpg" / f"{sample.id}.jpg")


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_modes_become_rgb(tree: Path, mode: str) -> None:
    Image.new("RGB", (32, 32), (10, 200, 60)).convert(mode).save(tree / "train-jpg/train_0.jpg", quality=100)
    chip = planet(tree)[0].image
    assert chip.mode == "RGB"
    expected = (125, 125, 125) if mode == "L" else (10, 200, 60)  # 0.299, 0.587, 0.114
    np.testing.assert_allclose(np.asarray(chip)[16, 16], expected, atol=3)


def test_splits_share_the_table(tree: Path) -> None:
    train, val = planet(tree, split="train"), planet(tree, split="val")
    assert sorted(train.ids + val.ids) == sorted(TAGS)
    for tag in ("clear", "primary", "water"):  # those of two chips or more
        assert all(any(tag in tags(sample) for sample in side) for side in (train, val))
    assert load_dataset("planet", data_root=tree).ids == val.ids
    assert planet(tree, split="val", hold_out=0.3, seed=0).ids == val.ids
    assert len({tuple(planet(tree, split="val", seed=seed).ids) for seed in range(6)}) > 1


def test_data_root_may_be_any_of_three(tmp_path: Path) -> None:
    places = ["1/planet-understanding-the-amazon-from-space", "2/planet", "3"]
    for place in places:
        write_tree(tmp_path / place)
    assert len({planet(tmp_path / place).revision for place in "123"}) == 1


def test_revision(tree: Path, tmp_path: Path) -> None:
    seen = [planet(tree).revision, planet(tree, split="val").revision]
    shutil.copytree(tree, tmp_path / "elsewhere")
    assert planet(tmp_path / "elsewhere").revision == seen[0]
    table = tree / "train_v2.csv"
    table.write_text(table.read_text().replace("clear primary\n", "clear road\n"))
    seen.append(planet(tree).revision)
    Image.new("RGB", (300, 300)).save(tree / "train-jpg/train_3.jpg")
    seen.append(planet(tree).revision)
    (tree / "train-jpg/train_3.jpg").unlink()
    seen.append(planet(tree).revision)
    assert len(set(seen)) == 5


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("train_1,clear", r"train_v2\.csv:4: 'train_1' already stands in line 3"),
        ("train_2", r"train_v2\.csv:4: 1 cells, the header has 2"),
        ('train_2,"clear', r"train_v2\.csv: cannot be read as CSV in UTF-8"),
    ],
)
def test_mistakes_in_the_table(tree: Path, row: str, sentence: str) -> None:
    lines = (tree / "train_v2.csv").read_text().splitlines()
    (tree / "train_v2.csv").write_text("\n".join([*lines[:3], row, *lines[4:]]))
    with pytest.raises(UsageError, match=sentence) as caught:
        planet(tree)
    assert str(tree) in str(caught.value)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            "train_2,clear artisanal_mine",
            r"train_v2\.csv:4: unknown class 'artisanal_mine'; did you mean 'artisinal_mine'",
        ),
        ("train_2,Clear qqq", r"train_v2\.csv:4: unknown class 'Clear'; did you mean 'clear'"),
        ("train_2,qqqqqqq", r"train_v2\.csv:4: unknown class 'qqqqqqq'; allowed: agriculture, .*, water"),
        ("train_2,", r"train_v2\.csv:4: train_2 has no tag"),
    ],
)
def test_a_row_that_makes_no_sense_costs_one_sample(tree: Path, row: str, sentence: str) -> None:
    lines = (tree / "train_v2.csv").read_text().splitlines()
    (tree / "train_v2.csv").write_text("\n".join([*lines[:3], row, *lines[4:]]))
    dataset = planet(tree)
    with pytest.raises(SampleError, match=f"{tree}/{sentence}"):
        dataset[2]
    assert [s.id for s in (*dataset[:2], *dataset[3:])] == [name for name in dataset.ids if name != "train_2"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"train_v2\.csv: is empty; a header with image_name, tags is needed"),
        ("image,tags\n", r"train_v2\.csv:1: no column 'image_name'; did you mean 'image'.*its columns: image, tags"),
        ("image_name,tags,tags\n", r"train_v2\.csv:1: two columns are called 'tags'"),
    ],
)
def test_mistakes_in_the_header(tree: Path, text: str, sentence: str) -> None:
    (tree / "train_v2.csv").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        planet(tree)


def test_text_that_is_not_utf8(tree: Path) -> None:
    (tree / "train_v2.csv").write_bytes("image_name,tags\ntrain_0,h\u00e4ze".encode("latin-1"))
    with pytest.raises(UsageError, match="cannot be read as CSV in UTF-8"):
        planet(tree)


def test_what_is_missing_is_said_with_where_to_get_it(tree: Path) -> None:
    (tree / "train-jpg/train_1.jpg").unlink()
    dataset = planet(tree)
    with pytest.raises(SampleError, match=r"train-jpg/train_1\.jpg: cannot be read as an image .No such file"):
        dataset[1]
    assert dataset[2].id == "train_2"
    shutil.rmtree(tree / "train-jpg")
    with pytest.raises(MissingError, match=r"train-jpg is missing; .*https://www\.kaggle\.com/c/planet-"):
        planet(tree)
    (tree / "train_v2.csv").rename(tree / "train.csv")  # the first version of the table is not read
    with pytest.raises(MissingError, match=r"planet: none of .* holds train_v2\.csv; unpack .*https://www\.kaggle"):
        planet(tree)


@pytest.mark.parametrize("options", [{"split": "test"}, {"hold_out": 1.5}, {"masks": True}])
def test_unknown_options_are_refused(tree: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        planet(tree, **{"split": "val"} | options)


def test_a_suite(tree: Path, tmp_path: Path) -> None:
    text = (
        "name: s\ndataset: {name: planet, split: trainval}\nexplain: present\nmethods: [cam]\nmetrics: [sparseness]\n"
    )
    text += "models: [{name: test_resnet, input: {size: 64, resize: squash}}]\n"
    (tmp_path / "suite.yaml").write_text(text)
    scores = xaibench.run(tmp_path / "suite.yaml", data_root=tree, out=tmp_path / "run").scores
    assert scores["n"].tolist() == [sum(len(t.split()) for t in TAGS.values())]


def test_facts_of_the_official_release() -> None:
    cls = registry.datasets["planet"].function
    assert cls.official() == {"trainval": 40479}
    assert cls.address.startswith("https://www.kaggle.com/c/")
    assert "rules of the competition" in cls.licence


# -- real samples ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Path:
    if "XAIBENCH_SAMPLE_DATA" not in os.environ:
        pytest.skip("XAIBENCH_SAMPLE_DATA does not point at the sample files")
    return Path(os.environ["XAIBENCH_SAMPLE_DATA"])


def test_the_samples(real: Path) -> None:
    expected = dict(line.split(",") for line in json.loads((real / "expected.json").read_text())["planet_tags"])
    samples = {s.id: s for s in load_dataset("planet", data_root=real, split="trainval")}
    assert {name: tags(sample) for name, sample in samples.items()} == {n: set(t.split()) for n, t in expected.items()}
    assert {sample.size for sample in samples.values()} == {(256, 256)}
    halves = [load_dataset("planet", data_root=real, split=split) for split in ("train", "val")]
    assert sorted(halves[0].ids + halves[1].ids) == list(expected)
    for tag in ("partly_cloudy", "primary"):  # the two that two of the three chips have
        assert all(any(tag in tags(sample) for sample in half) for half in halves)


def test_names_of_the_samples(real: Path) -> None:
    assert list(CLASSES) == json.loads((real / "label_lists.json").read_text())["planet17_alphabetical"]
