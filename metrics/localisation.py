"""Does the relevance lie on the object? Void pixels count neither way; a label without a mask in the image is undefined."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xaibench.evaluation import Evaluation
from xaibench.registry import metric


@metric(better="higher", range=(0, 1), needs=("masks",), group="localisation", source="zhang2018, sec. 4.1", cost="none", minimum_effect=0.01)  # fmt: skip
def pointing_game(evaluation: Evaluation, *, ties: Literal["mean", "any"] = "mean") -> Tensor:
    """Whether the most relevant pixel lies on the object.

    Equal maxima count by the fraction of them on the object (mean), so that a constant map scores the object's area
    and not a hit; `any` is the lenient rule of other libraries. Undefined (NaN): no object, or a map with a NaN.
    """
    relevance = evaluation.relevance.masked_fill(~evaluation.valid, -torch.inf)
    top = (relevance == relevance.amax((1, 2), keepdim=True)) & evaluation.valid
    hits, count = (top & evaluation.truth).sum((1, 2)), top.sum((1, 2))
    value = hits / count if ties == "mean" else (hits > 0).to(relevance.dtype)
    return value.to(relevance.dtype).where(_defined(evaluation) & (count > 0), torch.nan)


@metric(better="higher", range=(0, 1), needs=("masks",), group="localisation", source="wang2020scorecam, sec. 4.3", cost="none", minimum_effect=0.005)  # fmt: skip
def energy_pointing_game(evaluation: Evaluation) -> Tensor:
    """Share of the positive relevance that lies on the object: sum_mask relu(a) / sum relu(a).

    Undefined (NaN): no object, or no positive relevance. Read it against the object's share of the image.
    """
    positive = evaluation.relevance.relu() * evaluation.valid
    return ((positive * evaluation.truth).sum((1, 2)) / positive.sum((1, 2))).where(_defined(evaluation), torch.nan)


def _defined(evaluation: Evaluation) -> Tensor:
    """bool [P]: the object is there and the map is a map."""
    return evaluation.truth.any(2).any(1) & ~evaluation.maps.isnan().any(2).any(1)
