"""Few steps and samples for any metric or method, wherever it takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xaibench.core.registry import Entry


def taken(entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are parameters of the entry, or keys of its parameters that are mappings."""
    inside = {
        name: {key: values[key] for key in mapping.types if key in values} for name, mapping in entry.mappings.items()
    }
    own = {name: value for name, value in values.items() if name in entry.parameters}
    return own | {name: keys for name, keys in inside.items() if keys}
