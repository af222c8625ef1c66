"""Random numbers that depend on the suite's seed, the sample, the label and a name, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from xaibench.core.pairs import Pairs
from xaibench.core.seeding import stable_seed

Kind = Literal["uniform", "normal"] | int  # a whole number n: int64 from 0 to n - 1


def generator(*parts: object) -> torch.Generator:
    """A generator seeded by text; torch's global one is not touched."""
    return torch.Generator().manual_seed(stable_seed(*parts, size=7))


def pair_generators(seed: int, ids: list[str], pairs: Pairs, name: str) -> Iterator[torch.Generator]:
    """A generator per pair."""
    for image, label in zip(pairs.image.tolist(), pairs.label.tolist(), strict=True):
        yield generator(seed, ids[image], label, name)


def stacked(generators: Iterator[torch.Generator], shape: tuple[int, ...], kind: Kind, dtype: torch.dtype) -> Tensor:
    """Random numbers [n, *shape] of n generators, on the CPU."""
    make: Callable[..., Tensor] = torch.randn if kind == "normal" else torch.rand
    if isinstance(kind, int):
        make, dtype = partial(torch.randint, kind), torch.int64
    drawn = [make(shape, generator=generator, dtype=dtype) for generator in generators]
    return torch.stack(drawn) if drawn else torch.zeros((0, *shape), dtype=dtype)
