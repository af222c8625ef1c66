"""Reading 2,000 photographs through the data set, the workers and the transform, beside plain PIL and numpy."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.ratios import report, seconds
from xaibench.data import Dataset, load_dataset
from xaibench.data.loader import chunks, read_ahead
from xaibench.data.preprocess import Preprocess

COUNT = 2000
BATCH = 16
PREPROCESS = Preprocess((224, 224))
MEAN, STD = np.float32(PREPROCESS.mean), np.float32(PREPROCESS.std)
OBJECT = "<annotation><object><name>dog</name><difficult>0</difficult></object></annotation>"
SHARE = 0.8  # of plain single-thread speed, per worker


def photograph(rng: np.random.Generator) -> Image.Image:
    """500 x 375, about 95 kB as JPEG of quality 95: blobs of all sizes and sensor noise, as busy as VOC's."""
    canvas = np.full((375, 500, 3), 120, np.float32)
    for cells, contrast in ((4, 90), (12, 50), (40, 25), (125, 14)):
        grid = (contrast * rng.uniform(-1, 1, (3 * cells // 4 + 2, cells + 2, 3))).astype(np.float32)
        layers = [Image.fromarray(grid[..., c]).resize((500, 375), Image.Resampling.BICUBIC) for c in range(3)]
        canvas += np.stack([np.asarray(layer) for layer in layers], 2)
    return Image.fromarray(np.clip(canvas + rng.normal(0, 5, canvas.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("voc") / "VOC2012"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    photographs = [photograph(rng) for _ in range(50)]
    names = [f"2012_{index:06d}" for index in range(COUNT)]
    for index, name in enumerate(names):
        shifted = np.roll(np.asarray(photographs[index % 50]), 7 * index, 1)
        Image.fromarray(shifted).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        (root / "Annotations" / f"{name}.xml").write_text(OBJECT)
    (root / "ImageSets/Main/val.txt").write_text("\n".join(names))
    return load_dataset("voc12", data_root=root, masks=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Both sides: OpenMP's threads wait by spinning, which on a busy machine is time taken from the workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plain(paths: list[Path]) -> None:
    """Read and transform images with PIL and numpy, in the fewest lines."""
    for path in paths:
        with Image.open(path) as file:
            small = file.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        pixels = (np.asarray(small, np.float32) / 255 - MEAN) / STD
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def ours(data: Dataset, samples: range, workers: int) -> None:
    """Start and end of the workers included, and what is done to a batch on the device."""
    read = 0
    with closing(read_ahead(data, PREPROCESS, chunks(samples, BATCH), workers=workers)) as stream:
        for batch in stream:
            read += len(PREPROCESS.floats(batch.images))
    assert read == len(samples)


@pytest.mark.parametrize("workers", [0, 1, 2])
def bench_loading(workers: int, data: Dataset) -> None:
    """In turns by quarters. The second line, in CPU time of all processes, holds on a machine that others use as well."""
    paths = [data.root / "JPEGImages" / f"{name}.jpg" for name in data.ids]  # type: ignore[attr-defined]
    plain(paths[:100])
    wall, cpu = np.zeros(2), np.zeros(2)
    for quarter in chunks(range(COUNT), COUNT // 4):
        works = (lambda own=quarter: ours(data, own, workers)), (lambda own=quarter: plain([paths[i] for i in own]))
        for kind, work in enumerate(works):
            before = cpu_seconds()
            wall[kind] += seconds(work)
            cpu[kind] += cpu_seconds() - before
    name = f"loading 500x375 JPEGs, {workers} workers"
    report(f"{name}: workers x seconds / plain decoding in one thread", max(workers, 1) * wall[0] / wall[1], 1 / SHARE)
    report(f"{name}: CPU seconds / plain decoding", cpu[0] / cpu[1], 1 / SHARE)


def cpu_seconds() -> float:
    """CPU seconds of this process and its ended children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
