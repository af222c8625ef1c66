"""Check whether a data set is complete on disk, and report what is missing and where it comes from.

Nothing is downloaded. Every sample of every split is looked up; with `decode` it is read as a run would read it. A data
set that does not list its files (`Dataset.files`) is read in any case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from xaibench.core import registry
from xaibench.core.errors import UsageError, XaibenchError
from xaibench.data.dataset import Dataset, load_dataset, root_of

SHOWN = 5  # of the missing files and bad samples
BATCH = 64


class Progress(Protocol):
    """Receives how far the reading of samples is."""

    def start(self, label: str, total: int) -> None:
        """A split begins; it has `total` samples."""

    def advance(self, count: int) -> None:
        """So many more samples were read."""


@dataclass
class SplitReport:
    """One split.

    Attributes:
        samples: None where it could not be opened; `problem` says why
        official: number of samples of the official release; None where that is not known
        extra: it does not come with the official archives
        missing: files that are not there
        bad: samples that could not be read, a sentence each; None where they were not read
        contradictions: samples whose mask holds classes that their labels deny, a text each; None where they were not
            read. They make no split incomplete: nothing is missing
        warning: one sentence about the contradictions
    """

    split: str
    samples: int | None = None
    official: int | None = None
    extra: bool = False
    missing: list[str] = field(default_factory=list)
    bad: list[str] | None = None
    contradictions: list[str] | None = None
    warning: str = ""
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether all samples are there, or the split is absent and not part of the official release."""
        if self.samples is None:
            return self.extra
        return self.samples > 0 and not self.missing and not self.bad and self.official in (None, self.samples)

    @property
    def state(self) -> str:
        """The result in a few words."""
        if self.samples is None:
            return "not there" + (" (not part of the official release)" if self.extra else "")
        found = [] if self.official in (None, self.samples) else [f"{self.samples} of {self.official} samples"]
        if self.missing:
            found.append("files missing")
        if self.bad:
            found.append("bad samples")
        if self.samples == 0:
            found.append("no samples")
        found = found or ["nothing missing" if self.official is None else "complete"]
        return ", ".join([*found, "masks contradict labels"] if self.contradictions else found)


@dataclass
class ArchiveReport:
    """An official archive: absent (it may be deleted once it is unpacked), there, or compared with its MD5."""

    name: str
    md5: str
    state: Literal["absent", "not compared", "right", "wrong"]
    path: str = ""


@dataclass
class Report:
    """A data set on disk."""

    dataset: str
    summary: str
    data_root: str
    splits: list[SplitReport]
    archives: list[ArchiveReport]
    address: str
    licence: str

    @property
    def complete(self) -> bool:
        """Whether every split is complete and no archive differs from the official one."""
        return all(split.complete for split in self.splits) and all(a.state != "wrong" for a in self.archives)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON: lists of files and samples are cut short and stand beside their lengths."""
        splits = [
            {
                **asdict(split),
                "missing": len(split.missing),
                "first_missing": split.missing[:SHOWN],
                "bad": None if split.bad is None else len(split.bad),
                "first_bad": (split.bad or [])[:SHOWN],
                "contradictions": None if split.contradictions is None else len(split.contradictions),
                "first_contradictions": (split.contradictions or [])[:SHOWN],
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
    progress: Progress | None = None,
) -> Report:
    """Check a data set on disk.

    Args:
        splits: check only these, which then must be there; none: all that it has
        options: the data set's own, as in a suite
        checksums: compare the official archives that are still on disk
        decode: read every sample; `workers` as in a run

    Raises:
        UsageError: an unknown data set, split or option
        MissingError: it is read from disk, and no folder is given
    """
    entry, options = registry.datasets[name], dict(options or {})
    root = root_of(entry, data_root)
    waiting = list(splits) or list(entry.splits)
    for split in waiting:
        given = {**options, "split": split} | ({} if root is None else {"data_root": root})
        if problems := entry.problems(given):
            raise UsageError("; ".join(problems.values()))
    kind: type[Dataset] = entry.function  # type: ignore[assignment]
    official = {} if options else kind.official()
    reports: dict[str, SplitReport] = {}
    while waiting:
        split = waiting.pop(0)
        extra = split in kind.extra_splits and not splits
        report = reports[split] = SplitReport(split, official=official.get(split), extra=extra)
        dataset = _open(report, name, root, options)
        if dataset is not None:
            _look_up(report, dataset, generated=root is None, decode=decode, workers=workers, progress=progress)
            if not splits:  # some splits are known only once the data set is open
                waiting += [other for other in dataset.splits if other not in (*reports, *waiting)]
    archives = [_archive(root, file, md5, checksums) for file, md5 in kind.archives.items()] if root else []
    return Report(name, entry.summary, str(root or ""), list(reports.values()), archives, kind.address, kind.licence)


def _open(report: SplitReport, name: str, root: Path | None, options: Mapping[str, Any]) -> Dataset | None:
    """Open a split, and note how many samples it has, or why it cannot be opened."""
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
    report: SplitReport,
    dataset: Dataset,
    *,
    generated: bool,
    decode: bool,
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Note which files of a split are missing, and where samples are read, which of them are bad."""
    if not report.samples:
        return
    if listed := bool(dataset.files(0)):
        files = dict.fromkeys(path for index in range(len(dataset)) for path in dataset.files(index))
        report.missing = [str(path) for path in files if not path.is_file()]
    if decode or not (listed or generated):
        _read(report, dataset, workers, progress)


def _read(report: SplitReport, dataset: Dataset, workers: int | None, progress: Progress | None) -> None:
    """Read every sample by the loader of a run; note which are bad, and whose masks contradict their labels."""
    from xaibench.data.contradictions import Contradictions
    from xaibench.data.loader import chunks, most_workers, own_geometry, read_ahead
    from xaibench.data.preprocess import Preprocess

    # each sample is read in full; what a model would see of it does not matter here
    one_pixel = Preprocess((1, 1), mean=(0.0,) * dataset.channels, std=(1.0,) * dataset.channels)
    asked = chunks(range(len(dataset)), BATCH)
    count = most_workers(len(asked)) if workers is None else workers
    if progress is not None:
        progress.start(f"{dataset.name} {dataset.split}", len(dataset))
    contradictions, report.bad = Contradictions(dataset), []
    with closing(read_ahead(dataset, own_geometry(dataset) or one_pixel, asked, workers=count)) as batches:
        for batch in contradictions.watch(batches):
            report.bad += [message for _, message in batch.bad]
            if progress is not None:
                progress.advance(len(batch.samples))
    report.contradictions, report.warning = contradictions.texts, contradictions.message


def _archive(root: Path, file: str, md5: str, compare: bool) -> ArchiveReport:
    """Look for an archive in the data root and in the folders right below it."""
    path = next((path for path in (root / file, *sorted(root.glob(f"*/{file}"))) if path.is_file()), None)
    if path is None:
        return ArchiveReport(file, md5, "absent")
    if not compare:
        return ArchiveReport(file, md5, "not compared", str(path))
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return ArchiveReport(file, md5, "right" if found == md5 else "wrong", str(path))
