"""Perturbation methods against slow twins written from their definitions, one pair, one mask at a time."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import xaibench
from xaibench.core.errors import UsageError
from xaibench.forward import Forward, Pairs

PAIRS = Pairs([1, 0, 1], [3, 0, 2])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3))) * 3


@pytest.fixture(scope="module")
def classifier() -> xaibench.Classifier:
    torch.manual_seed(0)
    return xaibench.Classifier(Net().double().eval())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 13, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5


def score(classifier: xaibench.Classifier, image: Tensor, label: int) -> float:
    return float(classifier.logits(image[None])[0, label])


def each(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.image.tolist(), pairs.label.tolist(), strict=True))


@pytest.mark.parametrize(("window", "stride"), [(5, 3), (4, 4), (13, 5), (1, 1)])
def test_occlusion_where_windows_do_not_fit(
    classifier: xaibench.Classifier, images: Tensor, window: int, stride: int
) -> None:
    found = xaibench.explain(classifier, images, PAIRS, method="occlusion", window=window, stride=stride, baseline=0.3)
    for row, (image, label) in enumerate(each(PAIRS)):
        total, count = torch.zeros(13, 17, dtype=torch.float64), torch.zeros(13, 17)
        for y in range(math.ceil((13 - window) / stride) + 1):
            for x in range(math.ceil((17 - window) / stride) + 1):
                cover = (slice(y * stride, y * stride + window), slice(x * stride, x * stride + window))
                changed = images[image].clone()
                changed[:, *cover] = 0.3
                total[cover] += score(classifier, images[image], label) - score(classifier, changed, label)
                count[cover] += 1
        assert (count > 0).all()
        torch.testing.assert_close(found[row], total / count)


def test_feature_ablation_where_patches_do_not_fit(classifier: xaibench.Classifier, images: Tensor) -> None:
    found = xaibench.explain(classifier, images, PAIRS, method="feature_ablation", patch=5, baseline=-0.2)
    for row, (image, label) in enumerate(each(PAIRS)):
        for y, x in itertools.product(range(0, 13, 5), range(0, 17, 5)):
            changed = images[image].clone()
            changed[:, y : y + 5, x : x + 5] = -0.2
            loss = score(classifier, images[image], label) - score(classifier, changed, label)
            patch = found[row, y : y + 5, x : x + 5]
            torch.testing.assert_close(patch, torch.full_like(patch, loss))


def test_rise_mask_by_mask(classifier: xaibench.Classifier, images: Tensor) -> None:
    masks, cells, p = 9, 4, 0.4
    forward = Forward(classifier, images)
    coins, offsets = forward.draw("rise/grids", masks, cells, cells), forward.draw("rise/offsets", masks, 2)
    found = xaibench.explain(classifier, images, PAIRS, method="rise", samples=masks, cells=cells, probability=p)
    tall, wide = 4, 5  # ceil(13 / 4), ceil(17 / 4)
    for row, (image, label) in enumerate(each(PAIRS)):
        expected = torch.zeros(13, 17, dtype=torch.float64)
        for i in range(masks):
            grid = (coins[image, i] < p).double()[None, None]
            large = torch.nn.functional.interpolate(grid, (5 * tall, 5 * wide), mode="bilinear")[0, 0]
            y, x = int(offsets[image, i, 0] * tall), int(offsets[image, i, 1] * wide)
            mask = large[y : y + 13, x : x + 17]
            expected += mask * classifier.probabilities((images[image] * mask)[None])[0, label]
        torch.testing.assert_close(found[row], expected / (masks * p))


def test_rise_finds_where_the_evidence_is() -> None:
    """A network that sums one corner: the map is the mask's correlation with that corner, highest there."""

    class Corner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            total = x[:, 0, :6, :6].mean((1, 2))
            return torch.stack([total, -total], 1) * 4

    classifier = xaibench.Classifier(Corner(), layer="conv")
    maps = xaibench.explain(classifier, torch.ones(1, 1, 24, 24), Pairs([0, 0], [0, 1]), method="rise", samples=400)
    assert maps[0, :6, :6].mean() > maps[0, 6:].max()
    assert maps[1, :6, :6].mean() < maps[1, 6:].min()


def superpixels(cells: int) -> Tensor:
    return torch.tensor([[(y * cells // 13) * cells + x * cells // 17 for x in range(17)] for y in range(13)])


def test_lime_is_a_weighted_ridge_regression(classifier: xaibench.Classifier, images: Tensor) -> None:
    cells, samples = 3, 40
    z = (Forward(classifier, images).draw("lime", samples, cells**2) < 0.5).double()
    z[:, 0] = 1
    parameters = {"cells": cells, "samples": samples, "baseline": 0.1, "penalty": 0.5}
    found = xaibench.explain(classifier, images, PAIRS, method="lime", **parameters)
    for row, (image, label) in enumerate(each(PAIRS)):
        confidence, weights = [], []
        for i in range(samples):
            changed = images[image].where(z[image, i][superpixels(cells)] > 0, 0.1)
            confidence.append(float(classifier.probabilities(changed[None])[0, label]))
            ones = float(z[image, i].sum())
            cosine = ones / (math.sqrt(ones) * math.sqrt(cells**2)) if ones else 0.0
            weights.append(math.sqrt(math.exp(-((1 - cosine) ** 2) / 0.25**2)))
        root = np.sqrt(weights)[:, None]
        design = np.concatenate([np.ones((samples, 1)), z[image].numpy()], 1)
        ridge = math.sqrt(0.5) * np.eye(cells**2 + 1)[1:]  # the intercept is free
        solution = np.linalg.lstsq(
            np.concatenate([root * design, ridge]),
            np.concatenate([root[:, 0] * confidence, np.zeros(cells**2)]),
            rcond=None,
        )[0]
        np.testing.assert_allclose(found[row].flatten(), solution[1:], atol=1e-9)


def test_kernel_shap_with_every_coalition_is_the_shapley_value(classifier: xaibench.Classifier, images: Tensor) -> None:
    found = xaibench.explain(classifier, images, PAIRS, method="kernel_shap", cells=2, samples=14, baseline=0.1)
    part = superpixels(2)
    for row, (image, label) in enumerate(each(PAIRS)):

        def value(coalition: tuple[int, ...], image: int = image, label: int = label) -> float:
            kept = torch.isin(part, torch.tensor(coalition, dtype=torch.long))
            return score(classifier, images[image].where(kept, 0.1), label)

        for player in range(4):
            others = [p for p in range(4) if p != player]
            expected = sum(
                (value((*coalition, player)) - value(coalition)) / (4 * math.comb(3, size))
                for size in range(4)
                for coalition in itertools.combinations(others, size)
            )
            assert found[row].flatten()[player] == pytest.approx(expected, abs=1e-9)


def test_kernel_shap_from_samples(classifier: xaibench.Classifier, images: Tensor) -> None:
    """Exact from samples where the game is additive; complete always; near the exact value with enough samples."""
    linear = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4)).double()
    additive = xaibench.Classifier(linear.eval(), layer="0")
    found = xaibench.explain(additive, images, PAIRS, method="kernel_shap", cells=5, samples=60)
    exact = xaibench.explain(additive, images, PAIRS, method="input_x_gradient")
    for cell in range(25):
        torch.testing.assert_close(found.flatten(1)[:, cell], exact[:, superpixels(5) == cell].sum(1))

    forward = Forward(classifier, images)
    total = forward.logits - classifier.logits(torch.zeros_like(images[:1]))
    found = xaibench.explain(classifier, images, PAIRS, method="kernel_shap", cells=3, samples=400)
    torch.testing.assert_close(found.sum((1, 2)), total[PAIRS.image, PAIRS.label])
    exact = xaibench.explain(classifier, images, PAIRS, method="kernel_shap", cells=3, samples=510)
    assert (found - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("method", "parameters", "passes", "clean"),
    [
        ("occlusion", {"window": 5, "stride": 5}, 3 * 4, True),
        ("feature_ablation", {"patch": 5}, 3 * 4, True),
        ("rise", {"samples": 11}, 11, False),
        ("lime", {"cells": 2, "samples": 11}, 11, False),
        ("kernel_shap", {"cells": 2, "samples": 14}, 15, True),
    ],
)
def test_one_set_of_passes_serves_all_labels(
    classifier: xaibench.Classifier, images: Tensor, method: str, parameters: dict[str, int], passes: int, clean: bool
) -> None:
    """And the untouched batch is run only where its score is compared with."""
    classifier.inspect(images)
    seen: list[int] = []
    handle = classifier.module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    try:
        xaibench.explain(classifier, images, Pairs([1] * 4, [0, 1, 2, 3]), method=method, **parameters)
    finally:
        handle.remove()
    assert sum(seen) == len(images) * clean + passes


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("occlusion", {"window": 14}),
        ("occlusion", {"window": 3, "stride": 4}),
        ("occlusion", {"window": 0}),
        ("feature_ablation", {"patch": 0}),
        ("rise", {"cells": 14}),
        ("rise", {"probability": 0.0}),
        ("rise", {"samples": 0}),
        ("lime", {"penalty": 0.0}),
        ("lime", {"cells": 0}),
        ("kernel_shap", {"cells": 1}),
        ("kernel_shap", {"samples": 97}),
    ],
)
def test_bad_parameters_are_refused(
    classifier: xaibench.Classifier, images: Tensor, method: str, parameters: dict[str, float]
) -> None:
    with pytest.raises(UsageError):
        xaibench.explain(classifier, images, PAIRS, method=method, **parameters)


@pytest.mark.parametrize("name", ["lime", "kernel_shap"])
@pytest.mark.parametrize("logit", [10.0, 14.0])
def test_a_nearly_certain_label_keeps_its_map(name: str, logit: float) -> None:
    """Between p = .999999 and 1 float32 has a dozen values: the regression must not take probabilities in float32."""
    torch.manual_seed(0)
    module = Net().double().eval()
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        module.fc.bias += (logit - module(images)[0, 1]) / 3
    maps = [
        xaibench.explain(xaibench.Classifier(m), x, Pairs([0], [1]), method=name, cells=3, samples=100).double()
        for m, x in ((module, images), (copy.deepcopy(module).float(), images.float()))
    ]
    assert (maps[0] - maps[1]).abs().max() < 1e-3 * maps[0].abs().max()
