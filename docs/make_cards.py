"""Writes docs/methods.md and docs/metrics.md from the registrations: facts are stated once, beside the code."""

from __future__ import annotations

from pathlib import Path

from xaibench import registry
from xaibench.commands import _parameter_words
from xaibench.leaderboard import ARROWS

DOCS = Path(__file__).parent
HEAD = "<!-- made by `make docs` from the docstrings; change those -->\n\n"


def parameters(entry: registry.Entry) -> list[str]:
    return [f"- `{name}`: {_parameter_words(entry, p)}" for name, p in entry.parameters.items()]


def method_card(name: str) -> str:
    entry = registry.methods[name]
    needs = ", ".join(f"`{need}`" for need in entry.needs) or "nothing"
    lines = [f"## {name}", "", entry.documentation, "", *parameters(entry)]
    return "\n".join([*lines, "", f"Needs {needs}. Cost: {entry.cost}. Source: {entry.source}."])


def metric_card(name: str) -> str:
    entry = registry.metrics[name]
    low, high = entry.range
    needs = f" Needs {', '.join(f'`{need}`' for need in entry.needs)}." if entry.needs else ""
    facts = f"{ARROWS[entry.better]} {entry.better} is better, {low:g} to {high:g}. Aggregated by `{entry.aggregate}`."
    scale = "Unchanged when" if "scale" in entry.invariant else "Changes when"
    facts += f" {scale} the maps are multiplied by a positive number."
    lines = [f"## {name}", "", entry.documentation, "", facts + needs, "", *parameters(entry)]
    return "\n".join([*lines, "", f"Cost: {entry.cost}. Source: {entry.source}."])


def pages() -> dict[str, str]:
    needs = "\n".join(f"- `{name}`: {meaning}" for name, meaning in registry.NEEDS.items())
    methods = f"# Methods\n\nWhat a method may need:\n\n{needs}\n\n" + "\n\n".join(map(method_card, registry.methods))
    groups = "\n".join(f"- `{group}`: {', '.join(names)}" for group, names in registry.metric_groups().items())
    metrics = f"# Metrics\n\nGroups:\n\n{groups}\n\n" + "\n\n".join(map(metric_card, registry.metrics))
    return {"methods.md": HEAD + methods + "\n", "metrics.md": HEAD + metrics + "\n"}


if __name__ == "__main__":
    for page, text in pages().items():
        (DOCS / page).write_text(text)
        print(f"{page}: {text.count(chr(10) + '## ')} cards")
