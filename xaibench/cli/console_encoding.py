"""Replace characters that a stream cannot encode (on an ASCII terminal, for example) instead of failing."""

from __future__ import annotations

import codecs
import unicodedata
from typing import TextIO

ERRORS = "xaibench.plain"
PLAIN = str.maketrans(
    {"↑": "^", "↓": "v", "→": ">", "–": "-", "—": "-", "−": "-", "…": "~", "·": ".", "×": "x", "±": "~"}
)


def replace_what_cannot_be_encoded(*streams: TextIO) -> None:
    """Make streams write one ASCII character for each that they cannot encode: columns stay aligned."""
    codecs.register_error(ERRORS, _replaced)
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)  # a notebook's stream has none
        if reconfigure is not None:
            reconfigure(errors=ERRORS)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_plain(character) for character in found), error.end


def _plain(character: str) -> str:
    """An ASCII character that looks similar, or a question mark."""
    base = unicodedata.normalize("NFKD", character.translate(PLAIN))[0]
    return base if base.isascii() else "?"
