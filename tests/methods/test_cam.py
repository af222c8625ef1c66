"""The CAM family against slow twins written from the definitions, one pair at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xaibench
from tests.support.golden import Golden
from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.forward import Forward, Pairs
from xaibench.models.architectures import create_module


class Smooth(nn.Module):
    """Not piecewise linear, and its head is not linear in the last features either."""

    def __init__(self, labels: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 8, 3, stride=2), nn.GELU())
        self.head = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, labels))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).square().mean((2, 3)))


@pytest.fixture(scope="module")
def smooth() -> xaibench.Classifier:
    torch.manual_seed(3)
    return xaibench.Classifier(Smooth().double().eval(), layer="body.3")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 13, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


PAIRS = Pairs([2, 0, 0, 2, 0], [4, 1, 0, 2, 3])


def test_ablation_cam_runs_what_follows_the_layer(cnn: Golden) -> None:
    layer = cnn.layers["mid"]
    pairs = Pairs([1, 0, 1], [2, 5, 0])
    found = xaibench.explain(cnn.classifier, cnn.images, pairs, method="ablation_cam", layer=layer)
    module = cnn.classifier.module.get_submodule(layer)
    activations = Forward(cnn.classifier, cnn.images).features(layer)
    logits = cnn.classifier.logits(cnn.images)
    for row, (image, label) in enumerate(zip(pairs.image.tolist(), pairs.label.tolist(), strict=True)):
        expected = torch.zeros_like(found[0])
        for channel in range(activations.shape[1]):

            def zero(_: nn.Module, __: object, output: Tensor, channel: int = channel) -> Tensor:
                output = output.clone()
                output[:, channel] = 0
                return output

            handle = module.register_forward_hook(zero)
            without = cnn.classifier.logits(cnn.images[image][None])[0, label]
            handle.remove()
            weight = (logits[image, label] - without) / logits[image, label]
            expected += weight * activations[image, channel]
        torch.testing.assert_close(found[row], expected, atol=1e-10, rtol=1e-10)


def test_ablation_cam_by_the_head_equals_running_it(cnn: Golden) -> None:
    named = xaibench.Classifier(cnn.classifier.module, layer=cnn.layers["mid"])  # "last" is now another layer
    by_running = xaibench.explain(named, cnn.images, cnn.every_pair, method="ablation_cam", layer=cnn.layers["last"])
    by_head = xaibench.explain(cnn.classifier, cnn.images, cnn.every_pair, method="ablation_cam")
    torch.testing.assert_close(by_running, by_head, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "layer"),
    [
        ("test_resnet", {"channels": (8, 8, 8, 8), "stem_width": 4}, "layer2.0"),
        ("vit_tiny_patch16_224", {"img_size": (32, 48), "depth": 2, "embed_dim": 24}, "last"),
        ("vit_tiny_patch16_224", {"img_size": (32, 48), "depth": 2, "embed_dim": 24, "reg_tokens": 2}, "blocks.0"),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": (32, 48), "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4},
            "layers.0",
        ),
        ("test_resnet", {"channels": (8, 8, 8, 8), "stem_width": 4}, "input"),
    ],
)
def test_a_layer_replaced_by_itself_changes_nothing(name: str, options: dict[str, Any], layer: str) -> None:
    """Layers of every layout: channels first, channels last, tokens with a prefix."""
    torch.manual_seed(0)
    classifier = xaibench.Classifier(create_module(name, num_classes=4, **options).double().eval())
    classifier.chunk = 2
    forward = Forward(classifier, torch.randn(3, 3, 32, 48, dtype=torch.float64))
    pairs = Pairs([2, 0, 2], [1, 3, 0])
    logits = forward.logits[pairs.image, pairs.label]

    def scaled(activation: Tensor, version: Tensor) -> Tensor:
        odd = torch.arange(len(activation))[:, None, None] % 2  # versions 0, 1, 2: all, half, nothing of odd channels
        return activation * (1 - version[:, None, None, None] / 2 * odd)

    found = forward.replaced(pairs, layer, 3, scaled)
    torch.testing.assert_close(found[:, 0], logits)
    assert (found[:, 1] - logits).abs().min() > 1e-6
    assert (found[:, 1] - found[:, 2]).abs().min() > 1e-6


def test_ablation_cam_of_a_zero_logit_is_undefined() -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    nn.init.zeros_(module[4].weight)
    nn.init.zeros_(module[4].bias)
    classifier = xaibench.Classifier(module.eval(), layer="1")
    maps = xaibench.explain(classifier, torch.rand(1, 3, 8, 8), Pairs([0], [1]), method="ablation_cam")
    assert maps.isnan().all()


class Dense(nn.Module):
    """A connection bypasses the layer `inner`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([x, self.inner(x)], 1).relu().mean((2, 3)))


class BatchSize(nn.Module):
    """Reads the batch size from its input; `einsum` chooses between a wrong shape and an error on other activations."""

    def __init__(self, einsum: bool) -> None:
        super().__init__()
        self.inner, self.fc, self.einsum = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2), einsum

    def forward(self, x: Tensor) -> Tensor:
        b = x.size(0)
        features = self.inner(x).relu()
        if self.einsum:
            pooled = torch.einsum("bkz,bz->bk", features.flatten(2), torch.full((b, x[0, 0].numel()), 0.01).to(x))
        else:
            pooled = features.reshape(b, 4, -1).mean(-1)
        return self.fc(pooled).square()


@pytest.mark.parametrize("module", [Dense(), BatchSize(False), BatchSize(True)], ids=["bypass", "reshape", "einsum"])
def test_ablation_cam_where_a_layer_cannot_be_followed_alone(module: nn.Module) -> None:
    """Versions of a layer behind ONE image would give wrong maps, or an error."""
    module = module.double().eval()
    classifier = xaibench.Classifier(module, layer="inner")
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps = xaibench.explain(classifier, images, Pairs([0, 1], [1, 0]), method="ablation_cam")
    for found, image, label in zip(maps, images, (1, 0), strict=True):
        activation, logit = module.inner(image[None])[0], module(image[None])[0, label]
        expected = torch.zeros_like(found)
        for k in range(4):
            hook = module.inner.register_forward_hook(
                lambda _, __, output, k=k: output * (torch.arange(4) != k)[:, None, None]
            )
            without = module(image[None])[0, label]
            hook.remove()
            expected += ((logit - without) / logit * activation[k]).detach()
        torch.testing.assert_close(found, expected)


def test_score_cam_runs_the_masks_once_for_all_labels(cnn: Golden) -> None:
    passes: list[int] = []
    handle = cnn.classifier.module.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    try:
        xaibench.explain(cnn.classifier, cnn.images, Pairs([0] * 5 + [2], [0, 1, 2, 3, 4, 1]), method="score_cam")
    finally:
        handle.remove()
    channels = cnn.arrays["act/last"].shape[1]
    assert sum(passes) == len(cnn.images) + 2 * channels  # two images have pairs
    assert max(passes) <= cnn.classifier.chunk


@pytest.mark.parametrize("layer", ["body.3", "body.0"])
def test_shapley_cam_on_a_smooth_network(smooth: xaibench.Classifier, images: Tensor, layer: str) -> None:
    found = xaibench.explain(smooth, images, PAIRS, method="shapley_cam", layer=layer)
    index = int(layer.split(".")[1])
    first, rest = smooth.module.body[: index + 1], smooth.module.body[index + 1 :]
    for row, (image, label) in enumerate(zip(PAIRS.image.tolist(), PAIRS.label.tolist(), strict=True)):
        activation = first(images[image][None]).detach()

        def logit(a: Tensor, label: int = label) -> Tensor:
            return smooth.module.head(rest(a).square().mean((2, 3)))[0, label]

        gradient = torch.autograd.functional.jacobian(logit, activation)
        _, product = torch.autograd.functional.hvp(logit, activation, activation)
        weights = (gradient - 0.5 * product).mean((2, 3))
        expected = (weights[..., None, None] * activation).sum((0, 1)).detach()
        assert product.abs().max() > 1e-4
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("comparisons", [1, 3, 9])
def test_finer_cam_is_the_gradient_of_the_weighted_difference(
    smooth: xaibench.Classifier, images: Tensor, comparisons: int
) -> None:
    alpha = 0.7
    found = xaibench.explain(smooth, images, PAIRS, method="finer_cam", alpha=alpha, comparisons=comparisons)
    for row, (image, label) in enumerate(zip(PAIRS.image.tolist(), PAIRS.label.tolist(), strict=True)):
        activation = smooth.module.body(images[image][None]).detach().requires_grad_()
        logits = smooth.module.head(activation.square().mean((2, 3)))[0]
        distance = (logits - logits[label]).abs()
        others = sorted((d for d in range(len(logits)) if d != label), key=distance.tolist().__getitem__)
        probabilities = logits.softmax(0)
        nearest = others[:comparisons]
        target = sum(probabilities[d] * (logits[label] - alpha * logits[d]) for d in nearest)
        target = target / sum(probabilities[d] for d in nearest)
        (gradient,) = torch.autograd.grad(target, activation)
        expected = (gradient.mean((2, 3), keepdim=True) * activation).sum((0, 1)).detach()
        torch.testing.assert_close(found[row], expected)


def test_finer_cam_refuses_what_it_cannot_compare(smooth: xaibench.Classifier, images: Tensor) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        xaibench.explain(smooth, images, PAIRS, method="finer_cam", comparisons=0)
    single = xaibench.Classifier(Smooth(labels=1).double().eval(), layer="body.3")
    with pytest.raises(IncompatibleError, match="only one"):
        xaibench.explain(single, images, Pairs([0], [0]), method="finer_cam")


def test_eigen_cam_grows_with_the_activation(cnn: Golden) -> None:
    forward = Forward(cnn.classifier, cnn.images)
    energy = forward.features("last").sum(1)[cnn.every_pair.image]
    maps = xaibench.explain(cnn.classifier, cnn.images, cnn.every_pair, method="eigen_cam")
    assert ((maps * energy).sum((1, 2)) > 0).all()
    torch.testing.assert_close(maps.mean((1, 2)), torch.zeros(len(maps), dtype=maps.dtype), atol=1e-12, rtol=0)
