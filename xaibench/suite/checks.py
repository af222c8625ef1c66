"""Checks of a suite's file that need no model and no data on disk: names, parameters, needs."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from xaibench.core import registry
from xaibench.core.errors import unknown
from xaibench.core.yaml.document import Document
from xaibench.core.yaml.values import Location
from xaibench.models import bundled
from xaibench.suite.entries import entries, options_of, spelled_out, texts


@dataclass(frozen=True)
class _Dataset:
    """Facts about the suite's data set, from its options. What is not known is True, so that no check fails for it."""

    name: str = ""
    single_label: bool = True
    has_masks: bool = True
    described: str = ""
    remedy: str = ""  # how to give it masks


def check_names(document: Document) -> None:
    """Note every problem of names, parameters and needs. Malformed entries are skipped; the schema reports them."""
    data = document.data
    dataset = _check_dataset(document)
    labels = {
        "models": _check_models(document),
        "methods": _check_methods(document, dataset),
        "metrics": _check_metrics(document, dataset),
    }
    if data.get("explain") == "target" and not dataset.single_label:
        document.add(
            ("explain",),
            f"explain: target needs one target label per image; {dataset.name} is multi-label; use detected or present",
        )
    for model in entries(data, "models"):
        chosen = [((*model.at, *at), glob) for at, glob in texts(model.given, "methods")]
        _check_chosen("methods", chosen, labels["methods"], document)
    for section, known in labels.items():
        _check_chosen(section, texts(data, "quick", section), known, document)
    references = texts(data, "leaderboard", "reference")
    _check_chosen("methods", references, labels["methods"], document, globs=False)
    _check_chosen("metrics", texts(data, "leaderboard", "rank_by"), labels["metrics"], document, globs=False)


def _check_dataset(document: Document) -> _Dataset:
    given = spelled_out(document.data.get("dataset"))
    if not isinstance(given, Mapping) or not isinstance(name := given.get("name"), str):
        return _Dataset()
    if name not in registry.datasets:
        document.add(("dataset", "name"), registry.datasets.unknown(name))
        return _Dataset(name)
    entry = registry.datasets[name]
    options = {key: value for key, value in options_of(given).items() if (key, value) != ("split", None)}
    root = {"data_root": Path()} if "data_root" in entry.parameters else {}
    _check_parameters(entry, options | root, document, ("dataset",))
    given_options = ", ".join(f"{key}: {value}" for key, value in options.items())
    remedy = ""
    if "masks" in entry.parameters:
        remedy = f"; give the data set masks: {'true' if entry.annotations['masks'] is bool else 'FOLDER'}"
    described = f"data set {name!r}" + (f" ({given_options})" if given_options else "")
    return _Dataset(name, entry.single_label, entry.masks_with(options), described, remedy)


def _check_models(document: Document) -> set[str]:
    from xaibench.models.architectures import KEYS_OF_THEIR_OWN, known_model, model_names

    labels: set[str] = set()
    for model in entries(document.data, "models"):
        _check_label(model.label, labels, "models", document, model.at)
        if model.name not in bundled.names() and not known_model(model.name):
            message = unknown("model", model.name, [*bundled.names(), *model_names()])
            document.add((*model.at, "name"), f"{message}; see `xaibench list models`")
        options = model.given.get("options")
        for key in KEYS_OF_THEIR_OWN:
            if isinstance(options, Mapping) and key in options:
                message = f"{key} stands beside the model's name, not among its options"
                document.add((*model.at, "options", key), message, key=True)
        if model.given.get("extra_channels") is not None and model.given.get("in_chans") in (None, 3):
            document.add(
                (*model.at, "extra_channels"), "extra_channels makes other than 3 channels; give in_chans", key=True
            )
    return labels


def _check_methods(document: Document, dataset: _Dataset) -> set[str]:
    labels: set[str] = set()
    for method in entries(document.data, "methods"):
        _check_label(method.label, labels, "methods", document, method.at)
        if method.name not in registry.methods:
            document.add((*method.at, "name"), registry.methods.unknown(method.name))
            continue
        _check_parameters(registry.methods[method.name], method.given, document, method.at)
        _check_masks(registry.methods[method.name], "method", dataset, document, method.at)
    return labels


def _check_metrics(document: Document, dataset: _Dataset) -> set[str]:
    labels: set[str] = set()
    groups = registry.metric_groups()
    for metric in entries(document.data, "metrics"):
        if metric.name not in registry.metrics and metric.name not in groups:
            document.add((*metric.at, "name"), registry.metrics.unknown(metric.name))
            labels.add(metric.label)
            continue
        parameters = {key: value for key, value in metric.given.items() if key != "explain"}
        for name in groups.get(metric.name, [metric.name]):
            label = name if metric.name in groups else metric.label
            _check_label(label, labels, "metrics", document, metric.at)
            _check_parameters(registry.metrics[name], parameters, document, metric.at)
            _check_masks(registry.metrics[name], "metric", dataset, document, metric.at)
    return labels


def _check_label(label: str, labels: set[str], what: str, document: Document, at: Location) -> None:
    if label in labels:
        document.add(at, f"two {what} are called {label!r}; give one of them another name with `as`")
    labels.add(label)


def _check_parameters(entry: registry.Entry, given: Mapping[str, Any], document: Document, at: Location) -> None:
    for where, message in entry.problems(given).items():
        document.add((*at, *where), message, key=not entry.knows(where))


def _check_masks(
    entry: registry.Method | registry.Metric, kind: str, dataset: _Dataset, document: Document, at: Location
) -> None:
    if "masks" in entry.needs and not dataset.has_masks:
        document.add(at, f"{kind} {entry.name!r} needs masks, which {dataset.described} does not have{dataset.remedy}")


def _check_chosen(
    section: str, chosen: Iterable[tuple[Location, str]], labels: set[str], document: Document, *, globs: bool = True
) -> None:
    """Note labels (or globs) that match none of the suite's own models, methods or metrics.

    Without `labels` the section itself is wrong, and its problems are noted elsewhere.
    """
    if not labels:
        return
    kind = section.removesuffix("s")
    registered: dict[str, Container[str]] = {
        "models": bundled.names(),
        "methods": registry.methods,
        "metrics": registry.metrics,
    }
    for at, name in chosen:
        if name in labels or (globs and any(fnmatch(label, name) for label in labels)):
            continue
        if name in registered[section]:
            own = ", ".join(sorted(labels))
            document.add(at, f"{kind} {name!r} is not among the {section} of this suite, which are: {own}")
        else:
            document.add(at, unknown(kind, name, labels))
