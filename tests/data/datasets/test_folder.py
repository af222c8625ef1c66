"""A user's own folder: both forms of the table, classes, splits, masks, orientation, and what is said of mistakes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import xaibench
from tests.support.console import call
from xaibench.core import registry
from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.core.yaml.document import ProblemsError
from xaibench.data import Dataset, load_dataset
from xaibench.suite import load_suite

pytestmark = pytest.mark.usefixtures("empty_folder")

SIZE = {"a/1.jpg": (40, 30), "a/2.png": (24, 36), "b/3.jpg": (32, 32), "b/4.png": (20, 20)}
NAMED = """\
image,labels,split
a/1.jpg,cat;dog,train
a/2.png, dog ;,train
b/3.jpg,,val
b/4.png,"cat; a, b",val
"""
TABLE = """\
image,dog,"a, b",cat
a/1.jpg,1,0,1
a/2.png,1,0,0

b/3.jpg,0,0,0
b/4.png,0,1,1
"""
PRESENT = {"a/1.jpg": {"cat", "dog"}, "a/2.png": {"dog"}, "b/3.jpg": set(), "b/4.png": {"cat", "a, b"}}


def drawn(name: str, values: int = 3) -> npt.NDArray[np.uint8]:
    width, height = SIZE[name]
    mask = (np.arange(height * width).reshape(height, width) // 50 % (values + 1)).astype(np.uint8)
    mask[:2] = 255
    return mask


def write_tree(root: Path, table: str = NAMED) -> Path:
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(root / name)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(drawn(name)).save(root / "masks" / f"{Path(name).stem}.png")
    (root / "labels.csv").write_text(table)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "mine")


def folder(tree: Path, **options: Any) -> Dataset:
    return load_dataset("folder", data_root=tree, **options)


def present(dataset: Dataset) -> dict[str, set[str]]:
    return {s.id: {dataset.class_names[label] for label in np.flatnonzero(s.labels)} for s in dataset}


# -- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [NAMED, TABLE, "\ufeff" + TABLE.replace("\n", "\r\n")])
def test_both_forms_say_the_same(tree: Path, table: str) -> None:
    (tree / "labels.csv").write_bytes(table.encode())
    dataset = folder(tree)
    assert dataset.ids == list(SIZE)
    assert dataset.split == "all"
    assert present(dataset) == PRESENT
    for sample in dataset:
        assert sample.labels.shape == sample.ignore.shape == (3,)
        assert sample.labels.dtype == sample.ignore.dtype == np.uint8
        assert not sample.ignore.any()
        assert sample.image.mode == "RGB"
        assert sample.size == SIZE[sample.id]
        assert sample.mask is None
        assert sample.source == str(tree / sample.id)


def test_where_classes_come_from(tree: Path) -> None:
    assert folder(tree).class_names == ("a, b", "cat", "dog")  # sorted names
    (tree / "labels.csv").write_text(TABLE)
    assert folder(tree).class_names == ("dog", "a, b", "cat")  # columns in their order
    (tree / "classes.txt").write_text("cat\n\n dog \na, b\n")
    assert folder(tree).class_names == ("cat", "dog", "a, b")  # the file has the last word
    (tree / "labels.csv").write_text(NAMED)
    (tree / "classes.txt").write_text("cat\ndog\na, b\nunicorn\n")
    dataset = folder(tree, split="train")
    assert dataset.class_names == ("cat", "dog", "a, b", "unicorn")  # also such that have no picture
    assert present(dataset) == {name: PRESENT[name] for name in ("a/1.jpg", "a/2.png")}


def test_splits_have_the_same_classes(tree: Path) -> None:
    train, val = folder(tree, split="train"), folder(tree, split="val")
    assert (train.ids, val.ids) == (["a/1.jpg", "a/2.png"], ["b/3.jpg", "b/4.png"])
    assert train.class_names == val.class_names == folder(tree).class_names
    assert folder(tree, split="all").ids == list(SIZE)


def test_a_part_may_be_held_out(tree: Path) -> None:
    (tree / "labels.csv").write_text(TABLE)
    train, val = (folder(tree, split=split, hold_out=0.5) for split in ("train", "val"))
    assert sorted(train.ids + val.ids) == list(SIZE)
    for name in ("cat", "dog"):  # those of two pictures
        assert all(any(name in names for names in present(side).values()) for side in (train, val))
    assert len({tuple(folder(tree, split="val", hold_out=0.5, seed=seed).ids) for seed in range(8)}) > 1


@pytest.mark.parametrize("palette", [False, True])
def test_masks_go_by_the_name_of_the_picture(tree: Path, palette: bool) -> None:
    if palette:
        for name in SIZE:
            mask = Image.frombytes("P", SIZE[name], drawn(name).tobytes())
            mask.putpalette([7, 8, 9] * 256)  # colours say nothing
            mask.save(tree / "masks" / f"{Path(name).stem}.png")
    dataset = folder(tree, masks="masks")
    assert dataset.has_masks
    for sample in dataset:
        assert sample.mask is not None
        assert sample.mask.dtype == np.uint8
        np.testing.assert_array_equal(sample.mask, drawn(sample.id))


def test_who_offers_masks(tree: Path) -> None:
    entry = registry.datasets["folder"]
    assert entry.masks_with({"masks": "masks"})
    assert not entry.masks_with({})
    assert not entry.masks_with({"masks": None})
    assert not folder(tree).has_masks


def test_pictures_and_masks_as_they_are_displayed(tree: Path) -> None:
    """A camera held upright: stored 36 x 24, displayed 24 x 36, and the mask was drawn on what is displayed."""
    displayed = np.asarray(Image.open(tree / "a/2.png"))
    exif = Image.Exif()
    exif[274] = 6  # turn clockwise to display
    Image.fromarray(np.ascontiguousarray(np.rot90(displayed))).save(tree / "a/2.png", exif=exif)
    sample = folder(tree, masks="masks")[1]
    assert sample.size == SIZE["a/2.png"]
    np.testing.assert_array_equal(np.asarray(sample.image), displayed)
    np.testing.assert_array_equal(sample.mask, drawn("a/2.png"))
    Image.fromarray(drawn("a/2.png").T.copy()).save(tree / "masks/2.png")  # as stored
    with pytest.raises(
        SampleError, match="the mask is 36x24, its picture 24x36 as displayed, its EXIF orientation app"
    ):
        folder(tree, masks="masks")[1]


def test_a_table_elsewhere(tree: Path) -> None:
    (tree / "tables").mkdir()
    shutil.move(tree / "labels.csv", tree / "tables/first.csv")
    (tree / "tables/classes.txt").write_text("dog\ncat\na, b\n")
    dataset = folder(tree, labels="tables/first.csv")
    assert dataset.class_names == ("dog", "cat", "a, b")
    assert present(dataset) == PRESENT


# -- the revision ---------------------------------------------------------------------------------------------------


def test_revision_is_that_of_the_content(tree: Path, tmp_path: Path) -> None:
    first = folder(tree).revision
    shutil.copytree(tree, tmp_path / "elsewhere")
    assert folder(tmp_path / "elsewhere").revision == first
    others = [folder(tree, split="train"), folder(tree, masks="masks")]
    assert len({first, *(other.revision for other in others)}) == 3


CHANGES: dict[str, Callable[[Path], Any]] = {
    "a label": lambda tree: (tree / "labels.csv").write_text(NAMED.replace("b/3.jpg,,", "b/3.jpg,dog,")),
    "the order of classes": lambda tree: (tree / "classes.txt").write_text("dog\ncat\na, b\n"),
    "a picture": lambda tree: Image.new("RGB", (99, 99)).save(tree / "a/1.jpg"),
    "no picture": lambda tree: (tree / "a/1.jpg").unlink(),
    "a mask": lambda tree: Image.fromarray(drawn("a/1.jpg", 2)).save(tree / "masks/1.png"),
    "no mask": lambda tree: (tree / "masks/1.png").unlink(),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_revision_sees_changes(tree: Path, kind: str) -> None:
    before, unmasked = folder(tree, masks="masks").revision, folder(tree).revision
    CHANGES[kind](tree)
    assert folder(tree, masks="masks").revision != before
    assert (folder(tree).revision == unmasked) == kind.endswith("mask")


# -- what is refused ------------------------------------------------------------------------------------------------


TABLES: dict[str, tuple[str, str]] = {
    "no image column": ("picture,labels\na,b\n", r"labels\.csv:1: no column 'image'.*its columns: picture, labels"),
    "an almost right one": ("images,labels\na,b\n", r"labels\.csv:1: no column 'image'; did you mean 'images'"),
    "nothing but images": (
        "image,split\na/1.jpg,train\n",
        r"labels\.csv:1: no classes; a column 'labels', or a column",
    ),
    "no names at all": ("image,labels\na/1.jpg,\n", r"labels\.csv:1: no classes"),
    "another column": ("image,labels,splits\na/1.jpg,cat,x\n", r":1: unknown column 'splits'; did you mean 'split'"),
    "a strange column": (
        "image,labels,weight\na/1.jpg,cat,x\n",
        r":1: unknown column 'weight'; allowed .* image, split",
    ),
    "a row twice": ("image,cat\na/1.jpg,0\na/2.png,0\n./a/1.jpg,1\n", r":4: 'a/1\.jpg' already stands in line 2"),
    "no path": ("image,cat\n,0\n", r":2: image ''; a path relative to "),
    "a path of this machine": ("image,cat\n/tmp/1.jpg,0\n", r":2: image '/tmp/1\.jpg'; a path relative to "),
    "a short row": ("image,cat,dog\na/1.jpg,0\n", r":2: 2 cells, the header has 3"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_mistakes_in_the_table(tree: Path, kind: str) -> None:
    table, sentence = TABLES[kind]
    (tree / "labels.csv").write_text(table)
    with pytest.raises(UsageError, match=sentence) as caught:
        folder(tree)
    assert str(tree / "labels.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "classes", "bad"),
    [
        (
            "image,cat,dog\na/1.jpg,0,1\na/2.png,0,yes\n",
            "",
            {"a/2.png": ":3: 'yes' in the column 'dog'; allowed: 0, 1"},
        ),
        ("image,cat,dog\na/1.jpg,0,\na/2.png,1,1\n", "", {"a/1.jpg": ":2: '' in the column 'dog'; allowed: 0, 1"}),
        (
            "image,labels\na/1.jpg,cat;dgo\na/2.png,dog\n",
            "cat\ndog\n",
            {"a/1.jpg": ":2: unknown class 'dgo'; did you mean 'dog'?"},
        ),
    ],
)
def test_a_row_that_makes_no_sense_costs_one_sample(tree: Path, table: str, classes: str, bad: dict[str, str]) -> None:
    (tree / "labels.csv").write_text(table)
    if classes:
        (tree / "classes.txt").write_text(classes)
    found = {}
    dataset = folder(tree)
    for index, name in enumerate(dataset.ids):
        try:
            assert dataset[index].id == name
        except SampleError as error:
            found[name] = str(error)
    assert found == {name: f"{tree}/labels.csv{sentence}" for name, sentence in bad.items()}


@pytest.mark.parametrize(
    ("table", "classes", "sentence"),
    [
        (TABLE, "cat\ndog\nab\n", r"labels\.csv:1: unknown class 'a, b'; did you mean 'ab'"),
        (TABLE, "cat\ndog\na, b\nbird\n", r"labels\.csv:1: no column 'bird', which classes\.txt names"),
        (NAMED, "cat\ndog\ncat\n", r"classes\.txt:3: 'cat' already stands in line 1"),
    ],
)
def test_classes_that_do_not_agree(tree: Path, table: str, classes: str, sentence: str) -> None:
    (tree / "labels.csv").write_text(table)
    (tree / "classes.txt").write_text(classes)
    with pytest.raises(UsageError, match=sentence):
        folder(tree)


def test_splits_that_cannot_be_chosen(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"labels\.csv: unknown split 'vall'; did you mean 'val'"):
        folder(tree, split="vall")
    with pytest.raises(UsageError, match=r"has a column 'split', so hold_out 0\.5 has nothing to decide"):
        folder(tree, split="val", hold_out=0.5)
    (tree / "labels.csv").write_text(TABLE)
    with pytest.raises(UsageError, match="has no column 'split' to choose 'val' by; add one, or give hold_out"):
        folder(tree, split="val")
    with pytest.raises(UsageError, match="unknown split 'test'; allowed: all, train, val"):
        folder(tree, split="test", hold_out=0.5)


def test_two_pictures_of_one_name_cannot_share_a_mask(tree: Path) -> None:
    (tree / "labels.csv").write_text(NAMED + "b/1.jpg,cat,train\n")
    assert len(folder(tree)) == 5
    with pytest.raises(UsageError, match=r":6: '1\.png' already stands in line 2; masks go by the name of the picture"):
        folder(tree, masks="masks")


def test_more_classes_than_a_mask_can_tell(tree: Path) -> None:
    (tree / "labels.csv").write_text("image,labels\na/1.jpg," + ";".join(map(str, range(255))) + "\n")
    assert len(folder(tree).class_names) == 255
    with pytest.raises(UsageError, match="255 classes; masks can tell 254 apart"):
        folder(tree, masks="masks")


def save(image: Image.Image) -> Callable[[Path], Any]:
    return lambda path: image.save(path)


FILES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no picture": (
        "a/1.jpg",
        lambda path: path.rename(path.with_suffix(".jpeg")),
        "no such file; did you mean '1.jpeg'",
    ),
    "no folder": ("a/1.jpg", lambda path: shutil.rmtree(path.parent), "a/1.jpg: no such file$"),
    "an empty picture": ("a/1.jpg", lambda path: path.write_bytes(b""), "cannot be read as an image .it is empty"),
    "no mask": ("masks/1.png", Path.unlink, "masks/1.png: cannot be read as a mask .No such file"),
    "a small mask": ("masks/1.png", save(Image.new("L", (40, 29))), "the mask is 40x29, its picture 40x30 .width x he"),
    "a colour mask": ("masks/1.png", save(Image.new("RGB", (40, 30))), "a mask of mode RGB; allowed: L and P"),
    "a class too many": ("masks/1.png", save(Image.new("L", (40, 30), 4)), r"the mask holds 4; allowed: 0\.\.3, 255"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_broken_file_costs_one_sample(tree: Path, kind: str) -> None:
    file, damage, sentence = FILES[kind]
    damage(tree / file)
    dataset = folder(tree, masks="masks")
    with pytest.raises(SampleError, match=sentence) as caught:
        dataset[0]
    assert str(tree / file) in str(caught.value)
    if kind != "an empty picture":  # of which the reader of pictures speaks
        assert f"{tree / 'labels.csv'}:2: " in str(caught.value)
    assert dataset[2].id == "b/3.jpg"


def test_what_is_missing(tree: Path) -> None:
    with pytest.raises(MissingError, match=r"folder: the folder .*/mask is missing; did you mean 'masks'"):
        folder(tree, masks="mask")
    with pytest.raises(MissingError, match=r"folder: the table .*/label\.csv is missing; did you mean 'labels\.csv'"):
        folder(tree, labels="label.csv")


# -- the suite ------------------------------------------------------------------------------------------------------


SUITE = """\
name: mine
dataset: {name: folder, masks: masks}
models: [{name: test_resnet, input: {size: 64, resize: squash}}]
explain: present
methods: [cam, oracle]
metrics: [sparseness, energy_pointing_game]
"""


def test_a_suite(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE)
    scores = xaibench.run(tmp_path / "suite.yaml", data_root=tree, out=tmp_path / "run").scores
    scores = scores.set_index(["method", "metric"])
    assert (scores["n"] + scores["n_undefined"] == 5).all()
    assert (scores.loc["oracle", "n"] == 5).all()
    assert scores.loc[("oracle", "energy_pointing_game"), "value"] == 1
    (tmp_path / "suite.yaml").write_text(SUITE.replace(", masks: masks", ""))
    with pytest.raises(ProblemsError, match="method 'oracle' needs masks, which data set 'folder' does not have"):
        load_suite(tmp_path / "suite.yaml")


def test_a_model_of_other_classes_is_refused(tree: Path, tmp_path: Path) -> None:
    text = SUITE.replace("models: [{name: test_resnet, input: {size: 64, resize: squash}}]", "models: [shapes-resnet]")
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(
        UsageError,
        match="model shapes-resnet was trained on other classes than those of the data: label 0 is 'circle', not",
    ):
        xaibench.run(tmp_path / "suite.yaml", data_root=tree, out=tmp_path / "run")
    (tmp_path / "suite.yaml").write_text(SUITE.replace("{name: test_resnet,", "{name: test_resnet, num_classes: 4,"))
    with pytest.raises(UsageError, match="num_classes 4, but folder has 3 labels"):
        xaibench.run(tmp_path / "suite.yaml", data_root=tree, out=tmp_path / "run")


MISTAKES = {  # the data set of a suite: the line and column that its error names, the exit code of a run, the message
    "{name: folder, masks: mask}": (r":2:32: folder: the folder \S+/mask is missing; did you mean 'masks'\?", 4),
    "{name: folder, labels: label.csv, masks: masks}": (r":2:33: folder: the table \S+/label\.csv is missing", 4),
    "{name: folder, masks: masks, split: vall}": (r":2:46: \S+/labels\.csv: unknown split 'vall'", 2),
    "{name: folder, masks: masks, hold_out: 0.5}": (
        r":2:49: \S+/labels\.csv: has a column 'split', so hold_out 0.5",
        2,
    ),
}


@pytest.mark.parametrize("dataset", MISTAKES)
def test_a_mistake_names_the_line_of_the_suite(
    dataset: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE.replace("{name: folder, masks: masks}", dataset))
    sentence, code = MISTAKES[dataset]
    assert call(monkeypatch, "validate", suite, "--data-root", tree) == 1
    assert re.match(rf"{suite}{sentence}", capsys.readouterr().out)
    assert call(monkeypatch, "run", suite, "--data-root", tree, "--out", tmp_path / "run") == code
    assert re.match(rf"error: {suite}{sentence}", capsys.readouterr().err)


def test_a_mistake_in_the_table_names_both_files(tree: Path, tmp_path: Path) -> None:
    (tree / "labels.csv").write_text("picture,labels\na,b\n")
    (tmp_path / "suite.yaml").write_text(SUITE)
    with pytest.raises(UsageError, match=rf"^{tmp_path}/suite\.yaml:2:10: {tree}/labels\.csv:1: no column 'image'"):
        xaibench.run(tmp_path / "suite.yaml", data_root=tree, out=tmp_path / "run")


def test_its_card() -> None:
    cls = registry.datasets["folder"].function
    assert (cls.address, cls.official()) == ("", {})
    assert "your own licence" in cls.licence
