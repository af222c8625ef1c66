"""Scores while parts of the image are removed in the order of the map.

All metrics here are numbers of curves (`Evaluation.curve`, `xaibench.evaluation.perturbation.Removal`): two of
one order and one removal share the forwards, and insertion with MoRF is deletion with LeRF read backwards.

Only the ranking of a map counts, by a stable sort: equal pixels go in raster order (`Evaluation.tied` counts them). What
replaces a removed pixel decides more than any other parameter: the rankings of methods by `zero` and by `min` have
almost nothing in common, so never compare numbers of two baselines. An image with a removed patch is unlike any training
image, and part of each drop comes from that.

Areas are RISE's: the trapezoid over the T + 1 points of a curve divided by T, so that a score that never changes has
itself as its area; other conventions only inside protocols named so.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from xaibench.core.registry import Keys, metric
from xaibench.core.registry.bounds import Count
from xaibench.core.registry.cost import Shared
from xaibench.evaluation import Evaluation
from xaibench.evaluation.perturbation import Order, Output, Removal

Regions = Annotated[Removal, Keys("baseline", "unit", "grid", "steps")]
Blurred = Annotated[Removal, Keys("baseline", "unit", "grid", "steps", "blur_kernel", "blur_sigma")]


def curves(*orders: str) -> Shared:
    """Passes of the curves of some orders, which all metrics with the same removal share."""
    return {f"curve {order} {{removal}}": "pairs * (removal.steps or removal.grid ** 2)" for order in orders}


@metric(
    better="lower",
    range=(0, 1),
    group="perturbation",
    source="petsiuk2018",
    version=2,
    minimum_effect=0.005,
    flips={"order": "lerf"},
    forwards=curves("{order}"),
    backwards=0,
    rankings_change_with=("removal.baseline", "score", "removal.unit"),
    criticism="An image with holes is unlike any training image, and of the map only the order counts.",
    elsewhere="RISE's; other libraries integrate the curve otherwise (mean of the points, dx = 1 without the first), "
    "so that their numbers do not compare.",
)
def deletion(
    evaluation: Evaluation,
    *,
    removal: Blurred = Removal(),
    order: Order = "morf",
    score: Output = "probability",
) -> Tensor:
    """Area under the score while the most relevant pixels are removed: low if the map found the evidence."""
    curve = evaluation.curve(order, removal)
    return curve.auc(curve.of(score))


@metric(
    better="higher",
    range=(0, 1),
    group="perturbation",
    source="petsiuk2018",
    version=2,
    minimum_effect=0.005,
    flips={"order": "lerf"},
    forwards=curves("{'lerf' if order == 'morf' else 'morf' if order == 'lerf' else order}"),
    backwards=0,
    rankings_change_with=("removal.baseline", "removal.blur_kernel", "removal.blur_sigma", "score", "removal.unit"),
    criticism="A blurred image gives low frequencies away before the first pixel is back.",
)
def insertion(
    evaluation: Evaluation,
    *,
    removal: Blurred = Removal("blur"),
    order: Order = "morf",
    score: Output = "probability",
) -> Tensor:
    """Area under the score while the most relevant pixels are put back: deletion of the opposite order, read backwards.

    Equal pixels are put back last row first.
    """
    opposite: dict[Order, Order] = {"morf": "lerf", "lerf": "morf", "random": "random"}
    curve = evaluation.curve(opposite[order], removal)
    return curve.auc(curve.of(score))


@metric(
    better="higher",
    range=(-1, 1),
    group="perturbation",
    source="bluecher2024",
    version=2,
    minimum_effect=0.005,
    forwards=curves("morf", "lerf"),
    backwards=0,
    rankings_change_with=("removal.unit", "score", "removal.baseline"),
    criticism="It depends on the baseline, though much less than `deletion`. Both curves are of images with holes, "
    "and a map that hides what speaks against a label gains as much as one that finds what speaks for it.",
)
def srg(
    evaluation: Evaluation,
    *,
    removal: Blurred = Removal(),
    score: Output = "probability",
) -> Tensor:
    """Symmetric relevance gain: area when the least relevant go first minus area when the most relevant go first.

    0 for a constant map.
    """
    morf, lerf = evaluation.curve("morf", removal), evaluation.curve("lerf", removal)
    return lerf.auc(lerf.of(score)) - morf.auc(morf.of(score))


@metric(
    better="lower",
    range=(0, 1),
    group="perturbation",
    source="bach2015; quantus",
    version=2,
    minimum_effect=0.005,
    flips={"order": "lerf"},
    forwards={"curve {order} {removal}": "pairs * removal.steps"},
    backwards=0,
    rankings_change_with=("removal.baseline", "removal.steps"),
    criticism="Numbers with different steps do not compare, and an image with holes is unlike any training image.",
    elsewhere="PixelFlipping in Quantus flips single channels of pixels and does not divide, so its numbers are T - 1 "
    "times these and those of another set of images.",
)
def pixel_flipping(
    evaluation: Evaluation,
    *,
    removal: Annotated[Removal, Keys("baseline", steps=Count)] = Removal("min"),
    order: Order = "morf",
    score: Output = "probability",
) -> Tensor:
    """Area under the score after each of T steps, the first point left out: trapezoid over T points divided by T - 1.

    Undefined with one step.
    """
    curve = evaluation.curve(order, removal)
    return flipping_area(curve.of(score))


def flipping_area(values: Tensor) -> Tensor:
    """Areas [P] under curves [P, T + 1]: the trapezoid over all but the first point, divided by T - 1."""
    after = values[:, 1:]
    return (after.sum(1) - after[:, 0] / 2 - after[:, -1] / 2) / (after.shape[1] - 1)


@metric(
    better="higher",
    range=(-2, 2),
    group="perturbation",
    source="xaibench",
    version=2,
    minimum_effect=0.005,
    flips={"order": "lerf"},
    forwards=curves("{order}"),
    backwards=0,
    rankings_change_with=("removal.baseline", "removal.unit", "score"),
    criticism="Labels that share evidence cannot be told apart by any map, and images with one label say nothing.",
)
def selectivity_gap(
    evaluation: Evaluation,
    *,
    removal: Regions = Removal(),
    order: Order = "morf",
    score: Output = "probability",
) -> Tensor:
    """Drop of c minus mean drop of the others while the map's pixels go: area of f_c(x) - f_c(x_k) - mean_n(same of n).

    n runs over the other labels detected in the clean image; undefined (NaN) where there are none. A map that shows the
    most salient thing whatever the label takes all labels down together and scores 0.
    """
    curve = evaluation.curve(order, removal)
    others = curve.of_others(score)
    return curve.auc(curve.drop(score) - (others[:, :1] - others))
