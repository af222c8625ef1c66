"""Training learns, repeats itself, and leaves a card; average precision against plain loops."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from xaibench.cli import figures
from xaibench.core.errors import UsageError
from xaibench.core.yaml.document import ProblemsError
from xaibench.data import load_dataset
from xaibench.models import bundled
from xaibench.models.factory import load_classifier
from xaibench.models.structure import evaluation_mode
from xaibench.models.training import (
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
from xaibench.models.training.quality import quality

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
    assert set(card["average_precision"]) == set(card["f2"]) == set(load_dataset("shapes").class_names)
    log = pd.read_csv(tmp_path / "a" / "small.log.csv")
    assert list(log.epoch) == [1, 2, 3]
    assert list(log.step) == [3, 6, 9]
    assert log.mAP.iloc[-1] == pytest.approx(card["mean_average_precision"], abs=1e-5)
    assert not (tmp_path / "a" / "small.state.pt").exists()
    load_classifier("test_resnet", num_classes=8, checkpoint=first)
    assert first.stat().st_mode == (tmp_path / "a" / "small.card.json").stat().st_mode  # as the umask says


def test_fine_tuning_starts_from_a_checkpoint(tmp_path: Path) -> None:
    start = train(recipe(tmp_path, RECIPE.replace("epochs: 3", "epochs: 1")), tmp_path)
    text = RECIPE.replace("{name: test_resnet}", f"{{name: test_resnet, start: {start}}}")
    text = text.replace("epochs: 3", "epochs: 1\nlearning_rate: 1.0e-9").replace("name: small", "name: tuned")
    tuned = train(recipe(tmp_path, text), tmp_path)
    options = {"num_classes": 8}
    before, after = (load_classifier("test_resnet", checkpoint=p, **options).module for p in (start, tuned))  # type: ignore[arg-type]
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights of the recipe as it stands."""
    folder = tmp_path_factory.mktemp("plain")
    return train(recipe(folder), folder).read_bytes()


VARIANTS = {
    "sgd": "optimiser: sgd\nlearning_rate: 0.05",
    "one_cycle": "schedule: one_cycle",
    "ema": "ema: 0.9",
    "accumulate": "accumulate: 2\nbatch_size: 8",
    "kur": "kur: {alpha: 2.0}",
    "class weights": "positive_weight: [1, 2, 3, 4, 5, 6, 7, 8]",
}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_every_option_changes_what_is_learnt_and_still_learns(tmp_path: Path, plain: bytes, change: str) -> None:
    """... and a training that is cut off after its second epoch ends with the very same weights."""
    kept = [line for line in RECIPE.splitlines() if line.split(":")[0] not in change]
    chosen = recipe(tmp_path, "\n".join([*kept, change]))
    epochs: list[Epoch] = []
    whole = train(chosen, tmp_path / "whole", on_epoch=epochs.append)
    assert epochs[-1].loss < epochs[0].loss

    class Cut(Exception):
        pass

    def cut(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Cut

    with pytest.raises(Cut):
        train(chosen, tmp_path / "cut", on_epoch=cut)
    rest: list[Epoch] = []
    resumed = train(chosen, tmp_path / "cut", on_epoch=rest.append)
    assert [epoch.number for epoch in rest] == [3]
    assert resumed.read_bytes() == whole.read_bytes()
    logs = [pd.read_csv(tmp_path / out / "small.log.csv").drop(columns="seconds") for out in ("whole", "cut")]
    pd.testing.assert_frame_equal(*logs)
    assert plain != whole.read_bytes()


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, plain: bytes) -> None:
    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(tmp_path), tmp_path, on_epoch=stop)
    epochs: list[Epoch] = []
    assert train(recipe(tmp_path), tmp_path, on_epoch=epochs.append).read_bytes() == plain
    assert [epoch.number for epoch in epochs] == [2, 3]


@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    """SIGKILL after the first state is written; the second training begins where that state ends."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("epochs: 3", "epochs: 40"))
    command = [sys.executable, "-m", "xaibench", "train", str(path), "--out", str(tmp_path), "--device", "cpu"]
    state, log = tmp_path / "small.state.pt", tmp_path / "small.log.csv"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not state.is_file() and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert state.is_file()
    reached = len(pd.read_csv(log))
    assert 1 <= reached < 40
    epochs: list[Epoch] = []
    train(read_recipe(path), tmp_path, on_epoch=epochs.append)
    # the log is written before the state: what was killed between the two is done again
    assert epochs[0].number in (reached, reached + 1)
    rows = pd.read_csv(log)
    assert list(rows.epoch) == list(range(1, 41))
    assert list(rows.step) == [3 * number for number in range(1, 41)]


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(tmp_path), tmp_path, on_epoch=stop)
    with pytest.raises(UsageError, match="other values of learning_rate; remove it"):
        train(recipe(tmp_path, RECIPE + "learning_rate: 0.1\n"), tmp_path)


def test_batches_added_up_are_one_large_batch(tmp_path: Path) -> None:
    """Two batches of 8 give the weights of one batch of 16, in a model without batch normalisation."""
    text = RECIPE.replace("test_resnet", "test_vit, options: {img_size: 48}").replace("epochs: 3", "epochs: 1")
    small = train(recipe(tmp_path, text.replace("batch_size: 16", "batch_size: 8\naccumulate: 2")), tmp_path / "small")
    large = train(recipe(tmp_path, text), tmp_path / "large")
    left, right = (load_file(path) for path in (small, large))
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("positive_weight: [1, 2]", "positive_weight has 2 values, shapes has 8 classes"),
        ("batch_size: 64", "48 training images make no step of 64 x 1"),
    ],
)
def test_what_does_not_go_together_is_said_before_training(tmp_path: Path, change: str, sentence: str) -> None:
    kept = [line for line in RECIPE.splitlines() if line.split(":")[0] not in change]
    with pytest.raises(UsageError, match=sentence):
        train(recipe(tmp_path, "\n".join([*kept, change])), tmp_path)


def test_curves_are_drawn(tmp_path: Path) -> None:
    train(recipe(tmp_path, RECIPE.replace("epochs: 3", "epochs: 2")), tmp_path)
    figure = figures.draw_curves(tmp_path / "small.log.csv")
    loss, scores = figure.axes
    log = pd.read_csv(tmp_path / "small.log.csv")
    assert [line.get_label() for line in scores.lines] == ["mAP", "F1", "F2"]
    for line, column in ((loss.lines[0], "loss"), *zip(scores.lines, ("mAP", "F1", "F2"), strict=True)):
        np.testing.assert_array_equal(line.get_xdata(), log.step)
        np.testing.assert_array_equal(line.get_ydata(), log[column])
    figures.save(figure, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        assert image.size[0] > 600


def test_mistakes_in_a_recipe_are_located(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError) as error:
        recipe(tmp_path, RECIPE.replace("epochs: 3", "epoch: 3").replace("size: 48", "siez: 48"))
    assert [problem.position.line for problem in error.value.problems] == [5, 5, 7]
    assert "did you mean 'epochs'" in str(error.value)
    with pytest.raises(
        ProblemsError, match=r"recipe\.yaml:1:1: the file is empty; a mapping of keys to values is needed"
    ):
        recipe(tmp_path, "# nothing but a comment\n")
    with pytest.raises(ProblemsError, match="seed: at least 0 is needed; found -1"):
        recipe(tmp_path, RECIPE.replace("seed: 3", "seed: -1"))


scores = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans(), st.booleans()), min_size=1, max_size=10
)


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


@given(scores)
def test_f_scores_and_best_thresholds_in_plain_loops(rows: list[tuple[float, bool, bool]]) -> None:
    p, y = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = quality(p[:, None], y[:, None], np.zeros((len(rows), 1), bool))

    def f(beta: float, detected: list[bool]) -> float:
        pairs = list(zip(detected, y, strict=True))
        tp, fp, fn = (sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True)))
        return (1 + beta**2) * tp / ((1 + beta**2) * tp + beta**2 * fn + fp)

    if not y.any():
        assert math.isnan(found.f1[0])
        assert math.isnan(found.best_threshold[0])
        return
    assert found.f1[0] == pytest.approx(f(1, [score > 0.5 for score in p]))
    assert found.f2[0] == pytest.approx(f(2, [score > 0.5 for score in p]))
    by_threshold = {t: f(1, [score >= t for score in p]) for t in sorted(set(p), reverse=True)}
    assert found.best_f1[0] == pytest.approx(max(by_threshold.values()))
    assert by_threshold[found.best_threshold[0]] == pytest.approx(max(by_threshold.values()))
    assert found.best_f2[0] == pytest.approx(f(2, [score >= found.best_threshold[0] for score in p]))


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


@pytest.mark.parametrize(
    ("name", "needed"), [("shapes-resnet", 0.97), ("shapes-resnet-kur", 0.97), ("shapes-vit", 0.93)]
)
def test_bundled_models_are_what_their_cards_say(name: str, needed: float) -> None:
    card = bundled.facts(name)
    assert card["mean_average_precision"] >= needed
    assert card["sha256"] == hashlib.sha256(bundled.weights(name).read_bytes()).hexdigest()
    assert Recipe.model_validate(card["recipe"]) == read_recipe(bundled.recipe_path(name))
    data = load_dataset("shapes", split="test", samples=200)
    assert card["data"]["revision"] == data.revision
    classifier = load_classifier(name)
    assert classifier.preprocess is not None
    with evaluation_mode(classifier.module):
        found = evaluate(classifier.module, Examples(data, classifier.preprocess), torch.device("cpu"))
    assert found.mean("average_precision") == pytest.approx(
        card["mean_average_precision"], abs=0.02
    )  # 200 of its 1,000 images


def test_a_bundled_model_has_its_own_classes() -> None:
    with pytest.raises(UsageError, match="has 8 classes, not 20"):
        load_classifier("shapes-resnet", num_classes=20)
    with pytest.raises(UsageError, match="unknown bundled model 'shapes-resnt'; did you mean 'shapes-resnet'"):
        bundled.recipe_path("shapes-resnt")
