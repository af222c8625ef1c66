"""The signed-rank test against scipy and against an enumeration in plain loops; Holm against its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from xaibench.results.significance import holm, normal_quantile, signed_rank, two_sided


def slow_signed_rank(differences: list[float]) -> float:
    """The twin: every choice of signs, ranks by counting."""
    sizes = [abs(value) for value in differences]
    ranks = [sum(other < size for other in sizes) + (sum(other == size for other in sizes) + 1) / 2 for size in sizes]

    def statistic(signs: tuple[int, ...]) -> float:
        return abs(sum(sign * rank for sign, rank in zip(signs, ranks, strict=True)))

    found = statistic(tuple(1 if value > 0 else -1 for value in differences))
    every = list(itertools.product((1, -1), repeat=len(differences)))
    return sum(statistic(signs) >= found for signs in every) / len(every)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("seed", range(4))
def test_few_differences_against_plain_loops(size: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(-3, 4, size)
    differences = drawn[drawn != 0].astype(float)
    if len(differences):
        assert signed_rank(differences) == pytest.approx(slow_signed_rank(differences.tolist()))


@pytest.mark.parametrize("size", [3, 9, 13, 14, 40, 200])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_against_scipy(size: int, shift: float) -> None:
    differences = np.random.default_rng(size).normal(shift, 1, size)
    assert signed_rank(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_few_ties_are_not_significant() -> None:
    """Five images that all lose a point of the pointing game: 2 of 32 signs."""
    assert signed_rank(np.full(5, -1.0)) == 2 / 32


def test_what_does_not_differ_is_left_out() -> None:
    one = np.array([0.5, -0.2, 0.1, 0.7])
    assert signed_rank(np.concatenate([one, np.zeros(50), [np.nan, np.inf]])) == signed_rank(one)
    assert signed_rank(np.zeros(9)) == 1.0
    assert signed_rank(np.array([])) == 1.0


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # wikipedia's example
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_holm_against_its_definition(seed: int) -> None:
    values = np.random.default_rng(seed).random(7) ** 3
    expected = {}
    for rank, value in enumerate(sorted(values)):
        expected[value] = min(1.0, max((len(values) - i) * v for i, v in enumerate(sorted(values)[: rank + 1])))
    assert holm(values.tolist()) == pytest.approx([expected[value] for value in values])


def test_the_normal_distribution() -> None:
    assert normal_quantile(0.05) == pytest.approx(1.959964, abs=1e-6)
    assert two_sided(1.959964) == two_sided(-1.959964) == pytest.approx(0.05, abs=1e-6)
