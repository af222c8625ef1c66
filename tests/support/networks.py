"""Small random networks and a batch for them: eight images, and pairs that give an image 0 to 5 labels."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

import xaibench
from xaibench.core.timm_import import import_timm
from xaibench.data.preprocess import Preprocess
from xaibench.forward import Pairs

IDS = [f"sample-{i}" for i in range(8)]
PAIRS = Pairs([0, 1, 1, 1, 1, 1, 3, 4, 4, 5, 6, 7, 7], [2, 0, 1, 2, 4, 5, 3, 0, 5, 1, 1, 2, 3])  # 0, 1 and 5 labels


class Net(nn.Module):
    """Convolutions with in-place activations and additions, a pooled linear head: what real networks look like."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 1, 1)
        )
        self.conv1 = nn.Conv2d(8, 8, 3, 1, 1)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12))
        self.act2 = nn.ReLU(inplace=True)
        self.fc = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branch = self.conv1(x)
        branch += x
        x = self.act2(self.conv2(self.act1(branch)))
        return self.fc(x.mean((2, 3)))


def build(kind: str) -> xaibench.Classifier:
    """A new network of six labels for `images()`, in float64: "cnn" or "vit", the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "cnn":
            module: nn.Module = Net()
            module.fc.weight.data.mul_(4)  # type: ignore[union-attr, operator]
        else:
            import_timm()
            from timm.models.vision_transformer import VisionTransformer

            module = VisionTransformer(
                img_size=(24, 32), patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=6
            )
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.2)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    classifier = xaibench.Classifier(module.double(), name=kind)
    classifier.inspect(images())
    return classifier


@cache
def images() -> Tensor:
    return torch.randn(8, 3, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@cache
def mask() -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randint(0, 7, (8, 24, 32), generator=generator).to(torch.uint8)


@cache
def network(channels: int = 3) -> xaibench.Classifier:
    """The convolutional network of `build` for images of any number of channels, shared by tests that leave it as it is."""
    classifier = build("cnn")
    if channels != 3:
        module = Net()
        module.load_state_dict(classifier.module.state_dict())
        first = nn.Conv2d(channels, 8, 3, 2, 1)
        generator = torch.Generator().manual_seed(channels)
        first.weight.data = torch.randn(first.weight.shape, generator=generator) * 0.3
        module.stem[0] = first
        classifier = xaibench.Classifier(module.double(), name="cnn")
    classifier.preprocess = Preprocess(size=(24, 32), mean=(0.5,) * channels, std=(0.25,) * channels)
    return classifier


def any_classifier(labels: int = 3, channels: int = 3) -> xaibench.Classifier:
    """A small untrained network for images of any size."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, labels)
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return xaibench.Classifier(module.eval(), layer="1")


def count_passes(module: torch.nn.Module) -> list[int]:
    """Batch sizes of the passes through the first convolution, as they happen."""
    passes: list[int] = []
    first = next(m for m in module.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    return passes
