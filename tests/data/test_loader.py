"""Reading ahead: the same batches for any number of workers, and what happens when something goes wrong in one."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import xaibench
from xaibench.core import registry
from xaibench.core.errors import SampleError, UsageError, WorkerError
from xaibench.data import Dataset, Sample, load_dataset, loader
from xaibench.data.batch import Batch
from xaibench.data.ground_truth import GroundTruth, Regions
from xaibench.data.loader import Reader, batches, chunks, read_ahead, worker_count
from xaibench.data.preprocess import Preprocess

CPU = torch.device("cpu")
SQUARE = Preprocess((32, 32))
ENTRY = registry.DatasetEntry("made_up", Dataset, "test", 1, ("a", "b"), ("test",), masks=True)
Change = Callable[[int], dict[str, Any]]


class MadeUp(Dataset):
    """Ten images of one colour each; `change` may replace fields of a sample, or raise."""

    entry = ENTRY

    def __init__(self, change: Change = lambda index: {}, count: int = 10) -> None:
        super().__init__(split="test")
        self.change, self.count = change, count

    @property
    def ids(self) -> list[str]:
        return [f"s{index}" for index in range(self.count)]

    @property
    def revision(self) -> str:
        return "1"

    def load(self, index: int) -> Sample:
        fields = {
            "image": Image.new("RGB", (40, 30), (index, 0, 0)),
            "labels": np.array([1, index % 2], np.uint8),
            "ignore": np.array([0, 0], np.uint8),
            "mask": np.full((30, 40), index, np.uint8),
            "source": f"/data/s{index}.jpg",
        }
        return Sample(f"s{index}", **(fields | self.change(index)))


def read(dataset: Dataset, workers: int, size: int = 4, geometry: Preprocess = SQUARE) -> list[Batch]:
    asked = chunks(range(len(dataset)), size)
    with closing(read_ahead(dataset, geometry, asked, workers=workers)) as stream:
        return list(stream)


def same(one: Batch, other: Batch) -> bool:
    parts = [(b.images, b.ground_truth.present, b.ground_truth.mask) for b in (one, other)]
    facts = [(b.ids, b.bad, b.samples) for b in (one, other)]
    return facts[0] == facts[1] and all(
        torch.equal(a, b) if a is not None and b is not None else a is b for a, b in zip(*parts, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_workers(workers: int) -> None:
    for dataset in (MadeUp(), load_dataset("shapes", samples=10)):
        one, other = read(dataset, 0), read(dataset, workers)
        assert [batch.samples for batch in one] == [range(0, 4), range(4, 8), range(8, 10)]
        assert [name for batch in one for name in batch.ids] == dataset.ids
        assert all(map(same, one, other))
        assert len(one) == len(other)


def test_what_a_batch_holds() -> None:
    batch = read(MadeUp(lambda index: {"ignore": np.array([index == 1, 0], np.uint8)}), 0)[0]
    assert batch.images.dtype == torch.uint8
    assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert batch.ground_truth.present.tolist() == [[True, False], [False, True], [True, False], [True, True]]
    assert batch.ground_truth.mask is not None
    assert batch.ground_truth.mask[3].unique().tolist() == [3]
    first, second = batch.halves()
    assert (first.ids, second.ids) == (["s0", "s1"], ["s2", "s3"])
    assert torch.equal(torch.cat([first.images, second.images]), batch.images)


def test_on_the_model_the_images_are_those_of_the_preprocessing() -> None:
    classifier = xaibench.load_classifier("test_resnet", num_classes=2, input={"size": 48, "resize": "fit_pad"})
    dataset = load_dataset("shapes", samples=6)
    geometry = classifier.geometry
    expected = torch.stack([geometry.image(sample.image) for sample in dataset])
    for dtype in (torch.float32, torch.float64):
        for workers in (0, 2):
            found = list(batches(dataset, geometry, chunks(range(6), 4), device=CPU, dtype=dtype, workers=workers))
            assert torch.equal(torch.cat([batch.images for batch in found]), expected.to(dtype))


def test_a_model_without_a_geometry_says_so() -> None:
    classifier = xaibench.Classifier(torch.nn.Conv2d(3, 2, 1), name="mine")
    with pytest.raises(UsageError, match=r"model mine: its input geometry is not known; give Classifier\(preprocess="):
        _ = classifier.geometry


def test_global_random_state_is_not_touched() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    read(MadeUp(), 0), read(MadeUp(), 2)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_workers_end_when_nobody_reads_on() -> None:
    stream = read_ahead(MadeUp(), SQUARE, chunks(range(10), 1), workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert not multiprocessing.active_children()


def test_reading_ahead_is_bounded() -> None:
    """At most two batches per worker are drawn early, since the caller may still change what it asks for."""
    drawn = []

    def asked() -> Any:
        for index in range(10):
            drawn.append(index)
            yield range(index, index + 1)

    for workers, most in ((0, 2), (2, 6)):
        drawn.clear()
        with closing(read_ahead(MadeUp(), SQUARE, asked(), workers=workers)) as stream:
            next(stream)
        assert len(drawn) <= most


# -- what goes wrong ------------------------------------------------------------------------------------------------


def raising(error: BaseException, at: int = 5) -> Change:
    def change(index: int) -> dict[str, Any]:
        if index == at:
            raise error
        return {}

    return change


def giving(**fields: Any) -> Change:
    return lambda index: fields if index == 5 else {}


BAD: dict[str, tuple[Change, str]] = {
    "unreadable": (raising(SampleError("/data/s5.jpg: truncated")), "/data/s5.jpg: truncated"),
    "no mask": (giving(mask=None), "/data/s5.jpg: has no mask, though its data set made_up has masks"),
    "a small mask": (
        giving(mask=np.zeros((30, 39), np.uint8)),
        "/data/s5.jpg: its mask is 39x30, the image 40x30 (width x height)",
    ),
    "grey": (
        giving(image=Image.new("L", (40, 30))),
        "/data/s5.jpg: an image of mode L; RGB or an array [H, W, C] is needed",
    ),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_sample_costs_itself_alone(kind: str, workers: int) -> None:
    change, sentence = BAD[kind]
    found = read(MadeUp(change), workers)
    assert [batch.bad for batch in found] == [[], [("s5", sentence)], []]
    assert [len(batch.ids) for batch in found] == [4, 3, 2]
    assert [len(batch.images) for batch in found] == [4, 3, 2]


def test_a_size_that_cannot_be_brought_to_the_model_is_a_bad_sample() -> None:
    change = giving(image=Image.new("RGB", (30, 30)), mask=np.zeros((30, 30), np.uint8))
    found = read(MadeUp(change), 0, geometry=Preprocess((30, 40), "none"))
    assert found[1].bad == [("s5", "/data/s5.jpg: resize: none, but the image is 30x30, not 40x30")]


def test_a_batch_of_bad_samples_only() -> None:
    def change(index: int) -> dict[str, Any]:
        raise SampleError(f"/data/s{index}.jpg: truncated")

    for workers in (0, 1):
        asked = chunks(range(10), 5)
        found = list(batches(MadeUp(change), SQUARE, asked, device=CPU, dtype=torch.float32, workers=workers))
        assert [(len(batch.ids), len(batch.bad)) for batch in found] == [(0, 5), (0, 5)]


def test_masks_of_a_data_set_that_declares_none_are_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MadeUp, "has_masks", property(lambda self: False))
    assert [batch.ground_truth.mask for batch in read(MadeUp(giving(mask=None)), 0)] == [None] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_whole_data_set_stays_one_sentence(workers: int) -> None:
    with pytest.raises(UsageError, match=r"\Amade_up: /data/labels.csv has changed\Z"):
        read(MadeUp(raising(UsageError("made_up: /data/labels.csv has changed"))), workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_programming_error_keeps_its_traceback(workers: int) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        read(MadeUp(raising(ZeroDivisionError("in a plug-in"))), workers)
    assert "in a plug-in" in str(caught.value)
    assert not multiprocessing.active_children()


def test_the_death_of_a_worker_is_one_sentence() -> None:
    coming: Future[Any] = Future()
    coming.set_exception(RuntimeError("DataLoader worker (pid(s) 77) exited unexpectedly"))
    with pytest.raises(WorkerError, match=r"died \(DataLoader worker \(pid\(s\) 77\).*--workers.*same command goes on"):
        loader._result(coming)
    coming = Future()
    coming.set_exception(RuntimeError("of a plug-in"))
    with pytest.raises(RuntimeError, match=r"\Aof a plug-in\Z"):
        loader._result(coming)


@pytest.mark.slow
def test_a_worker_that_is_killed() -> None:
    def change(index: int) -> dict[str, Any]:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    with pytest.raises(WorkerError, match="exited unexpectedly") as caught:
        read(MadeUp(change), 1)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_where_processes_cannot_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "START", "forkserver")
    dataset = load_dataset("shapes", samples=5)
    assert all(map(same, read(dataset, 0), read(dataset, 1)))
    with pytest.raises(UsageError, match=r"made_up cannot be sent to worker processes .*; use --workers 0"):
        read(MadeUp(), 1)
    monkeypatch.setattr(loader, "START", None)
    assert worker_count(None, "cuda", 1000) == 0


# -- how many -------------------------------------------------------------------------------------------------------


def test_as_many_workers_as_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "START", "fork")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert [worker_count(None, "cuda", batches) for batches in (0, 1, 3, 8, 1000)] == [0, 0, 1, 4, 5]
    assert [worker_count(None, "cpu", batches) for batches in (0, 1000)] == [0, 0]
    assert [worker_count(asked, device, 1) for asked in (0, 3) for device in ("cpu", "cuda")] == [0, 0, 3, 3]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert worker_count(None, "cuda", 1000) == loader.MOST_WORKERS


def test_a_reader_is_asked_for_ranges() -> None:
    reader = Reader(MadeUp(), SQUARE)
    batch = reader[range(2, 4)]
    assert isinstance(batch, Batch)
    assert batch.ids == ["s2", "s3"]
    assert reader.read(7).id == "s7"


def test_all_of_a_batch_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[tuple[int, ...]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    regions = Regions(torch.tensor([0]), torch.tensor([2]), torch.ones(1, 4, 5, dtype=torch.bool))
    mask = torch.zeros(1, 4, 5, dtype=torch.uint8)
    batch = Batch(["a"], torch.zeros(1, 3, 4, 5), GroundTruth(mask, regions, torch.ones(1, 6)), []).pin_memory()
    assert batch.ground_truth.regions is not None
    assert pinned == [(1, 3, 4, 5), (1, 4, 5), (1,), (1,), (1, 4, 5), (1, 6)]
