"""YAML text to values: what a mistake is called and where it is, and that no text takes long or ends in a traceback."""

from __future__ import annotations

import time

import pytest

from xaibench.core.yaml import values as yaml_values
from xaibench.core.yaml.values import RefusedError, decode, read


def refused(text: str) -> str:
    with pytest.raises(RefusedError) as error:
        read(text)
    problem = error.value.problem
    return f"{problem.position.line}:{problem.position.column}: {problem.message.removeprefix('not YAML: ')}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\t- b\n", "2:1: a tab is used to indent; use spaces"),
        (
            "a: 1\nb: [c, d\ne: 2\n",
            "2:4: the list that opens here is not closed; write ']', or ',' between its entries",
        ),
        ("a:\n  - {b: c d: e}\n", "2:5: the mapping that opens here is not closed; write '}', or ',' between"),
        ("a: b: c\n", "1:5: a ':' that cannot stand here; put the text in quotes, or mend the indentation"),
        ("a: 1\nb [c]\nd: 2\n", "2:1: a line without ':' among keys and values; write 'key: value'"),
        ("a: 'b\nc: d\n", "1:4: the text that opens with a quote here is not closed"),
        ("a: 'it's'\n", "1:8: text goes on after its closing quote; write a quote inside of quotes twice"),
        ("a: [*cam]\n", "1:5: '*cam' stands for nothing; put a pattern that begins with '*' in quotes"),
        ("a: [*]\n", "1:5: put a pattern that begins with '*' (or '&') in quotes"),
        ("a: @b\n", "1:4: a value cannot begin with '@'; put it in quotes"),
        ('a: "\\d"\n', "1:6: no backslash may stand before 'd' in double quotes; use single quotes"),
        ("a:\n  - b\n c: d\n", "3:2: the indentation differs from that of the lines above, or an entry is missing"),
        ("  a: 1\nb: 2\n", "2:1: this line begins further left than the first; begin all keys in the same column"),
        ("a: - b\n", "1:4: an entry of a list ('- ...') begins a line of its own"),
        ("a: |b\n", "1:5: after '|' or '>' the text begins on the next line; put a value that begins so in quotes"),
        ("a: !{b}\n", "1:4: a value that begins with '!' is a tag; put it in quotes"),
        ('a: "\\uxy"\n', "1:7: a backslash in double quotes begins a character's number; use single quotes"),
        ("a: 1\n---\nb: 2\n", "2:1: a second document begins here; one is allowed"),
        ("a: &x 1\nb: &x 2\n", "2:4: an anchor of this name stands above already"),
        ("a: 1\nb: \x00\n", "2:4: the character '\\x00' cannot stand in a text file"),
        ("%YAML 9.9\n---\na: 1\n", "1:1: found incompatible YAML document"),
    ],
)
def test_what_is_no_yaml_is_said_in_plain_words(text: str, message: str) -> None:
    assert refused(text).startswith(message)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("a: !!int x\n", ["1:4: 'x' is not a whole number"]),
        ("a: !!bool maybe\nb: !!float ''\n", ["1:4: 'maybe' is not true or false", "2:4: '' is not a number"]),
        ("a: !!set {b}\n", ["1:4: the tag !!set is not allowed; write a plain value without a tag"]),
        ("a: !b c\n", ["1:4: the tag !b is not allowed; write a plain value without a tag"]),
        ("a: .inf\nb: .nan\n", [f"{i}:4: a finite number is needed; found {w}" for i, w in ((1, ".inf"), (2, ".nan"))]),
        ("a: 1e400\n", ["1:4: a finite number is needed; found 1e400"]),
        ("a: " + "9" * 30, ["1:4: a number of more than 18 digits: " + "9" * 30]),
        ("a: " + "9" * 5000, ["1:4: a number of 5,000 characters; at most 18 digits are read"]),
        (
            'a: "\\0"\n"\\ud800": 1\n',
            [
                "1:4: the character '\\x00' cannot stand in a text; remove it",
                "2:1: the character '\\ud800' cannot stand in a text; remove it",
            ],
        ),
        ("[a]: 1\n{b: c}: 2\n", [f"{i}:1: a key must be text; found a list or a mapping" for i in (1, 2)]),
        ("a: 1\nb: 2\na: 3\n", ["3:1: duplicate key 'a'; it already stands in line 1"]),
        ("a: {<<: 3}\n", ["1:9: << merges a mapping, or a list of them"]),
    ],
)
def test_what_cannot_be_read_is_located(text: str, messages: list[str]) -> None:
    found = [f"{p.position.line}:{p.position.column}: {p.message}" for p in read(text).problems]
    assert found == messages


def test_values_are_those_of_yaml() -> None:
    text = "a: {b: [1, x, null, true, 2.5]}\nc: 1e-3\nd: 2020-01-01\ne: '1'\nf: |\n  two\n  lines\n"
    assert read(text).data == {
        "a": {"b": [1, "x", None, True, 2.5]},
        "c": 0.001,
        "d": "2020-01-01",
        "e": "1",
        "f": "two\nlines\n",
    }
    assert read("").data is None
    assert read("# nothing\n").data is None


def test_positions_are_those_of_the_text() -> None:
    values = read("a: 1\nb:\n  - c\n  - {d: e}\n")
    position = values.values["b", 1, "d"]
    assert (position.line, position.column) == (4, 9)
    assert (values.keys["b", 1, "d"].line, values.keys["b", 1, "d"].column) == (4, 6)
    assert values.texts["a",] == "1"


def test_a_merged_mapping_is_overridden_by_own_keys() -> None:
    values = read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [{z: 5, x: 6}, *a]}\n")
    assert not values.problems
    assert values.data["b"] == {"x": 1, "y": 3}
    assert values.data["c"] == {"x": 6, "y": 4, "z": 5}


def bomb(opening: str, closing: str) -> str:
    """Nine levels of nine aliases each: 9^9 values."""
    levels = [f"a{i}: &a{i} {opening}{','.join([f'*a{i - 1}'] * 9)}{closing}\n" for i in range(1, 10)]
    return "a0: &a0 {x: 1}\n" + "".join(levels)


SECONDS = 5  # a tenth of it on the machine where this was written; without limits these would be hours
NESTED, MANY = "nested more than 50 levels deep, or an alias that holds itself", "more than 20,000 keys and values"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]\n", NESTED),
        ("a: &a {b: *a}\n", NESTED),
        ("a: &a {<<: *a, b: 1}\n", NESTED),
        ("a: " + "[" * 200_000, NESTED),
        ("- " * 200_000, NESTED),
        ("\n".join("  " * i + "a:" for i in range(300)), NESTED),
        (bomb("[", "]"), MANY),
        (bomb("{<<: [", "]}"), MANY),
        ("a:\n" + "  - b\n" * 150_000, MANY),
        ("".join(f"a{i}: 1\n" for i in range(90_000)), MANY),
    ],
    ids=[
        "cycle",
        "cycle of mappings",
        "cycle of merges",
        "brackets",
        "dashes",
        "blocks",
        "bomb",
        "merge bomb",
        "list",
        "keys",
    ],
)
def test_no_text_takes_long(text: str, message: str) -> None:
    start = time.process_time()
    assert message in refused(text)
    assert time.process_time() - start < SECONDS


def test_the_longest_text_that_is_read_takes_no_time() -> None:
    start = time.process_time()
    for text in ("a: " + "word " * 199_000, "a: '" + "word " * 199_000 + "'", "# " + "word " * 199_000 + "\na: b"):
        assert not read(decode(text.encode())).problems
    assert time.process_time() - start < 3 * SECONDS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: caf\xe9\n", "2:7: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a: 1\n".encode("utf-16"), "1:1: byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"#" * (yaml_values.MOST_BYTES + 1), "1:1: the file has 1,000,001 bytes; at most 1,000,000 are read"),
    ],
    ids=["latin-1", "utf-16", "long"],
)
def test_files_of_another_kind(content: bytes, message: str) -> None:
    with pytest.raises(RefusedError) as error:
        decode(content)
    problem = error.value.problem
    assert f"{problem.position.line}:{problem.position.column}: {problem.message}" == message


def test_a_byte_order_mark_is_no_character() -> None:
    assert read(decode(b"\xef\xbb\xbfa: 1\n")).data == {"a": 1}
