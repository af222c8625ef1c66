"""Ground truth of a batch: masks, the regions of labels that overlap, and which labels are present."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from xaibench.core.errors import SampleError, UsageError
from xaibench.core.pairs import Pairs
from xaibench.data.dataset import Sample
from xaibench.data.preprocess import Geometry

BYTE_VOID, VOID = 255, -1  # of a mask of bytes, and of every mask inside
BYTE_LABELS = 254  # labels that a mask of bytes can hold beside background and void


def one_mask_type(mask: Tensor, labels: int) -> Tensor:
    """int16 [B, H, W] of any mask of integers: 0 background, label + 1, -1 void.

    Args:
        mask: uint8 (255 void), or wider integers (-1 void)
        labels: L of the model

    Raises:
        UsageError: a mask of another type or of impossible values, or bytes where there are more labels than they hold
    """
    if mask.dtype == torch.uint8:
        if labels > BYTE_LABELS:
            raise UsageError(
                f"masks of uint8 hold at most {BYTE_LABELS} labels, the model has {labels}; give int16, where -1 is void"
            )
        return torch.where(mask == BYTE_VOID, VOID, mask.to(torch.int16))
    if mask.dtype not in (torch.int16, torch.int32, torch.int64):
        raise UsageError(
            f"masks must be uint8 (0 background, label + 1, 255 void) or int16 (-1 void), found {mask.dtype}"
        )
    if mask.dtype != torch.int16 and mask.numel():
        lowest, highest = int(mask.min()), int(mask.max())
        if lowest < VOID or highest > torch.iinfo(torch.int16).max:
            raise UsageError(f"masks hold {lowest}..{highest}; allowed: -1 (void), 0 (background), label + 1")
    return mask.to(torch.int16)


@dataclass(frozen=True)
class Regions:
    """The regions of the labels that are present in a batch, and of no others: a data set may have many labels.

    Attributes:
        image, label: [R] whose region it is: a row of the batch and a label of it, no pair twice
        masks: bool [R, H, W]
    """

    image: Tensor
    label: Tensor
    masks: Tensor

    @classmethod
    def collate(cls, samples: Sequence[Sample], geometry: Geometry) -> Regions | None:
        """The regions of samples under an input geometry; None where the mask is enough.

        Raises:
            SampleError: some samples have regions and others have none
        """
        given = [sample.regions for sample in samples if sample.regions is not None]
        if not given:
            return None
        if len(given) < len(samples):
            lacking = next(sample for sample in samples if sample.regions is None)
            raise SampleError(f"{lacking.source}: has no regions, though other samples of its data set have them")
        listed = [(row, label, found[label]) for row, found in enumerate(given) for label in sorted(found)]
        placed = [geometry.mask(region.astype(np.uint8)) for _, _, region in listed]
        return cls(
            torch.tensor([row for row, _, _ in listed], dtype=torch.long),
            torch.tensor([label for _, label, _ in listed], dtype=torch.long),
            torch.stack(placed).bool() if placed else torch.zeros((0, *geometry.size), dtype=torch.bool),
        )

    def to(self, device: torch.device) -> Regions:
        return Regions(self.image.to(device), self.label.to(device), self.masks.to(device))

    def pin_memory(self) -> Regions:
        return Regions(self.image.pin_memory(), self.label.pin_memory(), self.masks.pin_memory())

    def __getitem__(self, images: Tensor) -> Regions:
        """Those of rows [n] of the batch, which may repeat, as the rows of another."""
        row, region = (images[:, None] == self.image).nonzero(as_tuple=True)
        return Regions(row, self.label[region], self.masks[region])

    def of(self, pairs: Pairs) -> Tensor:
        """bool [P, H, W]: the region of each pair, empty where the label is not there."""
        same = (pairs.image[:, None] == self.image) & (pairs.label[:, None] == self.label)  # [P, R]
        row, region = same.nonzero(as_tuple=True)
        found = self.masks.new_zeros((len(pairs), *self.masks.shape[1:]))
        found[row] = self.masks[region]
        return found

    def union(self, images: int) -> Tensor:
        """bool [B, H, W]: pixels that belong to some label of their image."""
        count = self.masks.new_zeros((images, *self.masks.shape[1:]), dtype=torch.int32)
        return count.index_add(0, self.image, self.masks.int()) > 0


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of a batch of images.

    Attributes:
        mask: [B, H, W] of uint8 (0 background, label + 1, 255 void) or wider integers (-1 void), None if there is none
        regions: of labels that overlap; None where the mask's one label per pixel is enough
        present: labels of the images, bool [B, L], None if they are not known
    """

    mask: Tensor | None = None
    regions: Regions | None = None
    present: Tensor | None = None

    def checked(self, images: Tensor, labels: int) -> GroundTruth:
        """The same for a batch of images [B, C, H, W] and L labels, with masks of int16.

        Raises:
            UsageError: sizes that do not fit, masks of another type or with impossible values
        """
        size = tuple(images.shape[-2:])
        if self.mask is not None and self.mask.shape != (len(images), *size):
            raise UsageError(f"masks must be {(len(images), *size)}, found {tuple(self.mask.shape)}")
        if self.regions is not None and self.regions.masks.shape[1:] != size:
            raise UsageError(f"regions must be [R, H, W] of {size}, found {tuple(self.regions.masks.shape[1:])}")
        if self.present is not None and self.present.shape != (len(images), labels):
            raise UsageError(f"labels must be {(len(images), labels)}, found {tuple(self.present.shape)}")
        return self if self.mask is None else replace(self, mask=one_mask_type(self.mask, labels))

    def __getitem__(self, rows: Tensor) -> GroundTruth:
        """The ground truth of rows [n] of the batch, which may repeat, as the rows of another."""
        return GroundTruth(
            None if self.mask is None else self.mask[rows],
            None if self.regions is None else self.regions[rows],
            None if self.present is None else self.present[rows],
        )

    def to(self, device: torch.device) -> GroundTruth:
        return GroundTruth(
            None if self.mask is None else self.mask.to(device, non_blocking=True),
            None if self.regions is None else self.regions.to(device),
            None if self.present is None else self.present.to(device, non_blocking=True),
        )

    def pin_memory(self) -> GroundTruth:
        return GroundTruth(
            None if self.mask is None else self.mask.pin_memory(),
            None if self.regions is None else self.regions.pin_memory(),
            None if self.present is None else self.present.pin_memory(),
        )

    # -- what metrics read: after `checked` -----------------------------------------------------------------------

    @property
    def known_mask(self) -> Tensor:
        """int16 [B, H, W]. Raises UsageError where there is none."""
        if self.mask is None:
            raise UsageError("this needs ground-truth masks: give masks=, or choose a data set that has them")
        return self.mask

    def labels_for(self, what: str) -> Tensor:
        """bool [B, L]: the labels that are present. Raises UsageError where they are not known; `what` needs them."""
        if self.present is None:
            raise UsageError(f"{what} needs ground-truth labels (labels=)")
        return self.present

    def of(self, pairs: Pairs) -> Tensor:
        """bool [P, H, W]: the pixels of each pair's label, also where labels overlap."""
        mask = self.known_mask
        if self.regions is not None:
            return self.regions.of(pairs)
        return mask[pairs.image] == (pairs.label + 1)[:, None, None]

    @cached_property
    def single(self) -> Tensor:
        """bool [B, H, W]: pixels that have one label, or are background."""
        return self.known_mask != VOID

    @cached_property
    def valid(self) -> Tensor:
        """bool [B, H, W]: pixels that are not void. Where labels meet the mask is void, but their regions are known."""
        if self.regions is None:
            return self.single
        return self.single | self.regions.union(len(self.single))
