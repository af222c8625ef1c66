"""`Benchmark`: what is measured on what, with its data opened. A suite makes one, and so does a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from xaibench.core.errors import UsageError
from xaibench.core.registry import BoundMethod, BoundMetric
from xaibench.data import Dataset, load_dataset
from xaibench.models.classifier import Classifier
from xaibench.runner.attempt import suite_file
from xaibench.runner.models import open_model
from xaibench.runner.settings import Settings
from xaibench.suite import ModelSection, Selection, Suite


@dataclass(frozen=True)
class ModelSource:
    """A model that is to be evaluated.

    Attributes:
        label: in records and tables
        identity: what names it in fingerprints, beside its weights and its input
        methods: that explain it, as far as they go with it
        open: loads it
    """

    label: str
    identity: Mapping[str, Any]
    methods: Sequence[BoundMethod]
    open: Callable[[], Classifier]


@dataclass(frozen=True)
class Benchmark:
    """What is measured on what.

    Attributes:
        ids: of the samples that are evaluated
        resolved: everything with its defaults filled in, for `suite.resolved.json`
        text: the suite's file, None without one
        suite_file: tells suites of one name apart, see `xaibench.runner.attempt.suite_file`
        locating: a context in which an error gets the place of a method (by its label) in the suite's file
    """

    name: str
    title: str
    seed: int
    precision: str
    max_bad_samples: int
    dataset: Dataset
    ids: Sequence[str]
    models: Sequence[ModelSource]
    metrics: Sequence[BoundMetric]
    resolved: Mapping[str, Any]
    locating: Callable[[str, str], AbstractContextManager[None]]
    text: str | None = None
    suite_file: str | None = None

    @property
    def everything(self) -> Selection:
        """All its cells."""
        return Selection(
            frozenset(model.label for model in self.models),
            frozenset(method.label for model in self.models for method in model.methods),
            frozenset(metric.label for metric in self.metrics),
        )

    @property
    def partial(self) -> bool:
        """Whether samples of the split are left out."""
        return len(self.ids) < len(self.dataset)


def benchmark_of(suite: Suite, settings: Settings) -> Benchmark:
    """Open the data of a suite.

    Raises:
        UsageError: a split without samples
        MissingError: the data set is not there
    """
    named = suite.dataset
    with suite.locating("dataset", ""):
        dataset = load_dataset(named.name, data_root=settings.data_root, split=named.split, **named.options)
    ids = dataset.ids[: settings.limit]
    if not ids:
        raise UsageError(f"data set {dataset.name}: split {dataset.split} has no samples")
    return Benchmark(
        name=suite.name,
        title=suite.title or suite.name,
        seed=suite.seed,
        precision=suite.precision,
        max_bad_samples=suite.max_bad_samples,
        dataset=dataset,
        ids=ids,
        models=[_source(section, suite, dataset, settings) for section in suite.models],
        metrics=suite.bound_metrics(),
        resolved=resolved(suite, dataset),
        locating=suite.locating,
        text=suite.text,
        suite_file=suite_file(suite),
    )


def _source(section: ModelSection, suite: Suite, dataset: Dataset, settings: Settings) -> ModelSource:
    def load() -> Classifier:
        with suite.locating("models", section.label):
            classifier = open_model(section, suite, dataset, settings)
            _ = classifier.structure  # runs the model, which the options of this entry may break
            return classifier

    identity = {"name": section.name, "options": section.options}
    return ModelSource(section.label, identity, suite.bound_methods(section), load)


def resolved(suite: Suite, dataset: Dataset) -> dict[str, Any]:
    """The suite with every default filled in, and the names of the labels."""
    return {
        **suite.model_dump(mode="json", exclude={"methods", "metrics"}, by_alias=True),
        "class_names": list(dataset.class_names),
        "methods": [resolved_method(method) for method in suite.bound_methods()],
        "metrics": [resolved_metric(metric) for metric in suite.bound_metrics()],
    }


def resolved_method(method: BoundMethod) -> dict[str, Any]:
    entry = method.entry
    return {"as": method.label, "name": entry.name, "version": entry.version, "parameters": dict(method.parameters)}


def resolved_metric(metric: BoundMetric) -> dict[str, Any]:
    entry = metric.entry
    return {
        "as": metric.label,
        "name": entry.name,
        "version": entry.version,
        "explain": metric.explain,
        "minimum_effect": entry.minimum_effect,
        "parameters": dict(metric.parameters),
    }
