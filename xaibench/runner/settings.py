"""How a run is carried out, and what it reports while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from xaibench.models.model_cache import ModelCache


@dataclass(frozen=True)
class Settings:
    """How a run is carried out; nothing here changes a number beyond rounding.

    Attributes:
        workers: processes that read samples; None: as many as help
        cache: models, shared by all runs with these settings
    """

    data_root: Path | None = None
    suite_folder: Path = Path()
    device: str = "cpu"
    batch_size: int = 16
    workers: int | None = None
    limit: int | None = None
    fail_fast: bool = False
    cache: ModelCache = field(default_factory=ModelCache, compare=False)


@dataclass
class Progress:
    """Functions that a run calls: a model starts with so many images to do, images are done, there is something to say."""

    start: Callable[[str, int], None] = lambda model, images: None
    images: Callable[[int], None] = lambda count: None
    note: Callable[[str], None] = lambda message: None
