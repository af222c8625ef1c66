"""A seeded hold-out for data sets whose test labels are not public: iterative stratification of many labels.

    Sechidis, Tsoumakas and Vlahavas: On the Stratification of Multi-label Data, ECML PKDD 2011, algorithm 1

The samples of the rarest label are distributed first, each to the side that lacks most of its target number. This
implementation differs in three points. The order of samples depends on the seed and their ids alone, not on the file.
The target of a label with two or more positives is at least one on each side. Where a label is still missing on one
side, because the other labels of its samples took them to the other side, single samples are moved, unless that would
remove the last sample of another label. Whether all labels can be on both sides is a hard problem in general, and the
search is not exhaustive: among 6,000 random tables of at most eight samples and five labels it missed eight that had a
solution, among larger ones none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from xaibench.core.errors import UsageError

Split = Literal["train", "val", "trainval"]
Bools = npt.NDArray[np.bool_]
KEPT, HELD = 0, 1


def rows_of(
    split: Split, ids: Sequence[str], labels: npt.NDArray[np.uint8], fraction: float, seed: int
) -> npt.NDArray[np.intp]:
    """Numbers of the rows of a split, in order: `val` is the part that `hold_out` holds out, `trainval` is all rows."""
    if split == "trainval":
        return np.arange(len(ids))
    return np.flatnonzero(hold_out(ids, labels, fraction, seed) == (split == "val"))


def hold_out(ids: Sequence[str], labels: npt.NDArray[np.uint8], fraction: float, seed: int = 0) -> Bools:
    """bool [N]: the samples that are held out, about `fraction` of all and of the positives of every label.

    Args:
        ids: [N] names, each once
        labels: [N, L], 1 where the label is present
        fraction: between 0 and 1

    Raises:
        UsageError: a fraction that leaves one side empty
    """
    if not 0 < fraction < 1:
        raise UsageError(f"hold_out {fraction}: a fraction between 0 and 1 is needed (both excluded)", key="hold_out")
    keys = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in ids]
    order = sorted(range(len(ids)), key=keys.__getitem__)
    # a label with one positive cannot be on both sides and is not counted
    counted = np.flatnonzero(labels.sum(0) >= 2).tolist()
    labels_of = [[label for label in counted if row[label]] for row in labels[order].tolist()]
    side = _distribute(labels_of, fraction)
    _complete(labels_of, side)
    held = np.zeros(len(ids), np.bool_)
    held[order] = np.array(side, np.int64) == HELD
    return held


def _distribute(labels_of: list[list[int]], fraction: float) -> list[int]:
    """The side of each sample, given by its labels."""
    members: dict[int, list[int]] = {}
    for sample, labels in enumerate(labels_of):
        for label in labels:
            members.setdefault(label, []).append(sample)
    held = {label: min(max(len(found) * fraction, 1), len(found) - 1) for label, found in members.items()}
    missing = [{label: len(found) - held[label] for label, found in members.items()}, held]  # by side and label
    room = [len(labels_of) * (1 - fraction), len(labels_of) * fraction]
    side = [-1] * len(labels_of)

    def place(sample: int, label: int | None) -> None:
        labels = labels_of[sample]

        def need(s: int) -> tuple[float, float, float]:
            return (0 if label is None else missing[s][label], sum(missing[s][each] for each in labels), room[s])

        chosen = max((KEPT, HELD), key=need)
        side[sample] = chosen
        room[chosen] -= 1
        for each in labels:
            missing[chosen][each] -= 1

    while waiting := {label: left for label, m in members.items() if (left := [i for i in m if side[i] < 0])}:
        rarest = min(waiting, key=lambda label: (len(waiting[label]), label))
        for sample in waiting[rarest]:
            place(sample, rarest)
    for sample, chosen in enumerate(side):
        if chosen < 0:
            place(sample, None)
    return side


def _complete(labels_of: list[list[int]], side: list[int]) -> None:
    """Move single samples to the side where one of their labels is missing, unless their own side needs them."""
    count: list[dict[int, int]] = [{label: 0 for labels in labels_of for label in labels} for _ in (KEPT, HELD)]
    for labels, chosen in zip(labels_of, side, strict=True):
        for label in labels:
            count[chosen][label] += 1
    moved = True
    while moved:
        moved = False
        for sample, labels in enumerate(labels_of):
            here, there = side[sample], 1 - side[sample]
            if any(count[there][label] == 0 for label in labels) and all(count[here][label] > 1 for label in labels):
                side[sample], moved = there, True
                for label in labels:
                    count[here][label] -= 1
                    count[there][label] += 1
