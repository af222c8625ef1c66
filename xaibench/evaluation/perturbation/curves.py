"""Curves: what the model says while the units of an image are removed one portion after the other."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xaibench.evaluation.perturbation.baselines import Remove, remover, running_mean, substitute
from xaibench.evaluation.perturbation.outputs import Readings, Score, clean, read
from xaibench.evaluation.perturbation.removal import Order, Removal
from xaibench.evaluation.perturbation.units import units

if TYPE_CHECKING:
    from xaibench.evaluation import Evaluation


@dataclass(frozen=True)
class Curve(Readings):
    """Readings [P, T + 1] along a removal: before the first and after each of T steps.

    Attributes:
        removed: [P, T + 1] fraction of the image's pixels (or scalars) that are gone
        valid: bool [P, T + 1]; False beyond the last unit of a pair with fewer units than others
    """

    removed: Tensor
    valid: Tensor

    def auc(self, values: Tensor) -> Tensor:
        """[P]: trapezoid over the T + 1 points divided by T (RISE), so that a constant curve c has c."""
        values = torch.where(self.valid, values, 0)
        steps = self.valid.sum(1) - 1
        last = values.gather(1, steps[:, None])[:, 0]
        return (values.sum(1) - values[:, 0] / 2 - last / 2) / steps

    def drop(self, score: Score) -> Tensor:
        """[P, T + 1]: f(x) - f(x_k)."""
        own = self.own(score)
        return own[:, :1] - own


def curve(evaluation: Evaluation, order: Order, removal: Removal) -> Curve:
    """The model's word while units are removed: most relevant first (morf), least relevant (lerf) or at random."""
    partition = units(evaluation, removal.unit, removal.grid)
    values = evaluation.relevance[:, None]
    if order == "random":
        values = _random_values(evaluation)
    ranks = partition.ranks(values, "lerf" if order == "lerf" else "morf")
    present = (partition.sizes > 0).sum(1)
    counts = removal.counts(present)
    if removal.baseline == "running_mean":
        images = evaluation.forward.images[evaluation.pairs.image]
        remove = substitute(evaluation, running_mean(images, ranks, counts))
    else:
        remove = remover(evaluation, removal)
    return trace(evaluation, ranks, counts, remove, counts <= present[:, None])


def trace(evaluation: Evaluation, ranks: Tensor, counts: Tensor, remove: Remove, valid: Tensor | None = None) -> Curve:
    """The curve of given ranks [P, c, H, W] and counts [P, T + 1]; one forward per pair and step, none for the first.

    The curve of an undefined map is NaN.
    """
    valid = torch.ones_like(counts, dtype=torch.bool) if valid is None else valid
    pair, step = valid[:, 1:].nonzero(as_tuple=True)
    gone = counts[pair, step + 1].int()[:, None, None, None]
    after = read(evaluation, pair, lambda rows: remove(pair[rows], ranks[pair[rows]] < gone[rows]))
    before = clean(evaluation)
    columns = {}
    for name in (field.name for field in fields(Readings)):
        start: Tensor = getattr(before, name)
        column = start.new_full(counts.shape, torch.nan)
        column[:, 0] = start
        column[pair, step + 1] = getattr(after, name)
        columns[name] = column.masked_fill(~evaluation.defined[:, None], torch.nan)
    return Curve(**columns, removed=_share(ranks, counts), valid=valid)


def _share(ranks: Tensor, counts: Tensor) -> Tensor:
    """[P, T + 1]: the fraction of pixels with rank < count."""
    ordered = ranks.flatten(1).sort(1).values
    return torch.searchsorted(ordered, counts.int().contiguous()) / max(ordered.shape[1], 1)


def _random_values(evaluation: Evaluation) -> Tensor:
    return evaluation.forward.draw_per_pair(evaluation.pairs, "order", 1, *evaluation.forward.images.shape[-2:])
