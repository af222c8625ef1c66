"""From a stored image to model input: one geometry for the image and its mask (masks are always nearest)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from xaibench.core.errors import UsageError
from xaibench.core.registry.bounds import ExtraChannels, Interpolation, Resize

StoredImage = Image.Image | npt.NDArray[np.uint8]  # a picture, or [H, W, C]
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
BACKGROUND = 0  # value of the padding: background in a mask, black in an image


class Geometry(Protocol):
    """How images and masks of a data set become model input: `Preprocess`, or `Unchanged`."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""

    def check(self, size: tuple[int, int]) -> None:
        """Raise ValueError where an image of this (width, height) cannot be brought to `self.size`."""

    def stored(self, image: StoredImage | Tensor) -> Tensor:
        """[C, H, W] of this size, in the type that is sent between processes."""

    def floats(self, stored: Tensor) -> Tensor:
        """Model input of what `stored` returned."""

    def mask(self, mask: npt.NDArray[np.uint8] | npt.NDArray[np.int16]) -> Tensor:
        """[H, W] of this size, values and their type untouched."""


@dataclass(frozen=True)
class Unchanged:
    """The geometry of images that are model input already: tensors [C, H, W], normalised, all of one size.

    Attributes:
        size: (height, width) of the images and masks
    """

    size: tuple[int, int]

    def check(self, size: tuple[int, int]) -> None:
        """Raise ValueError where an image of this (width, height) has another size."""
        height, width = self.size
        if size != (width, height):
            raise ValueError(f"the image is {size[0]}x{size[1]}, others of its data set are {width}x{height}")

    def stored(self, image: StoredImage | Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            raise UsageError("the images are pictures, which need the model's input geometry")
        return image

    def floats(self, stored: Tensor) -> Tensor:
        return stored

    def mask(self, mask: npt.NDArray[np.uint8] | npt.NDArray[np.int16]) -> Tensor:
        return torch.from_numpy(np.array(mask))


@dataclass(frozen=True)
class Preprocess:
    """Resize, scale to [0, 1], normalise.

    Attributes:
        size: (height, width) of the result
        resize: `squash` (aspect not kept), `shortest_crop` (shorter side to size / crop, centre crop: ImageNet
            evaluation), `fit_pad` (longer side to size, black around: nothing is lost) or `none` (the image must
            already have `size`)
        mean, std: per channel, in [0, 1] units
        crop: fraction of the shorter side that `shortest_crop` keeps
        interpolation: of the image; masks are always nearest

    `fit_pad` with `interpolation="nearest"` is the geometry of MinMax-CAM (david2022; its code asks for sides rounded
    up, but `preserve_aspect_ratio` in the same call rounds them to the nearest; where the centre of a pixel falls
    exactly between two stored ones, Pillow may take the other). The padding is a part of the image: it is black before
    normalisation, so with mean and std of 0.5 it is -1 in the model input, and background in a mask.
    """

    size: tuple[int, int]
    resize: Resize = "squash"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop: float = 0.875
    interpolation: Interpolation = "bilinear"

    def image(self, image: StoredImage | Tensor) -> Tensor:
        """Model input, float32 [C, H, W], of a picture, or of an array [H, W, C] channel by channel."""
        return self.floats(self.stored(image))

    def stored(self, image: StoredImage | Tensor) -> Tensor:
        """uint8 [C, H, W]: the geometry alone, a quarter of the bytes of the model input.

        Raises:
            UsageError: another number of channels than the model takes, or a tensor, which is model input already
        """
        if isinstance(image, Tensor):
            raise UsageError("the images are model input already; pictures or uint8 arrays [H, W, C] are needed here")
        resample = INTERPOLATIONS[self.interpolation]
        if isinstance(image, Image.Image):
            array = np.asarray(self._geometry(image, resample)).transpose(2, 0, 1)
        else:
            channels = [self._geometry(Image.fromarray(channel), resample) for channel in np.moveaxis(image, 2, 0)]
            array = np.stack([np.asarray(channel) for channel in channels])
        if len(array) != len(self.mean):
            raise UsageError(f"an image of {len(array)} channels, for a model that takes {len(self.mean)}")
        return torch.from_numpy(np.array(array, order="C"))

    def floats(self, stored: Tensor) -> Tensor:
        """Model input, float32 [..., C, H, W], of values 0..255."""
        return self._normalise_(stored.to(torch.float32, copy=True).div_(255))

    def mask(self, mask: npt.NDArray[np.uint8] | npt.NDArray[np.int16]) -> Tensor:
        """[H, W] under the same geometry, values and their type untouched."""
        placed = self._geometry(Image.fromarray(mask), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(placed, mask.dtype))

    def check(self, size: tuple[int, int]) -> None:
        """Raise ValueError where an image of this (width, height) cannot be brought to `self.size`."""
        height, width = self.size
        if self.resize == "none" and size != (width, height):
            raise ValueError(f"resize: none, but the image is {size[0]}x{size[1]}, not {width}x{height}")

    def _geometry(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        height, width = self.size
        self.check(image.size)
        if image.size == (width, height):
            return image
        if self.resize == "squash":
            return image.resize((width, height), resample)
        ratios = height / image.height, width / image.width
        ratio = min(ratios) if self.resize == "fit_pad" else max(ratios) / self.crop
        scaled = image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))), resample)
        canvas = Image.new(image.mode, (width, height), BACKGROUND)
        canvas.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
        return canvas

    def for_channels(self, count: int, rule: ExtraChannels | None) -> Preprocess:
        """A copy with mean and std for `count` channels; those of three are extended by the rule that makes the stem.

        `zero` takes the mean of the three, so that the channel is normalised alike, though the stem ignores it at first.
        """
        return replace(self, mean=_extended(self.mean, count, rule), std=_extended(self.std, count, rule))

    def pixels(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1] of model input."""
        return images * self._channels(self.std, images) + self._channels(self.mean, images)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Model input of pixels in [0, 1]."""
        return self._normalise_(pixels.clone())

    def _normalise_(self, pixels: Tensor) -> Tensor:
        """Normalise in place, which is four times as fast for a batch."""
        return pixels.sub_(self._channels(self.mean, pixels)).div_(self._channels(self.std, pixels))

    @staticmethod
    def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _extended(values: Sequence[float], count: int, rule: ExtraChannels | None) -> tuple[float, ...]:
    if len(values) == count:
        return tuple(values)
    if len(values) != 3:
        raise UsageError(f"input: mean and std have {len(values)} values; {count} are needed, one per channel (or 3)")
    if rule is None:
        raise UsageError(
            f"input: mean and std have 3 values, the model takes {count} channels; say with extra_channels how the rest "
            "is made (copy_first, mean or zero), or give all of them"
        )
    extra = values[0] if rule == "copy_first" else sum(values) / 3
    return tuple(values) + (extra,) * (count - 3) if count > 3 else (extra,) * count
