"""A data set of images, labels and masks that are in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from xaibench.core import registry
from xaibench.core.errors import UsageError
from xaibench.data.dataset import VOID, WIDE_VOID, Dataset, Sample
from xaibench.data.ground_truth import one_mask_type

Stored = Image.Image | npt.NDArray[np.uint8]
Array = Tensor | npt.NDArray[Any]
ALL = "all"


class InMemory(Dataset):
    """Images in memory, with labels and masks where they are known.

    Args:
        images: model input: float32 or float64 [N, C, H, W], or N tensors [C, H, W] of one size, already normalised and
            taken as they are. Or stored images, which are brought to the model's geometry: N RGB pictures (PIL), or N
            arrays uint8 [H, W, C]
        labels: bool or 0 and 1, [N, L]; None: not known
        masks: integers [N, H, W], or N arrays [H, W] of the sizes of the images: 0 background, label + 1; void is 255 in
            uint8 and -1 in wider types
        regions: for objects that overlap, a mapping per image from a label to bool [H, W]
        ids: a text per image, each once; None: "0", "1", ...
        class_names: a text per label; None: "label 0", "label 1", ...
        name: in messages and records

    Raises:
        UsageError: a wrong type, shape or value; the message names the argument and the position
    """

    label_source = "the argument labels"
    contradiction_advice = "is the order of the labels that of the mask values?"

    def __init__(
        self,
        images: Tensor | Sequence[Tensor] | Sequence[Stored] | npt.NDArray[np.uint8],
        labels: Array | Sequence[Sequence[int]] | None = None,
        masks: Array | Sequence[Array] | None = None,
        *,
        regions: Sequence[Mapping[int, Array]] | None = None,
        ids: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "in_memory",
    ) -> None:
        super().__init__(split=ALL)
        self._images = _images(images)
        count = len(self._images)
        self._labels = None if labels is None else _labels(labels, count)
        self.named = class_names is not None  # else the names are numbers, which do not identify the classes
        names = _class_names(class_names, self._labels)
        sizes = [_height_width(image) for image in self._images]
        self._masks = None if masks is None else _masks(masks, sizes, len(names) if names else None)
        self._regions = None if regions is None else _regions(regions, sizes, len(names) if names else None)
        if regions is not None and masks is None:
            raise UsageError("regions: masks are needed too, which say what is void; give masks")
        self._ids = [str(number) for number in range(count)] if ids is None else _texts("ids", ids, count)
        if isinstance(first := self._images[0], Tensor):
            self.input_shape = (first.shape[0], first.shape[1], first.shape[2])
        self.entry = registry.DatasetEntry(
            name=name,
            function=InMemory,
            source="in memory",
            version=1,
            classes=names,
            splits=(ALL,),
            masks=masks is not None,
            single_label=self._labels is not None and bool((self._labels.sum(1) == 1).all()),
        )

    @property
    def channels(self) -> int:
        image = self._images[0]
        if isinstance(image, Image.Image):
            return 3
        return image.shape[0] if isinstance(image, Tensor) else image.shape[2]

    @property
    def ids(self) -> list[str]:
        return self._ids

    @cached_property
    def revision(self) -> str:
        """Hash of class names, ids, and the bytes of images, labels, masks and regions."""
        digest = hashlib.sha256(repr((self.class_names, self._ids)).encode())
        for array in self._arrays():
            digest.update(f"{array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def load(self, index: int) -> Sample:
        labels = None if self._labels is None else self._labels[index].copy()
        return Sample(
            id=self._ids[index],
            image=self._images[index],
            labels=labels,
            ignore=np.zeros(0 if labels is None else len(labels), np.uint8),
            mask=None if self._masks is None else _one_type(self._masks[index]),
            source=f"{self.name}: images[{index}]",
            regions=None if self._regions is None else self._regions[index],
        )

    def _arrays(self) -> Iterator[npt.NDArray[Any]]:
        yield from (np.asarray(image) for image in self._images)
        yield from () if self._labels is None else (self._labels,)
        yield from self._masks or ()
        for regions in self._regions or ():
            yield np.array(sorted(regions), np.int64)
            yield from (regions[label] for label in sorted(regions))


# -- the arguments --------------------------------------------------------------------------------------------------


def _images(images: Any) -> list[Tensor] | list[Stored]:
    """Images one by one, all of them model input of one shape, or all of them stored images of as many channels."""
    if isinstance(images, Tensor) and images.ndim != 4:
        raise UsageError(
            f"images: [N, C, H, W] is needed, found {list(images.shape)}; write images[None] for one image"
        )
    listed = _listed("images", images)
    if not listed:
        raise UsageError("images: at least one is needed")
    for index, image in enumerate(listed):
        _check_image(f"images[{index}]", image)
        if isinstance(image, Tensor) != isinstance(listed[0], Tensor):
            raise UsageError(f"images[{index}]: a {_kind(image)}, but images[0] is a {_kind(listed[0])}; give one kind")
        if _comparable(image) != _comparable(listed[0]):
            raise UsageError(f"images[{index}] is {_described(image)}, images[0] {_described(listed[0])}")
    return listed


def _check_image(place: str, image: Any) -> None:
    if isinstance(image, Tensor):
        if image.dtype not in (torch.float32, torch.float64) or image.ndim != 3:
            remedy = "give float32 or float64 [C, H, W], normalised, or pictures, or arrays uint8 [H, W, C]"
            raise UsageError(f"{place}: a tensor of {_described(image)}; {remedy}")
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3:
            remedy = "give uint8 [H, W, C], or model input as a tensor (torch.from_numpy)"
            raise UsageError(f"{place}: an array of {_described(image)}; {remedy}")
    elif not isinstance(image, Image.Image):
        raise UsageError(f"{place}: {type(image).__name__}; give a tensor, a PIL picture or an array uint8 [H, W, C]")
    elif image.mode != "RGB":
        raise UsageError(f"{place}: a picture of mode {image.mode}; write image.convert('RGB')")


def _kind(image: Tensor | Stored) -> str:
    return "tensor" if isinstance(image, Tensor) else "stored image"


def _comparable(image: Tensor | Stored) -> Any:
    """What all images must have in common: model input its type and shape, stored images their channels."""
    if isinstance(image, Tensor):
        return image.dtype, image.shape
    return 3 if isinstance(image, Image.Image) else image.shape[2]


def _described(image: Tensor | Stored) -> str:
    if isinstance(image, Image.Image):
        return "a picture of 3 channels"
    return f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"


def _height_width(image: Tensor | Stored) -> tuple[int, int]:
    if isinstance(image, Image.Image):
        return image.height, image.width
    height, width = image.shape[1:] if isinstance(image, Tensor) else image.shape[:2]
    return height, width


def _labels(labels: Any, count: int) -> npt.NDArray[np.uint8]:
    """uint8 [N, L]."""
    found = _array("labels", labels)
    if found.ndim != 2 or len(found) != count or not found.shape[1]:
        remedy = "; for class numbers write torch.nn.functional.one_hot(labels, L)" if found.ndim == 1 else ""
        raise UsageError(f"labels: 0 and 1 of [{count}, L] are needed, found {list(found.shape)}{remedy}")
    wrong = np.argwhere((found != 0) & (found != 1))
    if len(wrong):
        row, label = wrong[0].tolist()
        raise UsageError(f"labels[{row}, {label}] is {found[row, label]}; allowed: 0 (absent), 1 (present)")
    return found.astype(np.uint8)


def _class_names(names: Sequence[str] | None, labels: npt.NDArray[np.uint8] | None) -> tuple[str, ...]:
    """A name per label; empty where neither names nor labels are given."""
    count = None if labels is None else labels.shape[1]
    if names is None:
        return tuple(f"label {label}" for label in range(count or 0))
    return tuple(_texts("class_names", names, count))


def _texts(argument: str, texts: Sequence[str], count: int | None) -> list[str]:
    """A list of `count` different texts."""
    listed = [texts] if isinstance(texts, str) else list(texts)
    if count is not None and len(listed) != count:
        raise UsageError(f"{argument}: {count} texts are needed, found {len(listed)}")
    first: dict[str, int] = {}
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise UsageError(f"{argument}[{index}]: a text is needed, found {text!r}")
        if text in first:
            raise UsageError(f"{argument}[{index}]: {text!r} is {argument}[{first[text]}] too; each must be there once")
        first[text] = index
    return listed


def _masks(masks: Any, sizes: Sequence[tuple[int, int]], labels: int | None) -> list[npt.NDArray[Any]]:
    """Masks one by one, checked; `labels` is their number, None where it is not known."""
    listed = [_array(f"masks[{index}]", mask) for index, mask in enumerate(_listed("masks", masks))]
    if len(listed) != len(sizes):
        raise UsageError(f"masks: one per image is needed, found {len(listed)} for {len(sizes)} images")
    for index, (mask, size) in enumerate(zip(listed, sizes, strict=True)):
        _check_size(f"masks[{index}]", mask, index, size)
        try:
            values = one_mask_type(torch.as_tensor(mask), labels or 0)
        except (UsageError, TypeError) as error:  # torch has no tensors of some types of numpy
            raise UsageError(f"masks[{index}]: {error}") from error
        wrong = values[(values < WIDE_VOID) | (values > (labels or values.max()))]
        if len(wrong):
            allowed = f"0..{labels or ''}, void {VOID if mask.dtype == np.uint8 else WIDE_VOID}"
            raise UsageError(f"masks[{index}] holds {wrong[0]}; allowed: {allowed}")
    return listed


def _one_type(mask: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | npt.NDArray[np.int16]:
    return mask if mask.dtype == np.uint8 else mask.astype(np.int16)


def _regions(
    regions: Sequence[Mapping[int, Array]], sizes: Sequence[tuple[int, int]], labels: int | None
) -> list[dict[int, npt.NDArray[np.bool_]]]:
    """Regions one by one, checked; `labels` is their number, None where it is not known."""
    if len(regions) != len(sizes):
        raise UsageError(f"regions: a mapping per image is needed, found {len(regions)} for {len(sizes)} images")
    for index, (given, size) in enumerate(zip(regions, sizes, strict=True)):
        for label, region in given.items():
            place = f"regions[{index}][{label!r}]"
            if not isinstance(label, int) or label < 0 or (labels is not None and label >= labels):
                raise UsageError(f"{place}: allowed are labels 0..{'' if labels is None else labels - 1}")
            _check_size(place, _array(place, region), index, size)
    return [{label: _array("regions", region) > 0 for label, region in given.items()} for given in regions]


def _check_size(place: str, array: npt.NDArray[Any], index: int, size: tuple[int, int]) -> None:
    if array.shape != size:
        raise UsageError(f"{place} is {list(array.shape)}; {list(size)} is needed, the size of images[{index}]")


def _listed(argument: str, values: Any) -> list[Any]:
    """The rows of an array or a sequence, tensors on the CPU."""
    try:
        rows = list(values.detach().cpu() if isinstance(values, Tensor) else values)
    except TypeError as error:
        raise UsageError(f"{argument}: an array or a sequence is needed, found {type(values).__name__}") from error
    return [row.detach().cpu() if isinstance(row, Tensor) else row for row in rows]


def _array(place: str, values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except ValueError as error:
        raise UsageError(f"{place}: cannot be read as an array ({error})") from error
