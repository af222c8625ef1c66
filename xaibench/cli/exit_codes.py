"""Exit codes, and the message that an exception becomes on stderr."""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from xaibench.core.errors import XaibenchError
from xaibench.core.tracebacks import place, reason

MEANING = {
    0: "ok",
    1: "a negative answer",
    2: "usage or configuration",
    3: "some cells failed, or too many samples are bad",
    4: "missing data, weights or dependency, or a file that cannot be read or written",
    70: "an unexpected error",
    130: "interrupted (everything finished is kept)",
}
FILES, UNEXPECTED, INTERRUPTED = 4, 70, 130
REMEDY = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.EROFS: "choose another place",
    errno.ENOTDIR: "a part of this path is a file; choose another place",
    errno.EISDIR: "give a file, this is a directory",
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add a file name to an OSError of the block that has none; a write to a full disk raises such an error."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def epilog() -> str:
    """The last line of `xaibench --help`."""
    return "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANING.items()) + "."


def report(error: Exception, arguments: Sequence[str], *, debug: bool) -> int:
    """Print an error on stderr, with `debug` after its traceback. Returns the exit code.

    Args:
        arguments: of the command line; repeated in the command that shows the traceback
    """
    if debug:
        traceback.print_exception(error)
    message, code = explained(error)
    print(message if "\n" in message else f"error: {message}", file=sys.stderr)
    if code == UNEXPECTED and not debug:
        print(f"for the traceback: {shlex.join(['xaibench', '--debug', *arguments])}", file=sys.stderr)
    return code


def explained(error: Exception) -> tuple[str, int]:
    """Message and exit code of an error. The message is one sentence, or a line for each problem of a file."""
    if isinstance(error, XaibenchError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        return _file_error(error), FILES
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8 text: {error}; save it as UTF-8", FILES
    where = place(error, lambda module: module.split(".")[0] == "xaibench" or module.startswith("xaibench_plugin_"))
    return f"unexpected {reason(error)}" + (f" ({where})" if where else ""), UNEXPECTED


def _file_error(error: OSError) -> str:
    if error.strerror is None:
        return reason(error)
    names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    message = error.strerror[0].lower() + error.strerror[1:]
    remedy = REMEDY.get(error.errno or 0, "")
    return (f"{names}: " if names else "") + message + (f"; {remedy}" if remedy else "")
