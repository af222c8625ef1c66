"""A YAML file with positions: its values as a pydantic model, and all its problems in one report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from xaibench.core.errors import LONGEST, UsageError, closest
from xaibench.core.yaml import values as yaml_values
from xaibench.core.yaml.reasons import reasons, shown
from xaibench.core.yaml.values import Location, Position, Problem, RefusedError

M = TypeVar("M", bound=pydantic.BaseModel)

MOST_PROBLEMS = 50  # in one report; the search for the closest of many names is slow


class Section(pydantic.BaseModel):
    """A part of a YAML file; unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class ProblemsError(UsageError):
    """All problems of one file, one line each."""

    def __init__(self, path: str, problems: Iterable[Problem]) -> None:
        self.path, self.problems = path, sorted(set(problems))
        lines = [f"{problem.position.render(path)}: {problem.message}" for problem in self.problems[:MOST_PROBLEMS]]
        lines += [f"{path}: there are more problems; mend these first"] * (len(self.problems) > MOST_PROBLEMS)
        super().__init__("\n".join(lines))


class Document:
    """A parsed YAML mapping. `add` notes a problem, `raise_problems` reports them all at once."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        try:
            values = yaml_values.read(text)
        except RefusedError as error:
            raise ProblemsError(str(path), [error.problem]) from None
        self.problems = values.problems
        self._unreadable = {problem.position for problem in self.problems}
        self._keys, self._values, self._texts = values.keys, values.values, values.texts
        if not isinstance(values.data, dict):
            empty = "the file is empty; " if values.data is None else ""
            problem = Problem(Position(1, 1), f"{empty}a mapping of keys to values is needed")
            raise ProblemsError(str(path), self.problems or [problem])
        self.data: dict[Any, Any] = values.data

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file. Raises ProblemsError where it is not a YAML mapping."""
        try:
            return cls(path, yaml_values.decode(path.read_bytes()))
        except RefusedError as error:
            raise ProblemsError(str(path), [error.problem]) from None

    def position(self, at: Location, *, key: bool = False) -> Position:
        """Position of a value (or of its key); for a location that is not in the file that of its nearest parent."""
        order = (self._keys, self._values) if key else (self._values, self._keys)
        for end in range(len(at), -1, -1):
            for positions in order:
                if at[:end] in positions:
                    return positions[at[:end]]
        return Position(1, 1)

    def place(self, at: Location) -> str:
        """`file:line:column` of a value."""
        return self.position(at).render(str(self.path))

    def add(self, at: Location, message: str, *, key: bool = False) -> None:
        """Note a problem of a value (or of its key). Raises ProblemsError when there are more than `MOST_PROBLEMS`."""
        position = self.position(at, key=key)
        if position in self._unreadable:  # another problem of this value is noted already
            return
        self.problems.append(Problem(position, message))
        if len(self.problems) > MOST_PROBLEMS:
            self.raise_problems()

    def raise_problems(self) -> None:
        if self.problems:
            raise ProblemsError(str(self.path), self.problems)

    def override(self, assignment: str) -> None:
        """Apply `key=value` (dotted keys, list positions as numbers; the value is YAML)."""
        short = assignment if len(assignment) <= LONGEST else f"{assignment[:LONGEST]}..."
        origin = (
            f"--set {short.encode(errors='backslashreplace').decode()}"  # a byte that is no UTF-8 cannot be printed
        )
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise UsageError(f"--set {assignment!r}: key=value is needed")
        at = tuple(int(part) if part.isdecimal() and len(part) < 10 else part for part in key.split("."))
        value = read_value(text, origin)
        here: Any = self.data
        for depth, part in enumerate(at):
            _check_part(here, part, ".".join(map(str, at[:depth])), origin)
            if depth == len(at) - 1:
                here[part] = value
            elif isinstance(here, dict):
                here = here.setdefault(part, {})
            else:
                here = here[part]
            if depth == len(at) - 1 or at[: depth + 1] not in self._values:
                self._move(at[: depth + 1], origin)

    def _move(self, at: Location, origin: str) -> None:
        """Record that the value at a location comes from `origin`, and not from the file."""
        for known in (self._keys, self._values, self._texts):
            for old in [old for old in known if old[: len(at)] == at]:
                del known[old]
        self._keys[at] = self._values[at] = Position(0, 0, origin)

    def validate(self, model: type[M]) -> M | None:
        """The document as a pydantic model; None where it has problems, which are all noted."""
        try:
            return model.model_validate(self.data)
        except pydantic.ValidationError as error:
            details = error.errors(include_url=False)
        found: dict[Location, list[Any]] = {}
        for detail in details:
            found.setdefault(self._location(detail), []).append(detail)
        for at, of_one in found.items():
            self.add(at, self._message(at, of_one, model), key=of_one[0]["type"] in ("extra_forbidden", "invalid_key"))
        return None

    def _location(self, detail: Any) -> Location:
        """Location of an error in the data. pydantic's locations also hold names of types, which are not keys."""
        here: Any = self.data
        at: Location = ()
        for part in detail["loc"]:
            if part in (here if isinstance(here, Mapping) else range(len(here)) if isinstance(here, list) else ()):
                here, at = here[part], (*at, part)
            elif isinstance(here, Mapping) and detail["type"] == "missing":
                return (*at, part)
            else:
                return at
        return at

    def _message(self, at: Location, details: Sequence[Any], model: type[pydantic.BaseModel]) -> str:
        """Message about one value; it names several reasons where none of several types fits."""
        first, key = details[0], _name(at)
        if first["type"] == "extra_forbidden":
            allowed = sorted(_fields(model, at[:-1]))
            return f"unknown key {key!r}{closest(key, allowed)}; allowed: {', '.join(allowed)}"
        if first["type"] == "missing" and first["loc"][-1] == at[-1]:
            return f"the key {key!r} is missing"
        if first["type"] == "invalid_key":
            return f"the key {first['loc'][-1]!r} is not text; put it in quotes"
        if first["type"] == "literal_error":
            return f"{key}: {first['input']!r} is not allowed; allowed: {first['ctx']['expected']}"
        return f"{key}: {reasons(details)}; found {self._shown(at, first)}"

    def _shown(self, at: Location, detail: Any) -> str:
        """The value that was found; where text is needed, what YAML reads it as, and how to quote it."""
        value, text = detail["input"], self._texts.get(at)
        if detail["type"] == "string_type" and text and not isinstance(value, str):
            read = "" if text == repr(value) else f", which YAML reads as {value!r}"
            return f"{text}{read}; put it in quotes: '{text}'"
        return shown(value)


def read_value(text: str, origin: str) -> Any:
    """One value of the command line, read as YAML. Raises UsageError where this fails."""
    try:
        values = yaml_values.read(text)
    except RefusedError as error:
        raise UsageError(f"{origin}: {error.problem.message}") from None
    if values.problems:
        raise UsageError(f"{origin}: {values.problems[0].message}")
    return values.data


def _check_part(here: Any, part: str | int, name: str, origin: str) -> None:
    """Raise UsageError where a part of a dotted key leads nowhere.

    Args:
        here: the value that the part should lead into
        name: the dotted key of `here`
    """
    if isinstance(here, list):
        if not (isinstance(part, int) and part < len(here)):
            entries = f"{len(here)} entr{'y' if len(here) == 1 else 'ies'}"
            raise UsageError(f"{origin}: {name} has {entries}, numbered from 0; there is no {shown(part)}")
    elif not isinstance(here, dict):
        raise UsageError(f"{origin}: {name} is a single value ({shown(here)}), which has no {shown(part)}")


def _name(at: Location) -> str:
    """The last key of a location; an entry of a list by its number, counted from 1."""
    keys = [part for part in at if isinstance(part, str)]
    key = keys[-1] if keys else "the file"
    return f"{key}, entry {at[-1] + 1}" if at and isinstance(at[-1], int) else key


def _fields(model: Any, at: Location) -> list[str]:
    """Keys of the model at a location."""
    for part in at:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        model = _inner_model(field.annotation) if field is not None else None
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (inner := _inner_model(argument)) is not None:
            return inner
    return None
