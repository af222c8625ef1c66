"""PASCAL VOC 2007 and 2012, read from their official folders: twenty classes, masks with void borders.

    VOCdevkit/VOC2012/  Annotations/*.xml, ImageSets/{Main,Segmentation}/*.txt, JPEGImages/*.jpg,
                        SegmentationClass/*.png

Labels come from the XML, masks from the PNG, and the two do not always agree: a small or difficult object may be void
in the mask. Such a pair has labels = 1 and an empty mask; metrics that need the mask are undefined there. What
`difficult` says concerns labels only, a mask shows every object that was drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image

from xaibench.core.errors import MissingError, SampleError, UsageError, closest
from xaibench.data.dataset import VOID, Dataset, Sample, dataset
from xaibench.data.reading.image_files import UNREADABLE, read_image, reason

Difficult = Literal["positive", "ignore", "negative"]
Bools = npt.NDArray[np.bool_]
Mask = npt.NDArray[np.uint8]

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
RELEASES = {"VOC2007", "VOC2012"}
LICENCE = (
    "The photographs are Flickr's, for research under Flickr's terms of use, and may not be passed on; "
    "for the annotations the organisers state no licence."
)


def colour(index: int) -> tuple[int, int, int]:
    """Colour of a mask value: its bits, three by three from the lowest, fill red, green and blue from the highest."""
    red, green, blue = (sum((index >> (3 * j + c) & 1) << (7 - j) for j in range(3)) for c in range(3))
    return red, green, blue


MASK_VALUES = np.array([*range(len(CLASSES) + 1), VOID], np.uint8)
MASK_COLOURS = np.array([colour(int(value)) for value in MASK_VALUES], np.uint8)


class Voc(Dataset):
    """What the two releases share. `origin` says in words where the user gets the files.

    Attributes:
        segmentation, classification: official lengths of the lists in ImageSets/Segmentation and ImageSets/Main
    """

    licence = LICENCE
    segmentation: ClassVar[Mapping[str, int]]
    classification: ClassVar[Mapping[str, int]]

    def __init__(
        self, *, folder: str, origin: str, data_root: Path, split: str, difficult: Difficult, masks: bool
    ) -> None:
        super().__init__(split=split)
        self.origin, self.difficult, self.masks = origin, difficult, masks
        self.root = self._find(Path(data_root), folder)
        self._ids = self._read_list()

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
    def ids(self) -> list[str]:
        return self._ids

    @cached_property
    def revision(self) -> str:
        """Hash of ids, options, and contents of annotations and masks. Of a photograph its length alone counts."""
        digest = hashlib.sha256(repr((self._ids, self.difficult, self.masks)).encode())
        for name in self._ids:
            photograph = self._photograph(name)
            digest.update(f"{photograph.stat().st_size if photograph.is_file() else None}".encode())
            for path in [self._annotation(name)] + [self._mask(name)] * self.masks:
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
        name = self._ids[index]
        return [self._photograph(name), self._annotation(name)] + [self._mask(name)] * self.masks

    # -- where things are ---------------------------------------------------------------------------------------

    def _find(self, data_root: Path, folder: str) -> Path:
        places = [data_root / "VOCdevkit" / folder, data_root / folder]
        if data_root.absolute().name not in RELEASES - {folder}:
            places.append(data_root)
        root = next((place for place in places if (place / "JPEGImages").is_dir()), None)
        if root is None:
            raise MissingError(
                f"{self.name}: none of {', '.join(map(str, places))} holds a folder JPEGImages; "
                f"unpack {self.origin} in {data_root}"
            )
        for needed in ["Annotations"] + ["SegmentationClass"] * self.masks:
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
                f"{self.name}: the list {' or '.join(map(str, files))} is missing; it comes with {self.origin}"
            )
        lines = file.read_text(encoding="utf-8").split("\n")
        # some train_aug lists hold `/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png`
        ids = [Path(line.split()[0]).stem for line in lines if line.strip()]
        if len(set(ids)) < len(ids):
            twice = next(name for i, name in enumerate(ids) if name in ids[:i])
            raise UsageError(f"{self.name}: {file} names {twice!r} twice; a sample may stand in a list once")
        return ids

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
    """PASCAL VOC 2012: twenty classes; 2,913 photographs with masks, or 11,540 without.

    Args:
        data_root: the folder that holds VOCdevkit, or VOCdevkit, or VOC2012
        split: train, val, trainval; train_aug (10,582 photographs) takes SegmentationClassAug/<id>.png where it exists
        difficult: a class of which there are only objects marked difficult is present (positive: as in weakly
            supervised segmentation and MinMax-CAM), neither present nor absent (ignore: the official evaluation of
            classification) or absent (negative)
        masks: True reads the lists of ImageSets/Segmentation, False those of ImageSets/Main (classification; no masks)
    """

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
        origin = "VOCtrainval_11-May-2012.tar of the PASCAL VOC 2012 site"
        if split == "train_aug":
            origin += ", with train_aug.txt and SegmentationClassAug of a copy augmented by SBD added to it"
        super().__init__(
            folder="VOC2012", origin=origin, data_root=data_root, split=split, difficult=difficult, masks=masks
        )


@dataset(classes=CLASSES, splits=("train", "val", "trainval", "test"), masks=True, source="everingham2010")
class voc07(Voc):
    """PASCAL VOC 2007: twenty classes; 632 photographs with masks, or 9,963 without; its test labels are public.

    Args:
        data_root: the folder that holds VOCdevkit, or VOCdevkit, or VOC2007
        split: train, val, trainval, test
        difficult: a class of which there are only objects marked difficult is present (positive), neither present nor
            absent (ignore: the official evaluation of classification) or absent (negative)
        masks: True reads the lists of ImageSets/Segmentation, False those of ImageSets/Main (classification; no masks)
    """

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
        archive = "VOCtest_06-Nov-2007.tar" if split == "test" else "VOCtrainval_06-Nov-2007.tar"
        super().__init__(
            folder="VOC2007",
            origin=f"{archive} of the PASCAL VOC 2007 site",
            data_root=data_root,
            split=split,
            difficult=difficult,
            masks=masks,
        )


# -- files --------------------------------------------------------------------------------------------------------


def read_objects(path: Path) -> tuple[Bools, Bools]:
    """Which classes have an object in an annotation, and which have one that is not difficult: bool [20] each.

    Only names that stand directly below <object> count (a person has <part>s with names of their own). An absent or
    empty <difficult> is 0. Boxes are not read.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except UNREADABLE as error:
        raise SampleError(f"{path}: cannot be read as XML ({reason(error)})") from error
    if root.tag != "annotation":
        raise SampleError(f"{path}: holds <{root.tag}>, an <annotation> is needed")
    present, easy = np.zeros(len(CLASSES), np.bool_), np.zeros(len(CLASSES), np.bool_)
    for item in root.findall("object"):
        name = item.findtext("name", "").strip()
        difficult = item.findtext("difficult", "").strip() or "0"
        if name not in CLASSES:
            raise SampleError(f"{path}: unknown class {name!r}{closest(name, CLASSES)}; allowed: {', '.join(CLASSES)}")
        if difficult not in ("0", "1"):
            raise SampleError(f"{path}: difficult {difficult!r} of a {name}; allowed: 0, 1 or nothing")
        present[CLASSES.index(name)] = True
        easy[CLASSES.index(name)] |= difficult == "0"
    return present, easy


def read_mask(path: Path, size: tuple[int, int]) -> Mask:
    """uint8 [H, W]: 0 background, label + 1, 255 void.

    Palette PNGs (official) and grey ones (SegmentationClassAug) hold these values as they are; a picture painted in
    VOC's colours is translated back.

    Args:
        size: (width, height) of the photograph
    """
    try:
        with Image.open(path) as file:
            mode, palette, stored = file.mode, file.getpalette(), np.array(file)
    except UNREADABLE as error:
        raise SampleError(f"{path}: cannot be read as a mask ({reason(error)})") from error
    if mode not in ("P", "L", "RGB"):
        raise SampleError(f"{path}: a mask of mode {mode}; allowed: P and L (values), RGB (colours of VOC)")
    if stored.shape[:2] != size[::-1]:
        found, needed = f"{stored.shape[1]}x{stored.shape[0]}", f"{size[0]}x{size[1]}"
        raise SampleError(f"{path}: the mask is {found}, its photograph {needed} (width x height)")
    allowed = MASK_COLOURS if mode == "RGB" else MASK_VALUES[:, None]
    matches = (stored.reshape(*stored.shape[:2], 1, -1) == allowed).all(-1)  # [H, W, 22]
    if not matches.any(-1).all():
        found = stored[~matches.any(-1)][0].tolist()
        raise SampleError(f"{path}: the mask holds {found}; allowed: 0..{len(CLASSES)}, {VOID} or their colours")
    mask: Mask = MASK_VALUES[matches.argmax(-1)]
    if palette is not None:
        _check_palette(path, mask, np.reshape(palette, (-1, 3)))
    return mask


def _check_palette(path: Path, mask: Mask, palette: npt.NDArray[Any]) -> None:
    """An image optimiser may sort a palette, and then values name wrong classes, which only their colours betray."""
    for value in np.intersect1d(mask, np.arange(len(palette))).tolist():
        meant = MASK_VALUES[(palette[value] == MASK_COLOURS).all(-1)].tolist()
        if meant not in ([], [value]):
            raise SampleError(f"{path}: value {value} has VOC's colour of {meant[0]}; the palette was rearranged")
