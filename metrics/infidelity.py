"""Infidelity: error with which the relevance of what is removed, or of noise, predicts the drop of the score."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xaibench.core.registry import metric
from xaibench.core.registry.bounds import Count, Positive, PositiveFraction
from xaibench.evaluation import Evaluation
from xaibench.evaluation.effects import Choose, effects, noise_effects
from xaibench.evaluation.perturbation import Output, Removal, Replacement


@metric(
    better="lower",
    range=(0, float("inf")),
    group="correlation",
    source="yeh2019",
    unit="squared logits",
    minimum_effect=0.001,
    forwards="pairs * samples",
    backwards=0,
    rankings_change_with=("perturbation", "normalise"),
    criticism="Squares prefer maps that share out a score, noise prefers gradients. The best factor per pair hides a "
    "wrong scale; without `normalise` the scale decides.",
    elsewhere="infidelity in captum, where `normalize` is off by default. Infidelity in Quantus adds patch upon patch.",
)
def infidelity(
    evaluation: Evaluation,
    *,
    perturbation: Literal["square", "noise"] = "square",
    samples: Count = 50,
    side: PositiveFraction = 0.25,
    sigma: Positive = 0.1,
    removal: Replacement = Removal(),
    normalise: bool = True,
    score: Output = "logit",
) -> Tensor:
    """Mean squared error with which relevance predicts the drop: mean_S (beta u - v)^2.

    `square` removes random squares (`side` of the shorter edge) and u is the relevance inside: for maps that share a
    score out among pixels. `noise` subtracts Gaussian noise I of deviation `sigma`, the same in all channels of a
    pixel, and u = sum I a: for maps that are gradients. With `normalise`, beta = sum(u v) / sum(u^2) (0 for an all-zero
    map) takes the scale out of the comparison; without, beta = 1 and the metric ranks methods by their scale first.
    """
    relevance = evaluation.relevance[:, None]
    if perturbation == "square":
        u, v = effects(evaluation, relevance, samples, _squares(evaluation, samples, side), removal, score)
    else:
        u, v = noise_effects(evaluation, relevance, samples, _noise(evaluation, sigma), score)
    return squared_error(u, v, normalise).to(evaluation.maps.dtype)


def squared_error(u: Tensor, v: Tensor, normalise: bool) -> Tensor:
    """Mean error [P] of (beta u - v)^2 with the best beta (normalise), or 1."""
    power = u.square().sum(1, keepdim=True)
    beta = torch.where(power == 0, 0, (u * v).sum(1, keepdim=True) / power) if normalise else 1
    return (beta * u - v).square().mean(1)


def _noise(evaluation: Evaluation, sigma: float) -> Choose:
    """Noise by pair and sample. Each call draws it again, so that nothing large stays in memory."""
    images = evaluation.forward.images

    def noise(pair: Tensor, sample: Tensor) -> Tensor:
        draws = [
            evaluation.forward.draw_per_pair(
                evaluation.pairs[row[None]], f"infidelity/{s}", 1, *images.shape[-2:], kind="normal"
            )
            for row, s in zip(pair, sample.tolist(), strict=True)
        ]
        return sigma * torch.cat(draws).to(images)

    return noise


def _squares(evaluation: Evaluation, samples: int, side: float) -> Choose:
    """Squares wholly inside the image, at places seeded by pair."""
    height, width = evaluation.forward.images.shape[-2:]
    length = max(1, round(side * min(height, width)))
    places = evaluation.forward.draw_per_pair(evaluation.pairs, "infidelity", samples, 2)
    free = torch.tensor([height - length + 1, width - length + 1], device=places.device)
    corners = (places * free).floor().long().minimum(free - 1)
    row = torch.arange(height, device=corners.device)[:, None]
    column = torch.arange(width, device=corners.device)

    def choose(pair: Tensor, sample: Tensor) -> Tensor:
        top, left = corners[pair, sample].T[:, :, None, None]
        inside: Tensor = (row >= top) & (row < top + length) & (column >= left) & (column < left + length)
        return inside[:, None]

    return choose
