"""HPA 2018 and 2021: real samples where XAIBENCH_SAMPLE_DATA points at them, and folders that these tests write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import xaibench
from xaibench.core import registry
from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.core.yaml.document import ProblemsError
from xaibench.data import Dataset, load_dataset
from xaibench.data.datasets.hpa import CLASSES, SINGLE_CELL_CLASSES
from xaibench.suite import load_suite

STAINS = ("red", "green", "blue", "yellow")
SIZE = {"a-1": (40, 30), "b-2": (24, 36), "c-3": (32, 32), "d-4": (20, 20), "e-5": (28, 28)}
LABELS = {"a-1": [16, 0], "b-2": [0], "c-3": [2, 16], "d-4": [2, 0], "e-5": [18]}
COMPETITIONS: dict[str, tuple[str, str]] = {"hpa": ("Id,Target", " "), "hpa_single_cell": ("ID,Label", "|")}


def stain(name: str, colour: str) -> npt.NDArray[np.uint8]:
    width, height = SIZE[name]
    rng = np.random.default_rng([list(SIZE).index(name), STAINS.index(colour)])
    return rng.integers(0, 256, (height, width), np.uint8)


def write_tree(root: Path, competition: str) -> Path:
    (root / "train").mkdir(parents=True)
    header, separator = COMPETITIONS[competition]
    rows = [f"{name},{separator.join(map(str, labels))}" for name, labels in LABELS.items()]
    (root / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    for name in SIZE:
        for colour in STAINS:
            Image.fromarray(stain(name, colour)).save(root / "train" / f"{name}_{colour}.png")
    return root


@pytest.fixture(params=list(COMPETITIONS))
def competition(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tree(tmp_path: Path, competition: str) -> Path:
    return write_tree(tmp_path / competition, competition)


def load(tree: Path, competition: str, **options: Any) -> Dataset:
    return load_dataset(competition, data_root=tree, **({"split": "trainval"} | options))


# -- what is read ---------------------------------------------------------------------------------------------------


def test_labels(tree: Path, competition: str) -> None:
    dataset = load(tree, competition)
    assert dataset.ids == list(SIZE)
    for sample in dataset:
        assert sample.labels.shape == sample.ignore.shape == (len(dataset.class_names),)
        assert sample.labels.dtype == sample.ignore.dtype == np.uint8
        assert set(np.flatnonzero(sample.labels).tolist()) == set(LABELS[sample.id])
        assert not sample.ignore.any()
        assert sample.mask is None
    assert not dataset.has_masks


def test_stains_become_channels(tree: Path, competition: str) -> None:
    pictures, all_four, protein = (load(tree, competition, channels=c) for c in ("rgb", "rgby", "green"))
    assert [d.channels for d in (pictures, all_four, protein)] == [3, 4, 1]
    for picture, four, one in zip(pictures, all_four, protein, strict=True):
        expected = np.stack([stain(picture.id, colour) for colour in STAINS], 2)
        assert isinstance(picture.image, Image.Image)
        assert picture.image.mode == "RGB"
        assert picture.size == four.size == one.size == SIZE[picture.id]
        assert four.image.dtype == one.image.dtype == np.uint8
        np.testing.assert_array_equal(np.asarray(picture.image), expected[..., :3])
        np.testing.assert_array_equal(four.image, expected)
        np.testing.assert_array_equal(one.image, expected[..., 1:2])


def test_coloured_jpegs_of_the_public_atlas(tree: Path, competition: str) -> None:
    """One stain per picture, in its colour: red, green and blue alone, yellow in red and green."""
    shutil.rmtree(tree / "train")
    (tree / "atlas").mkdir()
    full = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
    for position, colour in enumerate(STAINS):
        grey = 40 + 50 * position
        for name in SIZE:
            picture = Image.new("RGB", (16, 16), tuple(grey * c for c in full[colour]))
            picture.save(tree / "atlas" / f"{name}_{colour}.jpg", quality=100)
    sample = load(tree, competition, channels="rgby", images="atlas")[0]
    np.testing.assert_allclose(sample.image[8, 8], [40, 90, 140, 190], atol=3)  # JPEG
    assert sample.source == str(tree / "atlas" / "a-1_green.jpg")


def test_sixteen_bits(tree: Path, competition: str) -> None:
    wide = np.full((30, 40), 0xFFFF, np.uint16)
    Image.fromarray(wide).save(tree / "train" / "a-1_green.png")
    assert (load(tree, competition, channels="rgby")[0].image[..., 1] == 255).all()


def test_data_root_may_be_any_of_three(tmp_path: Path, competition: str) -> None:
    archive = {
        "hpa": "human-protein-atlas-image-classification",
        "hpa_single_cell": "hpa-single-cell-image-classification",
    }
    write_tree(tmp_path / "1" / archive[competition], competition)
    write_tree(tmp_path / "2" / competition, competition)
    write_tree(tmp_path / "3", competition)
    assert len({load(tmp_path / place, competition).revision for place in "123"}) == 1


def test_a_table_of_another_name(tree: Path, competition: str) -> None:
    header, _ = COMPETITIONS[competition]
    (tree / "few.csv").write_text(f"{header}\nc-3,1\n")
    assert load(tree, competition, labels="few.csv").ids == ["c-3"]


# -- splits ---------------------------------------------------------------------------------------------------------


def test_splits_share_the_table(tree: Path, competition: str) -> None:
    train, val = (load(tree, competition, split=split, hold_out=0.4) for split in ("train", "val"))
    assert sorted(train.ids + val.ids) == list(SIZE)
    for label in (0, 2, 16):  # every label of two or more
        assert all(any(sample.labels[label] for sample in side) for side in (train, val))
    assert load(tree, competition, split="val", hold_out=0.4).ids == val.ids
    others = {tuple(load(tree, competition, split="val", hold_out=0.4, seed=seed).ids) for seed in range(6)}
    assert len(others) > 1


def test_the_default_is_the_part_held_out(tree: Path, competition: str) -> None:
    default = load_dataset(competition, data_root=tree)
    assert default.split == "val"
    assert default.ids == load(tree, competition, split="val", hold_out=0.2, seed=0).ids


def test_the_file_may_be_shuffled(tree: Path, competition: str) -> None:
    before = set(load(tree, competition, split="val").ids)
    header, *rows = (tree / "train.csv").read_text().split()[:1] + (tree / "train.csv").read_text().splitlines()[1:]
    (tree / "train.csv").write_text("\r\n".join([header, *rows[::-1]]))
    assert set(load(tree, competition, split="val").ids) == before


# -- the revision ---------------------------------------------------------------------------------------------------


def test_revision_is_that_of_the_content(tree: Path, tmp_path: Path, competition: str) -> None:
    first = load(tree, competition).revision
    shutil.copytree(tree, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere", competition).revision == first
    others = [load(tree, competition, **o) for o in ({"channels": "rgby"}, {"channels": "green"}, {"split": "val"})]
    assert len({first, *(other.revision for other in others)}) == 4


def test_revision_sees_changes(tree: Path, competition: str) -> None:
    seen = {load(tree, competition).revision}
    table = tree / "train.csv"
    table.write_text(table.read_text().replace("b-2,0", "b-2,1"))
    seen.add(load(tree, competition).revision)
    Image.new("L", SIZE["a-1"]).save(tree / "train" / "a-1_red.png")
    seen.add(load(tree, competition).revision)
    (tree / "train" / "a-1_red.png").unlink()
    seen.add(load(tree, competition).revision)
    assert len(seen) == 4
    unused = load(tree, competition, channels="green").revision
    (tree / "train" / "a-1_blue.png").unlink()
    assert load(tree, competition, channels="green").revision == unused


# -- what is refused ------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BREAKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "absent": (Path.unlink, r"a-1_blue\.png: cannot be read as an image .No such file"),
    "half": (cut, r"a-1_blue\.png: cannot be read as an image"),
    "empty": (lambda path: path.write_bytes(b""), r"a-1_blue\.png: .*it is empty"),
    "smaller": (
        lambda path: Image.new("L", (40, 29)).save(path),
        r"train/a-1: its stains differ in size: red 40x30, green 40x30, blue 40x29",
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_stain_costs_one_sample(tree: Path, competition: str, kind: str) -> None:
    damage, sentence = BREAKS[kind]
    damage(tree / "train" / "a-1_blue.png")
    dataset = load(tree, competition)
    with pytest.raises(SampleError, match=sentence):
        dataset[0]
    assert [s.id for s in dataset[1:]] == list(SIZE)[1:]
    assert len(load(tree, competition, channels="green")[:]) == 5  # which does not look at it


ROWS: dict[str, tuple[str, str]] = {
    "a label too many": ("a-1,{last}", r"train\.csv:2: label '{last}' of a-1; allowed: numbers 0\.\.{top}"),
    "a word": ("a-1,Nucleoli", r"train\.csv:2: label 'Nucleoli' of a-1; allowed: numbers"),
    "no label": ("a-1,", r"train\.csv:2: label '' of a-1"),
    "another separator": ("a-1,0;1", r"train\.csv:2: label '0;1' of a-1; .* separated by '{separator}'"),
    "a row twice": ("b-2,0", r"train\.csv:3: 'b-2' already stands in line 2"),
    "a cell too many": ("a-1,0,1", r"train\.csv:2: 3 cells, the header has 2"),
}


OF_THE_TABLE = {"a row twice", "a cell too many"}  # the others cost one sample


@pytest.mark.parametrize("kind", ROWS)
def test_mistakes_in_the_table(tree: Path, competition: str, kind: str) -> None:
    row, sentence = ROWS[kind]
    count = len(registry.datasets[competition].classes)
    facts = {"last": str(count), "top": str(count - 1), "separator": COMPETITIONS[competition][1].replace("|", r"\|")}
    for key, value in facts.items():
        row, sentence = row.replace(f"{{{key}}}", value), sentence.replace(f"{{{key}}}", value)
    lines = (tree / "train.csv").read_text().splitlines()
    (tree / "train.csv").write_text("\n".join([lines[0], row, *lines[2:]]))
    with pytest.raises(UsageError if kind in OF_THE_TABLE else SampleError, match=sentence) as caught:
        load(tree, competition)[0]
    assert str(tree / "train.csv") in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind not in OF_THE_TABLE:
        assert [s.id for s in load(tree, competition)[1:]] == list(SIZE)[1:]


def test_the_other_competition_is_not_taken_for_this_one(tmp_path: Path) -> None:
    write_tree(tmp_path / "a", "hpa")
    write_tree(tmp_path / "b", "hpa_single_cell")
    with pytest.raises(UsageError, match=r"a/train\.csv:1: no column 'ID'; did you mean 'Id'.*its columns: Id, Target"):
        load(tmp_path / "a", "hpa_single_cell")
    with pytest.raises(UsageError, match=r"b/train\.csv:1: no column 'Id'; did you mean 'ID'"):
        load(tmp_path / "b", "hpa")


def test_what_is_missing_is_said_with_where_to_get_it(tree: Path, competition: str) -> None:
    address = registry.datasets[competition].function.address
    shutil.rmtree(tree / "train")
    with pytest.raises(MissingError, match=f"the folder {tree}/train is missing; .*{address}"):
        load(tree, competition)
    (tree / "train.csv").unlink()
    with pytest.raises(MissingError, match=rf"{competition}: none of .*{tree} holds train\.csv; unpack .*{address}"):
        load(tree, competition)


@pytest.mark.parametrize("options", [{"split": "test"}, {"channels": "yellow"}, {"hold_out": "0.2"}, {"masks": True}])
def test_unknown_options_are_refused(tree: Path, competition: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        load(tree, competition, **options)


# -- the suite ------------------------------------------------------------------------------------------------------


SUITE = """\
name: stains
dataset: {{name: hpa, split: trainval, channels: {channels}}}
models:
  - name: test_resnet
    input: {{size: 64, resize: squash, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}
{model}
explain: present
methods: [cam, saliency, edges]
metrics: [multi_label, {{name: deletion, removal: {{steps: 4}}}}, sparseness]
"""


def run(tree: Path, out: Path, channels: str, model: str) -> xaibench.Run:
    (out / "suite.yaml").write_text(SUITE.format(channels=channels, model=model))
    return xaibench.run(out / "suite.yaml", data_root=tree, out=out / "run", batch_size=2)


@pytest.mark.parametrize("channels", ["rgb", "rgby", "green"])
def test_a_suite_of_any_number_of_channels(tmp_path: Path, channels: str) -> None:
    tree = write_tree(tmp_path / "hpa", "hpa")
    count = {"rgb": 3, "rgby": 4, "green": 1}[channels]
    model = "" if count == 3 else f"    in_chans: {count}\n    extra_channels: copy_first"
    scores = run(tree, tmp_path, channels, model).scores
    assert len(scores) == 3 * 9
    assert (scores["n"] == sum(len(labels) for labels in LABELS.values())).all()
    (prepared,) = run(tree, tmp_path, channels, model).outcome.models
    assert prepared.classifier.preprocess is not None
    assert prepared.classifier.preprocess.mean == (0.485, 0.456, 0.406, 0.485)[:count]  # with four, those of PNOC
    assert prepared.classifier.preprocess.std == (0.229, 0.224, 0.225, 0.229)[:count]


@pytest.mark.parametrize(
    ("channels", "model", "sentence"),
    [
        (
            "rgby",
            "",
            "model test_resnet takes 3 channels, but the images of hpa have 4; give the model in_chans: 4, or",
        ),
        (
            "rgb",
            "    in_chans: 4\n    extra_channels: mean",
            "test_resnet takes 4 channels, but the images of hpa have 3",
        ),
        ("green", "    in_chans: 1", "mean and std have 3 values, the model takes 1 channels; say with extra_channels"),
    ],
)
def test_channels_that_do_not_fit(tmp_path: Path, channels: str, model: str, sentence: str) -> None:
    tree = write_tree(tmp_path / "hpa", "hpa")
    with pytest.raises(UsageError, match=sentence):
        run(tree, tmp_path, channels, model)


def test_metrics_that_need_masks_are_refused(tmp_path: Path, competition: str) -> None:
    text = (
        f"name: s\ndataset: {competition}\nmodels: [test_resnet]\nmethods: [oracle]\nmetrics: [pointing_game, miou]\n"
    )
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(ProblemsError) as caught:
        load_suite(tmp_path / "suite.yaml")
    refused = f"needs masks, which data set '{competition}' does not have"
    assert [p.message for p in caught.value.problems if p.message.endswith(refused)] == [
        f"method 'oracle' {refused}",
        f"metric 'pointing_game' {refused}",
        f"metric 'miou' {refused}",
    ]


def test_facts_of_the_official_release() -> None:
    assert [registry.datasets[name].function.official() for name in COMPETITIONS] == [
        {"trainval": 31072},
        {"trainval": 21806},
    ]
    assert (len(CLASSES), len(SINGLE_CELL_CLASSES)) == (28, 19)
    for name in COMPETITIONS:
        cls = registry.datasets[name].function
        assert cls.address.startswith("https://www.kaggle.com/c/")
        assert "CC BY-SA" in cls.licence


# -- real samples ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Path:
    if "XAIBENCH_SAMPLE_DATA" not in os.environ:
        pytest.skip("XAIBENCH_SAMPLE_DATA does not point at the sample files")
    return Path(os.environ["XAIBENCH_SAMPLE_DATA"])


def test_the_samples(real: Path) -> None:
    expected = json.loads((real / "expected.json").read_text())["hpa"]
    dataset = load_dataset("hpa", data_root=real, split="trainval", channels="rgby")
    assert dataset.ids == list(expected)
    for sample in dataset:
        facts = expected[sample.id]
        assert facts["order"] == "RGBY"
        assert list(sample.image.shape) == facts["shape"]
        assert str(sample.image.dtype) == facts["dtype"]
        assert hashlib.sha1(np.ascontiguousarray(sample.image).tobytes()).hexdigest() == facts["sha1"]
        np.testing.assert_allclose(sample.image.mean((0, 1)), facts["mean"], atol=1e-4)
        (first, second) = facts["target"]  # the row "89_B5_1,25 0", split at the space
        name, label = first.split(",")
        assert name == sample.id
        assert np.flatnonzero(sample.labels).tolist() == sorted([int(label), int(second)])
        picture = load_dataset("hpa", data_root=real, split="trainval")[0].image
        np.testing.assert_array_equal(np.asarray(picture), sample.image[..., :3])
        protein = load_dataset("hpa", data_root=real, split="trainval", channels="green")[0].image
        np.testing.assert_array_equal(protein, sample.image[..., 1:2])


def test_the_public_form_of_the_samples(real: Path) -> None:
    """The crops in train/ were cut from the middle of these JPEGs, channel by channel."""
    crop = load_dataset("hpa", data_root=real, split="trainval", channels="rgby")[0].image
    whole = load_dataset("hpa", data_root=real, split="trainval", channels="rgby", images="public_v18")[0].image
    top, left = (whole.shape[0] - 512) // 2, (whole.shape[1] - 512) // 2
    np.testing.assert_array_equal(whole[top : top + 512, left : left + 512], crop)


def test_names_of_the_samples(real: Path) -> None:
    lists = json.loads((real / "label_lists.json").read_text())
    assert list(CLASSES) == lists["hpa28_image_classification"]
    assert list(SINGLE_CELL_CLASSES) == lists["hpa19_single_cell"]
    sample = load_dataset("hpa", data_root=real, split="trainval")[0]
    assert [CLASSES[i] for i in np.flatnonzero(sample.labels)] == ["Nucleoplasm", "Cytosol"]
