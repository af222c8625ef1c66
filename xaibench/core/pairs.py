"""`Pairs`: the image and label pairs to explain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from xaibench.core.errors import UsageError


class Pairs:
    """Pairs of an image row and a label to explain. An image may have any number of labels.

    Args:
        image: [P] rows of the batch
        label: [P] label indices
    """

    def __init__(self, image: Tensor | Sequence[int], label: Tensor | Sequence[int]) -> None:
        self.image = torch.as_tensor(image, dtype=torch.long)
        self.label = torch.as_tensor(label, dtype=torch.long, device=self.image.device)
        if self.image.shape != self.label.shape or self.image.ndim != 1:
            raise UsageError(
                f"Pairs: image and label must be two lists of one length, found {tuple(self.image.shape)} "
                f"and {tuple(self.label.shape)}"
            )

    @classmethod
    def where(cls, chosen: Tensor) -> Pairs:
        """The pairs of a bool matrix [B, L], image by image."""
        image, label = chosen.nonzero(as_tuple=True)
        return cls(image, label)

    def __len__(self) -> int:
        return len(self.image)

    def __repr__(self) -> str:
        return f"Pairs(image={self.image.tolist()}, label={self.label.tolist()})"

    def __getitem__(self, rows: Tensor) -> Pairs:
        return Pairs(self.image[rows], self.label[rows])

    def to(self, device: torch.device) -> Pairs:
        return Pairs(self.image.to(device), self.label.to(device))

    def matrix(self, shape: torch.Size | tuple[int, int]) -> Tensor:
        """bool [B, L], True at the pairs."""
        chosen = torch.zeros(shape, dtype=torch.bool, device=self.image.device)
        chosen[self.image, self.label] = True
        return chosen

    def check(self, images: int, labels: int) -> None:
        """Raise UsageError when a pair points outside a batch of `images` and `labels`."""
        for what, rows, size in (("image", self.image, images), ("label", self.label, labels)):
            outside = rows[(rows < 0) | (rows >= size)]
            if len(outside):
                raise UsageError(f"Pairs: {what} {int(outside[0])} is outside 0..{size - 1}")

    def rank(self) -> Tensor:
        """[P]: r for the r-th pair of its image, so that equal ranks never share an image."""
        order = torch.argsort(self.image, stable=True)
        counts = torch.bincount(self.image, minlength=1)
        first = counts.cumsum(0) - counts
        position = torch.empty_like(order)
        position[order] = torch.arange(len(order), device=order.device)
        return position - first[self.image]

    def ranks(self) -> Iterator[Tensor]:
        """Rows of the pairs of rank 0, of rank 1, ..."""
        rank = self.rank()
        for r in range(int(rank.max()) + 1 if len(self) else 0):
            yield (rank == r).nonzero()[:, 0]
