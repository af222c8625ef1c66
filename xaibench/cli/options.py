"""Options that several verbs of the command line share, and the values of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Literal

import typer

from xaibench.core.errors import MissingError, UsageError, closest

Suites = Annotated[list[str], typer.Argument(metavar="SUITE", help="Suite files, or names of shipped suites.")]
DataRoot = Annotated[Path | None, typer.Option("--data-root", help="Folder that holds the data sets.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps, or auto.")]
Progress = Annotated[
    Literal["auto", "plain", "none"], typer.Option("--progress", help="Bars, plain lines, or silence (stderr).")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the suite, e.g. dataset.samples=100."),
]
Precision = Annotated[
    Literal["float32", "float64"] | None,
    typer.Option("--precision", help="Of weights and images; instead of the suite's."),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", metavar="MODULE", help="A module or .py file with methods, metrics or data sets; repeatable."
    ),
]
Workers = Annotated[
    str, typer.Option("--workers", metavar="N|auto", help="Processes that read samples; 0: a thread of this one.")
]
Intervals = Annotated[bool, typer.Option("--ci", help="With the 95 % interval of every value in the table.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
DEVICES = ("auto", "cpu", "cuda", "mps")


def device_of(text: str) -> str:
    """A torch device that is there; `auto` is CUDA where possible. Raises UsageError for any other."""
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        if text.partition(":")[0] in DEVICES:
            raise UsageError(f"device {text!r} is not available here: {str(error).splitlines()[0]}") from error
        hint = "; did you mean 'cuda'?" if text.startswith("gpu") else closest(text, DEVICES)
        raise UsageError(f"unknown device {text!r}{hint or ''}; allowed: {', '.join(DEVICES)}, cuda:1") from error
    return text


def batch_size_of(text: str, device: str) -> int:
    """Images per batch; for `auto` a number that suits the device."""
    if text == "auto":
        return 16 if device == "cpu" else 64
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text!r}: a positive number, or auto")
    return int(text)


def worker_number(text: str) -> int | None:
    """Number of worker processes; None for `auto`, as many as help."""
    if text == "auto":
        return None
    if not text.isdigit():
        raise UsageError(f"--workers {text!r}: a number from 0, or auto")
    return int(text)


def patterns_of(option: str, values: Sequence[str] | None) -> list[str]:
    """Names and globs of a list option, given several times or with commas between them; `*` where it is not given."""
    if values is None:
        return ["*"]
    patterns = [pattern for value in values for part in value.split(",") if (pattern := part.strip())]
    if not patterns:
        raise UsageError(f"{option} {','.join(values)!r}: give names or globs")
    return patterns


def check_patterns(option: str, patterns: Sequence[str], names: Sequence[str], whose: str) -> None:
    """Raise UsageError for a pattern that chooses none of `names`, which are `whose`."""
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            hint = closest(pattern, names) or f": {', '.join(names)}"
            raise UsageError(f"{option} {pattern!r} chooses nothing of {whose}{hint}")


def check_place(path: Path) -> None:
    """Raise MissingError where a file cannot be written at this place."""
    if path.is_dir():
        raise MissingError(f"{path}: is a directory; give the name of a file")
    if not path.parent.is_dir():
        raise MissingError(f"{path}: there is no directory {path.parent}; make it first")
