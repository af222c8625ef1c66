"""From values of pairs to one number with an interval.

Everything is a function of moments: sums and counts per (image, label). A weighted sum over images gives the estimate
(weights 1), a subset (weights 0 or 1) and a bootstrap resample (multinomial weights) alike, exactly and vectorised.
The image is the unit of resampling, because the labels of one image are not independent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xaibench.errors import UsageError, unknown

Array = npt.NDArray[np.float64]

RESAMPLES = 1000
CONFIDENCE = 0.95
PER_IMAGE = -1  # the label of a value that belongs to an image and not to a pair


def identity(means: Array) -> Array:
    """[..., 1] -> [...]"""
    return means[..., 0]


def harmonic(means: Array) -> Array:
    """[..., 2] -> [...]: 2ab / (a + b), 0 where a + b = 0."""
    a, b = means[..., 0], means[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(a + b == 0, 0.0, 2 * a * b / (a + b))


def ratio(means: Array) -> Array:
    """[..., 2] -> [...]: a / b. The ratio of two means is that of the totals."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(means[..., 0] / means[..., 1])


def mean_iou(means: Array) -> Array:
    """[..., 2 K] intersections and unions of K classes -> [...]: mean IoU of the classes whose union is not empty."""
    intersections, unions = np.split(means, 2, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _nanmean(np.where(unions == 0, np.nan, intersections / unions), -1)


WITHIN = 0.02  # of the best mean IoU: "within 2 points"


@dataclass(frozen=True)
class SeedCurve:
    """Mean IoU of seeds over the background threshold, from the mean statistics of images [..., S] (see `seed_miou`).

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
        """[...]: the first best threshold of the sweep: chosen on the ground truth, hence the name."""
        return np.asarray(np.where(np.isnan(self.values).any(-1), np.nan, self.thresholds[self.values.argmax(-1)]))

    @property
    def width(self) -> Array:
        """[...]: length of the thresholds whose mean IoU, linear in between, is within 2 points of the best."""
        level = self.values - self.values.max(-1, keepdims=True) + WITHIN
        low, high = np.minimum(level[..., :-1], level[..., 1:]), np.maximum(level[..., :-1], level[..., 1:])
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(low >= 0, 1, np.where(high <= 0, 0, high / (high - low)))
        share = np.where(np.isnan(level[..., :-1] + level[..., 1:]), np.nan, share)
        return np.asarray((share * np.diff(self.thresholds)).sum(-1))


def seed_curve(means: Array, classes: str = "occurring") -> SeedCurve:
    """The curve behind a seed score; `classes`: mean over those that occur, or over all with 0 for absent ones."""
    count = round(float(means.flat[0]))
    cuts = (means.shape[-1] - 1 - count) // (1 + 2 * count)
    thresholds = means.reshape(-1, means.shape[-1])[0, 1 : 1 + cuts]
    blocks = means[..., 1 + cuts :]
    hits, predicted = (block.reshape(*block.shape[:-1], cuts, count) for block in np.split(blocks[..., :-count], 2, -1))
    truth = blocks[..., None, -count:]
    union = truth + predicted - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union == 0, np.nan, hits / union)
    iou = np.where(np.isnan(union), np.nan, iou)
    values = _nanmean(iou, -1)
    if classes == "all":
        values = np.where(np.isnan(values), np.nan, np.nansum(iou, -1) / count)
    return SeedCurve(float(thresholds[0]), values[..., 0], thresholds[1:], values[..., 1:])


@dataclass(frozen=True)
class Aggregation:
    """How statistics of pairs [n, S] become one value.

    Attributes:
        value: from mean statistics [..., S] to values [...]
        per: "all": of the mean over all pairs; "label": per label, then the mean of labels; "macro": of the mean over
            labels of the label means. Labels without a defined pair are left out of a mean over labels
    """

    value: Callable[[Array], Array]
    per: str

    def __call__(self, sums: Array, counts: Array) -> Array:
        """Sums [..., L, S] and counts [..., L] to values [...]; NaN where there is nothing to average."""
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.per == "all":
                return self.value(sums.sum(-2) / counts.sum(-1)[..., None])
            labels = sums / counts[..., None]
            if self.per == "label":
                return _nanmean(self.value(labels), -1)
            return self.value(_nanmean(labels, -2))


def _nanmean(values: Array, axis: int) -> Array:
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(defined.any(axis), total / defined.sum(axis), np.nan))


AGGREGATIONS = {
    "mean": Aggregation(identity, "all"),
    "label_macro": Aggregation(identity, "label"),
    "label_macro_f1": Aggregation(harmonic, "label"),
    "f1_of_macro": Aggregation(harmonic, "macro"),
    "f1_of_mean": Aggregation(harmonic, "all"),
    "cascade_mean": Aggregation(lambda means: np.asarray(means.mean(-1)), "all"),
    "cascade_last": Aggregation(lambda means: np.asarray(means[..., -1]), "all"),
    "ratio": Aggregation(ratio, "all"),
    "mean_iou": Aggregation(mean_iou, "all"),
    "seed_miou": Aggregation(lambda means: seed_curve(means).value_fixed, "all"),
    "seed_miou_all": Aggregation(lambda means: seed_curve(means, "all").value_fixed, "all"),
    "oracle_seed_miou": Aggregation(lambda means: seed_curve(means).values.max(-1), "all"),
    "oracle_seed_miou_all": Aggregation(lambda means: seed_curve(means, "all").values.max(-1), "all"),
    "seed_width": Aggregation(lambda means: seed_curve(means).width, "all"),
    "seed_width_all": Aggregation(lambda means: seed_curve(means, "all").width, "all"),
}


def aggregation(name: str) -> Aggregation:
    if name not in AGGREGATIONS:
        raise UsageError(unknown("aggregation", name, AGGREGATIONS))
    return AGGREGATIONS[name]


@dataclass(frozen=True)
class Score:
    """One aggregated value.

    Attributes:
        n: pairs with a defined value; n_undefined: pairs without; n_error: samples that could not be read
        std, stderr: over the defined pairs' own finite values (plain, not per label)
        ci_low, ci_high: percentile bootstrap over images
    """

    value: float
    n: int
    n_undefined: int
    n_error: int
    std: float
    stderr: float
    ci_low: float
    ci_high: float


def score(frame: pd.DataFrame, aggregate: str, seed: int = 0, resamples: int = RESAMPLES) -> Score:
    """Aggregate rows with columns sample_id, label, value, status and parts (statistics, or None)."""
    rule = aggregation(aggregate)
    ok = frame[frame["status"] == "ok"]
    value = low = high = float("nan")
    if len(ok):
        sums, counts = moments(ok)
        value = float(rule(sums.sum(0), counts.sum(0)))
        low, high = _interval(rule, sums, counts, seed, resamples)
    values = ok["value"].to_numpy(float)
    values = values[np.isfinite(values)]  # a ratio of counts may be infinite in a row and not in total
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Score(
        value=value,
        n=len(ok),
        n_undefined=int((frame["status"] == "undefined").sum()),
        n_error=int((frame["status"] == "error").sum()),
        std=std,
        stderr=std / len(values) ** 0.5 if len(values) else float("nan"),
        ci_low=low,
        ci_high=high,
    )


def moments(ok: pd.DataFrame) -> tuple[Array, Array]:
    """Sums [I, L, S] and counts [I, L] over the images and labels that occur in defined rows."""
    has_parts = ok["parts"].notna().all()
    statistics = np.stack(ok["parts"].to_list()) if has_parts else ok["value"].to_numpy(float)[:, None]
    images, image = np.unique(ok["sample_id"].to_numpy(str), return_inverse=True)
    labels, label = np.unique(ok["label"].to_numpy(int), return_inverse=True)
    sums = np.zeros((len(images), len(labels), statistics.shape[1]))
    counts = np.zeros((len(images), len(labels)))
    np.add.at(sums, (image, label), statistics)
    np.add.at(counts, (image, label), 1)
    return sums, counts


def _interval(rule: Aggregation, sums: Array, counts: Array, seed: int, resamples: int) -> tuple[float, float]:
    images = len(sums)
    if images < 2 or resamples == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(images, np.full(images, 1 / images), size=resamples).astype(float)
    values = rule(np.tensordot(weights, sums, 1), weights @ counts)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def stable_seed(*parts: Any) -> int:
    """A seed from text, the same in every process."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6], "big")
