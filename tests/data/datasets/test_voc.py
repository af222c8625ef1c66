"""VOC: real samples where XAIBENCH_SAMPLE_DATA points at them, and a small tree that these tests write themselves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import xaibench
from tests.support.trees import (
    BUS,
    CAT,
    CHAIR,
    DOG,
    PALETTE,
    PERSON,
    SIZE,
    Mask,
    drawn,
    palette_image,
    truncate,
    write_tree,
)
from xaibench.core import registry
from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.core.yaml.document import ProblemsError
from xaibench.data import Dataset, Sample, load_dataset
from xaibench.data.datasets.voc import Difficult
from xaibench.data.reading.voc_files import CLASSES, MASK_COLOURS, MASK_VALUES, read_mask, read_objects
from xaibench.suite import find_suite, load_suite

RULES: tuple[Difficult, ...] = get_args(Difficult)


def names(vector: npt.NDArray[np.uint8]) -> list[int]:
    return np.flatnonzero(vector).tolist()


# -- a tree of our own ----------------------------------------------------------------------------------------------

EXPECTED = {
    "positive": {"2007_000001": [DOG, PERSON], "2007_000002": [CAT, CHAIR], "2007_000003": [BUS]},
    "negative": {"2007_000001": [DOG], "2007_000002": [CAT, CHAIR], "2007_000003": []},
    "ignore": {"2007_000001": [DOG], "2007_000002": [CAT, CHAIR], "2007_000003": []},
}
IGNORED = {"2007_000001": [PERSON], "2007_000002": [], "2007_000003": [BUS]}


def painted(mask: Mask) -> Image.Image:
    """The same mask as a picture in VOC's colours."""
    return Image.fromarray(np.array([PALETTE[v] for v in mask.flatten().tolist()], np.uint8).reshape(*mask.shape, 3))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "VOCdevkit" / "VOC2012")


def voc(tree: Path, **options: Any) -> Dataset:
    return load_dataset("voc12", data_root=tree, **options)


# -- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_labels(tree: Path, rule: Difficult) -> None:
    samples = list(voc(tree, difficult=rule))
    assert {s.id: names(s.labels) for s in samples} == EXPECTED[rule]
    ignored = IGNORED if rule == "ignore" else {name: [] for name in IGNORED}
    assert {s.id: names(s.ignore) for s in samples} == ignored
    for sample in samples:
        assert sample.labels.dtype == sample.ignore.dtype == np.uint8
        assert sample.labels.shape == sample.ignore.shape == (20,)


def test_images_and_masks(tree: Path) -> None:
    dataset = voc(tree)
    assert dataset.ids == list(SIZE)
    assert dataset.class_names == CLASSES
    for sample in dataset:
        assert sample.image.mode == "RGB"
        assert sample.size == SIZE[sample.id]
        assert sample.mask is not None
        assert sample.mask.dtype == np.uint8
        np.testing.assert_array_equal(sample.mask, drawn(sample.id))
        assert sample.source == str(tree / "JPEGImages" / f"{sample.id}.jpg")
    assert [s.id for s in dataset[1:]] == dataset.ids[1:]
    assert dataset[-1].id == "2007_000003"


def test_grey_photographs_become_rgb(tree: Path) -> None:
    path = tree / "JPEGImages/2007_000001.jpg"
    Image.open(path).convert("L").save(path)
    channels = np.asarray(voc(tree)[0].image)
    assert channels.shape == (30, 40, 3)
    np.testing.assert_array_equal(channels[..., 0], channels[..., 2])


def test_the_colours_are_those_of_the_development_kit() -> None:
    assert {int(v): tuple(c.tolist()) for v, c in zip(MASK_VALUES, MASK_COLOURS, strict=True)} == PALETTE


@pytest.mark.parametrize("form", ["P", "L", "RGB", "grey palette", "short palette"])
def test_a_mask_reads_the_same_in_every_form(tmp_path: Path, form: str) -> None:
    mask = MASK_VALUES.reshape(2, 11)
    image = {
        "P": palette_image(mask),
        "L": Image.fromarray(mask),
        "RGB": painted(mask),
        "grey palette": palette_image(mask, {v: (v, v, v) for v in range(256)}),
        "short palette": Image.frombytes("P", (11, 2), mask.tobytes()),
    }[form]
    if form == "short palette":
        image.putpalette([channel for value in range(21) for channel in PALETTE[value]])
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", (11, 2)), mask)


def test_classification_needs_no_masks(tree: Path) -> None:
    shutil.rmtree(tree / "SegmentationClass")
    dataset = voc(tree, masks=False)
    assert dataset.ids == ["2007_000002", "2007_000001"]  # ImageSets/Main, in its order
    assert not dataset.has_masks
    assert [s.mask for s in dataset] == [None, None]


def test_who_offers_masks(tree: Path) -> None:
    for name in ("voc12", "voc07"):
        entry = registry.datasets[name]
        assert entry.masks_with({})
        assert entry.masks_with({"masks": True})
        assert not entry.masks_with({"masks": False})
    assert voc(tree).has_masks


@pytest.mark.parametrize("spelling", ["train_aug", "trainaug"])
def test_train_aug_prefers_the_augmented_masks(tree: Path, spelling: str) -> None:
    (tree / "SegmentationClassAug").mkdir()
    Image.fromarray(np.full((30, 40), 12, np.uint8)).save(tree / "SegmentationClassAug/2007_000001.png")
    lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in SIZE]
    (tree / f"ImageSets/Segmentation/{spelling}.txt").write_text("\n".join(lines))
    augmented, own, _ = voc(tree, split="train_aug")
    assert augmented.id == "2007_000001"
    np.testing.assert_array_equal(augmented.mask, 12)
    np.testing.assert_array_equal(own.mask, drawn("2007_000002"))
    np.testing.assert_array_equal(voc(tree)[0].mask, drawn("2007_000001"))  # other splits do not look there
    assert voc(tree, split="train_aug", masks=False).ids == list(SIZE)


def test_data_root_may_be_any_of_three(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = [tree, tree.parent, tree.parent.parent]
    assert len({voc(root).revision for root in roots}) == 1
    monkeypatch.chdir(tree)
    assert voc(Path()).ids == list(SIZE)
    with pytest.raises(MissingError, match="JPEGImages; unpack VOCtrainval_06-Nov-2007"):
        load_dataset("voc07", data_root=tree, split="val")  # a tree of the other year is not taken for this one


def test_voc07_reads_its_own_tree(tmp_path: Path) -> None:
    write_tree(tmp_path / "VOC2007")
    dataset = load_dataset("voc07", data_root=tmp_path, split="val")
    assert {s.id: names(s.labels) for s in dataset} == EXPECTED["positive"]


# -- the revision ---------------------------------------------------------------------------------------------------


def test_revision_is_that_of_the_content(tree: Path, tmp_path: Path) -> None:
    first = voc(tree).revision
    shutil.copytree(tree, tmp_path / "elsewhere")
    assert voc(tmp_path / "elsewhere").revision == first
    others = [voc(tree, difficult="ignore"), voc(tree, masks=False), voc(tree, split="train")]
    assert len({first, *(other.revision for other in others)}) == 4


@pytest.mark.parametrize("file", ["Annotations/2007_000002.xml", "SegmentationClass/2007_000002.png"])
def test_revision_sees_a_changed_annotation(tree: Path, file: str) -> None:
    before, unrelated = voc(tree), voc(tree, split="train").revision
    kept = before.revision
    content = bytearray((tree / file).read_bytes())
    content[-2] ^= 1
    (tree / file).write_bytes(content)
    assert voc(tree).revision != kept
    assert before.revision == kept  # computed once per data set
    assert voc(tree, split="train").revision == unrelated
    (tree / file).unlink()
    assert len({voc(tree).revision, kept, unrelated}) == 3


def test_revision_sees_another_photograph(tree: Path) -> None:
    before = voc(tree).revision
    path = tree / "JPEGImages/2007_000001.jpg"
    Image.open(path).resize((80, 60)).save(path)
    larger = voc(tree).revision
    path.unlink()
    assert len({before, larger, voc(tree).revision}) == 3


# -- what is refused ------------------------------------------------------------------------------------------------


def replace(old: str, new: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(path.read_text().replace(old, new))


def save(image: Image.Image) -> Callable[[Path], Any]:
    return lambda path: image.save(path)


def with_value(value: int) -> Image.Image:
    mask = drawn("2007_000001")
    mask[7, 9] = value
    return Image.fromarray(mask)


SORTED = {**PALETTE, 12: PALETTE[15], 15: PALETTE[12]}
XML, JPG, PNG = "Annotations/2007_000001.xml", "JPEGImages/2007_000001.jpg", "SegmentationClass/2007_000001.png"
BREAKS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no XML": (XML, Path.unlink, "cannot be read as XML .No such file"),
    "half an XML": (XML, truncate, "cannot be read as XML"),
    "a strange encoding": (XML, replace("<annotation>", "<?xml version='1.0' encoding='big5'?><annotation>"), "as XML"),
    "another XML": (XML, replace("annotation>", "html>"), "holds <html>, an <annotation> is needed"),
    "an unknown class": (XML, replace(">dog<", ">potted plant<"), "'potted plant'; did you mean 'pottedplant'.*tvmon"),
    "a nameless object": (XML, replace("<name>dog</name>", ""), "unknown class ''; allowed: aeroplane, "),
    "a strange flag": (XML, replace(">1</difficult>", ">maybe</difficult>"), "'maybe' of a person; allowed: 0, 1"),
    "no photograph": (JPG, Path.unlink, "cannot be read as an image .No such file"),
    "half a photograph": (JPG, truncate, "cannot be read as an image"),
    "text": (JPG, lambda path: path.write_text("<html>404</html>"), "cannot be read as an image"),
    "no mask": (PNG, Path.unlink, "cannot be read as a mask .No such file"),
    "half a mask": (PNG, truncate, "cannot be read as a mask"),
    "a small mask": (PNG, save(palette_image(drawn("2007_000001")[:-1])), "the mask is 40x29, its photograph 40x30"),
    "a turned mask": (PNG, save(palette_image(drawn("2007_000001").T.copy())), "30x40, its photograph 40x30"),
    "class 21": (PNG, save(with_value(21)), r"holds 21; allowed: 0\.\.20, 255"),
    "class 254": (PNG, save(with_value(254)), "holds 254;"),
    "a photograph for a mask": (PNG, save(Image.new("RGB", (40, 30), (7, 8, 9))), r"holds \[7, 8, 9\]"),
    "a mask of mode RGBA": (PNG, save(painted(drawn("2007_000001")).convert("RGBA")), "mode RGBA; allowed: P and L"),
    "a black and white mask": (PNG, save(Image.new("1", (40, 30))), "mode 1; allowed: P and L"),
    "a sorted palette": (PNG, save(palette_image(drawn("2007_000001"), SORTED)), "value 12 has VOC's colour of 15"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_file_is_named_and_costs_one_sample(tree: Path, kind: str) -> None:
    file, damage, sentence = BREAKS[kind]
    damage(tree / file)
    dataset = voc(tree)
    with pytest.raises(SampleError, match=sentence) as caught:
        dataset[0]
    assert str(tree / file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert [s.id for s in dataset[1:]] == list(SIZE)[1:]


@pytest.mark.parametrize(
    ("gone", "options"),
    [
        ("JPEGImages", {}),
        ("Annotations", {}),
        ("SegmentationClass", {}),
        ("ImageSets/Segmentation/val.txt", {}),
        ("ImageSets/Main/val.txt", {"masks": False}),
        ("ImageSets/Segmentation/train_aug.txt", {"split": "train_aug"}),
    ],
)
def test_what_is_missing_is_said_with_where_to_get_it(tree: Path, gone: str, options: dict[str, Any]) -> None:
    path = tree / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    with pytest.raises(MissingError) as caught:
        voc(tree, **options)
    message = str(caught.value)
    assert message.startswith("voc12: ")
    assert (gone if gone == "JPEGImages" else str(path)) in message
    assert "VOCtrainval_11-May-2012.tar of the PASCAL VOC 2012 site" in message
    assert ("SegmentationClassAug" in message) == ("split" in options)
    assert "\n" not in message
    assert caught.value.exit_code == 4


def test_an_empty_folder_is_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match=f"none of {tmp_path}/VOCdevkit/VOC2012, .* unpack .* in {tmp_path}"):
        voc(tmp_path)
    monkeypatch.delenv("XAIBENCH_DATA_ROOT", raising=False)
    with pytest.raises(MissingError, match="--data-root"):
        load_dataset("voc12")


@pytest.mark.parametrize("options", [{"split": "test"}, {"difficult": "maybe"}, {"masks": "no"}, {"year": 2012}])
def test_unknown_options_are_refused(tree: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        voc(tree, **options)


def test_a_list_that_repeats_itself_is_refused(tree: Path) -> None:
    (tree / "ImageSets/Segmentation/val.txt").write_text("2007_000001\n2007_000002\n2007_000001\n")
    with pytest.raises(UsageError, match=r"val.txt names '2007_000001' twice"):
        voc(tree)


# -- the suite ------------------------------------------------------------------------------------------------------

TINY = ["models.0.name=test_resnet", "models.0.input.size=64"]
MULTI_LABEL = registry.metric_groups()["multi_label"]


def run(tree: Path, out: Path, *overrides: str, batch_size: int = 2) -> xaibench.Run:
    return xaibench.run("voc12", data_root=tree, out=out, batch_size=batch_size, overrides=[*TINY, *overrides])


def test_the_suite_is_sound() -> None:
    suite = load_suite(find_suite("voc12"))
    assert suite.dataset.name == suite.name == "voc12"
    assert suite.models[0].checkpoint is None
    with pytest.raises(ProblemsError) as caught:
        load_suite(find_suite("voc12"), ["dataset.masks=false"])
    needing = {"method 'oracle'", "metric 'pointing_game'", "metric 'energy_pointing_game'"}
    assert {p.message.split(" needs masks")[0] for p in caught.value.problems} == needing


def test_the_suite_runs_where_nothing_is_detected(tree: Path, tmp_path: Path) -> None:
    result = run(tree, tmp_path / "run", "threshold=1.0")
    scores = result.scores.set_index(["method", "metric"])
    assert not result.outcome.failed
    assert scores["untrained"].all()
    assert (scores["n"] + scores["n_undefined"] == 5).all()  # the present labels of the three photographs
    of_others = scores.loc[(slice(None), [m for m in MULTI_LABEL if m.endswith("of_others")]), :]
    assert len(of_others) == 2 * 15
    assert (of_others["value"] == 0).all()  # there is no other detected label
    assert (scores.loc[(slice(None), MULTI_LABEL), "n"] == 5).all()
    # padding, resizing and void: the ground truth still points at itself, and the chair that was not drawn is undefined
    for metric in ("pointing_game", "energy_pointing_game"):
        row = scores.loc[("oracle", metric)]
        assert (row["value"], row["n"], row["n_undefined"]) == (1.0, 4, 1)
    assert run(tree, tmp_path / "run", "threshold=1.0").outcome.computed == 0


def test_explaining_what_is_detected_where_nothing_is(tree: Path, tmp_path: Path) -> None:
    scores = run(tree, tmp_path / "run", "threshold=1.0", "explain=detected").scores
    assert len(scores) == 15 * 10
    assert (scores["n"] == 0).all()
    assert scores["value"].isna().all()


def test_difficult_labels_are_not_explained_when_ignored(tree: Path, tmp_path: Path) -> None:
    few = ["methods=[oracle]", "metrics=[sparseness]", "leaderboard={}"]
    counts = {
        rule: int((scores := run(tree, tmp_path / rule, *few, f"dataset.difficult={rule}").scores)["n"].sum())
        + int(scores["n_undefined"].sum())
        for rule in RULES
    }
    assert counts == {"positive": 5, "ignore": 3, "negative": 3}


def test_a_bad_sample_fails_the_run_unless_it_may(tree: Path, tmp_path: Path) -> None:
    truncate(tree / JPG)
    few = ["methods=[cam]", "metrics=[sparseness]", "leaderboard={}"]
    with pytest.raises(SampleError, match=r"2007_000001\.jpg"):
        run(tree, tmp_path / "run", *few)
    result = run(tree, tmp_path / "run", *few, "max_bad_samples=1")
    assert list(result.outcome.bad) == ["2007_000001"]
    assert result.scores[["n", "n_error"]].to_numpy().tolist() == [[3, 1]]


# -- real samples ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Path:
    if "XAIBENCH_SAMPLE_DATA" not in os.environ:
        pytest.skip("XAIBENCH_SAMPLE_DATA does not point at the sample files")
    return Path(os.environ["XAIBENCH_SAMPLE_DATA"])


@pytest.fixture(scope="module")
def expected(real: Path) -> Any:
    return json.loads((real / "expected.json").read_text())


def samples_of(real: Path, release: Literal["VOC2007", "VOC2012"], **options: Any) -> dict[str, Sample]:
    name, splits = {"VOC2007": ("voc07", ["test"]), "VOC2012": ("voc12", ["train", "val"])}[release]
    return {s.id: s for split in splits for s in load_dataset(name, data_root=real, split=split, **options)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("release", ["VOC2007", "VOC2012"])
def test_labels_of_the_samples(real: Path, expected: Any, release: Any, rule: Difficult) -> None:
    samples = samples_of(real, release, masks=False, difficult=rule)
    annotations = expected[release]["annotations"]
    assert samples.keys() == annotations.keys()
    for name, facts in annotations.items():
        assert names(samples[name].labels) == facts["present_any" if rule == "positive" else "present_nondifficult"]
        assert names(samples[name].ignore) == (facts["difficult_only"] if rule == "ignore" else [])


@pytest.mark.parametrize(("release", "splits"), [("VOC2007", ["test"]), ("VOC2012", ["train", "val", "trainval"])])
def test_labels_agree_with_the_lists_of_classes(real: Path, release: str, splits: list[str]) -> None:
    """`<class>_<split>.txt` holds 1, 0 (difficult objects only) or -1."""
    for split in splits:
        loaded = load_dataset(
            {"VOC2007": "voc07", "VOC2012": "voc12"}[release],
            data_root=real,
            split=split,
            masks=False,
            difficult="ignore",
        )
        table = np.array([sample.labels.astype(int) - (1 - sample.labels) * (1 - sample.ignore) for sample in loaded])
        for label, name in enumerate(CLASSES):
            lines = (real / "VOCdevkit" / release / "ImageSets/Main" / f"{name}_{split}.txt").read_text().split()
            flags = dict(zip(lines[::2], map(int, lines[1::2]), strict=True))
            assert flags == dict(zip(loaded.ids, table[:, label].tolist(), strict=True))


def test_masks_of_the_samples(real: Path, expected: Any) -> None:
    samples = samples_of(real, "VOC2012") | samples_of(real, "VOC2007", masks=False)
    for name, facts in expected["VOC2012"]["masks"].items():
        sample = samples[name]
        assert sample.mask is not None
        assert sample.mask.dtype == np.uint8
        assert sample.mask.shape == tuple(facts["size_wh"][::-1])
        assert sample.size == tuple(facts["size_wh"])
        assert hashlib.sha1(sample.mask.tobytes()).hexdigest() == facts["sha1"]
        values, counts = np.unique(sample.mask, return_counts=True)
        assert {str(v): c for v, c in zip(values.tolist(), counts.tolist(), strict=True)} == facts["counts"]
        assert [v - 1 for v in values.tolist() if 0 < v < 255] == facts["labels_from_mask"]
        path = real / f"VOCdevkit/VOC2012/SegmentationClass/{name}.png"
        with Image.open(path) as file:
            assert file.mode == facts["mode"]
    assert {name for name, sample in samples.items() if sample.mask is not None} == set(expected["VOC2012"]["masks"])
    assert expected["VOC2007"]["masks"] == {}


def test_splits_of_the_samples(real: Path) -> None:
    assert load_dataset("voc12", data_root=real).ids == ["2007_004189", "2008_002536"]
    aug = load_dataset("voc12", data_root=real, split="train_aug")
    assert aug.ids == load_dataset("voc12", data_root=real, split="train").ids == ["2011_000003", "2011_000006"]
    for root in (real / "VOCdevkit", real / "VOCdevkit/VOC2012"):
        both = load_dataset("voc12", data_root=root, split="trainval").ids
        assert both == ["2007_004189", "2008_002536", *aug.ids]
    with pytest.raises(MissingError, match=r"VOC2007/SegmentationClass is missing"):
        load_dataset("voc07", data_root=real)


def test_difficult_objects_beside_others(real: Path) -> None:
    """Two of the five chairs of 000005 are difficult: the class is there, and not difficult."""
    present, easy = read_objects(real / "voc_extra_xml/000005.xml")
    assert np.flatnonzero(present).tolist() == np.flatnonzero(easy).tolist() == [CHAIR]
