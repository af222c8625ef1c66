"""Read the sections of a suite's file. Malformed entries are skipped, so that one mistake hides no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xaibench.core.yaml.values import Location


@dataclass(frozen=True)
class Entry:
    """An entry with a name.

    Attributes:
        at: its location in the file
        label: the key `as`, or else the name
        given: all other keys
    """

    at: Location
    name: str
    label: str
    given: Mapping[str, Any]


def listed(value: Any) -> list[Any]:
    """The entries of a section. A single entry needs no list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def spelled_out(entry: Any) -> Any:
    """An entry as a mapping: a bare name stands for `{name: ...}`."""
    return {"name": entry} if isinstance(entry, str) else entry


def options_of(entry: Mapping[Any, Any]) -> dict[str, Any]:
    """All keys but the name. Keys that are not text are left out; the schema reports them."""
    return {key: value for key, value in entry.items() if isinstance(key, str) and key != "name"}


def entries(data: Mapping[str, Any], section: str) -> Iterator[Entry]:
    """The entries of a section that have a name."""
    for index, value in enumerate(map(spelled_out, listed(data.get(section)))):
        if isinstance(value, Mapping) and isinstance(name := value.get("name"), str):
            label = value.get("as")
            given = {key: content for key, content in options_of(value).items() if key != "as"}
            yield Entry((section, index), name, label if isinstance(label, str) else name, given)


def texts(data: Any, *keys: str) -> Iterator[tuple[Location, str]]:
    """The texts in the list below these keys, with their locations."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    for index, value in enumerate(listed(data)):
        if isinstance(value, str):
            yield (*keys, index), value
