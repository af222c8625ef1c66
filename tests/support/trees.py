"""A small VOC tree, written by the tests themselves: three photographs with annotations and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from xaibench.data.reading.voc_files import CLASSES

Mask = npt.NDArray[np.uint8]
# the table of the development kit, copied out by hand: value -> colour
PALETTE = {
    0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 5: (128, 0, 128),
    6: (0, 128, 128), 7: (128, 128, 128), 8: (64, 0, 0), 9: (192, 0, 0), 10: (64, 128, 0), 11: (192, 128, 0),
    12: (64, 0, 128), 13: (192, 0, 128), 14: (64, 128, 128), 15: (192, 128, 128), 16: (0, 64, 0), 17: (128, 64, 0),
    18: (0, 192, 0), 19: (128, 192, 0), 20: (0, 64, 128), 255: (224, 224, 192),
}  # fmt: skip
DOG, PERSON, CAT, BUS, CHAIR = (CLASSES.index(name) for name in ("dog", "person", "cat", "bus", "chair"))

SIZE = {"2007_000001": (40, 30), "2007_000002": (24, 36), "2007_000003": (32, 32)}
OBJECTS = {
    # parts have names of their own, and boxes too
    "2007_000001": """
        <object><name>dog</name><difficult>0</difficult><bndbox><xmin>3</xmin></bndbox></object>
        <object>
          <part><name>head</name><bndbox><xmin>4</xmin></bndbox></part>
          <part><name>cat</name><difficult>0</difficult></part>
          <name>person</name><difficult>1</difficult>
        </object>""",
    # order varies, an empty flag, float coordinates, space around names; the difficult cat comes after an easy one
    "2007_000002": """
        <object><bndbox><ymax>3.25</ymax></bndbox><difficult/><pose/><name> cat </name></object>
        <object><difficult>1</difficult><name>cat</name></object>
        <object><name>chair</name></object>""",
    "2007_000003": "<object><name>bus</name><difficult>1</difficult></object>",
}


def drawn(name: str) -> Mask:
    """Two objects with void borders; the chair of the second photograph was not drawn."""
    width, height = SIZE[name]
    mask = np.zeros((height, width), np.uint8)
    labels = {"2007_000001": (DOG, PERSON), "2007_000002": (CAT, CAT), "2007_000003": (BUS, BUS)}[name]
    for label, column in zip(labels, (2, width // 2), strict=True):
        mask[5 : height - 5, column : column + 8] = 255
        mask[6 : height - 6, column + 1 : column + 7] = label + 1
    return mask


def palette_image(mask: Mask, colours: dict[int, tuple[int, int, int]] = PALETTE) -> Image.Image:
    """A mask as a picture of palette indices, with VOC's colours or other ones."""
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette([channel for value in range(256) for channel in colours.get(value, (1, 2, 3))])
    return image


def write_tree(root: Path) -> Path:
    """Write the photographs, annotations, masks and lists below `root`, as in VOC 2012; `root` itself."""
    for folder in ("Annotations", "JPEGImages", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZE.items():
        photograph = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        photograph.save(root / "JPEGImages" / f"{name}.jpg")
        palette_image(drawn(name)).save(root / "SegmentationClass" / f"{name}.png")
        annotation = f"<annotation><size><width>{width}</width></size>{OBJECTS[name]}\n</annotation>\n"
        (root / "Annotations" / f"{name}.xml").write_text(annotation)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n2007_000001  \r\n2007_000002\n\n2007_000003\n\n")
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000003\n")
    (root / "ImageSets/Main/val.txt").write_text("2007_000002\n2007_000001\n")
    return root


def truncate(path: Path) -> None:
    """Cut a file to half its size."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
