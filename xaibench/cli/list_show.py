"""`xaibench list` and `xaibench show`: rows and cards, made from registrations."""

from __future__ import annotations

import fnmatch
import inspect
import json
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rich.markup import escape
from rich.table import Table

from xaibench.cli.console import out, print_json
from xaibench.cli.facts import cost_row, fact_rows
from xaibench.core import registry
from xaibench.core.errors import UsageError, closest, unknown
from xaibench.core.registry import bounds
from xaibench.models import bundled
from xaibench.suite import load_suite, read_suite, shipped_suites

RECORDED = "recorded in suite.resolved.json; changes nothing today"
SMALLEST = "`compare` takes a smaller difference for none"


def list_(kind: str, glob: str, *, model: str | None, long: bool, as_json: bool) -> None:
    """Print the entries of a kind whose names match.

    Args:
        model: with methods: add a column that says which go with this model
        long: print all facts, not only name and summary

    Raises:
        UsageError: nothing matches, or `model` without methods
    """
    if model is not None and kind != "methods":
        raise UsageError("--model goes with `list methods`")
    every = _rows(kind, model)
    rows = [row for row in every if fnmatch.fnmatch(row["name"], glob) or row.get("group") == glob]
    if as_json:
        print_json(rows)
        return
    if not rows:
        raise UsageError(f"no {kind} match {glob!r}{closest(glob, [row['name'] for row in every])}")
    columns = list(rows[0]) if long or model else ["name", "summary"]
    table = Table(box=None, pad_edge=False, show_header=len(columns) > 2)
    for column in columns:
        table.add_column(column, no_wrap=column == "name", style="bold" if column == "name" else "")
    for row in rows:
        table.add_row(*(escape(_text(row[column])) for column in columns))
    out().print(table)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _rows(kind: str, model: str | None) -> list[dict[str, Any]]:
    if kind == "methods":
        entries = [registry.methods[name] for name in registry.methods]
        rows = [
            {"name": e.name, "summary": e.summary, "needs": list(e.needs), **cost_row(e), "source": e.source}
            for e in entries
        ]
        return rows if model is None else _with_fit(rows, model)
    if kind == "metrics":
        return [
            {
                "name": e.name,
                "summary": e.summary,
                "better": e.better,
                "range": list(e.range),
                "group": e.group,
                "needs": list(e.needs),
                **cost_row(e),
                "source": e.source,
            }
            for e in (registry.metrics[name] for name in registry.metrics)
        ]
    if kind == "datasets":
        return [
            {
                "name": e.name,
                "summary": e.summary,
                "classes": len(e.classes),
                "splits": list(e.splits),
                "source": e.source,
            }
            for e in (registry.datasets[name] for name in registry.datasets)
        ]
    if kind == "suites":
        return [
            {
                "name": name,
                "summary": suite.title,
                "dataset": suite.dataset.name,
                "models": [m.label for m in suite.models],
            }
            for name, suite in ((name, read_suite(path)) for name, path in shipped_suites().items())
        ]
    return _model_rows()


def _model_rows() -> list[dict[str, Any]]:
    from xaibench.models.architectures import model_names

    rows = [
        {"name": name, "summary": f"bundled; {_quality(bundled.facts(name))}", "kind": "bundled"}
        for name in bundled.names()
    ]
    return rows + [{"name": name, "summary": "timm", "kind": "timm"} for name in model_names()]


def _quality(card: Mapping[str, Any]) -> str:
    return f"mAP {card['mean_average_precision']:.3f} on {card['data']['name']} {card['data']['evaluated_on']}"


def _with_fit(rows: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """Rows of methods with another column: whether the method goes with the model, and why not."""
    from xaibench.models.capabilities import lacking
    from xaibench.models.factory import load_classifier

    classifier = load_classifier(model)

    def fit(method: str) -> str:
        reason = lacking(classifier, registry.methods[method].needs)
        return "yes" if reason is None else f"no: {reason}"

    return [{"name": row["name"], "goes with it": fit(row["name"]), **row} for row in rows]


def show(name: str, *, as_json: bool) -> None:
    """Print the card of a method, metric, data set, suite or model. Raises UsageError for an unknown name."""
    card = _card(name)
    if as_json:
        print_json(card)
        return
    console = out()
    console.print(f"[bold]{escape(card.pop('name'))}[/] ({card.pop('kind')})")
    console.print(escape(str(card.pop("documentation", ""))))
    table = Table(box=None, pad_edge=False, show_header=False)
    for key, value in card.items():
        if isinstance(value, Mapping):
            for inner, content in value.items():
                table.add_row(f"[dim]{key}[/]", f"{escape(str(inner))}: {escape(str(content))}")
        elif value not in ("", [], None):
            table.add_row(f"[dim]{key}[/]", escape(_text(value)))
    console.print(table)


def _card(name: str) -> dict[str, Any]:
    for kind, entries in (("method", registry.methods), ("metric", registry.metrics), ("dataset", registry.datasets)):
        if name in entries:  # type: ignore[operator]
            return _entry_card(kind, entries[name])  # type: ignore[index]
    if name in (groups := registry.metric_groups()):
        return {
            "name": name,
            "kind": "group of metrics",
            "documentation": "In a suite its name stands for all of them.",
            "metrics": {metric: registry.metrics[metric].summary for metric in groups[name]},
        }
    from xaibench.models.architectures import known_model

    if name in bundled.names():
        return {"name": name, "kind": "bundled model", **{k: v for k, v in bundled.facts(name).items() if k != "name"}}
    if name in shipped_suites():
        suite = load_suite(shipped_suites()[name])
        return {
            "name": name,
            "kind": "suite",
            "documentation": suite.description or suite.title,
            "source": suite.source,
            "dataset": suite.dataset.name,
            "models": [m.label for m in suite.models],
            "explain": suite.explain,
            "methods": [m.label for m in suite.methods],
            "metrics": [m.label for m in suite.bound_metrics()],
            "leaderboard": {**suite.leaderboard.model_dump(), "use": RECORDED},
            "file": str(shipped_suites()[name]),
        }
    if known_model(name):
        return _timm_card(name)
    known = [*registry.methods, *registry.metrics, *groups, *registry.datasets, *bundled.names(), *shipped_suites()]
    raise UsageError(unknown("name", name, known))


def _timm_card(name: str) -> dict[str, Any]:
    from xaibench.models.capabilities import lacking, offers
    from xaibench.models.factory import load_classifier

    classifier = load_classifier(name)
    return {
        "name": name,
        "kind": "timm model",
        "target layer": classifier.structure.target_layer,
        "offers": sorted(offers(classifier)),
        "input": vars(classifier.preprocess),
        "methods": [m for m in registry.methods if lacking(classifier, registry.methods[m].needs) is None],
    }


def _entry_card(kind: str, entry: registry.Entry) -> dict[str, Any]:
    card: dict[str, Any] = {
        "name": entry.name,
        "kind": kind,
        "documentation": entry.documentation,
        "source": entry.source,
        "version": entry.version,
        "parameters": {n: text for n, text in parameter_texts(entry).items() if n != "data_root"},
    }
    if isinstance(entry, registry.Method):
        card |= {"needs": {need: registry.NEEDS[need] for need in entry.needs}, **fact_rows(entry)}
    elif isinstance(entry, registry.Metric):
        card |= {
            "better": entry.better,
            "range": list(entry.range),
            "unit": entry.unit,
            "average": list(entry.averages),
            "needs": {need: registry.NEEDS[need] for need in entry.needs},
            **fact_rows(entry),
            "group": entry.group,
            "minimum effect": {"value": entry.minimum_effect, "use": SMALLEST},
            "invariant": {name: registry.INVARIANCES[name] for name in entry.invariant},
        }
    elif isinstance(entry, registry.DatasetEntry):
        classes = list(entry.classes) or "those of the data"
        card |= {"classes": classes, "splits": list(entry.splits), "masks": entry.masks}
        own: Any = entry.function
        card |= {"official samples": dict(own.official()), "address": own.address, "licence": own.licence}
    return card | {"defined in": entry.location}


def parameter_texts(entry: registry.Entry) -> dict[str, str]:
    """Type, bounds and default of each parameter, and of each key of those that are mappings."""
    texts = {}
    for name, parameter in entry.parameters.items():
        if (mapping := entry.mappings.get(name)) is not None:
            texts[name] = f"mapping, default {json.dumps(mapping.complete({}))}"
            texts |= {f"{name}.{key}": _value_text(annotation) for key, annotation in mapping.types.items()}
            continue
        texts[name] = _value_text(entry.annotations[name])
        if parameter.default is not inspect.Parameter.empty:
            texts[name] += f", default {parameter.default!r}"
    return texts


def _value_text(annotation: Any) -> str:
    return ", ".join([_type_text(annotation), *bounds.texts(annotation)])


def _type_text(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_text(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(_type_text, get_args(annotation)))
    return "None" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))
