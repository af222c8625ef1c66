"""Gradient methods against slow twins written from their definitions, and against captum where it can be trusted."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xaibench
from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.forward import Forward, Pairs

PAIRS = Pairs([1, 0, 1], [3, 0, 2])


class Net(nn.Module):
    """In-place ReLU, a shortcut, one ReLU used twice, and a pool."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.stem, self.relu, self.pool = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), pool
        self.conv, self.out, self.fc = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.stem(x)))
        x = x + self.relu(self.conv(x))
        return self.fc(self.out(x - 0.1).mean((2, 3))) * 3


def network(pool: nn.Module) -> xaibench.Classifier:
    torch.manual_seed(0)
    return xaibench.Classifier(Net(pool).double().eval())


@pytest.fixture(scope="module")
def classifier() -> xaibench.Classifier:
    return network(nn.MaxPool2d(3, 2, 1))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 13, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(classifier: xaibench.Classifier, image: Tensor, label: int) -> Tensor:
    x = image[None].clone().requires_grad_()
    return torch.autograd.grad(classifier.module(x)[0, label], x)[0][0]


def each(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.image.tolist(), pairs.label.tolist(), strict=True))


def test_integrated_gradients_becomes_complete(classifier: xaibench.Classifier, images: Tensor) -> None:
    total = classifier.logits(images) - classifier.logits(torch.full_like(images[:1], 0.4))
    errors = [
        (
            xaibench.explain(classifier, images, PAIRS, method="integrated_gradients", steps=steps, baseline=0.4).sum(
                (1, 2)
            )
            - total[PAIRS.image, PAIRS.label]
        )
        .abs()
        .max()
        for steps in (1, 200)
    ]
    assert errors[1] < 0.02 * total.abs().max() < errors[0]


def test_integrated_gradients_costs_steps_forwards(classifier: xaibench.Classifier, images: Tensor) -> None:
    passes: list[int] = []
    handle = classifier.module.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    try:
        with torch.no_grad():
            forward = Forward(classifier, images)
            xaibench.core.registry.methods["integrated_gradients"].function(forward, Pairs([0] * 4, range(4)), steps=7)
    finally:
        handle.remove()
    assert passes == [2] * 7


@pytest.mark.parametrize("method", ["smooth_grad", "var_grad"])
def test_noisy_gradients(classifier: xaibench.Classifier, images: Tensor, method: str) -> None:
    samples, sigma = 6, 0.2
    forward = Forward(classifier, images)
    found = xaibench.explain(classifier, images, PAIRS, method=method, samples=samples, sigma=sigma)
    for row, (image, label) in enumerate(each(PAIRS)):
        scale = sigma * (images[image].max() - images[image].min())
        noise = [forward.draw(f"smooth_grad/{i}", 3, 13, 17, kind="normal")[image] for i in range(samples)]
        gradients = torch.stack([gradient(classifier, images[image] + scale * n, label) for n in noise])
        expected = gradients.mean(0) if method == "smooth_grad" else gradients.var(0, unbiased=False)
        torch.testing.assert_close(found[row], expected.sum(0))


def test_gradient_shap(classifier: xaibench.Classifier, images: Tensor) -> None:
    samples, sigma, baseline = 5, 0.2, 0.3
    forward = Forward(classifier, images)
    found = xaibench.explain(
        classifier, images, PAIRS, method="gradient_shap", samples=samples, sigma=sigma, baseline=baseline
    )
    for row, (image, label) in enumerate(each(PAIRS)):
        expected = torch.zeros(3, 13, 17, dtype=torch.float64)
        for i in range(samples):
            noise = forward.draw(f"gradient_shap/{i}", 3, 13, 17, kind="normal")[image]
            noisy = images[image] + sigma * (images[image].max() - images[image].min()) * noise
            t = forward.draw(f"gradient_shap/{i}/t", 1, 1, 1)[image]
            expected += (noisy - baseline) * gradient(classifier, baseline + t * (noisy - baseline), label) / samples
        torch.testing.assert_close(found[row], expected.sum(0))


def test_expected_gradients(classifier: xaibench.Classifier, images: Tensor) -> None:
    samples = 5
    forward = Forward(classifier, images)
    found = xaibench.explain(classifier, images, PAIRS, method="expected_gradients", samples=samples)
    for row, (image, label) in enumerate(each(PAIRS)):
        expected = torch.zeros(3, 13, 17, dtype=torch.float64)
        for i in range(samples):
            b = forward.draw(f"expected_gradients/{i}", 3, 13, 17, kind="normal")[image]
            t = forward.draw(f"expected_gradients/{i}/t", 1, 1, 1)[image]
            expected += (images[image] - b) * gradient(classifier, b + t * (images[image] - b), label) / samples
        torch.testing.assert_close(found[row], expected.sum(0))


def test_accumulated_saliency_tile_by_tile(classifier: xaibench.Classifier, images: Tensor) -> None:
    tiles, passes, hide = 3, 4, 0.3
    forward = Forward(classifier, images)
    found = xaibench.explain(
        classifier, images, PAIRS, method="accumulated_saliency", tiles=tiles, passes=passes, hide=hide
    )
    blocks = [(slice(y * 4, y * 4 + 4), slice(x * 5, x * 5 + 5)) for y in range(3) for x in range(3)]
    hidden = 0
    for row, (image, label) in enumerate(each(PAIRS)):
        expected = torch.zeros(13, 17, dtype=torch.float64)
        for i in range(passes):
            order = forward.draw(f"accumulated_saliency/{i}", 9)[image].argsort().tolist()
            shown = (forward.draw(f"accumulated_saliency/{i}/hide", 9)[image] >= hide).tolist()
            shuffled = images[image].clone()
            for place, tile in enumerate(order):
                shuffled[:, *blocks[place]] = images[image][:, *blocks[tile]] * shown[tile]
            saliency = gradient(classifier, shuffled, label).abs().amax(0)
            back = saliency.clone()
            for place, tile in enumerate(order):
                back[blocks[tile]] = saliency[blocks[place]] * shown[tile]
                hidden += not shown[tile]
            expected += back
        torch.testing.assert_close(found[row], expected)
    assert hidden > 0


def test_accumulated_saliency_of_one_tile_is_saliency(classifier: xaibench.Classifier, images: Tensor) -> None:
    found = xaibench.explain(classifier, images, PAIRS, method="accumulated_saliency", tiles=1, passes=3)
    torch.testing.assert_close(found, 3 * xaibench.explain(classifier, images, PAIRS, method="saliency"))


@pytest.mark.parametrize("method", ["guided_backprop", "deconvolution"])
def test_rules_hold_where_a_relu_is_used_twice(images: Tensor, method: str) -> None:
    """The rule by hand: the gradient that arrives at each of the three ReLUs, by its own autograd function."""

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.relu()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return gradients[0].relu() * ((x > 0) if method == "guided_backprop" else 1)

    classifier = network(nn.AvgPool2d(2))
    found = xaibench.explain(classifier, images, PAIRS, method=method)
    m = classifier.module
    for row, (image, label) in enumerate(each(PAIRS)):
        x = images[image][None].clone().requires_grad_()
        a = m.pool(Rule.apply(m.stem(x)))
        a = a + Rule.apply(m.conv(a))
        logit = (m.fc(Rule.apply(a - 0.1).mean((2, 3))) * 3)[0, label]
        torch.testing.assert_close(found[row], torch.autograd.grad(logit, x)[0][0].sum(0))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 3, 1), nn.AvgPool2d(3, 2), nn.MaxPool2d(3, 2)])
@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_deep_lift_is_captums_where_pools_do_not_overlap(images: Tensor, pool: nn.Module, baseline: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum.attr import DeepLift

    torch.manual_seed(0)
    module = (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 6, 1),
            pool,
            nn.Conv2d(6, 8, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
        .double()
        .eval()
    )
    classifier = xaibench.Classifier(module)
    found = xaibench.explain(classifier, images, PAIRS, method="deep_lift", baseline=baseline)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = DeepLift(module).attribute(
            images[PAIRS.image], torch.full_like(images[PAIRS.image], baseline), target=PAIRS.label
        )
    reference = reference.sum(1).detach()
    total = classifier.logits(images) - classifier.logits(torch.full_like(images[:1], baseline))
    total = total[PAIRS.image, PAIRS.label]
    torch.testing.assert_close(found.sum((1, 2)), total)
    if isinstance(pool, nn.MaxPool2d) and pool.kernel_size > pool.stride:
        assert (reference.sum((1, 2)) - total).abs().max() > 1e-3 * total.abs().max()  # captum's own is not complete
    else:
        torch.testing.assert_close(found, reference, atol=1e-10, rtol=1e-6)


def test_deep_lift_is_complete(classifier: xaibench.Classifier, images: Tensor) -> None:
    found = xaibench.explain(classifier, images, PAIRS, method="deep_lift", baseline=0.2)
    total = classifier.logits(images) - classifier.logits(torch.full_like(images[:1], 0.2))
    torch.testing.assert_close(found.sum((1, 2)), total[PAIRS.image, PAIRS.label])
    flat = torch.full_like(images, 0.2)
    assert (xaibench.explain(classifier, flat, PAIRS, method="deep_lift", baseline=0.2) == 0).all()


def test_what_is_refused(classifier: xaibench.Classifier, images: Tensor) -> None:
    for method, parameters in (
        ("integrated_gradients", {"steps": 0}),
        ("smooth_grad", {"samples": 0}),
        ("var_grad", {"samples": 1}),
        ("gradient_shap", {"samples": 0}),
        ("expected_gradients", {"samples": 0}),
        ("accumulated_saliency", {"tiles": 14}),
        ("accumulated_saliency", {"hide": 1.0}),
        ("accumulated_saliency", {"passes": 0}),
    ):
        with pytest.raises(UsageError):
            xaibench.explain(classifier, images, PAIRS, method=method, **parameters)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    smooth = xaibench.Classifier(module.double())
    for method in ("guided_backprop", "deconvolution", "guided_grad_cam", "deep_lift"):
        with pytest.raises(IncompatibleError, match="other than ReLU"):
            xaibench.explain(smooth, images, PAIRS, method=method)
