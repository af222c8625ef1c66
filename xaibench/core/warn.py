"""Warnings to the person whose script calls xaibench."""

from __future__ import annotations

import sys
import warnings

PACKAGE = __name__.partition(".")[0]


def warn_caller(message: str) -> None:
    """Warn of something outdated, at the line of the first caller outside of xaibench."""
    level = 1
    while sys._getframe(level - 1).f_globals.get("__name__", "").partition(".")[0] == PACKAGE:
        level += 1
    warnings.warn(message, FutureWarning, stacklevel=level)
