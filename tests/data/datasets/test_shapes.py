"""The procedural data set: pure, exact, biased as promised."""

from __future__ import annotations

import hashlib
from itertools import combinations

import numpy as np
import pytest

from xaibench.core.errors import UsageError
from xaibench.data import Sample, load_dataset
from xaibench.data.datasets.shapes import CLASSES, PARTNER, SIZE, draw


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(load_dataset("shapes", split="test", samples=300))


def test_labels_are_what_the_mask_shows(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.size == (SIZE, SIZE)
        assert sample.mask is not None
        assert sample.mask.shape == (SIZE, SIZE)
        shown = np.unique(sample.mask[sample.mask > 0]) - 1
        assert list(np.nonzero(sample.labels)[0]) == list(shown)
        assert 1 <= sample.labels.sum() <= 4
        assert not sample.ignore.any()


def test_a_sample_is_a_function_of_seed_split_and_index() -> None:
    first, again = load_dataset("shapes", samples=50), load_dataset("shapes", samples=9)
    assert np.array_equal(np.asarray(first[7].image), np.asarray(again[7].image))
    other = [load_dataset("shapes", seed=1)[7], load_dataset("shapes", split="train")[7], first[8]]
    for sample in other:
        assert not np.array_equal(np.asarray(sample.image), np.asarray(first[7].image))


PIXELS = "1207ccb1fe7e6f85"


def test_the_pixels_never_change() -> None:
    """Scores are quoted against these images: a change needs a new REVISION."""
    digest = hashlib.sha256()
    for split in ("train", "val", "test"):
        for index in range(4):
            image, mask = draw(0, split, index)
            digest.update(image.tobytes() + mask.tobytes())
    assert digest.hexdigest()[:16] == PIXELS


def test_partners_meet_more_often_than_chance(samples: list[Sample]) -> None:
    labels = np.stack([sample.labels for sample in samples]).astype(float)
    together = labels.T @ labels / len(labels)
    partner = [together[a, b] for a, b in combinations(range(len(CLASSES)), 2) if PARTNER[a] == b]
    strangers = [together[a, b] for a, b in combinations(range(len(CLASSES)), 2) if PARTNER[a] != b]
    assert min(partner) > 2 * np.mean(strangers)


def test_every_class_occurs_about_equally(samples: list[Sample]) -> None:
    counts = np.stack([sample.labels for sample in samples]).sum(0)
    assert counts.min() > 0.6 * counts.mean()


def test_colour_says_nothing_about_the_class(samples: list[Sample]) -> None:
    """Mean colours of the classes differ by no more than chance allows."""
    means: dict[int, list[np.ndarray]] = {label: [] for label in range(len(CLASSES))}
    for sample in samples:
        image = np.asarray(sample.image, float) / 255
        for label in np.nonzero(sample.labels)[0]:
            means[int(label)].append(image[sample.mask == label + 1].mean(0))
    overall = np.concatenate([np.stack(m) for m in means.values()])
    for values in means.values():
        standard_error = overall.std(0) / len(values) ** 0.5
        assert (np.abs(np.mean(values, 0) - overall.mean(0)) < 4.5 * standard_error).all()


def test_objects_are_seen_against_what_lies_behind(samples: list[Sample]) -> None:
    for sample in samples[:100]:
        assert sample.mask is not None
        assert (sample.mask > 0).mean() > 0.01


def test_a_sequence(samples: list[Sample]) -> None:
    data = load_dataset("shapes", samples=5)
    assert len(data) == 5
    assert [s.id for s in data[1:3]] == ["test-000001", "test-000002"]
    assert data[-1].id == "test-000004"
    with pytest.raises(IndexError):
        data[5]


def test_bad_options() -> None:
    for options, sentence in (
        ({"split": "tset"}, "'split' = 'tset'"),
        ({"sampels": 3}, "did you mean 'samples'"),
        ({"seed": "x"}, "'seed' = 'x'"),
    ):
        with pytest.raises(UsageError, match=sentence):
            load_dataset("shapes", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown dataset 'shape'; did you mean 'shapes'"):
        load_dataset("shape")
