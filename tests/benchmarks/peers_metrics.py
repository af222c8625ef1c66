"""Times metrics of Quantus against the same metrics here, in one process, and prints a Markdown table.

    pip install 'xaibench[peers]'
    python tests/benchmarks/peers_metrics.py [--images 8] [--size 224] [--steps 24] [--samples 4] [--rounds 3]

Both see the same model, images and maps. Seconds are CPU time of one thread, the best of some rounds taken in turns.
Neither does exactly what the other does: Quantus flips single channels of pixels, we flip whole pixels; its ROAD is for
one channel only (on more it fails), so that both get one.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import xaibench
from xaibench.forward import Pairs
from xaibench.models.architectures import create_module

if not hasattr(np, "trapz"):  # Quantus 0.6.0 calls it; numpy 2.4 has it no more
    setattr(np, "trapz", np.trapezoid)  # noqa: B010 - a plain assignment reads as a use of what is gone

import quantus

Work = Callable[[], Any]
LABELS = 20
QUIET = {"disable_warnings": True, "display_progressbar": False, "abs": False, "normalise": False}
ROAD = (10, 50, 90)


def seconds(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """CPU seconds of each, the best of `rounds` in turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - started)
    return best


def network(channels: int) -> tuple[nn.Module, xaibench.Classifier]:
    module = create_module("resnet18", num_classes=LABELS, in_chans=channels).eval().requires_grad_(False)
    return module, xaibench.Classifier(module, activation="softmax", name="resnet18")


def saliency(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Any:
    """[N, 1, H, W]: what both call again for sensitivity."""
    x = torch.as_tensor(inputs, dtype=torch.float32).requires_grad_()
    score = model(x).gather(1, torch.as_tensor(targets).long()[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, x)
    return gradient.abs().amax(1, keepdim=True).numpy()


def cases(options: argparse.Namespace) -> dict[str, dict[str, Work]]:
    """Row of the table -> Quantus, ours, and the bare passes that no implementation can do without."""
    n, size, steps, samples = options.images, options.size, options.steps, options.samples
    generator = torch.Generator().manual_seed(0)
    module, classifier = network(3)
    images = torch.randn(n, 3, size, size, generator=generator)
    maps = torch.randn(n, size, size, generator=generator)
    labels = torch.arange(n) % LABELS
    pairs = Pairs(torch.arange(n), labels)
    patch = size // 8
    given = {"model": module, "x_batch": images.numpy(), "y_batch": labels.numpy(), "device": "cpu", "batch_size": n}
    attributed = {**given, "a_batch": maps[:, None].numpy()}

    def ours(metric: dict[str, Any], **extra: Any) -> Work:
        return lambda: xaibench.evaluate(classifier, images, pairs, maps, [metric], **extra)

    def forwards(count: int) -> Work:
        every = images.repeat(count, 1, 1, 1)
        return lambda: classifier.logits(every)

    def gradients() -> None:
        for _ in range(samples + 1):
            saliency(module, images, labels)

    flipping = quantus.PixelFlipping(
        features_in_step=3 * size * size // steps, perturb_baseline="black", return_auc_per_sample=True, **QUIET
    )
    regions = quantus.RegionPerturbation(
        patch_size=patch, regions_evaluation=64, order="morf", perturb_baseline="black", **QUIET
    )
    sensitivity = quantus.MaxSensitivity(nr_samples=samples, lower_bound=0.02, **QUIET)
    sensitivity_given = {**given, "a_batch": None, "explain_func": saliency}
    found: dict[str, dict[str, Work]] = {
        f"PixelFlipping, {steps} steps": {
            "quantus": lambda: flipping(**attributed),
            "xaibench": ours({"name": "pixel_flipping", "removal": {"baseline": "min", "steps": steps}}),
            "bare": forwards(steps),
        },
        "RegionPerturbation, 64 patches": {
            "quantus": lambda: regions(**attributed),
            "xaibench": ours({"name": "aopc", "removal": {"baseline": "min", "grid": 8}}),
            "bare": forwards(65),
        },
        f"MaxSensitivity of saliency, {samples} samples": {
            "quantus": lambda: sensitivity(**sensitivity_given),
            "xaibench": ours({"name": "max_sensitivity", "samples": samples}, method="saliency"),
            "bare": gradients,
        },
    }
    grey = images[:, :1].contiguous()
    grey_module, grey_classifier = network(1)
    for percent in ROAD:
        found[f"ROAD, one channel, {percent} %"] = road(percent, grey_module, grey_classifier, grey, pairs, maps)
    return found


def road(
    percent: int, module: nn.Module, classifier: xaibench.Classifier, images: Tensor, pairs: Pairs, maps: Tensor
) -> dict[str, Work]:
    """The most relevant `percent` of the pixels imputed, one forward each."""
    from xaibench.evaluation.perturbation import Removal

    metric = quantus.ROAD(percentages=[percent], noise=0.01, **QUIET)
    removal = Removal("road", steps=None, fractions=(percent / 100,))

    def ours() -> None:
        evaluation = xaibench.Evaluation(xaibench.Forward(classifier, images), pairs, maps)
        with torch.no_grad():
            evaluation.curve("morf", removal)

    def theirs() -> None:
        metric(
            model=module,
            x_batch=images.numpy(),
            y_batch=pairs.label.numpy(),
            a_batch=maps[:, None].numpy(),
            device="cpu",
            batch_size=len(images),
        )

    return {"quantus": theirs, "xaibench": ours, "bare": lambda: classifier.logits(images)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"images": 8, "size": 224, "steps": 24, "samples": 4, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    if options.steps % 3 or options.size**2 % (3 * options.size**2 // options.steps):
        parser.error("Quantus wants a portion of 3 x size^2 / steps scalars to divide size^2: steps 6, 12, 24, 48, ...")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(
        f"resnet18, {options.images} x 3 x {options.size} x {options.size}, CPU seconds of one thread; "
        f"quantus {quantus.__version__}, xaibench {xaibench.__version__}, torch {torch.__version__}\n"
    )
    print("| metric | quantus | xaibench | bare passes | quantus / bare | xaibench / bare |")
    print("|---|---|---|---|---|---|")
    for name, works in cases(options).items():
        spent = seconds(works, options.rounds)
        theirs, ours, bare = (spent[key] for key in ("quantus", "xaibench", "bare"))
        print(
            f"| {name} | {theirs:.2f} | {ours:.2f} | {bare:.2f} | {theirs / bare:.2f} | {ours / bare:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
