"""Human Protein Atlas Image Classification (Kaggle 2018): where in the cell a protein is, by fluorescent stains.

    hpa/  train.csv (Id,Target: numbers separated by spaces), train/<Id>_{red,green,blue,yellow}.png

Each stain is a grey picture of its own: green is the protein of interest, blue the nucleus, red the microtubules,
yellow the endoplasmic reticulum. Pictures of the public atlas (HPAv18) are coloured JPEGs instead, one stain each, and
are read too: of red the red channel, of green the green, of blue the blue, of yellow (red and green alike) the red.

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
from xaibench.core.registry.bounds import InnerFraction
from xaibench.data.dataset import Dataset, Sample, dataset
from xaibench.data.reading.image_files import decode, find_root, length
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
STAINS: Mapping[Channels, tuple[str, ...]] = {
    "rgb": ("red", "green", "blue"),
    "rgby": ("red", "green", "blue", "yellow"),
    "green": ("green",),
}
COLOUR = {"red": "R", "green": "G", "blue": "B", "yellow": "R"}  # of a coloured picture, the channel that is the stain
SUFFIXES = (".png", ".jpg")
ATLAS = "the same images on proteinatlas.org are CC BY-SA (the version is on its licence page)"


class Stained(Dataset):
    """What the two competitions of the atlas share: a table of labels, and a picture per stain.

    Attributes:
        folders: where the data may lie below the data root
        columns: of the table: the id, and its labels as numbers, separated by `separator`
    """

    folders: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, str]]
    separator: ClassVar[str]

    def __init__(
        self, *, data_root: Path, split: Split, channels: Channels, hold_out: float, seed: int, labels: str, images: str
    ) -> None:
        super().__init__(split=split)
        self.stains = STAINS[channels]
        origin = f"the archive of {self.address}"
        root = find_root(self.name, Path(data_root), self.folders, labels, origin)
        self.folder = root / images
        if not self.folder.is_dir():
            raise MissingError(f"{self.name}: the folder {self.folder} is missing; it comes with {origin}")
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
        """Hash of ids, labels, stains. Of a picture its length alone counts."""
        digest = hashlib.sha256(repr((self._ids, self.stains)).encode())
        digest.update(self._labels.tobytes())
        for name in self._ids:
            digest.update(repr([length(self._file(name, stain)) for stain in self.stains]).encode())
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
        """Ids [N] and labels [N, L] of the whole table, and what is wrong with a row, by its number."""
        key, target = self.columns
        _, rows = read_table(path, self.columns)
        ids = [row[key] for row in rows]
        check_unique(rows, ids)

        def write(row: Row, own: npt.NDArray[np.uint8]) -> None:
            for word in row[target].split(self.separator):
                if not (word.isdecimal() and int(word) < len(own)):
                    raise UsageError(
                        f"{row.at}: label {word!r} of {row[key]}; allowed: numbers 0..{len(own) - 1}, separated by "
                        f"{self.separator!r}"
                    )
                own[int(word)] = 1

        return ids, *label_table(rows, len(self.class_names), write)


@dataset(classes=CLASSES, splits=("train", "val", "trainval"), source="ouyang2019; hold-out: sechidis2011")
class hpa(Stained):
    """Human Protein Atlas 2018: 28 places in the cell, 31,072 images of 512 x 512 in four stains; no masks.

    Args:
        data_root: the folder that holds hpa (or human-protein-atlas-image-classification), or that folder
        split: train, val (held out of train.csv) or trainval (all of train.csv); test labels are not public
        channels: rgb (red, green and blue stain as a picture), rgby (all four, a model with in_chans: 4) or green (the
            protein alone, a model with in_chans: 1)
        hold_out: fraction of train.csv that val gets, stratified by label; 0.2 is one of the five folds that are usual
        seed: of the hold-out
        labels: the table, relative to the folder, with the columns Id and Target
        images: the folder of the pictures, <Id>_<stain>.png or .jpg
    """

    address = "https://www.kaggle.com/c/human-protein-atlas-image-classification"
    licence = f"Kaggle's copies are under the rules of the competition; {ATLAS}."
    folders = ("hpa", "human-protein-atlas-image-classification")
    columns = ("Id", "Target")
    separator = " "

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
        super().__init__(
            data_root=data_root,
            split=split,
            channels=channels,
            hold_out=hold_out,
            seed=seed,
            labels=labels,
            images=images,
        )

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return {"trainval": 31072}
