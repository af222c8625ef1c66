"""Seeds for weakly supervised segmentation: one label map per image from the maps of all its labels.

Two kinds. `threshold_seeds` (psa, irn): each pixel goes to its strongest label, or to background where that is not
above a threshold; since the threshold decides the number more than the map does, `seed_miou` keeps the whole sweep.
`fraction_seeds` (thesis): a label's seed is what reaches a fraction of its own maximum; the rest is unknown, or
background where every map is negative.

The metrics have one row per image of the batch: an image without an explained label is background (or unknown), and
counts. Rows hold counts of pixels per class; scores are of totals over images. Void pixels count neither way.
Undefined (NaN): an image that is void everywhere, or one of whose maps is undefined. Write `explain: present` in
suites: seeds are made for labels that the ground truth has.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from xaibench.core.errors import UsageError
from xaibench.core.registry import metric
from xaibench.core.registry.bounds import Fraction
from xaibench.evaluation import Evaluation
from xaibench.metrics.seed_label_maps import BACKGROUND, UNKNOWN, fraction_seeds, strongest
from xaibench.metrics.seed_rows import rows_of

SWEEP = tuple(step / 20 for step in range(20))

Normalise = Literal["maximum", "none"]
FIXED_AVERAGES = ("seed_miou", "seed_miou_all")
AVERAGES = (*FIXED_AVERAGES, "oracle_seed_miou", "oracle_seed_miou_all", "seed_width", "seed_width_all")
SWEEP_SOURCE = "ahn2018psa and ahn2019, official eval_cam; lee2022amn, on the threshold"
THESIS = "chen2020, sec. 4.4.1"


# -- metrics ----------------------------------------------------------------------------------------------------------


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="seeds",
    average=AVERAGES,
    source=SWEEP_SOURCE,
    version=2,
    minimum_effect=0.005,
    per="image",
    invariant=(),
    forwards=0,
    backwards=0,
    rankings_change_with=("the threshold, more than with the map",),
    criticism="A fixed threshold suits one family of maps: read the curve's best and its width beside it.",
    elsewhere="psa and PNOC average over all classes, irn and chainercv over those that occur.",
)
def seed_miou(
    evaluation: Evaluation,
    *,
    thresholds: Sequence[float] = SWEEP,
    fixed: float = 0.15,
    normalise: Normalise = "maximum",
) -> Tensor:
    """Mean IoU of seeds by a background threshold, background being a class. Statistics per image [B, S].

    Args:
        thresholds: of the sweep, increasing
        fixed: the threshold whose mean IoU is reported
        normalise: ReLU and division by (maximum + 1e-5) at the image's resolution, without subtracting the minimum; or
            none, for maps in [0, 1]
        average: `seed_miou` at the fixed threshold, over the classes that occur (in truth or prediction);
            `seed_miou_all` over all classes, 0 for absent ones; `oracle_seed_miou` (`_all`) at the best threshold of
            the sweep, which is chosen on the ground truth; `seed_width` (`_all`) the length of the range of thresholds
            within 2 points of that best. The curve itself: `xaibench.core.seed_curve`
    """
    sweep = [float(t) for t in thresholds]
    if not sweep or any(a >= b for a, b in pairwise(sweep)):
        raise UsageError(f"seed_miou: thresholds must be increasing and at least one, found {sweep}")
    maps = evaluation.relevance
    if normalise == "maximum":
        maps = maps.relu() / (maps.relu().amax((1, 2), keepdim=True) + 1e-5)
    gt, valid, classes = _ground_truth(evaluation)
    found = [strongest(maps[own], labels) for own, labels in _by_image(evaluation)]
    best, label = (torch.stack(list(part)) for part in zip(*found, strict=True))
    cuts = torch.tensor([fixed, *sweep], dtype=torch.float64, device=best.device)
    hits, predicted = _sweep(best, label, gt, valid, cuts.to(best.dtype), classes)
    return rows_of(cuts, hits, predicted, _count(gt, valid, classes), _defined(evaluation, valid))


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="seeds",
    average="ratio",
    source=THESIS,
    minimum_effect=0.005,
    per="image",
    forwards=0,
    backwards=0,
    rankings_change_with=("fraction",),
    criticism="It grows when seeds shrink, so that seeds of a few pixels win: read it beside `seed_area_ratio`.",
)
def seed_pixel_accuracy(
    evaluation: Evaluation,
    *,
    fraction: Fraction = 0.2,
    strict: bool = False,
    area: Literal["claimed", "undisputed"] = "claimed",
    zero: Literal["unknown", "background"] = "unknown",
) -> Tensor:
    """Correct pixels over pixels that are not unknown, in total. Statistics [B, 2]."""
    seeds, gt, valid = _fraction_seeds(evaluation, fraction, strict, area, zero)
    known = valid & (seeds != UNKNOWN)
    return _ratio(evaluation, _total(known & (seeds == gt)), _total(known), valid)


@metric(
    better="higher",
    range=(0, torch.inf),
    needs=("masks",),
    group="seeds",
    average="ratio",
    source=THESIS,
    minimum_effect=0.005,
    per="image",
    forwards=0,
    backwards=0,
    rankings_change_with=("fraction",),
    criticism="It is a size and no quality: it belongs beside `seed_pixel_accuracy`.",
)
def seed_area_ratio(
    evaluation: Evaluation,
    *,
    fraction: Fraction = 0.2,
    of: Literal["foreground", "known"] = "foreground",
    strict: bool = False,
    area: Literal["claimed", "undisputed"] = "claimed",
    zero: Literal["unknown", "background"] = "unknown",
) -> Tensor:
    """Pixels seeded with a label over pixels of objects, in total (foreground); or the share of known pixels (known).

    How much a seed covers, right or wrong: above 1 the seeds are larger than the objects. Statistics [B, 2].
    """
    seeds, gt, valid = _fraction_seeds(evaluation, fraction, strict, area, zero)
    known = valid & (seeds != UNKNOWN)
    if of == "known":
        return _ratio(evaluation, _total(known), _total(valid), valid)
    return _ratio(evaluation, _total(known & (seeds != BACKGROUND)), _total(valid & (gt != BACKGROUND)), valid)


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="seeds",
    average=FIXED_AVERAGES,
    source=THESIS,
    version=2,
    minimum_effect=0.005,
    per="image",
    forwards=0,
    backwards=0,
    rankings_change_with=("fraction", "unknown"),
    criticism="Where those are ignored, seeds of a few sure pixels win.",
)
def seed_miou_k(
    evaluation: Evaluation,
    *,
    fraction: Fraction = 0.2,
    unknown: Literal["ignored", "missed"] = "ignored",
    strict: bool = False,
    area: Literal["claimed", "undisputed"] = "claimed",
    zero: Literal["unknown", "background"] = "unknown",
) -> Tensor:
    """Mean IoU of seeds by a fraction of the maximum, background being a class. Statistics as those of `seed_miou`.

    Args:
        unknown: pixels left out (ignored), or counted as missed by their class
        average: over the classes that occur (`seed_miou`) or over all, 0 for absent ones (`seed_miou_all`)
    """
    seeds, gt, valid = _fraction_seeds(evaluation, fraction, strict, area, zero)
    known = valid & (seeds != UNKNOWN)
    classes = evaluation.forward.logits.shape[1] + 1
    hits, predicted = _count(gt, known & (seeds == gt), classes), _count(seeds, known, classes)
    truth = _count(gt, known if unknown == "ignored" else valid, classes)
    cuts = torch.tensor([fraction], dtype=torch.float64, device=gt.device)
    return rows_of(cuts, hits[:, None], predicted[:, None], truth, _defined(evaluation, valid))


# -- counting ---------------------------------------------------------------------------------------------------------


def _by_image(evaluation: Evaluation) -> list[tuple[Tensor, Tensor]]:
    """Pairs [n] of each image of the batch, in the order of their labels, and the mask values [n] of those labels."""
    pairs = evaluation.pairs
    order = pairs.label.argsort(stable=True)
    owned = [order[pairs.image[order] == image] for image in range(len(evaluation.forward.images))]
    return [(own, pairs.label[own] + 1) for own in owned]


def _ground_truth(evaluation: Evaluation) -> tuple[Tensor, Tensor, int]:
    """Mask values [B, H, W], bool [B, H, W] not void, and the number of classes with background.

    An object of none of the classes (ImageNet-Segmentation has such) counts neither way, as void does.
    """
    truth, classes = evaluation.forward.ground_truth, evaluation.forward.logits.shape[1] + 1
    return truth.known_mask.long(), truth.single & (truth.known_mask < classes), classes


def _fraction_seeds(
    evaluation: Evaluation,
    fraction: float,
    strict: bool,
    area: Literal["claimed", "undisputed"],
    zero: Literal["unknown", "background"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Seeds, ground truth and validity [B, H, W]."""
    gt, valid, classes = _ground_truth(evaluation)
    if classes > UNKNOWN:
        raise UsageError(f"seeds by a fraction of the maximum take at most {UNKNOWN - 1} labels, found {classes - 1}")
    seeds = [
        fraction_seeds(evaluation.relevance[own], labels, fraction=fraction, strict=strict, area=area, zero=zero)
        for own, labels in _by_image(evaluation)
    ]
    return torch.stack(seeds), gt, valid


def _total(chosen: Tensor) -> Tensor:
    return chosen.sum((1, 2))


def _count(values: Tensor, chosen: Tensor, classes: int) -> Tensor:
    """Counts [B, K] of chosen pixels by value."""
    image = torch.arange(len(values), device=values.device)[:, None, None]
    counts = torch.bincount((image * classes + values)[chosen], minlength=len(values) * classes)
    return counts.view(len(values), classes)


def _sweep(best: Tensor, label: Tensor, gt: Tensor, valid: Tensor, cuts: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """True positives and predicted pixels [B, T, K] at every threshold, from one histogram over (label, value bin).

    A pixel is foreground at the thresholds below its value: those whose rank among the sorted ones is below its bin.
    """
    ordered, order = cuts.sort()
    bins = len(cuts) + 1
    above = torch.searchsorted(ordered, best)  # how many thresholds lie below the value
    found = _count(label * bins + above, valid, classes * bins).view(-1, classes, bins)
    right = _count(label * bins + above, valid & (label == gt), classes * bins).view(-1, classes, bins)
    truth_above = _count(above, valid & (gt == BACKGROUND), bins)

    def at_least(counts: Tensor) -> Tensor:
        """Pixels [B, T, K] above the threshold of rank t, which lie in a bin > t of [B, K, bins]."""
        return counts.flip(-1).cumsum(-1).flip(-1)[..., 1:].transpose(1, 2)

    predicted, hits = at_least(found), at_least(right)
    predicted[..., BACKGROUND] = valid.sum((1, 2))[:, None] - predicted[..., 1:].sum(-1)
    hits[..., BACKGROUND] = truth_above.cumsum(-1)[:, :-1]
    rank = order.argsort()
    return hits[:, rank], predicted[:, rank]


def _ratio(evaluation: Evaluation, part: Tensor, whole: Tensor, valid: Tensor) -> Tensor:
    """Statistics float64 [B, 2] of two counts [B]; NaN for undefined images."""
    counts = torch.stack([part, whole], 1).double()
    return counts.where(_defined(evaluation, valid)[:, None], torch.nan)


def _defined(evaluation: Evaluation, valid: Tensor) -> Tensor:
    """Whether an image is not void everywhere and all its maps are defined, bool [B]."""
    defined = valid.flatten(1).any(1)
    defined[evaluation.pairs.image[~evaluation.defined]] = False
    return defined
