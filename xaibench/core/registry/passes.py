"""How many passes a method or metric takes: its formulas with their values filled in."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xaibench.core.errors import UsageError
from xaibench.core.registry.cost import FIELD, METHOD_VARIABLES, Passes
from xaibench.core.registry.entries import BoundMethod, Computation, Method
from xaibench.core.registry.formulas import Formula
from xaibench.core.registry.registry import methods

Case = Mapping[str, float | Callable[[Mapping[str, Any]], float]]  # `VARIABLES`; a function is given the parameters

# one label of an image of 224 x 224; the last layer of a ResNet-50, the blocks of a ViT-B
REFERENCE: Case = {
    "pairs": 1,
    "others": 0,
    "classes": 1000,
    "channels": 2048,
    "linear_head": lambda parameters: float(parameters.get("layer", "last") == "last"),
    "blocks": 12,
    "height": 224,
    "width": 224,
    "cuda": 0,
}


@dataclass(frozen=True)
class Count:
    """Passes per image; NaN where a registration does not say."""

    forwards: float
    backwards: float


def method_passes(method: BoundMethod, case: Case, *, shared: bool) -> Count:
    """Passes of a method on one image.

    Args:
        shared: the image's own pass, which methods share, is counted here
    """
    entry, parameters = method.entry, method.parameters
    wrapped = _wrapped(entry, parameters)
    context = _Context(entry, entry.arguments(parameters), {**case, "shared": int(shared)}, wrapped)
    return Count(sum(context.parts("forwards").values()), sum(context.parts("backwards").values()))


def metric_passes(
    entry: Computation, parameters: Mapping[str, Any], method: BoundMethod, case: Case
) -> dict[tuple[str, str], float]:
    """Passes of a metric on one image, by kind ("forwards" or "backwards") and what they are of.

    Passes under the same name are those of other metrics of the method, too.
    """
    context = _Context(entry, entry.arguments(parameters), {**case, "shared": 0}, method)
    return {(kind, of): n for kind in ("forwards", "backwards") for of, n in context.parts(kind).items()}


def _wrapped(entry: Computation, parameters: Mapping[str, Any]) -> BoundMethod | None:
    """The method that a method of methods wraps."""
    if not any(METHOD_VARIABLES.keys() & passes.names for passes in (entry.forwards, entry.backwards) if passes):
        return None
    base = methods[str(parameters["base"])]
    return BoundMethod(base.name, base, base.bind(dict(parameters.get("options") or {})))


@dataclass(frozen=True)
class _Context:
    """Where the values of an entry's formulas come from."""

    entry: Computation
    parameters: Mapping[str, Any]
    case: Case
    method: BoundMethod | None

    def parts(self, kind: str) -> dict[str, float]:
        """Passes of one kind by what they are of."""
        found: Passes | None = getattr(self.entry, kind)
        if found is None:
            return {"": math.nan}
        total: dict[str, float] = {}
        for name, formula in found.parts.items():
            of = FIELD.sub(lambda field: str(self._evaluate(found.fields[field[1]])), name)
            total[of] = total.get(of, 0) + float(self._evaluate(formula))
        return total

    def _evaluate(self, formula: Formula) -> Any:
        try:
            return formula({name: self._value(name) for name in formula.names})
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"{self.entry.name}: its cost {formula.text!r} has no value ({error})") from error

    def _value(self, name: str) -> Any:
        if name in self.parameters:
            return self.parameters[name]
        if name in METHOD_VARIABLES:
            return self._method_value(name)
        value = self.case[name]
        return value(self.parameters) if callable(value) else value

    def _method_value(self, name: str) -> float:
        assert self.method is not None
        of, _, kind = name.partition("_")
        case = {**self.case, "pairs": 1} if of == "pair" else self.case
        count = method_passes(self.method, case, shared=of != "again")
        return count.forwards if kind == "forwards" else count.backwards


def at_defaults(entry: Computation) -> Count | None:
    """Passes with default parameters in the case of `REFERENCE`, where grad_cam is what explains again.

    None where a parameter has no default.
    """
    if any(parameter.default is inspect.Parameter.empty for parameter in entry.parameters.values()):
        return None
    defaults = entry.bind({})
    if isinstance(entry, Method):
        return method_passes(BoundMethod(entry.name, entry, defaults), REFERENCE, shared=True)
    usual = methods["grad_cam"]
    found = metric_passes(entry, defaults, BoundMethod(usual.name, usual, usual.bind({})), REFERENCE)
    totals = {kind: sum(n for (own, _), n in found.items() if own == kind) for kind in ("forwards", "backwards")}
    return Count(**totals)
