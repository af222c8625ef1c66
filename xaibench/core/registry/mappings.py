"""Parameters that a suite gives as a mapping, and a function takes as an object of a frozen dataclass.

`removal: Annotated[Removal, Keys("baseline", "steps")] = Removal("min")` takes `removal: {baseline: blur}` in a suite.
Keys that are left out have the values of the parameter's default.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xaibench.core.errors import closest


class Keys:
    """Annotation of a parameter: the fields of its dataclass that a suite may set, with their types and bounds.

    Args:
        names: fields of the type that the dataclass gives them
        narrowed: fields of another type, such as `steps=AtLeastTwo`
    """

    def __init__(self, *names: str, **narrowed: Any) -> None:
        self.names, self.narrowed = names, narrowed

    def types(self, kind: type) -> dict[str, Any]:
        """Types of the keys, in the order of the dataclass's fields."""
        hints = typing.get_type_hints(kind, include_extras=True)
        chosen = {name: hints[name] for name in self.names} | self.narrowed
        return {name: chosen.pop(name) for name in hints if name in chosen}


@dataclass(frozen=True)
class MappingParameter:
    """A parameter that is a mapping.

    Attributes:
        default: an object of the dataclass: the values of keys that are left out
        types: of the keys, with their bounds
    """

    name: str
    default: Any
    types: Mapping[str, Any]

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All keys, in plain values."""
        return {key: given.get(key, getattr(self.default, key)) for key in self.types}

    def build(self, values: Mapping[str, Any]) -> Any:
        """The object that the function takes. Raises UsageError for values that do not go together."""
        return dataclasses.replace(self.default, **values)

    def unknown(self, key: Any) -> str:
        """The message for a key that the mapping does not take."""
        return f"{self.name} has no key {key!r}{closest(str(key), self.types)}; allowed: {', '.join(self.types)}"


def keys_of(annotation: Any) -> tuple[type, Keys] | None:
    """The dataclass of a parameter and its keys; None for a parameter that is no mapping."""
    kind, *metadata = typing.get_args(annotation) or (None,)
    return next(((kind, keys) for keys in metadata if isinstance(keys, Keys)), None)


def flow(values: Mapping[str, Any]) -> str:
    """A mapping as a suite would hold it in one line: `{baseline: blur, steps: 16}`."""
    import yaml

    return yaml.safe_dump(dict(values), default_flow_style=True, sort_keys=False, width=float("inf")).strip()
