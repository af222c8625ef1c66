"""From a stored image to what the model eats: one geometry for image (bilinear or bicubic) and mask (nearest)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Resize = Literal["squash", "shortest_crop", "fit_pad", "none"]
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
BACKGROUND = 0  # what padding is in a mask; in an image it is black


@dataclass(frozen=True)
class Preprocess:
    """Resize, scale to [0, 1], normalise.

    Attributes:
        size: (height, width) of the result
        resize: `squash` (aspect not kept), `shortest_crop` (shorter side to size / crop, centre crop: ImageNet
            evaluation), `fit_pad` (longer side to size, black around: nothing is lost, the MinMax-CAM protocol) or
            `none` (the image must already have `size`)
        mean, std: per channel, in [0, 1] units
        crop: fraction of the shorter side that `shortest_crop` keeps
        interpolation: of the image; masks are always nearest
    """

    size: tuple[int, int]
    resize: Resize = "squash"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def image(self, image: Image.Image | npt.NDArray[np.uint8]) -> Tensor:
        """float32 [C, H, W], normalised; of a picture, or of an array [H, W, C] channel by channel."""
        resample = INTERPOLATIONS[self.interpolation]
        if isinstance(image, Image.Image):
            array = np.asarray(self._geometry(image, resample), np.float32) / 255
        else:
            channels = [self._geometry(Image.fromarray(channel), resample) for channel in np.moveaxis(image, 2, 0)]
            array = np.stack([np.asarray(channel, np.float32) for channel in channels], 2) / 255
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

    def pixels(self, images: Tensor) -> Tensor:
        """Back from model space to [0, 1]."""
        return images * self._channels(self.std, images) + self._channels(self.mean, images)

    def normalise(self, pixels: Tensor) -> Tensor:
        """From [0, 1] to model space."""
        return (pixels - self._channels(self.mean, pixels)) / self._channels(self.std, pixels)

    @staticmethod
    def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
