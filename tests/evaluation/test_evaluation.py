"""The two views of a map, and the probes that metrics share."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import xaibench
from tests.support.networks import PAIRS, build, count_passes, images, mask
from xaibench.core.errors import UsageError
from xaibench.data.ground_truth import GroundTruth
from xaibench.data.preprocess import Preprocess
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward
from xaibench.suite import parse_metrics


def evaluation(maps: torch.Tensor | None = None, kind: str = "cnn") -> Evaluation:
    classifier = build(kind)
    classifier.preprocess = Preprocess((24, 32), "none", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    if maps is None:
        maps = torch.randn(len(PAIRS), 6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Evaluation(Forward(classifier, images(), ground_truth=GroundTruth(mask=mask())), PAIRS, maps)


def test_the_mask_is_not_normalised_again() -> None:
    maps = torch.zeros(len(PAIRS), 3, 4, dtype=torch.float64)
    maps[:, 1, 1] = 7
    maps[:, 0, 0] = -9
    found = evaluation(maps).mask
    assert found.shape == (len(PAIRS), 24, 32)
    assert 0 <= float(found.min()) <= float(found.max()) < 1  # bilinear half-pixel centres never hit the peak


def test_maps_of_the_input_size_are_taken_as_they_are() -> None:
    maps = torch.randn(len(PAIRS), 24, 32, dtype=torch.float64)
    assert torch.equal(evaluation(maps).relevance, maps)


def test_keep_and_drop_are_what_the_model_says_of_the_masked_image() -> None:
    e = evaluation()
    for row in (0, 5, 12):
        image, label = images()[PAIRS.image[row]], PAIRS.label[row]
        for probe, weight in ((e.keep, e.mask[row]), (e.drop, 1 - e.mask[row])):
            expected = e.forward.classifier.probabilities((image * weight)[None])[0]
            torch.testing.assert_close(probe.probabilities[row], expected)
            torch.testing.assert_close(probe.confidence[row], expected[label])


def test_pixel_space_removes_to_black() -> None:
    e = evaluation()
    preprocess = e.forward.classifier.preprocess
    assert preprocess is not None
    row = 3
    black = preprocess.normalise(preprocess.pixels(images()[PAIRS.image[row]]) * (1 - e.mask[row]))
    expected = e.forward.classifier.probabilities(black[None])[0]
    torch.testing.assert_close(e.probe("drop", space="pixels").probabilities[row], expected)
    e.forward.classifier.preprocess = None
    without = Evaluation(e.forward, PAIRS, e.maps)
    with pytest.raises(UsageError, match="pixels needs the model's normalisation"):
        without.probe("keep", space="pixels")


def test_all_multi_label_metrics_share_one_keep_and_one_drop_pass() -> None:
    e = evaluation()
    _ = e.probabilities
    passes = count_passes(e.forward.classifier.module)
    for metric in parse_metrics(["multi_label"]):
        metric.entry.function(e, **metric.arguments)
    assert sum(passes) == 2 * len(PAIRS)


def test_chunks_do_not_matter() -> None:
    e, other = evaluation(), evaluation()
    other.forward.classifier.chunk = 2
    torch.testing.assert_close(e.keep.probabilities, other.keep.probabilities)


def test_others_leave_out_the_pair_itself() -> None:
    e = evaluation()
    others = e.others()
    for row in range(len(PAIRS)):
        expected = e.forward.detected[PAIRS.image[row]].clone()
        expected[PAIRS.label[row]] = False
        assert torch.equal(others[row], expected)
    with pytest.raises(UsageError, match="ground-truth labels"):
        e.others("present")


def test_nan_maps_are_undefined_and_touch_no_other_pair() -> None:
    maps = torch.rand(len(PAIRS), 6, 8, dtype=torch.float64)
    broken = maps.clone()
    broken[4] = torch.nan
    names = ["multi_label", "pointing_game", "energy_pointing_game", "sparseness"]
    classifier = build("cnn")
    tables = [
        xaibench.evaluate(classifier, images(), PAIRS, m, names, masks=mask()).drop(columns=["image", "label"])
        for m in (maps, broken)
    ]
    assert tables[1].iloc[4].isna().all()
    rest = [row for row in range(len(PAIRS)) if row != 4]
    torch.testing.assert_close(
        torch.tensor(tables[0].iloc[rest].to_numpy()), torch.tensor(tables[1].iloc[rest].to_numpy()), equal_nan=True
    )


@pytest.mark.parametrize("shape", [(3, 6, 8), (len(PAIRS), 8), (len(PAIRS), 1, 6, 8)])
def test_maps_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"maps must be \[P, h, w\]"):
        evaluation(torch.zeros(shape))


def test_evaluate_bad_input() -> None:
    classifier, maps = build("cnn"), torch.rand(len(PAIRS), 6, 8, dtype=torch.float64)
    with pytest.raises(UsageError, match="pointing_game needs masks="):
        xaibench.evaluate(classifier, images(), PAIRS, maps, ["pointing_game"])
    with pytest.raises(UsageError, match="reduce 'mean'"):
        xaibench.evaluate(classifier, images(), PAIRS, maps, ["sparseness"], reduce="mean")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="masks must be"):
        xaibench.evaluate(classifier, images(), PAIRS, maps, ["sparseness"], masks=mask()[:2])
    empty = xaibench.evaluate(classifier, images(), xaibench.Pairs([], []), maps[:0], ["multi_label"], reduce="scores")
    assert (empty["n"] == 0).all()
    assert empty["value"].isna().all()


def test_outputs_of_rows_are_those_of_their_labels() -> None:
    e = evaluation()
    expected = e.forward.classifier.probabilities(images()[PAIRS.image])
    for rows in ([2], [2, 1, 0], list(range(len(PAIRS)))):
        found = e.outputs(lambda chunk: images()[PAIRS.image[chunk]], torch.tensor(rows))
        torch.testing.assert_close(found.probabilities, expected[rows])
        torch.testing.assert_close(found.confidence, expected[rows, PAIRS.label[rows]])


def test_an_undefined_map_is_nan_everywhere() -> None:
    maps = torch.rand(len(PAIRS), 6, 8, dtype=torch.float64)
    maps[0, 0, 0], maps[1, 0, 0], maps[2, 0, 0] = torch.nan, torch.inf, -torch.inf
    e = evaluation(maps)
    assert e.defined.tolist() == [row > 2 for row in range(len(PAIRS))]
    assert e.maps[:3].isnan().all()
    assert torch.equal(e.maps[3:], maps[3:])


def test_an_undefined_map_of_a_lone_label_is_undefined() -> None:
    """Images with one detected label add 0 to the "of others" means, but not where there is no map."""
    classifier = build("cnn")
    first, second = Forward(classifier, images()).probabilities[0].sort(descending=True).values[:2].tolist()
    classifier.threshold = (first + second) / 2
    pairs = xaibench.Pairs([0], [int(Forward(classifier, images()).probabilities[0].argmax())])
    for value, expected in ((torch.nan, True), (1.0, False)):
        maps = torch.full((1, 3, 4), value, dtype=torch.float64)
        table = xaibench.evaluate(classifier, images(), pairs, maps, ["multi_label"])
        assert bool(table[["average_drop_of_others", "average_retention_of_others"]].isna().all(axis=None)) == expected


def test_maps_may_have_another_precision_than_the_model() -> None:
    single = xaibench.Classifier(build("cnn").module.float())
    maps = torch.rand(len(PAIRS), 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tables = [xaibench.evaluate(single, images().float(), PAIRS, m, ["multi_label"]) for m in (maps, maps.float())]
    torch.testing.assert_close(torch.tensor(tables[0].to_numpy()), torch.tensor(tables[1].to_numpy()), equal_nan=True)
    with pytest.raises(UsageError, match=r"maps must be floating point, found torch\.int64"):
        xaibench.evaluate(single, images().float(), PAIRS, maps.long(), ["multi_label"])


MASK_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


@pytest.mark.parametrize("dtype", MASK_TYPES)
def test_masks_of_every_integer_type_mean_the_same(dtype: torch.dtype) -> None:
    classifier, maps = build("cnn"), torch.rand(len(PAIRS), 6, 8, dtype=torch.float64)
    given = mask().clone()
    given[:, :4] = 255
    other = torch.where(given == 255, 255 if dtype == torch.uint8 else -1, given.to(torch.int64)).to(dtype)
    names = ["localisation", "segmentation", "seeds"]
    found, expected = (
        xaibench.evaluate(classifier, images(), PAIRS, maps, names, masks=m).to_numpy() for m in (other, given)
    )
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), equal_nan=True)


def test_void_is_no_label() -> None:
    """A byte stores label 254 as 255, the value of void; a model with more labels needs a wider type."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 300),
    )
    classifier, x, pairs = xaibench.Classifier(module), torch.rand(1, 3, 8, 8), xaibench.Pairs([0], [254])
    wide = torch.full((1, 8, 8), -1)
    wide[:, 2:5, 2:5] = 255
    found = xaibench.explain(classifier, x, pairs, method="oracle", masks=wide)
    assert torch.equal(found[0] > 0, wide[0] == 255)
    with pytest.raises(UsageError, match="masks of uint8 hold at most 254 labels, the model has 300"):
        xaibench.explain(classifier, x, pairs, method="oracle", masks=wide.to(torch.uint8))


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        (mask().float(), r"masks must be uint8 .* found torch.float32"),
        (mask() > 0, "found torch.bool"),
        (mask().long() - 2, r"masks hold -2\.\.4; allowed: -1"),
        (mask().int() + 40_000, r"masks hold 40000\.\.40006"),
    ],
)
def test_impossible_masks_are_refused(masks: torch.Tensor, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        xaibench.explain(build("cnn"), images(), PAIRS, method="oracle", masks=masks)


def test_scores_of_batches_add_up() -> None:
    """To the scores of all images, to the last digit; the mean of the batches' scores is another number."""
    classifier, generator = build("cnn"), torch.Generator().manual_seed(0)
    maps = torch.rand(len(PAIRS), 6, 8, dtype=torch.float64, generator=generator)
    names = ["multi_label", "energy_pointing_game", "seed_miou"]
    whole = xaibench.evaluate(classifier, images(), PAIRS, maps, names, masks=mask(), reduce="scores")
    batches = []
    for start in (0, 3, 6):
        own = (PAIRS.image >= start) & (PAIRS.image < start + 3)
        pairs = xaibench.Pairs(PAIRS.image[own] - start, PAIRS.label[own])
        rows = slice(start, start + 3)
        batches.append(
            xaibench.evaluate(classifier, images()[rows], pairs, maps[own], names, masks=mask()[rows], reduce="sums")
        )
    for total in (sum(batches), sum(batches, xaibench.Scores()), batches[0] + batches[1] + batches[2]):
        assert total.images == 8
        pd.testing.assert_frame_equal(total.table, whole)
    mean = pd.concat([batch.table for batch in batches]).groupby("metric")["value"].mean()
    assert (mean - whole.set_index("metric")["value"]).abs()["f1_plus"] > 1e-3
    other = xaibench.evaluate(classifier, images(), PAIRS, maps, ["sparseness"], reduce="sums")
    with pytest.raises(UsageError, match="do not add up"):
        batches[0] + other
