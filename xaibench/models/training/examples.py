"""Images and labels as input of the training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xaibench.data import Dataset
from xaibench.data.preprocess import Preprocess
from xaibench.models.training.recipe import AugmentSection


@dataclass(frozen=True)
class Examples(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Normalised images [C, H, W], labels [L] and ignore [L] of a data set, augmented by (seed, epoch, index)."""

    dataset: Dataset
    preprocess: Preprocess
    augment: AugmentSection | None = None
    seed: int = 0
    epoch: int = 0
    cache: dict[int, tuple[Tensor, Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def of_epoch(self, epoch: int) -> Examples:
        return replace(self, epoch=epoch)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image, labels, ignore = self._clean(index)
        if self.augment is not None:
            rng = np.random.default_rng([self.seed, self.epoch, index])
            image = self.preprocess.normalise(augmented(self.preprocess.pixels(image), self.augment, rng))
        return image, labels, ignore

    def _clean(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        sample = self.dataset[index]
        example = (
            self.preprocess.image(sample.image),
            torch.from_numpy(sample.known_labels.astype(np.float32)),
            torch.from_numpy(sample.ignore.astype(bool)),
        )
        if self.cache is not None:
            self.cache[index] = example
        return example


def augmented(pixels: Tensor, augment: AugmentSection, rng: np.random.Generator) -> Tensor:
    """A random variant of `pixels` [C, H, W] in [0, 1]."""
    if augment.crop < 1:
        height, width = pixels.shape[-2:]
        side = math.sqrt(rng.uniform(augment.crop, 1))
        h, w = max(1, round(height * side)), max(1, round(width * side))
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        window = pixels[None, :, top : top + h, left : left + w]
        pixels = F.interpolate(window, (height, width), mode="bilinear", align_corners=False)[0]
    if (augment.flip or augment.dihedral) and rng.random() < 0.5:
        pixels = pixels.flip(-1)
    if augment.dihedral:
        pixels = torch.rot90(pixels, int(rng.integers(4)), (-2, -1))
    if augment.colour:
        brightness, contrast = rng.uniform(-augment.colour, augment.colour, 2) / 2
        pixels = ((pixels - 0.5) * (1 + contrast) + 0.5 + brightness).clamp(0, 1)
    return pixels
