"""A data set in memory: the same batches as from disk, and what is said of wrong arguments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import xaibench
from xaibench.core import registry
from xaibench.core.errors import SampleError, UsageError
from xaibench.data import Dataset, InMemory, Sample, load_dataset
from xaibench.data.batch import Batch, collate
from xaibench.data.contradictions import Contradictions
from xaibench.data.loader import batches, chunks, own_geometry, read_ahead
from xaibench.data.preprocess import Geometry, Preprocess, Unchanged
from xaibench.models.training.examples import Examples

CPU = torch.device("cpu")
SQUARE = Preprocess((32, 32))
COUNT = 6
SHAPES = load_dataset("shapes", samples=COUNT)
LABELS = np.stack([sample.labels for sample in SHAPES])
MASKS = np.stack([sample.mask for sample in SHAPES])


def read(dataset: Dataset, geometry: Geometry, workers: int = 0, dtype: torch.dtype = torch.float32) -> list[Batch]:
    asked = chunks(range(len(dataset)), 4)
    with closing(batches(dataset, geometry, asked, device=CPU, dtype=dtype, workers=workers)) as stream:
        return list(stream)


def tensors(dtype: torch.dtype = torch.float32) -> Tensor:
    """The images of shapes as model input of 32 x 32."""
    return torch.stack([SQUARE.image(sample.image) for sample in SHAPES]).to(dtype)


def small_masks() -> Tensor:
    return torch.stack([SQUARE.mask(mask) for mask in MASKS])


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(
        torch.equal(a.images, b.images)
        and torch.equal(a.ground_truth.mask, b.ground_truth.mask)
        and torch.equal(a.ground_truth.present, b.ground_truth.present)
        for a, b in pairs
    )


# -- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["pictures", "arrays", "one array"])
def test_stored_images_go_through_the_geometry(kind: str, workers: int) -> None:
    pictures = [sample.image for sample in SHAPES]
    images: dict[str, Any] = {
        "pictures": pictures,
        "arrays": [np.asarray(picture) for picture in pictures],
        "one array": np.stack([np.asarray(picture) for picture in pictures]),
    }
    dataset = InMemory(images[kind], LABELS, MASKS)
    assert dataset.input_shape is None
    assert own_geometry(dataset) is None
    assert same(read(dataset, SQUARE, workers), read(SHAPES, SQUARE))
    assert [name for batch in read(dataset, SQUARE, workers) for name in batch.ids] == [str(i) for i in range(COUNT)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_model_input_is_taken_as_it_is(dtype: torch.dtype, workers: int) -> None:
    images = tensors(dtype)
    for given in (images, list(images), images.clone().requires_grad_()):
        dataset = InMemory(given, torch.tensor(LABELS), small_masks())
        assert dataset.input_shape == (3, 32, 32)
        assert own_geometry(dataset) == Unchanged((32, 32))
        found = read(dataset, Unchanged((32, 32)), workers, dtype)
        assert torch.equal(torch.cat([batch.images for batch in found]), images)
        assert found[0].images.dtype == dtype
        assert not found[0].images.requires_grad
        assert same(read(dataset, Unchanged((32, 32)), workers), read(SHAPES, SQUARE))


def test_stored_images_may_differ_in_size() -> None:
    images = [Image.new("RGB", (20, 10)), Image.new("RGB", (8, 9))]
    masks = [np.ones((10, 20), np.uint8), np.full((9, 8), 255, np.uint8)]
    dataset = InMemory(images, [[1], [0]], masks)
    (batch,) = read(dataset, SQUARE)
    assert not batch.bad
    assert batch.ground_truth.mask is not None
    assert batch.ground_truth.mask[:, 0, 0].tolist() == [1, 255]


def test_other_channels() -> None:
    dataset = InMemory(np.zeros((2, 5, 5, 4), np.uint8))
    assert dataset.channels == 4
    dataset.check_channels(4, "a model")
    assert InMemory(torch.zeros(2, 6, 5, 5)).channels == 6
    assert InMemory([Image.new("RGB", (5, 5))]).channels == 3


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_wide_masks(dtype: torch.dtype) -> None:
    masks = torch.tensor([[[-1, 0], [300, 1]]], dtype=dtype)
    labels = np.zeros((1, 300), bool)
    labels[0, [0, 299]] = True
    (batch,) = read(InMemory(torch.zeros(1, 3, 2, 2), labels, masks), Unchanged((2, 2)))
    truth = batch.ground_truth.checked(batch.images, 300)
    assert truth.known_mask.tolist() == masks.tolist()
    assert not batch.contradictions


def test_regions() -> None:
    inside = np.array([[True, True], [False, False]])
    dataset = InMemory(
        torch.zeros(2, 3, 2, 2),
        [[1, 1], [0, 0]],
        np.full((2, 2, 2), 255, np.uint8),
        regions=[{0: inside, 1: torch.tensor(~inside)}, {}],
    )
    (batch,) = read(dataset, Unchanged((2, 2)))
    assert batch.ground_truth.regions is not None
    assert batch.ground_truth.regions.label.tolist() == [0, 1]
    assert torch.equal(batch.ground_truth.regions.masks[1], torch.tensor(~inside))


def test_what_is_not_given_is_not_known() -> None:
    dataset = InMemory(torch.zeros(3, 3, 4, 4))
    assert (dataset.has_masks, dataset.class_names, dataset[0].labels) == (False, (), None)
    (batch,) = read(dataset, Unchanged((4, 4)))
    assert (batch.ground_truth.mask, batch.ground_truth.present, batch.ground_truth.regions) == (None, None, None)
    masked = InMemory(torch.zeros(3, 3, 4, 4), masks=np.zeros((3, 4, 4), np.uint8), class_names=["a", "b"])
    assert masked.class_names == ("a", "b")
    assert read(masked, Unchanged((4, 4)))[0].ground_truth.mask is not None
    with pytest.raises(SampleError, match=r"in_memory: images\[1\]: has no labels, which are needed here"):
        _ = dataset[1].known_labels


def test_its_facts() -> None:
    dataset = InMemory(
        tensors(), LABELS, small_masks(), ids=list("abcdef"), class_names=SHAPES.class_names, name="mine"
    )
    assert (dataset.name, dataset.split, dataset.ids) == ("mine", "all", list("abcdef"))
    assert dataset.class_names == SHAPES.class_names
    assert dataset[2].source == "mine: images[2]"
    assert "mine" not in registry.datasets
    assert not dataset.entry.single_label
    assert InMemory(torch.zeros(2, 3, 4, 4), [[0, 1], [1, 0]]).entry.single_label
    assert InMemory(torch.zeros(2, 3, 4, 4), [[0, 1], [1, 0]]).class_names == ("label 0", "label 1")


def test_ids_are_those_of_a_pass_that_is_given_none() -> None:
    """They seed random draws, which are the same then."""
    classifier = xaibench.load_classifier("test_resnet", num_classes=8, input={"size": 32})
    (batch, *_) = read(InMemory(tensors(), LABELS), Unchanged((32, 32)))
    assert batch.ids == xaibench.Forward(classifier, batch.images).ids


def test_revision_is_that_of_the_content() -> None:
    def revision(change: Callable[[dict[str, Any]], Any] = lambda given: None) -> str:
        given: dict[str, Any] = {
            "images": tensors(),
            "labels": LABELS.copy(),
            "masks": MASKS[:, :32, :32].copy(),
            "regions": [{0: np.ones((32, 32), bool)} for _ in range(COUNT)],
            "ids": list("abcdef"),
        }
        change(given)
        return InMemory(**given, name="any").revision

    def set_first(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
        def change(given: dict[str, Any]) -> None:
            first = given[name][0]
            (first[0] if name == "regions" else first)[0] = value

        return change

    first = revision()
    assert first == revision()
    changes = [
        set_first("images", 7.0),
        set_first("labels", 1 - LABELS[0, 0]),
        set_first("masks", 8),
        set_first("regions", False),
        lambda given: given.update(ids=list("abcdeg")),
        lambda given: given.update(class_names=[f"c{i}" for i in range(8)]),
        lambda given: given.update(images=given["images"].double()),
        lambda given: given.update(masks=None, regions=None),
        lambda given: given.update(labels=None),
    ]
    assert len({first, *map(revision, changes)}) == len(changes) + 1


def test_contradictions_are_found() -> None:
    dataset = InMemory(torch.zeros(1, 3, 2, 2), [[1, 0]], np.array([[[0, 1], [2, 2]]]), class_names=["disk", "bar"])
    found = Contradictions(dataset)
    list(found.watch(read_ahead(dataset, Unchanged((2, 2)), [range(1)])))
    assert found.message == (
        "masks of 1 of 1 pictures hold classes that the argument labels does not give them (first: 0: bar); is the order "
        "of the labels that of the mask values?"
    )


def test_listing_data_sets_does_not_import_torch() -> None:
    script = (
        "import sys, xaibench.data; assert 'torch' not in sys.modules; xaibench.data.InMemory; "
        "from xaibench.data import InMemory, read_image; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# -- what is refused ------------------------------------------------------------------------------------------------

FOUR = torch.zeros(4, 3, 5, 6)
PICTURE = Image.new("RGB", (6, 5))
ONES = np.ones((4, 5, 6), np.uint8)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one image": ({"images": FOUR[0]}, r"images: \[N, C, H, W\] is needed, found \[3, 5, 6\]; write images\[None\]"),
    "no images": ({"images": []}, "images: at least one is needed"),
    "a picture alone": ({"images": PICTURE}, "images: an array or a sequence is needed, found Image"),
    "bytes": (
        {"images": FOUR.byte()},
        r"images\[0\]: a tensor of uint8 \[3, 5, 6\]; give float32 or float64 \[C, H, W\]",
    ),
    "half": ({"images": FOUR.half()}, r"images\[0\]: a tensor of float16 \[3, 5, 6\]; give float32"),
    "floats of numpy": ({"images": FOUR.numpy()}, r"images\[0\]: an array of float32 .*torch\.from_numpy"),
    "grey arrays": ({"images": [ONES[0]]}, r"images\[0\]: an array of uint8 \[5, 6\]; give uint8 \[H, W, C\]"),
    "grey": ({"images": [PICTURE, PICTURE.convert("L")]}, r"images\[1\]: a picture of mode L; write image\.convert"),
    "paths": ({"images": ["a.png"]}, r"images\[0\]: str; give a tensor, a PIL picture or an array"),
    "mixed": (
        {"images": [FOUR[0], PICTURE]},
        r"images\[1\]: a stored image, but images\[0\] is a tensor; give one kind",
    ),
    "sizes": (
        {"images": [FOUR[0], FOUR[0, :, :4]]},
        r"images\[1\] is float32 \[3, 4, 6\], images\[0\] float32 \[3, 5, 6\]",
    ),
    "types": ({"images": [FOUR[0], FOUR[0].double()]}, r"images\[1\] is float64 .*, images\[0\] float32"),
    "channels": (
        {"images": [PICTURE, np.zeros((5, 6, 4), np.uint8)]},
        r"images\[1\] is uint8 \[5, 6, 4\], images\[0\] a picture of 3 channels",
    ),
    "few labels": ({"labels": [[1]]}, r"labels: 0 and 1 of \[4, L\] are needed, found \[1, 1\]"),
    "class numbers": ({"labels": [0, 1, 2, 3]}, r"labels: .* found \[4\]; for class numbers write torch\.nn.*one_hot"),
    "ragged labels": ({"labels": [[1], [1, 0], [1], [1]]}, "labels: cannot be read as an array"),
    "a label of 2": ({"labels": [[1, 0], [0, 2], [0, 0], [1, 1]]}, r"labels\[1, 1\] is 2; allowed: 0 .absent., 1"),
    "few masks": ({"masks": ONES[:3]}, "masks: one per image is needed, found 3 for 4 images"),
    "no mask array": ({"masks": 5}, "masks: an array or a sequence is needed, found int"),
    "small masks": ({"masks": ONES[:, :4]}, r"masks\[0\] is \[4, 6\]; \[5, 6\] is needed, the size of images\[0\]"),
    "float masks": ({"masks": ONES.astype(float)}, r"masks\[0\]: masks must be uint8 .* found torch\.float64"),
    "bool masks": ({"masks": ONES > 0}, r"masks\[0\]: masks must be uint8 .* found torch\.bool"),
    "a class too many": ({"labels": np.eye(4), "masks": ONES * 5}, r"masks\[0\] holds 5; allowed: 0\.\.4, void 255"),
    "a wide class too many": (
        {"labels": np.eye(4), "masks": np.stack([ONES[0] * 1, *ONES[1:]]).astype(int) * np.arange(2, 6)[:, None, None]},
        r"masks\[3\] holds 5; allowed: 0\.\.4, void -1",
    ),
    "below void": ({"masks": ONES.astype(np.int16) * -2}, r"masks\[0\] holds -2; allowed: 0\.\., void -1"),
    "bytes for many labels": (
        {"labels": np.zeros((4, 255)), "masks": ONES},
        r"masks\[0\]: masks of uint8 hold at most 254 labels",
    ),
    "regions alone": ({"regions": [{}] * 4}, "regions: masks are needed too"),
    "few regions": ({"masks": ONES, "regions": [{}]}, "regions: a mapping per image is needed, found 1 for 4 images"),
    "a region of no label": (
        {"labels": np.eye(4), "masks": ONES, "regions": [{}, {4: ONES[0]}, {}, {}]},
        r"regions\[1\]\[4\]: allowed are labels 0\.\.3",
    ),
    "a small region": (
        {"masks": ONES, "regions": [{}, {0: ONES[0, :2]}, {}, {}]},
        r"regions\[1\]\[0\] is \[2, 6\]; \[5, 6\] is needed, the size of images\[1\]",
    ),
    "few ids": ({"ids": ["a"]}, "ids: 4 texts are needed, found 1"),
    "an id twice": ({"ids": ["a", "b", "a", "c"]}, r"ids\[2\]: 'a' is ids\[0\] too; each must be there once"),
    "numbers for ids": ({"ids": range(4)}, r"ids\[0\]: a text is needed, found 0"),
    "few names": ({"labels": np.eye(4), "class_names": ["a"]}, "class_names: 4 texts are needed, found 1"),
    "a name twice": ({"class_names": ["a", "a"]}, r"class_names\[1\]: 'a' is class_names\[0\] too"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_arguments_are_named(kind: str) -> None:
    given, sentence = REFUSED[kind]
    with pytest.raises(UsageError, match=rf"\A{sentence}") as caught:
        InMemory(**({"images": FOUR} | given))
    assert "\n" not in str(caught.value)


# -- model input from other data sets -------------------------------------------------------------------------------


class Own(InMemory):
    """A data set whose samples are not what its constructor has checked."""

    def __init__(self, image: Any, shape: tuple[int, int, int] | None) -> None:
        super().__init__(torch.zeros(2, 3, 4, 5))
        self.image, self.input_shape = image, shape

    def load(self, index: int) -> Sample:
        return Sample("1", self.image, None, np.zeros(0, np.uint8), None, "there") if index else super().load(0)


@pytest.mark.parametrize(
    ("image", "shape", "sentence"),
    [
        (torch.zeros(3, 4, 6), (3, 4, 5), "there: the image is float32 [3, 4, 6]; floats [3, 4, 5] are needed"),
        (torch.zeros(1, 4, 5), (3, 4, 5), "there: the image is float32 [1, 4, 5]; floats [3, 4, 5] are needed"),
        (torch.zeros(3, 4, 5).byte(), (3, 4, 5), "there: the image is uint8 [3, 4, 5]; floats [3, 4, 5] are needed"),
        (PICTURE, (3, 4, 5), "there: a picture, though its data set in_memory has an input_shape"),
    ],
)
def test_images_of_another_shape_are_bad_samples(image: Any, shape: Any, sentence: str) -> None:
    (batch,) = read(Own(image, shape), Unchanged((4, 5)))
    assert (batch.ids, batch.bad) == (["0"], [("1", sentence)])


def test_a_tensor_among_pictures_is_a_bad_sample() -> None:
    (batch,) = read(Own(torch.zeros(3, 4, 5), None), SQUARE)
    assert batch.bad[1] == ("1", "there: a tensor, though its data set in_memory has no input_shape")


def test_the_wrong_geometry_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="the images are model input already; pictures or uint8 arrays"):
        _ = Examples(InMemory(FOUR, np.eye(4)), SQUARE)[0]
    with pytest.raises(UsageError, match="the images are pictures, which need the model's input geometry"):
        read(InMemory([Image.new("RGB", (5, 4))]), Unchanged((4, 5)))
    with pytest.raises(UsageError, match=r"model input already"):
        collate([InMemory(FOUR)[0]], SQUARE)
