"""What can go wrong, by exit code. A message is one clear sentence: what was found, what is allowed, the closest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

MOST_LISTED = 100  # allowed names in one message
LONGEST = 120  # characters of a wrong name in it


class XaibenchError(Exception):
    """Something the user can mend; the command line prints the message without a traceback.

    Attributes:
        key: the key of a suite's section that is to be mended, where it is one
        place: `file:line:column` of it, where it came from a file
    """

    exit_code = 2

    def __init__(self, message: str = "", *, key: str = "") -> None:
        super().__init__(message)
        self.key, self.place = key, ""

    def at(self, place: str) -> Self:
        """The error with a place; the first that it was given stays."""
        self.place = self.place or place
        return self

    @property
    def message(self) -> str:
        """What is wrong, without the place."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class UsageError(XaibenchError):
    """A wrong name, parameter, suite or input (exit code 2)."""


class MissingError(XaibenchError):
    """Data, weights or an optional dependency that is not there (exit code 4)."""

    exit_code = 4


class IncompatibleError(UsageError):
    """A method (or metric) needs what the model (or data set) does not offer."""


class SampleError(XaibenchError):
    """A sample that cannot be read; the message names its file. Fails the run past `max_bad_samples`."""

    exit_code = 3


class WorkerError(XaibenchError):
    """A process that read samples died. What is finished is kept."""

    exit_code = 3


@contextmanager
def about(key: str) -> Iterator[None]:
    """Errors that are raised inside are about this key, unless they name another."""
    try:
        yield
    except XaibenchError as error:
        error.key = error.key or key
        raise


def closest(word: str, allowed: Iterable[str]) -> str:
    """'; did you mean 'grad_cam'?' or ''; capitals, hyphens, underscores and blanks do not count."""
    names = {_bare(name): name for name in allowed}
    match = difflib.get_close_matches(_bare(word), names, n=1, cutoff=0.5)
    return f"; did you mean {names[match[0]]!r}?" if match else ""


def _bare(name: str) -> str:
    return name.lower().replace("+", "p").translate(str.maketrans("", "", "-_ "))  # Grad-CAM++ is grad_cam_pp


def unknown(kind: str, found: str, allowed: Iterable[str]) -> str:
    """One sentence for a name that is not among `allowed`."""
    allowed = sorted(allowed)
    few = len(allowed) <= MOST_LISTED
    listed = ", ".join(allowed) if few else f"{len(allowed):,} names, such as {', '.join(allowed[:5])}"
    found = found if len(found) <= LONGEST else f"{found[:LONGEST]}..."
    return f"unknown {kind} {found!r}{closest(found, allowed) or f'; allowed: {listed}'}"
