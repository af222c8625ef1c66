"""Text for streams that cannot hold every character, such as an ASCII terminal: replaced, never an error."""

from __future__ import annotations

import codecs
import unicodedata
from typing import TextIO

ERRORS = "xaibench.plain"
PLAIN = str.maketrans(
    {"↑": "^", "↓": "v", "→": ">", "–": "-", "—": "-", "−": "-", "…": "~", "·": ".", "×": "x", "±": "~"}
)


def replace_what_cannot_be_encoded(*streams: TextIO) -> None:
    """Let the streams write one ASCII character for each that they cannot encode, so that columns stay aligned."""
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
    """An ASCII character that looks alike, or else a question mark."""
    base = unicodedata.normalize("NFKD", character.translate(PLAIN))[0]
    return base if base.isascii() else "?"
