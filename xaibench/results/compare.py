"""Paired differences: the same metric of two methods (or models) on the images that both have values for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from xaibench.core.aggregation import find_aggregation
from xaibench.core.means import Array
from xaibench.results.scores import CONFIDENCE, bootstrap_weights, moments, percentile_interval

KEY = ["sample_id", "label"]
ROUNDING = 1e-5  # what batch size and threads may change, relative to 1 and to the value; no difference


@dataclass(frozen=True)
class Difference:
    """Two aggregated values and their difference, with a paired interval.

    Attributes:
        first, second: the two values, each aggregated over the shared pairs; NaN without a shared pair
        value: first - second
        ci_low, ci_high: percentile bootstrap over the shared images, 95 % by default; NaN for fewer than two
        n: pairs whose value is defined on both sides
        images: how many images these pairs are of
    """

    first: float
    second: float
    value: float
    ci_low: float
    ci_high: float
    n: int
    images: int


class SharedPairs:
    """Two cells of one metric on the pairs whose value is defined in both.

    Args:
        first, second: records of a cell, with the columns sample_id, label, value, status and statistics
        aggregate: name of the metric's aggregation
    Raises:
        UsageError: an unknown aggregation
    """

    def __init__(self, first: pd.DataFrame, second: pd.DataFrame, aggregate: str) -> None:
        self._rule = find_aggregation(aggregate)
        one, two = (rows[rows["status"] == "ok"].set_index(KEY).sort_index() for rows in (first, second))
        shared = one.index.intersection(two.index)
        self.count = len(shared)
        self._moments = [moments(rows.loc[shared].reset_index()) for rows in (one, two)] if self.count else []

    @property
    def images(self) -> int:
        return len(self._moments[0][0]) if self.count else 0

    def difference(self, seed: int, confidence: float = CONFIDENCE) -> Difference:
        """The aggregated values and first - second, with a paired interval. `seed` is that of the resamples."""
        nan = float("nan")
        if not self.count:
            return Difference(nan, nan, nan, nan, nan, n=0, images=0)
        resamples = bootstrap_weights(self.images, seed)
        weights = np.concatenate([np.ones((1, self.images)), resamples])  # the first row: the estimates
        values = [self._rule(np.tensordot(weights, sums, 1), weights @ counts) for sums, counts in self._moments]
        with np.errstate(invalid="ignore"):  # infinite minus infinite: no difference is defined
            differences = values[0] - values[1]
        low, high = percentile_interval(differences[1:], confidence) if self.images > 1 else (nan, nan)
        estimates = (float(values[0][0]), float(values[1][0]), float(differences[0]))
        return Difference(*estimates, low, high, n=self.count, images=self.images)

    def by_image(self) -> Array:
        """First - second [I], each value that of one image alone; 0 where they differ by rounding."""
        if not self.count:
            return np.zeros(0)
        first, second = (self._rule(sums, counts) for sums, counts in self._moments)
        with np.errstate(invalid="ignore"):
            differences = first - second
            small = np.abs(differences) <= ROUNDING * np.maximum(1, np.maximum(np.abs(first), np.abs(second)))
        return np.where(small, 0.0, differences)


def paired(first: pd.DataFrame, second: pd.DataFrame, aggregate: str, seed: int) -> Difference:
    """Difference of two cells of one metric, over the pairs whose value is defined in both.

    The aggregated values are subtracted (a difference of F1 scores, not a mean of differences), and both are aggregated
    over the same resamples of images: what makes an image hard for every map cancels.

    Args:
        first, second: records of a cell, with the columns sample_id, label, value, status and statistics
        aggregate: name of the metric's aggregation
        seed: of the resamples
    Raises:
        UsageError: an unknown aggregation
    """
    return SharedPairs(first, second, aggregate).difference(seed)
