"""Concentration of the relevance. It does not show that a map is right: a single wrong pixel is perfectly sparse."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from xaibench.core import rank_statistics
from xaibench.core.registry import metric
from xaibench.evaluation import Evaluation
from xaibench.forward import Pairs


@metric(
    better="higher",
    range=(0, 1),
    group="concentration",
    source="chalasani2020",
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("resizing", "smoothing", "whatever shifts a map, such as a min-max"),
    criticism="It says nothing about truth: one wrong pixel is perfectly sparse.",
)
def sparseness(evaluation: Evaluation) -> Tensor:
    """Gini index of |a| over the pixels of the image: sum_i (2i - n - 1) a_(i) / (n sum a), a_(i) ascending.

    0 for a constant map, towards 1 for a single pixel. Undefined (NaN) for an all-zero map.
    """
    a = evaluation.relevance.abs().flatten(1).sort(1).values
    n = a.shape[1]
    i = torch.arange(1, n + 1, device=a.device, dtype=a.dtype)
    return (2 * i - n - 1) @ a.T / (n * a.sum(1))


@metric(
    better="lower",
    range=(0, 1),
    group="concentration",
    source="bhatt2020, complexity; divided by its maximum",
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("resizing", "smoothing"),
    criticism="Concentration is not truth; it says nearly the same as `sparseness`.",
    elsewhere="Complexity in Quantus is not divided by ln n, so that maps of different sizes do not compare.",
)
def complexity(evaluation: Evaluation) -> Tensor:
    """Entropy of |a| over the n pixels of the image: -sum p ln p / ln n, p = |a| / sum |a|.

    1 for a constant map, 0 for a single pixel. The division makes resolutions comparable; smoothing raises the value.
    Undefined (NaN) for an all-zero map.
    """
    a = evaluation.relevance.abs().flatten(1).double()
    entropy: Tensor = torch.special.entr(a / a.sum(1, keepdim=True)).sum(1)
    return entropy / math.log(a.shape[1])


@metric(
    better="lower",
    range=(0, 1),
    group="concentration",
    source="nguyen2020, effective complexity; as a share of the pixels",
    version=2,
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("threshold", "scale"),
    criticism="The threshold is arbitrary, and small is not right.",
    elsewhere="EffectiveComplexity in Quantus counts |a| > eps, and by default divides maps by the largest value of "
    "the whole batch, so that the number depends on the other images.",
)
def effective_complexity(
    evaluation: Evaluation, *, threshold: float = 0.05, scale: Literal["maximum", "none"] = "maximum"
) -> Tensor:
    """Share of the pixels with |a| > threshold, in units of the map's largest |a| (maximum) or of the map (none).

    With `none` it depends on the scale of the map, as other libraries' does. Undefined (NaN) with `maximum` for an
    all-zero map.
    """
    a = evaluation.relevance.abs().flatten(1)
    unit = a.amax(1, keepdim=True) if scale == "maximum" else torch.ones_like(a[:, :1])
    share = (a > threshold * unit).double().mean(1)
    return share.where(unit[:, 0] > 0, torch.nan)


@metric(
    better="higher",
    range=(0, 1),
    needs=("method",),
    group="concentration",
    source="poppi2021, ADCC",
    minimum_effect=0.005,
    forwards={"keep native model": "pairs", "kept maps": "pairs * pair_forwards"},
    backwards={"kept maps": "pairs * pair_backwards"},
    rankings_change_with=("how the mask is made, which all three parts read",),
    criticism="An image times a mask is no natural image, and the harmonic mean hides which part failed.",
    elsewhere="The authors' code explains the top class throughout, whatever label is given.",
)
def adcc(evaluation: Evaluation) -> Tensor:
    """Harmonic mean of coherency, 1 - complexity and 1 - drop, so that no single one decides. See `adcc_parts`."""
    coherency, size, drop = adcc_parts(evaluation)
    return 3 / (1 / coherency + 1 / (1 - size) + 1 / (1 - drop))


def adcc_parts(evaluation: Evaluation) -> tuple[Tensor, Tensor, Tensor]:
    """Coherency, complexity and drop, each [P] in [0, 1].

    With the mask m in [0, 1] (see `Evaluation.mask`) of image x: drop = relu(y - o) / y of the label's probability on x
    and on x m; complexity = mean m; coherency = (Pearson(m, m') + 1) / 2, m' being the mask that the method gives for
    the image x m. Coherency is undefined (NaN) for a mask without contrast, before or after.
    """
    forward, pairs, mask = evaluation.forward, evaluation.pairs, evaluation.mask
    y = evaluation.confidence
    drop = (y - evaluation.keep.confidence).relu() / y
    rows = torch.arange(len(pairs), device=mask.device)
    kept = forward.images[pairs.image] * mask[:, None]
    again = evaluation.mask_of(evaluation.explain(kept, Pairs(rows, pairs.label), pairs.image))
    coherency = (rank_statistics.pearson(mask.flatten(1), again.flatten(1)) + 1) / 2
    return coherency, mask.mean((1, 2)), drop


@metric(
    better="lower",
    range=(0, 1),
    group="concentration",
    source="xaibench",
    version=2,
    minimum_effect=0.005,
    forwards=0,
    backwards=0,
    rankings_change_with=("resizing (a map enlarged has fewer ties than the map itself)", "ReLU"),
    criticism="Ties among the least relevant pixels hardly matter, and count as much as those at the top.",
)
def tied_fraction(evaluation: Evaluation) -> Tensor:
    """Fraction of pixels whose relevance another pixel has, too: the part of a ranking that the tie rule decides.

    Every metric that removes or compares pixels in order breaks ties in raster order, so that 1 means it measured the
    image's rows, not the map.
    """
    return evaluation.tied
