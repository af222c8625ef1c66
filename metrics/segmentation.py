"""Protocol of ImageNet-Segmentation: a map as a segmentation of its object, by thresholding at its own mean.

r = the map resized to the image (bilinear), min-max to [0, 1]; foreground where r > mean r. Accuracy and IoU are ratios
of totals over all pairs, not means of per-image ratios, and background is a class of its own: the records have
the counts of each pair, so that subsets, shards and resamples stay exact.

A constant map segments nothing: background everywhere, as in the protocol. Void pixels count neither way. The protocol
itself is `{truth: foreground, explain: predicted}`; with several labels in an image `truth: label` is what is meant,
and a label without a mask is then undefined (NaN), as is an image that is void everywhere.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xaibench.core import rank_statistics
from xaibench.core.registry import metric
from xaibench.core.value_range import min_max
from xaibench.evaluation import Evaluation

Truth = Literal["label", "foreground"]
PROTOCOL = "chefer2021, sec. 4.2; official imagenet_seg_eval.py"


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="segmentation",
    average="ratio",
    source=PROTOCOL,
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("the threshold, which is the map's own mean: a power of the map is another segmentation",),
    criticism="Background is most of the image, and a map without any foreground scores well.",
)
def pixel_accuracy(evaluation: Evaluation, *, truth: Truth = "label") -> Tensor:
    """Correct pixels over labelled pixels, in total. Statistics [P, 2]: correct, labelled."""
    segment, gt, labelled, defined = _segmentation(evaluation, truth)
    counts = torch.stack([((segment == gt) & labelled).sum(1), labelled.sum(1)], 1)
    return counts.double().where(defined, torch.nan)


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="segmentation",
    average="mean_iou",
    source=PROTOCOL,
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("the threshold, which is the map's own mean: a power of the map is another segmentation",),
    criticism="A model that looks at parts of an object is held against the map.",
)
def miou(evaluation: Evaluation, *, truth: Truth = "label") -> Tensor:
    """Mean of the IoU of background and of foreground, each of totals. Statistics [P, 4]: 2 intersections, 2 unions."""
    segment, gt, labelled, defined = _segmentation(evaluation, truth)
    intersections = [(~segment & ~gt & labelled).sum(1), (segment & gt & labelled).sum(1)]
    unions = [((~segment | ~gt) & labelled).sum(1), ((segment | gt) & labelled).sum(1)]
    return torch.stack(intersections + unions, 1).double().where(defined, torch.nan)


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="segmentation",
    source=PROTOCOL,
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("the min-max, which compares foreground with background across the middle of the range",),
    criticism="The name is that of the protocol; a dark background lifts it.",
)
def map(evaluation: Evaluation, *, truth: Truth = "label") -> Tensor:
    """Average precision of r for foreground and 1 - r for background pooled in one ranking (micro-average), per pair.

    It is not the average precision of the foreground, which is lower (see `average_precision`): a background that is
    rightly dark counts as well. One half for a constant map.
    """
    gt, labelled, defined = _truth(evaluation, truth)
    r = _unit(evaluation).flatten(1)
    scores = torch.cat([1 - r, r], 1).nan_to_num(0)  # a constant map scores neither class
    precision = rank_statistics.average_precision(scores, torch.cat([~gt, gt], 1), torch.cat([labelled, labelled], 1))
    return precision.where(defined[:, 0], torch.nan)


def _unit(evaluation: Evaluation) -> Tensor:
    """Relevance [P, H, W], min-max to [0, 1]; a constant map is NaN."""
    return min_max(evaluation.relevance, (1, 2), constant=torch.nan)


def _segmentation(evaluation: Evaluation, truth: Truth) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predicted foreground, true foreground, labelled: bool [P, H W]; defined [P, 1]."""
    r = _unit(evaluation).flatten(1).double()
    return r > r.mean(1, keepdim=True), *_truth(evaluation, truth)


def _truth(evaluation: Evaluation, truth: Truth) -> tuple[Tensor, Tensor, Tensor]:
    gt, labelled = evaluation.truth.flatten(1), evaluation.valid.flatten(1)
    defined = labelled.any(1)
    if truth == "foreground":
        gt = labelled & (evaluation.forward.ground_truth.known_mask != 0)[evaluation.pairs.image].flatten(1)
    else:
        defined = defined & gt.any(1)
    return gt, labelled, defined[:, None]
