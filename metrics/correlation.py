"""Does the amount of relevance say how much the score drops? These read the values of a map, not only its ranks.

Each asks for many removals of an image: u = relevance that was removed, v = f(x) - f(x without it), and compares the
two over the removals of one pair. The score is the logit by default: a saturated probability hides drops.

Where u or v is the same for all removals (a constant map, a model that does not react) a correlation is undefined
(NaN). Correlations and the normalised infidelity do not depend on the scale of a map,
completeness_gap and bias_ratio are about nothing else.

Known criticism: the score of an image with holes is also the score of an image unlike any that was trained on;
removals of few pixels hardly move the score of a natural image, so superpixels or patches say more than pixels; with
100 removals the correlation itself is uncertain by about 0.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from xaibench.core.chunks import map_chunks
from xaibench.core.registry import metric
from xaibench.core.registry.bounds import AtLeastTwo, Count, InnerFraction, Positive, PositiveFraction
from xaibench.evaluation import Evaluation
from xaibench.evaluation.perturbation import Output, Removal, Static, Units, outputs, remover, units

Similarity = Literal["pearson", "spearman"]
Choose = Callable[[Tensor, Tensor], Tensor]  # pair [n], sample [n] -> removed bool [n, c, H, W]

ROUNDING = 16  # units in the last place of a score below which a drop is none


# -- removals and their effect ----------------------------------------------------------------------------------------


def effects(
    evaluation: Evaluation, attribution: Tensor, samples: int, choose: Choose, baseline: Static, score: Output
) -> tuple[Tensor, Tensor]:
    """Relevance removed and drop of the score, both double [P, S], one forward per pair and sample.

    Args:
        attribution: [P, c, H, W], c = 1 (of whole pixels) or C
        choose: what each sample removes
    """
    pair, sample = _every(evaluation, samples)
    remove = remover(evaluation.forward, evaluation.pairs, Removal(baseline))

    def relevance(rows: Tensor) -> Tensor:
        removed = choose(pair[rows], sample[rows])
        return torch.where(removed, attribution[pair[rows]], 0).double().flatten(1).sum(1)

    def without(rows: Tensor) -> Tensor:
        return remove(pair[rows], choose(pair[rows], sample[rows]))

    after = outputs(evaluation.forward, evaluation.pairs, pair, without)
    return _per_pair(evaluation, relevance, pair, samples), drops(evaluation, after.of(score), score, samples)


def drops(evaluation: Evaluation, after: Tensor, score: Output, samples: int) -> Tensor:
    """double [P, S]: f(x) - f(x'); exactly 0 where they differ by rounding only."""
    before = evaluation.clean.of(score)[:, None]
    after = after.view(len(evaluation.pairs), samples)
    drop = before - after
    noise = ROUNDING * torch.finfo(drop.dtype).eps * before.abs().maximum(after.abs())
    return torch.where(drop.abs() <= noise, 0, drop).double()


def _every(evaluation: Evaluation, samples: int) -> tuple[Tensor, Tensor]:
    """Pair and sample of P * S rows, pair by pair."""
    rows = torch.arange(len(evaluation.pairs) * samples, device=evaluation.maps.device)
    return rows // samples, rows % samples


def _per_pair(evaluation: Evaluation, function: Callable[[Tensor], Tensor], pair: Tensor, samples: int) -> Tensor:
    if len(pair) == 0:
        return torch.zeros(0, samples, dtype=torch.float64, device=pair.device)
    rows = torch.arange(len(pair), device=pair.device)
    values = map_chunks(function, rows, evaluation.forward.classifier.chunk)
    return values.view(len(evaluation.pairs), samples)


def members(partition: Units, chosen: Tensor) -> Choose:
    """Removals of whole units: chosen bool [P, S, total]."""

    def choose(pair: Tensor, sample: Tensor) -> Tensor:
        index = partition.index[pair]
        return chosen[pair, sample].gather(1, index.flatten(1)).view(index.shape)

    return choose


def blocks(ranks: Tensor, counts: Tensor) -> Choose:
    """Sample t removes what a removal in ranks [P, c, H, W] takes between counts [P, S + 1] t and t + 1."""

    def choose(pair: Tensor, sample: Tensor) -> Tensor:
        first, last = counts[pair, sample][:, None, None, None], counts[pair, sample + 1][:, None, None, None]
        return (ranks[pair] >= first) & (ranks[pair] < last)

    return choose


def _subsets(evaluation: Evaluation, total: int, samples: int, fraction: float, name: str) -> Tensor:
    """bool [P, S, total]: random subsets of floor(fraction * total) units (at least 1), seeded by pair."""
    size = max(1, int(fraction * total))
    return evaluation.forward.draw_per_pair(evaluation.pairs, name, samples, total).argsort(2) < size


# -- correlation ------------------------------------------------------------------------------------------------------


def correlate(u: Tensor, v: Tensor, similarity: Similarity) -> Tensor:
    """[P] correlation of double [P, S] and [P, S]; NaN where one of them does not vary (beyond rounding)."""
    constant = _constant(u) | _constant(v)
    if similarity == "spearman":
        u, v = average_ranks(u), average_ranks(v)
    u, v = u - u.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    return ((u * v).sum(1) / (u.square().sum(1) * v.square().sum(1)).sqrt()).masked_fill(constant, torch.nan)


def _constant(values: Tensor) -> Tensor:
    return values.amax(1) - values.amin(1) <= 1e-9 * values.abs().amax(1)


def average_ranks(values: Tensor) -> Tensor:
    """Ranks of each row, equal values sharing the mean of theirs, a NaN making the row NaN: double [P, S]."""
    one, other = values[:, :, None], values[:, None, :]
    ranks = (other < one).sum(2) + ((other == one).sum(2) - 1) / 2
    return ranks.double().masked_fill(values.isnan().any(1, keepdim=True), torch.nan)


def _defined(evaluation: Evaluation, values: Tensor) -> Tensor:
    """NaN for constant maps, whose sums differ by the sizes of units only; in the maps' precision."""
    flat = evaluation.maps.flatten(1)
    return values.to(evaluation.maps.dtype).masked_fill(flat.amax(1) == flat.amin(1), torch.nan)


@metric(
    better="higher",
    range=(-1, 1),
    group="correlation",
    source="bhatt2020",
    unit="correlation",
    minimum_effect=0.01,
    cost="a forward per pair and sample",
)
def faithfulness_correlation(
    evaluation: Evaluation,
    *,
    samples: AtLeastTwo = 100,
    fraction: InnerFraction = 0.2,
    unit: Literal["pixel", "patch"] = "patch",
    grid: Count = 14,
    baseline: Static = "zero",
    score: Output = "logit",
) -> Tensor:
    """Pearson correlation over random subsets S of units of the relevance of S and the drop of the score without S.

    Rankings change with the size of the subsets, the unit, the baseline and the score. Criticism: subsets of pixels
    hardly move the score of a natural image, and 100 draws leave the correlation uncertain by about 0.1.
    """
    partition = units(evaluation.forward.images, evaluation.pairs, unit, grid)
    chosen = _subsets(evaluation, partition.total, samples, fraction, "faithfulness_correlation")
    u, v = effects(evaluation, evaluation.relevance[:, None], samples, members(partition, chosen), baseline, score)
    return _defined(evaluation, correlate(u, v, "pearson"))


@metric(
    better="higher",
    range=(-1, 1),
    group="correlation",
    source="bhatt2020; fel2022, muFidelity",
    unit="correlation",
    minimum_effect=0.01,
    cost="a forward per pair and sample",
)
def mu_fidelity(
    evaluation: Evaluation,
    *,
    samples: AtLeastTwo = 200,
    fraction: InnerFraction = 0.2,
    grid: Count = 9,
    baseline: Static = "zero",
    score: Output = "logit",
) -> Tensor:
    """Spearman correlation over random subsets of the cells of a grid of their relevance and the drop without them.

    Rankings change with the grid and the fraction. Criticism: one property with `faithfulness_correlation`: report one
    of them; cells with holes are unlike any training image.
    """
    partition = units(evaluation.forward.images, evaluation.pairs, "patch", grid)
    chosen = _subsets(evaluation, partition.total, samples, fraction, "mu_fidelity")
    u, v = effects(evaluation, evaluation.relevance[:, None], samples, members(partition, chosen), baseline, score)
    return _defined(evaluation, correlate(u, v, "spearman"))


@metric(
    better="higher",
    range=(-1, 1),
    group="correlation",
    source="alvarezmelis2018",
    version=2,
    unit="correlation",
    minimum_effect=0.01,
    cost="a forward per pair and step",
)
def faithfulness_estimate(
    evaluation: Evaluation,
    *,
    steps: AtLeastTwo = 32,
    baseline: Static = "zero",
    score: Output = "logit",
    similarity: Similarity = "pearson",
) -> Tensor:
    """Correlation over `steps` blocks of pixels of like relevance, each removed ALONE, of its relevance and the drop.

    Pixels are sorted by relevance (equal ones in raster order) and cut into blocks of equal size.

    Rankings change with the number of blocks and the baseline. Criticism: each block is removed alone, so what pixels
    do together is not seen.
    """
    relevance = evaluation.relevance[:, None]
    choose = _sorted_blocks(evaluation, relevance, steps, "morf")
    u, v = effects(evaluation, relevance, steps, choose, baseline, score)
    return _defined(evaluation, correlate(u, v, similarity))


@metric(
    better="higher",
    range=(-1, 1),
    group="correlation",
    source="nguyen2020",
    version=2,
    unit="correlation",
    minimum_effect=0.01,
    cost="a forward per pair and step",
)
def monotonicity_correlation(
    evaluation: Evaluation, *, steps: AtLeastTwo = 32, baseline: Static = "zero", score: Output = "probability"
) -> Tensor:
    """Spearman correlation over blocks of pixels of sum |a| and (f(x) - f(x without the block))^2.

    Blocks are cut from the pixels sorted by |a|, smallest first. The published division by f(x)^2 changes no rank and
    is left out; it only made the value undefined where f(x) = 0.

    Rankings change with the number of blocks and the baseline. Criticism: it reads |a| and a squared change, so a map
    with every sign turned round scores the same.
    """
    magnitude = evaluation.relevance.abs()[:, None]
    choose = _sorted_blocks(evaluation, magnitude, steps, "lerf")
    u, v = effects(evaluation, magnitude, steps, choose, baseline, score)
    return _defined(evaluation, correlate(u, v.square(), "spearman"))


def _sorted_blocks(evaluation: Evaluation, values: Tensor, steps: int, order: Literal["morf", "lerf"]) -> Choose:
    partition = units(evaluation.forward.images, evaluation.pairs, "pixel", 1)
    total = torch.full((len(values),), partition.total, device=values.device)
    return blocks(partition.ranks(values, order), Removal(steps=steps).counts(total))


# -- infidelity and completeness --------------------------------------------------------------------------------------


@metric(
    better="lower",
    range=(0, float("inf")),
    group="correlation",
    source="yeh2019",
    unit="squared logits",
    minimum_effect=0.001,
    cost="a forward per pair and sample",
)
def infidelity(
    evaluation: Evaluation,
    *,
    perturbation: Literal["square", "noise"] = "square",
    samples: Count = 50,
    side: PositiveFraction = 0.25,
    sigma: Positive = 0.1,
    baseline: Static = "zero",
    normalise: bool = True,
    score: Output = "logit",
) -> Tensor:
    """Mean squared error with which relevance predicts the drop: mean_S (beta u - v)^2.

    `square` removes random squares (`side` of the shorter edge) and u is the relevance inside: for maps that share a
    score out among pixels. `noise` subtracts Gaussian noise I of deviation `sigma`, the same in all channels of a
    pixel, and u = sum I a: for maps that are gradients. With `normalise`, beta = sum(u v) / sum(u^2) (0 for an all-zero
    map) takes the scale out of the comparison; without, beta = 1 and the metric ranks methods by their scale first.

    Rankings change with what is removed (squares prefer maps that share out a score, noise prefers gradients), and
    without `normalise` with the scale of the map. Criticism: the best factor per pair hides a wrong scale, no factor
    lets scale decide.
    """
    relevance = evaluation.relevance[:, None]
    if perturbation == "square":
        u, v = effects(evaluation, relevance, samples, _squares(evaluation, samples, side), baseline, score)
    else:
        u, v = noise_effects(evaluation, relevance, samples, _noise(evaluation, sigma), score)
    return squared_error(u, v, normalise).to(evaluation.maps.dtype)


def squared_error(u: Tensor, v: Tensor, normalise: bool) -> Tensor:
    """[P]: mean (beta u - v)^2 with the best beta (normalise), or 1."""
    power = u.square().sum(1, keepdim=True)
    beta = torch.where(power == 0, 0, (u * v).sum(1, keepdim=True) / power) if normalise else 1
    return (beta * u - v).square().mean(1)


def noise_effects(
    evaluation: Evaluation, attribution: Tensor, samples: int, noise: Choose, score: Output
) -> tuple[Tensor, Tensor]:
    """sum I a and f(x) - f(x - I), double [P, S], for noise I [n, c, H, W] of pairs and samples."""
    pair, sample = _every(evaluation, samples)
    images, rows_of = evaluation.forward.images, evaluation.pairs.image

    def product(rows: Tensor) -> Tensor:
        return (noise(pair[rows], sample[rows]) * attribution[pair[rows]]).double().flatten(1).sum(1)

    def noisy(rows: Tensor) -> Tensor:
        return images[rows_of[pair[rows]]] - noise(pair[rows], sample[rows])

    after = outputs(evaluation.forward, evaluation.pairs, pair, noisy)
    return _per_pair(evaluation, product, pair, samples), drops(evaluation, after.of(score), score, samples)


def _noise(evaluation: Evaluation, sigma: float) -> Choose:
    """Drawn anew each time it is asked for, from a generator per pair and sample, so that nothing large is kept."""
    images = evaluation.forward.images

    def noise(pair: Tensor, sample: Tensor) -> Tensor:
        draws = [
            torch.randn(1, *images.shape[-2:], generator=generator)
            for row, s in zip(pair, sample.tolist(), strict=True)
            for generator in evaluation.forward.generators(evaluation.pairs[row[None]], f"infidelity/{s}")
        ]
        return sigma * torch.stack(draws).to(images)

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


@metric(
    better="lower",
    range=(0, float("inf")),
    group="correlation",
    source="sundararajan2017",
    unit="logits",
    minimum_effect=0.01,
    cost="1 forward per pair",
    invariant=(),
)
def completeness_gap(evaluation: Evaluation, *, baseline: Static = "zero", score: Output = "logit") -> Tensor:
    """|sum a - (f(x) - f(b))|: what a map leaves unsaid, or says too much, of the difference to a baseline image b.

    The sum is over the raw map at its own resolution. Only methods that share out a score (integrated gradients,
    DeepLIFT, LRP, Shapley values) claim a gap of 0; for others the number is their scale.

    Rankings change with the baseline and the scale of the map. Criticism: it means something for methods that share out
    a score, and nothing for others.
    """
    return gap(evaluation, baseline, score).abs()


def gap(evaluation: Evaluation, baseline: Static, score: Output) -> Tensor:
    """[P]: sum a - (f(x) - f(b))."""
    remove = remover(evaluation.forward, evaluation.pairs, Removal(baseline))
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
    cost="none",
    invariant=(),
)
def bias_ratio(evaluation: Evaluation) -> Tensor:
    """Share of the logit that the sum of the map leaves unexplained: |b| / |S_c|, b = S_c - sum M. Statistics [P, 2].

    The sum is over the raw map at its own resolution. For vgatt b is what the biases of the layers above the cut add;
    0 is perfect, and a map of zeros has 1. Unlike completeness_gap it asks no baseline image. In total over pairs,
    since logits near 0 would decide a mean of ratios; each pair's ratio is in the records, NaN where S_c = 0.

    Rankings change with the scale of the map. Criticism: a small b says that biases matter little to the logit, not
    that the map finds what matters.
    """
    logit = evaluation.clean.logit.double()
    bias = logit - evaluation.maps.double().sum((1, 2))
    undefined = bias.isnan() | (logit == 0)
    return torch.stack([bias.abs(), logit.abs()], 1).masked_fill(undefined[:, None], torch.nan)
