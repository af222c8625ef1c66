"""YAML with positions: the safe loader's values, where each key stands, and every problem of a file in one report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from xaibench.errors import UsageError, closest

Location = tuple[str | int, ...]
M = TypeVar("M", bound=pydantic.BaseModel)


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong: where, and one sentence."""

    line: int
    column: int
    message: str

    def render(self, path: str) -> str:
        return f"{path}:{self.line}:{self.column}: {self.message}"


class ProblemsError(UsageError):
    """All problems of one file, one line each."""

    def __init__(self, path: str, problems: Iterable[Problem]) -> None:
        self.path, self.problems = path, sorted(set(problems))
        super().__init__("\n".join(problem.render(path) for problem in self.problems))


class Document:
    """A parsed YAML mapping. `problems` collects; `raise_problems` reports them all at once."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.problems: list[Problem] = []
        self._keys: dict[Location, tuple[int, int]] = {}
        self._values: dict[Location, tuple[int, int]] = {}
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            self.data: Any = self._build(loader, node, ()) if node is not None else {}
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise ProblemsError(str(path), [Problem(line, column, f"not YAML: {error.problem}")]) from error
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
        if not isinstance(self.data, dict):
            raise ProblemsError(str(path), [Problem(1, 1, "a mapping of keys to values is needed")])

    @classmethod
    def read(cls, path: Path) -> Document:
        return cls(path, path.read_text(encoding="utf-8"))

    def _build(self, loader: Any, node: yaml.Node, at: Location) -> Any:
        self._values[at] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            loader.flatten_mapping(node)
            mapping: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = loader.construct_object(key_node, deep=True)
                position = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
                if key in mapping:
                    first = self._keys[(*at, key)][0]
                    self.problems.append(Problem(*position, f"duplicate key {key!r}; it already stands in line {first}"))
                    continue
                self._keys[(*at, key)] = position
                mapping[key] = self._build(loader, value_node, (*at, key))
            return mapping
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._build(loader, item, (*at, index)) for index, item in enumerate(node.value)]
        return loader.construct_object(node, deep=True)

    def add(self, at: Location, message: str, *, key: bool = False) -> None:
        """Note a problem at a key (or its value); a place that is not in the file is shown at its nearest parent."""
        order = (self._keys, self._values) if key else (self._values, self._keys)
        for end in range(len(at), -1, -1):
            for positions in order:
                if at[:end] in positions:
                    self.problems.append(Problem(*positions[at[:end]], message))
                    return

    def raise_problems(self) -> None:
        if self.problems:
            raise ProblemsError(str(self.path), self.problems)

    def override(self, assignment: str) -> None:
        """Apply `key=value` (dotted keys, list positions as numbers; the value is YAML)."""
        key, separator, value = assignment.partition("=")
        if not separator:
            raise UsageError(f"--set {assignment!r}: key=value is needed")
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        target = self.data
        for part in parents:
            if isinstance(target, dict):
                target = target.setdefault(part, {})
            elif isinstance(target, list) and isinstance(part, int) and part < len(target):
                target = target[part]
            else:
                raise UsageError(f"--set {assignment!r}: there is no {part!r} to set {last!r} in")
        if isinstance(target, list) and not (isinstance(last, int) and last < len(target)):
            raise UsageError(f"--set {assignment!r}: the list has {len(target)} entries")
        if not isinstance(target, dict | list):
            raise UsageError(f"--set {assignment!r}: {'.'.join(map(str, parents))} is a single value")
        target[last] = yaml.safe_load(value)  # type: ignore[index, call-overload]

    def validate(self, model: type[M], stand_ins: Mapping[str, Any] | None = None) -> M | None:
        """The document as a pydantic model; problems are noted, their keys dropped, and the rest is tried again.

        Args:
            stand_ins: values for required top-level keys that are missing or wrong, so that the rest can be checked too

        Returns:
            None when what is left is not enough. `raise_problems` afterwards says what was noted.
        """
        dropped: set[Location] = set()
        for _ in range(100):
            try:
                return model.model_validate(self.data)
            except pydantic.ValidationError as error:
                changed = False
                for detail in error.errors():
                    at = tuple(part for part in detail["loc"] if not _is_tag(part, self.data))
                    if at not in dropped:
                        self.add(at, _sentence(detail, at, model), key=detail["type"] == "extra_forbidden")
                    if at and at[0] in (stand_ins or {}) and (len(at) == 1 or detail["type"] == "missing"):
                        self.data[at[0]] = (stand_ins or {})[str(at[0])]
                        changed = True
                    elif detail["type"] != "missing" and _drop(self.data, at):
                        dropped.add(at)
                        changed = True
                if not changed:
                    return None
        return None


def _is_tag(part: str | int, data: Any) -> bool:
    """pydantic puts names of union branches and types into locations; they stand in no file."""
    return isinstance(part, str) and ("[" in part or part in ("int", "str", "float", "bool")) and part not in str(data)


def _sentence(detail: Any, at: Location, model: type[pydantic.BaseModel]) -> str:
    key = at[-1] if at else ""
    if detail["type"] == "extra_forbidden":
        allowed = sorted(_fields(model, at[:-1]))
        return f"unknown key {key!r}{closest(str(key), allowed) or ''}; allowed: {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"the key {key!r} is missing"
    if detail["type"] == "literal_error":
        found = str(detail["input"])
        expected = detail["ctx"]["expected"]
        return f"{key}: {found!r} is not allowed; allowed: {expected}"
    return f"{key}: {detail['msg'][0].lower()}{detail['msg'][1:]}; found {detail['input']!r}"


def _fields(model: Any, at: Location) -> list[str]:
    """Keys that the model at a location takes."""
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


def _drop(data: Any, at: Location) -> bool:
    for part in at[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return False
    try:
        del data[at[-1]]
    except (KeyError, IndexError, TypeError):
        return False
    return True
