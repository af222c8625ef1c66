"""Correlation between relevance and the drop of the score. These metrics read the values of a map, not only its ranks.

Each makes many removals of an image: u = relevance that was removed, v = f(x) - f(x without it), and compares the
two over the removals of one pair. The score is the logit by default: a saturated probability hides drops.

Where u or v is the same for all removals (a constant map, a model that does not react) a correlation is undefined
(NaN). Correlations and the normalised infidelity do not depend on the scale of a map,
completeness_gap and bias_ratio are about nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from xaibench.core import rank_statistics
from xaibench.core.registry import Keys, metric
from xaibench.core.registry.bounds import AtLeastTwo, InnerFraction
from xaibench.evaluation import Evaluation
from xaibench.evaluation.effects import Choose, blocks, effects, members
from xaibench.evaluation.perturbation import Output, Removal, Static, units

Similarity = Literal["pearson", "spearman"]
Blocks = Annotated[Removal, Keys(baseline=Static, steps=AtLeastTwo)]
ROUNDING = 1e-9  # of the largest value: sums that differ by less vary by rounding only


@metric(
    better="higher",
    range=(-1, 1),
    group="correlation",
    source="bhatt2020",
    unit="correlation",
    minimum_effect=0.01,
    forwards="pairs * samples",
    backwards=0,
    rankings_change_with=("fraction", "removal.unit", "removal.grid", "removal.baseline", "score"),
    criticism="Subsets of pixels hardly move the score of a natural image, and 100 draws leave the correlation "
    "uncertain by about 0.1.",
    elsewhere="FaithfulnessCorrelation in Quantus removes single scalars of the image by default.",
)
def faithfulness_correlation(
    evaluation: Evaluation,
    *,
    samples: AtLeastTwo = 100,
    fraction: InnerFraction = 0.2,
    removal: Annotated[Removal, Keys("grid", baseline=Static, unit=Literal["pixel", "patch"])] = Removal(
        unit="patch", grid=14
    ),
    score: Output = "logit",
) -> Tensor:
    """Pearson correlation over random subsets S of units of the relevance of S and the drop of the score without S."""
    partition = units(evaluation.forward.images, evaluation.pairs, removal.unit, removal.grid)
    chosen = _subsets(evaluation, partition.total, samples, fraction, "faithfulness_correlation")
    u, v = effects(evaluation, evaluation.relevance[:, None], samples, members(partition, chosen), removal, score)
    return _defined(evaluation, correlate(u, v, "pearson"))


@metric(
    better="higher",
    range=(-1, 1),
    group="correlation",
    source="bhatt2020; fel2022, muFidelity",
    unit="correlation",
    minimum_effect=0.01,
    forwards="pairs * samples",
    backwards=0,
    rankings_change_with=("removal.grid", "fraction"),
    criticism="One property with `faithfulness_correlation`: report one of them; cells with holes are unlike any "
    "training image.",
    elsewhere="MuFidelity in Xplique.",
)
def mu_fidelity(
    evaluation: Evaluation,
    *,
    samples: AtLeastTwo = 200,
    fraction: InnerFraction = 0.2,
    removal: Annotated[Removal, Keys("grid", baseline=Static)] = Removal(unit="patch", grid=9),
    score: Output = "logit",
) -> Tensor:
    """Spearman correlation over random subsets of the cells of a grid of their relevance and the drop without them."""
    partition = units(evaluation.forward.images, evaluation.pairs, removal.unit, removal.grid)
    chosen = _subsets(evaluation, partition.total, samples, fraction, "mu_fidelity")
    u, v = effects(evaluation, evaluation.relevance[:, None], samples, members(partition, chosen), removal, score)
    return _defined(evaluation, correlate(u, v, "spearman"))


@metric(
    better="higher",
    range=(-1, 1),
    group="correlation",
    source="alvarezmelis2018",
    version=2,
    unit="correlation",
    minimum_effect=0.01,
    forwards="pairs * removal.steps",
    backwards=0,
    rankings_change_with=("removal.steps", "removal.baseline"),
    criticism="Each block is removed alone, so what pixels do together is not seen.",
    elsewhere="FaithfulnessEstimate in Quantus.",
)
def faithfulness_estimate(
    evaluation: Evaluation,
    *,
    removal: Blocks = Removal(),
    score: Output = "logit",
    similarity: Similarity = "pearson",
) -> Tensor:
    """Correlation over `steps` blocks of pixels of like relevance, each removed ALONE, of its relevance and the drop.

    Pixels are sorted by relevance (equal ones in raster order) and cut into blocks of equal size.
    """
    relevance = evaluation.relevance[:, None]
    choose, steps = _sorted_blocks(evaluation, relevance, removal, "morf")
    u, v = effects(evaluation, relevance, steps, choose, removal, score)
    return _defined(evaluation, correlate(u, v, similarity))


@metric(
    better="higher",
    range=(-1, 1),
    group="correlation",
    source="nguyen2020",
    version=2,
    unit="correlation",
    minimum_effect=0.01,
    forwards="pairs * removal.steps",
    backwards=0,
    rankings_change_with=("removal.steps", "removal.baseline"),
    criticism="It reads |a| and a squared change, so a map with every sign turned round scores the same.",
    elsewhere="MonotonicityCorrelation in Quantus divides by f(x)^2 as published, and fails where f(x) is 0.",
)
def monotonicity_correlation(
    evaluation: Evaluation, *, removal: Blocks = Removal(), score: Output = "probability"
) -> Tensor:
    """Spearman correlation over blocks of pixels of sum |a| and (f(x) - f(x without the block))^2.

    Blocks are cut from the pixels sorted by |a|, smallest first. The published division by f(x)^2 changes no rank and
    is left out; it only made the value undefined where f(x) = 0.
    """
    magnitude = evaluation.relevance.abs()[:, None]
    choose, steps = _sorted_blocks(evaluation, magnitude, removal, "lerf")
    u, v = effects(evaluation, magnitude, steps, choose, removal, score)
    return _defined(evaluation, correlate(u, v.square(), "spearman"))


def correlate(u: Tensor, v: Tensor, similarity: Similarity) -> Tensor:
    """Correlation [P] of double [P, S] and [P, S]; NaN where one of them does not vary (beyond rounding)."""
    statistic = rank_statistics.spearman if similarity == "spearman" else rank_statistics.pearson
    return statistic(u, v, ROUNDING)


def _defined(evaluation: Evaluation, values: Tensor) -> Tensor:
    """Values in the maps' precision; NaN for constant maps, whose sums differ by the sizes of units only."""
    flat = evaluation.maps.flatten(1)
    return values.to(evaluation.maps.dtype).masked_fill(flat.amax(1) == flat.amin(1), torch.nan)


def _subsets(evaluation: Evaluation, total: int, samples: int, fraction: float, name: str) -> Tensor:
    """Random subsets, bool [P, S, total], of floor(fraction * total) units (at least 1), seeded by pair."""
    size = max(1, int(fraction * total))
    return evaluation.forward.draw_per_pair(evaluation.pairs, name, samples, total).argsort(2) < size


def _sorted_blocks(
    evaluation: Evaluation, values: Tensor, removal: Removal, order: Literal["morf", "lerf"]
) -> tuple[Choose, int]:
    """Removals of one block of sorted pixels each, and the number of blocks."""
    partition = units(evaluation.forward.images, evaluation.pairs, "pixel", 1)
    total = torch.full((len(values),), partition.total, device=values.device)
    counts = removal.counts(total)
    return blocks(partition.ranks(values, order), counts), counts.shape[1] - 1
