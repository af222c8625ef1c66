"""Scores while whole regions, grid cells or superpixels, are removed one at a time.

`metrics/perturbation.py` states what all metrics of removal curves share: order, ties, baselines.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from xaibench.core.registry import Keys, metric
from xaibench.evaluation import Evaluation
from xaibench.evaluation.perturbation import Curve, Order, Output, Removal
from xaibench.metrics.perturbation import Regions, curves


@metric(
    better="higher",
    range=(-1, 1),
    group="perturbation",
    source="samek2017",
    version=2,
    minimum_effect=0.005,
    flips={"order": "lerf"},
    forwards=curves("{order}"),
    backwards=0,
    rankings_change_with=("removal.grid", "removal.baseline", "score"),
    criticism="Cells of a grid do not follow objects, and an image with holes is unlike any training image. Areas of "
    "different models do not compare.",
    elsewhere="RegionPerturbation in Quantus calls lower values better, which is wrong for a drop.",
)
def aopc(
    evaluation: Evaluation,
    *,
    removal: Regions = Removal(unit="patch", steps=None),
    order: Order = "morf",
    score: Output = "probability",
) -> Tensor:
    """Area over the curve of region perturbation: sum_k f(x) - f(x_k) over L removed regions, divided by L + 1.

    `steps: null` removes the regions one at a time.
    """
    curve = evaluation.curve(order, removal)
    return torch.where(curve.valid, curve.drop(score), 0).sum(1) / curve.valid.sum(1)


@metric(
    better="lower",
    range=(0, 1),
    group="perturbation",
    source="montavon2018",
    version=2,
    minimum_effect=0.005,
    flips={"order": "lerf"},
    forwards=curves("{order}"),
    backwards=0,
    rankings_change_with=("removal.grid", "removal.baseline", "score"),
    criticism="It is f(x) minus the drop, so it repeats `aopc` and adds the clean score.",
    elsewhere="Selectivity in Quantus.",
)
def selectivity(
    evaluation: Evaluation,
    *,
    removal: Regions = Removal(unit="patch", steps=None),
    order: Order = "morf",
    score: Output = "probability",
) -> Tensor:
    """Area under the score while the most relevant regions are removed: f(x) minus the drop that `aopc` averages."""
    curve = evaluation.curve(order, removal)
    return curve.auc(curve.of(score))


@metric(
    better="higher",
    range=(-float("inf"), 1),
    group="perturbation",
    source="rieger2020",
    version=2,
    minimum_effect=0.005,
    forwards={"curve morf {removal}": "pairs * removal.grid ** 2"},
    backwards=0,
    cost="fewer where superpixels die out",
    rankings_change_with=("the superpixels", "removal.grid", "removal.baseline"),
    criticism="The clean score is the denominator: unsure pairs decide, and values have no lower bound.",
    elsewhere="IROF in Quantus does not divide by the number of segments, takes the mean of the whole batch, and "
    "fails on images of several channels.",
)
def irof(
    evaluation: Evaluation,
    *,
    removal: Annotated[Removal, Keys("baseline", "grid")] = Removal("mean", "segment", grid=10, steps=None),
    per_segment: bool = True,
    score: Output = "probability",
) -> Tensor:
    """Area over the relative score while n superpixels are removed: n - trapezoid of f(x_k) / f(x) over k = 1..n.

    Superpixels rank by their mean relevance. Divided by n (`per_segment`); without, images of different numbers of
    segments are not comparable.
    """
    return segment_area(evaluation.curve("morf", removal), score, per_segment)


def segment_area(curve: Curve, score: Output, per_segment: bool) -> Tensor:
    """Areas [P] over a curve of removals one at a time, relative to its first point."""
    n = curve.valid.sum(1) - 1
    relative = torch.where(curve.valid, curve.of(score) / curve.of(score)[:, :1], 0)
    last = relative.gather(1, n[:, None])[:, 0]
    area = n - (relative[:, 1:].sum(1) - relative[:, 1] / 2 - last / 2)
    return area / n if per_segment else area
