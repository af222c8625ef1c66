"""Open a model of a suite."""

from __future__ import annotations

from pathlib import Path

from xaibench.core.errors import UsageError
from xaibench.data import Dataset
from xaibench.models.classifier import Classifier
from xaibench.models.factory import load_classifier
from xaibench.runner.settings import Settings
from xaibench.suite import ModelSection, Suite


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
