"""Paired differences: the same metric of two methods (or models) on the images that both have values for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from xaibench.core.aggregation import find_aggregation
from xaibench.results.scores import bootstrap_weights, moments, percentile_interval

KEY = ["sample_id", "label"]


@dataclass(frozen=True)
class Difference:
    """Two aggregated values and their difference, with a paired interval.

    Attributes:
        first, second: the two values, each aggregated over the shared pairs; NaN without a shared pair
        value: first - second
        ci_low, ci_high: 95 % percentile bootstrap over the shared images; NaN for fewer than two
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
    rule = find_aggregation(aggregate)
    one, two = (rows[rows["status"] == "ok"].set_index(KEY).sort_index() for rows in (first, second))
    shared = one.index.intersection(two.index)
    nan = float("nan")
    if shared.empty:
        return Difference(nan, nan, nan, nan, nan, n=0, images=0)
    statistics = [moments(rows.loc[shared].reset_index()) for rows in (one, two)]
    images = len(statistics[0][0])
    weights = np.concatenate([np.ones((1, images)), bootstrap_weights(images, seed)])  # the first row: the estimates
    values = [rule(np.tensordot(weights, sums, 1), weights @ counts) for sums, counts in statistics]
    with np.errstate(invalid="ignore"):  # infinite minus infinite: no difference is defined
        differences = values[0] - values[1]
    low, high = percentile_interval(differences[1:]) if images > 1 else (nan, nan)
    estimates = (float(values[0][0]), float(values[1][0]), float(differences[0]))
    return Difference(*estimates, low, high, n=len(shared), images=images)
