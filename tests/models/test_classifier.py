"""The parts found in a model (target layer, linear head, attention), and the files and names that loading refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import xaibench
from xaibench.core.errors import IncompatibleError, MissingError, UsageError
from xaibench.data.preprocess import Preprocess
from xaibench.models.architectures import create_module
from xaibench.models.capabilities import offers
from xaibench.models.checkpoints import read_checkpoint
from xaibench.models.classifier import Classifier
from xaibench.models.factory import load_classifier
from xaibench.models.structure import evaluation_mode

QUICK = [
    ("resnet18", "layer4", True),
    ("test_resnet", "layer4", True),
    ("test_efficientnet", None, True),
    ("test_convnext", None, False),
    ("test_vit", "blocks.5.norm1", False),
]
SLOW = [
    ("resnet50", "layer4", True),
    ("wide_resnet50_2", "layer4", True),
    ("vgg11_bn", None, False),
    ("densenet121", None, True),
    ("efficientnet_b0", None, True),
    ("convnext_atto", None, False),
    ("regnety_002", None, True),
    ("mobilenetv3_small_100", None, False),
    ("vit_tiny_patch16_224", "blocks.11.norm1", False),
    ("deit_tiny_distilled_patch16_224", "blocks.11.norm1", False),
    ("swin_tiny_patch4_window7_224", None, True),
]


def look(name: str, last: str | None, linear: bool) -> None:
    size = 224 if "224" in name else 160 if name == "test_vit" else 64
    module = create_module(name, num_classes=5)
    classifier = Classifier(module, name=name)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    structure = classifier.inspect(x)
    forward = xaibench.Forward(classifier, x)
    features = forward.features("last")
    assert features.ndim == 4
    if last is not None:
        assert structure.target_layer == last
    assert ("linear_head" in offers(classifier)) == linear
    if linear:
        head = module.get_submodule(str(structure.head))
        predicted = features.mean((2, 3)) @ classifier.head_weight.T + head.bias.detach()
        torch.testing.assert_close(predicted, forward.logits, rtol=1e-3, atol=1e-4)
    pairs = xaibench.Pairs([0, 1], [0, 4])
    assert forward.gradients(pairs, "last").shape[1:] == features.shape[1:]
    assert forward.gradients(pairs, "last").abs().max() > 0


@pytest.mark.parametrize(("name", "last", "linear"), QUICK)
def test_structure(name: str, last: str | None, linear: bool) -> None:
    look(name, last, linear)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "last", "linear"), SLOW)
def test_structure_of_the_zoo(name: str, last: str | None, linear: bool) -> None:
    look(name, last, linear)


def test_a_named_layer_wins() -> None:
    classifier = Classifier(create_module("test_resnet", num_classes=4), layer="layer2")
    x = torch.randn(1, 3, 64, 64)
    assert classifier.inspect(x).target_layer == "layer2"
    assert classifier.inspect(x).head is None  # logits are not linear in layer2


def test_another_module_under_the_same_settings() -> None:
    first, second = create_module("test_resnet", num_classes=4), create_module("test_resnet", num_classes=4)
    classifier = Classifier(
        first, activation="softmax", layer="layer2", threshold=0.2, preprocess=Preprocess((64, 64)), name="a"
    )
    classifier.chunk = 5
    other = classifier.with_module(second, name="b")
    assert other.module is second
    assert other.inspect(torch.randn(1, 3, 64, 64)).target_layer == "layer2"
    assert (other.activation, other.threshold, other.preprocess) == ("softmax", 0.2, classifier.preprocess)
    assert (other.name, other.trained, other.chunk) == ("b", False, 5)
    assert classifier.with_module(second, trained=True).trained


def test_evaluation_mode_is_left_as_it_was_found() -> None:
    module = create_module("test_resnet", num_classes=4).train()
    module.get_submodule("layer1").eval()
    module.get_submodule("conv1").requires_grad_(False)
    modes = [m.training for m in module.modules()]
    frozen = [p.requires_grad for p in module.parameters()]
    with contextlib.suppress(KeyError), evaluation_mode(module):
        assert not any(m.training for m in module.modules())
        assert not any(p.requires_grad for p in module.parameters())
        raise KeyError
    assert modes == [m.training for m in module.modules()]
    assert frozen == [p.requires_grad for p in module.parameters()]


def test_a_model_without_a_grid_is_named() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(UsageError, match="model flat: no layer with a spatial grid was found; name one with layer="):
        Classifier(flat, name="flat").inspect(torch.randn(1, 3, 2, 2))


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="did you mean 'layer4'"):
        Classifier(create_module("test_resnet"), layer="layer5")


def test_softmax_and_threshold() -> None:
    classifier = Classifier(create_module("test_resnet", num_classes=4), activation="softmax", threshold=0.25)
    x = torch.randn(3, 3, 64, 64)
    forward = xaibench.Forward(classifier, x)
    torch.testing.assert_close(forward.probabilities.sum(1), torch.ones(3))
    assert torch.equal(forward.detected, forward.probabilities > 0.25)


def test_swin_refuses_attention_and_says_why() -> None:
    classifier = Classifier(create_module("swin_tiny_patch4_window7_224", num_classes=3), name="swin")
    with pytest.raises(IncompatibleError, match="SwinTransformer has no attention over one fixed set"):
        _ = classifier.attention


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_checkpoints_round_trip(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    module = create_module("test_resnet", num_classes=4)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(module.state_dict(), path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, path)
    loaded = load_classifier("test_resnet", num_classes=4, checkpoint=path, seed=9)
    assert loaded.weights_hash == Classifier(module).weights_hash
    assert loaded.trained
    assert not load_classifier("test_resnet", num_classes=4).trained


def test_a_pickle_with_code_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save(create_module("test_resnet", num_classes=2), path)  # a whole module needs its classes
    with pytest.raises(UsageError, match="not a plain state dict"):
        read_checkpoint(path)


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(create_module("test_resnet", num_classes=4).state_dict(), path)
    with pytest.raises(UsageError, match="does not fit the model"):
        load_classifier("test_resnet", num_classes=5, checkpoint=path)
    with pytest.raises(MissingError, match="no such file"):
        load_classifier("test_resnet", checkpoint=tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        (
            lambda name, value: (f"model.{name}", value),
            "the names of its weights begin with 'model.'; save them without",
        ),
        (lambda name, value: (f"net.body.{name}", value), "begin with 'net.body.'"),
        (
            lambda name, value: (name, value[:3] if name.startswith("fc.") else value),
            "it has 3 classes, not 4; all else fits",
        ),
        (lambda name, value: (name, value[:1] if value.ndim else value), r"0 missing|missing conv1"),
    ],
)
def test_why_a_checkpoint_does_not_fit(
    tmp_path: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]], clause: str
) -> None:
    stored = create_module("test_resnet", num_classes=4).state_dict()
    path = tmp_path / "w.pth"
    torch.save(dict(change(name, value) for name, value in stored.items()) | {"loss.scale": torch.ones(1)}, path)
    if "classes" in clause:
        torch.save(dict(change(name, value) for name, value in stored.items()), path)
    with pytest.raises(UsageError, match=f"w.pth does not fit the model: .*{clause}"):
        load_classifier("test_resnet", num_classes=4, checkpoint=path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_that_hold_no_weights(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    with pytest.raises(MissingError, match="no such file"):
        read_checkpoint(path)
    path.write_bytes(b"junk" * 100)
    with pytest.raises(UsageError, match=f"checkpoint {path}: not a"):
        read_checkpoint(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(MissingError, match=f"checkpoint {path}: is not a file; give the file of the weights"):
        read_checkpoint(path)
    path.rmdir()
    path.symlink_to("/dev/zero")
    with pytest.raises(MissingError, match="is not a file"):
        read_checkpoint(path)


def test_unknown_models_and_options() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        load_classifier("resnet5O")
    with pytest.raises(UsageError, match="does not take these options"):
        load_classifier("test_resnet", options={"no_such_option": 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_resnet", {"layers": [1]}, "does not take these options: .*ZeroDivisionError: float division by zero"),
        ("test_resnet", {"block": 3}, "AttributeError: 'int' object has no attribute"),
        ("test_resnet", {"act_layer": "nonsense"}, "KeyError: 'nonsense'"),
        ("test_vit", {"embed_dim": 10**9}, "RuntimeError"),
        ("shapes_vit", {"nonsense": 1}, "TypeError: .* an unexpected keyword argument 'nonsense'"),
        ("shapes_vit", {"num_heads": 5}, "AssertionError"),
        ("test_resnet", {"name": "x"}, "name is given beside the model's name, not among its options"),
        ("test_resnet", {"pretrained": True}, "pretrained is given beside"),
        ("test_resnet", {"extra_channels": "mean"}, "extra_channels is given beside"),
        ("test_resnet", {"num_classes": 3}, "num_classes is given beside"),
        ("test_resnet", {"checkpoint_path": "w.pth"}, "checkpoint_path is not allowed; give checkpoint beside"),
    ],
)
def test_options_that_break_a_constructor(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_classifier(name, options=options)
    assert "\n" not in str(error.value)
    assert error.value.key == "options"


@pytest.mark.parametrize(
    ("name", "options", "size", "message"),
    [
        ("resnet18", {"layers": []}, 64, "AttributeError: 'ResNet' object has no attribute 'layer1'"),
        ("test_resnet", {"drop_rate": 7}, 64, "ValueError: dropout probability"),
        ("test_vit", {"dynamic_img_size": False}, 64, r"AssertionError: Input height \(64\) doesn't match model"),
    ],
)
def test_options_that_break_the_pass(name: str, options: dict[str, object], size: int, message: str) -> None:
    classifier = load_classifier(name, options=options)
    with pytest.raises(UsageError, match=rf"model {name} does not take images \[3, 64, 64\] \({message}"):
        classifier.inspect(torch.randn(1, 3, size, size))


def test_running_out_of_memory_is_no_mistake_of_the_user() -> None:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        Classifier(Large()).inspect(torch.randn(1, 3, 8, 8))


def test_untrained_weights_are_the_same_in_every_process() -> None:
    state = torch.random.get_rng_state()
    first, second = load_classifier("test_resnet", seed=4), load_classifier("test_resnet", seed=4)
    assert first.weights_hash == second.weights_hash != load_classifier("test_resnet", seed=5).weights_hash
    assert torch.equal(state, torch.random.get_rng_state())


def test_logits_in_chunks_are_the_same() -> None:
    classifier = Classifier(create_module("test_resnet", num_classes=4))
    x = torch.randn(7, 3, 64, 64)
    whole = classifier.logits(x)
    classifier.chunk = 3
    np.testing.assert_allclose(classifier.logits(x).numpy(), whole.numpy(), atol=1e-5)


def test_out_of_memory_halves_the_chunk() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Conv2d(3, 4, 1)
            self.sizes: list[int] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 2:
                raise torch.OutOfMemoryError("too much")
            self.sizes.append(len(x))
            return self.fc(x).mean((2, 3))

    module = Small()
    assert Classifier(module).logits(torch.randn(7, 3, 8, 8)).shape == (7, 4)
    assert max(module.sizes) == 2
    assert sum(module.sizes) == 7
