"""tta and puzzle against the arrays of the originals (irn's make_cam, Puzzle-CAM), smooth against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import xaibench
from tests.support.golden import load_arrays, load_facts
from xaibench.core import registry
from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.forward import Forward, Pairs
from xaibench.methods.wrappers import cut, merge
from xaibench.models.architectures import create_module


@pytest.fixture(scope="module")
def arrays() -> Any:
    return load_arrays("wsss/open_puzzle_tta")


class Puzzle(nn.Module):
    """The reference's fixed network; its four output channels are the maps of four labels."""

    def __init__(self, w1: Tensor, w2: Tensor) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 4, 3, padding=1, bias=False),
            nn.ReLU(),
        )
        self.features[0].weight.data, self.features[3].weight.data = w1, w2
        self.fc = nn.Linear(4, 4)
        nn.init.eye_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def test_tiles(arrays: Any) -> None:
    images = torch.tensor(arrays["x"])
    np.testing.assert_array_equal(cut(images, 2), arrays["tiles"])
    assert torch.equal(merge(cut(images, 4), 4), images)


def test_puzzle(arrays: Any) -> None:
    weights = [torch.tensor(arrays[key], dtype=torch.float64) for key in ("W1", "W2")]
    classifier = xaibench.Classifier(Puzzle(*weights).double().eval())
    images = torch.tensor(arrays["img"], dtype=torch.float64)
    pairs = Pairs([0] * 4, range(4))
    cam = xaibench.explain(classifier, images, pairs, method="cam").numpy()
    np.testing.assert_allclose(cam, arrays["cam_full"][0], atol=1e-6)
    puzzles = {}
    for tiles in (2, 4):
        forward = Forward(classifier, images)
        with torch.no_grad():
            found = registry.methods["puzzle"].function(forward, pairs, base="cam", tiles=tiles).numpy()
        np.testing.assert_allclose(found, arrays[f"cam_puzzle{tiles**2}"][0], atol=1e-6)
        puzzles[tiles] = found / (found.max((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(puzzles[2], arrays["cam_puzzle4_norm"][0], atol=1e-6)
    normalised = cam / (cam.max((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(normalised, arrays["cam_full_norm"][0], atol=1e-6)
    np.testing.assert_allclose(np.abs(normalised - puzzles[2]).mean(), arrays["l1_full_puzzle4"][0], atol=1e-6)


def in_views(arrays: Any, forward: Forward, pairs: Pairs) -> Tensor:
    """A stand-in method: the reference network's maps of the view that `forward` shows."""
    scale = {14: "0.5", 29: "1.0", 44: "1.5", 58: "2.0"}[forward.images.shape[-2]]
    mirrored = bool(forward.images[0, 0, :, 0].mean() > forward.images[0, 0, :, -1].mean())
    return torch.tensor(arrays[f"cam{'flip' if mirrored else ''}_s{scale}"])[pairs.label]


@pytest.fixture
def stand_in(arrays: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    entry = registry.Method("in_views", lambda forward, pairs: in_views(arrays, forward, pairs), "test", 1)
    assert "cam" in registry.methods
    monkeypatch.setitem(registry.methods._entries, "in_views", entry)
    return "in_views"


def test_tta(arrays: Any, stand_in: str, classifier: xaibench.Classifier) -> None:
    ramp = torch.linspace(0, 1, 43).expand(1, 3, 29, 43)
    forward = Forward(classifier, ramp.double())
    label = load_facts("wsss/open_puzzle_tta")["label"]
    pairs = Pairs.where(torch.tensor([label]) > 0)
    with torch.no_grad():
        found = registry.methods["tta"].function(forward, pairs, base=stand_in).numpy()
    found = found / (found.max((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, arrays["strided_cam"], atol=1e-6)


def test_every_array_is_compared_or_explained(arrays: Any) -> None:
    compared = {
        "tiles", "cam_full", "cam_puzzle4", "cam_puzzle16", "cam_full_norm", "cam_puzzle4_norm", "l1_full_puzzle4",
        "strided_cam",
    }  # fmt: skip
    inputs = {"x", "W1", "W2", "img"} | {k for k in arrays if k.startswith(("cam_s", "camflip_s"))}
    left_out = {"highres_cam"}  # the same sum resized to a padded grid and cropped
    assert set(arrays) == compared | inputs | left_out


@pytest.fixture(scope="module")
def classifier() -> xaibench.Classifier:
    torch.manual_seed(0)
    module = create_module("test_resnet", num_classes=4, channels=(8, 8, 8, 8), stem_width=4, output_stride=8)
    return xaibench.Classifier(module.double().eval())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


PAIRS = Pairs([1, 0, 1], [3, 0, 2])


def wrapped(classifier: xaibench.Classifier, images: Tensor, wrapper: str, **parameters: Any) -> Tensor:
    entry = registry.methods[wrapper]
    with torch.no_grad():
        return entry.function(Forward(classifier, images), PAIRS, **entry.bind(parameters))


def test_one_view_is_the_method(classifier: xaibench.Classifier, images: Tensor) -> None:
    alone = xaibench.explain(classifier, images, PAIRS, method="saliency", reduce="sum")
    options = {"reduce": "sum"}
    torch.testing.assert_close(wrapped(classifier, images, "puzzle", base="saliency", options=options, tiles=1), alone)
    torch.testing.assert_close(
        wrapped(classifier, images, "smooth", method="saliency", options=options, samples=1, sigma=0.0), alone
    )
    torch.testing.assert_close(
        wrapped(classifier, images, "tta", base="saliency", options=options, scales=[1.0], flip=False, stride=1),
        alone.relu(),
    )


def test_smooth_of_the_gradient_is_smooth_grad_with_its_own_noise(
    classifier: xaibench.Classifier, images: Tensor
) -> None:
    found = wrapped(classifier, images, "smooth", method="saliency", options={"reduce": "sum"}, samples=3, sigma=0.2)
    forward, expected = Forward(classifier, images), torch.zeros_like(found)
    span = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
    for i in range(3):
        noisy = images + 0.2 * span * forward.draw(f"smooth/{i}", 3, 37, 50, kind="normal")
        expected += xaibench.explain(classifier, noisy, PAIRS, method="saliency", reduce="sum") / 3
    torch.testing.assert_close(found, expected)


def test_wrappers_nest_and_refuse(classifier: xaibench.Classifier, images: Tensor) -> None:
    nested = wrapped(classifier, images, "smooth", base="tta", options={"base": "layer_cam"}, samples=2)
    assert nested.shape == (3, 10, 13)
    assert nested.abs().max() > 0
    with pytest.raises(UsageError, match="unknown method"):
        wrapped(classifier, images, "tta", base="grad_camm")
    with pytest.raises(UsageError, match="no parameter"):
        wrapped(classifier, images, "puzzle", base="grad_cam", options={"layr": "last"})
    with pytest.raises(IncompatibleError, match="attention"):
        wrapped(classifier, images, "smooth", method="raw_attention")
    with pytest.raises(IncompatibleError, match="ground-truth"):
        wrapped(classifier, images, "smooth", method="oracle")
    with pytest.raises(UsageError, match="scales"):
        wrapped(classifier, images, "tta", scales=[])
    with pytest.raises(UsageError, match="tiles"):
        wrapped(classifier, images, "puzzle", tiles=38)
    vit = create_module("vit_tiny_patch16_224", img_size=32, num_classes=4, depth=1)
    fixed = xaibench.Classifier(vit.double().eval())
    with pytest.raises(IncompatibleError, match="one size only"):
        xaibench.explain(fixed, torch.zeros(1, 3, 32, 32).double(), Pairs([0], [0]), method="puzzle")


def test_what_is_wrapped_can_be_chosen_in_python(classifier: xaibench.Classifier, images: Tensor) -> None:
    own, other = (wrapped(classifier, images, "tta", base=base, scales=[1.0]) for base in ("cam", "layer_cam"))
    assert not torch.allclose(own, other)


def test_maps_of_the_wrapped_method_are_checked(
    classifier: xaibench.Classifier, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def per_image(forward: Forward, pairs: Pairs) -> Tensor:
        return forward.images[:, 0]

    entry = registry.Method(name="per_image", function=per_image, source="", version=1)
    monkeypatch.setitem(registry.methods._entries, "per_image", entry)
    with pytest.raises(UsageError, match=r"method per_image returned \(2, 37, 50\)"):
        wrapped(classifier, images, "smooth", base="per_image")
