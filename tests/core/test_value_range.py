"""Min-max of rows, and ranks of rows with ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from xaibench.core.rank_statistics import ranks
from xaibench.core.value_range import min_max, span

MAPS = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[4.0, 4.0], [4.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])


def test_min_max() -> None:
    found = min_max(MAPS, (1, 2))
    assert found[0].tolist() == [[0.0, 0.5], [0.25, 1.0]]
    assert not found[1:].any()
    assert min_max(MAPS, (1, 2), constant=torch.nan).isnan().flatten(1).all(1).tolist() == [False, True, True]
    assert min_max(torch.full((1, 2, 2), torch.nan), (1, 2)).isnan().all()
    assert span(MAPS, (1, 2)).flatten().tolist() == [4, 0, 0]


def test_a_range_within_the_tolerance_is_none() -> None:
    rows = torch.tensor([[1.0, 1.0 + 1e-13], [0.0, 1e-13]], dtype=torch.float64)
    assert min_max(rows, 1, tolerance=1e-12).tolist() == [[0, 0], [0, 1]]
    assert min_max(rows, 1).tolist() == [[0, 1], [0, 1]]


def test_epsilon_is_added_to_the_range() -> None:
    found = min_max(torch.tensor([[[[-1.0, 3.0]], [[1.0, 0.0]]]]), (1, 2, 3), epsilon=4.0)
    assert found.flatten().tolist() == [0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_with_ties(dtype: torch.dtype) -> None:
    values = torch.tensor([[3.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0], [float("nan"), 1.0, 2.0, 3.0]], dtype=dtype)
    found = ranks(values)
    np.testing.assert_array_equal(found[:2], [stats.rankdata(row) for row in values[:2]])
    assert found[2].isnan().all()


def test_the_memory_layout_stays() -> None:
    """Sums over another layout round otherwise."""
    images = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert min_max(images, (1, 2, 3)).stride() == images.stride()
