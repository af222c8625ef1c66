"""`Explainer`: a method with its parameters, planned and checked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xaibench.core.errors import UsageError
from xaibench.core.pairs import Pairs
from xaibench.core.registry import BoundMethod
from xaibench.forward.forward import Forward
from xaibench.forward.plan import Plan
from xaibench.models.classifier import Classifier


@dataclass(frozen=True)
class Explainer:
    """A method that explains pairs of any forward pass."""

    method: BoundMethod

    @property
    def label(self) -> str:
        return self.method.label

    def plan(self, classifier: Classifier) -> Plan:
        """What a forward pass of this model must keep for the method."""
        return Plan.of(classifier, self.method.entry.needs, dict(self.method.parameters))

    def __call__(self, forward: Forward, pairs: Pairs) -> Tensor:
        """Raw maps [P, h, w].

        Raises:
            UsageError: the method returned something else
        """
        forward.expect(self.plan(forward.classifier))
        maps = self.method.entry.function(forward, pairs, **self.method.arguments)
        if not isinstance(maps, Tensor) or maps.ndim != 3 or len(maps) != len(pairs):
            found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise UsageError(f"method {self.label} returned {found}; [P, h, w] with P = {len(pairs)} is needed")
        return maps
