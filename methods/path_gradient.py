"""Gradients of the logit with respect to the input image, averaged along a path from a baseline b to the image x."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xaibench.core.registry import method
from xaibench.core.registry.bounds import Count, NotNegative
from xaibench.forward import Forward, Pairs
from xaibench.forward.noise import noisy
from xaibench.methods.gradient import Reduce, over_channels


@method(
    source="sundararajan2017",
    forwards="steps",
    backwards="steps * pairs",
    rankings_change_with=("baseline", "steps", "reduce"),
    criticism="Pixels equal to the baseline have no relevance whatever they mean.",
    elsewhere="IntegratedGradients in captum, which keeps the colours apart.",
)
def integrated_gradients(
    forward: Forward, pairs: Pairs, *, steps: Count = 20, baseline: float = 0.0, reduce: Reduce = "sum"
) -> Tensor:
    """Path integral (x - b) · integral_0^1 dS_c/dx(b + t (x - b)) dt, by Gauss-Legendre with `steps` nodes (as captum).

    `baseline` b is one value for all pixels in units of the model's input (0: the mean colour). Maps [P, H, W], logit
    units; they sum to S_c(x) - S_c(b) as steps grow.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    path = forward.images - baseline
    integral = torch.zeros((), dtype=path.dtype, device=path.device)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        integral = integral + weight / 2 * forward.at(baseline + (1 + node) / 2 * path).gradients(pairs, "input")
    return over_channels(path[pairs.image] * integral, reduce)


@method(
    source="lundberg2017; captum",
    forwards="samples",
    backwards="samples * pairs",
    rankings_change_with=("samples", "sigma", "baseline", "reduce"),
    criticism="With few samples the map is noisy.",
    elsewhere="GradientShap in captum.",
)
def gradient_shap(
    forward: Forward,
    pairs: Pairs,
    *,
    samples: Count = 20,
    sigma: NotNegative = 0.1,
    baseline: float = 0.0,
    reduce: Reduce = "sum",
) -> Tensor:
    """Mean over samples of (x' - b) · dS_c/dx(b + t (x' - b)), x' = x + noise as in smooth_grad, t uniform in [0, 1).

    Seeded by (suite seed, sample id). Maps [P, H, W], logit units.
    """
    total = torch.zeros((), dtype=forward.images.dtype, device=forward.images.device)
    for i in range(samples):
        path = noisy(forward, f"gradient_shap/{i}", sigma) - baseline
        t = forward.draw(f"gradient_shap/{i}/t", 1, 1, 1)
        total = total + path[pairs.image] * forward.at(baseline + t * path).gradients(pairs, "input")
    return over_channels(total / samples, reduce)


@method(
    source="erion2021",
    forwards="samples",
    backwards="samples * pairs",
    rankings_change_with=("samples", "reduce"),
    criticism="Baselines are noise, not images.",
    elsewhere="The paper draws baselines from the training data.",
)
def expected_gradients(forward: Forward, pairs: Pairs, *, samples: Count = 20, reduce: Reduce = "sum") -> Tensor:
    """Mean over baselines b of (x - b) · dS_c/dx(b + t (x - b)), t uniform in [0, 1).

    The paper draws b from the training data. A batch has none, and other samples of the batch must not matter, so b is
    drawn from what normalised training data has pixel by pixel: mean 0 and variance 1, independent. Seeded by (suite
    seed, sample id). Maps [P, H, W], logit units.
    """
    total = torch.zeros((), dtype=forward.images.dtype, device=forward.images.device)
    for i in range(samples):
        b = forward.draw(f"expected_gradients/{i}", *forward.images.shape[1:], kind="normal")
        path, t = forward.images - b, forward.draw(f"expected_gradients/{i}/t", 1, 1, 1)
        total = total + path[pairs.image] * forward.at(b + t * path).gradients(pairs, "input")
    return over_channels(total / samples, reduce)
