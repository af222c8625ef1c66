"""Curve of mean IoU over the background threshold, from the statistics that seed metrics record.

It is here and not beside the metrics, because results are read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xaibench.core.means import Array, mean_of_defined

WITHIN = 0.02  # of the best mean IoU: "within 2 points"
HEADER = 2  # numbers before the thresholds in a row: of classes, of thresholds


@dataclass(frozen=True)
class SeedCounts:
    """Pixels by threshold and class, of one image or a mean over images.

    In records a row is [K, T, thresholds, hits, predicted, truth], the last three flattened.

    Attributes:
        thresholds: [T], that of the fixed value first
        hits, predicted: [..., T, K] true positives, and all pixels given to the class
        truth: [..., K] pixels of the class
    """

    thresholds: Array
    hits: Array
    predicted: Array
    truth: Array

    @classmethod
    def of_rows(cls, rows: Array) -> SeedCounts:
        """Unpack rows [..., S]; all have the same thresholds and classes."""
        first = rows.reshape(-1, rows.shape[-1])[0]
        classes, cuts = (round(float(number)) for number in first[:HEADER])
        ends = np.cumsum([HEADER, cuts, cuts * classes, cuts * classes])
        _, thresholds, hits, predicted, truth = np.split(rows, ends, -1)
        shape = (*rows.shape[:-1], cuts, classes)
        return cls(thresholds.reshape(-1, cuts)[0], hits.reshape(shape), predicted.reshape(shape), truth)


@dataclass(frozen=True)
class SeedCurve:
    """Mean IoU of seeds over the background threshold.

    Attributes:
        fixed: the threshold of the fixed value; value_fixed: mean IoU there [...]
        thresholds: [T] of the sweep; values: mean IoU there [..., T]
    """

    fixed: float
    value_fixed: Array
    thresholds: Array
    values: Array

    @property
    def oracle_threshold(self) -> Array:
        """First best threshold [...] of the sweep. It is chosen on the ground truth, hence the name."""
        return np.asarray(np.where(np.isnan(self.values).any(-1), np.nan, self.thresholds[self.values.argmax(-1)]))

    @property
    def width(self) -> Array:
        """Length [...] of the thresholds whose mean IoU, linear in between, is within 2 points of the best."""
        level = self.values - self.values.max(-1, keepdims=True) + WITHIN
        low, high = np.minimum(level[..., :-1], level[..., 1:]), np.maximum(level[..., :-1], level[..., 1:])
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(low >= 0, 1, np.where(high <= 0, 0, high / (high - low)))
        share = np.where(np.isnan(level[..., :-1] + level[..., 1:]), np.nan, share)
        return np.asarray((share * np.diff(self.thresholds)).sum(-1))


def seed_curve(rows: Array, classes: str = "occurring") -> SeedCurve:
    """Curve of mean statistics [..., S]; `classes`: mean over those that occur, or over all, 0 for absent ones."""
    counts = SeedCounts.of_rows(rows)
    union = counts.truth[..., None, :] + counts.predicted - counts.hits
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union == 0, np.nan, counts.hits / union)
    iou = np.where(np.isnan(union), np.nan, iou)
    values = mean_of_defined(iou)
    if classes == "all":
        values = np.where(np.isnan(values), np.nan, np.nansum(iou, -1) / iou.shape[-1])
    return SeedCurve(float(counts.thresholds[0]), values[..., 0], counts.thresholds[1:], values[..., 1:])


def fixed_miou(rows: Array, classes: str) -> Array:
    """[..., S] -> [...]: mean IoU at the fixed threshold."""
    return seed_curve(rows, classes).value_fixed


def best_miou(rows: Array, classes: str) -> Array:
    """[..., S] -> [...]: the best mean IoU of the sweep."""
    return np.asarray(seed_curve(rows, classes).values.max(-1))


def width(rows: Array, classes: str) -> Array:
    """[..., S] -> [...]: length of the thresholds near the best."""
    return seed_curve(rows, classes).width
