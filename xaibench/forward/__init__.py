"""`Forward`: one forward pass of a batch, memoised, that all methods of a suite share."""

from xaibench.core.pairs import Pairs
from xaibench.forward.forward import Forward, Hook
from xaibench.forward.plan import Plan

__all__ = ["Forward", "Hook", "Pairs", "Plan"]
