"""How concentrated is the relevance? Says nothing about truth: a single wrong pixel is perfectly sparse."""

from __future__ import annotations

import torch
from torch import Tensor

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
