"""ImageNet (ILSVRC 2012), the validation set: a thousand classes, one for each photograph.

    val/n01440764/ILSVRC2012_val_00000293.JPEG     sorted into folders, or
    val/ILSVRC2012_val_00000293.JPEG               as in the archive, with one of
        LOC_val_solution.csv                           (Kaggle: the wnid of each photograph)
        ILSVRC2012_validation_ground_truth.txt         (numbers) and meta.mat or map_clsloc.txt (whose they are)

A class is identified by its wnid ("n01440764"). Label i is the i-th wnid in sorted order, which is the order of the
outputs of every ImageNet model. The numbers 1..1000 of the ground truth follow ANOTHER order, which only the development
kit lists: `meta.mat`, or `map_clsloc.txt` of its later editions. LOC_synset_mapping.txt and imagenet_class_index.json
are sorted lists of classes without those numbers.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from xaibench.core.errors import MissingError, UsageError, closest
from xaibench.core.registry import dataset
from xaibench.data.dataset import Dataset, Sample
from xaibench.data.reading.image_files import UNREADABLE, file_size, read_image, reason

COUNT = 1000
PHOTOGRAPHS = {".jpeg", ".jpg", ".png"}
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12"
ARCHIVE = "ILSVRC2012_img_val.tar"


def read_classes(path: Path) -> dict[str, str]:
    """Class names by wnid, from lines `n01440764 tench`."""
    return dict(line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())


# Made from timm's ImageNetInfo("imagenet-1k"): the first name of each class, with the wnid where two classes share it
# (two cranes, two maillots). tests/data/datasets/test_imagenet.py compares it with timm.
NAMES = read_classes(Path(__file__).with_name("imagenet_classes.txt"))
CLASSES = tuple(NAMES.values())
LABELS = {wnid: label for label, wnid in enumerate(NAMES)}


@dataset(classes=CLASSES, splits=("val",), single_label=True, source="russakovsky2015")
class imagenet(Dataset):
    """ImageNet (ILSVRC 2012): the 50,000 photographs of the validation set, one of a thousand classes each; no masks.

    Args:
        data_root: the folder that holds val, or holds imagenet, ILSVRC2012 or (Kaggle) ILSVRC, which does. In val the
            photographs are in folders named by wnid; or all together, and then LOC_val_solution.csv is needed, or
            ILSVRC2012_validation_ground_truth.txt with the meta.mat or map_clsloc.txt of the development kit, beside
            val or in ILSVRC2012_devkit_t12/data
        split: val
    """

    address = (
        "image-net.org, page Download (after registration), or the ImageNet Object Localization Challenge on Kaggle"
    )
    licence = "Non-commercial research and education only, by the ImageNet terms of access; no redistribution."
    archives: ClassVar[Mapping[str, str]] = {
        ARCHIVE: "29b22e2961454d5413ddabcf34fc5622",
        f"{DEVKIT}.tar.gz": "fa75699e90414af021442c21a62c3abf",
    }

    def __init__(self, *, data_root: Path, split: Literal["val"] = "val") -> None:
        super().__init__(split=split)
        self.root, self.folder = self._find(Path(data_root))
        files = self._in_class_folders() or self._together()
        if not files:
            raise MissingError(
                f"{self.name}: {self.folder} holds no photographs; they come with {ARCHIVE} of image-net.org"
            )
        self._files = dict(sorted(files.items()))

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return {"val": 50000}

    @cached_property
    def ids(self) -> list[str]:
        return list(self._files)

    @cached_property
    def revision(self) -> str:
        """Hash of ids, labels, and file sizes of photographs."""
        digest = hashlib.sha256()
        for name, (path, label) in self._files.items():
            digest.update(f"{name} {label} {file_size(path)}\n".encode())
        return digest.hexdigest()[:16]

    def load(self, index: int) -> Sample:
        name = self.ids[index]
        path, label = self._files[name]
        present = np.zeros(COUNT, np.uint8)
        present[label] = 1
        return Sample(name, read_image(path), present, np.zeros_like(present), None, str(path))

    def files(self, index: int) -> list[Path]:
        return [self._files[self.ids[index]][0]]

    # -- where things are ---------------------------------------------------------------------------------------

    def _find(self, data_root: Path) -> tuple[Path, Path]:
        """The folder of the release, and the one of the photographs in it."""
        roots = [data_root / "imagenet", data_root / "ILSVRC2012", data_root / "ILSVRC", data_root]
        places = [(root, root / inner) for root in roots for inner in ("val", "Data/CLS-LOC/val")]
        found = next((place for place in places if place[1].is_dir()), None)
        if found is None:
            raise MissingError(
                f"{self.name}: none of {', '.join(str(folder) for _, folder in places)} is there; "
                f"unpack {ARCHIVE} of image-net.org in {data_root / 'val'}"
            )
        return found

    def _beside(self, name: str) -> Path | None:
        """The path of a file beside val or in the development kit; None where there is none."""
        roots = [self.root, self.root.parent]
        kits = [root / kit / "data" for root in roots for kit in (DEVKIT, "devkit")]
        return next((folder / name for folder in [*roots, *kits] if (folder / name).is_file()), None)

    def _in_class_folders(self) -> dict[str, tuple[Path, int]]:
        """Photograph and label by id; empty where val holds no folders."""
        files: dict[str, tuple[Path, int]] = {}
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir() and path.name[0] != "."):
            if folder.name not in LABELS:
                raise UsageError(f"{folder}: is not called by one of the 1000 wnids{closest(folder.name, NAMES)}")
            for path in photographs(folder):
                if path.stem in files:
                    raise UsageError(
                        f"{path}: lies in {files[path.stem][0].parent.name} too; a photograph has one class"
                    )
                files[path.stem] = path, LABELS[folder.name]
        return files

    def _together(self) -> dict[str, tuple[Path, int]]:
        """Photograph and label by id, where val holds photographs and another file lists their classes."""
        files = photographs(self.folder)
        if not files:
            return {}
        source, classes = self._classes()
        if lacking := next((path for path in files if path.stem not in classes), None):
            raise UsageError(f"{source}: does not say the class of {lacking}")
        return {path.stem: (path, LABELS[classes[path.stem]]) for path in files}

    def _classes(self) -> tuple[Path, dict[str, str]]:
        """The file that lists the wnid of each photograph, and its content."""
        if (solution := self._beside(KAGGLE)) is not None:
            return solution, read_solution(solution)
        truth = self._beside(TRUTH)
        if truth is None:
            raise MissingError(
                f"{self.name}: {self.folder} holds photographs in no class folders, and neither {TRUTH} (of {DEVKIT}.tar.gz) "
                f"nor {KAGGLE} (of Kaggle) lies in {self.root} to say what they are"
            )
        order = self._beside("meta.mat") or self._beside("map_clsloc.txt")
        if order is None:
            raise MissingError(
                f"{self.name}: the numbers of {truth} follow the order of the development kit, and neither meta.mat (of "
                f"{DEVKIT}.tar.gz) nor map_clsloc.txt lies beside it to tell that order; sorted lists of classes do not"
            )
        return truth, read_truth(truth, read_order(order))


# -- files --------------------------------------------------------------------------------------------------------


def photographs(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in PHOTOGRAPHS and path.name[0] != "."]


def read_solution(path: Path) -> dict[str, str]:
    """Wnid by photograph, from Kaggle's table `ImageId,PredictionString` ("n03995372 85 1 499 272", boxes)."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        classes = {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError) as error:
        raise UsageError(f"{path}: is not a table with the columns ImageId and PredictionString") from error
    for name, wnid in classes.items():
        if wnid not in LABELS:
            raise UsageError(f"{path}: {name} is of {wnid!r}, which is none of the 1000 wnids{closest(wnid, NAMES)}")
    return classes


def read_truth(path: Path, order: Mapping[int, str]) -> dict[str, str]:
    """Wnid by photograph, from a list of numbers, one for each photograph."""
    lines = path.read_text(encoding="utf-8").split()
    wrong = [
        f"{line!r} in line {i}" for i, line in enumerate(lines, 1) if not line.isdecimal() or int(line) not in order
    ]
    if wrong:
        raise UsageError(f"{path}: {wrong[0]}; allowed: 1..{COUNT}")
    return {f"ILSVRC2012_val_{number:08d}": order[int(line)] for number, line in enumerate(lines, 1)}


def read_order(path: Path) -> dict[int, str]:
    """Wnid by number, from the development kit's meta.mat, or from lines `n02119789 1 kit_fox`."""
    try:
        if path.suffix == ".mat":
            table = _loadmat(path)["synsets"]
            rows = list(zip(table["ILSVRC2012_ID"].tolist(), table["WNID"].tolist(), strict=True))
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [(number, wnid) for wnid, number, *_ in (line.split() for line in lines if line.strip())]
        order = {int(number): str(wnid) for number, wnid in rows if int(number) <= COUNT}  # beyond: higher synsets
    except (*UNREADABLE, NotImplementedError, TypeError) as error:
        raise UsageError(f"{path}: cannot be read as a list of classes with their numbers ({reason(error)})") from error
    if sorted(order) != [*range(1, COUNT + 1)] or set(order.values()) != set(NAMES):
        raise UsageError(f"{path}: does not give each of the numbers 1..{COUNT} one of the {COUNT} classes")
    return order


def _loadmat(path: Path) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingError(f'{path} is read with scipy: pip install "xaibench[data]"') from error
    return loadmat(path, squeeze_me=True)
