"""Training learns, repeats itself, and leaves a card; average precision against plain loops."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xaibench import bundled
from xaibench.classifier import load_classifier
from xaibench.datasets import load_dataset
from xaibench.errors import UsageError
from xaibench.training import (
    AugmentSection,
    Epoch,
    Examples,
    Recipe,
    augmented,
    average_precision,
    evaluate,
    masked_bce,
    read_recipe,
    train,
)
from xaibench.yamlfile import ProblemsError

RECIPE = """\
name: small
seed: 3
dataset: {name: shapes, train: val, evaluate: test, options: {samples: 48}}
model: {name: test_resnet}
input: {size: 48, resize: squash, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
augment: {dihedral: true, crop: 0.8, colour: 0.2}
epochs: 3
batch_size: 16
positive_weight: balanced
"""


def recipe(tmp_path: Path, text: str = RECIPE) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path)


def test_training_learns_and_repeats_itself(tmp_path: Path) -> None:
    epochs: list[Epoch] = []
    state = torch.random.get_rng_state()
    first = train(recipe(tmp_path), tmp_path / "a", on_epoch=epochs.append)
    second = train(recipe(tmp_path), tmp_path / "b")
    assert torch.equal(state, torch.random.get_rng_state())
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert epochs[-1].loss < epochs[0].loss
    assert first.read_bytes() == second.read_bytes()
    card = json.loads((tmp_path / "a" / "small.card.json").read_text())
    assert card["sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()
    assert card["recipe"]["seed"] == 3
    assert set(card["average_precision"]) == set(load_dataset("shapes").class_names)
    load_classifier("test_resnet", num_classes=8, checkpoint=first)


def test_fine_tuning_starts_from_a_checkpoint(tmp_path: Path) -> None:
    start = train(recipe(tmp_path, RECIPE.replace("epochs: 3", "epochs: 1")), tmp_path)
    text = RECIPE.replace("{name: test_resnet}", f"{{name: test_resnet, start: {start}}}")
    text = text.replace("epochs: 3", "epochs: 1\nlearning_rate: 1.0e-9").replace("name: small", "name: tuned")
    tuned = train(recipe(tmp_path, text), tmp_path)
    options = {"num_classes": 8}
    before, after = (load_classifier("test_resnet", checkpoint=p, **options).module for p in (start, tuned))  # type: ignore[arg-type]
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-5, rtol=0)


def test_mistakes_in_a_recipe_are_located(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError) as error:
        recipe(tmp_path, RECIPE.replace("epochs: 3", "epoch: 3").replace("size: 48", "siez: 48"))
    assert [problem.line for problem in error.value.problems] == [5, 5, 7]
    assert "did you mean 'epochs'" in str(error.value)


scores = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans(), st.booleans()), min_size=1, max_size=10)


@given(scores)
def test_average_precision_in_plain_loops(rows: list[tuple[float, bool, bool]]) -> None:
    found = average_precision(*(np.array(column) for column in zip(*rows, strict=True)))
    kept = [(score, positive) for score, positive, ignored in rows if not ignored]
    positives = sum(positive for _, positive in kept)
    if not positives:
        assert math.isnan(found)
        return
    total, recall_before = 0.0, 0.0
    for threshold in sorted({score for score, _ in kept}, reverse=True):
        chosen = [positive for score, positive in kept if score >= threshold]
        recall = sum(chosen) / positives
        total += (recall - recall_before) * sum(chosen) / len(chosen)
        recall_before = recall
    assert found == pytest.approx(total)


def test_ignored_labels_do_not_count() -> None:
    logits = torch.tensor([[3.0, -50.0]])
    labels, ignore = torch.tensor([[1.0, 1.0]]), torch.tensor([[False, True]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, :1], labels[:, :1])
    torch.testing.assert_close(masked_bce(logits, labels, ignore, None), expected)


def test_augmentation_is_seeded_and_stays_in_range() -> None:
    pixels = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    section = AugmentSection(flip=True, dihedral=True, crop=0.5, colour=0.5)
    first = augmented(pixels, section, np.random.default_rng(4))
    assert torch.equal(first, augmented(pixels, section, np.random.default_rng(4)))
    assert not torch.equal(first, augmented(pixels, section, np.random.default_rng(5)))
    assert first.shape == pixels.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


@pytest.mark.parametrize(("name", "needed"), [("shapes-resnet", 0.97), ("shapes-vit", 0.93)])
def test_bundled_models_are_what_their_cards_say(name: str, needed: float) -> None:
    card = bundled.card(name)
    assert card["mean_average_precision"] >= needed
    assert card["sha256"] == hashlib.sha256(bundled.weights(name).read_bytes()).hexdigest()
    assert card["recipe"] == bundled.recipe(name).model_dump(mode="json")
    data = load_dataset("shapes", split="test", samples=200)
    assert card["data"]["revision"] == data.revision
    classifier = load_classifier(name)
    assert classifier.preprocess is not None
    with classifier.prepared():
        found = evaluate(classifier.module, Examples(data, classifier.preprocess), torch.device("cpu"))
    assert float(np.mean(found)) == pytest.approx(card["mean_average_precision"], abs=0.02)  # 200 of its 1,000 images


def test_a_bundled_model_has_its_own_classes() -> None:
    with pytest.raises(UsageError, match="has 8 classes, not 20"):
        load_classifier("shapes-resnet", num_classes=20)
    with pytest.raises(UsageError, match="unknown bundled model 'shapes-resnt'; did you mean 'shapes-resnet'"):
        bundled.recipe_path("shapes-resnt")
