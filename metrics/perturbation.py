"""What happens to the score while the image is taken apart in the order of the map.

All metrics here are numbers of curves (`Evaluation.curve`, `xaibench.evaluation.perturbation.Removal`): two that name
the same order, baseline, unit and steps share the forwards, and insertion with MoRF is deletion with LeRF read backwards.

Only the ranking of a map counts, by a stable sort: equal pixels go in raster order (`Evaluation.tied` tells how many
there are). What replaces a removed pixel decides more than any other parameter: the rankings of methods by `zero` and
by `min` have almost nothing in common, so never compare numbers of two baselines. A removed patch is no natural image,
and part of each drop is the model's surprise at that.

Areas are RISE's: the trapezoid over the T + 1 points of a curve divided by T, so that a score that never changes has
itself as its area; other conventions only inside protocols named so.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xaibench.core.registry import metric
from xaibench.core.registry.bounds import AtLeastTwo, Count, NotNegative, Odd, Positive, PositiveFraction
from xaibench.evaluation import Evaluation
from xaibench.evaluation.perturbation import Baseline, Curve, Order, Output, Removal, Static, Unit

CURVE = "a forward per pair and step, shared by all with the same order, baseline, unit and steps"
BOTH = f"two curves; {CURVE}"
TENTHS = tuple(k / 10 for k in range(1, 10))


@metric(
    better="lower",
    range=(0, 1),
    group="perturbation",
    source="petsiuk2018",
    version=2,
    cost=CURVE,
    minimum_effect=0.005,
    flips={"order": "lerf"},
)
def deletion(
    evaluation: Evaluation,
    *,
    baseline: Baseline = "zero",
    steps: Count | None = 32,
    order: Order = "morf",
    unit: Unit = "pixel",
    grid: Count = 8,
    score: Output = "probability",
    blur_kernel: Odd = 11,
    blur_sigma: Positive = 5.0,
) -> Tensor:
    """Area under the score while the most relevant pixels are removed: low if the map found what the score rests on.

    Rankings change with the baseline most of all, then with score and unit. Criticism: an image with holes is unlike
    any training image, and of the map only the order counts.
    """
    removal = Removal(baseline, unit, grid, steps, kernel=blur_kernel, sigma=blur_sigma)
    curve = evaluation.curve(order, removal)
    return curve.auc(curve.of(score))


@metric(
    better="higher",
    range=(0, 1),
    group="perturbation",
    source="petsiuk2018",
    version=2,
    cost=CURVE,
    minimum_effect=0.005,
    flips={"order": "lerf"},
)
def insertion(
    evaluation: Evaluation,
    *,
    baseline: Baseline = "blur",
    steps: Count | None = 32,
    order: Order = "morf",
    unit: Unit = "pixel",
    grid: Count = 8,
    score: Output = "probability",
    blur_kernel: Odd = 11,
    blur_sigma: Positive = 5.0,
) -> Tensor:
    """Area under the score while the most relevant pixels are put back: deletion of the opposite order, read backwards.

    Equal pixels are put back last row first.

    Rankings change with the baseline and its blur, then with score and unit. Criticism: a blurred image gives low
    frequencies away before the first pixel is back.
    """
    removal = Removal(baseline, unit, grid, steps, kernel=blur_kernel, sigma=blur_sigma)
    opposite: dict[Order, Order] = {"morf": "lerf", "lerf": "morf", "random": "random"}
    curve = evaluation.curve(opposite[order], removal)
    return curve.auc(curve.of(score))


@metric(
    better="higher",
    range=(-1, 1),
    group="perturbation",
    source="bluecher2024",
    version=2,
    cost=BOTH,
    minimum_effect=0.005,
)
def srg(
    evaluation: Evaluation,
    *,
    baseline: Baseline = "zero",
    steps: Count | None = 32,
    unit: Unit = "pixel",
    grid: Count = 8,
    score: Output = "probability",
    blur_kernel: Odd = 11,
    blur_sigma: Positive = 5.0,
) -> Tensor:
    """Symmetric relevance gain: area when the least relevant go first minus area when the most relevant go first.

    0 for a constant map. Depends on the baseline much less than either area alone.

    Rankings change with the unit and the score, and with the baseline much less than `deletion`. Criticism: both curves
    are of images with holes, and a map that hides what speaks against a label gains as much as one that finds what
    speaks for it.
    """
    removal = Removal(baseline, unit, grid, steps, kernel=blur_kernel, sigma=blur_sigma)
    morf, lerf = evaluation.curve("morf", removal), evaluation.curve("lerf", removal)
    return lerf.auc(lerf.of(score)) - morf.auc(morf.of(score))


@metric(
    better="higher",
    range=(-1, 1),
    group="perturbation",
    source="samek2017",
    version=2,
    cost=CURVE,
    minimum_effect=0.005,
    flips={"order": "lerf"},
)
def aopc(
    evaluation: Evaluation,
    *,
    baseline: Baseline = "zero",
    steps: Count | None = None,
    order: Order = "morf",
    unit: Unit = "patch",
    grid: Count = 8,
    score: Output = "probability",
) -> Tensor:
    """Area over the curve of region perturbation: sum_k f(x) - f(x_k) over L removed regions, divided by L + 1.

    `steps: null` removes the regions one at a time.

    Rankings change with the grid, the baseline and the score. Criticism: cells of a grid do not follow objects, and an
    image with holes is unlike any training image.
    """
    curve = evaluation.curve(order, Removal(baseline, unit, grid, steps))
    return torch.where(curve.valid, curve.drop(score), 0).sum(1) / curve.valid.sum(1)


@metric(
    better="lower",
    range=(0, 1),
    group="perturbation",
    source="montavon2018",
    version=2,
    cost=CURVE,
    minimum_effect=0.005,
    flips={"order": "lerf"},
)
def selectivity(
    evaluation: Evaluation,
    *,
    baseline: Baseline = "zero",
    steps: Count | None = None,
    order: Order = "morf",
    unit: Unit = "patch",
    grid: Count = 8,
    score: Output = "probability",
) -> Tensor:
    """Area under the score while the most relevant regions are removed: f(x) minus the drop that `aopc` averages.

    Rankings change with the grid, the baseline and the score. Criticism: it is f(x) minus the drop, so it repeats
    `aopc` and adds the clean score.
    """
    curve = evaluation.curve(order, Removal(baseline, unit, grid, steps))
    return curve.auc(curve.of(score))


@metric(
    better="lower",
    range=(0, 1),
    group="perturbation",
    source="bach2015; quantus",
    version=2,
    cost=CURVE,
    minimum_effect=0.005,
    flips={"order": "lerf"},
)
def pixel_flipping(
    evaluation: Evaluation,
    *,
    baseline: Baseline = "min",
    steps: Count = 32,
    order: Order = "morf",
    score: Output = "probability",
) -> Tensor:
    """Area under the score after each of T steps, the first point left out: trapezoid over T points divided by T - 1.

    Quantus flips single channels of pixels and does not divide, so its numbers are T - 1 times these and those of
    another set of images. Undefined with one step.

    Rankings change with the baseline and the number of steps. Criticism: numbers with different steps do not compare,
    and an image with holes is unlike any training image.
    """
    curve = evaluation.curve(order, Removal(baseline, steps=steps))
    return flipping_area(curve.of(score))


def flipping_area(values: Tensor) -> Tensor:
    """[P] from curves [P, T + 1]: the trapezoid over all but the first point, divided by T - 1."""
    after = values[:, 1:]
    return (after.sum(1) - after[:, 0] / 2 - after[:, -1] / 2) / (after.shape[1] - 1)


@metric(
    better="higher",
    range=(-1, 1),
    group="perturbation",
    source="rong2022",
    version=2,
    cost="a forward and an imputation per pair and step, for two orders",
    minimum_effect=0.005,
    flips={"order": "morf"},
)
def road(
    evaluation: Evaluation,
    *,
    order: Literal["combined", "morf", "lerf"] = "combined",
    score: Literal["probability", "logit", "accuracy"] = "probability",
    steps: AtLeastTwo = 10,
    noise: NotNegative = 0.01,
) -> Tensor:
    """Remove and debias: removed pixels are imputed from the rest, so that the shape of the hole tells little.

    The mean score over 1/T, ..., (T - 1)/T of the pixels removed, least relevant first (`lerf`, higher is better) or
    most relevant first (`morf`, lower is better); `combined` is half of lerf - morf. `accuracy` scores 1 where the
    label is still the model's decision, 0 where not. Still favours blurry maps.

    Rankings change with which fractions are removed, the score, and ties. Criticism: what is imputed is smooth, so
    blurry maps are still favoured.
    """
    removal = Removal("road", steps=None, fractions=tuple(t / steps for t in range(1, steps)), noise=noise)
    if order == "combined":
        lerf, morf = evaluation.curve("lerf", removal), evaluation.curve("morf", removal)
        return (after_removal(lerf, score) - after_removal(morf, score)) / 2
    return after_removal(evaluation.curve(order, removal), score)


def after_removal(curve: Curve, score: Literal["probability", "logit", "accuracy"]) -> Tensor:
    """[P]: the mean over the points of a curve after the first."""
    return (curve.decided if score == "accuracy" else curve.of(score))[:, 1:].mean(1)


@metric(
    better="higher",
    range=(-float("inf"), 1),
    group="perturbation",
    source="rieger2020",
    version=2,
    cost=CURVE,
    minimum_effect=0.005,
)
def irof(
    evaluation: Evaluation,
    *,
    baseline: Baseline = "mean",
    grid: Count = 10,
    per_segment: bool = True,
    score: Output = "probability",
) -> Tensor:
    """Area over the relative score while n superpixels are removed: n - trapezoid of f(x_k) / f(x) over k = 1..n.

    Superpixels rank by their mean relevance. Divided by n (`per_segment`); without, images of different numbers of
    segments are not comparable. The clean score is a denominator: a label that was hardly there weighs most.

    Rankings change with the superpixels, their number and the baseline. Criticism: the clean score is the denominator:
    unsure pairs decide, and values have no lower bound.
    """
    return segment_area(evaluation.curve("morf", Removal(baseline, "segment", grid, None)), score, per_segment)


def segment_area(curve: Curve, score: Output, per_segment: bool) -> Tensor:
    """[P]: the area over a curve of removals one at a time, relative to its first point."""
    n = curve.valid.sum(1) - 1
    relative = torch.where(curve.valid, curve.of(score) / curve.of(score)[:, :1], 0)
    last = relative.gather(1, n[:, None])[:, 0]
    area = n - (relative[:, 1:].sum(1) - relative[:, 1] / 2 - last / 2)
    return area / n if per_segment else area


@metric(
    better="lower",
    range=(0, 90),
    unit="percent",
    group="perturbation",
    source="chefer2021; authors' code",
    version=2,
    cost="9 forwards per pair",
    minimum_effect=0.5,
    flips={"polarity": "negative"},
)
def perturbation_auc(evaluation: Evaluation, *, polarity: Literal["positive", "negative"] = "positive") -> Tensor:
    """Area under the accuracy while 0, 10, ..., 90 % of the pixels turn black: 100 x trapezoid with dx = 0.1.

    Positive removes the most relevant pixels first (lower is better), negative the least relevant (higher is better).
    A hit is a prediction (largest logit) that is among the image's ground-truth labels, whatever label the map
    explains; `explain: predicted` or `target` of the metric's entry in a suite chooses that. The mean of the values
    is the published area under the data set's accuracy. Black is 0 before normalisation. Needs ground-truth labels.

    Rankings change with which label is explained, and the polarity. Criticism: any label of the image counts as a hit,
    and black pixels are unlike any training image.
    """
    present = evaluation.forward.ground_truth.labels_for("perturbation_auc")
    removal = Removal("black", steps=None, fractions=TENTHS)
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
    cost="1 forward per pair",
    minimum_effect=0.005,
    flips={"report": "accuracy", "order": "lerf"},
)
def confidence_change(
    evaluation: Evaluation,
    *,
    fraction: PositiveFraction = 0.1,
    report: Literal["change", "accuracy"] = "change",
    baseline: Static = "zero",
    order: Order = "morf",
    score: Output = "probability",
) -> Tensor:
    """What removing the top k % of the pixels does: (f(x) - f(x_k)) / f(x), or whether the label is still decided.

    `report: accuracy` is 1 where the explained label is still the model's decision and 0 where not, so that its mean is
    the accuracy on those labels after removal (lower is better).

    Rankings change with the fraction and the baseline. Criticism: one point of a curve, and unsure pairs decide through
    the denominator.
    """
    curve = evaluation.curve(order, Removal(baseline, steps=None, fractions=(fraction,)))
    if report == "accuracy":
        return curve.decided[:, 1]
    return curve.drop(score)[:, 1] / curve.of(score)[:, 0]


@metric(
    better="higher",
    range=(-2, 2),
    group="perturbation",
    source="xaibench",
    version=2,
    cost=CURVE,
    minimum_effect=0.005,
    flips={"order": "lerf"},
)
def selectivity_gap(
    evaluation: Evaluation,
    *,
    baseline: Baseline = "zero",
    steps: Count | None = 32,
    order: Order = "morf",
    unit: Unit = "pixel",
    grid: Count = 8,
    score: Output = "probability",
) -> Tensor:
    """What removing "c" does to c minus what it does to the others: area of f_c(x) - f_c(x_k) - mean_n(same of n).

    n runs over the other labels detected in the clean image; undefined (NaN) where there are none. A map that shows the
    most salient thing whatever the label takes all labels down together and scores 0.

    Rankings change with the baseline, the unit and the score. Criticism: labels that share evidence cannot be told
    apart by any map, and images with one label say nothing.
    """
    curve = evaluation.curve(order, Removal(baseline, unit, grid, steps))
    others = curve.of_others(score)
    return curve.auc(curve.drop(score) - (others[:, :1] - others))
