"""The cost of a method or metric in passes of the model, as formulas of its registration.

The unit of `forwards` is one pass of one image from the model's input, or from a layer whose activation was replaced,
to the logits; that of `backwards` is one pass of one image from logits to the layer that is read. A pass through
a part of the model counts as a whole one. What single blocks compute outside of a pass does not count, nor what a batch
computes once whatever its size. Formulas are per image; they name parameters of the registration and these variables:
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from xaibench.core.errors import closest
from xaibench.core.registry.formulas import Formula, formula

VARIABLES = {
    "shared": "1 where an image is explained by itself; 0 in a suite, whose methods share one pass of each image (and "
    "its gradients), which is counted once for all of them",
    "pairs": "explained labels of the image",
    "others": "labels that the model detects in the image and that are not explained",
    "classes": "labels of the model",
    "channels": "of the layer that the method reads (its parameter `layer`)",
    "linear_head": "1 where the logits are linear in the mean of that layer, else 0",
    "blocks": "transformer blocks of the model",
    "height": "of the image, in pixels",
    "width": "of the image, in pixels",
    "cuda": "1 on a CUDA device, else 0",
}
METHOD_VARIABLES = {
    "method_forwards": "forwards of the method that is wrapped or explains again, for all pairs of one image",
    "method_backwards": "its backwards",
    "pair_forwards": "forwards of that method for one pair of one image",
    "pair_backwards": "its backwards",
    "again_forwards": "forwards of that method on an image whose shared pass is there",
}
KNOWN = VARIABLES | METHOD_VARIABLES

Number = float | str | Callable[..., float]  # a number or formula, see `xaibench.core.registry.formulas`
Shared = Mapping[str, Number]  # by what the passes are of, which metrics of a suite share
Cost = Number | Shared
FIELD = re.compile(r"\{(.*?)\}")


@dataclass(frozen=True)
class Passes:
    """Forwards, or backwards, of a registration.

    Attributes:
        parts: formulas by what the passes are of. Metrics of a suite that name the same run them once; "" names nothing
        fields: formulas in the names of parts, by their texts
    """

    parts: Mapping[str, Formula]
    fields: Mapping[str, Formula]

    @property
    def text(self) -> str:
        """The formula of all parts together."""
        counted = Counter(part.text for part in self.parts.values())
        texts = [text if count == 1 else f"{count} * {text}" for text, count in counted.items()]
        return " + ".join(texts)

    @property
    def names(self) -> frozenset[str]:
        """What the formulas need: parameters and variables."""
        return frozenset().union(*(part.names for part in (*self.parts.values(), *self.fields.values())))


def passes(cost: Cost) -> Passes:
    """Read what a decorator was given.

    Args:
        cost: a formula; or several by what their passes are of, in which `{...}` stands for the value of a formula

    Raises:
        ValueError: a formula that is none
    """
    parts = cost if isinstance(cost, Mapping) else {"": cost}
    fields = {text: formula(text) for name in parts for text in FIELD.findall(name)}
    return Passes({name: formula(part) for name, part in parts.items()}, fields)


def check(found: Passes, parameters: Collection[str]) -> None:
    """Raise ValueError for a name that is neither a parameter nor a variable, or both."""
    for name in sorted(found.names):
        if name not in parameters and name not in KNOWN:
            known = f"its parameters ({', '.join(parameters) or 'none'}) and {', '.join(KNOWN)}"
            raise ValueError(f"unknown name {name!r}{closest(name, [*parameters, *KNOWN])}; allowed: {known}")
        if name in parameters and name in KNOWN:
            raise ValueError(f"{name!r} is a parameter and a variable; rename the parameter")
