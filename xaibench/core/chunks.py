"""Work in chunks that adapt to memory: out of memory halves the chunk and goes on; results do not depend on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def map_chunks(function: Callable[[Tensor], Tensor], rows: Tensor, chunk: int) -> Tensor:
    """`function` over chunks of `rows` along dimension 0, results concatenated.

    Raises:
        torch.OutOfMemoryError: when even one row does not fit
    """
    if len(rows) <= chunk:
        try:
            return function(rows)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            chunk = (len(rows) + 1) // 2
    return torch.cat([map_chunks(function, part, chunk) for part in rows.split(chunk)])
