"""Formulas of a registration: what they may hold, what is refused, what a decorator says."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from xaibench.core import registry
from xaibench.core.errors import UsageError
from xaibench.core.registry import BoundMethod, Computation
from xaibench.core.registry.cost import KNOWN, passes
from xaibench.core.registry.formulas import formula
from xaibench.core.registry.passes import REFERENCE, at_defaults, method_passes

VALUES: dict[str, Any] = {"n": 5, "none": None, "flag": True, "name": "a", "scales": [1, 2], "r": SimpleNamespace(n=3)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 * n + 1", 11),
        ("-n // 2 % 4", 1),
        ("(n - 1) / 8 ** 2", 1 / 16),
        ("ceil(n / 2) + floor(n / 2) + sqrt(4)", 7),
        ("min(n, 3) + max(1, n) + len(scales)", 10),
        ("none or n", 5),
        ("n or none", 5),
        ("none or 0", 0),
        ("n if name == 'a' else 0", 5),
        ("n * (name != 'a')", 0),
        ("1 + flag", 2),
        ("2 ** 2 ** 100", math.inf),
        ("r.n * 2", 6),
        (7, 7),
    ],
)
def test_values(text: Any, value: float) -> None:
    found = formula(text)
    assert found(VALUES) == value
    assert found.text == str(text)


def test_a_function_is_a_formula_of_its_arguments() -> None:
    def rows(n: int, flag: bool) -> float:
        """rows of n.

        Longer.
        """
        return n + flag

    found = formula(rows)
    assert (found.text, found.names, found(VALUES)) == ("rows of n", {"n", "flag"}, 6)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("__import__('os').remove('x')", "__import__"),
        ("open(n)", "open(n)"),
        ("n.__class__", "n.__class__"),
        ("[n for n in scales]", "[n for n in scales]"),
        ("scales[0]", "scales[0]"),
        ("(lambda: 1)()", "(lambda: 1)()"),
        ("max(scales, key=len)", "max(scales, key=len)"),
        ("n if n else (yield)", "yield"),
        ("1 < n < 3", "1 < n < 3"),
        ("n and none", "n and none"),
        ("b'x'", "b'x'"),
    ],
)
def test_what_is_no_formula(text: str, found: str) -> None:
    with pytest.raises(ValueError, match="may not be in a formula; allowed: numbers, ") as error:
        formula(text)
    assert repr(found) in str(error.value) or found in str(error.value)


def test_a_text_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"'2 \* ' is no formula \(.*\); allowed: numbers"):
        formula("2 * ")


def a_fake(first: Any, second: Any, *, steps: int = 3, classes: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ("2 * step", "unknown name 'step'; did you mean 'steps'"),
        ("2 * whatever", r"unknown name 'whatever'; allowed: its parameters \(steps, classes\) and shared, pairs, "),
        ({"curve {stepz}": 1}, "unknown name 'stepz'; did you mean 'steps'"),
        ("steps * classes", "'classes' is a parameter and a variable; rename the parameter"),
        ("print(steps)", "'print.steps.' may not be in a formula"),
        ("steps *", "'steps .' is no formula"),
    ],
)
@pytest.mark.parametrize("which", ["forwards", "backwards"])
def test_a_registration_names_itself(which: str, cost: Any, message: str) -> None:
    facts: dict[str, Any] = {"source": "test", which: cost}
    with pytest.raises(ValueError, match=f"method a_fake: {which}: .*{message}"):
        registry.method(**facts)(a_fake)
    with pytest.raises(ValueError, match=f"metric a_fake: {which}: .*{message}"):
        registry.metric(better="higher", range=(0, 1), **facts)(a_fake)
    assert "a_fake" not in registry.methods
    assert "a_fake" not in registry.metrics


def test_parts_of_a_cost_add_up() -> None:
    found = passes({"keep": "pairs", "drop": "pairs", "clean": 1})
    assert found.text == "2 * pairs + 1"


def method(**facts: Any) -> BoundMethod:
    """A method that is not registered."""

    def mine(first: Any, second: Any, *, steps: int = 0) -> None: ...

    given = {which: None if cost is None else passes(cost) for which, cost in facts.items()}
    return BoundMethod("mine", registry.Method("mine", mine, "test", 1, **given), {"steps": 0})


def test_a_method_that_does_not_say_is_unknown() -> None:
    count = method_passes(method(forwards=None, backwards=0), REFERENCE, shared=True)
    assert math.isnan(count.forwards)
    assert count.backwards == 0


def test_a_formula_without_a_value() -> None:
    with pytest.raises(UsageError, match="mine: its cost '1 / steps' has no value"):
        method_passes(method(forwards="1 / steps", backwards=0), REFERENCE, shared=True)


ENTRIES: list[Computation] = [kind[name] for kind in (registry.methods, registry.metrics) for name in kind]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_cost_has_a_value_at_defaults(entry: Computation) -> None:
    count = at_defaults(entry)
    assert count is not None
    assert count.forwards >= 0
    assert count.backwards >= 0


def test_every_variable_is_used_or_of_every_model() -> None:
    used = {name for e in ENTRIES for found in (e.forwards, e.backwards) if found for name in found.names}
    assert KNOWN.keys() - used == {"classes"}


@pytest.mark.parametrize(
    ("name", "forwards", "backwards"),
    [("grad_cam", 1, 1), ("rise", 1000, 0), ("integrated_gradients", 20, 20), ("occlusion", 50, 0), ("tta", 8, 8)],
)
def test_costs_at_defaults(name: str, forwards: float, backwards: float) -> None:
    count = at_defaults(registry.methods[name])
    assert count is not None
    assert (count.forwards, count.backwards) == (forwards, backwards)
