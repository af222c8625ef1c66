"""One model of a suite made ready: opened, its methods sorted out, its cells named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.core.registry import BoundMethod, BoundMetric
from xaibench.data import Dataset
from xaibench.models.capabilities import lacking
from xaibench.models.classifier import Classifier
from xaibench.models.factory import load_classifier
from xaibench.models.model_cache import ModelCache
from xaibench.results.records import Cell, digest
from xaibench.suite import ModelSection, Suite

Key = tuple[str, str]  # (method label, metric label)


@dataclass(frozen=True)
class Settings:
    """How a run is carried out; nothing here changes a number beyond rounding.

    Attributes:
        workers: processes that read samples; None: as many as help
        cache: modules that the suites of one command share
    """

    data_root: Path | None = None
    suite_folder: Path = Path()
    device: str = "cpu"
    batch_size: int = 16
    workers: int | None = None
    limit: int | None = None
    fail_fast: bool = False
    cache: ModelCache = field(default_factory=ModelCache, compare=False)


@dataclass(frozen=True)
class Prepared:
    """One model of a suite, ready to run: its classifier and the cells that its compatible methods give."""

    section: ModelSection
    classifier: Classifier
    methods: list[BoundMethod]
    skipped: list[str]
    cells: dict[Key, Cell]


def prepare(section: ModelSection, suite: Suite, dataset: Dataset, ids: Sequence[str], settings: Settings) -> Prepared:
    """Load a model and sort out which methods go with it. Raises UsageError when none does, or labels differ."""
    with suite.locating("models", section.label):
        classifier = open_model(section, suite, dataset, settings)
        target_layer = classifier.structure.target_layer  # runs the model, which the options of this entry may break
    methods: list[BoundMethod] = []
    left_out: dict[str, list[str]] = {}  # by reason
    for method in suite.bound_methods(section):
        reason = lacking(classifier, method.entry.needs)
        if reason is not None:
            left_out.setdefault(reason, []).append(method.label)
        else:
            layer = method.parameters.get("layer")
            try:
                if layer is not None:
                    with suite.locating("methods", method.label):
                        classifier.layer_name(layer)
                methods.append(method)
            except UsageError as error:
                if len(suite.models) == 1:
                    raise
                # a layer's name is one model's; `validate` finds a method that goes with none
                left_out.setdefault(error.message, []).append(method.label)
    skipped = [f"{section.label}: {', '.join(labels)} left out: {reason}" for reason, labels in left_out.items()]
    if not methods:
        raise IncompatibleError(f"no method of the suite goes with {section.label}: " + "; ".join(skipped))
    facts = {
        "dataset": {
            "name": dataset.name,
            "version": dataset.entry.version,
            "split": dataset.split,
            "revision": dataset.revision,
            "ids": digest(ids),
        },
        "model": {
            "name": section.name,
            "options": section.options,
            "weights": classifier.weights_hash,
            "activation": classifier.activation,
            "threshold": classifier.threshold,
            "layer": target_layer,
            "preprocess": vars(classifier.preprocess),
        },
        "seed": suite.seed,
        "precision": suite.precision,
    }
    names, metrics = (dataset.name, section.label), suite.bound_metrics()
    cells = {
        (method.label, metric.label): Cell(*names, method.label, metric.label, facts | _facts(method, metric))
        for method in methods
        for metric in metrics
    }
    return Prepared(section, classifier, methods, skipped, cells)


def _facts(method: BoundMethod, metric: BoundMetric) -> dict[str, object]:
    return {
        "method": {
            "name": method.entry.name,
            "version": method.entry.version,
            "parameters": dict(method.parameters),
        },
        "metric": {
            "name": metric.entry.name,
            "version": metric.entry.version,
            "parameters": dict(metric.arguments),
            "explain": metric.explain,
        },
    }


def open_model(section: ModelSection, suite: Suite, dataset: Dataset, settings: Settings) -> Classifier:
    """A model of a suite, its checkpoint found beside the suite or below the data root, its labels those of the data."""
    labels = len(dataset.class_names)
    if section.num_classes not in (None, labels):
        raise UsageError(
            f"model {section.label}: num_classes {section.num_classes}, but {dataset.name} has {labels} labels"
        )
    dataset.check_channels(section.in_chans or 3, f"model {section.label}")
    return load_classifier(
        section.name,
        class_names=dataset.class_names,
        checkpoint=_locate(section.checkpoint, settings),
        pretrained=section.pretrained,
        activation=section.activation,
        layer=section.layer,
        threshold=suite.threshold,
        input=section.input.model_dump(exclude_none=True),
        in_chans=section.in_chans,
        extra_channels=section.extra_channels,
        options=section.options,
        device=settings.device,
        precision=suite.precision,
        seed=suite.seed,
        cache=settings.cache,
    )


def _locate(checkpoint: Path | None, settings: Settings) -> Path | None:
    """A relative checkpoint is beside the suite's file, or below the data root."""
    if checkpoint is None or checkpoint.is_absolute():
        return checkpoint
    roots = [settings.suite_folder, *([settings.data_root] if settings.data_root else [])]
    return next((root / checkpoint for root in roots if (root / checkpoint).is_file()), roots[0] / checkpoint)
