"""Read samples ahead of the loop that uses them, in worker processes or in a thread, as batches.

A worker sends little: pixels as the bytes they were stored in (a quarter of the floats that the device makes of them),
and for a sample that cannot be read its id and one sentence. Order, contents and every random draw are the same for any
number of workers.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from xaibench.core.errors import SampleError, UsageError, WorkerError, XaibenchError
from xaibench.data.batch import Batch, collate
from xaibench.data.contradictions import contradicted
from xaibench.data.dataset import Dataset, Sample
from xaibench.data.preprocess import Geometry, Unchanged

# A forked worker starts in 0.05 s and shares what the data set has read; a spawned one imports torch for seconds,
# needs a copy of the annotations and lacks the classes of a plug-in. macOS and Windows cannot fork safely.
START = "fork" if sys.platform == "linux" else None
MOST_WORKERS = 8
BATCHES_PER_WORKER = 2  # with less to read, starting a worker costs more than it saves


@dataclass(frozen=True)
class Reader:
    """Read samples and collate them; what a worker runs. A sample that cannot be read does not affect the others."""

    dataset: Dataset
    geometry: Geometry

    def __getitem__(self, asked: range) -> Batch | XaibenchError:
        """The samples with these numbers. An error of the whole data set is returned, so that it stays one sentence."""
        good: list[Sample] = []
        bad: list[tuple[str, str]] = []
        try:
            for index in asked:
                try:
                    good.append(self.read(index))
                except SampleError as error:
                    bad.append((self.dataset.ids[index], str(error)))
            batch = collate(good, self.geometry, bad, asked)
            return replace(batch, contradictions=[(s.id, names) for s in good if (names := self._contradicted(s))])
        except XaibenchError as error:
            return error

    def read(self, index: int) -> Sample:
        """One sample, checked. Raises SampleError, naming the file, where it cannot be collated with others."""
        sample: Sample = self.dataset[index]
        self._check_image(sample)
        width, height = sample.size
        if not self.dataset.has_masks:
            return replace(sample, mask=None)
        if sample.mask is None:
            raise SampleError(f"{sample.source}: has no mask, though its data set {self.dataset.name} has masks")
        if sample.mask.shape != (height, width):
            found = f"{sample.mask.shape[1]}x{sample.mask.shape[0]}"
            raise SampleError(f"{sample.source}: its mask is {found}, the image {width}x{height} (width x height)")
        return sample

    def _check_image(self, sample: Sample) -> None:
        """Raise SampleError for an image that the geometry does not take."""
        image, shape = sample.image, self.dataset.input_shape
        if isinstance(image, Image.Image) and image.mode != "RGB":
            raise SampleError(f"{sample.source}: an image of mode {image.mode}; RGB or an array [H, W, C] is needed")
        if isinstance(image, Tensor) != (shape is not None):
            kind, has = ("a tensor", "no") if shape is None else ("a picture", "an")
            raise SampleError(f"{sample.source}: {kind}, though its data set {self.dataset.name} has {has} input_shape")
        if isinstance(image, Tensor) and (tuple(image.shape) != shape or not image.is_floating_point()):
            found = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
            raise SampleError(f"{sample.source}: the image is {found}; floats {list(shape or ())} are needed")
        try:
            self.geometry.check(sample.size)
        except ValueError as error:
            raise SampleError(f"{sample.source}: {error}") from error

    def _contradicted(self, sample: Sample) -> tuple[str, ...]:
        """Names of the classes that the sample's mask holds and its labels deny."""
        if self.dataset.masks_exceed_labels:
            return ()
        names = self.dataset.class_names  # may be fewer than the labels of a plug-in
        return tuple(names[label] if label < len(names) else f"label {label}" for label in contradicted(sample))


def own_geometry(dataset: Dataset) -> Unchanged | None:
    """The geometry of a data set whose images are model input already; None where the model's is needed."""
    return None if dataset.input_shape is None else Unchanged(dataset.input_shape[1:])


def chunks(samples: range, size: int) -> list[range]:
    """Consecutive ranges of at most `size`."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def worker_count(asked: int | None, device: torch.device | str, batches: int) -> int:
    """Number of workers that read `batches` batches: `asked`, or where that is None as many as help.

    For a CPU that is none: one thread decodes faster than a CPU explains, and workers take cores away from the model.
    For a GPU see `most_workers`.
    """
    if asked is not None:
        return asked
    return 0 if torch.device(device).type == "cpu" else most_workers(batches)


def most_workers(batches: int) -> int:
    """Number of workers that help where reading is the slow part; one core is left to the loop."""
    if START is None:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(MOST_WORKERS, cores - 1, batches // BATCHES_PER_WORKER))


def read_ahead(
    dataset: Dataset, geometry: Geometry, asked: Iterable[range], *, workers: int = 0, pin: bool = False
) -> Generator[Batch, None, None]:
    """Yield batches in the given order, and read the next ones meanwhile; close the generator to end the workers.

    Args:
        geometry: the model's, or `own_geometry` of the data set
        asked: numbers of the samples of each batch; at most two batches per worker are drawn ahead
        workers: processes; 0 reads in a thread of this one
        pin: put batches into page-locked memory, for fast copies to a GPU

    Raises:
        WorkerError: a worker crashed
        UsageError: the data set cannot be sent to workers (where they are not forked)
    """
    with ThreadPoolExecutor(1) as pool:
        iterator = pool.submit(_start, Reader(dataset, geometry), asked, workers, pin).result()
        try:
            coming = pool.submit(next, iterator, None)
            while (batch := _result(coming)) is not None:
                coming = pool.submit(next, iterator, None)
                yield batch
        finally:
            pool.submit(_stop, iterator).result()


def batches(
    dataset: Dataset,
    geometry: Geometry,
    asked: Iterable[range],
    *,
    device: torch.device,
    dtype: torch.dtype,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """The batches of `read_ahead` as model input on a device."""
    for batch in read_ahead(dataset, geometry, asked, workers=workers, pin=device.type == "cuda"):
        yield batch.to(geometry, device, dtype)


def _start(reader: Reader, asked: Iterable[range], workers: int, pin: bool) -> Iterator[Any]:
    """Start the workers, in the thread that will wait for them.

    In the main thread the DataLoader would install a signal handler that raises wherever the loop happens to be, and a
    worker's crash would be reported as an error of the method that was running. The main thread waits meanwhile, so
    that it holds no lock that a fork would copy (torch's generator has one). Python warns of forks beside threads, and
    torch of more workers than cores, which the user chose.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader: DataLoader[Any] = DataLoader(
            reader,  # type: ignore[arg-type]  # it is asked for ranges, not for numbers
            batch_size=None,
            sampler=asked,  # type: ignore[arg-type]
            num_workers=workers,
            multiprocessing_context=START if workers else None,
            worker_init_fn=_start_worker,
            pin_memory=pin,
            generator=torch.Generator(),  # else it would draw from the global one
        )
        try:
            return iter(loader)
        except Exception as error:
            if workers == 0 or START == "fork":
                raise
            name = reader.dataset.name
            raise UsageError(f"{name} cannot be sent to worker processes ({error}); use --workers 0") from error


def _stop(iterator: Any) -> None:
    """End the workers now: the iterator ends them only when it is freed, and a traceback may keep it alive."""
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which ends its workers in order
    # through the pipe: a new piece of shared memory for every tensor takes longer, and containers have 64 MB of it
    ForkingPickler.register(Tensor, _as_array)


def _as_array(tensor: Tensor) -> tuple[Any, tuple[np.ndarray[Any, Any]]]:
    return torch.from_numpy, (tensor.numpy(),)


def _result(coming: Future[Any]) -> Batch | None:
    try:
        result = coming.result()
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerError(
            f"a process that read samples died ({error}), perhaps because memory ran out; use fewer --workers, which "
            "need less; what is finished is kept, and the same command goes on"
        ) from error
    if isinstance(result, XaibenchError):
        raise result
    assert result is None or isinstance(result, Batch)
    return result
