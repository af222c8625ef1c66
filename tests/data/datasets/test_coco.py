"""COCO: real samples where XAIBENCH_SAMPLE_DATA points at them, and a small tree that these tests write themselves."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import xaibench
from xaibench.core import registry
from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.data import Dataset, Sample, load_dataset
from xaibench.data.datasets.coco import CLASSES, Crowd, Overlap
from xaibench.data.reading.coco_annotations import CATEGORIES

Bools = npt.NDArray[np.bool_]
CROWDS: tuple[Crowd, ...] = get_args(Crowd)
OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)
PERSON, CAT, DOG, BOOK, TOOTHBRUSH = (CLASSES.index(name) for name in ("person", "cat", "dog", "book", "toothbrush"))
NUMBER = {PERSON: 1, CAT: 17, DOG: 18, BOOK: 84, TOOTHBRUSH: 90}  # of the files, copied out by hand
VOID = 255


def names(vector: npt.NDArray[np.uint8]) -> list[int]:
    return np.flatnonzero(vector).tolist()


# -- a tree of our own ----------------------------------------------------------------------------------------------

SIZE = {9: (40, 30), 25: (24, 36), 30: (32, 32), 7: (20, 20)}
Box = tuple[int, int, int, int]  # left, top, right, bottom
# photograph: label, boxes of one object, whether it is a crowd. In the order of the file
OBJECTS: dict[int, list[tuple[int, list[Box], bool]]] = {
    9: [
        (DOG, [(10, 10, 20, 20)], False),
        (PERSON, [(5, 5, 25, 25)], False),  # larger: the dog lies on it
        (PERSON, [(22, 2, 30, 8)], False),  # meets the other person
        (BOOK, [(0, 0, 40, 4)], True),  # books, as a crowd only; the second person reaches into it
    ],
    30: [
        (CAT, [(0, 0, 8, 8), (20, 20, 32, 32)], False),  # in two parts
        (TOOTHBRUSH, [], False),  # a sliver: no polygon has three corners
        (CAT, [(12, 0, 16, 32)], True),
    ],
    7: [(DOG, [(0, 0, 20, 12)], False)],
}


def drawn(number: int, boxes: list[Box]) -> Bools:
    width, height = SIZE[number]
    inside = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        inside[top:bottom, left:right] = True
    return inside


def run_lengths(inside: Bools) -> dict[str, Any]:
    """Lengths of runs of 0, 1, 0, ... down the columns."""
    flat = inside.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return {"size": list(inside.shape), "counts": [0, *counts] if flat[0] else counts}


def annotation(key: int, number: int, label: int, boxes: list[Box], crowd: bool) -> dict[str, Any]:
    outline: Any = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in boxes] or [[3.5, 3.5, 9.25, 9.25], [1, 1]]
    if crowd:
        outline = run_lengths(drawn(number, boxes))
    area = float(sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes))
    return {
        "id": key,
        "image_id": number,
        "category_id": NUMBER[label],
        "iscrowd": int(crowd),
        "area": area,
        "segmentation": outline,
        "bbox": [0.0, 0.0, 1.5, 1.5],
    }


def content(prefix: str = "") -> dict[str, Any]:
    listed = [(number, *item) for number, items in OBJECTS.items() for item in items]
    return {
        "info": {},
        "licenses": [{"id": 4, "name": "free"}],
        "images": [
            {"id": n, "file_name": f"{prefix}{n:012d}.jpg", "width": w, "height": h} for n, (w, h) in SIZE.items()
        ],
        "annotations": [annotation(key, *item) for key, item in enumerate(listed, 100)],
        "categories": [{"id": n, "name": name} for n, name in zip(CATEGORIES, CLASSES, strict=True)],
    }


def write_tree(root: Path, split: str = "val", year: str = "2017") -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"{split}{year}").mkdir()
    prefix = f"COCO_{split}2014_" if year == "2014" else ""
    (root / "annotations" / f"instances_{split}{year}.json").write_text(json.dumps(content(prefix)))
    rng = np.random.default_rng(0)
    for number, (width, height) in SIZE.items():
        photograph = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        photograph.convert("L" if number == 25 else "RGB").save(root / f"{split}{year}" / f"{prefix}{number:012d}.jpg")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "coco")


def coco(tree: Path, **options: Any) -> Dataset:
    return load_dataset("coco17", data_root=tree, **options)


# -- what is read ---------------------------------------------------------------------------------------------------


def shown(number: int, crowd: Crowd) -> list[tuple[int, list[Box], bool]]:
    return [item for item in OBJECTS.get(number, []) if crowd == "keep" or not item[2]]


@pytest.mark.parametrize("crowd", CROWDS)
def test_labels(tree: Path, crowd: Crowd) -> None:
    samples = list(coco(tree, crowd=crowd))
    expected = {
        "keep": {9: [PERSON, DOG, BOOK], 25: [], 30: [CAT, TOOTHBRUSH], 7: [DOG]},
        "drop": {9: [PERSON, DOG], 25: [], 30: [CAT, TOOTHBRUSH], 7: [DOG]},
    }[crowd]
    assert {s.id: names(s.labels) for s in samples} == {f"{n:012d}": found for n, found in expected.items()}
    for sample in samples:
        assert sample.labels.dtype == sample.ignore.dtype == np.uint8
        assert sample.labels.shape == sample.ignore.shape == (80,)
        assert not sample.ignore.any()


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("crowd", CROWDS)
def test_regions_are_unions_of_objects(tree: Path, crowd: Crowd, overlap: Overlap) -> None:
    for sample in coco(tree, crowd=crowd, overlap=overlap):
        assert sample.regions is not None
        assert sorted(sample.regions) == names(sample.labels)
        for label, region in sample.regions.items():
            boxes = [box for own, parts, _ in shown(int(sample.id), crowd) if own == label for box in parts]
            assert region.dtype == np.bool_
            np.testing.assert_array_equal(region, drawn(int(sample.id), boxes), f"{sample.id} {CLASSES[label]}")


@pytest.mark.parametrize("crowd", CROWDS)
def test_overlaps_are_void(tree: Path, crowd: Crowd) -> None:
    for sample in coco(tree, crowd=crowd):
        number = int(sample.id)
        expected = np.zeros(sample.size[::-1], np.uint8)
        depth = np.zeros(sample.size[::-1], int)
        for label, boxes, _ in shown(number, crowd):
            expected[drawn(number, boxes)] = label + 1
            depth += drawn(number, boxes)
        expected[depth > 1] = VOID
        assert sample.mask is not None
        assert sample.mask.dtype == np.uint8
        np.testing.assert_array_equal(sample.mask, expected)


def test_small_objects_are_painted_over_large_ones(tree: Path) -> None:
    mask = {s.id: s.mask for s in coco(tree, overlap="painter")}["000000000009"]
    assert mask is not None
    expected = np.zeros((30, 40), np.uint8)
    for label, boxes, _ in [OBJECTS[9][1], OBJECTS[9][3], OBJECTS[9][0], OBJECTS[9][2]]:  # 400, 160, 100, 48 pixels
        expected[drawn(9, boxes)] = label + 1
    np.testing.assert_array_equal(mask, expected)


def test_a_painter_leaves_crowds_that_are_dropped_void_where_nothing_else_is(tree: Path) -> None:
    kept, dropped = (coco(tree, overlap="painter", crowd=crowd)[1].mask for crowd in CROWDS)
    assert kept is not None
    assert dropped is not None
    books = drawn(9, OBJECTS[9][3][1]) & ~drawn(9, OBJECTS[9][2][1])
    assert (dropped[books] == VOID).all()
    assert (kept[books] == BOOK + 1).all()
    np.testing.assert_array_equal(dropped[~books], kept[~books])


def test_ids_and_photographs(tree: Path) -> None:
    dataset = coco(tree)
    assert dataset.ids == ["000000000007", "000000000009", "000000000025", "000000000030"]
    assert dataset.class_names == CLASSES
    assert len(set(CLASSES)) == 80
    for sample in dataset:
        assert sample.image.mode == "RGB"  # a grey one too
        assert sample.size == SIZE[int(sample.id)]
        assert sample.source == str(tree / "val2017" / f"{sample.id}.jpg")


def test_categories_are_those_of_the_files() -> None:
    assert len(CATEGORIES) == 80
    assert CATEGORIES[0] == 1
    assert CATEGORIES[-1] == 90
    assert {label: CATEGORIES[label] for label in NUMBER} == NUMBER


def test_2014_has_names_of_its_own(tmp_path: Path) -> None:
    write_tree(tmp_path, year="2014")
    dataset = load_dataset("coco14", data_root=tmp_path)
    assert dataset.ids == ["000000000007", "000000000009", "000000000025", "000000000030"]
    assert dataset[0].source.endswith("val2014/COCO_val2014_000000000007.jpg")
    with pytest.raises(MissingError, match=r"coco17: neither .*instances_val2017\.json"):
        load_dataset("coco17", data_root=tmp_path)


def test_classification_needs_neither_masks_nor_pycocotools(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.delitem(sys.modules, "pycocotools.mask", raising=False)
    dataset = coco(tree, masks=False)
    assert not dataset.has_masks
    assert not registry.datasets["coco17"].masks_with({"masks": False})
    assert registry.datasets["coco17"].masks_with({})
    assert [(s.mask, s.regions) for s in dataset] == [(None, None)] * 4
    assert names(dataset[1].labels) == [PERSON, DOG, BOOK]
    with pytest.raises(MissingError, match=r'pip install "xaibench\[data\]"') as caught:
        coco(tree)
    assert caught.value.exit_code == 4


def test_reading_prints_nothing(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    list(coco(tree))
    assert capfd.readouterr() == ("", "")


def test_data_root_may_be_the_folder_or_its_parent(tree: Path) -> None:
    assert coco(tree).revision == coco(tree.parent).revision


def test_a_copy_in_another_process_reads_the_same(tree: Path) -> None:
    dataset = coco(tree)
    for one, other in zip(dataset, pickle.loads(pickle.dumps(dataset)), strict=True):
        assert one.id == other.id
        np.testing.assert_array_equal(one.mask, other.mask)


def test_what_is_said_of_the_official_files() -> None:
    for name, counts in {"coco14": {"train": 82783, "val": 40504}, "coco17": {"train": 118287, "val": 5000}}.items():
        cls = registry.datasets[name].function
        assert cls.official() == counts
        assert "cocodataset.org" in cls.address
        assert "CC BY 4.0" in cls.licence


# -- the revision ---------------------------------------------------------------------------------------------------


def test_revision_is_that_of_the_content(tree: Path, tmp_path: Path) -> None:
    first = coco(tree).revision
    shutil.copytree(tree, tmp_path / "elsewhere")
    assert coco(tmp_path / "elsewhere").revision == first
    others = [coco(tree, crowd="drop"), coco(tree, masks=False), coco(tree, overlap="painter")]
    assert len({first, *(other.revision for other in others)}) == 4
    assert coco(tree, masks=False).revision == coco(tree, masks=False, overlap="painter").revision


def test_revision_sees_what_changed(tree: Path) -> None:
    found = {coco(tree).revision}
    path = tree / "val2017/000000000009.jpg"
    Image.open(path).resize((80, 60)).save(path)
    found.add(coco(tree).revision)
    path.unlink()
    found.add(coco(tree).revision)
    edit(lambda c: c["annotations"][0].update(category_id=17))(tree)
    found.add(coco(tree).revision)
    assert len(found) == 4


# -- what is refused ------------------------------------------------------------------------------------------------


def edit(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(tree: Path) -> None:
        path = tree / "annotations/instances_val2017.json"
        read = json.loads(path.read_text())
        change(read)
        path.write_text(json.dumps(read))

    return apply


def write(text: str) -> Callable[[Path], Any]:
    return lambda tree: (tree / "annotations/instances_val2017.json").write_text(text)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (write("{'images': []}"), r"cannot be read as JSON \(Expecting property name"),
    "half a JSON": (write('{"images": [], "annotations": [{"id": 1'), "cannot be read as JSON"),
    "a list": (write("[]"), "is not an annotation file of COCO; one holds images, annotations and categories"),
    "captions": (edit(lambda c: c.pop("categories")), "is not an annotation file of COCO"),
    "an unknown photograph": (
        edit(lambda c: c["annotations"][0].update(image_id=8)),
        "annotation 100 is of photograph 8, which the file does not list",
    ),
    "an unknown category": (
        edit(lambda c: c["annotations"][1].update(category_id=12)),
        r"annotation 101 is of category 12; allowed: 1\.\.90 without 12, 26, .*83",
    ),
    "other classes": (
        edit(lambda c: c["categories"][1].update(name="tricycle")),
        "calls category 2 'tricycle', which in COCO is 'bicycle'",
    ),
    "a class of its own": (
        edit(lambda c: c["categories"].append({"id": 91, "name": "yeti"})),
        "calls category 91 'yeti', which in COCO is not one of its",
    ),
    "a photograph twice": (edit(lambda c: c["images"].append(c["images"][0])), "lists the photograph 9 twice"),
    "no size": (edit(lambda c: c["images"][0].pop("width")), "image 9 has no 'width'"),
    "no category": (edit(lambda c: c["annotations"][0].pop("category_id")), "annotation 100 has no 'category_id'"),
    "no photograph": (edit(lambda c: c["annotations"][0].pop("image_id")), "an annotation has no 'image_id'"),
    "no outline": (edit(lambda c: c["annotations"][0].pop("segmentation")), "annotation 100 has no 'segmentation'"),
    "an image that is a number": (edit(lambda c: c["images"].append(3)), "image has no 'id'"),
    "words for corners": (
        edit(lambda c: c["annotations"][0].update(segmentation=[["a"] * 6])),
        "annotation 100 has a polygon that is no list of numbers",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_broken_annotation_file_is_one_sentence(tree: Path, kind: str) -> None:
    damage, sentence = FILES[kind]
    damage(tree)
    with pytest.raises(UsageError, match=sentence) as caught:
        coco(tree)
    assert str(tree / "annotations/instances_val2017.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def crowd_of_9(**changes: Any) -> Callable[[Path], None]:
    return edit(lambda c: c["annotations"][3]["segmentation"].update(changes))


def truncate(tree: Path) -> None:
    path = tree / "val2017/000000000009.jpg"
    path.write_bytes(path.read_bytes()[:200])


BREAKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half a photograph": (truncate, r"000000000009\.jpg: cannot be read as an image \("),
    "no photograph": (lambda t: (t / "val2017/000000000009.jpg").unlink(), r"000000000009\.jpg: .*No such file"),
    "another photograph": (
        lambda t: shutil.copy(t / "val2017/000000000030.jpg", t / "val2017/000000000009.jpg"),
        r"000000000009\.jpg: the photograph is 32x32, .*instances_val2017\.json says 40x30",
    ),
    "a mask of another size": (crowd_of_9(size=[30, 41]), r"is 41x30, its photograph 40x30 \(width x height\)"),
    "runs that end early": (crowd_of_9(counts=[5, 3]), "has run lengths of 8 pixels in all, its photograph has 1200"),
    "runs that are no runs": (crowd_of_9(counts="\x7f!"), r"cannot be read \("),
    "no runs": (
        edit(lambda c: c["annotations"][3]["segmentation"].pop("counts")),
        "is neither polygons nor run lengths",
    ),
    "nothing": (edit(lambda c: c["annotations"][3].update(segmentation=None)), "is neither polygons nor run lengths"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_sample_is_named_and_costs_one_sample(tree: Path, kind: str) -> None:
    damage, sentence = BREAKS[kind]
    damage(tree)
    dataset = coco(tree)
    with pytest.raises(SampleError, match=sentence) as caught:
        dataset[1]
    outline = f"{tree}/annotations/instances_val2017.json: the outline of annotation 103 "
    photograph = f"{tree}/val2017/000000000009.jpg: "
    assert str(caught.value).startswith(photograph if "photograph" in kind else outline)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert [s.id for s in (dataset[0], *dataset[2:])] == ["000000000007", "000000000025", "000000000030"]


def test_run_lengths_may_be_packed(tree: Path) -> None:
    from pycocotools import mask

    before = coco(tree)[1].mask
    packed = mask.frPyObjects(run_lengths(drawn(9, OBJECTS[9][3][1])), 30, 40)["counts"].decode()
    crowd_of_9(counts=packed)(tree)
    np.testing.assert_array_equal(coco(tree)[1].mask, before)


def test_what_is_missing_is_said_with_where_to_get_it(tree: Path) -> None:
    with pytest.raises(
        MissingError, match=r"neither .*instances_train2017\.json .* annotations_trainval2017\.zip"
    ) as caught:
        coco(tree, split="train")
    assert "\n" not in str(caught.value)
    (tree / "val2017").rename(tree / "val")
    with pytest.raises(MissingError, match=rf"coco17: the folder {tree}/val2017 is missing; .* val2017\.zip") as caught:
        coco(tree)
    assert caught.value.exit_code == 4


def test_swapped_folders_are_noticed(tree: Path) -> None:
    (tree / "train2017").mkdir()
    Image.new("RGB", (8, 8)).save(tree / "train2017/000000000001.jpg")
    (tree / "val2017").rename(tree / "spare")
    (tree / "train2017").rename(tree / "val2017")
    with pytest.raises(MissingError, match=r"val2017 holds none of the 4 photographs that .*val2017\.json names$"):
        coco(tree)
    (tree / "spare").rename(tree / "train2017")
    with pytest.raises(MissingError, match=rf"; {tree}/train2017 does: train and val are swapped$"):
        coco(tree)


@pytest.mark.parametrize("options", [{"split": "test"}, {"crowd": "maybe"}, {"overlap": "mean"}, {"year": 2017}])
def test_unknown_options_are_refused(tree: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        coco(tree, **options)


# -- a run ----------------------------------------------------------------------------------------------------------

SUITE = """\
name: tiny
dataset: {name: NAME}
models:
  - {name: test_resnet, activation: sigmoid, input: {size: 64, resize: fit_pad}}
explain: present
methods: [cam, random, oracle]
metrics: [average_drop, pointing_game, energy_pointing_game, pixel_accuracy, seed_miou]
"""


@pytest.mark.parametrize(("name", "year"), [("coco14", "2014"), ("coco17", "2017")])
def test_a_suite_runs(tmp_path: Path, name: str, year: str) -> None:
    write_tree(tmp_path / "coco", year=year)
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE.replace("NAME", name))
    run = xaibench.run(suite, out=tmp_path / "run", data_root=tmp_path, limit=3)
    scores = run.scores.set_index(["method", "metric"])
    assert not run.outcome.failed
    # of photographs 7, 9 and 25 the pairs are dog; person, dog, book; none. Regions make each its own ground truth
    for metric in ("pointing_game", "energy_pointing_game", "pixel_accuracy"):
        row = scores.loc[("oracle", metric)]
        assert (row["value"], row["n"], row["n_undefined"]) == (1.0, 4, 0)
    assert scores.loc[("cam", "seed_miou"), "n"] == 3  # images count, also the one without a label


# -- real samples ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Path:
    if "XAIBENCH_SAMPLE_DATA" not in os.environ:
        pytest.skip("XAIBENCH_SAMPLE_DATA does not point at the sample files")
    return Path(os.environ["XAIBENCH_SAMPLE_DATA"])


@pytest.fixture(scope="module")
def expected(real: Path) -> dict[str, Any]:
    facts = json.loads((real / "expected.json").read_text())["coco_val2017"]
    return {file.removesuffix(".jpg"): of_file for file, of_file in facts.items()}


def samples_of(real: Path, expected: dict[str, Any], name: str, **options: Any) -> dict[str, Sample]:
    samples = {s.id: s for s in load_dataset(name, data_root=real, **options)}
    assert samples.keys() == expected.keys()
    return samples


def test_the_classes_are_those_of_the_lists(real: Path) -> None:
    facts = json.loads((real / "expected.json").read_text())
    assert list(CLASSES) == facts["coco_names"]
    listed = json.loads((real / "label_lists.json").read_text())["coco80"]
    assert listed == [{"id": n, "name": name} for n, name in zip(CATEGORIES, CLASSES, strict=True)]
    assert list(CATEGORIES) == facts["coco_category_ids"]


@pytest.mark.parametrize("name", ["coco14", "coco17"])
@pytest.mark.parametrize("crowd", CROWDS)
def test_labels_and_regions_of_the_samples(real: Path, expected: dict[str, Any], name: str, crowd: Crowd) -> None:
    suffix = {"keep": "all", "drop": "nocrowd"}[crowd]
    for key, sample in samples_of(real, expected, name, crowd=crowd).items():
        facts = expected[key]
        assert sample.size == tuple(facts["size_wh"])
        assert names(sample.labels) == facts[f"labels_{suffix}"]
        assert sample.regions is not None
        assert {str(label): int(r.sum()) for label, r in sample.regions.items()} == facts[f"union_pixels_{suffix}"]


@pytest.mark.parametrize("name", ["coco14", "coco17"])
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_masks_of_the_samples(real: Path, expected: dict[str, Any], name: str, overlap: Overlap) -> None:
    for key, sample in samples_of(real, expected, name, crowd="drop", overlap=overlap).items():
        facts = expected[key]["torchvision_semantic" if overlap == "void" else "painter_semantic"]
        assert sample.mask is not None
        assert hashlib.sha1(sample.mask.tobytes()).hexdigest() == facts["sha1"]
        values, counts = np.unique(sample.mask, return_counts=True)
        found = {str(v): c for v, c in zip(values.tolist(), counts.tolist(), strict=True)}
        if overlap == "void":
            assert (found["0"], found.get("255", 0)) == (facts["bg"], facts["void"])
        else:
            assert found == facts["counts"]
