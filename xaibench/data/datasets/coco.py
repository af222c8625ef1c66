"""COCO 2014 and 2017, read from their official folders: eighty classes of objects that overlap.

    coco/  annotations/instances_{train,val}{2014,2017}.json
           train2017/000000000009.jpg, val2014/COCO_val2014_000000000042.jpg, ...

Where a label is, is said exactly by `Sample.regions`: the union of its objects, whatever lies over them. The metrics of
an (image, label) pair read those. A mask of one label per pixel cannot hold objects that overlap, and what becomes of
them is a convention, `overlap`; only metrics of label maps (seeds) read the mask.

A photograph without objects is a sample like any other, without a label: metrics per image count it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.data.dataset import VOID, Dataset, Sample, dataset
from xaibench.data.reading.image_files import read_image

Crowd = Literal["keep", "drop"]
Overlap = Literal["void", "painter"]
Bools = npt.NDArray[np.bool_]
Mask = npt.NDArray[np.uint8]
Outline = list[npt.NDArray[np.float64]] | Mapping[str, Any]  # polygons x, y, x, y, ... or run lengths down the columns

CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
NEVER_USED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORIES = tuple(number for number in range(1, 91) if number not in NEVER_USED)  # of the files; a label is its rank
LABELS = {number: label for label, number in enumerate(CATEGORIES)}


class Photograph(NamedTuple):
    file: str
    width: int
    height: int


class Drawn(NamedTuple):
    """One object: the number of its annotation, and its outline, None where nobody asks for masks."""

    number: int
    label: int
    crowd: bool
    outline: Outline | None


class Coco(Dataset):
    """What the two releases share."""

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
        """Hash of the annotation file and the options. Of a photograph its length alone counts."""
        options = (self.crowd, self.masks, self.overlap if self.masks else None)
        digest = hashlib.sha256(repr((self._digest, options)).encode())
        for path in map(self._path, self._numbers):
            digest.update(f"{path.stat().st_size if path.is_file() else None}".encode())
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
        if self.overlap == "painter":  # the large ones first, so that the small ones stay in sight
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
        """A folder of another name, or that of the other split, is said once and not for every photograph."""
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
    """COCO 2014: eighty classes; 82,783 photographs to train, 40,504 to validate; objects overlap.

    Args:
        data_root: the folder that holds coco, or the one that holds annotations and val2014
        split: train, val
        crowd: a group drawn as a whole is an object like others (keep), or is no object at all (drop); a class may be
            there as a crowd only. MinMax-CAM keeps them
        masks: False reads labels only, and needs no pycocotools
        overlap: what the mask of one label per pixel says where objects overlap, also objects of one class. void: 255,
            and crowds that are dropped are background (torchvision's reference training). painter: small objects are
            painted over large ones, and crowds that are dropped are 255 where nothing else is. Regions are exact
            either way
    """

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
    """COCO 2017: eighty classes; 118,287 photographs to train, 5,000 to validate; objects overlap.

    Args:
        data_root: the folder that holds coco, or the one that holds annotations and val2017
        split: train, val
        crowd: a group drawn as a whole is an object like others (keep), or is no object at all (drop); a class may be
            there as a crowd only. MinMax-CAM keeps them
        masks: False reads labels only, and needs no pycocotools
        overlap: what the mask of one label per pixel says where objects overlap, also objects of one class. void: 255,
            and crowds that are dropped are background (torchvision's reference training). painter: small objects are
            painted over large ones, and crowds that are dropped are 255 where nothing else is. Regions are exact
            either way
    """

    year = "2017"
    archives: ClassVar[Mapping[str, str]] = {
        "train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2",
        "val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80",
        "annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c",
    }

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return {"train": 118287, "val": 5000}


# -- files --------------------------------------------------------------------------------------------------------


def pycoco() -> Any:
    """pycocotools' functions on outlines, when it is installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise MissingError('the masks of COCO need pycocotools: pip install "xaibench[data]"') from error
    return mask


def read_annotations(
    path: Path, data: bytes, *, outlines: bool
) -> tuple[dict[int, Photograph], dict[int, list[Drawn]]]:
    """Photographs by number, and the objects of each that has any, from the content of an instances_*.json.

    Raises:
        UsageError: it is no such file, or what it says does not fit together
    """

    def shrunk(entry: dict[str, Any]) -> Any:
        """Annotations become arrays as they are read: as lists of numbers, those of train take gigabytes."""
        return _drawn(path, entry, outlines) if "image_id" in entry else entry

    try:
        content = json.loads(data, object_hook=shrunk)
    except ValueError as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise UsageError(f"{path}: is not an annotation file of COCO; one holds images, annotations and categories")
    for category in content["categories"]:
        _check_category(path, category)
    photographs: dict[int, Photograph] = {}
    for entry in content["images"]:
        number, *facts = _fields(path, "image", entry, "id", "file_name", "width", "height")
        if number in photographs:
            raise UsageError(f"{path}: lists the photograph {number} twice")
        photographs[number] = Photograph(*facts)
    objects: dict[int, list[Drawn]] = {}
    for entry in content["annotations"]:
        if not isinstance(entry, tuple):
            raise UsageError(f"{path}: an annotation has no 'image_id'")
        number, drawn = entry
        if number not in photographs:
            raise UsageError(
                f"{path}: annotation {drawn.number} is of photograph {number}, which the file does not list"
            )
        objects.setdefault(number, []).append(drawn)
    return photographs, objects


def _check_category(path: Path, entry: Any) -> None:
    number, name = _fields(path, "category", entry, "id", "name")
    if number not in LABELS or name != CLASSES[LABELS[number]]:
        known = f"is {CLASSES[LABELS[number]]!r}" if number in LABELS else "is not one of its"
        raise UsageError(f"{path}: calls category {number} {name!r}, which in COCO {known}")


def _drawn(path: Path, entry: dict[str, Any], outlines: bool) -> tuple[int, Drawn]:
    """The number of the photograph, and the object."""
    number, image, category = _fields(path, "annotation", entry, "id", "image_id", "category_id")
    if category not in LABELS:
        raise UsageError(
            f"{path}: annotation {number} is of category {category}; allowed: 1..90 without "
            + ", ".join(map(str, sorted(NEVER_USED)))
        )
    outline = None
    if outlines:
        (outline,) = _fields(path, "annotation", entry, "segmentation")
        if isinstance(outline, list):
            try:
                outline = [np.asarray(polygon, np.float64) for polygon in outline]
            except (TypeError, ValueError) as error:
                raise UsageError(f"{path}: annotation {number} has a polygon that is no list of numbers") from error
    return image, Drawn(number, LABELS[category], bool(entry.get("iscrowd", 0)), outline)


def _fields(path: Path, what: str, entry: Any, *keys: str) -> list[Any]:
    try:
        return [entry[key] for key in keys]
    except (KeyError, TypeError) as error:
        named = f" {entry['id']}" if isinstance(entry, dict) and "id" in entry else ""
        lacking = next(key for key in keys if not isinstance(entry, dict) or key not in entry)
        raise UsageError(f"{path}: {what}{named} has no {lacking!r}") from error


def rasterise(outline: Outline | None, size: tuple[int, int]) -> Bools:
    """bool [H, W]: the pixels inside. Polygons of less than three corners are left out, and may leave nothing.

    Args:
        size: (height, width) of the photograph

    Raises:
        ValueError: run lengths that do not fit the photograph; the sentence goes on after "the outline"
    """
    tools = pycoco()
    if isinstance(outline, list):
        polygons = [polygon for polygon in outline if len(polygon) >= 6]
        if not polygons:
            return np.zeros(size, np.bool_)
        shape = tools.merge(tools.frPyObjects(polygons, *size))
    else:
        shape = _run_lengths(outline, size)
    try:
        return np.asarray(tools.decode(shape) > 0)
    except ValueError as error:
        raise ValueError(f"cannot be read ({error})") from error


def _run_lengths(outline: Mapping[str, Any] | None, size: tuple[int, int]) -> Any:
    """Packed, as pycocotools takes them; it reads beyond its memory where they end early."""
    if outline is None or not {"size", "counts"} <= outline.keys():
        raise ValueError("is neither polygons nor run lengths")
    found, counts = tuple(outline["size"]), outline["counts"]
    if found != size:
        raise ValueError(f"is {found[1]}x{found[0]}, its photograph {size[1]}x{size[0]} (width x height)")
    if not isinstance(counts, list):
        return dict(outline)
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"has run lengths of {sum(counts)} pixels in all, its photograph has {size[0] * size[1]}")
    return pycoco().frPyObjects(dict(outline), *size)
