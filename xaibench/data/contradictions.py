"""Count pictures whose mask holds a class that their labels deny, as where classes and mask values differ in order.

A present label without pixels does not count: a small object may be void in the mask. Labels to be ignored and mask
values beyond the labels, which stand for objects of an unknown class, do not count either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from xaibench.data.batch import Batch
from xaibench.data.dataset import VOID, Dataset, Sample


def contradicted(sample: Sample) -> list[int]:
    """Labels that a sample denies although its mask or one of its regions holds them, in order."""
    if sample.labels is None:
        return []
    held = set(_classes(sample))
    held.update(label for label, region in (sample.regions or {}).items() if region.any())
    denied = (sample.labels == 0) & (sample.ignore == 0)
    return [label for label in sorted(held) if label < len(denied) and denied[label]]


def _classes(sample: Sample) -> Iterator[int]:
    """Labels that the mask of a sample holds."""
    if sample.mask is None:
        return
    values = sample.mask[sample.mask > 0]
    if values.dtype == np.uint8:
        values = values[values != VOID]
    for value in np.flatnonzero(np.bincount(values)).tolist():  # ten times as fast as np.unique
        yield value - 1


@dataclass
class Contradictions:
    """The contradictions of the batches that were read.

    Attributes:
        pictures: number of pictures that were read with a mask
        found: names of the contradicted classes, by sample id
    """

    dataset: Dataset
    pictures: int = 0
    found: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the same batches; count the contradictions of each first."""
        for batch in batches:
            if batch.ground_truth.mask is not None:
                self.pictures += len(batch.ids)
            self.found.update(batch.contradictions)
            yield batch

    @property
    def texts(self) -> list[str]:
        """A text for each picture: its id and the classes."""
        return [f"{sample_id}: {', '.join(names)}" for sample_id, names in self.found.items()]

    @property
    def message(self) -> str:
        """One sentence with the number of pictures, the first of them, and what to check; "" where there is none."""
        if not self.found:
            return ""
        advice = self.dataset.contradiction_advice
        return (
            f"masks of {len(self.found)} of {self.pictures} pictures hold classes that {self.dataset.label_source} does not "
            f"give them (first: {self.texts[0]})" + (f"; {advice}" if advice else "")
        )
