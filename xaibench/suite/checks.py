"""What can be said about a suite without a model or data on disk: names, parameters, needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from xaibench import registry
from xaibench.errors import unknown
from xaibench.suite.schema import Kind, Suite
from xaibench.yamlfile import Document, Location


def check_names(suite: Suite, document: Document) -> None:
    """Names, parameters and needs that can be checked without a model or data on disk."""
    has_masks, single_label = _check_dataset(suite, document)
    _check_models(suite, document)
    labels: set[str] = set()
    for index, method in enumerate(suite.methods):
        at = ("methods", index)
        _check_label(method.label, labels, "methods", document, at)
        if method.name not in registry.methods:
            document.add((*at, "name"), registry.methods.unknown(method.name))
            continue
        _check_parameters(registry.methods[method.name], method.parameters, document, at)
        if "masks" in registry.methods[method.name].needs and not has_masks:
            document.add(at, f"method {method.name!r} needs masks, which {_dataset_words(suite)} does not have")
    _check_metrics(suite, document, has_masks)
    if suite.explain == "target" and not single_label:
        document.add(("explain",), f"explain: target needs one target label per image; {suite.dataset.name} is multi-label; "
                     "use detected or present")  # fmt: skip
    reference = suite.leaderboard.reference
    if reference is not None and reference not in labels:
        document.add(("leaderboard", "reference"), unknown("method", reference, labels))
    for index, model in enumerate(suite.models):
        _check_globs(model.methods, labels, document, ("models", index, "methods"))
    _check_quick(suite, "methods", labels, document)
    _check_quick(suite, "models", {model.label for model in suite.models}, document)


def _check_quick(suite: Suite, kind: Kind, labels: set[str], document: Document) -> None:
    _check_globs(getattr(suite.quick, kind, []), labels, document, ("quick", kind))


def _check_globs(globs: Sequence[str], labels: set[str], document: Document, at: Location) -> None:
    """Each must choose something; `at` ends with what is chosen, in the plural."""
    for index, glob in enumerate(globs):
        if not any(fnmatch(label, glob) for label in labels):
            document.add((*at, index), unknown(str(at[-1]).removesuffix("s"), glob, labels))


def _check_metrics(suite: Suite, document: Document, has_masks: bool) -> None:
    labels: set[str] = set()
    groups = registry.metric_groups()
    for index, metric in enumerate(suite.metrics):
        at = ("metrics", index)
        if metric.name not in registry.metrics and metric.name not in groups:
            document.add((*at, "name"), unknown("metric", metric.name, [*registry.metrics, *groups]))
            continue
        for name in groups.get(metric.name, [metric.name]):
            entry = registry.metrics[name]
            _check_label(name if metric.name in groups else metric.label, labels, "metrics", document, at)
            _check_parameters(entry, metric.parameters, document, at)
            if "masks" in entry.needs and not has_masks:
                document.add(at, f"metric {name!r} needs masks, which {_dataset_words(suite)} does not have")
    for index, label in enumerate(suite.leaderboard.rank_by):
        if label not in labels:
            document.add(("leaderboard", "rank_by", index), unknown("metric", label, labels))
    _check_quick(suite, "metrics", labels, document)


def _check_dataset(suite: Suite, document: Document) -> tuple[bool, bool]:
    """Whether the data set has masks and is single-label, as far as its options say (True where it is unknown)."""
    if suite.dataset.name not in registry.datasets:
        document.add(("dataset", "name"), registry.datasets.unknown(suite.dataset.name))
        return True, True
    entry = registry.datasets[suite.dataset.name]
    given = suite.dataset.options | ({} if suite.dataset.split is None else {"split": suite.dataset.split})
    if "data_root" in entry.parameters:
        given["data_root"] = Path()
    _check_parameters(entry, given, document, ("dataset",))
    return entry.masks_with(given), entry.single_label


def _check_models(suite: Suite, document: Document) -> None:
    from xaibench import bundled
    from xaibench.models import known_model, model_names

    labels: set[str] = set()
    for index, model in enumerate(suite.models):
        _check_label(model.label, labels, "models", document, ("models", index))
        if model.name not in bundled.names() and not known_model(model.name):
            document.add(("models", index, "name"), unknown("model", model.name, [*bundled.names(), *model_names()]))
        if "in_chans" in model.options:
            document.add(("models", index, "options", "in_chans"), "in_chans stands beside the model's name, not among "
                         "its options", key=True)  # fmt: skip
        if model.extra_channels is not None and model.in_chans in (None, 3):
            document.add(("models", index, "extra_channels"), "extra_channels makes other than 3 channels; give in_chans",
                         key=True)  # fmt: skip


def _check_label(label: str, labels: set[str], what: str, document: Document, at: Location) -> None:
    if label in labels:
        document.add(at, f"two {what} are called {label!r}; give one of them another name with `as`")
    labels.add(label)


def _check_parameters(entry: registry.Entry, given: Mapping[str, Any], document: Document, at: Location) -> None:
    for key, sentence in entry.problems(given).items():
        document.add((*at, key), sentence, key=True)


def _dataset_words(suite: Suite) -> str:
    chosen = {**({"split": suite.dataset.split} if suite.dataset.split else {}), **suite.dataset.options}
    words = ", ".join(f"{key}: {value}" for key, value in chosen.items())
    return f"data set {suite.dataset.name!r}" + (f" ({words})" if words else "")
