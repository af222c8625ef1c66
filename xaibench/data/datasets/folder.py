"""A folder of your own pictures with a table of labels; no Python is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xaibench.core.errors import MissingError, SampleError, UsageError, closest, unknown
from xaibench.core.registry import dataset
from xaibench.core.registry.bounds import InnerFraction
from xaibench.data.dataset import VOID, Dataset, Sample
from xaibench.data.reading.image_files import UNREADABLE, file_size, read_image, reason
from xaibench.data.reading.label_tables import Row, check_unique, label_index, label_table, read_table
from xaibench.data.reading.stratified_split import hold_out as held_out

IMAGE, LABELS, SPLIT = "image", "labels", "split"
CLASS_FILE = "classes.txt"
ALL = "all"
HELD_OUT = ("train", "val")  # splits that `hold_out` makes
MOST_LISTED = 20  # classes in one message


@dataset(classes=(), splits=(ALL,), source="your own; xaibench")
class folder(Dataset):
    """Your own pictures: a table of labels, and masks where you have them.

    The table is CSV with a header and a row for each picture: its path in the column `image`, and either the names of
    its classes in one column `labels`, separated by semicolons (an empty cell: no class is present), or a column of 0
    and 1 for each class. A column `split` may name the split that the picture belongs to.

        image,labels,split                     image,cat,dog
        pictures/1.jpg,cat;dog,train           pictures/1.jpg,1,1
        pictures/2.png,,val                    pictures/2.png,0,0

    Classes and their order are those of classes.txt beside the table (one name per line), and a row with another name
    is a bad sample; without that file they are the columns in their order, or the names of all rows, SORTED. Write
    classes.txt where masks are in another order.

    Pictures are turned by their EXIF orientation, because annotation tools show them so, and masks are expected in the
    displayed orientation.

    Args:
        data_root: the folder
        split: all, or a value of the column `split`; with `hold_out`, train or val
        labels: the table, relative to the folder
        masks: folder of PNGs (grey or palette), relative to the folder, named like the pictures without their folder
            and ending; values 0 background, 1 the first class and so on, 255 void. None: there are none
        hold_out: without a column `split`, the fraction of the pictures that `val` gets, stratified by class
        seed: of the hold-out
    """

    licence = "Your own data, under your own licence."

    def __init__(
        self,
        *,
        data_root: Path,
        split: str = ALL,
        labels: str = "labels.csv",
        masks: str | None = None,
        hold_out: InnerFraction | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(split=split)
        self.root = Path(data_root)
        self.table = self.root / labels
        self.mask_folder = None if masks is None else self.root / masks
        if not self.table.is_file():
            raise MissingError(f"{self.name}: the table {self.table} is missing{_near(self.table)}", key="labels")
        if self.mask_folder is not None and not self.mask_folder.is_dir():
            near = _near(self.mask_folder)
            raise MissingError(f"{self.name}: the folder {self.mask_folder} is missing{near}", key="masks")
        columns, rows = read_table(self.table, (IMAGE,))
        ids = [Path(row[IMAGE]).as_posix() for row in rows]
        self._check_paths(rows, ids)
        self._classes, table, wrong = _labels(self.table, columns, rows)
        if self.has_masks and len(self._classes) >= VOID:
            raise UsageError(f"{self.table}: {len(self._classes)} classes; masks can tell {VOID - 1} apart")
        named = [row[SPLIT] for row in rows if row[SPLIT]] if SPLIT in columns else []
        self._splits = tuple(dict.fromkeys([ALL, *(named if hold_out is None else HELD_OUT)]))
        chosen = self._choose(rows, ids, table, hold_out, seed)
        self._ids, self._labels = [ids[row] for row in chosen], table[chosen]
        self._at = [rows[row].at for row in chosen]
        self._wrong = {index: wrong[row] for index, row in enumerate(chosen) if row in wrong}

    @staticmethod
    def offers_masks(options: Mapping[str, Any]) -> bool:
        return options.get("masks") is not None

    @property
    def has_masks(self) -> bool:
        return self.mask_folder is not None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._classes

    @property
    def label_source(self) -> str:
        return self.table.name

    @property
    def contradiction_advice(self) -> str:
        order = ", ".join(self._classes[:MOST_LISTED]) + (", ..." if len(self._classes) > MOST_LISTED else "")
        if (self.table.parent / CLASS_FILE).is_file():
            return f"is the order {order} of {CLASS_FILE} right?"
        return f"is the order {order} right? write {CLASS_FILE}"

    @property
    def splits(self) -> tuple[str, ...]:
        return self._splits

    @property
    def ids(self) -> list[str]:
        return self._ids

    @cached_property
    def revision(self) -> str:
        """Hash of paths, classes, labels, contents of masks, and file sizes of pictures."""
        digest = hashlib.sha256(repr((self._ids, self._classes, self.has_masks)).encode())
        digest.update(self._labels.tobytes())
        for name in self._ids:
            digest.update(repr(file_size(self.root / name)).encode())
            if (mask := self._mask(name)) is not None:
                digest.update(hashlib.sha256(mask.read_bytes()).digest() if mask.is_file() else b"absent")
        return digest.hexdigest()[:16]

    def load(self, index: int) -> Sample:
        if index in self._wrong:
            raise SampleError(self._wrong[index])
        name, at, labels = self._ids[index], self._at[index], self._labels[index].copy()
        path = self.root / name
        if not path.is_file():
            raise SampleError(f"{at}: {path}: no such file{_near(path)}")
        image = read_image(path, displayed=True)
        drawn = self._mask(name)
        mask = None if drawn is None else read_mask(drawn, image.size, len(self._classes), at)
        return Sample(name, image, labels, np.zeros_like(labels), mask, str(path))

    def files(self, index: int) -> list[Path]:
        name = self._ids[index]
        mask = self._mask(name)
        return [self.root / name] if mask is None else [self.root / name, mask]

    def _mask(self, name: str) -> Path | None:
        return None if self.mask_folder is None else self.mask_folder / f"{Path(name).stem}.png"

    def _check_paths(self, rows: Sequence[Row], ids: Sequence[str]) -> None:
        for row, name in zip(rows, ids, strict=True):
            if not row[IMAGE] or Path(name).is_absolute():
                raise UsageError(f"{row.at}: image {row[IMAGE]!r}; a path relative to {self.root} is needed")
        check_unique(rows, ids)
        if self.mask_folder is not None:
            try:
                check_unique(rows, [f"{Path(name).stem}.png" for name in ids])
            except UsageError as error:
                raise UsageError(f"{error}; masks go by the name of the picture without its folder") from None

    def _choose(
        self, rows: Sequence[Row], ids: Sequence[str], table: npt.NDArray[np.uint8], fraction: float | None, seed: int
    ) -> npt.NDArray[np.intp]:
        """Numbers of the rows of the split."""
        declared = bool(rows) and SPLIT in rows[0].cells
        if declared and fraction is not None:
            message = f"{self.table}: has a column {SPLIT!r}, so hold_out {fraction} has nothing to decide"
            raise UsageError(f"{message}; remove one of the two", key="hold_out")
        if self.split == ALL:
            return np.arange(len(rows))
        if declared:
            if self.split not in self._splits:
                raise UsageError(f"{self.table}: {unknown('split', self.split, self._splits)}", key="split")
            return np.flatnonzero([row[SPLIT] == self.split for row in rows])
        if fraction is None:
            raise UsageError(
                f"{self.table}: has no column {SPLIT!r} to choose {self.split!r} by; add one, or give hold_out",
                key="split",
            )
        if self.split not in HELD_OUT:
            raise UsageError(f"{self.table}: {unknown('split', self.split, self._splits)}", key="split")
        return np.flatnonzero(held_out(ids, table, fraction, seed) == (self.split == "val"))


def _labels(
    path: Path, columns: Sequence[str], rows: Sequence[Row]
) -> tuple[tuple[str, ...], npt.NDArray[np.uint8], dict[int, str]]:
    """Class names, labels [N, L] of the whole table, and messages about rows with a mistake, by row number."""
    named = LABELS in columns
    others = [column for column in columns if column not in (IMAGE, SPLIT, LABELS)]
    if named and others:
        allowed = f"allowed beside {LABELS}: {IMAGE}, {SPLIT}"
        raise UsageError(f"{path}:1: unknown column {others[0]!r}{closest(others[0], (IMAGE, SPLIT))}; {allowed}")

    def names_of(row: Row) -> list[str]:
        return [name for part in row[LABELS].split(";") if (name := part.strip())] if named else []

    classes = _read_classes(path.parent / CLASS_FILE)
    classes = classes or (tuple(sorted({name for row in rows for name in names_of(row)})) if named else tuple(others))
    if not classes:
        raise UsageError(f"{path}:1: no classes; a column {LABELS!r}, or a column of 0 and 1 for each class, is needed")
    for column in others:
        label_index(column, classes, f"{path}:1")
    if missing := [name for name in classes if not named and name not in others]:
        raise UsageError(f"{path}:1: no column {missing[0]!r}, which {CLASS_FILE} names")

    def write(row: Row, present: npt.NDArray[np.uint8]) -> None:
        for name in names_of(row):
            present[label_index(name, classes, row.at)] = 1
        for name in others:
            if row[name] not in ("0", "1"):
                raise UsageError(f"{row.at}: {row[name]!r} in the column {name!r}; allowed: 0, 1")
            present[classes.index(name)] = row[name] == "1"

    return classes, *label_table(rows, len(classes), write)


def _read_classes(path: Path) -> tuple[str, ...]:
    """Names, one per line; empty where there is no such file."""
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [Row(f"{path}:{number}", {}) for number, line in enumerate(lines, 1) if line.strip()]
    names = tuple(line.strip() for line in lines if line.strip())
    check_unique(rows, names)
    return names


def _near(path: Path) -> str:
    """A clause that suggests the closest name in the same folder; "" where there is none."""
    return closest(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else ""


def read_mask(path: Path, size: tuple[int, int], classes: int, at: str) -> npt.NDArray[np.uint8]:
    """uint8 [H, W]: 0 background, label + 1, 255 void; grey and palette PNGs hold these values.

    Args:
        size: (width, height) of the picture as displayed
        classes: number of classes
        at: place of the picture's row, for messages

    Raises:
        SampleError: an unreadable file, another mode or size, other values
    """
    try:
        with Image.open(path) as file:
            mode, mask = file.mode, np.array(file)
    except UNREADABLE as error:
        raise SampleError(f"{at}: {path}: cannot be read as a mask ({reason(error)})") from error
    if mode not in ("P", "L"):
        raise SampleError(f"{at}: {path}: a mask of mode {mode}; allowed: L and P (grey or palette, 8 bits)")
    if mask.shape != size[::-1]:
        found, needed = f"{mask.shape[1]}x{mask.shape[0]}", f"{size[0]}x{size[1]}"
        turned = " as displayed, its EXIF orientation applied" if mask.shape == size else ""
        raise SampleError(f"{at}: {path}: the mask is {found}, its picture {needed}{turned} (width x height)")
    if (wrong := mask[(mask > classes) & (mask != VOID)]).size:
        raise SampleError(f"{at}: {path}: the mask holds {wrong[0]}; allowed: 0..{classes}, {VOID}")
    return mask.astype(np.uint8)
