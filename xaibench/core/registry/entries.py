"""Entries of the registry: methods, metrics and data sets with their facts, and with parameters bound to them.

Facts are data: what a method needs, a metric's direction and range, a data set's classes are fields of the
registration; `show`, `list`, `validate`, the docs and the tables are made from them. Parameters are the keyword-only
arguments of the function, checked against their annotations by pydantic.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from xaibench.core.registry.cost import Passes
from xaibench.core.registry.parameters import Parametrised

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
AVERAGE = "average"  # the parameter that chooses among the averages of a metric
PER_IMAGE = -1  # the label of a value that belongs to an image and not to a pair


@dataclass(frozen=True)
class Entry(Parametrised):
    """A registered callable and its facts.

    Attributes:
        source_hash: of the source of a function that a script hands in, which has no version; "" for others
    """

    source: str
    version: int
    source_hash: str = field(default="", kw_only=True)

    @property
    def summary(self) -> str:
        return inspect.getdoc(self.function).splitlines()[0] if inspect.getdoc(self.function) else ""  # type: ignore[union-attr]

    @property
    def documentation(self) -> str:
        return inspect.getdoc(self.function) or ""

    @property
    def location(self) -> str:
        return f"{inspect.getsourcefile(self.function)}:{inspect.getsourcelines(self.function)[1]}"


@dataclass(frozen=True)
class Computation(Entry):
    """A method or a metric.

    Attributes:
        forwards: passes of the model per image, see `xaibench.core.registry.cost`; None: the registration does not say
        backwards: likewise
        note: what passes do not tell about the cost
        criticism: what is known against it
        rankings_change_with: parameters, and what else decides the order in which it puts methods
        elsewhere: its name in other libraries, and what they compute otherwise
    """

    needs: tuple[str, ...] = ()
    forwards: Passes | None = None
    backwards: Passes | None = None
    note: str = ""
    criticism: str = ""
    rankings_change_with: tuple[str, ...] = ()
    elsewhere: str = ""

    @property
    def cost(self) -> str:
        """The passes and the note in words."""
        if self.forwards is None or self.backwards is None:
            return self.note
        texts = {"forwards": self.forwards.text, "backwards": self.backwards.text}
        passes = ", ".join(f"`{text}` {kind}" for kind, text in texts.items() if text != "0") or "no pass"
        return f"{passes}; {self.note}" if self.note else passes


@dataclass(frozen=True)
class Method(Computation):
    """An attribution method: `function(forward, pairs, **parameters) -> Tensor [P, h, w]`, raw and signed."""

    control: bool = False


@dataclass(frozen=True)
class Metric(Computation):
    """A metric: `function(evaluation, **parameters) -> Tensor [P]` (or [P, S], see `xaibench.core.aggregation`).

    With `per="image"` the rows are the images of the batch, [B] or [B, S], also those without a pair.

    Attributes:
        averages: names of aggregations. Where there are several, the parameter `average` chooses one of them, the first
            by default; it is no argument of the function
        flips: parameters to the value that turns `better` round, such as {"order": "lerf"}
        invariant: what of `INVARIANCES` does not change a value, with default parameters
        repeatable: False for a measurement of the machine, such as seconds
    """

    better: Literal["higher", "lower"] = "higher"
    range: tuple[float, float] = (0.0, 1.0)
    unit: str = "fraction"
    averages: tuple[str, ...] = ("mean",)
    group: str = ""
    minimum_effect: float = 0.0
    per: Literal["pair", "image"] = "pair"
    flips: Mapping[str, str] = field(default_factory=dict)
    invariant: tuple[str, ...] = ("scale",)
    repeatable: bool = True

    def _added(self) -> Sequence[inspect.Parameter]:
        if len(self.averages) < 2:
            return ()
        choices: Any = Literal[self.averages]
        keyword = inspect.Parameter.KEYWORD_ONLY
        return (inspect.Parameter(AVERAGE, keyword, default=self.averages[0], annotation=choices),)

    def direction(self, parameters: Mapping[str, Any]) -> Literal["higher", "lower"]:
        """Which way is better under these parameters."""
        if sum(parameters.get(name) == value for name, value in self.flips.items()) % 2 == 0:
            return self.better
        return "lower" if self.better == "higher" else "higher"


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


@dataclass(frozen=True)
class BoundMethod:
    """A method with all its parameters, under the label that a suite gives it."""

    label: str
    entry: Method
    parameters: Mapping[str, Any]

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The parameters as the function takes them."""
        return self.entry.arguments(self.parameters)


@dataclass(frozen=True)
class BoundMetric:
    """A metric with all its parameters, under the label that a suite gives it, and the pairs that it is measured on."""

    label: str
    entry: Metric
    parameters: Mapping[str, Any]
    explain: PairRule

    @property
    def deciding(self) -> Mapping[str, Any]:
        """The parameters that decide a value: all but `average`."""
        return {name: value for name, value in self.parameters.items() if name != AVERAGE}

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The deciding parameters as the function takes them."""
        return self.entry.arguments(self.deciding)

    @property
    def aggregate(self) -> str:
        """The name of the aggregation."""
        return str(self.parameters.get(AVERAGE, self.entry.averages[0]))

    @property
    def better(self) -> Literal["higher", "lower"]:
        return self.entry.direction(self.parameters)
