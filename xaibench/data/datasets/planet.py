"""Planet: Understanding the Amazon from Space (Kaggle 2017): seventeen tags of satellite chips of 256 x 256 pixels.

    planet/  train_v2.csv (image_name,tags: names separated by spaces), train-jpg/<image_name>.jpg

train.csv, the first version of the table, has wrong tags and is not read. The spelling of "artisinal_mine" is the
data set's. There are no masks, and the labels of the test images are not public; a part of the table is held out
instead. MinMax-CAM holds out 30 %, too, but did not publish which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.core.registry.bounds import InnerFraction
from xaibench.data.dataset import Dataset, Sample, dataset
from xaibench.data.reading.image_files import find_root, length, read_image
from xaibench.data.reading.label_tables import Row, check_unique, label_index, label_table, read_table
from xaibench.data.reading.stratified_split import Split, rows_of

CLASSES = (
    "agriculture", "artisinal_mine", "bare_ground", "blooming", "blow_down", "clear", "cloudy", "conventional_mine",
    "cultivation", "habitation", "haze", "partly_cloudy", "primary", "road", "selective_logging", "slash_burn", "water",
)  # fmt: skip
TABLE, IMAGES = "train_v2.csv", "train-jpg"


@dataset(classes=CLASSES, splits=("train", "val", "trainval"), source="planet2017; hold-out: sechidis2011")
class planet(Dataset):
    """Planet Amazon: 17 tags, 40,479 satellite chips; no masks.

    Args:
        data_root: the folder that holds planet (or planet-understanding-the-amazon-from-space), or that folder
        split: train, val (held out of train_v2.csv) or trainval (all of it); test labels are not public
        hold_out: fraction of the table that val gets, stratified by tag; 0.3 as in MinMax-CAM
        seed: of the hold-out
    """

    address = "https://www.kaggle.com/c/planet-understanding-the-amazon-from-space"
    licence = "Kaggle's copies are under the rules of the competition."
    folders = ("planet", "planet-understanding-the-amazon-from-space")

    def __init__(self, *, data_root: Path, split: Split = "val", hold_out: InnerFraction = 0.3, seed: int = 0) -> None:
        super().__init__(split=split)
        origin = f"the archive of {self.address}"
        root = find_root(self.name, Path(data_root), self.folders, TABLE, origin)
        self.folder = root / IMAGES
        if not self.folder.is_dir():
            raise MissingError(f"{self.name}: the folder {self.folder} is missing; it comes with {origin}")
        ids, table, wrong = read_tags(root / TABLE)
        rows = rows_of(split, ids, table, hold_out, seed)
        self._ids, self._labels = [ids[row] for row in rows], table[rows]
        self._wrong = {index: wrong[row] for index, row in enumerate(rows) if row in wrong}

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return {"trainval": 40479}

    @property
    def ids(self) -> list[str]:
        return self._ids

    @cached_property
    def revision(self) -> str:
        """Hash of ids and labels. Of a picture its length alone counts."""
        digest = hashlib.sha256(repr(self._ids).encode())
        digest.update(self._labels.tobytes())
        digest.update(repr([length(self._file(name)) for name in self._ids]).encode())
        return digest.hexdigest()[:16]

    def load(self, index: int) -> Sample:
        if index in self._wrong:
            raise SampleError(self._wrong[index])
        file, labels = self._file(self._ids[index]), self._labels[index].copy()
        return Sample(self._ids[index], read_image(file), labels, np.zeros_like(labels), None, str(file))

    def files(self, index: int) -> list[Path]:
        return [self._file(self._ids[index])]

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.jpg"


def read_tags(path: Path) -> tuple[list[str], npt.NDArray[np.uint8], dict[int, str]]:
    """Names [N] and labels [N, 17] of the table, and what is wrong with a row, by its number."""
    _, rows = read_table(path, ("image_name", "tags"))
    ids = [row["image_name"] for row in rows]
    check_unique(rows, ids)

    def write(row: Row, own: npt.NDArray[np.uint8]) -> None:
        if not row["tags"]:
            raise UsageError(f"{row.at}: {row['image_name']} has no tag; every chip has one for the weather at least")
        for tag in row["tags"].split():
            own[label_index(tag, CLASSES, row.at)] = 1

    return ids, *label_table(rows, len(CLASSES), write)
