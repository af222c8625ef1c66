"""Functions of a module alone: batch normalisation as scale and shift."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaibench.models.structure import batch_norm_affine


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_a_scale_and_a_shift(affine: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(5, affine=affine).eval().double()
    for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.data.copy_(torch.rand(5, generator=generator) + 0.1)
    x = torch.randn(2, 5, 3, 3, generator=generator, dtype=torch.float64)
    for bias in (0.0, torch.randn(5, generator=generator, dtype=torch.float64)):
        scale, shift = (part[:, None, None] for part in batch_norm_affine(norm, bias))
        moved = x + torch.as_tensor(bias).expand(5)[:, None, None]
        torch.testing.assert_close(x * scale + shift, norm(moved).detach())
    assert not scale.requires_grad
    assert not shift.requires_grad
