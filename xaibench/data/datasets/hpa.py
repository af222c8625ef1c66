"""Human Protein Atlas: where in the cell a protein is, by fluorescent stains; the Kaggle competitions of 2018 and 2021.

    hpa/              train.csv (Id,Target: numbers separated by spaces), train/<Id>_{red,green,blue,yellow}.png
    hpa_single_cell/  train.csv (ID,Label: numbers separated by |), train/<ID>_{red,green,blue,yellow}.png

Each stain is a grey picture of its own: green is the protein of interest, blue the nucleus, red the microtubules,
yellow the endoplasmic reticulum. Pictures of the public atlas (HPAv18) are coloured JPEGs instead, one stain each, and
are read too: the red, green or blue channel of the red, green or blue stain, and the red channel of the yellow one.

The classes of `hpa_single_cell` are other ones than those of `hpa`: its vesicles include the peroxisomes, endosomes and
lysosomes of `hpa`, and "Negative" is a class. Its images are 1728 to 3072 pixels wide. Labels of single cells are not
public; the labels of train.csv are of all cells of an image together.

There are no masks, and the labels of the test images are not public; a part of train.csv is held out instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.core.registry import dataset
from xaibench.core.registry.bounds import InnerFraction
from xaibench.data.dataset import Dataset, Sample
from xaibench.data.reading.image_files import decode, file_size, find_root
from xaibench.data.reading.label_tables import Row, check_unique, label_table, read_table
from xaibench.data.reading.stratified_split import Split, rows_of

Channels = Literal["rgb", "rgby", "green"]

CLASSES = (
    "Nucleoplasm", "Nuclear membrane", "Nucleoli", "Nucleoli fibrillar center", "Nuclear speckles", "Nuclear bodies",
    "Endoplasmic reticulum", "Golgi apparatus", "Peroxisomes", "Endosomes", "Lysosomes", "Intermediate filaments",
    "Actin filaments", "Focal adhesion sites", "Microtubules", "Microtubule ends", "Cytokinetic bridge",
    "Mitotic spindle", "Microtubule organizing center", "Centrosome", "Lipid droplets", "Plasma membrane",
    "Cell junctions", "Mitochondria", "Aggresome", "Cytosol", "Cytoplasmic bodies", "Rods & rings",
)  # fmt: skip
SINGLE_CELL_CLASSES = (
    "Nucleoplasm", "Nuclear membrane", "Nucleoli", "Nucleoli fibrillar center", "Nuclear speckles", "Nuclear bodies",
    "Endoplasmic reticulum", "Golgi apparatus", "Intermediate filaments", "Actin filaments", "Microtubules",
    "Mitotic spindle", "Centrosome", "Plasma membrane", "Mitochondria", "Aggresome", "Cytosol",
    "Vesicles and punctate cytosolic patterns", "Negative",
)  # fmt: skip
STAINS: Mapping[Channels, tuple[str, ...]] = {
    "rgb": ("red", "green", "blue"),
    "rgby": ("red", "green", "blue", "yellow"),
    "green": ("green",),
}
COLOUR = {"red": "R", "green": "G", "blue": "B", "yellow": "R"}  # of a coloured picture, the channel that is the stain
SUFFIXES = (".png", ".jpg")
LICENCE = (
    "Kaggle's copies are under the rules of the competition; the same images on proteinatlas.org are CC BY-SA (the version "
    "is on its licence page)."
)


class Stained(Dataset):
    """A competition of the atlas: a table of labels, and a picture per stain.

    Attributes:
        folders: where the data may be below the data root
        columns: of the table: the id, and its labels as numbers, separated by `separator`

    Args:
        data_root: the folder that holds hpa or human-protein-atlas-image-classification (hpa_single_cell: that holds
            hpa_single_cell or hpa-single-cell-image-classification), or that folder
        split: train, val (held out of train.csv) or trainval (all of train.csv); test labels are not public
        channels: rgb (red, green and blue stain as a picture), rgby (all four, a model with in_chans: 4) or green (the
            protein alone, a model with in_chans: 1)
        hold_out: fraction of train.csv that val gets, stratified by label; 0.2 is one of the five folds that are usual
        seed: of the hold-out
        labels: the table, relative to the folder, with the columns Id and Target (hpa_single_cell: ID and Label)
        images: the folder of the pictures, <id>_<stain>.png or .jpg
    """

    licence = LICENCE
    folders: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, str]]
    separator: ClassVar[str]

    def __init__(
        self,
        *,
        data_root: Path,
        split: Split = "val",
        channels: Channels = "rgb",
        hold_out: InnerFraction = 0.2,
        seed: int = 0,
        labels: str = "train.csv",
        images: str = "train",
    ) -> None:
        super().__init__(split=split)
        self.stains = STAINS[channels]
        origin = f"the archive of {self.address}"
        root = find_root(self.name, Path(data_root), self.folders, labels, origin)
        self.folder = root / images
        if not self.folder.is_dir():
            raise MissingError(
                f"{self.name}: the folder {self.folder} is missing; it comes with {origin}", key="images"
            )
        ids, table, wrong = self._read(root / labels)
        rows = rows_of(split, ids, table, hold_out, seed)
        self._ids, self._labels = [ids[row] for row in rows], table[rows]
        self._wrong = {index: wrong[row] for index, row in enumerate(rows) if row in wrong}

    @property
    def channels(self) -> int:
        return len(self.stains)

    @property
    def ids(self) -> list[str]:
        return self._ids

    @cached_property
    def revision(self) -> str:
        """Hash of ids, labels, stains, and file sizes of pictures."""
        digest = hashlib.sha256(repr((self._ids, self.stains)).encode())
        digest.update(self._labels.tobytes())
        for name in self._ids:
            digest.update(repr([file_size(self._file(name, stain)) for stain in self.stains]).encode())
        return digest.hexdigest()[:16]

    def load(self, index: int) -> Sample:
        if index in self._wrong:
            raise SampleError(self._wrong[index])
        name, labels = self._ids[index], self._labels[index].copy()
        planes = {stain: self._plane(self._file(name, stain), stain) for stain in self.stains}
        sizes = {stain: f"{plane.width}x{plane.height}" for stain, plane in planes.items()}
        if len(set(sizes.values())) > 1:
            raise SampleError(
                f"{self.folder / name}: its stains differ in size: "
                + ", ".join(f"{stain} {size}" for stain, size in sizes.items())
            )
        image: Image.Image | npt.NDArray[np.uint8]
        if self.stains == STAINS["rgb"]:
            image = Image.merge("RGB", list(planes.values()))
        else:
            image = np.stack([np.asarray(plane) for plane in planes.values()], 2)
        return Sample(name, image, labels, np.zeros_like(labels), None, str(self._file(name, "green")))

    def files(self, index: int) -> list[Path]:
        return [self._file(self._ids[index], stain) for stain in self.stains]

    def _file(self, name: str, stain: str) -> Path:
        files = [self.folder / f"{name}_{stain}{suffix}" for suffix in SUFFIXES]
        return next((file for file in files if file.is_file()), files[0])

    @staticmethod
    def _plane(path: Path, stain: str) -> Image.Image:
        picture = decode(path)
        return picture.getchannel(COLOUR[stain]) if picture.mode == "RGB" else picture

    def _read(self, path: Path) -> tuple[list[str], npt.NDArray[np.uint8], dict[int, str]]:
        """Ids [N] and labels [N, L] of the table, and messages about rows with a mistake, by row number."""
        key, target = self.columns
        _, rows = read_table(path, self.columns)
        ids = [row[key] for row in rows]
        check_unique(rows, ids)

        def write(row: Row, present: npt.NDArray[np.uint8]) -> None:
            for word in row[target].split(self.separator):
                if not (word.isdecimal() and int(word) < len(present)):
                    raise UsageError(
                        f"{row.at}: label {word!r} of {row[key]}; allowed: numbers 0..{len(present) - 1}, separated by "
                        f"{self.separator!r}"
                    )
                present[int(word)] = 1

        return ids, *label_table(rows, len(self.class_names), write)


@dataset(classes=CLASSES, splits=("train", "val", "trainval"), source="ouyang2019; hold-out: sechidis2011")
class hpa(Stained):
    """Human Protein Atlas 2018: 28 places in the cell, 31,072 images of 512 x 512 in four stains; no masks."""

    address = "https://www.kaggle.com/c/human-protein-atlas-image-classification"
    folders = ("hpa", "human-protein-atlas-image-classification")
    columns = ("Id", "Target")
    separator = " "

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return {"trainval": 31072}


@dataset(classes=SINGLE_CELL_CLASSES, splits=("train", "val", "trainval"), source="le2022; hold-out: sechidis2011")
class hpa_single_cell(Stained):
    """Human Protein Atlas 2021: 19 places in the cell, 21,806 large images in four stains; no masks."""

    address = "https://www.kaggle.com/c/hpa-single-cell-image-classification"
    folders = ("hpa_single_cell", "hpa-single-cell-image-classification")
    columns = ("ID", "Label")
    separator = "|"

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return {"trainval": 21806}
