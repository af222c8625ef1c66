"""Read the image files of data sets; a file that cannot be read is a SampleError that names it.

`decode` states the rules by which every kind of picture becomes 8-bit RGB, because pixels determine scores.
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
BACKDROP = "white"  # behind transparent pixels: drawings without a background are mostly dark, black would hide them


def read_image(path: Path, *, displayed: bool = False) -> Image.Image:
    """A picture of 8 bits, RGB, by the rules of `decode`."""
    return decode(path, displayed=displayed).convert("RGB")


def decode(path: Path, *, displayed: bool = False) -> Image.Image:
    """A picture of 8 bits, grey (mode L) or RGB.

    - Grey of 16 bits is divided by 257 and rounded, so that white stays white; nothing is clipped or stretched.
      Pillow keeps the high byte of 16-bit colours, which differs from that by one level at most.
    - Transparent pixels are put on white, also in palettes.
    - CMYK becomes RGB by Pillow's formula without a colour profile; a JPEG of four components is read as inverted, as
      Adobe writes it.
    - A JPEG is decoded in full, never by `draft`, which would be faster but gives other pixels.
    - The first of several frames or pages is taken.
    - Pillow's guard against decompression bombs stays on: it warns above `PIL.Image.MAX_IMAGE_PIXELS` (89 million)
      and refuses twice as many, which is a SampleError here.

    Args:
        displayed: turn the picture by its EXIF orientation, as viewers show it. False: the pixels as they are stored,
            which the masks and boxes of VOC, COCO and ImageNet refer to. (Pillow turns TIFFs in any case)

    Raises:
        SampleError: a missing, empty or truncated file, an unknown format, values without a known white (floating
            point, integers beyond 16 bits)
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
    """Round v / 257, which maps 0..65535 to 0..255."""
    values = grey.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"integers {values.min()}..{values.max()}, of which white is not known; allowed: 0..65535")
    return ((values + 128) // 257).astype(np.uint8)


def file_size(path: Path) -> int | None:
    """File size in bytes, None if the file is missing. Part of the revision hash of data sets."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def find_root(name: str, data_root: Path, folders: Sequence[str], needed: str, origin: str) -> Path:
    """The folder of a data set: one of `folders` below the data root, or the data root itself.

    Args:
        name: of the data set, for messages
        needed: the file or folder that identifies it
        origin: where the user gets it, in words

    Raises:
        MissingError: none of these folders holds `needed`
    """
    places = [*(data_root / folder for folder in folders), data_root]
    found = next((place for place in places if (place / needed).exists()), None)
    if found is None:
        raise MissingError(
            f"{name}: none of {', '.join(map(str, places))} holds {needed}; unpack {origin} in one of them"
        )
    return found


def reason(error: Exception) -> str:
    """The message of an exception of a library."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
