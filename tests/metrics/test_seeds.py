"""Seeds: label maps and scores of the executed originals, slow twins, and rows per image that add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from torch import Tensor

import xaibench
from tests.support.golden import load_arrays, load_facts
from tests.support.networks import any_classifier
from xaibench.core.errors import UsageError
from xaibench.core.registry import BoundMetric
from xaibench.data.dataset import VOID as UNKNOWN
from xaibench.data.ground_truth import VOID, GroundTruth
from xaibench.evaluation import Evaluation
from xaibench.evaluation.measure import measure
from xaibench.forward import Forward, Pairs
from xaibench.metrics.seed_curve import seed_curve
from xaibench.metrics.seed_label_maps import fraction_seeds, threshold_seeds
from xaibench.results.records import rows_of
from xaibench.results.scores import Score, moments, score
from xaibench.suite import parse_metrics

CLASSES = 20
SEEDS = ("seed_miou", "seed_pixel_accuracy", "seed_area_ratio", "seed_miou_k")


class Reference:
    """Maps, keys (1-based, ascending) and ground truth of images of different sizes, with results."""

    def __init__(self, name: str, maps: str) -> None:
        self.arrays = load_arrays(f"wsss/{name}")
        self.facts = load_facts(f"wsss/{name}")
        self.count = sum(key.startswith("keys_") for key in self.arrays)
        self.maps = [torch.from_numpy(self.arrays[f"{maps}_{i}"]) for i in range(self.count)]
        self.keys = [torch.from_numpy(self.arrays[f"keys_{i}"]) for i in range(self.count)]
        self.truth = [torch.from_numpy(self.arrays[f"gt_{i}"]) for i in range(self.count)]

    def frame(self, metric: BoundMetric) -> pd.DataFrame:
        """The rows of all images, each in a batch of its own since their sizes differ."""
        classifier = any_classifier(labels=CLASSES)
        rows: list[dict[str, Any]] = []
        for i, (maps, keys, truth) in enumerate(zip(self.maps, self.keys, self.truth, strict=True)):
            forward = Forward(classifier, torch.zeros((1, 3, *truth.shape)), ground_truth=GroundTruth(mask=truth[None]))
            pairs = Pairs(torch.zeros(len(keys), dtype=torch.long), keys - 1)
            found = measure(Evaluation(forward, pairs, maps), metric)
            rows += rows_of([str(i)], found.label, found.values, found.statistics, 0.0)
        return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def sweep() -> Reference:
    return Reference("open_seed_eval", "cam")


@pytest.fixture(scope="module")
def thesis() -> Reference:
    return Reference("open_thesis_seeds", "maps")


def bound(name: str, **parameters: Any) -> BoundMetric:
    return parse_metrics([{"name": name, **parameters}])[0]


def value(reference: Reference, name: str, **parameters: Any) -> Score:
    metric = bound(name, **parameters)
    return score(reference.frame(metric), metric.aggregate, resamples=20)


# -- label maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [15, 25, 50])
def test_threshold_seeds_are_the_original(sweep: Reference, percent: int) -> None:
    for i in range(sweep.count):
        found = threshold_seeds(sweep.maps[i], sweep.keys[i], background=percent / 100)
        np.testing.assert_array_equal(found.numpy(), sweep.arrays[f"pred_{i}_t{percent}"], err_msg=str(i))


@pytest.mark.parametrize("alpha", [4, 16, 24, 32])
def test_background_by_power_is_the_original(sweep: Reference, alpha: int) -> None:
    for i in range(sweep.count):
        background = (1 - sweep.maps[i].amax(0)) ** alpha
        found = threshold_seeds(sweep.maps[i], sweep.keys[i], background=background)
        np.testing.assert_array_equal(found.numpy(), sweep.arrays[f"pred_{i}_alpha{alpha}"], err_msg=str(i))


@pytest.mark.parametrize("percent", range(10, 100, 10))
def test_fraction_seeds_are_the_reference(thesis: Reference, percent: int) -> None:
    for i in range(thesis.count):
        found = fraction_seeds(thesis.maps[i], thesis.keys[i], fraction=percent / 100)
        np.testing.assert_array_equal(found.numpy(), thesis.arrays[f"seed_{i}_k{percent}"], err_msg=str(i))


def test_threshold_ties() -> None:
    """Background wins at exactly its threshold, then the label that comes first; without labels all is background."""
    maps, labels = torch.tensor([[[0.5, 0.7, 0.7, 0.2]], [[0.5, 0.7, 0.1, 0.9]]]), torch.tensor([9, 4])
    assert threshold_seeds(maps, labels, background=0.5).tolist() == [[0, 9, 9, 4]]
    assert threshold_seeds(maps.flip(0), labels.flip(0), background=0.5).tolist() == [[0, 4, 9, 4]]
    assert threshold_seeds(maps[:0], labels[:0], background=0.5).tolist() == [[0, 0, 0, 0]]


def test_fraction_rules() -> None:
    """Each of the rules that the text leaves open decides something here."""
    maps = torch.tensor([[[4.0, 2.0, 2.0, -1.0, 0.0]], [[3.0, 3.0, -1.0, -2.0, -1.0]]])
    labels = torch.tensor([5, 8])
    # 5 claims pixels 0, 1, 2; 8 claims 0, 1: the smaller one takes both
    assert fraction_seeds(maps, labels, fraction=0.5).tolist() == [[8, 8, 5, 0, 255]]
    # above, not at, half of the maximum: 5 claims pixel 0 alone, and is the smaller one
    assert fraction_seeds(maps, labels, fraction=0.5, strict=True).tolist() == [[5, 8, 255, 0, 255]]
    assert fraction_seeds(maps, labels, fraction=0.5, zero="background").tolist() == [[8, 8, 5, 0, 0]]
    # undisputed: 5 has pixel 2, 8 has none, so 8 is still smaller; with more of its own it is not
    wider = torch.tensor([[[4.0, 2.0, 2.0, 2.0, -1.0, -1.0]], [[3.0, -1.0, -1.0, -1.0, 3.0, 3.0]]])
    assert fraction_seeds(wider, labels, fraction=0.5).tolist() == [[8, 5, 5, 5, 8, 8]]
    taken = torch.tensor([[[4.0, 4.0, 4.0, -1.0, -1.0]], [[-1.0, 4.0, 4.0, 4.0, 4.0]], [[-1.0, -1.0, -1.0, 4.0, 4.0]]])
    three = torch.tensor([1, 2, 3])
    assert fraction_seeds(taken, three, fraction=0.5).tolist() == [[1, 1, 1, 3, 3]]
    assert fraction_seeds(taken, three, fraction=0.5, area="undisputed").tolist() == [[1, 2, 2, 2, 2]]
    assert fraction_seeds(-maps.abs(), labels, fraction=0.5).tolist() == [[0, 0, 0, 0, 255]], "no positive maximum"
    assert fraction_seeds(maps[:0], labels[:0], fraction=0.5).tolist() == [[255] * 5]


# -- scores -----------------------------------------------------------------------------------------------------------


def test_sweep_is_the_original(sweep: Reference) -> None:
    """Both averages at every threshold, from one row per image."""
    thresholds = [float(t) for t in sweep.arrays["thresholds"]]
    for fixed in (0.15, 0.25, 0.45):
        parameters = {"thresholds": thresholds, "normalise": "none", "fixed": fixed}
        expected = sweep.facts["by_threshold"][f"{fixed:.2f}"]
        assert value(sweep, "seed_miou", **parameters).value == pytest.approx(expected["miou_nan"], abs=1e-12)
        found = value(sweep, "seed_miou", **parameters, average="seed_miou_all").value
        assert found == pytest.approx(expected["miou_zero"], abs=1e-12)
    metric = bound("seed_miou", thresholds=thresholds, normalise="none")
    frame = sweep.frame(metric)
    sums, counts = moments(frame)
    means = sums.sum((0, 1)) / counts.sum()
    for classes, key in (("occurring", "miou_nan"), ("all", "miou_zero")):
        curve = seed_curve(means, classes)
        expected = [sweep.facts["by_threshold"][f"{t:.2f}"][key] for t in thresholds]
        np.testing.assert_allclose(curve.values, expected, atol=1e-12)
        np.testing.assert_allclose(curve.thresholds, thresholds, atol=1e-12)
        assert curve.oracle_threshold == thresholds[int(np.argmax(expected))]
        name = {"occurring": "oracle_seed_miou", "all": "oracle_seed_miou_all"}[classes]
        oracle = value(sweep, "seed_miou", thresholds=thresholds, normalise="none", average=name).value
        assert oracle == pytest.approx(max(expected), abs=1e-12)


@pytest.mark.parametrize("percent", range(10, 100, 10))
def test_thesis_scores_are_the_reference(thesis: Reference, percent: int) -> None:
    expected, fraction = thesis.facts["by_k"][str(percent)], percent / 100
    found = {
        "pixel_accuracy_known": value(thesis, "seed_pixel_accuracy", fraction=fraction),
        "known_ratio": value(thesis, "seed_area_ratio", fraction=fraction, of="known"),
        "fg_seed_over_fg_gt": value(thesis, "seed_area_ratio", fraction=fraction),
        "miou_known_nan": value(thesis, "seed_miou_k", fraction=fraction),
        "miou_unknown_is_fn_nan": value(thesis, "seed_miou_k", fraction=fraction, unknown="missed"),
    }
    for key, result in found.items():
        assert result.value == pytest.approx(expected[key], abs=1e-12), key


def test_width_of_a_known_curve() -> None:
    """A roof: 0, .5, 1 (at .5), .99, 0 over steps of .25; within 2 points from .49 to .75 + .01 / .99 * .25."""
    rows = [[hits, hits] for hits in (0, 50, 100, 99, 0)]
    header = [2, 6, 0.25, 0, 0.25, 0.5, 0.75, 1]
    hits = np.array([[50, 50], *rows], float)
    means = np.array([*header, *hits.flatten(), *hits.flatten(), 100, 100])
    curve = seed_curve(means)
    np.testing.assert_allclose(curve.values, [0, 0.5, 1, 0.99, 0])
    assert curve.value_fixed == 0.5
    assert curve.oracle_threshold == 0.5
    assert float(curve.width) == pytest.approx(0.25 * (0.02 / 0.5) + 0.25 + 0.25 * (0.01 / 0.99))


def test_width_of_a_flat_stretch_below_the_best() -> None:
    """1 at the first threshold, then 0.5 twice: only the way down from 1 to 0.98 is within 2 points."""
    rows = [[hits, hits] for hits in (100, 50, 50)]
    hits = np.array([[50, 50], *rows], float).flatten()
    means = np.array([2, 4, 0.25, 0, 0.25, 0.5, *hits, *hits, 100, 100])
    assert float(seed_curve(means).width) == pytest.approx(0.25 * (0.02 / 0.5))


def twin_counts(prediction: Tensor, truth: Tensor, classes: int) -> npt.NDArray[Any]:
    valid = (truth != VOID) & (prediction != UNKNOWN)
    return np.array(
        [
            [int((valid & (prediction == c) & (truth == c)).sum()) for c in range(classes)],
            [int((valid & (prediction == c)).sum()) for c in range(classes)],
            [int((truth == c).sum()) for c in range(classes)],
        ]
    )


@pytest.fixture
def batch() -> tuple[Forward, Pairs, Tensor]:
    """Four images, non-square: 3, 0, 1 and 2 labels, pairs in no order; void; a map resolution of its own."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.randint(0, 4, (4, 8, 12), generator=generator).byte()
    mask[:, 0, :3] = 255
    pairs = Pairs([3, 0, 0, 2, 0, 3], [0, 2, 0, 1, 1, 2])
    forward = Forward(any_classifier(), torch.zeros((4, 3, 8, 12)), ground_truth=GroundTruth(mask=mask))
    return forward, pairs, torch.randn((6, 4, 6), generator=generator)


def test_sweep_counts_are_those_of_label_maps(batch: tuple[Forward, Pairs, Tensor]) -> None:
    """The histogram trick against counting each label map."""
    forward, pairs, maps = batch
    evaluation = Evaluation(forward, pairs, maps)
    thresholds, fixed = [0.0, 0.3, 0.6], 0.3
    relevance = evaluation.relevance.relu() / (evaluation.relevance.relu().amax((1, 2), keepdim=True) + 1e-5)
    rows = measure(evaluation, bound("seed_miou", thresholds=thresholds, fixed=fixed)).statistics
    for image in range(4):
        own = [p for c in range(3) for p in range(6) if pairs.image[p] == image and pairs.label[p] == c]
        expected = [
            twin_counts(
                threshold_seeds(relevance[own], pairs.label[own] + 1, background=t),
                forward.ground_truth.mask[image].long(),
                4,
            )
            for t in (fixed, *thresholds)
        ]
        hits, predicted = np.stack([e[0] for e in expected]), np.stack([e[1] for e in expected])
        row = np.array([4, 4, fixed, *thresholds, *hits.flatten(), *predicted.flatten(), *expected[0][2]])
        np.testing.assert_allclose(np.array(rows[image]), row, atol=1e-12)


@pytest.mark.parametrize("name", SEEDS)
def test_degenerate(batch: tuple[Forward, Pairs, Tensor], name: str) -> None:
    """NaN map and all-void image: undefined. No pair, constant, all-negative: a row like any other."""
    forward, pairs, maps = batch
    mask = forward.ground_truth.mask.clone()
    mask[0] = VOID
    forward = Forward(any_classifier(), forward.images, ground_truth=GroundTruth(mask=mask))
    maps = maps.clone()
    maps[pairs.image == 2] = torch.nan
    maps[pairs.image == 3] = -1
    values = np.array(measure(Evaluation(forward, pairs, maps), bound(name)).values)
    assert np.isnan(values[[0, 2]]).all()
    if name in ("seed_miou", "seed_miou_k"):
        background = (mask[3] == 0).sum() / (mask[3] != VOID).sum()
        assert values[3] == pytest.approx(float(background) / 4), "all background: IoU of 0 with the objects"
    none = measure(Evaluation(forward, Pairs([], []), maps.new_zeros((0, 1, 1))), bound(name))
    assert len(none.values) == 4
    constant = measure(Evaluation(forward, pairs, torch.ones_like(maps)), bound(name)).values
    assert np.isfinite(constant[2:]).all()


def test_api_gives_images_once(batch: tuple[Forward, Pairs, Tensor]) -> None:
    forward, pairs, maps = batch
    table = xaibench.evaluate(
        forward.classifier, forward.images, pairs, maps, ["seeds"], masks=forward.ground_truth.mask
    )
    assert table.groupby("image")["seed_miou"].nunique().eq(1).all()
    scores = xaibench.evaluate(
        forward.classifier, forward.images, pairs, maps, ["seeds"], masks=forward.ground_truth.mask, reduce="scores"
    )
    assert scores["n"].tolist()[1] == 4, "images, also the one without a label"


def test_an_object_free_image_counts(batch: tuple[Forward, Pairs, Tensor]) -> None:
    """Its seeds are part of the total area although its own ratio is infinite."""
    forward, pairs, maps = batch
    mask = forward.ground_truth.mask.clone()
    mask[2] = 0
    forward = Forward(any_classifier(), forward.images, ground_truth=GroundTruth(mask=mask))
    metric = bound("seed_area_ratio")
    found = measure(Evaluation(forward, pairs, maps), metric)
    assert found.values[2] == np.inf
    frame = pd.DataFrame(rows_of(map(str, found.image), found.label, found.values, found.statistics, 0.0))
    parts = np.array([part for part in found.statistics if part is not None])
    result = score(frame, metric.aggregate, resamples=0)
    assert result.value == pytest.approx(parts[:, 0].sum() / parts[:, 1].sum())
    assert np.isfinite(result.std)


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("seed_miou", {"thresholds": [0.3, 0.2]}, "increasing"),
        ("seed_miou", {"thresholds": []}, "at least one"),
        ("seed_miou_k", {"fraction": 20.0}, "at most 1 is allowed"),
    ],
)
def test_bad_parameters(
    batch: tuple[Forward, Pairs, Tensor], name: str, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        measure(Evaluation(*batch), bound(name, **parameters))


def test_masks_are_needed(batch: tuple[Forward, Pairs, Tensor]) -> None:
    forward, pairs, maps = batch
    bare = Forward(forward.classifier, forward.images)
    for name in SEEDS:
        with pytest.raises(UsageError, match="masks"):
            measure(Evaluation(bare, pairs, maps), bound(name))
