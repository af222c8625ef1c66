"""Seeds of random draws."""

from __future__ import annotations

import hashlib
from typing import Any


def stable_seed(*parts: Any, size: int = 6) -> int:
    """A seed of `size` bytes from text, the same in every process."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:size], "big")
