"""Tests of paired differences, and their correction for a whole table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from xaibench.core.means import Array

MOST_ENUMERATED = 13  # differences whose 2^n signs are enumerated; beyond, the normal approximation is close


def signed_rank(differences: Array) -> float:
    """Two-sided p value of the Wilcoxon signed-rank test [wilcoxon1945] that differences [n] are symmetric around 0.

    Differences that are 0 or not finite are left out; without any other the p value is 1. Up to 13 differences it is
    exact, also with ties, where the normal approximation is too small.
    """
    differences = differences[np.isfinite(differences) & (differences != 0)]
    if len(differences) == 0:
        return 1.0
    if len(differences) <= MOST_ENUMERATED:
        return _enumerated(differences)
    return float(stats.wilcoxon(differences).pvalue)


def _enumerated(differences: Array) -> float:
    """Share of all signs [2^n, n] whose sum of signed ranks is at least as far from 0."""
    count = len(differences)
    ranks = stats.rankdata(np.abs(differences))
    signs = 1 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    found = abs(np.sign(differences) @ ranks)
    return float((np.abs(signs @ ranks) >= found - 1e-9).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given [holm1979]: below alpha, they bound the chance of any false alarm by alpha."""
    values = np.asarray(p_values, float)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def normal_quantile(alpha: float) -> float:
    """Half-width of a two-sided interval of level 1 - alpha, in standard deviations."""
    return float(stats.norm.ppf(1 - alpha / 2))


def two_sided(z: float) -> float:
    """The p value of a difference of z standard deviations."""
    return float(2 * stats.norm.sf(abs(z)))
