"""The ImageNet-Segmentation protocol against the executed original: per image, in total, at the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from torch import Tensor

from tests.support.evaluations import any_evaluation
from tests.support.evaluations import compute as compute_values
from tests.support.golden import load_arrays
from tests.support.networks import any_classifier
from xaibench.core.errors import UsageError
from xaibench.core.registry import BoundMetric
from xaibench.data.dataset import VOID
from xaibench.data.ground_truth import GroundTruth
from xaibench.evaluation import Evaluation
from xaibench.evaluation.measure import Measured, measure
from xaibench.forward import Forward, Pairs
from xaibench.results.records import rows_of
from xaibench.results.scores import Score, score
from xaibench.suite import parse_metrics

SIZE = 224
NAMES = ("pixel_accuracy", "miou", "map")


@pytest.fixture(scope="module")
def golden() -> Any:
    return load_arrays("protocols/imagenet_seg")


def masks_of(packed: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed, axis=-1)[..., :SIZE])


def evaluation_of(maps: npt.NDArray[Any], masks: Tensor) -> Evaluation:
    return any_evaluation(torch.from_numpy(maps.astype(np.float32)), masks, (SIZE, SIZE))


def bound(name: str, **parameters: Any) -> BoundMetric:
    return parse_metrics([{"name": name, **parameters}])[0]


def total(metric: BoundMetric, *found: Measured) -> Score:
    """The score of the rows of one or several batches; images are numbered on."""
    rows: list[dict[str, Any]] = []
    for batch, m in enumerate(found):
        rows += rows_of([f"{batch}/{i}" for i in m.image], m.label, m.values, m.statistics, 0.0)
    return score(pd.DataFrame(rows), metric.aggregate, resamples=50)


def compute(name: str, evaluation: Evaluation, **parameters: Any) -> npt.NDArray[np.float64]:
    return np.asarray(compute_values(name, evaluation, **parameters))


@pytest.mark.parametrize("kind", ["seg", "seg_pix"])
@pytest.mark.parametrize("truth", ["label", "foreground"])
def test_protocol_is_the_original(golden: Any, kind: str, truth: str) -> None:
    masks = masks_of(golden["seg_masks"])
    if kind == "seg_pix":
        masks = masks[golden["seg_pix_mask_index"]]
    evaluation = evaluation_of(golden[f"{kind}_maps"], masks)
    out = {key.removeprefix(f"{kind}_out/"): golden[key] for key in golden if key.startswith(f"{kind}_out/")}
    counts = compute("pixel_accuracy", evaluation, truth=truth)
    np.testing.assert_array_equal(counts, np.stack([out["correct"], out["labeled"]], 1))
    np.testing.assert_array_equal(
        compute("miou", evaluation, truth=truth), np.concatenate([out["inter"], out["union"]], 1)
    )
    np.testing.assert_allclose(compute("map", evaluation, truth=truth), out["ap"], atol=1e-9 if kind == "seg" else 1e-6)
    for name, key in zip(NAMES, ("pixAcc", "mIoU", "mAP"), strict=True):
        metric = bound(name, truth=truth)
        assert total(metric, measure(evaluation, metric)).value == pytest.approx(float(out[key]), abs=1e-6), name


def test_published_digits(golden: Any) -> None:
    evaluation = evaluation_of(golden["seg_maps"], masks_of(golden["seg_masks"]))
    found = [total(bound(name), measure(evaluation, bound(name))).value for name in NAMES]
    np.testing.assert_allclose(found, [0.76783, 0.58701, 0.87028], atol=5e-6)


def test_edges_are_the_original(golden: Any) -> None:
    """A constant map (background everywhere, AP one half), all-background and all-foreground masks, a binary map."""
    evaluation = evaluation_of(golden["seg_edge_maps"], masks_of(golden["seg_edge_masks"]))
    expected = golden["seg_edge_out"]
    correct = compute("pixel_accuracy", evaluation, truth="foreground")
    np.testing.assert_array_equal(correct, expected[:, :2])
    np.testing.assert_array_equal(compute("miou", evaluation, truth="foreground"), expected[:, 2:6])
    np.testing.assert_allclose(compute("map", evaluation, truth="foreground"), expected[:, 6], atol=1e-9)
    for name in NAMES:
        values = compute(name, evaluation, truth="label")
        assert np.isnan(values).reshape(4, -1).all(1).tolist() == [False, True, False, False], "label 1 has no mask"


def test_void_is_ignored(golden: Any) -> None:
    mask = masks_of(golden["seg_masks"])[1:2].clone()
    mask[:, : int(golden["seg_ignore_first_rows"])] = VOID
    evaluation = evaluation_of(golden["seg_maps"][1:2], mask)
    expected = golden["seg_ignore_out"]
    np.testing.assert_array_equal(compute("pixel_accuracy", evaluation)[0], expected[:2])
    np.testing.assert_array_equal(compute("miou", evaluation)[0], expected[2:6])
    assert compute("map", evaluation)[0] == pytest.approx(expected[6], abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_totals_do_not_depend_on_batches(golden: Any, name: str) -> None:
    """Two shards, in another order: the same total and, for ratios, not the mean of the shards' values."""
    masks, metric = masks_of(golden["seg_masks"]), bound(name)
    whole = total(metric, measure(evaluation_of(golden["seg_maps"], masks), metric))
    order = np.array([4, 1, 5, 0, 3, 2])
    shards = [measure(evaluation_of(golden["seg_maps"][rows], masks[rows]), metric) for rows in (order[:4], order[4:])]
    assert total(metric, *shards).value == pytest.approx(whole.value, abs=1e-12)
    assert whole.ci_low < whole.value < whole.ci_high
    if name == "miou":  # of totals: not the mean of the images' values
        assert abs(np.mean([value for shard in shards for value in shard.values]) - whole.value) > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("truth", ["label", "foreground"])
def test_degenerate(name: str, truth: str) -> None:
    """NaN map, all-void mask: undefined. All-negative and scaled maps: as any other map."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn((4, 6, 9), generator=generator)
    maps[1] = -maps[0].abs()
    maps[2, 0, 0] = torch.nan
    mask = (torch.rand((4, 6, 9), generator=generator) < 0.4).byte()
    mask[3] = VOID
    values = compute(name, any_evaluation(maps, mask), truth=truth).reshape(4, -1)
    assert np.isnan(values[2:]).all()
    assert np.isfinite(values[:2]).all()
    np.testing.assert_array_equal(compute(name, any_evaluation(maps * 8, mask), truth=truth).reshape(4, -1), values)


def test_labels_of_one_image() -> None:
    """Each label against its own object, or against all objects; a label that is not there is undefined."""
    mask = torch.zeros((1, 4, 6), dtype=torch.uint8)
    mask[0, :, :2], mask[0, :, 2:3] = 1, 2
    maps = torch.stack([(mask[0] == 1).float(), (mask[0] == 2).float(), (mask[0] == 1).float()])
    forward = Forward(any_classifier(channels=1), torch.zeros((1, 1, 4, 6)), ground_truth=GroundTruth(mask=mask))
    evaluation = Evaluation(forward, Pairs([0, 0, 0], [0, 1, 2]), maps)
    own = measure(evaluation, bound("miou")).values
    assert own[:2] == [1, 1]
    assert np.isnan(own[2])
    assert measure(evaluation, bound("pixel_accuracy", truth="foreground")).values == pytest.approx(
        [20 / 24, 16 / 24, 20 / 24]
    )
    none = Evaluation(forward, Pairs([], []), maps[:0])
    assert measure(none, bound("miou")).values == []


def test_the_mean_itself_is_background() -> None:
    maps = torch.tensor([[[0.0, 1.0, 2.0]]])
    mask = torch.tensor([[[0, 0, 1]]], dtype=torch.uint8)
    assert compute("pixel_accuracy", any_evaluation(maps, mask)).tolist() == [[3, 3]]


def test_masks_are_needed() -> None:
    with pytest.raises(UsageError, match="masks"):
        compute("miou", any_evaluation(torch.ones((1, 3, 3))))
