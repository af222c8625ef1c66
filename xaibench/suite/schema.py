"""The keys of a suite, and what they are bound to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from xaibench import registry
from xaibench.errors import UsageError, unknown
from xaibench.registry import PairRule

Kind = Literal["models", "methods", "metrics"]
Precision = Literal["float32", "float64"]


class Section(pydantic.BaseModel):
    """A part of a suite; unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Named(pydantic.BaseModel):
    """`name`, or `{name: ..., as: ..., <parameters>}`."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    name: str
    as_: str | None = pydantic.Field(None, alias="as")

    @property
    def label(self) -> str:
        return self.as_ or self.name

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class MetricNamed(Named):
    explain: PairRule | None = None


class DatasetNamed(pydantic.BaseModel):
    """`{name: ..., split: ..., <options>}`"""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    name: str
    split: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class InputSection(Section):
    """Input geometry; what is left out comes from the model's own configuration."""

    size: int | tuple[int, int] | None = None
    resize: Literal["squash", "shortest_crop", "fit_pad", "none"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None


class ModelSection(Section):
    """A bundled or timm model. Relative checkpoints are relative to the suite's file, or the data root.

    `methods` are labels (or globs) of the suite's methods that this model is explained by; all of them where left out.
    `in_chans` is the number of input channels where it is not 3, `extra_channels` how the first convolution of a
    checkpoint of three channels, mean and std become those of `in_chans`: see `xaibench.models.stem_for`.
    """

    name: str
    as_: str | None = pydantic.Field(None, alias="as")
    checkpoint: Path | None = None
    pretrained: bool = False
    num_classes: int | None = None
    in_chans: int | None = pydantic.Field(None, ge=1)
    extra_channels: Literal["copy_first", "mean", "zero"] | None = None
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    layer: str | None = None
    input: InputSection = InputSection()
    options: dict[str, Any] = {}
    methods: list[str] = ["*"]

    @property
    def label(self) -> str:
        return self.as_ or self.name


class LeaderboardSection(Section):
    """How the table reads: `reference` is the method others are compared with, `rank_by` the metrics that rank."""

    reference: str | None = None
    rank_by: list[str] = []


class QuickSection(Section):
    """A representative part of the suite, for a first look (`run --quick`): labels of what is kept, or globs."""

    models: list[str] = ["*"]
    methods: list[str] = ["*"]
    metrics: list[str] = ["*"]


def _entries(value: Any) -> Any:
    """A bare name stands for `{name: ...}`."""
    if not isinstance(value, list):
        return [value]
    return [{"name": item} if isinstance(item, str) else item for item in value]


Listed = pydantic.BeforeValidator(_entries)


class Suite(Section):
    """A validated suite."""

    name: Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    description: str = ""
    source: str = ""
    seed: int = 0
    dataset: Annotated[DatasetNamed, pydantic.BeforeValidator(lambda v: {"name": v} if isinstance(v, str) else v)]
    models: Annotated[list[ModelSection], Listed, pydantic.Field(min_length=1)]
    explain: PairRule = "detected"
    threshold: float = pydantic.Field(0.5, ge=0, le=1)
    precision: Precision = "float32"
    methods: Annotated[list[Named], Listed, pydantic.Field(min_length=1)]
    metrics: Annotated[list[MetricNamed], Listed, pydantic.Field(min_length=1)]
    leaderboard: LeaderboardSection = LeaderboardSection()
    quick: QuickSection | None = None
    max_bad_samples: int = pydantic.Field(0, ge=0)

    def bound_methods(self, model: ModelSection | None = None) -> list[BoundMethod]:
        """Methods (those of one model) with all parameters filled in, in the suite's order."""
        globs = ["*"] if model is None else model.methods
        return [
            BoundMethod(m.label, registry.methods[m.name], registry.methods[m.name].bind(m.parameters))
            for m in self.methods
            if any(fnmatch(m.label, glob) for glob in globs)
        ]

    @property
    def notes(self) -> list[str]:
        """Messages about what a suite spells in an outdated way."""
        return [note for m in self.methods for note in registry.methods[m.name].old_names(m.parameters)]

    def bound_metrics(self) -> list[BoundMetric]:
        """Metrics with all parameters filled in and groups spelled out, in the suite's order."""
        return bind_metrics(self.metrics, self.explain)


@dataclass(frozen=True)
class BoundMethod:
    label: str
    entry: registry.Method
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class BoundMetric:
    label: str
    entry: registry.Metric
    parameters: Mapping[str, Any]
    explain: PairRule

    @property
    def aggregate(self) -> str:
        return self.entry.aggregation(self.parameters)

    @property
    def better(self) -> str:
        return self.entry.direction(self.parameters)


def parse_metrics(entries: Sequence[str | Mapping[str, Any]], explain: PairRule = "detected") -> list[BoundMetric]:
    """Metrics from names and mappings, as `xaibench.evaluate(metrics=...)` takes them."""
    parsed = []
    for entry in [entries] if isinstance(entries, str) else entries:
        try:
            parsed.append(MetricNamed.model_validate({"name": entry} if isinstance(entry, str) else entry))
        except pydantic.ValidationError as error:
            raise UsageError(f"metric {entry!r}: a name or a mapping with `name` is needed") from error
    return bind_metrics(parsed, explain)


def bind_metrics(entries: Sequence[MetricNamed], explain: PairRule) -> list[BoundMetric]:
    """Groups spelled out, parameters filled in. Raises UsageError on unknown names, parameters and double labels."""
    bound: dict[str, BoundMetric] = {}
    groups = registry.metric_groups()
    for entry in entries:
        if entry.name not in registry.metrics and entry.name not in groups:
            raise UsageError(unknown("metric", entry.name, [*registry.metrics, *groups]))
        for name in groups.get(entry.name, [entry.name]):
            metric = registry.metrics[name]
            label = name if entry.name in groups else entry.label
            if label in bound:
                raise UsageError(f"two metrics are called {label!r}; give one of them another name with `as`")
            bound[label] = BoundMetric(label, metric, metric.bind(entry.parameters), entry.explain or explain)
    return list(bound.values())
