"""Gradients of pairs of one pass: one backward per label rank, each row kept once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from xaibench.core.pairs import Pairs


class Gradients:
    """Gradients of pairs of one pass, each computed once.

    Args:
        logits: [B, L] with their graph
        targets: activations in the order of the pass. A backward pass to one of them also gives
            those after it, at no further cost
    """

    def __init__(self, logits: Tensor, targets: dict[str, Tensor]) -> None:
        self.logits, self.targets = logits, targets
        self.stores = {name: _Rows(logits, target) for name, target in targets.items()}

    def of(self, pairs: Pairs, name: str) -> Tensor:
        """[P, *target shape without the batch]"""
        missing = self.stores[name].missing(pairs)
        if missing.any():
            self._compute(Pairs.where(missing), list(self.targets)[list(self.targets).index(name) :])
        return self.stores[name].get(pairs)

    def _compute(self, pairs: Pairs, names: list[str]) -> None:
        new = {n: self.targets[n].new_empty((len(pairs), *self.targets[n].shape[1:])) for n in names}
        for chosen, gradients in self.each(pairs, names):
            for name, gradient in gradients.items():
                new[name][chosen] = gradient
        for name in names:
            self.stores[name].add(pairs, new[name])

    def each(
        self, pairs: Pairs, names: Sequence[str], coefficients: Tensor | None = None
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Rank by rank: rows of `pairs` [n], gradients [n, ...] of their logits (or of combinations of logits)."""
        for chosen in pairs.ranks():
            images = pairs.image[chosen]
            with torch.enable_grad():
                if coefficients is None:
                    total = self.logits[images, pairs.label[chosen]].sum()
                else:
                    total = (self.logits[images] * coefficients[chosen]).sum()
            gradients = torch.autograd.grad(
                total, [self.targets[n] for n in names], retain_graph=True, materialize_grads=True
            )
            yield chosen, {name: gradient[images] for name, gradient in zip(names, gradients, strict=True)}


class _Rows:
    """A growing table with one row per pair, found by (image, label)."""

    def __init__(self, logits: Tensor, target: Tensor) -> None:
        self.where = torch.full(logits.shape, -1, dtype=torch.long, device=logits.device)  # [B, L] -> row
        self.rows = target.new_empty((0, *target.shape[1:]))

    def missing(self, pairs: Pairs) -> Tensor:
        """bool [B, L]: the pairs without a row."""
        return pairs.matrix(self.where.shape) & (self.where < 0)

    def add(self, pairs: Pairs, rows: Tensor) -> None:
        """Rows of new pairs; those that are there stay."""
        fresh = self.where[pairs.image, pairs.label] < 0
        pairs, rows = (pairs, rows) if bool(fresh.all()) else (pairs[fresh], rows[fresh])
        start = len(self.rows)
        self.where[pairs.image, pairs.label] = torch.arange(start, start + len(pairs), device=self.where.device)
        self.rows = torch.cat([self.rows, rows]) if start else rows

    def get(self, pairs: Pairs) -> Tensor:
        wanted = self.where[pairs.image, pairs.label]
        if len(wanted) == len(self.rows) and torch.equal(wanted, torch.arange(len(wanted), device=wanted.device)):
            return self.rows
        return self.rows[wanted]


def hessian_products(logits: Tensor, activation: Tensor, pairs: Pairs) -> Tensor:
    """H A [P, *activation shape]: the Hessian of each pair's logit with respect to an activation A, times A.

    Args:
        logits: [B, L] with their graph, which holds `activation`
    """
    products = activation.new_zeros((len(pairs), *activation.shape[1:]))
    for rows in pairs.ranks():
        images = pairs.image[rows]
        with torch.enable_grad():
            total = logits[images, pairs.label[rows]].sum()
            (gradient,) = torch.autograd.grad(total, activation, create_graph=True, materialize_grads=True)
            if gradient.requires_grad:  # else the logits are linear in the activation
                along = (gradient * activation.detach()).sum()
                (product,) = torch.autograd.grad(along, activation, retain_graph=True, materialize_grads=True)
                products[rows] = product[images]
    return products
