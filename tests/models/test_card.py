"""Class names and input travel with weights: what is written, what is taken from them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import xaibench
from tests.support.console import SUITE, call
from xaibench.cli import figures
from xaibench.cli.figures import Explained
from xaibench.core.errors import UsageError
from xaibench.data.preprocess import Preprocess
from xaibench.models import bundled
from xaibench.models.architectures import create_module
from xaibench.models.card import KEY, Card, InputSection
from xaibench.models.checkpoints import read_card, state_hash
from xaibench.models.factory import load_classifier
from xaibench.models.training import read_recipe, train
from xaibench.models.training.result import write_weights

pytestmark = pytest.mark.usefixtures("empty_folder")

CLASSES = xaibench.load_dataset("shapes").class_names
SWAPPED = (CLASSES[1], CLASSES[0], *CLASSES[2:])
OTHER = (*CLASSES[:3], "moon", *CLASSES[4:])
INPUT = InputSection(size=48, resize="squash", mean=(0.5, 0.4, 0.3), std=(0.5, 0.5, 0.5))

RECIPE = """\
name: small
dataset: {name: shapes, train: val, evaluate: test, options: {samples: 16}}
model: {name: test_resnet}
input: {size: 48, resize: squash, mean: [0.5, 0.4, 0.3], std: [0.5, 0.5, 0.5]}
epochs: 1
batch_size: 8
"""


def weights(folder: Path, classes: tuple[str, ...], *, count: int = 8, suffix: str = ".safetensors") -> Path:
    """A checkpoint with the class names in its metadata or, as a torch file, in a card beside it."""
    module, card = create_module("test_resnet", num_classes=count), Card(classes=classes, input=INPUT)
    path = folder / f"mine{suffix}"
    if suffix == ".safetensors":
        write_weights(path, module, card)
    else:
        torch.save(module.state_dict(), path)
        path.with_suffix(".card.json").write_text(card.model_dump_json(exclude_none=True))
    return path


# -- what is written --------------------------------------------------------------------------------------------------


def test_training_writes_what_the_weights_are_for(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    path = train(read_recipe(tmp_path / "recipe.yaml"), tmp_path)
    with safe_open(path, framework="pt") as file:
        stored = json.loads(file.metadata()[KEY])
    data = xaibench.load_dataset("shapes", split="test", samples=16)
    assert stored == {
        "name": "small",
        "architecture": "test_resnet",
        "options": {},
        "input": {
            "size": [48, 48],
            "resize": "squash",
            "mean": [0.5, 0.4, 0.3],
            "std": [0.5, 0.5, 0.5],
            "crop": 0.875,
            "interpolation": "bilinear",
        },
        "classes": list(CLASSES),
        "data": {"name": "shapes", "revision": data.revision},
    }
    beside = json.loads((tmp_path / "small.card.json").read_text())
    assert {key: beside[key] for key in stored if key != "data"} | {"data": stored["data"]} == stored
    assert beside["data"].items() >= stored["data"].items()
    classifier = load_classifier("test_resnet", checkpoint=path)
    assert classifier.class_names == CLASSES
    assert classifier.preprocess == Preprocess((48, 48), "squash", (0.5, 0.4, 0.3), (0.5, 0.5, 0.5))
    assert classifier.structure.labels == 8


@pytest.mark.parametrize("name", bundled.names())
def test_bundled_weights_carry_their_card(name: str) -> None:
    card = bundled.card(name)
    assert read_card(bundled.weights(name)) == card
    assert card.name == name
    assert card.classes == CLASSES
    recipe = read_recipe(bundled.recipe_path(name))
    assert (card.architecture, card.options) == (recipe.model.name, recipe.model.options)
    assert card.input.over(Preprocess((1, 1))) == recipe.input.preprocess()
    classifier = load_classifier(name)
    assert classifier.class_names == CLASSES
    assert classifier.weights_hash == state_hash(load_file(bundled.weights(name)))


def test_a_bundled_model_has_its_own_options() -> None:
    with pytest.raises(UsageError, match="model shapes-resnet is bundled and has its own options; remove options"):
        load_classifier("shapes-resnet", options={"output_stride": 32})


def test_a_bundled_architecture_with_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    card = bundled.card("shapes-resnet")
    module = create_module(card.architecture, num_classes=3, **card.options)
    path = tmp_path / "mine.safetensors"
    write_weights(path, module, Card(architecture="shapes_vit", classes=("a", "b", "c"), input=INPUT))
    classifier = load_classifier("shapes-resnet", checkpoint=path)
    assert classifier.weights_hash == state_hash(module.state_dict())
    assert classifier.class_names == ("a", "b", "c")
    assert classifier.preprocess == INPUT.over(Preprocess((1, 1)))
    write_weights(path, create_module(card.architecture, num_classes=8), Card())
    other = load_classifier("shapes-resnet", checkpoint=path)
    assert (other.class_names, other.preprocess) == (CLASSES, load_classifier("shapes-resnet").preprocess)


# -- what is taken from a checkpoint ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_input_and_names_come_from_the_file(tmp_path: Path, suffix: str) -> None:
    path = weights(tmp_path, SWAPPED, suffix=suffix)
    classifier = load_classifier("test_resnet", checkpoint=path)
    assert classifier.class_names == SWAPPED
    assert classifier.preprocess is not None
    assert (classifier.preprocess.size, classifier.preprocess.mean) == ((48, 48), (0.5, 0.4, 0.3))
    other = load_classifier("test_resnet", checkpoint=path, input={"size": [32, 40], "crop": 1.0})
    assert other.preprocess is not None
    assert (other.preprocess.size, other.preprocess.resize, other.preprocess.crop) == ((32, 40), "squash", 1.0)


def test_a_checkpoint_without_a_card_is_as_before(tmp_path: Path) -> None:
    save_file(create_module("test_resnet", num_classes=8).state_dict(), tmp_path / "w.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors", metadata={"classes": "1000", "format": "pt"})
    for name in ("w", "foreign"):
        assert read_card(tmp_path / f"{name}.safetensors") == Card()
    classifier = load_classifier("test_resnet", num_classes=8, checkpoint=tmp_path / "w.safetensors")
    assert classifier.class_names == ()
    assert classifier.preprocess is not None
    assert classifier.preprocess.size == (160, 160)  # timm's
    named = load_classifier("test_resnet", class_names=CLASSES, checkpoint=tmp_path / "w.safetensors")
    assert named.class_names == CLASSES


def test_the_metadata_of_the_file_comes_first(tmp_path: Path) -> None:
    path = weights(tmp_path, CLASSES)
    path.with_suffix(".card.json").write_text(Card(classes=SWAPPED).model_dump_json())
    assert read_card(path).classes == CLASSES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"mine\.card\.json: not JSON \(.*\); correct it or remove it"),
        ('{"classes": [1, 2]}', r"mine\.card\.json: classes: text is needed; found 1; correct it"),
        ('{"input": {"size": 0}}', r"mine\.card\.json: input: at least 1 is needed"),
        ("[]", r"mine\.card\.json: .*; found \[\]; correct it"),
    ],
)
def test_a_damaged_card(tmp_path: Path, text: str, message: str) -> None:
    path = weights(tmp_path, CLASSES, suffix=".pth")
    path.with_suffix(".card.json").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        load_classifier("test_resnet", checkpoint=path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"siez": 4}, "input: unknown key 'siez'; did you mean 'size'?"),
        ({"size": -3}, "input: size: at least 1 is needed; found -3"),
        ({"size": 48, "std": [0, 1, 1]}, "input: std: more than 0 is needed"),
        ({"resize": "stretch"}, "input: resize: allowed: 'squash', "),
    ],
)
def test_mistakes_in_input(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        load_classifier("test_resnet", input=given)


# -- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "validate"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("classes", "count", "message"),
    [
        (SWAPPED, 8, "the same classes in another order: label 0 is 'square', not 'circle'; choose weights that"),
        (OTHER, 8, "other classes than those of the data: label 3 is 'moon', not 'star'; choose weights that were"),
        (CLASSES[:5], 5, "other classes than those of the data: it has 5 labels, not 8; choose weights that were"),
    ],
)
def test_a_suite_refuses_weights_of_other_classes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    classes: tuple[str, ...],
    count: int,
    message: str,
    suffix: str,
    verb: str,
) -> None:
    path = weights(tmp_path, classes, count=count, suffix=suffix)
    suite = tmp_path / "tiny.yaml"
    suite.write_text(SUITE.replace("test_resnet,", f"test_resnet, checkpoint: {path.name},"))
    monkeypatch.chdir(tmp_path)  # `run` makes its folder in the current one
    assert call(monkeypatch, verb, suite) == {"run": 2, "validate": 1}[verb]
    captured = capsys.readouterr()
    assert f"{suite}:3:42: checkpoint {path} was trained on {message}" in captured.out + captured.err


@pytest.mark.parametrize("classes", [CLASSES, ()])
def test_a_suite_takes_weights_of_its_classes_or_without_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: tuple[str, ...]
) -> None:
    path = weights(tmp_path, classes)
    text = SUITE.replace("test_resnet,", f"test_resnet, checkpoint: {path.name},").replace(", raw_attention", "")
    (tmp_path / "tiny.yaml").write_text(text)
    assert call(monkeypatch, "validate", tmp_path / "tiny.yaml") == 0


def test_names_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="num_classes is 4, but there are 8 class names; give one of the two"):
        load_classifier("test_resnet", num_classes=4, class_names=CLASSES)
    classifier = xaibench.Classifier(create_module("test_resnet", num_classes=4), class_names=CLASSES, name="mine")
    with pytest.raises(UsageError, match="model mine has 4 labels, but 8 class names"):
        classifier.inspect(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("classes", "count", "message"),
    [
        (SWAPPED, 8, "same classes in another order: label 0 is 'square', not 'circle'"),
        (OTHER, 8, "other classes than those of the data: label 3 is 'moon', not 'star'"),
        (CLASSES[:5], 5, None),  # the head is left out
        (CLASSES, 8, None),
        ((), 8, None),
    ],
)
def test_training_starts_from_a_head_of_its_own_classes(
    tmp_path: Path, classes: tuple[str, ...], count: int, message: str | None
) -> None:
    start = weights(tmp_path, classes, count=count)
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.replace("{name: test_resnet}", f"{{name: test_resnet, start: {start}}}")
    )
    recipe = read_recipe(tmp_path / "recipe.yaml")
    if message is None:
        assert train(recipe, tmp_path).is_file()
        return
    with pytest.raises(UsageError, match=f"checkpoint {start} was trained on .*{message}"):
        train(recipe, tmp_path)


def test_a_start_goes_into_a_part_of_the_model(tmp_path: Path) -> None:
    """... without its head, whose classes do not matter then."""
    start = weights(tmp_path, SWAPPED)
    text = RECIPE.replace("{name: test_resnet}", f"{{name: shapes_vit, start: {start}, into: patch_embed.backbone}}")
    (tmp_path / "recipe.yaml").write_text(text.replace("size: 48", "size: 96"))
    assert train(read_recipe(tmp_path / "recipe.yaml"), tmp_path).is_file()
    (tmp_path / "recipe.yaml").write_text(text.replace("patch_embed.backbone", "patch_embed.backbon"))
    with pytest.raises(
        UsageError, match=r"unknown part of the model 'patch_embed.backbon'; did you mean 'patch_embed.b"
    ):
        train(read_recipe(tmp_path / "recipe.yaml"), tmp_path)


# -- explain ------------------------------------------------------------------------------------------------------------


def test_explain_takes_size_and_names_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = weights(tmp_path, SWAPPED), tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(picture)
    drawn: list[Explained] = []

    def draw(explained: Explained, title: str) -> Any:
        drawn.append(explained)
        return figures.new_figure(1, 1)

    monkeypatch.setattr(figures, "draw_grid", draw)
    flags = ["--model", "test_resnet", "--checkpoint", path, "--method", "cam", "-o", tmp_path / "out.png"]
    assert call(monkeypatch, "explain", picture, *flags, "--label", CLASSES[0], "--label", "5") == 0
    assert drawn[0].labels == [CLASSES[0], CLASSES[5]]
    assert drawn[0].picture.shape == (48, 48, 3)
    classifier = load_classifier("test_resnet", checkpoint=path)
    assert drawn[0].confidences[0] == pytest.approx(confidence(classifier, picture, label=1))  # SWAPPED
    assert call(monkeypatch, "explain", picture, *flags, "--num-classes", "5") == 2
    assert "does not fit the model: it has 8 classes, not 5" in capsys.readouterr().err


def confidence(classifier: xaibench.Classifier, picture: Path, label: int) -> float:
    assert classifier.preprocess is not None
    with Image.open(picture) as image:
        return float(classifier.probabilities(classifier.preprocess.image(image)[None])[0, label])
