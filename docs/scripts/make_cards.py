"""Write docs/methods.md, docs/metrics.md and docs/datasets.md from the registrations.

    python docs/scripts/make_cards.py        # seconds

Facts are stated once, in the decorators and docstrings beside the code. A test compares the committed pages with what this
script makes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from xaibench.cli.facts import DEFAULTS, paragraphs
from xaibench.cli.list_show import parameter_texts
from xaibench.core import registry
from xaibench.core.registry import cost
from xaibench.core.registry.cost import KNOWN
from xaibench.data import Dataset
from xaibench.results.leaderboard import ARROWS

DOCS = Path(__file__).parents[1]
COSTS_OF_METRICS = "Costs are passes per image: see [methods.md](methods.md#cost)."
HEAD = "<!-- made by `make docs` from the docstrings; change those -->\n\n"


def parameters(entry: registry.Entry) -> list[str]:
    return [f"- `{name}`: {text}" for name, text in parameter_texts(entry).items()]


def method_card(name: str) -> str:
    entry = registry.methods[name]
    needs = ", ".join(f"`{need}`" for need in entry.needs) or "nothing"
    lines = [f"## {name}", "", entry.documentation, "", *parameters(entry)]
    return "\n".join([*lines, "", f"Needs {needs}. Source: {entry.source}.", "", "\n\n".join(paragraphs(entry))])


def metric_card(name: str) -> str:
    entry = registry.metrics[name]
    low, high = entry.range
    needs = f" Needs {', '.join(f'`{need}`' for need in entry.needs)}." if entry.needs else ""
    facts = (
        f"{ARROWS[entry.better]} {entry.better} is better, {low:g} to {high:g}. Aggregated by `{entry.averages[0]}`."
    )
    scale = "Unchanged when" if "scale" in entry.invariant else "Changes when"
    facts += f" {scale} the maps are multiplied by a positive number."
    lines = [f"## {name}", "", entry.documentation, "", facts + needs, "", *parameters(entry)]
    return "\n".join([*lines, "", f"Source: {entry.source}.", "", "\n\n".join(paragraphs(entry))])


def dataset_card(name: str) -> str:
    entry = registry.datasets[name]
    kind: type[Dataset] = entry.function  # type: ignore[assignment]
    official = kind.official()
    splits = ", ".join(f"{split} ({official[split]:,})" if split in official else split for split in entry.splits)
    classes = f"{len(entry.classes):,} classes" if entry.classes else "classes of your own"
    masks = "masks as its options say" if hasattr(kind, "offers_masks") else "masks" if entry.masks else "no masks"
    facts = [f"{classes}, {masks}.", f"Splits (official samples): {splits}."]
    facts += [f"Not part of the official release: {', '.join(kind.extra_splits)}."] * bool(kind.extra_splits)
    facts += [f"{word}: {fact}" for word, fact in (("Address", kind.address), ("Licence", kind.licence)) if fact]
    facts += [f"Archive: `{file}`, MD5 {md5}." for file, md5 in kind.archives.items()]
    lines = [f"### {name}", "", entry.documentation, "", *parameters(entry), "", *(f"* {fact}" for fact in facts)]
    return "\n".join([*lines, "", f"Source: {entry.source}."])


def dataset_sections() -> Iterator[str]:
    """One for each module: what its docstring says, then its data sets."""
    for module, names in groupby(sorted(registry.datasets, key=module_of), key=module_of):
        own = list(names)
        layout = inspect.getdoc(sys.modules[module]) or ""
        yield "\n\n".join([f"## {', '.join(own)}", layout, *map(dataset_card, own)])


def module_of(name: str) -> str:
    return registry.datasets[name].function.__module__


def costs() -> str:
    """How to read the costs of a page."""
    variables = "\n".join(f"- `{name}`: {meaning}" for name, meaning in KNOWN.items())
    return f"""## Cost

{inspect.cleandoc(cost.__doc__ or "")}

{variables}

The value at defaults is that for {DEFAULTS}."""


def pages() -> dict[str, str]:
    needs = "\n".join(f"- `{name}`: {meaning}" for name, meaning in registry.NEEDS.items())
    head = f"# Methods\n\nWhat a method may need:\n\n{needs}\n\n{costs()}"
    methods = "\n\n".join([head, *map(method_card, registry.methods)])
    groups = "\n".join(f"- `{group}`: {', '.join(names)}" for group, names in registry.metric_groups().items())
    head = f"# Metrics\n\nGroups:\n\n{groups}\n\n{COSTS_OF_METRICS}"
    metrics = "\n\n".join([head, *map(metric_card, registry.metrics)])
    datasets = "# Data sets\n\nHow to use them: [data.md](data.md).\n\n" + "\n\n".join(dataset_sections())
    texts = {"methods.md": methods, "metrics.md": metrics, "datasets.md": datasets}
    return {page: f"{HEAD}{text}\n" for page, text in texts.items()}


if __name__ == "__main__":
    for page, text in pages().items():
        (DOCS / page).write_text(text)
        print(f"{page}: {text.count(chr(10) + '## ')} sections")
