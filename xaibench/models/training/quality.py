"""The quality of a multi-label classifier: average precision, F1, F2 and the best threshold of each class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader

from xaibench.core import rank_statistics
from xaibench.models.training.examples import Examples

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """Quality of a model on a split, per class [L]; NaN for a class without a positive.

    Attributes:
        average_precision: area under the precision-recall curve
        f1, f2: at probability > 0.5, the threshold of "detected"
        best_threshold, best_f1, best_f2: where F1 is largest (chosen on this very split: an upper bound), and F1, F2 there
    """

    average_precision: Floats
    f1: Floats
    f2: Floats
    best_threshold: Floats
    best_f1: Floats
    best_f2: Floats

    def mean(self, name: str) -> float:
        """Mean over the classes that have a positive."""
        return float(np.nanmean(getattr(self, name)))


@torch.inference_mode()
def evaluate(
    model: nn.Module, examples: Examples, device: torch.device, batch_size: int = 64, workers: int = 0
) -> Quality:
    """Quality of a model; labels to be ignored are left out of their class."""
    model.eval()
    scores, labels, ignore = [], [], []
    for x, y, skip in DataLoader(examples, batch_size, num_workers=workers):
        scores.append(model(x.to(device)).float().sigmoid().cpu())
        labels.append(y)
        ignore.append(skip)
    return quality(*(torch.cat(parts).numpy() for parts in (scores, labels, ignore)))


def quality(scores: npt.NDArray[Any], labels: npt.NDArray[Any], ignore: npt.NDArray[Any]) -> Quality:
    """Quality from probabilities, labels and ignore, [N, L] each."""
    rows = []
    for p, y, skip in zip(scores.T, labels.T.astype(bool), ignore.T.astype(bool), strict=True):
        p, y = p[~skip], y[~skip]
        at, f1, f2 = best_threshold(p, y)
        rows.append(
            (average_precision(p, y, np.zeros_like(y)), f_score(p > 0.5, y, 1), f_score(p > 0.5, y, 2), at, f1, f2)
        )
    return Quality(*np.array(rows, np.float64).T)


def average_precision(scores: npt.NDArray[Any], labels: npt.NDArray[Any], ignore: npt.NDArray[Any]) -> float:
    """Area under the precision-recall curve of one class (no interpolation); NaN without a positive.

    Equal scores are taken together, so the order of samples does not matter.
    """
    positive, counted = torch.tensor(labels.astype(bool)), torch.tensor(~ignore.astype(bool))
    return float(rank_statistics.average_precision(torch.tensor(scores)[None], positive[None], counted[None]))


def f_score(detected: npt.NDArray[np.bool_], labels: npt.NDArray[np.bool_], beta: float) -> float:
    """(1 + beta²) TP / ((1 + beta²) TP + beta² FN + FP) of one class; NaN without a positive."""
    if not labels.any():
        return math.nan
    return float(_f(int((detected & labels).sum()), int(detected.sum()), int(labels.sum()), beta))


def best_threshold(scores: npt.NDArray[Any], labels: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """The threshold t whose rule `score >= t` has the largest F1 (the highest such t), and F1, F2 there."""
    if not labels.any():
        return math.nan, math.nan, math.nan
    thresholds, chosen, hits = _cuts(scores, labels)
    f1 = _f(hits, chosen, labels.sum(), 1)
    best = int(f1.argmax())
    return float(thresholds[best]), float(f1[best]), float(_f(hits, chosen, labels.sum(), 2)[best])


def _cuts(scores: npt.NDArray[Any], labels: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], ...]:
    """Every distinct score from the highest: itself, how many samples reach it, and how many positives among them."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.nonzero(np.diff(scores[order]))[0], len(order) - 1)  # end of each run of equal scores
    return scores[order][last], last + 1, np.cumsum(labels[order])[last]


def _f(hits: Any, chosen: Any, positives: Any, beta: float) -> Any:
    """F-beta from true positives, detections and positives: the denominator is chosen + beta² positives."""
    return (1 + beta**2) * hits / (chosen + beta**2 * positives)
