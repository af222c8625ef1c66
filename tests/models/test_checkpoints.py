"""Stems for other than three channels, made from three-channel weights by a named rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import xaibench
from xaibench.core.errors import UsageError
from xaibench.core.timm_import import import_timm
from xaibench.models import pretrained
from xaibench.models.architectures import create_module
from xaibench.models.checkpoints import load_state, read_checkpoint, state_hash, stem_for
from xaibench.models.classifier import Classifier
from xaibench.models.factory import load_classifier
from xaibench.models.training import read_recipe, train

RULES: dict[str, Any] = {
    "copy_first": lambda w: w[:, 0],
    "mean": lambda w: (w[:, 0] + w[:, 1] + w[:, 2]) / 3,
    "zero": lambda w: torch.zeros_like(w[:, 0]),
}


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three channels and four classes."""
    path = tmp_path_factory.mktemp("weights") / "colour.pth"
    torch.save(create_module("test_resnet", num_classes=4).state_dict(), path)
    return path


CONV = "conv1.0"  # the first of the model's stem


def stem(module: nn.Module) -> Tensor:
    weight = module.get_submodule(CONV).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


@pytest.mark.parametrize("rule", RULES)
def test_a_fourth_channel(colour: Path, rule: Any) -> None:
    stored = torch.load(colour, weights_only=True)
    classifier = load_classifier("test_resnet", num_classes=4, checkpoint=colour, in_chans=4, extra_channels=rule)
    found = stem(classifier.module)
    torch.testing.assert_close(found[:, :3], stored[f"{CONV}.weight"], rtol=0, atol=0)
    torch.testing.assert_close(found[:, 3], RULES[rule](stored[f"{CONV}.weight"]))
    for name, value in classifier.module.state_dict().items():
        assert name == f"{CONV}.weight" or torch.equal(value, stored[name])
    if rule == "zero":  # then the fourth channel changes nothing
        x = torch.randn(2, 4, 64, 64)
        plain = load_classifier("test_resnet", num_classes=4, checkpoint=colour)
        torch.testing.assert_close(classifier.logits(x), plain.logits(x[:, :3]))


@pytest.mark.parametrize("rule", ["copy_first", "mean"])
def test_a_single_channel(colour: Path, rule: Any) -> None:
    classifier = load_classifier("test_resnet", num_classes=4, checkpoint=colour, in_chans=1, extra_channels=rule)
    stored = torch.load(colour, weights_only=True)[f"{CONV}.weight"]
    torch.testing.assert_close(stem(classifier.module)[:, 0], RULES[rule](stored))
    assert classifier.preprocess is not None
    assert len(classifier.preprocess.mean) == len(classifier.preprocess.std) == 1
    assert classifier.inspect(torch.randn(1, 1, 64, 64)).target_layer == "layer4"


def test_six_channels_repeat_the_rule() -> None:
    weight = torch.randn(5, 3, 7, 7)
    found = stem_for(weight, 6, "mean")
    assert found.shape == (5, 6, 7, 7)
    torch.testing.assert_close(found[:, 3:], weight.mean(1, keepdim=True).expand(-1, 3, -1, -1))


def test_a_checkpoint_that_has_the_channels_is_left_alone(tmp_path: Path) -> None:
    module = create_module("test_resnet", num_classes=4, in_chans=4)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    loaded = {
        rule: load_classifier(
            "test_resnet", num_classes=4, checkpoint=tmp_path / "w.pth", in_chans=4, extra_channels=rule
        )
        for rule in ("copy_first", "mean")
    }
    assert {c.weights_hash for c in loaded.values()} == {state_hash(module.state_dict())}
    given = {"mean": [0.1] * 4, "std": [0.2] * 4}
    spelled = load_classifier("test_resnet", num_classes=4, checkpoint=tmp_path / "w.pth", in_chans=4, input=given)
    assert spelled.preprocess is not None
    assert spelled.preprocess.mean == (0.1,) * 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"in_chans": 4}, r"colour\.pth: conv1\.0\.weight takes 3 channels, the model 4; say with extra_channels how"),
        (
            {"in_chans": 1, "extra_channels": "zero"},
            "zero would make a stem of 1 of zeros only; allowed: copy_first",
        ),
        ({"in_chans": 4, "extra_channels": "mean", "num_classes": 5}, "does not fit the model"),
        ({"options": {"in_chans": 4}}, "in_chans is given beside the model's name, not among its options"),
        ({"in_chans": 4, "extra_channels": "mean", "input": {"mean": [0.5] * 5}}, "have 5 values; 4 are needed"),
    ],
)
def test_what_is_refused(colour: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_classifier("test_resnet", **({"num_classes": 4, "checkpoint": colour} | options))


def test_four_channels_do_not_become_three(tmp_path: Path) -> None:
    torch.save(create_module("test_resnet", num_classes=4, in_chans=4).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"does not fit .* of another shape conv1\.0\.weight"):
        load_classifier("test_resnet", num_classes=4, checkpoint=tmp_path / "w.pth", extra_channels="mean")


def test_a_bundled_model_has_its_own_channels() -> None:
    with pytest.raises(UsageError, match="model shapes-resnet takes 3 channels, not 4"):
        load_classifier("shapes-resnet", in_chans=4, extra_channels="mean")
    assert load_classifier("shapes-resnet", in_chans=3).trained


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "resnetv2_50"])
def test_stems_of_other_families(name: str) -> None:
    """Found by shape, not by name: it is the one weight that the number of channels changes."""
    plain, wide = create_module(name, num_classes=2), create_module(name, num_classes=2, in_chans=4)
    before = plain.state_dict()
    assert load_state(wide, before, "weights", extra_channels="copy_first") == []
    (changed,) = [key for key, value in wide.state_dict().items() if value.shape != before[key].shape]
    torch.testing.assert_close(wide.state_dict()[changed][:, 3], before[changed][:, 0])


def test_weights_that_timm_fetches_follow_the_rule_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm itself would repeat and rescale the three channels."""
    plain = create_module("test_resnet")
    timm = import_timm()
    create = timm.create_model

    def fetch(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            assert options.get("in_chans", 3) == 3
            return plain
        module = create(name, **options)
        assert isinstance(module, nn.Module)
        return module

    monkeypatch.setattr(timm, "create_model", fetch)
    monkeypatch.setattr(pretrained, "_check_server", lambda *_: None)
    classifier = load_classifier("test_resnet", pretrained=True, in_chans=4, extra_channels="mean")
    torch.testing.assert_close(stem(classifier.module)[:, 3], stem(plain).mean(1))
    assert classifier.trained
    assert load_classifier("test_resnet", pretrained=True).module is plain


def test_the_bundled_transformer_takes_other_channels_from_scratch() -> None:
    assert create_module("shapes_vit", in_chans=4)(torch.randn(1, 4, 96, 96)).shape == (1, 8)


# -- training -------------------------------------------------------------------------------------------------------

RECIPE = """\
name: stains
dataset: {{name: hpa, train: trainval, evaluate: trainval, options: {{channels: {channels}}}}}
model: {{name: test_resnet, start: {start}{more}}}
input: {{size: 32, resize: squash}}
epochs: 1
batch_size: 2
learning_rate: 1.0e-9
weight_decay: 0
"""


@pytest.fixture
def stains(tmp_path: Path) -> Path:
    folder = tmp_path / "hpa"
    (folder / "train").mkdir(parents=True)
    (folder / "train.csv").write_text("Id,Target\n" + "".join(f"{i},{i}\n" for i in range(4)))
    for i in range(4):
        for level, colour in enumerate(("red", "green", "blue", "yellow")):
            Image.new("L", (32, 32), 50 * i + 10 * level).save(folder / "train" / f"{i}_{colour}.png")
    return folder


def trained(tmp_path: Path, stains: Path, **values: str) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(**values))
    return train(read_recipe(tmp_path / "recipe.yaml"), tmp_path, data_root=stains)


def test_fine_tuning_with_four_channels(tmp_path: Path, stains: Path, colour: Path) -> None:
    more = ", in_chans: 4, extra_channels: copy_first"
    weights = trained(tmp_path, stains, channels="rgby", start=str(colour), more=more)
    stored = torch.load(colour, weights_only=True)[f"{CONV}.weight"]
    options: dict[str, Any] = {"num_classes": 28, "in_chans": 4, "extra_channels": "copy_first"}
    tuned = load_classifier("test_resnet", checkpoint=weights, **options)
    torch.testing.assert_close(stem(tuned.module)[:, 3], stored[:, 0], atol=1e-5, rtol=0)
    card = json.loads((tmp_path / "stains.card.json").read_text())
    assert card["recipe"]["model"]["in_chans"] == 4
    assert card["recipe"]["model"]["extra_channels"] == "copy_first"
    # the checkpoint now has four channels of its own, and the rule says what mean and std were
    assert tuned.preprocess is not None
    assert tuned.preprocess.mean[3] == tuned.preprocess.mean[0]


@pytest.mark.parametrize(
    ("channels", "more", "sentence"),
    [
        ("rgby", "", "model test_resnet takes 3 channels, but the images of hpa have 4"),
        ("rgb", ", in_chans: 4, extra_channels: mean", "takes 4 channels, but the images of hpa have 3"),
        ("rgby", ", in_chans: 4", "3 values, the model takes 4 channels; say with extra_channels"),
        ("rgby", ", in_chans: 4, extra_channels: mean, options: {in_chans: 4}", "beside the model's name"),
    ],
)
def test_recipes_that_do_not_fit(
    tmp_path: Path, stains: Path, colour: Path, channels: str, more: str, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        trained(tmp_path, stains, channels=channels, start=str(colour), more=more)


def test_a_stem_is_never_left_random_in_silence(colour: Path) -> None:
    """Fine-tuning skips a head of another size; a stem of other channels has to be decided."""
    module = create_module("test_resnet", num_classes=9, in_chans=4)
    with pytest.raises(UsageError, match=r"conv1\.0\.weight takes 3 channels, the model 4"):
        load_state(module, read_checkpoint(colour), "weights", skip_different=True)
    left = load_state(module, read_checkpoint(colour), "weights", skip_different=True, extra_channels="mean")
    assert left == ["fc.weight", "fc.bias"]


# -- one module for many entries ------------------------------------------------------------------------------------


def test_hash_is_that_of_the_weights(colour: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = torch.load(colour, weights_only=True)
    save_file(state, tmp_path / "w.safetensors")
    assert state_hash(read_checkpoint(tmp_path / "w.safetensors")) == state_hash(state)
    module = create_module("test_resnet", num_classes=4)
    module.load_state_dict(state)
    assert Classifier(module).weights_hash == state_hash(state)
    state["fc.bias"] = state["fc.bias"] + 1
    assert state_hash(state) != Classifier(module).weights_hash


def test_public_api_still_takes_any_module() -> None:
    module = create_module("test_resnet", num_classes=4, in_chans=5)
    maps = xaibench.explain(Classifier(module), torch.randn(1, 5, 64, 64), xaibench.Pairs([0], [2]), method="grad_cam")
    assert maps.shape[0] == 1
