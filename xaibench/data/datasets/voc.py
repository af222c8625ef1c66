"""PASCAL VOC 2007 and 2012, read from their official folders: twenty classes, masks with void borders.

    VOCdevkit/VOC2012/  Annotations/*.xml, ImageSets/{Main,Segmentation}/*.txt, JPEGImages/*.jpg,
                        SegmentationClass/*.png

Labels come from the XML, masks from the PNG, and the two do not always agree: a small or difficult object may be void
in the mask. Such a pair has labels = 1 and an empty mask; metrics that need the mask are undefined there. The option
`difficult` concerns labels only, a mask shows every object that was drawn.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from xaibench.core.errors import MissingError, UsageError
from xaibench.core.registry import dataset
from xaibench.data.dataset import Dataset, Sample
from xaibench.data.reading.image_files import file_size, read_image
from xaibench.data.reading.voc_files import CLASSES, read_mask, read_objects

Difficult = Literal["positive", "ignore", "negative"]

RELEASES = {"VOC2007", "VOC2012"}
LICENCE = (
    "The photographs are Flickr's, for research under Flickr's terms of use, and may not be passed on; "
    "for the annotations the organisers state no licence."
)


class Voc(Dataset):
    """PASCAL VOC of one year; subclasses give the release.

    Attributes:
        folder: of the release
        segmentation, classification: official lengths of the lists in ImageSets/Segmentation and ImageSets/Main

    Args:
        data_root: the folder that holds VOCdevkit, or VOCdevkit, or the folder of the release (VOC2007, VOC2012)
        split: train, val, trainval; test (voc07); train_aug (voc12: 10,582 photographs), which takes
            SegmentationClassAug/<id>.png where it exists
        difficult: a class of which there are only objects marked difficult is present (positive: as in weakly
            supervised segmentation and MinMax-CAM), neither present nor absent (ignore: the official evaluation of
            classification) or absent (negative)
        masks: True reads the lists of ImageSets/Segmentation, False those of ImageSets/Main (classification; no masks)
    """

    licence = LICENCE
    folder: ClassVar[str]
    segmentation: ClassVar[Mapping[str, int]]
    classification: ClassVar[Mapping[str, int]]

    def __init__(self, *, data_root: Path, split: str, difficult: Difficult, masks: bool) -> None:
        super().__init__(split=split)
        self.difficult, self.masks = difficult, masks
        self.root = self._find(Path(data_root))
        self._ids = self._read_list()

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where the user gets the files of the split, in words."""

    @staticmethod
    def offers_masks(options: Mapping[str, Any]) -> bool:
        return bool(options.get("masks", True))

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return cls.segmentation

    @property
    def official_count(self) -> int | None:
        return (self.segmentation if self._list == "Segmentation" else self.classification)[self.split]

    @property
    def has_masks(self) -> bool:
        return self.masks

    @property
    def masks_exceed_labels(self) -> bool:
        """Masks show difficult objects also where the labels leave them out."""
        return self.difficult == "negative"

    @property
    def ids(self) -> list[str]:
        return self._ids

    @cached_property
    def revision(self) -> str:
        """Hash of ids, options, contents of annotations and masks, and file sizes of photographs."""
        digest = hashlib.sha256(repr((self._ids, self.difficult, self.masks)).encode())
        for name in self._ids:
            photograph, *others = self._files(name)
            digest.update(f"{file_size(photograph)}".encode())
            for path in others:
                digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"absent")
        return digest.hexdigest()[:16]

    def load(self, index: int) -> Sample:
        name = self._ids[index]
        photograph = self._photograph(name)
        image = read_image(photograph)
        present, easy = read_objects(self._annotation(name))
        labels = present if self.difficult == "positive" else easy
        ignore = present & ~easy if self.difficult == "ignore" else np.zeros_like(easy)
        mask = read_mask(self._mask(name), image.size) if self.masks else None
        return Sample(name, image, labels.astype(np.uint8), ignore.astype(np.uint8), mask, str(photograph))

    def files(self, index: int) -> Sequence[Path]:
        return self._files(self._ids[index])

    # -- where things are ---------------------------------------------------------------------------------------

    def _find(self, data_root: Path) -> Path:
        places = [data_root / "VOCdevkit" / self.folder, data_root / self.folder]
        if data_root.absolute().name not in RELEASES - {self.folder}:
            places.append(data_root)
        root = next((place for place in places if (place / "JPEGImages").is_dir()), None)
        if root is None:
            raise MissingError(
                f"{self.name}: none of {', '.join(map(str, places))} holds a folder JPEGImages; "
                f"unpack {self.origin} in {data_root}"
            )
        for needed in ("Annotations", "SegmentationClass") if self.masks else ("Annotations",):
            if not (root / needed).is_dir():
                raise MissingError(f"{self.name}: the folder {root / needed} is missing; it comes with {self.origin}")
        return root

    @property
    def _list(self) -> str:
        # train_aug exists for segmentation only
        return "Segmentation" if self.masks or self.split == "train_aug" else "Main"

    def _read_list(self) -> list[str]:
        folder = self.root / "ImageSets" / self._list
        # that of train_aug is spelled both ways
        files = [folder / f"{name}.txt" for name in dict.fromkeys((self.split, self.split.replace("_", "")))]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise MissingError(
                f"{self.name}: the list {' or '.join(map(str, files))} is missing; it comes with {self.origin}",
                key="split",
            )
        lines = file.read_text(encoding="utf-8").split("\n")
        # some train_aug lists hold `/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png`
        ids = [Path(line.split()[0]).stem for line in lines if line.strip()]
        if len(set(ids)) < len(ids):
            twice = next(name for i, name in enumerate(ids) if name in ids[:i])
            raise UsageError(f"{self.name}: {file} names {twice!r} twice; a sample may stand in a list once")
        return ids

    def _files(self, name: str) -> list[Path]:
        """Photograph, annotation and, where masks are read, mask."""
        files = [self._photograph(name), self._annotation(name)]
        return [*files, self._mask(name)] if self.masks else files

    def _photograph(self, name: str) -> Path:
        return self.root / "JPEGImages" / f"{name}.jpg"

    def _annotation(self, name: str) -> Path:
        return self.root / "Annotations" / f"{name}.xml"

    def _mask(self, name: str) -> Path:
        augmented = self.root / "SegmentationClassAug" / f"{name}.png"
        if self.split == "train_aug" and augmented.is_file():
            return augmented
        return self.root / "SegmentationClass" / f"{name}.png"


@dataset(
    classes=CLASSES,
    splits=("train", "val", "trainval", "train_aug"),
    masks=True,
    source="everingham2015; train_aug: hariharan2011",
)
class voc12(Voc):
    """PASCAL VOC 2012: twenty classes; 2,913 photographs with masks, or 11,540 without."""

    folder = "VOC2012"
    address = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    # benchmark.tgz is SBD, of which others made train_aug
    archives: ClassVar[Mapping[str, str]] = {
        "VOCtrainval_11-May-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd",
        "benchmark.tgz": "82b4d87ceb2ed10f6038a1cba92111cb",
    }
    extra_splits = ("train_aug",)
    segmentation: ClassVar[Mapping[str, int]] = {"train": 1464, "val": 1449, "trainval": 2913, "train_aug": 10582}
    classification: ClassVar[Mapping[str, int]] = {"train": 5717, "val": 5823, "trainval": 11540}

    def __init__(
        self,
        *,
        data_root: Path,
        split: Literal["train", "val", "trainval", "train_aug"] = "val",
        difficult: Difficult = "positive",
        masks: bool = True,
    ) -> None:
        super().__init__(data_root=data_root, split=split, difficult=difficult, masks=masks)

    @property
    def origin(self) -> str:
        archive = "VOCtrainval_11-May-2012.tar of the PASCAL VOC 2012 site"
        if self.split == "train_aug":
            return f"{archive}, with train_aug.txt and SegmentationClassAug of a copy augmented by SBD added to it"
        return archive


@dataset(classes=CLASSES, splits=("train", "val", "trainval", "test"), masks=True, source="everingham2010")
class voc07(Voc):
    """PASCAL VOC 2007: twenty classes; 632 photographs with masks, or 9,963 without; its test labels are public."""

    folder = "VOC2007"
    address = "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/"
    archives: ClassVar[Mapping[str, str]] = {
        "VOCtrainval_06-Nov-2007.tar": "c52e279531787c972589f7e41ab4ae64",
        "VOCtest_06-Nov-2007.tar": "b6e924de25625d8de591ea690078ad9f",
    }
    segmentation: ClassVar[Mapping[str, int]] = {"train": 209, "val": 213, "trainval": 422, "test": 210}
    classification: ClassVar[Mapping[str, int]] = {"train": 2501, "val": 2510, "trainval": 5011, "test": 4952}

    def __init__(
        self,
        *,
        data_root: Path,
        split: Literal["train", "val", "trainval", "test"] = "test",
        difficult: Difficult = "positive",
        masks: bool = True,
    ) -> None:
        super().__init__(data_root=data_root, split=split, difficult=difficult, masks=masks)

    @property
    def origin(self) -> str:
        archive = "VOCtest_06-Nov-2007.tar" if self.split == "test" else "VOCtrainval_06-Nov-2007.tar"
        return f"{archive} of the PASCAL VOC 2007 site"
