"""What can go wrong, by exit code. A message is one clear sentence: what was found, what is allowed, the closest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XaibenchError(Exception):
    """Something the user can mend; the command line prints the message without a traceback."""

    exit_code = 2


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


def closest(word: str, allowed: Iterable[str]) -> str:
    """'; did you mean 'grad_cam'?' or ''."""
    match = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def unknown(kind: str, found: str, allowed: Iterable[str]) -> str:
    """One sentence for a name that is not among `allowed`."""
    allowed = sorted(allowed)
    hint = closest(found, allowed)
    return f"unknown {kind} {found!r}{hint or '; allowed: ' + ', '.join(allowed)}"
