"""One geometry for images and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from xaibench.core.errors import UsageError
from xaibench.data.preprocess import Preprocess


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


def nearest(stored: int, placed: int) -> tuple[np.ndarray, np.ndarray]:
    """The stored pixel at the centre of each placed one, and whether that centre lies exactly between two stored pixels."""
    centres = (2 * np.arange(placed) + 1) * stored
    return centres // (2 * placed), centres % (2 * placed) == 0


@pytest.mark.parametrize("target", [(512, 512), (256, 256), (300, 200)])
@pytest.mark.parametrize("stored", [(500, 333), (500, 334), (333, 500), (353, 500), (500, 500), (640, 427), (97, 31)])
def test_fit_pad_is_the_geometry_of_minmax_cam(stored: tuple[int, int], target: tuple[int, int]) -> None:
    """Their TensorFlow calls in float32 numpy: ceil, which `preserve_aspect_ratio` undoes, nearest, pad or crop."""
    f, (width, height) = np.float32, stored
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    asked = np.ceil(min(f(target[0]) / f(height), f(target[1]) / f(width)) * np.array([height, width], f))
    scale = min(f(asked[0]) / f(height), f(asked[1]) / f(width))
    tall, wide = int(np.round(scale * f(height))), int(np.round(scale * f(width)))
    (rows, between_rows), (columns, between_columns) = nearest(height, tall), nearest(width, wide)
    top, left = (target[0] - tall) // 2, (target[1] - wide) // 2
    expected = np.zeros((*target, 3), np.uint8)
    expected[top : top + tall, left : left + wide] = image[rows][:, columns]
    # exactly between two pixels, rounding errors decide which one Pillow takes
    clear = np.ones(target, np.bool_)
    clear[top : top + tall, left : left + wide] = ~between_rows[:, None] & ~between_columns

    preprocess = Preprocess(target, "fit_pad", (0.5,) * 3, (0.5,) * 3, interpolation="nearest")
    found = preprocess.image(Image.fromarray(image)).numpy()
    normalised = (expected.transpose(2, 0, 1) / f(255) - f(0.5)) / f(0.5)
    np.testing.assert_array_equal(found[:, clear], normalised[:, clear])
    np.testing.assert_array_equal(preprocess.mask(image[..., 0]).numpy()[clear], expected[clear][:, 0])
    padding = np.ones(target, np.bool_)
    padding[top : top + tall, left : left + wide] = False
    assert (found[:, padding] == -1).all()  # black before normalisation, not the mean
    assert clear.mean() > 0.7


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_an_array_of_any_number_of_channels(channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (41, 60, channels), np.uint8)
    preprocess = Preprocess((32, 48), "fit_pad", (0.25,) * channels, (0.5,) * channels)
    found = preprocess.image(array)
    assert found.shape == (channels, 32, 48)
    for channel in range(channels):
        alone = Preprocess((32, 48), "fit_pad", (0.25,), (0.5,)).image(array[..., channel : channel + 1])
        assert torch.equal(found[channel], alone[0])
    with pytest.raises(UsageError, match=f"an image of {channels} channels, for a model that takes 3"):
        Preprocess((32, 48)).image(array)


def test_mean_and_std_follow_the_rule_of_the_stem() -> None:
    imagenet = Preprocess((8, 8))
    first, mean, zero = (imagenet.for_channels(4, rule) for rule in ("copy_first", "mean", "zero"))  # type: ignore[arg-type]
    assert first.mean == (0.485, 0.456, 0.406, 0.485)  # as PNOC has it for HPA
    assert first.std == (0.229, 0.224, 0.225, 0.229)
    assert mean == zero
    assert mean.mean == pytest.approx((0.485, 0.456, 0.406, 0.449))
    assert imagenet.for_channels(1, "copy_first").mean == (0.485,)
    assert imagenet.for_channels(1, "mean").std == pytest.approx((0.226,))
    assert imagenet.for_channels(3, None) == imagenet
    given = Preprocess((8, 8), mean=(0.1, 0.2, 0.3, 0.4), std=(1.0,) * 3)
    assert given.for_channels(4, "copy_first").mean == (0.1, 0.2, 0.3, 0.4)  # what is spelled out stays
    with pytest.raises(UsageError, match=r"3 values, the model takes 4 channels; say with extra_channels .*copy_first"):
        imagenet.for_channels(4, None)
    with pytest.raises(UsageError, match="mean and std have 4 values; 3 are needed"):
        given.for_channels(3, None)
