"""Exceptions by exit code. A message is one clear sentence: what was found, what is allowed, the closest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

MOST_LISTED = 100  # allowed names in one message
LONGEST = 120  # characters of a wrong name in it


class XaibenchError(Exception):
    """An error that the user can correct. The command line prints its message without a traceback.

    Attributes:
        key: the wrong key of a suite's section; "" for other errors
        place: `file:line:column` of the mistake; "" where it is in no file
    """

    exit_code = 2

    def __init__(self, message: str = "", *, key: str = "") -> None:
        super().__init__(message)
        self.key, self.place = key, ""

    def at(self, place: str) -> Self:
        """The error itself, with a place unless it has one already."""
        self.place = self.place or place
        return self

    @property
    def message(self) -> str:
        """The message without the place."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class UsageError(XaibenchError):
    """A wrong name, parameter, suite or input (exit code 2)."""


class MissingError(XaibenchError):
    """Missing data, weights or optional dependency (exit code 4)."""

    exit_code = 4


class IncompatibleError(UsageError):
    """A method (or metric) needs what the model (or data set) does not offer."""


class SampleError(XaibenchError):
    """A sample that cannot be read; the message names its file. Fails the run past `max_bad_samples`."""

    exit_code = 3


class WorkerError(XaibenchError):
    """A worker process that read samples died. Finished results are kept."""

    exit_code = 3


@contextmanager
def about(key: str) -> Iterator[None]:
    """Give errors of the block this key, unless they have another."""
    try:
        yield
    except XaibenchError as error:
        error.key = error.key or key
        raise


def closest(word: str, allowed: Iterable[str]) -> str:
    """'; did you mean 'grad_cam'?' or ''. Capitals, hyphens, underscores and blanks are ignored."""
    names = {_bare(name): name for name in allowed}
    match = difflib.get_close_matches(_bare(word), names, n=1, cutoff=0.5)
    return f"; did you mean {names[match[0]]!r}?" if match else ""


def _bare(name: str) -> str:
    return name.lower().replace("+", "p").translate(str.maketrans("", "", "-_ "))  # Grad-CAM++ is grad_cam_pp


def unknown(kind: str, found: str, allowed: Iterable[str]) -> str:
    """Message for a name that is not among `allowed`."""
    allowed = sorted(allowed)
    few = len(allowed) <= MOST_LISTED
    listed = ", ".join(allowed) if few else f"{len(allowed):,} names, such as {', '.join(allowed[:5])}"
    found = found if len(found) <= LONGEST else f"{found[:LONGEST]}..."
    return f"unknown {kind} {found!r}{closest(found, allowed) or f'; allowed: {listed}'}"
