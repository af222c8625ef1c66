"""Times pytorch-grad-cam and captum beside xaibench and prints a Markdown table: resnet18, five labels an image.

    pip install 'xaibench[peers]'
    OMP_NUM_THREADS=1 python tests/benchmarks/peers.py                                   # 8 x 3 x 224 x 224, minutes
    OMP_NUM_THREADS=1 python tests/benchmarks/peers.py --images 2 --size 64 --rounds 1   # does it work?

One process; in every round the forward, ours and theirs take turns, so that a busy machine slows all alike. Seconds are
medians over rounds. Both sides do all they need for maps of all labels, from images to maps at the peer's resolution or
at ours. Peers explain one label per call.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import captum.attr
import torch
from torch import Tensor, nn

import xaibench
from xaibench.core.timm_import import import_torchvision
from xaibench.models.architectures import create_module

LABELS = 5
STEPS = 20
SAMPLES = 5
GRID = 7
COALITIONS = 100


def rows(images: Tensor) -> list[tuple[str, str, Callable[[], object], Callable[[], object]]]:
    """The work to time: its name, the peer, our function, their function."""
    import_torchvision()  # it imports torchvision, whose compiled operators do not load everywhere
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classifier = xaibench.load_classifier("resnet18", num_classes=20)
    module = create_module("resnet18", num_classes=20).eval()
    count = len(images)
    pairs = xaibench.Pairs(torch.arange(count).repeat_interleave(LABELS), torch.arange(LABELS).repeat(count))
    first_label = xaibench.Pairs(torch.arange(count), torch.zeros(count, dtype=torch.long))
    one, few = images[:1], images[:2]
    few_pairs = pairs[(pairs.image < 2).nonzero()[:, 0]]
    rectified = _without_shared_relus(module)
    window = images.shape[-1] // 4
    first_image = xaibench.Pairs([0] * LABELS, list(range(LABELS)))

    def ours(method: str, x: Tensor, what: xaibench.Pairs, **parameters: object) -> Callable[[], object]:
        return lambda: xaibench.explain(classifier, x, what, method=method, **parameters)

    def grad_cams(kind: str, x: Tensor, layer: str) -> Callable[[], object]:
        explainer = getattr(pytorch_grad_cam, kind)(model=module, target_layers=[module.get_submodule(layer)])
        return lambda: [explainer(x, targets=[ClassifierOutputTarget(label)] * len(x)) for label in range(LABELS)]

    def captums(kind: str) -> Callable[[], object]:
        explainer = getattr(captum.attr, kind)(module)
        return lambda: [explainer.attribute(images.clone().requires_grad_(), target=label) for label in range(LABELS)]

    def occlusion(x: Tensor, window: int) -> Callable[[], object]:
        explainer = captum.attr.Occlusion(module)
        shape, strides = (3, window, window), (3, window // 2, window // 2)
        return lambda: [explainer.attribute(x, shape, strides=strides, target=label) for label in range(LABELS)]

    def deep_lift() -> object:
        explainer = captum.attr.DeepLift(rectified)
        return [explainer.attribute(few, target=label) for label in range(LABELS)]

    def gradient_shap() -> object:
        explainer = captum.attr.GradientShap(module)
        baselines = torch.zeros_like(few[:1])
        return [explainer.attribute(few, baselines, n_samples=SAMPLES, target=label) for label in range(LABELS)]

    def kernel_shap() -> object:
        explainer = captum.attr.KernelShap(module)
        side = images.shape[-1]
        cells = torch.arange(side) * GRID // side
        players = (cells[:, None] * GRID + cells)[None, None]
        return [
            explainer.attribute(
                one, target=label, feature_mask=players, n_samples=COALITIONS, perturbations_per_eval=16
            )
            for label in range(LABELS)
        ]

    def integrated_gradients() -> object:
        explainer = captum.attr.IntegratedGradients(module)
        return explainer.attribute(images, target=0, n_steps=STEPS, internal_batch_size=count)

    cam, five = "pytorch-grad-cam", f"{LABELS} labels"
    return [
        (f"Grad-CAM, {five}", cam, ours("grad_cam", images, pairs), grad_cams("GradCAM", images, "layer4")),
        (
            f"Grad-CAM++, {five}",
            cam,
            ours("grad_cam_pp", images, pairs),
            grad_cams("GradCAMPlusPlus", images, "layer4"),
        ),
        (f"LayerCAM, {five}", cam, ours("layer_cam", images, pairs), grad_cams("LayerCAM", images, "layer4")),
        (
            f"Score-CAM, 64 channels, one image, {five}",
            cam,
            ours("score_cam", one, first_image, layer="layer1"),
            grad_cams("ScoreCAM", one, "layer1"),
        ),
        (f"Saliency, {five}", "captum", ours("saliency", images, pairs), captums("Saliency")),
        (f"Input x gradient, {five}", "captum", ours("input_x_gradient", images, pairs), captums("InputXGradient")),
        (
            f"Integrated gradients, {STEPS} steps, one label",
            "captum",
            ours("integrated_gradients", images, first_label, steps=STEPS),
            integrated_gradients,
        ),
        (
            f"GradientSHAP, {SAMPLES} samples, two images, {five}",
            "captum",
            ours("gradient_shap", few, few_pairs, samples=SAMPLES),
            gradient_shap,
        ),
        (f"DeepLIFT, two images, {five}", "captum", ours("deep_lift", few, few_pairs), deep_lift),
        (
            f"Occlusion, one image, {five}",
            "captum",
            ours("occlusion", one, first_image, window=window, stride=window // 2),
            occlusion(one, window),
        ),
        (
            f"Kernel SHAP, {COALITIONS} coalitions, one image, {five}",
            "captum",
            ours("kernel_shap", one, first_image, cells=GRID, samples=COALITIONS),
            kernel_shap,
        ),
    ]


def _without_shared_relus(module: nn.Module) -> nn.Module:
    """captum's DeepLIFT wants every ReLU used once and nothing in place: timm's blocks run as they are, out of place."""
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return copied


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(images: Tensor, rounds: int) -> str:
    classifier = xaibench.load_classifier("resnet18", num_classes=20)
    lines = ["| work | peer | ours, s | theirs, s | ours / forward | theirs / forward | theirs / ours |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, peer, ours, theirs in rows(images):
        ours(), theirs()  # warm caches and lazy imports
        turns = [(seconds(lambda: classifier.logits(images)), seconds(ours), seconds(theirs)) for _ in range(rounds)]
        forward, own, other = (statistics.median(column) for column in zip(*turns, strict=True))
        lines.append(
            f"| {name} | {peer} | {own:.2f} | {other:.2f} | {own / forward:.1f} | {other / forward:.1f} "
            f"| {other / own:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shape = (options.images, 3, options.size, options.size)
    print(table(torch.randn(shape, generator=torch.Generator().manual_seed(0)), options.rounds))
