"""How concentrated is the relevance? Says nothing about truth: a single wrong pixel is perfectly sparse."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from xaibench import ranking
from xaibench.errors import UsageError
from xaibench.evaluation import Evaluation
from xaibench.registry import metric


@metric(better="higher", range=(0, 1), group="complexity", source="chalasani2020, sec. 5", cost="none", minimum_effect=0.005)
def sparseness(evaluation: Evaluation) -> Tensor:
    """Gini index of |a| over the pixels of the image: sum_i (2i - n - 1) a_(i) / (n sum a), a_(i) ascending.

    0 for a constant map, towards 1 for a single pixel. Undefined (NaN) for an all-zero map.
    """
    a = evaluation.relevance.abs().flatten(1).sort(1).values
    n = a.shape[1]
    i = torch.arange(1, n + 1, device=a.device, dtype=a.dtype)
    return (2 * i - n - 1) @ a.T / (n * a.sum(1))


@metric(better="lower", range=(0, 1), group="complexity", source="bhatt2020, complexity; divided by its maximum", cost="none", minimum_effect=0.005)  # fmt: skip
def complexity(evaluation: Evaluation) -> Tensor:
    """Entropy of |a| over the n pixels of the image: -sum p ln p / ln n, p = |a| / sum |a|.

    1 for a constant map, 0 for a single pixel. Division by ln n makes resolutions comparable; smoothing still raises it.
    Undefined (NaN) for an all-zero map.
    """
    a = evaluation.relevance.abs().flatten(1).double()
    return torch.special.entr(a / a.sum(1, keepdim=True)).sum(1) / math.log(a.shape[1])


@metric(better="lower", range=(0, 1), group="complexity", source="nguyen2020, effective complexity; as a share of the pixels", cost="none", minimum_effect=0.005)  # fmt: skip
def effective_complexity(
    evaluation: Evaluation, *, threshold: float = 0.05, scale: Literal["maximum", "none"] = "maximum"
) -> Tensor:
    """Share of the pixels with |a| > threshold, in units of the map's largest |a| (maximum) or of the map (none).

    With `none` it depends on the scale of the map, as other libraries' does. Undefined (NaN) for a map with a NaN, and
    with `maximum` for an all-zero map.
    """
    a = evaluation.relevance.abs().flatten(1)
    unit = a.amax(1, keepdim=True) if scale == "maximum" else torch.ones_like(a[:, :1])
    share = (a > threshold * unit).double().mean(1)
    return share.where((unit[:, 0] > 0) & ~a.isnan().any(1), torch.nan)
