"""Read YAML text as plain values with positions. Limits that no suite reaches keep hostile files from filling memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

Location = tuple[str | int, ...]

MOST_BYTES = 1_000_000
MOST_NODES = 20_000  # with aliases written out
DEEPEST = 50
MOST_DIGITS = 18  # of a whole number: what fits into 64 bits

TAG = "tag:yaml.org,2002:"
KINDS = {"null": "null", "bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}
# control characters (but tab and line feed) and halves of surrogate pairs: no name or file name can hold them
NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# a pattern of PyYAML's message, the message that replaces it, and whether the mistake is where the construct began
MESSAGES = (
    (r"character '\\t' that cannot start", "a tab is used to indent; use spaces", False),
    (r"character '(.)' that cannot start", "a value cannot begin with '{0}'; put it in quotes", False),
    (r"expected ',' or '\]'", "the list that opens here is not closed; write ']', or ',' between its entries", True),
    (r"expected ',' or '}'", "the mapping that opens here is not closed; write '}}', or ',' between its entries", True),
    (r"mapping values are not allowed", "a ':' that cannot stand here; put the text in quotes, or mend the indentation",
     False),
    (r"could not find expected ':'", "a line without ':' among keys and values; write 'key: value'", True),
    (r"unexpected (?:end of stream|document separator)", "the text that opens with a quote here is not closed", True),
    (r"undefined alias '(.*)'", "'*{0}' stands for nothing; put a pattern that begins with '*' in quotes", False),
    (r"expected alphabetic or numeric character", "put a pattern that begins with '*' (or '&') in quotes", True),
    (r"unknown escape character (.*)", "no backslash may stand before {0} in double quotes; use single quotes", False),
    (r"escape sequence", "a backslash in double quotes begins a character's number; use single quotes", False),
    (r"chomping|a comment or a line break|indentation indicator",
     "after '|' or '>' the text begins on the next line; put a value that begins so in quotes", False),
    (r"expected (?:URI|'!')|tag handle", "a value that begins with '!' is a tag; put it in quotes", True),
    (r"expected '<document start>'", "this line begins further left than the first; begin all keys in the same column", False),
    (r"sequence entries are not allowed", "an entry of a list ('- ...') begins a line of its own", False),
    (r"but found '<scalar>'", "text goes on after its closing quote; write a quote inside of quotes twice", False),
    (r"second occurrence", "an anchor of this name stands above already", False),
    (r"expected <block end>|expected the node content",
     "the indentation differs from that of the lines above, or an entry is missing", False),
    (r"another document", "a second document begins here; one is allowed", False),
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Position:
    """A place in a file, or `origin`: an option that replaces the file's value, such as `--set seed=1`."""

    line: int
    column: int
    origin: str = ""

    def render(self, path: str) -> str:
        return self.origin or f"{path}:{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Problem:
    """A mistake: its position, and a message of one sentence."""

    position: Position
    message: str


class RefusedError(Exception):
    """A text that cannot be read as YAML; holds its one problem."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(position, message)


@dataclass
class Values:
    """What was read from a text.

    Attributes:
        data: its values
        keys, values: positions by location
        texts: scalars as they were written, by location
        problems: of values that could not be read
    """

    data: Any = None
    keys: dict[Location, Position] = field(default_factory=dict)
    values: dict[Location, Position] = field(default_factory=dict)
    texts: dict[Location, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def decode(content: bytes) -> str:
    """UTF-8 text. Raises RefusedError for another encoding, or a text that is too long."""
    if len(content) > MOST_BYTES:
        raise RefusedError(Position(1, 1), f"the file has {len(content):,} bytes; at most {MOST_BYTES:,} are read")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _line_and_column(content[: error.start].decode("utf-8", "replace"))
        message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise RefusedError(Position(line, column), message) from None


def read(text: str) -> Values:
    """Values of a text; None for an empty one. Raises RefusedError where it is not YAML or passes a limit."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        character = f"{chr(error.character)!r}" if isinstance(error.character, int) else repr(error.character)
        position = Position(*_line_and_column(text[: error.position]))
        raise RefusedError(position, f"not YAML: the character {character} cannot stand in a text file") from None
    try:
        return _Reading(loader).values
    except yaml.MarkedYAMLError as error:
        raise RefusedError(*_explained(error)) from None
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def _line_and_column(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1) if mark is not None else Position(1, 1)


def _explained(error: yaml.MarkedYAMLError) -> tuple[Position, str]:
    """Position and message of a syntax error."""
    for pattern, message, at_start in MESSAGES:
        if found := re.search(pattern, error.problem or ""):
            mark = error.context_mark if at_start and error.context_mark is not None else error.problem_mark
            return _position(mark), f"not YAML: {message.format(*found.groups())}"
    return _position(error.problem_mark), f"not YAML: {error.problem}"


class _Loader(yaml.SafeLoader):
    """A YAML loader that checks the limits while it parses, so that an oversized text is not parsed to its end."""

    depth = nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        check_limits(self.depth, self.nodes, mark)
        try:
            return super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        finally:
            self.depth -= 1


# A date is text, and 1e-3 is a number (PyYAML wants 1.0e-3).
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{TAG}float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def check_limits(depth: int, nodes: int, mark: Any) -> None:
    """Raise RefusedError past a limit."""
    if depth > DEEPEST:
        raise RefusedError(_position(mark), f"nested more than {DEEPEST} levels deep, or an alias that holds itself")
    if nodes > MOST_NODES:
        raise RefusedError(_position(mark), f"more than {MOST_NODES:,} keys and values (aliases written out)")


class _Reading:
    """One pass over the nodes of a text."""

    def __init__(self, loader: _Loader) -> None:
        self.loader, self.values, self.nodes = loader, Values(), 0
        node = loader.get_single_node()
        if node is not None:
            self.values.data = self._build(node, ())

    def _build(self, node: yaml.Node, at: Location) -> Any:
        self._count(node, len(at) + 1)
        self.values.values[at] = _position(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        if node.tag == f"{TAG}map":
            return self._mapping(node, at)
        if node.tag == f"{TAG}seq":
            return [self._build(item, (*at, index)) for index, item in enumerate(node.value)]
        return self._refuse_tag(node)

    def _count(self, node: yaml.Node, depth: int) -> None:
        self.nodes += 1
        check_limits(depth, self.nodes, node.start_mark)

    def _note(self, node: yaml.Node, message: str) -> None:
        self.values.problems.append(Problem(_position(node.start_mark), message))

    def _refuse_tag(self, node: yaml.Node) -> None:
        tag = f"!!{node.tag.removeprefix(TAG)}" if node.tag.startswith(TAG) else node.tag
        self._note(node, f"the tag {tag} is not allowed; write a plain value without a tag")

    def _mapping(self, node: yaml.Node, at: Location) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node, own in self._pairs(node, len(at) + 1):
            if not isinstance(key_node, yaml.ScalarNode):
                self._note(key_node, "a key must be text; found a list or a mapping")
                continue
            key = self._scalar(key_node, None)
            if key not in mapping:
                self.values.keys[(*at, key)] = _position(key_node.start_mark)
                mapping[key] = self._build(value_node, (*at, key))
            elif own:
                first = self.values.keys[(*at, key)].line
                self._note(key_node, f"duplicate key {key!r}; it already stands in line {first}")
        return mapping

    def _pairs(self, node: yaml.Node, depth: int) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Keys and values of a mapping, with True, then those that `<<` merges into it, with False.

        The first of equal keys counts.
        """
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == f"{TAG}merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                yield key, value, True
        for other in merged:
            self._count(other, depth + 1)
            if not isinstance(other, yaml.MappingNode):
                self._note(other, "<< merges a mapping, or a list of them")
                continue
            for key, value, _ in self._pairs(other, depth + 1):
                self._count(key, depth)
                yield key, value, False

    def _scalar(self, node: yaml.ScalarNode, at: Location | None) -> Any:
        """The value of a scalar; None where it cannot be read, which is noted."""
        kind, text = node.tag.removeprefix(TAG), node.value
        if at is not None:
            self.values.texts[at] = text
        if kind not in KINDS:
            return self._refuse_tag(node)
        if kind in ("int", "float") and sum(c.isalnum() for c in text) > 10 * MOST_DIGITS:
            return self._note(node, f"a number of {len(text):,} characters; at most {MOST_DIGITS} digits are read")
        try:
            value = self.loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, IndexError):
            return self._note(node, f"{text!r} is not {KINDS[kind]}")
        if isinstance(value, str) and (found := NO_TEXT.search(value)):
            return self._note(node, f"the character {found[0]!r} cannot stand in a text; remove it")
        if kind == "int" and abs(value) >= 10**MOST_DIGITS:
            return self._note(node, f"a number of more than {MOST_DIGITS} digits: {text}")
        if kind == "float" and not math.isfinite(value):
            return self._note(node, f"a finite number is needed; found {text}")
        return value
