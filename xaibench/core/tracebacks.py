"""Where an exception comes from, as `my_methods.py:6`: for messages that replace a traceback."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path


def place(error: BaseException, belongs: Callable[[str], bool]) -> str | None:
    """File and line of an exception: the innermost line in the chosen modules.

    Args:
        belongs: whether a module of this name is chosen

    Returns:
        `file:line`, relative to the working directory where the file lies below it; the line of the mistake for a
        SyntaxError; None where the traceback has no line in the chosen modules
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_shown(error.filename)}:{error.lineno}"
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if belongs(str(frame.f_globals.get("__name__"))):
            found = f"{_shown(frame.f_code.co_filename)}:{line}"
    return found


def reason(error: BaseException) -> str:
    """The name of an exception's class and its message, in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def headline(error: BaseException) -> str:
    """The name of an exception's class and the first line of its message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _shown(file: str) -> str:
    below = Path(os.path.abspath(file)).is_relative_to(Path.cwd())
    return os.path.relpath(file) if below else file
