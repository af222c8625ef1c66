"""`xaibench explain`: the picture, the labels it shows, the table of VGatt's bias, and what it says when it cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import xaibench
from tests.support.console import call
from xaibench.cli import figures
from xaibench.cli.explain import choose_labels, explain_image, forward_of, vgatt_by_depth
from xaibench.cli.figures import Explained
from xaibench.data.preprocess import Preprocess
from xaibench.forward import Forward
from xaibench.models.architectures import create_module
from xaibench.models.structure import stages


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of shapes with two detected labels."""
    path = tmp_path_factory.mktemp("explain") / "shapes.png"
    xaibench.load_dataset("shapes")[4].image.save(path)
    return path


@pytest.fixture(scope="module")
def bundled() -> xaibench.Classifier:
    return xaibench.load_classifier("shapes-resnet")


def small(name: str = "test_resnet", size: int = 64, **options: object) -> xaibench.Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = create_module(name, num_classes=8, **options)
    return xaibench.Classifier(module, name=name, preprocess=Preprocess(size=(size, size)))


def test_the_picture(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    flags = ["--model", "shapes-resnet", "--method", "cam, grad_cam,saliency", "-o", out, "--device", "cpu"]
    assert call(monkeypatch, "explain", picture, *flags) == 0
    assert f"written to {out}" in capsys.readouterr().err
    drawn = np.asarray(Image.open(out).convert("RGBA"))
    assert drawn.shape[1] > 600
    assert (drawn[..., 3] == 255).all()  # opaque: as good on dark pages as on white ones
    margin = np.concatenate([drawn[:8].reshape(-1, 4), drawn[-8:].reshape(-1, 4), drawn[:, :8].reshape(-1, 4)])
    assert (margin == 255).all()


def test_masks_are_those_of_the_metrics(picture: Path, bundled: xaibench.Classifier) -> None:
    explained = explain_image(picture, bundled, ["cam", "input_x_gradient"], [])
    forward, _ = forward_of(picture, bundled)
    pairs = choose_labels(forward, [])[0]
    assert explained.labels == [xaibench.load_dataset("shapes").class_names[label] for label in pairs.label]
    assert explained.confidences == sorted(explained.confidences, reverse=True)
    assert all(0.5 < confidence <= 1 for confidence in explained.confidences)
    for name, masks in explained.masks.items():
        maps = xaibench.explain(bundled, forward.images, pairs, method=name)
        torch.testing.assert_close(masks, xaibench.Evaluation(forward, pairs, maps).mask)


def test_labels_by_name_and_index(picture: Path, bundled: xaibench.Classifier) -> None:
    names = xaibench.load_dataset("shapes").class_names
    explained = explain_image(picture, bundled, ["cam"], [names[3], "1", names[1]])
    assert explained.labels == [names[3], names[1]]
    assert explain_image(picture, small(), ["grad_cam"], ["7"]).labels == ["label 7"]


@pytest.mark.parametrize(
    ("logits", "labels", "note"),
    [
        ([-1.0, -3, -2, -4, -5, -6, -7], [0], "no label is detected"),
        ([1.0, 2, 3, 4, -5, 6, 7], [6, 5, 3, 2, 1], "6 labels are detected; the 5 most probable"),
        ([-1.0, 2, 3, -4, -5, -6, -7], [2, 1], ""),
    ],
)
def test_labels_chosen_when_none_is_named(logits: list[float], labels: list[int], note: str) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(3, 2, 1)
            self.register_buffer("logits", torch.tensor(logits))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.features(x).mean() * 0 + self.logits.expand(len(x), -1)

    pairs, notes = choose_labels(Forward(xaibench.Classifier(Constant()), torch.zeros(1, 3, 4, 4)), [])
    assert pairs.label.tolist() == labels
    assert (note in notes[0]) if note else not notes


def test_an_untrained_model_is_named_so(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", "test_vit", "--num-classes", "3", "--activation", "softmax", "--label", "2"]
    flags += ["--method", "raw_attention"]
    assert call(monkeypatch, "explain", picture, *flags, "--device", "cpu", "-o", tmp_path / "out.svg") == 0
    assert "its weights are random" in capsys.readouterr().err
    assert (tmp_path / "out.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--label", "crss"], "did you mean 'cross'"),
        (["--label", "8"], "unknown label '8'; model shapes-resnet has labels 0..7"),
        (["--method", "cam,grad_kam"], "did you mean 'grad_cam'"),
        (["--method", "raw_attention"], "method raw_attention does not go with shapes-resnet: ResNet has no attention"),
        (["--method", "oracle"], "which an image file lacks"),
        (["--method", "cam", "--layers", "all"], "--layers all goes with --method vgatt"),
        (["--model", "shapes-resnt"], "unknown model"),
        (["-o", "out.xyz"], "a picture's name ends in one of"),
    ],
)
def test_usage_errors(
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "explain", picture, "--model", "shapes-resnet", "--method", "cam", *flags) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place", "sentence"), [("absent/out.png", "there is no directory"), ("folder.png", "is a directory")]
)
def test_a_place_that_cannot_be_written(
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    sentence: str,
) -> None:
    (tmp_path / "folder.png").mkdir()
    flags = ["--model", "shapes-resnet", "--method", "cam", "-o", tmp_path / place]
    assert call(monkeypatch, "explain", picture, *flags) == 4
    assert sentence in capsys.readouterr().err


def test_a_picture_of_another_size_is_squashed(
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bundled: xaibench.Classifier,
) -> None:
    """The bundled models have no resize rule: what they were trained on has their size."""
    photograph = tmp_path / "photo.jpg"
    Image.open(picture).resize((150, 110)).save(photograph, quality=95)
    flags = ["--model", "shapes-resnet", "--method", "cam,minmax_cam", "-o", tmp_path / "out.png", "--device", "cpu"]
    assert call(monkeypatch, "explain", photograph, *flags) == 0
    note = "photo.jpg is 150x110 and was squashed to 96x96: shapes-resnet has no resize rule"
    assert f"note: {note}" in capsys.readouterr().err
    explained = explain_image(photograph, bundled, ["cam"], [])
    assert explained.notes == [note]
    assert explained.masks["cam"].shape[1:] == (96, 96)
    assert explained.labels == explain_image(picture, bundled, ["cam"], []).labels
    shares, notes = vgatt_by_depth(photograph, bundled, ["2"])
    assert shares
    assert notes == [note]


def test_methods_by_glob(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Repeated, with commas and as globs; what a glob chooses in vain is named."""
    drawn: list[list[str]] = []

    def draw(explained: Explained, title: str) -> Any:
        drawn.append(list(explained.masks))
        return figures.new_figure(1, 1)

    monkeypatch.setattr(figures, "draw_grid", draw)
    flags = ["--method", "grad_cam*,cam", "--method", "*_attention", "--method", "cam", "-o", tmp_path / "out.png"]
    assert call(monkeypatch, "explain", picture, "--model", "shapes-resnet", *flags) == 0
    assert drawn == [["grad_cam", "grad_cam_pp", "cam"]]
    assert "need more than a picture: generic_attention, raw_attention" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"no picture", None])
def test_an_unreadable_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    flags = ["--model", "shapes-resnet", "--method", "cam", "-o", tmp_path / "out.png"]
    assert call(monkeypatch, "explain", path, *flags) == 2
    assert f"{path}: cannot be read as an image" in capsys.readouterr().err


def test_without_matplotlib(picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert call(monkeypatch, "explain", picture, "--model", "shapes-resnet", "--method", "cam") == 4
    assert 'pip install "xaibench[figures]"' in capsys.readouterr().err


# -- VGatt by depth ------------------------------------------------------------------------------------------------


def test_vgatt_by_depth(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shares.png"
    flags = ["--model", "shapes-resnet", "--method", "vgatt", "--layers", "all", "-o", out, "--device", "cpu"]
    assert call(monkeypatch, "explain", picture, *flags) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["depth", "layer", "label", "|bias|", "|score|", "ratio"]
    assert lines[1][:2] == ["0", "input"]
    assert lines[-1][1] == "layer4.0"
    for row in lines[1:]:
        assert float(row[5]) == pytest.approx(float(row[3]) / float(row[4]), rel=2e-3)
    assert (np.asarray(Image.open(out).convert("RGBA"))[..., 3] == 255).all()


def test_bias_terms_are_score_less_map(picture: Path, bundled: xaibench.Classifier) -> None:
    shares, _ = vgatt_by_depth(picture, bundled, ["2", "4"])
    images, pairs = forward_of(picture, bundled)[0].images, xaibench.Pairs([0, 0], [2, 4])
    logits = bundled.logits(images)[0, pairs.label]
    for layer in dict.fromkeys(share.layer for share in shares):
        maps = xaibench.explain(bundled, images, pairs, method="vgatt", layer=layer)
        found = torch.tensor([share.bias for share in shares if share.layer == layer])
        torch.testing.assert_close(found, logits - maps.sum((1, 2)), atol=1e-4, rtol=1e-4)
    head = bundled.module.get_submodule(str(bundled.structure.head)).bias
    last = torch.tensor([share.bias for share in shares[-2:]])
    torch.testing.assert_close(last, head[pairs.label].detach(), atol=1e-4, rtol=1e-4)  # all that a pooled head leaves


def cuts(classifier: xaibench.Classifier) -> list[str]:
    return stages(classifier.module, classifier.structure.target_layer, torch.zeros(1, 3, 64, 64))


def test_stages_are_cuts_in_order_of_execution() -> None:
    resnet = small()
    found = cuts(resnet)
    assert found[0] == "input"
    assert found[-4:] == ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]
    assert not {"act1", "maxpool", "fc", "global_pool"} & set(found)
    vit = small("vit_tiny_patch16_224", 64, img_size=64, embed_dim=12, depth=2)
    assert cuts(vit) == ["input", "blocks.0", "blocks.1", "norm"]
    swin = small(
        "swin_tiny_patch4_window7_224", 64, img_size=64, window_size=2, embed_dim=12, depths=(1, 1), num_heads=(1, 2)
    )
    assert cuts(swin) == ["input", "patch_embed", "layers.0", "layers.1", "norm"]
