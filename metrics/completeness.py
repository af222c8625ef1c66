"""Completeness: the sum of a map against the score that it should share out among pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from xaibench.core.registry import metric
from xaibench.evaluation import Evaluation
from xaibench.evaluation.perturbation import Output, Removal, Replacement, remover


@metric(
    better="lower",
    range=(0, float("inf")),
    group="correlation",
    source="sundararajan2017",
    unit="logits",
    minimum_effect=0.01,
    invariant=(),
    forwards="pairs",
    backwards=0,
    rankings_change_with=("removal.baseline", "the scale of the map"),
    criticism="Only methods that share out a score (integrated gradients, DeepLIFT, LRP, Shapley values) claim a gap "
    "of 0; for others the number is their scale.",
    elsewhere="Completeness in Quantus says whether the gap is 0, yes or no.",
)
def completeness_gap(evaluation: Evaluation, *, removal: Replacement = Removal(), score: Output = "logit") -> Tensor:
    """Gap between the sum of the map and the score's difference to a baseline image b: |sum a - (f(x) - f(b))|.

    The sum is over the raw map at its own resolution.
    """
    return gap(evaluation, removal, score).abs()


def gap(evaluation: Evaluation, removal: Removal, score: Output) -> Tensor:
    """Signed gap [P]: sum a - (f(x) - f(b))."""
    remove = remover(evaluation.forward, evaluation.pairs, removal)
    rows = torch.arange(len(evaluation.pairs), device=evaluation.maps.device)
    everything = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=evaluation.maps.device)
    height, width = evaluation.forward.images.shape[-2:]
    after = evaluation.outputs(lambda pair: remove(pair, everything.expand(len(pair), 1, height, width)), rows)
    difference = evaluation.clean.of(score) - after.of(score)
    total = evaluation.maps.double().sum((1, 2)).to(difference.dtype)
    return total - difference


@metric(
    better="lower",
    range=(0, float("inf")),
    average="ratio",
    source="chen2020",
    minimum_effect=0.01,
    invariant=(),
    forwards=0,
    backwards=0,
    rankings_change_with=("the scale of the map",),
    criticism="A small b says that biases matter little to the logit, not that the map finds what matters.",
)
def bias_ratio(evaluation: Evaluation) -> Tensor:
    """Share of the logit that the sum of the map leaves unexplained: |b| / |S_c|, b = S_c - sum M. Statistics [P, 2].

    The sum is over the raw map at its own resolution. For vgatt b is what the biases of the layers above the cut add;
    0 is perfect, and a map of zeros has 1. Unlike completeness_gap it needs no baseline image. In total over pairs,
    since logits near 0 would decide a mean of ratios; each pair's ratio is in the records, NaN where S_c = 0.
    """
    logit = evaluation.clean.logit.double()
    bias = logit - evaluation.maps.double().sum((1, 2))
    undefined = bias.isnan() | (logit == 0)
    return torch.stack([bias.abs(), logit.abs()], 1).masked_fill(undefined[:, None], torch.nan)
