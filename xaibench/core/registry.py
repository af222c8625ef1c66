"""One small registry for methods, metrics and data sets: register by decorator, key = the function's own name.

Facts are data: what a method needs, a metric's direction and range, a data set's classes are fields of the
registration; `show`, `list`, `validate`, the docs and the tables are made from them. Parameters are the keyword-only
arguments of the function, checked against their annotations by pydantic.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

from xaibench.core.errors import UsageError, closest, unknown
from xaibench.core.reasons import reasons, shown

# What a method may need and a Classifier (or a batch) may offer; `xaibench.models.capabilities` checks it.
NEEDS = {
    "features": "the activations of a named layer as a grid [B, K, h, w]",
    "gradients": "gradients of logits with respect to that layer",
    "linear_head": "logits = head_weight · (spatial mean of the last features) + bias, checked numerically",
    "input_gradients": "gradients of logits with respect to the input",
    "attention": "attention matrices of transformer blocks of equal token grid",
    "attention_gradients": "gradients of logits with respect to those attention matrices",
    "transformer_blocks": "every activation of timm's plain transformer blocks, for relevance propagation",
    "patch_embedding": "a stem that is one convolution over whole patches, for relevance of pixels",
    "relu": "ReLU activations only",
    "any_size": "images of other sizes than its own",
    "masks": "ground-truth masks of the data set",
    "method": "of a metric: the method itself, to explain changed images or a changed model",
}

# Arguments of `xaibench.explain`, and keys of an entry in a suite: a parameter of that name could not be given.
RESERVED = {
    "method": ("classifier", "images", "method", "masks", "labels", "pairs", "parameters", "name"),
    "metric": ("name", "explain"),
}

# What may be done to the maps of a metric that claims it, without any of its values changing.
INVARIANCES = {"scale": "all maps multiplied by one positive number, those of images explained again too"}


PairRule = Literal["detected", "present", "predicted", "target"]  # which labels of an image are explained
PER_IMAGE = -1  # the label of a value that belongs to an image and not to a pair


@dataclass(frozen=True)
class Entry:
    """A registered callable and its facts. `parameters` are its keyword-only arguments.

    Attributes:
        renamed: parameters by their old names, which are accepted for one release
    """

    name: str
    function: Callable[..., Any]
    source: str
    version: int
    renamed: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        signature = inspect.signature(self.function)
        return {n: p for n, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}

    @cached_property
    def annotations(self) -> Mapping[str, Any]:
        """Types of the parameters with their bounds."""
        return self._hints(include_extras=True)

    @cached_property
    def types(self) -> Mapping[str, Any]:
        """Types of the parameters alone."""
        return self._hints(include_extras=False)

    def _hints(self, include_extras: bool) -> Mapping[str, Any]:
        target = self.function.__init__ if inspect.isclass(self.function) else self.function  # type: ignore[misc]
        return typing.get_type_hints(target, include_extras=include_extras)

    @cached_property
    def _adapters(self) -> dict[str, Any]:
        return {}

    def _adapter(self, parameter: str) -> Any:
        """What checks a parameter's value: its type and its bounds; infinity and NaN are no numbers."""
        import pydantic

        if parameter not in self._adapters:
            annotation = self.annotations[parameter]
            try:
                config = pydantic.ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
                self._adapters[parameter] = pydantic.TypeAdapter(annotation, config=config)
            except pydantic.PydanticUserError:  # a model or a dataclass has a configuration of its own
                self._adapters[parameter] = pydantic.TypeAdapter(annotation)
        return self._adapters[parameter]

    @property
    def summary(self) -> str:
        return inspect.getdoc(self.function).splitlines()[0] if inspect.getdoc(self.function) else ""  # type: ignore[union-attr]

    @property
    def documentation(self) -> str:
        return inspect.getdoc(self.function) or ""

    @property
    def location(self) -> str:
        return f"{inspect.getsourcefile(self.function)}:{inspect.getsourcelines(self.function)[1]}"

    def problems(self, given: Mapping[str, Any]) -> dict[str, str]:
        """What is wrong with these parameters, by key; {} when all is well."""
        import pydantic

        found: dict[str, str] = {}
        for key, value in given.items():
            name = self.renamed.get(key, key)
            if name != key and name in given:
                found[key] = (
                    f"{self.name}: parameter {key!r} is the old name of {name!r}, which is given too; remove it"
                )
                continue
            if name not in self.parameters:
                allowed = f"; its parameters: {', '.join(self.parameters) or 'none'}"
                found[key] = f"{self.name} has no parameter {key!r}{closest(key, self.parameters) or allowed}"
                continue
            try:
                self._adapter(name).validate_python(value, strict=True)
            except pydantic.ValidationError as error:
                why = reasons(error.errors(include_url=False))
                found[key] = f"{self.name}: parameter {key!r} = {shown(value)}: {why}"
        new = self.with_new_names(given)
        missing = [n for n, p in self.parameters.items() if p.default is inspect.Parameter.empty and n not in new]
        found.update({n: f"{self.name} needs the parameter {n!r}" for n in missing})
        return found

    def with_new_names(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters with old names replaced by new ones."""
        return {self.renamed.get(name, name): value for name, value in given.items()}

    def old_names(self, given: Mapping[str, Any]) -> list[str]:
        """A message for each parameter that is given by its old name."""
        return [
            f"{self.name}: parameter {name!r} is now called {self.renamed[name]!r}; write the new name, "
            "the next release refuses the old one"
            for name in given
            if name in self.renamed
        ]

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters, defaults filled in. Raises UsageError naming every problem."""
        if problems := self.problems(given):
            raise UsageError("; ".join(problems.values()))
        given = self.with_new_names(given)
        return {n: given.get(n, p.default) for n, p in self.parameters.items()}


@dataclass(frozen=True)
class Method(Entry):
    """An attribution method: `function(forward, pairs, **parameters) -> Tensor [P, h, w]`, raw and signed."""

    needs: tuple[str, ...] = ()
    cost: str = ""
    control: bool = False


@dataclass(frozen=True)
class Metric(Entry):
    """A metric: `function(evaluation, **parameters) -> Tensor [P]` (or [P, S], see `xaibench.results.scores`).

    With `per="image"` the rows are the images of the batch, [B] or [B, S], also those without a pair.
    """

    better: Literal["higher", "lower"] = "higher"
    range: tuple[float, float] = (0.0, 1.0)
    unit: str = "fraction"
    needs: tuple[str, ...] = ()
    aggregate: str = "mean"
    group: str = ""
    minimum_effect: float = 0.0
    cost: str = ""
    per: Literal["pair", "image"] = "pair"
    flips: tuple[str, ...] = ()  # parameter values that each turn `better` round, such as an order of "lerf"
    invariant: tuple[str, ...] = ("scale",)  # what does not change a value, with default parameters
    repeatable: bool = True  # False: a measurement of the machine, such as seconds

    def direction(self, parameters: Mapping[str, Any]) -> Literal["higher", "lower"]:
        """Which way is better under these parameters."""
        if sum(value in self.flips for value in parameters.values() if isinstance(value, str)) % 2 == 0:
            return self.better
        return "lower" if self.better == "higher" else "higher"

    def aggregation(self, parameters: Mapping[str, Any]) -> str:
        """The name of the aggregation; a parameter called `average` decides where there is one."""
        return str(parameters.get("average", self.aggregate))


@dataclass(frozen=True)
class DatasetEntry(Entry):
    """A data set class; its keyword-only constructor arguments are its options."""

    classes: Sequence[str] = ()
    splits: tuple[str, ...] = ()
    masks: bool = False
    single_label: bool = False

    def masks_with(self, options: Mapping[str, Any]) -> bool:
        """Whether samples carry masks under these options (a class may know better: `offers_masks`)."""
        decide = getattr(self.function, "offers_masks", None)
        return bool(decide(options)) if decide is not None else self.masks


E = TypeVar("E", bound=Entry)
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[E]):
    """Names to entries. The package's modules are imported on the first look, so importing xaibench stays cheap."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, E] = {}
        self._loaded = False

    def add(self, entry: E) -> None:
        module = entry.function.__module__
        if module.split(".")[0] == self.package.split(".")[-1]:
            raise ImportError(
                f"{module} was imported as a top-level module; import it as xaibench.{module}, else every "
                f"{self.kind} in it would be registered twice"
            )
        if entry.name in self._entries:
            raise ValueError(
                f"{self.kind} {entry.name!r} is defined twice: {self._entries[entry.name].location} and {entry.location}"
            )
        self._entries[entry.name] = entry

    def load(self) -> None:
        """Import the modules of the package, and the plugins that are installed."""
        if self._loaded:
            return
        from xaibench.core.plugins import load_entry_points

        self._loaded = True
        package = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{self.package}.{module}")
        load_entry_points()

    def __getitem__(self, name: str) -> E:
        self.load()
        if name not in self._entries:
            raise UsageError(self.unknown(name))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self.load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(sorted(self._entries))

    def names(self, glob: str = "*") -> list[str]:
        return fnmatch.filter(self, glob)

    def unknown(self, name: str) -> str:
        """The sentence for a name that is not registered; one that is registered as something else is called that."""
        for other in (methods, metrics, datasets):
            if other is not self and name in other:
                return f"unknown {self.kind} {name!r}: that is a {other.kind}"
        groups = metric_groups()
        if name in groups:
            return f"unknown {self.kind} {name!r}: that is a group of metrics"
        return unknown(self.kind, name, [*self, *(groups if self is metrics else ())])


methods: Registry[Method] = Registry("method", "xaibench.methods")
metrics: Registry[Metric] = Registry("metric", "xaibench.metrics")
datasets: Registry[DatasetEntry] = Registry("dataset", "xaibench.data.datasets")


def method(
    *,
    source: str,
    needs: tuple[str, ...] = (),
    version: int = 1,
    cost: str = "",
    control: bool = False,
    renamed: Mapping[str, str] | None = None,
) -> Callable[[F], F]:
    """Register an attribution method under its function's name; a `control` explains nothing and wins no table."""
    _check_needs(needs)

    def register(function: F) -> F:
        entry = Method(
            name=function.__name__,
            function=function,
            source=source,
            version=version,
            needs=needs,
            cost=cost,
            control=control,
            renamed=renamed or {},
        )
        _check_reserved("method", entry)
        methods.add(entry)
        return function

    return register


def metric(
    *,
    better: Literal["higher", "lower"],
    range: tuple[float, float],
    source: str,
    unit: str = "fraction",
    needs: tuple[str, ...] = (),
    aggregate: str = "mean",
    group: str = "",
    minimum_effect: float = 0.0,
    version: int = 1,
    cost: str = "",
    flips: tuple[str, ...] = (),
    per: Literal["pair", "image"] = "pair",
    invariant: tuple[str, ...] = ("scale",),
    repeatable: bool = True,
) -> Callable[[F], F]:
    """Register a metric under its function's name; `invariant` names what of `INVARIANCES` it claims."""
    _check_needs(needs)
    if unheard := set(invariant) - set(INVARIANCES):
        raise ValueError(f"invariant: {sorted(unheard)} is none of {list(INVARIANCES)}")

    def register(function: F) -> F:
        entry = Metric(
            name=function.__name__,
            function=function,
            source=source,
            version=version,
            better=better,
            range=range,
            unit=unit,
            needs=needs,
            aggregate=aggregate,
            group=group,
            minimum_effect=minimum_effect,
            cost=cost,
            per=per,
            flips=flips,
            invariant=invariant,
            repeatable=repeatable,
        )
        _check_reserved("metric", entry)
        metrics.add(entry)
        return function

    return register


def metric_groups() -> dict[str, list[str]]:
    """Group name to its metrics, in name order: what `metrics: [multi_label]` in a suite stands for."""
    groups: dict[str, list[str]] = {}
    for name in metrics:
        if metrics[name].group:
            groups.setdefault(metrics[name].group, []).append(name)
    return groups


def _check_needs(needs: tuple[str, ...]) -> None:
    for need in needs:
        if need not in NEEDS:
            raise ValueError(unknown("need", need, NEEDS))


def _check_reserved(kind: str, entry: Entry) -> None:
    for name in RESERVED[kind]:
        if name in entry.parameters:
            raise ValueError(
                f"{kind} {entry.name}: rename its parameter {name!r}; reserved: {', '.join(RESERVED[kind])}"
            )
