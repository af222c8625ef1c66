"""Parameters of what is registered: the keyword-only arguments of a function, checked against their annotations."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from typing import Any

from xaibench.core.errors import UsageError, closest
from xaibench.core.registry.mappings import MappingParameter, flow, keys_of
from xaibench.core.yaml.reasons import reasons, shown

Where = tuple[str, ...]  # a parameter; or a parameter that is a mapping, and a key of it


@dataclass(frozen=True)
class Parametrised:
    """A callable with parameters.

    Attributes:
        renamed: parameters by their old names, which are accepted for one release
    """

    name: str
    function: Callable[..., Any]
    renamed: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Keyword-only arguments of the function, and what the registration adds to them."""
        signature = inspect.signature(self.function)
        own = {n: p for n, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return own | {p.name: p for p in self._added()}

    def _added(self) -> Sequence[inspect.Parameter]:
        """Parameters that the registration adds to those of the function."""
        return ()

    @cached_property
    def annotations(self) -> Mapping[str, Any]:
        """Types of the parameters with their bounds."""
        return self._hints(include_extras=True)

    @cached_property
    def types(self) -> Mapping[str, Any]:
        """Types of the parameters alone."""
        return self._hints(include_extras=False)

    def _hints(self, include_extras: bool) -> Mapping[str, Any]:
        target = self.function.__init__ if inspect.isclass(self.function) else self.function  # type: ignore[misc]
        added = {p.name: p.annotation for p in self._added()}
        return typing.get_type_hints(target, include_extras=include_extras) | added

    @cached_property
    def mappings(self) -> Mapping[str, MappingParameter]:
        """Parameters that a suite gives as mappings."""
        found = {}
        for name, parameter in self.parameters.items():
            # annotations only where they are needed: those of a script's function may name what is not there
            if is_dataclass(parameter.default) and (annotated := keys_of(self.annotations[name])) is not None:
                kind, keys = annotated
                found[name] = MappingParameter(name, parameter.default, keys.types(kind))
        return found

    @cached_property
    def _adapters(self) -> dict[Where, Any]:
        return {}

    def _adapter(self, at: Where) -> Any:
        """What checks the value of a parameter, or of a key: its type and its bounds; infinity and NaN are no numbers."""
        import pydantic

        if at not in self._adapters:
            annotation = self.annotations[at[0]] if len(at) == 1 else self.mappings[at[0]].types[at[1]]
            try:
                config = pydantic.ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
                self._adapters[at] = pydantic.TypeAdapter(annotation, config=config)
            except pydantic.PydanticUserError:  # a model or a dataclass has a configuration of its own
                self._adapters[at] = pydantic.TypeAdapter(annotation)
        return self._adapters[at]

    def problems(self, given: Mapping[str, Any]) -> dict[Where, str]:
        """What is wrong with these parameters, by where it stands; {} when all is well."""
        found: dict[Where, str] = {}
        for key in given:
            found |= self._problems_of(key, given)
        new = self.with_new_names(given)
        if not found:
            found = self._contradictions(given, new)
        missing = [n for n, p in self.parameters.items() if p.default is inspect.Parameter.empty and n not in new]
        return found | {(name,): f"{self.name} needs the parameter {name!r}" for name in missing}

    def _problems_of(self, key: str, given: Mapping[str, Any]) -> dict[Where, str]:
        """What is wrong with one of the parameters."""
        value, name = given[key], self.renamed.get(key, key)
        if name != key and name in given:
            message = f"parameter {key!r} is the old name of {name!r}, which is given too; remove it"
            return {(key,): f"{self.name}: {message}"}
        if name in self.mappings:
            return self._problems_inside(self.mappings[name], value)
        if name in self.parameters:
            return self._refused((key,), (name,), value)
        if (mapping := self._holder(name)) is not None:
            inside = given.get(mapping.name)
            if isinstance(inside, Mapping) and name in inside:
                message = f"{name!r} stands in {mapping.name} and, in the old spelling, beside it; remove the latter"
                return {(key,): f"{self.name}: {message}"}
            return self._refused((key,), (mapping.name, name), value)
        return {(key,): f"{self.name} has no parameter {key!r}{self._hint(key)}"}

    def _hint(self, key: str) -> str:
        """What may be meant by a parameter that there is not."""
        for mapping in self.mappings.values():
            if not closest(key, self.parameters) and (inside := closest(key, mapping.types)):
                return f"{inside} (a key of {mapping.name})"
        return closest(key, self.parameters) or f"; its parameters: {', '.join(self.parameters) or 'none'}"

    def _problems_inside(self, mapping: MappingParameter, value: Any) -> dict[Where, str]:
        """What is wrong with a parameter that is a mapping."""
        if not isinstance(value, Mapping):
            needed = f"a mapping is needed, with keys of: {', '.join(mapping.types)}"
            return {(mapping.name,): f"{self.name}: parameter {mapping.name!r} = {shown(value)}: {needed}"}
        found: dict[Where, str] = {}
        for key, inner in value.items():
            at = (mapping.name, key)
            if key in mapping.types:
                found |= self._refused(at, at, inner)
            else:
                found[at] = f"{self.name}: {mapping.unknown(key)}"
        return found

    def _refused(self, at: Where, meant: Where, value: Any) -> dict[Where, str]:
        """The problem, if there is one, with the value of what is `meant`, which stands at `at`."""
        import pydantic

        try:
            self._adapter(meant).validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            why = reasons(error.errors(include_url=False))
            return {at: f"{self.name}: parameter {'.'.join(at)!r} = {shown(value)}: {why}"}
        return {}

    def _contradictions(self, given: Mapping[str, Any], new: Mapping[str, Any]) -> dict[Where, str]:
        """Mappings whose values do not go together."""
        found: dict[Where, str] = {}
        for name in self.mappings.keys() & new.keys():
            try:
                self.mappings[name].build(new[name])
            except UsageError as error:
                key = (error.key,) * bool(error.key)
                found[key if error.key in given else (name, *key)] = f"{self.name}: {error.message}"
        return found

    def knows(self, at: Where) -> bool:
        """Whether there is a parameter, or a key of one, that is called so; by an old name, too."""
        name = self.renamed.get(at[0], at[0])
        if len(at) == 1:
            return name in self.parameters or self._holder(name) is not None
        return name in self.mappings and at[1] in self.mappings[name].types

    def _holder(self, name: str) -> MappingParameter | None:
        """The mapping that has this key. Until the next release its keys may stand beside it, as parameters."""
        if name in self.parameters:
            return None
        return next((mapping for mapping in self.mappings.values() if name in mapping.types), None)

    def with_new_names(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters with old names and spellings replaced by new ones."""
        new = {self.renamed.get(key, key): value for key, value in given.items()}
        for key in list(new):
            if (mapping := self._holder(key)) is not None:
                inside = new.get(mapping.name, {})
                value = new.pop(key)
                new[mapping.name] = {**inside, key: value} if isinstance(inside, Mapping) else inside
        return new

    def old_names(self, given: Mapping[str, Any], entry: str = "") -> list[str]:
        """A message for each parameter that is given by its old name, and for each mapping by its old spelling.

        Args:
            entry: what the suite calls it, where that is not its own name
        """
        new, entry = self.with_new_names(given), entry or self.name
        renamed = [
            f"{entry}: parameter {name!r} is now called {self.renamed[name]!r}; write the new name, "
            "the next release refuses the old one"
            for name in given
            if name in self.renamed
        ]
        mappings = {mapping.name for key in given if (mapping := self._holder(key)) is not None}
        return renamed + [
            f"{entry}: write {name}: {flow(new[name])}; the old spelling goes with the next release"
            for name in sorted(mappings)
        ]

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters, defaults filled in, in plain values. Raises UsageError naming every problem."""
        if problems := self.problems(given):
            raise UsageError("; ".join(problems.values()))
        new = self.with_new_names(given)
        bound = {n: new.get(n, p.default) for n, p in self.parameters.items()}
        return bound | {name: mapping.complete(new.get(name, {})) for name, mapping in self.mappings.items()}

    def arguments(self, bound: Mapping[str, Any]) -> dict[str, Any]:
        """Bound parameters as the function takes them: mappings as objects."""
        return {n: self.mappings[n].build(value) if n in self.mappings else value for n, value in bound.items()}
