"""Dependence of a map on what the model has learnt: explain a random model, or another label, and compare the maps.

The random model is a copy: the user's model is not touched. Layers get new weights as PyTorch would draw them (weights
and biases of linear layers and convolutions uniform in +- 1 / sqrt(fan in), normalisation to the identity, its running
statistics too), from the output towards the input, each staying random. Layers are modules with weights of their own
that PyTorch can reset; class tokens, position embeddings, layer scales and PReLU slopes keep their values. A
parametrised weight (weight_norm, Kernel Usage Regularization) is drawn again behind its parametrisation, which stays.
The draw depends on the suite's seed and the layer's name only, so that all images have the same random model.

Maps are compared at native resolution. A map that ignores the model (an edge detector) is similar to itself; one that
is constant after the change has no correlation, and the pair is undefined (NaN).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from xaibench.core import rank_statistics
from xaibench.core.errors import UsageError
from xaibench.core.registry import metric
from xaibench.core.registry.bounds import Count
from xaibench.core.seeding import stable_seed
from xaibench.core.value_range import min_max, span
from xaibench.evaluation import Evaluation
from xaibench.forward import Pairs
from xaibench.models.classifier import Classifier

Similarity = Literal["spearman", "ssim", "pearson"]
BINS = 100
WINDOW = 7


@metric(
    better="lower",
    range=(-1, 1),
    unit="correlation",
    needs=("method",),
    group="randomisation",
    average=("cascade_mean", "cascade_last"),
    source="adebayo2018, sec. 3.1; top-down cascade",
    version=2,
    minimum_effect=0.01,
    forwards={"random models {layers}": "layers * method_forwards"},
    backwards={"random models {layers}": "layers * method_backwards"},
    cost="fewer where the model has fewer layers",
    rankings_change_with=("similarity", "the absolute value", "the order in which layers become random"),
    criticism="It asks whether a map depends on the model, not whether it is right: noise passes; random upper layers "
    "keep the scale of activations below.",
    elsewhere="MPRT in Quantus counts the trained model among the depths of its mean, and seeds the global generator.",
)
def mprt(
    evaluation: Evaluation,
    *,
    similarity: Similarity = "spearman",
    layers: Count = 8,
) -> Tensor:
    """Similarity of |a| to |a'| as the model's layers become random from the top. Statistics [P, `layers`].

    Args:
        similarity: rank or linear correlation, or structural similarity of the maps divided by their maxima
        layers: at how many depths the maps are compared, evenly spaced; the last is the wholly random model
        average: the mean over depths (without the model as it was), or the last alone
    """
    before = evaluation.maps.abs()
    measure = SIMILARITIES[similarity]
    return torch.stack([measure(before, after.abs()) for after in randomised_maps(evaluation, layers)], 1)


@metric(
    better="higher",
    range=(-1, math.inf),
    unit="ratio",
    needs=("method",),
    group="randomisation",
    source="hedstroem2024, eMPRT",
    version=2,
    minimum_effect=0.005,
    forwards="method_forwards",
    backwards="method_backwards",
    rankings_change_with=("the number of bins", "outliers, which stretch them"),
    criticism="A map whose entropy is high already cannot rise, however much it depends on the model.",
)
def efficient_mprt(evaluation: Evaluation) -> Tensor:
    """Relative rise of the map's entropy when the whole model is random: (H(a') - H(a)) / H(a).

    H is the entropy of the histogram of the map's values in 100 bins from its minimum to its maximum. Undefined (NaN)
    for a constant map.
    """
    (after,) = randomised_maps(evaluation, 1)
    h = histogram_entropy(evaluation.maps)
    return ((histogram_entropy(after) - h) / h).where(h > 0, torch.nan)


@metric(
    better="lower",
    range=(-1, 1),
    unit="correlation",
    needs=("method",),
    group="randomisation",
    source="sixt2020, random logit",
    minimum_effect=0.01,
    forwards="again_forwards",
    backwards="method_backwards",
    rankings_change_with=("similarity", "the label that was drawn"),
    criticism="Labels with the same evidence should have similar maps, and the map of an absent label may be noise.",
    elsewhere="RandomLogit in Quantus takes the structural similarity of flattened maps, and seeds the global "
    "generator.",
)
def random_logit(evaluation: Evaluation, *, similarity: Similarity = "spearman") -> Tensor:
    """Similarity of the map to that of another label, drawn at random among all others. NaN where there is none."""
    pairs = evaluation.pairs
    if evaluation.forward.logits.shape[1] < 2 or not len(pairs):
        return evaluation.maps.new_full((len(pairs),), torch.nan)
    other = evaluation.method(evaluation.forward, Pairs(pairs.image, other_labels(evaluation)))
    return SIMILARITIES[similarity](evaluation.maps, other)


def other_labels(evaluation: Evaluation) -> Tensor:
    """Labels [P], for each pair one of the others, seeded by sample and label."""
    pairs, count = evaluation.pairs, evaluation.forward.logits.shape[1]
    steps = 1 + evaluation.forward.draw_per_pair(pairs, "random_logit", kind=count - 1)
    return (pairs.label + steps) % count


# -- the random model -------------------------------------------------------------------------------------------------


def randomised_maps(evaluation: Evaluation, depths: int) -> Iterator[Tensor]:
    """Maps [P, h, w] of the same pairs, by models that are random down to each depth."""
    forward = evaluation.forward
    rows = torch.arange(len(forward.images), device=forward.images.device)
    for classifier in cascade(forward.classifier, depths, forward.seed):
        yield evaluation.explain(forward.images, evaluation.pairs, rows, classifier)


def cascade(classifier: Classifier, depths: int, seed: int) -> Iterator[Classifier]:
    """Yield a copy of the classifier, random in ever more layers from the top; at most `depths` times, last in all."""
    module = copy.deepcopy(classifier.module)
    layers = [name for name, layer in module.named_modules() if _resettable(layer)][::-1]
    if not layers:
        raise UsageError(f"model {classifier.name} has no layer that can be made random")
    stops = {math.ceil(len(layers) * (i + 1) / depths) for i in range(depths)}
    for done, name in enumerate(layers, 1):
        redraw(module.get_submodule(name), name, seed)
        if done in stops:
            yield classifier.with_module(module, name=f"{classifier.name} (random)")


def _resettable(layer: nn.Module) -> bool:
    has_weights = any(True for _ in layer.parameters(recurse=False)) or parametrize.is_parametrized(layer)
    return (
        has_weights
        and not isinstance(layer, nn.PReLU)
        and (hasattr(layer, "reset_parameters") or hasattr(layer, "_reset_parameters"))
    )


@torch.no_grad()
def redraw(layer: nn.Module, name: str, seed: int) -> None:
    """Draw new weights for a layer, on the CPU, so that every device has the same model."""
    generator = torch.Generator().manual_seed(stable_seed(seed, "redraw", name))
    weights = _parametrised(layer) | dict(layer.named_parameters(recurse=False))
    fan_in = next((weight[0].numel() for weight in weights.values() if weight.ndim > 1), None)
    for key, weight in weights.items():
        if fan_in is None:
            value = torch.full_like(weight, 0 if "bias" in key else 1)
        else:
            draw = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
            value = ((2 * draw - 1) / fan_in**0.5).to(weight)
        if isinstance(weight, nn.Parameter):
            weight.copy_(value)
        else:
            setattr(layer, key, value)  # through the right inverse of the parametrisation
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        layer.reset_running_stats()


def _parametrised(layer: nn.Module) -> dict[str, Tensor]:
    """Parametrised weights of a layer: the tensors behind them, or the weight itself if it can be assigned to."""
    if not parametrize.is_parametrized(layer):
        return {}
    chains: Mapping[str, Any] = layer.parametrizations  # type: ignore[assignment]
    return {
        key: getattr(layer, key) if all(hasattr(part, "right_inverse") for part in chain) else chain.original
        for key, chain in chains.items()
    }


# -- comparing maps [P, h, w] -----------------------------------------------------------------------------------------


def histogram_entropy(maps: Tensor) -> Tensor:
    """Entropy [P] float64 of the values in 100 bins from minimum to maximum; NaN for a map with a NaN."""
    a = maps.flatten(1).double()
    position = min_max(a, 1) * BINS
    bins = position.nan_to_num(0).long().clamp(0, BINS - 1)
    counts = torch.zeros((len(a), BINS), dtype=a.dtype, device=a.device).scatter_add(1, bins, torch.ones_like(a))
    entropy: Tensor = torch.special.entr(counts / a.shape[1]).sum(1)
    return entropy.where(a.isfinite().all(1), torch.nan)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity [P] float64 over all whole windows of 7 x 7 (or the map's size, if smaller).

    Sample variances, K1 = 0.01, K2 = 0.03, range: from the least to the largest value of both. NaN where both are
    constant and equal.
    """
    a, b = a.double()[:, None], b.double()[:, None]
    both = torch.cat([a, b], 1)
    width = span(both, (1, 2, 3))
    window = [min(WINDOW, size) for size in a.shape[2:]]
    n = window[0] * window[1]

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, 1)

    mean_a, mean_b = mean(a), mean(b)
    sample = n / max(n - 1, 1)
    var_a, var_b = sample * (mean(a * a) - mean_a**2), sample * (mean(b * b) - mean_b**2)
    covariance = sample * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity = numerator / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return similarity.mean((1, 2, 3)).where(width[:, 0, 0, 0] > 0, torch.nan)


def _unit_ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of maps divided by their largest absolute value, since SSIM changes with scale."""
    return ssim(*(m / m.abs().amax((1, 2), keepdim=True) for m in (a, b)))


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spearman": lambda a, b: rank_statistics.spearman(a.flatten(1), b.flatten(1)),
    "pearson": lambda a, b: rank_statistics.pearson(a.flatten(1), b.flatten(1)),
    "ssim": _unit_ssim,
}
