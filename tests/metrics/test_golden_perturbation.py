"""Perturbation metrics against the numbers of RISE, Quantus, ROAD, pytorch-grad-cam and the Chefer protocol."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import xaibench
from tests.support.golden import GOLDEN_SET, load_arrays, weights
from xaibench.data.preprocess import Preprocess
from xaibench.evaluation import Evaluation
from xaibench.evaluation.perturbation import (
    Baseline,
    Curve,
    Order,
    Removal,
    Remove,
    Units,
    remover,
    running_mean,
    substitute,
    trace,
)
from xaibench.forward import Pairs
from xaibench.metrics.perturbation import flipping_area
from xaibench.metrics.perturbation_fractions import after_removal
from xaibench.metrics.perturbation_regions import segment_area

ARRAYS, FACTS = GOLDEN_SET.arrays, GOLDEN_SET.facts
attribution, evaluation, result = GOLDEN_SET.attribution, GOLDEN_SET.summed, GOLDEN_SET.result

CURVE = 1e-5  # open.json allows 1e-4
OTHER_CONVENTIONS = ("auc_conventions/latec", "auc_conventions/quantus", "auc_conventions/interpretdl_mean")
ELSEWHERE = (  # results of families that metrics/perturbation*.py do not hold
    "adcc", "attribution_localisation", "average_", "avg_sensitivity", "complete", "complexity",
    "drop_in_confidence", "effective_complexity", "efficient_mprt", "energy_pointing_game", "faithfulness", "focus",
    "increase_in_confidence", "infidelity", "localisation_auc", "max_sensitivity", "monotonicity", "mprt",
    "non_sensitivity", "pointing_game", "random_logit", "relevance_", "sensitivity_", "sparseness", "sufficiency",
    "top_k",
)  # fmt: skip
RISE = [("zero", "morf"), ("zero", "lerf"), ("blur", "morf"), ("blur", "lerf"), ("mean", "morf"), ("min", "morf")]
PERCENTILES = [10, 20, 30, 40, 50, 60, 70, 80, 90]
PIXELS = 32 * 32


def remover_of(own: Evaluation, removal: Removal) -> Remove:
    return remover(own.forward, own.pairs, removal)


def open_evaluation(attr: str) -> Evaluation:
    return evaluation(attribution(attr))


def metric(attr: str, entry: Any) -> Tensor:
    """A metric through the public door."""
    own = open_evaluation(attr)
    table = xaibench.evaluate(GOLDEN_SET.classifier(), GOLDEN_SET["x"], own.pairs, own.maps, [entry])
    return torch.tensor(table.iloc[:, -1].to_numpy())


def rise(baseline: Baseline, order: Order, insert: bool) -> Tensor:
    values = open_evaluation("a1").curve(order, Removal(baseline, steps=32)).confidence
    return values.flip(1) if insert else values


def regions(attr: str, grid: int, order: Order) -> Curve:
    """Patches one at a time; Quantus' black is the image's minimum."""
    return open_evaluation(attr).curve(order, Removal("min", "patch", grid, steps=None))


def region_drops(attr: str, grid: int, order: Order) -> Tensor:
    return regions(attr, grid, order).drop("probability")[:, 1:]


def region_scores(attr: str, grid: int) -> Tensor:
    return regions(attr, grid, "morf").confidence[:, 1:]


@functools.cache
def flipped(attr: str, baseline: str, labels: str = "y") -> Curve:
    """Single channels of pixels as units, 64 a step: what Quantus flips."""
    maps, images = attribution(attr), GOLDEN_SET["x"]
    count = images[0].numel()
    units = Units(torch.arange(count).view(1, *images.shape[1:]).expand_as(images), count)
    ranks = units.ranks(maps, "morf")
    counts = torch.arange(0, count + 1, 64).expand(len(images), -1)
    filled = {
        "black": images.amin((1, 2, 3), keepdim=True).expand_as(images),
        "white": images.amax((1, 2, 3), keepdim=True).expand_as(images),
        "0.0": torch.zeros_like(images),
        "mean": running_mean(images, ranks, counts),
    }[baseline]
    own = evaluation(maps, labels)
    return trace(own.forward, own.pairs, ranks, counts, substitute(own.forward, own.pairs, filled))


def flipped_scores(attr: str, baseline: str) -> Tensor:
    return flipped(attr, baseline).confidence[:, 1:]


def flipped_area(attr: str, baseline: str) -> Tensor:
    return flipping_area(flipped(attr, baseline).confidence) * 47  # Quantus does not divide by T - 1


def irof(attr: str) -> Tensor:
    """IROF on the stored superpixels, with the mean colour as Quantus takes it: anew after every step."""
    own = open_evaluation(attr)
    segments = GOLDEN_SET["aux/irof/segments"].long()[:, None]
    units = Units(segments, int(segments.max()) + 1)
    present = (units.sizes > 0).sum(1)
    counts = Removal("running_mean", "segment", steps=None).counts(present)
    ranks = units.ranks(own.relevance[:, None], "morf")
    filled = running_mean(GOLDEN_SET["x"], ranks, counts)
    curve = trace(
        own.forward,
        own.pairs,
        ranks,
        counts,
        substitute(own.forward, own.pairs, filled),
        valid=counts <= present[:, None],
    )
    per_segment = segment_area(curve, "probability", per_segment=True)
    torch.testing.assert_close(per_segment * present, segment_area(curve, "probability", per_segment=False))
    return segment_area(curve, "probability", per_segment=False)


def pixels(order: Any, attr: str) -> Tensor:
    """Ranks of a map's pixels."""
    return Units(torch.arange(PIXELS).view(1, 1, 32, 32).expand(8, -1, -1, -1), PIXELS).ranks(attribution(attr), order)


def gone_at(percentiles: list[int]) -> Tensor:
    """How many pixels pytorch-grad-cam removes: those at or above a percentile with linear interpolation."""
    return torch.tensor([0, *(PIXELS - int(np.ceil(p / 100 * (PIXELS - 1))) for p in percentiles)])


def grad_cam_road(order: str) -> Curve:
    """Its percentile p keeps p % of the pixels, give or take one."""
    own = open_evaluation("ap")
    impute = remover(own.forward, own.pairs, Removal("road", noise=0.0))
    return trace(own.forward, own.pairs, pixels(order, "ap"), gone_at(PERCENTILES).expand(8, -1), impute)


def authors_road() -> Curve:
    tenths = tuple(k / 10 for k in range(1, 10))
    return open_evaluation("a1").curve("morf", Removal("road", steps=None, fractions=tenths, noise=0.0))


RESULTS: dict[str, Callable[[], Tensor]] = {
    "auc_conventions/rise": lambda: metric("a1", "deletion"),
    "irof/a1": lambda: irof("a1"),
    "irof/a3": lambda: irof("a3"),
    "pixel_flipping/curve/a3/black/y_alt_logits": lambda: flipped("a3", "black", "y_alt").logit[:, 1:],
    "road_original/noise0/prob_morf": lambda: authors_road().confidence[:, 1:],
    "road_original/noise0/correct_morf": lambda: authors_road().decided[:, 1:],
    "road_gradcam/noise0/morf": lambda: -grad_cam_road("morf").drop("probability")[:, 1:],
    "road_gradcam/noise0/lerf": lambda: -grad_cam_road("lerf").drop("probability")[:, 1:],
    "road_gradcam/noise0/combined": lambda: (
        (after_removal(grad_cam_road("lerf"), "probability") - after_removal(grad_cam_road("morf"), "probability")) / 2
    ),
}
for kind in ("deletion", "insertion"):
    for base, ordered in RISE:
        entry = {"name": kind, "removal": {"baseline": base}, "order": ordered}
        reverse = {"morf": "lerf", "lerf": "morf"}[ordered] if kind == "insertion" else ordered
        RESULTS[f"{kind}/{base}/{ordered}/curve"] = functools.partial(rise, base, reverse, kind == "insertion")  # type: ignore[arg-type]
        RESULTS[f"{kind}/{base}/{ordered}/auc"] = functools.partial(metric, "a1", entry)
for name in ("a1", "a3"):
    for grid in (8, 4):
        key = f"p{32 // grid}/{name}"
        for ordered in ("morf", "lerf"):
            RESULTS[f"region_perturbation/{ordered}/{key}"] = functools.partial(region_drops, name, grid, ordered)  # type: ignore[arg-type]
        RESULTS[f"selectivity/{key}"] = functools.partial(region_scores, name, grid)
for name in ("a3", "ixg"):
    for base in ("black", "mean", "white", "0.0"):
        RESULTS[f"pixel_flipping/curve/{name}/{base}"] = functools.partial(flipped_scores, name, base)
        RESULTS[f"pixel_flipping/auc/{name}/{base}"] = functools.partial(flipped_area, name, base)


@pytest.mark.parametrize("key", RESULTS)
def test_result(key: str) -> None:
    """IROF's scale is 100, those of the flipping areas and of logits are 10."""
    loose = key.startswith(("irof", "pixel_flipping/auc")) or key.endswith("logits")
    np.testing.assert_allclose(RESULTS[key](), result(key), atol=1e-4 if loose else CURVE, rtol=0)


def test_every_result_is_compared() -> None:
    """Left out: other areas of the same curve, and what Quantus could not compute (it crashes on colour images)."""
    held = {key for key in FACTS["results"] if not key.startswith((*ELSEWHERE, *OTHER_CONVENTIONS))}
    assert held - set(RESULTS) == {"road_quantus/noise0/a1", "irof_as_shipped/a1", "irof_as_shipped/a3"}
    assert all("error" in FACTS["results"][key] for key in held - set(RESULTS))
    arrays = {key[2:] for key in ARRAYS if key.startswith("r/")}
    assert {key for key in arrays if not key.startswith((*ELSEWHERE, *OTHER_CONVENTIONS))} == set(RESULTS)


# -- metrics of the same curves -----------------------------------------------------------------------------------


def test_rise_blurred_images() -> None:
    everything = torch.ones(8, 1, 32, 32, dtype=torch.bool)
    blurred = remover_of(open_evaluation("a1"), Removal("blur"))(torch.arange(8), everything)
    np.testing.assert_allclose(blurred[:2], ARRAYS["aux/rise/blurred"], atol=1e-6)


def test_road_imputed_images() -> None:
    impute = remover_of(open_evaluation("a1"), Removal("road", noise=0.0))
    filled = impute(torch.arange(8), pixels("morf", "a1") < 307)
    np.testing.assert_allclose(filled, ARRAYS["aux/road/imputed_top30_noise0"], atol=1e-5)
    filled = impute(torch.arange(8), pixels("morf", "ap") < gone_at([50])[1])
    np.testing.assert_allclose(filled, ARRAYS["aux/road/imputed_morf_percentile50"], atol=1e-5)


def test_srg() -> None:
    areas = [result(f"deletion/zero/{order}/auc") for order in ("lerf", "morf")]
    np.testing.assert_allclose(metric("a1", "srg"), areas[0] - areas[1], atol=CURVE)


@pytest.mark.parametrize("attr", ["a1", "a3"])
def test_aopc_and_selectivity(attr: str) -> None:
    drops = result(f"region_perturbation/morf/p4/{attr}")
    aopc = metric(attr, {"name": "aopc", "removal": {"baseline": "min", "grid": 8}})
    np.testing.assert_allclose(aopc, drops.sum(1) / (drops.shape[1] + 1), atol=CURVE)
    whole = np.insert(result(f"selectivity/p4/{attr}"), 0, open_evaluation(attr).confidence, 1)
    selectivity = metric(attr, {"name": "selectivity", "removal": {"baseline": "min", "grid": 8}})
    np.testing.assert_allclose(selectivity, np.trapezoid(whole) / 64, atol=CURVE)


def test_pixel_flipping_of_whole_pixels() -> None:
    after = result("deletion/min/morf/curve")[:, 1:]
    np.testing.assert_allclose(metric("a1", "pixel_flipping"), np.trapezoid(after) / 31, atol=CURVE)


@pytest.mark.parametrize(("score", "key"), [("probability", "prob_morf"), ("accuracy", "correct_morf")])
def test_road(score: str, key: str) -> None:
    value = metric("a1", {"name": "road", "order": "morf", "removal": {"noise": 0}, "score": score})
    np.testing.assert_allclose(value, result(f"road_original/noise0/{key}").mean(1), atol=CURVE)


# -- the Chefer protocol ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def protocol() -> Any:
    return load_arrays("protocols/perturbation")


@pytest.mark.parametrize("explained", ["top", "target"])
@pytest.mark.parametrize("polarity", ["positive", "negative"])
def test_perturbation_auc(protocol: Any, explained: str, polarity: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 6, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
    module.load_state_dict(weights(protocol))
    half = (0.5, 0.5, 0.5)
    classifier = xaibench.Classifier(module, activation="softmax", preprocess=Preprocess((16, 16), "none", half, half))
    images = (torch.tensor(protocol["images"]) - 0.5) / 0.5
    present = nn.functional.one_hot(torch.tensor(protocol["labels"]), 4).bool()
    pairs: Any = Pairs.where(present) if explained == "target" else "predicted"
    maps = torch.tensor(protocol[f"maps_{explained}"])[:, 0]
    entry = {"name": "perturbation_auc", "polarity": polarity}
    scores = xaibench.evaluate(classifier, images, pairs, maps, [entry], labels=present, reduce="scores")
    golden = float(protocol[f"out/{explained}_{polarity[:3]}/auc"])
    assert scores["value"][0] == pytest.approx(golden, abs=1e-6)
    published = {("top", "positive"): 19.375, ("top", "negative"): 60.833, ("target", "positive"): 18.958}
    assert golden == pytest.approx(published.get((explained, polarity), 62.292), abs=5e-4)
    steps = json.loads(str(protocol["config"]))["pixels_per_step"]
    counts = Removal("black", steps=None, fractions=tuple(k / 10 for k in range(1, 10))).counts(torch.tensor([256]))
    assert counts[0, 1:].tolist() == steps
