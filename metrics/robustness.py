"""Change of the map under a small change of the image. A constant map is perfectly robust: never read it alone.

x' = x + n with n uniform in [-radius, radius], in the units of the model's input, the same noise for all labels of an
image; a and a' are the raw maps of x and x' at native resolution. Nothing changes when all maps are scaled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xaibench.core.registry import PER_IMAGE, metric
from xaibench.core.registry.bounds import Count, NotNegative, Positive
from xaibench.core.registry.cost import Shared
from xaibench.evaluation import Evaluation
from xaibench.forward import Pairs

NOISY: Shared = {"noisy maps {samples} {radius}": "samples * method_forwards"}
NOISY_BACKWARDS: Shared = {"noisy maps {samples} {radius}": "samples * method_backwards"}
NOISY_AND_LOGITS: Shared = {**NOISY, "noisy logits {samples} {radius}": "samples"}


@metric(
    better="lower",
    range=(0, math.inf),
    unit="ratio",
    needs=("method",),
    group="robustness",
    source="yeh2019, sensitivity",
    minimum_effect=0.005,
    forwards=NOISY,
    backwards=NOISY_BACKWARDS,
    rankings_change_with=("radius", "samples", "what the method does to the sign and scale of its map"),
    criticism="A constant map is perfect, and a model that itself changes is held against the map.",
    elsewhere="sensitivity_max in captum (10 samples, radius 0.02); MaxSensitivity in Quantus (200 samples, radius "
    "0.2).",
)
def max_sensitivity(evaluation: Evaluation, *, samples: Count = 10, radius: Positive = 0.02) -> Tensor:
    """Largest change of the map, max_i ||a(x + n_i) - a(x)||_2 / ||a(x)||_2. Undefined (NaN) for an all-zero map."""
    return _sensitivity(evaluation, samples, radius).amax(1)


@metric(
    better="lower",
    range=(0, math.inf),
    unit="ratio",
    needs=("method",),
    group="robustness",
    source="yeh2019, sensitivity; bhatt2020",
    minimum_effect=0.005,
    forwards=NOISY,
    backwards=NOISY_BACKWARDS,
    rankings_change_with=("radius", "samples"),
    criticism="A constant map is perfect, and a model that itself changes is held against the map.",
    elsewhere="AvgSensitivity in Quantus (200 samples, radius 0.2).",
)
def avg_sensitivity(evaluation: Evaluation, *, samples: Count = 10, radius: Positive = 0.02) -> Tensor:
    """Mean change of the map, mean_i ||a(x + n_i) - a(x)||_2 / ||a(x)||_2. Undefined (NaN) for an all-zero map."""
    return _sensitivity(evaluation, samples, radius).mean(1)


@metric(
    better="lower",
    range=(0, math.inf),
    unit="ratio",
    needs=("method",),
    group="robustness",
    source="agarwal2022, relative input stability",
    forwards=NOISY_AND_LOGITS,
    backwards=NOISY_BACKWARDS,
    rankings_change_with=("eps", "radius", "samples"),
    criticism="Quotients of pixels near 0 decide.",
)
def relative_input_stability(
    evaluation: Evaluation, *, samples: Count = 10, radius: Positive = 0.02, eps: NotNegative = 1e-6
) -> Tensor:
    """Largest ||(a - a') / a||_2 / max(||(x - x') / x||_2, eps) over the x' that the model decides like x.

    The decision is the most probable label (softmax), or whether the pair's label is detected (sigmoid). Quotients are
    taken per pixel; |a| and |x| below eps times their maximum are raised to it.
    Undefined (NaN): an all-zero map, or every x' is decided otherwise.
    """
    image, row = torch.unique(evaluation.pairs.image, return_inverse=True)
    x = evaluation.forward.images[image].flatten(1)[:, None]
    change = _quotient(noise(evaluation, image, samples, radius).flatten(2), x, eps)[row]
    return _largest(
        evaluation, _map_quotient(evaluation, samples, radius, eps) / change.clamp(min=eps), samples, radius
    )


@metric(
    better="lower",
    range=(0, math.inf),
    unit="1/logit",
    needs=("method",),
    group="robustness",
    source="agarwal2022, relative output stability",
    forwards=NOISY_AND_LOGITS,
    backwards=NOISY_BACKWARDS,
    rankings_change_with=("eps", "radius", "samples"),
    criticism="Quotients of pixels near 0 decide, and so do neighbours whose logits happen not to move.",
)
def relative_output_stability(
    evaluation: Evaluation, *, samples: Count = 10, radius: Positive = 0.02, eps: NotNegative = 1e-6
) -> Tensor:
    """Largest ||(a - a') / a||_2 / max(||h(x) - h(x')||_2, eps), h being all logits. As `relative_input_stability`."""
    logits = _logits(evaluation, samples, radius)
    change = (logits - evaluation.forward.logits[evaluation.pairs.image][:, None]).norm(dim=2)
    return _largest(
        evaluation, _map_quotient(evaluation, samples, radius, eps) / change.clamp(min=eps), samples, radius
    )


# -- the neighbours of an image ---------------------------------------------------------------------------------------


def noise(evaluation: Evaluation, image: Tensor, samples: int, radius: float) -> Tensor:
    """Uniform noise [n, samples, C, H, W] for rows [n] of the batch, seeded by sample id."""
    images = evaluation.forward.images
    whole = Pairs(image, torch.full_like(image, PER_IMAGE))
    unit = evaluation.forward.draw_per_pair(whole, "noise", samples, *images.shape[1:])
    return ((2 * unit - 1) * radius).to(images)


def _neighbours(evaluation: Evaluation, samples: int, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images [n samples, C, H, W], the batch row of each, and for each pair the row [P] of its image in n."""
    image, row = torch.unique(evaluation.pairs.image, return_inverse=True)
    noisy = evaluation.forward.images[image][:, None] + noise(evaluation, image, samples, radius)
    return noisy.flatten(0, 1), image.repeat_interleave(samples), row


def _maps(evaluation: Evaluation, samples: int, radius: float) -> Tensor:
    """Maps [P, samples, h w] of the noisy images."""

    def compute() -> Tensor:
        noisy, source, row = _neighbours(evaluation, samples, radius)
        rows = row[:, None] * samples + torch.arange(samples, device=row.device)
        pairs = Pairs(rows.flatten(), evaluation.pairs.label.repeat_interleave(samples))
        maps = evaluation.explain(noisy, pairs, source)
        return maps.reshape(len(row), samples, maps.shape[1:].numel())

    return evaluation.share(("noisy maps", samples, radius), compute)


def _logits(evaluation: Evaluation, samples: int, radius: float) -> Tensor:
    """Logits [P, samples, L] of the noisy images."""

    def compute() -> Tensor:
        noisy, _, row = _neighbours(evaluation, samples, radius)
        labels = evaluation.forward.logits.shape[1]
        if not len(noisy):
            return noisy.new_empty((0, samples, labels))
        return evaluation.forward.classifier.logits(noisy).reshape(-1, samples, labels)[row]

    return evaluation.share(("noisy logits", samples, radius), compute)


def _sensitivity(evaluation: Evaluation, samples: int, radius: float) -> Tensor:
    """Changes [P, samples] of the map: ||a(x + n) - a(x)||_2 / ||a(x)||_2."""
    a = evaluation.maps.flatten(1)[:, None]
    size = a.norm(dim=2)
    relative: Tensor = (_maps(evaluation, samples, radius) - a).norm(dim=2) / size
    return relative.where(size > 0, torch.nan)


def _map_quotient(evaluation: Evaluation, samples: int, radius: float, eps: float) -> Tensor:
    """Relative changes [P, samples] of the map: ||(a - a') / a||_2."""
    a = evaluation.maps.flatten(1)[:, None]
    return _quotient(_maps(evaluation, samples, radius) - a, a, eps)


def _quotient(change: Tensor, value: Tensor, eps: float) -> Tensor:
    """Norm ||change / value||_2 over the last dimension; NaN where all values are 0."""
    size = value.abs()
    largest = size.amax(-1, keepdim=True)
    quotient: Tensor = (change / torch.maximum(size, eps * largest)).norm(dim=-1)
    return quotient.where(largest[..., 0] > 0, torch.nan)


def _largest(evaluation: Evaluation, values: Tensor, samples: int, radius: float) -> Tensor:
    """Largest [P] of values [P, samples] over the noisy images that the model decides as the original."""
    before, after = evaluation.forward.logits[evaluation.pairs.image][:, None], _logits(evaluation, samples, radius)
    if evaluation.forward.classifier.activation == "softmax":
        same = before.argmax(-1) == after.argmax(-1)
    else:
        same = (_detected(evaluation, before) == _detected(evaluation, after)).gather(
            2, evaluation.pairs.label[:, None, None].expand(-1, samples, -1)
        )[..., 0]
    return values.masked_fill(~same, -torch.inf).amax(1).where(same.any(1), torch.nan)


def _detected(evaluation: Evaluation, logits: Tensor) -> Tensor:
    classifier = evaluation.forward.classifier
    return classifier.activate(logits) > classifier.threshold
