"""Rank statistics of rows [P, n], each row on its own. Ties share their ranks, so no result depends on pixel order."""

from __future__ import annotations

import torch
from torch import Tensor

from xaibench.core.value_range import min_max

CONSTANT = 1e-12  # of the largest value: a float64 row with a smaller range varies by rounding only


def comparable(values: Tensor) -> Tensor:
    """float32 [P, n]: values as rankings compare them: rounding does not order ties.

    float32 values are compared as they are. float64 values are compared by their position in the range of their row,
    whatever their scale. A row with a NaN is NaN.
    """
    if values.dtype == torch.float32:
        return values
    return min_max(values, 1, tolerance=CONSTANT).float()


def tied(values: Tensor) -> Tensor:
    """[P]: the fraction of values [P, n] that another value of the same row equals, as rankings compare them."""
    ordered = comparable(values).sort(1).values
    same = ordered[:, 1:] == ordered[:, :-1]
    edge = torch.zeros_like(same[:, :1])
    return (torch.cat([same, edge], 1) | torch.cat([edge, same], 1)).to(values.dtype).mean(1)


def below(values: Tensor, right: bool = False) -> Tensor:
    """[P, n]: how many values of the row are smaller (right: smaller or equal)."""
    return torch.searchsorted(values.sort(1).values, values.contiguous(), right=right)


def ranks(values: Tensor) -> Tensor:
    """[P, n] float64: rank of each value in its row, 1 the smallest, equal values the mean of their ranks.

    A row with a NaN is NaN.
    """
    found = (below(values) + below(values, right=True) + 1).double() / 2
    return found.masked_fill(values.isnan().any(1, keepdim=True), torch.nan)


def roc_auc(scores: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """[P] float64: probability that a positive outscores a negative, ties one half (Mann-Whitney).

    Args:
        scores: [P, n], finite
        positive: bool [P, n]
        counted: bool [P, n], what takes part; NaN where it holds no positive or no negative
    """
    positive = positive & counted
    rank = ranks(scores.masked_fill(~counted, -torch.inf))
    hits, n = positive.sum(1).double(), counted.sum(1).double()
    ignored = scores.shape[1] - n  # they hold the lowest ranks
    wins = (rank * positive).sum(1) - hits * ignored - hits * (hits + 1) / 2
    return wins / (hits * (n - hits))


def average_precision(scores: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """[P] float64: mean over the positives of the precision at their score, equal scores taken together.

    This is sum_n (R_n - R_(n-1)) P_n over distinct thresholds, without interpolation. Arguments as in `roc_auc`; NaN
    where there is no positive.
    """
    positive = positive & counted
    scores = scores.masked_fill(~counted, -torch.inf)
    ascending, order = scores.sort(1)
    lower = torch.searchsorted(ascending, scores.contiguous())
    found = positive.gather(1, order).cumsum(1)
    found_below = torch.cat([torch.zeros_like(found[:, :1]), found], 1).gather(1, lower)
    hits = positive.sum(1, keepdim=True)
    precision = (hits - found_below).double() / (scores.shape[1] - lower)
    return (precision * positive).sum(1) / hits[:, 0]


def expected_hits(scores: Tensor, positive: Tensor, counted: Tensor, k: Tensor) -> Tensor:
    """[P] float64: how many of the k [P] best are positive; of equal scores at the cut, their expected number.

    Arguments as in `roc_auc`. NaN where fewer than k take part, or k is 0.
    """
    positive = positive & counted
    scores = scores.masked_fill(~counted, -torch.inf)
    last = (k - 1).clamp(0, scores.shape[1] - 1)[:, None]
    cut = scores.sort(1, descending=True).values.gather(1, last)
    above, at = (scores > cut) & counted, (scores == cut) & counted
    share = (at & positive).sum(1).double() / at.sum(1)
    hits = (above & positive).sum(1) + (k - above.sum(1)) * share
    return hits.where((k > 0) & (k <= counted.sum(1)), torch.nan)


def pearson(a: Tensor, b: Tensor, tolerance: float = 0.0) -> Tensor:
    """[P] float64: correlation of rows; NaN where one of them is constant.

    Args:
        tolerance: a row whose range is at most this fraction of its largest magnitude counts as constant
    """
    constant = _is_constant(a, tolerance) | _is_constant(b, tolerance)
    a, b = (v.double() - v.double().mean(1, keepdim=True) for v in (a, b))
    correlation: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return correlation.where(~constant, torch.nan)


def spearman(a: Tensor, b: Tensor, tolerance: float = 0.0) -> Tensor:
    """[P] float64: Pearson correlation of ranks; NaN where a row is constant or has a NaN. `tolerance` as in `pearson`."""
    undefined = _is_constant(a, tolerance) | _is_constant(b, tolerance) | (a.isnan() | b.isnan()).any(1)
    return pearson(ranks(a), ranks(b)).masked_fill(undefined, torch.nan)


def _is_constant(values: Tensor, tolerance: float) -> Tensor:
    return values.amax(1) - values.amin(1) <= tolerance * values.abs().amax(1)
