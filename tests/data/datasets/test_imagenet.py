"""ImageNet: its classes, and trees of both forms that these tests write themselves."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import xaibench
from xaibench.core import registry
from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.core.timm_import import import_timm
from xaibench.data import Dataset, load_dataset
from xaibench.data.datasets.imagenet import CLASSES as NAMES
from xaibench.data.datasets.imagenet import LABELS, read_order

# photograph: its wnid and label, copied out of a list of the 1000 classes by hand
CLASSES = {
    1: ("n01440764", 0),
    2: ("n02110341", 251),
    3: ("n02012849", 134),
    4: ("n15075141", 999),
    7: ("n01440764", 0),
}
KIT_FOX = "n02119789"  # number 1 of the development kit, label 278


def name_of(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def photograph(number: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def write_folders(root: Path) -> Path:
    for number, (wnid, _) in CLASSES.items():
        (root / "val" / wnid).mkdir(parents=True, exist_ok=True)
        photograph(number, {2: "CMYK", 3: "L"}.get(number, "RGB")).save(root / "val" / wnid / f"{name_of(number)}.JPEG")
    (root / "val" / ".cache").mkdir()
    return root


def write_together(root: Path) -> Path:
    """The same photographs without folders."""
    folders = write_folders(root / "folders")
    (root / "val").mkdir()
    for path in (folders / "val").glob("*/*.JPEG"):
        path.rename(root / "val" / path.name)
    shutil.rmtree(folders)
    return root


def kit_order() -> dict[str, int]:
    """Number 1..1000 by wnid in an order that is not the sorted one."""
    shuffled = np.random.default_rng(1).permutation(1000)
    return {wnid: int(number) + 1 for wnid, number in zip(LABELS, shuffled, strict=True)}


def write_meta(path: Path, order: dict[str, int] | None = None) -> None:
    """Write meta.mat as in the kit: a table of the 1000 classes, then their parent synsets with higher numbers."""
    rows = [*(order or kit_order()).items(), ("n00001740", 1001), ("n00001930", 1002)]
    table = np.zeros(
        len(rows), [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    )
    for row, (wnid, number) in zip(table, sorted(rows, key=lambda pair: pair[1]), strict=True):
        row["ILSVRC2012_ID"], row["WNID"], row["words"], row["num_children"] = number, wnid, "a word", number // 1001
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"synsets": table[:, None]})


def write_truth(path: Path) -> None:
    order = kit_order()
    lines = [str(order[CLASSES[number][0]] if number in CLASSES else 1) for number in range(1, 9)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "imagenet")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write_together(tmp_path / "imagenet")


def imagenet(root: Path, **options: Any) -> Dataset:
    return load_dataset("imagenet", data_root=root, **options)


def check(dataset: Dataset) -> None:
    assert dataset.ids == [name_of(number) for number in CLASSES]
    for sample, (number, (_, label)) in zip(dataset, CLASSES.items(), strict=True):
        assert sample.id == name_of(number)
        assert np.flatnonzero(sample.labels).tolist() == [label]
        assert sample.labels.shape == sample.ignore.shape == (1000,)
        assert sample.labels.dtype == np.uint8
        assert not sample.ignore.any()
        assert sample.mask is None
        assert sample.image.mode == "RGB"
        assert sample.size == (30, 20 + number)


# -- classes --------------------------------------------------------------------------------------------------------


def test_classes_are_in_the_order_of_outputs() -> None:
    assert list(LABELS) == sorted(LABELS)
    assert list(LABELS.values()) == [*range(1000)]
    assert all(LABELS[wnid] == label for wnid, label in CLASSES.values())
    assert LABELS[KIT_FOX] == 278
    some = {0: "tench", 1: "goldfish", 251: "dalmatian", 278: "kit fox", 999: "toilet tissue"}
    assert {label: NAMES[label] for label in some} == some
    assert registry.datasets["imagenet"].classes == NAMES


def test_classes_are_those_of_timm() -> None:
    info = import_timm().data.ImageNetInfo("imagenet-1k")
    assert list(LABELS) == info.label_names()
    firsts = [description.split(", ")[0] for description in info.label_descriptions()]
    names = [name.removesuffix(f" ({wnid})") for wnid, name in zip(LABELS, NAMES, strict=True)]
    assert names == firsts


def test_names_that_two_classes_share_stay_apart() -> None:
    assert len(set(NAMES)) == 1000
    assert [name for name in NAMES if name.startswith(("crane", "maillot"))] == [
        "crane (n02012849)",
        "crane (n03126707)",
        "maillot (n03710637)",
        "maillot (n03710721)",
    ]


def test_listing_data_sets_imports_nothing_heavy() -> None:
    script = (
        "import sys; from xaibench.core import registry; entry = registry.datasets['imagenet'];"
        "assert len(entry.classes) == 1000; assert not {'timm', 'torch', 'h5py', 'pycocotools'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# -- what is read ---------------------------------------------------------------------------------------------------


def test_photographs_in_class_folders(tree: Path) -> None:
    check(imagenet(tree))
    assert imagenet(tree)[0].source == str(tree / "val/n01440764/ILSVRC2012_val_00000001.JPEG")
    assert imagenet(tree).class_names == NAMES
    assert registry.datasets["imagenet"].single_label
    assert not imagenet(tree).has_masks


@pytest.mark.parametrize("place", ["", "ILSVRC2012_devkit_t12/data", "../ILSVRC2012_devkit_t12/data", "devkit/data"])
def test_photographs_together_with_the_development_kit(flat: Path, place: str) -> None:
    write_truth(flat / place / "ILSVRC2012_validation_ground_truth.txt")
    write_meta(flat / place / "meta.mat")
    check(imagenet(flat))


def test_map_clsloc_tells_the_order_too(flat: Path) -> None:
    write_truth(flat / "ILSVRC2012_validation_ground_truth.txt")
    lines = [f"{wnid} {number} a_word" for wnid, number in kit_order().items()]
    (flat / "map_clsloc.txt").write_text("\n".join(lines))
    check(imagenet(flat))


@pytest.mark.parametrize("place", ["imagenet", "imagenet/ILSVRC"])
def test_photographs_together_as_on_kaggle(flat: Path, place: str) -> None:
    root = flat.parent
    (root / "kaggle/ILSVRC/Data/CLS-LOC").mkdir(parents=True)
    (flat / "val").rename(root / "kaggle/ILSVRC/Data/CLS-LOC/val")
    flat.rmdir()
    (root / "kaggle").rename(root / "imagenet")
    with (root / "imagenet/LOC_val_solution.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "PredictionString"])
        writer.writerows([[name_of(n), f"{wnid} 85 1 499 272 {wnid} 1 2 3 4 "] for n, (wnid, _) in CLASSES.items()])
    check(imagenet(root / place))


def test_both_forms_are_one_data_set(tmp_path: Path) -> None:
    flat = write_together(tmp_path / "a")
    write_truth(flat / "ILSVRC2012_validation_ground_truth.txt")
    write_meta(flat / "meta.mat")
    sorted_by_class = write_folders(tmp_path / "b")
    assert imagenet(flat).ids == imagenet(sorted_by_class).ids
    assert imagenet(flat).revision == imagenet(sorted_by_class).revision


@pytest.mark.parametrize("folder", ["imagenet", "ILSVRC2012"])
def test_data_root_may_be_the_folder_or_its_parent(tmp_path: Path, folder: str) -> None:
    write_folders(tmp_path / folder)
    check(imagenet(tmp_path))
    check(imagenet(tmp_path / folder))


def test_revision_sees_what_changed(tree: Path) -> None:
    found = {imagenet(tree).revision}
    path = tree / "val/n02110341" / f"{name_of(2)}.JPEG"
    photograph(60).save(path)
    found.add(imagenet(tree).revision)
    path.rename(tree / "val/n15075141" / path.name)
    found.add(imagenet(tree).revision)
    (tree / "val/n15075141" / path.name).unlink()
    found.add(imagenet(tree).revision)
    assert len(found) == 4


def test_what_is_said_of_the_official_files() -> None:
    cls = registry.datasets["imagenet"].function
    assert cls.official() == {"val": 50000}
    assert "image-net.org" in cls.address
    assert "no redistribution" in cls.licence


# -- what is refused ------------------------------------------------------------------------------------------------


def test_a_broken_photograph_is_named_and_costs_one_sample(tree: Path) -> None:
    path = tree / "val/n01440764" / f"{name_of(1)}.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    dataset = imagenet(tree)
    with pytest.raises(SampleError, match=rf"{path}: cannot be read as an image"):
        dataset[0]
    assert len(dataset[1:]) == 4


def test_without_the_kit_the_order_cannot_be_known(flat: Path) -> None:
    with pytest.raises(
        MissingError, match=r"neither ILSVRC2012_validation_ground_truth\.txt .* nor LOC_val_solution\.csv"
    ):
        imagenet(flat)
    write_truth(flat / "ILSVRC2012_validation_ground_truth.txt")
    # a sorted list of classes is no help, and is not taken for one
    (flat / "LOC_synset_mapping.txt").write_text("\n".join(f"{wnid} a word" for wnid in LABELS))
    with pytest.raises(
        MissingError, match=r"order of the development kit, and neither meta\.mat .* nor map_clsloc"
    ) as caught:
        imagenet(flat)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_missing_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"none of .*imagenet/val, .* is there; unpack ILSVRC2012_img_val\.tar"):
        imagenet(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(MissingError, match=r"val holds no photographs; they come with ILSVRC2012_img_val\.tar"):
        imagenet(tmp_path)


def copy_of_1(tree: Path) -> None:
    shutil.copy(tree / "val/n01440764" / f"{name_of(1)}.JPEG", tree / "val/n02110341")


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a name for a wnid": (lambda t: (t / "val/tench").mkdir(), "val/tench: is not called by one of the 1000 wnids"),
    "a wnid of another set": (lambda t: (t / "val/n01440765").mkdir(), "1000 wnids; did you mean 'n01440764'"),
    "a photograph of two classes": (copy_of_1, r"00000001\.JPEG: lies in n01440764 too"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_that_cannot_be_are_refused(tree: Path, kind: str) -> None:
    damage, sentence = FOLDERS[kind]
    damage(tree)
    with pytest.raises(UsageError, match=sentence) as caught:
        imagenet(tree)
    assert "\n" not in str(caught.value)


def sorted_but_for_one(path: Path) -> None:
    order = kit_order() | {KIT_FOX: 1}
    write_meta(path / "meta.mat", order)


TABLES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a number too large": (
        lambda t: (t / "ILSVRC2012_validation_ground_truth.txt").write_text("4\n1001\n"),
        r"ground_truth\.txt: '1001' in line 2; allowed: 1\.\.1000",
    ),
    "a number from 0": (lambda t: (t / "ILSVRC2012_validation_ground_truth.txt").write_text("0\n"), "'0' in line 1"),
    "words": (lambda t: (t / "ILSVRC2012_validation_ground_truth.txt").write_text("tench\n"), "'tench' in line 1"),
    "a list that ends early": (
        lambda t: (t / "ILSVRC2012_validation_ground_truth.txt").write_text("4\n" * 6),
        r"ground_truth\.txt: does not say the class of .*00000007\.JPEG",
    ),
    "a number twice": (sorted_but_for_one, r"meta\.mat: does not give each of the numbers 1\.\.1000 one"),
    "no MATLAB file": (lambda t: (t / "meta.mat").write_text("words " * 100), r"meta\.mat: cannot be read as a list"),
    "another MATLAB file": (
        lambda t: savemat(t / "meta.mat", {"a": [1]}),
        r"meta\.mat: cannot be read as a list of classes",
    ),
    "no table": (
        lambda t: (t / "LOC_val_solution.csv").write_text("a,b\n1,2\n"),
        r"LOC_val_solution\.csv: is not a table with the columns ImageId",
    ),
    "a table without a class": (
        lambda t: (t / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nx,\n"),
        r"LOC_val_solution\.csv: is not a table",
    ),
    "a table of other classes": (
        lambda t: (t / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nx,n01440765 1\n"),
        r"LOC_val_solution\.csv: x is of 'n01440765', .*did you mean 'n01440764'",
    ),
    "a short table": (
        lambda t: (t / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nx,n01440764 1\n"),
        r"LOC_val_solution\.csv: does not say the class of",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_that_cannot_be_are_refused(flat: Path, kind: str) -> None:
    write_truth(flat / "ILSVRC2012_validation_ground_truth.txt")
    write_meta(flat / "meta.mat")
    damage, sentence = TABLES[kind]
    damage(flat)
    with pytest.raises(UsageError, match=sentence) as caught:
        imagenet(flat)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_lines_of_map_clsloc_are_checked(tmp_path: Path) -> None:
    (tmp_path / "map_clsloc.txt").write_text("n02119789\n")
    with pytest.raises(UsageError, match=r"map_clsloc\.txt: cannot be read as a list of classes"):
        read_order(tmp_path / "map_clsloc.txt")


# -- a run ----------------------------------------------------------------------------------------------------------


def test_a_suite_runs(tree: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("""\
name: tiny
dataset: {name: imagenet}
models:
  - {name: test_resnet, activation: softmax, input: {size: 64}}
explain: target
methods: [grad_cam, random]
metrics: [average_drop, sparseness]
""")
    run = xaibench.run(suite, out=tmp_path / "run", data_root=tmp_path, limit=2)
    assert not run.outcome.failed
    assert (run.scores["n"] + run.scores["n_undefined"] == 2).all()
    assert len(run.scores) == 4
