"""COCO 2014 and 2017, read from their official folders: eighty classes of objects that overlap.

    coco/  annotations/instances_{train,val}{2014,2017}.json
           train2017/000000000009.jpg, val2014/COCO_val2014_000000000042.jpg, ...

`Sample.regions` holds the exact region of each label: the union of its objects, also where others cover them. The metrics
of an (image, label) pair read regions. A mask of one label per pixel cannot hold objects that overlap, so the option
`overlap` chooses a convention; only metrics of label maps (seeds) read the mask.

A photograph without objects is a sample like any other, without a label: metrics per image count it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from xaibench.core.errors import MissingError, SampleError
from xaibench.core.registry import dataset
from xaibench.data.dataset import VOID, Dataset, Sample
from xaibench.data.reading.coco_annotations import (
    CLASSES,
    Bools,
    Drawn,
    Photograph,
    pycoco,
    rasterise,
    read_annotations,
)
from xaibench.data.reading.image_files import file_size, read_image

Crowd = Literal["keep", "drop"]
Overlap = Literal["void", "painter"]
Mask = npt.NDArray[np.uint8]


class Coco(Dataset):
    """COCO of one year; subclasses give the year.

    Args:
        data_root: the folder that holds coco, or the one that holds annotations and the folders of photographs
        split: train, val
        crowd: a group drawn as a whole is an object like others (keep), or is no object at all (drop); some classes of
            a photograph occur in a crowd only. MinMax-CAM keeps them
        masks: False reads labels only, and needs no pycocotools
        overlap: what the mask of one label per pixel holds where objects overlap, also objects of one class. void: 255,
            and crowds that are dropped are background (torchvision's reference training). painter: small objects are
            painted over large ones, and crowds that are dropped are 255 where nothing else is. Regions are exact
            either way
    """

    year: ClassVar[str]
    address = "cocodataset.org, page Download"
    licence = "Annotations are CC BY 4.0; every photograph is under the Flickr licence that the annotation file names."

    def __init__(
        self,
        *,
        data_root: Path,
        split: Literal["train", "val"] = "val",
        crowd: Crowd = "keep",
        masks: bool = True,
        overlap: Overlap = "void",
    ) -> None:
        super().__init__(split=split)
        self.crowd, self.masks, self.overlap = crowd, masks, overlap
        if masks:
            pycoco()
        self.file = self._find(Path(data_root))
        self.folder = self.file.parent.parent / f"{split}{self.year}"
        data = self.file.read_bytes()
        self._digest = hashlib.sha256(data).hexdigest()
        self._photographs, self._objects = read_annotations(self.file, data, outlines=masks)
        self._numbers = sorted(self._photographs)
        self._check_folder()

    @staticmethod
    def offers_masks(options: Mapping[str, Any]) -> bool:
        return bool(options.get("masks", True))

    @property
    def has_masks(self) -> bool:
        return self.masks

    @cached_property
    def ids(self) -> list[str]:
        return [f"{number:012d}" for number in self._numbers]

    @cached_property
    def revision(self) -> str:
        """Hash of the annotation file, the options, and the file sizes of photographs."""
        options = (self.crowd, self.masks, self.overlap if self.masks else None)
        digest = hashlib.sha256(repr((self._digest, options)).encode())
        for path in map(self._path, self._numbers):
            digest.update(f"{file_size(path)}".encode())
        return digest.hexdigest()[:16]

    def load(self, index: int) -> Sample:
        number = self._numbers[index]
        path, expected = self._path(number), self._photographs[number]
        image = read_image(path)
        if image.size != (expected.width, expected.height):
            found = f"{image.width}x{image.height}"
            raise SampleError(
                f"{path}: the photograph is {found}, {self.file} says {expected.width}x{expected.height} (width x height)"
            )
        drawn = self._objects.get(number, [])
        labels = np.zeros(len(CLASSES), np.uint8)
        labels[[item.label for item in drawn if self.crowd == "keep" or not item.crowd]] = 1
        ignore = np.zeros_like(labels)
        mask, regions = self._draw(drawn, expected) if self.masks else (None, None)
        return Sample(self.ids[index], image, labels, ignore, mask, str(path), regions)

    def _draw(self, drawn: list[Drawn], photograph: Photograph) -> tuple[Mask, dict[int, Bools]]:
        """The mask of one label per pixel, and the region of each label."""
        size = photograph.height, photograph.width
        objects = [(item, self._inside(item, size)) for item in drawn]
        shown = [pair for pair in objects if self.crowd == "keep" or not pair[0].crowd]
        if self.overlap == "painter":  # the large ones first, so that the small ones stay visible
            shown.sort(key=lambda pair: int(pair[1].sum()), reverse=True)
        mask, depth = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
        regions: dict[int, Bools] = {}
        for item, inside in shown:
            regions[item.label] = regions[item.label] | inside if item.label in regions else inside
            mask[inside] = item.label + 1
            depth += inside
        if self.overlap == "void":
            mask[depth > 1] = VOID
        elif self.crowd == "drop":
            for _, inside in (pair for pair in objects if pair[0].crowd):
                mask[(mask == 0) & inside] = VOID
        return mask, regions

    def _inside(self, item: Drawn, size: tuple[int, int]) -> Bools:
        try:
            return rasterise(item.outline, size)
        except ValueError as error:
            raise SampleError(f"{self.file}: the outline of annotation {item.number} {error}") from error

    def files(self, index: int) -> list[Path]:
        return [self._path(self._numbers[index]), self.file]

    # -- where things are ---------------------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self.folder / self._photographs[number].file

    def _find(self, data_root: Path) -> Path:
        files = [
            root / "annotations" / f"instances_{self.split}{self.year}.json" for root in (data_root / "coco", data_root)
        ]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise MissingError(
                f"{self.name}: neither {files[0]} nor {files[1]} is there; unpack annotations_trainval{self.year}.zip "
                f"of the COCO site in {files[0].parent.parent} or {data_root}"
            )
        return file

    def _check_folder(self) -> None:
        """Raise one MissingError for a folder of another name, or of the other split, instead of one per photograph."""
        if not self.folder.is_dir():
            raise MissingError(
                f"{self.name}: the folder {self.folder} is missing; it comes with {self.folder.name}.zip of the COCO site"
            )
        named = {photograph.file for photograph in self._photographs.values()}
        if named.isdisjoint(os.listdir(self.folder)):
            other = self.folder.with_name({"train": "val", "val": "train"}[self.split] + self.year)
            swapped = other.is_dir() and not named.isdisjoint(os.listdir(other))
            raise MissingError(
                f"{self.name}: {self.folder} holds none of the {len(named)} photographs that {self.file} names"
                + (f"; {other} does: train and val are swapped" if swapped else "")
            )


@dataset(classes=CLASSES, splits=("train", "val"), masks=True, source="lin2014")
class coco14(Coco):
    """COCO 2014: eighty classes; 82,783 photographs to train, 40,504 to validate; objects overlap."""

    year = "2014"
    archives: ClassVar[Mapping[str, str]] = {
        "train2014.zip": "0da8cfa0e090c266b78f30e2d2874f1a",
        "val2014.zip": "a3d79f5ed8d289b7a7554ce06a5782b3",
        "annotations_trainval2014.zip": "0a379cfc70b0e71301e0f377548639bd",
    }

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return {"train": 82783, "val": 40504}


@dataset(classes=CLASSES, splits=("train", "val"), masks=True, source="lin2014")
class coco17(Coco):
    """COCO 2017: eighty classes; 118,287 photographs to train, 5,000 to validate; objects overlap."""

    year = "2017"
    archives: ClassVar[Mapping[str, str]] = {
        "train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2",
        "val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80",
        "annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c",
    }

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return {"train": 118287, "val": 5000}
