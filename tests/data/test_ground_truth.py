"""Overlapping ground truth: metrics of pairs read regions, label maps read the mask, and a batch keeps both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.networks import build, images
from xaibench.core import registry
from xaibench.core.errors import SampleError, UsageError
from xaibench.data import Sample
from xaibench.data.batch import Batch, collate
from xaibench.data.ground_truth import GroundTruth, Regions
from xaibench.data.preprocess import Preprocess
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs
from xaibench.suite import parse_metrics

HEIGHT, WIDTH = 24, 32  # of the small networks
DOG, RUG, CAT = 1, 3, 4
VOID = 255


def overlapping() -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A dog of 4 x 8 pixels lies on the right half of a rug of 8 x 16; what they share is void, and so is a corner."""
    rug, dog = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    rug[4:12, 4:20] = True
    dog[6:10, 12:20] = True
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[rug], mask[dog], mask[rug & dog] = RUG + 1, DOG + 1, VOID
    mask[20:, 28:] = VOID
    return mask, {RUG: rug, DOG: dog}


def sample(regions: bool = True) -> Sample:
    mask, found = overlapping()
    labels = np.zeros(6, np.uint8)
    labels[[DOG, RUG]] = 1
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    return Sample("a", picture, labels, np.zeros_like(labels), mask, "here", found if regions else None)


def batch(regions: bool = True, samples: list[Sample] | None = None) -> Batch:
    classifier = build("cnn")
    classifier.preprocess = Preprocess((HEIGHT, WIDTH), "none")
    batch = collate([sample(regions)] if samples is None else samples, classifier.geometry)
    return batch.to(classifier.geometry, classifier.device, next(classifier.module.parameters()).dtype)


def evaluation(maps: Tensor, regions: bool = True) -> Evaluation:
    own = batch(regions)
    forward = Forward(build("cnn"), own.images, ground_truth=own.ground_truth)
    return Evaluation(forward, Pairs([0, 0, 0], [DOG, RUG, CAT]), maps.double())


def value(name: str, maps: Tensor, regions: bool = True, **parameters: object) -> list[float]:
    (metric,) = parse_metrics([{"name": name, **parameters}])
    found: list[float] = metric.entry.function(evaluation(maps, regions), **metric.arguments).tolist()
    return found


def test_pairs_are_measured_on_regions() -> None:
    """A map that is 2 on the dog, 1 on the rest of the rug, and highest in a corner that is void."""
    mask, found = overlapping()
    one = torch.from_numpy(np.where(found[DOG], 2.0, found[RUG]))
    one[mask == VOID] += 0.5
    one[-1, -1] = 9
    maps = one.expand(3, -1, -1)
    both, rest = 32 * 2.5, 96 * 1.0
    assert value("pointing_game", maps)[:2] == [1.0, 1.0]
    assert value("energy_pointing_game", maps)[:2] == pytest.approx([both / (both + rest), 1.0])
    # one label per pixel knows nothing of what the two share
    assert np.isnan(value("pointing_game", maps, regions=False)[0])
    assert value("pointing_game", maps, regions=False)[1] == 1.0
    assert np.isnan(value("energy_pointing_game", maps, regions=False)[0])
    assert value("energy_pointing_game", maps, regions=False)[1] == 1.0
    assert np.isnan([value(name, maps)[2] for name in ("pointing_game", "energy_pointing_game")]).all()  # no cat


def test_a_painted_mask_hides_what_lies_below() -> None:
    """The rug's own map peaks under the dog: by the mask that is a miss, by its region a hit."""
    painted, found = overlapping()
    painted[found[DOG]] = DOG + 1
    maps = torch.from_numpy(found[RUG][None]).double()
    maps[0, 7, 14] = 2
    own = batch()
    pointing, energy = [], []
    for regions in (own.ground_truth.regions, None):
        truth = GroundTruth(mask=torch.from_numpy(painted)[None], regions=regions)
        forward = Forward(build("cnn"), own.images, ground_truth=truth)
        explained = Evaluation(forward, Pairs([0], [RUG]), maps)
        pointing.append(registry.metrics["pointing_game"].function(explained).item())
        energy.append(registry.metrics["energy_pointing_game"].function(explained).item())
    assert pointing == [1.0, 0.0]
    assert energy == pytest.approx([1.0, 96 / 129])


def test_what_is_void_stays_void() -> None:
    mask, found = overlapping()
    own = evaluation(torch.rand(3, HEIGHT, WIDTH))
    shared = found[DOG] & found[RUG]
    assert torch.equal(own.valid[0], torch.from_numpy((mask != VOID) | shared))
    assert torch.equal(own.forward.ground_truth.single[0], torch.from_numpy(mask != VOID))
    without = evaluation(torch.rand(3, HEIGHT, WIDTH), regions=False)
    assert torch.equal(without.valid, without.forward.ground_truth.single.expand(3, -1, -1))


def test_label_maps_are_compared_with_the_mask() -> None:
    maps = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    for name in ("seed_miou", "seed_pixel_accuracy"):
        torch.testing.assert_close(
            registry.metrics[name].function(evaluation(maps)), registry.metrics[name].function(evaluation(maps, False))
        )


def test_segmentation_of_a_pair_is_that_of_its_region() -> None:
    """The region itself as a map segments it without a fault, as any object against background too."""
    _, found = overlapping()
    maps = torch.from_numpy(np.stack([found[DOG], found[RUG], found[RUG]])).double()
    correct, labelled = torch.tensor(value("pixel_accuracy", maps)).T.tolist()
    assert correct[:2] == labelled[:2] == [HEIGHT * WIDTH - 16] * 2
    assert value("pixel_accuracy", maps, truth="foreground")[1:] == [[HEIGHT * WIDTH - 16.0] * 2] * 2


def test_the_oracle_knows_regions_also_where_a_metric_explains_again() -> None:
    _, found = overlapping()
    own = evaluation(torch.rand(3, HEIGHT, WIDTH))
    pairs = Pairs([1, 0, 1], [RUG, DOG, DOG])
    oracle = registry.methods["oracle"].function
    again = Evaluation(own.forward, own.pairs, own.maps, oracle).explain(
        own.forward.images.repeat(2, 1, 1, 1), pairs, torch.tensor([0, 0])
    )
    np.testing.assert_array_equal(again.numpy(), np.stack([found[RUG], found[DOG], found[DOG]]))


def random_regions(images: int = 4, labels: int = 5) -> tuple[Regions, dict[tuple[int, int], Tensor]]:
    rng = np.random.default_rng(2)
    chosen = [(i, j) for i in range(images) for j in range(labels) if rng.random() > 0.5]
    present = {key: torch.from_numpy(rng.random((6, 7)) > 0.5) for key in chosen}
    keys = torch.tensor(list(present))
    return Regions(keys[:, 0], keys[:, 1], torch.stack(list(present.values()))), present


def test_regions_are_looked_up_by_image_and_label() -> None:
    regions, present = random_regions()
    every = Pairs.where(torch.ones(4, 5, dtype=torch.bool))
    found = regions.of(every)
    for row, key in enumerate(zip(every.image.tolist(), every.label.tolist(), strict=True)):
        assert torch.equal(found[row], present.get(key, torch.zeros(6, 7, dtype=torch.bool)))
    assert regions.of(every[torch.tensor([], dtype=torch.long)]).shape == (0, 6, 7)
    union = regions.union(6)
    assert not union[4:].any()
    for image in range(4):
        assert torch.equal(union[image], torch.stack([m for (i, _), m in present.items() if i == image]).any(0))
    rows = torch.tensor([2, 0, 2])
    taken = regions[rows]
    for row, image in enumerate(rows.tolist()):
        for label in range(5):
            expected = present.get((image, label), torch.zeros(6, 7, dtype=torch.bool))
            assert torch.equal(taken.of(Pairs([row], [label]))[0], expected)
    assert len(taken.masks) == 2 * sum(i == 2 for i, _ in present) + sum(i == 0 for i, _ in present)


@pytest.mark.parametrize("resize", ["squash", "shortest_crop", "fit_pad"])
def test_regions_go_the_way_of_the_mask(resize: str) -> None:
    one = sample()
    preprocess = Preprocess((16, 16), resize)  # type: ignore[arg-type]
    regions = Regions.collate([one, one], preprocess)
    assert regions is not None
    assert regions.image.tolist() == [0, 0, 1, 1]
    assert regions.label.tolist() == [DOG, RUG, DOG, RUG]
    assert one.regions is not None
    for row, label in enumerate([DOG, RUG, DOG, RUG]):
        assert torch.equal(regions.masks[row], preprocess.mask(one.regions[label].astype(np.uint8)) > 0)


def test_samples_without_labels_have_regions_too() -> None:
    mask, _ = overlapping()
    empty = Sample("e", sample().image, np.zeros(6, np.uint8), np.zeros(6, np.uint8), np.zeros_like(mask), "there", {})
    own = batch(samples=[empty, empty])
    assert own.ground_truth.regions is not None
    assert own.ground_truth.regions.masks.shape == (0, HEIGHT, WIDTH)
    assert not own.ground_truth.regions.union(2).any()
    with pytest.raises(SampleError, match="here: has no regions, though other samples"):
        batch(samples=[empty, sample(regions=False)])
    assert batch(regions=False).ground_truth.regions is None


def test_halves_of_a_batch_keep_their_regions() -> None:
    mask, _ = overlapping()
    empty = Sample("e", sample().image, np.zeros(6, np.uint8), np.zeros(6, np.uint8), np.zeros_like(mask), "there", {})
    whole = batch(samples=[empty, sample(), sample()])
    first, second = whole.halves()
    assert whole.ground_truth.regions is not None
    assert first.ground_truth.regions is not None
    assert second.ground_truth.regions is not None
    assert len(first.ground_truth.regions.masks) == 0
    assert second.ground_truth.regions.image.tolist() == [0, 0, 1, 1]
    every = Pairs([1, 1, 2, 2], [DOG, RUG, DOG, RUG])
    expected = whole.ground_truth.regions.of(every)
    assert torch.equal(second.ground_truth.regions.of(Pairs(every.image - 1, every.label)), expected)


def test_regions_must_be_of_the_size_of_the_images() -> None:
    own = batch()
    regions = own.ground_truth.regions
    assert regions is not None
    small = Regions(regions.image, regions.label, regions.masks[:, :-1])
    with pytest.raises(UsageError, match=r"regions must be .*24, 32.*found .*23, 32"):
        Forward(build("cnn"), own.images, ground_truth=GroundTruth(mask=own.ground_truth.mask, regions=small))


# -- more labels than a byte holds ----------------------------------------------------------------------------------


def test_wide_masks_tell_the_label_254_from_void() -> None:
    wide = np.zeros((HEIGHT, WIDTH), np.int16)
    wide[:4], wide[4:8], wide[8:12] = 255, 1000, -1
    placed = Preprocess((HEIGHT, WIDTH), "none").mask(wide)
    assert placed.dtype == torch.int16
    np.testing.assert_array_equal(placed.numpy(), wide)
    forward = Forward(build("cnn"), images()[:1], ground_truth=GroundTruth(mask=placed[None]))
    truth = forward.ground_truth.of(Pairs([0, 0], [254, 999]))
    assert truth[0].nonzero()[:, 0].unique().tolist() == [0, 1, 2, 3]
    assert truth[1].nonzero()[:, 0].unique().tolist() == [4, 5, 6, 7]
    assert (~forward.ground_truth.valid)[0].nonzero()[:, 0].unique().tolist() == [8, 9, 10, 11]
    narrow = Forward(build("cnn"), images()[:1], ground_truth=GroundTruth(mask=placed[None].to(torch.uint8)))
    assert (~narrow.ground_truth.valid)[0].nonzero()[:, 0].unique().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_wide_masks_keep_their_type_under_every_geometry() -> None:
    wide = np.full((10, 14), 700, np.int16)
    for resize in ("squash", "shortest_crop", "fit_pad"):
        placed = Preprocess((8, 8), resize).mask(wide)  # type: ignore[arg-type]
        assert placed.dtype == torch.int16
        assert set(placed.unique().tolist()) <= {0, 700}


def test_an_object_of_no_class_is_void_to_seeds() -> None:
    """Six labels: 7 is none of them. It changes no count of a class."""
    maps = torch.rand(1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for foreign in (7, -1):
        mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.int16)
        mask[:, :6], mask[:, 6:9] = 3, foreign
        forward = Forward(build("cnn"), images()[:1], ground_truth=GroundTruth(mask=mask))
        own = Evaluation(forward, Pairs([0], [2]), maps)
        found.append([registry.metrics[name].function(own) for name in ("seed_miou", "seed_miou_k", "seed_area_ratio")])
    for one, other in zip(*found, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other)
