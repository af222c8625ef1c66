"""Localisation: the share or the rank of relevance on the object.

Void pixels count neither way; a label without a mask is undefined.

Where a ranking is cut among equal values, the expected number of hits over all their orders counts, so that no result
depends on the order of pixels and a constant map scores the object's share of the image.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from xaibench.core import rank_statistics
from xaibench.core.registry import metric
from xaibench.core.registry.bounds import Count, Natural
from xaibench.evaluation import Evaluation


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="localisation",
    source="zhang2018",
    version=2,
    minimum_effect=0.01,
    forwards=0,
    backwards=0,
    rankings_change_with=("ties", "resizing", "tolerance"),
    criticism="One bit a pair, and a large object is hit by chance; a model that looks beside the object is held "
    "against the map.",
    elsewhere="PointingGame in Quantus has no tolerance, counts a hit if any maximum is on the object, and gives a "
    "hit for an empty mask. The original allows 15 pixels.",
)
def pointing_game(evaluation: Evaluation, *, tolerance: Natural = 0, ties: Literal["mean", "any"] = "mean") -> Tensor:
    """Whether the most relevant pixel lies on the object, or within `tolerance` pixels (Euclidean) of it.

    Equal maxima count by the fraction of them on the object (mean), so that a constant map scores the object's area
    and not a hit; `any` is the lenient rule of other libraries. The original allows 15 pixels. Undefined (NaN): no
    object.
    """
    relevance = evaluation.ranked.masked_fill(~evaluation.valid, -torch.inf)
    top = (relevance == relevance.amax((1, 2), keepdim=True)) & evaluation.valid
    hits, count = (top & near(evaluation.truth, tolerance)).sum((1, 2)), top.sum((1, 2))
    value = hits / count if ties == "mean" else (hits > 0).to(relevance.dtype)
    return value.where(_defined(evaluation) & (count > 0), torch.nan)


def near(region: Tensor, distance: int) -> Tensor:
    """Region, bool [P, H, W], grown by a Euclidean distance in pixels."""
    if distance == 0:
        return region
    offset = torch.arange(-distance, distance + 1, device=region.device)
    disc = (offset[:, None] ** 2 + offset**2 <= distance**2).float()
    return F.conv2d(region[:, None].float(), disc[None, None], padding=distance)[:, 0] > 0.5


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="localisation",
    source="wang2020, energy-based pointing game",
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("what becomes of negative relevance", "smoothing"),
    criticism="It grows with the object: read it against the object's share of the image; context that the model uses "
    "counts as wrong.",
    elsewhere="AttributionLocalisation in Quantus; relevance_mass of the positive part.",
)
def energy_pointing_game(evaluation: Evaluation) -> Tensor:
    """Share of the positive relevance that lies on the object: sum_mask relu(a) / sum relu(a).

    Undefined (NaN): no object, or no positive relevance.
    """
    return _mass(evaluation, evaluation.relevance.relu())


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="localisation",
    source="arras2022, relevance mass accuracy",
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("sign",),
    criticism="It grows with the object, and `signed` has no bound.",
    elsewhere="RelevanceMassAccuracy in Quantus sums signed relevance, which has no bound.",
)
def relevance_mass(evaluation: Evaluation, *, sign: Literal["signed", "abs", "positive"] = "abs") -> Tensor:
    """Share of the relevance that lies on the object: sum_mask a / sum a, of |a| (abs) or relu(a) (positive).

    `positive` is `energy_pointing_game`. `signed` leaves [0, 1] and has no bound: positive and negative relevance
    cancel in the denominator. Undefined (NaN): no object, or a denominator of 0.
    """
    relevance = evaluation.relevance
    return _mass(evaluation, {"signed": relevance, "abs": relevance.abs(), "positive": relevance.relu()}[sign])


def _mass(evaluation: Evaluation, relevance: Tensor) -> Tensor:
    relevance = relevance * evaluation.valid
    total = relevance.sum((1, 2))
    share = (relevance * evaluation.truth).sum((1, 2)) / total
    return share.where(_defined(evaluation) & (total != 0), torch.nan)


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="localisation",
    source="arras2022, relevance rank accuracy",
    version=2,
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("ties", "resizing"),
    criticism="A model that looks beside the object is held against the map, and small objects decide on few pixels.",
    elsewhere="RelevanceRankAccuracy in Quantus, with ties in the order of an unstable sort.",
)
def relevance_rank(evaluation: Evaluation) -> Tensor:
    """Share of the k most relevant pixels that lie on the object, k being the object's area."""
    area = evaluation.truth.sum((1, 2))
    return rank_statistics.expected_hits(*_pixels(evaluation), area).where(_defined(evaluation), torch.nan) / area


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="localisation",
    source="theiner2022, top-k intersection",
    version=2,
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("k",),
    criticism="It cannot reach 1 where the object is smaller than k, so objects' sizes are mixed in.",
    elsewhere="TopKIntersection in Quantus, with ties in the order of an unstable sort.",
)
def top_k_intersection(evaluation: Evaluation, *, k: Count = 100, concept_influence: bool = False) -> Tensor:
    """Share of the k most relevant pixels that lie on the object; it cannot reach 1 where the object is smaller than k.

    Args:
        k: in pixels of the model's input
        concept_influence: divide by the object's share of the image, so that chance is 1; unbounded

    Undefined (NaN): no object, or fewer than k pixels that are not void.
    """
    area, counted = evaluation.truth.sum((1, 2)), evaluation.valid.sum((1, 2))
    share = rank_statistics.expected_hits(*_pixels(evaluation), torch.full_like(area, k)) / k
    share = share.where(_defined(evaluation), torch.nan)
    return share * counted / area if concept_influence else share


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="localisation",
    source="fawcett2006; ties count one half",
    version=2,
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("resizing only: it is a matter of ranks",),
    criticism="A large background flatters it (see `average_precision`), and it does not see how concentrated the "
    "relevance is.",
    elsewhere="AUC in Quantus, the same.",
)
def localisation_auc(evaluation: Evaluation) -> Tensor:
    """Probability that a pixel of the object is more relevant than one outside (ROC-AUC), ties one half.

    Undefined (NaN): no object, or nothing outside.
    """
    return rank_statistics.roc_auc(*_pixels(evaluation)).where(_defined(evaluation), torch.nan)


@metric(
    better="higher",
    range=(0, 1),
    needs=("masks",),
    group="localisation",
    source="everingham2010; not interpolated",
    version=2,
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("resizing", "ties"),
    criticism="Chance is the object's share of the image, so that small and large objects do not compare.",
)
def average_precision(evaluation: Evaluation) -> Tensor:
    """Area under precision over recall of the relevance as a score for the object's pixels.

    Undefined (NaN): no object.
    """
    return rank_statistics.average_precision(*_pixels(evaluation)).where(_defined(evaluation), torch.nan)


def _pixels(evaluation: Evaluation) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance, truth and validity of the pixels [P, H W]."""
    return evaluation.ranked.flatten(1), evaluation.truth.flatten(1), evaluation.valid.flatten(1)


def _defined(evaluation: Evaluation) -> Tensor:
    """Whether the object is there, bool [P]."""
    return evaluation.truth.any(2).any(1)
