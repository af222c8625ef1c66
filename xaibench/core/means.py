"""Means of arrays in which a value that is not defined is NaN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def mean_of_defined(values: Array, axis: int = -1) -> Array:
    """Mean over an axis of the values that are not NaN; NaN where there are none."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(defined.any(axis), total / defined.sum(axis), np.nan))
