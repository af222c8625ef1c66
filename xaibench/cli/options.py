"""Options of the command line as types, and their values read from text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xaibench.core.errors import MissingError, UsageError, closest


def _only(kind: str) -> Any:
    return typer.Option(f"--{kind}", metavar="GLOB,...", help=f"Only these {kind}s; repeatable.")


# -- of several verbs -------------------------------------------------------------------------------------------------

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

# -- of `run` ---------------------------------------------------------------------------------------------------------

RunDirectory = Annotated[
    Path | None,
    typer.Option("--out", help="Directory to write; default runs/SUITE. Several suites: a folder each in it."),
]
OnlyMethods = Annotated[list[str] | None, _only("method")]
OnlyMetrics = Annotated[list[str] | None, _only("metric")]
OnlyModels = Annotated[list[str] | None, _only("model")]
Quick = Annotated[bool, typer.Option("--quick", help="Only the part that the suite calls representative.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N samples; marks the run partial.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Instead of the suite's.")]
BatchSize = Annotated[str, typer.Option("--batch-size", metavar="N|auto", help="Images per batch.")]
MaxBadSamples = Annotated[
    int | None, typer.Option("--max-bad-samples", min=0, help="Samples that may be bad (unreadable, no mask...).")
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first error in a method or metric.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]

# -- of `explain` -----------------------------------------------------------------------------------------------------

Methods = Annotated[
    list[str], typer.Option("--method", metavar="GLOB,...", help="Methods, one column each; repeatable.")
]
Checkpoint = Annotated[Path | None, typer.Option("--checkpoint", help="Weights: safetensors, or a state dict.")]
Activation = Annotated[
    Literal["sigmoid", "softmax"], typer.Option("--activation", help="What makes logits probabilities.")
]
NumClasses = Annotated[int | None, typer.Option("--num-classes", min=1, help="Length of the logits.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", help="A name or an index; default: the detected labels, at most 5.")
]
Layers = Annotated[
    Literal["all"] | None,
    typer.Option("--layers", help="With `--method vgatt`: its bias term and bias/score ratio at every depth."),
]

# -- values -----------------------------------------------------------------------------------------------------------

DEVICES = ("auto", "cpu", "cuda", "mps")


def device_of(text: str) -> str:
    """A torch device that is available; CUDA (if available) or else the CPU for `auto`.

    Raises:
        UsageError: any other device
    """
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
    """Images per batch; 16 on the CPU and 64 elsewhere for `auto`. Raises UsageError for anything but a number from 1."""
    if text == "auto":
        return 16 if device == "cpu" else 64
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text!r}: a positive number, or auto")
    return int(text)


def worker_number(text: str) -> int | None:
    """Number of worker processes; None for `auto`. Raises UsageError for anything but a number from 0."""
    if text == "auto":
        return None
    if not text.isdigit():
        raise UsageError(f"--workers {text!r}: a number from 0, or auto")
    return int(text)


def patterns_of(option: str, values: Sequence[str] | None) -> list[str]:
    """Names and globs of an option that is repeatable and takes commas; `*` where it is not given.

    Raises:
        UsageError: nothing but commas and blanks
    """
    if values is None:
        return ["*"]
    patterns = [pattern for value in values for part in value.split(",") if (pattern := part.strip())]
    if not patterns:
        raise UsageError(f"{option} {','.join(values)!r}: give names or globs")
    return patterns


def overrides_of(assignments: Sequence[str] | None, given: Mapping[str, Any]) -> list[str]:
    """Overrides of a suite: the values of `--set`, then keys that have an option of their own, where it is given."""
    return [*(assignments or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]


def check_place(path: Path) -> None:
    """Raise MissingError where a file cannot be written at this place."""
    if path.is_dir():
        raise MissingError(f"{path}: is a directory; give the name of a file")
    if not path.parent.is_dir():
        raise MissingError(f"{path}: there is no directory {path.parent}; make it first")
