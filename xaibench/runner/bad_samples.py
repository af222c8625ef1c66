"""Samples that cannot be read: collected, recalled from records, and refused past a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from xaibench.core.errors import SampleError
from xaibench.data.loader import Reader

MOST_LISTED = 20  # bad samples in one message; bad_samples.csv has all


@dataclass
class BadSamples:
    """Samples that could not be read, in this attempt or before it.

    Attributes:
        allowed: how many there may be
        note: called with a message for each new one
        found: id to the reason
    """

    allowed: int
    note: Callable[[str], None]
    found: dict[str, str] = field(default_factory=dict)

    def add(self, bad: Iterable[tuple[str, str]]) -> None:
        """Take up (id, reason). Raises SampleError where there are more than are allowed."""
        for sample_id, reason in bad:
            if sample_id not in self.found:
                self.found[sample_id] = reason
                self.note(f"bad sample {sample_id}: {reason}")
        if len(self.found) > self.allowed:
            listed = [f"{sample_id}: {reason}" for sample_id, reason in self.found.items()]
            more = f"; and {len(self.found) - MOST_LISTED} more in bad_samples.csv"
            raise SampleError(
                f"bad samples: {len(self.found)} found, {self.allowed} allowed (--max-bad-samples): "
                + "; ".join(listed[:MOST_LISTED])
                + more * (len(listed) > MOST_LISTED)
            )


def why_bad(reader: Reader, index: int) -> str:
    """What is wrong with a sample that could not be read before: it is read again."""
    try:
        reader.read(index)
    except SampleError as error:
        return str(error)
    return "could not be read when its records were made; it can be read now, and a run with a new --out includes it"
