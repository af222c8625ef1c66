"""Messages for values that pydantic refuses."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

NEEDED = " is needed"

# messages by pydantic's type of error; other types keep pydantic's message
MESSAGES = {
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
    """Message for one error of pydantic."""
    if detail["type"] in MESSAGES:
        return MESSAGES[detail["type"]].format(**{k: _bare(v) for k, v in detail.get("ctx", {}).items()})
    if detail["type"] == "value_error":  # raised by a validator of xaibench
        return str(detail["ctx"]["error"])
    message = str(detail["msg"])
    return message[:1].lower() + message[1:]


def reasons(details: Sequence[Mapping[str, Any]]) -> str:
    """Message for all errors of one value.

    Where several types are allowed, it is about the type that the value has, or else names all of them.
    """
    nearest = [detail for detail in details if not detail["type"].endswith(("_type", "_parsing"))]
    messages = list(dict.fromkeys(map(reason, nearest or details)))
    if all(message.endswith(NEEDED) for message in messages):
        return " or ".join(message.removesuffix(NEEDED) for message in messages) + NEEDED
    return " or ".join(messages)


def _bare(bound: Any) -> Any:
    """1 instead of 1.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def shown(value: Any) -> str:
    """A value as messages show it: shortened where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlist = short.maxdict = 6
    return short.repr(value)
