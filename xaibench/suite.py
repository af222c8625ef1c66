"""`Suite`: what is measured. The only place that knows the file format.

A suite says WHAT is measured; batch size, device and paths belong to the command line. Every problem of a file is
found in one go and reported with its line: unknown and duplicate keys, names, parameters, methods that fit no model,
metrics that need what the data set lacks.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from xaibench import registry
from xaibench.errors import UsageError, unknown
from xaibench.yamlfile import Document, Location

Explain = Literal["detected", "present", "predicted", "target"]
Kind = Literal["models", "methods", "metrics"]
Precision = Literal["float32", "float64"]
Globs = str | Sequence[str]


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
    explain: Explain | None = None


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


# in place of what is missing or wrong, so that one report names every problem of a file
STAND_INS = {
    "name": "unnamed",
    "dataset": {"name": "shapes"},
    "models": ["shapes-resnet"],
    "methods": ["cam"],
    "metrics": ["sparseness"],
}


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
    explain: Explain = "detected"
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
    explain: Explain

    @property
    def aggregate(self) -> str:
        return self.entry.aggregation(self.parameters)

    @property
    def better(self) -> str:
        return self.entry.direction(self.parameters)


def parse_metrics(entries: Sequence[str | Mapping[str, Any]], explain: Explain = "detected") -> list[BoundMetric]:
    """Metrics from names and mappings, as `xaibench.evaluate(metrics=...)` takes them."""
    parsed = []
    for entry in entries:
        try:
            parsed.append(MetricNamed.model_validate({"name": entry} if isinstance(entry, str) else entry))
        except pydantic.ValidationError as error:
            raise UsageError(f"metric {entry!r}: a name or a mapping with `name` is needed") from error
    return bind_metrics(parsed, explain)


def bind_metrics(entries: Sequence[MetricNamed], explain: Explain) -> list[BoundMetric]:
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


def find_suite(name: str) -> Path:
    """The file of a suite: a path, or the bare name of one that is shipped."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or "/" in name:
        if not path.is_file():
            raise UsageError(f"suite {name}: no such file")
        return path
    shipped = shipped_suites()
    if name not in shipped:
        raise UsageError(unknown("suite", name, shipped) + "; or give the path of a .yaml file")
    return shipped[name]


def shipped_suites() -> dict[str, Path]:
    folder = importlib.resources.files("xaibench.suites")
    files = [Path(str(item)) for item in folder.iterdir() if item.name.endswith(".yaml")]
    return {file.stem: file for file in sorted(files)}


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read and check a suite. Raises ProblemsError with every problem of the file."""
    document = Document.read(path)
    for assignment in overrides:
        document.override(assignment)
    suite = document.validate(Suite, STAND_INS)
    if suite is not None:
        _check_names(suite, document)
    document.raise_problems()
    assert suite is not None
    return suite


def _check_names(suite: Suite, document: Document) -> None:
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


N = TypeVar("N", Named, MetricNamed, ModelSection)


def select(suite: Suite, *, models: Globs = "*", methods: Globs = "*", metrics: Globs = "*") -> Suite:
    """The suite with only what the globs choose (metric groups are spelled out). Raises UsageError if nothing is left."""

    def keep(kind: str, entries: list[N], globs: Globs) -> list[N]:
        patterns = [globs] if isinstance(globs, str) else globs
        kept = [entry for entry in entries if any(fnmatch(entry.label, pattern) for pattern in patterns)]
        if not kept:
            labels = ", ".join(entry.label for entry in entries)
            raise UsageError(f"--{kind} {', '.join(patterns)!r} chooses nothing of the suite's {kind}s: {labels}")
        return kept

    groups = registry.metric_groups()
    spelled = [
        entry if entry.name not in groups else entry.model_copy(update={"name": name, "as_": None})
        for entry in suite.metrics
        for name in groups.get(entry.name, [entry.name])
    ]
    chosen_metrics = keep("metric", spelled, metrics)
    chosen_methods = keep("method", suite.methods, methods)
    kept_labels = {entry.label for entry in chosen_metrics}
    board = suite.leaderboard
    return suite.model_copy(
        update={
            "models": keep("model", suite.models, models),
            "methods": chosen_methods,
            "metrics": chosen_metrics,
            "leaderboard": LeaderboardSection(
                reference=board.reference if board.reference in {m.label for m in chosen_methods} else None,
                rank_by=[label for label in board.rank_by if label in kept_labels],
            ),
        }
    )


def quick(suite: Suite) -> Suite:
    """The suite's own representative part. Raises UsageError where it names none."""
    if suite.quick is None:
        raise UsageError(f"suite {suite.name} names no quick part; add `quick: {{methods: [...]}}`, or use --method")
    return select(suite, **suite.quick.model_dump())
