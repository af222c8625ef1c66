"""Files of PASCAL VOC: the objects of an annotation (XML), and masks (PNG)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image

from xaibench.core.errors import SampleError, closest
from xaibench.data.dataset import VOID
from xaibench.data.reading.image_files import UNREADABLE, reason

Bools = npt.NDArray[np.bool_]
Mask = npt.NDArray[np.uint8]

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def colour(index: int) -> tuple[int, int, int]:
    """Colour of a mask value: its bits, three by three from the lowest, fill red, green and blue from the highest."""
    red, green, blue = (sum((index >> (3 * j + c) & 1) << (7 - j) for j in range(3)) for c in range(3))
    return red, green, blue


MASK_VALUES = np.array([*range(len(CLASSES) + 1), VOID], np.uint8)
MASK_COLOURS = np.array([colour(int(value)) for value in MASK_VALUES], np.uint8)


def read_objects(path: Path) -> tuple[Bools, Bools]:
    """Which classes have an object in an annotation, and which have one that is not difficult: bool [20] each.

    Only names directly below <object> count (a person has <part>s with names of their own). An absent or empty
    <difficult> is 0. Boxes are not read.

    Raises:
        SampleError: an unreadable file, an unknown class, another value of <difficult>
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

    Palette PNGs (official) and grey ones (SegmentationClassAug) hold these values; a picture painted in VOC's colours
    is translated back.

    Args:
        size: (width, height) of the photograph

    Raises:
        SampleError: an unreadable file, another size, other values or colours, a palette in another order
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
    """Raise SampleError for a palette that an image optimiser has sorted, so that values name other classes.

    It is detected by comparing the palette's colours with VOC's.
    """
    for value in np.intersect1d(mask, np.arange(len(palette))).tolist():
        meant = MASK_VALUES[(palette[value] == MASK_COLOURS).all(-1)].tolist()
        if meant not in ([], [value]):
            raise SampleError(f"{path}: value {value} has VOC's colour of {meant[0]}; the palette was rearranged")
