"""Reading the files of data sets: what cannot be read is a SampleError that names the file.

Pictures of every kind become 8-bit RGB by rules that are written down here (`decode`), for a pixel decides a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from xaibench.core.errors import MissingError, SampleError

# what Pillow and expat raise on a broken file
UNREADABLE = (OSError, SyntaxError, ValueError, LookupError, Image.DecompressionBombError)
WIDE_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")
BACKDROP = "white"  # of what is transparent: drawings on a clear ground are mostly dark, on black they would vanish


def read_image(path: Path, *, displayed: bool = False) -> Image.Image:
    """A photograph as RGB; see `decode`."""
    return decode(path, displayed=displayed).convert("RGB")


def decode(path: Path, *, displayed: bool = False) -> Image.Image:
    """A picture of 8 bits, grey (mode L) or RGB.

    - Grey of 16 bits is divided by 257 and rounded, so that white stays white; nothing is clipped or stretched. Of
      16-bit colours Pillow keeps the high byte, at most one level away from that.
    - What is transparent lies on white, also in palettes.
    - CMYK becomes RGB by Pillow's formula without a colour profile; a JPEG of four components is taken for inverted,
      as Adobe writes it.
    - A JPEG is decoded in full, never by `draft`, which would be quicker but gives other pixels.
    - Of several frames or pages the first is taken.
    - Pillow's guard against decompression bombs stays on: it warns above `PIL.Image.MAX_IMAGE_PIXELS` (89 million)
      and refuses twice as many, which is a SampleError here.

    Args:
        displayed: turn the picture as its EXIF orientation says, as viewers show it. False: the pixels as they are
            stored, which is what the masks and boxes of VOC, COCO and ImageNet follow. (Pillow turns TIFFs in any case)

    Raises:
        SampleError: no such file, an empty, truncated or unknown one, a picture whose white is not known (floating
            point, 32-bit integers beyond 16 bits)
    """
    try:
        with Image.open(path) as file:
            return _eight_bits(ImageOps.exif_transpose(file) if displayed else file)
    except UNREADABLE as error:
        empty = path.is_file() and path.stat().st_size == 0
        raise SampleError(
            f"{path}: cannot be read as an image ({'it is empty' if empty else reason(error)})"
        ) from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode in WIDE_GREY:
        return Image.fromarray(_high_byte(np.asarray(picture)))
    if picture.mode == "F":
        raise ValueError("floating point, of which white is not known; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, BACKDROP), coloured).convert("RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _high_byte(grey: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Rounded v / 257, which takes 0..65535 to 0..255."""
    values = grey.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"integers {values.min()}..{values.max()}, of which white is not known; allowed: 0..65535")
    return ((values + 128) // 257).astype(np.uint8)


def length(path: Path) -> int | None:
    """Of a file in bytes, None where there is none: what of a picture enters a revision."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def find_root(name: str, data_root: Path, folders: Sequence[str], needed: str, origin: str) -> Path:
    """Where a data set lies: in one of `folders` below the data root, or in the data root itself.

    Args:
        name: of the data set; origin: where the user gets it, in words
        needed: the file or folder by which the place is known
    """
    places = [*(data_root / folder for folder in folders), data_root]
    found = next((place for place in places if (place / needed).exists()), None)
    if found is None:
        raise MissingError(
            f"{name}: none of {', '.join(map(str, places))} holds {needed}; unpack {origin} in one of them"
        )
    return found


def reason(error: Exception) -> str:
    """Why, in the words of who raised it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
