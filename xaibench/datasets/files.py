"""Reading the files of data sets: what cannot be read is a SampleError that names the file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from xaibench.errors import SampleError

# what Pillow and expat raise on a broken file
UNREADABLE = (OSError, SyntaxError, ValueError, LookupError, Image.DecompressionBombError)


def read_image(path: Path) -> Image.Image:
    """A photograph as RGB."""
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except UNREADABLE as error:
        raise SampleError(f"{path}: cannot be read as an image ({reason(error)})") from error


def reason(error: Exception) -> str:
    """Why, in the words of who raised it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
