"""One small registry for methods, metrics and data sets: register by decorator, key = the function's own name."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar

from xaibench.core.errors import UsageError, unknown
from xaibench.core.registry.cost import Cost, Passes, check, passes
from xaibench.core.registry.entries import (
    INVARIANCES,
    NEEDS,
    RESERVED,
    BoundMethod,
    Computation,
    DatasetEntry,
    Entry,
    Method,
    Metric,
)

E = TypeVar("E", bound=Entry)
F = TypeVar("F", bound=Callable[..., Any])
D = TypeVar("D", bound=type[Any])  # a subclass of `xaibench.data.Dataset`, which lies above
ARGS = "Args:\n"


class Registry(Generic[E]):
    """Names to entries. The package's modules are imported on the first look, so importing xaibench stays cheap."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self.then: Callable[[], None] = lambda: None  # called after the import, to load plugins
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
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{self.package}.{module}")
        self.then()

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
        """Message for a name that is not registered; it says where the name is registered as something else."""
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
    forwards: Cost | None = None,
    backwards: Cost | None = None,
    cost: str = "",
    criticism: str = "",
    rankings_change_with: tuple[str, ...] = (),
    elsewhere: str = "",
    control: bool = False,
    renamed: Mapping[str, str] | None = None,
) -> Callable[[F], F]:
    """Register an attribution method under its function's name; a `control` explains nothing and wins no table.

    What the facts mean stands in `Method`; `cost` is a note beside `forwards` and `backwards`.
    """
    _check_needs(needs)

    def register(function: F) -> F:
        entry = Method(
            name=function.__name__,
            function=function,
            source=source,
            version=version,
            needs=needs,
            forwards=_passes("method", function, "forwards", forwards),
            backwards=_passes("method", function, "backwards", backwards),
            note=cost,
            criticism=criticism,
            rankings_change_with=rankings_change_with,
            elsewhere=elsewhere,
            control=control,
            renamed=renamed or {},
        )
        _check_names("method", entry)
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
    average: str | tuple[str, ...] = "mean",
    group: str = "",
    minimum_effect: float = 0.0,
    version: int = 1,
    forwards: Cost | None = None,
    backwards: Cost | None = None,
    cost: str = "",
    criticism: str = "",
    rankings_change_with: tuple[str, ...] = (),
    elsewhere: str = "",
    flips: Mapping[str, str] | None = None,
    per: Literal["pair", "image"] = "pair",
    invariant: tuple[str, ...] = ("scale",),
    repeatable: bool = True,
) -> Callable[[F], F]:
    """Register a metric under its function's name.

    What the facts mean stands in `Metric`; `cost` is a note beside `forwards` and `backwards`.
    """
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
            averages=(average,) if isinstance(average, str) else average,
            group=group,
            minimum_effect=minimum_effect,
            forwards=_passes("metric", function, "forwards", forwards),
            backwards=_passes("metric", function, "backwards", backwards),
            note=cost,
            criticism=criticism,
            rankings_change_with=rankings_change_with,
            elsewhere=elsewhere,
            per=per,
            flips=flips or {},
            invariant=invariant,
            repeatable=repeatable,
        )
        _check_names("metric", entry)
        metrics.add(entry)
        return function

    return register


def dataset(
    *,
    classes: Sequence[str],
    splits: Sequence[str],
    source: str,
    masks: bool = False,
    single_label: bool = False,
    version: int = 1,
) -> Callable[[D], D]:
    """Register a data set, a subclass of `xaibench.Dataset`, under its class's name.

    A class without `Args:` in its docstring gets those of the class that it inherits its options from.
    """

    def register(cls: D) -> D:
        cls.__doc__ = _with_inherited_options(cls)
        entry = DatasetEntry(
            name=cls.__name__,
            function=cls,
            source=source,
            version=version,
            classes=classes,
            splits=tuple(splits),
            masks=masks,
            single_label=single_label,
        )
        cls.entry = entry
        datasets.add(entry)
        return cls

    return register


def _with_inherited_options(cls: type) -> str:
    """The docstring of a class, with the `Args:` of the nearest base class where it has none of its own."""
    own = inspect.cleandoc(cls.__doc__ or "")
    if ARGS in own:
        return own
    documented = (inspect.cleandoc(base.__doc__ or "") for base in cls.__mro__[1:])
    options = next((text.partition(ARGS)[2] for text in documented if ARGS in text), None)
    return own if options is None else f"{own}\n\n{ARGS}{options}"


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


def _passes(kind: str, function: Callable[..., Any], which: str, cost: Cost | None) -> Passes | None:
    """The formulas of a registration. Raises ValueError, naming it, for one that is none."""
    with _naming(kind, function.__name__, which):
        return None if cost is None else passes(cost)


def _check_names(kind: str, entry: Computation) -> None:
    """Raise ValueError for a parameter that could not be given, and for unknown names in formulas."""
    for name in RESERVED[kind]:
        if name in entry.parameters:
            raise ValueError(
                f"{kind} {entry.name}: rename its parameter {name!r}; reserved: {', '.join(RESERVED[kind])}"
            )
    for which, found in (("forwards", entry.forwards), ("backwards", entry.backwards)):
        if found is not None:
            with _naming(kind, entry.name, which):
                check(found, entry.parameters)


@contextmanager
def _naming(kind: str, name: str, fact: str) -> Iterator[None]:
    """Put the registration in front of the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{kind} {name}: {fact}: {error}") from None


def bound_method(name: str, parameters: Mapping[str, Any], label: str = "") -> BoundMethod:
    """A registered method with its parameters. Raises UsageError for an unknown name or parameter."""
    entry = methods[name]
    return BoundMethod(label or name, entry, entry.bind(parameters))
