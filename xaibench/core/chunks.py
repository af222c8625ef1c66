"""Work in chunks that adapt to memory: the chunk is halved when memory runs out. Results do not depend on its size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def map_chunks(function: Callable[[Tensor], Tensor], rows: Tensor, chunk: int) -> Tensor:
    """Apply `function` to chunks of `rows` along dimension 0; returns the concatenated results.

    Raises:
        torch.OutOfMemoryError: one row alone does not fit
    """
    if len(rows) <= chunk:
        try:
            return function(rows)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            chunk = (len(rows) + 1) // 2
    return torch.cat([map_chunks(function, part, chunk) for part in rows.split(chunk)])
