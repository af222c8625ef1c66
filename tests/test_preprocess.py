"""One geometry for images and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from xaibench.preprocess import Preprocess


def picture(width: int, height: int) -> tuple[Image.Image, np.ndarray]:
    """A white rectangle on black, and its mask with a void border of one pixel."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 3
    mask[height // 4, width // 4 : width // 2] = 255
    return Image.fromarray(np.repeat(((mask > 0) * 255).astype(np.uint8)[..., None], 3, 2)), mask


@pytest.mark.parametrize("resize", ["squash", "shortest_crop", "fit_pad"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (33, 57)])
def test_masks_follow_the_image(resize: str, size: tuple[int, int]) -> None:
    preprocess = Preprocess(size, resize, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    image, mask = picture(120, 90)
    pixels = preprocess.pixels(preprocess.image(image))
    placed = preprocess.mask(mask)
    assert pixels.shape == (3, *size)
    assert placed.shape == size
    assert set(placed.unique().tolist()) <= {0, 3, 255}
    white, inside = pixels[0] > 0.5, placed > 0
    # bilinear and nearest may differ in the pixels along the rim, and nowhere else
    flags = inside.float()[None]
    rim = F.max_pool2d(flags, 5, 1, 2)[0] != -F.max_pool2d(-flags, 5, 1, 2)[0]
    assert inside.any()
    assert not ((white != inside) & ~rim).any()


def test_fit_pad_keeps_everything_and_the_aspect() -> None:
    preprocess = Preprocess((64, 64), "fit_pad", (0.0,) * 3, (1.0,) * 3)
    white = Image.new("RGB", (100, 50), (255, 255, 255))
    pixels = preprocess.image(white)[0]
    rows = (pixels > 0.5).any(1).nonzero()[:, 0]
    assert (int(rows.min()), int(rows.max())) == (16, 47)
    assert float(pixels[:16].max()) == 0


def test_none_refuses_another_size() -> None:
    preprocess = Preprocess((32, 32), "none")
    assert preprocess.image(Image.new("RGB", (32, 32))).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="image is 30x32, not 32x32"):
        preprocess.image(Image.new("RGB", (30, 32)))


def test_pixels_undoes_normalise() -> None:
    preprocess = Preprocess((8, 8))
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(preprocess.pixels(preprocess.normalise(x)), x)


def test_an_array_goes_the_way_of_a_picture() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 60, 3), np.uint8))
    for resize in ("squash", "shortest_crop", "fit_pad"):
        preprocess = Preprocess((32, 32), resize)
        assert torch.equal(preprocess.image(np.asarray(picture)), preprocess.image(picture))
