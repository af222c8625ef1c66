"""`Card`: what weights were trained for. It is stored beside them as JSON, and in the metadata of safetensors.

This module imports neither torch nor timm, so that cards and suites are read quickly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import pydantic

from xaibench.core.errors import UsageError, closest
from xaibench.core.registry.bounds import Interpolation, Positive, PositiveFraction, Resize, Side
from xaibench.core.yaml.document import Section
from xaibench.core.yaml.reasons import reasons, shown

if TYPE_CHECKING:
    from xaibench.data.preprocess import Preprocess

KEY = "xaibench"  # of the metadata; one key, because safetensors writes several in a random order


class InputSection(Section):
    """Input geometry and normalisation (see `Preprocess`); what is left out comes from elsewhere."""

    size: Side | tuple[Side, Side] | None = None
    resize: Resize | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    crop: PositiveFraction | None = None
    interpolation: Interpolation | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The section with these keys. Raises UsageError that names every mistake."""
        try:
            return cls.model_validate(given)
        except pydantic.ValidationError as error:
            raise UsageError(f"input: {_problems(error, cls.model_fields)}", key="input") from error

    def over(self, preprocess: Preprocess) -> Preprocess:
        """`preprocess`, changed by the keys that are given here."""
        given = self.model_dump(exclude_none=True)
        if isinstance(self.size, int):
            given["size"] = (self.size, self.size)
        return replace(preprocess, **given)


class DataFacts(pydantic.BaseModel):
    """A data set, by name and revision."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    name: str = ""
    revision: str = ""


class Card(pydantic.BaseModel):
    """What weights were trained for. A card's file holds more, such as the quality, for its readers.

    Attributes:
        name: of the recipe
        architecture: what `create_module` takes, with `options`
        input: geometry and normalisation of the images
        classes: names of the labels in the order of the logits; empty where they are not known
    """

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    name: str = ""
    architecture: str = ""
    options: dict[str, Any] = {}
    input: InputSection = InputSection()
    classes: tuple[str, ...] = ()
    data: DataFacts = DataFacts()

    @classmethod
    def read(cls, text: str, origin: str) -> Self:
        """A card from JSON. Raises UsageError, in which `origin` names the source."""
        try:
            return cls.model_validate(json.loads(text))
        except pydantic.ValidationError as error:
            raise UsageError(f"{origin}: {_problems(error, cls.model_fields)}; correct it or remove it") from error
        except ValueError as error:
            raise UsageError(f"{origin}: not JSON ({error}); correct it or remove it") from error

    def retrained(self, other: Card) -> Card:
        """This architecture with the classes, the input and the data of another card, as far as it has them."""
        merged = self.input.model_copy(update=other.input.model_dump(exclude_none=True))
        classes, data = other.classes or self.classes, other.data if other.classes else self.data
        return self.model_copy(update={"input": merged, "classes": classes, "data": data})

    def metadata(self) -> dict[str, str]:
        """The card as metadata of a safetensors file."""
        return {KEY: self.model_dump_json(exclude_none=True)}

    def check_classes(self, wanted: Sequence[str], origin: str) -> None:
        """Raise UsageError unless the classes are those `wanted`, in that order. A card without classes passes.

        Args:
            origin: the weights, for the message
        """
        if not self.classes or self.classes == tuple(wanted):
            return
        pairs = enumerate(zip(self.classes, wanted, strict=False))
        differences = (f"label {i} is {mine!r}, not {other!r}" for i, (mine, other) in pairs if mine != other)
        difference = next(differences, f"it has {len(self.classes)} labels, not {len(wanted)}")
        if sorted(self.classes) == sorted(wanted):
            raise UsageError(
                f"{origin} was trained on the same classes in another order: {difference}; choose weights that were "
                "trained in the order of the data"
            )
        raise UsageError(
            f"{origin} was trained on other classes than those of the data: {difference}; choose weights that were "
            "trained on these classes"
        )


def _problems(error: pydantic.ValidationError, known: Mapping[str, Any]) -> str:
    """Every mistake in a mapping, in one line."""
    by_key: dict[str, list[Any]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(str(detail["loc"][0]) if detail["loc"] else "the card", []).append(detail)
    return "; ".join(_problem(key, details, known) for key, details in by_key.items())


def _problem(key: str, details: Sequence[Any], known: Mapping[str, Any]) -> str:
    if details[0]["type"] == "extra_forbidden":
        return f"unknown key {key!r}{closest(key, known) or '; allowed: ' + ', '.join(known)}"
    return f"{key}: {reasons(details)}; found {shown(details[0]['input'])}"
