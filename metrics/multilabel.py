"""Multi-label metrics of MinMax-CAM, by the authors' code, and average gain.

For a pair (image x, label c) with mask m in [0, 1] (see `Evaluation.mask`): y = p_c(x), o = p_c(x m), and with the
complement co = p_c(x (1 - m)). C = labels detected in the image. Decisions that the text of the papers leaves open are
parameters, and their defaults give the official numbers:

1. which labels count as the others: `labels` (detected by the model; or present in the ground truth). Which pairs are
   explained is the suite's `explain`.
2. `normalise`: min-max of the map before it is resized (native) or after (resized).
3. `space`: the mask multiplies the normalised image (model: removed means mean colour) or its pixels (black).
4. `ties` of increase_in_confidence, and `lone`: an image with one detected label adds 0 to the "of others" means (zero),
   or is undefined.
5. `average`: per label over its detections, then over labels (label_macro), or over all detections (mean).
6. F1+ and F1-: harmonic mean per label, then over labels (label_macro_f1), of the macro means (f1_of_macro), or of the
   means over all detections (f1_of_mean).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xaibench.core.registry import metric
from xaibench.core.registry.cost import Shared
from xaibench.evaluation import Evaluation, Normalise, Space
from xaibench.evaluation.perturbation import Outputs
from xaibench.forward.forward import Labels

Lone = Literal["zero", "undefined"]

AVERAGES = ("label_macro", "mean")
F1_AVERAGES = ("label_macro_f1", "f1_of_macro", "f1_of_mean")

OFFICIAL = "david2022; official notebooks"
KEEP: Shared = {"keep {normalise} {space}": "pairs"}
DROP: Shared = {"drop {normalise} {space}": "pairs"}
KEEP_AND_DROP: Shared = {**KEEP, **DROP}


def loss(before: Tensor, after: Tensor) -> Tensor:
    """Relative loss of confidence: relu(before - after) / before."""
    return (before - after).relu() / before


def loss_of_others(evaluation: Evaluation, probe: Outputs, labels: Labels, lone: Lone) -> Tensor:
    """Mean relative loss over the image's other labels: sum_{n in C, n != c} loss_n / max(1, |C| - 1)."""
    others = evaluation.others(labels)
    losses = torch.where(others, loss(evaluation.probabilities, probe.probabilities), 0)
    count = others.sum(1)
    mean = losses.sum(1) / count.clamp(min=1)
    return mean if lone == "zero" else mean.where(count > 0, torch.nan)


@metric(
    better="higher",
    range=(0, 1),
    average=AVERAGES,
    group="multi_label",
    source=f"chattopadhay2018, sec. 4.1; {OFFICIAL}",
    minimum_effect=0.01,
    forwards=KEEP,
    backwards=0,
    rankings_change_with=("normalise", "space", "ties"),
    criticism="One bit a pair; the kept region is shown on a surface that no training image has.",
)
def increase_in_confidence(
    evaluation: Evaluation,
    *,
    normalise: Normalise = "native",
    space: Space = "model",
    ties: Literal["strict", "count"] = "strict",
) -> Tensor:
    """Whether the explained region alone is more convincing than the whole image: [y < o]."""
    y, o = evaluation.confidence, evaluation.probe("keep", normalise, space).confidence
    increased = (o > y if ties == "strict" else o >= y).to(y.dtype)
    return increased.where(~o.isnan(), torch.nan)


@metric(
    better="lower",
    range=(0, 1),
    average=AVERAGES,
    group="multi_label",
    source=f"chattopadhay2018, sec. 4.1; {OFFICIAL}",
    minimum_effect=0.005,
    forwards=KEEP,
    backwards=0,
    rankings_change_with=("normalise", "space"),
    criticism="A mask of ones has a drop of 0: never read it without a metric that punishes large masks.",
    elsewhere="pytorch-grad-cam's drop is absolute, not divided by the clean confidence: not the published number.",
)
def average_drop(evaluation: Evaluation, *, normalise: Normalise = "native", space: Space = "model") -> Tensor:
    """Relative loss of confidence when only the explained region is kept: relu(y - o) / y."""
    return loss(evaluation.confidence, evaluation.probe("keep", normalise, space).confidence)


@metric(
    better="higher",
    range=(0, 1),
    average=AVERAGES,
    source="zhang2023opticam",
    minimum_effect=0.005,
    forwards=KEEP,
    backwards=0,
    rankings_change_with=("normalise", "space"),
    criticism="A model that is certain leaves nothing to gain, and unsure pairs decide.",
)
def average_gain(evaluation: Evaluation, *, normalise: Normalise = "native", space: Space = "model") -> Tensor:
    """Relative gain of confidence when only the explained region is kept: relu(o - y) / (1 - y).

    Undefined (NaN) where y = 1, which a float32 sigmoid is from a logit of about 17 on. Not one of the seven metrics of
    MinMax-CAM, and so not in their group.
    """
    y = evaluation.confidence
    return (evaluation.probe("keep", normalise, space).confidence - y).relu() / (1 - y)


@metric(
    better="higher",
    range=(0, 1),
    average=AVERAGES,
    group="multi_label",
    source=OFFICIAL,
    minimum_effect=0.005,
    forwards=DROP,
    backwards=0,
    rankings_change_with=("normalise", "space"),
    criticism="A mask of ones removes everything and wins.",
)
def average_retention(evaluation: Evaluation, *, normalise: Normalise = "native", space: Space = "model") -> Tensor:
    """Relative loss of confidence when the explained region is removed: relu(y - co) / y."""
    return loss(evaluation.confidence, evaluation.probe("drop", normalise, space).confidence)


@metric(
    better="higher",
    range=(0, 1),
    average=AVERAGES,
    group="multi_label",
    source=OFFICIAL,
    version=2,
    minimum_effect=0.005,
    forwards=KEEP,
    backwards=0,
    rankings_change_with=("labels", "lone"),
    criticism="An empty mask removes the others too and wins; read it with `average_drop`, or as `f1_plus`.",
)
def average_drop_of_others(
    evaluation: Evaluation,
    *,
    labels: Labels = "detected",
    normalise: Normalise = "native",
    space: Space = "model",
    lone: Lone = "zero",
) -> Tensor:
    """Relative loss of the other labels when only the region of c is kept: high if their evidence lies outside."""
    return loss_of_others(evaluation, evaluation.probe("keep", normalise, space), labels, lone)


@metric(
    better="lower",
    range=(0, 1),
    average=AVERAGES,
    group="multi_label",
    source=OFFICIAL,
    version=2,
    minimum_effect=0.005,
    forwards=DROP,
    backwards=0,
    rankings_change_with=("labels", "lone"),
    criticism="An empty mask removes nothing and wins; read it with `average_retention`.",
)
def average_retention_of_others(
    evaluation: Evaluation,
    *,
    labels: Labels = "detected",
    normalise: Normalise = "native",
    space: Space = "model",
    lone: Lone = "zero",
) -> Tensor:
    """Relative loss of the other labels when the region of c is removed: low if their evidence lies outside."""
    return loss_of_others(evaluation, evaluation.probe("drop", normalise, space), labels, lone)


@metric(
    better="higher",
    range=(0, 1),
    average=F1_AVERAGES,
    group="multi_label",
    source=OFFICIAL,
    minimum_effect=0.005,
    forwards=KEEP_AND_DROP,
    backwards=0,
    rankings_change_with=("average", "labels", "lone"),
    criticism="An absolute loss of a label that was hardly detected weighs as one that was certain, since both halves "
    "are relative.",
)
def f1_plus(
    evaluation: Evaluation,
    *,
    labels: Labels = "detected",
    normalise: Normalise = "native",
    space: Space = "model",
    lone: Lone = "zero",
) -> Tensor:
    """Harmonic mean of average retention and average drop of others, both better when higher. [P, 2]"""
    retention = average_retention(evaluation, normalise=normalise, space=space)
    drop = average_drop_of_others(evaluation, labels=labels, normalise=normalise, space=space, lone=lone)
    return torch.stack([retention, drop], 1)


@metric(
    better="lower",
    range=(0, 1),
    average=F1_AVERAGES,
    group="multi_label",
    source=OFFICIAL,
    minimum_effect=0.005,
    forwards=KEEP_AND_DROP,
    backwards=0,
    rankings_change_with=("average", "labels", "lone"),
    criticism="A harmonic mean of what should be low is 0 as soon as one half is: a mask of ones (drop 0) and an "
    "empty one (retention 0) are both perfect.",
)
def f1_minus(
    evaluation: Evaluation,
    *,
    labels: Labels = "detected",
    normalise: Normalise = "native",
    space: Space = "model",
    lone: Lone = "zero",
) -> Tensor:
    """Harmonic mean of average drop and average retention of others, both better when lower. [P, 2]"""
    drop = average_drop(evaluation, normalise=normalise, space=space)
    retention = average_retention_of_others(evaluation, labels=labels, normalise=normalise, space=space, lone=lone)
    return torch.stack([drop, retention], 1)
