"""Curves: model outputs while the units of an image are removed one portion after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.core.pairs import Pairs
from xaibench.evaluation.perturbation.baselines import Remove, remover, running_mean, substitute
from xaibench.evaluation.perturbation.outputs import Output, Outputs, clean_outputs, outputs
from xaibench.evaluation.perturbation.removal import Order, Removal
from xaibench.evaluation.perturbation.units import units
from xaibench.forward import Forward


@dataclass(frozen=True, kw_only=True)
class Curve(Outputs):
    """Outputs [P, T + 1] along a removal: before the first and after each of T steps.

    Attributes:
        removed: [P, T + 1] fraction of the image's pixels (or scalars) that are gone
        valid: bool [P, T + 1]; False beyond the last unit of a pair with fewer units than others
    """

    removed: Tensor
    valid: Tensor

    def auc(self, values: Tensor) -> Tensor:
        """Area [P]: trapezoid over the T + 1 points divided by T (RISE), so that a constant curve c has c."""
        values = torch.where(self.valid, values, 0)
        steps = self.valid.sum(1) - 1
        last = values.gather(1, steps[:, None])[:, 0]
        return (values.sum(1) - values[:, 0] / 2 - last / 2) / steps

    def drop(self, output: Output) -> Tensor:
        """Drops [P, T + 1]: f(x) - f(x_k)."""
        values = self.of(output)
        return values[:, :1] - values


def curve(forward: Forward, pairs: Pairs, relevance: Tensor, order: Order, removal: Removal) -> Curve:
    """Outputs while units are removed: most relevant first (morf), least relevant (lerf) or at random.

    Args:
        relevance: [P, H, W]; the curve of a pair with a NaN is NaN
    """
    partition = units(forward.images, pairs, removal.unit, removal.grid)
    values = relevance[:, None]
    if order == "random":
        values = forward.draw_per_pair(pairs, "order", 1, *forward.images.shape[-2:])
    ranks = partition.ranks(values, "lerf" if order == "lerf" else "morf")
    present = (partition.sizes > 0).sum(1)
    counts = removal.counts(present)
    if removal.baseline == "running_mean":
        remove = substitute(forward, pairs, running_mean(forward.images[pairs.image], ranks, counts))
    else:
        remove = remover(forward, pairs, removal)
    defined = ~relevance.isnan().flatten(1).any(1)
    return trace(forward, pairs, ranks, counts, remove, valid=counts <= present[:, None], defined=defined)


def trace(
    forward: Forward,
    pairs: Pairs,
    ranks: Tensor,
    counts: Tensor,
    remove: Remove,
    *,
    valid: Tensor | None = None,
    defined: Tensor | None = None,
) -> Curve:
    """Curve of given ranks [P, c, H, W] and counts [P, T + 1]; one forward per pair and step, none for the first.

    Args:
        valid: bool [P, T + 1], the points that are wanted; None: all
        defined: bool [P], False for pairs whose curve is NaN; None: all are defined
    """
    valid = torch.ones_like(counts, dtype=torch.bool) if valid is None else valid
    pair, step = valid[:, 1:].nonzero(as_tuple=True)
    gone = counts[pair, step + 1].int()[:, None, None, None]
    after = outputs(forward, pairs, pair, lambda rows: remove(pair[rows], ranks[pair[rows]] < gone[rows]))
    before = clean_outputs(forward, pairs)
    logits = before.logits.new_full((*counts.shape, before.logits.shape[1]), torch.nan)
    logits[:, 0] = before.logits
    logits[pair, step + 1] = after.logits
    if defined is not None:
        logits = logits.masked_fill(~defined[:, None, None], torch.nan)
    return Curve(
        classifier=forward.classifier,
        logits=logits,
        label=pairs.label[:, None].expand(counts.shape),
        others=before.others[:, None].expand(logits.shape),
        removed=_share(ranks, counts),
        valid=valid,
    )


def _share(ranks: Tensor, counts: Tensor) -> Tensor:
    """Fraction [P, T + 1] of pixels with rank < count."""
    ordered = ranks.flatten(1).sort(1).values
    return torch.searchsorted(ordered, counts.int().contiguous()) / max(ordered.shape[1], 1)
