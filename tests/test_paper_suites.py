"""The papers' suites: headers, layers, and a small random model through each, on VOC trees of our own and on samples."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import xaibench
from tests.support.bibliography import BIBLIOGRAPHY, KEY
from tests.support.trees import OBJECTS, SIZE, drawn, palette_image, write_tree
from xaibench.cli.app import main
from xaibench.models.architectures import create_module
from xaibench.runner.run_directory import Run
from xaibench.suite import load_suite, shipped_suites

SHIPPED = shipped_suites()
PAPERS = sorted(set(SHIPPED) - {"shapes", "shapes-full", "voc12"})
VOC = [name for name in PAPERS if name.startswith("vgatt") or "voc" in name]
REAL = os.environ.get("XAIBENCH_SAMPLE_DATA")

CNN = ["name=test_resnet", "input.size=48"]
# the VGG's layers, by what stands at their depth in the small network
LAYERS = {
    "features.35": "layer3", "features.26": "layer2", "features.17": "layer1", "features.8": "conv1", "features.3": "conv1",
}  # fmt: skip
VIT = ["name=test_vit", "input.size=48", "options={img_size: 48, dynamic_img_size: false}"]

papers = pytest.mark.parametrize("name", PAPERS)
# of two or three samples hardly any is held out
EVERY_SAMPLE = {name: ["dataset.split=trainval"] for name in ("minmax-cam-hpa", "minmax-cam-planet")}
sampled = pytest.mark.parametrize("name", sorted(set(PAPERS) - {"transformer-perturbation"}))  # no sample of ImageNet


def raw(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load(SHIPPED[name].read_text())
    assert isinstance(loaded, dict)
    return loaded


def header(name: str) -> str:
    lines = SHIPPED[name].read_text().split("\n")
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def small(name: str) -> list[str]:
    """Overrides that put small random networks in place of the suite's models, each its own family."""
    changes = []
    for index, model in enumerate(raw(name)["models"]):
        changes += [f"models.{index}.{change}" for change in (VIT if model["name"].startswith("vit") else CNN)]
    for index, method in enumerate(raw(name)["methods"]):
        layer = method.get("layer") if isinstance(method, dict) else None
        if layer in LAYERS:
            changes.append(f"methods.{index}.layer={LAYERS[layer]}")
    return changes


def check(result: Run, name: str) -> None:
    """Every cell is there, nothing failed, and the table says that the models are random."""
    suite = load_suite(SHIPPED[name])
    assert result.outcome.failed == []
    assert set(result.scores["method"]) == {method.label for method in suite.methods}
    assert set(result.scores["metric"]) == {metric.label for metric in suite.bound_metrics()}
    assert result.scores["untrained"].all()
    assert "mean nothing" in " ".join(result.leaderboard.notes)
    assert (result.directory / "leaderboard.md").is_file()


# -- the files ------------------------------------------------------------------------------------------------------


@papers
def test_a_header_says_what_it_reproduces(name: str) -> None:
    text = header(name)
    keys = KEY.findall(text.split("Needs")[0])
    assert keys, f"{name} cites nothing"
    assert set(keys) <= BIBLIOGRAPHY
    for word in ("Source:", "page", "\n# Needs ", "What differs", "`checkpoint:`", "\n# Takes, for each", "forward"):
        assert word in text, f"{name}: its header has no {word!r}"
    assert raw(name)["name"] == name
    for model in raw(name)["models"]:
        assert f"# checkpoint: checkpoints/{raw(name)['dataset']['name'].removesuffix('_seg')}-{model['name']}" in (
            SHIPPED[name].read_text()
        )


def test_layers_of_the_vgg_are_what_the_suites_call_them() -> None:
    """convB_N is the N-th convolution after the B-th pooling; the suites take the last of a block, after its ReLU."""
    with torch.device("meta"):
        features = create_module("vgg19", num_classes=20).get_submodule("features")
    block, number, named = 1, 0, {}
    for index, module in enumerate(features):  # type: ignore[arg-type]
        kind = type(module).__name__
        block, number = (block + 1, 0) if kind == "MaxPool2d" else (block, number + (kind == "Conv2d"))
        named[f"features.{index}"] = (kind, block, number)
    last = {1: 2, 2: 2, 3: 4, 4: 4, 5: 4}
    for name in PAPERS:
        for method in raw(name)["methods"]:
            if isinstance(method, dict) and str(method.get("layer")).startswith("features."):
                (depth,) = re.findall(r"@conv(\d)$", method["as"])
                assert named[method["layer"]] == ("ReLU", int(depth), last[int(depth)])


# -- a VOC of our own -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC 2007 (test) and VOC 2012 (train_aug, with masks of SegmentationClassAug) in their official folders."""
    root = tmp_path_factory.mktemp("data")
    for year in ("VOC2007", "VOC2012"):
        tree = write_tree(root / "VOCdevkit" / year)
        (tree / "ImageSets/Main/test.txt").write_text("\n".join(OBJECTS))
        (tree / "ImageSets/Segmentation/train_aug.txt").write_text("\n".join(OBJECTS))
        (tree / "SegmentationClassAug").mkdir()
        for name in SIZE:
            palette_image(drawn(name)).convert("P").save(tree / "SegmentationClassAug" / f"{name}.png")
    return root


@pytest.mark.parametrize("name", VOC)
def test_every_suite_of_voc_ends_in_a_leaderboard(name: str, data_root: Path, tmp_path: Path) -> None:
    check(xaibench.run(name, out=tmp_path, data_root=data_root, overrides=small(name), limit=1), name)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of validation in folders of their classes."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for number, wnid in enumerate(("n01440764", "n02123045"), 1):
        folder = root / "imagenet" / "val" / wnid
        folder.mkdir(parents=True)
        photograph = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        photograph.save(folder / f"ILSVRC2012_val_{number:08}.JPEG")
    return root


def test_perturbation_of_imagenet_ends_in_a_leaderboard(imagenet: Path, tmp_path: Path) -> None:
    name = "transformer-perturbation"
    result = xaibench.run(name, out=tmp_path, data_root=imagenet, overrides=small(name))
    check(result, name)
    assert result.scores["value"].between(0, 90).all()
    assert (result.scores["n"] == 2).all()


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["xaibench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_published_beside_measured(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All the way: run, then the paper's numbers beside those of the run."""
    changes = [word for change in small("vgatt-seeds") for word in ("--set", change)]
    run = [
        "run",
        "vgatt-seeds",
        "--data-root",
        data_root,
        "--out",
        tmp_path,
        "--limit",
        "1",
        "--progress",
        "none",
        *changes,
    ]
    assert command(monkeypatch, *run) == 0
    capsys.readouterr()
    assert command(monkeypatch, "leaderboard", "--published", "vgatt-seeds", tmp_path, "--format", "csv") == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"test_resnet,vgatt@conv4,pixel_accuracy_k0\.1,percent,74\.5,\d+\.\d\d,[+-]\d+\.\d\d,", lines[1])
    assert any(line.startswith("test_resnet,oracle,pixel_accuracy_k0.1,percent,,") for line in lines)
    assert command(monkeypatch, "leaderboard", "--published", "vgatt-seeds", tmp_path) == 0
    notes = capsys.readouterr().err
    for words in ("mean nothing", "Partial run"):
        assert words in notes


# -- the suites as they are, and the samples ------------------------------------------------------------------------


def validate_and_plan(
    name: str,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: Sequence[str] = (),
) -> None:
    """Validate a suite with its own models, then plan its run: nothing is computed or written."""
    given = ["--data-root", data_root, *(word for change in changes for word in ("--set", change))]
    assert command(monkeypatch, "validate", name, *given) == 0
    captured = capsys.readouterr()
    assert f"{name}: ok" in captured.out
    assert "runs untrained" in captured.out
    assert command(monkeypatch, "run", name, *given, "--dry-run", "--out", tmp_path / "run") == 0
    assert raw(name)["models"][0]["name"] in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VOC, "transformer-perturbation"])
def test_validate_and_dry_run(
    name: str,
    data_root: Path,
    imagenet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    validate_and_plan(name, data_root if name in VOC else imagenet, tmp_path, monkeypatch, capsys)


@pytest.mark.skipif(not REAL, reason="XAIBENCH_SAMPLE_DATA is not set")
@sampled
def test_every_suite_ends_in_a_leaderboard_on_the_samples(name: str, tmp_path: Path) -> None:
    changes = small(name) + EVERY_SAMPLE.get(name, [])
    check(xaibench.run(name, out=tmp_path, data_root=REAL, overrides=changes, limit=2), name)


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="XAIBENCH_SAMPLE_DATA is not set")
@sampled
def test_validate_and_dry_run_on_the_samples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert REAL is not None
    validate_and_plan(name, Path(REAL), tmp_path, monkeypatch, capsys, EVERY_SAMPLE.get(name, []))
