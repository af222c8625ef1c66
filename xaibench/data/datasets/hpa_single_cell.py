"""Human Protein Atlas Single Cell Classification (Kaggle 2021): nineteen places, labels of a whole image.

    hpa_single_cell/  train.csv (ID,Label: numbers separated by |), train/<ID>_{red,green,blue,yellow}.png

Another competition than `hpa`, with other classes: its vesicles hold what are peroxisomes, endosomes and lysosomes
there, and "Negative" is a class. Images are 1728 to 3072 pixels wide. Labels of single cells are not public; the
labels of train.csv are of all cells of an image together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from xaibench.core.registry.bounds import InnerFraction
from xaibench.data.dataset import dataset
from xaibench.data.datasets.hpa import ATLAS, Channels, Stained
from xaibench.data.reading.stratified_split import Split

CLASSES = (
    "Nucleoplasm", "Nuclear membrane", "Nucleoli", "Nucleoli fibrillar center", "Nuclear speckles", "Nuclear bodies",
    "Endoplasmic reticulum", "Golgi apparatus", "Intermediate filaments", "Actin filaments", "Microtubules",
    "Mitotic spindle", "Centrosome", "Plasma membrane", "Mitochondria", "Aggresome", "Cytosol",
    "Vesicles and punctate cytosolic patterns", "Negative",
)  # fmt: skip


@dataset(classes=CLASSES, splits=("train", "val", "trainval"), source="le2022; hold-out: sechidis2011")
class hpa_single_cell(Stained):
    """Human Protein Atlas 2021: 19 places in the cell, 21,806 large images in four stains; no masks.

    Args:
        data_root: the folder that holds hpa_single_cell (or hpa-single-cell-image-classification), or that folder
        split: train, val (held out of train.csv) or trainval (all of train.csv); test labels are not public
        channels: rgb (red, green and blue stain as a picture), rgby (all four, a model with in_chans: 4) or green (the
            protein alone, a model with in_chans: 1)
        hold_out: fraction of train.csv that val gets, stratified by label; 0.2 is one of the five folds that are usual
        seed: of the hold-out
        labels: the table, relative to the folder, with the columns ID and Label
        images: the folder of the pictures, <ID>_<stain>.png or .jpg
    """

    address = "https://www.kaggle.com/c/hpa-single-cell-image-classification"
    licence = f"Kaggle's copies are under the rules of the competition; {ATLAS}."
    folders = ("hpa_single_cell", "hpa-single-cell-image-classification")
    columns = ("ID", "Label")
    separator = "|"

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
        return {"trainval": 21806}
