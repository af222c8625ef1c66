"""A `Benchmark` of what a script holds: classifiers or modules, a data set or tensors, names or functions."""

from __future__ import annotations

import hashlib
import inspect
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.core import registry
from xaibench.core.errors import UsageError
from xaibench.core.pairs import Pairs
from xaibench.core.registry import BoundMethod, BoundMetric, Method, PairRule
from xaibench.data import Dataset
from xaibench.data.batch import collate
from xaibench.data.in_memory import InMemory
from xaibench.data.loader import own_geometry
from xaibench.data.preprocess import Preprocess
from xaibench.forward import Forward
from xaibench.models.card import Card
from xaibench.models.classifier import Classifier
from xaibench.runner.benchmark import Benchmark, ModelSource, resolved_method, resolved_metric
from xaibench.suite import parse_method, parse_metrics

Model = Classifier | nn.Module
Function = Callable[[Forward, Pairs], Tensor]
MethodLike = str | Mapping[str, Any] | Function
Models = Model | Mapping[str, Model]
Methods = MethodLike | Sequence[MethodLike] | Mapping[str, MethodLike]
Metrics = str | Sequence[str | Mapping[str, Any]]


@dataclass(frozen=True)
class Question:
    """What is asked of the models, beside methods and metrics; see `xaibench.benchmark`."""

    name: str = "benchmark"
    title: str = ""
    explain: PairRule = "detected"
    seed: int = 0
    limit: int | None = None
    max_bad_samples: int = 0


def python_benchmark(
    models: Models, data: Dataset, methods: Methods, metrics: Metrics, question: Question
) -> Benchmark:
    """What `xaibench.benchmark` runs.

    Raises:
        UsageError: an unknown name or parameter, two things of one label, or what does not go together
    """
    bound_methods, bound_metrics = _methods(methods), parse_metrics(metrics, question.explain)
    ids = data.ids[: question.limit]
    if not ids:
        raise UsageError(f"limit: {question.limit}; at least one sample is needed")
    _check_ground_truth(data, bound_methods, bound_metrics)
    classifiers = _classifiers(models, data)
    precisions = {label: str(classifier.dtype).removeprefix("torch.") for label, classifier in classifiers.items()}
    if len(set(precisions.values())) > 1:
        raise UsageError(f"models of one precision are needed, found {precisions}; write module.to(torch.float32)")
    return Benchmark(
        name=question.name,
        title=question.title or question.name,
        seed=question.seed,
        precision=next(iter(precisions.values())),
        max_bad_samples=question.max_bad_samples,
        dataset=data,
        ids=ids,
        models=[_source(label, classifier, data, bound_methods) for label, classifier in classifiers.items()],
        metrics=bound_metrics,
        resolved=_resolved(question, data, classifiers, bound_methods, bound_metrics),
        locating=lambda section, label: nullcontext(),
    )


def data_of(data: Any, given: Mapping[str, Any], models: Models, name: str) -> Dataset:
    """A data set as it is; images as a data set in memory, whose labels are called as the models call them.

    Args:
        given: labels, masks and class_names of images
        name: of the data set in memory
    """
    if isinstance(data, Dataset):
        if extra := [key for key, value in given.items() if value is not None]:
            raise UsageError(f"{', '.join(extra)}: a data set has its own; give them with images only")
        return data
    listed = list(models.values()) if isinstance(models, Mapping) else [models]
    known = [model.class_names for model in listed if isinstance(model, Classifier) and model.class_names]
    names = given["class_names"] or (known[0] if known else None)
    return InMemory(data, given["labels"], given["masks"], class_names=names, name=name)


# -- models -------------------------------------------------------------------------------------------------------------


def _classifiers(models: Models, data: Dataset) -> dict[str, Classifier]:
    """The models by their labels, each run on one image."""
    given = dict(models) if isinstance(models, Mapping) else {_label_of(models): models}
    if not given:
        raise UsageError("models: at least one is needed")
    found = {}
    for label, model in given.items():
        if not isinstance(model, Classifier | nn.Module):
            remedy = "; write xaibench.load_classifier(...)" if isinstance(model, str) else ""
            raise UsageError(f"model {label!r}: a Classifier or a module is needed, found {model!r}{remedy}")
        classifier = model if isinstance(model, Classifier) else Classifier(model, name=label)
        if not isinstance(data, InMemory) or data.named:
            Card(classes=classifier.class_names).check_classes(data.class_names, f"model {label}")
        _inspect(label, classifier, data)
        found[str(label)] = classifier
    return found


def _label_of(model: Model) -> str:
    return model.name if isinstance(model, Classifier) else type(model).__name__


def _inspect(label: str, classifier: Classifier, data: Dataset) -> None:
    """Find the structure of a model by an image of the data, and compare their labels."""
    geometry = own_geometry(data) or classifier.geometry
    if isinstance(geometry, Preprocess):
        data.check_channels(len(geometry.mean), f"model {label}")
    batch = collate([data[0]], geometry).to(geometry, classifier.device, classifier.dtype)
    labels, known = classifier.inspect(batch.images).labels, len(data.class_names)
    if known and labels != known:
        raise UsageError(f"model {label} has {labels} labels, but {data.name} has {known}")


def _source(label: str, classifier: Classifier, data: Dataset, methods: Sequence[BoundMethod]) -> ModelSource:
    module = classifier.module
    identity = {
        "name": classifier.name,
        "module": hashlib.sha256(repr(module).encode()).hexdigest(),  # what its parts are called and how they are set
        "source": source_hash(type(module)),
    }
    return ModelSource(label, identity, methods, lambda: classifier)


# -- methods and metrics ------------------------------------------------------------------------------------------------


def _methods(methods: Methods) -> list[BoundMethod]:
    """Names, mappings and functions, bound under their labels."""
    if isinstance(methods, Mapping) and "name" not in methods:
        bound = [_method(entry, str(label)) for label, entry in methods.items()]
    elif isinstance(methods, str | Mapping) or callable(methods):
        bound = [_method(methods)]
    else:
        bound = [_method(entry) for entry in methods]
    if not bound:
        raise UsageError("methods: at least one is needed")
    labels = [method.label for method in bound]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UsageError(f"two methods are called {twice[0]!r}; give a mapping from labels to methods")
    return bound


def _method(entry: MethodLike, label: str = "") -> BoundMethod:
    if isinstance(entry, str | Mapping):
        bound = parse_method(entry)
        return BoundMethod(label or bound.label, bound.entry, bound.parameters)
    if not callable(entry):
        raise UsageError(f"method {label or entry!r}: a name, a mapping with `name` or a function is needed")
    known = next((m for m in map(registry.methods.__getitem__, registry.methods) if m.function is entry), None)
    if known is not None:
        return BoundMethod(label or known.name, known, known.bind({}))
    name = label or getattr(entry, "__name__", "")
    if not name.isidentifier() and not label:
        raise UsageError(f"method {entry!r} has no name; give a mapping from labels to methods")
    own = Method(name=name, function=entry, source="a function", version=1, source_hash=source_hash(entry))
    return BoundMethod(name, own, own.bind({}))


def source_hash(thing: Any) -> str:
    """Hash of the source of a function or class; a new one each time where there is no source.

    Records are found again by it. What a function closes over is not part of it.
    """
    try:
        text = inspect.getsource(thing)
    except (OSError, TypeError):  # typed at a prompt, written in C, or an object that can be called
        return uuid.uuid4().hex
    return hashlib.sha256(text.encode()).hexdigest()


def _check_ground_truth(data: Dataset, methods: Sequence[BoundMethod], metrics: Sequence[BoundMetric]) -> None:
    """Raise UsageError where something needs masks or labels that the data do not have."""
    for kind, things in (("method", methods), ("metric", metrics)):
        for thing in things:
            if "masks" in thing.entry.needs and not data.has_masks:
                raise UsageError(f"{kind} {thing.label} needs masks, which {data.name} does not have; give masks=")
    for metric in metrics:
        if metric.explain == "target" and not data.entry.single_label:
            raise UsageError(
                f"explain: target needs one label per image; {data.name} is multi-label; use detected or present"
            )
        if metric.explain == "present" and not data.class_names:
            raise UsageError(f"explain: present needs labels, which {data.name} does not have; give labels=")


def _resolved(
    question: Question,
    data: Dataset,
    classifiers: Mapping[str, Classifier],
    methods: Sequence[BoundMethod],
    metrics: Sequence[BoundMetric],
) -> dict[str, Any]:
    """Everything with its defaults filled in, for `suite.resolved.json`."""
    return {
        "name": question.name,
        "title": question.title,
        "seed": question.seed,
        "explain": question.explain,
        "dataset": {"name": data.name, "split": data.split, "revision": data.revision},
        "class_names": list(data.class_names),
        "models": [
            {
                "as": label,
                "name": classifier.name,
                "weights": classifier.weights_hash,
                "activation": classifier.activation,
                "threshold": classifier.threshold,
                "layer": classifier.structure.target_layer,
            }
            for label, classifier in classifiers.items()
        ],
        "methods": [resolved_method(method) for method in methods],
        "metrics": [resolved_metric(metric) for metric in metrics],
    }


def device_of(models: Models) -> torch.device:
    """Where the first model is."""
    model = next(iter(models.values())) if isinstance(models, Mapping) else models
    if isinstance(model, Classifier):
        return model.device
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device
