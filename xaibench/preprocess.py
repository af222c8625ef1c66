"""From a stored image to what the model eats: one geometry for the image and its mask (which is always nearest)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from xaibench.errors import UsageError

Resize = Literal["squash", "shortest_crop", "fit_pad", "none"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
ExtraChannels = Literal["copy_first", "mean", "zero"]
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
BACKGROUND = 0  # what padding is in a mask; in an image it is black


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

    `fit_pad` with `interpolation="nearest"` is what MinMax-CAM does (david2022; its code asks for sides rounded up, but
    `preserve_aspect_ratio` in the same call rounds them to the nearest; where the centre of a pixel falls exactly
    between two stored ones, Pillow may take the other). The padding is a part of the image: it is black before
    normalisation, so with mean and std of 0.5 it is -1 in what the model eats, and background in a mask.
    """

    size: tuple[int, int]
    resize: Resize = "squash"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop: float = 0.875
    interpolation: Interpolation = "bilinear"

    def image(self, image: Image.Image | npt.NDArray[np.uint8]) -> Tensor:
        """float32 [C, H, W], normalised; of a picture, or of an array [H, W, C] channel by channel."""
        resample = INTERPOLATIONS[self.interpolation]
        if isinstance(image, Image.Image):
            array = np.asarray(self._geometry(image, resample), np.float32) / 255
        else:
            channels = [self._geometry(Image.fromarray(channel), resample) for channel in np.moveaxis(image, 2, 0)]
            array = np.stack([np.asarray(channel, np.float32) for channel in channels], 2) / 255
        if array.shape[2] != len(self.mean):
            raise UsageError(f"an image of {array.shape[2]} channels, for a model that takes {len(self.mean)}")
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(((array - mean) / std).transpose(2, 0, 1)))

    def mask(self, mask: npt.NDArray[np.uint8] | npt.NDArray[np.int16]) -> Tensor:
        """[H, W] under the same geometry, values and their type untouched."""
        placed = self._geometry(Image.fromarray(mask), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(placed, mask.dtype))

    def _geometry(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        height, width = self.size
        if self.resize == "none" or image.size == (width, height):
            if image.size != (width, height):
                raise ValueError(f"resize: none, but the image is {image.size[0]}x{image.size[1]}, not {width}x{height}")
            return image
        if self.resize == "squash":
            return image.resize((width, height), resample)
        ratios = height / image.height, width / image.width
        ratio = min(ratios) if self.resize == "fit_pad" else max(ratios) / self.crop
        scaled = image.resize((round(image.width * ratio), round(image.height * ratio)), resample)
        canvas = Image.new(image.mode, (width, height), BACKGROUND)
        canvas.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
        return canvas

    def for_channels(self, count: int, rule: ExtraChannels | None) -> Preprocess:
        """With mean and std for `count` channels: those of three are extended by the rule that makes the stem.

        `zero` takes the mean of the three: the channel is normalised alike, though the stem does not see it yet.
        """
        return replace(self, mean=_extended(self.mean, count, rule), std=_extended(self.std, count, rule))

    def pixels(self, images: Tensor) -> Tensor:
        """Back from model space to [0, 1]."""
        return images * self._channels(self.std, images) + self._channels(self.mean, images)

    def normalise(self, pixels: Tensor) -> Tensor:
        """From [0, 1] to model space."""
        return (pixels - self._channels(self.mean, pixels)) / self._channels(self.std, pixels)

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
