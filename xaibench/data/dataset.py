"""Dataset and Sample: a data set is a sequence of samples, with the facts that a suite needs."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from xaibench.core import registry
from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.core.registry import dataset as dataset  # for xaibench.data, where the name would be this module

if TYPE_CHECKING:  # torch is not imported to list data sets
    from torch import Tensor

VOID = 255
WIDE_VOID = -1  # in masks of int16, which hold more labels than a byte


@dataclass(frozen=True)
class Sample:
    """One image with its labels.

    Attributes:
        id: stable name within the data set
        image: as stored, not resized: an RGB picture, or uint8 [H, W, C] where the channels are not red, green and blue.
            Or model input, normalised: float32 or float64 [C, H, W], in a data set with an `input_shape`
        labels: uint8 [L], 1 where the label is present; None where labels are not known
        ignore: uint8 [L], 1 where a label counts neither as present nor as absent (VOC's "difficult")
        mask: uint8 [H, W], 0 background, label + 1, 255 void; int16 where there are more than 254 labels, -1 being void
            there; None where the data set has none
        source: where it comes from, for error messages and provenance
        regions: every pixel of each label, where objects overlap and one label per pixel cannot hold them: label to
            bool [H, W], nothing for a label that is absent. None: the mask is enough
    """

    id: str
    image: Image.Image | npt.NDArray[np.uint8] | Tensor
    labels: npt.NDArray[np.uint8] | None
    ignore: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8] | npt.NDArray[np.int16] | None
    source: str
    regions: Mapping[int, npt.NDArray[np.bool_]] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image."""
        if isinstance(self.image, Image.Image):
            return self.image.size
        height, width = self.image.shape[:2] if isinstance(self.image, np.ndarray) else self.image.shape[1:]
        return width, height

    @property
    def known_labels(self) -> npt.NDArray[np.uint8]:
        """`labels`. Raises SampleError where they are not known."""
        if self.labels is None:
            raise SampleError(f"{self.source}: has no labels, which are needed here")
        return self.labels


class Dataset(ABC, Sequence[Sample]):
    """A sequence of samples. Subclasses define `ids`, `revision` and `load`; `@dataset` registers them.

    Attributes:
        input_shape: (C, H, W) of images that are model input already; None: images are as stored, and brought to the
            model's geometry

    The others are for `xaibench data check`, which downloads nothing:

    Attributes:
        address: where the official files are, in words
        licence: under which terms, in one sentence
        archives: official file name to MD5
        extra_splits: do not come with the official archives, which are complete without them
    """

    entry: registry.DatasetEntry
    input_shape: tuple[int, int, int] | None = None
    address: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    archives: ClassVar[Mapping[str, str]] = {}
    extra_splits: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, split: str) -> None:
        self.split = split

    @classmethod
    def official(cls) -> Mapping[str, int]:
        """Number of samples in the official release, by split."""
        return {}

    @property
    def official_count(self) -> int | None:
        """Number of official samples of this split under these options; None where that is not known."""
        return self.official().get(self.split)

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.entry.classes)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the data set has under its options."""
        return tuple(self.entry.splits)

    @property
    def channels(self) -> int:
        """Number of channels of the images; 3: red, green and blue."""
        return 3

    def check_channels(self, takes: int, model: str) -> None:
        """Raise UsageError where the images have another number of channels than `model` takes."""
        if takes != self.channels:
            raise UsageError(
                f"{model} takes {takes} channels, but the images of {self.name} have {self.channels}; give the model "
                f"in_chans: {self.channels}, or choose other channels of the data"
            )

    @property
    def has_masks(self) -> bool:
        return self.entry.masks

    @property
    def masks_exceed_labels(self) -> bool:
        """Whether masks show classes that the labels leave out by an option, so that this is no contradiction."""
        return False

    @property
    def label_source(self) -> str:
        """What gives a sample its labels, for messages about masks that contradict them."""
        return "their annotation"

    @property
    def contradiction_advice(self) -> str:
        """What the user should check where masks contradict labels, as a clause; "" where there is no advice."""
        return ""

    @property
    @abstractmethod
    def ids(self) -> list[str]:
        """Sample ids in order."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """A hash of everything that determines the samples: ids, annotations, options."""

    @abstractmethod
    def load(self, index: int) -> Sample:
        """Sample number `index`, 0 <= index < len(self).

        Called in threads and in forked processes: a file is opened here, or by the process that reads it.

        Raises:
            SampleError: it cannot be read: an unreadable file, a missing mask, an annotation or a row of a table with
                a mistake. One sentence that names the file; the other samples are not affected
        """

    def files(self, index: int) -> Sequence[Path]:
        """The files that sample number `index` is read from; empty where that is not known without reading it."""
        return ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.load(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: sample {index} of {len(self)}")
        return self.load(index % len(self))

    def __iter__(self) -> Iterator[Sample]:
        return (self.load(i) for i in range(len(self)))


def load_dataset(
    name: str, *, data_root: str | os.PathLike[str] | None = None, split: str | None = None, **options: Any
) -> Dataset:
    """Open a data set by name.

    Args:
        name: see `xaibench list datasets`
        data_root: the folder that holds it (or the environment variable XAIBENCH_DATA_ROOT); generated sets need none
        split: see `xaibench show NAME`; None is the data set's default
        options: the data set's own, see `xaibench show NAME`

    Raises:
        UsageError: unknown name, split or option
        MissingError: files of the data set are not there
    """
    entry = registry.datasets[name]
    if split is not None:
        options["split"] = split
    if (root := root_of(entry, data_root)) is not None:
        options["data_root"] = root
    if problems := entry.problems(options):
        raise UsageError("; ".join(problems.values()))
    loaded = entry.function(**options)
    assert isinstance(loaded, Dataset)
    return loaded


def root_of(entry: registry.DatasetEntry, data_root: str | os.PathLike[str] | None) -> Path | None:
    """The folder in which a data set is searched; None for one that is generated.

    Raises:
        MissingError: the data set needs a folder, and neither `data_root` nor XAIBENCH_DATA_ROOT names it
    """
    if "data_root" not in entry.parameters:
        return None
    data_root = data_root or os.environ.get("XAIBENCH_DATA_ROOT")
    if data_root is None:
        raise MissingError(f"{entry.name} is read from disk: give --data-root DIR or set XAIBENCH_DATA_ROOT")
    return Path(data_root)
