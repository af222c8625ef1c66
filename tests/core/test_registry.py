"""The registry: what a parameter may be, and what is said about a name that is something else."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any, get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt

import xaibench
from xaibench.core import registry
from xaibench.core.errors import UsageError
from xaibench.core.registry import Entry
from xaibench.core.registry.bounds import texts

OUTSIDE = {
    Ge: lambda bound: bound.ge - 1,
    Gt: lambda bound: bound.gt,
    Le: lambda bound: bound.le + 1,
    Lt: lambda b: b.lt,
}


def bounds(annotation: Any) -> list[Any]:
    """Every bound inside an annotation."""
    parts = get_args(annotation)
    return [part for part in parts if type(part) in OUTSIDE] + [bound for part in parts for bound in bounds(part)]


ENTRIES = [kind[name] for kind in (registry.methods, registry.metrics) for name in kind]
BOUNDED = [(entry, name) for entry in ENTRIES for name in entry.parameters if bounds(entry.annotations[name])]
KEYS = [(entry, name, key) for entry in ENTRIES for name, mapping in entry.mappings.items() for key in mapping.types]
BOUNDED_KEYS = [(e, n, k) for e, n, k in KEYS if bounds(e.mappings[n].types[k])]


def test_numbers_have_bounds() -> None:
    """Steps, samples and the like: what counts something counts at least one."""
    counted = {"steps", "samples", "grid", "cells", "masks", "passes", "tiles", "rounds", "stride", "layers", "k"}
    missing = [(e.name, n) for e in ENTRIES for n in e.parameters if n in counted and (e, n) not in BOUNDED]
    missing += [(e.name, f"{n}.{k}") for e, n, k in KEYS if k in counted and (e, n, k) not in BOUNDED_KEYS]
    assert missing == []


@pytest.mark.parametrize(("entry", "name", "key"), BOUNDED_KEYS, ids=[f"{e.name}-{n}.{k}" for e, n, k in BOUNDED_KEYS])
def test_a_key_outside_its_bounds_is_refused(entry: Entry, name: str, key: str) -> None:
    mapping = entry.mappings[name]
    for bound in bounds(mapping.types[key]):
        value = OUTSIDE[type(bound)](bound)
        with pytest.raises(UsageError, match=rf"{entry.name}: parameter '{name}\.{key}' = .*(needed|allowed)"):
            entry.bind({name: {key: value}})
    bound_default = entry.bind({name: {key: getattr(mapping.default, key)}})
    assert bound_default == entry.bind({})
    assert entry.arguments(bound_default)[name] == mapping.default


@pytest.mark.parametrize(("entry", "name"), BOUNDED, ids=[f"{entry.name}-{name}" for entry, name in BOUNDED])
def test_a_value_outside_its_bounds_is_refused(entry: Entry, name: str) -> None:
    several = "Sequence" in str(entry.types[name])
    for bound in bounds(entry.annotations[name]):
        value = OUTSIDE[type(bound)](bound)
        with pytest.raises(UsageError, match=f"{entry.name}: parameter {name!r} = .*(needed|allowed)"):
            entry.bind({name: [value] if several else value})
    default = entry.parameters[name].default
    assert entry.bind({name: list(default) if several else default})


@pytest.mark.parametrize("name", list(registry.datasets))
def test_every_option_of_a_data_set_is_documented(name: str) -> None:
    """Every option has a text, also where two data sets share the texts."""
    entry = registry.datasets[name]
    _, _, options = entry.documentation.partition("\nArgs:\n")
    assert re.findall(r"^    (\w+): ", options, re.M) == list(entry.parameters)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_infinity_is_no_number(value: float) -> None:
    with pytest.raises(UsageError, match="a finite number is needed"):
        registry.methods["integrated_gradients"].bind({"baseline": value})


def test_true_is_no_number_and_one_is_not_true() -> None:
    for name, parameters in (("integrated_gradients", {"steps": True}), ("tta", {"flip": 1})):
        with pytest.raises(UsageError, match=r"a whole number is needed|true or false is needed"):
            registry.methods[name].bind(parameters)
    assert registry.methods["integrated_gradients"].bind({"baseline": 1})["baseline"] == 1


def test_bounds_in_words() -> None:
    types = registry.metrics["deletion"].mappings["removal"].types
    assert texts(types["steps"]) == ["at least 1"]
    assert texts(types["blur_kernel"]) == ["at least 1", "odd"]
    assert texts(types["baseline"]) == []


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        (registry.methods, "sparseness", "unknown method 'sparseness': that is a metric"),
        (registry.methods, "seeds", "unknown method 'seeds': that is a group of metrics"),
        (registry.metrics, "cam", "unknown metric 'cam': that is a method"),
        (registry.metrics, "seed_", "unknown metric 'seed_'; did you mean 'seeds'?"),
        (registry.datasets, "cam", "unknown dataset 'cam': that is a method"),
        (registry.methods, "Grad-CAM++", "unknown method 'Grad-CAM++'; did you mean 'grad_cam_pp'?"),
    ],
)
def test_a_name_of_another_kind_is_called_that(kind: registry.Registry[Any], name: str, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        kind[name]
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in registry.RESERVED.items() for name in names]
)
def test_parameters_that_could_not_be_given_are_refused(kind: str, name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def a_fake(first, second, *, {name}=1): ...", scope)
    decorators = {
        "method": registry.method(source="test"),
        "metric": registry.metric(source="test", better="higher", range=(0, 1)),
    }
    with pytest.raises(ValueError, match=f"{kind} a_fake: rename its parameter '{name}'; reserved: "):
        decorators[kind](scope["a_fake"])
    assert "a_fake" not in registry.methods
    assert "a_fake" not in registry.metrics


def test_what_explain_takes_is_reserved() -> None:
    assert set(inspect.signature(xaibench.explain).parameters) <= set(registry.RESERVED["method"])
