"""ImageNet-Segmentation: real samples where XAIBENCH_SAMPLE_DATA points at them, and files that these tests write."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

import xaibench
from xaibench.core import registry
from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.data import Dataset, load_dataset
from xaibench.data.datasets.imagenet import CLASSES
from xaibench.data.preprocess import Preprocess

# id: label, (width, height). A pug is label 254: its mask value 255 is void in a mask of bytes. The last is no class
SAMPLES = {
    "n02110958_1": (254, (20, 30)), "n01440764_77": (0, (32, 24)), "n15075141_123": (999, (16, 16)),
    "n00001740_5": (None, (18, 22)),
}  # fmt: skip
PUG = 254


def picture(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """[H, W, 3]"""
    return np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def outlined(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """[H, W]: more of the height than of the width."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[2:12, 4:9] = 1
    return mask


def write_file(
    path: Path, samples: list[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]], compression: str | None = "gzip"
) -> Path:
    """Write samples as MATLAB 7.3 does: columns of references, axes backwards, a header of 512 bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        value, stored = file.create_group("value"), file.create_group("#refs#")
        columns = {
            field: value.create_dataset(field, (len(samples), 1), h5py.ref_dtype)
            for field in ("img", "gt", "id", "target")
        }
        for index, (name, image, mask) in enumerate(samples):
            cell = stored.create_dataset(f"c{index}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = stored.create_dataset(f"m{index}", data=mask.T, compression=compression).ref
            arrays = {
                "img": stored.create_dataset(f"i{index}", data=image.T, compression=compression),
                "gt": cell,
                "id": stored.create_dataset(f"s{index}", data=np.array([[ord(c)] for c in name], np.uint16)),
                "target": stored.create_dataset(f"t{index}", data=np.zeros((1, 1))),
            }
            for field, array in arrays.items():
                columns[field][index, 0] = array.ref
    with path.open("r+b") as header:
        header.write(b"MATLAB 7.3 MAT-file".ljust(512))
    return path


def standard() -> list[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    return [(name, picture(i, size), outlined(size)) for i, (name, (_, size)) in enumerate(SAMPLES.items())]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_file(tmp_path / "imagenet_seg/gtsegs_ijcv.mat", standard())
    return tmp_path


def imagenet_seg(root: Path, **options: Any) -> Dataset:
    return load_dataset("imagenet_seg", data_root=root, **options)


# -- what is read ---------------------------------------------------------------------------------------------------


def test_samples(root: Path) -> None:
    dataset = imagenet_seg(root)
    assert dataset.ids == list(SAMPLES)
    assert dataset.class_names == CLASSES
    for index, sample in enumerate(dataset):
        label, size = SAMPLES[sample.id]
        assert sample.size == size
        np.testing.assert_array_equal(np.asarray(sample.image), picture(index, size))
        assert np.flatnonzero(sample.labels).tolist() == ([] if label is None else [label])
        assert sample.labels.shape == sample.ignore.shape == (1000,)
        assert not sample.ignore.any()
        assert sample.mask is not None
        assert sample.mask.dtype == np.int16
        np.testing.assert_array_equal(sample.mask, outlined(size) * np.int16(1001 if label is None else label + 1))
        assert sample.source == f"{root}/imagenet_seg/gtsegs_ijcv.mat: {sample.id}"


def test_a_file_without_compression_reads_the_same(root: Path, tmp_path: Path) -> None:
    write_file(tmp_path / "plain/gtsegs_ijcv.mat", standard(), compression=None)
    for one, other in zip(imagenet_seg(root), imagenet_seg(tmp_path / "plain"), strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))


def test_data_root_may_be_the_folder_or_its_parent(root: Path) -> None:
    assert imagenet_seg(root).revision == imagenet_seg(root / "imagenet_seg").revision


def _mask(dataset: Dataset, index: int) -> npt.NDArray[Any]:
    mask = dataset[index].mask
    assert mask is not None
    return mask


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_reads_the_same(root: Path) -> None:
    dataset = imagenet_seg(root)
    here = [_mask(dataset, index) for index in range(4)]
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sending.send([_mask(dataset, index) for index in range(4)]))
    process.start()
    assert receiving.poll(60)
    for one, other in zip(here, receiving.recv(), strict=True):
        np.testing.assert_array_equal(one, other)
    process.join()


def test_a_pickled_copy_reads_the_same(root: Path) -> None:
    dataset = imagenet_seg(root)
    _mask(dataset, 0)
    copy = pickle.loads(pickle.dumps(dataset))
    for index in range(4):
        np.testing.assert_array_equal(_mask(dataset, index), _mask(copy, index))


# -- memory ---------------------------------------------------------------------------------------------------------

# VmHWM, not ru_maxrss: a new process inherits the latter from the process that started it
PASS = """\
import re, sys
from pathlib import Path
from xaibench.data import load_dataset
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
dataset = load_dataset("imagenet_seg", data_root=sys.argv[1])
for index in range(5):
    dataset[index]
before = peak()
kept = [dataset[index] if sys.argv[2] == "keep" else dataset[index].id for index in range(len(dataset))]
print(len(kept), (peak() - before) / 1024)
"""


def growth(root: Path, what: str) -> tuple[int, float]:
    """Number of samples read in another process, and the megabytes by which its peak of memory grew meanwhile."""
    found = subprocess.run([sys.executable, "-c", PASS, str(root), what], check=True, capture_output=True, text=True)
    count, megabytes = found.stdout.split()
    return int(count), float(megabytes)


def many(root: Path, count: int, side: int) -> None:
    image, mask = picture(0, (side, side)), outlined((side, side))
    names = [f"n01440764_{index}" for index in range(count)]
    path = write_file(root / "gtsegs_ijcv.mat", [(name, image, mask) for name in names], compression=None)
    assert path.stat().st_size > count * 4 * side**2


@pytest.mark.slow
def test_memory_is_flat_over_2000_photographs(tmp_path: Path) -> None:
    many(tmp_path, 2000, 200)  # 320 MB
    count, megabytes = growth(tmp_path, "read")
    assert count == 2000
    assert megabytes < 100
    assert growth(tmp_path, "keep")[1] > 250  # what the measurement sees when a pass keeps what it reads


def test_what_was_read_is_not_kept(tmp_path: Path) -> None:
    """The same in small: of what Python allocates, since this process has seen higher peaks."""
    many(tmp_path, 60, 300)
    dataset = imagenet_seg(tmp_path)
    dataset[0]
    megabytes = {}
    for kept in ("nothing", "all"):
        tracemalloc.start()
        samples = [dataset[index] if kept == "all" else dataset[index].id for index in range(60)]
        megabytes[kept] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        assert len(samples) == 60
    assert megabytes["nothing"] < 3
    assert megabytes["all"] > 60 * 300**2 * 2 / 1e6  # the masks


# -- the revision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", None])
def test_revision_is_that_of_the_content(tmp_path: Path, compression: str | None) -> None:
    file = write_file(tmp_path / "a/gtsegs_ijcv.mat", standard(), compression)
    first = imagenet_seg(tmp_path / "a").revision
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert imagenet_seg(tmp_path / "b").revision == first
    found = {first}
    for change in (
        lambda s: s[1][2].__setitem__((3, 5), 0),  # one pixel of one mask
        lambda s: s.reverse(),
        lambda s: s.__setitem__(0, ("n02110958_2", *s[0][1:])),
        lambda s: s.pop(),
        lambda s: s.__setitem__(0, (s[0][0], picture(0, (40, 30)), outlined((40, 30)))),
    ):
        samples = standard()
        change(samples)
        write_file(file, samples, compression)
        found.add(imagenet_seg(tmp_path / "a").revision)
    assert len(found) == 6


def test_revision_reads_no_photograph(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a fraction of a pass: the masks as they are stored, and of photographs only how large they are."""
    dataset = imagenet_seg(root)
    expected = imagenet_seg(root).revision
    read = h5py.Dataset.__getitem__

    def watched(self: Any, key: Any) -> Any:
        assert self.ndim != 3, "a photograph was read"
        assert self.dtype != np.uint8, "a mask was unpacked"
        return read(self, key)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    assert dataset.revision == expected


# -- what is refused ------------------------------------------------------------------------------------------------


def with_second(image: npt.NDArray[Any] | None = None, mask: npt.NDArray[Any] | None = None) -> Callable[[Path], Any]:
    def apply(path: Path) -> None:
        samples = standard()
        name, own_image, own_mask = samples[1]
        samples[1] = name, own_image if image is None else image, own_mask if mask is None else mask
        write_file(path, samples)

    return apply


def without_second(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["value/gt"][1, 0] = h5py.Reference()


BREAKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a mask of another size": (
        with_second(mask=outlined((32, 23))),
        r"the mask of n01440764_77 is 32x23, its photograph 32x24 \(width x height\)",
    ),
    "a turned mask": (with_second(mask=outlined((24, 32))), "the mask of n01440764_77 is 24x32, its photograph 32x24"),
    "a mask of several objects": (with_second(mask=3 * outlined((32, 24))), "holds 3; allowed: 0 and 1"),
    "a grey photograph": (
        with_second(image=picture(1, (32, 24))[..., 0]),
        r"the image of n01440764_77 is uint8 \(32, 24\)",
    ),
    "a photograph of floats": (
        with_second(image=picture(1, (32, 24)) / 255),
        r"is float64 \(3, 32, 24\); uint8 \(3, W, H\)",
    ),
    "no mask": (without_second, r"n01440764_77 cannot be read \("),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_sample_is_named_and_costs_one_sample(root: Path, kind: str) -> None:
    file = root / "imagenet_seg/gtsegs_ijcv.mat"
    damage, sentence = BREAKS[kind]
    damage(file)
    dataset = imagenet_seg(root)
    with pytest.raises(SampleError, match=sentence) as caught:
        dataset[1]
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert [s.id for s in (dataset[0], *dataset[2:])] == [name for name in SAMPLES if name != "n01440764_77"]
    assert len(dataset.revision) == 16


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def without_ids(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["value/id"]


def fewer_masks(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        rows = file["value/gt"][:2]
        del file["value/gt"]
        file["value"].create_dataset("gt", data=rows, dtype=h5py.ref_dtype)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "words": (lambda p: p.write_text("<html>404</html>"), r"cannot be read as gtsegs_ijcv\.mat \("),
    "half a file": (cut, r"cannot be read as gtsegs_ijcv\.mat \("),
    "no ids": (without_ids, r"cannot be read as gtsegs_ijcv\.mat \(.*'id'"),
    "columns of two lengths": (fewer_masks, "its columns differ in length: .*'gt': 2"),
    "a sample twice": (lambda p: write_file(p, [*standard(), standard()[0]]), "holds 'n02110958_1' twice"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_broken_file_is_one_sentence(root: Path, kind: str) -> None:
    file = root / "imagenet_seg/gtsegs_ijcv.mat"
    damage, sentence = FILES[kind]
    damage(file)
    with pytest.raises(UsageError, match=sentence) as caught:
        imagenet_seg(root)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_is_missing_is_said_with_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        MissingError, match=r"neither .*imagenet_seg/gtsegs_ijcv\.mat nor .* get it from calvin-vision\.net"
    ):
        imagenet_seg(tmp_path)


def test_a_missing_package_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingError, match=r'h5py: pip install "xaibench\[data\]"') as caught:
        imagenet_seg(root)
    assert caught.value.exit_code == 4


def test_what_is_said_of_the_official_file() -> None:
    cls = registry.datasets["imagenet_seg"].function
    assert cls.official() == {"all": 4276}
    assert "calvin-vision.net" in cls.address
    assert "no redistribution" in cls.licence


# -- the protocol ---------------------------------------------------------------------------------------------------

SUITE = """\
name: tiny
dataset: {name: imagenet_seg}
models:
  - {name: test_resnet, activation: softmax, input: {size: 32, resize: squash}}
explain: predicted
methods: [grad_cam, oracle]
metrics:
  - {name: pixel_accuracy, truth: foreground}
  - {name: miou, truth: foreground}
  - {name: map, truth: foreground}
  - pointing_game
"""


def test_the_protocol_explains_what_is_predicted_and_compares_with_the_object(root: Path, tmp_path: Path) -> None:
    """An untrained network predicts none of the four; the foreground does not ask."""
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE)
    run = xaibench.run(suite, out=tmp_path / "run", data_root=root)
    assert not run.outcome.failed
    scores = run.scores.set_index(["method", "metric"])
    for metric in ("pixel_accuracy", "miou", "map"):
        assert scores.loc[("grad_cam", metric), ["n", "n_undefined"]].tolist() == [4, 0]
    # the predicted label has no pixel: what asks for it is undefined, and its oracle marks nothing
    assert scores.loc[("grad_cam", "pointing_game"), ["n", "n_undefined"]].tolist() == [0, 4]
    geometry = Preprocess((32, 32), "squash")
    masks = [geometry.mask(mask) for mask in (_mask(imagenet_seg(root), index) for index in range(4))]
    background = sum(int((mask == 0).sum()) for mask in masks)
    assert scores.loc[("oracle", "pixel_accuracy"), "value"] == pytest.approx(background / (4 * 32 * 32))


def test_the_label_254_can_be_its_own_target(root: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        SUITE.replace("explain: predicted", "explain: target").replace("truth: foreground", "truth: label")
    )
    run = xaibench.run(suite, out=tmp_path / "run", data_root=root, limit=2)
    scores = run.scores.set_index(["method", "metric"])
    for metric in ("pixel_accuracy", "miou", "map", "pointing_game"):
        row = scores.loc[("oracle", metric)]
        assert (row["value"], row["n"], row["n_undefined"]) == (pytest.approx(1.0), 2, 0)


# -- real samples ---------------------------------------------------------------------------------------------------


def test_the_samples() -> None:
    if "XAIBENCH_SAMPLE_DATA" not in os.environ:
        pytest.skip("XAIBENCH_SAMPLE_DATA does not point at the sample files")
    real = Path(os.environ["XAIBENCH_SAMPLE_DATA"])
    expected = {facts["id"]: facts for facts in json.loads((real / "expected.json").read_text())["imagenet_seg"]}
    dataset = imagenet_seg(real)
    assert dataset.ids == list(expected)
    squash = Preprocess((224, 224), "squash")
    labels = {}
    for sample, facts in zip(dataset, expected.values(), strict=True):
        assert sample.size == tuple(facts["size_wh"])
        assert hashlib.sha1(np.asarray(sample.image).tobytes()).hexdigest() == facts["img_sha1"]
        assert sample.mask is not None
        foreground = (sample.mask > 0).astype(np.uint8)
        assert int(foreground.sum()) == facts["fg_pixels"]
        assert hashlib.sha1(foreground.tobytes()).hexdigest() == facts["mask_sha1"]
        assert int((squash.mask(sample.mask) > 0).sum()) == facts["fg_pixels_224_nearest"]
        (labels[sample.id],) = np.flatnonzero(sample.labels).tolist()
    assert labels == {"n01608432_73": 21, "n02109961_91": 248, "n01560419_198": 16, "n02110341_1": 251}
