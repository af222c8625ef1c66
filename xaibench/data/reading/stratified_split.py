"""A seeded hold-out for data sets whose test labels are not public: iterative stratification of many labels.

    Sechidis, Tsoumakas and Vlahavas: On the Stratification of Multi-label Data, ECML PKDD 2011, algorithm 1

The rarest label is dealt out first, each of its samples to the side that is furthest from its due. Ours differs in
three points: samples are met in an order given by the seed and their ids alone, not by the file; every label with
two or more positives is due at least one on each side; and where labels of one sample pull in two directions and a
side is left without, single samples change sides as long as that takes nothing from another label. Whether all labels
can stand on both sides is a hard problem in general, and no exhaustive search is made: of 6,000 random tables of at
most eight samples and five labels it was missed in eight that had a solution, of larger ones in none.
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
    """Which rows make a split, in their order: `val` is what `hold_out` holds out, `trainval` is everything."""
    if split == "trainval":
        return np.arange(len(ids))
    return np.flatnonzero(hold_out(ids, labels, fraction, seed) == (split == "val"))


def hold_out(ids: Sequence[str], labels: npt.NDArray[np.uint8], fraction: float, seed: int = 0) -> Bools:
    """Which samples are held out: bool [N], about `fraction` of them, and of the positives of every label.

    Args:
        ids: [N] names, each once
        labels: [N, L], 1 where the label is present
        fraction: between 0 and 1

    Raises:
        UsageError: a fraction that leaves one side empty
    """
    if not 0 < fraction < 1:
        raise UsageError(f"hold_out {fraction}: a fraction between 0 and 1 is needed (both excluded)")
    keys = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in ids]
    order = sorted(range(len(ids)), key=keys.__getitem__)
    # a label with one positive cannot stand on both sides and is not counted
    counted = np.flatnonzero(labels.sum(0) >= 2).tolist()
    labels_of = [[label for label in counted if row[label]] for row in labels[order].tolist()]
    side = _deal(labels_of, fraction)
    _mend(labels_of, side)
    held = np.zeros(len(ids), np.bool_)
    held[order] = np.array(side, np.int64) == HELD
    return held


def _deal(labels_of: list[list[int]], fraction: float) -> list[int]:
    """The side of each sample, in the order in which they come."""
    members: dict[int, list[int]] = {}
    for sample, own in enumerate(labels_of):
        for label in own:
            members.setdefault(label, []).append(sample)
    held = {label: min(max(len(found) * fraction, 1), len(found) - 1) for label, found in members.items()}
    due = [{label: len(found) - held[label] for label, found in members.items()}, held]
    room = [len(labels_of) * (1 - fraction), len(labels_of) * fraction]
    side = [-1] * len(labels_of)

    def place(sample: int, label: int | None) -> None:
        def wish(s: int) -> tuple[float, float, float]:
            return (0 if label is None else due[s][label], sum(due[s][own] for own in labels_of[sample]), room[s])

        chosen = max((KEPT, HELD), key=wish)
        side[sample] = chosen
        room[chosen] -= 1
        for own in labels_of[sample]:
            due[chosen][own] -= 1

    while waiting := {label: left for label, m in members.items() if (left := [i for i in m if side[i] < 0])}:
        rarest = min(waiting, key=lambda label: (len(waiting[label]), label))
        for sample in waiting[rarest]:
            place(sample, rarest)
    for sample, chosen in enumerate(side):
        if chosen < 0:
            place(sample, None)
    return side


def _mend(labels_of: list[list[int]], side: list[int]) -> None:
    """Move samples, one at a time, to sides where one of their labels is missing."""
    count: list[dict[int, int]] = [{label: 0 for own in labels_of for label in own} for _ in (KEPT, HELD)]
    for own, chosen in zip(labels_of, side, strict=True):
        for label in own:
            count[chosen][label] += 1
    moved = True
    while moved:
        moved = False
        for sample, own in enumerate(labels_of):
            here, there = side[sample], 1 - side[sample]
            if any(count[there][label] == 0 for label in own) and all(count[here][label] > 1 for label in own):
                side[sample], moved = there, True
                for label in own:
                    count[here][label] -= 1
                    count[there][label] += 1
