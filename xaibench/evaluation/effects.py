"""Effects of removals: the relevance that each removes, and the drop of the score without it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xaibench.core.chunks import map_chunks
from xaibench.evaluation.evaluation import Evaluation
from xaibench.evaluation.perturbation import Output, Removal, Units, outputs, remover

Choose = Callable[[Tensor, Tensor], Tensor]  # pair [n], sample [n] -> removed bool [n, c, H, W]

ROUNDING = 16  # units in the last place of a score below which a drop is none


def effects(
    evaluation: Evaluation, attribution: Tensor, samples: int, choose: Choose, removal: Removal, score: Output
) -> tuple[Tensor, Tensor]:
    """Relevance removed and drop of the score, both double [P, S], one forward per pair and sample.

    Args:
        attribution: [P, c, H, W], c = 1 (of whole pixels) or C
        choose: what each sample removes
        removal: what takes its place
    """
    pair, sample = _every(evaluation, samples)
    remove = remover(evaluation.forward, evaluation.pairs, removal)

    def relevance(rows: Tensor) -> Tensor:
        removed = choose(pair[rows], sample[rows])
        return torch.where(removed, attribution[pair[rows]], 0).double().flatten(1).sum(1)

    def without(rows: Tensor) -> Tensor:
        return remove(pair[rows], choose(pair[rows], sample[rows]))

    after = outputs(evaluation.forward, evaluation.pairs, pair, without)
    return _per_pair(evaluation, relevance, pair, samples), drops(evaluation, after.of(score), score, samples)


def noise_effects(
    evaluation: Evaluation, attribution: Tensor, samples: int, noise: Choose, score: Output
) -> tuple[Tensor, Tensor]:
    """Sums I a and drops f(x) - f(x - I), double [P, S], for noise I [n, c, H, W] of pairs and samples."""
    pair, sample = _every(evaluation, samples)
    images, rows_of = evaluation.forward.images, evaluation.pairs.image

    def product(rows: Tensor) -> Tensor:
        return (noise(pair[rows], sample[rows]) * attribution[pair[rows]]).double().flatten(1).sum(1)

    def noisy(rows: Tensor) -> Tensor:
        return images[rows_of[pair[rows]]] - noise(pair[rows], sample[rows])

    after = outputs(evaluation.forward, evaluation.pairs, pair, noisy)
    return _per_pair(evaluation, product, pair, samples), drops(evaluation, after.of(score), score, samples)


def drops(evaluation: Evaluation, after: Tensor, score: Output, samples: int) -> Tensor:
    """Drops double [P, S] of the score: f(x) - f(x'); exactly 0 where they differ by rounding only."""
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
    """Removals of blocks of ranks [P, c, H, W]: sample t removes those from count [P, S + 1] t to t + 1."""

    def choose(pair: Tensor, sample: Tensor) -> Tensor:
        first, last = counts[pair, sample][:, None, None, None], counts[pair, sample + 1][:, None, None, None]
        return (ranks[pair] >= first) & (ranks[pair] < last)

    return choose
