"""Batches: samples as tensors, with their ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from xaibench.core.errors import SampleError
from xaibench.data.dataset import Sample
from xaibench.data.ground_truth import GroundTruth, Regions
from xaibench.data.preprocess import Geometry


@dataclass(frozen=True)
class Batch:
    """Samples as tensors, and what could not be read.

    Attributes:
        ids: of the samples that could be read, in order
        images: [B, C, H, W] as collated: uint8 of the model's size, or model input already; `to` makes them model input
        ground_truth: of these samples; a label is present where it is given and not to be ignored
        bad: (id, message) of the samples that could not be read
        samples: numbers within the data set of all of them
        contradictions: (id, class names) of the samples whose mask holds classes that their labels deny
    """

    ids: list[str]
    images: Tensor
    ground_truth: GroundTruth
    bad: list[tuple[str, str]]
    samples: range = range(0)
    contradictions: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def to(self, geometry: Geometry, device: torch.device, dtype: torch.dtype) -> Batch:
        """The batch on a device, its images normalised by the geometry that it was collated with, and of this type."""
        if not self.ids:
            return self
        images = geometry.floats(self.images.to(device, non_blocking=True))
        return replace(self, images=images.to(dtype), ground_truth=self.ground_truth.to(device))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, for fast copies to a GPU; the DataLoader calls this."""
        return replace(self, images=self.images.pin_memory(), ground_truth=self.ground_truth.pin_memory())

    def halves(self) -> list[Batch]:
        """Two batches of half the samples each, without `bad` and `contradictions`, which concern the whole batch."""
        middle = len(self.ids) // 2
        rows = torch.arange(len(self.ids), device=self.images.device)
        return [
            Batch(self.ids[s], self.images[s], self.ground_truth[rows[s]], [])
            for s in (slice(middle), slice(middle, None))
        ]


def collate(
    samples: Sequence[Sample], geometry: Geometry, bad: Sequence[tuple[str, str]] = (), asked: range = range(0)
) -> Batch:
    """Bring samples to an input geometry and stack them.

    Args:
        bad: (id, message) of samples that could not be read
        asked: numbers within the data set of all samples
    """
    if not samples:
        return Batch([], torch.empty(0), GroundTruth(), list(bad), asked)
    masks = [geometry.mask(sample.mask) for sample in samples if sample.mask is not None]
    return Batch(
        ids=[sample.id for sample in samples],
        images=torch.stack([geometry.stored(sample.image) for sample in samples]),
        ground_truth=GroundTruth(
            mask=torch.stack(masks) if masks else None,
            regions=Regions.collate(samples, geometry),
            present=_present(samples),
        ),
        bad=list(bad),
        samples=asked,
    )


def _present(samples: Sequence[Sample]) -> Tensor | None:
    """bool [B, L]: labels that are present and not to be ignored; None where labels are not known."""
    rows = [torch.from_numpy((s.labels > 0) & (s.ignore == 0)) for s in samples if s.labels is not None]
    if not rows:
        return None
    if len(rows) < len(samples):
        lacking = next(sample for sample in samples if sample.labels is None)
        raise SampleError(f"{lacking.source}: has no labels, though other samples of its data set have them")
    return torch.stack(rows)
