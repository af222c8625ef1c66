"""`Plan`: what a forward pass must keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from xaibench.models.classifier import Classifier


@dataclass(frozen=True)
class Plan:
    """What a forward pass must keep: activations of `features`, and gradients with respect to `gradients`.

    Layers are dotted names, or "input". The pass carries a graph from the first gradient layer on, and none before.
    """

    features: frozenset[str] = frozenset()
    gradients: frozenset[str] = frozenset()

    def __or__(self, other: Plan) -> Plan:
        return Plan(self.features | other.features, self.gradients | other.gradients)

    def __le__(self, other: Plan) -> bool:
        return self.features <= other.features | other.gradients and self.gradients <= other.gradients

    @staticmethod
    def of(classifier: Classifier, needs: Iterable[str], parameters: dict[str, Any]) -> Plan:
        """The plan of one method, from what it declares and its `layer` parameter."""
        features: set[str] = set()
        gradients: set[str] = set()
        layer = classifier.layer_name(str(parameters.get("layer", "last")))
        for need in needs:
            if need in ("features", "linear_head"):
                features.add(layer)
            elif need == "gradients":
                gradients.add(layer)
            elif need == "input_gradients":
                gradients.add("input")
            elif need == "attention":
                features.update(classifier.attention.layers)
            elif need == "attention_gradients":
                gradients.update(classifier.attention.layers[max(int(parameters.get("start_layer", 0)), 0) :])
            elif need == "transformer_blocks":
                features.update(classifier.blocks)
        return Plan(frozenset(features), frozenset(gradients))
