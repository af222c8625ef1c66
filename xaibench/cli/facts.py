"""What cards say about the cost of a method or metric, and what is known about it."""

from __future__ import annotations

from typing import Any

from xaibench.core.registry import Computation
from xaibench.core.registry.cost import KNOWN
from xaibench.core.registry.passes import at_defaults

DEFAULTS = (
    "default parameters, one label, an image of 224 x 224 pixels, a layer of 2048 channels, 12 blocks; a metric that "
    "explains again does so by grad_cam"
)


def cost_row(entry: Computation) -> dict[str, Any]:
    """The cost in words, and its formulas; None where the registration has none."""
    found = {"forwards": entry.forwards, "backwards": entry.backwards}
    return {"cost": entry.cost, **{kind: None if passes is None else passes.text for kind, passes in found.items()}}


def fact_rows(entry: Computation) -> dict[str, Any]:
    """Cost with its value at default parameters, the variables of its formulas, and what is known about the entry."""
    rows, values = cost_row(entry), at_default_parameters(entry)
    for kind, number in values.items():
        rows[kind] = {"formula": rows[kind], "at defaults": number}
    names = {name for passes in (entry.forwards, entry.backwards) if passes for name in passes.names}
    return {
        **rows,
        "at defaults": DEFAULTS if values else "",
        "variables": {name: meaning for name, meaning in KNOWN.items() if name in names},
        "rankings change with": list(entry.rankings_change_with),
        "criticism": entry.criticism,
        "elsewhere": entry.elsewhere,
    }


def at_default_parameters(entry: Computation) -> dict[str, float]:
    """Forwards and backwards at default parameters; {} where the registration does not say."""
    count = at_defaults(entry)
    if count is None or entry.forwards is None or entry.backwards is None:
        return {}
    return {"forwards": _plain(count.forwards), "backwards": _plain(count.backwards)}


def paragraphs(entry: Computation) -> list[str]:
    """The same as text for the documentation: cost, criticism, other libraries."""
    cost = f"Cost: {entry.cost}."
    if values := at_default_parameters(entry):
        cost += f" At defaults: forwards {values['forwards']:,}, backwards {values['backwards']:,}."
    known = [
        f"Rankings change with {_listed(entry)}." if entry.rankings_change_with else "",
        f"Criticism: {entry.criticism}" if entry.criticism else "",
    ]
    elsewhere = f"Elsewhere: {entry.elsewhere}" if entry.elsewhere else ""
    return [text for text in (cost, " ".join(filter(None, known)), elsewhere) if text]


def _listed(entry: Computation) -> str:
    """What rankings change with, parameters marked as code."""
    return ", ".join(f"`{name}`" if name in entry.parameters else name for name in entry.rankings_change_with)


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number
