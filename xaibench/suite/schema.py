"""`Suite`: the keys of a suite's file, and the methods and metrics that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from xaibench.core import registry
from xaibench.core.errors import UsageError, XaibenchError
from xaibench.core.registry import BoundMethod, BoundMetric, PairRule
from xaibench.core.registry.bounds import Count, ExtraChannels, Fraction, Natural
from xaibench.core.warn import warn_caller
from xaibench.core.yaml.document import Document, Section
from xaibench.core.yaml.reasons import reason, shown
from xaibench.models.card import InputSection
from xaibench.suite.entries import entries, listed, spelled_out

Precision = Literal["float32", "float64"]

LONGEST_NAME = 100  # of a label: it becomes part of file names


def _label(value: str) -> str:
    if not re.search(r"\w", value):
        raise ValueError("at least one letter or digit is needed")
    if value != value.strip() or not value.isprintable():
        raise ValueError("one line without blanks around it is needed")
    return value


def _file_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError("letters, digits, '.', '_' and '-' are allowed, a letter or digit first")
    return value


def _entry(value: Any) -> Any:
    if not isinstance(value, str | Mapping | pydantic.BaseModel):
        raise ValueError("a name, or a mapping with `name`, is needed")
    return spelled_out(value)


Label = Annotated[str, pydantic.StringConstraints(max_length=LONGEST_NAME), pydantic.AfterValidator(_label)]
FileName = Annotated[str, pydantic.StringConstraints(max_length=LONGEST_NAME), pydantic.AfterValidator(_file_name)]
SEVERAL = (pydantic.BeforeValidator(listed), pydantic.Field(min_length=1))  # a single entry needs no list
Bare = pydantic.BeforeValidator(_entry)  # a bare name stands for `{name: ...}`
Names = Annotated[list[str], pydantic.BeforeValidator(listed)]


class Named(pydantic.BaseModel):
    """`name`, or `{name: ..., as: ..., <parameters>}`."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    name: str
    as_: Label | None = pydantic.Field(None, alias="as")

    @property
    def label(self) -> str:
        return self.as_ or self.name

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


N = TypeVar("N", bound=Named)


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


class ModelSection(Section):
    """A bundled or timm model. Relative checkpoints are relative to the suite's file, or the data root.

    `methods` are labels (or globs) of the methods of the suite that explain this model; all of them by default.
    `in_chans` is the number of input channels where it is not 3. `extra_channels` says how the first convolution of a
    checkpoint, mean and std are extended from three channels to `in_chans`: see `xaibench.models.checkpoints.stem_for`.
    """

    name: str
    as_: Label | None = pydantic.Field(None, alias="as")
    checkpoint: Path | None = None
    pretrained: bool = False
    num_classes: Count | None = None
    in_chans: Count | None = None
    extra_channels: ExtraChannels | None = None
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    layer: str | None = None
    input: InputSection = InputSection()
    options: dict[str, Any] = {}
    methods: Names = ["*"]

    @property
    def label(self) -> str:
        return self.as_ or self.name


class LeaderboardSection(Section):
    """`reference` is the method that others are to be compared with, `rank_by` the metrics that rank.

    Both are recorded in `suite.resolved.json`; today they change nothing.
    """

    reference: str | None = None
    rank_by: Names = []


class QuickSection(Section):
    """A representative part of the suite for `run --quick`: labels, or globs of labels."""

    models: Names = ["*"]
    methods: Names = ["*"]
    metrics: Names = ["*"]


class Suite(Section):
    """A validated suite."""

    name: FileName
    title: str = ""
    description: str = ""
    source: str = ""
    seed: Natural = 0
    dataset: Annotated[DatasetNamed, Bare]
    models: Annotated[list[Annotated[ModelSection, Bare]], *SEVERAL]
    explain: PairRule = "detected"
    threshold: Fraction = 0.5
    precision: Precision = "float32"
    methods: Annotated[list[Annotated[Named, Bare]], *SEVERAL]
    metrics: Annotated[list[Annotated[MetricNamed, Bare]], *SEVERAL]
    leaderboard: LeaderboardSection = LeaderboardSection()
    quick: QuickSection | None = None
    max_bad_samples: Natural = 0

    _document: Document | None = pydantic.PrivateAttr(None)

    @property
    def text(self) -> str | None:
        """The text of the suite's file; None for a suite without a file."""
        return None if self._document is None else self._document.text

    @property
    def path(self) -> Path | None:
        """The suite's file."""
        return None if self._document is None or not self._document.path.is_file() else self._document.path

    @property
    def folder(self) -> Path:
        """The folder of the suite's file. Relative checkpoints are looked for there."""
        return Path() if self._document is None else self._document.path.parent

    def place(self, section: str, label: str = "", key: str = "") -> str:
        """`file:line:column` of a section, of its entry with this label, or of a key of this entry; "" without a file."""
        if self._document is None:
            return ""
        at = next((entry.at for entry in entries(self._document.data, section) if entry.label == label), (section,))
        return self._document.place((*at, key) if key else at)

    @contextmanager
    def locating(self, section: str, label: str) -> Iterator[None]:
        """Add to errors of the block the place of an entry, or of the key of this entry that they are about."""
        try:
            yield
        except XaibenchError as error:
            error.at(self.place(section, label, error.key))
            raise

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
        of_methods = [note for m in self.methods for note in registry.methods[m.name].old_names(m.parameters)]
        return of_methods + outdated(self.metrics)

    def bound_metrics(self) -> list[BoundMetric]:
        """Metrics with all parameters filled in and groups expanded, in the suite's order."""
        return bind_metrics(self.metrics, self.explain)


def parse_metrics(
    entries: str | Sequence[str | Mapping[str, Any]], explain: PairRule = "detected"
) -> list[BoundMetric]:
    """Metrics from names and mappings, as `xaibench.evaluate(metrics=...)` takes them. Warns of outdated spellings."""
    parsed = [_parse(MetricNamed, "metric", entry) for entry in ([entries] if isinstance(entries, str) else entries)]
    bound = bind_metrics(parsed, explain)
    for note in outdated(parsed):
        warn_caller(note)
    return bound


def parse_method(entry: str | Mapping[str, Any]) -> BoundMethod:
    """A method from its name, or from a mapping `{name: ..., as: ..., <parameters>}`."""
    named = _parse(Named, "method", entry)
    method = registry.methods[named.name]
    bound = BoundMethod(named.label, method, method.bind(named.parameters))
    for note in method.old_names(named.parameters):
        warn_caller(note)
    return bound


def _parse(section: type[N], kind: str, entry: str | Mapping[str, Any]) -> N:
    try:
        return section.model_validate({"name": entry} if isinstance(entry, str) else entry)
    except pydantic.ValidationError as error:
        details = [
            detail for detail in error.errors(include_url=False) if detail["type"] != "missing" and detail["loc"]
        ]
        why = "; ".join(f"{detail['loc'][-1]}: {reason(detail)}" for detail in details)
        raise UsageError(f"{kind} {shown(entry)}: {why or 'a name or a mapping with `name` is needed'}") from error


def outdated(entries: Sequence[MetricNamed]) -> list[str]:
    """A message for each entry, of a metric or a group, that spells parameters in an outdated way."""
    groups = registry.metric_groups()
    notes = [
        note
        for entry in entries
        for name in groups.get(entry.name, [entry.name])
        for note in registry.metrics[name].old_names(entry.parameters, entry.name)
    ]
    return list(dict.fromkeys(notes))


def bind_metrics(entries: Sequence[MetricNamed], explain: PairRule) -> list[BoundMetric]:
    """Expand groups and fill in parameters. Raises UsageError for unknown names or parameters, and for equal labels."""
    bound: dict[str, BoundMetric] = {}
    groups = registry.metric_groups()
    for entry in entries:
        if entry.name not in registry.metrics and entry.name not in groups:
            raise UsageError(registry.metrics.unknown(entry.name))
        for name in groups.get(entry.name, [entry.name]):
            metric = registry.metrics[name]
            label = name if entry.name in groups else entry.label
            if label in bound:
                raise UsageError(f"two metrics are called {label!r}; give one of them another name with `as`")
            bound[label] = BoundMetric(label, metric, metric.bind(entry.parameters), entry.explain or explain)
    return list(bound.values())
