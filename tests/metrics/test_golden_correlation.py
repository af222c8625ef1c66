"""Correlation metrics against the numbers of Quantus and Captum, on their own subsets and noise.

Their attributions are of single channels of pixels, ours of pixels; the functions beneath the metrics take both, so the
numbers are compared there, and the metrics are compared with slow twins of their definitions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import xaibench
from tests.support.golden import GOLDEN_SET, Golden
from xaibench.evaluation import Evaluation
from xaibench.evaluation.effects import blocks, effects, members, noise_effects
from xaibench.evaluation.perturbation import Removal, Static, Units
from xaibench.metrics.completeness import gap
from xaibench.metrics.correlation import correlate
from xaibench.metrics.infidelity import squared_error

ARRAYS, FACTS = GOLDEN_SET.arrays, GOLDEN_SET.facts
attribution, evaluation, result = GOLDEN_SET.attribution, GOLDEN_SET.summed, GOLDEN_SET.result
classifier = functools.cache(GOLDEN_SET.classifier)

CORRELATION = 1e-5  # open.json allows 2e-3
FAMILIES = ("complete", "faithfulness", "infidelity", "monotonicity", "non_sensitivity", "sensitivity_n", "sufficiency")
NOT_COVERED = {  # by prefix: why
    "completeness_quantus": "do_not_match: exact equality of floats; completeness_gap is the number behind it",
    "infidelity_quantus": "do_not_match: patches accumulate and are never put back",
    "monotonicity/": "do_not_match: True for any map",
    "non_sensitivity": "do_not_match: two formulas in two releases, a forward per feature",
    "sensitivity_n": "do_not_match: correlates across samples of the first batch",
    "sufficiency": "do_not_match: depends on the batch",
}
SCALARS = 3 * 32 * 32


def scalars() -> Units:
    return Units(torch.arange(SCALARS).view(1, 3, 32, 32).expand(8, -1, -1, -1), SCALARS)


def faithfulness(attr: str) -> Tensor:
    subsets = GOLDEN_SET["aux/faithfulness_correlation/subsets"].long()
    chosen = torch.zeros(8, 40, SCALARS, dtype=torch.bool).scatter_(2, subsets, True)
    own = evaluation(attribution(attr))
    u, v = effects(own, attribution(attr), 40, members(scalars(), chosen), Removal("min"), "logit")
    return correlate(u, v, "pearson")


def estimate(attr: str, similarity: Any) -> Tensor:
    counts = torch.arange(0, SCALARS + 1, 64).expand(8, -1)
    choose = blocks(scalars().ranks(attribution(attr), "morf"), counts)
    u, v = effects(evaluation(attribution(attr)), attribution(attr), 48, choose, Removal("min"), "logit")
    return correlate(u, v, similarity)


def monotonicity(attr: str) -> Tensor:
    magnitude = attribution(attr).abs()
    counts = torch.arange(0, SCALARS + 1, 64).expand(8, -1)
    choose = blocks(scalars().ranks(magnitude, "lerf"), counts)
    u, v = effects(evaluation(attribution(attr)), magnitude, 48, choose, Removal("min"), "probability")
    return correlate(u, v.square(), "spearman")


def captum(attr: str, normalise: bool) -> Tensor:
    noise = GOLDEN_SET["noise_int8"].float() / 500
    u, v = noise_effects(evaluation(attribution(attr)), attribution(attr), 6, lambda p, s: noise[p, s], "logit")
    return squared_error(u, v, normalise)


def completeness(attr: str, baseline: Static) -> Tensor:
    return gap(evaluation(attribution(attr)), Removal(baseline), "logit")


RESULTS: dict[str, Callable[[], Tensor]] = {}
for name in ("a3", "ixg"):
    RESULTS[f"faithfulness_correlation/{name}"] = functools.partial(faithfulness, name)
    RESULTS[f"faithfulness_estimate/pearson/{name}"] = functools.partial(estimate, name, "pearson")
    RESULTS[f"faithfulness_estimate/spearman/{name}"] = functools.partial(estimate, name, "spearman")
    RESULTS[f"monotonicity_correlation/{name}"] = functools.partial(monotonicity, name)
    RESULTS[f"completeness_gap/black/{name}"] = functools.partial(completeness, name, "min")
    RESULTS[f"completeness_gap/zero/{name}"] = functools.partial(completeness, name, "zero")
for name in ("a3", "ixg", "grad"):
    RESULTS[f"infidelity_captum/plain/{name}"] = functools.partial(captum, name, False)
    RESULTS[f"infidelity_captum/normalised/{name}"] = functools.partial(captum, name, True)


@pytest.mark.parametrize("key", RESULTS)
def test_result(key: str) -> None:
    """Gaps are sums of thousands of numbers, 100 in size; the rank correlations may swap near-ties."""
    atol = 1e-4 if key.startswith("completeness") else CORRELATION
    np.testing.assert_allclose(RESULTS[key](), result(key), atol=atol, rtol=0)


def test_every_result_is_compared() -> None:
    held = {key for key in FACTS["results"] if key.startswith(FAMILIES)}
    assert {key for key in held if not key.startswith(tuple(NOT_COVERED))} == set(RESULTS)
    assert all(any(key.startswith(prefix) for key in held) for prefix in NOT_COVERED)
    arrays = {key[2:] for key in ARRAYS if key.startswith("r/")}
    assert set(RESULTS) <= arrays


# -- slow twins ---------------------------------------------------------------------------------------------------


def metric(own: Evaluation, entry: Any) -> Any:
    table = xaibench.evaluate(classifier(), own.forward.images, own.pairs, own.maps, [entry])
    return table.iloc[:, -1].to_numpy()


def logit(image: Tensor, label: Tensor) -> float:
    with torch.no_grad():
        return float(classifier().module(image[None])[0, label])


@pytest.mark.parametrize("attr", ["a1", "at"])
def test_mu_fidelity_and_faithfulness_correlation(attr: str) -> None:
    """One removal after the other, scipy's correlations; on `at` relevance ties heavily."""
    own = evaluation(attribution(attr))
    cell = torch.arange(32) // 4
    patch = cell[:, None] * 8 + cell
    kinds = {"mu_fidelity": stats.spearmanr, "faithfulness_correlation": stats.pearsonr}
    for name, correlation in kinds.items():
        value = metric(own, {"name": name, "removal": {"grid": 8}, "samples": 20, "fraction": 0.25})
        for p, generator in enumerate(own.forward.generators(own.pairs, name)):
            subsets = torch.rand(20, 64, generator=generator).argsort(1)
            u, v = [], []
            for subset in subsets:
                removed = (subset < 16)[patch]
                assert int((subset < 16).sum()) == 16
                image = own.forward.images[p] * ~removed
                u.append(float(own.relevance[p][removed].double().sum()))
                v.append(logit(own.forward.images[p], own.pairs.label[p]) - logit(image, own.pairs.label[p]))
            assert value[p] == pytest.approx(correlation(u, v)[0], abs=1e-4)


def test_faithfulness_estimate_and_monotonicity() -> None:
    own = evaluation(attribution("a1"))
    estimates = metric(own, {"name": "faithfulness_estimate", "removal": {"steps": 16}, "similarity": "spearman"})
    monotone = metric(own, {"name": "monotonicity_correlation", "removal": {"steps": 16}, "score": "logit"})
    for p in range(8):
        for values, sign, found in ((own.relevance[p], -1, estimates), (own.relevance[p].abs(), 1, monotone)):
            order = (sign * values).flatten().argsort(stable=True)
            u, v = [], []
            for block in order.split(64):
                image = own.forward.images[p].clone()
                image.flatten(1)[:, block] = 0
                u.append(float(values.flatten()[block].double().sum()))
                v.append(logit(own.forward.images[p], own.pairs.label[p]) - logit(image, own.pairs.label[p]))
            if sign == 1:
                v = [drop**2 for drop in v]
            assert found[p] == pytest.approx(stats.spearmanr(u, v)[0], abs=1e-4)


def test_infidelity_of_squares() -> None:
    own = evaluation(attribution("a1"))
    entry = {"name": "infidelity", "samples": 12, "side": 0.5}
    value, raw = metric(own, entry), metric(own, {**entry, "normalise": False})
    for p, generator in enumerate(own.forward.generators(own.pairs, "infidelity")):
        u, v = [], []
        for top, left in (torch.rand(12, 2, generator=generator) * 17).floor().long().tolist():
            image = own.forward.images[p].clone()
            image[:, top : top + 16, left : left + 16] = 0
            u.append(float(own.relevance[p][top : top + 16, left : left + 16].sum()))
            v.append(logit(own.forward.images[p], own.pairs.label[p]) - logit(image, own.pairs.label[p]))
        beta = np.dot(u, v) / np.dot(u, u)
        assert value[p] == pytest.approx(np.mean((beta * np.array(u) - v) ** 2), rel=1e-4)
        assert raw[p] == pytest.approx(np.mean((np.array(u) - v) ** 2), rel=1e-4)


def test_infidelity_of_noise_prefers_the_gradient() -> None:
    """A gradient predicts the answer to small noise; its negative does as well once scaled, a random map does not."""
    gradient = evaluation(attribution("grad"))
    entry = {"name": "infidelity", "perturbation": "noise", "sigma": 0.02, "samples": 30}
    value = metric(gradient, entry)
    negative = metric(evaluation(-attribution("grad")), entry)
    other = metric(evaluation(attribution("a1")), entry)
    np.testing.assert_allclose(value, negative, rtol=1e-4)
    assert (value < other).all()


def test_completeness_gap_of_a_linear_model() -> None:
    """Input times gradient is complete for a linear model and the zero baseline."""
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 5 * 6, 3)).double()
    linear = xaibench.Classifier(module, layer="0")
    images = torch.randn(2, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = xaibench.Pairs([0, 1, 1], [2, 0, 1])
    maps = (module[1].weight.detach().view(3, 2, 5, 6)[pairs.label] * images[pairs.image]).sum(1)
    value = xaibench.evaluate(linear, images, pairs, maps, ["completeness_gap"])["completeness_gap"]
    np.testing.assert_allclose(value, 0, atol=1e-12)
    double = xaibench.evaluate(linear, images, pairs, 2 * maps, ["completeness_gap"])["completeness_gap"]
    np.testing.assert_allclose(double, maps.sum((1, 2)).abs())


def test_bias_ratio_is_the_share_that_vgatt_leaves(cnn: Golden) -> None:
    """Against the golden share of each pair; the score is that of the totals."""
    for layer in ("input", "mid", "last"):
        name = cnn.layers["mid"] if layer == "mid" else layer
        maps = xaibench.explain(cnn.classifier, cnn.images, cnn.every_pair, method="vgatt", layer=name)
        arguments = (cnn.classifier, cnn.images, cnn.every_pair, maps, ["bias_ratio"])
        pairs = xaibench.evaluate(*arguments)["bias_ratio"].to_numpy()
        np.testing.assert_allclose(pairs, cnn.arrays[f"vgatt/{layer}/bias_score_ratio"].ravel(), rtol=1e-3, atol=1e-5)
        total = xaibench.evaluate(*arguments, reduce="scores")["value"][0]
        logits = np.abs(cnn.arrays["logits"]).sum()
        np.testing.assert_allclose(total, np.abs(cnn.arrays[f"vgatt/{layer}/bias"]).sum() / logits, rtol=1e-4)


def test_bias_ratio_is_undefined_without_a_logit() -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False)).double()
    linear = xaibench.Classifier(module, layer="0")
    images = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]], [[[0.0, 0.0], [0.0, 0.0]]]], dtype=torch.float64)
    pairs = xaibench.Pairs([0, 1], [0, 0])
    maps = torch.zeros(2, 2, 2, dtype=torch.float64)
    values = xaibench.evaluate(linear, images, pairs, maps, ["bias_ratio"])["bias_ratio"].to_numpy()
    np.testing.assert_array_equal(values, [1, np.nan])


def test_correlations_with_ties_rounding_and_nan() -> None:
    one = torch.tensor([[3.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0], [float("nan"), 1.0, 2.0, 3.0]]).double()
    other = torch.tensor([5.0, 1.0, 2.0, 2.0]).double().expand(3, 4)
    nearly = torch.tensor([[1.0, 1.0 + 1e-10, 1.0, 1.0]]).double()
    for similarity, reference in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        found = correlate(one, other, similarity)
        assert found[0] == pytest.approx(reference(one[0], other[0])[0])
        assert found[1:].isnan().all()
        assert correlate(nearly, other[:1], similarity).isnan().all()
