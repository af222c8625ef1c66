"""The hold-out: its share of every label, whatever the order of the file, and every label on both sides."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.core.errors import UsageError
from xaibench.data.reading.stratified_split import hold_out, rows_of

Labels = npt.NDArray[np.uint8]
# positives of the 40,479 chips of Planet, by tag
PLANET = [37513, 12315, 28431, 8071, 7411, 7261, 4547, 3660, 2697, 2089, 862, 340, 339, 332, 209, 101, 100]


def names(count: int) -> list[str]:
    return [f"sample_{i}" for i in range(count)]


def drawn(counts: list[int], total: int, seed: int = 0) -> Labels:
    shares = np.array(counts) / total
    return (np.random.default_rng(seed).random((total, len(counts))) < shares).astype(np.uint8)


def test_every_label_keeps_its_share() -> None:
    counts, total = [count // 10 for count in PLANET], 4047
    labels = drawn(counts, total)
    for fraction in (0.1, 0.3, 0.5):
        held = hold_out(names(total), labels, fraction)
        assert held.mean() == pytest.approx(fraction, abs=0.01)
        off = labels[held].sum(0) - fraction * labels.sum(0)
        assert np.abs(off).max() <= 3
        # a plain draw is much further off
        plain = np.random.default_rng(0).permutation(total) < fraction * total
        assert np.abs(labels[plain].sum(0) - fraction * labels.sum(0)).max() > 3 * np.abs(off).max()


def test_the_order_of_the_file_does_not_matter() -> None:
    labels, ids = drawn([60, 30, 10, 4, 2], 100), np.array(names(100))
    held = hold_out(ids.tolist(), labels, 0.2, seed=3)
    assert held.dtype == np.bool_
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(100)
        np.testing.assert_array_equal(hold_out(ids[order].tolist(), labels[order], 0.2, seed=3), held[order])


def test_the_seed_does() -> None:
    labels = drawn([60, 30, 10], 100)
    chosen = [hold_out(names(100), labels, 0.3, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[0] != chosen[2]).any()


def test_what_is_held_out_does_not_move() -> None:
    """Scores of a published split are of these samples; computed once and kept."""
    labels = np.array([[i % 2, i % 3 == 0] for i in range(12)], np.uint8)
    assert np.flatnonzero(hold_out(names(12), labels, 0.25)).tolist() == FROZEN


FROZEN = [0, 4, 11]


def test_a_rare_label_stands_on_both_sides() -> None:
    labels = np.zeros((200, 3), np.uint8)
    labels[:, 0] = 1
    labels[[3, 150], 1] = 1  # two positives, of which 0.1 would be a fifth of a sample
    labels[77, 2] = 1  # one cannot be on both
    for seed in range(20):
        held = hold_out(names(200), labels, 0.1, seed)
        assert labels[held, 1].sum() == labels[~held, 1].sum() == 1
        assert held.sum() == pytest.approx(20, abs=1)


def test_two_labels_that_pull_in_two_directions() -> None:
    """Each label of three has two samples, each sample two labels: some order of dealing leaves one label without."""
    labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], np.uint8)
    for seed in range(50):
        held = hold_out(names(4), labels, 0.5, seed)
        assert (labels[held].sum(0) == 1).all()


def test_samples_without_labels_are_dealt_out_too() -> None:
    assert hold_out(names(10), np.zeros((10, 4), np.uint8), 0.3).sum() == 3
    assert hold_out([], np.zeros((0, 4), np.uint8), 0.3).shape == (0,)
    assert not hold_out(["one"], np.ones((1, 4), np.uint8), 0.3).any()


matrices = st.integers(2, 9).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=n, max_size=n)
)


def missing(labels: Labels, held: npt.NDArray[np.bool_]) -> set[tuple[int, bool]]:
    """(label, side) pairs without a positive, of labels that have two or more."""
    return {
        (label, side)
        for label in np.flatnonzero(labels.sum(0) >= 2).tolist()
        for side in (False, True)
        if not labels[held == side, label].any()
    }


@settings(max_examples=200)
@given(matrices, st.sampled_from([0.2, 0.5]), st.integers(0, 3))
def test_no_single_move_could_mend_it(rows: list[list[int]], fraction: float, seed: int) -> None:
    labels = np.array(rows, np.uint8)
    held = hold_out(names(len(rows)), labels, fraction, seed)
    without = missing(labels, held)
    for sample in range(len(rows)):
        changed = held.copy()
        changed[sample] = ~changed[sample]
        assert not missing(labels, changed) < without


@pytest.mark.parametrize("seed", range(20))
def test_larger_tables_have_every_label_on_both_sides(seed: int) -> None:
    """Labels of two to six positives, many to a sample."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((60, 12), np.uint8)
    for label in range(12):
        labels[rng.choice(60, rng.integers(2, 7), replace=False), label] = 1
    assert not missing(labels, hold_out(names(60), labels, 0.2, seed))


def test_splits() -> None:
    labels, ids = drawn([20, 10], 40), names(40)
    train, val, everything = (rows_of(split, ids, labels, 0.25, 0) for split in ("train", "val", "trainval"))
    assert sorted([*train, *val]) == list(everything) == list(range(40))
    assert list(train) == sorted(train)
    assert len(val) == 10


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 30])
def test_fractions_that_leave_a_side_empty(fraction: float) -> None:
    with pytest.raises(UsageError, match=f"hold_out {fraction}: a fraction between 0 and 1"):
        hold_out(names(4), np.ones((4, 1), np.uint8), fraction)
