"""Annotation files of COCO (instances_*.json): photographs, objects, and the pixels inside an object's outline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from xaibench.core.errors import MissingError, UsageError

Bools = npt.NDArray[np.bool_]
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
    """A photograph as the annotation file describes it."""

    file: str
    width: int
    height: int


class Drawn(NamedTuple):
    """One object: the number of its annotation, and its outline, None where no masks are asked for."""

    number: int
    label: int
    crowd: bool
    outline: Outline | None


def pycoco() -> Any:
    """pycocotools' functions on outlines. Raises MissingError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise MissingError('the masks of COCO need pycocotools: pip install "xaibench[data]"') from error
    return mask


def read_annotations(
    path: Path, data: bytes, *, outlines: bool
) -> tuple[dict[int, Photograph], dict[int, list[Drawn]]]:
    """Photographs by number, and the objects of each photograph that has any.

    Args:
        path: the annotation file, for messages
        data: its content
        outlines: read the outlines of objects too

    Raises:
        UsageError: it is not an annotation file, or its parts contradict each other
    """

    def shrunk(entry: dict[str, Any]) -> Any:
        """Make arrays of annotations as they are read: as lists of numbers, those of train take gigabytes."""
        return _drawn(path, entry, outlines) if "image_id" in entry else entry

    try:
        content = json.loads(data, object_hook=shrunk)
    except ValueError as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise UsageError(f"{path}: is not an annotation file of COCO; one holds images, annotations and categories")
    for category in content["categories"]:
        _check_category(path, category)
    photographs = _photographs(path, content["images"])
    return photographs, _objects(path, content["annotations"], photographs)


def rasterise(outline: Outline | None, size: tuple[int, int]) -> Bools:
    """bool [H, W]: the pixels inside an outline. Polygons of less than three corners are left out.

    Args:
        size: (height, width) of the photograph

    Raises:
        ValueError: run lengths that do not fit the photograph; the message continues "the outline of annotation N"
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
    """Run lengths packed for pycocotools, which reads beyond its memory where they end early."""
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


def _photographs(path: Path, images: list[Any]) -> dict[int, Photograph]:
    photographs: dict[int, Photograph] = {}
    for entry in images:
        number, *facts = _fields(path, "image", entry, "id", "file_name", "width", "height")
        if number in photographs:
            raise UsageError(f"{path}: lists the photograph {number} twice")
        photographs[number] = Photograph(*facts)
    return photographs


def _objects(path: Path, annotations: list[Any], photographs: Mapping[int, Photograph]) -> dict[int, list[Drawn]]:
    objects: dict[int, list[Drawn]] = {}
    for entry in annotations:
        if not isinstance(entry, tuple):
            raise UsageError(f"{path}: an annotation has no 'image_id'")
        number, drawn = entry
        if number not in photographs:
            raise UsageError(
                f"{path}: annotation {drawn.number} is of photograph {number}, which the file does not list"
            )
        objects.setdefault(number, []).append(drawn)
    return objects


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
    """Values of an entry. Raises UsageError for a key that is missing."""
    try:
        return [entry[key] for key in keys]
    except (KeyError, TypeError) as error:
        named = f" {entry['id']}" if isinstance(entry, dict) and "id" in entry else ""
        lacking = next(key for key in keys if not isinstance(entry, dict) or key not in entry)
        raise UsageError(f"{path}: {what}{named} has no {lacking!r}") from error
