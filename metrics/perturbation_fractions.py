"""Scores after given fractions of the pixels are removed.

`metrics/perturbation.py` states what all metrics of removal curves share: order, ties, baselines.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from xaibench.core.registry import Keys, metric
from xaibench.core.registry.bounds import AtLeastTwo, PositiveFraction
from xaibench.evaluation import Evaluation
from xaibench.evaluation.perturbation import Curve, Order, Output, Removal, Replacement

TENTHS = tuple(k / 10 for k in range(1, 10))


@metric(
    better="higher",
    range=(-1, 1),
    group="perturbation",
    source="rong2022",
    version=2,
    minimum_effect=0.005,
    flips={"order": "morf"},
    forwards={
        "curve lerf inside {removal}": "pairs * (removal.steps - 1) * (order != 'morf')",
        "curve morf inside {removal}": "pairs * (removal.steps - 1) * (order != 'lerf')",
    },
    backwards=0,
    cost="and an imputation for each",
    rankings_change_with=("removal.steps", "score", "ties"),
    criticism="What is imputed is smooth, so blurry maps are still favoured.",
    elsewhere="pytorch-grad-cam removes pixels above a percentile of the map, which is another fraction where values "
    "are equal. ROAD in Quantus fails on images of several channels and keeps the first batch only.",
)
def road(
    evaluation: Evaluation,
    *,
    removal: Annotated[Removal, Keys("noise", steps=AtLeastTwo)] = Removal("road", steps=10),
    order: Literal["combined", "morf", "lerf"] = "combined",
    score: Literal["probability", "logit", "accuracy"] = "probability",
) -> Tensor:
    """Mean score, or gain, while pixels are removed and imputed from the rest: remove and debias.

    The mean score over 1/T, ..., (T - 1)/T of the pixels removed, least relevant first (`lerf`, higher is better) or
    most relevant first (`morf`, lower is better); `combined` is half of lerf - morf. `accuracy` scores 1 where the
    label is still the model's decision, 0 where not.
    """
    assert removal.steps is not None  # by the type of the key
    removal = removal.at([t / removal.steps for t in range(1, removal.steps)])
    if order == "combined":
        lerf, morf = evaluation.curve("lerf", removal), evaluation.curve("morf", removal)
        return (after_removal(lerf, score) - after_removal(morf, score)) / 2
    return after_removal(evaluation.curve(order, removal), score)


def after_removal(curve: Curve, score: Literal["probability", "logit", "accuracy"]) -> Tensor:
    """Means [P] over the points of a curve after the first."""
    return (curve.decided if score == "accuracy" else curve.of(score))[:, 1:].mean(1)


@metric(
    better="lower",
    range=(0, 90),
    unit="percent",
    group="perturbation",
    source="chefer2021; authors' code",
    version=2,
    minimum_effect=0.5,
    flips={"polarity": "negative"},
    forwards={"curve {polarity} black": "pairs * 9"},
    backwards=0,
    rankings_change_with=("which label is explained", "polarity"),
    criticism="Any label of the image counts as a hit, and black pixels are unlike any training image.",
)
def perturbation_auc(evaluation: Evaluation, *, polarity: Literal["positive", "negative"] = "positive") -> Tensor:
    """Area under the accuracy while 0, 10, ..., 90 % of the pixels turn black: 100 x trapezoid with dx = 0.1.

    Positive removes the most relevant pixels first (lower is better), negative the least relevant (higher is better).
    A hit is a prediction (largest logit) that is among the image's ground-truth labels, whatever label the map
    explains; `explain: predicted` or `target` of the metric's entry in a suite chooses that. The mean of the values
    is the published area under the data set's accuracy. Black is 0 before normalisation. Needs ground-truth labels.
    """
    present = evaluation.forward.ground_truth.labels_for("perturbation_auc")
    removal = Removal("black").at(TENTHS)
    curve = evaluation.curve("morf" if polarity == "positive" else "lerf", removal)
    hits = present[evaluation.pairs.image].gather(1, curve.predicted).to(curve.logits.dtype)
    hits = hits.masked_fill(curve.undefined, torch.nan)
    return 100 * torch.trapezoid(hits, dx=0.1, dim=1)


@metric(
    better="higher",
    range=(-float("inf"), 1),
    group="perturbation",
    source="chen2020, A.2",
    version=2,
    minimum_effect=0.005,
    flips={"report": "accuracy", "order": "lerf"},
    forwards={"curve {order} {fraction} {removal}": "pairs"},
    backwards=0,
    rankings_change_with=("fraction", "removal.baseline"),
    criticism="One point of a curve, and unsure pairs decide through the denominator.",
)
def confidence_change(
    evaluation: Evaluation,
    *,
    fraction: PositiveFraction = 0.1,
    report: Literal["change", "accuracy"] = "change",
    removal: Replacement = Removal(),
    order: Order = "morf",
    score: Output = "probability",
) -> Tensor:
    """Relative drop when the top k % of the pixels are removed: (f(x) - f(x_k)) / f(x); or whether the decision stays.

    `report: accuracy` is 1 where the explained label is still the model's decision and 0 where not, so that its mean is
    the accuracy on those labels after removal (lower is better).
    """
    curve = evaluation.curve(order, removal.at([fraction]))
    if report == "accuracy":
        return curve.decided[:, 1]
    return curve.drop(score)[:, 1] / curve.of(score)[:, 0]
