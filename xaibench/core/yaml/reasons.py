"""Why a value was refused, in words: pydantic's errors as sentences of ours."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

NEEDED = " is needed"

# pydantic's kinds of errors, in words; the rest keeps pydantic's own
SENTENCES = {
    "greater_than_equal": "at least {ge} is needed",
    "greater_than": "more than {gt} is needed",
    "less_than_equal": "at most {le} is allowed",
    "less_than": "less than {lt} is needed",
    "missing": "more entries are needed",
    "too_short": "at least {min_length} item is needed",
    "too_long": "at most {max_length} items are allowed",
    "string_too_long": "at most {max_length} characters are allowed",
    "literal_error": "allowed: {expected}",
    "finite_number": "a finite number is needed",
    "string_type": "text is needed",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "int_type": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "list_type": "a list is needed",
    "tuple_type": "a list is needed",
    "dict_type": "a mapping of keys to values is needed",
    "model_type": "a mapping of keys to values is needed",
    "model_attributes_type": "a mapping of keys to values is needed",
}


def reason(detail: Mapping[str, Any]) -> str:
    """What pydantic has against a value, in words."""
    if detail["type"] in SENTENCES:
        return SENTENCES[detail["type"]].format(**{k: _bare(v) for k, v in detail.get("ctx", {}).items()})
    if detail["type"] == "value_error":  # raised by a validator of ours
        return str(detail["ctx"]["error"])
    message = str(detail["msg"])
    return message[:1].lower() + message[1:]


def reasons(details: Sequence[Mapping[str, Any]]) -> str:
    """What pydantic has against one value: of several types, what the nearest says, or that it is none of them."""
    nearest = [detail for detail in details if not detail["type"].endswith(("_type", "_parsing"))]
    sentences = list(dict.fromkeys(map(reason, nearest or details)))
    if all(sentence.endswith(NEEDED) for sentence in sentences):
        return " or ".join(sentence.removesuffix(NEEDED) for sentence in sentences) + NEEDED
    return " or ".join(sentences)


def _bare(bound: Any) -> Any:
    """1 instead of 1.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def shown(value: Any) -> str:
    """A value as a message shows it: as it is, but not without end."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlist = short.maxdict = 6
    return short.repr(value)
