"""`xaibench data check`: is a data set complete on disk, and if not, what is missing and where it comes from.

Nothing is downloaded. Every sample of every split is looked up; with `decode` it is read as a run would read it. A data
set that cannot say its files without reading them (`Dataset.files`) is read in any case.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from xaibench.cli.console import Bars, out
from xaibench.core import registry
from xaibench.core.errors import UsageError, XaibenchError
from xaibench.core.yaml.document import read_value
from xaibench.data import Dataset, load_dataset
from xaibench.data.dataset import root_of

SHOWN = 5  # of the missing files and bad samples
BATCH = 64


@dataclass
class SplitReport:
    """One split.

    Attributes:
        samples: None where it could not be opened, `problem` says why
        official: how many there should be; None where that is not known
        extra: it does not come with the official archives
        missing: files that are not there
        bad: samples that could not be read, a sentence each; None where they were not read
    """

    split: str
    samples: int | None = None
    official: int | None = None
    extra: bool = False
    missing: list[str] = field(default_factory=list)
    bad: list[str] | None = None
    problem: str = ""

    @property
    def complete(self) -> bool:
        """All there, or not there and not part of the official release."""
        if self.samples is None:
            return self.extra
        return self.samples > 0 and not self.missing and not self.bad and self.official in (None, self.samples)

    @property
    def state(self) -> str:
        if self.samples is None:
            return "not there" + (" (not part of the official release)" if self.extra else "")
        found = [] if self.official in (None, self.samples) else [f"{self.samples} of {self.official} samples"]
        found += ["files missing"] * bool(self.missing) + ["bad samples"] * bool(self.bad)
        found += ["no samples"] * (self.samples == 0)
        return ", ".join(found) or ("nothing missing" if self.official is None else "complete")


@dataclass
class ArchiveReport:
    """An official archive: absent (it may go once it is unpacked), there, or compared with its MD5."""

    name: str
    md5: str
    state: Literal["absent", "not compared", "right", "wrong"]
    path: str = ""


@dataclass
class Report:
    """A data set on disk; `again` is the command that checks once more."""

    dataset: str
    summary: str
    data_root: str
    splits: list[SplitReport]
    archives: list[ArchiveReport]
    address: str
    licence: str
    again: str

    @property
    def complete(self) -> bool:
        return all(split.complete for split in self.splits) and all(a.state != "wrong" for a in self.archives)

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints: the lists of files and samples cut short, beside their lengths."""
        splits = [
            {
                **asdict(split),
                "missing": len(split.missing),
                "first_missing": split.missing[:SHOWN],
                "bad": None if split.bad is None else len(split.bad),
                "first_bad": (split.bad or [])[:SHOWN],
                "complete": split.complete,
                "state": split.state,
            }
            for split in self.splits
        ]
        return {**asdict(self), "splits": splits, "complete": self.complete}


def check(
    name: str,
    *,
    data_root: Path | None = None,
    splits: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    checksums: bool = False,
    decode: bool = False,
    workers: int | None = None,
    bars: Bars | None = None,
    again: str = "",
) -> Report:
    """Look a data set up.

    Args:
        splits: only these, and then they must be there; none: all that it has
        options: its own, as in a suite
        checksums: compare the official archives that are still on disk
        decode: read every sample; `workers` as in a run

    Raises:
        UsageError: an unknown data set, split or option
        MissingError: it is read from disk, and no folder is given
    """
    entry, options = registry.datasets[name], dict(options or {})
    root = root_of(entry, data_root)
    chosen = list(splits) or list(entry.splits)
    for split in chosen:
        given = {**options, "split": split} | ({} if root is None else {"data_root": root})
        if problems := entry.problems(given):
            raise UsageError("; ".join(problems.values()))
    kind: type[Dataset] = entry.function  # type: ignore[assignment]
    official = {} if options else kind.official()
    reports = []
    for split in chosen:
        report = SplitReport(split, official=official.get(split), extra=split in kind.extra_splits and not splits)
        dataset = _open(report, name, root, options)
        if dataset is not None:
            _look_up(report, dataset, generated=root is None, decode=decode, workers=workers, bars=bars)
        reports.append(report)
    archives = [_archive(root, file, md5, checksums) for file, md5 in kind.archives.items()] if root else []
    return Report(name, entry.summary, str(root or ""), reports, archives, kind.address, kind.licence, again)


def _open(report: SplitReport, name: str, root: Path | None, options: Mapping[str, Any]) -> Dataset | None:
    try:
        dataset = load_dataset(name, data_root=root, split=report.split, **options)
        report.samples, report.official = len(dataset), dataset.official_count
    except XaibenchError as error:
        report.problem = str(error)
    except ModuleNotFoundError as error:
        report.problem = f"{name} needs a package that is not installed: pip install {error.name}"
    else:
        return dataset
    return None


def _look_up(
    report: SplitReport, dataset: Dataset, *, generated: bool, decode: bool, workers: int | None, bars: Bars | None
) -> None:
    if not report.samples:
        return
    if listed := bool(dataset.files(0)):
        files = dict.fromkeys(path for index in range(len(dataset)) for path in dataset.files(index))
        report.missing = [str(path) for path in files if not path.is_file()]
    if decode or not (listed or generated):
        if bars is not None:
            bars.start(f"{dataset.name} {report.split}", len(dataset))
        report.bad = list(_bad(dataset, workers, bars))


def _bad(dataset: Dataset, workers: int | None, bars: Bars | None) -> Iterator[str]:
    """A sentence for each sample that cannot be read, by the loader of a run."""
    from xaibench.data.loader import chunks, most_workers, read_ahead
    from xaibench.data.preprocess import Preprocess

    # read in full, but what a model would see of it does not matter here
    geometry = Preprocess((1, 1), mean=(0.0,) * dataset.channels, std=(1.0,) * dataset.channels)
    asked = chunks(range(len(dataset)), BATCH)
    count = most_workers(len(asked)) if workers is None else workers
    with closing(read_ahead(dataset, geometry, asked, workers=count)) as batches:
        for batch in batches:
            yield from (sentence for _, sentence in batch.bad)
            if bars is not None:
                bars.advance(len(batch.samples))


def _archive(root: Path, file: str, md5: str, compare: bool) -> ArchiveReport:
    """An archive in the data root, or in a folder right below it."""
    path = next((path for path in (root / file, *sorted(root.glob(f"*/{file}"))) if path.is_file()), None)
    if path is None:
        return ArchiveReport(file, md5, "absent")
    if not compare:
        return ArchiveReport(file, md5, "not compared", str(path))
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return ArchiveReport(file, md5, "right" if found == md5 else "wrong", str(path))


# -- what the command does ------------------------------------------------------------------------------------------


def parse_options(assignments: Sequence[str]) -> dict[str, Any]:
    """`key=value`, the value being YAML as in a suite."""
    options = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise UsageError(f"--option {assignment!r}: key=value is needed")
        if key in ("split", "data_root"):
            raise UsageError(f"--option {assignment!r}: give --{key.replace('_', '-')} instead")
        options[key] = read_value(value, f"--option {assignment}")
    return options


def run(
    name: str,
    *,
    data_root: Path | None,
    splits: Sequence[str],
    options: Sequence[str],
    checksums: bool,
    decode: bool,
    workers: int | None,
    plugins: Sequence[str],
    as_json: bool,
) -> int:
    """Check, print, and return the exit code: 0 complete, 4 not."""
    words = ["xaibench", "data", "check", name]
    flags = [("--data-root", [data_root] if data_root else []), ("--split", splits), ("--option", options)]
    flags += [("--plugin", plugins)]
    words += [str(word) for flag, values in flags for value in values for word in (flag, value)]
    words += ["--checksums"] * checksums + ["--decode"] * decode
    with Bars("auto").showing() as bars:
        report = check(
            name,
            data_root=data_root,
            splits=splits,
            options=parse_options(options),
            checksums=checksums,
            decode=decode,
            workers=workers,
            bars=bars,
            again=shlex.join(words),
        )
    if as_json:
        out().file.write(json.dumps(report.as_dict(), indent=2) + "\n")
    else:
        _print(report)
    return 0 if report.complete else 4


def _print(report: Report) -> None:
    console = out()
    console.print(f"{report.dataset}: {report.summary}", markup=False, soft_wrap=True)
    table = Table(header_style="bold", pad_edge=False)
    for column in ("split", "samples", "official", "missing files", "bad samples", ""):
        table.add_column(column, justify="left" if column in ("split", "") else "right", no_wrap=True)
    for split in report.splits:
        there = split.samples is not None
        counts = (
            split.samples,
            split.official,
            len(split.missing) if there else None,
            "not read" if there and split.bad is None else None if split.bad is None else len(split.bad),
        )
        style = "red" if not split.complete else "green" if there else "yellow"
        cells = ["–" if count is None else str(count) for count in counts]
        table.add_row(escape(split.split), *cells, f"[{style}]{escape(split.state)}[/]")
    console.print(table)
    for sentence in dict.fromkeys(split.problem for split in report.splits if split.problem):
        console.print(sentence, markup=False, soft_wrap=True)
    _print_some("missing", dict.fromkeys(file for split in report.splits for file in split.missing))
    _print_some("bad", dict.fromkeys(sentence for split in report.splits for sentence in split.bad or []))
    for archive in report.archives:
        state = {"absent": "not on disk", "not compared": "on disk, not compared (--checksums)"}.get(archive.state)
        console.print(
            f"archive {archive.name}: {state or f'on disk, its MD5 is {archive.state}'}; official MD5 {archive.md5}",
            markup=False,
            soft_wrap=True,
        )
    facts = ("data root", report.data_root), ("address", report.address), ("licence", report.licence)
    for word, fact in facts:
        if fact:
            console.print(f"{word}: {fact}", markup=False, soft_wrap=True)
    verdict = "complete" if report.complete else "incomplete; nothing was downloaded"
    console.print(f"{report.dataset} is {verdict}. Check again: {report.again}", markup=False, soft_wrap=True)


def _print_some(word: str, found: Mapping[str, None]) -> None:
    for item in list(found)[:SHOWN]:
        out().print(f"{word}: {item}", markup=False, soft_wrap=True)
    if len(found) > SHOWN:
        out().print(f"{word}: {len(found) - SHOWN} more")
