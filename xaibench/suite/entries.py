"""What stands in the sections of a suite's file, as far as it can be read: a mistake beside a name hides no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xaibench.core.yaml.values import Location


@dataclass(frozen=True)
class Entry:
    """A named entry: where it stands, its name, its label (`as`), and all other keys."""

    at: Location
    name: str
    label: str
    given: Mapping[str, Any]


def listed(value: Any) -> list[Any]:
    """A section's entries; one that stands alone is a list of one."""
    return value if isinstance(value, list) else [] if value is None else [value]


def spelled_out(entry: Any) -> Any:
    """A bare name stands for `{name: ...}`."""
    return {"name": entry} if isinstance(entry, str) else entry


def options_of(entry: Mapping[Any, Any]) -> dict[str, Any]:
    """What stands beside the name; a key that is not text is the schema's to report."""
    return {key: value for key, value in entry.items() if isinstance(key, str) and key != "name"}


def entries(data: Mapping[str, Any], section: str) -> Iterator[Entry]:
    """The entries of a section that have a name."""
    for index, value in enumerate(map(spelled_out, listed(data.get(section)))):
        if isinstance(value, Mapping) and isinstance(name := value.get("name"), str):
            label = value.get("as")
            given = {key: content for key, content in options_of(value).items() if key != "as"}
            yield Entry((section, index), name, label if isinstance(label, str) else name, given)


def texts(data: Any, *keys: str) -> Iterator[tuple[Location, str]]:
    """The texts of a list below these keys, and where they stand."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    for index, value in enumerate(listed(data)):
        if isinstance(value, str):
            yield (*keys, index), value
