"""Localisation and complexity: the results of peers where they are right, slow twins, and invariances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.evaluations import any_evaluation, compute
from tests.support.golden import GOLDEN_SET
from xaibench.core.errors import UsageError
from xaibench.core.registry import metrics
from xaibench.data.dataset import VOID
from xaibench.evaluation import Evaluation
from xaibench.metrics.complexity import tied_fraction

Array = npt.NDArray[Any]

# golden key -> metric, parameters, factor between ours and the peer's
LOCALISATION: dict[str, tuple[str, dict[str, Any]]] = {
    "pointing_game": ("pointing_game", {"ties": "any"}),
    "attribution_localisation": ("energy_pointing_game", {}),
    "energy_pointing_game": ("energy_pointing_game", {}),
    "relevance_mass_accuracy": ("relevance_mass", {"sign": "signed"}),
    "relevance_mass_accuracy_abs": ("relevance_mass", {"sign": "abs"}),
    "relevance_rank_accuracy": ("relevance_rank", {}),
    "localisation_auc": ("localisation_auc", {}),
    "top_k_intersection/50": ("top_k_intersection", {"k": 50}),
    "top_k_intersection/200": ("top_k_intersection", {"k": 200}),
    "top_k_intersection_ci/200": ("top_k_intersection", {"k": 200, "concept_influence": True}),
}
COMPLEXITY: dict[str, tuple[str, dict[str, Any]]] = {
    "sparseness_gini": ("sparseness", {}),
    "complexity_entropy": ("complexity", {}),
    "effective_complexity": ("effective_complexity", {"threshold": 0.05, "scale": "none"}),
}
NOT_COVERED = {
    "relevance_rank_accuracy/at": "the peer's order among equal values is unspecified (do_not_match)",
    "top_k_intersection/50/at": "the peer's order among equal values is unspecified (do_not_match)",
    "top_k_intersection/200/at": "the peer's order among equal values is unspecified (do_not_match)",
    "top_k_intersection_ci/200/at": "the peer's order among equal values is unspecified (do_not_match)",
    "focus/a1": "a mosaic metric: xaibench has no mosaics",
    "effective_complexity/a1/normalised_default": "depends on the batch (do_not_match)",
}
FAMILIES = {*LOCALISATION, *COMPLEXITY, "focus"}


def cases(table: dict[str, Any]) -> list[str]:
    keys = [key[2:] for key in GOLDEN_SET.arrays if key.startswith("r/")]
    return [key for key in keys if key.rpartition("/")[0] in table and key not in NOT_COVERED]


@pytest.mark.parametrize("key", cases(LOCALISATION))
def test_localisation_is_the_peers(key: str) -> None:
    family, _, maps = key.rpartition("/")
    name, parameters = LOCALISATION[family]
    found = compute(name, GOLDEN_SET.evaluation(maps), **parameters).numpy()
    np.testing.assert_allclose(found, GOLDEN_SET.result(key), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", cases(COMPLEXITY))
def test_complexity_is_the_peers(key: str) -> None:
    family, _, maps = key.rpartition("/")
    name, parameters = COMPLEXITY[family]
    values = GOLDEN_SET["aux/expl/ixg"].flatten(1, 2) if maps == "ixg" else GOLDEN_SET[maps].flatten(1, 2)
    found = compute(name, any_evaluation(values), **parameters).numpy()
    n = values[0].numel()
    factor = {"complexity": math.log(n), "effective_complexity": n}.get(name, 1)
    tolerance = 1e-9 if name == "effective_complexity" else 1e-5
    np.testing.assert_allclose(found * factor, GOLDEN_SET.result(key), atol=tolerance)


def test_every_result_of_these_families_is_covered_or_named() -> None:
    keys = {key[2:] for key in GOLDEN_SET.arrays if key.startswith("r/")}
    ours = {key for key in keys if any(key == f or key.startswith(f"{f}/") for f in FAMILIES)}
    assert ours == {*cases(LOCALISATION), *cases(COMPLEXITY), *NOT_COVERED}


# -- slow twins -----------------------------------------------------------------------------------------------------


def twin_hits(a: Array, truth: Array, k: int, orders: int = 400) -> float:
    """Mean hits among the k largest over random orders of equal values."""
    rng = np.random.default_rng(0)
    totals = []
    for _ in range(orders):
        shuffle = rng.permutation(a.size)
        order = shuffle[np.argsort(-a[shuffle], kind="stable")]
        totals.append(truth[order[:k]].sum())
    return float(np.mean(totals))


def twin_auc(a: Array, truth: Array) -> float:
    wins = np.sign(a[truth][:, None] - a[~truth][None]) / 2 + 0.5
    return float(wins.mean())


def twin_precision(a: Array, truth: Array) -> float:
    return float(np.mean([truth[a >= value].mean() for value in a[truth]]))


@pytest.fixture(scope="module")
def tied() -> Evaluation:
    """Non-square images, few map levels, a void stripe, an empty mask, an all-void mask, a full mask."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.randint(-2, 3, (5, 6, 9), generator=generator).double()
    mask = (torch.rand((5, 6, 9), generator=generator) < 0.3).byte()
    mask[:, 0, 3:6] = VOID
    mask[2], mask[3], mask[4] = 0, VOID, 1
    return any_evaluation(maps, mask)


def test_twins_with_ties_and_void(tied: Evaluation) -> None:
    for row in range(2):
        valid = tied.valid[row].numpy()
        a, truth = tied.maps[row].numpy()[valid], tied.truth[row].numpy()[valid]
        area = int(truth.sum())
        assert float(compute("localisation_auc", tied)[row]) == pytest.approx(twin_auc(a, truth), abs=1e-12)
        assert float(compute("average_precision", tied)[row]) == pytest.approx(twin_precision(a, truth), abs=1e-12)
        hits = float(compute("relevance_rank", tied)[row]) * area
        assert hits == pytest.approx(twin_hits(a, truth, area), abs=0.2)
        assert float(compute("top_k_intersection", tied, k=7)[row]) * 7 == pytest.approx(
            twin_hits(a, truth, 7), abs=0.2
        )
        assert float(compute("relevance_mass", tied)[row]) == pytest.approx(np.abs(a[truth]).sum() / np.abs(a).sum())


LOCAL = [name for name in metrics if metrics[name].group == "localisation"]
PIXELWISE = [*LOCAL, "sparseness", "complexity", "effective_complexity"]


def test_nothing_outside_the_object(tied: Evaluation) -> None:
    assert compute("localisation_auc", tied)[4].isnan()
    for name in ("pointing_game", "relevance_mass", "relevance_rank", "average_precision", "energy_pointing_game"):
        assert float(compute(name, tied)[4]) == pytest.approx(1)


@pytest.mark.parametrize("name", PIXELWISE)
def test_degenerate_maps(name: str) -> None:
    """A constant map knows nothing, an all-negative map has no positive relevance, a NaN is not a number."""
    mask = torch.zeros((4, 5, 8), dtype=torch.uint8)
    mask[:, :2, :4] = 1
    maps = torch.full((4, 5, 8), 0.7, dtype=torch.float64)
    maps[1] = -torch.arange(1.0, 41).reshape(5, 8)
    maps[2] = 0
    maps[3, 2, 2] = torch.nan
    values = compute(name, any_evaluation(maps, mask), **({"k": 8} if name == "top_k_intersection" else {})).tolist()
    assert math.isnan(values[3])
    area = 8 / 40
    constant = {"localisation_auc": 0.5, "sparseness": 0, "complexity": 1, "effective_complexity": 1}
    assert values[0] == pytest.approx(constant.get(name, area))
    masses = ("energy_pointing_game", "relevance_mass", "sparseness", "complexity", "effective_complexity")
    if name in masses:
        assert math.isnan(values[2]), "an all-zero map has no relevance to share out"
    else:
        assert values[2] == pytest.approx(constant.get(name, area))
    if name == "energy_pointing_game":
        assert math.isnan(values[1])
    else:
        assert 0 <= values[1] <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 4))
def test_tolerance_is_a_euclidean_distance(seed: int, tolerance: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn((1, 6, 11), generator=generator, dtype=torch.float64)
    mask = (torch.rand((1, 6, 11), generator=generator) < 0.04).byte()
    mask[0, 2, 3] = 1
    y, x = divmod(int(maps.argmax()), 11)
    ys, xs = np.nonzero(mask[0].numpy())
    hit = float(((ys - y) ** 2 + (xs - x) ** 2 <= tolerance**2).any())
    assert float(compute("pointing_game", any_evaluation(maps, mask), tolerance=tolerance)) == hit


def test_effective_complexity_in_units_of_the_map() -> None:
    maps = torch.tensor([[[1.0, 0.5, 0.04, -2.0]]])
    values = compute("effective_complexity", any_evaluation(maps), threshold=0.3)
    assert float(values) == 0.5


@pytest.mark.parametrize(
    ("name", "parameters"), [("pointing_game", {"tolerance": -1}), ("top_k_intersection", {"k": 0})]
)
def test_bad_parameters(tied: Evaluation, name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=name):
        compute(name, tied, **parameters)


def test_tied_fraction_counts_pixels_that_share_their_value() -> None:
    maps = torch.tensor([[[1.0, 1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert tied_fraction(any_evaluation(maps)).tolist() == [0.5, 0.0, 1.0]
