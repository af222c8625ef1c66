"""From files to batches on the model's device: read and resized ahead of the loop, in worker processes or in a thread.

What a worker sends is small: pixels as the bytes they were stored in (normalised on the device, four times less to
carry), and a sample that cannot be read as its id and one sentence. Order, contents and every random draw are the same
for any number of workers.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
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
from xaibench.data import Dataset, Sample
from xaibench.data.ground_truth import GroundTruth, Regions
from xaibench.data.preprocess import Preprocess
from xaibench.models.classifier import Classifier

# A forked worker is there after 0.05 s and shares what the data set has read; a spawned one imports torch for seconds,
# needs a copy of the annotations and does not know the classes of a plug-in. macOS and Windows cannot fork safely.
START = "fork" if sys.platform == "linux" else None
MOST_WORKERS = 8
BATCHES_PER_WORKER = 2  # with less to read, a worker is not worth its start


@dataclass(frozen=True)
class Batch:
    """Samples as tensors, and what could not be read.

    Attributes:
        ids: of the samples that could be read, in order
        images: uint8 [B, C, H, W] as collated; `on` makes them what the model eats
        ground_truth: of these samples; a label is present where it is given and not to be ignored
        bad: (id, sentence) of the samples that could not be read
        samples: numbers within the data set of all of them
    """

    ids: list[str]
    images: Tensor
    ground_truth: GroundTruth
    bad: list[tuple[str, str]]
    samples: range = range(0)

    def on(self, classifier: Classifier) -> Batch:
        """The batch on the model's device, the images normalised and in its precision."""
        parameter = next(classifier.module.parameters())
        if not self.ids:
            return self
        images = geometry(classifier).floats(self.images.to(parameter.device, non_blocking=True))
        return replace(self, images=images.to(parameter.dtype), ground_truth=self.ground_truth.to(parameter.device))

    def pin_memory(self) -> Batch:
        """For the DataLoader: pages that a GPU fetches by itself."""
        return replace(self, images=self.images.pin_memory(), ground_truth=self.ground_truth.pin_memory())

    def halves(self) -> list[Batch]:
        middle = len(self.ids) // 2
        rows = torch.arange(len(self.ids), device=self.images.device)
        return [
            Batch(self.ids[s], self.images[s], self.ground_truth[rows[s]], [])
            for s in (slice(middle), slice(middle, None))
        ]


def geometry(classifier: Classifier) -> Preprocess:
    """How the model wants its images. Raises UsageError where that is not known."""
    if classifier.preprocess is None:
        raise UsageError(f"model {classifier.name}: its input geometry is not known (Classifier(preprocess=...))")
    return classifier.preprocess


def collate(
    samples: Sequence[Sample], preprocess: Preprocess, bad: Sequence[tuple[str, str]] = (), asked: range = range(0)
) -> Batch:
    """Samples through the model's input geometry."""
    if not samples:
        return Batch([], torch.empty(0), GroundTruth(), list(bad), asked)
    masks = [preprocess.mask(sample.mask) for sample in samples if sample.mask is not None]
    return Batch(
        ids=[sample.id for sample in samples],
        images=torch.stack([preprocess.stored(sample.image) for sample in samples]),
        ground_truth=GroundTruth(
            mask=torch.stack(masks) if masks else None,
            regions=Regions.collate(samples, preprocess),
            present=torch.stack([torch.from_numpy((s.labels > 0) & (s.ignore == 0)) for s in samples]),
        ),
        bad=list(bad),
        samples=asked,
    )


@dataclass(frozen=True)
class Reader:
    """What a worker does: read samples and bring them into shape. A sample that fails costs only itself."""

    dataset: Dataset
    preprocess: Preprocess

    def __getitem__(self, asked: range) -> Batch | XaibenchError:
        """The samples with these numbers; an error that is not one sample's comes back as data, one sentence still."""
        good: list[Sample] = []
        bad: list[tuple[str, str]] = []
        try:
            for index in asked:
                try:
                    good.append(self.read(index))
                except SampleError as error:
                    bad.append((self.dataset.ids[index], str(error)))
            return collate(good, self.preprocess, bad, asked)
        except XaibenchError as error:
            return error

    def read(self, index: int) -> Sample:
        """A sample that goes together with the others. Raises SampleError, naming the file, where it does not."""
        sample: Sample = self.dataset[index]
        image, (width, height) = sample.image, sample.size
        if isinstance(image, Image.Image) and image.mode != "RGB":
            raise SampleError(f"{sample.source}: an image of mode {image.mode}; RGB or an array [H, W, C] is needed")
        try:
            self.preprocess.check(sample.size)
        except ValueError as error:
            raise SampleError(f"{sample.source}: {error}") from error
        if not self.dataset.has_masks:
            return replace(sample, mask=None)
        if sample.mask is None:
            raise SampleError(f"{sample.source}: has no mask, though its data set {self.dataset.name} has masks")
        if sample.mask.shape != (height, width):
            found = f"{sample.mask.shape[1]}x{sample.mask.shape[0]}"
            raise SampleError(f"{sample.source}: its mask is {found}, the image {width}x{height} (width x height)")
        return sample


def chunks(samples: range, size: int) -> list[range]:
    """Consecutive ranges of at most `size`."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def worker_count(asked: int | None, device: torch.device | str, batches: int) -> int:
    """How many workers read `batches` batches; `asked` None: as many as help.

    On a CPU none: one thread decodes faster than a CPU explains, and workers take cores away from the model. For a GPU
    as many as pay, one core being left to the loop.
    """
    if asked is not None:
        return asked
    return 0 if torch.device(device).type == "cpu" else most_workers(batches)


def most_workers(batches: int) -> int:
    """How many workers pay where reading is the slow part."""
    if START is None:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(MOST_WORKERS, cores - 1, batches // BATCHES_PER_WORKER))


def read_ahead(
    dataset: Dataset, preprocess: Preprocess, asked: Iterable[range], *, workers: int = 0, pin: bool = False
) -> Generator[Batch, None, None]:
    """Batches in the order asked for, the next ones being read meanwhile; close it to end the workers.

    Args:
        asked: numbers of the samples of each batch; drawn from no more than two batches per worker ahead
        workers: processes; 0 reads in a thread of this one

    Raises:
        WorkerError: a worker died
        UsageError: the data set cannot be sent to workers (where they are not forked)
    """
    with ThreadPoolExecutor(1) as pool:
        iterator = pool.submit(_start, Reader(dataset, preprocess), asked, workers, pin).result()
        try:
            coming = pool.submit(next, iterator, None)
            while (batch := _result(coming)) is not None:
                coming = pool.submit(next, iterator, None)
                yield batch
        finally:
            pool.submit(_stop, iterator).result()


def batches(
    dataset: Dataset, classifier: Classifier, asked: Iterable[range], *, workers: int = 0
) -> Generator[Batch, None, None]:
    """What `read_ahead` reads, on the model's device."""
    device = next(classifier.module.parameters()).device
    for batch in read_ahead(dataset, geometry(classifier), asked, workers=workers, pin=device.type == "cuda"):
        yield batch.on(classifier)


def _start(reader: Reader, asked: Iterable[range], workers: int, pin: bool) -> Iterator[Any]:
    """Start the workers, in the thread that will wait for them.

    In the main thread the DataLoader would install a signal handler that raises wherever the loop happens to be, so
    that the death of a worker would be laid at some method's door. The main thread waits meanwhile, so that it holds
    no lock that a fork would copy (torch's generator has one). Python warns of forks beside threads, and torch of more
    workers than cores, which is the user's choice.
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
    """Left to itself the iterator ends its workers when it is freed, and a traceback may keep it for good."""
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered by the parent, which ends its workers in order
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
            f"a process that read samples died ({error}), perhaps for want of memory, of which fewer "
            "--workers need less; what is finished is kept, and the same command goes on"
        ) from error
    if isinstance(result, XaibenchError):
        raise result
    assert result is None or isinstance(result, Batch)
    return result
