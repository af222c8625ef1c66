"""Every kind of picture becomes 8-bit RGB by a rule that is written down, or a SampleError that names the file."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from xaibench.core.errors import MissingError, SampleError
from xaibench.data.reading.image_files import decode, find_root, read_image

Bytes = npt.NDArray[np.uint8]
ORIENTATION = 274  # of EXIF
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GREY = COLOURS[..., 0]
WIDE = np.random.default_rng(1).integers(0, 65536, (6, 9)).astype(np.uint16)
WIDE[0, :4] = 0, 128, 129, 65535  # black, the last that rounds to it, the first that does not, white


def pixels(path: Path, **options: Any) -> Bytes:
    image = read_image(path, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def repeated(grey: Bytes) -> Bytes:
    return np.repeat(grey[..., None], 3, 2)


def over_white(colours: Bytes, alpha: Bytes) -> npt.NDArray[np.float64]:
    share = alpha[..., None] / 255
    return np.asarray(colours * share + 255 * (1 - share))


def png16(samples: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of 16-bit colours [H, W, 3], which Pillow can read but not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = samples.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


# -- kinds of pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_colours_come_as_they_are(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(COLOURS).save(tmp_path / name, **options)
    np.testing.assert_array_equal(pixels(tmp_path / name), COLOURS)
    assert decode(tmp_path / name).mode == "RGB"


def test_jpegs_are_decoded_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOURS).resize((640, 480)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as file:
        expected = np.asarray(file)
    monkeypatch.delattr(JpegImagePlugin.JpegImageFile, "draft")
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), expected)


def test_grey_is_repeated(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(pixels(tmp_path / "grey.png"), repeated(GREY))
    np.testing.assert_array_equal(pixels(tmp_path / "bits.png"), repeated((GREY > 100).astype(np.uint8) * 255))
    assert decode(tmp_path / "grey.png").mode == decode(tmp_path / "bits.png").mode == "L"
    Image.fromarray(GREY).save(tmp_path / "grey.jpg", quality=100)
    found = pixels(tmp_path / "grey.jpg")
    np.testing.assert_array_equal(found, repeated(found[..., 0]))


def test_palettes_become_their_colours(tmp_path: Path) -> None:
    indices = Image.fromarray((GREY % 4).astype(np.uint8))
    table = [0, 0, 0, 255, 0, 0, 10, 20, 30, 1, 2, 3]
    picture = Image.frombytes("P", indices.size, indices.tobytes())
    picture.putpalette(table)
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.gif")
    expected = np.array(table, np.uint8).reshape(4, 3)[GREY % 4]
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), expected)
    np.testing.assert_array_equal(pixels(tmp_path / "a.gif"), expected)
    picture.save(tmp_path / "clear.png", transparency=1)  # an index that is clear
    np.testing.assert_array_equal(pixels(tmp_path / "clear.png"), np.where((GREY % 4 == 1)[..., None], 255, expected))
    picture.save(tmp_path / "half.png", transparency=bytes([255, 128, 0, 255]))  # alpha by index
    alpha = np.array([255, 128, 0, 255], np.uint8)[GREY % 4]
    np.testing.assert_allclose(pixels(tmp_path / "half.png"), over_white(expected, alpha), atol=1)


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    alpha = COLOURS[..., 1]
    Image.fromarray(np.dstack([COLOURS, alpha])).save(tmp_path / "rgba.png")
    np.testing.assert_allclose(pixels(tmp_path / "rgba.png"), over_white(COLOURS, alpha), atol=1)
    Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    np.testing.assert_allclose(pixels(tmp_path / "la.png"), over_white(repeated(GREY), alpha), atol=1)
    clear = tuple(COLOURS[2, 3].tolist())
    Image.fromarray(COLOURS).save(tmp_path / "key.png", transparency=clear)  # one colour is clear
    expected = COLOURS.copy()
    expected[2, 3] = 255
    np.testing.assert_array_equal(pixels(tmp_path / "key.png"), expected)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "nothing.png")
    assert (pixels(tmp_path / "nothing.png") == 255).all()


@pytest.mark.parametrize("inks", [(0, 0, 0, 0), (255, 0, 0, 0), (10, 200, 30, 40), (0, 0, 0, 255)])
def test_cmyk(tmp_path: Path, inks: tuple[int, int, int, int]) -> None:
    """Adobe's JPEGs hold inverted inks, TIFFs do not; either way no ink is white."""
    picture = Image.new("CMYK", (16, 16), inks)
    picture.save(tmp_path / "a.jpg", quality=100)
    picture.save(tmp_path / "a.tif")
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    *cmy, k = inks
    expected = [(255 - ink) * (255 - k) / 255 for ink in cmy]
    for name in ("a.jpg", "a.tif"):
        np.testing.assert_allclose(pixels(tmp_path / name)[8, 8], expected, atol=2)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big endian.tif", "a.pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, name: str) -> None:
    stored = WIDE.astype(">u2") if name.startswith("big") else WIDE
    Image.fromarray(stored).save(tmp_path / name)
    expected = np.round(WIDE / 257).astype(np.uint8)
    assert expected[0, :4].tolist() == [0, 0, 1, 255]
    np.testing.assert_array_equal(pixels(tmp_path / name), repeated(expected))


def test_sixteen_bits_of_colour_lose_their_low_byte(tmp_path: Path) -> None:
    wide = np.random.default_rng(2).integers(0, 65536, (6, 9, 3)).astype(np.uint16)
    wide[0, 0] = 0, 255, 65535
    (tmp_path / "a.png").write_bytes(png16(wide))
    found = pixels(tmp_path / "a.png")
    np.testing.assert_array_equal(found, wide >> 8)
    assert np.abs(found - np.round(wide / 257)).max() <= 1


def test_integers_of_32_bits_where_they_fit(tmp_path: Path) -> None:
    Image.fromarray(WIDE.astype(np.int32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), repeated(np.round(WIDE / 257).astype(np.uint8)))


def test_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    for name in ("a.gif", "a.tif"):
        assert (pixels(tmp_path / name) == (255, 0, 0)).all()


# stored from displayed, orientation by orientation, after the table of the EXIF standard
STORED: dict[int, Callable[[Bytes], Bytes]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_only_where_it_is_asked_for(tmp_path: Path, orientation: int) -> None:
    stored = np.ascontiguousarray(STORED[orientation](COLOURS))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), stored)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png", displayed=True), COLOURS)
    Image.fromarray(stored).save(tmp_path / "a.tif", exif=exif)  # which Pillow turns of its own accord
    for displayed in (True, False):
        np.testing.assert_array_equal(pixels(tmp_path / "a.tif", displayed=displayed), COLOURS)


def test_orientation_of_jpegs_and_of_wide_grey(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (12, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (12, 20)
    assert read_image(tmp_path / "a.jpg", displayed=True).size == (20, 12)
    Image.fromarray(WIDE).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(np.round(WIDE / 257), -1)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png", displayed=True)[..., 0], expected)


# -- what is refused ------------------------------------------------------------------------------------------------


def saved(image: Image.Image, **options: Any) -> Callable[[Path], Any]:
    return lambda path: image.save(path, **options)


BROKEN: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "absent": ("a.jpg", lambda path: None, "No such file"),
    "a folder": ("a.jpg", Path.mkdir, "Is a directory"),
    "empty": ("a.jpg", Path.touch, "it is empty"),
    "text": ("a.png", lambda path: path.write_text("<html>404</html>"), "cannot identify"),
    "floating point": ("a.tif", saved(Image.new("F", (4, 4), 0.5)), "floating point, of which white is not known"),
    "wide integers": ("a.tif", saved(Image.new("I", (4, 4), 70000)), r"70000\.\.70000, .* allowed: 0\.\.65535"),
    "negative integers": ("a.tif", saved(Image.new("I", (4, 4), -1)), r"integers -1\.\.-1"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    name, write, sentence = BROKEN[kind]
    write(tmp_path / name)
    with pytest.raises(SampleError, match=f"cannot be read as an image .*{sentence}") as caught:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.99])
def test_half_a_file_is_not_half_an_image(tmp_path: Path, share: float, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SampleError, match="cannot be read as an image"):
        read_image(path)


def test_bombs_are_refused_and_large_pictures_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (50, 50)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SampleError, match=r"a\.png: .*decompression bomb"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.warns(Image.DecompressionBombWarning):
        assert read_image(tmp_path / "a.png").size == (50, 50)


def encoded(format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, format, **options)
    return buffer.getvalue()


WHOLE = [encoded("JPEG"), encoded("PNG"), encoded("BMP"), encoded("WEBP"), encoded("GIF")]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(WHOLE), st.floats(0, 1), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5))
def test_damage_is_a_picture_or_a_sample_error(
    tmp_path: Path, whole: bytes, cut: float, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(whole[: 1 + int(cut * (len(whole) - 1))])
    for position, value in flips:
        data[int(position * (len(data) - 1))] = value
    path = tmp_path / "damaged"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about what it makes of the damage
        with contextlib.suppress(SampleError):
            assert read_image(path, displayed=True).mode == "RGB"


# -- where things lie -----------------------------------------------------------------------------------------------


def test_find_root(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        find_root("planet", tmp_path, ("planet", "other"), "train.csv", "the archive")
    assert str(caught.value) == (
        f"planet: none of {tmp_path}/planet, {tmp_path}/other, {tmp_path} holds train.csv; unpack the archive in one of them"
    )
    for place in (tmp_path, tmp_path / "other", tmp_path / "planet"):  # the more particular wins
        place.mkdir(exist_ok=True)
        (place / "train.csv").touch()
        assert find_root("planet", tmp_path, ("planet", "other"), "train.csv", "") == place
