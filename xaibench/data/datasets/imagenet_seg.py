"""ImageNet-Segmentation: 4,276 photographs of ImageNet with the outline of their object, in one MATLAB file.

`gtsegs_ijcv.mat` is HDF5 (MATLAB 7.3). /value/{img,gt,id,target} are columns of references, one for each photograph:
img uint8 [3, W, H]; gt a cell that holds a reference to uint8 [W, H] of 0 and 1; id code units of "n02110341_123", the
wnid and a number. Axes are stored backwards, as MATLAB does.

The file is opened for each photograph that is read, and nothing of it is kept: memory does not grow, and a data set can
be copied to other processes by fork or by pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from xaibench.core.errors import MissingError, SampleError, UsageError
from xaibench.core.registry import dataset
from xaibench.data.dataset import Dataset, Sample
from xaibench.data.datasets.imagenet import CLASSES, COUNT, LABELS
from xaibench.data.reading.image_files import reason

FILE = "gtsegs_ijcv.mat"
FIELDS = ("img", "gt", "id")
BROKEN = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)  # what h5py raises


@dataset(
    classes=CLASSES,
    splits=("all",),
    masks=True,
    single_label=True,
    source="guillaumin2014; as a benchmark of explanations chefer2021",
)
class imagenet_seg(Dataset):
    """ImageNet-Segmentation: 4,276 photographs, their one object outlined; classes are those of ImageNet.

    The mask is background or object, whose label is that of the photograph's wnid. A wnid that is none of the thousand
    classes has no label: labels are 0 then, and its object has the value 1001, which belongs to no label and is not
    background. The protocol explains the predicted class, right or wrong, and compares with the object
    (`explain: predicted`, metrics with `truth: foreground`), so it counts those photographs as well.

    Args:
        data_root: the folder that holds imagenet_seg/gtsegs_ijcv.mat, or gtsegs_ijcv.mat
        split: all
    """

    address = "calvin-vision.net, bigstuff/proj-imagenet/data/gtsegs_ijcv.mat (http only, and often down)"
    licence = "The photographs are ImageNet's: non-commercial research and education only, no redistribution."

    def __init__(self, *, data_root: Path, split: Literal["all"] = "all") -> None:
        super().__init__(split=split)
        files = [Path(data_root) / "imagenet_seg" / FILE, Path(data_root) / FILE]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise MissingError(f"{self.name}: neither {files[0]} nor {files[1]} is there; get it from {self.address}")
        self.file = found
        self._ids = self._read_ids()

    @classmethod
    def official(cls) -> Mapping[str, int]:
        return {"all": 4276}

    @property
    def ids(self) -> list[str]:
        return self._ids

    @cached_property
    def revision(self) -> str:
        """Hash of ids, of masks as they are stored, and of the sizes of photographs, in pixels and in the file."""
        digest = hashlib.sha256(repr(self._ids).encode())
        with self._open() as file:
            for index in range(len(self)):
                try:
                    image, mask = stored(file, index)
                    digest.update(repr((image.shape, image.id.get_storage_size())).encode())
                    for chunk in content(mask):
                        digest.update(hashlib.sha256(chunk).digest())
                except BROKEN:
                    digest.update(b"unreadable")
        return digest.hexdigest()[:16]

    def load(self, index: int) -> Sample:
        name = self._ids[index]
        try:
            with self._open() as file:
                image, mask = (array[()] for array in stored(file, index))
        except BROKEN as error:
            raise SampleError(f"{self.file}: {name} cannot be read ({reason(error)})") from error
        label = LABELS.get(name.split("_")[0])
        present = np.zeros(COUNT, np.uint8)
        if label is not None:
            present[label] = 1
        foreground = self._foreground(name, image, mask) * np.int16((COUNT if label is None else label) + 1)
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(2, 1, 0)))
        return Sample(name, picture, present, np.zeros_like(present), foreground, f"{self.file}: {name}")

    def files(self, index: int) -> list[Path]:
        return [self.file]

    def _foreground(self, name: str, image: npt.NDArray[Any], mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """bool [H, W]: the object. Raises SampleError for arrays that do not follow the layout."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise SampleError(
                f"{self.file}: the image of {name} is {image.dtype} {image.shape}; uint8 (3, W, H) is needed"
            )
        if mask.shape != image.shape[1:]:
            found, needed = "x".join(map(str, mask.shape)), "x".join(map(str, image.shape[1:]))
            raise SampleError(f"{self.file}: the mask of {name} is {found}, its photograph {needed} (width x height)")
        if not np.isin(mask, (0, 1)).all():
            raise SampleError(f"{self.file}: the mask of {name} holds {mask.max()}; allowed: 0 and 1")
        return np.asarray(mask.T == 1)

    # -- the file -----------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        """Open the file, read only; close it by using it as a context."""
        return hdf5().File(self.file, "r")

    def _read_ids(self) -> list[str]:
        hdf5()
        try:
            with self._open() as file:
                columns = {field: file["value"][field] for field in FIELDS}
                ids = ["".join(map(chr, file[reference][()].ravel())) for reference in columns["id"][:, 0]]
                lengths = {field: len(column) for field, column in columns.items()}
        except BROKEN as error:
            raise UsageError(f"{self.file}: cannot be read as {FILE} ({reason(error)})") from error
        if len(set(lengths.values())) > 1:
            raise UsageError(f"{self.file}: its columns differ in length: {lengths}")
        if len(set(ids)) < len(ids):
            twice = next(name for i, name in enumerate(ids) if name in ids[:i])
            raise UsageError(f"{self.file}: holds {twice!r} twice; a sample may be there once")
        return ids


def hdf5() -> Any:
    """The package h5py. Raises MissingError where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise MissingError(f'{FILE} is read with h5py: pip install "xaibench[data]"') from error
    return h5py


def stored(file: Any, index: int) -> tuple[Any, Any]:
    """Image and mask number `index` of the file, not read yet."""
    image, cell = (file[file["value"][field][index, 0]] for field in ("img", "gt"))
    return image, file[cell[0, 0]]


def content(array: Any) -> Iterator[bytes]:
    """The bytes of an array as they are stored, because decompressing all masks would take many times as long."""
    if array.chunks is None:
        yield array[()].tobytes()
    else:
        for number in range(array.id.get_num_chunks()):
            yield array.id.read_direct_chunk(array.id.get_chunk_info(number).chunk_offset)[1]
